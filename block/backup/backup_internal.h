/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/backup/backup_internal.h: what a backup is made of. Private to block/backup/. Main thread,
 * but for what says otherwise. */
#pragma once
#include "block/backup/backup.h"
#include "block/drivers/copy_before_write/cbw.h"
#include "block/drivers/scratch.h"

struct BlkBackups {
    BlkExports *exports;
    GMainContext *main;
    GPtrArray *list;      /* Backup, the oldest first */
    GQueue ended;         /* Ended, the newest first */
    GPtrArray *lingering; /* Backup: ended, but clients have still to find out */
};

/* What is remembered of a backup that is gone. */
typedef struct Ended {
    char *id, *how;
} Ended;

typedef struct BackupDisk {
    BlkNode *node;         /* a reference */
    BmpBitmap *from;       /* a reference, or NULL */
    BmpBitmap *checkpoint; /* a reference, or NULL */
    bool frozen;           /* from is */
    BlkNode *filter;       /* borrowed; NULL: closed */
    bool inserted;
    char *export_id, *export_name; /* export_id NULL: there was none */
    uint64_t size;
    uint64_t dirty; /* bytes at the instant */
} BackupDisk;

typedef struct Backup {
    BlkBackups *backups;
    char *id, *checkpoint;
    BackupDisk *disks;
    size_t n;
    BlkScratchBudget *budget;
    uint64_t max_size;
    uint32_t timeout;
    bool stop;
    bool held;        /* it keeps its bitmaps busy */
    char *aborted;    /* why it is to end without success as soon as that can be stored; or NULL */
    uint64_t instant; /* UTC ns */
    int64_t began_at; /* monotonic us */
    GSource *failing; /* made ready by the filters' workers */
    int error;        /* atomic: what a copy failed with; 0: none has */
    bool error_on_disk; /* atomic: reading the disk failed, not writing the scratch */
} Backup;

/* ---- backup.c */

Backup *blk_backups_find(BlkBackups *backups, const char *id);
/* An id is in use again. */
void blk_backups_drop(BlkBackups *backups, const char *id);
/* Backups that were aborted, and whose clients have still to find out, are not in the way of
 * another one of the disk. */
void blk_backups_make_way(BlkBackups *backups, const BlkNode *node);
/* It ends without success, now or as soon as that can be stored. */
void blk_backup_abort(Backup *b, const char *reason);

/* ---- query.c */

/* What a client needs to know of it: a reference. */
json_object *blk_backup_disk_info(const BackupDisk *disk);

/* ---- disk.c: a disk's part */

void blk_backup_disk_clear(BackupDisk *disk);
/* Scratch and filter, not put in yet. */
bool blk_backup_disk_open(Backup *b, BackupDisk *disk, const char *directory, GError **error);
/* After the instant: the disk as it was, for clients. Once somebody reads through the filter,
 * nobody may write below it. */
bool blk_backup_disk_export(Backup *b, BackupDisk *disk, const BlkBackupBegin *o, GError **error);

/* ---- end.c */

/* What its clients read fails from now on, and writes cost nothing. No more clients; those there
 * are have some time to find out. */
void blk_backup_break(Backup *b);
bool blk_backup_exported(const Backup *b); /* whether it still has exports */
/* Clients are cut off and waited for; then everything but the bitmaps is gone. */
void blk_backup_detach(Backup *b);
/* The bitmaps are what the end makes of them. false: nothing has changed. */
bool blk_backup_settle(Backup *b, bool success, bool keep_from, GError **error);
/* The node of every disk; g_free. */
BlkNode **blk_backup_nodes(const Backup *b);
void blk_backup_free(Backup *b);
