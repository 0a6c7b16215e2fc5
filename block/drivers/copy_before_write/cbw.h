/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/copy_before_write/cbw.h: the filter copy-before-write, for those who use it in
 * code: jobs, backups, and the driver snapshot-access.
 *
 * The instant is when the filter is put in (block/filters.h): from then on a write to its disk has
 * what it is about to overwrite copied to the target first, once for each cluster. So the disk as
 * it was at the instant is in the target where it was copied, else in the source.
 *
 * Functions take the filter's node. Threads: main, but for what says otherwise. */
#pragma once
#include "bitmap/bitmap.h"
#include "block/graph.h"
#include "block/io/copy.h"

typedef enum { BLK_CBW_BREAK_GUEST_WRITE, BLK_CBW_BREAK_SNAPSHOT } BlkCbwOnError;

typedef struct BlkCbwOptions {
    const char *node_name;     /* of the filter; NULL: one is made up */
    BlkNode *source, *target;  /* borrowed */
    uint64_t min_cluster_size; /* a power of two; 0: none is asked for */
    BlkCbwOnError on_error;
    uint32_t timeout;    /* seconds that a write waits for its copy; 0: as long as it takes */
    unsigned copy_flags; /* BLK_COPY_* (block/io/copy.h) */
    /* A copy before a write failed, @error positive. BREAK_SNAPSHOT: it was the first, and the
     * snapshot is broken; BREAK_GUEST_WRITE: the write fails. On a worker thread that has requests
     * in flight: it must not wait for any. NULL: nobody is asked. */
    void (*failed)(void *opaque, int error, bool on_source);
    void *opaque;
} BlkCbwOptions;

/* Opens the filter, which the monitor does not own. Nothing goes through it before it is put in.
 * Everything is to be copied. Errors as blockdev-add's. Borrowed: until blk_cbw_drop(). */
BlkNode *blk_cbw_new(BlkGraph *graph, const BlkCbwOptions *options, GError **error);
/* It was taken out, or never put in: closes it. Who still uses it keeps it open. */
void blk_cbw_drop(BlkNode *filter);

/* Only what is dirty in @bitmap is of the snapshot. At the instant or before it; within a change
 * of bitmaps, as of its beginning; a frozen one as it was then. Errors: the bitmap is
 * inconsistent. */
bool blk_cbw_set_bitmap(BlkNode *filter, BmpBitmap *bitmap, GError **error);

/* ---- who copies the rest; any thread, blocking lane where it says so */

uint64_t blk_cbw_cluster_size(BlkNode *filter);
/* The first range from @from on that needs a copy: whole clusters (but at the end of the disk), not
 * more than @max bytes, but one cluster at least. false: there is none. */
bool blk_cbw_next(BlkNode *filter, uint64_t from, uint64_t max, uint64_t *offset, uint64_t *length);
uint64_t blk_cbw_remaining(BlkNode *filter); /* bytes that need a copy */
/* Copies what of the clusters of the range needs a copy, and waits for others who are copying
 * some. 0 or -errno; what failed still needs its copy, and the snapshot is not broken by that.
 * -ECANCELED: it is broken. Adds to *copied. Blocking. */
int blk_cbw_copy(BlkNode *filter, uint64_t offset, uint64_t length, BlkCopied *copied);
/* The clusters that lie wholly in the range are released: of no interest any more. Waits for who is
 * copying some. The target's space is given back where it can be. Blocking. 0 or -errno of the
 * latter. */
int blk_cbw_release(BlkNode *filter, uint64_t offset, uint64_t length);
/* The same of those that need a copy only, and nothing is given back: what was copied stays.
 * Returned: bytes. Blocking. */
uint64_t blk_cbw_skip(BlkNode *filter, uint64_t offset, uint64_t length);
/* The snapshot can't be kept, @error positive: reads of it fail, writes cost nothing. The first
 * reason stays. */
void blk_cbw_break(BlkNode *filter, int error);
int blk_cbw_broken(BlkNode *filter); /* why, positive; 0: it is not */

typedef struct BlkCbwStats {
    uint64_t before_writes; /* bytes that were copied because of writes */
    BlkCopied copied;       /* all copies */
} BlkCbwStats;
void blk_cbw_stats(BlkNode *filter, BlkCbwStats *stats);

/* As before_write of the driver interface. */
void blk_cbw_before_write(void *handle, uint64_t offset, uint64_t length);

/* ---- the disk at the instant, for snapshot-access; blocking lane. -ENOTSUP: the node is no such
 * filter; -EACCES: some of the range was released, or the snapshot is broken. */
/* The disk may have grown since. @other: the answer if the node is no such filter. Any thread. */
uint64_t blk_cbw_snapshot_size(BlkNode *filter, uint64_t other);
int blk_cbw_snapshot_pread(BlkNode *filter, void *buf, uint64_t offset, uint64_t length);
/* As child_status of the driver interface; any thread. */
int blk_cbw_snapshot_status(BlkNode *filter, uint64_t offset, uint64_t length,
                            struct tidemark_mapping *status);
