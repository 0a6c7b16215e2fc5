/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/service.c: the servers that clients see, each with an id, sockets and limits.
 *
 * They share threads, buffers and the exports' registry; an export says which of them show it. */
#include "server/nbd/nbd_internal.h"

#include "object/tls_creds.h"
#include "util/error.h"
#include "util/json.h"
#include "util/sync.h"

/* ---- life */

NbdsService *nbds_service_find(NbdServer *server, const char *id)
{
    NbdsService *service = server->services;

    while (service && id && !g_str_equal(service->id, id))
        service = service->next;
    return service;
}

/* Under the lock, once others know it: so that the objects can be deleted at once. */
static void drop_tls(NbdsService *service)
{
    g_clear_pointer(&service->tls_creds, tm_object_unref);
    g_clear_pointer(&service->tls_authz, tm_object_unref);
}

static bool find_tls(NbdsService *service, const BlkServerOptions *o, GError **error)
{
    TmObjects *objects = blk_exports_objects(service->server->exports);

    service->tls = o->tls_creds != NULL;
    service->tls_required = service->tls && o->tls_required;
    if (o->tls_authz && !service->tls_required)
        return tm_error_set(error, "tls-authz '%s' needs tls-creds, and tls-required=on",
                            o->tls_authz);
    if (o->tls_creds) {
        service->tls_creds = tm_objects_get(objects, o->tls_creds, TM_OBJECT_TLS_CREDS, error);
        if (!service->tls_creds || !tm_tls_creds_server(service->tls_creds, error))
            return false;
    }
    if (o->tls_authz)
        service->tls_authz = tm_objects_get(objects, o->tls_authz, TM_OBJECT_AUTHZ, error);
    return !o->tls_authz || service->tls_authz;
}

/* Takes it out of the list and ends its sessions, soon. */
static void stop(NbdsService *service)
{
    NbdServer *server = service->server;
    NbdsService **at = &server->services;

    pthread_mutex_lock(&server->lock);
    while (*at != service)
        at = &(*at)->next;
    *at = service->next;
    drop_tls(service);
    pthread_mutex_unlock(&server->lock);
    nbds_listen_stop(service);
    nbds_sessions_cut(server, service, NULL, NBDS_REASON_SERVER);
    TM_GUARD(&server->lock);
    nbds_service_unref(service);
}

bool nbds_service_start(NbdServer *server, const BlkServerOptions *options, GError **error)
{
    NbdsService *service, **end = &server->services;

    if (!nbds_limits_check(&options->limits, error) || !nbds_clock_start(server, error))
        return false;
    service = g_new0(NbdsService, 1);
    service->server = server;
    service->refs = 1;
    service->id = g_strdup(options->id);
    service->limits = options->limits;
    if (!find_tls(service, options, error)) {
        drop_tls(service);
        nbds_service_unref(service);
        return false;
    }
    pthread_mutex_lock(&server->lock);
    while (*end)
        end = &(*end)->next;
    *end = service;
    pthread_mutex_unlock(&server->lock);
    if (nbds_listen(service, options, nbds_session_new, error))
        return true;
    stop(service);
    return false;
}

void nbds_service_stop(NbdServer *server, const char *id)
{
    NbdsService *service;

    while ((service = nbds_service_find(server, id))) {
        stop(service);
        if (id)
            break;
    }
}

/* ---- telling */

static json_object *describe(const NbdsService *service)
{
    json_object *info = json_object_new_object();
    const BlkServerLimits *l = &service->limits;

    json_object_object_add(info, "id", json_object_new_string(service->id));
    json_object_object_add(info, "addresses", nbds_listen_addresses(service));
    json_object_object_add(info, "tls", json_object_new_boolean(service->tls));
    tm_json_add_uint(info, "connections", service->n_sessions);
    tm_json_add_uint(info, "max-connections", l->max_connections);
    tm_json_add_uint(info, "handshake-max-seconds", l->handshake_seconds);
    tm_json_add_uint(info, "idle-max-seconds", l->idle_seconds);
    tm_json_add_uint(info, "max-bytes-in-flight", l->bytes_in_flight);
    tm_json_add_uint(info, "max-bytes-in-flight-total", l->bytes_in_flight_total);
    tm_json_add_uint(info, "max-request-size", l->request_size);
    tm_json_add_uint(info, "max-option-size", l->option_size);
    tm_json_add_uint(info, "max-options", l->option_count);
    return info;
}

json_object *nbds_service_query(NbdServer *server)
{
    json_object *all = json_object_new_array();
    TM_GUARD(&server->lock);

    for (NbdsService *service = server->services; service; service = service->next)
        json_object_array_add(all, describe(service));
    return all;
}
