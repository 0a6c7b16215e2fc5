/* block/share.c: see the header.
 *
 * Invariant: nothing waits while fewer than BLK_SHARE run. What waits holds no stripe, so what runs
 * never waits for it. */
#include "block/share.h"

#include "block/node_int.h"
#include "util/sync.h"

void blk_node_work(BlkNode *node, BlkWork *work)
{
    BlkShare *x = &node->share;
    TM_GUARD(&x->lock);

    if (x->running < BLK_SHARE) {
        x->running++;
        blk_engine_work(blk_graph_engine(node->graph), work);
        return;
    }
    work->next = NULL;
    *x->last = work;
    x->last = &work->next;
}

void blk_node_worked(BlkNode *node)
{
    BlkShare *x = &node->share;
    BlkWork *next;
    TM_GUARD(&x->lock);

    next = x->first;
    if (!next) {
        x->running--;
        return;
    }
    x->first = next->next;
    if (!x->first)
        x->last = &x->first;
    blk_engine_work(blk_graph_engine(node->graph), next);
}

void blk_share_init(BlkShare *x)
{
    pthread_mutex_init(&x->lock, NULL);
    x->last = &x->first;
}

void blk_share_destroy(BlkShare *x)
{
    pthread_mutex_destroy(&x->lock);
}
