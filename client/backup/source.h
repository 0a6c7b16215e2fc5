/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/source.h: who has the disks of a backup open: a daemon, a QEMU process, or just an
 * NBD server. What differs between them is done by this table of functions.
 *
 * The order of calls: look, then (decide and) begin, then the reading, then end, then close. Each
 * may fail, and then nothing of what the source set up is left: end() with false, or a close()
 * without end(), takes it all down, and what a kill leaves is taken down by the next look() of the
 * same source. With success, the checkpoints that began are there and those that they replace are
 * not. Threads: one at a time. */
#pragma once
#include "client/daemon/qmp_client.h"
#include "util/error.h"
#include <inttypes.h>

typedef struct TcBackupSource TcBackupSource;

typedef struct TcCheckpoint {
    char *name;
    char *why; /* why it can't be used; NULL: it can */
} TcCheckpoint;

/* A disk that is to be backed up. Strings are owned by the disk. */
typedef struct TcBackupDisk {
    char *word; /* as the user says it: a node, an export, a device, a URI */
    char *name; /* in the repository */

    /* Filled in by look(). */
    char *id;               /* what the source itself calls it: two words may mean one disk */
    char *file;             /* its image, for people; or NULL */
    uint64_t size;          /* as of now; begin() corrects it */
    GPtrArray *checkpoints; /* TcCheckpoint: those that the source has for this disk */

    /* Decided in between by the caller. */
    char *from;       /* a checkpoint of this disk that is usable; NULL: a full */
    char *checkpoint; /* what begins on this disk at the instant, named so; NULL: none */

    /* Filled in by begin(). */
    char *uri;    /* where it is read, as of the instant */
    char *bitmap; /* the name in the contexts: what is dirty in it is to be read; NULL: all */
    bool release; /* the export takes NBD_CMD_TRIM for what has been read */
    json_object *source; /* for the manifest: type, node, ... */
} TcBackupDisk;

TcBackupDisk *tc_backup_disk_new(const char *name, const char *word);
void tc_backup_disk_free(TcBackupDisk *disk);
/* @why: see TcCheckpoint. */
void tc_backup_disk_add_checkpoint(TcBackupDisk *disk, const char *name, const char *why);
/* Borrowed; NULL: it has none of that name. */
const TcCheckpoint *tc_backup_disk_checkpoint(const TcBackupDisk *disk, const char *name);
/* No two of them have one name, or one id. */
bool tc_backup_disks_distinct(GPtrArray *disks, GError **error);

typedef struct TcBackupBegin {
    const char *scratch;  /* directory; NULL: what the source thinks right */
    uint64_t scratch_max; /* bytes; 0: no limit */
} TcBackupBegin;

struct TcBackupSource {
    /* What there is. @disks (TcBackupDisk, borrowed, the same in all calls) have word and name. A
     * word that means no disk is an error. */
    bool (*look)(TcBackupSource *source, GPtrArray *disks, GError **error);
    /* All disks as they are at one instant, ns since 1970. */
    bool (*begin)(TcBackupSource *source, GPtrArray *disks, const TcBackupBegin *begin,
                  uint64_t *instant, GError **error);
    /* Reports what has become of the backup. With success, an error means that it is not known
     * which checkpoint is left; without, that something of the backup may be left. */
    bool (*end)(TcBackupSource *source, GPtrArray *disks, bool success, GError **error);
    /* Removes a checkpoint that nobody needs. */
    bool (*remove)(TcBackupSource *source, const TcBackupDisk *disk, const char *checkpoint,
                   GError **error);
    void (*close)(TcBackupSource *source);
    const char *what; /* for messages: "the daemon", "QEMU", "the NBD server" */
    const char *lost; /* why it may have a checkpoint no more; NULL: there is nothing to say */
    /* Whether checkpoints are this program's to make and remove. Else look() gives each disk one:
     * the bitmap that somebody else takes care of. It has what was written since the last
     * backup. */
    bool own_checkpoints;
};

static inline void tc_backup_source_close(TcBackupSource *source)
{
    if (source)
        source->close(source);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcBackupSource, tc_backup_source_close)

/* tidemarkd, at its QMP socket @path. What is set up for a backup is named "tidemark-TAG-...": @tag
 * is tc_repo_place(). The repository is locked: what look() finds set up under its tag is of a run
 * that was killed. */
TcBackupSource *tc_backup_daemon_new(const char *path, const char *tag, GError **error);
/* Any NBD server; words are URIs. @bitmap NULL: only fulls. */
TcBackupSource *tc_backup_nbd_new(const char *bitmap);
/* A QEMU process, at its QMP socket @path; words are devices or nodes. */
TcBackupSource *tc_backup_qemu_new(const char *path, GError **error);
