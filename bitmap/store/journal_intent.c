/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/journal_intent.c: rounds. A round takes what is asked for, initialises the words
 * that it needs, writes the list of intents and syncs; then what was asked for is marked, for all
 * that wait. How it hangs together is in journal_internal.h. */
#include "bitmap/store/journal_internal.h"

#include "util/sync.h"
#include "util/trace.h"

#include <errno.h>

#define INIT_MAX   (UINT64_C(1) << 20) /* bytes of words initialised by one call */
#define SYNC_TICKS 5u                  /* after which marks are synced that nobody waits for */

static void fail(BmpJournal *journal, int err)
{
    int none = 0;

    __atomic_compare_exchange_n(&journal->failed, &none, err, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_RELAXED);
}

bool bmp_journal_intend_waits(const BmpJournal *journal)
{
    return journal->o.durability == BMP_DURABLE_POWER;
}

/* ---- marks */

/* The mapped bytes have changed. */
static void note(BmpJournal *journal, const void *at, uint64_t length)
{
    if (journal->o.mirror)
        bmp_mirror_note(journal->o.mirror, journal->o.fd,
                        journal->o.offset +
                            (uint64_t)((const char *)at - (char *)journal->mapping.address),
                        length);
}

void bmp_journal_entry(BmpJournal *journal, uint32_t r, BmpRegionState state)
{
    __atomic_store_n(&journal->table[r],
                     GUINT64_TO_LE(bmp_entry_make(journal->o.seed, r, journal->o.epoch, state)),
                     __ATOMIC_RELEASE);
    note(journal, &journal->table[r], sizeof(journal->table[r]));
}

static void set_words(BmpJournal *journal, BmpIntent range)
{
    uint64_t next;

    for (uint64_t at = range.first; at < range.end; at = next) {
        uint32_t bits;
        uint64_t *word = word_of(journal, at, range.end, &bits, &next);

        __atomic_store_n(word, GUINT64_TO_LE(bmp_word_set(GUINT64_FROM_LE(*word), bits)),
                         __ATOMIC_RELEASE);
        note(journal, word, sizeof(*word));
    }
}

void bmp_journal_set(BmpJournal *journal, BmpIntent range)
{
    journal->touched = journal->unsynced = true;
    for (uint64_t at = range.first; at < range.end;) {
        uint32_t r = region_of(journal, at);
        uint64_t end = tm_min(range.end, region_end(journal, r));
        bool whole = covers_region(journal, range, r);

        if (region_get(journal, r) == FULL) {
            at = end;
            continue;
        }
        if (whole || region_get(journal, r) == NONE) {
            bmp_journal_entry(journal, r, whole ? BMP_REGION_FULL : BMP_REGION_CROWDED);
            region_set(journal, r, FULL);
            if (!whole)
                __atomic_store_n(&journal->no_room, true, __ATOMIC_RELAXED);
        } else {
            set_words(journal, (BmpIntent){ at, end });
        }
        at = end;
    }
}

/* Where the open intent ends that has granule @at; @at: there is none. */
static uint64_t opened_to(BmpJournal *journal, uint64_t at)
{
    for (guint i = journal->intents->len; i-- > 0;) {
        Intent *intent = &g_array_index(journal->intents, Intent, i);

        if (intent->state != OPEN || at < intent->range.first || at >= intent->range.end)
            continue;
        intent->used = ++journal->marks;
        intent->idle = 0;
        return intent->range.end;
    }
    return at;
}

static bool may_set(BmpJournal *journal, BmpIntent range)
{
    for (uint32_t r = region_of(journal, range.first); r <= region_of(journal, range.end - 1);
         r++) {
        if (region_get(journal, r) == NONE && !covers_region(journal, range, r))
            return false;
    }
    for (uint64_t at = range.first, to; bmp_journal_intend_waits(journal) && at < range.end;
         at = to) {
        to = opened_to(journal, at);
        if (to == at)
            return false;
    }
    return true;
}

static bool contains(BmpIntent a, BmpIntent b)
{
    return a.first <= b.first && a.end >= b.end;
}

static bool is_asked(const BmpJournal *journal, BmpIntent range)
{
    for (guint i = 0; i < journal->asked->len; i++) {
        if (contains(g_array_index(journal->asked, BmpIntent, i), range))
            return true;
    }
    for (guint i = 0; i < journal->intents->len; i++) {
        const Intent *intent = &g_array_index(journal->intents, Intent, i);

        if (intent->state == PENDING && contains(intent->asked, range))
            return true;
    }
    return false;
}

bool bmp_journal_put(BmpJournal *journal, BmpIntent range)
{
    if (bmp_journal_marked(journal, range))
        return true;
    if (may_set(journal, range)) {
        bmp_journal_set(journal, range);
        return true;
    }
    if (!is_asked(journal, range))
        g_array_append_val(journal->asked, range);
    return false;
}

bool bmp_journal_mark(BmpJournal *journal, uint64_t offset, uint64_t length)
{
    BmpIntent range = bmp_journal_granules(journal, offset, length);

    if (range.first == range.end || __atomic_load_n(&journal->given_up, __ATOMIC_ACQUIRE))
        return true;
    if (!bmp_journal_marked(journal, range)) {
        TM_GUARD(&journal->lock);

        if (!bmp_journal_put(journal, range))
            return false;
    }
    return !tm_mapping_broken(&journal->mapping); /* else the marks went nowhere */
}

/* ---- a round */

/* The intents of this round: those of before that have not left, what is asked for, windows. */
static void compose(BmpJournal *journal)
{
    guint n = MIN(journal->asked->len, BATCH_MAX), kept = 0;

    for (guint i = 0; i < journal->intents->len; i++) {
        Intent *intent = &g_array_index(journal->intents, Intent, i);

        if (intent->state == CLOSING)
            continue;
        if (!is_window(intent))
            intent->state = CLOSING;
        g_array_index(journal->intents, Intent, kept++) = *intent;
    }
    g_array_set_size(journal->intents, kept);
    bmp_windows_choose(journal, n);
    for (guint i = 0; i < n; i++) {
        BmpIntent asked = g_array_index(journal->asked, BmpIntent, i);
        Intent intent = { .range = asked, .asked = asked, .state = PENDING };

        g_array_append_val(journal->intents, intent);
    }
    if (n)
        g_array_remove_range(journal->asked, 0, n);
}

static int by_number(gconstpointer a, gconstpointer b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

/* The regions that need words for what is pending; sorted, some of them twice. */
static GArray *wordless(const BmpJournal *journal)
{
    GArray *regions = g_array_new(FALSE, FALSE, sizeof(uint32_t));

    for (guint i = 0; i < journal->intents->len; i++) {
        const Intent *intent = &g_array_index(journal->intents, Intent, i);

        if (intent->state != PENDING)
            continue;
        for (uint32_t r = region_of(journal, intent->range.first);
             r <= region_of(journal, intent->range.end - 1); r++) {
            if (region_get(journal, r) == NONE &&
                (is_window(intent) || !covers_region(journal, intent->range, r)))
                g_array_append_val(regions, r);
        }
    }
    g_array_sort(regions, by_number);
    return regions;
}

/* Initialises the words of @n regions that lie one after the other. */
static int init_words(BmpJournal *journal, uint32_t r, uint32_t n)
{
    const BmpGeometry *g = &journal->o.geometry;
    uint64_t length = g->block * n, chunk = tm_min(length, INIT_MAX);
    g_autofree uint64_t *clean = g_try_malloc(chunk);
    int ret = 0;

    if (!clean)
        return -ENOMEM;
    for (uint64_t i = 0; i < chunk / 8; i++)
        clean[i] = GUINT64_TO_LE(BMP_WORD_CLEAN);
    for (uint64_t done = 0; ret == 0 && done < length; done += chunk)
        ret = bmp_file_write(journal->o.sys, journal->o.mirror, journal->o.fd, clean,
                             tm_min(chunk, length - done),
                             journal->o.offset + g->words_offset + g->block * r + done);
    return ret;
}

/* Leaves those in @regions that have words now. */
static void make_words(BmpJournal *journal, GArray *regions)
{
    guint ready = 0;

    for (guint i = 0, end; i < regions->len; i = end) {
        uint32_t first = g_array_index(regions, uint32_t, i), last = first;

        for (end = i + 1; end < regions->len; end++) {
            uint32_t r = g_array_index(regions, uint32_t, end);

            if (r > last + 1)
                break;
            last = r;
        }
        if (init_words(journal, first, last - first + 1) < 0)
            continue;
        for (uint32_t r = first; r <= last; r++)
            g_array_index(regions, uint32_t, ready++) = r; /* not beyond those that were read */
    }
    g_array_set_size(regions, ready);
}

/* Under the lock: what the entries of regions say before (NEW) and after the sync. One that became
 * FULL while the lock was let go of stays so: its marks are in no words. */
static void enter(BmpJournal *journal, const GArray *regions, unsigned state)
{
    for (guint i = 0; i < regions->len; i++) {
        uint32_t r = g_array_index(regions, uint32_t, i);

        if (region_get(journal, r) == FULL)
            continue;
        bmp_journal_entry(journal, r, state == NEW ? BMP_REGION_NEW : BMP_REGION_READY);
        region_set(journal, r, state);
    }
}

/* Under the lock: a region that could not get its words will be dirty as a whole, which is an
 * intent. */
static void widen(BmpJournal *journal)
{
    for (guint i = 0; i < journal->intents->len; i++) {
        Intent *intent = &g_array_index(journal->intents, Intent, i);
        uint32_t first = region_of(journal, intent->range.first);
        uint32_t last = region_of(journal, intent->range.end - 1);

        if (intent->state != PENDING || is_window(intent))
            continue;
        if (region_get(journal, first) == NONE)
            intent->range.first = region_first(journal, first);
        if (region_get(journal, last) == NONE)
            intent->range.end = region_end(journal, last);
    }
}

/* Under the lock: the list as it is to be written; its length. */
static size_t encode(BmpJournal *journal, uint8_t list[BMP_INTENTS_LIST])
{
    g_autofree BmpIntent *intents = g_new(BmpIntent, journal->intents->len + 1);

    for (guint i = 0; i < journal->intents->len; i++)
        intents[i] = g_array_index(journal->intents, Intent, i).range;
    return bmp_intents_encode(list, journal->o.seed, journal->o.epoch, ++journal->number, intents,
                              journal->intents->len);
}

unsigned bmp_journal_intents(BmpJournal *journal)
{
    TM_GUARD(&journal->lock);

    return journal->intents->len;
}

static int write_and_sync(BmpJournal *journal, const uint8_t *list, size_t length)
{
    uint64_t began = tm_now_ns();
    int ret = 0;

    TM_TRACE(journal_sync_begin, journal->o.fd);
    if (bmp_journal_intend_waits(journal))
        ret = bmp_file_write(journal->o.sys, journal->o.mirror, journal->o.fd, list, length,
                             journal->o.offset + journal->number % 2 * BMP_INTENTS_LIST);
    ret = ret == 0 ? bmp_file_sync(journal->o.sys, journal->o.mirror, journal->o.fd) : ret;
    TM_TRACE(journal_sync_end, journal->o.fd, -ret);
    if (journal->o.counts)
        bmp_store_count_sync(journal->o.counts, began, ret);
    return ret;
}

/* Under the lock: what was pending is on the medium. */
static void finish(BmpJournal *journal, const GArray *fresh)
{
    enter(journal, fresh, READY);
    for (guint i = 0; i < journal->intents->len; i++) {
        Intent *intent = &g_array_index(journal->intents, Intent, i);

        if (intent->state != PENDING)
            continue;
        intent->state = OPEN;
        if (journal->o.counts)
            __atomic_add_fetch(&journal->o.counts->intents, 1, __ATOMIC_RELAXED);
        if (!is_window(intent))
            bmp_journal_set(journal, intent->asked);
    }
}

/* Under the lock, which is let go of meanwhile. */
static void lead(BmpJournal *journal, bool sync)
{
    uint8_t list[BMP_INTENTS_LIST];
    g_autoptr(GArray) fresh = NULL;
    size_t length;
    int ret = 0;

    journal->syncing = journal->touched = true;
    compose(journal);
    fresh = wordless(journal);
    pthread_mutex_unlock(&journal->lock);
    make_words(journal, fresh);
    pthread_mutex_lock(&journal->lock);
    enter(journal, fresh, NEW);
    widen(journal);
    length = encode(journal, list);
    journal->unsynced &= !sync;
    pthread_mutex_unlock(&journal->lock);
    if (sync)
        ret = write_and_sync(journal, list, length);
    pthread_mutex_lock(&journal->lock);
    if (ret == 0)
        finish(journal, fresh);
    else
        fail(journal, -ret);
    journal->syncing = false;
    pthread_cond_broadcast(&journal->changed);
}

int bmp_journal_intend(BmpJournal *journal, uint64_t offset, uint64_t length)
{
    BmpIntent range = bmp_journal_granules(journal, offset, length);

    TM_GUARD(&journal->lock);
    while (range.first < range.end && !bmp_journal_failed(journal) &&
           !bmp_journal_put(journal, range)) {
        if (journal->syncing)
            pthread_cond_wait(&journal->changed, &journal->lock);
        else
            lead(journal, bmp_journal_intend_waits(journal));
    }
    return bmp_journal_failed(journal);
}

/* Whether there is something that a round makes durable, or takes off the list. */
static bool unsettled(const BmpJournal *journal)
{
    bool found = journal->unsynced, listed = bmp_journal_intend_waits(journal);

    for (guint i = 0; listed && i < journal->intents->len && !found; i++)
        found = !is_window(&g_array_index(journal->intents, Intent, i));
    return found;
}

void bmp_journal_unsettle(BmpJournal *journal)
{
    TM_GUARD(&journal->lock);

    journal->unsynced = true;
    journal->waits = SYNC_TICKS;
}

bool bmp_journal_idle(BmpJournal *journal)
{
    TM_GUARD(&journal->lock);

    return !journal->unsynced && !journal->intents->len && !bmp_journal_failed(journal);
}

int bmp_journal_tick(BmpJournal *journal)
{
    bool stale;

    TM_GUARD(&journal->lock);
    while (journal->syncing)
        pthread_cond_wait(&journal->changed, &journal->lock);
    if (bmp_journal_failed(journal))
        return bmp_journal_failed(journal);
    stale = bmp_windows_tick(journal);
    journal->waits += unsettled(journal);
    /* That a mark could not be written back is reported to whoever syncs, or to nobody. */
    if (stale || journal->waits >= SYNC_TICKS) {
        journal->waits = 0;
        lead(journal, true);
    }
    return bmp_journal_failed(journal);
}
