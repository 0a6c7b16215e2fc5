/* block/share.h: a node's share of the workers.
 *
 * A disk that hangs keeps every worker that is with it. So a node has up to BLK_SHARE of them at a
 * time, a part of all there are; more of its work waits for its own, and that of other disks finds
 * the rest. */
#pragma once
#include "block/engine.h"
#include "block/node.h"

#include <pthread.h>

#define BLK_SHARE 16u

/* Of a node. */
typedef struct BlkShare {
    pthread_mutex_t lock; /* guards the rest; a leaf but for the engine's */
    BlkWork *first, **last;
    unsigned running; /* with the engine */
} BlkShare;

void blk_share_init(BlkShare *share);
void blk_share_destroy(BlkShare *share);

/* Queues @work as blk_engine_work() does; its run() calls blk_node_worked() once when it is done
 * with @node. Any thread. */
void blk_node_work(BlkNode *node, BlkWork *work);
void blk_node_worked(BlkNode *node);
