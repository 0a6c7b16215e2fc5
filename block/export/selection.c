/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/export/selection.c: the bitmaps that an export offers: found, checked, and busy while they
 * are offered. */
#include "block/export/export_internal.h"

#include "block/parents.h"
#include "util/error.h"
#include "util/sync.h"

static BlkSelection *selection_new(size_t max)
{
    BlkSelection *selection = g_new0(BlkSelection, 1);

    selection->bitmaps = g_new0(BmpBitmap *, max);
    selection->refs = 1;
    return selection;
}

/* Takes the reference. */
static void selection_add(BlkSelection *selection, BmpBitmap *bitmap)
{
    bmp_bitmap_busy_begin(bitmap);
    selection->bitmaps[selection->count++] = bitmap;
}

BlkSelection *blk_selection_ref(BlkSelection *selection)
{
    tm_ref(&selection->refs);
    return selection;
}

void blk_selection_unref(BlkSelection *selection)
{
    if (!selection || !tm_unref(&selection->refs))
        return;
    for (size_t i = 0; i < selection->count; i++) {
        bmp_bitmap_busy_end(selection->bitmaps[i]);
        bmp_bitmap_unref(selection->bitmaps[i]);
    }
    g_free(selection->bitmaps);
    g_free(selection);
}

/* The bitmap in @node or, as in QEMU, in one whose content it shows: below a filter, or the backing
 * of an image. *of: where it was found. */
static BmpBitmap *find_along(BlkNode *node, const char *name, BlkNode **of)
{
    for (; node; node = blk_node_shown_below(node)) {
        BmpBitmap *bitmap = bmp_set_find(blk_node_bitmaps(node), name, NULL);

        *of = node;
        if (bitmap)
            return bitmap;
    }
    return NULL;
}

/* One that records while the export can't write belongs to somebody else's writes, unless its node
 * was named. */
static BmpBitmap *find_bitmap(BlkNode *node, bool writable, const BlkBitmapName *name,
                              GError **error)
{
    g_autoptr(BmpBitmap) bitmap = NULL;

    if (name->node)
        return blk_graph_find_bitmap(blk_node_graph(node), name->node, name->name, error);
    bitmap = find_along(node, name->name, &node);
    if (!bitmap)
        tm_error_set(error, "Bitmap '%s' is not found", name->name);
    else if (!writable && !blk_node_read_only(node) && bmp_bitmap_enabled(bitmap))
        tm_error_set(error, "Enabled bitmap '%s' incompatible with readonly export", name->name);
    else
        return g_steal_pointer(&bitmap);
    return NULL;
}

BlkSelection *blk_selection_make(BlkNode *node, bool writable, const BlkBitmapName *names, size_t n,
                                 bool exclusive, GError **error)
{
    BlkSelection *selection = selection_new(n);

    for (size_t i = 0; i < n; i++) {
        g_autoptr(BmpBitmap) bitmap = find_bitmap(node, writable, &names[i], error);

        if (!bitmap)
            goto fail;
        if (exclusive && !bmp_bitmap_check_usable(bitmap, error))
            goto fail;
        if (bmp_bitmap_inconsistent(bitmap)) {
            tm_error_set(error, "Bitmap '%s' is inconsistent and cannot be used", names[i].name);
            goto fail;
        }
        for (size_t k = 0; k < selection->count; k++) {
            if (g_str_equal(bmp_bitmap_name(selection->bitmaps[k]), names[i].name)) {
                tm_error_set(error, "Bitmap '%s' is named twice", names[i].name);
                goto fail;
            }
        }
        selection_add(selection, g_steal_pointer(&bitmap));
    }
    return selection;
fail:
    blk_selection_unref(selection);
    return NULL;
}
