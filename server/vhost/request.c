/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/request.c: requests of the virtio block device, from the parts of a chain to the
 * block layer, which reads and writes the guest's memory in place, and back.
 *
 * Source: Virtio 1.2, "Block Device", "Device Operation". */
#include "server/vhost/vhost_internal.h"

#include "util/endian.h"
#include "util/range.h"

#include <errno.h>
#include <linux/virtio_blk.h>

#define HEADER  16u /* bytes that a request begins with */
#define SEGMENT 16u /* of a discard or write of zeroes */

/* Takes @n bytes off the beginning of the parts: they may be spread over several. */
static bool take(struct iovec **parts, unsigned *count, void *to, size_t n)
{
    uint8_t *at = to;

    while (n && *count) {
        struct iovec *part = *parts;
        size_t some = MIN(n, part->iov_len);

        memcpy(at, part->iov_base, some);
        at += some;
        n -= some;
        part->iov_base = (uint8_t *)part->iov_base + some;
        part->iov_len -= some;
        if (!part->iov_len) {
            ++*parts;
            --*count;
        }
    }
    return n == 0;
}

static uint64_t length_of(const struct iovec *parts, unsigned count)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < count; i++)
        sum += parts[i].iov_len;
    return sum;
}

static uint8_t result_of(int ret)
{
    return ret == 0 ? VIRTIO_BLK_S_OK : ret == -ENOTSUP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

/* The block layer is done with it. false: it was given up, and stays in flight for whoever is next
 * (inflight.c). */
static bool finish(VhostRequest *r, int ret)
{
    if (ret == -ESHUTDOWN && __atomic_load_n(&r->queue->session->cut, __ATOMIC_ACQUIRE))
        return false;
    blk_export_count(r->queue->session->export_->blk, &r->blk, ret);
    *r->status = result_of(ret);
    return true;
}

static void done(BlkRequest *blk, int ret)
{
    VhostRequest *r = (VhostRequest *)((char *)blk - offsetof(VhostRequest, blk));
    VhostQueue *q = r->queue;
    VhostSession *s = q->session;

    if (finish(r, ret))
        vhost_ring_push(q, &r, 1);
    pthread_mutex_lock(&q->lock);
    __atomic_sub_fetch(&q->in_flight, 1, __ATOMIC_ACQ_REL);
    vhost_queue_settle(q);
    pthread_mutex_unlock(&q->lock);
    vhost_session_unref(s);
}

/* Whether it has completed. */
static bool submit(VhostRequest *r, BlkOp op, uint64_t offset, uint64_t length, uint32_t flags)
{
    VhostQueue *q = r->queue;
    bool finished;
    int ret;

    r->blk.op = op;
    r->blk.flags = flags;
    r->blk.offset = offset;
    r->blk.length = length;
    r->blk.done = done;
    r->blk.cancel = &q->session->cut;
    vhost_session_ref(q->session);
    __atomic_add_fetch(&q->in_flight, 1, __ATOMIC_RELAXED);
    ret = blk_user_submit(q->session->disk, &r->blk);
    if (ret == -EINPROGRESS)
        return false;
    finished = finish(r, ret);
    __atomic_sub_fetch(&q->in_flight, 1, __ATOMIC_RELAXED);
    vhost_session_unref(q->session);
    return finished;
}

static bool answer(VhostRequest *r, uint8_t status)
{
    *r->status = status;
    return true;
}

/* Whether a range of sectors is one of the disk's, in blocks. */
static bool in_range(const VhostRequest *r, uint64_t sector, uint64_t length)
{
    uint32_t mask = r->queue->session->export_->block_size - 1;

    return sector < TM_SIZE_MAX / 512 && !((sector * 512 | length) & mask);
}

/* A driver that doesn't flush has no write cache. */
static uint32_t durable(const VhostRequest *r)
{
    VhostSession *s = r->queue->session;

    return blk_export_writethrough(s->export_->blk) || !VHOST_HAS(s, VIRTIO_BLK_F_FLUSH)
               ? TIDEMARK_FUA
               : 0;
}

static bool transfer(VhostRequest *r, BlkOp op, uint64_t sector, struct iovec *parts, unsigned n)
{
    uint64_t length = length_of(parts, n);

    if (!in_range(r, sector, length) || length > VHOST_DATA_MAX)
        return answer(r, VIRTIO_BLK_S_IOERR);
    r->blk.buf = n == 1 ? parts[0].iov_base : NULL;
    r->blk.iov = parts;
    r->blk.n_iov = n;
    if (op == BLK_OP_READ)
        r->written = (uint32_t)length + 1;
    return submit(r, op, sector * 512, length, op == BLK_OP_WRITE ? durable(r) : 0);
}

static bool clear(VhostRequest *r, BlkOp op, struct iovec *parts, unsigned n)
{
    uint8_t segment[SEGMENT];
    uint64_t sector, length;
    uint32_t flags, known = op == BLK_OP_DISCARD ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

    if (length_of(parts, n) != SEGMENT || !take(&parts, &n, segment, SEGMENT))
        return answer(r, VIRTIO_BLK_S_IOERR);
    sector = tm_get_le64(segment);
    length = UINT64_C(512) * tm_get_le32(segment + 8);
    flags = tm_get_le32(segment + 12);
    if (flags & ~known)
        return answer(r, VIRTIO_BLK_S_UNSUPP);
    if (!in_range(r, sector, length))
        return answer(r, VIRTIO_BLK_S_IOERR);
    return submit(r, op, sector * 512, length, durable(r) | (flags ? TIDEMARK_MAY_UNMAP : 0));
}

static bool identify(VhostRequest *r, const struct iovec *parts, unsigned n)
{
    char id[VIRTIO_BLK_ID_BYTES + 1] = { 0 }, *at = id;
    size_t left = VIRTIO_BLK_ID_BYTES;

    g_strlcpy(id, blk_export_id(r->queue->session->export_->blk), sizeof(id));
    for (unsigned i = 0; i < n && left; i++) {
        size_t some = MIN(left, parts[i].iov_len);

        memcpy(parts[i].iov_base, at, some);
        at += some;
        left -= some;
    }
    r->written = (uint32_t)(at - id) + 1;
    return answer(r, VIRTIO_BLK_S_OK);
}

static bool run(VhostRequest *r, uint32_t type, uint64_t sector, struct iovec *out, unsigned n_out,
                struct iovec *in, unsigned n_in)
{
    bool writable = blk_export_writable(r->queue->session->export_->blk);

    switch (type) {
    case VIRTIO_BLK_T_IN:
        return transfer(r, BLK_OP_READ, sector, in, n_in);
    case VIRTIO_BLK_T_OUT:
        return writable ? transfer(r, BLK_OP_WRITE, sector, out, n_out)
                        : answer(r, VIRTIO_BLK_S_IOERR);
    case VIRTIO_BLK_T_FLUSH:
        return submit(r, BLK_OP_FLUSH, 0, 0, 0);
    case VIRTIO_BLK_T_GET_ID:
        return identify(r, in, n_in);
    case VIRTIO_BLK_T_DISCARD:
        return writable ? clear(r, BLK_OP_DISCARD, out, n_out) : answer(r, VIRTIO_BLK_S_IOERR);
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return writable ? clear(r, BLK_OP_WRITE_ZEROES, out, n_out) : answer(r, VIRTIO_BLK_S_IOERR);
    default:
        return answer(r, VIRTIO_BLK_S_UNSUPP);
    }
}

bool vhost_request_start(VhostRequest *r)
{
    struct iovec *out = r->parts, *in = r->parts + r->n_out, *last;
    unsigned n_out = r->n_out, n_in = r->n - r->n_out;
    uint8_t header[HEADER];

    r->written = 0;
    if (!n_in || !take(&out, &n_out, header, HEADER))
        return true; /* no place for a status, or nothing to do: given back as it is */
    last = &in[n_in - 1];
    last->iov_len--;
    r->status = (uint8_t *)last->iov_base + last->iov_len;
    n_in -= !last->iov_len;
    r->written = 1;
    return run(r, tm_get_le32(header), tm_get_le64(header + 8), out, n_out, in, n_in);
}
