/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/bitmaps.h: the persistent bitmaps of nodes: which store a node has, changes that a crash
 * can't cut in two, and time passing.
 *
 * Main thread, but for what says otherwise. */
#pragma once
#include "block/graph.h"

/* Brings back the bitmaps of a node that was just opened and gives it a place for new ones: the
 * file that its option bitmap-store names. Else, if the user made the node, it stands on a regular
 * file and the graph has stores by default, that file's path with BMP_STORE_SUFFIX. Reports go out
 * as events BITMAP_DEGRADED and BITMAP_HEALED and to the log of the graph (blk_graph_set_log).
 * An inactive node has none. Errors: as bmp_set_open_store(). */
bool blk_bitmaps_open(BlkNode *node, GError **error);
/* The clean end, when no request is in flight and none will come. Settle: parents first, before
 * any driver is closed: flushes the node, and an image takes its bitmaps. Close: when the drivers
 * of the node and of all below it are closed, whose last writes count; @going: the nodes that are
 * closed with it. Where others keep writing to a device, which can't show that later, all will be
 * dirty. false: something could not be kept where and as it was to be; that was reported, and the
 * next opening will know. */
bool blk_bitmaps_settle(BlkNode *node);
bool blk_bitmaps_close(BlkNode *node, const GPtrArray *going);

/* The same as close for a store that the node's driver keeps (bitmap-place=disk): right before that
 * is closed, when the nodes above are, so that their last writes count. Else it does nothing. */
bool blk_bitmaps_close_beside(BlkNode *node, const GPtrArray *going);
/* Whether the node's store is to be one of those. */
bool blk_bitmaps_beside(const BlkNode *node);

/* The node is being opened anew (block/reopen.c), drained. Where it can become read-only: settle,
 * as above. Rest: when the drivers are closed, for those that were settled; false as there. Wake:
 * when drivers are open, as they are then, also if it has come to nothing. */
bool blk_bitmaps_rest(BlkNode *node);
bool blk_bitmaps_wake(BlkNode *node, GError **error);

/* The node's data is on another disk, or was somebody else's to write for a while; its bitmaps were
 * closed, and its driver is open. If it is active, it has the bitmaps that the disk has now, as
 * after blk_bitmaps_open(). Those that are not persistent stay, and are dirty everywhere unless the
 * file shows that nobody wrote to it meanwhile: they are other ones, so nobody must use them.
 * Quiesced. */
bool blk_bitmaps_renew(BlkNode *node, GError **error);
/* The node is about to become inactive, and the drivers are closed: others may write from now
 * on. */
void blk_bitmaps_note_rest(BlkNode *node);

/* The disk is another one than what its bitmaps were recorded of: those that record are
 * inconsistent, with @stored the persistent ones, too. Drained, not within a change; what is stored
 * follows with the next commit. */
void blk_bitmaps_distrust(BlkNode *node, bool stored, const char *why);

/* Keeps other programs from writing to the node's disk, if it has bitmaps, and anybody from writing
 * to its backing, if they could not store that; lets them, if not. */
bool blk_bitmaps_guard(BlkNode *node, GError **error);

/* Whether a persistent bitmap of the node's would have a place of its own: nodes on one file have
 * the same one until one of them uses it. */
bool blk_bitmaps_may_add(BlkNode *node, GError **error);

/* A change of the bitmaps of @n nodes (no duplicates): nodes with a store are drained, so that what
 * is stored is what was there at one instant, and nodes with a backing below, from which a write
 * may be copying what has changed there since. Everything of bitmap.h that is "within a change"
 * goes in between. Do not nest. */
void blk_bitmaps_change_begin(BlkNode *const *nodes, size_t n);
/* Makes the change durable in all stores or in none. false: take it back before the end. */
bool blk_bitmaps_commit(BlkNode *const *nodes, size_t n, GError **error);
void blk_bitmaps_change_end(BlkNode *const *nodes, size_t n);

/* The same for what begins with a backup, which counts for nothing until the backup has succeeded,
 * and so is not stored: it waits for no medium. The nodes are held (block/filters.h). */
void blk_bitmaps_instant_begin(BlkNode *const *nodes, size_t n);
void blk_bitmaps_instant_end(BlkNode *const *nodes, size_t n);
/* Before it: bmp_set_note_backup(). */
bool blk_bitmaps_note_backup(BlkNode *node, const char *checkpoint);

/* The disk of a drained node has another size, or is not to be believed: that can't be taken back,
 * whether its store can follow or not. Not within a change. Any thread. */
void blk_bitmaps_store(BlkNode *node, bool resized);

/* About once a second: syncs what was marked (on a worker), and heals stores that have failed,
 * less and less often. Cheap if no node has a store. */
void blk_bitmaps_tick(BlkGraph *graph);
/* The first attempt to heal need not wait for that; see blk_graph_set_heal(). */
void blk_bitmaps_heal(BlkGraph *graph);

/* Whether the node's persistent bitmaps, where its image keeps them, can follow its disk to another
 * size. */
bool blk_bitmaps_may_resize(BlkNode *node, uint64_t size, GError **error);
