/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/context.c: see the header.
 *
 * Events come from any thread and leave on the main one: others put them in a queue and ring, so
 * that each listener sees them in one order. */
#include "qmp/context.h"
#include "util/error.h"
#include "util/text.h"
#include <errno.h>
#include <glib-unix.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <tidemark-version.h>
#include <unistd.h>

struct QmpContext {
    QmpContextOptions options;
    BlkJobs *jobs;
    BlkBackups *backups;
    QmpTypes *types;
    QmpChardevs *chardevs;
    QmpTransfers *transfers;
    GPtrArray *listeners; /* QmpListener; a freed one is NULL until nobody walks the array */
    unsigned walking;
    GThread *thread; /* the main one */
    int bell;        /* an eventfd: the queue is not empty */
    GSource *ringing;
    pthread_mutex_t lock; /* guards queue; a leaf */
    GQueue queue;         /* json_object: events to be sent, oldest first */
};

struct QmpListener {
    QmpContext *ctx;
    QmpListenFn fn;
    void *opaque;
};

/* ---- events on their way ---- */

static void put_event(void *event)
{
    json_object_put(event);
}

static void drop_freed(QmpContext *ctx)
{
    while (g_ptr_array_remove(ctx->listeners, NULL))
        continue;
}

static void send_event(QmpContext *ctx, json_object *event)
{
    ctx->walking++;
    for (guint i = 0; i < ctx->listeners->len; i++) {
        QmpListener *l = g_ptr_array_index(ctx->listeners, i);

        if (l)
            l->fn(l->opaque, event);
    }
    if (--ctx->walking == 0)
        drop_freed(ctx);
}

static json_object *next_event(QmpContext *ctx)
{
    json_object *event;

    pthread_mutex_lock(&ctx->lock);
    event = g_queue_pop_head(&ctx->queue);
    pthread_mutex_unlock(&ctx->lock);
    return event;
}

static void send_queued(QmpContext *ctx)
{
    json_object *event;

    while ((event = next_event(ctx))) {
        send_event(ctx, event);
        json_object_put(event);
    }
}

static gboolean rung(int fd, GIOCondition condition, void *opaque)
{
    eventfd_t count;

    eventfd_read(fd, &count);
    send_queued(opaque);
    return G_SOURCE_CONTINUE;
}

static void watch_bell(QmpContext *ctx)
{
    ctx->thread = g_thread_self();
    ctx->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ctx->ringing = g_unix_fd_source_new(ctx->bell, G_IO_IN);
    g_source_set_callback(ctx->ringing, G_SOURCE_FUNC(rung), ctx, NULL);
    g_source_attach(ctx->ringing, ctx->options.main);
}

/* ---- the context ---- */

QmpContext *qmp_context_new(const QmpContextOptions *options)
{
    QmpContext *ctx = g_new0(QmpContext, 1);

    ctx->options = *options;
    if (!ctx->options.main)
        ctx->options.main = g_main_context_default();
    ctx->types = qmp_types_new(blk_graph_registry(options->graph));
    ctx->listeners = g_ptr_array_new();
    pthread_mutex_init(&ctx->lock, NULL);
    g_queue_init(&ctx->queue);
    watch_bell(ctx);
    blk_graph_set_events(options->graph, qmp_context_emit, ctx);
    ctx->jobs = blk_jobs_new(options->graph, ctx->options.main);
    ctx->backups = blk_backups_new(options->exports, ctx->options.main);
    ctx->transfers = qmp_transfers_new();
    ctx->chardevs = qmp_chardevs_new(&(QmpChardevsOptions){
        .main = ctx->options.main, .inherited = options->inherited, .log = options->log });
    return ctx;
}

void qmp_context_free(QmpContext *ctx)
{
    if (!ctx)
        return;
    qmp_chardevs_free(ctx->chardevs);
    qmp_transfers_free(ctx->transfers);
    blk_backups_free(ctx->backups);
    blk_jobs_free(ctx->jobs);
    blk_graph_set_events(ctx->options.graph, NULL, NULL);
    g_source_destroy(ctx->ringing);
    g_source_unref(ctx->ringing);
    close(ctx->bell);
    g_queue_clear_full(&ctx->queue, put_event);
    pthread_mutex_destroy(&ctx->lock);
    qmp_types_free(ctx->types);
    g_ptr_array_unref(ctx->listeners);
    g_free(ctx);
}

BlkGraph *qmp_context_graph(QmpContext *ctx)
{
    return ctx->options.graph;
}

BlkExports *qmp_context_exports(QmpContext *ctx)
{
    return ctx->options.exports;
}

BlkJobs *qmp_context_jobs(QmpContext *ctx)
{
    return ctx->jobs;
}

BlkBackups *qmp_context_backups(QmpContext *ctx)
{
    return ctx->backups;
}

const QmpTypes *qmp_context_types(QmpContext *ctx)
{
    return ctx->types;
}

GMainContext *qmp_context_main(QmpContext *ctx)
{
    return ctx->options.main;
}

TmLog *qmp_context_log(QmpContext *ctx)
{
    return ctx->options.log;
}

QmpChardevs *qmp_context_chardevs(QmpContext *ctx)
{
    return ctx->chardevs;
}

QmpTransfers *qmp_context_transfers(QmpContext *ctx)
{
    return ctx->transfers;
}

const QmpMetrics *qmp_context_metrics(QmpContext *ctx)
{
    return ctx->options.metrics;
}

TmSocketRights qmp_context_socket_rights(QmpContext *ctx)
{
    return ctx->options.socket_rights;
}

json_object *qmp_context_process(QmpContext *ctx)
{
    return ctx->options.process ? ctx->options.process(ctx->options.process_opaque)
                                : json_object_new_object();
}

void qmp_context_quit(QmpContext *ctx)
{
    if (ctx->options.quit)
        ctx->options.quit(ctx->options.opaque);
}

json_object *qmp_context_version(void)
{
    json_object *version = json_object_new_object(), *qemu = json_object_new_object();

    json_object_object_add(qemu, "micro", json_object_new_int(QMP_QEMU_MICRO));
    json_object_object_add(qemu, "minor", json_object_new_int(QMP_QEMU_MINOR));
    json_object_object_add(qemu, "major", json_object_new_int(QMP_QEMU_MAJOR));
    json_object_object_add(version, "qemu", qemu);
    json_object_object_add(version, "package", json_object_new_string("tidemark " TM_VERSION));
    return version;
}

/* ---- commands ---- */

/* Messages end in the cause (util/error.h). */
static bool may_be_barred(const char *message)
{
    static const int causes[] = { EACCES, EPERM, EROFS, ENOENT };

    for (size_t i = 0; i < G_N_ELEMENTS(causes); i++) {
        if (g_str_has_suffix(message, tm_strerror(causes[i])))
            return true;
    }
    return false;
}

/* Returned. */
static char *descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return NULL;
    return g_strdup_printf("this process may have %llu: raise LimitNOFILE= of its unit, or the "
                           "limit of its shell with ulimit -n",
                           (unsigned long long)limit.rlim_cur);
}

static void add_hint(const QmpContext *ctx, json_object *args, GError **error)
{
    const QmpContextOptions *o = &ctx->options;
    g_autofree char *hint = NULL;
    char *text;

    if (!error || !*error)
        return;
    if (g_str_has_suffix((*error)->message, tm_strerror(EMFILE)))
        hint = descriptor_limit();
    else if (o->not_permitted && may_be_barred((*error)->message))
        hint = o->not_permitted(o->not_permitted_opaque, (*error)->message, args);
    if (!hint)
        return;
    text = g_strdup_printf("%s (%s)", (*error)->message, hint);
    g_free((*error)->message);
    (*error)->message = text;
}

static bool no_command(const QmpContext *ctx, const char *command, GError **error)
{
    g_auto(GStrv) commands = qmp_table_completion(ctx->types, NULL);
    const char *near = tm_text_nearest(command, (const char *const *)commands);

    return near ? tm_error_set_class(error, TM_ERROR_COMMAND_NOT_FOUND,
                                     "The command %s has not been found: did you mean '%s'?",
                                     command, near)
                : tm_error_set_class(error, TM_ERROR_COMMAND_NOT_FOUND,
                                     "The command %s has not been found", command);
}

bool qmp_dispatch(QmpContext *ctx, const char *command, json_object *args, json_object **result,
                  GError **error)
{
    const QmpCommand *c = qmp_table_command(command);
    QmpCall call = { ctx };
    bool ok;

    if (!c)
        return no_command(ctx, command, error);
    call.args = args ? json_object_get(args) : json_object_new_object();
    ok = qmp_check(ctx->types, c->args, call.args, error) && c->run(&call, error);
    if (!ok)
        add_hint(ctx, call.args, error);
    tm_log_note(ctx->options.log, &(TmLogFacts){ .area = TM_LOG_QMP, .level = TM_LOG_DEBUG },
                "command '%s'%s%s", command, ok ? "" : ": ",
                ok                ? ""
                : error && *error ? (*error)->message
                                  : "failed");
    json_object_put(call.args);
    if (ok && result)
        *result = call.result ? call.result : json_object_new_object();
    else
        json_object_put(call.result);
    return ok;
}

json_object *qmp_arg(json_object *args, const char *path)
{
    const char *dot = strchr(path, '.');
    json_object *value = NULL;
    g_autofree char *head = NULL;

    if (!dot)
        return json_object_object_get(args, path);
    head = g_strndup(path, (gsize)(dot - path));
    value = json_object_object_get(args, head);
    return value ? qmp_arg(value, dot + 1) : NULL;
}

const char *qmp_arg_str(json_object *args, const char *path)
{
    json_object *value = qmp_arg(args, path);

    return value ? json_object_get_string(value) : NULL;
}

bool qmp_arg_bool(json_object *args, const char *path, bool otherwise)
{
    json_object *value = qmp_arg(args, path);

    return value ? json_object_get_boolean(value) : otherwise;
}

uint64_t qmp_arg_uint(json_object *args, const char *path, uint64_t otherwise)
{
    json_object *value = qmp_arg(args, path);

    return value ? json_object_get_uint64(value) : otherwise;
}

int64_t qmp_arg_int(json_object *args, const char *path, int64_t otherwise)
{
    json_object *value = qmp_arg(args, path);

    return value ? json_object_get_int64(value) : otherwise;
}

/* ---- events and who listens ---- */

static json_object *event_message(const char *name, json_object *data)
{
    gint64 now = g_get_real_time();
    json_object *message = json_object_new_object(), *stamp = json_object_new_object();

    json_object_object_add(stamp, "seconds", json_object_new_int64(now / G_USEC_PER_SEC));
    json_object_object_add(stamp, "microseconds", json_object_new_int64(now % G_USEC_PER_SEC));
    json_object_object_add(message, "timestamp", stamp);
    json_object_object_add(message, "event", json_object_new_string(name));
    if (data)
        json_object_object_add(message, "data", data);
    return message;
}

void qmp_context_emit(void *opaque, const char *name, json_object *data)
{
    QmpContext *ctx = opaque;
    json_object *event = event_message(name, data);

    pthread_mutex_lock(&ctx->lock);
    g_queue_push_tail(&ctx->queue, event);
    pthread_mutex_unlock(&ctx->lock);
    if (g_thread_self() == ctx->thread)
        send_queued(ctx);
    else
        eventfd_write(ctx->bell, 1);
}

QmpListener *qmp_context_listen(QmpContext *ctx, QmpListenFn fn, void *opaque)
{
    QmpListener *l = g_new(QmpListener, 1);

    *l = (QmpListener){ ctx, fn, opaque };
    g_ptr_array_add(ctx->listeners, l);
    return l;
}

void qmp_listener_free(QmpListener *l)
{
    guint at;

    if (!l)
        return;
    if (g_ptr_array_find(l->ctx->listeners, l, &at)) {
        if (l->ctx->walking)
            g_ptr_array_index(l->ctx->listeners, at) = NULL;
        else
            g_ptr_array_remove_index(l->ctx->listeners, at);
    }
    g_free(l);
}
