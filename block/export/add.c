/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/export/add.c: new exports: what is asked for is checked, then the export is listed. */
#include "block/disk.h"
#include "block/export/export_internal.h"

#include "block/filters.h"
#include "block/parents.h"
#include "block/users.h"
#include "util/error.h"
#include "util/identifier.h"

#include <inttypes.h>
#include <string.h>

#define NAME_MAX_NBD 4096 /* NBD_MAX_STRING_SIZE: names and descriptions */

static bool check_id(BlkExports *exports, const char *id, GError **error)
{
    g_autoptr(BlkExport) other = NULL;

    if (!tm_identifier(id))
        return tm_error_set(error, "Invalid block export id");
    other = blk_exports_find_id(exports, id);
    if (other)
        return tm_error_set(error, "Block export id '%s' is already in use", id);
    return true;
}

static bool listed(const char *const *ids, size_t n, const char *id)
{
    for (size_t i = 0; i < n; i++) {
        if (g_str_equal(ids[i], id))
            return true;
    }
    return false;
}

/* Whether a server could show both. */
static bool meet(const BlkExportOptions *o, const BlkExport *x)
{
    if (!o->servers || !x->servers)
        return true;
    for (char **id = x->servers; *id; id++) {
        if (listed(o->servers, o->n_servers, *id))
            return true;
    }
    return false;
}

static bool check_servers(BlkExports *exports, const BlkExportOptions *o, GError **error)
{
    if (!blk_exports_running(exports, NULL))
        return blk_exports_not_running(BLK_SERVER_DEFAULT, error);
    if (o->servers && !o->n_servers)
        return tm_error_set(error, "Parameter 'servers' expects at least one server");
    for (size_t i = 0; i < o->n_servers; i++) {
        if (!blk_exports_running(exports, o->servers[i]))
            return blk_exports_not_running(o->servers[i], error);
        if (listed(o->servers, i, o->servers[i]))
            return tm_error_set(error, "Parameter 'servers' names server '%s' twice",
                                o->servers[i]);
    }
    return true;
}

/* One of @list that a server could show together with the new one; NULL: none. */
static const BlkExport *shown_together(const BlkExportOptions *o, const GPtrArray *list)
{
    for (guint i = 0; list && i < list->len; i++) {
        const BlkExport *x = list->pdata[i];

        if (x->type->by_servers && !blk_export_shutting_down(x) && meet(o, x))
            return x;
    }
    return NULL;
}

static bool check_name(BlkExports *exports, const BlkExportOptions *o, const char *name,
                       GError **error)
{
    const BlkExport *other;
    TM_GUARD(&exports->lock);

    if (strlen(name) > NAME_MAX_NBD)
        return tm_error_set(error, "export name '%s' too long", name);
    if (o->description && strlen(o->description) > NAME_MAX_NBD)
        return tm_error_set(error, "description '%s' too long", o->description);
    if (shown_together(o, blk_exports_named(exports, name)))
        return tm_error_set(error, "NBD server already has export named '%s'", name);
    other = o->is_default ? shown_together(o, exports->defaults) : NULL;
    return !other ||
           tm_error_set(error, "NBD server already has a default export: '%s'", other->id);
}

static bool check_2016(const BlkExportOptions *o, const BlkSelection *selection, GError **error)
{
    if (!o->bitmap_2016)
        return true;
    if (!o->dirty_flag_2016)
        return tm_error_set(error, "Bitmap '%s' of block-status-2016 needs the member 'dirty-flag'",
                            o->bitmap_2016);
    for (size_t i = 0; i < selection->count; i++) {
        if (g_str_equal(bmp_bitmap_name(selection->bitmaps[i]), o->bitmap_2016))
            return true;
    }
    return tm_error_set(error, "Bitmap '%s' of block-status-2016 is not among those of export '%s'",
                        o->bitmap_2016, o->id);
}

static char **strings(const char *const *list, size_t n)
{
    char **copy = g_new0(char *, n + 1);

    for (size_t i = 0; i < n; i++)
        copy[i] = g_strdup(list[i]);
    return copy;
}

/* What the options say. */
static BlkExport *export_new(BlkExports *exports, const BlkExportType *type,
                             const BlkExportOptions *o, const char *name)
{
    BlkExport *x = g_new0(BlkExport, 1);

    x->refs = 1;
    x->exports = exports;
    x->id = g_strdup(o->id);
    x->type = type;
    x->name = g_strdup(name);
    x->description = g_strdup(o->description);
    x->writable = o->writable;
    x->writethrough = o->writethrough;
    x->allocation_depth = o->allocation_depth;
    x->status_2016 = o->status_2016;
    x->dirty_flag_2016 = o->dirty_flag_2016;
    x->bitmap_2016 = g_strdup(o->bitmap_2016);
    x->last_error = INT64_MIN;
    x->servers = o->servers ? strings(o->servers, o->n_servers) : NULL;
    x->hidden = o->hidden;
    x->release = o->release;
    x->left_at = g_get_monotonic_time();
    x->is_default = o->is_default;
    x->max_connections = o->max_connections;
    if (o->given)
        json_object_deep_copy(o->given, &x->given, NULL);
    return x;
}

/* The objects that say who may. */
static bool find_allowed(BlkExport *x, const BlkExportOptions *o, GError **error)
{
    for (int i = 0; i < BLK_ACCESSES; i++) {
        if (!o->allow[i])
            continue;
        x->allow[i] = tm_objects_get(x->exports->objects, o->allow[i], TM_OBJECT_AUTHZ, error);
        if (!x->allow[i])
            return false;
    }
    return true;
}

/* One that may be inactive needs nothing more then than to read. */
static BlkUser *use_inactive(BlkNode *node, GError **error)
{
    BlkUser *user =
        blk_node_use(node, BLK_USER_UNNAMED, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, error);

    if (user)
        blk_user_allow_inactive(user);
    return user;
}

/* In two steps, so that conflicts are reported in QEMU's order. The node may grow meanwhile: a
 * session keeps the size that it was given. */
static bool use_node(BlkExport *x, BlkNode *node, bool allow_inactive, GError **error)
{
    unsigned needs = BLK_PERM_CONSISTENT_READ | (x->writable ? BLK_PERM_WRITE : 0);

    x->user = allow_inactive ? use_inactive(node, error)
                             : blk_node_use(node, BLK_USER_UNNAMED, needs, BLK_PERM_ALL, error);
    if (x->user && blk_user_set(x->user, needs, BLK_PERM_ALL & ~BLK_PERM_RESIZE, error)) {
        blk_user_follow(x->user);
        return true;
    }
    g_clear_pointer(&x->user, blk_node_release);
    return false;
}

/* As in QEMU, if the export can't do with an inactive node. */
static bool activate(BlkNode *node, GError **error)
{
    g_autoptr(GError) why = NULL;

    return blk_graph_set_active(blk_node_graph(node), node, true, &why) ||
           tm_error_set(error, "Failed to automatically activate inactive node: %s", why->message);
}

/* The node to export. */
static BlkNode *find_node(BlkExports *exports, const BlkExportOptions *o, GError **error)
{
    BlkNode *node = blk_graph_lookup(exports->graph, NULL, o->node_name, error);

    if (!node || (!blk_node_active(node) && !o->allow_inactive && !activate(node, error)))
        return NULL;
    if (!o->writable || !blk_node_meant_read_only(node))
        return node;
    tm_error_set(error, "Cannot export read-only node as writable");
    return NULL;
}

static const char *name_of(const BlkExportType *type, const BlkExportOptions *o)
{
    return !type->by_servers ? o->id : o->name ? o->name : o->node_name;
}

static bool start(BlkExport *x, const BlkExportOptions *o, GError **error)
{
    return !x->type->start || x->type->start(x->type->opaque, x, o, error);
}

BlkExport *blk_exports_add(BlkExports *exports, const BlkExportOptions *o, GError **error)
{
    const BlkExportType *type = blk_exports_type(exports, o->type);
    const char *name;
    g_autoptr(TmObject) iothread = NULL;
    BlkSelection *selection;
    BlkExport *x;
    BlkNode *node;

    if (!type) {
        tm_error_set(error, "Parameter 'type' does not accept value '%s'", o->type);
        return NULL;
    }
    name = name_of(type, o);
    if (!check_id(exports, o->id, error))
        return NULL;
    node = find_node(exports, o, error);
    if (!node)
        return NULL;
    if (o->iothread &&
        !(iothread = tm_objects_get(exports->objects, o->iothread, TM_OBJECT_IOTHREAD, error)))
        return NULL;
    if (type->by_servers &&
        (!check_servers(exports, o, error) || !check_name(exports, o, name, error)))
        return NULL;
    selection = blk_selection_make(node, o->writable, o->bitmaps, o->n_bitmaps, !o->frozen, error);
    if (!selection)
        return NULL;
    if (!check_2016(o, selection, error)) {
        blk_selection_unref(selection);
        return NULL;
    }

    x = export_new(exports, type, o, name);
    x->iothread = g_steal_pointer(&iothread);
    x->selection = selection;
    x->contexts = blk_contexts_new();
    if (!find_allowed(x, o, error) ||
        !use_node(x, o->writable ? blk_filters_top(node) : node, o->allow_inactive, error) ||
        (o->writable && blk_node_active(node) && !blk_disk_claim(node, error)) ||
        !start(x, o, error)) {
        blk_node_release(x->user);
        blk_selection_unref(selection);
        blk_export_free(x);
        return NULL;
    }
    TM_GUARD(&exports->lock);
    blk_exports_enlist(exports, x);
    return x;
}

/* Whether one shows what the other has: a filter and what it stands on. */
static bool related(BlkNode *a, BlkNode *b)
{
    for (BlkNode *n = a; n; n = blk_node_same_below(n)) {
        if (n == b)
            return true;
    }
    for (BlkNode *n = b; n; n = blk_node_same_below(n)) {
        if (n == a)
            return true;
    }
    return false;
}

bool blk_exports_move(BlkExports *exports, const char *id, const char *node_name, GError **error)
{
    g_autoptr(BlkExport) x = blk_exports_find_id(exports, id);
    BlkNode *to, *from;

    if (!x || blk_export_shutting_down(x))
        return tm_error_set(error, "Export '%s' is not found", id);
    to = blk_graph_lookup(exports->graph, NULL, node_name, error);
    if (!to)
        return false;
    from = blk_export_node(x);
    if (blk_node_size(from) != blk_node_size(to))
        return tm_error_set(
            error, "Node '%s' has %" PRIu64 " bytes, expected %" PRIu64 ", the size of export '%s'",
            node_name, blk_node_size(to), blk_node_size(from), id);
    if (x->selection->count && !related(from, to))
        return tm_error_set(error, "Export '%s' offers bitmaps, and node '%s' shows another disk",
                            id, node_name);
    return (!x->writable || blk_disk_claim(to, error)) && blk_user_move(x->user, to, error);
}
