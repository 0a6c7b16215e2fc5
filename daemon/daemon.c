/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/daemon.c: what the options do, and the order in which things begin and end.
 *
 * Ending goes from the outside in: the NBD server with its sessions, exports, jobs, a flush,
 * monitors, then nodes, threads and drivers. */
#include "daemon/daemon.h"

#include "block/bitmaps.h"
#include "qmp/keyval.h"
#include "util/error.h"
#include "util/identity.h"
#include "util/log.h"
#include "util/mapping.h"

#include <string.h>
#include <unistd.h>

/* ---- beginning */

static void quit(void *opaque)
{
    g_main_loop_quit(opaque);
}

static bool engine_options(const GArray *options, BlkEngineOptions *engine, GError **error)
{
    static const char *const names[] = { "auto", "io_uring", "threads" };
    G_STATIC_ASSERT(G_N_ELEMENTS(names) == BLK_IO_ENGINES);

    for (guint i = 0; i < options->len; i++) {
        const CmdOption *option = &g_array_index(options, CmdOption, i);
        size_t k = 0;

        if (option->kind != CMD_IO_ENGINE)
            continue;
        while (k < G_N_ELEMENTS(names) && strcmp(names[k], option->value))
            k++;
        if (k == G_N_ELEMENTS(names))
            return tm_error_set(error, "--io-engine %s: expected auto, io_uring or threads",
                                option->value);
        engine->io = (BlkIoEngine)k;
    }
    return true;
}

static bool load_modules(BlkRegistry *registry, const GArray *options, GError **error)
{
    bool dir_given = false;

    for (guint i = 0; i < options->len; i++) {
        const CmdOption *option = &g_array_index(options, CmdOption, i);
        bool ok = true;

        if (option->kind == CMD_MODULE)
            ok = blk_registry_load(registry, option->value, error);
        if (option->kind == CMD_MODULE_DIR) {
            dir_given = true;
            ok = g_file_test(option->value, G_FILE_TEST_IS_DIR)
                     ? blk_registry_load_dir(registry, option->value, error)
                     : tm_error_set(error, "not a directory");
        }
        if (!ok) {
            g_prefix_error(error, "--%s %s: ", option->name, option->value);
            return false;
        }
    }
    return dir_given || blk_registry_load_dir(registry, TM_MODULE_DIR, error);
}

static const char *blame(void *opaque, const char *message, json_object *args)
{
    return sandbox_blame(opaque, message, args);
}

static void show_status(Daemon *d)
{
    unsigned exports = blk_exports_count(d->exports), clients = nbds_servers_clients(d->servers);
    g_autofree char *status =
        g_strdup_printf("serving %u %s to %u %s", exports, exports == 1 ? "export" : "exports",
                        clients, clients == 1 ? "client" : "clients");

    if (!g_strcmp0(status, d->status))
        return;
    daemon_notify_status("%s", status);
    g_free(d->status);
    d->status = g_steal_pointer(&status);
}

static gboolean tick(void *opaque)
{
    Daemon *d = opaque;

    tm_log_tick(d->log);
    show_status(d);
    blk_bitmaps_tick(d->graph);
    blk_exports_tick(d->exports);
    blk_backups_tick(qmp_context_backups(d->qmp));
    return G_SOURCE_CONTINUE;
}

static gboolean heal(void *opaque)
{
    blk_bitmaps_heal(((Daemon *)opaque)->graph);
    return G_SOURCE_REMOVE;
}

static void ask_heal(void *opaque)
{
    g_idle_add(heal, opaque);
}

/* With --user the sockets are that user's. */
static bool socket_rights(const GArray *options, TmSocketRights *rights, GError **error)
{
    for (guint i = options->len; i-- > 0;) {
        const CmdOption *option = &g_array_index(options, CmdOption, i);

        if (option->kind != CMD_USER)
            continue;
        rights->has_owner = rights->has_group = true;
        if (tm_identity_find(option->value, &rights->owner, &rights->group, error))
            return true;
        g_prefix_error(error, "--user %s: ", option->value);
        return false;
    }
    return true;
}

bool daemon_init(Daemon *d, const GArray *options, const Sandbox *sandbox, GError **error)
{
    BlkEngineOptions engine = { 0 };
    QmpContextOptions qmp = { .quit = quit };

    if (!socket_rights(options, &qmp.socket_rights, error))
        return false;
    d->inherited = tm_inherited_new(); /* before any socket is opened */
    d->loop = g_main_loop_new(NULL, FALSE);
    d->monitors = g_ptr_array_new_with_free_func((GDestroyNotify)qmp_monitor_free);
    d->registry = blk_registry_new(&tm_sys_kernel);
    if (!engine_options(options, &engine, error) || !load_modules(d->registry, options, error))
        return false;
    d->engine = blk_engine_new(&engine, error);
    if (!d->engine)
        return false;
    d->graph = blk_graph_new(d->registry, d->engine, &tm_sys_kernel);
    blk_graph_set_log(d->graph, d->log);
    blk_graph_set_heal(d->graph, ask_heal, d);
    tm_mapping_guard_install();
    d->exports = blk_exports_new(d->graph);
    d->servers = nbds_servers_new(d->exports, d->inherited);
    d->tick = g_timeout_add_seconds(1, tick, d);
    qmp.graph = d->graph;
    qmp.exports = d->exports;
    qmp.opaque = d->loop;
    qmp.inherited = d->inherited;
    qmp.log = d->log;
    qmp.not_permitted = blame;
    qmp.not_permitted_opaque = (void *)sandbox;
    d->qmp = qmp_context_new(&qmp);
    return true;
}

/* ---- the options */

/* An option that is a command of QMP: the same arguments, the same checks, the same handler. */
static bool apply_command(Daemon *d, const CmdOption *option, const char *command,
                          const QmpType *type, const char *implied_key, GError **error)
{
    json_object *args =
        qmp_option_parse(qmp_context_types(d->qmp), type, option->value, implied_key, error);
    bool ok = args && qmp_dispatch(d->qmp, command, args, NULL, error);

    json_object_put(args);
    return ok;
}

/* The option flattens what nbd-server-start has under addr.data (SocketAddress and its legacy
 * form). */
static bool apply_nbd_server(Daemon *d, const CmdOption *option, GError **error)
{
    json_object *flat = qmp_option_parse(qmp_context_types(d->qmp), &qmp_type_nbd_server_option,
                                         option->value, NULL, error);
    json_object *addr, *args, *legacy, *data;
    bool ok;

    if (!flat)
        return false;
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
    ok = qmp_dispatch(d->qmp, "nbd-server-start", args, NULL, error);
    json_object_put(args);
    json_object_put(flat);
    return ok;
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
    return true;
}

static const QmpMember monitor_members[] = {
    { "chardev", &qmp_type_str, false, "id of the channel" },
    { "mode", &qmp_type_str, true, "control" },
    { "pretty", &qmp_type_bool, true, "indented replies (default: off)" },
    { NULL },
};
const QmpType monitor_type = { .kind = QMP_KIND_OBJECT,
                               .name = "MonitorOptions",
                               .members = monitor_members };

static bool apply_monitor(Daemon *d, const CmdOption *option, GError **error)
{
    json_object *args =
        qmp_option_parse(qmp_context_types(d->qmp), &monitor_type, option->value, "chardev", error);
    bool ok = args && start_monitor(d, args, error);

    json_object_put(args);
    return ok;
}

/* An option as an error shows it: a secret's text goes into no log. */
static char *shown(const CmdOption *option)
{
    const char *data = option->kind == CMD_OBJECT ? strstr(option->value, "data") : NULL;

    return data ? g_strdup_printf("%.*s...", (int)(data - option->value), option->value)
                : g_strdup(option->value);
}

bool daemon_apply(Daemon *d, const CmdOption *option, GError **error)
{
    bool ok = true;

    switch (option->kind) {
    case CMD_BLOCKDEV:
        ok = apply_command(d, option, "blockdev-add", &qmp_type_blockdev_options, "driver", error);
        break;
    case CMD_OBJECT:
        ok = apply_command(d, option, "object-add", &qmp_type_object_options, "qom-type", error);
        break;
    case CMD_EXPORT:
        ok = apply_command(d, option, "block-export-add", &qmp_type_export_options, "type", error);
        break;
    case CMD_NBD_SERVER:
        ok = apply_nbd_server(d, option, error);
        break;
    case CMD_CHARDEV:
        ok = chardev_apply(d->qmp, option->value, error);
        break;
    case CMD_MONITOR:
        ok = apply_monitor(d, option, error);
        break;
    case CMD_TRACE:
        tm_log_note(d->log, &(TmLogFacts){ .area = TM_LOG_DAEMON, .level = TM_LOG_WARNING },
                    "--trace %s: this daemon has no trace events", option->value);
        break;
    default:
        break; /* done by daemon_init() and main() */
    }
    if (!ok) {
        g_autofree char *value = shown(option);

        g_prefix_error(error, "--%s %s: ", option->name, value);
    }
    return ok;
}

/* The monitors' clients wait for the main loop. */
void daemon_serve(Daemon *d)
{
    nbds_servers_serve(d->servers);
    show_status(d);
    daemon_notify_ready();
    d->watchdog = watchdog_start(d->graph);
}

/* ---- ending */

bool daemon_finish(Daemon *d, GError **error)
{
    bool flushed = true, kept;

    if (d->status) /* it took clients */
        daemon_notify_stopping();
    if (d->graph)
        blk_graph_hurry(d->graph);
    if (d->qmp)
        blk_backups_end_all(qmp_context_backups(d->qmp), "the daemon has ended");
    nbds_servers_free(d->servers);
    if (d->exports)
        blk_exports_del_all(d->exports);
    if (d->qmp)
        blk_jobs_end(qmp_context_jobs(d->qmp));
    if (d->tick)
        g_source_remove(d->tick);
    if (d->graph)
        flushed = blk_graph_flush_all(d->graph, error);
    /* Only now: clients learn that the exports are gone. */
    if (d->monitors)
        g_ptr_array_unref(d->monitors);
    qmp_context_free(d->qmp);
    watchdog_stop(d->watchdog);
    g_free(d->status);
    blk_exports_free(d->exports);
    kept = blk_graph_free(d->graph);
    while (g_idle_remove_by_data(d)) /* nobody asks to heal any more */
        continue;
    blk_engine_free(d->engine);
    blk_registry_free(d->registry);
    tm_inherited_free(d->inherited);
    g_clear_pointer(&d->loop, g_main_loop_unref);
    if (!flushed)
        g_prefix_error(error, "the last flush failed, data may be lost: ");
    else if (!kept)
        tm_error_set(error, "some data in memory could not be stored: see the messages above");
    return flushed && kept;
}
