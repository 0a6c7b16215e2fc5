/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/journal.h: the mapped part of a store: what was marked since the last commit, kept
 * so that it survives (inside bitmap/ only).
 *
 * A mark is one atomic change of a word in memory that the kernel keeps when the process dies. With
 * BMP_DURABLE_POWER, a list of intents on the medium (intents.h) covers each mark that is not on
 * the medium itself: to mark a granule, an intent must have been synced. Concurrent first touches
 * share one sync: whoever finds none under way runs it for all that wait. Marks that are there
 * already need nothing.
 *
 * What an intent covers besides what is written counts as dirty after a loss of power. All of that
 * together is at most bmp_journal_bound(), whatever was written.
 *
 * Invariants (M names are the tests'):
 *  M1  A bit is only set within an intent that is on the medium, and before the data is written.
 *  M2  An intent leaves the list only after every bit that was set in it was synced.
 *  M3  Words of a region are initialised before its entry gets the journal's epoch, and on the
 *      medium before the entry says READY.
 *  M4  A page of the mapping is only touched where the file has been written: never a hole, so that
 *      a full file system is an error of a call, not a signal.
 *  M5  A region whose words can't be written (ENOSPC) becomes CROWDED, which takes an entry only.
 *  M6  At most bmp_journal_bound() bytes lie in intents and are neither marked nor asked for.
 *
 * Threads: mark from any; tick from one worker at a time; the rest when nobody marks. */
#pragma once
#include "bitmap/bits.h"
#include "bitmap/store/counts.h"
#include "bitmap/store/format.h"
#include "bitmap/store/mirror.h"
#include "util/sys.h"

/* M6: an intent ahead of what is written may be as large as this part of the disk, all together. */
#define BMP_JOURNAL_BOUND_PART UINT64_C(200)
#define BMP_JOURNAL_BOUND_MAX  (UINT64_C(1) << 30)

typedef struct BmpJournal BmpJournal;

typedef struct BmpJournalOptions {
    const TmSys *sys;  /* borrowed */
    int fd;            /* the store's; borrowed */
    BmpMirror *mirror; /* of whom the file is, borrowed; or NULL */
    BmpGeometry geometry;
    uint64_t offset; /* of the journal in the file */
    uint64_t seed, epoch;
    BmpDurability durability;
    BmpStoreCounts *counts; /* borrowed; or NULL: they are not wanted */
} BmpJournalOptions;

/* Bytes of a disk of @size that may count as dirty after a loss of power without having been
 * written or being written then. */
uint64_t bmp_journal_bound(uint64_t size);

/* Writes empty lists and a new table (all CLEAN, stamp 0) and makes room for the words; syncs
 * nothing. 0 or -errno, and then the file may be longer than before. */
int bmp_journal_create(const TmSys *sys, int fd, uint64_t offset, const BmpGeometry *geometry,
                       uint64_t seed);

/* Maps what bmp_journal_create() or an earlier session wrote; every region counts as untouched in
 * @epoch, which must be newer than any stamp there. NULL: -errno in *err. */
BmpJournal *bmp_journal_open(const BmpJournalOptions *options, int *err);
void bmp_journal_close(BmpJournal *journal); /* NULL is fine */
/* A new epoch in the same place: everything is clean again. Nobody marks. */
void bmp_journal_restart(BmpJournal *journal, uint64_t epoch);

/* Whether nothing was marked and nothing asked for in this epoch. Nobody marks. */
bool bmp_journal_untouched(const BmpJournal *journal);

/* Marks the granules that [offset, offset + length) touches, cut at the end of the disk. true:
 * done, the data may be written. false: it takes an intent, which is asked for by now; call
 * bmp_journal_intend(), begin again. Where it is marked already: loads only, no lock. After
 * bmp_journal_give_up() always true. */
bool bmp_journal_mark(BmpJournal *journal, uint64_t offset, uint64_t length);
/* Whether bmp_journal_intend() would wait for a sync (else it is quick enough for a loop thread).
 * */
bool bmp_journal_intend_waits(const BmpJournal *journal);
/* Marks the range, and waits for the sync that this takes with BMP_DURABLE_POWER. 0, or -errno: the
 * journal has failed, now or before. Not within a reader section of the tracker. */
int bmp_journal_intend(BmpJournal *journal, uint64_t offset, uint64_t length);

/* Whether a tick would find nothing to do. */
bool bmp_journal_idle(BmpJournal *journal);
/* Syncs what was marked since the last sync, so that an error of it is seen, with
 * BMP_DURABLE_PROCESS now and then; and closes what was opened ahead and has got no marks for three
 * ticks. Syncs only if there is something to sync. 0 or -errno as intend. A worker. */
int bmp_journal_tick(BmpJournal *journal);
/* Something else of the store's file is to be synced, with the next tick. Any thread. */
void bmp_journal_unsettle(BmpJournal *journal);

/* Why nothing new is recorded any more: -errno of the first sync or access that failed, or 0. Marks
 * that need an intent are held back from then on until somebody gives up. */
int bmp_journal_failed(const BmpJournal *journal);
/* The store has been distrusted, as far as that is possible: marks don't matter any more. */
void bmp_journal_give_up(BmpJournal *journal);
/* Whether regions are CROWDED for want of room (M5). */
bool bmp_journal_full(const BmpJournal *journal);

/* The intents in force: ranges in which marks may be newer than what is on the medium. */
unsigned bmp_journal_intents(BmpJournal *journal); /* any thread */

/* ---- recovery: reading only */
typedef struct BmpJournalFound {
    BmpBits marked;    /* granules of the journal that are marked, for sure */
    BmpBits uncertain; /* dirty only because of recovery: intents after a power loss, damage;
                        * disjoint from @marked */
    size_t damaged_entries, damaged_words;
    bool damaged_intents;   /* after a power loss: all is dirty */
    size_t intents;         /* after a power loss: taken as dirty */
    size_t crowded_regions; /* there was no room for their marks: the same */
} BmpJournalFound;

/* Reads lists, table and words of a file with pread, never through a mapping. What can't be read
 * counts as damaged. @power_lost: words may be older than their marks, which intents have. */
void bmp_journal_recover(const TmSys *sys, int fd, uint64_t offset, const BmpGeometry *geometry,
                         uint64_t seed, uint64_t epoch, bool power_lost, BmpJournalFound *found);
void bmp_journal_found_clear(BmpJournalFound *found);
