/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/set.c: the bitmaps of one disk: their life, and marking, with the store that they have. */
#include "bitmap/store/store_internal.h"
#include "util/trace.h"

/* ---- life ------------------------------------------------------------------------------------ */

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
    set->shift = BMP_SHIFT_DEFAULT;
    bmp_tracker_init(&set->tracker, size, set->shift);
    set->bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)bmp_bitmap_unref);
    set->removed = g_ptr_array_new_with_free_func((GDestroyNotify)bmp_bitmap_unref);
    bmp_chain_seal(set, set->shift, false);
    return set;
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

/* ---- marking --------------------------------------------------------------------------------- */

/* A mark that takes an intent in the live journal. */
static bool intend(BmpSet *set, BmpJournal *journal, uint64_t offset, uint64_t length,
                   bool may_wait)
{
    int ret;

    if (!may_wait && bmp_journal_intend_waits(journal))
        return false;
    TM_TRACE(intent_begin, set->store->path, offset, length);
    ret = bmp_journal_intend(journal, offset, length);
    TM_TRACE(intent_end, set->store->path, offset, length, -ret);
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
            bmp_bitmap_set_bytes(bitmap, offset, length);
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

/* ---- a shorter disk -------------------------------------------------------------------------- */

void bmp_set_cut_begin(BmpSet *set, uint64_t size)
{
    uint64_t length = set->size - size, epoch;

    bmp_set_lock(set);
    bmp_chain_seal_marks(set);
    bmp_set_fold_all(set);
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
