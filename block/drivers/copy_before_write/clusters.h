/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* copy_before_write/clusters.h: what has become of each cluster of a disk since the instant.
 *
 *   pending   as it was at the instant, in the source; a write needs a copy first
 *   copied    in the target, as it was; the source may have been written since
 *   released  not of the snapshot, or not any more; the source may have been written since
 *
 * A cluster leaves pending once, and never comes back. Two bits each; untouched ones cost no
 * memory.
 *
 * Threads: any look, without a lock; one at a time changes (cbw.c's lock). What was done before a
 * change is seen by who sees the change. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef enum { CBW_PENDING, CBW_COPIED, CBW_RELEASED } CbwState;

typedef struct CbwClusters {
    uint64_t size;     /* bytes of the disk at the instant: what has been added is of no cluster */
    unsigned shift;    /* a cluster is 1 << shift bytes */
    uint64_t n;        /* clusters */
    uint64_t *settled; /* bits, read atomically: not pending */
    uint64_t *copied;  /* and in the target; means nothing where not settled */
} CbwClusters;

/* All pending. false: no memory. */
bool cbw_clusters_init(CbwClusters *c, uint64_t size, unsigned shift);
void cbw_clusters_free(CbwClusters *c);

/* The state of cluster @first; *end: up to where, not beyond @end (> @first), it is the same. */
CbwState cbw_clusters_run(const CbwClusters *c, uint64_t first, uint64_t *end);
/* The first cluster of [first, end) that is pending; @end: none. */
uint64_t cbw_clusters_pending(const CbwClusters *c, uint64_t first, uint64_t end);
uint64_t cbw_clusters_count_pending(const CbwClusters *c);
/* [first, end) becomes copied or released. */
void cbw_clusters_settle(CbwClusters *c, uint64_t first, uint64_t end, bool copied);

/* The byte at which cluster @at begins, or the disk ends. */
static inline uint64_t cbw_clusters_offset(const CbwClusters *c, uint64_t at)
{
    return at < c->n ? at << c->shift : c->size;
}

/* One past the last cluster that [.., @end) touches. */
static inline uint64_t cbw_clusters_up(const CbwClusters *c, uint64_t end)
{
    uint64_t up = end ? ((end - 1) >> c->shift) + 1 : 0;

    return up < c->n ? up : c->n;
}
