/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/jobs/backup.c: how a backup begins, and what becomes of its filter and its bitmap.
 *
 * Messages are QEMU's (blockdev.c, block/backup.c), and so is the order in which things are found
 * wrong. */
#include "block/jobs/backup_internal.h"

#include "block/bitmaps.h"
#include "block/drivers/copy_before_write/cbw.h"
#include "block/filters.h"
#include "block/io/copy.h"
#include "block/permissions.h"
#include "util/error.h"

#include <limits.h>

#define CHUNK   (UINT64_C(1) << 20)
#define WORKERS 64 /* QEMU's; there are fewer (block/jobs/backup_run.c) */
#define BLOCKER "block device is in use by block job: backup"

const char *const blk_backup_sync_names[] = {
    "top", "full", "none", "incremental", "bitmap", NULL
};
const char *const blk_backup_mode_names[] = { "on-success", "never", "always", NULL };
G_STATIC_ASSERT(G_N_ELEMENTS(blk_backup_sync_names) == BLK_SYNCS + 1);

void blk_backup_options_init(BlkBackupOptions *o)
{
    *o = (BlkBackupOptions){
        .id = "", .mode = BLK_BITMAP_MODE_UNSET, .use_copy_range = true, .max_workers = WORKERS
    };
}

/* ---- what was asked for */

static bool check_bitmap_mode(const BlkBackupOptions *o, GError **error)
{
    const char *sync = blk_backup_sync_names[o->sync];

    if (o->mode == BLK_BITMAP_MODE_UNSET)
        return tm_error_set(error, "Bitmap sync mode must be given when providing a bitmap");
    if (o->sync == BLK_SYNC_NONE)
        return tm_error_set(error, "sync mode '%s' does not produce meaningful bitmap outputs",
                            sync);
    if (o->mode == BLK_BITMAP_NEVER && o->sync != BLK_SYNC_BITMAP)
        return tm_error_set(error,
                            "Bitmap sync mode '%s' has no meaningful effect when combined with "
                            "sync mode '%s'",
                            blk_backup_mode_names[o->mode], sync);
    return true;
}

static bool check_sync(BlkBackupOptions *o, GError **error)
{
    const char *sync = blk_backup_sync_names[o->sync];

    if ((o->sync == BLK_SYNC_BITMAP || o->sync == BLK_SYNC_INCREMENTAL) && !o->bitmap)
        return tm_error_set(error, "must provide a valid bitmap name for '%s' sync mode", sync);
    if (o->sync != BLK_SYNC_INCREMENTAL)
        return true;
    if (o->mode != BLK_BITMAP_MODE_UNSET && o->mode != BLK_BITMAP_ON_SUCCESS)
        return tm_error_set(error, "Bitmap sync mode must be '%s' when using sync mode '%s'",
                            blk_backup_mode_names[BLK_BITMAP_ON_SUCCESS], sync);
    o->sync = BLK_SYNC_BITMAP;
    o->mode = BLK_BITMAP_ON_SUCCESS;
    return true;
}

static bool find_bitmap(BackupJob *b, const BlkBackupOptions *o, GError **error)
{
    if (!o->bitmap)
        return o->mode == BLK_BITMAP_MODE_UNSET ||
               tm_error_set(error, "Cannot specify bitmap sync mode without a bitmap");
    b->bitmap = bmp_set_find(blk_node_bitmaps(o->source), o->bitmap, NULL);
    if (!b->bitmap)
        return tm_error_set(error, "Bitmap '%s' could not be found", o->bitmap);
    return check_bitmap_mode(o, error) && bmp_bitmap_check_usable(b->bitmap, error);
}

static bool check_nodes(const BlkBackupOptions *o, GError **error)
{
    struct tidemark_info info = { .struct_size = sizeof(info) };

    if (o->source == o->target)
        return tm_error_set(error, "Source and target cannot be the same");
    blk_node_info(o->target, &info);
    if (o->compress && !(info.flags & TIDEMARK_INFO_COMPRESS))
        return tm_error_set(error, "Compression is not supported for this drive ");
    return blk_node_check_free(o->source, error) && blk_node_check_free(o->target, error);
}

static bool check_perf(const BlkBackupOptions *o, GError **error)
{
    if (o->max_workers < 1 || o->max_workers > INT_MAX)
        return tm_error_set(error, "max-workers must be between 1 and %d", INT_MAX);
    return o->max_chunk >= 0 ||
           tm_error_set(error, "max-chunk must be zero (which means no limit) or positive");
}

static bool check_chunk(BackupJob *b, const BlkBackupOptions *o, GError **error)
{
    uint64_t cluster = blk_cbw_cluster_size(b->filter);

    if (o->max_chunk && (uint64_t)o->max_chunk < cluster)
        return tm_error_set(error,
                            "Required max-chunk (%" G_GINT64_FORMAT ") is less than backup "
                            "cluster size (%" G_GUINT64_FORMAT ")",
                            o->max_chunk, cluster);
    b->chunk = o->max_chunk ? MIN(CHUNK, (uint64_t)o->max_chunk) : CHUNK;
    b->chunk = MAX(b->chunk / cluster * cluster, cluster);
    return true;
}

/* ---- beginning */

static bool add_filter(BackupJob *b, const BlkBackupOptions *o, GError **error)
{
    BlkCbwOptions cbw = { .node_name = o->filter_name,
                          .source = o->source,
                          .target = o->target,
                          .min_cluster_size = o->min_cluster_size,
                          .on_error = BLK_CBW_BREAK_GUEST_WRITE,
                          .copy_flags = (o->compress ? BLK_COPY_COMPRESS : 0) |
                                        (o->use_copy_range ? 0 : BLK_COPY_NO_REFERENCE) };

    b->filter = blk_cbw_new(blk_node_graph(o->source), &cbw, error);
    if (!b->filter)
        g_prefix_error(error, "Could not create node: ");
    return b->filter &&
           (o->sync != BLK_SYNC_BITMAP || blk_cbw_set_bitmap(b->filter, b->bitmap, error));
}

static bool use_nodes(BackupJob *b, const BlkBackupOptions *o, GError **error)
{
    g_autofree char *what = g_strdup_printf("backup job '%s'", o->id);

    b->filter_user = blk_node_use(b->filter, what, 0, BLK_PERM_ALL, error);
    if (!b->filter_user)
        return false;
    b->target_user = blk_node_use(o->target, what, 0, BLK_PERM_ALL, error);
    if (!b->target_user)
        return false;
    blk_user_block(b->filter_user, BLOCKER);
    blk_user_block(b->target_user, BLOCKER);
    return true;
}

/* A filter that somebody uses lets nobody write below it. */
static void take_out(BackupJob *b)
{
    blk_node_release(g_steal_pointer(&b->filter_user));
    blk_filters_remove(&b->filter, 1);
}

static void drop_filter(BackupJob *b)
{
    blk_node_release(b->target_user);
    if (b->filter)
        blk_cbw_drop(b->filter);
}

static void backup_free(BackupJob *b)
{
    bmp_bitmap_unref(b->bitmap);
    blk_node_unref(b->source);
    g_free(b);
}

static const BlkJobKind backup_kind;

static bool make_job(BackupJob *b, BlkJobs *jobs, const BlkBackupOptions *o, GError **error)
{
    BlkJobOptions options = { .id = o->id,
                              .kind = &backup_kind,
                              .opaque = b,
                              .txn = o->txn,
                              .manual_finalize = o->manual_finalize,
                              .manual_dismiss = o->manual_dismiss,
                              .speed = o->speed };

    b->job = blk_job_new(jobs, &options, error);
    if (!b->job)
        return false;
    b->total = blk_cbw_remaining(b->filter);
    blk_job_set_progress(b->job, 0, b->total);
    return true;
}

static BackupJob *backup_new(const BlkBackupOptions *o)
{
    BackupJob *b = g_new0(BackupJob, 1);

    b->source = blk_node_ref(o->source);
    b->sync = o->sync;
    b->mode = o->mode;
    b->on_source_error = o->on_source_error;
    b->on_target_error = o->on_target_error;
    b->discard_source = o->discard_source;
    b->max_workers = (unsigned)CLAMP(o->max_workers, 1, INT_MAX);
    return b;
}

static bool check_size(const BlkBackupOptions *o, GError **error)
{
    return blk_node_size(o->source) == blk_node_size(o->target) ||
           tm_error_set(error, "Source and target image have different sizes");
}

BlkJob *blk_backup_new(BlkJobs *jobs, BlkBitmapChanges *changes, const BlkBackupOptions *asked,
                       GError **error)
{
    BlkBackupOptions o = *asked;
    bool to_change, inserted = false;
    BackupJob *b;

    if (!check_sync(&o, error))
        return NULL;
    b = backup_new(&o);
    to_change = o.mode != BLK_BITMAP_NEVER;
    if (find_bitmap(b, &o, error) && check_nodes(&o, error) && check_perf(&o, error) &&
        (!b->bitmap || blk_bitmap_changes_freeze(changes, b->bitmap, to_change, error)) &&
        check_size(&o, error) && add_filter(b, &o, error) && check_chunk(b, &o, error)) {
        inserted = blk_filters_insert(&b->filter, 1, error);
        if (inserted && use_nodes(b, &o, error) && make_job(b, jobs, &o, error))
            return b->job;
    }
    if (inserted)
        take_out(b);
    drop_filter(b);
    backup_free(b);
    return NULL;
}

static bool backup_begin(void *opaque, GError **error)
{
    BackupJob *b = opaque;

    b->running = true;
    return true;
}

/* ---- ending */

static void involve(GPtrArray *nodes, BlkNode *node)
{
    if (!g_ptr_array_find(nodes, node, NULL))
        g_ptr_array_add(nodes, node);
}

static bool drops(const BackupJob *b)
{
    return b->bitmap && b->mode != BLK_BITMAP_NEVER;
}

/* What was copied is dropped from the bitmaps of all of them, or of none. */
static bool backup_prepare(void *const *opaques, size_t n, GError **error)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    g_autoptr(BlkBitmapChanges) changes = blk_bitmap_changes_new();
    BlkNode *const *all;
    bool ok;

    for (size_t i = 0; i < n; i++) {
        if (drops(opaques[i]))
            involve(nodes, ((BackupJob *)opaques[i])->source);
    }
    all = (BlkNode *const *)nodes->pdata;
    if (!nodes->len)
        return true;
    blk_bitmaps_change_begin(all, nodes->len);
    for (size_t i = 0; i < n; i++) {
        BackupJob *b = opaques[i];

        if (!drops(b))
            continue;
        blk_bitmap_changes_thaw(changes, b->bitmap);
        b->thawed = true;
    }
    ok = blk_bitmaps_commit(all, nodes->len, error);
    if (!ok)
        blk_bitmap_changes_take_back(changes);
    blk_bitmaps_change_end(all, nodes->len);
    return ok;
}

/* What was not copied stays dirty. */
static void add_remaining(BackupJob *b)
{
    uint64_t from = 0, offset, length;

    while (blk_cbw_next(b->filter, from, UINT64_MAX, &offset, &length)) {
        bmp_bitmap_add(b->bitmap, offset, length);
        from = offset + length;
    }
}

/* After a failure, or when nothing is to be dropped. A bitmap that can't be stored stays whole. */
static void thaw(BackupJob *b)
{
    g_autoptr(BlkBitmapChanges) changes = blk_bitmap_changes_new();
    bool always = b->mode == BLK_BITMAP_ALWAYS && !blk_cbw_broken(b->filter);

    blk_bitmaps_change_begin(&b->source, 1);
    if (!always) {
        bmp_bitmap_thaw(b->bitmap, true);
    } else {
        blk_bitmap_changes_thaw(changes, b->bitmap);
        add_remaining(b);
        if (!blk_bitmaps_commit(&b->source, 1, NULL))
            blk_bitmap_changes_take_back(changes);
    }
    blk_bitmaps_change_end(&b->source, 1);
}

static void backup_end(void *opaque, bool success)
{
    BackupJob *b = opaque;

    take_out(b);
    if (b->bitmap && b->running && !b->thawed)
        thaw(b);
    drop_filter(b);
    if (success)
        blk_node_note_backup(b->source);
    backup_free(b);
}

static const BlkJobKind backup_kind = { .type = "backup",
                                        .block = true,
                                        .begin = backup_begin,
                                        .run = blk_backup_run,
                                        .prepare = backup_prepare,
                                        .end = backup_end };
