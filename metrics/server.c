/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* metrics/server.c: where the server listens, and who may reach it.
 *
 * Nobody is accepted beyond what http.c takes: they wait in the kernel's queue, of which the
 * listeners hear nothing until a connection has ended. */
#include "metrics/metrics_internal.h"

#include "object/tls_creds.h"
#include "util/error.h"

#include <arpa/inet.h>
#include <glib-unix.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

typedef struct Listener {
    MetricsServer *server;
    TmSocket socket;
    guint watch; /* 0: it takes nobody now */
} Listener;

struct MetricsServer {
    Listener *listeners;
    size_t n_listeners;
    TmObject *tls_creds, *token; /* references, or NULL */
    MetricsHttp *http;
    MetricsMaps *maps;
};

/* ---- accepting */

static gboolean accept_ready(int fd, GIOCondition condition, gpointer opaque)
{
    Listener *l = opaque;
    int client = metrics_http_full(l->server->http)
                     ? -1
                     : accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (client >= 0) {
        tm_address_configure(client, true);
        metrics_http_add(l->server->http, client);
    }
    if (!metrics_http_full(l->server->http))
        return G_SOURCE_CONTINUE;
    l->watch = 0;
    return G_SOURCE_REMOVE;
}

static void take_clients(void *opaque)
{
    MetricsServer *server = opaque;

    for (size_t i = 0; i < server->n_listeners; i++) {
        Listener *l = &server->listeners[i];

        if (!l->watch)
            l->watch = g_unix_fd_add(l->socket.fd, G_IO_IN, accept_ready, l);
    }
}

/* ---- who may reach it */

static bool is_unix(int fd)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);

    return getsockname(fd, (struct sockaddr *)&address, &length) == 0 &&
           address.ss_family == AF_UNIX;
}

static bool is_loopback(int fd)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    const struct sockaddr_in *in = (const struct sockaddr_in *)&address;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address;

    if (getsockname(fd, (struct sockaddr *)&address, &length))
        return false;
    return (address.ss_family == AF_INET && ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET) ||
           (address.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr));
}

static bool check_reach(const MetricsServer *server, GError **error)
{
    for (size_t i = 0; i < server->n_listeners; i++) {
        int fd = server->listeners[i].socket.fd;
        json_object *shown;

        if (is_unix(fd) || is_loopback(fd) || (server->tls_creds && server->token))
            continue;
        shown = tm_address_bound(fd);
        tm_error_set(error,
                     "Metrics on '%s', which other machines reach, need both tls-creds and "
                     "token-secret",
                     json_object_get_string(json_object_object_get(
                         shown, json_object_object_get_ex(shown, "cid", NULL) ? "cid" : "host")));
        json_object_put(shown);
        return false;
    }
    return true;
}

static bool only_unix(const MetricsServer *server)
{
    for (size_t i = 0; i < server->n_listeners; i++) {
        if (!is_unix(server->listeners[i].socket.fd))
            return false;
    }
    return true;
}

static bool take_objects(MetricsServer *server, const MetricsOptions *options, GError **error)
{
    size_t length;

    if (options->tls_creds) {
        server->tls_creds =
            tm_objects_get(options->objects, options->tls_creds, TM_OBJECT_TLS_CREDS, error);
        if (!server->tls_creds || !tm_tls_creds_check(server->tls_creds, true, error))
            return false;
    }
    if (!options->token_secret)
        return true;
    server->token =
        tm_objects_get(options->objects, options->token_secret, TM_OBJECT_SECRET, error);
    if (!server->token)
        return false;
    tm_secret_data(server->token, &length);
    return length >= METRICS_TOKEN_MIN ||
           tm_error_set(error, "Secret '%s' has %zu bytes, a token needs at least %u",
                        options->token_secret, length, METRICS_TOKEN_MIN);
}

/* ---- life */

static bool listen_all(MetricsServer *server, const MetricsOptions *options, GError **error)
{
    g_autoptr(GArray) sockets = g_array_new(FALSE, TRUE, sizeof(TmSocket));

    if (!tm_address_listen(options->address, options->inherited, sockets, error))
        return false;
    tm_address_refuse_descriptors(sockets);
    server->n_listeners = sockets->len;
    server->listeners = g_new0(Listener, sockets->len);
    for (guint i = 0; i < sockets->len; i++)
        server->listeners[i] =
            (Listener){ .server = server, .socket = g_array_index(sockets, TmSocket, i) };
    return check_reach(server, error);
}

MetricsServer *metrics_server_new(const MetricsOptions *options, GError **error)
{
    MetricsServer *server = g_new0(MetricsServer, 1);
    MetricsHttpOptions http = { .gone = take_clients, .owner = server };

    if (!take_objects(server, options, error) || !listen_all(server, options, error)) {
        metrics_server_free(server);
        return NULL;
    }
    server->maps = metrics_maps_new();
    http.source = (MetricsSource){ options->ask, options->opaque, options->events, server->maps };
    http.tls_creds = server->tls_creds;
    http.token = server->token;
    http.check_host = !server->token && !only_unix(server);
    server->http = metrics_http_new(&http, error);
    if (!server->http) {
        metrics_server_free(server);
        return NULL;
    }
    take_clients(server);
    return server;
}

void metrics_server_free(MetricsServer *server)
{
    if (!server)
        return;
    metrics_http_free(server->http);
    metrics_maps_free(server->maps);
    for (size_t i = 0; i < server->n_listeners; i++) {
        if (server->listeners[i].watch)
            g_source_remove(server->listeners[i].watch);
        tm_socket_close(&server->listeners[i].socket);
    }
    g_free(server->listeners);
    tm_object_unref(server->tls_creds);
    tm_object_unref(server->token);
    g_free(server);
}

void metrics_server_describe(const MetricsServer *server, json_object *info)
{
    json_object *addresses = json_object_new_array();

    for (size_t i = 0; i < server->n_listeners; i++)
        json_object_array_add(addresses, tm_address_bound(server->listeners[i].socket.fd));
    json_object_object_add(info, "addresses", addresses);
    tm_json_add_bool(info, "tls", server->tls_creds != NULL);
    tm_json_add_bool(info, "token", server->token != NULL);
    tm_json_add_uint(info, "connections", metrics_http_connections(server->http));
}
