/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/reopen_check.c: what is asked of a reopening, and whether it can be, before anything is
 * touched.
 *
 * Messages are QEMU's (block.c and blockdev.c, bdrv_reopen_*). What differs: any option may change
 * but those that say which disk and which bitmaps a node has: "file" may become another node of
 * the same disk, so filters are put in and taken out. */
#include "block/bitmaps.h"
#include "block/filters.h"
#include "block/parents.h"
#include "block/reopen_internal.h"

#include "util/error.h"

#include <string.h>

BlkReopenEntry *blk_reopen_entry(const BlkReopen *r, const BlkNode *node)
{
    for (guint i = 0; i < r->entries->len; i++) {
        BlkReopenEntry *e = r->entries->pdata[i];

        if (e->node == node)
            return e;
    }
    return NULL;
}

/* ---- what is asked for */

static bool cannot_change(const char *name, GError **error)
{
    return tm_error_set(error, "Cannot change the option '%s'", name);
}

/* What identifies the disk and its bitmaps. */
static bool check_kept(const BlkNode *node, const BlkOptions *options, GError **error)
{
    static const char *const common[] = { "bitmap-store", "bitmap-place", "bitmap-durability" };

    for (const struct tidemark_option *o = node->driver->options; o && o->name; o++) {
        if (g_str_equal(o->name, "filename") && o->type == TIDEMARK_OPTION_STRING &&
            g_strcmp0(blk_options_string(node->options, o->name),
                      blk_options_string(options, o->name)))
            return cannot_change(o->name, error);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(common); i++) {
        if (g_strcmp0(blk_options_string(node->options, common[i]),
                      blk_options_string(options, common[i])))
            return cannot_change(common[i], error);
    }
    return true;
}

static bool add_entry(BlkReopen *r, BlkNode *node, json_object *object, GError **error);

/* A nested definition is for a node that was defined in the same way. */
static bool check_nested(BlkReopen *r, BlkNode *node, unsigned index, json_object *object,
                         json_object *value, GError **error)
{
    BlkNode *child = blk_node_child_at(node, index);
    g_autofree char *name = g_strconcat(node->driver->children[index].name, ".driver", NULL);
    json_object *nested;
    bool ok;

    if (!child || child->monitor_owned)
        return cannot_change(name, error);
    nested = blk_node_child_options(object, value, (int)index == node->backing);
    ok = add_entry(r, child, nested, error);
    json_object_put(nested);
    return ok;
}

/* What it shows byte by byte. An overlay has data of its own. */
static const BlkNode *shown_by(const BlkNode *node)
{
    const BlkNode *below;

    while ((below = blk_node_same_below(node)))
        node = below;
    return node;
}

static bool check_file(BlkReopenEntry *e, const BlkNode *now, BlkNode *to, GError **error)
{
    if (!now || !to)
        return cannot_change("file", error);
    if (!blk_node_check_activity(e->node, BLK_REOPEN_FILE, to, error))
        return false;
    e->file = blk_node_ref(to);
    e->other_disk = shown_by(now) != shown_by(to);
    return true;
}

static bool check_other(BlkReopenEntry *e, unsigned index, BlkNode *to, GError **error)
{
    BlkNode *node = e->node;
    const char *name = node->driver->children[index].name;

    if (index == BLK_REOPEN_FILE && g_str_equal(name, "file"))
        return check_file(e, blk_node_child_at(node, index), to, error);
    if ((int)index != node->backing)
        return cannot_change(name, error);
    e->other_backing = true;
    if (to)
        e->backing = blk_node_use_child(node, index, to, error);
    return !to || e->backing;
}

static bool check_child(BlkReopen *r, BlkReopenEntry *e, unsigned index, json_object *object,
                        GError **error)
{
    BlkNode *node = e->node, *now = blk_node_child_at(node, index), *to = NULL;
    const char *name = node->driver->children[index].name;
    json_object *value = NULL;
    bool given = blk_options_child(e->options, name, &value);

    if (!given && now && (int)index == node->backing)
        return tm_error_set(error, "backing is missing for '%s'", node->name);
    if (!given && now)
        return tm_error_set(error, "Option '%s' cannot be reset to its default value", name);
    if (json_object_is_type(value, json_type_object))
        return check_nested(r, node, index, object, value, error);
    if (value) {
        to = blk_graph_lookup(r->graph, NULL, json_object_get_string(value), error);
        if (!to)
            return false;
    }
    return to == now || (to && now && to == blk_filters_below(now)) ||
           check_other(e, index, to, error);
}

/* blockdev-set-active changes that. */
static bool keep_activity(BlkReopenEntry *e, GError **error)
{
    bool active = blk_node_active(e->node);
    BlkOptions *options = e->options;

    if (blk_options_bool(options, "active") == active)
        return true;
    if (blk_options_is_given(options, "active"))
        return cannot_change("active", error);
    e->options = blk_options_with(options, "active", active);
    blk_options_free(options);
    return true;
}

static bool check_entry(BlkReopen *r, BlkReopenEntry *e, json_object *object, GError **error)
{
    BlkNode *node = e->node;
    json_object *value = NULL;
    const char *name;

    json_object_object_get_ex(object, "driver", &value);
    name = json_object_get_string(value);
    if (!name)
        return tm_error_set(error, "Parameter 'driver' is missing");
    if (!g_str_equal(name, node->driver->name))
        return cannot_change("driver", error);
    if (blk_builtin_of(node->driver)->stateful || node->driver->flags & TIDEMARK_DRIVER_SHARED ||
        blk_bitmaps_beside(node))
        return tm_error_set(error,
                            "Block format '%s' used by node '%s' does not support reopening files",
                            name, node->name);
    if (json_object_object_get_ex(object, "node-name", &value) &&
        g_strcmp0(json_object_get_string(value), node->name))
        return cannot_change("node-name", error);
    e->options = blk_options_parse(node->driver, object, error);
    if (!e->options || !check_kept(node, e->options, error) || !keep_activity(e, error))
        return false;
    for (unsigned i = 0; i < node->n_children; i++) {
        if (!check_child(r, e, i, object, error))
            return false;
    }
    return true;
}

/* A node that is named twice has what was said last. */
static BlkReopenEntry *new_entry(BlkReopen *r, BlkNode *node)
{
    BlkReopenEntry *e = blk_reopen_entry(r, node);

    if (e)
        g_ptr_array_remove(r->entries, e);
    e = g_new0(BlkReopenEntry, 1);
    e->node = node;
    e->was_open = node->open;
    g_ptr_array_add(r->entries, e);
    return e;
}

static bool add_entry(BlkReopen *r, BlkNode *node, json_object *object, GError **error)
{
    return check_entry(r, new_entry(r, node), object, error);
}

void blk_reopen_add(BlkReopen *r, BlkNode *node, const char *option, bool value)
{
    new_entry(r, node)->options = blk_options_with(node->options, option, value);
}

static bool add_named(BlkReopen *r, json_object *object, GError **error)
{
    json_object *name = NULL;
    BlkNode *node;

    if (!json_object_object_get_ex(object, "node-name", &name))
        return tm_error_set(error, "node-name not specified");
    node = blk_graph_find(r->graph, json_object_get_string(name), error);
    return node && add_entry(r, node, object, error);
}

/* ---- cycles */

/* The child that the node is to have. */
static BlkNode *child_to_be(const BlkReopen *r, const BlkNode *node, unsigned index)
{
    const BlkReopenEntry *e = blk_reopen_entry(r, node);

    if (e && e->other_backing && (int)index == node->backing)
        return e->backing ? e->backing->node : NULL;
    if (e && e->file && index == BLK_REOPEN_FILE)
        return e->file;
    return blk_node_child_at(node, index);
}

/* Whether @from is to stand on @to. */
static bool will_stand_on(const BlkReopen *r, BlkNode *from, const BlkNode *to, GHashTable *seen)
{
    if (from == to)
        return true;
    if (!g_hash_table_add(seen, from))
        return false;
    for (unsigned i = 0; i < from->n_children; i++) {
        BlkNode *child = child_to_be(r, from, i);

        if (child && will_stand_on(r, child, to, seen))
            return true;
    }
    return false;
}

static bool check_cycle(const BlkReopen *r, const BlkReopenEntry *e, BlkNode *child,
                        const char *name, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);

    if (!child || !will_stand_on(r, child, e->node, seen))
        return true;
    return tm_error_set(error, "Making '%s' a %s child of '%s' would create a cycle", child->name,
                        name, e->node->name);
}

static bool check_cycles(const BlkReopen *r, const BlkReopenEntry *e, GError **error)
{
    return check_cycle(r, e, e->file, "file", error) &&
           check_cycle(r, e, e->backing ? e->backing->node : NULL, "backing", error);
}

/* ---- bitmaps */

static bool changes_offset(const BlkReopenEntry *e)
{
    const struct tidemark_option *o = e->node->driver->options;

    for (; o && o->name; o++) {
        if (g_str_equal(o->name, "offset") && o->type == TIDEMARK_OPTION_SIZE)
            return blk_options_uint(e->node->options, "offset") !=
                   blk_options_uint(e->options, "offset");
    }
    return false;
}

/* Bitmaps can't follow a disk that moves: what they call clean would be other data. */
static bool check_place(const BlkReopen *r, const BlkReopenEntry *e, GError **error)
{
    g_autoptr(GPtrArray) all = NULL;

    if (!changes_offset(e))
        return true;
    all = blk_graph_nodes(r->graph);
    for (guint i = 0; i < all->len; i++) {
        g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
        BlkNode *node = all->pdata[i];

        if (bmp_set_length(node->bitmaps) && will_stand_on(r, node, e->node, seen))
            return tm_error_set(
                error,
                "Cannot change the option 'offset' of node '%s': node '%s' has dirty "
                "bitmaps of that range",
                e->node->name, node->name);
    }
    return true;
}

/* ---- other disks */

/* Whether the data of the node will be on another disk. */
static bool will_move(const BlkReopen *r, BlkNode *node)
{
    const BlkReopenEntry *e = blk_reopen_entry(r, node);
    bool moves = e && e->other_disk;

    for (unsigned i = 0; i < node->n_children && !moves; i++) {
        BlkChildRole role = blk_node_child_role(node, i);
        BlkNode *child =
            role == BLK_ROLE_BACKING || role == BLK_ROLE_TARGET ? NULL : child_to_be(r, node, i);

        moves = child && will_move(r, child);
    }
    return moves;
}

/* Bitmaps that are offered to clients, and what drivers and jobs know of a disk, can't follow. */
static bool check_move(const BlkReopen *r, BlkNode *node, GError **error)
{
    const char *why =
        bmp_set_busy(node->bitmaps)              ? "its bitmaps are in use"
        : blk_builtin_of(node->driver)->stateful ? "it keeps an earlier state of it"
        : blk_node_child_role(node, 0) == BLK_ROLE_FORMAT && !blk_reopen_entry(r, node)
            ? "its image is in it, so it has to be reopened, too"
            : NULL;

    return why ? tm_error_set(error, "Node '%s' can't change to another disk: %s", node->name, why)
               : blk_node_check_free(node, error);
}

static bool check_moves(BlkReopen *r, GError **error)
{
    g_autoptr(GPtrArray) all = blk_graph_nodes(r->graph);

    for (guint i = 0; i < all->len; i++) {
        if (!will_move(r, all->pdata[i]))
            continue;
        g_ptr_array_add(r->moved, all->pdata[i]);
        if (!check_move(r, all->pdata[i], error))
            return false;
    }
    return true;
}

/* ---- who writes */

bool blk_reopen_read_only(const BlkReopen *r, const BlkNode *node)
{
    const BlkReopenEntry *e = blk_reopen_entry(r, node);

    return e ? blk_options_bool(r->exchanged ? node->options : e->options, "read-only")
             : blk_node_read_only(node);
}

/* Whether somebody relies on writing to @node: its users, or those of a node whose data is in it. A
 * format that has something to flush writes of itself. */
static bool written(const BlkReopen *r, GPtrArray *all, BlkNode *node)
{
    if (blk_permissions_written(node))
        return true;
    for (guint i = 0; i < all->len; i++) {
        BlkNode *parent = all->pdata[i];

        for (unsigned k = 0; k < parent->n_children; k++) {
            if (blk_node_child_at(parent, k) != node || (int)k == parent->backing)
                continue;
            if (parent->driver->flush && parent->open && !blk_reopen_read_only(r, parent))
                return true;
            if (written(r, all, parent))
                return true;
        }
    }
    return false;
}

bool blk_reopen_check_writers(const BlkReopen *r, BlkNode *node, bool read_only, GError **error)
{
    g_autoptr(GPtrArray) all = blk_graph_nodes(r->graph);

    if (!read_only || !written(r, all, node))
        return true;
    return tm_error_set(error, "Read-only block node '%s' cannot support read-write users",
                        node->name);
}

/* ---- all of it */

bool blk_reopen_check(BlkReopen *r, json_object *list, GError **error)
{
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        if (!add_named(r, json_object_array_get_idx(list, i), error))
            return false;
    }
    for (guint i = 0; i < r->entries->len; i++) {
        const BlkReopenEntry *e = r->entries->pdata[i];

        if (!check_cycles(r, e, error) || !check_place(r, e, error) ||
            !blk_reopen_check_writers(r, e->node, blk_options_bool(e->options, "read-only"), error))
            return false;
    }
    return check_moves(r, error);
}
