/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/tracker.h: the one recorder of a disk, which every write marks (inside bitmap/ only).
 *
 * Marks go to the tree of the running epoch: the pages of page.h, changed by many threads at once.
 * A swap puts an empty tree in its place and hands the old one out, complete and at rest.
 *
 * How marking avoids locks: a slot only ever goes NULL -> page -> bigger page -> BMP_FULL, and bits
 * are only ever added, so that a reader who sees a bit can rely on it. Words take an atomic OR,
 * nodes and BMP_FULL a compare-and-swap. Only adding to a list and replacing it takes a lock, one
 * of a few. A page that was replaced may still be being read: it is freed after the swap.
 *
 * How the swap knows that a tree is at rest: markers count themselves in and out, in a slot of
 * their own cache line, under one of two parities. The swap publishes the new tree, then twice
 * turns the parity and waits for the counts of the old one to drain. Whoever counted in before the
 * new tree was published is in one of the two; whoever comes later finds the new tree.
 *
 * Invariants:
 *  T1  A mark that has returned is in the tree whose state it returned, or in one handed out
 *      before.
 *  T2  A tree that was handed out never changes again (I4 in bitmap.h).
 *  T3  The state a mark returns differs from the current one if the tree that it is in was handed
 *      out before bmp_tracker_swap() returned.
 *
 * Threads: marking from any; swaps one at a time, under the set's lock. */
#pragma once
#include "bitmap/bits.h"
#include <pthread.h>

#define BMP_READERS 16u
#define BMP_STRIPES 16u

/* The running epoch. */
typedef struct BmpEpoch {
    uint64_t state;
    BmpBits bits;
    BmpPage *retired; /* atomic: replaced pages, linked */
} BmpEpoch;

typedef struct BmpReaders {
    uint32_t in[2]; /* atomic */
} __attribute__((aligned(64))) BmpReaders;

typedef struct BmpTracker {
    uint64_t state;  /* atomic: the epoch's number twice, plus 1 if marks are recorded */
    BmpEpoch *live;  /* atomic */
    uint32_t parity; /* atomic */
    BmpReaders readers[BMP_READERS];
    pthread_mutex_t turning; /* guards turning the parity; a leaf but for the stripes */
    pthread_mutex_t stripes[BMP_STRIPES]; /* guard adding to lists of the leaves of that stripe */
} BmpTracker;

#define BMP_STATE_ACTIVE UINT64_C(1)
#define BMP_STATE_EPOCH  UINT64_C(2)

void bmp_tracker_init(BmpTracker *tracker, uint64_t size, unsigned shift);
/* Nobody may be marking. */
void bmp_tracker_destroy(BmpTracker *tracker);

static inline uint64_t bmp_tracker_state(const BmpTracker *tracker)
{
    return __atomic_load_n(&tracker->state, __ATOMIC_SEQ_CST);
}

/* A reader section: what marks is within one. Returned: for bmp_tracker_leave(). */
uint32_t *bmp_tracker_enter(BmpTracker *tracker);
void bmp_tracker_leave(uint32_t *section);
/* Returns when every section that was entered before has been left. Any thread, not in a
 * section. */
void bmp_tracker_quiesce(BmpTracker *tracker);

/* Marks the granules that a range of bytes touches, cut at the end of the disk. Within a section.
 * Returns the state of the epoch that has them. */
uint64_t bmp_tracker_mark(BmpTracker *tracker, uint64_t offset, uint64_t length);

/* Whether nothing is marked in the running epoch; under the set's lock. */
bool bmp_tracker_empty(const BmpTracker *tracker);

/* Begins an epoch with that geometry. *sealed = what the old one recorded (taken by the caller). */
void bmp_tracker_swap(BmpTracker *tracker, uint64_t size, unsigned shift, bool active,
                      BmpBits *sealed);

/* Bytes of memory of the running epoch's pages; under the set's lock. */
size_t bmp_tracker_memory(const BmpTracker *tracker, GHashTable *seen);
