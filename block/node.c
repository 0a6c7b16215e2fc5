/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/node.c: a node's life: opening from options, children, users, facts, resizing. */
#include "block/losses.h"
#include "block/node_internal.h"

#include "bitmap/store/store.h"
#include "block/bitmaps.h"

#include "util/error.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>

/* ---- life */

BlkNode *blk_node_ref(BlkNode *node)
{
    tm_ref(&node->refs);
    return node;
}

void blk_node_unref(BlkNode *node)
{
    if (!node || !tm_unref(&node->refs))
        return;
    blk_node_close_driver(node);
    for (unsigned i = 0; i < node->n_children; i++)
        blk_node_release(node->children[i]);
    bmp_set_free(node->bitmaps);
    blk_inflight_destroy(&node->inflight);
    blk_quiesce_destroy(&node->quiesce);
    blk_long_requests_destroy(&node->long_requests);
    blk_worker_quota_destroy(&node->quota);
    pthread_mutex_destroy(&node->serial);
    g_ptr_array_unref(node->users);
    blk_options_free(node->options);
    g_free(node->children);
    g_free(node->up);
    g_free(node->error);
    g_free(node->lost);
    g_free(node->seen);
    g_free(node->name);
    g_aligned_free(node);
}

void blk_node_set_unmap(BlkNode *node)
{
    __atomic_store_n(&node->unmap,
                     blk_options_is_set(node->options, "discard") &&
                         g_str_equal(blk_options_string(node->options, "discard"), "unmap"),
                     __ATOMIC_RELAXED);
}

static BlkNode *node_new(BlkGraph *graph, const struct tidemark_driver *driver, BlkOptions *options,
                         const char *auto_name)
{
    BlkNode *node = g_aligned_alloc0(1, sizeof(BlkNode), 64);

    node->refs = 1;
    node->graph = graph;
    node->graph_sys = blk_graph_sys(graph);
    node->driver = driver;
    node->options = options;
    node->name =
        g_strdup(blk_options_is_set(options, "node-name") ? blk_options_string(options, "node-name")
                                                          : auto_name);
    node->backing = -1;
    node->users = g_ptr_array_new();
    blk_node_set_unmap(node);
    blk_inflight_init(&node->inflight);
    blk_quiesce_init(&node->quiesce);
    blk_long_requests_init(&node->long_requests);
    blk_worker_quota_init(&node->quota, blk_graph_engine(graph));
    pthread_mutex_init(&node->serial, NULL);
    return node;
}

/* A nested definition inherits what QEMU lets a child inherit unless it says so itself. */
json_object *blk_node_child_options(json_object *parent, json_object *child, bool backing)
{
    static const char *const inherited[] = { "read-only", "auto-read-only", "discard",
                                             "force-share", "cache" };
    json_object *options = NULL;

    if (json_object_deep_copy(child, &options, NULL) < 0)
        return NULL;
    /* What is below is not written, unless it is said that it is. */
    if (backing && !json_object_object_get_ex(options, "read-only", NULL))
        json_object_object_add(options, "read-only", json_object_new_boolean(true));
    for (size_t i = 0; i < G_N_ELEMENTS(inherited); i++) {
        json_object *value;

        if (json_object_object_get_ex(parent, inherited[i], &value) &&
            !json_object_object_get_ex(options, inherited[i], NULL))
            json_object_object_add(options, inherited[i], json_object_get(value));
    }
    return options;
}

static bool open_child(BlkNode *node, unsigned index, json_object *options, GError **error)
{
    const struct tidemark_child *kind = &node->driver->children[index];
    g_autoptr(BlkNode) own = NULL;
    json_object *value = NULL;
    BlkNode *child;

    if (!blk_options_child(node->options, kind->name, &value) || !value) {
        if (kind->required)
            return tm_error_set(error, "Parameter '%s' is missing", kind->name);
        return true;
    }
    if (json_object_is_type(value, json_type_string)) {
        const char *name = json_object_get_string(value);

        child = blk_graph_lookup(node->graph, name, name, error);
        if (!child)
            return false;
    } else {
        json_object *nested = blk_node_child_options(options, value, (int)index == node->backing);

        child = own = blk_graph_open_child(node->graph, nested, error);
        json_object_put(nested);
        if (!child)
            return false;
    }
    if ((int)index != node->backing && blk_node_read_only(child))
        node->read_only = true; /* until the driver says */
    node->children[index] = blk_node_use_child(node, index, child, error);
    return node->children[index] != NULL;
}

static bool open_children(BlkNode *node, json_object *options, GError **error)
{
    const struct tidemark_child *kinds = node->driver->children;
    unsigned n = 0;

    while (kinds && kinds[n].name)
        n++;
    node->n_children = n;
    node->children = g_new0(BlkUser *, n);
    for (unsigned i = 0; i < n; i++) {
        if (g_str_equal(kinds[i].name, "backing"))
            node->backing = (int)i;
        if (!open_child(node, i, options, error))
            return false;
    }
    return true;
}

static void set_open(BlkNode *node, bool open)
{
    blk_permissions_lock(node);
    node->open = open;
    blk_permissions_unlock(node);
}

void blk_node_close_driver(BlkNode *node)
{
    if (!node->open)
        return;
    blk_losses_remember(node);
    set_open(node, false);
    node->driver->close(node->handle);
    node->handle = NULL;
}

void blk_node_predict(BlkNode *node)
{
    bool read_only = blk_options_bool(node->options, "read-only");

    for (unsigned i = 0; i < node->n_children; i++) {
        const BlkNode *child = blk_node_child_at(node, i);

        read_only |= child && (int)i != node->backing && blk_node_read_only(child);
    }
    __atomic_store_n(&node->read_only, read_only, __ATOMIC_RELAXED);
}

bool blk_node_open_driver(BlkNode *node, GError **error)
{
    int ret;

    /* A format may write as soon as it is open. */
    blk_node_predict(node);
    if (!blk_permissions_refresh(&node, 1, error))
        return false;
    g_clear_pointer(&node->error, g_free);
    ret = node->driver->open(node, &node->handle);

    if (ret == 0) {
        set_open(node, true);
        __atomic_store_n(&node->invalidates, 0, __ATOMIC_RELAXED);
        ret = blk_node_refresh(node);
        if (ret == 0)
            return blk_permissions_refresh(&node, 1, error);
    }
    if (node->error)
        return tm_error_set(error, "%s", node->error);
    return tm_error_set_errno(error, -ret, "Could not open node '%s'", node->name);
}

BlkNode *blk_node_open(BlkGraph *graph, json_object *object, const char *auto_name, GError **error)
{
    const struct tidemark_driver *driver;
    g_autoptr(BlkNode) node = NULL;
    json_object *name = NULL;
    BlkOptions *options;

    if (!json_object_object_get_ex(object, "driver", &name)) {
        tm_error_set(error, "Parameter 'driver' is missing");
        return NULL;
    }
    driver = blk_registry_find(blk_graph_registry(graph), json_object_get_string(name));
    if (!driver) {
        tm_error_set(error, "Parameter 'driver' does not accept value '%s'",
                     json_object_get_string(name));
        return NULL;
    }
    options = blk_options_parse(driver, object, error);
    if (!options)
        return NULL;
    node = node_new(graph, driver, options, auto_name);
    node->read_only = blk_options_bool(options, "read-only");
    if (!open_children(node, object, error) || !blk_node_open_driver(node, error))
        return NULL;
    node->bitmaps = bmp_set_new(node->name, node->size);
    return g_steal_pointer(&node);
}

/* ---- facts */

const char *blk_node_name(const BlkNode *node)
{
    return node->name;
}

const struct tidemark_driver *blk_node_driver(const BlkNode *node)
{
    return node->driver;
}

BlkGraph *blk_node_graph(const BlkNode *node)
{
    return node->graph;
}

uint64_t blk_node_size(const BlkNode *node)
{
    return __atomic_load_n(&node->size, __ATOMIC_ACQUIRE);
}

bool blk_node_read_only(const BlkNode *node)
{
    return __atomic_load_n(&node->read_only, __ATOMIC_RELAXED);
}

const char *blk_node_lost(const BlkNode *node)
{
    return node->open ? NULL : node->lost;
}

BmpSet *blk_node_bitmaps(BlkNode *node)
{
    return node->bitmaps;
}

BlkNode *blk_node_child(const BlkNode *node, unsigned index)
{
    return blk_node_child_at(node, index);
}

bool blk_node_option_bool(const BlkNode *node, const char *name)
{
    return blk_options_bool(node->options, name);
}

const char *blk_node_option_string(const BlkNode *node, const char *name)
{
    return blk_options_is_set(node->options, name) ? blk_options_string(node->options, name) : NULL;
}

static bool has_filename(const BlkNode *node)
{
    for (const struct tidemark_option *o = node->driver->options; o && o->name; o++) {
        if (g_str_equal(o->name, "filename"))
            return true;
    }
    return false;
}

/* A node without a file, as QEMU names one: what it takes to open it again. */
static char *pseudo_filename(const BlkNode *node)
{
    g_autoptr(GString) json = g_string_new(NULL);

    for (const struct tidemark_option *o = node->driver->options; o && o->name; o++) {
        /* Such disks differ in size; how they behave is not part of their name. */
        if (o->type != TIDEMARK_OPTION_SIZE || !blk_options_is_set(node->options, o->name))
            continue;
        uint64_t value = blk_options_uint(node->options, o->name);
        if (!o->default_value || value != g_ascii_strtoull(o->default_value, NULL, 10))
            g_string_append_printf(json, ", \"%s\": %" G_GUINT64_FORMAT, o->name, value);
    }
    return json->len ? g_strdup_printf("json:{\"driver\": \"%s\"%s}", node->driver->name, json->str)
                     : g_strdup_printf("%s://", node->driver->name);
}

char *blk_node_filename(const BlkNode *node)
{
    if (has_filename(node) && blk_options_is_set(node->options, "filename"))
        return g_strdup(blk_options_string(node->options, "filename"));
    for (unsigned i = 0; i < node->n_children; i++) {
        if (node->children[i] && (int)i != node->backing)
            return blk_node_filename(node->children[i]->node);
    }
    return pseudo_filename(node);
}

static int driver_info(BlkNode *node, struct tidemark_info *info)
{
    int ret;

    memset(info, 0, sizeof(*info));
    info->struct_size = sizeof(*info);
    info->request_alignment = 1;
    info->allocated = UINT64_MAX;
    if (!node->open)
        return -EIO;
    blk_node_serial_begin(node);
    ret = node->driver->get_info(node->handle, info);
    blk_node_serial_end(node);
    return ret;
}

void blk_node_describe(BlkNode *node, json_object *image)
{
    const BlkFormat *format = blk_builtin_of(node->driver)->format;

    blk_quiesce_enter(&node->quiesce);
    if (format && node->open)
        format->describe(node->handle, image);
    blk_quiesce_leave(&node->quiesce);
}

void blk_node_info(BlkNode *node, struct tidemark_info *info)
{
    blk_quiesce_enter(&node->quiesce);
    if (driver_info(node, info) < 0)
        info->flags = __atomic_load_n(&node->info_flags, __ATOMIC_RELAXED);
    info->size = blk_node_size(node);
    info->request_alignment = __atomic_load_n(&node->request_alignment, __ATOMIC_RELAXED);
    blk_quiesce_leave(&node->quiesce);
}

int blk_node_refresh(BlkNode *node)
{
    struct tidemark_info info;
    int ret = driver_info(node, &info);

    if (ret < 0)
        return ret;
    if (info.size > TM_SIZE_MAX)
        return -EFBIG;
    if (!tm_is_pow2(info.request_alignment) || info.request_alignment > (1u << 26))
        return -EINVAL;
    __atomic_store_n(&node->size, info.size, __ATOMIC_RELEASE);
    __atomic_store_n(&node->info_flags, info.flags, __ATOMIC_RELAXED);
    __atomic_store_n(&node->request_alignment, info.request_alignment, __ATOMIC_RELAXED);
    __atomic_store_n(&node->cluster, tm_is_pow2(info.cluster_size) ? info.cluster_size : 1,
                     __ATOMIC_RELAXED);
    __atomic_store_n(&node->read_only,
                     (info.flags & TIDEMARK_INFO_READ_ONLY) != 0 ||
                         blk_options_bool(node->options, "read-only"),
                     __ATOMIC_RELAXED);
    return 0;
}

int blk_node_map(BlkNode *node, uint64_t offset, uint64_t length, uint32_t purpose,
                 struct tidemark_mapping *m)
{
    int ret;

    *m = (struct tidemark_mapping){ .kind = TIDEMARK_MAP_SELF, .fd = -1, .length = length };
    if (!node->open)
        return -EIO;
    if (!node->driver->map)
        return 0;
    blk_node_serial_begin(node);
    ret = node->driver->map(node->handle, offset, length, purpose, m);
    blk_node_serial_end(node);
    if (ret < 0)
        return ret;
    if (m->length == 0 || m->length > length || m->kind > TIDEMARK_MAP_BACKING ||
        (m->kind == TIDEMARK_MAP_CHILD && !blk_node_child_at(node, m->child)) ||
        (m->kind == TIDEMARK_MAP_FD && m->fd < 0))
        return -EIO; /* a driver that breaks its contract */
    if ((purpose & TIDEMARK_MAP_FOR_WRITE) && m->kind != TIDEMARK_MAP_FD &&
        m->kind != TIDEMARK_MAP_CHILD)
        m->kind = TIDEMARK_MAP_SELF;
    return 0;
}

/* ---- resizing */

int blk_node_resize(BlkNode *node, uint64_t size)
{
    const BlkFormat *format;
    int ret;

    g_clear_pointer(&node->error, g_free);
    if (size > TM_SIZE_MAX)
        return -EFBIG;
    if (!node->open)
        return -EIO;
    if (!node->driver->resize)
        return -ENOTSUP;
    /* Of a format what is cut off may be gone before the size says so, and stay so after a
     * crash. */
    format = blk_builtin_of(node->driver)->format;
    if (format && format->bitmaps && size < node->size)
        bmp_set_cut_begin(node->bitmaps, size);
    ret = node->driver->resize(node->handle, size);
    if (ret < 0)
        bmp_set_cut_failed(node->bitmaps);
    if (ret < 0)
        return ret;
    ret = blk_node_refresh(node);
    if (ret < 0)
        return ret;
    blk_bitmaps_store(node, true);
    return 0;
}

int blk_node_grow(BlkNode *node, uint64_t size)
{
    int ret = 0;

    if (blk_node_size(node) >= size)
        return 0;
    if (blk_node_read_only(node))
        return -EPERM;
    blk_inflight_drain(&node->inflight);
    if (blk_node_size(node) < size)
        ret = blk_node_resize(node, size);
    blk_inflight_drain_end(&node->inflight);
    return ret;
}
