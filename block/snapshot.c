/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/snapshot.c: see the header.
 *
 * The overlay is not opened anew: a driver asks for its backing whenever it needs it. So nothing
 * can fail once the users have their new node. */
#include "block/snapshot.h"

#include "block/disk.h"
#include "block/filters.h"
#include "block/node_internal.h"
#include "block/parents.h"
#include "block/permissions.h"
#include "block/users.h"
#include "util/error.h"

#include <inttypes.h>

struct BlkSnapshot {
    BlkNode *node, *overlay; /* references */
    GPtrArray *moved;        /* BlkUser, references: those that used the node */
};

/* ---- checks */

/* One that is only written, as the target of a job is, may become the overlay. */
static bool is_read(BlkNode *node)
{
    g_autoptr(GPtrArray) users = blk_users_list(node);
    bool is = false;

    for (guint i = 0; i < users->len && !is; i++)
        is = ((BlkUser *)users->pdata[i])->needs & BLK_PERM_CONSISTENT_READ;
    return is;
}

static bool check_overlay(BlkNode *node, BlkNode *overlay, GError **error)
{
    if (blk_node_stands_on(node, overlay) || is_read(overlay))
        return tm_error_set(error, "The overlay is already in use");
    if (overlay->n_children && blk_node_child_role(overlay, 0) == BLK_ROLE_FILTER)
        return tm_error_set(error, "Filters cannot be used as overlays");
    if (overlay->backing < 0)
        return tm_error_set(error, "The overlay does not support backing images");
    if (blk_node_backing(overlay))
        return tm_error_set(error, "The overlay already has a backing image");
    if (blk_node_stands_on(overlay, node))
        return tm_error_set(error, "Making '%s' a backing child of '%s' would create a cycle",
                            node->name, overlay->name);
    return true;
}

/* Clients keep the size that they were given, so the disk may become longer, unless somebody
 * relies on its size. */
static bool check_size(BlkNode *node, BlkNode *overlay, GError **error)
{
    uint64_t has = blk_node_size(overlay), expected = blk_node_size(node);
    const char *holder = NULL;

    if (has != expected)
        holder = blk_permissions_unshared(node, has < expected ? BLK_PERM_RESIZE : BLK_PERM_GROW);
    return !holder || tm_error_set(error,
                                   "The overlay '%s' has %" PRIu64 " bytes, expected %" PRIu64
                                   ", the size of node '%s', which %s relies on",
                                   overlay->name, has, expected, node->name, holder);
}

/* Clients of an export that moves would go on to see what it records, which is nothing any more. */
static bool check_bitmaps(const BlkNode *node, GError **error)
{
    BmpBitmap *next;

    for (; node; node = blk_node_same_below(node)) {
        for (size_t i = 0; (next = bmp_set_nth(node->bitmaps, i)); i++) {
            g_autoptr(BmpBitmap) bitmap = next;

            if (bmp_bitmap_enabled(bitmap) && bmp_bitmap_busy(bitmap))
                return tm_error_set(error,
                                    "Node '%s' is busy: its bitmap '%s' is in use and enabled, and "
                                    "would record nothing more",
                                    node->name, bmp_bitmap_name(bitmap));
        }
    }
    return true;
}

bool blk_snapshot_check(BlkNode *node, BlkNode *overlay, GError **error)
{
    if (!blk_node_check_free(node, error) || !blk_node_check_no_backing(node, error))
        return false;
    if (blk_filters_top(node) != node)
        return tm_error_set(error, "Node '%s' is busy: a backup of it is in progress", node->name);
    return check_overlay(node, overlay, error) && check_size(node, overlay, error) &&
           check_bitmaps(node, error) && blk_parents_check_marks(node, error) &&
           blk_parents_check_marks(overlay, error);
}

/* ---- marks */

static void mark_range(void *opaque, uint64_t offset, uint64_t length, bool backing, bool own)
{
    BlkNode *const *pair = opaque, *node = pair[0], *overlay = pair[1];
    uint64_t size = blk_node_size(node);

    if (backing)
        blk_parents_mark(overlay, offset, length);
    if (own && offset < size)
        blk_parents_mark_end(blk_parents_mark_begin(node, offset, MIN(length, size - offset)));
}

void blk_snapshot_mark(BlkNode *node, BlkNode *overlay)
{
    BlkNode *pair[] = { node, overlay };

    blk_node_each_range(overlay, mark_range, pair);
}

/* ---- the graph */

static void set_backing(BlkNode *overlay, BlkUser *user)
{
    blk_parents_disconnect(overlay);
    overlay->children[overlay->backing] = user;
    blk_parents_connect(overlay);
    if (overlay->open)
        blk_node_refresh(overlay);
}

static void drop_backing(BlkNode *overlay)
{
    BlkUser *user = overlay->children[overlay->backing];

    set_backing(overlay, NULL);
    blk_node_release(user);
}

static void snapshot_free(BlkSnapshot *s)
{
    g_ptr_array_unref(s->moved);
    blk_node_unref(s->node);
    blk_node_unref(s->overlay);
    g_free(s);
}

BlkSnapshot *blk_snapshot_take(BlkNode *node, BlkNode *overlay, GError **error)
{
    BlkUser *backing;
    BlkSnapshot *s;

    if (!blk_snapshot_check(node, overlay, error) ||
        (!blk_node_read_only(overlay) && !blk_disk_claim(overlay, error)))
        return NULL;
    backing = blk_node_use_child(overlay, (unsigned)overlay->backing, node, error);
    if (!backing)
        return NULL;
    set_backing(overlay, backing);
    s = g_new0(BlkSnapshot, 1);
    s->node = blk_node_ref(node);
    s->overlay = blk_node_ref(overlay);
    s->moved = blk_users_above(node, overlay);
    if (!blk_users_lift(s->moved, overlay, error)) {
        drop_backing(overlay);
        g_clear_pointer(&s, snapshot_free);
    }
    blk_graph_sort(node->graph);
    return s;
}

void blk_snapshot_take_back(BlkSnapshot *s)
{
    blk_users_lift(s->moved, s->node, NULL);
    drop_backing(s->overlay);
    blk_graph_sort(s->node->graph);
    snapshot_free(s);
}

void blk_snapshot_keep(BlkSnapshot *s)
{
    blk_graph_make_read_only(s->node);
    snapshot_free(s);
}
