/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/counters.c: see the header. A thread may be moved to another processor at any time, so
 * places are added to atomically; that costs little as long as the line stays where it is. */
#include "block/counters.h"

#include <sched.h>
#include <string.h>

static unsigned place(void)
{
    int cpu = sched_getcpu();

    return cpu < 0 ? 0 : (unsigned)cpu % BLK_COUNTERS_PLACES;
}

static uint64_t load(const uint64_t *count)
{
    return __atomic_load_n(count, __ATOMIC_RELAXED);
}

static void add(uint64_t *count, uint64_t n)
{
    __atomic_add_fetch(count, n, __ATOMIC_RELAXED);
}

static void raise_to(uint64_t *count, uint64_t value)
{
    uint64_t now = load(count);

    while (now < value && !__atomic_compare_exchange_n(count, &now, value, true, __ATOMIC_RELAXED,
                                                       __ATOMIC_RELAXED))
        ;
}

uint64_t blk_counters_begin(const BlkCounters *counters, BlkCount what)
{
    return load(&counters->place[place()].counts.operations[what]) % BLK_COUNTERS_SAMPLE
               ? 0
               : tm_now_ns();
}

uint64_t blk_counters_took(const BlkCounters *counters, BlkCount what, uint64_t began, bool at_once)
{
    uint64_t ns = began ? tm_now_ns() - began : 0;

    /* the first stands for itself */
    return at_once && ns && load(&counters->place[place()].counts.operations[what])
               ? ns * BLK_COUNTERS_SAMPLE
               : ns;
}

void blk_counters_add(BlkCounters *counters, BlkCount what, uint64_t offset, uint64_t length,
                      int result, uint64_t ns)
{
    BlkCounts *c = &counters->place[place()].counts;

    if (ns)
        add(&c->ns[what], ns);
    if (result < 0) {
        add(&c->failed[what], 1);
        return;
    }
    add(&c->operations[what], 1);
    if (length)
        add(&c->bytes[what], length);
    if (what == BLK_COUNT_WRITE)
        raise_to(&c->highest, offset + length);
}

void blk_counts_add(BlkCounts *sum, const BlkCounts *more)
{
    for (unsigned i = 0; i < BLK_COUNTS; i++) {
        sum->operations[i] += more->operations[i];
        sum->failed[i] += more->failed[i];
        sum->bytes[i] += more->bytes[i];
        sum->ns[i] += more->ns[i];
    }
    sum->highest = MAX(sum->highest, more->highest);
}

void blk_counters_sum(const BlkCounters *counters, BlkCounts *sum)
{
    memset(sum, 0, sizeof(*sum));
    for (unsigned p = 0; p < BLK_COUNTERS_PLACES; p++) {
        const BlkCounts *c = &counters->place[p].counts;

        for (unsigned i = 0; i < BLK_COUNTS; i++) {
            sum->operations[i] += load(&c->operations[i]);
            sum->failed[i] += load(&c->failed[i]);
            sum->bytes[i] += load(&c->bytes[i]);
            sum->ns[i] += load(&c->ns[i]);
        }
        sum->highest = MAX(sum->highest, load(&c->highest));
    }
}
