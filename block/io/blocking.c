/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/blocking.c: the blocking lane: I/O that may wait, down the graph, as map answers.
 *
 * Invariants:
 *  - every node on the way counts the request in flight and, for changes, marks its bitmaps before
 *    the first byte is touched and checks the epoch after the last;
 *  - stripes are taken parents first. */
#include "block/io/change.h"
#include "block/io/throttle.h"
#include "block/losses.h"
#include "block/node_internal.h"
#include "block/parents.h"

#include "util/range.h"

#include <errno.h>
#include <string.h>

#define ZEROES_CHUNK ((uint64_t)1 << 20)

/* Whether the descriptor takes this transfer as it is; else the driver's callback bounces it. */
static bool direct_fits(const BlkNode *node, const struct tidemark_mapping *m, const void *buf,
                        uint64_t length)
{
    uint64_t mask = node->request_alignment - 1;

    return !(m->flags & TIDEMARK_MAPPED_DIRECT) || !(((uintptr_t)buf | m->offset | length) & mask);
}

/* ---- reading */

static int read_self(BlkNode *node, void *buf, uint64_t offset, uint64_t length)
{
    int ret;

    if (!node->driver->pread)
        return -EIO;
    blk_node_serial_begin(node);
    ret = node->driver->pread(node->handle, buf, offset, length, 0);
    blk_node_serial_end(node);
    return ret;
}

/* A shorter backing reads as zeroes beyond its end. */
static int read_backing(BlkNode *node, char *buf, uint64_t offset, uint64_t length)
{
    BlkNode *backing = blk_node_backing(node);
    uint64_t size = backing ? blk_node_size(backing) : 0;
    uint64_t there = offset < size ? tm_min(length, size - offset) : 0;

    memset(buf + there, 0, length - there);
    return there ? blk_node_pread(backing, buf, offset, there) : 0;
}

static int read_piece(BlkNode *node, char *buf, uint64_t offset, struct tidemark_mapping *m)
{
    switch (m->kind) {
    case TIDEMARK_MAP_FD:
        if (direct_fits(node, m, buf, m->length))
            return blk_fd_pread(blk_graph_sys(node->graph), m->fd, buf, m->offset, m->length);
        return read_self(node, buf, offset, m->length);
    case TIDEMARK_MAP_CHILD:
        return blk_node_pread(blk_node_child_at(node, m->child), buf, m->offset, m->length);
    case TIDEMARK_MAP_ZERO:
        memset(buf, 0, m->length);
        return 0;
    case TIDEMARK_MAP_BACKING:
        return read_backing(node, buf, offset, m->length);
    default:
        return read_self(node, buf, offset, m->length);
    }
}

int blk_node_pread(BlkNode *node, void *buf, uint64_t offset, uint64_t length)
{
    uint64_t done = 0, began = tm_now_ns();
    int ret = 0;

    blk_throttle_pass(node, offset, length, false);
    blk_inflight_shared(&node->inflight, offset, length);
    if (!tm_range_within(offset, length, blk_node_size(node)))
        ret = -EINVAL;
    while (ret == 0 && done < length) {
        struct tidemark_mapping m;

        ret = blk_node_map(node, offset + done, length - done, TIDEMARK_MAP_FOR_READ, &m);
        if (ret == 0)
            ret = read_piece(node, (char *)buf + done, offset + done, &m);
        done += m.length;
    }
    blk_inflight_shared_end(&node->inflight, offset, length);
    blk_counters_add(&node->counters, BLK_COUNT_READ, offset, length, ret,
                     (BlkTook){ tm_now_ns() - began, 1 });
    return ret;
}

/* ---- writing */

/* The request flags that the driver is given. */
static uint32_t driver_flags(const BlkNode *node)
{
    return ~BLK_INVALIDATE & (node->info_flags & TIDEMARK_INFO_FUA ? ~0u : ~TIDEMARK_FUA);
}

/* After a callback that could not be given FUA. */
static int follow_fua(BlkNode *node, uint32_t flags)
{
    return flags & TIDEMARK_FUA & ~driver_flags(node) ? blk_node_flush(node) : 0;
}

static int pwrite_counted(BlkNode *node, const BlkPayload *payload, uint64_t at, uint64_t offset,
                          uint64_t length, uint32_t flags);

/* A driver that has something to flush has not passed all of it to its child: where the data is,
 * for one. */
static int write_child(BlkNode *node, const BlkPayload *payload, uint64_t at,
                       const struct tidemark_mapping *m, uint32_t flags)
{
    BlkNode *child = blk_node_child_at(node, m->child);
    bool own = flags & TIDEMARK_FUA && node->driver->flush;
    int ret;

    flags &= ~TIDEMARK_EXCLUSIVE;
    ret = pwrite_counted(child, payload, at, m->offset, m->length,
                         own ? flags & ~TIDEMARK_FUA : flags);
    return ret == 0 && own ? blk_node_flush(node) : ret;
}

static int write_self(BlkNode *node, const void *buf, uint64_t offset, uint64_t length,
                      uint32_t flags)
{
    int ret;

    if (!node->driver->pwrite)
        return -EIO;
    blk_node_serial_begin(node);
    ret = node->driver->pwrite(node->handle, buf, offset, length, flags & driver_flags(node));
    blk_node_serial_end(node);
    return ret == 0 ? follow_fua(node, flags) : ret;
}

static int write_fd(BlkNode *node, const BlkPayload *payload, uint64_t at,
                    const struct tidemark_mapping *m)
{
    if (payload->buf)
        return blk_fd_pwrite(blk_graph_sys(node->graph), m->fd, payload->buf + at, m->offset,
                             m->length);
    return payload->copy(payload, at, m->fd, m->offset, m->length);
}

static int write_piece(BlkNode *node, const BlkPayload *payload, uint64_t at, uint64_t offset,
                       struct tidemark_mapping *m, uint32_t flags)
{
    const char *buf = payload->buf ? payload->buf + at : NULL;

    if (m->kind == TIDEMARK_MAP_CHILD)
        return write_child(node, payload, at, m, flags);
    if (flags & TIDEMARK_COMPRESSED && !(node->info_flags & TIDEMARK_INFO_COMPRESS))
        return -ENOTSUP;
    if (m->kind == TIDEMARK_MAP_FD && direct_fits(node, m, buf, m->length)) {
        int ret = write_fd(node, payload, at, m);

        /* Not RWF_DSYNC: its failure would use up the error that later flushes must report. */
        return ret == 0 && (flags & TIDEMARK_FUA) ? blk_node_flush(node) : ret;
    }
    return buf ? write_self(node, buf, offset, m->length, flags) : -ENOTSUP;
}

/* Where the bytes of a write go. */
static int map_write(BlkNode *node, uint64_t offset, uint64_t length, uint32_t flags,
                     struct tidemark_mapping *m)
{
    *m = (struct tidemark_mapping){ .kind = TIDEMARK_MAP_SELF, .fd = -1, .length = length };
    if (flags & TIDEMARK_COMPRESSED && node->info_flags & TIDEMARK_INFO_COMPRESS)
        return 0;
    return blk_node_map(node, offset, length, TIDEMARK_MAP_FOR_WRITE, m);
}

int blk_change_write(const BlkChange *c, const BlkPayload *payload, uint64_t at, uint64_t offset,
                     uint64_t length, uint32_t flags)
{
    BlkNode *node = c->node;
    uint64_t done = 0;

    while (done < length) {
        struct tidemark_mapping m;
        int ret = map_write(node, offset + done, length - done, flags, &m);

        if (ret == 0)
            ret = write_piece(node, payload, at + done, offset + done, &m,
                              flags | (c->exclusive ? TIDEMARK_EXCLUSIVE : 0));
        if (ret == -EBUSY && !c->exclusive)
            return BLK_WANTS_EXCLUSIVE;
        if (ret < 0)
            return ret;
        done += m.length;
    }
    return 0;
}

/* A driver reads, modifies and writes the blocks at both ends: nothing else may be writing them.
 * With alignments up to a region of block/engine/inflight.h they lie in the same stripes. */
static bool wants_exclusive(const BlkChange *c, uint32_t flags)
{
    BlkNode *node = c->node;
    uint32_t mask = __atomic_load_n(&node->request_alignment, __ATOMIC_RELAXED) - 1;

    return (c->offset | c->length) & mask ||
           (flags & TIDEMARK_COMPRESSED &&
            __atomic_load_n(&node->info_flags, __ATOMIC_RELAXED) & TIDEMARK_INFO_COMPRESS);
}

static int pwrite_payload(BlkNode *node, const BlkPayload *payload, uint64_t at, uint64_t offset,
                          uint64_t length, uint32_t flags)
{
    BlkChange c = { .node = node, .offset = offset, .length = length };
    int ret;

    blk_throttle_pass(node, offset, length, true);
    c.exclusive = wants_exclusive(&c, flags);
    for (;;) {
        ret = blk_change_begin(&c);
        if (ret < 0)
            return ret;
        if (!c.exclusive && wants_exclusive(&c, flags)) /* the node was opened anew meanwhile */
            ret = BLK_WANTS_EXCLUSIVE;
        else
            ret = blk_change_write(&c, payload, at, offset, length, flags);
        blk_change_end(&c);
        if (ret != BLK_WANTS_EXCLUSIVE)
            return ret;
        c.exclusive = true; /* from the start: writes are repeatable */
    }
}

/* A write that detect-zeroes finds to be zeroes. */
static int pwrite_zeroes(BlkNode *node, uint64_t offset, uint64_t length, uint32_t flags)
{
    bool unmap = __atomic_load_n(&node->detect, __ATOMIC_RELAXED) == BLK_DETECT_UNMAP;

    return blk_node_write_zeroes(node, offset, length,
                                 (flags & TIDEMARK_FUA) | (unmap ? TIDEMARK_MAY_UNMAP : 0));
}

static int pwrite_counted(BlkNode *node, const BlkPayload *payload, uint64_t at, uint64_t offset,
                          uint64_t length, uint32_t flags)
{
    uint64_t began = tm_now_ns();
    int ret;

    if (payload->buf && blk_node_detects(node, payload->buf + at, length, payload->zeroes))
        return pwrite_zeroes(node, offset, length, flags);
    if (!payload->buf && __atomic_load_n(&node->detect, __ATOMIC_RELAXED))
        return -ENOTSUP; /* nobody sees what the kernel copies */
    ret = pwrite_payload(node, payload, at, offset, length, flags);
    if (payload->buf || ret != -ENOTSUP) /* else it is written again */
        blk_counters_add(&node->counters, BLK_COUNT_WRITE, offset, length, ret,
                         (BlkTook){ tm_now_ns() - began, 1 });
    return ret;
}

int blk_node_pwrite(BlkNode *node, const void *buf, uint64_t offset, uint64_t length,
                    uint32_t flags)
{
    return blk_node_pwrite_payload(node, &(BlkPayload){ .buf = buf }, offset, length, flags);
}

int blk_node_pwrite_payload(BlkNode *node, const BlkPayload *payload, uint64_t offset,
                            uint64_t length, uint32_t flags)
{
    return pwrite_counted(node, payload, 0, offset, length, flags);
}

/* ---- zeroing and discarding */

static int write_zero_data(const BlkChange *c, uint64_t offset, uint64_t length, uint32_t flags)
{
    g_autofree char *zeroes = NULL;
    uint64_t chunk = tm_min(length, ZEROES_CHUNK);

    zeroes = g_try_malloc0(chunk);
    if (!zeroes)
        return -ENOMEM;
    for (uint64_t done = 0; done < length;) {
        uint64_t n = tm_min(chunk, length - done);
        int ret = blk_change_write(c, &(BlkPayload){ .buf = zeroes }, 0, offset + done, n,
                                   flags & TIDEMARK_FUA);

        if (ret < 0)
            return ret;
        done += n;
    }
    return 0;
}

/* Without a callback of its own a driver's zeroing goes to the children that it maps onto. */
static int zero_pieces(const BlkChange *c, uint64_t offset, uint64_t length, uint32_t flags)
{
    BlkNode *node = c->node;
    uint64_t done = 0;

    while (done < length) {
        struct tidemark_mapping m;
        int ret = blk_node_map(node, offset + done, length - done, TIDEMARK_MAP_FOR_WRITE, &m);

        if (ret < 0)
            return ret;
        if (m.kind == TIDEMARK_MAP_CHILD)
            ret =
                blk_node_write_zeroes(blk_node_child_at(node, m.child), m.offset, m.length, flags);
        else
            ret = flags & TIDEMARK_FAST_ZERO ? -ENOTSUP
                                             : write_zero_data(c, offset + done, m.length, flags);
        if (ret < 0)
            return ret;
        done += m.length;
    }
    return 0;
}

int blk_change_zero(const BlkChange *c, uint64_t offset, uint64_t length, uint32_t flags)
{
    BlkNode *node = c->node;
    int ret;

    if (!node->driver->write_zeroes)
        return zero_pieces(c, offset, length, flags);
    blk_node_serial_begin(node);
    ret = node->driver->write_zeroes(node->handle, offset, length, flags & driver_flags(node));
    blk_node_serial_end(node);
    if (ret == 0)
        return follow_fua(node, flags);
    if (ret == -ENOTSUP && !(flags & TIDEMARK_FAST_ZERO))
        return write_zero_data(c, offset, length, flags);
    return ret;
}

int blk_node_write_zeroes(BlkNode *node, uint64_t offset, uint64_t length, uint32_t flags)
{
    BlkChange c = { .node = node, .offset = offset, .length = length, .exclusive = true };
    uint64_t began = tm_now_ns();
    int ret;

    blk_throttle_pass(node, offset, length, true);
    ret = blk_change_begin(&c);
    if (ret == 0) {
        if (!node->unmap && !(flags & BLK_INVALIDATE))
            flags &= ~TIDEMARK_MAY_UNMAP;
        ret = blk_change_zero(&c, offset, length, flags);
        blk_change_end(&c);
    }
    blk_counters_add(&node->counters, BLK_COUNT_WRITE, offset, length, ret,
                     (BlkTook){ tm_now_ns() - began, 1 });
    return ret;
}

static int discard_pieces(BlkNode *node, uint64_t offset, uint64_t length)
{
    uint64_t done = 0;

    while (done < length) {
        struct tidemark_mapping m;
        int ret = blk_node_map(node, offset + done, length - done, TIDEMARK_MAP_FOR_WRITE, &m);

        if (ret == 0 && m.kind == TIDEMARK_MAP_CHILD)
            ret = blk_node_discard(blk_node_child_at(node, m.child), m.offset, m.length, 0);
        if (ret < 0)
            return ret;
        done += m.length;
    }
    return 0;
}

static int discard(const BlkChange *c)
{
    BlkNode *node = c->node;
    int ret;

    if (!node->driver->discard)
        return discard_pieces(node, c->offset, c->length);
    blk_node_serial_begin(node);
    ret = node->driver->discard(node->handle, c->offset, c->length);
    blk_node_serial_end(node);
    return ret == -ENOTSUP ? 0 : ret; /* advice that cannot be followed */
}

int blk_node_discard(BlkNode *node, uint64_t offset, uint64_t length, uint32_t flags)
{
    BlkChange c = { .node = node, .offset = offset, .length = length, .exclusive = true };
    uint64_t began = tm_now_ns();
    int ret;

    if (!tm_range_within(offset, length, blk_node_size(node)))
        return -ENOSPC;
    if (blk_node_read_only(node))
        return -EPERM;
    if (!__atomic_load_n(&node->unmap, __ATOMIC_RELAXED))
        return 0; /* discard=ignore: nothing changes, so nothing is dirty */
    blk_throttle_pass(node, offset, length, true);
    ret = blk_change_begin(&c);
    if (ret == 0) {
        ret = discard(&c);
        blk_change_end(&c);
    }
    blk_counters_add(&node->counters, BLK_COUNT_UNMAP, offset, length, ret,
                     (BlkTook){ tm_now_ns() - began, 1 });
    if (ret == 0 && (flags & TIDEMARK_FUA))
        ret = blk_node_flush(node);
    return ret;
}

/* ---- the rest */

int blk_node_cache(BlkNode *node, uint64_t offset, uint64_t length)
{
    uint64_t done = 0;
    int ret = 0;

    blk_throttle_pass(node, offset, length, false);
    blk_inflight_shared(&node->inflight, offset, length);
    if (!tm_range_within(offset, length, blk_node_size(node)))
        ret = -EINVAL;
    if (ret == 0 && !node->open)
        ret = -EIO;
    if (ret == 0 && node->driver->cache) {
        blk_node_serial_begin(node);
        ret = node->driver->cache(node->handle, offset, length);
        blk_node_serial_end(node);
        done = length;
    }
    while (ret == 0 && done < length) {
        struct tidemark_mapping m;

        ret = blk_node_map(node, offset + done, length - done, TIDEMARK_MAP_FOR_READ, &m);
        if (ret == 0 && m.kind == TIDEMARK_MAP_CHILD)
            ret = blk_node_cache(blk_node_child_at(node, m.child), m.offset, m.length);
        done += m.length;
    }
    blk_inflight_shared_end(&node->inflight, offset, length);
    return ret;
}
