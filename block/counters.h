/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/counters.h: how many requests a node has done, of how many bytes, how many failed, and how
 * long they took.
 *
 * Each processor counts in a place of its own, so that threads share no cache line; a query adds
 * the places up. What completes at once is timed one in BLK_COUNTERS_SAMPLE times, and that one
 * stands for the others; everything else is timed.
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

typedef struct BlkCounts {
    uint64_t operations[BLK_COUNTS]; /* that succeeded */
    uint64_t failed[BLK_COUNTS];
    uint64_t bytes[BLK_COUNTS]; /* of those that succeeded */
    uint64_t ns[BLK_COUNTS];    /* of all of them */
    uint64_t highest;           /* where the write that reached furthest ended */
} BlkCounts;

typedef struct BlkCounters {
    struct {
        _Alignas(64) BlkCounts counts; /* atomic */
    } place[BLK_COUNTERS_PLACES];
} BlkCounters;

/* When a request begins that may complete at once: now, if it is one to be timed, else 0. */
uint64_t blk_counters_begin(const BlkCounters *counters, BlkCount what);
/* The ns since @began, 0 if that is 0; of one that completed at once, of those for which it
 * stands. */
uint64_t blk_counters_took(const BlkCounters *counters, BlkCount what, uint64_t began,
                           bool at_once);
/* One is done: @result 0 or -errno. */
void blk_counters_add(BlkCounters *counters, BlkCount what, uint64_t offset, uint64_t length,
                      int result, uint64_t ns);
void blk_counters_sum(const BlkCounters *counters, BlkCounts *sum);
/* Not atomic. */
void blk_counts_add(BlkCounts *sum, const BlkCounts *more);
