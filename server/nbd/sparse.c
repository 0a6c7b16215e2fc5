/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/sparse.c: reads that are answered in pieces: what in them are holes, and how that
 * looks on the wire.
 *
 * Source: the NBD specification, "Structured reply types". */
#include "block/users.h"
#include "server/nbd/nbd_internal.h"

#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <string.h>

size_t nbds_hole_format(const NbdsSession *s, uint8_t *to, bool last, const NbdsHead *h,
                        uint64_t offset, uint32_t length)
{
    uint8_t *at = to + s->reply_head;

    nbds_chunk_format(s, to, last ? NBD_REPLY_FLAG_DONE : 0, NBD_REPLY_TYPE_OFFSET_HOLE, h, 12);
    tm_put_be64(at, offset);
    tm_put_be32(at + 8, length);
    return s->reply_head + 12;
}

NbdsSparse *nbds_sparse_new(const TmExtents *runs)
{
    NbdsSparse *sparse = g_new0(NbdsSparse, 1);

    sparse->n = (unsigned)runs->count;
    sparse->runs = g_memdup2(runs->list, runs->count * sizeof(*runs->list));
    sparse->iov = g_new(struct iovec, 2 * runs->count);
    sparse->heads = g_malloc(runs->count * NBDS_REPLY_MAX);
    sparse->parts = g_new0(struct NbdsPart, runs->count);
    return sparse;
}

void nbds_sparse_free(NbdsSparse *sparse)
{
    if (!sparse)
        return;
    g_free(sparse->runs);
    g_free(sparse->iov);
    g_free(sparse->heads);
    g_free(sparse->parts);
    g_free(sparse);
}

/* Appends run @i, which is at @offset; a failed one with its error. */
static unsigned run_format(NbdsRequest *r, unsigned i, uint64_t offset, bool last,
                           struct iovec *iov)
{
    const NbdsSession *s = r->session;
    NbdsSparse *sparse = r->sparse;
    uint32_t length = (uint32_t)sparse->runs[i].length;
    uint8_t *head = sparse->heads[i];
    int error = sparse->parts[i].error;

    if (error) {
        nbds_count_error(r->session, last);
        nbds_count_disk(r->session, &r->h, last ? error : 0, (BlkTook){ 0 });
        iov[0] =
            (struct iovec){ head,
                            nbds_error_offset_format(s, head, last, &r->h, offset,
                                                     nbds_request_error(r->session, &r->h, -error),
                                                     tm_strerror(-error)) };
        return 1;
    }
    if (sparse->runs[i].flags) {
        iov[0] = (struct iovec){ head, nbds_hole_format(s, head, last, &r->h, offset, length) };
        return 1;
    }
    nbds_data_format(s, head, last, &r->h, offset, length);
    iov[0] = (struct iovec){ head, s->data_head };
    iov[1] = (struct iovec){ r->data + (offset - r->h.offset), length };
    return 2;
}

void nbds_sparse_format(NbdsRequest *r)
{
    NbdsSparse *sparse = r->sparse;
    unsigned n = 0, left = sparse->n;

    for (int failed = 0; failed <= 1; failed++) {
        uint64_t at = r->h.offset;

        for (unsigned i = 0; i < sparse->n; i++) {
            if ((sparse->parts[i].error != 0) == failed)
                n += run_format(r, i, at, --left == 0, sparse->iov + n);
            at += sparse->runs[i].length;
        }
    }
    r->output.iov = sparse->iov;
    r->output.n = n;
}

bool nbds_zeroes_find(NbdsSession *s, const NbdsHead *h, TmExtents *runs)
{
    TmExtent list[NBDS_RUNS_MAX - 1];
    TmExtents x = { .list = list, .max = G_N_ELEMENTS(list) };
    uint64_t described = 0;
    BlkNode *node;
    int ret;

    node = blk_user_enter(s->disk);
    ret = blk_node_status_waits(node) ? -EAGAIN
                                      : blk_node_status(node, h->offset, h->length, &x, &described);
    blk_user_leave(s->disk);
    if (ret < 0)
        return false;
    for (size_t i = 0; i < x.count; i++)
        tm_extents_add(runs, list[i].length, list[i].flags & TM_STATE_ZERO);
    if (described < h->length)
        tm_extents_add(runs, h->length - described, 0);
    if (runs->count == 1 && !(runs->list[0].flags & TM_STATE_ZERO))
        runs->count = 0;
    return runs->count;
}

/* A hole that is not shorter than a sector reads as zeroes at the beginning of one, or of what is
 * asked for: without such there is none to look for. */
static bool has_zeroes(const uint8_t *data, uint64_t offset, uint64_t length)
{
    static const uint8_t zeroes[8];
    uint64_t next;

    for (uint64_t at = 0; at < length; at = next) {
        next = tm_min(tm_align_down(offset + at, 512) + 512 - offset, length);
        if (!memcmp(data + at, zeroes, tm_min(sizeof(zeroes), next - at)))
            return true;
    }
    return false;
}

/* The holes in what was read to @data, which is short: found afterwards, as most of it has none. */
bool nbds_zeroes_in_data(NbdsSession *s, const NbdsHead *h, const uint8_t *data, TmExtents *runs)
{
    return s->structured && !(h->flags & NBD_CMD_FLAG_DF) && h->length < NBDS_SPARSE_MIN &&
           has_zeroes(data, h->offset, h->length) && nbds_zeroes_find(s, h, runs);
}

NbdsSparse *nbds_sparse_find(NbdsRequest *r)
{
    TmExtent list[NBDS_RUNS_MAX];
    TmExtents runs = { .list = list, .max = G_N_ELEMENTS(list) };

    return nbds_zeroes_in_data(r->session, &r->h, r->data, &runs) ? nbds_sparse_new(&runs) : NULL;
}
