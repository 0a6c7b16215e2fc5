/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/bitmap_changes.c: see the header. */
#include "block/bitmap_changes.h"

#include "block/bitmaps.h"
#include "block/disk.h"
#include "block/permissions.h"

/* How to take back one step. */
typedef struct Undo {
    enum { UNDO_ADD, UNDO_REMOVE, UNDO_CHANGE, UNDO_FREEZE } kind;
    BmpBitmap *bitmap; /* a reference */
    BmpBackup *backup; /* UNDO_CHANGE */
} Undo;

struct BlkBitmapChanges {
    GArray *undo;
};

static void undo_clear(void *opaque)
{
    Undo *undo = opaque;

    bmp_backup_free(undo->backup);
    bmp_bitmap_unref(undo->bitmap);
}

BlkBitmapChanges *blk_bitmap_changes_new(void)
{
    BlkBitmapChanges *c = g_new0(BlkBitmapChanges, 1);

    c->undo = g_array_new(FALSE, FALSE, sizeof(Undo));
    g_array_set_clear_func(c->undo, undo_clear);
    return c;
}

void blk_bitmap_changes_free(BlkBitmapChanges *c)
{
    if (!c)
        return;
    g_array_unref(c->undo);
    g_free(c);
}

static void note(BlkBitmapChanges *c, int kind, BmpBitmap *bitmap, BmpBackup *backup)
{
    Undo undo = { kind, bmp_bitmap_ref(bitmap), backup };

    g_array_append_val(c->undo, undo);
}

static uint64_t default_granularity(BlkNode *node)
{
    struct tidemark_info info = { .struct_size = sizeof(info) };

    blk_node_info(node, &info);
    return bmp_default_granularity(info.cluster_size);
}

bool blk_bitmap_changes_add(BlkBitmapChanges *c, BlkNode *node, const char *name,
                            const BmpAddOptions *options, GError **error)
{
    BmpAddOptions o = *options;
    g_autoptr(BmpBitmap) bitmap = NULL;

    if (!o.granularity)
        o.granularity = default_granularity(node);
    if (options->persistent && !blk_bitmaps_may_add(node, error))
        return false;
    if (!blk_node_read_only(node) && !blk_permissions_guard(node, true, error))
        return false;
    blk_disk_remember_read_only(node);
    bitmap = bmp_set_add(blk_node_bitmaps(node), name, &o, error);
    if (!bitmap)
        return false;
    note(c, UNDO_ADD, bitmap, NULL);
    return true;
}

bool blk_bitmap_changes_remove(BlkBitmapChanges *c, BmpBitmap *bitmap, GError **error)
{
    if (!bmp_bitmap_remove(bitmap, error))
        return false;
    note(c, UNDO_REMOVE, bitmap, NULL);
    return true;
}

bool blk_bitmap_changes_apply(BlkBitmapChanges *c, BmpBitmap *bitmap,
                              bool (*fn)(BmpBitmap *bitmap, GError **error), GError **error)
{
    if (!bmp_bitmap_check_usable(bitmap, error))
        return false;
    note(c, UNDO_CHANGE, bitmap, bmp_bitmap_backup(bitmap));
    return fn(bitmap, error);
}

bool blk_bitmap_changes_merge(BlkBitmapChanges *c, BmpBitmap *target, BmpBitmap *source,
                              GError **error)
{
    if (!bmp_bitmap_check_usable(target, error) || !bmp_bitmap_check_usable(source, error))
        return false;
    note(c, UNDO_CHANGE, target, bmp_bitmap_backup(target));
    return bmp_bitmap_merge(target, source, error);
}

bool blk_bitmap_changes_add_copy(BlkBitmapChanges *c, BmpBitmap *bitmap, const BmpCopy *copy,
                                 GError **error)
{
    note(c, UNDO_CHANGE, bitmap, bmp_bitmap_backup(bitmap));
    return bmp_bitmap_add_copy(bitmap, copy, error);
}

bool blk_bitmap_changes_freeze(BlkBitmapChanges *c, BmpBitmap *bitmap, bool to_change,
                               GError **error)
{
    if (!bmp_bitmap_freeze(bitmap, to_change, error))
        return false;
    note(c, UNDO_FREEZE, bitmap, NULL);
    return true;
}

void blk_bitmap_changes_thaw(BlkBitmapChanges *c, BmpBitmap *bitmap)
{
    note(c, UNDO_CHANGE, bitmap, bmp_bitmap_backup(bitmap));
    bmp_bitmap_thaw(bitmap, false);
}

void blk_bitmap_changes_finish(BlkBitmapChanges *c, BmpBitmap *bitmap)
{
    note(c, UNDO_CHANGE, bitmap, bmp_bitmap_backup(bitmap));
    bmp_bitmap_finish(bitmap);
}

static void take_back(Undo *undo)
{
    switch (undo->kind) {
    case UNDO_ADD:
        bmp_bitmap_remove(undo->bitmap, NULL);
        break;
    case UNDO_REMOVE:
        bmp_bitmap_unremove(undo->bitmap);
        break;
    case UNDO_CHANGE:
        bmp_bitmap_restore(undo->bitmap, g_steal_pointer(&undo->backup));
        break;
    case UNDO_FREEZE:
        bmp_bitmap_thaw(undo->bitmap, true);
        break;
    }
}

void blk_bitmap_changes_take_back(BlkBitmapChanges *c)
{
    for (guint i = c->undo->len; i > 0; i--)
        take_back(&g_array_index(c->undo, Undo, i - 1));
    g_array_set_size(c->undo, 0);
}
