/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/set_query.c: what bitmaps a set has. */
#include "bitmap/set_internal.h"
#include "util/error.h"
#include <string.h>

size_t bmp_set_length(BmpSet *set)
{
    size_t n;

    bmp_set_lock(set);
    n = set->bitmaps->len;
    bmp_set_unlock(set);
    return n;
}

bool bmp_set_busy(BmpSet *set)
{
    bool busy = false;

    bmp_set_lock(set);
    for (guint i = 0; i < set->bitmaps->len; i++)
        busy = busy || bmp_bitmap_busy(set->bitmaps->pdata[i]);
    bmp_set_unlock(set);
    return busy;
}

BmpBitmap *bmp_set_nth(BmpSet *set, size_t n)
{
    BmpBitmap *bitmap = NULL;

    bmp_set_lock(set);
    if (n < set->bitmaps->len)
        bitmap = bmp_bitmap_ref(set->bitmaps->pdata[n]);
    bmp_set_unlock(set);
    return bitmap;
}

BmpBitmap *bmp_set_find(BmpSet *set, const char *name, GError **error)
{
    BmpBitmap *found = NULL;

    bmp_set_lock(set);
    for (guint i = 0; i < set->bitmaps->len && !found; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];

        if (!strcmp(bitmap->name, name))
            found = bmp_bitmap_ref(bitmap);
    }
    bmp_set_unlock(set);
    if (!found)
        tm_error_set(error, "Dirty bitmap '%s' not found", name);
    return found;
}

size_t bmp_set_count_all(BmpSet *set, BmpCounted **out)
{
    size_t n;

    bmp_set_lock(set);
    bmp_chain_seal_marks(set);
    bmp_set_fold_all(set);
    n = set->bitmaps->len;
    *out = g_new0(BmpCounted, n + 1);
    for (size_t i = 0; i < n; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];

        (*out)[i].bitmap = bmp_bitmap_ref(bitmap);
        (*out)[i].count = bmp_bits_count(bmp_bitmap_shown(bitmap)) << bitmap->shift;
    }
    bmp_set_unlock(set);
    return n;
}

void bmp_counted_free(BmpCounted *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        bmp_bitmap_unref(list[i].bitmap);
    g_free(list);
}

uint64_t bmp_default_granularity(uint64_t cluster_size)
{
    return cluster_size ? CLAMP(cluster_size, 4096, 65536) : 65536;
}

size_t bmp_set_memory(BmpSet *set)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    size_t n = sizeof(*set);

    bmp_set_lock(set);
    n += bmp_chain_memory(set, seen) + bmp_tracker_memory(&set->tracker, seen);
    for (guint i = 0; i < set->bitmaps->len; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];

        n += sizeof(*bitmap) + strlen(bitmap->name) + 1 +
             bmp_page_tree_memory(bitmap->bits.root, seen) +
             bmp_page_tree_memory(bitmap->shown.root, seen) +
             bmp_page_tree_memory(bitmap->later.root, seen);
    }
    bmp_set_unlock(set);
    return n;
}
