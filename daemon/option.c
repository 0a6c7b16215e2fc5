/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/option.c: what the options do. Each is a command of QMP: the same arguments, the same
 * checks, the same handler. */
#include "daemon/option.h"

#include "block/bitmaps.h"
#include "qmp/json/json.h"
#include "qmp/keyval.h"
#include "util/error.h"
#include "util/log.h"

#include <string.h>

typedef bool (*OptionFn)(Daemon *d, json_object *args, GError **error);
typedef json_object *(*OptionParseFn)(const QmpTypes *types, const char *text, GError **error);

/* ---- values of the command line as arguments of the command */

static json_object *parse_blockdev(const QmpTypes *types, const char *text, GError **error)
{
    return qmp_option_parse(types, &qmp_type_blockdev_options, text, "driver", error);
}

/* A syntax error would show a part of the text, which may be that of a secret. */
static bool well_formed(const char *text, GError **error)
{
    json_object *value = NULL;
    bool ok = *text == '{' ? qmp_json_parse(text, &value, NULL)
                           : (value = qmp_keyval_parse(text, "qom-type", NULL)) != NULL;

    json_object_put(value);
    return ok || tm_error_set(error, *text == '{' ? "expected a JSON object"
                                                  : "expected TYPE,id=ID,KEY=VALUE,...: a comma in "
                                                    "a value is doubled");
}

static json_object *parse_object(const QmpTypes *types, const char *text, GError **error)
{
    if (!well_formed(text, error))
        return NULL;
    return qmp_option_parse(types, &qmp_type_object_options, text, "qom-type", error);
}

static json_object *parse_export(const QmpTypes *types, const char *text, GError **error)
{
    return qmp_option_parse(types, &qmp_type_export_options, text, "type", error);
}

static json_object *parse_monitor(const QmpTypes *types, const char *text, GError **error)
{
    return qmp_option_parse(types, &qmp_type_monitor, text, "chardev", error);
}

/* Options of servers flatten what their commands have under addr.data (SocketAddress and its
 * legacy form). */
static json_object *parse_server(const QmpTypes *types, const QmpType *type, const char *text,
                                 GError **error)
{
    json_object *flat = qmp_option_parse(types, type, text, NULL, error);
    json_object *addr, *args, *legacy, *data;

    if (!flat)
        return NULL;
    args = json_object_new_object();
    legacy = json_object_new_object();
    data = json_object_new_object();
    json_object_object_foreach(flat, key, value)
    {
        if (strcmp(key, "addr"))
            json_object_object_add(args, key, json_object_get(value));
    }
    if (json_object_object_get_ex(flat, "addr", &addr)) {
        json_object_object_foreach(addr, member, value2) json_object_object_add(
            strcmp(member, "type") ? data : legacy, member, json_object_get(value2));
    }
    json_object_object_add(legacy, "data", data);
    json_object_object_add(args, "addr", legacy);
    json_object_put(flat);
    return args;
}

static json_object *parse_nbd_server(const QmpTypes *types, const char *text, GError **error)
{
    return parse_server(types, &qmp_type_nbd_server_option, text, error);
}

static json_object *parse_metrics(const QmpTypes *types, const char *text, GError **error)
{
    return parse_server(types, &qmp_type_metrics_option, text, error);
}

/* ---- what they do */

static bool provide_bitmap(Daemon *d, json_object *args, GError **error)
{
    bool made;

    if (!qmp_check(qmp_context_types(d->qmp), &qmp_type_bitmap_add, args, error) ||
        !qmp_bitmap_provide(d->qmp, args, &made, error))
        return false;
    if (made)
        tm_log_note(d->log,
                    &(TmLogFacts){ .area = TM_LOG_BITMAP,
                                   .level = TM_LOG_INFO,
                                   .node = qmp_arg_str(args, "node") },
                    "node '%s': bitmap '%s' was not there: it is made, dirty everywhere",
                    qmp_arg_str(args, "node"), qmp_arg_str(args, "name"));
    return true;
}

char *bitmap_difference(Daemon *d, json_object *args)
{
    g_autoptr(BmpBitmap) bitmap =
        blk_graph_find_bitmap(d->graph, qmp_arg_str(args, "node"), qmp_arg_str(args, "name"), NULL);
    bool disabled = qmp_arg_bool(args, "disabled", false);
    bool persistent = qmp_arg_bool(args, "persistent", false);
    g_autoptr(GString) text = g_string_new(NULL);
    uint64_t granularity;

    if (!bitmap)
        return NULL;
    if (bmp_bitmap_inconsistent(bitmap))
        return g_strdup("it is inconsistent, and can only be removed (block-dirty-bitmap-remove)");
    granularity = bmp_bitmap_granularity(bitmap);
    if (bmp_bitmap_enabled(bitmap) == disabled)
        g_string_append(text,
                        disabled ? "it records" : "it does not record (block-dirty-bitmap-enable)");
    if (granularity != qmp_arg_uint(args, "granularity", granularity))
        g_string_append_printf(text, "%sits granularity is %" PRIu64, text->len ? ", " : "",
                               granularity);
    if (bmp_bitmap_persistent(bitmap) != persistent)
        g_string_append_printf(text, "%sit is %spersistent", text->len ? ", " : "",
                               persistent ? "not " : "");
    return text->len ? g_string_free(g_steal_pointer(&text), FALSE) : NULL;
}

static void note_difference(Daemon *d, const CmdOption *option, json_object *args)
{
    g_autofree char *difference = bitmap_difference(d, args), *place = NULL;

    if (!difference)
        return;
    place = option_place(option, "");
    tm_log_note(d->log,
                &(TmLogFacts){ .area = TM_LOG_BITMAP,
                               .level = TM_LOG_WARNING,
                               .node = qmp_arg_str(args, "node") },
                "%s: node '%s': bitmap '%s' stays as it is: %s", place, qmp_arg_str(args, "node"),
                qmp_arg_str(args, "name"), difference);
}

static bool start_monitor(Daemon *d, json_object *args, GError **error)
{
    const char *id = qmp_arg_str(args, "chardev"), *mode = qmp_arg_str(args, "mode");
    QmpMonitorOptions options = { .pretty = qmp_arg_bool(args, "pretty", false) };
    QmpChardev *chardev = qmp_chardevs_find(qmp_context_chardevs(d->qmp), id);
    QmpMonitor *monitor;

    if (!chardev)
        return tm_error_set(error, "chardev \"%s\" not found", id);
    if (mode && strcmp(mode, "control"))
        return tm_error_set(error, "Parameter 'mode' does not accept value '%s', only 'control'",
                            mode);
    monitor = qmp_monitor_new(d->qmp, chardev, &options, error);
    if (!monitor)
        return false;
    g_ptr_array_add(d->monitors, monitor);
    json_object_array_add(d->monitors_given, json_object_get(args));
    return true;
}

static const struct {
    CmdKind kind;
    const QmpType *type; /* of the arguments */
    const char *id;      /* the member that names it; or NULL */
    const char *command; /* or NULL: run */
    OptionFn run;
    OptionParseFn parse; /* NULL: not of the command line */
} table[] = {
    { CMD_OBJECT, &qmp_type_object_options, "id", "object-add", NULL, parse_object },
    { CMD_BLOCKDEV, &qmp_type_blockdev_options, "node-name", "blockdev-add", NULL, parse_blockdev },
    { CMD_BITMAP, &qmp_type_bitmap_add, NULL, NULL, provide_bitmap, NULL },
    { CMD_NBD_SERVER, &qmp_type_nbd_server_args, "id", "nbd-server-start", NULL, parse_nbd_server },
    { CMD_METRICS, &qmp_type_metrics_args, NULL, "metrics-server-start", NULL, parse_metrics },
    { CMD_EXPORT, &qmp_type_export_options, "id", "block-export-add", NULL, parse_export },
    { CMD_CHARDEV, &qmp_type_chardev_add, "id", "chardev-add", NULL, chardev_arguments },
    { CMD_MONITOR, &qmp_type_monitor, "chardev", NULL, start_monitor, parse_monitor },
};

/* -1: the kind is none of a command. */
static int find(CmdKind kind)
{
    for (size_t i = 0; i < G_N_ELEMENTS(table); i++) {
        if (table[i].kind == kind)
            return (int)i;
    }
    return -1;
}

const QmpType *option_type(CmdKind kind)
{
    return find(kind) < 0 ? NULL : table[find(kind)].type;
}

const char *option_id(const CmdOption *option, json_object *args)
{
    int i = find(option->kind);
    const char *id = i < 0 || !table[i].id ? NULL : qmp_arg_str(args, table[i].id);

    if (option->kind == CMD_METRICS) /* there is one at most */
        return "metrics";
    return id || option->kind != CMD_NBD_SERVER ? id : BLK_SERVER_DEFAULT;
}

json_object *option_arguments(Daemon *d, const CmdOption *option, GError **error)
{
    int i = find(option->kind);

    if (option->args)
        return json_object_get(option->args);
    return table[i].parse(qmp_context_types(d->qmp), option->value, error);
}

bool option_run_arguments(Daemon *d, CmdKind kind, json_object *args, GError **error)
{
    int i = find(kind);

    return table[i].command ? qmp_dispatch(d->qmp, table[i].command, args, NULL, error)
                            : table[i].run(d, args, error);
}

static bool run(Daemon *d, const CmdOption *option, GError **error)
{
    json_object *args = option_arguments(d, option, error);
    bool ok;

    if (args && option->kind == CMD_BITMAP)
        note_difference(d, option, args);
    ok = args && option_run_arguments(d, option->kind, args, error);
    json_object_put(args);
    return ok && (option->kind != CMD_CHARDEV || option->args ||
                  chardev_wait(d->qmp, option->value, error));
}

bool option_run(Daemon *d, const CmdOption *option, GError **error)
{
    int i = find(option->kind);
    g_autofree char *place = NULL;

    if (option->kind == CMD_TRACE)
        tm_log_note(d->log, &(TmLogFacts){ .area = TM_LOG_DAEMON, .level = TM_LOG_WARNING },
                    "--trace %s: this daemon has no trace events", option->value);
    if (i < 0 || run(d, option, error)) /* else done by daemon_init() and main() */
        return true;
    place = option_place(option, "");
    g_prefix_error(error, "%s: ", place);
    return false;
}
