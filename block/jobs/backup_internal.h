/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/jobs/backup_internal.h: a backup, between its files. */
#pragma once
#include "block/jobs/backup.h"

typedef struct BackupJob {
    BlkJob *job;
    BlkNode *source; /* a reference */
    BlkNode *filter; /* borrowed: ours until it is dropped */
    BlkUser *filter_user, *target_user;
    BmpBitmap *bitmap; /* a reference, or NULL */
    BlkBackupBitmapMode mode;
    BlkBackupSync sync;
    BlkOnError on_source_error, on_target_error;
    bool discard_source;
    unsigned max_workers;
    uint64_t chunk;
    bool running; /* blk_job_start() was called */
    bool thawed;  /* the bitmap is */
    uint64_t total, skipped;
    gint64 reported; /* when progress was */
} BackupJob;

/* backup_run.c: BlkJobKind.run */
bool blk_backup_run(void *opaque, BlkJob *job, GError **error);
