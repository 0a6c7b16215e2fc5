/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/long_requests.h: requests that span more of a disk than can be done at once.
 *
 * A discard, zeroing or caching may span the whole disk, however large. It is done in pieces that
 * take a few milliseconds each. The long requests of a node take turns, a piece each, so that they
 * keep at most one worker busy, and other requests of the disk wait for one piece, not for all. */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct BlkRequest BlkRequest;

/* Of a node. */
typedef struct BlkLongRequests {
    pthread_mutex_t lock;      /* guards the rest; a leaf */
    BlkRequest *first, **last; /* who wait for their turn */
    bool busy;                 /* somebody has it */
} BlkLongRequests;

static inline void blk_long_requests_init(BlkLongRequests *x)
{
    pthread_mutex_init(&x->lock, NULL);
    x->first = NULL;
    x->last = &x->first;
    x->busy = false;
}

static inline void blk_long_requests_destroy(BlkLongRequests *x)
{
    pthread_mutex_destroy(&x->lock);
}

bool blk_long_requests_wanted(const BlkRequest *request);
/* Starts @request, whose node and members are set: done() is called. Any thread. */
void blk_long_requests_add(BlkRequest *request);
