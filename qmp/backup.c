/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/backup.c: the arguments of blockdev-backup, as a command and as an action. */
#include "qmp/qmp_internal.h"

#include <string.h>

static const char *const on_error_names[] = { "report", "ignore", "stop", "enospc" };
G_STATIC_ASSERT(G_N_ELEMENTS(on_error_names) == BLK_ON_ERRORS);

/* Its place in @names; what is not there, and "auto" for one, is @otherwise. */
static unsigned choice(json_object *args, const char *key, const char *const *names, unsigned n,
                       unsigned otherwise)
{
    const char *value = qmp_arg_str(args, key);

    for (unsigned i = 0; value && i < n; i++) {
        if (!strcmp(names[i], value))
            return i;
    }
    return otherwise;
}

static BlkOnError on_error(json_object *args, const char *key)
{
    return choice(args, key, on_error_names, BLK_ON_ERRORS,
                  qmp_arg(args, key) ? BLK_ON_ERROR_ENOSPC : BLK_ON_ERROR_REPORT);
}

static void take_perf(BlkBackupOptions *o, json_object *args)
{
    o->use_copy_range = qmp_arg_bool(args, "x-perf.use-copy-range", o->use_copy_range);
    o->max_workers = qmp_arg_int(args, "x-perf.max-workers", o->max_workers);
    o->max_chunk = qmp_arg_int(args, "x-perf.max-chunk", 0);
    o->min_cluster_size = qmp_arg_uint(args, "x-perf.min-cluster-size", 0);
}

static void take(BlkBackupOptions *o, json_object *args)
{
    blk_backup_options_init(o);
    if (qmp_arg(args, "job-id"))
        o->id = qmp_arg_str(args, "job-id");
    o->sync = choice(args, "sync", blk_backup_sync_names, BLK_SYNCS, BLK_SYNC_FULL);
    o->bitmap = qmp_arg_str(args, "bitmap");
    o->mode = choice(args, "bitmap-mode", blk_backup_mode_names, BLK_BITMAP_MODE_UNSET,
                     BLK_BITMAP_MODE_UNSET);
    o->speed = qmp_arg_int(args, "speed", 0);
    o->compress = qmp_arg_bool(args, "compress", false);
    o->discard_source = qmp_arg_bool(args, "discard-source", false);
    o->on_source_error = on_error(args, "on-source-error");
    o->on_target_error = on_error(args, "on-target-error");
    o->filter_name = qmp_arg_str(args, "filter-node-name");
    o->manual_finalize = !qmp_arg_bool(args, "auto-finalize", true);
    o->manual_dismiss = !qmp_arg_bool(args, "auto-dismiss", true);
    take_perf(o, args);
}

BlkJob *qmp_backup_new(QmpContext *ctx, BlkBitmapChanges *changes, BlkJobTxn *txn,
                       json_object *args, GError **error)
{
    const char *source = qmp_arg_str(args, "device"), *target = qmp_arg_str(args, "target");
    BlkBackupOptions o;

    take(&o, args);
    o.txn = txn;
    o.source = blk_graph_lookup(qmp_context_graph(ctx), source, source, error);
    if (!o.source)
        return NULL;
    o.target = blk_graph_lookup(qmp_context_graph(ctx), target, target, error);
    return o.target ? blk_backup_new(qmp_context_jobs(ctx), changes, &o, error) : NULL;
}
