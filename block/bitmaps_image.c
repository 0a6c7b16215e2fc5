/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/bitmaps_image.c: nodes whose images keep bitmaps themselves, and have them in a store while
 * they are open for writing: I1 and I2 of bitmap/store/store.h.
 *
 * Order of what is durable:
 *   opening   the store, what is in it taken from the image - the image says "beside" - what the
 *             image has is marked as in use - the first write
 *   closing   the last write - tables and directory in the image - "beside" goes, what the image
 *             has counts - the store goes
 * A bitmap that is added later is in the store first, too; one that is removed leaves the store,
 * then the image. */
#include "block/bitmaps_internal.h"

#include "util/error.h"

const BlkKeptBitmaps *blk_bitmaps_kept(const BlkNode *node)
{
    const BlkFormat *format = blk_builtin_of(node->driver)->format;

    return format ? format->bitmaps : NULL;
}

BlkNode *blk_bitmaps_image_below(const BlkNode *node)
{
    BlkNode *found = NULL;

    for (unsigned i = 0; i < node->n_children && !found; i++) {
        BlkNode *child = (int)i == node->backing ? NULL : blk_node_child_at(node, i);

        if (child)
            found = blk_bitmaps_kept(child) ? child : blk_bitmaps_image_below(child);
    }
    return found;
}

bool blk_bitmaps_has_image(const BlkNode *node)
{
    return node->store && !blk_node_read_only(node) && node->open && blk_bitmaps_kept(node);
}

/* ---- for the set */

static bool load(void *opaque, GArray *records, GPtrArray *problems, GError **error)
{
    BlkNode *node = opaque;

    return blk_bitmaps_kept(node)->load(node->handle, records, problems, error);
}

static bool may_add(void *opaque, const char *name, uint64_t granularity, size_t n, uint64_t names,
                    GError **error)
{
    BlkNode *node = opaque;
    g_autoptr(GError) why = NULL;

    if (!node->open)
        return tm_error_set(error, "Node '%s' is lost: it could not be opened again", node->name);
    if (blk_bitmaps_kept(node)->may_keep(node->handle, name, granularity, blk_node_size(node), n,
                                         names, &why))
        return true;
    return tm_error_set(error, "Can't make bitmap '%s' persistent in '%s': %s", name, node->name,
                        why->message);
}

BmpImage blk_bitmaps_image(BlkNode *node)
{
    return (BmpImage){ .beside = node->open && blk_bitmaps_kept(node)->beside(node->handle),
                       .load = load,
                       .may_add = may_add };
}

/* ---- beginning and end */

bool blk_bitmaps_image_begin(BlkNode *node, GError **error)
{
    return blk_bitmaps_kept(node)->begin(node->handle, bmp_set_store_sound(node->bitmaps), error);
}

bool blk_bitmaps_image_keep(BlkNode *node, int flush_error)
{
    g_autoptr(GArray) records = bmp_set_records(node->bitmaps);
    g_autoptr(GError) error = NULL;
    g_autofree char *reason = NULL;

    if (flush_error < 0) {
        tm_error_set_errno(&error, -flush_error, "Could not flush node '%s'", node->name);
    } else if (blk_bitmaps_kept(node)->store(node->handle, records, &error)) {
        bmp_set_drop_store(node->bitmaps);
        return true;
    }
    reason = g_strdup_printf("the bitmaps could not be stored in the image: %s%s", error->message,
                             bmp_set_store_sound(node->bitmaps)
                                 ? "; they are kept in the store beside it"
                                 : "; they are inconsistent now");
    bmp_set_report(node->bitmaps, &(BmpReport){ .reason = reason });
    return false;
}

/* ---- meanwhile */

static void say_beside(BlkNode *node, bool beside)
{
    g_autoptr(GError) error = NULL;

    if (!blk_bitmaps_kept(node)->set_beside(node->handle, beside, &error))
        bmp_set_report(node->bitmaps, &(BmpReport){ .reason = error->message });
}

bool blk_bitmaps_image_announce(BlkNode *node, GError **error)
{
    return blk_bitmaps_kept(node)->set_beside(node->handle, true, error);
}

void blk_bitmaps_image_follow(BlkNode *node, const GPtrArray *removed)
{
    g_autoptr(GError) error = NULL;

    say_beside(node, bmp_set_store_sound(node->bitmaps));
    if (removed->len && !blk_bitmaps_kept(node)->drop(node->handle, removed, &error))
        bmp_set_report(node->bitmaps, &(BmpReport){ .reason = error->message });
}

void blk_bitmaps_image_tick(BlkNode *node)
{
    if (!bmp_set_store_sound(node->bitmaps) && blk_bitmaps_kept(node)->beside(node->handle))
        say_beside(node, false);
}

bool blk_bitmaps_may_resize(BlkNode *node, uint64_t size, GError **error)
{
    const BlkKeptBitmaps *kept = blk_bitmaps_kept(node);
    BmpBitmap *next;

    if (!kept || !node->open)
        return true;
    for (size_t i = 0; (next = bmp_set_nth(node->bitmaps, i)); i++) {
        g_autoptr(BmpBitmap) bitmap = next;
        g_autoptr(GError) why = NULL;

        if (!bmp_bitmap_persistent(bitmap))
            continue;
        if (!bmp_bitmap_check_consistent(bitmap, error))
            return false;
        if (!kept->may_keep(node->handle, bmp_bitmap_name(bitmap), bmp_bitmap_granularity(bitmap),
                            size, 0, 0, &why))
            return tm_error_set(error,
                                "Bitmap '%s' does not fit into the image after the change: %s",
                                bmp_bitmap_name(bitmap), why->message);
    }
    return true;
}
