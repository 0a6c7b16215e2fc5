/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/backup_internal.h: what the files of a run share. */
#pragma once
#include "client/backup/backup.h"
#include "client/backup/disk_run.h"
#include "util/log.h"
#include <stdatomic.h>

/* PREPARE: nothing has been begun. Beyond COMMIT it is too late to cancel. */
typedef enum { STAGE_PREPARE, STAGE_ABANDONED, STAGE_RUN, STAGE_COMMIT } Stage;

struct TcBackup {
    const TcBackupOptions *options;
    GPtrArray *disks; /* TcBackupDisk, borrowed */
    GPtrArray *runs;  /* TcDiskRun, one a disk */
    TcProgress *progress;
    TcPart *sending; /* NULL: not so far. Main thread */
    TcRate *rate;
    TcRepository *repo;
    TcBackupSource *source;
    TcNewPoint *into;
    char *point;
    bool hooked; /* --before has run */
    bool begun;
    uint64_t instant;
    gint64 started;
    TcBackupOutcome outcome;
    atomic_int stage;
    atomic_bool cancelled;
};

/* ---- backup_report.c. Threads: that of the run. */

/* A line for people: a warning, or on standard output. */
void tc_backup_say(TcBackup *backup, TmLogLevel level, const char *format, ...) G_GNUC_PRINTF(3, 4);
/* One line a disk: which kind, and why. */
void tc_backup_announce(TcBackup *backup);
