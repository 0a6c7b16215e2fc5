/* block/export.c: the registry of exports. What bitmaps they offer is selection.c's.
 *
 * Invariants:
 *  - an export leaves the list when its last reference goes; from block-export-del on it is
 *    "shutting down": shown by queries, found by no client;
 *  - an export that a query no longer shows keeps no bitmap busy and no node in use;
 *  - BLOCK_EXPORT_DELETED is sent once, after the node has been released. */
#include "block/export.h"

#include "block/selection.h"
#include "util/error.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define NAME_MAX_NBD 4096 /* NBD_MAX_STRING_SIZE: names and descriptions */

struct BlkExports {
    BlkGraph *graph; /* borrowed */
    BlkServer server;
    pthread_mutex_t lock; /* guards the list, and selection and sessions of every export; a leaf */
    pthread_cond_t gone;  /* an export has been freed */
    GPtrArray *list;      /* BlkExport, borrowed: they take themselves out; every refs is > 0 */
    unsigned alive;       /* exports not yet freed, the listed ones among them */
};

struct BlkExport {
    int refs;            /* atomic; drops to 0 only under the registry's lock */
    BlkExports *exports; /* borrowed */
    char *id, *type, *name, *description;
    BlkUser *user;
    bool writable, writethrough, allocation_depth, draft_2016;
    unsigned draft_dirty_flag;
    char *draft_bitmap;
    bool shutting_down; /* atomic */
    unsigned sessions;
    BlkSelection *selection;
    int64_t last_error; /* atomic: monotonic seconds of the last BLOCK_IO_ERROR */
};

/* ---- the registry */

BlkExports *blk_exports_new(BlkGraph *graph)
{
    BlkExports *exports = g_new0(BlkExports, 1);

    exports->graph = graph;
    exports->list = g_ptr_array_new();
    pthread_mutex_init(&exports->lock, NULL);
    pthread_cond_init(&exports->gone, NULL);
    return exports;
}

void blk_exports_free(BlkExports *exports)
{
    if (!exports)
        return;
    g_ptr_array_unref(exports->list);
    pthread_cond_destroy(&exports->gone);
    pthread_mutex_destroy(&exports->lock);
    g_free(exports);
}

void blk_exports_set_server(BlkExports *exports, const BlkServer *server)
{
    exports->server = *server;
}

BlkGraph *blk_exports_graph(BlkExports *exports)
{
    return exports->graph;
}

bool blk_exports_server_running(BlkExports *exports)
{
    return exports->server.running && exports->server.running(exports->server.opaque);
}

bool blk_exports_server_start(BlkExports *exports, const BlkServerOptions *options, GError **error)
{
    if (!exports->server.start)
        return tm_error_set(error, "This daemon has no NBD server");
    if (blk_exports_server_running(exports))
        return tm_error_set(error, "NBD server already running");
    return exports->server.start(exports->server.opaque, options, error);
}

bool blk_exports_server_stop(BlkExports *exports, GError **error)
{
    if (!blk_exports_server_running(exports))
        return tm_error_set(error, "NBD server not running");
    exports->server.stop(exports->server.opaque);
    blk_exports_del_all(exports);
    return true;
}

/* Under the lock. */
static BlkExport *find_id(BlkExports *exports, const char *id)
{
    for (guint i = 0; i < exports->list->len; i++) {
        BlkExport *x = exports->list->pdata[i];

        if (g_str_equal(x->id, id))
            return x;
    }
    return NULL;
}

static BlkExport *find_name(BlkExports *exports, const char *type, const char *name)
{
    for (guint i = 0; i < exports->list->len; i++) {
        BlkExport *x = exports->list->pdata[i];

        if (g_str_equal(x->type, type) && g_str_equal(x->name, name) &&
            !blk_export_shutting_down(x))
            return x;
    }
    return NULL;
}

BlkExport *blk_exports_find_id(BlkExports *exports, const char *id)
{
    TM_GUARD(&exports->lock);
    BlkExport *x = find_id(exports, id);

    return x ? blk_export_ref(x) : NULL;
}

static bool id_well_formed(const char *id)
{
    return g_ascii_isalpha(id[0]) &&
           id[strspn(id, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "-._")] == '\0';
}

static bool check_id(BlkExports *exports, const char *id, GError **error)
{
    g_autoptr(BlkExport) other = NULL;

    if (!id_well_formed(id))
        return tm_error_set(error, "Invalid block export id");
    other = blk_exports_find_id(exports, id);
    if (other)
        return tm_error_set(error, "Block export id '%s' is already in use", id);
    return true;
}

static bool check_name(BlkExports *exports, const BlkExportOptions *o, const char *name,
                       GError **error)
{
    TM_GUARD(&exports->lock);

    if (!exports->server.type || !g_str_equal(o->type, exports->server.type))
        return tm_error_set(error, "Parameter 'type' does not accept value '%s'", o->type);
    if (strlen(name) > NAME_MAX_NBD)
        return tm_error_set(error, "export name '%s' too long", name);
    if (o->description && strlen(o->description) > NAME_MAX_NBD)
        return tm_error_set(error, "description '%s' too long", o->description);
    if (find_name(exports, o->type, name))
        return tm_error_set(error, "NBD server already has export named '%s'", name);
    return true;
}

static bool check_draft(const BlkExportOptions *o, const BlkSelection *selection, GError **error)
{
    if (!o->draft_bitmap)
        return true;
    if (!o->draft_dirty_flag)
        return tm_error_set(error, "Bitmap '%s' of block-status-2016 needs a dirty-flag",
                            o->draft_bitmap);
    for (size_t i = 0; i < selection->count; i++) {
        if (g_str_equal(bmp_bitmap_name(selection->bitmaps[i]), o->draft_bitmap))
            return true;
    }
    return tm_error_set(error, "Bitmap '%s' of block-status-2016 is not among those of export '%s'",
                        o->draft_bitmap, o->id);
}

BlkExport *blk_exports_add(BlkExports *exports, const BlkExportOptions *o, GError **error)
{
    const char *name = o->name ? o->name : o->node_name;
    BlkSelection *selection;
    BlkExport *x;
    BlkNode *node;

    if (!check_id(exports, o->id, error))
        return NULL;
    node = blk_graph_find(exports->graph, o->node_name, NULL);
    if (!node) {
        tm_error_set(error, "Cannot find device='' nor node-name='%s'", o->node_name);
        return NULL;
    }
    if (o->writable && blk_node_read_only(node)) {
        tm_error_set(error, "Cannot export read-only node as writable");
        return NULL;
    }
    if (!blk_exports_server_running(exports)) {
        tm_error_set(error, "NBD server not running");
        return NULL;
    }
    if (!check_name(exports, o, name, error))
        return NULL;
    selection = blk_selection_make(node, o->writable, o->bitmaps, o->n_bitmaps, true, error);
    if (!selection)
        return NULL;
    if (!check_draft(o, selection, error)) {
        blk_selection_unref(selection);
        return NULL;
    }

    x = g_new0(BlkExport, 1);
    x->refs = 1;
    x->exports = exports;
    x->id = g_strdup(o->id);
    x->type = g_strdup(o->type);
    x->name = g_strdup(name);
    x->description = g_strdup(o->description);
    x->writable = o->writable;
    x->writethrough = o->writethrough;
    x->allocation_depth = o->allocation_depth;
    x->draft_2016 = o->draft_2016;
    x->draft_dirty_flag = o->draft_dirty_flag;
    x->draft_bitmap = g_strdup(o->draft_bitmap);
    x->selection = selection;
    x->last_error = INT64_MIN;
    x->user = blk_node_use(node, "an unnamed block device", false); /* QEMU's name for it */
    TM_GUARD(&exports->lock);
    g_ptr_array_add(exports->list, x);
    exports->alive++;
    return x;
}

/* Takes it out of sight and gives up the registry's reference. */
static void shut_down(BlkExports *exports, BlkExport *x)
{
    exports->server.disconnect(exports->server.opaque, x);
    blk_export_unref(x);
}

/* Whether it was this call that marked it. */
static bool mark_shutting_down(BlkExports *exports, BlkExport *x)
{
    TM_GUARD(&exports->lock);

    return !__atomic_exchange_n(&x->shutting_down, true, __ATOMIC_ACQ_REL);
}

bool blk_exports_del(BlkExports *exports, const char *id, bool hard, GError **error)
{
    g_autoptr(BlkExport) x = blk_exports_find_id(exports, id);

    if (!x)
        return tm_error_set(error, "Export '%s' is not found", id);
    if (blk_export_shutting_down(x))
        return tm_error_set(error, "Export '%s' is already shutting down", id);
    pthread_mutex_lock(&exports->lock);
    bool busy = !hard && x->sessions;
    if (!busy)
        __atomic_store_n(&x->shutting_down, true, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&exports->lock);
    if (busy)
        return tm_error_set(error, "export '%s' still in use", id);
    shut_down(exports, x);
    return true;
}

void blk_exports_del_all(BlkExports *exports)
{
    g_autoptr(GPtrArray) all = blk_exports_list(exports);

    for (guint i = 0; i < all->len; i++) {
        if (mark_shutting_down(exports, all->pdata[i]))
            shut_down(exports, all->pdata[i]);
    }
    g_ptr_array_set_size(all, 0);
    TM_GUARD(&exports->lock);
    while (exports->alive)
        pthread_cond_wait(&exports->gone, &exports->lock);
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

BlkExport *blk_exports_lookup(BlkExports *exports, const char *type, const char *name)
{
    TM_GUARD(&exports->lock);
    BlkExport *x = find_name(exports, type, name);

    return x ? blk_export_ref(x) : NULL;
}

GPtrArray *blk_exports_lookup_all(BlkExports *exports, const char *type)
{
    GPtrArray *found = g_ptr_array_new_with_free_func((GDestroyNotify)blk_export_unref);
    TM_GUARD(&exports->lock);

    for (guint i = 0; i < exports->list->len; i++) {
        BlkExport *x = exports->list->pdata[i];

        if (g_str_equal(x->type, type) && !blk_export_shutting_down(x))
            g_ptr_array_add(found, blk_export_ref(x));
    }
    return found;
}

BlkExport *blk_export_ref(BlkExport *x)
{
    tm_ref(&x->refs);
    return x;
}

static void export_free(BlkExport *x)
{
    g_free(x->id);
    g_free(x->type);
    g_free(x->name);
    g_free(x->description);
    g_free(x->draft_bitmap);
    g_free(x);
}

/* Drops a reference; whether it was the last and the export has left the list. */
static bool drop(BlkExport *x)
{
    TM_GUARD(&x->exports->lock);

    if (!tm_unref(&x->refs))
        return false;
    g_ptr_array_remove(x->exports->list, x);
    return true;
}

void blk_export_unref(BlkExport *x)
{
    BlkExports *exports;
    json_object *data;

    if (!x || !drop(x))
        return;
    exports = x->exports;
    blk_selection_unref(x->selection);
    blk_node_release(x->user);
    data = json_object_new_object();
    json_object_object_add(data, "id", json_object_new_string(x->id));
    blk_graph_emit(exports->graph, "BLOCK_EXPORT_DELETED", data);
    export_free(x);

    /* The last touch of @exports: whoever waits for this may free it next. */
    TM_GUARD(&exports->lock);
    exports->alive--;
    pthread_cond_broadcast(&exports->gone);
}

bool blk_export_session_begin(BlkExport *x)
{
    TM_GUARD(&x->exports->lock);

    if (blk_export_shutting_down(x))
        return false;
    x->sessions++;
    return true;
}

void blk_export_session_end(BlkExport *x)
{
    TM_GUARD(&x->exports->lock);

    x->sessions--;
}

BlkSelection *blk_export_selection(BlkExport *x)
{
    TM_GUARD(&x->exports->lock);

    return blk_selection_ref(x->selection);
}

/* ---- facts */

const char *blk_export_id(const BlkExport *x)
{
    return x->id;
}

const char *blk_export_type(const BlkExport *x)
{
    return x->type;
}

const char *blk_export_name(const BlkExport *x)
{
    return x->name;
}

const char *blk_export_description(const BlkExport *x)
{
    return x->description;
}

BlkNode *blk_export_node(const BlkExport *x)
{
    return blk_user_node(x->user);
}

bool blk_export_writable(const BlkExport *x)
{
    return x->writable;
}

bool blk_export_writethrough(const BlkExport *x)
{
    return x->writethrough;
}

bool blk_export_allocation_depth(const BlkExport *x)
{
    return x->allocation_depth;
}

bool blk_export_draft_2016(const BlkExport *x)
{
    return x->draft_2016;
}

unsigned blk_export_draft_dirty_flag(const BlkExport *x)
{
    return x->draft_dirty_flag;
}

const char *blk_export_draft_bitmap(const BlkExport *x)
{
    return x->draft_bitmap;
}

bool blk_export_shutting_down(const BlkExport *x)
{
    return __atomic_load_n(&x->shutting_down, __ATOMIC_ACQUIRE);
}

void blk_export_io_error(BlkExport *x, bool write, int errnum)
{
    struct timespec now;
    int64_t last = __atomic_load_n(&x->last_error, __ATOMIC_RELAXED);
    json_object *data;

    clock_gettime(CLOCK_MONOTONIC, &now);
    if (last != INT64_MIN && now.tv_sec - last < 1)
        return;
    if (!__atomic_compare_exchange_n(&x->last_error, &last, now.tv_sec, false, __ATOMIC_RELAXED,
                                     __ATOMIC_RELAXED))
        return;
    data = json_object_new_object();
    json_object_object_add(data, "device", json_object_new_string(x->id));
    json_object_object_add(data, "node-name",
                           json_object_new_string(blk_node_name(blk_export_node(x))));
    json_object_object_add(data, "operation", json_object_new_string(write ? "write" : "read"));
    json_object_object_add(data, "action", json_object_new_string("report"));
    json_object_object_add(data, "nospace", json_object_new_boolean(errnum == ENOSPC));
    json_object_object_add(data, "reason", json_object_new_string(g_strerror(errnum)));
    blk_graph_emit(x->exports->graph, "BLOCK_IO_ERROR", data);
}
