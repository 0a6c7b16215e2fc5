/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/nbd/io.c: the callbacks: requests cut to what the server takes, whole blocks of
 * its.
 *
 * What was not answered when a connection broke is sent again, as its range is still in flight. */
#include "block/drivers/nbd/nbd.h"
#include "util/range.h"

#include <errno.h>
#include <string.h>

static uint32_t wire_flags(uint32_t flags)
{
    return flags & TIDEMARK_FUA ? LIBNBD_CMD_FLAG_FUA : 0;
}

static bool is_whole(const BlkNbd *d, uint64_t offset, uint64_t length)
{
    return !((offset | length) & (d->facts.min - 1));
}

/* Whole blocks, in pieces of up to @most. */
static int pieces(BlkNbd *d, BlkNbdCommand c, uint64_t length, uint64_t most)
{
    while (length) {
        int ret;

        c.length = tm_min(length, most);
        ret = blk_nbd_run(d, &c);
        if (ret < 0)
            return ret == -ENOTCONN ? -EIO : ret;
        if (c.op != BLK_NBD_READ && c.op != BLK_NBD_CACHE)
            blk_nbd_acked(d, &c);
        c.offset += c.length;
        length -= c.length;
        if (c.buf)
            c.buf = (char *)c.buf + c.length;
    }
    return 0;
}

/* ---- reading and writing */

static int read_whole(BlkNbd *d, void *buf, uint64_t offset, uint64_t length)
{
    return pieces(d, (BlkNbdCommand){ .op = BLK_NBD_READ, .offset = offset, .buf = buf }, length,
                  d->facts.max);
}

static int write_whole(BlkNbd *d, const void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    BlkNbdCommand c = {
        .op = BLK_NBD_WRITE, .flags = wire_flags(flags), .offset = offset, .buf = (void *)buf
    };

    return pieces(d, c, length, d->facts.max);
}

/* Parts of blocks go through @block, one at a time. Whoever writes has those blocks for itself. */
static int part(BlkNbd *d, char *buf, const char *data, uint64_t offset, uint64_t length,
                uint32_t flags)
{
    g_autofree char *block = g_malloc(d->facts.min);
    uint64_t first = tm_align_down(offset, d->facts.min);
    int ret = read_whole(d, block, first, d->facts.min);

    if (ret < 0)
        return ret;
    if (buf)
        memcpy(buf, block + (offset - first), length);
    if (!data)
        return 0;
    memcpy(block + (offset - first), data, length);
    return write_whole(d, block, first, d->facts.min, flags);
}

/* Reads to @buf, or writes from @data. */
static int transfer(BlkNbd *d, char *buf, const char *data, uint64_t offset, uint64_t length,
                    uint32_t flags)
{
    const uint64_t min = d->facts.min;
    int ret = 0;

    while (length && ret == 0) {
        uint64_t in_block = offset & (min - 1), n = tm_min(length, min - in_block);

        if (in_block || n < min) {
            ret = part(d, buf, data, offset, n, flags);
        } else {
            n = tm_align_down(length, min);
            ret = data ? write_whole(d, data, offset, n, flags) : read_whole(d, buf, offset, n);
        }
        buf = buf ? buf + n : NULL;
        data = data ? data + n : NULL;
        offset += n;
        length -= n;
    }
    return ret;
}

int blk_nbd_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    return transfer(handle, buf, NULL, offset, length, 0);
}

int blk_nbd_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    return transfer(handle, NULL, buf, offset, length, flags);
}

/* ---- the rest */

int blk_nbd_flush(void *handle)
{
    BlkNbd *d = handle;
    BlkNbdCommand c = { .op = BLK_NBD_FLUSH };
    uint64_t acked = blk_nbd_flush_begin(d, &c);

    return blk_nbd_flush_end(d, acked, d->facts.flush ? blk_nbd_run(d, &c) : 0);
}

int blk_nbd_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
    BlkNbd *d = handle;
    BlkNbdCommand c = { .op = BLK_NBD_ZERO, .flags = wire_flags(flags), .offset = offset };

    if (!d->facts.zero || !is_whole(d, offset, length) ||
        (flags & TIDEMARK_FAST_ZERO && !d->facts.fast_zero))
        return -ENOTSUP; /* zeroes are written */
    if (!(flags & TIDEMARK_MAY_UNMAP))
        c.flags |= LIBNBD_CMD_FLAG_NO_HOLE;
    if (flags & TIDEMARK_FAST_ZERO)
        c.flags |= LIBNBD_CMD_FLAG_FAST_ZERO;
    return pieces(d, c, length, d->facts.max_zero);
}

/* Whole blocks in the range. */
int blk_nbd_discard(void *handle, uint64_t offset, uint64_t length)
{
    BlkNbd *d = handle;
    uint64_t begin = tm_align_up(offset, d->facts.min);
    uint64_t end = tm_align_down(offset + length, d->facts.min);

    if (!d->facts.trim || begin >= end)
        return 0;
    return pieces(d, (BlkNbdCommand){ .op = BLK_NBD_TRIM, .offset = begin }, end - begin,
                  d->facts.max_range);
}

int blk_nbd_cache(void *handle, uint64_t offset, uint64_t length)
{
    BlkNbd *d = handle;
    uint64_t begin = tm_align_down(offset, d->facts.min);
    uint64_t end = tm_align_up(offset + length, d->facts.min);

    if (!d->facts.cache)
        return 0;
    return pieces(d, (BlkNbdCommand){ .op = BLK_NBD_CACHE, .offset = begin }, end - begin,
                  d->facts.max_range);
}

/* ---- what completes later */

typedef struct Later {
    BlkNbdCommand command;
    BlkNbd *disk;
    struct tidemark_transfer *transfer;
} Later;

static void later_done(BlkNbdCommand *c, int result)
{
    Later *later = c->opaque;
    struct tidemark_transfer *transfer = later->transfer;

    if (result == 0 && c->op == BLK_NBD_WRITE)
        blk_nbd_acked(later->disk, c);
    g_free(later);
    /* The core does what the connection took with it again, where it may wait for another one. */
    blk_host.complete(transfer, result == -ENOTCONN ? -EAGAIN : result);
}

int blk_nbd_start(void *handle, struct tidemark_transfer *t)
{
    BlkNbd *d = handle;
    Later *later;
    int ret;

    if (!is_whole(d, t->offset, t->length) || t->length > d->facts.max)
        return -ENOTSUP;
    later = g_new(Later, 1);
    *later = (Later){ .disk = d, .transfer = t };
    later->command = (BlkNbdCommand){ .op = t->write ? BLK_NBD_WRITE : BLK_NBD_READ,
                                      .offset = t->offset,
                                      .length = t->length,
                                      .buf = t->buf,
                                      .done = later_done,
                                      .opaque = later };
    ret = blk_nbd_send(d, &later->command);
    if (ret < 0)
        g_free(later);
    return ret;
}
