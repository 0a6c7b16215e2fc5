/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/reopen.c: blockdev-reopen: nodes are closed and opened with other options, in place.
 *
 * What can be checked without touching a driver is checked first. Then the nodes and all that stand
 * on them are quiesced (block/engine/quiesce.h), the drivers closed, parents first, and opened with
 * the new options, children first. If one of them fails, all are opened with their old options. A
 * node that can't be opened even so is lost: every request to it fails with EIO until another
 * reopening succeeds. */
#include "block/bitmaps.h"
#include "block/disk.h"
#include "block/parents.h"
#include "block/permissions.h"
#include "block/reopen_internal.h"
#include "block/users.h"

#include "util/error.h"

#include <errno.h>
#include <string.h>

static void entry_free(void *data)
{
    BlkReopenEntry *e = data;

    blk_options_free(e->options);
    blk_node_release(e->backing);
    blk_node_unref(e->file);
    g_free(e);
}

/* ---- holding */

static bool is_held(const BlkReopen *r, BlkNode *node)
{
    for (unsigned i = 0; i < node->n_children; i++) {
        BlkNode *child = blk_node_child_at(node, i);

        if (child && g_ptr_array_find(r->held, child, NULL))
            return true;
    }
    return blk_reopen_entry(r, node) != NULL;
}

static void list_parents_first(BlkReopen *r, BlkNode *node, GHashTable *seen, GPtrArray *from)
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
static void sort(BlkReopen *r)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    g_autoptr(GPtrArray) from = g_steal_pointer(&r->held);

    r->held = g_ptr_array_new();
    for (guint i = from->len; i-- > 0;)
        list_parents_first(r, from->pdata[i], seen, from);
}

/* Who writes below marks the bitmaps of the nodes that show it, whose stores are closed meanwhile.
 * None of those below is above one that is held. */
static GPtrArray *with_below(const BlkReopen *r)
{
    GPtrArray *still = g_ptr_array_copy(r->held, NULL, NULL);
    g_autoptr(GPtrArray) from = g_ptr_array_copy(r->held, NULL, NULL);
    g_autoptr(GPtrArray) down = NULL;

    for (guint i = 0; i < r->entries->len; i++) {
        const BlkReopenEntry *e = r->entries->pdata[i];

        if (e->backing)
            g_ptr_array_add(from, e->backing->node);
        if (e->file)
            g_ptr_array_add(from, e->file);
    }
    down = blk_nodes_below((BlkNode *const *)from->pdata, from->len);
    for (guint i = 0; i < down->len; i++) {
        if (!g_ptr_array_find(r->held, down->pdata[i], NULL))
            g_ptr_array_add(still, down->pdata[i]);
    }
    return still;
}

/* The list of the graph has children before their parents. */
static void hold(BlkReopen *r)
{
    g_autoptr(GPtrArray) all = blk_graph_nodes(r->graph);

    for (guint i = 0; i < all->len; i++) {
        if (is_held(r, all->pdata[i]))
            g_ptr_array_add(r->held, all->pdata[i]);
    }
    sort(r);
    r->still = with_below(r);
    blk_nodes_trace_drain(r->still, true);
    for (guint i = 0; i < r->still->len; i++)
        blk_inflight_drain_to_quiesce(&((BlkNode *)r->still->pdata[i])->inflight);
    for (guint i = 0; i < r->still->len; i++)
        blk_quiesce_close(&((BlkNode *)r->still->pdata[i])->quiesce);
}

static void let_go(BlkReopen *r)
{
    for (guint i = r->still->len; i-- > 0;) {
        BlkNode *node = r->still->pdata[i];

        blk_quiesce_open(&node->quiesce);
        blk_inflight_drain_end(&node->inflight);
    }
    blk_nodes_trace_drain(r->still, false);
    g_ptr_array_unref(r->still);
}

/* What has been written is on the medium: the handle that would know of a failure goes. */
static bool flush(const BlkReopen *r, GError **error)
{
    for (guint i = 0; i < r->held->len; i++) {
        BlkNode *node = r->held->pdata[i];
        int ret = blk_reopen_entry(r, node) && node->open && !blk_node_read_only(node)
                      ? blk_node_flush(node)
                      : 0;

        if (ret < 0)
            return tm_error_set_errno(error, -ret, "Error flushing drive");
    }
    return true;
}

/* ---- closing and opening */

static void exchange_entry(BlkReopenEntry *e)
{
    BlkNode *node = e->node;
    BlkOptions *options = node->options;

    node->options = e->options;
    e->options = options;
    if (e->other_backing) {
        BlkUser **user = &node->children[node->backing], *backing = *user;

        *user = e->backing;
        e->backing = backing;
    }
    blk_node_read_options(node);
}

/* All at once: who writes to a disk and gets a filter above it, must not be a user of both. */
static bool exchange_files(const BlkReopen *r, GError **error)
{
    g_autoptr(GPtrArray) users = g_ptr_array_new();
    g_autofree BlkNode **others = g_new(BlkNode *, r->entries->len);
    bool ok;

    for (guint i = 0; i < r->entries->len; i++) {
        const BlkReopenEntry *e = r->entries->pdata[i];

        if (!e->file)
            continue;
        others[users->len] = e->file;
        g_ptr_array_add(users, e->node->children[BLK_REOPEN_FILE]);
    }
    ok = !users->len || blk_permissions_exchange(users, others, error);
    for (guint i = 0, n = 0; i < r->entries->len; i++) {
        BlkReopenEntry *e = r->entries->pdata[i];

        if (e->file)
            e->file = others[n++];
    }
    return ok;
}

static void exchange_entries(const BlkReopen *r)
{
    for (guint i = 0; i < r->entries->len; i++)
        exchange_entry(r->entries->pdata[i]);
}

/* What nodes need follows from whether they are read-only: back, it has to be as it was before
 * files are, or what was refused would be refused again. */
static void predict_old(const BlkReopen *r)
{
    for (guint i = 0; i < r->entries->len; i++) {
        BlkNode *node = ((BlkReopenEntry *)r->entries->pdata[i])->node;

        blk_permissions_freeze(node, false, NULL);
        blk_node_predict(node);
    }
}

static bool exchange(BlkReopen *r, GError **error)
{
    bool back = r->exchanged, ok;

    for (guint i = 0; i < r->entries->len; i++)
        blk_parents_disconnect(((BlkReopenEntry *)r->entries->pdata[i])->node);
    if (back) {
        exchange_entries(r);
        predict_old(r);
    }
    ok = exchange_files(r, error);
    if (ok && !back)
        exchange_entries(r);
    for (guint i = 0; i < r->entries->len; i++)
        blk_parents_connect(((BlkReopenEntry *)r->entries->pdata[i])->node);
    r->exchanged = ok && !back;
    sort(r);
    return ok;
}

/* Who relies on the size (g_free), or NULL. Parents that are opened anew take another one. */
static char *size_holder(const BlkReopen *r, BlkNode *node)
{
    g_autoptr(GPtrArray) users = blk_users_list(node);

    for (guint i = users->len; i-- > 0;) {
        const BlkUser *user = users->pdata[i];

        if (BLK_PERM_RESIZE & ~user->shares && !(user->parent && blk_reopen_entry(r, user->parent)))
            return g_strdup(user->what);
    }
    return NULL;
}

static bool open_entry(const BlkReopen *r, BlkReopenEntry *e, GError **error)
{
    BlkNode *node = e->node;
    g_autofree char *holder = size_holder(r, node);

    if (!blk_node_open_driver(node, error))
        return false;
    if (!blk_reopen_check_writers(r, node, blk_node_read_only(node), error))
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

static bool is_moved(const BlkReopen *r, BlkNode *node)
{
    return g_ptr_array_find(r->moved, node, NULL);
}

static bool close_bitmaps(BlkNode *node)
{
    node->bitmaps_closed = true;
    return blk_bitmaps_close(node, NULL);
}

/* What closes last may still make its file grow. */
static void close_all(const BlkReopen *r)
{
    for (guint i = 0; i < r->held->len && !r->exchanged; i++) {
        BlkNode *node = r->held->pdata[i];

        if (!node->lost)
            node->recorded = !blk_node_read_only(node);
    }
    for (guint i = 0; i < r->held->len; i++) {
        BlkReopenEntry *e = blk_reopen_entry(r, r->held->pdata[i]);

        if (!e)
            continue;
        if (!r->exchanged) {
            e->size = blk_node_size(e->node);
            blk_disk_remember(e->node);
        }
        if (blk_bitmaps_beside(e->node) && e->node->open) /* by the driver */
            close_bitmaps(e->node);
        blk_node_close_driver(e->node);
    }
}

/* What the nodes are going to need, all at once: of two that change together neither must fail for
 * what the other one was. */
static bool permit(const BlkReopen *r, GError **error)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();

    for (guint i = r->held->len; i-- > 0;) {
        BlkNode *node = r->held->pdata[i];

        if (!blk_reopen_entry(r, node))
            continue;
        blk_node_predict(node);
        g_ptr_array_add(nodes, node);
    }
    return !nodes->len ||
           blk_permissions_refresh((BlkNode *const *)nodes->pdata, nodes->len, error);
}

static bool open_all(BlkReopen *r, GError **error)
{
    if (!exchange(r, error) || !permit(r, error))
        return false;
    for (guint i = r->held->len; i-- > 0;) {
        BlkReopenEntry *e = blk_reopen_entry(r, r->held->pdata[i]);

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

    blk_node_close_driver(node);
    g_free(node->lost);
    node->lost = g_strdup(why->message);
    BLK_NODE_WARN(node, "node '%s' is lost: it could not be opened again: %s", node->name,
                  node->lost);
    if (!error || !*error)
        return;
    text = g_strdup_printf("%s; node '%s' could not be opened again as it was, and is lost: %s",
                           (*error)->message, node->name, node->lost);
    g_free((*error)->message);
    (*error)->message = g_steal_pointer(&text);
}

/* Those that have been opened of the disk that it is not to be. */
static void close_moved(const BlkReopen *r)
{
    for (guint i = 0; i < r->moved->len; i++)
        close_bitmaps(r->moved->pdata[i]);
}

static void take_back(BlkReopen *r, GError **error)
{
    for (guint i = 0; i < r->moved->len && r->exchanged; i++)
        blk_bitmaps_settle(r->moved->pdata[i]);
    close_all(r);
    close_moved(r);
    if (r->exchanged)
        exchange(r, NULL);
    permit(r, NULL);
    for (guint i = r->held->len; i-- > 0;) {
        g_autoptr(GError) again = NULL;
        BlkNode *node = r->held->pdata[i];
        BlkReopenEntry *e = blk_reopen_entry(r, node);

        if (!e)
            refresh_parent(node);
        else if (e->was_open && !blk_node_open_driver(node, &again))
            lose(node, again, error);
    }
}

/* ---- bitmaps */

/* Whether it, or what its data is in, is asked to become read-only. */
static bool may_become_read_only(const BlkReopen *r, const BlkNode *node)
{
    if (blk_reopen_entry(r, node) && blk_reopen_read_only(r, node))
        return true;
    for (unsigned i = 0; i < node->n_children; i++) {
        if (node->children[i] && (int)i != node->backing &&
            may_become_read_only(r, node->children[i]->node))
            return true;
    }
    return false;
}

/* Others may change the disk then: what was not passed to its bitmaps before, they would miss. */
static bool not_kept(const BlkNode *node, GError **error)
{
    return tm_error_set(error, "The bitmaps of node '%s' can't be stored: see the daemon's log",
                        node->name);
}

/* A store is closed while its disk is: a node that is lost then leaves it so. An image keeps its
 * bitmaps where others may read it. */
static bool settle_bitmaps(const BlkReopen *r, GError **error)
{
    for (guint i = 0; i < r->held->len; i++) {
        BlkNode *node = r->held->pdata[i];

        if (!blk_node_read_only(node) &&
            (!blk_builtin_of(node->driver)->format || is_moved(r, node) ||
             may_become_read_only(r, node)) &&
            !blk_bitmaps_settle(node))
            return not_kept(node, error);
    }
    return true;
}

static bool becomes_inactive(const BlkReopen *r, BlkNode *node)
{
    const BlkReopenEntry *e = blk_reopen_entry(r, node);

    return e && blk_node_active(node) && !blk_options_bool(e->options, "active");
}

/* The drivers are closed, and have written their last. */
static bool rest_bitmaps(const BlkReopen *r, GError **error)
{
    for (guint i = 0; i < r->held->len; i++) {
        BlkNode *node = r->held->pdata[i];

        if (becomes_inactive(r, node))
            blk_bitmaps_note_rest(node);
        if (!(is_moved(r, node) ? close_bitmaps(node) : blk_bitmaps_rest(node)))
            return not_kept(node, error);
    }
    return true;
}

/* Whether it and what its data is in is open. */
static bool is_whole(const BlkNode *node)
{
    bool whole = node->open;

    for (unsigned i = 0; whole && i < node->n_children; i++) {
        if (node->children[i] && (int)i != node->backing)
            whole = is_whole(node->children[i]->node);
    }
    return whole;
}

/* What was recorded of another disk, or before others wrote to it, is so no more. While it was
 * read-only, others may have kept what is stored up to date: its store is compared when that is
 * opened. */
static bool compare_disk(BlkNode *node)
{
    g_autofree char *why = blk_disk_changed(node);

    if (why)
        blk_bitmaps_distrust(node, node->recorded, why);
    return why && node->recorded;
}

static bool wake_same(BlkNode *node, GError **error)
{
    bool changed = compare_disk(node);

    if (!blk_bitmaps_guard(node, error) || !blk_bitmaps_wake(node, error))
        return false;
    if (changed && !blk_node_read_only(node))
        blk_bitmaps_store(node, false);
    return true;
}

/* Who uses it is about to write to a disk that is new to it. */
static bool wake_closed(BlkNode *node, GError **error)
{
    return blk_bitmaps_renew(node, error) &&
           (blk_node_read_only(node) || !blk_node_users(node) || blk_disk_claim(node, error));
}

/* Children first. */
static bool wake_bitmaps(const BlkReopen *r, GError **error)
{
    for (guint i = r->held->len; i-- > 0;) {
        BlkNode *node = r->held->pdata[i];

        if (is_whole(node) && !(node->bitmaps_closed ? wake_closed : wake_same)(node, error))
            return false;
    }
    return true;
}

static void wake_as_before(const BlkReopen *r)
{
    g_autoptr(GError) error = NULL;

    if (!wake_bitmaps(r, &error))
        tm_log_note(blk_graph_log(r->graph),
                    &(TmLogFacts){ .area = TM_LOG_BITMAP, .level = TM_LOG_WARNING },
                    "bitmaps could not be opened again: %s", error->message);
}

/* Whether the bitmaps of the node, or of one that shows it, would show a change. */
static bool is_recorded(BlkNode *node)
{
    return bmp_set_length(node->bitmaps) || blk_parents_any_up(node, is_recorded);
}

static void mark_shown(void *opaque, uint64_t offset, uint64_t length, bool backing, bool own)
{
    if (backing)
        blk_parents_mark(opaque, offset, length);
}

/* What shows of another backing, or of one that is on another disk, may be other data, though
 * nobody wrote it. */
static bool shows_other_backing(const BlkReopen *r, BlkNode *node)
{
    const BlkReopenEntry *e = blk_reopen_entry(r, node);
    BlkNode *backing = blk_node_backing(node);

    return (e && e->other_backing) || (backing && is_moved(r, backing));
}

static bool check_marks(const BlkReopen *r, GError **error)
{
    for (guint i = 0; i < r->held->len; i++) {
        BlkNode *node = r->held->pdata[i];

        if (shows_other_backing(r, node) && !blk_parents_check_marks(node, error))
            return false;
    }
    return true;
}

static void mark_backings(const BlkReopen *r)
{
    for (guint i = 0; i < r->held->len; i++) {
        BlkNode *node = r->held->pdata[i];

        if (shows_other_backing(r, node) && node->open && is_recorded(node))
            blk_node_each_range(node, mark_shown, node);
    }
}

/* What other things know of the node. */
static void settle(const BlkReopen *r, const BlkReopenEntry *e)
{
    BlkNode *node = e->node;

    blk_disk_compared(node);
    if (node->open)
        g_clear_pointer(&node->lost, g_free);
    if (blk_node_size(node) != e->size && !is_moved(r, node))
        blk_bitmaps_store(node, true);
}

/* ---- all of it */

bool blk_reopen_run(BlkReopen *r, GError **error)
{
    bool ok;

    hold(r);
    ok = flush(r, error);
    if (ok && !(ok = settle_bitmaps(r, error)))
        wake_as_before(r);
    if (ok) {
        close_all(r);
        ok = rest_bitmaps(r, error) && open_all(r, error) && wake_bitmaps(r, error) &&
             check_marks(r, error);
        if (!ok) {
            take_back(r, error);
            wake_as_before(r);
        }
        for (guint i = 0; i < r->entries->len; i++)
            settle(r, r->entries->pdata[i]);
        if (ok)
            mark_backings(r);
    }
    let_go(r);
    return ok;
}

void blk_reopen_begin(BlkReopen *r, BlkGraph *graph)
{
    *r = (BlkReopen){ .graph = graph };
    r->entries = g_ptr_array_new_with_free_func(entry_free);
    r->held = g_ptr_array_new();
    r->moved = g_ptr_array_new();
}

void blk_reopen_end(BlkReopen *r)
{
    g_ptr_array_unref(r->entries); /* with what backing nodes they held */
    g_ptr_array_unref(r->held);
    g_ptr_array_unref(r->moved);
    blk_graph_settle(r->graph);
}

bool blk_graph_reopen(BlkGraph *graph, json_object *list, GError **error)
{
    BlkReopen r;
    bool ok;

    blk_reopen_begin(&r, graph);
    ok = blk_reopen_check(&r, list, error) && blk_reopen_run(&r, error);
    blk_reopen_end(&r);
    return ok;
}
