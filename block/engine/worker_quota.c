/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/engine/worker_quota.c: see the header.
 *
 * Invariant: nothing waits while fewer than max run. What waits holds no stripe, so
 * what runs never waits for it. */
#include "block/engine/worker_quota.h"

#include "util/sync.h"

#include <sys/sysinfo.h>

void blk_worker_quota_add(BlkWorkerQuota *x, BlkWork *work)
{
    TM_GUARD(&x->lock);

    work->background = work->background || x->background;
    if (x->running < x->max) {
        x->running++;
        blk_engine_work(x->engine, work);
        return;
    }
    x->waiting++;
    work->next = NULL;
    *x->last = work;
    x->last = &work->next;
}

void blk_worker_quota_end(BlkWorkerQuota *x)
{
    BlkWork *next;
    TM_GUARD(&x->lock);

    next = x->first;
    if (!next) {
        x->running--;
        return;
    }
    x->waiting--;
    x->first = next->next;
    if (!x->first)
        x->last = &x->first;
    blk_engine_work(x->engine, next);
}

void blk_worker_quota_count(BlkWorkerQuota *x, unsigned *running, unsigned *waiting)
{
    TM_GUARD(&x->lock);

    *running = x->running;
    *waiting = x->waiting;
}

void blk_worker_quota_init(BlkWorkerQuota *x, BlkEngine *engine, bool background)
{
    x->engine = engine;
    x->background = background;
    x->max = background ? CLAMP((unsigned)get_nprocs() / 2, 1, BLK_WORKER_QUOTA) : BLK_WORKER_QUOTA;
    pthread_mutex_init(&x->lock, NULL);
    x->last = &x->first;
}

void blk_worker_quota_destroy(BlkWorkerQuota *x)
{
    pthread_mutex_destroy(&x->lock);
}
