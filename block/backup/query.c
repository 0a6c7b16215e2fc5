/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/backup/query.c: what query-backups shows. */
#include "block/backup/backup_internal.h"

#include "util/json.h"

json_object *blk_backup_disk_info(const BackupDisk *disk)
{
    json_object *info = json_object_new_object(), *contexts = json_object_new_array();
    const char *from = disk->from ? bmp_bitmap_name(disk->from) : NULL;
    static const char *const of_bitmap[] = { "qemu:dirty-bitmap:", "x-tidemark:backup:" };

    json_object_array_add(contexts, json_object_new_string("base:allocation"));
    for (size_t i = 0; from && i < G_N_ELEMENTS(of_bitmap); i++) {
        g_autofree char *name = g_strconcat(of_bitmap[i], from, NULL);

        json_object_array_add(contexts, json_object_new_string(name));
    }
    tm_json_add_string(info, "node", blk_node_name(disk->node));
    if (from)
        tm_json_add_string(info, "from", from);
    if (disk->checkpoint)
        tm_json_add_string(info, "checkpoint", bmp_bitmap_name(disk->checkpoint));
    tm_json_add_string(info, "export", disk->export_name);
    tm_json_add_uint(info, "size", disk->size);
    json_object_object_add(info, "contexts", contexts);
    tm_json_add_uint(info, "dirty", disk->dirty);
    return info;
}

static unsigned sessions(const Backup *b, const BackupDisk *disk)
{
    g_autoptr(BlkExport) x =
        disk->export_id ? blk_exports_find_id(b->backups->exports, disk->export_id) : NULL;

    return x ? blk_export_sessions(x) : 0;
}

static json_object *disk_status(const Backup *b, const BackupDisk *disk)
{
    json_object *info = blk_backup_disk_info(disk);
    BlkCbwStats stats = { 0 };

    if (disk->filter)
        blk_cbw_stats(disk->filter, &stats);
    tm_json_add_uint(info, "sessions", sessions(b, disk));
    tm_json_add_uint(info, "copied-before-writes", stats.before_writes);
    return info;
}

static json_object *describe(const Backup *b)
{
    json_object *info = json_object_new_object(), *disks = json_object_new_array();
    json_object *scratch = json_object_new_object();

    tm_json_add_string(info, "id", b->id);
    tm_json_add_uint(info, "instant", b->instant);
    tm_json_add_uint(info, "age", (g_get_monotonic_time() - b->began_at) / G_USEC_PER_SEC);
    if (b->checkpoint)
        tm_json_add_string(info, "checkpoint", b->checkpoint);
    tm_json_add_uint(scratch, "used", blk_scratch_budget_used(b->budget));
    if (b->max_size)
        tm_json_add_uint(scratch, "max-size", b->max_size);
    json_object_object_add(info, "scratch", scratch);
    tm_json_add_uint(info, "timeout", b->timeout);
    if (b->aborted)
        tm_json_add_string(info, "aborted", b->aborted);
    for (size_t i = 0; i < b->n; i++)
        json_object_array_add(disks, disk_status(b, &b->disks[i]));
    json_object_object_add(info, "disks", disks);
    return info;
}

json_object *blk_backups_query(BlkBackups *backups)
{
    json_object *all = json_object_new_array();

    for (guint i = 0; i < backups->list->len; i++)
        json_object_array_add(all, describe(backups->list->pdata[i]));
    return all;
}
