/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/disk.h: the file or the device that a node's data is in: which it is, and who is notified
 * when it is written. Main thread. */
#pragma once
#include "bitmap/store/store.h"
#include "block/node.h"

/* Its path, borrowed; NULL: none. */
const char *blk_disk_path(BlkNode *node);
/* Opened for reading, or -1. *regular: it is a regular file. */
int blk_disk_open(BlkNode *node, bool *regular);
/* Whether others may write to it while it is not open here, unnoticed (TIDEMARK_DRIVER_SHARED). */
bool blk_disk_is_shared(BlkNode *node);
/* Whether what the driver of a node without children has open is what its path leads to. */
bool blk_disk_is_in_place(BlkNode *node);
/* The descriptor that the driver of a node without children has open, borrowed, or -1. */
int blk_disk_fd(BlkNode *node);
/* Somebody is about to write to the node: stores of bitmaps that would not see it are marked, on
 * the disk, for good. false: they can't be, and nothing must be written. */
bool blk_disk_claim(BlkNode *node, GError **error);

/* Whether others write to what the node's data is in: other users of the nodes below than nodes
 * that are @going, or (NULL) than the node and those below themselves. */
bool blk_disk_written_beside(BlkNode *node, const GPtrArray *going);

/* Before drivers are closed: a descriptor (to be closed) with which the locks that the disk's
 * driver has on it stay; -1: there is none. */
int blk_disk_hold(BlkNode *node);

/* Before the node's driver is closed to be opened anew: what its disk is like. Of one that is lost
 * that stays known, and of one that is read-only, as others may write to it meanwhile. */
void blk_disk_remember(BlkNode *node);
/* Before a bitmap begins: the same of what is read-only of the node's disk. */
void blk_disk_remember_read_only(BlkNode *node);
/* When drivers are open again: why the node's disk is not what was remembered, (g_free), or
 * NULL. */
char *blk_disk_changed(BlkNode *node);
/* What is known of the file that the node's data is in, which is no device, and all in that file;
 * else it is not known. @seen: as it was remembered, not as it is now. */
void blk_disk_identity(BlkNode *node, bool seen, BmpIdentity *identity);
/* Whether it is known that nobody can write to the node or beside it now. */
bool blk_disk_at_rest(BlkNode *node);
/* It was opened, and compared: if it is writable, bitmaps have what is written from now on. */
void blk_disk_compared(BlkNode *node);
