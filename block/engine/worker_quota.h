/* block/engine/worker_quota.h: how many workers a node may have.
 *
 * A disk that hangs keeps every worker that is with it. So a node has up to BLK_WORKER_QUOTA of
 * them at a time, a part of all there are; more of its work waits for its own, and that of other
 * disks finds the rest. */
#pragma once
#include "block/engine/engine.h"

#include <pthread.h>

#define BLK_WORKER_QUOTA 16u

/* Of a node. */
typedef struct BlkWorkerQuota {
    BlkEngine *engine;    /* borrowed */
    pthread_mutex_t lock; /* guards the rest; a leaf but for the engine's */
    BlkWork *first, **last;
    unsigned running; /* with the engine */
} BlkWorkerQuota;

void blk_worker_quota_init(BlkWorkerQuota *quota, BlkEngine *engine);
void blk_worker_quota_destroy(BlkWorkerQuota *quota);

/* Queues @work as blk_engine_work() does; its run() calls blk_worker_quota_end() once when it is
 * done with the node. Any thread. */
void blk_worker_quota_add(BlkWorkerQuota *quota, BlkWork *work);
void blk_worker_quota_end(BlkWorkerQuota *quota);
