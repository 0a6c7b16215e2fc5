/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/export.c: the type "vhost-user-blk" in the registry of exports, and its sockets.
 *
 * An export has one client at a time: the guest's queues are its. The next one is accepted when
 * nothing of the last one's is left, so what a guest had in flight has ended before it comes again
 * with a new connection. */
#include "server/vhost/vhost_internal.h"

#include "util/error.h"
#include "util/json.h"

#include <errno.h>
#include <glib-unix.h>
#include <unistd.h>

#define BLOCK_MIN 512u
#define BLOCK_MAX (2u << 20)
#define WATCH_MS  20 /* while the last client ends, or for a descriptor for the next one */

/* ---- accepting */

static gboolean await_client(gpointer opaque);

/* One waits, and the socket stays readable meanwhile. */
static void crowded(VhostExport *x)
{
    const char *id = blk_export_id(x->blk);
    TmLogFacts facts = { .area = TM_LOG_BLOCK, .level = TM_LOG_WARNING, .export = id };

    if (!x->crowded)
        tm_log_note(x->log, &facts,
                    "export '%s': a client waits: %s: raise the limit of the process, LimitNOFILE= "
                    "of its unit",
                    id, g_strerror(errno));
    x->crowded = true;
    x->watch = g_timeout_add(WATCH_MS, await_client, x);
}

static gboolean acceptable(gint fd, GIOCondition condition, gpointer opaque)
{
    VhostExport *x = opaque;
    int client;

    client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0 && tm_accept_crowded(errno)) {
        crowded(x);
        return G_SOURCE_REMOVE;
    }
    if (client < 0)
        return G_SOURCE_CONTINUE;
    x->crowded = false;
    if (blk_export_session_begin(x->blk) != 0) {
        close(client);
        return G_SOURCE_CONTINUE;
    }
    x->watch = 0;
    vhost_session_begin(x, client);
    return G_SOURCE_REMOVE;
}

/* Watches the sockets for the next client, once the last one has ended. */
static gboolean await_client(gpointer opaque)
{
    VhostExport *x = opaque;

    if (!__atomic_load_n(&x->vacant, __ATOMIC_ACQUIRE))
        return G_SOURCE_CONTINUE;
    x->watch = g_unix_fd_add(g_array_index(x->sockets, TmSocket, 0).fd, G_IO_IN, acceptable, x);
    return G_SOURCE_REMOVE;
}

static void session_ended(VhostExport *x)
{
    x->session = NULL;
    if (!x->closed)
        x->watch = g_timeout_add(WATCH_MS, await_client, x);
}

/* ---- the type */

static bool check(const BlkExportOptions *o, GError **error)
{
    if (o->address.type != TM_ADDRESS_UNIX && o->address.type != TM_ADDRESS_FD)
        return tm_error_set(error, "Only socket address types 'unix' and 'fd' are supported");
    if (!o->num_queues)
        return tm_error_set(error, "num-queues must be greater than 0");
    if (o->num_queues > VHOST_QUEUES_MAX)
        return tm_error_set(error, "num-queues must be at most %u, not %u", VHOST_QUEUES_MAX,
                            o->num_queues);
    if (o->logical_block_size < BLOCK_MIN || o->logical_block_size > BLOCK_MAX)
        return tm_error_set(error,
                            "Property %s.logical-block-size doesn't take value %" PRIu64
                            " (minimum: %u, maximum: %u)",
                            o->id, o->logical_block_size, BLOCK_MIN, BLOCK_MAX);
    if (o->logical_block_size & (o->logical_block_size - 1))
        return tm_error_set(error,
                            "Property %s.logical-block-size doesn't take value '%" PRIu64
                            "', it's not a power of 2",
                            o->id, o->logical_block_size);
    return true;
}

static void close_sockets(VhostExport *x)
{
    for (guint i = 0; i < x->sockets->len; i++) {
        TmSocket *socket = &g_array_index(x->sockets, TmSocket, i);

        tm_socket_file_remove(&socket->file);
        tm_socket_close(socket);
    }
    g_array_set_size(x->sockets, 0);
}

static bool start(void *opaque, BlkExport *blk, const BlkExportOptions *o, GError **error)
{
    VhostExport *x;

    if (!check(o, error))
        return false;
    x = g_new0(VhostExport, 1);
    x->refs = 1;
    x->blk = blk;
    x->engine = blk_graph_engine(blk_node_graph(blk_export_node(blk)));
    x->log = blk_graph_log(blk_node_graph(blk_export_node(blk)));
    x->block_size = (uint32_t)o->logical_block_size;
    x->n_queues = o->num_queues;
    x->ended = session_ended;
    x->vacant = 1;
    x->sockets = g_array_new(FALSE, FALSE, sizeof(TmSocket));
    if (!tm_address_listen(&o->address, opaque, x->sockets, error)) {
        vhost_export_unref(x);
        return false;
    }
    blk_export_set_serving(blk, x);
    await_client(x);
    return true;
}

static void stop(void *opaque, BlkExport *blk)
{
    VhostExport *x = blk_export_serving(blk);

    x->closed = true;
    if (x->watch)
        g_source_remove(x->watch);
    x->watch = 0;
    close_sockets(x);
}

static void disconnect(void *opaque, BlkExport *blk)
{
    VhostExport *x = blk_export_serving(blk);

    if (x->session)
        vhost_session_end(x->session, "export-removed");
}

static void end(void *opaque, BlkExport *blk)
{
    vhost_export_unref(blk_export_serving(blk));
}

static void tick(void *opaque, BlkExport *blk)
{
    VhostExport *x = blk_export_serving(blk);

    if (x->session)
        vhost_session_tick(x->session);
}

static void describe(void *opaque, BlkExport *blk, json_object *info)
{
    VhostExport *x = blk_export_serving(blk);
    json_object *clients = json_object_new_array();

    if (x->session) {
        json_object *client = json_object_new_object();

        tm_json_add_uint(client, "id", x->session->id);
        tm_json_add_string(client, "peer", x->session->peer);
        tm_json_add_bool(client, "tls", false);
        tm_json_add_bool(client, "writable", blk_export_writable(blk));
        json_object_array_add(clients, client);
    }
    json_object_object_add(info, "clients", clients);
}

void vhost_register(BlkExports *exports, TmInherited *inherited)
{
    BlkExportType type = {
        .name = "vhost-user-blk",
        .start = start,
        .close = stop,
        .disconnect = disconnect,
        .end = end,
        .describe = describe,
        .tick = tick,
        .opaque = inherited,
    };

    blk_exports_add_type(exports, &type);
}
