/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/journal_internal.h: what the files of the live journal share: journal.c (life and
 * marking), journal_intent.c (rounds: intents and their syncs), journal_window.c (what is opened
 * ahead). What they are for is in journal.h.
 *
 * Bits are only set under the lock, and only within an intent of a list that is on the medium. So
 * whoever finds a bit set, without the lock, may write.
 *
 * A round writes a list and syncs; rounds come one after the other. An intent is
 *
 *     PENDING    in the list that is being written; nobody relies on it yet
 *     OPEN       in the list on the medium, and in the next: marks may be set in it
 *     CLOSING    in the list of this round for the last time; no marks are set in it any more
 *
 * and leaves with the round after, because the sync of this one has put all its marks on the
 * medium. That list and words reach the medium in any order within a sync is why it stays for one
 * more.
 *
 * A region is in memory
 *
 *     NONE       untouched in this epoch; its words are not initialised
 *     NEW        they are; until the sync has ended its entry says so, too: after a loss of power
 *                they say nothing, and intents have all that was marked
 *     READY      ... and on the medium
 *     FULL       all of it is marked
 *
 * An entry that says READY, FULL or CROWDED is written after a sync and is on the medium with the
 * next, before the intents leave that have covered the same until then.
 *
 * Locks: journal->lock guards all but what is atomic; a leaf. No calls for I/O under it. */
#pragma once
#include "bitmap/store/intents.h"
#include "bitmap/store/journal.h"
#include "util/mapping.h"
#include "util/range.h"
#include <pthread.h>

enum { NONE, NEW, READY, FULL }; /* regions */
enum { PENDING, OPEN, CLOSING }; /* intents */

#define BATCH_MAX   160u /* ranges that wait, taken by a round; twice that and windows fit a list */
#define WINDOWS_MAX 64u
#define RECENT_BITS 10u
#define RECENTS     (1u << RECENT_BITS)

typedef struct Intent {
    BmpIntent range;
    BmpIntent asked; /* what is marked at the end of the round; empty: a window */
    uint8_t state;
    uint8_t idle;  /* of a window: ticks without a mark */
    uint64_t used; /* of a window: when a mark came, in marks */
} Intent;

static inline bool is_window(const Intent *intent)
{
    return intent->asked.first == intent->asked.end;
}

struct BmpJournal {
    BmpJournalOptions o;
    TmMapping mapping;
    uint64_t *table, *words; /* in the mapping */
    uint64_t granules;
    unsigned region_shift; /* log2 of granules in a region */
    uint8_t *regions;      /* atomic */
    int failed;            /* atomic: errno */
    bool given_up;         /* atomic: marks don't matter any more */
    bool no_room;          /* atomic: M5 has happened */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* @syncing has ended */
    bool syncing;           /* a round is under way */
    bool touched;           /* in this epoch */
    bool unsynced;          /* words or entries have changed since the last sync began */
    uint8_t waits;          /* ticks with something to settle since a tick's last round */
    GArray *asked;          /* BmpIntent: ranges that wait for a round */
    GArray *intents;        /* Intent: the list on the medium, or being written */
    uint64_t number;        /* of that list */

    uint64_t budget; /* granules that intents may cover ahead of marks */
    uint64_t unit;   /* of windows; 0: there are none */
    uint64_t marks;  /* that came in windows: a clock */
    /* RECENTS units that were asked for, plus 1, by a hash; NULL: none was yet */
    uint64_t *recent;
};

static inline uint32_t region_of(const BmpJournal *journal, uint64_t granule)
{
    return (uint32_t)(granule >> journal->region_shift);
}

static inline uint64_t region_first(const BmpJournal *journal, uint32_t r)
{
    return (uint64_t)r << journal->region_shift;
}

static inline uint64_t region_end(const BmpJournal *journal, uint32_t r)
{
    return tm_min(region_first(journal, r + 1), journal->granules);
}

static inline unsigned region_get(const BmpJournal *journal, uint32_t r)
{
    return __atomic_load_n(&journal->regions[r], __ATOMIC_ACQUIRE);
}

static inline void region_set(BmpJournal *journal, uint32_t r, unsigned state)
{
    __atomic_store_n(&journal->regions[r], (uint8_t)state, __ATOMIC_RELEASE);
}

static inline bool covers_region(const BmpJournal *journal, BmpIntent range, uint32_t r)
{
    return range.first <= region_first(journal, r) && range.end >= region_end(journal, r);
}

/* The word that has granule @first, and in *bits those of [first, end) that it has; returned in
 * *next: where the next word goes on. */
static inline uint64_t *word_of(const BmpJournal *journal, uint64_t first, uint64_t end,
                                uint32_t *bits, uint64_t *next)
{
    uint32_t r = region_of(journal, first);
    uint64_t in = first - region_first(journal, r);
    unsigned bit = in % BMP_WORD_GRANULES, n;

    *next = tm_min(tm_min(end, region_end(journal, r)), first + BMP_WORD_GRANULES - bit);
    n = (unsigned)(*next - first);
    *bits = UINT32_MAX >> (BMP_WORD_GRANULES - n) << bit;
    return journal->words + journal->o.geometry.block / 8 * r + in / BMP_WORD_GRANULES;
}

/* The granules that a range of bytes touches, cut at the end of the disk; first == end: none. */
BmpIntent bmp_journal_granules(const BmpJournal *journal, uint64_t offset, uint64_t length);
/* Whether all of it is marked. Lock-free. */
bool bmp_journal_marked(const BmpJournal *journal, BmpIntent range);

/* ---- under the lock */

/* Marks what has intents, and asks for them otherwise; whether it is marked. */
bool bmp_journal_put(BmpJournal *journal, BmpIntent range);
/* Marks a range; a region without words becomes FULL. */
void bmp_journal_set(BmpJournal *journal, BmpIntent range);
void bmp_journal_entry(BmpJournal *journal, uint32_t r, BmpRegionState state);

/* What no marks have come to for some ticks, and what is in the way, is closed; and for each of the
 * first @n ranges that wait there may be a window. */
void bmp_windows_choose(BmpJournal *journal, size_t n);
/* Time has passed; whether the list has a window that can leave. */
bool bmp_windows_tick(BmpJournal *journal);
void bmp_windows_init(BmpJournal *journal);

/* 0 or -errno; all of it. */
