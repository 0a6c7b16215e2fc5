/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* object/leaky_bucket.h: how much I/O may be done when: QEMU's leaky buckets (util/throttle.c,
 * docs/throttle.txt). Pure data; the clock is given.
 *
 * A bucket is filled by what is done and leaks at the rate that is allowed on average. While it is
 * too full requests wait. How full it may be is the burst: with max, max for burst_length seconds;
 * without, a tenth of a second of avg. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum {
    TM_BPS_TOTAL,
    TM_BPS_READ,
    TM_BPS_WRITE,
    TM_IOPS_TOTAL,
    TM_IOPS_READ,
    TM_IOPS_WRITE,
    TM_BUCKETS, /* how many there are */
} TmBucketKind;

typedef struct TmBucket {
    uint64_t avg;          /* units a second; 0: no limit */
    uint64_t max;          /* units a second during a burst; 0: no bursts */
    uint64_t burst_length; /* seconds, at least 1 */
    double level;          /* units: above what is allowed on average */
    double burst_level;    /* the same of max */
} TmBucket;

typedef struct TmBuckets {
    TmBucket bucket[TM_BUCKETS];
    uint64_t op_size;  /* bytes that count as one operation; 0: each request does */
    int64_t leaked_at; /* ns */
} TmBuckets;

void tm_buckets_init(TmBuckets *buckets); /* no limits */
/* Whether the limits make sense together; the error is QEMU's. */
bool tm_buckets_check(const TmBuckets *buckets, GError **error);
/* All are empty at @now. */
void tm_buckets_empty(TmBuckets *buckets, int64_t now);
/* How many ns from @now on a read or write has to wait; 0: not at all. */
int64_t tm_buckets_wait(TmBuckets *buckets, bool write, int64_t now);
/* One is done. */
void tm_buckets_account(TmBuckets *buckets, bool write, uint64_t bytes);
