/* server/server.c: the server object: its sessions, and its place in the registry of exports. */
#include "server/internal.h"

#include "util/error.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

void nbds_server_link(NbdServer *server, NbdsSession *s)
{
    pthread_mutex_lock(&server->lock);
    s->next = server->sessions;
    if (s->next)
        s->next->prev = s;
    server->sessions = s;
    server->n_sessions++;
    pthread_mutex_unlock(&server->lock);
}

void nbds_server_unlink(NbdServer *server, NbdsSession *s)
{
    pthread_mutex_lock(&server->lock);
    if (s->next)
        s->next->prev = s->prev;
    if (s->prev)
        s->prev->next = s->next;
    else
        server->sessions = s->next;
    pthread_mutex_unlock(&server->lock);
}

void nbds_server_gone(NbdServer *server)
{
    pthread_mutex_lock(&server->lock);
    server->n_sessions--;
    nbds_listen_resume(server);
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
}

/* Cuts off the sessions on @x, and those that have negotiated contexts of it and not gone on; or
 * with NULL those that are not on any export yet. Their sockets are open as long as they are in the
 * list. */
static void cut(NbdServer *server, BlkExport *x)
{
    pthread_mutex_lock(&server->lock);
    for (NbdsSession *s = server->sessions; s; s = s->next) {
        if (s->export_ == x || (x && s->meta.export_ == x))
            nbds_session_kill(s);
    }
    pthread_mutex_unlock(&server->lock);
}

/* ---- BlkServer */

static bool server_start(void *opaque, const BlkServerOptions *options, GError **error)
{
    NbdServer *server = opaque;

    if (strcmp(options->id, BLK_SERVER_DEFAULT))
        return tm_error_set(error, "only one NBD server can run");
    if (options->tls_creds || options->tls_authz)
        return tm_error_set(error, "The NBD server has no TLS: tls-%s '%s' can't be used",
                            options->tls_creds ? "creds" : "authz",
                            options->tls_creds ? options->tls_creds : options->tls_authz);
    pthread_mutex_lock(&server->lock);
    server->max_sessions = options->limits.max_connections;
    pthread_mutex_unlock(&server->lock);
    if (!nbds_listen(server, options, error))
        return false;
    server->running = true;
    return true;
}

static void server_stop(void *opaque, const char *id)
{
    NbdServer *server = opaque;

    server->running = false;
    nbds_listen_stop(server);
    cut(server, NULL);
}

static bool server_running(void *opaque, const char *id)
{
    NbdServer *server = opaque;

    return server->running && (!id || !strcmp(id, BLK_SERVER_DEFAULT));
}

static void server_disconnect(void *opaque, BlkExport *x)
{
    cut(opaque, x);
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
        .opaque = server,
    };

    server->exports = exports;
    server->engine = blk_graph_engine(blk_exports_graph(exports));
    pthread_mutex_init(&server->lock, NULL);
    pthread_mutex_init(&server->pool_lock, NULL);
    pthread_cond_init(&server->changed, NULL);
    blk_exports_set_server(exports, &operations);
    return server;
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
    server_stop(server, NULL);
    pthread_mutex_lock(&server->lock);
    for (NbdsSession *s = server->sessions; s; s = s->next)
        shutdown(s->source.fd, SHUT_RDWR);
    while (server->n_sessions)
        pthread_cond_wait(&server->changed, &server->lock);
    pthread_mutex_unlock(&server->lock);
    blk_exports_set_server(server->exports, &none);
    free_pools(server);
    pthread_cond_destroy(&server->changed);
    pthread_mutex_destroy(&server->pool_lock);
    pthread_mutex_destroy(&server->lock);
    g_free(server);
}
