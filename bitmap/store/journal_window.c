/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/journal_window.c: what is opened ahead of those who write, so that not every first
 * touch waits for a sync, and how much of it.
 *
 * A window is an intent that is larger than what was asked for. Two things ask for one: going on
 * where a window ends makes one that is twice as large, and coming to the same unit of the disk
 * again opens the unit. Who writes all over the disk gets none: his next place is likely any, and
 * each of them would count as dirty after a loss of power.
 *
 * The bound: all windows of a list together have at most @budget granules that are not marked, when
 * the list is made; later there are fewer. Where there is no room for a new one, the window that
 * was used longest ago is closed, which makes room two rounds later. */
#include "bitmap/store/journal_internal.h"

#define IDLE_TICKS 3u
#define UNIT_MIN   UINT64_C(4) /* granules: less is not worth it */
#define UNITS      64u         /* of the budget */

uint64_t bmp_journal_bound(uint64_t size)
{
    return tm_min(size / BMP_JOURNAL_BOUND_PART, BMP_JOURNAL_BOUND_MAX);
}

void bmp_windows_init(BmpJournal *journal)
{
    journal->budget =
        journal->o.durability == BMP_DURABLE_POWER
            ? bmp_journal_bound(journal->o.geometry.size) >> journal->o.geometry.journal_shift
            : 0;
    journal->unit = UNIT_MIN;
    while (journal->unit * 2 * UNITS <= journal->budget)
        journal->unit *= 2;
    if (journal->unit > journal->budget)
        journal->unit = 0;
}

/* How many granules of a range are not marked. */
static uint64_t unmarked(const BmpJournal *journal, BmpIntent range)
{
    uint64_t n = 0, at = range.first, next;

    for (; at < range.end; at = next) {
        uint32_t r = region_of(journal, at), bits;
        unsigned state = region_get(journal, r);
        const uint64_t *word = word_of(journal, at, range.end, &bits, &next);

        if (state == FULL || state == NONE)
            next = tm_min(range.end, region_end(journal, r));
        if (state == NONE)
            n += next - at;
        else if (state != FULL)
            n += (uint64_t)__builtin_popcount(
                bits & ~(uint32_t)GUINT64_FROM_LE(__atomic_load_n(word, __ATOMIC_RELAXED)));
    }
    return n;
}

static Intent *nth(const BmpJournal *journal, guint i)
{
    return &g_array_index(journal->intents, Intent, i);
}

static void close_coldest(BmpJournal *journal)
{
    Intent *coldest = NULL;

    for (guint i = 0; i < journal->intents->len; i++) {
        Intent *w = nth(journal, i);

        if (is_window(w) && w->state == OPEN && (!coldest || w->used < coldest->used))
            coldest = w;
    }
    if (coldest)
        coldest->state = CLOSING;
}

/* Whether @unit was asked for lately, as it is now. */
static bool asked_again(BmpJournal *journal, uint64_t unit)
{
    uint64_t *recent;
    bool again;

    if (!journal->recent)
        journal->recent = g_try_new0(uint64_t, RECENTS);
    if (!journal->recent)
        return false;
    recent = &journal->recent[unit * UINT64_C(0x9e3779b97f4a7c15) >> (64 - RECENT_BITS)];
    again = *recent == unit + 1;
    *recent = unit + 1;
    return again;
}

/* Whether somebody who asks for @range is likely to go on, and with what. */
static bool foresee(BmpJournal *journal, BmpIntent range, BmpIntent *window)
{
    uint64_t unit = range.first / journal->unit;
    bool again = asked_again(journal, unit);

    for (guint i = 0; i < journal->intents->len; i++) {
        const Intent *w = nth(journal, i);
        uint64_t length = w->range.end - w->range.first;

        if (!is_window(w))
            continue;
        if (w->state != CLOSING && range.first >= w->range.first && range.first < w->range.end)
            return false; /* it is coming, or there */
        if (range.first < w->range.end || range.first - w->range.end >= length)
            continue;
        *window = (BmpIntent){ w->range.end, tm_max(w->range.end, range.end) +
                                                 tm_min(2 * length, journal->budget / 2) };
        return true;
    }
    *window = (BmpIntent){ unit * journal->unit, (unit + 1) * journal->unit };
    return again;
}

void bmp_windows_choose(BmpJournal *journal, size_t n)
{
    uint64_t ahead = 0;
    unsigned windows = 0;

    if (!journal->unit)
        return;
    for (guint i = 0; i < journal->intents->len; i++) {
        Intent *w = nth(journal, i);

        if (!is_window(w))
            continue;
        windows++;
        ahead += unmarked(journal, w->range);
        if (w->state == OPEN && w->idle >= IDLE_TICKS)
            w->state = CLOSING;
    }
    for (size_t i = 0; i < n; i++) {
        Intent w = { .state = PENDING, .used = ++journal->marks };
        BmpIntent range = g_array_index(journal->asked, BmpIntent, i);
        uint64_t room = tm_min(journal->budget - ahead, journal->granules);

        if (!foresee(journal, range, &w.range))
            continue;
        w.range.end = tm_min(tm_min(w.range.end, w.range.first + room), journal->granules);
        if (windows == WINDOWS_MAX || w.range.end < w.range.first + journal->unit / 2 ||
            w.range.end <= range.end) {
            close_coldest(journal);
            continue;
        }
        ahead += unmarked(journal, w.range);
        windows++;
        g_array_append_val(journal->intents, w);
    }
}

bool bmp_windows_tick(BmpJournal *journal)
{
    bool stale = false;

    for (guint i = 0; i < journal->intents->len; i++) {
        Intent *w = nth(journal, i);

        if (!is_window(w))
            continue; /* all of it is marked: it costs nothing after a loss of power */
        if (w->state == OPEN && w->idle < IDLE_TICKS)
            w->idle++;
        stale |= w->state == CLOSING || w->idle >= IDLE_TICKS;
    }
    return stale;
}
