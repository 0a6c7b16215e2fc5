/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/decide.h: full or incremental, and on which point.
 *
 * Invariant: an increment has all that differs from the point whose checkpoint is read (the base).
 * It stands on the newest point whose chain has the base, so that chains do not fork, and reads
 * what the points after the base have once more. So it is right whatever has happened to the disk
 * in between: a run that was killed after the point was there and before the daemon knew; a disk
 * that was set back, together with its bitmaps. Checkpoints have a random
 * part, and a manifest says which one is its own: a name that was used twice, or a copy of the
 * repository, is no way to mistake one for another. Threads: main. */
#pragma once
#include "client/backup/source.h"
#include "client/repository/hashes.h"
#include "client/repository/repository.h"

typedef enum { TC_BACKUP_AUTO, TC_BACKUP_FULL, TC_BACKUP_INCREMENTAL } TcBackupMode;

typedef struct TcDecision {
    const TcManifest *parent; /* borrowed from the repository; NULL: a full */
    GPtrArray *again;         /* TcHashes: what these have is to be read, dirty or not; or NULL */
    char *why;                /* it is a full: the reason */
    bool ordinary;            /* one that needs no warning */
} TcDecision;

/* A name for the checkpoint of one disk of @point, that no other has: disks that change places, or
 * whose files do, are not taken for each other. Returned. */
char *tc_backup_checkpoint(const TcRepository *repo, const char *point);
/* Decides, and sets disk->from. Fails if the mode is INCREMENTAL and that can't be. */
bool tc_backup_decide(const TcRepository *repo, const TcBackupSource *source, TcBackupMode mode,
                      TcBackupDisk *disk, TcDecision *decision, GError **error);
void tc_decision_clear(TcDecision *decision);
/* It turned out that @disk has another size than its parent now: a full after all. */
void tc_backup_check_size(TcBackupDisk *disk, TcDecision *decision);
/* Whether a checkpoint was made for this repository, not for a copy of it, and no next backup will
 * ask for it. */
bool tc_backup_is_stale(const TcRepository *repo, const char *checkpoint);
