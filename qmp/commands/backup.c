/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/backup.c: blockdev-backup: a transaction of one action. */
#include "block/jobs/backup.h"
#include "qmp/commands/families.h"
#include "qmp/qmp_internal.h"

static bool run_backup(QmpCall *call, GError **error)
{
    return qmp_transaction_run_one(call->ctx, "blockdev-backup", call->args, error);
}

static const QmpType sync_type = { .kind = QMP_KIND_ENUM,
                                   .name = "MirrorSyncMode",
                                   .values = blk_backup_sync_names };
static const QmpType mode_type = { .kind = QMP_KIND_ENUM,
                                   .name = "BitmapSyncMode",
                                   .values = blk_backup_mode_names };
static const char *const on_error_values[] = { "report", "ignore", "enospc", "stop", "auto", NULL };
static const QmpType on_error_type = { .kind = QMP_KIND_ENUM,
                                       .name = "BlockdevOnError",
                                       .values = on_error_values };
static const QmpMember perf_members[] = {
    { "use-copy-range", &qmp_type_bool, true,
      "share blocks, or copy within the kernel, if the files support it (default: on)" },
    { "max-workers", &qmp_type_int, true,
      "chunks that are copied at a time; more than 8 count as 8 (default: 64)" },
    { "max-chunk", &qmp_type_int, true,
      "largest chunk in bytes; 0, or more than 1M, counts as 1M (default: 0)" },
    { "min-cluster-size", &qmp_type_size, true,
      "minimum unit of copying in bytes, a power of two (default: 0)" },
    { NULL },
};
static const QmpType perf_type = { .kind = QMP_KIND_OBJECT,
                                   .name = "BackupPerf",
                                   .members = perf_members };

static const QmpMember backup_members[] = {
    { "job-id", &qmp_type_str, true, "id of the new job; this daemon requires it" },
    { "device", &qmp_type_str, false, "the node to copy" },
    { "target", &qmp_type_str, false, "the node to copy to, of the same size" },
    { "sync", &sync_type, false,
      "what to copy. full: everything; top: what the top image of the backing chain has; bitmap: "
      "what is dirty in the bitmap; incremental: the same, with bitmap-mode=on-success; none: only "
      "data that is about to be overwritten, until the job is canceled" },
    { "speed", &qmp_type_int, true, "bytes per second; 0 for no limit (default: 0)" },
    { "bitmap", &qmp_type_str, true, "a bitmap of the node" },
    { "bitmap-mode", &mode_type, true,
      "when to clear in the bitmap what was copied. on-success: if the job succeeds; never; "
      "always: also if the job fails" },
    { "compress", &qmp_type_bool, true, "compress the data in the target (default: off)" },
    { "on-source-error", &on_error_type, true,
      "if reading fails. report: the job fails; ignore: try again later; stop: pause; enospc, "
      "auto: pause if there is no space, else the job fails (default: report)" },
    { "on-target-error", &on_error_type, true, "the same if writing fails (default: report)" },
    { "auto-finalize", &qmp_type_bool, true,
      "whether the job ends by itself, or waits for job-finalize (default: on)" },
    { "auto-dismiss", &qmp_type_bool, true,
      "whether the job is removed when it ends, or waits for job-dismiss (default: on)" },
    { "filter-node-name", &qmp_type_str, true,
      "name of the copy-before-write node that the job inserts (default: generated)" },
    { "discard-source", &qmp_type_bool, true,
      "discard in the source what was copied (default: off)" },
    { "x-perf", &perf_type, true, "settings for performance" },
    { NULL },
};
const QmpType qmp_type_blockdev_backup = { .kind = QMP_KIND_OBJECT,
                                           .name = "BlockdevBackup",
                                           .members = backup_members };

static const char *const backup_errors[] = {
    "Cannot find device='ID' nor node-name='NAME'",
    "Source and target cannot be the same",
    "Source and target image have different sizes",
    "Node 'NAME' is busy: block device is in use by block job: backup",
    "Bitmap 'NAME' could not be found",
    "Bitmap 'NAME' is currently in use by another operation and cannot be used",
    "Bitmap sync mode must be given when providing a bitmap",
    "Invalid job ID 'ID'",
    "Job ID 'ID' already in use",
    NULL
};

static const QmpCommand commands[] = {
    { "blockdev-backup",
      "copy a node as it is at this moment to another node, in a job, while writes go on",
      &qmp_type_blockdev_backup, &qmp_type_empty, run_backup,
      .example = "{'job-id': 'backup0', 'device': 'disk0', 'target': 'target0', 'sync': "
                 "'incremental', 'bitmap': 'b0'}",
      .errors = backup_errors },
    { NULL },
};

const QmpFamily qmp_family_backup = { "Backups", commands, NULL };
