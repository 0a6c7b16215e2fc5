/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/set_change.c: changes of a set: each begins an epoch (S4 of set_internal.h). */
#include "bitmap/set_internal.h"
#include <stdlib.h>

#define SHIFT_MIN 9u /* BMP_GRANULARITY_MIN */

int bmp_by_address(const void *a, const void *b)
{
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;

    return x < y ? -1 : x > y;
}

void bmp_set_change_begin(BmpSet *const *sets, size_t n)
{
    g_autofree BmpSet **sorted = g_new(BmpSet *, n + 1);

    for (size_t i = 0; i < n; i++)
        sorted[i] = sets[i];
    qsort(sorted, n, sizeof(*sorted), bmp_by_address);
    for (size_t i = 0; i < n; i++)
        bmp_set_lock(sorted[i]);
    for (size_t i = 0; i < n; i++) {
        g_assert(!sorted[i]->changing);
        sorted[i]->changing = true;
        bmp_chain_seal(sorted[i], SHIFT_MIN, true);
    }
}

static void change_end(BmpSet *set)
{
    bool active = false;
    unsigned shift = 63;

    for (guint i = 0; i < set->removed->len; i++)
        bmp_bitmap_detach(set->removed->pdata[i]);
    g_ptr_array_set_size(set->removed, 0);
    for (guint i = 0; i < set->bitmaps->len; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];

        if (bitmap->enabled) {
            active = true;
            shift = MIN(shift, bitmap->shift);
        }
    }
    set->shift = active ? shift : BMP_SHIFT_DEFAULT;
    set->changing = false;
    set->touched = false; /* committed or taken back */
    bmp_chain_seal(set, set->shift, active);
}

void bmp_set_change_end(BmpSet *const *sets, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        change_end(sets[i]);
        bmp_set_unlock(sets[i]);
    }
}

static void take_uncut(BmpBitmap *bitmap)
{
    if (!bitmap->cutting)
        return;
    bmp_bits_clear_all(&bitmap->bits);
    bitmap->bits = bitmap->uncut;
    bitmap->uncut = (BmpBits){ 0 };
    bitmap->cutting = false;
}

/* What is marked must be folded in the old geometry first; the second seal begins the new one. */
void bmp_set_resize(BmpSet *set, uint64_t size)
{
    uint64_t old = set->size;

    g_assert(set->changing);
    bmp_chain_seal(set, SHIFT_MIN, true);
    bmp_set_fold_all(set);
    set->size = size;
    for (guint i = 0; i < set->bitmaps->len; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];

        set->touched |= bitmap->persistent;
        take_uncut(bitmap);
        bmp_bits_resize(&bitmap->bits, size);
        if (bitmap->frozen) {
            bmp_bits_resize(&bitmap->shown, size);
            bmp_bits_resize(&bitmap->later, size);
        }
        if (size > old)
            bmp_bitmap_set_bytes(bitmap, old, size - old);
    }
    bmp_chain_seal(set, SHIFT_MIN, true);
}
