/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/parents.c: see the header.
 *
 * Who sees a node's changes is a list of the node's own. It changes while the node is held with
 * what it shows, so a request that holds a stripe of any of these reads it as it is. */
#include "block/parents.h"

#include "block/node_internal.h"
#include "util/error.h"
#include "util/range.h"

#include <string.h>

/* ---- children */

BlkChildRole blk_node_child_role(const BlkNode *node, unsigned index)
{
    if ((int)index == node->backing)
        return BLK_ROLE_BACKING;
    return index ? blk_builtin_of(node->driver)->others : blk_builtin_of(node->driver)->role;
}

bool blk_node_shows(const BlkNode *node, unsigned index)
{
    switch (blk_node_child_role(node, index)) {
    case BLK_ROLE_FILTER:
    case BLK_ROLE_WINDOW:
    case BLK_ROLE_BACKING:
        return true;
    case BLK_ROLE_FORMAT:
    case BLK_ROLE_TARGET:
    case BLK_ROLE_INSTANT:
        break;
    }
    return false;
}

static uint64_t window_offset(const BlkNode *node, unsigned index)
{
    return blk_node_child_role(node, index) == BLK_ROLE_WINDOW
               ? blk_options_uint(node->options, "offset")
               : 0;
}

BlkNode *blk_node_shown_below(const BlkNode *node)
{
    for (unsigned i = 0; i < node->n_children; i++) {
        BlkNode *child = blk_node_child_at(node, i);

        if (child && blk_node_shows(node, i) &&
            (blk_node_child_role(node, i) != BLK_ROLE_WINDOW ||
             (!window_offset(node, i) && blk_node_size(node) == blk_node_size(child))))
            return child;
    }
    return NULL;
}

BlkNode *blk_node_same_below(const BlkNode *node)
{
    BlkNode *below = blk_node_shown_below(node);

    return below && below != blk_node_backing(node) ? below : NULL;
}

bool blk_node_stands_on(const BlkNode *node, const BlkNode *below)
{
    bool is = node == below;

    for (unsigned i = 0; i < node->n_children && !is; i++) {
        const BlkNode *child = blk_node_child_at(node, i);

        is = child && blk_node_stands_on(child, below);
    }
    return is;
}

/* ---- who sees whom */

/* One parent that shows what is in a node. */
struct BlkParentLink {
    BlkNode *parent; /* borrowed: it disconnects before it goes */
    uint64_t offset; /* where it begins in the node */
};

static void set_up(BlkNode *child, GArray *up)
{
    GPtrArray *held = blk_nodes_hold(&child, 1);

    g_clear_pointer(&child->up, g_free);
    child->n_up = up->len;
    child->up = (BlkParentLink *)g_array_free(up, FALSE);
    blk_nodes_release(held);
}

/* What the child has, but for @node. */
static GArray *up_without(const BlkNode *child, const BlkNode *node)
{
    GArray *up = g_array_new(FALSE, FALSE, sizeof(BlkParentLink));

    for (unsigned i = 0; i < child->n_up; i++) {
        if (child->up[i].parent != node)
            g_array_append_val(up, child->up[i]);
    }
    return up;
}

void blk_parents_connect(BlkNode *node)
{
    for (unsigned i = 0; i < node->n_children; i++) {
        BlkNode *child = blk_node_child_at(node, i);
        BlkParentLink up = { node, window_offset(node, i) };
        GArray *all;

        if (!child || !blk_node_shows(node, i))
            continue;
        all = up_without(child, node);
        g_array_append_val(all, up);
        set_up(child, all);
    }
}

void blk_parents_disconnect(BlkNode *node)
{
    for (unsigned i = 0; i < node->n_children; i++) {
        BlkNode *child = blk_node_child_at(node, i);

        if (child && child->n_up)
            set_up(child, up_without(child, node));
    }
}

bool blk_parents_any_up(BlkNode *node, bool (*fn)(BlkNode *parent))
{
    bool any = false;

    for (unsigned i = 0; !any && i < node->n_up; i++)
        any = fn(node->up[i].parent);
    return any;
}

/* Where the parent shows the range, cut to what it shows; false: nowhere. */
static bool ascend(const BlkParentLink *up, uint64_t *offset, uint64_t *length)
{
    uint64_t size = blk_node_size(up->parent), end = *offset + *length, skip;

    if (end <= up->offset)
        return false;
    skip = up->offset > *offset ? up->offset - *offset : 0;
    *offset = *offset + skip - up->offset;
    if (*offset >= size)
        return false;
    *length = tm_min(*length - skip, size - *offset);
    return true;
}

bool blk_parents_beside(BlkNode *node, const BlkNode *from, uint64_t offset, uint64_t length)
{
    for (unsigned i = 0; i < node->n_up; i++) {
        uint64_t at = offset, n = length;

        if (node->up[i].parent != from && ascend(&node->up[i], &at, &n))
            return true;
    }
    return false;
}

/* ---- marks */

struct BlkMarked {
    BlkMarked *next;
    BmpSet *bitmaps; /* borrowed: its node is connected */
    uint64_t offset, length, epoch;
};

static BlkMarked *mark_above(BlkNode *node, uint64_t offset, uint64_t length, BlkMarked *list)
{
    for (unsigned i = 0; i < node->n_up; i++) {
        BlkNode *parent = node->up[i].parent;
        uint64_t at = offset, n = length;
        BlkMarked *m;

        if (!ascend(&node->up[i], &at, &n))
            continue;
        m = g_new(BlkMarked, 1);
        *m = (BlkMarked){ list, parent->bitmaps, at, n, 0 };
        m->epoch = bmp_set_mark_begin(m->bitmaps, at, n);
        list = mark_above(parent, at, n, m);
    }
    return list;
}

BlkMarked *blk_parents_mark_begin(BlkNode *node, uint64_t offset, uint64_t length)
{
    return node->n_up && length ? mark_above(node, offset, length, NULL) : NULL;
}

void blk_parents_mark_end(BlkMarked *marked)
{
    while (marked) {
        BlkMarked *next = marked->next;

        bmp_set_mark_end(marked->bitmaps, marked->offset, marked->length, marked->epoch);
        g_free(marked);
        marked = next;
    }
}

void blk_parents_mark(BlkNode *node, uint64_t offset, uint64_t length)
{
    BlkMarked *above = blk_parents_mark_begin(node, offset, length);
    uint64_t epoch = bmp_set_mark_begin(node->bitmaps, offset, length);

    bmp_set_mark_end(node->bitmaps, offset, length, epoch);
    blk_parents_mark_end(above);
}

bool blk_parents_check_marks(BlkNode *node, GError **error)
{
    for (unsigned i = 0; i < node->n_up; i++) {
        if (!blk_parents_check_marks(node->up[i].parent, error))
            return false;
    }
    return !node->frozen ||
           tm_error_set(error,
                        "Node '%s' is read-only and has persistent bitmaps that record, which "
                        "could not store the change: make it writable first, or disable them",
                        node->name);
}

void blk_node_each_range(BlkNode *node, BlkRangeFn fn, void *opaque)
{
    uint64_t size = blk_node_size(node);

    for (uint64_t at = 0; at < size;) {
        struct tidemark_mapping m;
        int ret = blk_node_map(node, at, size - at, TIDEMARK_MAP_FOR_STATUS, &m);
        bool unknown = ret < 0 || m.kind == TIDEMARK_MAP_SELF;
        bool backing = m.kind == TIDEMARK_MAP_BACKING;

        if (ret < 0)
            m.length = size - at;
        fn(opaque, at, m.length, unknown || backing, unknown || !backing);
        at += m.length;
    }
}

/* ---- holding */

/* Adds @node and what is below, where a request can end in something that it shows. A read-only
 * one is on the way there if its backing is not. Whether there was something to add. */
static bool add_below(GHashTable *wanted, BlkNode *node, bool always)
{
    bool add = always || !blk_node_read_only(node);

    if (g_hash_table_contains(wanted, node))
        return true;
    for (unsigned i = 0; i < node->n_children; i++) {
        BlkNode *child = blk_node_child_at(node, i);

        if (child && blk_node_shows(node, i))
            add |= add_below(wanted, child, false);
    }
    if (add)
        g_hash_table_add(wanted, node);
    return add;
}

static int parents_first(const void *a, const void *b)
{
    const BlkNode *x = *(BlkNode *const *)a, *y = *(BlkNode *const *)b;

    return (x->rank < y->rank) - (x->rank > y->rank);
}

GPtrArray *blk_nodes_below(BlkNode *const *nodes, size_t n)
{
    g_autoptr(GHashTable) wanted = g_hash_table_new(NULL, NULL);
    GPtrArray *found = g_ptr_array_new();
    GHashTableIter iter;
    void *node;

    for (size_t i = 0; i < n; i++)
        add_below(wanted, nodes[i], true);
    g_hash_table_iter_init(&iter, wanted);
    while (g_hash_table_iter_next(&iter, &node, NULL)) {
        if (((BlkNode *)node)->rank)
            g_ptr_array_add(found, node);
    }
    g_ptr_array_sort(found, parents_first);
    return found;
}

GPtrArray *blk_nodes_hold(BlkNode *const *nodes, size_t n)
{
    GPtrArray *held = blk_nodes_below(nodes, n);

    blk_nodes_trace_drain(held, true);
    for (guint i = 0; i < held->len; i++) {
        BlkNode *node = held->pdata[i];

        if (held->len > 1)
            blk_inflight_drain_to_quiesce(&node->inflight);
        else
            blk_inflight_drain(&node->inflight);
    }
    for (guint i = 0; held->len > 1 && i < held->len; i++)
        blk_quiesce_close(&((BlkNode *)held->pdata[i])->quiesce);
    return held;
}

void blk_nodes_release(GPtrArray *held)
{
    for (guint i = held->len; i-- > 0;) {
        BlkNode *node = held->pdata[i];

        if (held->len > 1)
            blk_quiesce_open(&node->quiesce);
        blk_inflight_drain_end(&node->inflight);
    }
    blk_nodes_trace_drain(held, false);
    g_ptr_array_unref(held);
}
