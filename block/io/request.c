/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/request.c: the fast lane, and where it leaves for the blocking one.
 *
 * The fast lane walks map from the node submitted to down to a descriptor, taking each node's
 * stripe and marking each node's bitmaps on the way (a hop), and does the page-cache I/O there and
 * then. Anything that does not fit, or would wait, takes the hops back and queues the request for a
 * worker, where it restarts on the blocking lane (block/io/blocking.c). Marks made meanwhile only
 * over-report.
 *
 * Invariants:
 *  - a request in a ring holds its hops until its completion; a request queued for a worker holds
 *    none, so a worker that waits for a stripe never waits for one after it in the queue. */
#include "block/io/request.h"

#include "block/io/admission.h"
#include "block/node_internal.h"
#include "block/parents.h"
#include "block/registry.h"
#include "block/users.h"
#include "util/range.h"

#include <errno.h>
#include <string.h>

#define CONTINUE 1 /* of the fast lane: neither done nor failed, take the blocking one */
#define SHORTER  2 /* SEND: as much as sent says would do */

#define SEND_PIECE (UINT64_C(32) << 10) /* bytes that are worth a sendfile(2) of their own */

static BlkRequest *from_work(BlkWork *work)
{
    return (BlkRequest *)((char *)work - offsetof(BlkRequest, work));
}

static BlkRequest *from_aio(BlkAio *aio)
{
    return (BlkRequest *)((char *)aio - offsetof(BlkRequest, aio));
}

/* For trace points. */
static const char *const op_names[] = {
    [BLK_OP_READ] = "read",
    [BLK_OP_WRITE] = "write",
    [BLK_OP_FLUSH] = "flush",
    [BLK_OP_DISCARD] = "discard",
    [BLK_OP_WRITE_ZEROES] = "write-zeroes",
    [BLK_OP_CACHE] = "cache",
    [BLK_OP_SEND] = "send",
};

/* It does not complete at once, so it is timed. */
static void start_clock(BlkRequest *r)
{
    if (!r->began)
        r->began = tm_now_ns();
}

/* ---- the blocking lane */

static int write_blocking(BlkRequest *r, const void *buf)
{
    return blk_node_pwrite_payload(r->node, &(BlkPayload){ .buf = buf, .zeroes = r->zeroes },
                                   r->offset, r->length, r->flags);
}

/* By way of one buffer: what is blocking anyway may copy. A driver may read what it writes more
 * than once, as compression does. */
static int run_parts(BlkRequest *r)
{
    char *whole = g_try_malloc(r->length), *at = whole;
    int ret;

    if (!whole)
        return -ENOMEM;
    for (unsigned i = 0; r->op == BLK_OP_WRITE && i < r->n_iov; at += r->iov[i++].iov_len)
        memcpy(at, r->iov[i].iov_base, r->iov[i].iov_len);
    ret = r->op == BLK_OP_WRITE ? write_blocking(r, whole)
                                : blk_node_pread(r->node, whole, r->offset, r->length);
    at = whole;
    for (unsigned i = 0; r->op == BLK_OP_READ && ret == 0 && i < r->n_iov;
         at += r->iov[i++].iov_len)
        memcpy(r->iov[i].iov_base, at, r->iov[i].iov_len);
    g_free(whole);
    return ret;
}

static int run_blocking(BlkRequest *r)
{
    switch (r->op) {
    case BLK_OP_READ:
        return r->buf ? blk_node_pread(r->node, r->buf, r->offset, r->length) : run_parts(r);
    case BLK_OP_WRITE:
        return r->iov ? run_parts(r) : write_blocking(r, r->buf);
    case BLK_OP_FLUSH:
        return blk_node_flush(r->node);
    case BLK_OP_DISCARD:
        return blk_node_discard(r->node, r->offset, r->length, r->flags);
    case BLK_OP_WRITE_ZEROES:
        return blk_node_write_zeroes(r->node, r->offset, r->length, r->flags);
    case BLK_OP_CACHE:
        return blk_node_cache(r->node, r->offset, r->length);
    case BLK_OP_SEND:
        break;
    }
    return -EINVAL;
}

static bool given_up(const BlkRequest *r)
{
    return r->cancel && __atomic_load_n(r->cancel, __ATOMIC_RELAXED);
}

static void work_run(BlkWork *work)
{
    BlkRequest *r = from_work(work);
    int ret;

    TM_TRACE(io_run, r);
    blk_throttle_carry(r->passed, r->cancel);
    ret = given_up(r) ? -ESHUTDOWN : run_blocking(r);
    blk_throttle_carry(NULL, NULL);
    blk_worker_quota_end(&r->node->quota); /* with the end the node may go */
    blk_request_done(r, ret);
}

static int to_worker(BlkRequest *r)
{
    start_clock(r);
    TM_TRACE(io_lane, r, "worker");
    if (blk_long_requests_wanted(r)) {
        blk_long_requests_add(r);
        return -EINPROGRESS;
    }
    r->work.run = work_run;
    blk_worker_quota_add(&r->node->quota, &r->work);
    return -EINPROGRESS;
}

/* ---- hops */

static bool hop_enter(BlkRequest *r, BlkNode *node, uint64_t offset)
{
    unsigned i = r->n_hops;

    if (i == BLK_HOPS || !blk_inflight_try_shared(&node->inflight, offset, r->length))
        return false;
    /* It may just have shrunk, or become read-only, or a throttle's. */
    if (!tm_range_within(offset, r->length, blk_node_size(node)) || !node->open ||
        (r->op == BLK_OP_WRITE && node->read_only) ||
        (node->throttle && !blk_throttle_passed(r->passed, node->throttle))) {
        blk_inflight_shared_end(&node->inflight, offset, r->length);
        return false;
    }
    r->hop[i].node = node;
    r->hop[i].offset = offset;
    if (r->op != BLK_OP_WRITE) {
        r->n_hops = i + 1;
        return true;
    }
    /* Other parents that see the change are left to the blocking lane. */
    if (blk_parents_beside(node, i ? r->hop[i - 1].node : NULL, offset, r->length) ||
        !bmp_set_mark_try_begin(node->bitmaps, offset, r->length, &r->hop[i].epoch)) {
        blk_inflight_shared_end(&node->inflight, offset, r->length);
        return false;
    }
    if (node->driver->wrote)
        node->driver->wrote(node->handle, offset, r->length);
    r->n_hops = i + 1;
    return true;
}

/* @wrote: the data may have reached the descriptor, so the epochs are checked. */
static void hops_leave(BlkRequest *r, bool wrote)
{
    while (r->n_hops) {
        BlkNode *node = r->hop[--r->n_hops].node;
        uint64_t offset = r->hop[r->n_hops].offset;

        if (wrote) {
            if (node->driver->wrote)
                node->driver->wrote(node->handle, offset, r->length);
            bmp_set_mark_end(node->bitmaps, offset, r->length, r->hop[r->n_hops].epoch);
        }
        blk_inflight_shared_end(&node->inflight, offset, r->length);
    }
}

static void hops_count(BlkRequest *r, int result, bool at_once)
{
    BlkCount what = r->op == BLK_OP_WRITE ? BLK_COUNT_WRITE : BLK_COUNT_READ;
    uint64_t length = r->op == BLK_OP_SEND ? r->sent : r->length;

    r->took = blk_counters_took(&r->node->counters, what, r->began, at_once && r->sampled);
    for (unsigned i = 0; i < r->n_hops; i++)
        blk_counters_add(&r->hop[i].node->counters, what, r->hop[i].offset, length, result,
                         r->took);
}

/* ---- the medium */

static void transferred(BlkRequest *r, int64_t result)
{
    bool whole = result == (int64_t)r->length;

    /* What is short, interrupted or not supported that way is done again the plain way, which is
     * right for both: reads have no effect and writes are repeatable. */
    bool final = whole || (result < 0 && result != -EAGAIN && result != -EINTR &&
                           result != -EOPNOTSUPP && result != -EINVAL);

    if (final)
        hops_count(r, whole ? 0 : (int)result, false);
    hops_leave(r, r->op == BLK_OP_WRITE);
    if (final)
        blk_request_done(r, whole ? 0 : (int)result);
    else
        to_worker(r);
}

static void aio_done(BlkAio *aio, int64_t result)
{
    transferred(from_aio(aio), result);
}

void blk_transfer_done(struct tidemark_transfer *t, int result)
{
    transferred((BlkRequest *)((char *)t - offsetof(BlkRequest, transfer)),
                result ? result : (int64_t)t->length);
}

static int to_medium(BlkRequest *r, BlkNode *node, const struct tidemark_mapping *m)
{
    if (r->at_once || !(node->info_flags & TIDEMARK_INFO_IO_URING))
        return CONTINUE;
    start_clock(r);
    r->aio = (BlkAio){
        .op = r->op == BLK_OP_READ ? BLK_AIO_READ : BLK_AIO_WRITE,
        .fd = m->fd,
        .buf = r->buf,
        .iov = r->iov,
        .n_iov = r->n_iov,
        .offset = m->offset,
        .length = r->length,
        .done = aio_done,
    };
    TM_TRACE(io_lane, r, "io_uring");
    return blk_engine_aio(blk_graph_engine(node->graph), &r->aio) ? -EINPROGRESS : CONTINUE;
}

/* ---- the fast lane: each returns 0 or -errno when done, -EINPROGRESS or CONTINUE */

/* What the socket says, not the file. */
static bool of_the_socket(int err)
{
    return err == EAGAIN || err == EINTR || err == EPIPE || err == ECONNRESET;
}

static int send_range(BlkRequest *r, BlkNode *node, const struct tidemark_mapping *m)
{
    const TmSys *sys = node->graph_sys;
    ssize_t n;

    if (!sys->sendfile || m->flags & TIDEMARK_MAPPED_DIRECT)
        return CONTINUE;
    if (node->info_flags & TIDEMARK_INFO_WOULD_BLOCK &&
        (!sys->cached || sys->cached(m->fd, (off_t)m->offset, r->length, true) <= 0))
        return CONTINUE;
    if (r->socket < 0)
        return 0;
    for (unsigned i = 0; i < r->n_hops; i++)
        __atomic_store_n(&r->hop[i].node->sendfile_used, true, __ATOMIC_RELEASE);
    n = sys->sendfile(r->socket, m->fd, (off_t)m->offset, r->length);
    if (n > 0)
        r->sent = (size_t)n;
    return n > 0 ? 0 : n < 0 && of_the_socket(errno) ? -errno : CONTINUE;
}

/* The parts in memory; *n of them. */
static const struct iovec *parts(BlkRequest *r, unsigned *n)
{
    *n = r->buf ? 1 : r->n_iov;
    if (!r->buf)
        return r->iov;
    r->whole = (struct iovec){ r->buf, r->length };
    return &r->whole;
}

/* What O_DIRECT checks: all addresses and lengths, one or another. */
static uintptr_t memory_bits(BlkRequest *r)
{
    uintptr_t bits = 0;
    unsigned n;
    const struct iovec *iov = parts(r, &n);

    for (unsigned i = 0; i < n; i++)
        bits |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
    return bits;
}

static int descriptor_io(BlkRequest *r, BlkNode *node, const struct tidemark_mapping *m)
{
    const TmSys *sys = node->graph_sys;
    const struct iovec *iov;
    unsigned n_iov;
    ssize_t n;

    if (r->op == BLK_OP_SEND)
        return send_range(r, node, m);
    if (r->flags & TIDEMARK_FUA)
        return CONTINUE; /* the blocking lane writes, then syncs as a flush does */
    if (m->flags & TIDEMARK_MAPPED_DIRECT) {
        uint64_t mask = node->request_alignment - 1;

        return (memory_bits(r) | m->offset | r->length) & mask ? CONTINUE : to_medium(r, node, m);
    }
    iov = parts(r, &n_iov);
    if (r->op == BLK_OP_READ) {
        n = sys->preadv2(m->fd, iov, (int)n_iov, (off_t)m->offset,
                         node->info_flags & TIDEMARK_INFO_WOULD_BLOCK ? RWF_NOWAIT : 0);
        if (n == (ssize_t)r->length)
            return 0;
        return n < 0 && errno == EAGAIN ? to_medium(r, node, m) : CONTINUE;
    }
    n = sys->pwritev2(m->fd, iov, (int)n_iov, (off_t)m->offset, 0);
    /* Errors, too: the blocking lane reports them exactly. */
    return n == (ssize_t)r->length ? 0 : CONTINUE;
}

/* The driver completes it later. */
static int to_driver(BlkRequest *r, BlkNode *node, uint64_t offset)
{
    if (!r->buf || r->at_once || r->flags & TIDEMARK_FUA)
        return CONTINUE;
    r->transfer = (struct tidemark_transfer){
        .buf = r->buf,
        .offset = offset,
        .length = r->length,
        .write = r->op == BLK_OP_WRITE,
    };
    TM_TRACE(io_lane, r, "driver");
    return node->driver->start(node->handle, &r->transfer) == 0 ? -EINPROGRESS : CONTINUE;
}

static int self_io(BlkRequest *r, BlkNode *node, uint64_t offset)
{
    const struct tidemark_driver *driver = node->driver;
    int ret;

    if (node->driver->start)
        return to_driver(r, node, offset);
    if (!r->buf)
        return CONTINUE;
    if (r->op == BLK_OP_READ)
        return driver->pread ? driver->pread(node->handle, r->buf, offset, r->length, 0) : CONTINUE;
    if (!driver->pwrite || (r->flags & TIDEMARK_FUA) ||
        (offset | r->length) &
            (node->request_alignment - 1)) /* blocking.c excludes the neighbours */
        return CONTINUE;
    ret = driver->pwrite(node->handle, r->buf, offset, r->length, 0);
    return ret == -EBUSY ? CONTINUE : ret;
}

/* Whether @node would write it as zeroes, which the blocking lane does. */
static bool detects(BlkRequest *r, const BlkNode *node)
{
    const struct iovec *iov;
    unsigned n;

    if (r->op != BLK_OP_WRITE || !__atomic_load_n(&node->detect, __ATOMIC_RELAXED))
        return false;
    iov = parts(r, &n);
    for (unsigned i = 0; i < n; i++) {
        if (!blk_node_detects(node, iov[i].iov_base, iov[i].iov_len, r->zeroes))
            return false;
    }
    r->zeroes = true;
    return true;
}

static void fill_zeroes(BlkRequest *r)
{
    unsigned n;
    const struct iovec *iov = parts(r, &n);

    for (unsigned i = 0; i < n; i++)
        memset(iov[i].iov_base, 0, iov[i].iov_len);
}

static int fast_lane(BlkRequest *r)
{
    BlkNode *node = r->node;
    uint64_t offset = r->offset;
    uint32_t purpose = r->op == BLK_OP_WRITE ? TIDEMARK_MAP_FOR_WRITE : TIDEMARK_MAP_FOR_READ;

    for (;;) {
        struct tidemark_mapping m;

        if (node->driver->flags & TIDEMARK_DRIVER_SERIALIZED || detects(r, node) ||
            !hop_enter(r, node, offset))
            return CONTINUE;
        if (r->op == BLK_OP_WRITE && node->builtin->before_write)
            node->builtin->before_write(node->handle, offset, r->length);
        if (blk_node_map(node, offset, r->length, purpose, &m) < 0)
            return CONTINUE;
        if (m.length < r->length) {
            r->sent = m.length;
            return r->op == BLK_OP_SEND ? SHORTER : CONTINUE;
        }
        switch (m.kind) {
        case TIDEMARK_MAP_FD:
            return descriptor_io(r, node, &m);
        case TIDEMARK_MAP_CHILD:
            if (r->op == BLK_OP_SEND && m.flags & TIDEMARK_MAPPED_MOVES &&
                !blk_node_can_invalidate(blk_node_child_at(node, m.child), node->cluster))
                return CONTINUE;
            node = blk_node_child_at(node, m.child);
            offset = m.offset;
            break;
        case TIDEMARK_MAP_ZERO:
            if (r->op == BLK_OP_SEND)
                return CONTINUE;
            fill_zeroes(r);
            return 0;
        case TIDEMARK_MAP_BACKING:
            node = blk_node_backing(node);
            if (!node)
                return CONTINUE;
            break;
        default:
            return (m.flags & TIDEMARK_MAPPED_INLINE || node->driver->start) && r->op != BLK_OP_SEND
                       ? self_io(r, node, offset)
                       : CONTINUE;
        }
    }
}

/* ---- the beginning */

static int begin(BlkRequest *r)
{
    BlkNode *node = r->node;
    int ret;

    if (r->op != BLK_OP_FLUSH && !tm_range_within(r->offset, r->length, blk_node_size(node)))
        return r->op == BLK_OP_READ || r->op == BLK_OP_CACHE ? -EINVAL : -ENOSPC;
    if (r->op == BLK_OP_READ || r->op == BLK_OP_WRITE) {
        if (r->op == BLK_OP_WRITE && blk_node_read_only(node))
            return -EPERM;
        if (!r->length)
            return 0;
        if (!blk_admit(r))
            return -EINPROGRESS;
        ret = fast_lane(r);
        if (ret == -EINPROGRESS)
            return ret;
        if (ret != CONTINUE) {
            TM_TRACE(io_lane, r, "fast");
            hops_count(r, ret, true);
        }
        hops_leave(r, r->op == BLK_OP_WRITE && r->n_hops);
        if (ret != CONTINUE)
            return ret;
    } else if (r->op != BLK_OP_FLUSH && !r->length) {
        return 0;
    } else if (!blk_admit(r)) {
        return -EINPROGRESS;
    }
    return to_worker(r);
}

/* One that had to wait for a throttle. */
static void begin_again(BlkWork *work)
{
    BlkRequest *r = from_work(work);
    BlkEngine *engine = blk_graph_engine(r->node->graph);
    int ret;

    blk_worker_quota_end(&r->node->quota);
    ret = given_up(r) ? -ESHUTDOWN : begin(r);
    if (ret != -EINPROGRESS)
        blk_request_done(r, ret);
    blk_engine_kick(engine);
}

static void may_go(BlkWaiter *waiter)
{
    BlkRequest *r = (BlkRequest *)((char *)waiter - offsetof(BlkRequest, waiter));

    start_clock(r);
    r->work.run = begin_again;
    blk_worker_quota_add(&r->node->quota, &r->work);
}

static int submit(BlkNode *node, BlkRequest *r)
{
    r->node = node;
    r->n_hops = 0;
    r->passed[0] = NULL;
    r->took = (BlkTook){ 0 };
    r->waiter.go = may_go;
    r->at_once = false;
    r->zeroes = false;
    r->work.background = false; /* unless the node says so */
    r->sampled = (r->op == BLK_OP_READ || r->op == BLK_OP_WRITE) &&
                 !__atomic_load_n(&node->traffic->throttles, __ATOMIC_RELAXED);
    r->began = r->sampled
                   ? blk_counters_begin(&node->counters,
                                        r->op == BLK_OP_READ ? BLK_COUNT_READ : BLK_COUNT_WRITE)
                   : tm_now_ns();
    TM_TRACE(io_begin, r, node->name, op_names[r->op], r->offset, r->length);
    return begin(r);
}

int blk_submit(BlkNode *node, BlkRequest *r)
{
    int ret;

    r->user = NULL;
    ret = submit(node, r);
    if (ret != -EINPROGRESS)
        TM_TRACE(io_end, r, -ret);
    return ret;
}

int blk_try(BlkNode *node, BlkOp op, void *buf, uint64_t offset, uint64_t length)
{
    BlkRequest r = { .op = op,
                     .offset = offset,
                     .length = length,
                     .buf = buf,
                     .node = node,
                     .sampled = true,
                     .at_once = true };
    int ret;

    r.began =
        blk_counters_begin(&node->counters, op == BLK_OP_READ ? BLK_COUNT_READ : BLK_COUNT_WRITE);
    ret = fast_lane(&r);
    if (ret == 0)
        hops_count(&r, 0, true);
    hops_leave(&r, op == BLK_OP_WRITE && r.n_hops);
    return ret == 0 ? 0 : -EAGAIN;
}

static int try_send(BlkRequest *r, BlkNode *node)
{
    int ret;

    r->node = node;
    if (!tm_range_within(r->offset, r->length, blk_node_size(node)))
        return -EINVAL;
    while ((ret = fast_lane(r)) == SHORTER) {
        hops_leave(r, false);
        r->length = r->sent;
    }
    if (ret == 0 && r->socket >= 0)
        hops_count(r, 0, true);
    hops_leave(r, false);
    return ret;
}

ssize_t blk_send(BlkNode *node, int socket, uint64_t offset, uint64_t length)
{
    BlkRequest r = {
        .op = BLK_OP_SEND,
        .offset = offset,
        .length = length,
        .socket = socket,
        .sampled = true,
        .began = blk_counters_begin(&node->counters, BLK_COUNT_READ),
    };
    int ret = try_send(&r, node);

    return ret == 0 ? (ssize_t)r.sent : ret < 0 && of_the_socket(-ret) ? ret : -ENOTSUP;
}

bool blk_can_send(BlkNode *node, uint64_t offset, uint64_t length)
{
    for (uint64_t pieces = 1, covered = 0; length; pieces++) {
        BlkRequest r = { .op = BLK_OP_SEND, .offset = offset, .length = length, .socket = -1 };

        if (try_send(&r, node) != 0)
            return false;
        offset += r.length;
        length -= r.length;
        covered += r.length;
        if (covered < (pieces - 1) * SEND_PIECE)
            return false;
    }
    return true;
}

/* ---- for users */

/* One that was parked, on a worker; the gate lets it in. */
static void parked_run(BlkWork *work)
{
    BlkRequest *r = from_work(work);
    BlkUser *user = r->user;
    int ret;

    blk_worker_quota_end(&user->node->quota);
    ret = submit(user->node, r);
    if (ret != -EINPROGRESS)
        blk_request_done(r, ret);
}

int blk_user_submit(BlkUser *user, BlkRequest *r)
{
    int ret;

    r->user = user;
    r->work.run = parked_run;
    r->work.background = false; /* unless the node says so */
    if (!blk_gate_enter(&user->gate, &r->work))
        return -EINPROGRESS;
    ret = submit(user->node, r);
    if (ret != -EINPROGRESS) {
        TM_TRACE(io_end, r, -ret);
        blk_gate_leave(&user->gate);
    }
    return ret;
}

ssize_t blk_user_send(BlkUser *user, int socket, uint64_t offset, uint64_t length)
{
    ssize_t n = blk_send(blk_user_enter(user), socket, offset, length);

    blk_user_leave(user);
    return n;
}

bool blk_user_can_send(BlkUser *user, uint64_t offset, uint64_t length)
{
    bool can = blk_can_send(blk_user_enter(user), offset, length);

    blk_user_leave(user);
    return can;
}

void blk_user_work(BlkUser *user, BlkWork *work)
{
    if (blk_gate_enter(&user->gate, work))
        blk_node_work(user->node, work);
}

void blk_user_worked(BlkUser *user)
{
    blk_node_worked(user->node);
    blk_gate_leave(&user->gate);
}

/* ---- other work */

void blk_node_work(BlkNode *node, BlkWork *work)
{
    blk_worker_quota_add(&node->quota, work);
}

void blk_node_worked(BlkNode *node)
{
    blk_worker_quota_end(&node->quota);
}
