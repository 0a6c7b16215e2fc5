/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/request.c: request objects: what is under way in the block layer, and its reply.
 *
 * A request object is prepared before each submission because a request may complete, on another
 * thread, before blk_submit() returns. One that completes inline leaves the object for the next. */
#include "server/nbd/nbd_internal.h"

#include "util/error.h"

#include <string.h>

static void request_release(NbdsSession *s, NbdsOutput *out)
{
    NbdsRequest *r = (NbdsRequest *)out;

    if (r->chunk)
        nbds_chunk_unref(s->servers, r->chunk);
    nbds_sparse_free(r->sparse);
    g_free(r);
    nbds_session_unref(s, 1);
}

static NbdsRequest *prepare(NbdsSession *s)
{
    NbdsRequest *r = s->request;

    if (!r) {
        r = s->request = g_new0(NbdsRequest, 1);
        r->session = s;
        r->output.release = request_release;
    }
    r->chunk = NULL;
    return r;
}

void nbds_request_taken(NbdsSession *s, NbdsChunk *chunk)
{
    s->request = NULL;
    __atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED); /* the request has the spare one */
    if (chunk)
        nbds_chunk_replace_spare(chunk, s);
}

void nbds_request_done(NbdsRequest *r, int result)
{
    NbdsSession *s = r->session;

    nbds_count_disk(s, &r->h, result, r->blk.took);
    if (!result && r->h.command == NBD_CMD_READ && !r->sparse && r->h.length < NBDS_SPARSE_MIN)
        r->sparse = nbds_sparse_find(r);
    if (r->sparse && !result) {
        nbds_sparse_format(r);
        NBDS_TRACE_END(s, &r->h, 0);
    } else if (!result && r->h.command == NBD_CMD_READ) {
        NBDS_TRACE_END(s, &r->h, 0);
        nbds_data_format(s, r->head, true, &r->h, r->h.offset, (uint32_t)r->h.length);
        r->iov[0].iov_len = s->data_head;
        r->iov[1] = (struct iovec){ r->data, r->h.length };
        r->output.n = r->output.sendfile_length ? 1 : 2;
    } else {
        uint32_t error = result ? nbds_request_error(s, &r->h, -result) : 0;

        NBDS_TRACE_END(s, &r->h, error);
        nbds_count_error(s, error);
        r->iov[0].iov_len =
            nbds_reply_format(s, r->head, &r->h, error, error ? tm_strerror(-result) : "");
        r->output.n = 1;
    }
    if (!r->output.iov) {
        r->iov[0].iov_base = r->head;
        r->output.iov = r->iov;
    }
    nbds_output_push(s, &r->output);
}

static void blk_done(BlkRequest *blk, int result)
{
    nbds_request_done((NbdsRequest *)((char *)blk - offsetof(NbdsRequest, blk)), result);
}

NbdsRequest *nbds_request_fill(NbdsSession *s, BlkOp op, const NbdsHead *h)
{
    NbdsRequest *r = prepare(s);

    r->h = *h;
    r->blk.op = op;
    r->blk.flags = 0;
    r->blk.offset = h->offset;
    r->blk.length = h->length;
    r->blk.done = blk_done;
    r->blk.cancel = &s->dead;
    r->blk.took = (BlkTook){ 0 };
    return r;
}

void nbds_request_failed(NbdsSession *s, const NbdsHead *h, int result)
{
    nbds_reply(s, h, nbds_request_error(s, h, -result), tm_strerror(-result));
}
