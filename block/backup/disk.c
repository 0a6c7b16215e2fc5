/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/backup/disk.c: what a backup makes for each of its disks: scratch, filter, the disk at the
 * instant, its export. */
#include "block/backup/backup_internal.h"

#include "block/node_internal.h"
#include "util/error.h"
#include "util/json.h"

void blk_backup_disk_clear(BackupDisk *disk)
{
    bmp_bitmap_unref(disk->from);
    bmp_bitmap_unref(disk->checkpoint);
    blk_node_unref(disk->node);
    g_free(disk->export_id);
    g_free(disk->export_name);
}

/* A worker with requests in flight: it notifies the main thread, which does the rest. */
static void failed(void *opaque, int error, bool on_source)
{
    Backup *b = opaque;

    if (b->stop)
        return;
    __atomic_store_n(&b->error_on_disk, on_source, __ATOMIC_RELAXED);
    __atomic_store_n(&b->error, error, __ATOMIC_RELEASE);
    g_source_set_ready_time(b->failing, 0);
}

static BlkNode *open_scratch(Backup *b, const BackupDisk *disk, const char *directory,
                             GError **error)
{
    json_object *options = json_object_new_object();
    BlkNode *scratch;

    tm_json_add_string(options, "driver", "scratch");
    tm_json_add_string(options, "directory", directory);
    tm_json_add_uint(options, "size", disk->size);
    tm_json_add_string(options, "discard", "unmap");
    scratch = blk_graph_open_child(blk_node_graph(disk->node), options, error);
    json_object_put(options);
    if (scratch)
        blk_scratch_share(scratch, b->budget);
    return scratch;
}

static BlkNode *open_snapshot(const BackupDisk *disk, GError **error)
{
    json_object *options = json_object_new_object();
    BlkNode *snapshot;

    tm_json_add_string(options, "driver", "snapshot-access");
    tm_json_add_string(options, "file", blk_node_name(disk->filter));
    tm_json_add_string(options, "discard", "unmap");
    snapshot = blk_graph_open_child(blk_node_graph(disk->node), options, error);
    json_object_put(options);
    return snapshot;
}

bool blk_backup_disk_open(Backup *b, BackupDisk *disk, const char *directory, GError **error)
{
    g_autoptr(BlkNode) scratch = open_scratch(b, disk, directory, error);
    BlkCbwOptions options = { .source = disk->node,
                              .target = scratch,
                              .on_error =
                                  b->stop ? BLK_CBW_BREAK_GUEST_WRITE : BLK_CBW_BREAK_SNAPSHOT,
                              .failed = failed,
                              .opaque = b };

    if (!scratch)
        return false;
    disk->filter = blk_cbw_new(blk_node_graph(disk->node), &options, error);
    return disk->filter != NULL;
}

bool blk_backup_disk_export(Backup *b, BackupDisk *disk, const BlkBackupBegin *o, GError **error)
{
    g_autoptr(BlkNode) snapshot = open_snapshot(disk, error);
    const char *node = blk_node_name(disk->node);
    g_autofree char *id = g_strdup_printf("%s.%s", b->id, node);
    BlkBitmapName from = { node, disk->from ? bmp_bitmap_name(disk->from) : NULL };
    BlkExportOptions options = {
        .id = g_strdelimit(id, "#", '_'),
        .type = "nbd",
        .node_name = snapshot ? blk_node_name(snapshot) : NULL,
        .name = disk->export_name,
        .bitmaps = &from,
        .n_bitmaps = disk->from != NULL,
        .frozen = true,
        .release = true,
        .servers = o->servers,
        .n_servers = o->n_servers,
        .allow = { [BLK_LIST] = o->allow_list, [BLK_OPEN] = o->allow_open },
    };

    if (!snapshot || !blk_exports_add(b->backups->exports, &options, error))
        return false;
    disk->export_id = g_steal_pointer(&id);
    return true;
}
