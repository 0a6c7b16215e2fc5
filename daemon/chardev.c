/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/chardev.c: see the header. The option has other names and defaults than the command. */
#include "daemon/daemon.h"

#include "qmp/json/json.h"
#include "qmp/keyval.h"
#include "util/error.h"
#include "util/identifier.h"

#include <string.h>

/* ---- the option's own types */

#define COMMON                                                                                     \
    { "logfile", &qmp_type_str, true, "file that gets a copy of what is sent" },                   \
    {                                                                                              \
        "logappend", &qmp_type_bool, true,                                                         \
            "append to that file instead of replacing it (default: off)"                           \
    }
#define VARIANT(base, type_name)                                                                   \
    static const QmpType base##_variant = { .kind = QMP_KIND_OBJECT,                               \
                                            .name = type_name,                                     \
                                            .members = base##_members }

static const QmpType port_type = { .kind = QMP_KIND_UINT, .name = "uint16_t", .umax = UINT16_MAX };
static const QmpMember common_members[] = { COMMON, { NULL } };
VARIANT(common, "ChardevCommon");
static const QmpMember stdio_members[] = { COMMON,
                                           { "signal", &qmp_type_bool, true,
                                             "for compatibility: keys of a terminal send signals" },
                                           { NULL } };
VARIANT(stdio, "ChardevStdio");
static const QmpMember file_members[] = {
    COMMON,
    { "path", &qmp_type_str, false, "file to write to" },
    { "input-path", &qmp_type_str, true, "file to read commands from" },
    { "append", &qmp_type_bool, true, "append to the file instead of replacing it (default: off)" },
    { NULL }
};
VARIANT(file, "ChardevFile");
static const QmpMember socket_members[] = {
    COMMON,
    { "path", &qmp_type_str, true, "unix: path of the socket, or its abstract name" },
    { "abstract", &qmp_type_bool, true, "unix: use Linux's abstract name space (default: off)" },
    { "tight", &qmp_type_bool, true,
      "abstract: the name ends with its last byte, without padding (default: on)" },
    { "mode", &qmp_type_str, true,
      "unix: permissions of the socket's file, in octal (default: 0600)" },
    { "owner", &qmp_type_str, true, "unix: user that owns the socket's file, by name or number" },
    { "group", &qmp_type_str, true, "unix: group that owns the socket's file, by name or number" },
    { "host", &qmp_type_str, true, "TCP: host name or address" },
    { "port", &qmp_type_str, true, "TCP: port number or service name" },
    { "to", &port_type, true, "TCP: last port to try; the first free one is taken" },
    { "ipv4", &qmp_type_bool, true, "TCP: use IPv4 addresses" },
    { "ipv6", &qmp_type_bool, true, "TCP: use IPv6 addresses" },
    { "keep-alive", &qmp_type_bool, true, "TCP: probe idle connections (default: on)" },
    { "fd", &qmp_type_str, true, "number of an inherited descriptor, or its name from systemd" },
    { "server", &qmp_type_bool, true, "listen, instead of connecting (default: off)" },
    { "wait", &qmp_type_bool, true,
      "server=on: wait for the first client at the start (default: on)" },
    { "delay", &qmp_type_bool, true, "for compatibility: TCP never delays (Nagle)" },
    { "nodelay", &qmp_type_bool, true, "for compatibility: TCP never delays (Nagle)" },
    { "reconnect", &qmp_type_int, true,
      "connect again so many seconds after a connection has ended (default: never)" },
    { "reconnect-ms", &qmp_type_int, true, "the same in milliseconds" },
    { "tls-creds", &qmp_type_str, true, "TCP: id of the TLS credentials (default: no TLS)" },
    { "tls-authz", &qmp_type_str, true,
      "with tls-creds, server=on: id of the access list of clients that may connect" },
    { "telnet", &qmp_type_bool, true, "for compatibility: must be off" },
    { "tn3270", &qmp_type_bool, true, "for compatibility: must be off" },
    { "websocket", &qmp_type_bool, true, "for compatibility: must be off" },
    { NULL },
};
VARIANT(socket, "ChardevSocket");
static const char *const backend_values[] = { "file", "null", "pty", "socket", "stdio", NULL };
static const QmpType backend_type = { .kind = QMP_KIND_ENUM,
                                      .name = "ChardevBackendKind",
                                      .values = backend_values };
static const QmpMember members[] = { { "backend", &backend_type, false, NULL },
                                     { "id", &qmp_type_str, false, "id of the channel" },
                                     { NULL } };
static const QmpVariant variants[] = { { "file", &file_variant },   { "null", &common_variant },
                                       { "pty", &common_variant },  { "socket", &socket_variant },
                                       { "stdio", &stdio_variant }, { NULL } };
const QmpType chardev_type = { .kind = QMP_KIND_OBJECT,
                               .name = "ChardevOptions",
                               .members = members,
                               .tag = "backend",
                               .variants = variants };

/* ---- parsing */

/* The end of an element: its comma, or the end of the text. */
static const char *element_end(const char *s)
{
    while (*s && (*s != ',' || s[1] == ','))
        s += *s == ',' ? 2 : 1;
    return s;
}

/* "server" is server=on, "nowait" is wait=off. */
static void append_element(GString *out, const char *s, size_t length, bool first)
{
    bool bare = !first && length && !memchr(s, '=', length);
    bool off = bare && length > 2 && !strncmp(s, "no", 2) && strncmp(s, "nodelay", length) != 0;

    g_string_append_len(out, off ? s + 2 : s, (gssize)(off ? length - 2 : length));
    g_string_append(out, off ? "=off" : bare ? "=on" : "");
}

static char *without_short_forms(const char *text)
{
    GString *out = g_string_new(NULL);

    for (const char *s = text, *end;; s = end + 1) {
        end = element_end(s);
        append_element(out, s, (size_t)(end - s), s == text);
        if (!*end)
            break;
        g_string_append_c(out, ',');
    }
    return g_string_free(out, FALSE);
}

json_object *chardev_parse(const char *text, GError **error)
{
    g_autofree char *plain = *text == '{' ? NULL : without_short_forms(text);
    json_object *value = NULL;

    if (plain)
        return qmp_keyval_parse(plain, "backend", error);
    return qmp_json_parse(text, &value, error) ? value : NULL;
}

/* ---- the command's arguments */

/* What has other names there, or is said elsewhere. */
static const struct {
    const char *option, *member; /* member: of the backend's data, or NULL: it has none */
    bool of_address;
} names[] = {
    { "backend", NULL, false }, { "id", NULL, false },         { "wait", NULL, false },
    { "delay", NULL, false },   { "path", "path", true },      { "abstract", "abstract", true },
    { "tight", "tight", true }, { "mode", "mode", true },      { "owner", "owner", true },
    { "group", "group", true }, { "host", "host", true },      { "port", "port", true },
    { "to", "to", true },       { "ipv4", "ipv4", true },      { "ipv6", "ipv6", true },
    { "fd", "str", true },      { "input-path", "in", false }, { "keep-alive", "keep-alive", true },
};

static const char *address_type(json_object *flat)
{
    return qmp_arg(flat, "fd") ? "fd" : qmp_arg(flat, "path") ? "unix" : "inet";
}

/* Puts each option where the command has it. */
static void sort_options(json_object *flat, bool is_socket, json_object *data, json_object *address)
{
    json_object_object_foreach(flat, key, value)
    {
        const char *member = key;
        json_object *to = data;

        for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
            if (g_str_equal(names[i].option, key)) {
                member = names[i].member;
                to = is_socket && names[i].of_address ? address : data;
            }
        }
        if (!is_socket && g_str_equal(key, "path"))
            member = "out";
        if (member)
            json_object_object_add(to, member, json_object_get(value));
    }
}

static json_object *command_args(json_object *flat)
{
    json_object *args = json_object_new_object(), *backend = json_object_new_object();
    json_object *data = json_object_new_object(), *address = json_object_new_object();
    bool is_socket = g_str_equal(qmp_arg_str(flat, "backend"), "socket");

    sort_options(flat, is_socket, data, address);
    if (is_socket) {
        json_object *addr = json_object_new_object();

        json_object_object_add(addr, "type", json_object_new_string(address_type(flat)));
        json_object_object_add(addr, "data", json_object_get(address));
        json_object_object_add(data, "addr", addr);
        if (!qmp_arg(data, "server"))
            json_object_object_add(data, "server", json_object_new_boolean(false));
    }
    json_object_put(address);
    json_object_object_add(backend, "type", json_object_get(qmp_arg(flat, "backend")));
    json_object_object_add(backend, "data", data);
    json_object_object_add(args, "id", json_object_get(qmp_arg(flat, "id")));
    json_object_object_add(args, "backend", backend);
    return args;
}

static bool check(json_object *flat, GError **error)
{
    int addresses = (qmp_arg(flat, "path") != NULL) + (qmp_arg(flat, "fd") != NULL) +
                    (qmp_arg(flat, "host") != NULL);

    if (!tm_identifier(qmp_arg_str(flat, "id")))
        return tm_error_set(error,
                            "Parameter 'id' expects an identifier: letters, digits, '-', '.' and "
                            "'_', a letter first");
    if (!g_str_equal(qmp_arg_str(flat, "backend"), "socket"))
        return true;
    if (addresses != 1)
        return tm_error_set(error, "One of 'path', 'fd' or 'host' is required");
    if (qmp_arg(flat, "host") && !qmp_arg(flat, "port"))
        return tm_error_set(error, "chardev: socket: no port given");
    if (qmp_arg(flat, "wait") && !qmp_arg_bool(flat, "server", false))
        return tm_error_set(error,
                            "'wait' option is incompatible with socket in client connect mode");
    return true;
}

json_object *chardev_arguments(const QmpTypes *types, const char *text, GError **error)
{
    json_object *value = chardev_parse(text, error), *args = NULL;

    if (!value || *text == '{')
        return value;
    if (qmp_check_keyval(types, &chardev_type, value, error) && check(value, error))
        args = command_args(value);
    json_object_put(value);
    return args;
}

bool chardev_wait(QmpContext *ctx, const char *text, GError **error)
{
    json_object *flat = *text == '{' ? NULL : chardev_parse(text, NULL);
    bool ok = true;

    if (flat && qmp_check_keyval(qmp_context_types(ctx), &chardev_type, flat, NULL) &&
        qmp_arg_bool(flat, "server", false) && qmp_arg_bool(flat, "wait", true))
        ok = qmp_chardev_wait(qmp_chardevs_find(qmp_context_chardevs(ctx), qmp_arg_str(flat, "id")),
                              error);
    json_object_put(flat);
    return ok;
}

json_object *chardev_without_wait(json_object *args)
{
    json_object *copy = NULL, *data;

    json_object_deep_copy(args, &copy, NULL);
    data = qmp_arg(copy, "backend.data");
    if (data)
        json_object_object_del(data, "wait");
    return copy;
}
