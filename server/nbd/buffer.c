/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/buffer.c: chunks and batches, and the free lists that keep a few of them warm.
 *
 * Sessions hold buffers only while there is something in them, so that an idle connection costs
 * next to none. The lists are last in, first out: what is taken was used a moment ago, by any
 * thread, and is likely in a cache.
 *
 * A new chunk costs a page fault for each of its pages, several times as much as the data that is
 * copied there. So while a client keeps many requests in flight, many chunks are kept; a second
 * later those that were not needed are gone. */
#include "server/nbd/nbd_internal.h"

#include "util/range.h"

#include <sys/mman.h>

#define POOL_BATCHES 8u

static const struct {
    unsigned most, idle; /* free chunks kept: ever; that nobody takes */
} pools[] = { { 128, 16 }, { 32, 4 } };

static int kind_of(size_t cap)
{
    return cap == NBDS_CHUNK ? 0 : cap == NBDS_CHUNK_LARGE ? 1 : -1;
}

static NbdsChunk *chunk_new(size_t cap)
{
    void *data = mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    NbdsChunk *chunk;

    if (data == MAP_FAILED)
        return NULL;
    chunk = g_new0(NbdsChunk, 1);
    chunk->cap = cap;
    chunk->data = data;
    return chunk;
}

static void chunk_free(NbdsChunk *chunk)
{
    munmap(chunk->data, chunk->cap);
    g_free(chunk);
}

NbdsChunk *nbds_chunk_get(NbdsServers *servers, size_t min)
{
    size_t cap = min <= NBDS_CHUNK         ? NBDS_CHUNK
                 : min <= NBDS_CHUNK_LARGE ? NBDS_CHUNK_LARGE
                                           : tm_align_up(min, 4096);
    int kind = kind_of(cap);
    NbdsChunk *chunk = NULL;

    if (kind >= 0) {
        pthread_mutex_lock(&servers->pool_lock);
        chunk = servers->chunks[kind].first;
        if (chunk) {
            unsigned n = --servers->chunks[kind].n;

            servers->chunks[kind].first = chunk->next;
            servers->chunks[kind].least = MIN(servers->chunks[kind].least, n);
        }
        pthread_mutex_unlock(&servers->pool_lock);
    }
    if (!chunk)
        chunk = chunk_new(cap);
    if (chunk)
        __atomic_store_n(&chunk->refs, 2, __ATOMIC_RELAXED);
    return chunk;
}

static void chunk_retire(NbdsServers *servers, NbdsChunk *chunk)
{
    int kind = kind_of(chunk->cap);
    bool kept = false;

    if (chunk->holder) {
        __atomic_sub_fetch(&chunk->holder->server->held, (int64_t)chunk->cap, __ATOMIC_RELAXED);
        __atomic_sub_fetch(&chunk->holder->held, (int64_t)chunk->cap, __ATOMIC_ACQ_REL);
        chunk->holder = NULL;
    }
    if (kind >= 0) {
        pthread_mutex_lock(&servers->pool_lock);
        kept = servers->chunks[kind].n < pools[kind].most;
        if (kept) {
            chunk->next = servers->chunks[kind].first;
            servers->chunks[kind].first = chunk;
            servers->chunks[kind].n++;
        }
        pthread_mutex_unlock(&servers->pool_lock);
    }
    if (!kept)
        chunk_free(chunk);
}

void nbds_chunk_put(NbdsServers *servers, NbdsChunk *chunk)
{
    if (chunk && __atomic_sub_fetch(&chunk->refs, 2, __ATOMIC_ACQ_REL) == 0)
        chunk_retire(servers, chunk);
}

void nbds_chunk_unref(NbdsServers *servers, NbdsChunk *chunk)
{
    if (__atomic_sub_fetch(&chunk->refs, 1, __ATOMIC_ACQ_REL) == 0)
        chunk_retire(servers, chunk);
}

/* Takes out @n; under the lock. */
static NbdsChunk *pool_cut(NbdsServers *servers, int kind, unsigned n)
{
    NbdsChunk *first = servers->chunks[kind].first, **end = &servers->chunks[kind].first;

    servers->chunks[kind].n -= n;
    while (n--)
        end = &(*end)->next;
    servers->chunks[kind].first = *end;
    *end = NULL;
    return first;
}

void nbds_chunks_trim(NbdsServers *servers)
{
    for (int kind = 0; kind < 2; kind++) {
        NbdsChunk *chunk, *next;
        unsigned least;

        pthread_mutex_lock(&servers->pool_lock);
        least = servers->chunks[kind].least;
        chunk = least > pools[kind].idle ? pool_cut(servers, kind, least - pools[kind].idle) : NULL;
        servers->chunks[kind].least = servers->chunks[kind].n;
        pthread_mutex_unlock(&servers->pool_lock);
        for (; chunk; chunk = next) {
            next = chunk->next;
            chunk_free(chunk);
        }
    }
}

void nbds_chunk_hold(NbdsChunk *chunk, NbdsSession *s)
{
    if (chunk->holder)
        return;
    chunk->holder = s;
    __atomic_add_fetch(&s->held, (int64_t)chunk->cap, __ATOMIC_RELAXED);
    __atomic_add_fetch(&s->server->held, (int64_t)chunk->cap, __ATOMIC_RELAXED);
}

void nbds_chunk_replace_spare(NbdsChunk *chunk, NbdsSession *s)
{
    nbds_chunk_hold(chunk, s);
    __atomic_add_fetch(&chunk->refs, 1, __ATOMIC_RELAXED);
}

/* ---- batches */

static void batch_release(NbdsSession *s, NbdsOutput *out)
{
    nbds_batch_put(s->servers, (NbdsBatch *)((char *)out - offsetof(NbdsBatch, output)));
}

NbdsBatch *nbds_batch_get(NbdsServers *servers)
{
    NbdsBatch *batch;

    pthread_mutex_lock(&servers->pool_lock);
    batch = servers->batches;
    if (batch) {
        servers->batches = batch->next;
        servers->n_batches--;
    }
    pthread_mutex_unlock(&servers->pool_lock);
    if (!batch) {
        batch = g_new0(NbdsBatch, 1);
        batch->output.release = batch_release;
    }
    if (!batch->chunk)
        batch->chunk = nbds_chunk_get(servers, NBDS_CHUNK);
    batch->output.iov = batch->iov;
    batch->output.n = 0;
    batch->used = 0;
    if (batch->chunk)
        return batch;
    g_free(batch);
    return NULL;
}

void nbds_batch_put(NbdsServers *servers, NbdsBatch *batch)
{
    bool kept;

    if (nbds_chunk_shared(batch->chunk) || batch->chunk->holder)
        nbds_chunk_put(servers, g_steal_pointer(&batch->chunk));
    pthread_mutex_lock(&servers->pool_lock);
    kept = servers->n_batches < POOL_BATCHES;
    if (kept) {
        batch->next = servers->batches;
        servers->batches = batch;
        servers->n_batches++;
    }
    pthread_mutex_unlock(&servers->pool_lock);
    if (!kept) {
        nbds_chunk_put(servers, batch->chunk);
        g_free(batch);
    }
}

void nbds_batch_add(NbdsBatch *batch, const uint8_t *data, size_t length)
{
    struct iovec *last = batch->output.n ? &batch->iov[batch->output.n - 1] : NULL;

    if (last && (const uint8_t *)last->iov_base + last->iov_len == data)
        last->iov_len += length;
    else
        batch->iov[batch->output.n++] = (struct iovec){ (void *)data, length };
    batch->used = (size_t)(data - batch->chunk->data) + length;
}
