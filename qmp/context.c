/* qmp/context.c: see the header.
 *
 * Events come from any thread and leave on the main one. The context is counted: an event on its
 * way holds it, and finds it closed if it was freed meanwhile. */
#include "qmp/context.h"
#include "util/error.h"
#include <string.h>

struct QmpContext {
    gatomicrefcount refs;
    QmpContextOptions options;
    QmpTypes *types;
    GPtrArray *listeners; /* QmpListener; a freed one is NULL until nobody walks the array */
    unsigned walking;
    bool closed;
};

struct QmpListener {
    QmpContext *ctx;
    QmpListenFn fn;
    void *opaque;
};

QmpContext *qmp_context_new(const QmpContextOptions *options)
{
    QmpContext *ctx = g_new0(QmpContext, 1);

    g_atomic_ref_count_init(&ctx->refs);
    ctx->options = *options;
    if (!ctx->options.main)
        ctx->options.main = g_main_context_default();
    ctx->types = qmp_types_new(blk_graph_registry(options->graph));
    ctx->listeners = g_ptr_array_new();
    blk_graph_set_events(options->graph, qmp_context_emit, ctx);
    return ctx;
}

static void context_unref(QmpContext *ctx)
{
    if (!g_atomic_ref_count_dec(&ctx->refs))
        return;
    g_ptr_array_unref(ctx->listeners);
    g_free(ctx);
}

void qmp_context_free(QmpContext *ctx)
{
    if (!ctx)
        return;
    blk_graph_set_events(ctx->options.graph, NULL, NULL);
    ctx->closed = true;
    qmp_types_free(ctx->types);
    context_unref(ctx);
}

BlkGraph *qmp_context_graph(QmpContext *ctx)
{
    return ctx->options.graph;
}

BlkExports *qmp_context_exports(QmpContext *ctx)
{
    return ctx->options.exports;
}

const QmpTypes *qmp_context_types(QmpContext *ctx)
{
    return ctx->types;
}

GMainContext *qmp_context_main(QmpContext *ctx)
{
    return ctx->options.main;
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

bool qmp_dispatch(QmpContext *ctx, const char *command, json_object *args, json_object **result,
                  GError **error)
{
    const QmpCommand *c = qmp_table_command(command);
    QmpCall call = { ctx };
    bool ok;

    if (!c)
        return tm_error_set_class(error, TM_ERROR_COMMAND_NOT_FOUND,
                                  "The command %s has not been found", command);
    call.args = args ? json_object_get(args) : json_object_new_object();
    ok = qmp_check(ctx->types, c->args, call.args, error) && c->run(&call, error);
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

BlkNode *qmp_find_node(QmpContext *ctx, const char *device, const char *node_name, GError **error)
{
    BlkNode *node = node_name ? blk_graph_find(ctx->options.graph, node_name, NULL) : NULL;

    if (!node)
        tm_error_set(error, "Cannot find device='%s' nor node-name='%s'", device ? device : "",
                     node_name ? node_name : "");
    return node;
}

/* ---- events ---- */

typedef struct Event {
    QmpContext *ctx; /* a reference */
    json_object *message;
} Event;

static void event_free(void *opaque)
{
    Event *event = opaque;

    json_object_put(event->message);
    context_unref(event->ctx);
    g_free(event);
}

static void forget_freed(QmpContext *ctx)
{
    while (g_ptr_array_remove(ctx->listeners, NULL))
        continue;
}

static gboolean event_send(void *opaque)
{
    Event *event = opaque;
    QmpContext *ctx = event->ctx;

    if (ctx->closed)
        return G_SOURCE_REMOVE;
    ctx->walking++;
    for (guint i = 0; i < ctx->listeners->len; i++) {
        QmpListener *l = g_ptr_array_index(ctx->listeners, i);

        if (l)
            l->fn(l->opaque, event->message);
    }
    if (--ctx->walking == 0)
        forget_freed(ctx);
    return G_SOURCE_REMOVE;
}

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
    Event *event = g_new(Event, 1);

    g_atomic_ref_count_inc(&ctx->refs);
    event->ctx = ctx;
    event->message = event_message(name, data);
    g_main_context_invoke_full(ctx->options.main, G_PRIORITY_DEFAULT, event_send, event,
                               event_free);
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
