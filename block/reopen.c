/* block/reopen.c: blockdev-reopen: nodes are closed and opened with other options, in place.
 *
 * Everything that can be said without touching a driver is checked first. Then the nodes and all
 * that stand on them are drained, their gates closed (block/gate.h), the drivers closed, parents
 * first, and opened with the new options, children first. If one of them fails, all are opened with
 * what they had. A node that can't be opened even so is lost: every request to it fails with EIO
 * until another reopening succeeds.
 *
 * Messages are QEMU's (block.c and blockdev.c, bdrv_reopen_*). What differs: any option may change
 * but those that say which disk and which bitmaps a node has; "file" stays what it is. */
#include "block/bitmaps.h"
#include "block/node_int.h"

#include "util/error.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>

/* One node that is opened anew. */
typedef struct Entry {
    BlkNode *node;       /* borrowed: the graph has it, and only this thread changes that */
    BlkOptions *options; /* the new ones; once exchanged, the old ones */
    bool other_backing;  /* "backing" changes, to: */
    BlkUser *backing;    /* NULL: none; once exchanged, what it was */
    bool was_open;
    uint64_t size; /* when it was closed */
} Entry;

typedef struct Reopen {
    BlkGraph *graph;
    GPtrArray *entries; /* Entry */
    GPtrArray *held;    /* BlkNode, borrowed: those and all that stand on them, parents first */
    bool exchanged;     /* the nodes have the new options and children */
} Reopen;

static void entry_free(void *data)
{
    Entry *e = data;

    blk_options_free(e->options);
    blk_node_release(e->backing);
    g_free(e);
}

static Entry *find_entry(const Reopen *r, const BlkNode *node)
{
    for (guint i = 0; i < r->entries->len; i++) {
        Entry *e = r->entries->pdata[i];

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

/* What tells which disk it is, and which bitmaps. */
static bool check_kept(const BlkNode *node, const BlkOptions *options, GError **error)
{
    static const char *const common[] = { "bitmap-store", "bitmap-durability" };

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

static bool add_entry(Reopen *r, BlkNode *node, json_object *object, GError **error);

/* A nested definition is for a node that was defined in the same way. */
static bool check_nested(Reopen *r, BlkNode *node, unsigned index, json_object *object,
                         json_object *value, GError **error)
{
    BlkNode *child = blk_node_child_at(node, index);
    g_autofree char *name = g_strconcat(node->driver->children[index].name, ".driver", NULL);
    json_object *nested;
    bool ok;

    if (!child || child->monitor_owned)
        return cannot_change(name, error);
    nested = blk_node_child_options(object, value);
    ok = add_entry(r, child, nested, error);
    json_object_put(nested);
    return ok;
}

static bool check_other(Entry *e, unsigned index, BlkNode *to, GError **error)
{
    BlkNode *node = e->node;

    if ((int)index != node->backing)
        return cannot_change(node->driver->children[index].name, error);
    e->other_backing = true;
    if (to) {
        g_autofree char *what = g_strdup_printf("node '%s'", node->name);

        e->backing = blk_node_use(to, what, false);
    }
    return true;
}

static bool check_child(Reopen *r, Entry *e, unsigned index, json_object *object, GError **error)
{
    BlkNode *node = e->node, *now = blk_node_child_at(node, index), *to = NULL;
    const char *role = node->driver->children[index].name;
    json_object *value = NULL;
    bool given = blk_options_child(e->options, role, &value);

    if (!given && now && (int)index == node->backing)
        return tm_error_set(error, "backing is missing for '%s'", node->name);
    if (!given && now)
        return tm_error_set(error, "Option '%s' cannot be reset to its default value", role);
    if (json_object_is_type(value, json_type_object))
        return check_nested(r, node, index, object, value, error);
    if (value) {
        to = blk_graph_find(r->graph, json_object_get_string(value), NULL);
        if (!to)
            return tm_error_set(error, "Cannot find device='' nor node-name='%s'",
                                json_object_get_string(value));
    }
    return to == now || check_other(e, index, to, error);
}

static bool check_entry(Reopen *r, Entry *e, json_object *object, GError **error)
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
    if (json_object_object_get_ex(object, "node-name", &value) &&
        g_strcmp0(json_object_get_string(value), node->name))
        return cannot_change("node-name", error);
    e->options = blk_options_parse(node->driver, object, error);
    if (!e->options || !check_kept(node, e->options, error))
        return false;
    for (unsigned i = 0; i < node->n_children; i++) {
        if (!check_child(r, e, i, object, error))
            return false;
    }
    return true;
}

/* A node that is named twice has what was said last. */
static bool add_entry(Reopen *r, BlkNode *node, json_object *object, GError **error)
{
    Entry *e = find_entry(r, node);

    if (e)
        g_ptr_array_remove(r->entries, e);
    e = g_new0(Entry, 1);
    e->node = node;
    e->was_open = node->open;
    g_ptr_array_add(r->entries, e);
    return check_entry(r, e, object, error);
}

static bool add_named(Reopen *r, json_object *object, GError **error)
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
static BlkNode *child_to_be(const Reopen *r, const BlkNode *node, unsigned index)
{
    const Entry *e = find_entry(r, node);

    if (e && e->other_backing && (int)index == node->backing)
        return e->backing ? e->backing->node : NULL;
    return blk_node_child_at(node, index);
}

/* Whether @from is to stand on @to. */
static bool will_stand_on(const Reopen *r, BlkNode *from, const BlkNode *to, GHashTable *seen)
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

static bool check_cycles(const Reopen *r, const Entry *e, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);

    if (!e->backing || !will_stand_on(r, e->backing->node, e->node, seen))
        return true;
    return tm_error_set(error, "Making '%s' a backing child of '%s' would create a cycle",
                        e->backing->node->name, e->node->name);
}

/* ---- who writes */

static bool will_be_read_only(const Reopen *r, const BlkNode *node)
{
    const Entry *e = find_entry(r, node);

    return e ? blk_options_bool(r->exchanged ? node->options : e->options, "read-only")
             : node->read_only;
}

static bool user_writes(BlkNode *node)
{
    TM_GUARD(&node->users_lock);

    for (guint i = 0; i < node->users->len; i++) {
        if (((BlkUser *)node->users->pdata[i])->writes)
            return true;
    }
    return false;
}

/* Whether somebody relies on writing to @node: its users, or those of a node whose data is in it. A
 * format that has something to flush writes of itself. */
static bool written(const Reopen *r, GPtrArray *all, BlkNode *node)
{
    if (user_writes(node))
        return true;
    for (guint i = 0; i < all->len; i++) {
        BlkNode *parent = all->pdata[i];

        for (unsigned k = 0; k < parent->n_children; k++) {
            if (blk_node_child_at(parent, k) != node || (int)k == parent->backing)
                continue;
            if (parent->driver->flush && parent->open && !will_be_read_only(r, parent))
                return true;
            if (written(r, all, parent))
                return true;
        }
    }
    return false;
}

static bool check_writers(const Reopen *r, const BlkNode *node, bool read_only, GError **error)
{
    g_autoptr(GPtrArray) all = blk_graph_nodes(r->graph);

    if (!read_only || !written(r, all, (BlkNode *)node))
        return true;
    return tm_error_set(error, "Read-only block node '%s' cannot support read-write users",
                        node->name);
}

/* ---- holding */

static bool is_held(const Reopen *r, BlkNode *node)
{
    for (unsigned i = 0; i < node->n_children; i++) {
        BlkNode *child = blk_node_child_at(node, i);

        if (child && g_ptr_array_find(r->held, child, NULL))
            return true;
    }
    return find_entry(r, node) != NULL;
}

static void list_parents_first(Reopen *r, BlkNode *node, GHashTable *seen, GPtrArray *from)
{
    if (!g_ptr_array_find(from, node, NULL) || !g_hash_table_add(seen, node))
        return;
    for (unsigned i = 0; i < node->n_children; i++) {
        if (node->children[i])
            list_parents_first(r, node->children[i]->node, seen, from);
    }
    g_ptr_array_insert(r->held, 0, node);
}

/* Puts parents first, as children are now. */
static void sort(Reopen *r)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    g_autoptr(GPtrArray) from = g_steal_pointer(&r->held);

    r->held = g_ptr_array_new();
    for (guint i = from->len; i-- > 0;)
        list_parents_first(r, from->pdata[i], seen, from);
}

/* The list of the graph has children before their parents. */
static void hold(Reopen *r)
{
    g_autoptr(GPtrArray) all = blk_graph_nodes(r->graph);

    for (guint i = 0; i < all->len; i++) {
        if (is_held(r, all->pdata[i]))
            g_ptr_array_add(r->held, all->pdata[i]);
    }
    sort(r);
    for (guint i = 0; i < r->held->len; i++)
        blk_inflight_drain_gated(&((BlkNode *)r->held->pdata[i])->inflight);
    for (guint i = 0; i < r->held->len; i++)
        blk_gate_close(&((BlkNode *)r->held->pdata[i])->gate);
}

static void let_go(Reopen *r)
{
    for (guint i = r->held->len; i-- > 0;) {
        BlkNode *node = r->held->pdata[i];

        blk_gate_open(&node->gate);
        blk_inflight_drain_end(&node->inflight);
    }
}

/* What has been written is on the medium: the handle that would know of a failure goes. */
static bool flush(const Reopen *r, GError **error)
{
    for (guint i = 0; i < r->held->len; i++) {
        BlkNode *node = r->held->pdata[i];
        int ret = find_entry(r, node) && node->open && !node->read_only ? blk_node_flush(node) : 0;

        if (ret < 0)
            return tm_error_set_errno(error, -ret, "Error flushing drive");
    }
    return true;
}

/* ---- closing and opening */

static void close_driver(BlkNode *node)
{
    if (node->open)
        node->driver->close(node->handle);
    node->open = false;
    node->handle = NULL;
}

static void exchange_entry(Entry *e)
{
    BlkNode *node = e->node;
    BlkOptions *options = node->options;

    node->options = e->options;
    e->options = options;
    if (e->other_backing) {
        BlkUser **role = &node->children[node->backing], *backing = *role;

        *role = e->backing;
        e->backing = backing;
    }
    blk_node_set_unmap(node);
}

static void exchange(Reopen *r)
{
    for (guint i = 0; i < r->entries->len; i++)
        exchange_entry(r->entries->pdata[i]);
    r->exchanged = !r->exchanged;
    sort(r);
}

static bool open_entry(const Reopen *r, Entry *e, GError **error)
{
    BlkNode *node = e->node;
    const char *holder = blk_node_resize_forbidden(node);

    if (!blk_node_open_driver(node, error))
        return false;
    if (!check_writers(r, node, node->read_only, error))
        return false;
    if (blk_node_size(node) != e->size && holder)
        return tm_error_set(error, "Node '%s' would change its size, which %s does not allow",
                            node->name, holder);
    return true;
}

/* What a node that stands on those that were opened anew remembers of them. */
static void refresh_parent(BlkNode *node)
{
    if (node->open)
        blk_node_refresh(node);
}

/* What closes last may still make its file grow. */
static void close_all(const Reopen *r)
{
    for (guint i = 0; i < r->held->len; i++) {
        Entry *e = find_entry(r, r->held->pdata[i]);

        if (!e)
            continue;
        if (!r->exchanged)
            e->size = blk_node_size(e->node);
        close_driver(e->node);
    }
}

static bool open_all(Reopen *r, GError **error)
{
    exchange(r);
    for (guint i = r->held->len; i-- > 0;) {
        Entry *e = find_entry(r, r->held->pdata[i]);

        if (!e)
            refresh_parent(r->held->pdata[i]);
        else if (!open_entry(r, e, error))
            return false;
    }
    return true;
}

/* Whatever it takes: the first error is what the caller hears of, this one is added. */
static void lose(BlkNode *node, const GError *why, GError **error)
{
    g_autofree char *text = NULL;

    close_driver(node);
    g_free(node->lost);
    node->lost = g_strdup(why->message);
    blk_graph_log(node->graph, "node '%s' is lost: it could not be opened again: %s", node->name,
                  node->lost);
    if (!error || !*error)
        return;
    text = g_strdup_printf("%s; node '%s' could not be opened again as it was, and is lost: %s",
                           (*error)->message, node->name, node->lost);
    g_free((*error)->message);
    (*error)->message = g_steal_pointer(&text);
}

static void take_back(Reopen *r, GError **error)
{
    close_all(r);
    exchange(r);
    for (guint i = r->held->len; i-- > 0;) {
        g_autoptr(GError) again = NULL;
        BlkNode *node = r->held->pdata[i];
        Entry *e = find_entry(r, node);

        if (!e)
            refresh_parent(node);
        else if (e->was_open && !blk_node_open_driver(node, &again))
            lose(node, again, error);
    }
}

/* What other things know of the node. */
static void settle(const Entry *e)
{
    BlkNode *node = e->node;

    if (node->open)
        g_clear_pointer(&node->lost, g_free);
    if (blk_node_size(node) != e->size)
        blk_node_resized(node);
}

/* ---- all of it */

static bool check_all(Reopen *r, json_object *list, GError **error)
{
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        if (!add_named(r, json_object_array_get_idx(list, i), error))
            return false;
    }
    for (guint i = 0; i < r->entries->len; i++) {
        const Entry *e = r->entries->pdata[i];

        if (!check_cycles(r, e, error) ||
            !check_writers(r, e->node, blk_options_bool(e->options, "read-only"), error))
            return false;
    }
    return true;
}

static bool run(Reopen *r, GError **error)
{
    bool ok;

    hold(r);
    ok = flush(r, error);
    if (ok) {
        close_all(r);
        ok = open_all(r, error);
        if (!ok)
            take_back(r, error);
        for (guint i = 0; i < r->entries->len; i++)
            settle(r->entries->pdata[i]);
    }
    let_go(r);
    return ok;
}

bool blk_graph_reopen(BlkGraph *graph, json_object *list, GError **error)
{
    Reopen r = { .graph = graph };
    bool ok;

    r.entries = g_ptr_array_new_with_free_func(entry_free);
    r.held = g_ptr_array_new();
    ok = check_all(&r, list, error) && run(&r, error);
    g_ptr_array_unref(r.entries); /* with what backing nodes they held */
    g_ptr_array_unref(r.held);
    blk_graph_settle(graph);
    return ok;
}
