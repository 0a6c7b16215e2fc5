/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/backup.h: the run of a backup: disks of a source, as they are at one instant, into
 * a new point of a repository.
 *
 * Invariant: the source learns of success after the point is durable, and whatever ends the run
 * before leaves neither a point nor a change of the source's checkpoints. Threads:
 * tc_backup_run() by one; the ones that say so by any meanwhile. */
#pragma once
#include "client/backup/decide.h"
#include "client/backup/freeze.h"
#include "client/progress.h"

typedef struct TcBackupOptions {
    const char *repository, *point; /* point NULL: named by the time */
    const char *socket;             /* the daemon's, as --socket; NULL: found */
    const char *qmp;                /* a QEMU process instead */
    const char *bitmap;             /* of NBD servers */
    bool nbd;                       /* disks are NBD URIs */
    TcBackupMode mode;
    const char *compression; /* "zlib", "zstd", NULL */
    const char *scratch;     /* NULL: what the source thinks right */
    uint64_t scratch_max;
    uint64_t connections, requests, rate; /* rate 0: no limit */
    int wait_s;                           /* as TcRepoOptions */
    const char *before, *after;           /* commands */
    TcFreeze *freeze;                     /* borrowed; NULL: no guest to freeze */
    TcProgressStyle style;
} TcBackupOptions;

/* What has become of it. */
typedef enum {
    TC_BACKUP_NOTHING,  /* nothing was begun */
    TC_BACKUP_UNDONE,   /* it failed, and everything is as before */
    TC_BACKUP_PROBLEMS, /* the point is there; something after it needs a look */
    TC_BACKUP_DONE,
} TcBackupOutcome;

typedef struct TcBackup TcBackup;

/* @options and @disks (TcBackupDisk) are borrowed and outlive it. */
TcBackup *tc_backup_new(const TcBackupOptions *options, GPtrArray *disks);
/* The error of outcome UNDONE also says what is left, those of PROBLEMS what needs a look. */
bool tc_backup_run(TcBackup *backup, GError **error);
/* Asks it to end early; it may be too late. False: it can be left where it is, nothing has been
 * begun. Threads: any. */
bool tc_backup_cancel(TcBackup *backup);
/* Draws the progress. Threads: main. */
void tc_backup_draw(TcBackup *backup);
/* After the run. */
TcBackupOutcome tc_backup_outcome(const TcBackup *backup);
/* Prints what was done, for people, or as the last event for programs. @error may be NULL. */
void tc_backup_report(TcBackup *backup, const GError *error);
void tc_backup_free(TcBackup *backup);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcBackup, tc_backup_free)
