/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/backup/backup.h: disks held as they are at one instant, for clients that back them up:
 * backup-begin and backup-end.
 *
 * At the instant, for all disks together: each bitmap `from` is frozen, a bitmap `checkpoint`
 * begins on each disk, and a copy-before-write filter is put over it, whose target is a scratch
 * file. What the filter keeps is exported, read-only, with what `from` says.
 *
 * Nothing is lost, however it ends:
 *  B1  `from` goes on recording in memory and store. Only a backup that has succeeded removes it,
 *      in the change that makes its checkpoint a bitmap as any other.
 *  B2  Until then an opening after a crash leaves the checkpoint out (bitmap/store/store.h), and
 *      scratch files have no name. So a crash leaves what was there before, and what was written
 *      since.
 *  B3  What can't be stored at the end changes nothing: the backup is still there, without filters
 *      and exports, and can be ended again.
 *
 * Main thread. */
#pragma once
#include "block/export/export.h"

typedef struct BlkBackups BlkBackups;

/* @exports is borrowed and outlives it; @main NULL: the default context. */
BlkBackups *blk_backups_new(BlkExports *exports, GMainContext *main);
/* Ends all of them without success. */
void blk_backups_end_all(BlkBackups *backups, const char *reason);
void blk_backups_free(BlkBackups *backups); /* all ended before; NULL is fine */

typedef struct BlkBackupDisk {
    const char *node, *from;
    const char *checkpoint;  /* NULL: that of BlkBackupBegin */
    const char *export_name; /* NULL: NODE@ID */
} BlkBackupDisk;

/* Borrowed. */
typedef struct BlkBackupBegin {
    const char *id;
    const BlkBackupDisk *disks;
    size_t n_disks;
    const char *checkpoint;     /* of disks without one of their own; NULL: none is begun */
    bool transient;             /* it is not persistent */
    const char *directory;      /* of the scratch files */
    uint64_t max_size;          /* of all of them; 0: no limit */
    bool stop;                  /* where they can't be written, writes to the disk fail */
    uint32_t timeout;           /* seconds without a client, after which it ends; 0: never */
    const char *const *servers; /* as in BlkExportOptions */
    size_t n_servers;
    const char *allow_list, *allow_open;
} BlkBackupBegin;

/* *result: {instant, disks}, a reference. On failure nothing is left. */
bool blk_backups_begin(BlkBackups *backups, const BlkBackupBegin *options, json_object **result,
                       GError **error);
/* Clients are cut off, and their requests waited for, also those of a backup that was aborted.
 * Errors: there is none of that id, or it has ended, and how; the bitmaps can't be stored: B3. */
bool blk_backups_end(BlkBackups *backups, const char *id, bool success, bool keep_from,
                     GError **error);
/* An array: a reference. */
json_object *blk_backups_query(BlkBackups *backups);
/* Lets time pass, about once a second. */
void blk_backups_tick(BlkBackups *backups);
