/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/engine/inflight.h: the requests in flight on one node, by guest range: a reader-writer lock
 * per stripe.
 *
 * The disk is cut into regions of 1 MiB that are dealt out over 64 stripes. Reads and writes hold
 * their stripes shared: one atomic addition each. Discards and zeroing hold theirs exclusively. A
 * drain holds all of them exclusively. Stripes are taken in ascending order and, through the graph,
 * parents first, so waiting cannot become circular; whoever waits is a worker or the main thread
 * and never delays a loop. Who waits to hold a stripe shared when an exclusive holder lets go has
 * it before the next exclusive one: a long discard comes back again and again.
 *
 * Threads: any. */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define BLK_STRIPES 64

typedef struct BlkInflight {
    struct {
        _Alignas(64) uint32_t state; /* how many hold it shared | EXCLUSIVE */
    } stripe[BLK_STRIPES];
    pthread_mutex_t lock; /* guards waiting only, the counts, and all below; a leaf */
    pthread_cond_t changed;
    unsigned waiting; /* who want to hold stripes shared */
    unsigned first;   /* so many of them go before the next exclusive holder; <= waiting */
    int *drains;      /* or NULL: atomic, how many drains wait or last, of this and others */
    unsigned drained; /* how often over, by the one who drains */
    bool quiesces;    /* drained: threads inside of a node (block/engine/quiesce.h) pass */
    pthread_t drainer;
} BlkInflight;

void blk_inflight_init(BlkInflight *inflight, int *drains);
void blk_inflight_destroy(BlkInflight *inflight);

/* Without waiting: false if somebody holds or awaits a stripe of the range exclusively. */
bool blk_inflight_try_shared(BlkInflight *inflight, uint64_t offset, uint64_t length);
void blk_inflight_shared(BlkInflight *inflight, uint64_t offset, uint64_t length); /* waits */
void blk_inflight_shared_end(BlkInflight *inflight, uint64_t offset, uint64_t length);
void blk_inflight_exclusive(BlkInflight *inflight, uint64_t offset, uint64_t length); /* waits */
void blk_inflight_exclusive_end(BlkInflight *inflight, uint64_t offset, uint64_t length);
/* Everything: waits until nothing is in flight and keeps it so, but for what the caller's own
 * thread does, which may drain once more. */
void blk_inflight_drain(BlkInflight *inflight);
/* The same, but threads inside of a node (block/engine/quiesce.h) pass. */
void blk_inflight_drain_to_quiesce(BlkInflight *inflight);
void blk_inflight_drain_end(BlkInflight *inflight);
