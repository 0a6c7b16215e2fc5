/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/backup/end.c: how a backup ends: its filters and exports go first, then its bitmaps become
 * what they are to be, all at once. */
#include "block/backup/backup_internal.h"

#include "block/bitmap_changes.h"
#include "block/bitmaps.h"
#include "block/filters.h"
#include "block/node_internal.h"

#include <errno.h>

#define LINGER 30u /* seconds that clients have to find out that a backup was aborted */

BlkNode **blk_backup_nodes(const Backup *b)
{
    BlkNode **nodes = g_new(BlkNode *, b->n);

    for (size_t i = 0; i < b->n; i++)
        nodes[i] = b->disks[i].node;
    return nodes;
}

void blk_backup_free(Backup *b)
{
    for (size_t i = 0; i < b->n; i++)
        blk_backup_disk_clear(&b->disks[i]);
    if (b->failing) {
        g_source_destroy(b->failing);
        g_source_unref(b->failing);
    }
    blk_scratch_budget_unref(b->budget);
    g_free(b->disks);
    g_free(b->checkpoint);
    g_free(b->aborted);
    g_free(b->id);
    g_free(b);
}

/* ---- filters and exports */

void blk_backup_break(Backup *b)
{
    for (size_t i = 0; i < b->n; i++) {
        BackupDisk *disk = &b->disks[i];

        if (disk->filter)
            blk_cbw_break(disk->filter, EIO);
        if (disk->export_id)
            blk_exports_del(b->backups->exports, disk->export_id, BLK_DEL_WAIT, LINGER, NULL);
    }
}

bool blk_backup_exported(const Backup *b)
{
    for (size_t i = 0; i < b->n; i++) {
        const char *id = b->disks[i].export_id;
        g_autoptr(BlkExport) x = id ? blk_exports_find_id(b->backups->exports, id) : NULL;

        if (x)
            return true;
    }
    return false;
}

static void take_out(Backup *b)
{
    g_autoptr(GPtrArray) filters = g_ptr_array_new();

    for (size_t i = 0; i < b->n; i++) {
        if (b->disks[i].inserted)
            g_ptr_array_add(filters, b->disks[i].filter);
        b->disks[i].inserted = false;
    }
    blk_filters_remove((BlkNode *const *)filters->pdata, filters->len);
}

/* From the top down: what reads through a filter is gone before what is written goes past it. */
void blk_backup_detach(Backup *b)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new();

    blk_backup_break(b);
    for (size_t i = 0; i < b->n; i++) {
        if (b->disks[i].export_id)
            g_ptr_array_add(ids, b->disks[i].export_id);
    }
    blk_exports_drop(b->backups->exports, (const char *const *)ids->pdata, ids->len);
    blk_graph_settle(blk_exports_graph(b->backups->exports));
    take_out(b);
    for (size_t i = 0; i < b->n; i++) {
        if (b->disks[i].filter)
            blk_cbw_drop(b->disks[i].filter);
        b->disks[i].filter = NULL;
        g_clear_pointer(&b->disks[i].export_id, g_free);
    }
    blk_graph_settle(blk_exports_graph(b->backups->exports)); /* a scratch that got no filter */
}

/* ---- bitmaps */

static void hold(Backup *b, bool busy)
{
    void (*fn)(BmpBitmap *) = busy ? bmp_bitmap_busy_begin : bmp_bitmap_busy_end;

    for (size_t i = 0; i < b->n; i++) {
        if (b->disks[i].from)
            fn(b->disks[i].from);
        if (b->disks[i].checkpoint)
            fn(b->disks[i].checkpoint);
    }
}

static bool end_bitmaps(BackupDisk *disk, BlkBitmapChanges *changes, bool success, bool keep_from,
                        GError **error)
{
    if (disk->checkpoint && success)
        blk_bitmap_changes_finish(changes, disk->checkpoint);
    else if (disk->checkpoint && !blk_bitmap_changes_remove(changes, disk->checkpoint, error))
        return false;
    return !success || keep_from || !disk->from ||
           blk_bitmap_changes_remove(changes, disk->from, error);
}

bool blk_backup_settle(Backup *b, bool success, bool keep_from, GError **error)
{
    g_autofree BlkNode **nodes = blk_backup_nodes(b);
    g_autoptr(BlkBitmapChanges) changes = blk_bitmap_changes_new();
    bool ok = true;

    blk_bitmaps_change_begin(nodes, b->n);
    if (b->held)
        hold(b, false);
    for (size_t i = 0; i < b->n; i++) {
        if (b->disks[i].frozen)
            bmp_bitmap_thaw(b->disks[i].from, true);
        b->disks[i].frozen = false;
    }
    for (size_t i = 0; ok && i < b->n; i++)
        ok = end_bitmaps(&b->disks[i], changes, success, keep_from, error);
    ok = ok && blk_bitmaps_commit(nodes, b->n, error);
    if (!ok)
        blk_bitmap_changes_take_back(changes);
    b->held = !ok;
    if (b->held)
        hold(b, true);
    blk_bitmaps_change_end(nodes, b->n);
    return ok;
}
