/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* object/leaky_bucket.c: see the header. */
#include "object/leaky_bucket.h"

#include "util/error.h"

#include <inttypes.h>
#include <string.h>

#define VALUE_MAX UINT64_C(1000000000000000)
#define SECOND    1e9 /* in ns */

/* Those that a read or a write fills, bytes first. */
static const TmBucketKind filled[2][4] = {
    { TM_BPS_TOTAL, TM_BPS_READ, TM_IOPS_TOTAL, TM_IOPS_READ },
    { TM_BPS_TOTAL, TM_BPS_WRITE, TM_IOPS_TOTAL, TM_IOPS_WRITE },
};

void tm_buckets_init(TmBuckets *b)
{
    memset(b, 0, sizeof(*b));
    for (unsigned i = 0; i < TM_BUCKETS; i++)
        b->bucket[i].burst_length = 1;
}

void tm_buckets_empty(TmBuckets *b, int64_t now)
{
    for (unsigned i = 0; i < TM_BUCKETS; i++)
        b->bucket[i].level = b->bucket[i].burst_level = 0;
    b->leaked_at = now;
}

/* ---- limits */

/* A limit of all together with one of reads or writes. */
static bool conflict(const TmBuckets *b, TmBucketKind total)
{
    const TmBucket *all = &b->bucket[total];

    return (all[0].avg && (all[1].avg || all[2].avg)) || (all[0].max && (all[1].max || all[2].max));
}

static bool check_bucket(const TmBucket *b, GError **error)
{
    if (b->avg > VALUE_MAX || b->max > VALUE_MAX)
        return tm_error_set(error, "bps/iops/max values must be within [0, %" PRIu64 "]",
                            VALUE_MAX);
    if (!b->burst_length)
        return tm_error_set(error, "the burst length cannot be 0");
    if (b->burst_length > 1 && !b->max)
        return tm_error_set(error, "burst length set without burst rate");
    if (b->max && b->burst_length > VALUE_MAX / b->max)
        return tm_error_set(error, "burst length too high for this burst rate");
    if (b->max && !b->avg)
        return tm_error_set(error, "bps_max/iops_max require corresponding bps/iops values");
    if (b->max && b->max < b->avg)
        return tm_error_set(error, "bps_max/iops_max cannot be lower than bps/iops");
    return true;
}

bool tm_buckets_check(const TmBuckets *b, GError **error)
{
    if (conflict(b, TM_BPS_TOTAL) || conflict(b, TM_IOPS_TOTAL))
        return tm_error_set(error, "bps/iops/max total values and read/write values cannot be used "
                                   "at the same time");
    if (b->op_size && !b->bucket[TM_IOPS_TOTAL].avg && !b->bucket[TM_IOPS_READ].avg &&
        !b->bucket[TM_IOPS_WRITE].avg)
        return tm_error_set(error, "iops size requires an iops value to be set");
    for (unsigned i = 0; i < TM_BUCKETS; i++) {
        if (!check_bucket(&b->bucket[i], error))
            return false;
    }
    return true;
}

/* ---- time */

static double leaked(double level, double rate, double seconds)
{
    return MAX(level - rate * seconds, 0);
}

static void leak(TmBuckets *b, int64_t now)
{
    double seconds = (double)(now - b->leaked_at) / SECOND;

    if (now <= b->leaked_at)
        return;
    b->leaked_at = now;
    for (unsigned i = 0; i < TM_BUCKETS; i++) {
        TmBucket *x = &b->bucket[i];

        x->level = leaked(x->level, (double)x->avg, seconds);
        x->burst_level = leaked(x->burst_level, (double)x->max, seconds);
    }
}

static double wait_of(const TmBucket *b)
{
    double allowed = b->max ? (double)b->max * (double)b->burst_length : (double)b->avg / 10;
    double extra = b->level - allowed;

    if (!b->avg)
        return 0;
    if (extra > 0)
        return extra / (double)b->avg;
    extra = b->burst_level - (double)b->max / 10;
    return b->burst_length > 1 && extra > 0 ? extra / (double)b->max : 0;
}

int64_t tm_buckets_wait(TmBuckets *b, bool write, int64_t now)
{
    double wait = 0;

    leak(b, now);
    for (unsigned i = 0; i < G_N_ELEMENTS(filled[write]); i++)
        wait = MAX(wait, wait_of(&b->bucket[filled[write][i]]));
    /* A rate of 1 a second and a request of 2^64 bytes: more than there are ns to count. */
    return wait * SECOND < (double)INT64_MAX / 2 ? (int64_t)(wait * SECOND) : INT64_MAX / 2;
}

void tm_buckets_account(TmBuckets *b, bool write, uint64_t bytes)
{
    double operations = b->op_size && bytes > b->op_size ? (double)bytes / (double)b->op_size : 1;

    for (unsigned i = 0; i < G_N_ELEMENTS(filled[write]); i++) {
        TmBucket *x = &b->bucket[filled[write][i]];
        double units = i < 2 ? (double)bytes : operations;

        x->level += units;
        if (x->burst_length > 1)
            x->burst_level += units;
    }
}
