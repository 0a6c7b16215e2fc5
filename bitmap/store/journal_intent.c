/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/journal_intent.c: rounds. A round takes what is asked for, initialises the words
 * that it needs, writes the list of intents and syncs; then what was asked for is marked, for all
 * that wait. How it hangs together is in journal_internal.h. */
#include "bitmap/store/journal_internal.h"

#include "util/sync.h"

#include <errno.h>

#define INIT_MAX   (UINT64_C(1) << 20) /* bytes of words initialised by one call */
#define SYNC_TICKS 5u                  /* after which marks are synced that nobody waits for */

static void fail(BmpJournal *map, int err)
{
    int none = 0;

    __atomic_compare_exchange_n(&map->failed, &none, err, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_RELAXED);
}

bool bmp_journal_intend_waits(const BmpJournal *map)
{
    return map->o.durability == BMP_DURABLE_POWER;
}

/* ---- marks */

void bmp_journal_entry(BmpJournal *map, uint32_t r, BmpRegionState state)
{
    __atomic_store_n(&map->table[r],
                     GUINT64_TO_LE(bmp_entry_make(map->o.seed, r, map->o.epoch, state)),
                     __ATOMIC_RELEASE);
}

static void set_words(BmpJournal *map, BmpIntent range)
{
    uint64_t next;

    for (uint64_t at = range.first; at < range.end; at = next) {
        uint32_t bits;
        uint64_t *word = word_of(map, at, range.end, &bits, &next);

        __atomic_store_n(word, GUINT64_TO_LE(bmp_word_set(GUINT64_FROM_LE(*word), bits)),
                         __ATOMIC_RELEASE);
    }
}

void bmp_journal_set(BmpJournal *map, BmpIntent range)
{
    map->touched = map->unsynced = true;
    for (uint64_t at = range.first; at < range.end;) {
        uint32_t r = region_of(map, at);
        uint64_t end = tm_min(range.end, region_end(map, r));
        bool whole = covers_region(map, range, r);

        if (region_get(map, r) == FULL) {
            at = end;
            continue;
        }
        if (whole || region_get(map, r) == NONE) {
            bmp_journal_entry(map, r, whole ? BMP_REGION_FULL : BMP_REGION_CROWDED);
            region_set(map, r, FULL);
            if (!whole)
                __atomic_store_n(&map->no_room, true, __ATOMIC_RELAXED);
        } else {
            set_words(map, (BmpIntent){ at, end });
        }
        at = end;
    }
}

/* Where the open intent ends that has granule @at; @at: there is none. */
static uint64_t opened_to(BmpJournal *map, uint64_t at)
{
    for (guint i = map->intents->len; i-- > 0;) {
        Intent *intent = &g_array_index(map->intents, Intent, i);

        if (intent->state != OPEN || at < intent->range.first || at >= intent->range.end)
            continue;
        intent->used = ++map->marks;
        intent->idle = 0;
        return intent->range.end;
    }
    return at;
}

static bool may_set(BmpJournal *map, BmpIntent range)
{
    for (uint32_t r = region_of(map, range.first); r <= region_of(map, range.end - 1); r++) {
        if (region_get(map, r) == NONE && !covers_region(map, range, r))
            return false;
    }
    for (uint64_t at = range.first, to; bmp_journal_intend_waits(map) && at < range.end; at = to) {
        to = opened_to(map, at);
        if (to == at)
            return false;
    }
    return true;
}

static bool contains(BmpIntent a, BmpIntent b)
{
    return a.first <= b.first && a.end >= b.end;
}

static bool is_asked(const BmpJournal *map, BmpIntent range)
{
    for (guint i = 0; i < map->asked->len; i++) {
        if (contains(g_array_index(map->asked, BmpIntent, i), range))
            return true;
    }
    for (guint i = 0; i < map->intents->len; i++) {
        const Intent *intent = &g_array_index(map->intents, Intent, i);

        if (intent->state == PENDING && contains(intent->asked, range))
            return true;
    }
    return false;
}

bool bmp_journal_put(BmpJournal *map, BmpIntent range)
{
    if (bmp_journal_marked(map, range))
        return true;
    if (may_set(map, range)) {
        bmp_journal_set(map, range);
        return true;
    }
    if (!is_asked(map, range))
        g_array_append_val(map->asked, range);
    return false;
}

/* ---- a round */

/* The intents of this round: those of before that have not left, what is asked for, windows. */
static void compose(BmpJournal *map)
{
    guint n = MIN(map->asked->len, BATCH_MAX), kept = 0;

    for (guint i = 0; i < map->intents->len; i++) {
        Intent *intent = &g_array_index(map->intents, Intent, i);

        if (intent->state == CLOSING)
            continue;
        if (!is_window(intent))
            intent->state = CLOSING;
        g_array_index(map->intents, Intent, kept++) = *intent;
    }
    g_array_set_size(map->intents, kept);
    bmp_windows_choose(map, n);
    for (guint i = 0; i < n; i++) {
        BmpIntent asked = g_array_index(map->asked, BmpIntent, i);
        Intent intent = { .range = asked, .asked = asked, .state = PENDING };

        g_array_append_val(map->intents, intent);
    }
    if (n)
        g_array_remove_range(map->asked, 0, n);
}

static int by_number(gconstpointer a, gconstpointer b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

/* The regions that need words for what is pending; sorted, some of them twice. */
static GArray *wordless(const BmpJournal *map)
{
    GArray *regions = g_array_new(FALSE, FALSE, sizeof(uint32_t));

    for (guint i = 0; i < map->intents->len; i++) {
        const Intent *intent = &g_array_index(map->intents, Intent, i);

        if (intent->state != PENDING)
            continue;
        for (uint32_t r = region_of(map, intent->range.first);
             r <= region_of(map, intent->range.end - 1); r++) {
            if (region_get(map, r) == NONE &&
                (is_window(intent) || !covers_region(map, intent->range, r)))
                g_array_append_val(regions, r);
        }
    }
    g_array_sort(regions, by_number);
    return regions;
}

/* Initialises the words of @n regions that lie one after the other. */
static int init_words(BmpJournal *map, uint32_t r, uint32_t n)
{
    const BmpGeometry *g = &map->o.geometry;
    uint64_t length = g->block * n, chunk = tm_min(length, INIT_MAX);
    g_autofree uint64_t *clean = g_try_malloc(chunk);
    int ret = 0;

    if (!clean)
        return -ENOMEM;
    for (uint64_t i = 0; i < chunk / 8; i++)
        clean[i] = GUINT64_TO_LE(BMP_WORD_CLEAN);
    for (uint64_t done = 0; ret == 0 && done < length; done += chunk)
        ret = tm_write_all(map->o.sys, map->o.fd, clean, tm_min(chunk, length - done),
                           map->o.offset + g->words_offset + g->block * r + done);
    return ret;
}

/* Leaves those in @regions that have words now. */
static void make_words(BmpJournal *map, GArray *regions)
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
        if (init_words(map, first, last - first + 1) < 0)
            continue;
        for (uint32_t r = first; r <= last; r++)
            g_array_index(regions, uint32_t, ready++) = r; /* not beyond those that were read */
    }
    g_array_set_size(regions, ready);
}

/* Under the lock: what the entries of regions say before (NEW) and after the sync. One that became
 * FULL while the lock was let go of stays so: its marks are in no words. */
static void enter(BmpJournal *map, const GArray *regions, unsigned state)
{
    for (guint i = 0; i < regions->len; i++) {
        uint32_t r = g_array_index(regions, uint32_t, i);

        if (region_get(map, r) == FULL)
            continue;
        bmp_journal_entry(map, r, state == NEW ? BMP_REGION_NEW : BMP_REGION_READY);
        region_set(map, r, state);
    }
}

/* Under the lock: a region that could not get its words will be dirty as a whole, which is an
 * intent. */
static void widen(BmpJournal *map)
{
    for (guint i = 0; i < map->intents->len; i++) {
        Intent *intent = &g_array_index(map->intents, Intent, i);
        uint32_t first = region_of(map, intent->range.first);
        uint32_t last = region_of(map, intent->range.end - 1);

        if (intent->state != PENDING || is_window(intent))
            continue;
        if (region_get(map, first) == NONE)
            intent->range.first = region_first(map, first);
        if (region_get(map, last) == NONE)
            intent->range.end = region_end(map, last);
    }
}

/* Under the lock: the list as it is to be written; its length. */
static size_t encode(BmpJournal *map, uint8_t list[BMP_INTENTS_LIST])
{
    g_autofree BmpIntent *intents = g_new(BmpIntent, map->intents->len + 1);

    for (guint i = 0; i < map->intents->len; i++)
        intents[i] = g_array_index(map->intents, Intent, i).range;
    return bmp_intents_encode(list, map->o.seed, map->o.epoch, ++map->number, intents,
                              map->intents->len);
}

static int write_and_sync(BmpJournal *map, const uint8_t *list, size_t length)
{
    int ret = 0;

    if (bmp_journal_intend_waits(map))
        ret = tm_write_all(map->o.sys, map->o.fd, list, length,
                           map->o.offset + map->number % 2 * BMP_INTENTS_LIST);
    return ret == 0 ? tm_fdatasync(map->o.sys, map->o.fd) : ret;
}

/* Under the lock: what was pending is on the medium. */
static void finish(BmpJournal *map, const GArray *fresh)
{
    enter(map, fresh, READY);
    for (guint i = 0; i < map->intents->len; i++) {
        Intent *intent = &g_array_index(map->intents, Intent, i);

        if (intent->state != PENDING)
            continue;
        intent->state = OPEN;
        if (!is_window(intent))
            bmp_journal_set(map, intent->asked);
    }
}

/* Under the lock, which is let go of meanwhile. */
static void lead(BmpJournal *map, bool sync)
{
    uint8_t list[BMP_INTENTS_LIST];
    g_autoptr(GArray) fresh = NULL;
    size_t length;
    int ret = 0;

    map->syncing = map->touched = true;
    compose(map);
    fresh = wordless(map);
    pthread_mutex_unlock(&map->lock);
    make_words(map, fresh);
    pthread_mutex_lock(&map->lock);
    enter(map, fresh, NEW);
    widen(map);
    length = encode(map, list);
    map->unsynced &= !sync;
    pthread_mutex_unlock(&map->lock);
    if (sync)
        ret = write_and_sync(map, list, length);
    pthread_mutex_lock(&map->lock);
    if (ret == 0)
        finish(map, fresh);
    else
        fail(map, -ret);
    map->syncing = false;
    pthread_cond_broadcast(&map->changed);
}

int bmp_journal_intend(BmpJournal *map, uint64_t offset, uint64_t length)
{
    BmpIntent range = bmp_journal_granules(map, offset, length);

    TM_GUARD(&map->lock);
    while (range.first < range.end && !bmp_journal_failed(map) && !bmp_journal_put(map, range)) {
        if (map->syncing)
            pthread_cond_wait(&map->changed, &map->lock);
        else
            lead(map, bmp_journal_intend_waits(map));
    }
    return bmp_journal_failed(map);
}

/* Whether there is something that a round makes durable, or takes off the list. */
static bool unsettled(const BmpJournal *map)
{
    bool found = map->unsynced, listed = bmp_journal_intend_waits(map);

    for (guint i = 0; listed && i < map->intents->len && !found; i++)
        found = !is_window(&g_array_index(map->intents, Intent, i));
    return found;
}

int bmp_journal_tick(BmpJournal *map)
{
    bool stale;

    TM_GUARD(&map->lock);
    while (map->syncing)
        pthread_cond_wait(&map->changed, &map->lock);
    if (bmp_journal_failed(map))
        return bmp_journal_failed(map);
    stale = bmp_windows_tick(map);
    map->waits += unsettled(map);
    /* That a mark could not be written back is told to who syncs, or to nobody. */
    if (stale || map->waits >= SYNC_TICKS) {
        map->waits = 0;
        lead(map, true);
    }
    return bmp_journal_failed(map);
}
