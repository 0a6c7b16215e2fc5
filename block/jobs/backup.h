/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/jobs/backup.h: blockdev-backup: a disk as it was at one instant is copied to another node
 * while it goes on.
 *
 * A copy-before-write filter above the source keeps the instant: what a guest is about to change is
 * copied first. The job copies the rest through the same filter, so that nothing is copied twice.
 *
 * Its bitmap is frozen meanwhile (bitmap/bitmap.h). At the end it drops what was copied, or stays
 * whole, as its mode says. Nothing is dropped before the target is flushed.
 *
 * Main thread. */
#pragma once
#include "block/bitmap_changes.h"
#include "block/jobs/job.h"

typedef enum {
    BLK_SYNC_TOP,         /* what the top of the source's chain has */
    BLK_SYNC_FULL,        /* everything */
    BLK_SYNC_NONE,        /* only what guests change, until it is canceled */
    BLK_SYNC_INCREMENTAL, /* what is dirty in the bitmap, whose mode is on-success */
    BLK_SYNC_BITMAP,      /* what is dirty in the bitmap */
    BLK_SYNCS,
} BlkBackupSync;

/* When the bitmap drops what was copied. */
typedef enum {
    BLK_BITMAP_ON_SUCCESS,
    BLK_BITMAP_NEVER,
    BLK_BITMAP_ALWAYS, /* also after a failure: as far as it was copied */
    BLK_BITMAP_MODE_UNSET,
} BlkBackupBitmapMode;

extern const char *const blk_backup_sync_names[BLK_SYNCS + 1]; /* NULL-terminated */
extern const char *const blk_backup_mode_names[BLK_BITMAP_MODE_UNSET + 1];

typedef struct BlkBackupOptions {
    const char *id;
    BlkNode *source, *target; /* borrowed */
    BlkBackupSync sync;
    const char *bitmap; /* of the source; or NULL */
    BlkBackupBitmapMode mode;
    int64_t speed;
    bool compress, discard_source, use_copy_range;
    BlkOnError on_source_error, on_target_error;
    const char *filter_name; /* or NULL */
    int64_t max_workers, max_chunk;
    uint64_t min_cluster_size;
    bool manual_finalize, manual_dismiss;
    BlkJobTxn *txn; /* or NULL */
} BlkBackupOptions;

/* QEMU's, where nothing else is said. */
void blk_backup_options_init(BlkBackupOptions *options);

/* Makes the job, and begins to keep the instant. Within a hold of the source (block/filters.h) and
 * a change of its bitmaps; freezing is noted in @changes. Borrowed result: then either
 * blk_job_start(), when the change is committed; or, when it has been taken back and is over,
 * blk_job_drop(). Errors as QEMU's; nothing is left then. */
BlkJob *blk_backup_new(BlkJobs *jobs, BlkBitmapChanges *changes, const BlkBackupOptions *options,
                       GError **error);
