/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/set.c: the bitmaps of one disk as a whole: marking, changes, resize, look-up. */
#include "bitmap/store/store_internal.h"
#include "util/error.h"
#include "util/range.h"
#include <stdlib.h>
#include <string.h>

#define SHIFT_MIN     9u /* BMP_GRANULARITY_MIN */
#define SHIFT_DEFAULT 16u

/* ---- life ----------------------------------------------------------------------------------- */

BmpSet *bmp_set_new(const char *node_name, uint64_t size)
{
    BmpSet *set = g_aligned_alloc0(1, sizeof(BmpSet), _Alignof(BmpSet));
    pthread_mutexattr_t attr;

    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&set->lock, &attr);
    pthread_mutexattr_destroy(&attr);
    set->refs = 1;
    set->node_name = g_strdup(node_name);
    set->size = size;
    set->shift = SHIFT_DEFAULT;
    bmp_tracker_init(&set->tracker, size, set->shift);
    set->bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)bmp_bitmap_unref);
    set->removed = g_ptr_array_new_with_free_func((GDestroyNotify)bmp_bitmap_unref);
    bmp_chain_seal(set, set->shift, false);
    return set;
}

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

void bmp_set_free(BmpSet *set)
{
    if (!set)
        return;
    bmp_set_lock(set);
    for (guint i = 0; i < set->bitmaps->len; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];

        /* Who still holds it must not take it for clean. */
        if (bmp_bitmap_busy(bitmap))
            bmp_bitmap_refresh(bitmap);
        bmp_bitmap_detach(bitmap);
        if (!bmp_bitmap_busy(bitmap))
            bmp_bits_clear_all(&bitmap->bits);
    }
    g_ptr_array_set_size(set->bitmaps, 0);
    bmp_store_free(set->store); /* whoever still holds a bitmap does not keep the file */
    set->store = NULL;
    bmp_set_unlock(set);
    bmp_set_unref(set);
}

void bmp_set_lock(BmpSet *set)
{
    pthread_mutex_lock(&set->lock);
}

void bmp_set_unlock(BmpSet *set)
{
    pthread_mutex_unlock(&set->lock);
}

/* ---- marking -------------------------------------------------------------------------------- */

/* A mark that takes an intent in the live journal. */
static bool intend(BmpSet *set, BmpJournal *journal, uint64_t offset, uint64_t length,
                   bool may_wait)
{
    int ret;

    if (!may_wait && bmp_journal_intend_waits(journal))
        return false;
    ret = bmp_journal_intend(journal, offset, length);
    if (ret < 0) /* from here on the data is written without; the store must not be believed */
        bmp_store_fail(set->store, -ret, "it could not be synced");
    else if (bmp_journal_full(journal))
        bmp_store_report_full(set->store);
    return true;
}

static bool mark(BmpSet *set, uint64_t offset, uint64_t length, bool may_wait, uint64_t *epoch)
{
    uint64_t state = bmp_tracker_state(&set->tracker);
    BmpJournal *journal;

    *epoch = state;
    if (!(state & BMP_STATE_ACTIVE))
        return true;
    journal = __atomic_load_n(&set->journal, __ATOMIC_ACQUIRE);
    for (;;) {
        uint32_t *section = bmp_tracker_enter(&set->tracker);
        bool marked = !journal || bmp_journal_mark(journal, offset, length);

        if (marked)
            *epoch = bmp_tracker_mark(&set->tracker, offset, length);
        bmp_tracker_leave(section);
        if (marked)
            return true;
        if (!intend(set, journal, offset, length, may_wait))
            return false;
    }
}

bool bmp_set_mark_try_begin(BmpSet *set, uint64_t offset, uint64_t length, uint64_t *epoch)
{
    return mark(set, offset, length, false, epoch);
}

uint64_t bmp_set_mark_begin(BmpSet *set, uint64_t offset, uint64_t length)
{
    uint64_t epoch;

    mark(set, offset, length, true, &epoch);
    return epoch;
}

/* A bitmap that was enabled after the write began and disabled before it ended is in no epoch that
 * the write has marked: the mark goes to the bitmap itself. */
static void mark_disabled(BmpSet *set, uint64_t offset, uint64_t length, uint64_t epoch)
{
    bmp_set_lock(set);
    for (guint i = 0; i < set->bitmaps->len; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];

        if (!bitmap->enabled && bitmap->since > epoch)
            bmp_bits_set_bytes(&bitmap->bits, offset, length);
    }
    bmp_set_unlock(set);
}

void bmp_set_mark_end(BmpSet *set, uint64_t offset, uint64_t length, uint64_t epoch)
{
    uint64_t state = bmp_tracker_state(&set->tracker);

    if (state == epoch)
        return;
    if (state & BMP_STATE_ACTIVE) {
        uint32_t *section = bmp_tracker_enter(&set->tracker);

        bmp_tracker_mark(&set->tracker, offset, length);
        bmp_tracker_leave(section);
    }
    if (__atomic_load_n(&set->disabled_at, __ATOMIC_SEQ_CST) > epoch)
        mark_disabled(set, offset, length, epoch);
}

/* ---- changes -------------------------------------------------------------------------------- */

static int by_address(gconstpointer a, gconstpointer b)
{
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;

    return x < y ? -1 : x > y;
}

void bmp_set_change_begin(BmpSet *const *sets, size_t n)
{
    g_autofree BmpSet **sorted = g_new(BmpSet *, n + 1);

    for (size_t i = 0; i < n; i++)
        sorted[i] = sets[i];
    qsort(sorted, n, sizeof(*sorted), by_address);
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
    set->shift = active ? shift : SHIFT_DEFAULT;
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

void bmp_set_cut_begin(BmpSet *set, uint64_t size)
{
    uint64_t length = set->size - size, epoch;

    bmp_set_lock(set);
    bmp_chain_seal_marks(set);
    bmp_chain_fold_all(set);
    for (guint i = 0; i < set->bitmaps->len; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];

        bitmap->cutting = true;
        bmp_bits_clone(&bitmap->uncut, &bitmap->bits);
    }
    bmp_set_unlock(set);
    epoch = bmp_set_mark_begin(set, size, length);
    bmp_set_mark_end(set, size, length, epoch);
}

void bmp_set_cut_failed(BmpSet *set)
{
    bmp_set_lock(set);
    for (guint i = 0; i < set->bitmaps->len; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];

        if (bitmap->cutting)
            bmp_bits_clear_all(&bitmap->uncut);
        bitmap->cutting = false;
    }
    bmp_set_unlock(set);
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
    bmp_chain_fold_all(set);
    set->size = size;
    for (guint i = 0; i < set->bitmaps->len; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];

        set->touched |= bitmap->persistent;
        take_uncut(bitmap);
        bmp_bits_resize(&bitmap->bits, size);
        if (size > old)
            bmp_bits_set_bytes(&bitmap->bits, old, size - old);
    }
    bmp_chain_seal(set, SHIFT_MIN, true);
}

/* ---- asking --------------------------------------------------------------------------------- */

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
    bmp_chain_fold_all(set);
    n = set->bitmaps->len;
    *out = g_new0(BmpCounted, n + 1);
    for (size_t i = 0; i < n; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];

        (*out)[i].bitmap = bmp_bitmap_ref(bitmap);
        (*out)[i].count = bmp_bits_count(&bitmap->bits) << bitmap->bits.shift;
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
             bmp_page_tree_memory(bitmap->bits.root, seen);
    }
    bmp_set_unlock(set);
    return n;
}
