/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/read.c: reads: small ones into the batch, large ones into a buffer of their own, and
 * sparse ones, which name holes instead of sending zeroes. Where the page cache has it all, large
 * ones don't pass through here: the reply's head is queued with the place, and the data go from
 * there to the socket when it is its turn. The disk is in use only while that is being done, never
 * while a client takes its time.
 *
 * Source: the NBD specification, NBD_CMD_READ. */
#include "server/nbd/nbd_internal.h"

#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#define SEND_BUFFER (512 << 10) /* the kernel doubles it */
#define PARTS_MAX   16u         /* if there are more of them, the range is read whole */

static uint8_t *aligned(const NbdsSession *s, uint8_t *p)
{
    return (uint8_t *)(uintptr_t)tm_align_up((uintptr_t)p, s->align);
}

/* ---- sparse */

static void finish(NbdsRequest *r)
{
    if (__atomic_sub_fetch(&r->sparse->left, 1, __ATOMIC_ACQ_REL) == 0)
        nbds_request_done(r, 0);
}

static void part_done(BlkRequest *blk, int result)
{
    struct NbdsPart *part = (struct NbdsPart *)((char *)blk - offsetof(struct NbdsPart, blk));

    part->error = result;
    finish(part->request);
}

static void put_hole(NbdsSession *s, const NbdsHead *h)
{
    uint8_t hole[NBD_HOLE_MAX];

    NBDS_TRACE_END(s, h, 0);
    nbds_session_put(s, hole, nbds_hole_format(s, hole, true, h, h->offset, (uint32_t)h->length));
}

static void submit_parts(NbdsSession *s, NbdsRequest *r)
{
    NbdsSparse *sparse = r->sparse;
    uint64_t at = 0;

    for (unsigned i = 0; i < sparse->n; i++) {
        struct NbdsPart *part = &sparse->parts[i];
        uint64_t length = sparse->runs[i].length;

        if (!sparse->runs[i].flags) {
            int ret;

            part->request = r;
            part->blk.op = BLK_OP_READ;
            part->blk.offset = r->h.offset + at;
            part->blk.length = length;
            part->blk.buf = r->data + at;
            part->blk.done = part_done;
            __atomic_add_fetch(&sparse->left, 1, __ATOMIC_RELAXED);
            ret = blk_user_submit(s->disk, &part->blk);
            if (ret != -EINPROGRESS)
                part_done(&part->blk, ret);
        }
        at += length;
    }
}

/* ---- whole */

/* @sparse: what of it is sent as holes, taken, or NULL. */
static void read_large(NbdsSession *s, const NbdsHead *h, NbdsSparse *sparse)
{
    NbdsChunk *chunk = nbds_chunk_get(s->servers, h->length);
    NbdsRequest *r;
    int ret;

    if (!chunk) {
        nbds_sparse_free(sparse);
        nbds_reply(s, h, NBD_ENOMEM, "no memory for the data");
        return;
    }
    r = nbds_request_fill(s, BLK_OP_READ, h);
    r->chunk = chunk;
    r->data = r->blk.buf = chunk->data;
    r->sparse = sparse;
    ret = blk_user_submit(s->disk, &r->blk);
    nbds_request_taken(s, chunk);
    nbds_chunk_put(s->servers, chunk);
    if (ret != -EINPROGRESS)
        nbds_request_done(r, ret);
}

/* false: to be read whole. */
static bool read_sparse(NbdsSession *s, const NbdsHead *h)
{
    TmExtent list[NBDS_RUNS_MAX];
    TmExtents runs = { .list = list, .max = G_N_ELEMENTS(list) };
    NbdsChunk *chunk;
    NbdsRequest *r;

    if (!nbds_zeroes_find(s, h, &runs))
        return false;
    if (runs.count == 1) {
        put_hole(s, h);
        return true;
    }
    if (runs.count > PARTS_MAX) {
        read_large(s, h, nbds_sparse_new(&runs));
        return true;
    }
    chunk = nbds_chunk_get(s->servers, h->length);
    if (!chunk)
        return false;
    r = nbds_request_fill(s, BLK_OP_READ, h);
    r->chunk = chunk;
    r->data = chunk->data;
    r->sparse = nbds_sparse_new(&runs);
    r->sparse->left = 1;
    submit_parts(s, r);
    nbds_request_taken(s, chunk);
    nbds_chunk_put(s->servers, chunk);
    finish(r);
    return true;
}

/* Once, for a session with large reads: half a megabyte in the socket at a time doubles what goes
 * through a unix socket; TCP finds its own measure. Root may exceed the system's limit. */
static void grow_socket(NbdsSession *s)
{
    int fd = s->source.fd, domain = 0, size = SEND_BUFFER;
    socklen_t length = sizeof(domain);

    if (s->grown)
        return;
    s->grown = true;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_UNIX &&
        setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

static bool make_nonblocking(NbdsSession *s)
{
    int flags = s->nonblocking ? 0 : fcntl(s->source.fd, F_GETFL);

    if (!s->nonblocking && flags >= 0)
        s->nonblocking = fcntl(s->source.fd, F_SETFL, flags | O_NONBLOCK) == 0;
    return s->nonblocking;
}

/* From the page cache to the socket, as the reply is sent. */
static bool send_from_page_cache(NbdsSession *s, const NbdsHead *h)
{
    NbdsRequest *r;

    if (s->encrypts || !blk_user_can_send(s->disk, h->offset, h->length) || !make_nonblocking(s))
        return false;
    r = nbds_request_fill(s, BLK_OP_READ, h);
    r->output.sendfile_length = h->length;
    r->output.sendfile_offset = h->offset;
    nbds_request_taken(s, NULL);
    nbds_request_done(r, 0);
    return true;
}

static void read_small(NbdsSession *s, const NbdsHead *h)
{
    NbdsBatch *batch = s->batch;
    size_t head = s->data_head;
    uint8_t *data = aligned(s, batch->chunk->data + batch->used + head);
    NbdsRequest *r = nbds_request_fill(s, BLK_OP_READ, h);
    TmExtent list[NBDS_RUNS_MAX];
    TmExtents runs = { .list = list, .max = G_N_ELEMENTS(list) };
    int ret;

    r->chunk = batch->chunk;
    r->data = r->blk.buf = data;
    ret = blk_user_submit(s->disk, &r->blk);
    if (ret != -EINPROGRESS) {
        nbds_count_disk(s, h, ret, r->blk.took);
        r->blk.took = (BlkTook){ 0 };
    }
    if (ret == -EINPROGRESS) {
        batch->used = (size_t)(data - batch->chunk->data) + h->length;
        nbds_request_taken(s, batch->chunk);
    } else if (ret < 0) {
        nbds_request_failed(s, h, ret);
    } else if (nbds_zeroes_in_data(s, h, data, &runs) && runs.count == 1) {
        put_hole(s, h);
    } else if (runs.count) {
        r->sparse = nbds_sparse_new(&runs);
        batch->used = (size_t)(data - batch->chunk->data) + h->length;
        nbds_request_taken(s, batch->chunk);
        nbds_request_done(r, 0);
    } else {
        NBDS_TRACE_END(s, h, 0);
        nbds_data_format(s, data - head, true, h, h->offset, (uint32_t)h->length);
        nbds_batch_add(batch, data - head, head + h->length);
    }
}

void nbds_read(NbdsSession *s, const NbdsHead *h)
{
    if (h->length >= NBDS_SENDFILE_MIN)
        grow_socket(s);
    if (!h->length)
        nbds_reply(s, h, 0, "");
    else if (s->structured && !(h->flags & NBD_CMD_FLAG_DF) && h->length >= NBDS_SPARSE_MIN &&
             read_sparse(s, h))
        return;
    else if (h->length >= NBDS_SENDFILE_MIN && send_from_page_cache(s, h))
        return;
    else if (h->length <= NBDS_CHUNK / 2)
        read_small(s, h);
    else
        read_large(s, h, NULL);
}
