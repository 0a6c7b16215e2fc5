/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* copy_before_write/cbw_internal.h: what the files of the filter share.
 *
 *   driver.c    the options, what requests do, and the filter made in code
 *   clusters.c  what has become of each cluster
 *   copy.c      copies, one at a time for each cluster, and time limits
 *   snapshot.c  the disk at the instant */
#pragma once
#include "block/drivers/copy_before_write/cbw.h"
#include "block/drivers/copy_before_write/clusters.h"
#include "block/drivers/drivers.h"

#include <pthread.h>

#define CBW_SOURCE 0u
#define CBW_TARGET 1u

typedef struct CbwBusy CbwBusy;

typedef struct Cbw {
    struct tidemark_node *node; /* the host's */
    CbwClusters clusters;
    bool break_snapshot;
    uint32_t timeout; /* seconds; 0: none */
    unsigned copy_flags;
    void (*failed)(void *opaque, int error, bool on_source);
    void *opaque;
    int broken; /* atomic: errno, or 0 */

    pthread_mutex_t lock; /* guards changes of the clusters, and all below; a leaf */
    pthread_cond_t changed;
    CbwBusy *busy;    /* being copied */
    unsigned threads; /* that copy for somebody who may not wait for them */
    BlkCbwStats stats;
} Cbw;

/* copy.c. Blocking. */
void cbw_copy_init(Cbw *cbw);
void cbw_copy_destroy(Cbw *cbw); /* waits for the threads */
/* Before a write to the range: copies its clusters, as the options say. 0: the write may go on. */
int cbw_before_write(Cbw *cbw, uint64_t offset, uint64_t length);
static inline int cbw_broken(const Cbw *cbw)
{
    return __atomic_load_n(&cbw->broken, __ATOMIC_ACQUIRE);
}

/* NULL: the node is none. */
static inline Cbw *cbw_of(BlkNode *filter)
{
    return blk_host_handle(filter, &blk_driver_copy_before_write);
}
