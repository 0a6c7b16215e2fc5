/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/chardev.c: the channels of monitors. The work is qmp/chardev's. Names and members
 * are QEMU's (qapi/char.json). */
#include "object/tls_creds.h"
#include "qmp/commands/families.h"
#include "qmp/context.h"
#include "qmp/qmp_internal.h"
#include "util/error.h"
#include "util/json.h"

/* ---- creating and removing ---- */

#define RECONNECT_MAX_MS ((int64_t)UINT32_MAX * 1000)

static bool take_reconnect(json_object *data, int64_t *ms, GError **error)
{
    int64_t seconds = qmp_arg_int(data, "reconnect", 0);

    if (qmp_arg(data, "reconnect") && qmp_arg(data, "reconnect-ms"))
        return tm_error_set(error, "'reconnect' and 'reconnect-ms' are mutually exclusive");
    if (seconds < 0 || seconds > UINT32_MAX)
        return tm_error_set(error, "Parameter 'reconnect' expects 0 to %u seconds", UINT32_MAX);
    *ms = qmp_arg_int(data, "reconnect-ms", seconds * 1000);
    if (*ms < 0 || *ms > RECONNECT_MAX_MS)
        return tm_error_set(error, "Parameter 'reconnect-ms' expects 0 to %" PRId64 " milliseconds",
                            RECONNECT_MAX_MS);
    return true;
}

/* What else QEMU speaks on a socket: for people and browsers. */
static bool refuse_protocols(json_object *data, GError **error)
{
    static const char *const protocols[] = { "telnet", "tn3270", "websocket" };

    for (size_t i = 0; i < G_N_ELEMENTS(protocols); i++) {
        if (qmp_arg_bool(data, protocols[i], false))
            return tm_error_set(error,
                                "'%s' option is not supported: a socket has plain QMP, or QMP in "
                                "TLS with 'tls-creds'",
                                protocols[i]);
    }
    return true;
}

/* References to the objects that the TLS options name. */
static bool take_tls(QmpContext *ctx, json_object *data, QmpChardevOptions *options, GError **error)
{
    TmObjects *objects = blk_graph_objects(qmp_context_graph(ctx));
    const char *creds = qmp_arg_str(data, "tls-creds"), *authz = qmp_arg_str(data, "tls-authz");

    if (authz && !creds)
        return tm_error_set(error, "'tls-authz' option requires 'tls-creds' option");
    if (!creds)
        return true;
    options->tls_creds = tm_objects_get(objects, creds, TM_OBJECT_TLS_CREDS, error);
    if (!options->tls_creds || !tm_tls_creds_check(options->tls_creds, options->server, error))
        return false;
    if (authz)
        options->tls_authz = tm_objects_get(objects, authz, TM_OBJECT_AUTHZ, error);
    return !authz || options->tls_authz;
}

static bool take_socket(QmpContext *ctx, json_object *data, QmpChardevOptions *options,
                        TmAddress *address, GError **error)
{
    options->address = address;
    options->server = qmp_arg_bool(data, "server", true);
    if (!options->server && qmp_arg(data, "wait"))
        return tm_error_set(error,
                            "'wait' option is incompatible with socket in client connect mode");
    return qmp_arg_address(ctx, qmp_arg(data, "addr"), address, error) &&
           take_reconnect(data, &options->reconnect_ms, error) && refuse_protocols(data, error) &&
           take_tls(ctx, data, options, error);
}

static QmpChardev *add(QmpCall *call, json_object *data, QmpChardevOptions *options, GError **error)
{
    TmAddress address = { 0 };
    QmpChardev *c = NULL;

    if (!g_str_equal(options->driver, "socket") ||
        take_socket(call->ctx, data, options, &address, error))
        c = qmp_chardevs_add(qmp_context_chardevs(call->ctx), options, error);
    tm_object_unref(options->tls_creds);
    tm_object_unref(options->tls_authz);
    return c;
}

static bool run_add(QmpCall *call, GError **error)
{
    json_object *data = qmp_arg(call->args, "backend.data");
    QmpChardevOptions options = {
        .id = qmp_arg_str(call->args, "id"),
        .driver = qmp_arg_str(call->args, "backend.type"),
        .in = qmp_arg_str(data, "in"),
        .out = qmp_arg_str(data, "out"),
        .append = qmp_arg_bool(data, "append", false),
        .logfile = qmp_arg_str(data, "logfile"),
        .logappend = qmp_arg_bool(data, "logappend", false),
        .given = call->args,
    };
    QmpChardev *c;

    c = add(call, data, &options, error);
    if (!c)
        return false;
    if (qmp_arg_bool(data, "wait", false) && !qmp_chardev_wait(c, error)) {
        qmp_chardevs_remove(qmp_context_chardevs(call->ctx), options.id, NULL);
        return false;
    }
    call->result = json_object_new_object();
    if (qmp_chardev_pty(c))
        tm_json_add_string(call->result, "pty", qmp_chardev_pty(c));
    return true;
}

static bool run_remove(QmpCall *call, GError **error)
{
    return qmp_chardevs_remove(qmp_context_chardevs(call->ctx), qmp_arg_str(call->args, "id"),
                               error);
}

/* ---- asking ---- */

static bool run_query(QmpCall *call, GError **error)
{
    g_autoptr(GPtrArray) list = qmp_chardevs_list(qmp_context_chardevs(call->ctx));

    call->result = json_object_new_array();
    for (guint i = 0; i < list->len; i++) {
        const QmpChardev *c = list->pdata[i];
        json_object *info = json_object_new_object();
        g_autofree char *filename = qmp_chardev_filename(c);

        tm_json_add_bool(info, "frontend-open", qmp_chardev_used(c));
        tm_json_add_string(info, "filename", filename);
        tm_json_add_string(info, "label", qmp_chardev_id(c));
        json_object_array_add(call->result, info);
    }
    return true;
}

static bool run_query_backends(QmpCall *call, GError **error)
{
    call->result = json_object_new_array();
    for (const char *const *name = qmp_chardev_drivers(); *name; name++) {
        json_object *info = json_object_new_object();

        tm_json_add_string(info, "name", *name);
        json_object_array_add(call->result, info);
    }
    return true;
}

/* ---- types ---- */

#define OBJECT(c_name, type_name, list)                                                            \
    static const QmpType c_name = { .kind = QMP_KIND_OBJECT, .name = type_name, .members = list }
#define COMMON                                                                                     \
    { "logfile", &qmp_type_str, true, "file that gets a copy of what is sent" },                   \
    {                                                                                              \
        "logappend", &qmp_type_bool, true,                                                         \
            "append to that file instead of replacing it (default: off)"                           \
    }

static const QmpMember common_members[] = { COMMON, { NULL } };
OBJECT(common, "ChardevCommon", common_members);
static const QmpMember file_members[] = {
    COMMON,
    { "in", &qmp_type_str, true, "file to read commands from" },
    { "out", &qmp_type_str, false, "file to write to" },
    { "append", &qmp_type_bool, true, "append to it instead of replacing it (default: off)" },
    { NULL },
};
OBJECT(file, "ChardevFile", file_members);
static const QmpMember stdio_members[] = {
    COMMON,
    { "signal", &qmp_type_bool, true, "for compatibility: keys of a terminal send signals" },
    { NULL },
};
OBJECT(stdio_type, "ChardevStdio", stdio_members);
static const QmpMember socket_members[] = {
    COMMON,
    { "addr", &qmp_type_socket_address_legacy, false, "address to listen on or to connect to" },
    { "server", &qmp_type_bool, true, "listen, instead of connecting (default: on)" },
    { "wait", &qmp_type_bool, true,
      "a server: the command, and with it all monitors, wait for the first client (default: off)" },
    { "nodelay", &qmp_type_bool, true, "for compatibility: TCP never delays (Nagle)" },
    { "reconnect", &qmp_type_int, true,
      "connect again so many seconds after a connection has ended, 0 for never (default: 0)" },
    { "reconnect-ms", &qmp_type_int, true, "the same in milliseconds" },
    { "tls-creds", &qmp_type_str, true,
      "inet: id of the TLS credentials, of a server or a client (default: no TLS)" },
    { "tls-authz", &qmp_type_str, true,
      "with tls-creds, a server: id of the access list of clients that may connect" },
    { "telnet", &qmp_type_bool, true, "for compatibility: must be off" },
    { "tn3270", &qmp_type_bool, true, "for compatibility: must be off" },
    { "websocket", &qmp_type_bool, true, "for compatibility: must be off" },
    { NULL },
};
OBJECT(socket_type, "ChardevSocket", socket_members);

#define WRAPPER(c_name, type_name, type)                                                           \
    static const QmpMember c_name##_members[] = { { "data", &type, false, "its options" },         \
                                                  { NULL } };                                      \
    OBJECT(c_name, type_name, c_name##_members)

WRAPPER(common_wrapper, "ChardevCommonWrapper", common);
WRAPPER(file_wrapper, "ChardevFileWrapper", file);
WRAPPER(stdio_wrapper, "ChardevStdioWrapper", stdio_type);
WRAPPER(socket_wrapper, "ChardevSocketWrapper", socket_type);

static const char *const kind_values[] = { "file", "null", "pty", "socket", "stdio", NULL };
static const QmpType kind = { .kind = QMP_KIND_ENUM,
                              .name = "ChardevBackendKind",
                              .values = kind_values };
static const QmpVariant backend_variants[] = {
    { "file", &file_wrapper },     { "null", &common_wrapper }, { "pty", &common_wrapper },
    { "socket", &socket_wrapper }, { "stdio", &stdio_wrapper }, { NULL },
};
static const QmpMember backend_members[] = {
    { "type", &kind, false, "the kind of channel" },
    { NULL },
};
static const QmpType backend = {
    .kind = QMP_KIND_OBJECT,
    .name = "ChardevBackend",
    .members = backend_members,
    .tag = "type",
    .variants = backend_variants,
};
static const QmpMember add_members[] = {
    { "id", &qmp_type_str, false, "the id of the channel" },
    { "backend", &backend, false, "what it is" },
    { NULL },
};
const QmpType qmp_type_chardev_add = { .kind = QMP_KIND_OBJECT,
                                       .name = "q_obj_chardev-add-arg",
                                       .members = add_members };
static const QmpMember return_members[] = {
    { "pty", &qmp_type_str, true, "name of the pseudoterminal's other end" },
    { NULL },
};
OBJECT(return_type, "ChardevReturn", return_members);
static const QmpMember id_members[] = {
    { "id", &qmp_type_str, false, "the id of the channel" },
    { NULL },
};
OBJECT(remove_args, "q_obj_chardev-remove-arg", id_members);
static const QmpMember info_members[] = {
    { "label", &qmp_type_str, false, "the id of the channel" },
    { "filename", &qmp_type_str, false, "its kind and address, and whether anybody is connected" },
    { "frontend-open", &qmp_type_bool, false, "a monitor uses it" },
    { NULL },
};
OBJECT(info_type, "ChardevInfo", info_members);
static const QmpType infos = { .kind = QMP_KIND_ARRAY, .name = "array", .element = &info_type };
static const QmpMember backend_info_members[] = {
    { "name", &qmp_type_str, false, "the kind of channel" },
    { NULL },
};
OBJECT(backend_info, "ChardevBackendInfo", backend_info_members);
static const QmpType backend_infos = { .kind = QMP_KIND_ARRAY,
                                       .name = "array",
                                       .element = &backend_info };

static const char *const add_errors[] = {
    "Chardev with id 'ID' already exists", "Failed to add chardev 'ID': CAUSE",
    "'OPTION' option is not supported: a socket has plain QMP, or QMP in TLS with 'tls-creds'",
    "'tls-authz' option requires 'tls-creds' option", NULL
};
static const char *const remove_errors[] = { "Chardev 'ID' not found", "Chardev 'ID' is busy",
                                             NULL };

static const QmpCommand commands[] = {
    { "chardev-add", "create a channel", &qmp_type_chardev_add, &return_type, run_add,
      .example = "{'id': 'c1', 'backend': {'type': 'socket', 'data': {'addr': {'type': 'unix', "
                 "'data': {'path': 'c1.sock'}}, 'server': true}}}",
      .errors = add_errors },
    { "chardev-remove", "remove a channel that no monitor uses", &remove_args, &qmp_type_empty,
      run_remove, .example = "{'id': 'c1'}", .errors = remove_errors },
    { "query-chardev", "the channels", &qmp_type_empty, &infos, run_query },
    { "query-chardev-backends", "the kinds of channels", &qmp_type_empty, &backend_infos,
      run_query_backends },
    { NULL },
};

const QmpFamily qmp_family_chardev = { "Character devices", commands };
