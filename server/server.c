/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/server.c: one NBD server, as clients see it, with an id, sockets and limits.
 *
 * They share threads, buffers and the exports' registry; an export says which of them show it. */
#include "server/nbd/nbd_internal.h"

#include "object/tls_creds.h"
#include "util/error.h"
#include "util/json.h"
#include "util/sync.h"

/* ---- life */

NbdsServer *nbds_server_find(NbdsServers *servers, const char *id)
{
    NbdsServer *server = servers->list;

    while (server && id && !g_str_equal(server->id, id))
        server = server->next;
    return server;
}

/* Under the lock, once others know it: so that the objects can be deleted at once. */
static void drop_tls(NbdsServer *server)
{
    g_clear_pointer(&server->tls_creds, tm_object_unref);
    g_clear_pointer(&server->tls_authz, tm_object_unref);
}

static bool find_tls(NbdsServer *server, const BlkServerOptions *o, GError **error)
{
    TmObjects *objects = blk_exports_objects(server->servers->exports);

    server->tls = o->tls_creds != NULL;
    server->tls_required = server->tls && o->tls_required;
    if (o->tls_authz && !server->tls_required)
        return tm_error_set(error, "tls-authz '%s' needs tls-creds, and tls-required=on",
                            o->tls_authz);
    if (o->tls_creds) {
        server->tls_creds = tm_objects_get(objects, o->tls_creds, TM_OBJECT_TLS_CREDS, error);
        if (!server->tls_creds || !tm_tls_creds_check(server->tls_creds, true, error))
            return false;
    }
    if (o->tls_authz)
        server->tls_authz = tm_objects_get(objects, o->tls_authz, TM_OBJECT_AUTHZ, error);
    return !o->tls_authz || server->tls_authz;
}

/* Takes it out of the list and ends its sessions, soon. */
static void stop(NbdsServer *server)
{
    NbdsServers *servers = server->servers;
    NbdsServer **at = &servers->list;

    pthread_mutex_lock(&servers->lock);
    while (*at != server)
        at = &(*at)->next;
    *at = server->next;
    drop_tls(server);
    pthread_mutex_unlock(&servers->lock);
    nbds_listen_stop(server);
    nbds_sessions_cut(servers, server, NULL, NBDS_REASON_SERVER);
    TM_GUARD(&servers->lock);
    nbds_server_unref(server);
}

static void put_limits(NbdsServer *server, const BlkServerLimits *limits)
{
    BlkServerLimits *copy = g_memdup2(limits, sizeof(*limits));

    g_ptr_array_add(server->all_limits, copy);
    __atomic_store_n(&server->limits, copy, __ATOMIC_RELEASE);
}

/* By the names of the options. */
static void describe_limits(json_object *info, const BlkServerLimits *l)
{
    tm_json_add_uint(info, "max-connections", l->max_connections);
    tm_json_add_uint(info, "handshake-max-seconds", l->handshake_seconds);
    tm_json_add_uint(info, "idle-max-seconds", l->idle_seconds);
    tm_json_add_uint(info, "max-bytes-in-flight", l->bytes_in_flight);
    tm_json_add_uint(info, "max-bytes-in-flight-total", l->bytes_in_flight_total);
    tm_json_add_uint(info, "max-request-size", l->request_size);
    tm_json_add_uint(info, "max-option-size", l->option_size);
    tm_json_add_uint(info, "max-options", l->option_count);
}

/* What it was started with, with other limits: those of @given. */
static void note_limits(NbdsServer *server, json_object *given)
{
    json_object *limits = json_object_new_object();

    describe_limits(limits, nbds_limits(server));
    json_object_object_foreach(limits, name, in_force)
    {
        json_object *value = json_object_object_get(given, name);

        (void)in_force;
        json_object_object_del(server->given, name);
        if (value)
            json_object_object_add(server->given, name, json_object_get(value));
    }
    json_object_put(limits);
}

bool nbds_server_set_limits(NbdsServers *servers, const BlkServerOptions *options, GError **error)
{
    NbdsServer *server = nbds_server_find(servers, options->id);

    if (!nbds_limits_check(&options->limits, error))
        return false;
    put_limits(server, &options->limits);
    if (server->given)
        note_limits(server, options->given);
    return true;
}

bool nbds_server_start(NbdsServers *servers, const BlkServerOptions *options, GError **error)
{
    NbdsServer *server, **end = &servers->list;

    if (!nbds_limits_check(&options->limits, error) || !nbds_clock_start(servers, error))
        return false;
    server = g_new0(NbdsServer, 1);
    server->servers = servers;
    server->refs = 1;
    server->id = g_strdup(options->id);
    server->all_limits = g_ptr_array_new_with_free_func(g_free);
    put_limits(server, &options->limits);
    if (options->given)
        json_object_deep_copy(options->given, &server->given, NULL);
    if (!find_tls(server, options, error)) {
        drop_tls(server);
        nbds_server_unref(server);
        return false;
    }
    pthread_mutex_lock(&servers->lock);
    while (*end)
        end = &(*end)->next;
    *end = server;
    pthread_mutex_unlock(&servers->lock);
    if (nbds_listen(server, options, nbds_session_new, error))
        return true;
    stop(server);
    return false;
}

void nbds_server_stop(NbdsServers *servers, const char *id)
{
    NbdsServer *server;

    while ((server = nbds_server_find(servers, id))) {
        stop(server);
        if (id)
            break;
    }
}

/* ---- telling */

/* The ids of those that it shows. */
static json_object *describe_exports(GPtrArray *exports, const NbdsServer *server)
{
    json_object *ids = json_object_new_array();

    for (guint i = 0; i < exports->len; i++) {
        const BlkExport *x = exports->pdata[i];

        if (blk_export_shown_by(x, server->id) && !blk_export_shutting_down(x))
            json_object_array_add(ids, json_object_new_string(blk_export_id(x)));
    }
    return ids;
}

static json_object *describe_refused(const NbdsServer *server)
{
    static const char *const names[NBDS_REFUSALS] = { "option", "export", "tls", "timeout" };
    json_object *refused = json_object_new_object();

    for (int i = 0; i < NBDS_REFUSALS; i++)
        tm_json_add_uint(refused, names[i], __atomic_load_n(&server->refused[i], __ATOMIC_RELAXED));
    return refused;
}

static json_object *describe(GPtrArray *exports, const NbdsServer *server)
{
    json_object *info = json_object_new_object();
    json_object *uris = json_object_new_array();

    json_object_object_add(info, "id", json_object_new_string(server->id));
    json_object_object_add(info, "addresses", nbds_listen_addresses(server));
    nbds_listen_uris(server, "", uris);
    json_object_object_add(info, "uris", uris);
    json_object_object_add(info, "exports", describe_exports(exports, server));
    json_object_object_add(info, "tls", json_object_new_boolean(server->tls));
    tm_json_add_uint(info, "connections", server->n_sessions);
    json_object_object_add(info, "refused", describe_refused(server));
    describe_limits(info, nbds_limits(server));
    return info;
}

json_object *nbds_server_query(NbdsServers *servers)
{
    json_object *all = json_object_new_array();
    g_autoptr(GPtrArray) exports = blk_exports_list(servers->exports);
    TM_GUARD(&servers->lock);

    for (NbdsServer *server = servers->list; server; server = server->next)
        json_object_array_add(all, describe(exports, server));
    return all;
}

json_object *nbds_server_definitions(NbdsServers *servers)
{
    json_object *all = json_object_new_array();
    TM_GUARD(&servers->lock);

    for (NbdsServer *server = servers->list; server; server = server->next) {
        json_object *copy = NULL;

        if (server->given && json_object_deep_copy(server->given, &copy, NULL) == 0)
            json_object_array_add(all, copy);
    }
    return all;
}

json_object *nbds_server_uris(NbdsServers *servers, const BlkExport *x)
{
    json_object *uris = json_object_new_array();
    TM_GUARD(&servers->lock);

    for (NbdsServer *server = servers->list; server; server = server->next) {
        if (blk_export_shown_by(x, server->id))
            nbds_listen_uris(server, blk_export_name(x), uris);
    }
    return uris;
}
