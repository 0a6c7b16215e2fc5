/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/fuse/data.c: reading and writing the disk.
 *
 * The memory of a request is the channel's, which gives it away to what completes later: what was
 * received with a write, or a buffer to read into. */
#define FUSE_USE_VERSION 34
#include "server/fuse/fuse_internal.h"

#include "util/range.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- answers; any thread */

static void finish_read(FexpRequest *r, int result)
{
    if (result < 0)
        fuse_reply_err(r->req, -result);
    else
        fuse_reply_buf(r->req, r->blk.buf, r->blk.length);
    fexp_request_end(r);
}

static void finish_write(FexpRequest *r, int result)
{
    if (result < 0)
        fuse_reply_err(r->req, -result);
    else
        fuse_reply_write(r->req, r->blk.length);
    fexp_request_end(r);
}

static void finish(FexpRequest *r, int result)
{
    fexp_count(r, result);
    if (r->blk.op == BLK_OP_READ)
        finish_read(r, result);
    else if (r->blk.op == BLK_OP_WRITE)
        finish_write(r, result);
    else
        fexp_answer(r, result);
}

static void done(BlkRequest *blk, int result)
{
    finish((FexpRequest *)((char *)blk - offsetof(FexpRequest, blk)), result);
}

/* ---- requests */

/* The memory, which is *owner's, goes along with what completes later. */
static void submit(FexpRequest *r, void **owner)
{
    int result;

    r->blk.done = done;
    if (owner)
        r->mem = g_steal_pointer(owner);
    result = blk_user_submit(r->x->disk, &r->blk);
    if (result == -EINPROGRESS) /* @r may be gone */
        return;
    if (owner)
        *owner = g_steal_pointer(&r->mem);
    finish(r, result);
}

/* The channel's buffer; or NULL, and then the request was answered. */
static void *buffer(FexpChannel *channel, fuse_req_t req)
{
    if (!channel->data)
        channel->data = aligned_alloc(FEXP_ALIGN, FEXP_IO_MAX);
    if (!channel->data)
        fuse_reply_err(req, ENOMEM);
    return channel->data;
}

void fexp_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                  struct fuse_file_info *info)
{
    FexpChannel *channel = fexp_channel();
    uint64_t end = fexp_size(channel->x);
    FexpRequest *r;

    if (offset < 0 || size > FEXP_IO_MAX) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    if ((uint64_t)offset >= end || !size) {
        fuse_reply_buf(req, NULL, 0);
        return;
    }
    if (!buffer(channel, req) || !(r = fexp_request_new(req)))
        return;
    r->blk.op = BLK_OP_READ;
    r->blk.offset = (uint64_t)offset;
    r->blk.length = tm_min(size, end - (uint64_t)offset);
    r->blk.buf = channel->data;
    submit(r, &channel->data);
}

static uint32_t durable(const FexpExport *x)
{
    return blk_export_writethrough(x->blk) ? TIDEMARK_FUA : 0;
}

/* On the main thread. */
static void grown(FexpRequest *r, int result)
{
    if (result < 0)
        fexp_answer(r, result);
    else
        submit(r, NULL);
}

/* As a block device beyond its end, unless it may grow. */
static void write_disk(FexpRequest *r, void **owner)
{
    BlkRequest *blk = &r->blk;
    uint64_t end = fexp_size(r->x);

    if (blk->offset + blk->length <= end) {
        submit(r, owner);
    } else if (r->x->growable) {
        r->mem = g_steal_pointer(owner);
        fexp_resize(r, blk->offset + blk->length, true, grown);
    } else if (blk->offset < end) {
        blk->length = end - blk->offset;
        submit(r, owner);
    } else {
        fexp_answer(r, -ENOSPC);
    }
}

void fexp_op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t offset,
                   struct fuse_file_info *info)
{
    FexpChannel *channel = fexp_channel();
    FexpExport *x = channel->x;
    bool copy = x->align >= 512 && ((uintptr_t)buf & (x->align - 1));
    FexpRequest *r;

    if (offset < 0 || !size || size > FEXP_IO_MAX || !x->writable) {
        fuse_reply_err(req, x->writable ? EINVAL : EACCES);
        return;
    }
    if ((copy && !buffer(channel, req)) || !(r = fexp_request_new(req)))
        return;
    r->blk.op = BLK_OP_WRITE;
    r->blk.flags = durable(x);
    r->blk.offset = (uint64_t)offset;
    r->blk.length = size;
    r->blk.buf = copy ? memcpy(channel->data, buf, size) : (void *)(uintptr_t)buf;
    write_disk(r, copy ? &channel->data : &channel->buf.mem);
}

void fexp_zero(FexpRequest *r, uint64_t offset, uint64_t length, bool unmap)
{
    r->blk.op = BLK_OP_WRITE_ZEROES;
    r->blk.flags = durable(r->x) | (unmap ? TIDEMARK_MAY_UNMAP : 0);
    r->blk.offset = offset;
    r->blk.length = length;
    submit(r, NULL);
}

void fexp_op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *info)
{
    FexpRequest *r = fexp_request_new(req);

    if (!r)
        return;
    r->blk.op = BLK_OP_FLUSH;
    submit(r, NULL);
}

/* A file was closed. Who could not write has nothing to flush. */
void fexp_op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    if (info->fh)
        fexp_op_fsync(req, ino, 1, info);
    else
        fuse_reply_err(req, 0);
}
