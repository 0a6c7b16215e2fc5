/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/engine/worker_quota.h: how many workers a node may have.
 *
 * A disk that hangs keeps every worker that runs its work. So a node has at most BLK_WORKER_QUOTA
 * workers at a time, a part of all there are. The rest of its work waits, and the work of other
 * disks finds free workers.
 *
 * In the background it has half as many as there are processors, at least one. A worker that has
 * no processor goes on holding its locks: on XFS that of the file that it reads, and a guest's
 * write to that file waits. */
#pragma once
#include "block/engine/engine.h"

#include <pthread.h>

#define BLK_WORKER_QUOTA 16u

/* Of a node. */
typedef struct BlkWorkerQuota {
    BlkEngine *engine;    /* borrowed */
    bool background;      /* all work of the node is */
    pthread_mutex_t lock; /* guards the rest; a leaf but for the engine's */
    BlkWork *first, **last;
    unsigned max, running; /* with the engine */
    unsigned waiting;      /* in the list */
} BlkWorkerQuota;

void blk_worker_quota_init(BlkWorkerQuota *quota, BlkEngine *engine, bool background);
void blk_worker_quota_destroy(BlkWorkerQuota *quota);

/* Queues @work as blk_engine_work() does; its run() calls blk_worker_quota_end() once when it is
 * done with the node. Any thread. */
void blk_worker_quota_add(BlkWorkerQuota *quota, BlkWork *work);
void blk_worker_quota_end(BlkWorkerQuota *quota);
/* How much of the node's work is with the engine, and how much waits for the quota. Any thread. */
void blk_worker_quota_count(BlkWorkerQuota *quota, unsigned *running, unsigned *waiting);
