/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/daemon.c: what the options do, and the order in which things begin and end.
 *
 * Ending goes from the outside in: the NBD server with its sessions, exports, jobs, a flush,
 * monitors, then nodes, threads and drivers. */
#include "daemon/daemon.h"

#include "block/bitmaps.h"
#include "daemon/config.h"
#include "server/vhost/vhost.h"
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

/* Whether to go on without what failed: the error is one of several, and is taken. */
static bool goes_on(GPtrArray *problems, GError **error)
{
    if (!problems)
        return false;
    g_ptr_array_add(problems, g_strdup((*error)->message));
    g_clear_error(error);
    return true;
}

/* The same, with the place of the option before the error. */
static bool goes_on_after(const CmdOption *option, GPtrArray *problems, GError **error)
{
    g_autofree char *place = option_place(option, "");

    g_prefix_error(error, "%s: ", place);
    return goes_on(problems, error);
}

static bool engine_options(const GArray *options, BlkEngineOptions *engine, GPtrArray *problems,
                           GError **error)
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
        if (k < G_N_ELEMENTS(names)) {
            engine->io = (BlkIoEngine)k;
            continue;
        }
        if (problems && option->file) /* the check of types says it */
            continue;
        tm_error_set(error, "expected auto, io_uring or threads");
        if (!goes_on_after(option, problems, error))
            return false;
    }
    return true;
}

static bool load_module_dir(Daemon *d, const char *dir, GError **error)
{
    g_autoptr(GPtrArray) refused = g_ptr_array_new_with_free_func(g_free);
    bool ok = blk_registry_load_dir(d->registry, dir, refused, error);

    for (guint i = 0; i < refused->len; i++)
        tm_log_note(d->log, &(TmLogFacts){ .area = TM_LOG_DAEMON, .level = TM_LOG_WARNING }, "%s",
                    (char *)refused->pdata[i]);
    return ok;
}

static bool load_modules(Daemon *d, const GArray *options, GPtrArray *problems, GError **error)
{
    bool dir_given = false;

    for (guint i = 0; i < options->len; i++) {
        const CmdOption *option = &g_array_index(options, CmdOption, i);
        bool ok = true;

        if (option->kind == CMD_MODULE)
            ok = blk_registry_load(d->registry, option->value, error);
        if (option->kind == CMD_MODULE_DIR) {
            dir_given = true;
            ok = g_file_test(option->value, G_FILE_TEST_IS_DIR)
                     ? load_module_dir(d, option->value, error)
                     : tm_error_set(error, "not a directory");
        }
        if (!ok && !goes_on_after(option, problems, error))
            return false;
    }
    return dir_given || load_module_dir(d, TM_MODULE_DIR, error) || goes_on(problems, error);
}

static char *blame(void *opaque, const char *message, json_object *args)
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
static bool socket_rights(const GArray *options, TmSocketRights *rights, GPtrArray *problems,
                          GError **error)
{
    for (guint i = options->len; i-- > 0;) {
        const CmdOption *option = &g_array_index(options, CmdOption, i);

        if (option->kind != CMD_USER)
            continue;
        rights->has_owner = rights->has_group = true;
        if (tm_identity_find(option->value, &rights->owner, &rights->group, error))
            return true;
        return goes_on_after(option, problems, error);
    }
    return true;
}

/* The engine that was asked for may not be available here. */
static BlkEngine *engine_new(BlkEngineOptions *options, GPtrArray *problems, GError **error)
{
    BlkEngine *engine = blk_engine_new(options, error);

    if (engine || options->io == BLK_IO_AUTO || !goes_on(problems, error))
        return engine;
    options->io = BLK_IO_AUTO;
    return blk_engine_new(options, error);
}

bool daemon_init(Daemon *d, const GArray *options, const Sandbox *sandbox, GPtrArray *problems,
                 GError **error)
{
    BlkEngineOptions engine = { 0 };
    QmpContextOptions qmp = { .quit = quit };

    if (!socket_rights(options, &qmp.socket_rights, problems, error))
        return false;
    d->inherited = tm_inherited_new(); /* before any socket is opened */
    d->loop = g_main_loop_new(NULL, FALSE);
    d->options = options;
    d->monitors_given = json_object_new_array();
    d->monitors = g_ptr_array_new_with_free_func((GDestroyNotify)qmp_monitor_free);
    d->registry = blk_registry_new(&tm_sys_kernel);
    if (!engine_options(options, &engine, problems, error) ||
        !load_modules(d, options, problems, error))
        return false;
    d->engine = engine_new(&engine, problems, error);
    if (!d->engine)
        return false;
    d->graph = blk_graph_new(d->registry, d->engine, &tm_sys_kernel);
    blk_graph_set_log(d->graph, d->log);
    blk_graph_set_heal(d->graph, ask_heal, d);
    tm_mapping_guard_install();
    d->exports = blk_exports_new(d->graph);
    d->servers = nbds_servers_new(d->exports, d->inherited);
    vhost_register(d->exports, d->inherited);
    fexp_register(d->exports, d->mounter);
    d->tick = g_timeout_add_seconds(1, tick, d);
    qmp.graph = d->graph;
    qmp.exports = d->exports;
    qmp.opaque = d->loop;
    qmp.inherited = d->inherited;
    d->metrics_operations = daemon_metrics(d);
    qmp.metrics = &d->metrics_operations;
    qmp.log = d->log;
    qmp.process = daemon_settings;
    qmp.process_opaque = d;
    qmp.not_permitted = blame;
    qmp.not_permitted_opaque = (void *)sandbox;
    d->qmp = qmp_context_new(&qmp);
    daemon_metrics_listen(d);
    return true;
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
    daemon_metrics_end(d);
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
    json_object_put(d->monitors_given);
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
