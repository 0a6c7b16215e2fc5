/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/server.c: the server object, and its place in the registry of exports. */
#include "server/nbd/nbd_internal.h"

#include "util/sync.h"

#include <sys/mman.h>

/* ---- BlkServer */

static bool server_start(void *opaque, const BlkServerOptions *options, GError **error)
{
    return nbds_service_start(opaque, options, error);
}

static void server_stop(void *opaque, const char *id)
{
    nbds_service_stop(opaque, id);
}

static bool server_running(void *opaque, const char *id)
{
    return nbds_service_find(opaque, id) != NULL;
}

static void server_disconnect(void *opaque, BlkExport *x)
{
    nbds_sessions_cut(opaque, NULL, x, NBDS_REASON_EXPORT);
}

static json_object *server_query(void *opaque)
{
    return nbds_service_query(opaque);
}

static json_object *server_query_sessions(void *opaque)
{
    return nbds_sessions_query(opaque);
}

static void server_counts(void *opaque, BlkExport *x, BlkCounts *sum)
{
    nbds_sessions_counts(opaque, x, sum);
}

static bool server_session_disconnect(void *opaque, uint64_t id, GError **error)
{
    return nbds_sessions_disconnect(opaque, id, error);
}

/* ---- life */

NbdServer *nbds_server_new(BlkExports *exports)
{
    NbdServer *server = g_new0(NbdServer, 1);
    BlkServer operations = {
        .type = "nbd",
        .start = server_start,
        .stop = server_stop,
        .running = server_running,
        .disconnect = server_disconnect,
        .query_servers = server_query,
        .query_sessions = server_query_sessions,
        .counts = server_counts,
        .session_disconnect = server_session_disconnect,
        .opaque = server,
    };

    server->exports = exports;
    server->engine = blk_graph_engine(blk_exports_graph(exports));
    pthread_mutex_init(&server->lock, NULL);
    pthread_mutex_init(&server->pool_lock, NULL);
    pthread_cond_init(&server->changed, NULL);
    server->clock.fd = -1;
    server->inherited = nbds_inherited_new();
    blk_exports_set_server(exports, &operations);
    return server;
}

void nbds_server_serve(NbdServer *server)
{
    TM_GUARD(&server->lock);

    server->serving = true;
    nbds_listen_resume(server);
}

static void free_pools(NbdServer *server)
{
    while (server->batches) {
        NbdsBatch *batch = server->batches;

        server->batches = batch->next;
        if (batch->chunk) {
            munmap(batch->chunk->data, batch->chunk->cap);
            g_free(batch->chunk);
        }
        g_free(batch);
    }
    for (int kind = 0; kind < 2; kind++) {
        NbdsChunk *chunk;

        while ((chunk = server->chunks[kind].first)) {
            server->chunks[kind].first = chunk->next;
            munmap(chunk->data, chunk->cap);
            g_free(chunk);
        }
    }
}

void nbds_server_free(NbdServer *server)
{
    BlkServer none = { .type = NULL };

    if (!server)
        return;
    nbds_service_stop(server, NULL);
    pthread_mutex_lock(&server->lock);
    while (server->n_sessions)
        pthread_cond_wait(&server->changed, &server->lock);
    pthread_mutex_unlock(&server->lock);
    nbds_clock_stop(server); /* only now: sessions may need it to end */
    blk_exports_set_server(server->exports, &none);
    free_pools(server);
    g_array_unref(server->inherited);
    pthread_cond_destroy(&server->changed);
    pthread_mutex_destroy(&server->pool_lock);
    pthread_mutex_destroy(&server->lock);
    g_free(server);
}
