/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/counters.c: see the header. A thread may be moved to another processor at any time, so
 * places are added to atomically; that costs little as long as the line stays where it is. */
#include "block/counters.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define LINE 64u /* bytes of a cache line */

static const int errnos[BLK_ERRORS - 1] = { EIO,    ENOSPC,    EPERM, EINVAL,   ENOMEM,
                                            EDQUOT, ETIMEDOUT, EROFS, ESHUTDOWN };
const char *const blk_error_names[BLK_ERRORS] = { "EIO",       "ENOSPC", "EPERM",     "EINVAL",
                                                  "ENOMEM",    "EDQUOT", "ETIMEDOUT", "EROFS",
                                                  "ESHUTDOWN", "other" };

unsigned blk_error_index(int errnum)
{
    unsigned i = 0;

    while (i < BLK_ERRORS - 1 && errnos[i] != errnum)
        i++;
    return i;
}

static BlkCounts *make_place(BlkCounts **at)
{
    size_t size = (sizeof(BlkCounts) + LINE - 1) / LINE * LINE;
    BlkCounts *none = NULL, *made = aligned_alloc(LINE, size);

    if (!made)
        return NULL;
    memset(made, 0, size);
    if (__atomic_compare_exchange_n(at, &none, made, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return made;
    free(made);
    return none;
}

/* Of this processor; NULL: there is no memory, and nothing is counted. */
static BlkCounts *place(BlkCounters *counters)
{
    int cpu = sched_getcpu();
    BlkCounts **at = &counters->place[cpu < 0 ? 0 : (unsigned)cpu % BLK_COUNTERS_PLACES];
    BlkCounts *counts = __atomic_load_n(at, __ATOMIC_ACQUIRE);

    return counts ? counts : make_place(at);
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

static uint64_t operations(BlkCounters *counters, BlkCount what)
{
    const BlkCounts *counts = place(counters);

    return counts ? load(&counts->operations[what]) : 0;
}

uint64_t blk_counters_begin(BlkCounters *counters, BlkCount what)
{
    return operations(counters, what) % BLK_COUNTERS_SAMPLE ? 0 : tm_now_ns();
}

BlkTook blk_counters_took(BlkCounters *counters, BlkCount what, uint64_t began, bool at_once)
{
    BlkTook took = { 0 };

    if (!began)
        return took;
    /* the first stands for itself */
    took.requests = at_once && operations(counters, what) ? BLK_COUNTERS_SAMPLE : 1;
    took.ns = (tm_now_ns() - began) * took.requests;
    return took;
}

void blk_counters_add(BlkCounters *counters, BlkCount what, uint64_t offset, uint64_t length,
                      int result, BlkTook took)
{
    BlkCounts *c = place(counters);

    if (!c)
        return;
    if (took.requests) {
        add(&c->ns[what], took.ns);
        add(&c->took[what][blk_took_bucket(took.ns / took.requests)], took.requests);
    }
    if (result < 0) {
        add(&c->failed[what], 1);
        add(&c->errors[what][blk_error_index(-result)], 1);
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
        for (unsigned k = 0; k < BLK_ERRORS; k++)
            sum->errors[i][k] += more->errors[i][k];
        for (unsigned k = 0; k < BLK_TOOK_BUCKETS; k++)
            sum->took[i][k] += more->took[i][k];
    }
    sum->highest = MAX(sum->highest, more->highest);
}

void blk_counters_sum(const BlkCounters *counters, BlkCounts *sum)
{
    memset(sum, 0, sizeof(*sum));
    for (unsigned p = 0; p < BLK_COUNTERS_PLACES; p++) {
        const BlkCounts *c = __atomic_load_n(&counters->place[p], __ATOMIC_ACQUIRE);

        for (unsigned i = 0; c && i < BLK_COUNTS; i++) {
            sum->operations[i] += load(&c->operations[i]);
            sum->failed[i] += load(&c->failed[i]);
            sum->bytes[i] += load(&c->bytes[i]);
            sum->ns[i] += load(&c->ns[i]);
            for (unsigned k = 0; k < BLK_ERRORS; k++)
                sum->errors[i][k] += load(&c->errors[i][k]);
            for (unsigned k = 0; k < BLK_TOOK_BUCKETS; k++)
                sum->took[i][k] += load(&c->took[i][k]);
        }
        if (c)
            sum->highest = MAX(sum->highest, load(&c->highest));
    }
}

void blk_counters_clear(BlkCounters *counters)
{
    for (unsigned p = 0; p < BLK_COUNTERS_PLACES; p++)
        free(counters->place[p]);
}
