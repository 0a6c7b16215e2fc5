/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/session_output.c: the answers of a session's owner gather in a batch, which is sent
 * with one call. */
#include "server/nbd/nbd_internal.h"

#include <string.h>

bool nbds_session_flush(NbdsSession *s)
{
    if (s->batch && s->batch->used) {
        if (s->batch->output.n)
            nbds_output_push(s, &s->batch->output);
        else /* kept by requests in flight */
            nbds_batch_put(s->servers, s->batch);
        s->batch = nbds_batch_get(s->servers);
    }
    return s->batch && !nbds_session_over(s) && !__atomic_load_n(&s->dead, __ATOMIC_ACQUIRE);
}

void nbds_session_put(NbdsSession *s, const void *data, size_t length)
{
    while (length) {
        size_t n;
        uint8_t *to;

        if (s->batch && !nbds_batch_has_room(s->batch, 1))
            nbds_session_flush(s);
        if (!s->batch) { /* no memory: the stream can't go on */
            nbds_session_cut(s, NBDS_REASON_ERROR);
            return;
        }
        to = s->batch->chunk->data + s->batch->used;
        n = MIN(length, s->batch->chunk->cap - s->batch->used);
        memcpy(to, data, n);
        nbds_batch_add(s->batch, to, n);
        data = (const char *)data + n;
        length -= n;
    }
}

void nbds_session_give(NbdsSession *s, NbdsChunk *chunk, size_t length)
{
    nbds_session_flush(s);
    if (!s->batch) { /* no memory: the stream can't go on */
        nbds_session_cut(s, NBDS_REASON_ERROR);
        nbds_chunk_put(s->servers, chunk);
        return;
    }
    nbds_chunk_put(s->servers, s->batch->chunk);
    s->batch->chunk = chunk;
    nbds_chunk_hold(chunk, s); /* so that no batch keeps it */
    nbds_batch_add(s->batch, chunk->data, length);
    nbds_session_flush(s);
}
