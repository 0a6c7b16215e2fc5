/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/counters.h: how many requests a node has done, of how many bytes, how many failed, and how
 * long they took, also as a histogram: how many took at most 1024 ns, 2048 ns, 4096 ns, ...
 *
 * Each processor counts in a place of its own, so that threads share no cache line; a query adds
 * the places up. A place is made when it is first used, so a disk that nobody uses has none. What
 * completes at once is timed one in BLK_COUNTERS_SAMPLE times, and that one stands for the others;
 * everything else is timed.
 *
 * Threads: any. */
#pragma once
#include "util/clock.h"
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define BLK_COUNTERS_PLACES 16u
#define BLK_COUNTERS_SAMPLE 16u

/* QEMU's: zeroing is writing. */
typedef enum {
    BLK_COUNT_READ,
    BLK_COUNT_WRITE,
    BLK_COUNT_FLUSH,
    BLK_COUNT_UNMAP,
    BLK_COUNTS
} BlkCount;

#define BLK_TOOK_BUCKETS 22u /* of the last but one: 2^30 ns; the last: longer */
#define BLK_TOOK_LEAST   10u /* the first bucket is of what took at most 2^10 ns */

/* What so many requests took together, ns; 0 requests: it was not timed. */
typedef struct BlkTook {
    uint64_t ns;
    unsigned requests;
} BlkTook;

/* The bucket of requests that took @ns each. */
static inline unsigned blk_took_bucket(uint64_t ns)
{
    unsigned bits = ns > 1 ? 64 - (unsigned)__builtin_clzll(ns - 1) : 0;

    return bits <= BLK_TOOK_LEAST ? 0 : MIN(bits - BLK_TOOK_LEAST, BLK_TOOK_BUCKETS - 1);
}

/* What requests fail with, as far as each is counted apart; the last is all others. */
#define BLK_ERRORS 10u
extern const char *const blk_error_names[BLK_ERRORS]; /* "EIO", ..., "other" */
unsigned blk_error_index(int errnum);                 /* of a positive errno value */

typedef struct BlkCounts {
    uint64_t operations[BLK_COUNTS]; /* that succeeded */
    uint64_t failed[BLK_COUNTS];
    uint64_t errors[BLK_COUNTS][BLK_ERRORS];     /* the same by what they failed with */
    uint64_t took[BLK_COUNTS][BLK_TOOK_BUCKETS]; /* how many requests, of those that were timed */
    uint64_t bytes[BLK_COUNTS];                  /* of those that succeeded */
    uint64_t ns[BLK_COUNTS];                     /* of all of them */
    uint64_t highest;                            /* where the write that reached furthest ended */
} BlkCounts;

typedef struct BlkCounters {
    BlkCounts *place[BLK_COUNTERS_PLACES]; /* atomic, and all in it; NULL: not used yet */
} BlkCounters;

/* When a request begins that may complete at once: now, if it is one to be timed, else 0. */
uint64_t blk_counters_begin(BlkCounters *counters, BlkCount what);
/* What it took since @began, nothing if that is 0; of one that completed at once, with those for
 * which it stands. */
BlkTook blk_counters_took(BlkCounters *counters, BlkCount what, uint64_t began, bool at_once);
/* One is done: @result 0 or -errno. */
void blk_counters_add(BlkCounters *counters, BlkCount what, uint64_t offset, uint64_t length,
                      int result, BlkTook took);
void blk_counters_sum(const BlkCounters *counters, BlkCounts *sum);
/* Frees what it has; nobody counts any more. */
void blk_counters_clear(BlkCounters *counters);
/* Not atomic. */
void blk_counts_add(BlkCounts *sum, const BlkCounts *more);
