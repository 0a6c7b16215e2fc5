/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/server.c: the NBD servers. The work is the server's, by way of block/export. */
#include "qmp/commands/families.h"
#include "qmp/context.h"
#include "qmp/qmp_internal.h"
#include "util/error.h"

/* ---- starting and stopping ---- */

/* What is not given stays as it is. */
static void take_limits(json_object *a, BlkServerLimits *l)
{
    l->max_connections = (uint32_t)qmp_arg_uint(a, "max-connections", l->max_connections);
    l->handshake_seconds = (uint32_t)qmp_arg_uint(a, "handshake-max-seconds", l->handshake_seconds);
    l->idle_seconds = (uint32_t)qmp_arg_uint(a, "idle-max-seconds", l->idle_seconds);
    l->bytes_in_flight = qmp_arg_uint(a, "max-bytes-in-flight", l->bytes_in_flight);
    l->bytes_in_flight_total =
        qmp_arg_uint(a, "max-bytes-in-flight-total", l->bytes_in_flight_total);
    l->request_size = qmp_arg_uint(a, "max-request-size", l->request_size);
    l->option_size = qmp_arg_uint(a, "max-option-size", l->option_size);
    l->option_count = qmp_arg_uint(a, "max-options", l->option_count);
}

static bool run_start(QmpCall *call, GError **error)
{
    json_object *a = call->args;
    BlkServerOptions options = {
        .id = qmp_arg_str(a, "id"),
        .tls_creds = qmp_arg_str(a, "tls-creds"),
        .tls_authz = qmp_arg_str(a, "tls-authz"),
        .tls_required = qmp_arg_bool(a, "tls-required", true),
        .limits = BLK_SERVER_LIMITS,
        .given = a,
    };

    take_limits(a, &options.limits);
    return qmp_arg_address(call->ctx, qmp_arg(a, "addr"), &options.address, error) &&
           blk_exports_server_start(qmp_context_exports(call->ctx), &options, error);
}

static bool run_set_limits(QmpCall *call, GError **error)
{
    BlkServerOptions options = { .id = qmp_arg_str(call->args, "id"),
                                 .limits = BLK_SERVER_LIMITS,
                                 .given = call->args };

    take_limits(call->args, &options.limits);
    return blk_exports_server_set_limits(qmp_context_exports(call->ctx), &options, error);
}

static bool run_stop(QmpCall *call, GError **error)
{
    return blk_exports_server_stop(qmp_context_exports(call->ctx), qmp_arg_str(call->args, "id"),
                                   error);
}

static const QmpMember stop_members[] = {
    { "id", &qmp_type_str, true, "the id of the server (default: 'default')" },
    { NULL },
};
static const QmpType stop_args = { .kind = QMP_KIND_OBJECT,
                                   .name = "q_obj_nbd-server-stop-arg",
                                   .members = stop_members };

/* ---- asking ---- */

static bool run_query(QmpCall *call, GError **error)
{
    const BlkServer *server = blk_exports_server(qmp_context_exports(call->ctx));

    call->result =
        server->query_servers ? server->query_servers(server->opaque) : json_object_new_array();
    return true;
}

static const QmpType address_array = { .kind = QMP_KIND_ARRAY,
                                       .name = "array",
                                       .element = &qmp_type_socket_address };
static const QmpMember refused_members[] = {
    { "option", &qmp_type_uint64, false, "for what they asked in the handshake" },
    { "export", &qmp_type_uint64, false, "for an export that is not there, or not for them" },
    { "tls", &qmp_type_uint64, false, "by TLS or an access list" },
    { "timeout", &qmp_type_uint64, false, "because they opened no export in time" },
    { NULL },
};
static const QmpType refused_type = { .kind = QMP_KIND_OBJECT,
                                      .name = "NbdServerRefused",
                                      .members = refused_members };
static const QmpMember info_members[] = {
    { "id", &qmp_type_str, false, "the id of the server" },
    { "addresses", &address_array, false, "the addresses that it listens on" },
    { "uris", &qmp_type_str_array, false, "the NBD URIs of these addresses, without an export" },
    { "exports", &qmp_type_str_array, false, "the ids of the exports that it shows" },
    { "tls", &qmp_type_bool, false, "clients can start TLS" },
    { "connections", &qmp_type_uint32, false, "number of clients" },
    { "refused", &refused_type, false, "number of clients that were refused, by reason" },
    { "max-connections", &qmp_type_uint32, false,
      "maximum number of clients at a time, 0 for no limit" },
    { "handshake-max-seconds", &qmp_type_uint32, false, "the option of this name" },
    { "idle-max-seconds", &qmp_type_uint32, false, "the option of this name" },
    { "max-bytes-in-flight", &qmp_type_size, false, "the option of this name" },
    { "max-bytes-in-flight-total", &qmp_type_size, false, "the option of this name" },
    { "max-request-size", &qmp_type_size, false, "the option of this name" },
    { "max-option-size", &qmp_type_size, false, "the option of this name" },
    { "max-options", &qmp_type_uint32, false, "the option of this name" },
    { NULL },
};
static const QmpType info_type = { .kind = QMP_KIND_OBJECT,
                                   .name = "NbdServerInfo",
                                   .members = info_members };
static const QmpType info_array = { .kind = QMP_KIND_ARRAY,
                                    .name = "array",
                                    .element = &info_type };

/* ---- sessions ---- */

static bool run_query_sessions(QmpCall *call, GError **error)
{
    const BlkServer *server = blk_exports_server(qmp_context_exports(call->ctx));

    call->result =
        server->query_sessions
            ? server->query_sessions(server->opaque, qmp_arg_uint(call->args, "after", 0),
                                     qmp_arg_limit(call->args))
            : json_object_new_array();
    return true;
}

static bool run_disconnect(QmpCall *call, GError **error)
{
    const BlkServer *server = blk_exports_server(qmp_context_exports(call->ctx));

    if (!server->session_disconnect)
        return tm_error_set(error, "This daemon has no NBD server");
    return server->session_disconnect(server->opaque, qmp_arg_uint(call->args, "id", 0), error);
}

static const QmpMember sessions_members[] = {
    QMP_PAGE_LIMIT("id"),
    { "after", &qmp_type_uint64, true,
      "a page: only those with a higher id, which need not exist (default: 0)" },
    { NULL },
};
static const QmpType sessions_args = { .kind = QMP_KIND_OBJECT,
                                       .name = "q_obj_query-nbd-sessions-arg",
                                       .members = sessions_members };

static const QmpMember disconnect_members[] = {
    { "id", &qmp_type_uint64, false, "the id of the session" },
    { NULL },
};
static const QmpType disconnect_args = { .kind = QMP_KIND_OBJECT,
                                         .name = "q_obj_nbd-session-disconnect-arg",
                                         .members = disconnect_members };

static const QmpMember request_members[] = {
    { "read", &qmp_type_uint64, false, "number of these requests" },
    { "write", &qmp_type_uint64, false, "number of these requests" },
    { "flush", &qmp_type_uint64, false, "number of these requests" },
    { "trim", &qmp_type_uint64, false, "number of these requests" },
    { "cache", &qmp_type_uint64, false, "number of these requests" },
    { "write-zeroes", &qmp_type_uint64, false, "number of these requests" },
    { "block-status", &qmp_type_uint64, false, "number of these requests" },
    { NULL },
};
static const QmpType requests = { .kind = QMP_KIND_OBJECT,
                                  .name = "NbdSessionRequests",
                                  .members = request_members };
static const char *const replies_values[] = { "simple", "structured", "extended", NULL };
static const QmpType replies = { .kind = QMP_KIND_ENUM,
                                 .name = "NbdReplies",
                                 .values = replies_values };
static const QmpMember session_members[] = {
    { "id", &qmp_type_uint64, false, "the id of the session; ids are not reused" },
    { "server", &qmp_type_str, false, "the id of the server" },
    { "peer", &qmp_type_str, false, "the other end of the connection" },
    { "tls", &qmp_type_bool, false, "the connection is encrypted" },
    { "identity", &qmp_type_str, true,
      "the client's identity: its certificate's name, PSK identity, or uid=N" },
    { "export", &qmp_type_str, true, "the id of the export" },
    { "replies", &replies, true, "the kind of replies that was negotiated" },
    { "writable", &qmp_type_bool, false, "the client may write" },
    { "contexts", &qmp_type_str_array, false, "the metadata contexts that it selected" },
    { "requests", &requests, false, "number of requests, by kind" },
    { "bytes-read", &qmp_type_uint64, false, "bytes that it has read" },
    { "bytes-written", &qmp_type_uint64, false, "bytes that it has written" },
    { "errors", &qmp_type_uint64, false, "number of requests that failed" },
    { "age", &qmp_type_uint64, false, "seconds since the client connected" },
    { "idle", &qmp_type_uint64, false, "seconds since the last byte was sent or received" },
    { NULL },
};
static const QmpType session = { .kind = QMP_KIND_OBJECT,
                                 .name = "NbdSessionInfo",
                                 .members = session_members };
static const QmpType session_array = { .kind = QMP_KIND_ARRAY,
                                       .name = "array",
                                       .element = &session };

static const char *const nbd_server_start_errors[] = {
    "NBD server already running",
    "NBD server 'ID' already running",
    "Invalid NBD server id 'ID': expected letters, digits, '-', '.' and '_', a letter first",
    "No TLS credentials with id 'ID'",
    "This daemon has no NBD server",
    NULL
};
static const char *const nbd_server_stop_errors[] = { "NBD server not running",
                                                      "NBD server 'ID' not running", NULL };
static const char *const nbd_session_disconnect_errors[] = { "NBD session ID is not found", NULL };

static const QmpCommand commands[] = {
    { "nbd-server-start", "start listening for NBD clients", &qmp_type_nbd_server_args,
      &qmp_type_empty, run_start,
      .example = "{'addr': {'type': 'unix', 'data': {'path': 'nbd.sock'}}}",
      .errors = nbd_server_start_errors },
    { "nbd-server-set-limits",
      "set all limits of an NBD server: one that is not given has its default; clients that are "
      "connected stay",
      &qmp_type_nbd_server_limits, &qmp_type_empty, run_set_limits,
      .example = "{'max-connections': 16}", .errors = nbd_server_stop_errors },
    { "nbd-server-stop",
      "stop an NBD server, end its sessions, and remove the exports that no other server offers",
      &stop_args, &qmp_type_empty, run_stop, .errors = nbd_server_stop_errors },
    { "query-nbd-sessions", "the clients of the NBD servers", &sessions_args, &session_array,
      run_query_sessions, .example = "{'limit': 100, 'after': 1}" },
    { "nbd-session-disconnect", "disconnect a client", &disconnect_args, &qmp_type_empty,
      run_disconnect, .example = "{'id': 1}", .errors = nbd_session_disconnect_errors },
    { "query-nbd-servers", "the NBD servers", &qmp_type_empty, &info_array, run_query },
    { NULL },
};

/* ---- events ---- */

static const QmpMember connected_members[] = {
    { "id", &qmp_type_uint64, false, "the id of the session" },
    { "server", &qmp_type_str, false, "the id of the server" },
    { "peer", &qmp_type_str, false, "the other end of the connection" },
    { "export", &qmp_type_str, false, "the id of the export" },
    { "tls", &qmp_type_bool, false, "the connection is encrypted" },
    { "identity", &qmp_type_str, true, "the client's identity, as in query-nbd-sessions" },
    { "writable", &qmp_type_bool, false, "the client may write" },
    { NULL },
};
static const QmpType connected_data = { .kind = QMP_KIND_OBJECT,
                                        .name = "q_obj_NBD_CLIENT_CONNECTED-arg",
                                        .members = connected_members };
static const char *const reason_values[] = { "closed",         "lost",      "error",
                                             "idle",           "stalled",   "export-removed",
                                             "server-stopped", "requested", NULL };
static const QmpType reason = { .kind = QMP_KIND_ENUM,
                                .name = "NbdDisconnectReason",
                                .values = reason_values };
static const QmpMember disconnected_members[] = {
    { "id", &qmp_type_uint64, false, "the id that the session had" },
    { "server", &qmp_type_str, false, "the id of the server" },
    { "peer", &qmp_type_str, false, "the other end of the connection" },
    { "export", &qmp_type_str, false, "the id of the export" },
    { "reason", &reason, false, "why it ended" },
    { NULL },
};
static const QmpType disconnected_data = { .kind = QMP_KIND_OBJECT,
                                           .name = "q_obj_NBD_CLIENT_DISCONNECTED-arg",
                                           .members = disconnected_members };

static const QmpEvent events[] = {
    { "NBD_CLIENT_CONNECTED", "a client has opened an export", &connected_data },
    { "NBD_CLIENT_DISCONNECTED", "a client that had opened an export has disconnected",
      &disconnected_data },
    { NULL },
};

const QmpFamily qmp_family_server = { "NBD servers", commands, events };
