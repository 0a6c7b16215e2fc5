/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/backup/begin.c: how a backup begins. What can take long, or fail for reasons that can be
 * known before, comes first; then the instant, in which no request of the disks is in flight; then
 * the exports. */
#include "block/backup/backup_internal.h"

#include "block/bitmap_changes.h"
#include "block/bitmaps.h"
#include "block/filters.h"
#include "util/error.h"
#include "util/identifier.h"
#include "util/json.h"
#include "util/trace.h"

#include <time.h>

/* ---- what is asked for */

static bool find_disk(Backup *b, BackupDisk *disk, const BlkBackupDisk *o, GError **error)
{
    BlkNode *node =
        blk_graph_lookup(blk_exports_graph(b->backups->exports), o->node, o->node, error);

    if (!node)
        return false;
    for (const BackupDisk *other = b->disks; other < disk; other++) {
        if (other->node == node)
            return tm_error_set(error, "Node '%s' is listed twice in 'disks'", o->node);
    }
    disk->node = blk_node_ref(node);
    disk->size = blk_node_size(node);
    disk->export_name =
        o->export_name ? g_strdup(o->export_name) : g_strdup_printf("%s@%s", o->node, b->id);
    if (!o->from)
        return true;
    disk->from = bmp_set_find(blk_node_bitmaps(node), o->from, error);
    return disk->from != NULL;
}

static bool find_disks(Backup *b, const BlkBackupBegin *o, GError **error)
{
    b->disks = g_new0(BackupDisk, o->n_disks);
    if (!o->n_disks)
        return tm_error_set(error, "Parameter 'disks' expects at least one disk");
    for (b->n = 0; b->n < o->n_disks; b->n++) {
        if (!find_disk(b, &b->disks[b->n], &o->disks[b->n], error)) {
            blk_backup_disk_clear(&b->disks[b->n]);
            return false;
        }
    }
    for (size_t i = 0; i < b->n; i++)
        blk_backups_make_way(b->backups, b->disks[i].node);
    for (size_t i = 0; i < b->n; i++) { /* which may have used the bitmap */
        if (b->disks[i].from && !bmp_bitmap_check_usable(b->disks[i].from, error))
            return false;
    }
    return true;
}

static gboolean copy_failed(void *opaque)
{
    Backup *b = opaque;
    int error = __atomic_load_n(&b->error, __ATOMIC_ACQUIRE);
    g_autofree char *reason = NULL;

    g_source_set_ready_time(b->failing, -1);
    reason = g_strdup_printf("a copy before a write failed: %s: %s",
                             __atomic_load_n(&b->error_on_disk, __ATOMIC_RELAXED)
                                 ? "the disk could not be read"
                             : error == ENOSPC ? "the scratch is full"
                                               : "the scratch could not be written",
                             g_strerror(error));
    blk_backup_abort(b, reason);
    return G_SOURCE_CONTINUE;
}

static gboolean dispatch(GSource *source, GSourceFunc callback, void *opaque)
{
    return callback(opaque);
}

static GSourceFuncs failing_funcs = { .dispatch = dispatch };

static Backup *backup_new(BlkBackups *backups, const BlkBackupBegin *o)
{
    Backup *b = g_new0(Backup, 1);

    b->backups = backups;
    b->id = g_strdup(o->id);
    b->checkpoint = g_strdup(o->checkpoint);
    b->max_size = o->max_size;
    b->budget = blk_scratch_budget_new(o->max_size);
    b->timeout = o->timeout;
    b->stop = o->stop;
    b->began_at = g_get_monotonic_time();
    b->failing = g_source_new(&failing_funcs, sizeof(GSource));
    g_source_set_callback(b->failing, copy_failed, b, NULL);
    g_source_set_ready_time(b->failing, -1);
    g_source_attach(b->failing, backups->main);
    return b;
}

/* ---- the instant */

static uint64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/* NULL: none begins on this disk. */
static const char *checkpoint_of(const BlkBackupBegin *o, size_t i)
{
    return o->disks[i].checkpoint ? o->disks[i].checkpoint : o->checkpoint;
}

static bool begin_bitmaps(BackupDisk *disk, const BlkBackupBegin *o, const char *checkpoint,
                          BlkBitmapChanges *changes, GError **error)
{
    BmpAddOptions options = {
        .granularity = disk->from ? bmp_bitmap_granularity(disk->from) : 0,
        .persistent = !o->transient,
        .unfinished = true,
    };

    if (disk->from && !blk_bitmap_changes_freeze(changes, disk->from, false, error))
        return false;
    disk->frozen = disk->from != NULL;
    if (!checkpoint)
        return true;
    if (!blk_bitmap_changes_add(changes, disk->node, checkpoint, &options, error))
        return false;
    disk->checkpoint = bmp_set_find(blk_node_bitmaps(disk->node), checkpoint, error);
    return disk->checkpoint != NULL;
}

static void hold_bitmaps(Backup *b)
{
    b->held = true;
    for (size_t i = 0; i < b->n; i++) {
        BackupDisk *disk = &b->disks[i];

        disk->dirty = disk->from ? bmp_bitmap_count(disk->from) : disk->size;
        if (disk->from)
            bmp_bitmap_busy_begin(disk->from);
        if (disk->checkpoint)
            bmp_bitmap_busy_begin(disk->checkpoint);
    }
}

/* All disks or none. @store: their stores follow at once. */
static bool change_bitmaps(Backup *b, const BlkBackupBegin *o, BlkNode *const *nodes, bool store,
                           GError **error)
{
    g_autoptr(BlkBitmapChanges) changes = blk_bitmap_changes_new();
    bool ok = true;

    (store ? blk_bitmaps_change_begin : blk_bitmaps_instant_begin)(nodes, b->n);
    b->instant = now();
    for (size_t i = 0; ok && i < b->n; i++)
        ok = begin_bitmaps(&b->disks[i], o, checkpoint_of(o, i), changes, error);
    ok = ok && (!store || blk_bitmaps_commit(nodes, b->n, error));
    if (ok) {
        hold_bitmaps(b);
    } else {
        blk_bitmap_changes_take_back(changes);
        for (size_t i = 0; i < b->n; i++) {
            b->disks[i].frozen = false;
            g_clear_pointer(&b->disks[i].checkpoint, bmp_bitmap_unref);
        }
    }
    (store ? blk_bitmaps_change_end : blk_bitmaps_instant_end)(nodes, b->n);
    return ok;
}

/* Whether the checkpoints can wait to be stored until the backup has succeeded. Not where a disk
 * has no store yet: who finds the disk after a crash is to learn of the backup. */
static bool note_checkpoints(const Backup *b, const BlkBackupBegin *o)
{
    bool ok = true;

    for (size_t i = 0; ok && !o->transient && i < b->n; i++)
        ok = !checkpoint_of(o, i) || blk_bitmaps_note_backup(b->disks[i].node, checkpoint_of(o, i));
    return ok;
}

/* Those of backups that were there before stay. */
static void take_notes_back(const Backup *b)
{
    for (size_t i = 0; i < b->n; i++)
        blk_bitmaps_note_backup(b->disks[i].node, NULL);
}

static bool at_one_instant(Backup *b, const BlkBackupBegin *o, GError **error)
{
    g_autofree BlkNode **nodes = blk_backup_nodes(b), **filters = g_new(BlkNode *, b->n);
    bool store = !note_checkpoints(b, o), ok;
    BlkHold *held;

    for (size_t i = 0; i < b->n; i++) {
        filters[i] = b->disks[i].filter;
        /* So that the commit has little to wait for; it reports a failure. */
        if (store && !blk_node_read_only(nodes[i]))
            blk_node_flush(nodes[i]);
    }
    held = blk_hold_begin(nodes, b->n);
    ok = blk_filters_insert(filters, b->n, error);
    for (size_t i = 0; i < b->n; i++)
        b->disks[i].inserted = ok;
    ok = ok && change_bitmaps(b, o, nodes, store, error);
    blk_hold_end(held);
    if (!ok)
        take_notes_back(b);
    return ok;
}

/* ---- all of it */

static json_object *describe(const Backup *b)
{
    json_object *result = json_object_new_object(), *disks = json_object_new_array();

    tm_json_add_uint(result, "instant", b->instant);
    for (size_t i = 0; i < b->n; i++)
        json_object_array_add(disks, blk_backup_disk_info(&b->disks[i]));
    json_object_object_add(result, "disks", disks);
    return result;
}

static bool begin(Backup *b, const BlkBackupBegin *o, GError **error)
{
    bool ok = find_disks(b, o, error);

    for (size_t i = 0; ok && i < b->n; i++)
        ok = blk_backup_disk_open(b, &b->disks[i], o->directory, error);
    ok = ok && at_one_instant(b, o, error);
    for (size_t i = 0; ok && i < b->n; i++)
        ok = blk_backup_disk_export(b, &b->disks[i], o, error);
    return ok;
}

bool blk_backups_begin(BlkBackups *backups, const BlkBackupBegin *o, json_object **result,
                       GError **error)
{
    Backup *b;

    if (!tm_identifier(o->id))
        return tm_error_set(
            error,
            "Invalid backup id '%s': expected letters, digits, '-', '.' and '_', a letter first",
            o->id);
    if (blk_backups_find(backups, o->id))
        return tm_error_set(error, "Backup '%s' already exists", o->id);
    b = backup_new(backups, o);
    g_ptr_array_add(backups->list, b);
    if (begin(b, o, error)) {
        blk_backups_drop(backups, o->id);
        TM_TRACE(backup_begin, b->id, b->n);
        tm_log_note(blk_graph_log(blk_exports_graph(backups->exports)),
                    &(TmLogFacts){ .area = TM_LOG_BACKUP, .level = TM_LOG_DEBUG },
                    "backup '%s' of %zu disks has begun", b->id, b->n);
        *result = describe(b);
        return true;
    }
    blk_backup_detach(b);
    if (!b->held || blk_backup_settle(b, false, true, NULL)) {
        g_ptr_array_remove(backups->list, b);
        blk_backup_free(b);
    } else { /* its checkpoint could not be removed yet */
        blk_backup_abort(b, "it could not begin");
    }
    return false;
}
