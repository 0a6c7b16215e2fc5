/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* copy_before_write/copy.c: copies, before writes and by others.
 *
 * Invariants:
 *  - while a cluster is pending no write to it has begun in the source, and so none is in flight:
 *    writes go on when it is settled, or the snapshot broken, and that is said after the copy;
 *  - a cluster is copied by one thread at a time; the others wait for that one;
 *  - a copy is in the target before its cluster is called copied.
 *
 * What the page cache has is copied at once, on the thread of the write, which then goes on as one
 * that needs no copy. Everything else is left to a worker.
 *
 * A write that must not wait for its copy for ever has it made by a thread of its own, which goes
 * on when the write has given up. Workers would not do: all of them may be waiting. */
#include "block/drivers/copy_before_write/cbw_internal.h"

#include "block/node_internal.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <time.h>

#define PIECE (UINT64_C(1) << 20)  /* bytes that are copied before others may go on */
#define WIDE  (UINT64_C(64) << 10) /* bytes that a worker copies at a time, if it may */

struct CbwBusy {
    uint64_t first, end; /* clusters */
    CbwBusy *next;
};

/* ---- who copies what; under the lock */

/* The first cluster of [first, end) that is being copied; @end: none. */
static uint64_t first_busy(const Cbw *cbw, uint64_t first, uint64_t end)
{
    for (const CbwBusy *b = cbw->busy; b; b = b->next) {
        if (b->first < end && first < b->end)
            end = tm_max(first, b->first);
    }
    return end;
}

static bool is_busy(const Cbw *cbw, uint64_t first, uint64_t end)
{
    return first_busy(cbw, first, end) < end;
}

/* The next clusters of [first, end) for the caller to copy. 0: all is settled; -EAGAIN: somebody is
 * copying the next ones, and the caller does not @wait. */
static int take(Cbw *cbw, CbwBusy *mine, uint64_t first, uint64_t end, bool wait)
{
    uint64_t most = tm_max(PIECE >> cbw->clusters.shift, 1), at, stop;

    while ((at = cbw_clusters_pending(&cbw->clusters, first, end)) < end) {
        if (is_busy(cbw, at, at + 1)) {
            if (!wait)
                return -EAGAIN;
            pthread_cond_wait(&cbw->changed, &cbw->lock);
            continue;
        }
        stop = tm_min(end, at + most);
        cbw_clusters_run(&cbw->clusters, at, &stop);
        *mine = (CbwBusy){ at, first_busy(cbw, at, stop), cbw->busy };
        cbw->busy = mine;
        return 1;
    }
    return 0;
}

static void give_back(Cbw *cbw, const CbwBusy *mine)
{
    CbwBusy **b = &cbw->busy;

    while (*b != mine)
        b = &(*b)->next;
    *b = mine->next;
    pthread_cond_broadcast(&cbw->changed);
}

/* ---- copying */

/* What failed half-way counts when it has been repeated. */
static void add(BlkCopied *sum, const BlkCopied *more, int ret)
{
    sum->on_source = more->on_source;
    if (ret)
        return;
    sum->data += more->data;
    sum->cloned += more->cloned;
    sum->zeroes += more->zeroes;
}

/* @flags: BLK_COPY_SOON or _AT_ONCE: before a write. */
static int copy_taken(Cbw *cbw, const CbwBusy *mine, unsigned flags, BlkCopied *copied)
{
    uint64_t offset = cbw_clusters_offset(&cbw->clusters, mine->first);
    uint64_t end = cbw_clusters_offset(&cbw->clusters, mine->end);
    BlkCopied now = { .data = 0 };
    int ret =
        blk_node_copy(blk_node_child(cbw->node, CBW_SOURCE), blk_node_child(cbw->node, CBW_TARGET),
                      offset, end - offset, cbw->copy_flags | flags, &now);
    TM_GUARD(&cbw->lock);

    add(copied, &now, ret);
    add(&cbw->stats.copied, &now, ret);
    cbw->stats.before_writes += flags && ret == 0 ? end - offset : 0;
    if (ret == 0 && cbw_broken(cbw)) /* the source may have been written meanwhile */
        ret = -ECANCELED;
    if (ret == 0)
        cbw_clusters_settle(&cbw->clusters, mine->first, mine->end, true);
    give_back(cbw, mine);
    return ret;
}

/* [first, end) is settled when it returns 0. -EAGAIN: AT_ONCE it can't be. */
static int copy_clusters(Cbw *cbw, uint64_t first, uint64_t end, unsigned flags, BlkCopied *copied)
{
    for (;;) {
        CbwBusy mine;
        int ret;

        if (cbw_broken(cbw))
            return -ECANCELED;
        pthread_mutex_lock(&cbw->lock);
        ret = take(cbw, &mine, first, end, !(flags & BLK_COPY_AT_ONCE));
        pthread_mutex_unlock(&cbw->lock);
        if (ret <= 0)
            return ret;
        ret = copy_taken(cbw, &mine, flags, copied);
        if (ret < 0)
            return ret;
    }
}

/* Before a write that has a worker: the copy takes neighbours along, whose turn may come and which
 * cost little more, unless that fails. */
static int copy_for_write(Cbw *cbw, uint64_t first, uint64_t end, BlkCopied *copied)
{
    const CbwClusters *c = &cbw->clusters;
    uint64_t wide = tm_max(WIDE >> c->shift, 1);
    uint64_t from = tm_align_down(first, wide), to = tm_min(tm_align_up(end, wide), c->n);

    if (cbw_clusters_pending(c, first, end) == end)
        return 0;
    if ((from < first || end < to) && copy_clusters(cbw, from, to, BLK_COPY_SOON, copied) == 0)
        return 0;
    return copy_clusters(cbw, first, end, BLK_COPY_SOON, copied);
}

/* ---- with a limit */

/* A copy that somebody waits for, or no more; cbw->lock guards what both check. */
typedef struct Limited {
    Cbw *cbw;
    uint64_t first, end;
    BlkCopied copied;
    int result;
    bool done, left; /* the copy is made; who waited has left */
    pthread_cond_t ended;
} Limited;

static void limited_free(Limited *l)
{
    pthread_cond_destroy(&l->ended);
    g_free(l);
}

static void *limited_run(void *opaque)
{
    Limited *l = opaque;
    Cbw *cbw = l->cbw;
    int ret = copy_for_write(cbw, l->first, l->end, &l->copied);
    TM_GUARD(&cbw->lock);

    l->result = ret;
    l->done = true;
    if (l->left)
        limited_free(l);
    else
        pthread_cond_signal(&l->ended);
    cbw->threads--;
    pthread_cond_broadcast(&cbw->changed);
    return NULL;
}

static Limited *limited_new(Cbw *cbw, uint64_t first, uint64_t end)
{
    Limited *l = g_new0(Limited, 1);
    pthread_condattr_t clock;

    *l = (Limited){ .cbw = cbw, .first = first, .end = end };
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&l->ended, &clock);
    pthread_condattr_destroy(&clock);
    return l;
}

static bool start(Limited *l)
{
    pthread_attr_t detached;
    pthread_t thread;
    bool ok;
    TM_GUARD(&l->cbw->lock);

    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    ok = pthread_create(&thread, &detached, limited_run, l) == 0;
    pthread_attr_destroy(&detached);
    l->cbw->threads += ok;
    return ok;
}

/* *on_source: as of a failure. */
static int wait_for(Limited *l, bool *on_source)
{
    Cbw *cbw = l->cbw;
    struct timespec until;
    int ret;
    TM_GUARD(&cbw->lock);

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += cbw->timeout;
    while (!l->done && pthread_cond_timedwait(&l->ended, &cbw->lock, &until) != ETIMEDOUT)
        ;
    if (!l->done) {
        l->left = true;
        return -ETIMEDOUT;
    }
    ret = l->result;
    *on_source = l->copied.on_source;
    limited_free(l);
    return ret;
}

static int copy_limited(Cbw *cbw, uint64_t first, uint64_t end, bool *on_source)
{
    Limited *l;

    if (cbw_clusters_pending(&cbw->clusters, first, end) == end)
        return 0;
    l = limited_new(cbw, first, end);
    if (start(l))
        return wait_for(l, on_source);
    limited_free(l);
    return -EAGAIN;
}

/* ---- before a write */

void blk_cbw_before_write(void *handle, uint64_t offset, uint64_t length)
{
    Cbw *cbw = handle;
    uint64_t first = offset >> cbw->clusters.shift;
    uint64_t end = cbw_clusters_up(&cbw->clusters, offset + length);
    BlkCopied copied = { .data = 0 };

    if (length <= PIECE && !cbw_broken(cbw) && !(cbw->copy_flags & BLK_COPY_COMPRESS) &&
        first < end && cbw_clusters_pending(&cbw->clusters, first, end) < end)
        copy_clusters(cbw, first, end, BLK_COPY_AT_ONCE, &copied);
}

static void set_broken(Cbw *cbw, int error, bool on_source)
{
    int not_yet = 0;

    if (__atomic_compare_exchange_n(&cbw->broken, &not_yet, error, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE) &&
        cbw->failed)
        cbw->failed(cbw->opaque, error, on_source);
}

int cbw_before_write(Cbw *cbw, uint64_t offset, uint64_t length)
{
    uint64_t first = offset >> cbw->clusters.shift;
    uint64_t end = cbw_clusters_up(&cbw->clusters, offset + length);
    BlkCopied copied = { .data = 0 };
    bool on_source = false;
    int ret;

    if (cbw_broken(cbw))
        return 0;
    if (cbw->timeout) {
        ret = copy_limited(cbw, first, end, &on_source);
    } else {
        ret = copy_for_write(cbw, first, end, &copied);
        on_source = copied.on_source;
    }
    if (ret == 0 || cbw_broken(cbw))
        return 0;
    if (cbw->break_snapshot)
        set_broken(cbw, -ret, on_source);
    else if (cbw->failed)
        cbw->failed(cbw->opaque, -ret, on_source);
    return cbw->break_snapshot ? 0 : ret;
}

/* ---- for others */

/* In flight, as the writes are that copy: the filter's children stay what they are. */
int blk_cbw_copy(BlkNode *filter, uint64_t offset, uint64_t length, BlkCopied *copied)
{
    Cbw *cbw = cbw_of(filter);
    int ret;

    if (!cbw || !tm_range_within(offset, length, cbw->clusters.size))
        return -EINVAL;
    blk_inflight_shared(&filter->inflight, offset, length);
    ret = copy_clusters(cbw, offset >> cbw->clusters.shift,
                        cbw_clusters_up(&cbw->clusters, offset + length), 0, copied);
    blk_inflight_shared_end(&filter->inflight, offset, length);
    return ret;
}

/* Which of [first, end) were in the target is reported by and by: *at, *stop; false: no more. A
 * scratch node has nothing but copies: what lies between them is of no interest, and one discard
 * costs less than many. */
static bool release_some(Cbw *cbw, uint64_t first, uint64_t end, uint64_t *at, uint64_t *stop)
{
    bool only_copies =
        blk_host_handle(blk_node_child(cbw->node, CBW_TARGET), &blk_driver_scratch) != NULL;
    TM_GUARD(&cbw->lock);

    while (is_busy(cbw, first, end))
        pthread_cond_wait(&cbw->changed, &cbw->lock);
    while (first < end) {
        CbwState state;

        *at = first;
        *stop = end;
        state = cbw_clusters_run(&cbw->clusters, first, stop);
        if (state == CBW_COPIED && only_copies)
            *stop = end;
        cbw_clusters_settle(&cbw->clusters, *at, *stop, false);
        if (state == CBW_COPIED)
            return true;
        first = *stop;
    }
    return false;
}

int blk_cbw_release(BlkNode *filter, uint64_t offset, uint64_t length)
{
    Cbw *cbw = cbw_of(filter);
    uint64_t first, end, at, stop;
    int ret = 0;

    if (!cbw || !tm_range_within(offset, length, cbw->clusters.size))
        return cbw ? -EINVAL : -ENOTSUP;
    first = cbw_clusters_up(&cbw->clusters, offset);
    end = offset + length == cbw->clusters.size ? cbw->clusters.n
                                                : (offset + length) >> cbw->clusters.shift;
    while (ret == 0 && first < end && release_some(cbw, first, end, &at, &stop)) {
        uint64_t from = cbw_clusters_offset(&cbw->clusters, at);

        ret = blk_node_discard(blk_node_child(cbw->node, CBW_TARGET), from,
                               cbw_clusters_offset(&cbw->clusters, stop) - from, 0);
        first = stop;
    }
    return ret;
}

uint64_t blk_cbw_skip(BlkNode *filter, uint64_t offset, uint64_t length)
{
    Cbw *cbw = cbw_of(filter);
    CbwClusters *c = &cbw->clusters;
    uint64_t at = cbw_clusters_up(c, offset), stop, skipped = 0;
    uint64_t end = offset + length == c->size ? c->n : (offset + length) >> c->shift;
    TM_GUARD(&cbw->lock);

    while (is_busy(cbw, at, end))
        pthread_cond_wait(&cbw->changed, &cbw->lock);
    while (at < end && (at = cbw_clusters_pending(c, at, end)) < end) {
        stop = end;
        cbw_clusters_run(c, at, &stop);
        cbw_clusters_settle(c, at, stop, false);
        skipped += cbw_clusters_offset(c, stop) - cbw_clusters_offset(c, at);
        at = stop;
    }
    return skipped;
}

bool blk_cbw_next(BlkNode *filter, uint64_t from, uint64_t max, uint64_t *offset, uint64_t *length)
{
    Cbw *cbw = cbw_of(filter);
    const CbwClusters *c = &cbw->clusters;
    uint64_t at = from < c->size ? cbw_clusters_pending(c, from >> c->shift, c->n) : c->n, end;

    if (at == c->n || cbw_broken(cbw))
        return false;
    end = tm_min(c->n, at + tm_max(max >> c->shift, 1));
    cbw_clusters_run(c, at, &end);
    *offset = cbw_clusters_offset(c, at);
    *length = cbw_clusters_offset(c, end) - *offset;
    return true;
}

uint64_t blk_cbw_remaining(BlkNode *filter)
{
    const CbwClusters *c = &cbw_of(filter)->clusters;
    uint64_t n = cbw_clusters_count_pending(c);

    /* All but the last one are whole. */
    if (n && cbw_clusters_pending(c, c->n - 1, c->n) < c->n)
        return ((n - 1) << c->shift) + c->size - cbw_clusters_offset(c, c->n - 1);
    return n << c->shift;
}

void blk_cbw_break(BlkNode *filter, int error)
{
    int not_yet = 0;

    __atomic_compare_exchange_n(&cbw_of(filter)->broken, &not_yet, error, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_ACQUIRE);
}

int blk_cbw_broken(BlkNode *filter)
{
    return cbw_broken(cbw_of(filter));
}

void blk_cbw_stats(BlkNode *filter, BlkCbwStats *stats)
{
    Cbw *cbw = cbw_of(filter);
    TM_GUARD(&cbw->lock);

    *stats = cbw->stats;
}

void cbw_copy_init(Cbw *cbw)
{
    pthread_mutex_init(&cbw->lock, NULL);
    pthread_cond_init(&cbw->changed, NULL);
}

static void wait_for_threads(Cbw *cbw)
{
    TM_GUARD(&cbw->lock);

    while (cbw->threads)
        pthread_cond_wait(&cbw->changed, &cbw->lock);
}

void cbw_copy_destroy(Cbw *cbw)
{
    wait_for_threads(cbw);
    pthread_cond_destroy(&cbw->changed);
    pthread_mutex_destroy(&cbw->lock);
}
