/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/export/export.c: the registry of exports, their types and the NBD servers. What an export
 * says of itself is facts.c's, what bitmaps it offers selection.c's; add.c makes new ones.
 *
 * Invariants:
 *  - an export leaves the list when its last reference goes; from block-export-del on it is
 *    "shutting down": shown by queries, found by no client;
 *  - an NBD export that is not shutting down is shown by a running server;
 *  - an export that a query no longer shows keeps no bitmap busy and no node in use;
 *  - BLOCK_EXPORT_DELETED is sent once, after the node has been released. */
#include "block/export/export_internal.h"

#include "util/error.h"
#include "util/identifier.h"

#include <string.h>

/* ---- the registry */

BlkExports *blk_exports_new(BlkGraph *graph)
{
    BlkExports *exports = g_new0(BlkExports, 1);

    exports->graph = graph;
    exports->objects = tm_objects_new();
    blk_graph_set_objects(graph, exports->objects);
    exports->list = g_ptr_array_new();
    exports->ids = g_hash_table_new(g_str_hash, g_str_equal);
    exports->names =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)g_ptr_array_unref);
    exports->defaults = g_ptr_array_new();
    exports->types = g_ptr_array_new_with_free_func(g_free);
    pthread_mutex_init(&exports->lock, NULL);
    pthread_cond_init(&exports->gone, NULL);
    return exports;
}

void blk_exports_free(BlkExports *exports)
{
    if (!exports)
        return;
    g_ptr_array_unref(exports->list);
    g_hash_table_unref(exports->ids);
    g_hash_table_unref(exports->names);
    g_ptr_array_unref(exports->defaults);
    g_ptr_array_unref(exports->types);
    blk_graph_set_objects(exports->graph, NULL);
    tm_objects_free(exports->objects);
    pthread_cond_destroy(&exports->gone);
    pthread_mutex_destroy(&exports->lock);
    g_free(exports);
}

static BlkExportType *find_type(const BlkExports *exports, const char *name)
{
    for (guint i = 0; i < exports->types->len; i++) {
        BlkExportType *type = exports->types->pdata[i];

        if (g_str_equal(type->name, name))
            return type;
    }
    return NULL;
}

const BlkExportType *blk_exports_type(const BlkExports *exports, const char *name)
{
    return find_type(exports, name);
}

void blk_exports_add_type(BlkExports *exports, const BlkExportType *type)
{
    g_ptr_array_add(exports->types, g_memdup2(type, sizeof(*type)));
}

void blk_exports_remove_type(BlkExports *exports, const char *name)
{
    BlkExportType *type = find_type(exports, name);

    *type = (BlkExportType){ .name = type->name, .by_servers = type->by_servers };
}

void blk_exports_set_server(BlkExports *exports, const BlkServer *server)
{
    exports->server = *server;
}

BlkGraph *blk_exports_graph(BlkExports *exports)
{
    return exports->graph;
}

TmObjects *blk_exports_objects(BlkExports *exports)
{
    return exports->objects;
}

const BlkServer *blk_exports_server(const BlkExports *exports)
{
    return &exports->server;
}

bool blk_exports_running(const BlkExports *exports, const char *id)
{
    return exports->server.running && exports->server.running(exports->server.opaque, id);
}

bool blk_exports_not_running(const char *id, GError **error)
{
    return g_str_equal(id, BLK_SERVER_DEFAULT)
               ? tm_error_set(error, "NBD server not running")
               : tm_error_set(error, "NBD server '%s' not running", id);
}

bool blk_exports_server_start(BlkExports *exports, const BlkServerOptions *options, GError **error)
{
    BlkServerOptions o = *options;

    if (!exports->server.start)
        return tm_error_set(error, "This daemon has no NBD server");
    if (!o.id)
        o.id = BLK_SERVER_DEFAULT;
    if (blk_exports_running(exports, o.id) && g_str_equal(o.id, BLK_SERVER_DEFAULT))
        return tm_error_set(error, "NBD server already running");
    if (blk_exports_running(exports, o.id))
        return tm_error_set(error, "NBD server '%s' already running", o.id);
    if (!tm_identifier(o.id))
        return tm_error_set(error,
                            "Invalid NBD server id '%s': expected letters, digits, '-', '.' and "
                            "'_', a letter first",
                            o.id);
    return exports->server.start(exports->server.opaque, &o, error);
}

/* Whether a running server shows it, or it needs none. */
static bool shown(const BlkExports *exports, const BlkExport *x)
{
    if (!x->type->by_servers)
        return true;
    if (!x->servers)
        return blk_exports_running(exports, NULL);
    for (char **id = x->servers; *id; id++) {
        if (blk_exports_running(exports, *id))
            return true;
    }
    return false;
}

/* Under the lock. */
static bool any_orphan(const BlkExports *exports)
{
    for (guint i = 0; i < exports->list->len; i++) {
        if (((BlkExport *)exports->list->pdata[i])->orphaned)
            return true;
    }
    return false;
}

const GPtrArray *blk_exports_named(const BlkExports *exports, const char *name)
{
    return g_hash_table_lookup(exports->names, name);
}

void blk_exports_enlist(BlkExports *exports, BlkExport *x)
{
    GPtrArray *named = g_hash_table_lookup(exports->names, x->name);

    if (!named) {
        named = g_ptr_array_new();
        g_hash_table_insert(exports->names, g_strdup(x->name), named);
    }
    g_ptr_array_add(named, x);
    g_ptr_array_add(exports->list, x);
    g_hash_table_insert(exports->ids, x->id, x);
    if (x->is_default)
        g_ptr_array_add(exports->defaults, x);
    exports->alive++;
}

/* Under the lock. */
static void delist(BlkExports *exports, BlkExport *x)
{
    GPtrArray *named = g_hash_table_lookup(exports->names, x->name);

    g_ptr_array_remove(named, x);
    if (!named->len)
        g_hash_table_remove(exports->names, x->name);
    g_ptr_array_remove(exports->list, x);
    g_hash_table_remove(exports->ids, x->id);
    g_ptr_array_remove(exports->defaults, x);
}

BlkExport *blk_exports_find_id(BlkExports *exports, const char *id)
{
    TM_GUARD(&exports->lock);
    BlkExport *x = g_hash_table_lookup(exports->ids, id);

    return x ? blk_export_ref(x) : NULL;
}

/* Takes it out of sight and gives up the registry's reference; false: it has sessions and was to
 * have none (@unused). Under no lock; @x stays valid as the caller has a reference. */
static bool shut_down(BlkExport *x, bool orphaned, bool unused)
{
    bool mine;

    pthread_mutex_lock(&x->exports->lock);
    if (unused && x->sessions) {
        pthread_mutex_unlock(&x->exports->lock);
        return false;
    }
    x->orphaned = x->orphaned || orphaned;
    mine = !__atomic_exchange_n(&x->shutting_down, true, __ATOMIC_ACQ_REL);
    pthread_mutex_unlock(&x->exports->lock);
    if (mine && x->type->close)
        x->type->close(x->type->opaque, x);
    if (mine)
        blk_export_unref(x);
    return true;
}

static void cut(BlkExport *x)
{
    x->waits = false;
    if (x->type->disconnect)
        x->type->disconnect(x->type->opaque, x);
}

static void set_wait(BlkExport *x, uint32_t seconds)
{
    x->waits = true;
    x->cut_at = seconds ? g_get_monotonic_time() + seconds * G_USEC_PER_SEC : INT64_MAX;
}

bool blk_exports_del(BlkExports *exports, const char *id, BlkDelMode mode, uint32_t seconds,
                     GError **error)
{
    g_autoptr(BlkExport) x = blk_exports_find_id(exports, id);

    if (!x)
        return tm_error_set(error, "Export '%s' is not found", id);
    if (blk_export_shutting_down(x) && (mode == BLK_DEL_SAFE || !x->waits))
        return tm_error_set(error, "Export '%s' is already shutting down", id);
    if (mode == BLK_DEL_SAFE && x->type->settle)
        x->type->settle(x->type->opaque, x);
    if (!shut_down(x, false, mode == BLK_DEL_SAFE))
        return tm_error_set(error, "export '%s' still in use", id);
    if (mode == BLK_DEL_WAIT)
        set_wait(x, seconds);
    else
        cut(x);
    return true;
}

static void wait_for_orphans(BlkExports *exports)
{
    blk_graph_await(exports->graph, 1);
    pthread_mutex_lock(&exports->lock);
    while (any_orphan(exports) || exports->alive > exports->list->len)
        pthread_cond_wait(&exports->gone, &exports->lock);
    pthread_mutex_unlock(&exports->lock);
    blk_graph_await(exports->graph, -1);
}

/* Deletes those of which @but is not true (NULL: all), and waits until they are gone. */
static void del_which(BlkExports *exports,
                      bool (*but)(const BlkExports *exports, const BlkExport *x))
{
    g_autoptr(GPtrArray) all = blk_exports_list(exports);

    for (guint i = 0; i < all->len; i++) {
        BlkExport *x = all->pdata[i];

        if (but && but(exports, x))
            continue;
        shut_down(x, true, false);
        cut(x);
    }
    g_ptr_array_set_size(all, 0);
    wait_for_orphans(exports);
}

void blk_exports_drop(BlkExports *exports, const char *const *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        g_autoptr(BlkExport) x = blk_exports_find_id(exports, ids[i]);

        if (!x)
            continue;
        shut_down(x, true, false);
        cut(x);
    }
    wait_for_orphans(exports);
}

void blk_exports_del_all(BlkExports *exports)
{
    del_which(exports, NULL);
}

void blk_exports_tick(BlkExports *exports)
{
    g_autoptr(GPtrArray) due = g_ptr_array_new_with_free_func((GDestroyNotify)blk_export_unref);
    int64_t now = g_get_monotonic_time();

    pthread_mutex_lock(&exports->lock);
    for (guint i = 0; i < exports->list->len; i++) {
        BlkExport *x = exports->list->pdata[i];

        if (x->type->tick || (x->waits && x->cut_at <= now))
            g_ptr_array_add(due, blk_export_ref(x));
    }
    pthread_mutex_unlock(&exports->lock);
    for (guint i = 0; i < due->len; i++) {
        BlkExport *x = due->pdata[i];

        if (x->waits && x->cut_at <= now)
            cut(x);
        if (x->type->tick && !blk_export_shutting_down(x))
            x->type->tick(x->type->opaque, x);
    }
}

bool blk_exports_server_stop(BlkExports *exports, const char *id, GError **error)
{
    if (!id)
        id = BLK_SERVER_DEFAULT;
    if (!blk_exports_running(exports, id))
        return blk_exports_not_running(id, error);
    exports->server.stop(exports->server.opaque, id);
    del_which(exports, shown);
    return true;
}

bool blk_exports_server_set_limits(BlkExports *exports, const BlkServerOptions *options,
                                   GError **error)
{
    BlkServerOptions o = *options;

    if (!o.id)
        o.id = BLK_SERVER_DEFAULT;
    if (!blk_exports_running(exports, o.id))
        return blk_exports_not_running(o.id, error);
    return exports->server.set_limits(exports->server.opaque, &o, error);
}

bool blk_exports_select(BlkExports *exports, const char *id, const BlkBitmapName *bitmaps, size_t n,
                        GError **error)
{
    g_autoptr(BlkExport) x = blk_exports_find_id(exports, id);
    BlkSelection *selection, *old;

    if (!x || blk_export_shutting_down(x))
        return tm_error_set(error, "Export '%s' is not found", id);
    selection = blk_selection_make(blk_export_node(x), x->writable, bitmaps, n, false, error);
    if (!selection)
        return false;
    pthread_mutex_lock(&exports->lock);
    old = x->selection;
    x->selection = selection;
    pthread_mutex_unlock(&exports->lock);
    blk_selection_unref(old);
    return true;
}

unsigned blk_exports_count(BlkExports *exports)
{
    TM_GUARD(&exports->lock);

    return exports->list->len;
}

static gpointer ref_each(gconstpointer x, gpointer unused)
{
    return blk_export_ref((BlkExport *)x);
}

GPtrArray *blk_exports_list(BlkExports *exports)
{
    TM_GUARD(&exports->lock);

    while (exports->alive > exports->list->len)
        pthread_cond_wait(&exports->gone, &exports->lock);
    GPtrArray *all = g_ptr_array_copy(exports->list, ref_each, NULL);

    g_ptr_array_set_free_func(all, (GDestroyNotify)blk_export_unref);
    return all;
}

/* ---- for servers */

/* Under the lock. */
static bool offers(const BlkExport *x, const char *type, const char *server)
{
    return g_str_equal(x->type->name, type) && !blk_export_shutting_down(x) &&
           blk_export_shown_by(x, server);
}

/* Under the lock. @list: NULL for none. */
static BlkExport *first_offered(const GPtrArray *list, const char *type, const char *server)
{
    for (guint i = 0; list && i < list->len; i++) {
        if (offers(list->pdata[i], type, server))
            return list->pdata[i];
    }
    return NULL;
}

BlkExport *blk_exports_lookup(BlkExports *exports, const char *type, const char *server,
                              const char *name)
{
    TM_GUARD(&exports->lock);
    BlkExport *found = first_offered(blk_exports_named(exports, name), type, server);

    if (!found && !*name)
        found = first_offered(exports->defaults, type, server);
    return found ? blk_export_ref(found) : NULL;
}

GPtrArray *blk_exports_lookup_all(BlkExports *exports, const char *type, const char *server)
{
    GPtrArray *found = g_ptr_array_new_with_free_func((GDestroyNotify)blk_export_unref);
    TM_GUARD(&exports->lock);

    for (guint i = 0; i < exports->list->len; i++) {
        BlkExport *x = exports->list->pdata[i];

        if (offers(x, type, server) && !x->hidden)
            g_ptr_array_add(found, blk_export_ref(x));
    }
    return found;
}

BlkExport *blk_export_ref(BlkExport *x)
{
    tm_ref(&x->refs);
    return x;
}

void blk_export_free(BlkExport *x)
{
    g_free(x->id);
    g_free(x->name);
    g_free(x->description);
    g_free(x->bitmap_2016);
    blk_contexts_free(x->contexts);
    g_strfreev(x->servers);
    for (int i = 0; i < BLK_ACCESSES; i++)
        tm_object_unref(x->allow[i]);
    tm_object_unref(x->iothread);
    json_object_put(x->given);
    blk_counters_clear(&x->counters);
    g_free(x);
}

/* Drops a reference; whether it was the last and the export has left the list. */
static bool drop(BlkExport *x)
{
    TM_GUARD(&x->exports->lock);

    if (!tm_unref(&x->refs))
        return false;
    delist(x->exports, x);
    return true;
}

void blk_export_unref(BlkExport *x)
{
    BlkExports *exports;
    json_object *data;

    if (!x || !drop(x))
        return;
    exports = x->exports;
    if (x->type->end)
        x->type->end(x->type->opaque, x);
    blk_selection_unref(x->selection);
    blk_node_release(x->user);
    data = json_object_new_object();
    json_object_object_add(data, "id", json_object_new_string(x->id));
    blk_graph_emit(exports->graph, "BLOCK_EXPORT_DELETED", data);
    blk_export_free(x);

    /* The last touch of @exports: whoever waits for this may free it next. */
    TM_GUARD(&exports->lock);
    exports->alive--;
    pthread_cond_broadcast(&exports->gone);
}
