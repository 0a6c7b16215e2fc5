/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/servers.c: all NBD servers together, and their place in the registry of exports. */
#include "server/nbd/nbd_internal.h"

#include "util/sync.h"

#include <sys/mman.h>

/* ---- BlkServer */

static bool server_start(void *opaque, const BlkServerOptions *options, GError **error)
{
    return nbds_server_start(opaque, options, error);
}

static bool server_set_limits(void *opaque, const BlkServerOptions *options, GError **error)
{
    return nbds_server_set_limits(opaque, options, error);
}

static void server_stop(void *opaque, const char *id)
{
    nbds_server_stop(opaque, id);
}

static bool server_running(void *opaque, const char *id)
{
    return nbds_server_find(opaque, id) != NULL;
}

static json_object *server_query(void *opaque)
{
    return nbds_server_query(opaque);
}

static json_object *server_query_sessions(void *opaque, uint64_t after, unsigned limit)
{
    return nbds_sessions_query(opaque, after, limit);
}

static json_object *server_definitions(void *opaque)
{
    return nbds_server_definitions(opaque);
}

static bool server_session_disconnect(void *opaque, uint64_t id, GError **error)
{
    return nbds_sessions_disconnect(opaque, id, error);
}

/* ---- BlkExportType */

static void export_disconnect(void *opaque, BlkExport *x)
{
    nbds_sessions_cut(opaque, NULL, x, NBDS_REASON_EXPORT);
}

static void export_describe(void *opaque, BlkExport *x, json_object *info)
{
    json_object_object_add(info, "uris", nbds_server_uris(opaque, x));
    json_object_object_add(info, "clients", nbds_sessions_clients(opaque, x));
}

static void export_counts(void *opaque, BlkExport *x, BlkCounts *sum)
{
    nbds_sessions_counts(opaque, x, sum);
}

/* ---- life */

NbdsServers *nbds_servers_new(BlkExports *exports, TmInherited *inherited)
{
    NbdsServers *servers = g_new0(NbdsServers, 1);
    BlkServer operations = {
        .start = server_start,
        .stop = server_stop,
        .set_limits = server_set_limits,
        .running = server_running,
        .query_servers = server_query,
        .query_sessions = server_query_sessions,
        .definitions = server_definitions,
        .session_disconnect = server_session_disconnect,
        .opaque = servers,
    };
    BlkExportType type = {
        .name = "nbd",
        .by_servers = true,
        .disconnect = export_disconnect,
        .describe = export_describe,
        .counts = export_counts,
        .opaque = servers,
    };

    servers->exports = exports;
    servers->engine = blk_graph_engine(blk_exports_graph(exports));
    pthread_mutex_init(&servers->lock, NULL);
    pthread_mutex_init(&servers->pool_lock, NULL);
    pthread_cond_init(&servers->changed, NULL);
    servers->clock.fd = -1;
    servers->sessions = g_ptr_array_new();
    servers->of_exports =
        g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_ptr_array_unref);
    servers->inherited = inherited;
    blk_exports_set_server(exports, &operations);
    blk_exports_add_type(exports, &type);
    return servers;
}

void nbds_servers_serve(NbdsServers *servers)
{
    TM_GUARD(&servers->lock);

    servers->serving = true;
    nbds_listen_resume(servers);
}

static void free_pools(NbdsServers *servers)
{
    while (servers->batches) {
        NbdsBatch *batch = servers->batches;

        servers->batches = batch->next;
        if (batch->chunk) {
            munmap(batch->chunk->data, batch->chunk->cap);
            g_free(batch->chunk);
        }
        g_free(batch);
    }
    for (int kind = 0; kind < 2; kind++) {
        NbdsChunk *chunk;

        while ((chunk = servers->chunks[kind].first)) {
            servers->chunks[kind].first = chunk->next;
            munmap(chunk->data, chunk->cap);
            g_free(chunk);
        }
    }
}

unsigned nbds_servers_clients(NbdsServers *servers)
{
    TM_GUARD(&servers->lock);

    return servers->n_sessions;
}

void nbds_servers_free(NbdsServers *servers)
{
    BlkServer none = { .start = NULL };

    if (!servers)
        return;
    nbds_server_stop(servers, NULL);
    pthread_mutex_lock(&servers->lock);
    while (servers->n_sessions)
        pthread_cond_wait(&servers->changed, &servers->lock);
    pthread_mutex_unlock(&servers->lock);
    nbds_clock_stop(servers); /* only now: sessions may need it to end */
    blk_exports_remove_type(servers->exports, "nbd");
    blk_exports_set_server(servers->exports, &none);
    free_pools(servers);
    g_ptr_array_unref(servers->sessions);
    g_hash_table_unref(servers->of_exports);
    pthread_cond_destroy(&servers->changed);
    pthread_mutex_destroy(&servers->pool_lock);
    pthread_mutex_destroy(&servers->lock);
    g_free(servers);
}
