/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/bitmap.c: one named bitmap: its life, and what it records.
 *
 * The names of errors are QEMU's (block/dirty-bitmap.c and block/monitor/bitmap-qmp-cmds.c, version
 * 7.2): management tools match on them. See set_internal.h for how content and chain fit
 * together. */
#include "bitmap/store/store_internal.h"
#include "util/clock.h"
#include "util/error.h"
#include <stdlib.h>

/* ---- life ----------------------------------------------------------------------------------- */

BmpSet *bmp_set_ref(BmpSet *set)
{
    __atomic_fetch_add(&set->refs, 1, __ATOMIC_RELAXED);
    return set;
}

void bmp_set_unref(BmpSet *set)
{
    if (__atomic_sub_fetch(&set->refs, 1, __ATOMIC_ACQ_REL))
        return;
    bmp_tracker_destroy(&set->tracker);
    bmp_chain_free(set);
    g_ptr_array_unref(set->bitmaps);
    g_ptr_array_unref(set->removed);
    pthread_mutex_destroy(&set->lock);
    g_free(set->refused);
    g_free(set->node_name);
    g_aligned_free(set);
}

BmpBitmap *bmp_bitmap_new(BmpSet *set, const char *name, uint64_t granularity)
{
    BmpBitmap *bitmap = g_new0(BmpBitmap, 1);

    bitmap->refs = 1;
    bitmap->set = bmp_set_ref(set);
    bitmap->name = g_strdup(name);
    bitmap->shift = __builtin_ctzll(granularity);
    bmp_bits_init(&bitmap->bits, set->size, bitmap->shift);
    return bitmap;
}

void bmp_bitmap_drop_frozen(BmpBitmap *bitmap)
{
    bmp_bits_clear_all(&bitmap->shown);
    bmp_bits_clear_all(&bitmap->later);
    bitmap->frozen = false;
}

BmpBitmap *bmp_bitmap_ref(BmpBitmap *bitmap)
{
    __atomic_fetch_add(&bitmap->refs, 1, __ATOMIC_RELAXED);
    return bitmap;
}

void bmp_bitmap_unref(BmpBitmap *bitmap)
{
    if (!bitmap || __atomic_sub_fetch(&bitmap->refs, 1, __ATOMIC_ACQ_REL))
        return;
    bmp_bits_clear_all(&bitmap->bits);
    bmp_bitmap_drop_frozen(bitmap);
    bmp_set_unref(bitmap->set);
    g_free(bitmap->reason);
    g_free(bitmap->name);
    g_free(bitmap);
}

const char *bmp_bitmap_name(const BmpBitmap *bitmap)
{
    return bitmap->name;
}

uint64_t bmp_bitmap_granularity(const BmpBitmap *bitmap)
{
    return UINT64_C(1) << bitmap->shift;
}

bool bmp_bitmap_enabled(const BmpBitmap *bitmap)
{
    return __atomic_load_n(&bitmap->enabled, __ATOMIC_RELAXED);
}

bool bmp_bitmap_persistent(const BmpBitmap *bitmap)
{
    return bitmap->persistent;
}

bool bmp_bitmap_inconsistent(const BmpBitmap *bitmap)
{
    return bitmap->inconsistent;
}

char *bmp_bitmap_reason(BmpBitmap *bitmap)
{
    BmpStore *store;
    char *reason;

    bmp_set_lock(bitmap->set);
    store = bitmap->set->store;
    reason = g_strdup(bitmap->reason);
    if (!reason && bitmap->persistent && store) {
        pthread_mutex_lock(&store->lock);
        reason = g_strdup(store->failure);
        pthread_mutex_unlock(&store->lock);
    }
    bmp_set_unlock(bitmap->set);
    return reason;
}

uint64_t bmp_bitmap_recovered(BmpBitmap *bitmap)
{
    uint64_t recovered;

    bmp_set_lock(bitmap->set);
    recovered = bitmap->recovered;
    bmp_set_unlock(bitmap->set);
    return recovered;
}

bool bmp_bitmap_age(BmpBitmap *bitmap, uint64_t *seconds)
{
    uint64_t began;

    bmp_set_lock(bitmap->set);
    began = bitmap->began;
    bmp_set_unlock(bitmap->set);
    if (began)
        *seconds = (tm_now_ns() - began) / UINT64_C(1000000000);
    return began != 0;
}

void bmp_bitmap_busy_begin(BmpBitmap *bitmap)
{
    __atomic_fetch_add(&bitmap->busy, 1, __ATOMIC_ACQ_REL);
}

void bmp_bitmap_busy_end(BmpBitmap *bitmap)
{
    __atomic_fetch_sub(&bitmap->busy, 1, __ATOMIC_ACQ_REL);
}

bool bmp_bitmap_busy(const BmpBitmap *bitmap)
{
    return __atomic_load_n(&bitmap->busy, __ATOMIC_ACQUIRE) > 0;
}

bool bmp_bitmap_check_not_busy(const BmpBitmap *bitmap, GError **error)
{
    return !bmp_bitmap_busy(bitmap) ||
           tm_error_set(error,
                        "Bitmap '%s' is currently in use by another operation and cannot be used",
                        bitmap->name);
}

bool bmp_bitmap_check_usable(const BmpBitmap *bitmap, GError **error)
{
    return bmp_bitmap_check_not_busy(bitmap, error) && bmp_bitmap_check_consistent(bitmap, error);
}

bool bmp_bitmap_check_consistent(const BmpBitmap *bitmap, GError **error)
{
    return !bitmap->inconsistent ||
           tm_error_set(error,
                        "Bitmap '%s' is inconsistent and cannot be used (%s); try "
                        "block-dirty-bitmap-remove to delete this bitmap from disk",
                        bitmap->name, bitmap->reason ? bitmap->reason : "reason unknown");
}

void bmp_bitmap_set_bytes(BmpBitmap *bitmap, uint64_t offset, uint64_t length)
{
    bmp_bits_set_bytes(&bitmap->bits, offset, length);
    if (bitmap->frozen)
        bmp_bits_set_bytes(&bitmap->later, offset, length);
}

/* ---- recording ------------------------------------------------------------------------------ */

void bmp_bitmap_set_enabled(BmpBitmap *bitmap, bool enabled)
{
    __atomic_store_n(&bitmap->enabled, enabled, __ATOMIC_RELAXED);
}

void bmp_bitmap_move_to_tail(BmpBitmap *bitmap)
{
    BmpDelta *old = bitmap->at;

    bitmap->at = bmp_chain_hold(bitmap->set->tail);
    bmp_chain_release(bitmap->set, old);
}

static void leave_chain(BmpBitmap *bitmap)
{
    bmp_chain_release(bitmap->set, bitmap->at);
    bitmap->at = NULL;
}

void bmp_bitmap_fold(BmpBitmap *bitmap)
{
    if (!bitmap->at || bitmap->at == bitmap->set->tail)
        return;
    bmp_chain_fold(bitmap->set, bitmap->at, &bitmap->bits);
    if (bitmap->frozen)
        bmp_chain_fold(bitmap->set, bitmap->at, &bitmap->later);
    bmp_bitmap_move_to_tail(bitmap);
}

void bmp_bitmap_refresh(BmpBitmap *bitmap)
{
    if (!bitmap->at)
        return;
    bmp_chain_seal_marks(bitmap->set);
    bmp_bitmap_fold(bitmap);
}

void bmp_bitmap_detach(BmpBitmap *bitmap)
{
    leave_chain(bitmap);
    bmp_bitmap_set_enabled(bitmap, false);
    bitmap->attached = false;
}

void bmp_bitmap_start(BmpBitmap *bitmap)
{
    bitmap->at = bmp_chain_hold(bitmap->set->tail);
    bitmap->since = bmp_tracker_state(&bitmap->set->tracker);
    bmp_bitmap_set_enabled(bitmap, true);
}

void bmp_bitmap_stop(BmpBitmap *bitmap)
{
    BmpSet *set = bitmap->set;

    bmp_bitmap_fold(bitmap);
    leave_chain(bitmap);
    bmp_bitmap_set_enabled(bitmap, false);
    __atomic_store_n(&set->disabled_at, bmp_tracker_state(&set->tracker), __ATOMIC_SEQ_CST);
}

static int newest_first(gconstpointer a, gconstpointer b)
{
    const BmpBitmap *x = *(BmpBitmap *const *)a, *y = *(BmpBitmap *const *)b;
    uint64_t i = x->at ? x->at->serial : 0, j = y->at ? y->at->serial : 0;

    return i > j ? -1 : i < j;
}

/* Newest first: what a bitmap leaves behind is merged into its predecessor (S1), so that the next
 * one has one delta to fold, not all that follow. */
void bmp_set_fold_all(BmpSet *set)
{
    g_autofree BmpBitmap **order = g_new(BmpBitmap *, set->bitmaps->len + 1);
    guint n = set->bitmaps->len;

    for (guint i = 0; i < n; i++)
        order[i] = set->bitmaps->pdata[i];
    qsort(order, n, sizeof(*order), newest_first);
    for (guint i = 0; i < n; i++)
        bmp_bitmap_fold(order[i]);
}
