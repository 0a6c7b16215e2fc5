/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/node.h: one node of the graph: a driver instance that presents a disk.
 *
 * Threads: references and the read-only accessors from any thread; the rest says so. */
#pragma once
#include "bitmap/bitmap.h"
#include "block/counters.h"
#include "include/tidemark/driver.h"
#include "util/extent.h"
#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

/* Images of a backing chain that is followed by the names in them. */
#define BLK_IMAGE_CHAIN_MAX 256u

typedef struct BlkGraph BlkGraph;
/* What the driver interface calls a node is one. */
typedef struct tidemark_node BlkNode;

BlkNode *blk_node_ref(BlkNode *node);
void blk_node_unref(BlkNode *node); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlkNode, blk_node_unref)

const char *blk_node_name(const BlkNode *node); /* borrowed */
const struct tidemark_driver *blk_node_driver(const BlkNode *node);
BlkGraph *blk_node_graph(const BlkNode *node);
uint64_t blk_node_size(const BlkNode *node); /* bytes; changes only by resize */
bool blk_node_read_only(const BlkNode *node);
/* Whether it can write, as far as it is not read-only: another process may have the image of one
 * that can't. Main thread. */
bool blk_node_active(const BlkNode *node);
/* Whether it is read-only, or would be if it were active. Main thread. */
bool blk_node_meant_read_only(const BlkNode *node);
/* Why every request fails, after a reopening that went wrong; borrowed; NULL: all is well. Main
 * thread. */
const char *blk_node_lost(const BlkNode *node);
/* A backup of it has succeeded, now; and when one did last, in seconds since 1970, 0: none has
 * since it was opened. Main thread. */
void blk_node_note_backup(BlkNode *node);
int64_t blk_node_last_backup(const BlkNode *node);
BmpSet *blk_node_bitmaps(BlkNode *node); /* borrowed, lives as long as the node */
/* Adds to an ImageInfo of QMP what the node's format has to say: backing-filename, format-specific,
 * ... Main thread. */
void blk_node_describe(BlkNode *node, json_object *image);
/* A fresh answer of the driver. */
void blk_node_info(BlkNode *node, struct tidemark_info *info);
/* What it has done since it was added. Any thread. */
void blk_node_counts(const BlkNode *node, BlkCounts *counts);
/* Its requests: those of its users that have begun and not ended; those of them that workers have,
 * and those that wait for one. Any thread. */
typedef struct BlkNodeQueue {
    unsigned inside, running, waiting;
} BlkNodeQueue;
void blk_node_queue(BlkNode *node, BlkNodeQueue *queue);
/* A child, borrowed, or NULL. @index counts those of the driver. */
BlkNode *blk_node_child(const BlkNode *node, unsigned index);
/* The filename as listings show it: the "filename" option of the node or of its first child that
 * has one, else a JSON pseudo name. Returned (g_free). */
char *blk_node_filename(const BlkNode *node);
/* "on"/"off" facts for listings: cache.direct, cache.no-flush, discard=unmap, detect-zeroes */
bool blk_node_option_bool(const BlkNode *node, const char *name);
const char *blk_node_option_string(const BlkNode *node, const char *name);

/* What a user of a node does with it, or lets others do (block/permissions.h); QEMU's, and GROW: to
 * make it longer. RESIZE makes it longer or shorter; who shares it shares GROW, too. */
enum {
    BLK_PERM_CONSISTENT_READ = 1,
    BLK_PERM_WRITE = 2,
    BLK_PERM_WRITE_UNCHANGED = 4, /* what doesn't change what is read */
    BLK_PERM_RESIZE = 8,
    BLK_PERM_GROW = 16,
    BLK_PERM_ALL = 31,
};

/* Users are parents, exports and jobs: while there is one, blockdev-del refuses. @what is for
 * messages; copied; QEMU's name for what has none is BLK_USER_UNNAMED. Errors: a conflict with
 * another user, of this node or one below; an image lock that somebody else has; the node is
 * read-only. Main thread (release: any). */
#define BLK_USER_UNNAMED "an unnamed block device"
typedef struct BlkUser BlkUser;
BlkUser *blk_node_use(BlkNode *node, const char *what, unsigned needs, unsigned shares,
                      GError **error);
void blk_node_release(BlkUser *user); /* NULL is fine */
/* On failure it has what it had. */
bool blk_user_set(BlkUser *user, unsigned needs, unsigned shares, GError **error);
/* While there is this user, blk_node_check_free() fails: "Node 'x' is busy: @why", a constant. */
void blk_user_block(BlkUser *user, const char *why);
/* It may stay when its node becomes inactive: it doesn't write then. */
void blk_user_allow_inactive(BlkUser *user);
/* Before something that QEMU does with no node that a job has. Main thread, as the former. */
bool blk_node_check_free(BlkNode *node, GError **error);
BlkNode *blk_user_node(const BlkUser *user); /* borrowed */
/* The name of that node, which may be another one at any time: returned. Any thread. */
char *blk_user_node_name(BlkGraph *graph, const BlkUser *user);
unsigned blk_node_users(BlkNode *node); /* how many; any thread */

/* ---- block status ---------------------------------------------------------------------------- */

/* Fills @out with runs of TM_STATE_HOLE | TM_STATE_ZERO bits for [offset, offset + length), through
 * the whole graph; stops early when @out is full or after many look-ups. *described is the bytes
 * described: at least 1 on success. 0 or -errno. May look up file system metadata; does not wait
 * for requests. Any thread. */
int blk_node_status(BlkNode *node, uint64_t offset, uint64_t length, TmExtents *out,
                    uint64_t *described);
/* Only its first extent, at the price of one look-up. */
int blk_node_status_at(BlkNode *node, uint64_t offset, uint64_t length, uint64_t *described,
                       uint32_t *flags);
/* Whether the first run, of *described bytes, reads as zeroes whatever becomes of the disks that it
 * stands on as backings. */
bool blk_node_own_zeroes(BlkNode *node, uint64_t offset, uint64_t length, uint64_t *described);
/* As blk_node_status(), with qemu:allocation-depth values: 0 unallocated, 1 in this layer, 2 in the
 * next, ... */
int blk_node_depth(BlkNode *node, uint64_t offset, uint64_t length, TmExtents *out,
                   uint64_t *described);
/* What a backup has to do: the runs of @bitmap, with the dirty ones as TM_BACKUP_DIRTY and, where
 * they read as zeroes, TM_BACKUP_ZERO. Clean ones are not looked up and so not split. *lookups is
 * how often the graph was asked; what it can't answer is data. Else as blk_node_status(). */
int blk_node_backup(BlkNode *node, BmpBitmap *bitmap, uint64_t offset, uint64_t length,
                    TmExtents *out, uint64_t *described, unsigned *lookups);

/* Whether all of these wait for a server, asked by the node or one below: for worker threads and
 * jobs then, not for loops. Any thread. */
bool blk_node_status_waits(BlkNode *node);
/* Whether what is asked of it runs in the background. Any thread. */
bool blk_node_background(const BlkNode *node);

/* ---- blocking I/O, for worker threads and jobs; never on a loop thread ----------------------- */
/* Ranges are checked: -EINVAL outside the disk (-ENOSPC for writes), -EPERM for writes to a
 * read-only node. Writes, zeroing and discards mark the bitmaps. Flags: TIDEMARK_FUA and the
 * like. */
int blk_node_pread(BlkNode *node, void *buf, uint64_t offset, uint64_t length);
int blk_node_pwrite(BlkNode *node, const void *buf, uint64_t offset, uint64_t length,
                    uint32_t flags);
int blk_node_write_zeroes(BlkNode *node, uint64_t offset, uint64_t length, uint32_t flags);
int blk_node_discard(BlkNode *node, uint64_t offset, uint64_t length, uint32_t flags);
int blk_node_cache(BlkNode *node, uint64_t offset, uint64_t length);
int blk_node_flush(BlkNode *node);
/* Makes it at least so big: for a format that needs room in its file, be it while requests of the
 * format wait. -errno as the driver's resize. */
int blk_node_grow(BlkNode *node, uint64_t size);
/* Space for what is written to the range later, whatever else fills the medium; what is in it stays
 * as it is. -ENOTSUP: that can't be had otherwise than by writing. Blocking lane. */
int blk_node_reserve(BlkNode *node, uint64_t offset, uint64_t length);
