/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/copy.c: see the header.
 *
 * What the kernel copies is written as any other data, down the graph of the target with its marks
 * and its range in flight. Only in the end it comes from a descriptor, and not from memory. The
 * place in the source is held for the time of that call alone, and is not waited for: the target's
 * is held already, and may stand above the source. */
#include "block/io/copy.h"

#include "block/io/request.h"
#include "block/node_internal.h"
#include "util/range.h"

#include <errno.h>
#include <linux/fs.h>

#define CHUNK   (UINT64_C(1) << 20)
#define AT_ONCE (UINT64_C(64) << 10) /* on the stack, and in the processor's cache */

typedef struct Copy {
    BlkNode *source, *target;
    unsigned flags;
    uint64_t unit; /* runs of zeroes and data are multiples of it, but at the end */
    uint64_t end;  /* of the range */
    BlkCopied *copied;
    char *buf; /* CHUNK bytes, once needed */
} Copy;

/* ---- by the kernel */

typedef struct Kernel {
    BlkPayload payload;
    BlkNode *source;
    uint64_t offset; /* there */
    bool *cloned;
} Kernel;

static bool share(const TmSys *sys, int from, uint64_t at, int to, uint64_t offset, uint64_t length)
{
    struct file_clone_range range = {
        .src_fd = from, .src_offset = at, .src_length = length, .dest_offset = offset
    };

    return sys->ioctl(to, FICLONERANGE, &range) == 0;
}

static bool copy_all(const TmSys *sys, int from, uint64_t at, int to, uint64_t offset,
                     uint64_t length)
{
    for (uint64_t done = 0; sys->copy && done < length;) {
        ssize_t n = sys->copy(from, (off_t)(at + done), to, (off_t)(offset + done), length - done);

        if (n <= 0 && !(n < 0 && errno == EINTR))
            return false;
        done += n > 0 ? (uint64_t)n : 0;
    }
    return sys->copy != NULL;
}

/* What goes wrong here is met again, and distinguished from the rest, where it is read and
 * written. */
static int kernel_copy(const BlkPayload *payload, uint64_t at, int fd, uint64_t offset,
                       uint64_t length)
{
    const Kernel *k = (const Kernel *)payload;
    const TmSys *sys = k->source->graph_sys;
    BlkPlace from;
    bool cloned, ok;

    if (!blk_place_enter(&from, k->source, k->offset + at, length, false))
        return -ENOTSUP;
    cloned = share(sys, from.mapping.fd, from.mapping.offset, fd, offset, length);
    ok = cloned || copy_all(sys, from.mapping.fd, from.mapping.offset, fd, offset, length);
    blk_place_leave(&from);
    *k->cloned &= cloned;
    return ok ? 0 : -ENOTSUP;
}

/* File systems share only what is on the medium, and write it there first: that takes a thousand
 * times as long as copying it within the page cache, and copy_file_range() tries to share, too.
 * Asked before the target is, whose throttles count each attempt. */
static bool is_dirty(const Copy *c, uint64_t offset, uint64_t length)
{
    const TmSys *sys = c->source->graph_sys;
    BlkPlace from;
    bool dirty;

    if (!sys->dirty || !blk_place_enter(&from, c->source, offset, length, false))
        return false;
    dirty = sys->dirty(from.mapping.fd, (off_t)from.mapping.offset, length) > 0;
    blk_place_leave(&from);
    return dirty;
}

static bool by_kernel(const Copy *c, uint64_t offset, uint64_t length)
{
    bool cloned = true;
    Kernel k = {
        .payload.copy = kernel_copy, .source = c->source, .offset = offset, .cloned = &cloned
    };

    if (c->flags & (BLK_COPY_COMPRESS | BLK_COPY_NO_REFERENCE) ||
        (c->flags & BLK_COPY_SOON && is_dirty(c, offset, length)) ||
        blk_node_pwrite_payload(c->target, &k.payload, offset, length, 0) < 0)
        return false;
    c->copied->cloned += cloned ? length : 0;
    return true;
}

/* ---- data */

static int by_hand(Copy *c, uint64_t offset, uint64_t length)
{
    uint32_t flags = c->flags & BLK_COPY_COMPRESS ? TIDEMARK_COMPRESSED : 0;
    int ret;

    if (!c->buf)
        c->buf = g_try_malloc(tm_min(CHUNK, c->end - offset));
    if (!c->buf)
        return -ENOMEM;
    ret = blk_node_pread(c->source, c->buf, offset, length);
    c->copied->on_source = ret < 0;
    return ret < 0 ? ret : blk_node_pwrite(c->target, c->buf, offset, length, flags);
}

/* What the cache has costs less to copy than to share: each reference is a transaction of the file
 * system, and the guest's next write another one. */
static int data_at_once(Copy *c, uint64_t offset, uint64_t length)
{
    char piece[AT_ONCE];

    for (uint64_t done = 0; done < length;) {
        uint64_t n = tm_min(sizeof(piece), length - done);

        if (blk_try(c->source, BLK_OP_READ, piece, offset + done, n) < 0 ||
            blk_try(c->target, BLK_OP_WRITE, piece, offset + done, n) < 0)
            return -EAGAIN;
        c->copied->data += n;
        done += n;
    }
    return 0;
}

static int copy_data(Copy *c, uint64_t offset, uint64_t length)
{
    for (uint64_t done = 0; done < length;) {
        uint64_t n = tm_min(CHUNK, length - done);

        if (!by_kernel(c, offset + done, n)) {
            int ret = by_hand(c, offset + done, n);

            if (ret < 0)
                return ret;
        }
        c->copied->data += n;
        done += n;
    }
    return 0;
}

/* ---- zeroes */

static int copy_zeroes(Copy *c, uint64_t offset, uint64_t length)
{
    for (uint64_t done = 0; done < length;) {
        uint64_t n;
        int ret = 0;

        if (!blk_node_own_zeroes(c->target, offset + done, length - done, &n))
            ret = blk_node_write_zeroes(c->target, offset + done, n, TIDEMARK_MAY_UNMAP);
        if (ret < 0)
            return ret;
        c->copied->zeroes += n;
        done += n;
    }
    return 0;
}

static int zeroes_at_once(Copy *c, uint64_t offset, uint64_t length)
{
    uint64_t n;

    if (!blk_node_own_zeroes(c->target, offset, length, &n) || n < length)
        return -EAGAIN;
    c->copied->zeroes += length;
    return 0;
}

/* ---- runs */

/* The run at @offset: *zero, of a length returned. Zeroes are cut, and data grows, to whole
 * units. */
static uint64_t next_run(const Copy *c, uint64_t offset, bool *zero)
{
    uint64_t left = c->end - offset, n = left;
    uint32_t state = 0;

    *zero = blk_node_status_at(c->source, offset, left, &n, &state) == 0 && state & TM_STATE_ZERO;
    if (n == left || !(n & (c->unit - 1)))
        return n;
    n = tm_align_down(n, c->unit);
    if (!n || !*zero) {
        *zero = false;
        n += c->unit;
    }
    return tm_min(n, left);
}

static uint64_t unit_of(BlkNode *target, unsigned flags)
{
    uint32_t cluster = __atomic_load_n(&target->cluster, __ATOMIC_RELAXED);

    return flags & BLK_COPY_COMPRESS ? cluster : 1;
}

int blk_node_copy(BlkNode *source, BlkNode *target, uint64_t offset, uint64_t length,
                  unsigned flags, BlkCopied *copied)
{
    Copy c = { .source = source,
               .target = target,
               .flags = flags,
               .unit = unit_of(target, flags),
               .end = offset + length,
               .copied = copied };
    int ret = 0;

    copied->on_source = false;
    if (!tm_range_within(offset, length, blk_node_size(source))) {
        copied->on_source = true;
        return -EINVAL;
    }
    if (flags & BLK_COPY_AT_ONCE &&
        (blk_node_status_waits(source) || blk_node_status_waits(target)))
        return -EAGAIN;
    while (ret == 0 && offset < c.end) {
        bool zero;
        uint64_t n = next_run(&c, offset, &zero);

        if (flags & BLK_COPY_AT_ONCE)
            ret = zero ? zeroes_at_once(&c, offset, n) : data_at_once(&c, offset, n);
        else
            ret = zero ? copy_zeroes(&c, offset, n) : copy_data(&c, offset, n);
        offset += n;
    }
    g_free(c.buf);
    return ret;
}
