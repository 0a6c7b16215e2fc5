/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/backup_session.c: backups that begin and end in one call. The work is
 * block/backup's. */
#include "block/backup/backup.h"
#include "qmp/commands/families.h"
#include "qmp/context.h"
#include "qmp/qmp_internal.h"

#include <string.h>

static BlkBackupDisk *take_disks(json_object *array, size_t *n)
{
    BlkBackupDisk *disks;

    *n = json_object_array_length(array);
    disks = g_new0(BlkBackupDisk, *n + 1);
    for (size_t i = 0; i < *n; i++) {
        json_object *disk = json_object_array_get_idx(array, i);

        disks[i] = (BlkBackupDisk){ .node = qmp_arg_str(disk, "node"),
                                    .from = qmp_arg_str(disk, "from"),
                                    .checkpoint = qmp_arg_str(disk, "checkpoint"),
                                    .export_name = qmp_arg_str(disk, "export") };
    }
    return disks;
}

static bool run_begin(QmpCall *call, GError **error)
{
    json_object *a = call->args;
    const char *full = qmp_arg_str(a, "on-scratch-full");
    g_autofree BlkBackupDisk *disks = NULL;
    g_autofree const char **servers = NULL;
    BlkBackupBegin options = {
        .id = qmp_arg_str(a, "id"),
        .checkpoint = qmp_arg_str(a, "checkpoint"),
        .transient = !qmp_arg_bool(a, "persistent", true),
        .directory = qmp_arg_str(a, "scratch.directory"),
        .max_size = qmp_arg_uint(a, "scratch.max-size", 0),
        .stop = full && !strcmp(full, "stop"),
        .timeout = (uint32_t)qmp_arg_uint(a, "timeout", 60),
        .allow_list = qmp_arg_str(a, "allow-list"),
        .allow_open = qmp_arg_str(a, "allow-open"),
    };

    options.disks = disks = take_disks(qmp_arg(a, "disks"), &options.n_disks);
    options.servers = servers = qmp_arg_strings(a, "servers", &options.n_servers);
    return blk_backups_begin(qmp_context_backups(call->ctx), &options, &call->result, error);
}

static bool run_end(QmpCall *call, GError **error)
{
    json_object *a = call->args;

    return blk_backups_end(qmp_context_backups(call->ctx), qmp_arg_str(a, "id"),
                           qmp_arg_bool(a, "success", false), qmp_arg_bool(a, "keep-from", false),
                           error);
}

static bool run_query(QmpCall *call, GError **error)
{
    call->result = blk_backups_query(qmp_context_backups(call->ctx));
    return true;
}

/* ---- types */

static const QmpMember disk_members[] = {
    { "node", &qmp_type_str, false, "the disk" },
    { "from", &qmp_type_str, true,
      "the bitmap whose dirty bytes are to be copied; it can't be changed until backup-end "
      "(default: none, a full backup)" },
    { "checkpoint", &qmp_type_str, true,
      "name of the bitmap that begins on this disk (default: the argument 'checkpoint')" },
    { "export", &qmp_type_str, true, "the name of the export (default: NODE@ID)" },
    { NULL },
};
static const QmpType disk_type = { .kind = QMP_KIND_OBJECT,
                                   .name = "BackupDisk",
                                   .members = disk_members };
static const QmpType disk_array = { .kind = QMP_KIND_ARRAY,
                                    .name = "array",
                                    .element = &disk_type };

static const QmpMember scratch_members[] = {
    { "directory", &qmp_type_str, false,
      "directory in which the unnamed scratch files are created" },
    { "max-size", &qmp_type_size, true,
      "bytes that the scratch files may occupy together (default: no limit)" },
    { NULL },
};
static const QmpType scratch_type = { .kind = QMP_KIND_OBJECT,
                                      .name = "BackupScratch",
                                      .members = scratch_members };

static const char *const full_values[] = { "abort", "stop", NULL };
static const QmpType full_type = { .kind = QMP_KIND_ENUM,
                                   .name = "BackupOnScratchFull",
                                   .values = full_values };

static const QmpMember begin_members[] = {
    { "id", &qmp_type_str, false, "id of the backup, for backup-end" },
    { "disks", &disk_array, false, "the disks to back up" },
    { "checkpoint", &qmp_type_str, true,
      "name of a bitmap that begins on every disk at the instant of the backup, for the next one "
      "(default: none)" },
    { "persistent", &qmp_type_bool, true,
      "keep the checkpoint across restarts of the daemon (default: on)" },
    { "scratch", &scratch_type, false, "the space for data that is overwritten during the backup" },
    { "on-scratch-full", &full_type, true,
      "if data can't be kept in the scratch: abort (default) ends the backup without success; stop "
      "makes the writes to the disks fail" },
    { "timeout", &qmp_type_uint32, true,
      "seconds after which the backup ends without success if none of its exports has a client "
      "(default: 60; 0: never)" },
    { "servers", &qmp_type_str_array, true,
      "the ids of the NBD servers that offer the exports (default: all)" },
    { "allow-list", &qmp_type_str, true,
      "access list: clients that see the exports in the list of exports (default: all)" },
    { "allow-open", &qmp_type_str, true,
      "access list: clients that may open the exports (default: all)" },
    { NULL },
};
static const QmpType begin_args = { .kind = QMP_KIND_OBJECT,
                                    .name = "q_obj_backup-begin-arg",
                                    .members = begin_members };

#define DISK_INFO                                                                                  \
    { "node", &qmp_type_str, false, "the disk" },                                                  \
        { "from", &qmp_type_str, true, "the bitmap that it is based on" },                         \
        { "checkpoint", &qmp_type_str, true, "the bitmap that began with the backup" },            \
        { "export", &qmp_type_str, false, "the name of its export" },                              \
        { "size", &qmp_type_uint64, false, "bytes of the disk at the instant" },                   \
        { "contexts", &qmp_type_str_array, false,                                                  \
          "the metadata contexts that the export offers" },                                        \
    {                                                                                              \
        "dirty", &qmp_type_uint64, false,                                                          \
            "bytes to copy: those that were dirty in 'from' at the instant, or the size of the "   \
            "disk"                                                                                 \
    }

static const QmpMember begun_disk_members[] = { DISK_INFO, { NULL } };
static const QmpType begun_disk_type = { .kind = QMP_KIND_OBJECT,
                                         .name = "BackupDiskInfo",
                                         .members = begun_disk_members };
static const QmpType begun_disk_array = { .kind = QMP_KIND_ARRAY,
                                          .name = "array",
                                          .element = &begun_disk_type };
static const QmpMember begun_members[] = {
    { "instant", &qmp_type_uint64, false,
      "the instant of the backup, in nanoseconds since 1970 (UTC)" },
    { "disks", &begun_disk_array, false, "the disks, in the order given" },
    { NULL },
};
static const QmpType begun_type = { .kind = QMP_KIND_OBJECT,
                                    .name = "BackupBegun",
                                    .members = begun_members };

static const QmpMember end_members[] = {
    { "id", &qmp_type_str, false, "the backup" },
    { "success", &qmp_type_bool, false,
      "on: the checkpoint stays, and 'from' is removed; off: the checkpoint is removed, and 'from' "
      "stays, and has the writes since the instant as well" },
    { "keep-from", &qmp_type_bool, true, "with success, 'from' stays, too (default: off)" },
    { NULL },
};
static const QmpType end_args = { .kind = QMP_KIND_OBJECT,
                                  .name = "q_obj_backup-end-arg",
                                  .members = end_members };

static const QmpMember status_disk_members[] = {
    DISK_INFO,
    { "sessions", &qmp_type_uint64, false, "clients that have its export open" },
    { "copied-before-writes", &qmp_type_uint64, false,
      "bytes that were copied to the scratch before a write overwrote them" },
    { NULL },
};
static const QmpType status_disk_type = { .kind = QMP_KIND_OBJECT,
                                          .name = "BackupDiskStatus",
                                          .members = status_disk_members };
static const QmpType status_disk_array = { .kind = QMP_KIND_ARRAY,
                                           .name = "array",
                                           .element = &status_disk_type };
static const QmpMember used_members[] = {
    { "used", &qmp_type_uint64, false, "bytes of the scratch that are in use" },
    { "max-size", &qmp_type_uint64, true, "bytes that may be in use (absent: no limit)" },
    { NULL },
};
static const QmpType used_type = { .kind = QMP_KIND_OBJECT,
                                   .name = "BackupScratchInfo",
                                   .members = used_members };
static const QmpMember status_members[] = {
    { "id", &qmp_type_str, false, "the backup" },
    { "instant", &qmp_type_uint64, false,
      "the instant of the backup, in nanoseconds since 1970 (UTC)" },
    { "age", &qmp_type_uint64, false, "seconds since it began" },
    { "checkpoint", &qmp_type_str, true, "the argument 'checkpoint' of backup-begin" },
    { "scratch", &used_type, false, "the space for data that is overwritten during the backup" },
    { "timeout", &qmp_type_uint64, false,
      "seconds after which it ends without success if it has no client; 0: never" },
    { "aborted", &qmp_type_str, true,
      "why the backup failed; present while the end of the backup can't be stored" },
    { "disks", &status_disk_array, false, "the disks" },
    { NULL },
};
static const QmpType status_type = { .kind = QMP_KIND_OBJECT,
                                     .name = "BackupInfo",
                                     .members = status_members };
static const QmpType status_array = { .kind = QMP_KIND_ARRAY,
                                      .name = "array",
                                      .element = &status_type };

static const char *const begin_errors[] = {
    "Invalid backup id 'ID': expected letters, digits, '-', '.' and '_', a letter first",
    "Backup 'ID' already exists",
    "Parameter 'disks' expects at least one disk",
    "Cannot find device='NODE' nor node-name='NODE'",
    "Node 'NODE' is listed twice in 'disks'",
    "Dirty bitmap 'NAME' not found",
    "Bitmap 'NAME' is currently in use by another operation and cannot be used",
    "Bitmap 'NAME' is inconsistent and cannot be used",
    "Bitmap already exists: NAME",
    "Could not create a scratch file in 'DIRECTORY': REASON",
    "NBD server not running",
    NULL,
};
static const char *const end_errors[] = { "Backup 'ID' not found",
                                          "Backup 'ID' has ended already, HOW",
                                          "Backup 'ID' is ending without success: REASON", NULL };

static const QmpCommand commands[] = {
    { "backup-begin", "export disks for a backup as they are at one instant, while writes go on",
      &begin_args, &begun_type, run_begin,
      .example = "{'id': 'nightly', 'disks': [{'node': 'disk0', 'from': 'monday'}, {'node': "
                 "'disk1'}], 'checkpoint': 'tuesday', 'scratch': {'directory': "
                 "'/var/lib/tidemark/scratch', 'max-size': 10737418240}}",
      .errors = begin_errors },
    { "backup-end", "end a backup, with or without success", &end_args, &qmp_type_empty, run_end,
      .example = "{'id': 'nightly', 'success': true}", .errors = end_errors },
    { "query-backups", "the backups that have begun and not ended", &qmp_type_empty, &status_array,
      run_query },
    { NULL },
};

/* ---- events */

static const QmpMember ended_members[] = {
    { "id", &qmp_type_str, false, "the backup" },
    { "success", &qmp_type_bool, false, "the argument 'success' of backup-end" },
    { NULL },
};
static const QmpType ended_data = { .kind = QMP_KIND_OBJECT,
                                    .name = "q_obj_BACKUP_ENDED-arg",
                                    .members = ended_members };
static const QmpMember aborted_members[] = {
    { "id", &qmp_type_str, true, "the backup; absent if it was begun by a daemon that has died" },
    { "node-name", &qmp_type_str, true,
      "the disk, if the backup was begun by a daemon that has died" },
    { "checkpoint", &qmp_type_str, true, "the checkpoint of that backup, which is removed" },
    { "reason", &qmp_type_str, false, "a message for people" },
    { NULL },
};
static const QmpType aborted_data = { .kind = QMP_KIND_OBJECT,
                                      .name = "q_obj_BACKUP_ABORTED-arg",
                                      .members = aborted_members };
static const QmpEvent events[] = {
    { "BACKUP_ENDED", "a backup was ended by backup-end", &ended_data },
    { "BACKUP_ABORTED", "a backup has ended without success", &aborted_data },
    { NULL },
};

const QmpFamily qmp_family_backup_session = { "Backup sessions", commands, events };
