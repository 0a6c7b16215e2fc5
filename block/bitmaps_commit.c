/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/bitmaps_commit.c: changes of the bitmaps of nodes, which a crash can't cut in two.
 *
 * A node is drained parents first: a request in the parent may be waiting for its child.
 *
 * A driver may hold locks of its own while what is below it grows or is marked, which takes the set
 * there. So an image is flushed, and gets a note where its bitmaps are, before sets are locked; it
 * follows when they are not any more. */
#include "block/bitmaps_internal.h"
#include "block/losses.h"
#include "block/parents.h"
#include "util/error.h"

/* ---- flushing */

/* All that the node shows: also what others have written to backings, which it does not flush. */
static int flush_shown(BlkNode *node)
{
    g_autoptr(GPtrArray) shown = blk_nodes_below(&node, 1);
    int ret = blk_node_flush(node);

    for (guint i = 0; ret == 0 && i < shown->len; i++) {
        BlkNode *backing = blk_node_backing(shown->pdata[i]);

        if (backing && backing->open && !blk_node_read_only(backing))
            ret = blk_node_flush(backing);
    }
    return ret;
}

void blk_bitmaps_flush_now(BlkNode *node)
{
    node->store->flush_error = blk_node_read_only(node) ? 0 : flush_shown(node);
    node->store->flushed = true;
}

bool blk_bitmaps_flush(void *opaque, GError **error)
{
    BlkNode *node = opaque;
    int ret = node->store && node->store->flushed ? node->store->flush_error : flush_shown(node);

    return ret == 0 ||
           tm_error_set_errno(error, -ret, "Could not flush node '%s' before its bitmaps change",
                              node->name);
}

static bool records_to_store(BlkNode *node)
{
    BmpBitmap *next;
    bool is = false;

    for (size_t i = 0; !is && (next = bmp_set_nth(node->bitmaps, i)); i++) {
        g_autoptr(BmpBitmap) bitmap = next;

        is = bmp_bitmap_persistent(bitmap) && bmp_bitmap_enabled(bitmap) &&
             !bmp_bitmap_inconsistent(bitmap);
    }
    return is;
}

bool blk_bitmaps_guard(BlkNode *node, GError **error)
{
    bool read_only = blk_node_read_only(node);

    return blk_permissions_freeze(node, read_only && records_to_store(node), error) &&
           blk_permissions_guard(node, !read_only && bmp_set_length(node->bitmaps) > 0, error);
}

/* ---- changes */

/* Whether a request on its way may copy what a backing had, and has no longer, when it is done. */
static bool may_copy(BlkNode *node)
{
    g_autoptr(GPtrArray) below = blk_nodes_below(&node, 1);
    bool may = false;

    for (guint i = 0; !may && i < below->len; i++)
        may = blk_node_backing(below->pdata[i]);
    return may;
}

/* Those with a store, and those where a copy would arrive after the change. */
static GPtrArray *hold(BlkNode *const *nodes, size_t n)
{
    g_autoptr(GPtrArray) wait = g_ptr_array_new();

    for (size_t i = 0; i < n; i++) {
        if (nodes[i]->store || may_copy(nodes[i]))
            g_ptr_array_add(wait, nodes[i]);
    }
    return blk_nodes_hold((BlkNode *const *)wait->pdata, wait->len);
}

static BmpSet **sets_of(BlkNode *const *nodes, size_t n)
{
    BmpSet **sets = g_new(BmpSet *, n + 1);

    for (size_t i = 0; i < n; i++)
        sets[i] = nodes[i]->bitmaps;
    return sets;
}

/* Whether a commit of the change will call something clean. One of several nodes may write into
 * another one. A single one that has nothing persistent yet leaves its flush to the commit; but not
 * an image, whose locks come before its set's. */
static bool wants_flush(const BlkNode *node, size_t n)
{
    return node->store && !blk_node_read_only(node) &&
           (n > 1 || blk_bitmaps_kept(node) || bmp_set_store_exists(node->bitmaps));
}

/* Flushes when nothing is in flight any more, parents first, as they write into their children;
 * most of it before, while requests still run. */
static void hold_flushed(BlkNode *const *nodes, size_t n)
{
    GPtrArray *held;

    /* On this thread: it may be the one that holds them, and no other one gets in then. */
    for (size_t i = 0; i < n; i++) {
        if (wants_flush(nodes[i], n) && nodes[i]->open)
            blk_node_flush(nodes[i]); /* how it went is asked again */
    }
    held = nodes[0]->held = hold(nodes, n);
    for (guint i = 0; i < held->len; i++) {
        for (size_t k = 0; k < n; k++) {
            if (held->pdata[i] == nodes[k] && wants_flush(nodes[k], n))
                blk_bitmaps_flush_now(nodes[k]);
        }
    }
}

/* What a crash leaves of the change is decided by the stores: also by those about to come. */
static void announce(BlkNode *node)
{
    if (!blk_bitmaps_has_image(node))
        return;
    node->store->removed = g_ptr_array_new();
    if (!bmp_set_store_exists(node->bitmaps))
        blk_bitmaps_image_announce(node, &node->store->unannounced);
}

void blk_bitmaps_change_begin(BlkNode *const *nodes, size_t n)
{
    g_autofree BmpSet **sets = sets_of(nodes, n);

    if (!n)
        return;
    hold_flushed(nodes, n);
    blk_losses_apply(nodes[0]->graph);
    for (size_t i = 0; i < n; i++)
        announce(nodes[i]);
    bmp_set_change_begin(sets, n);
}

static bool was_announced(const BlkNode *node, GError **error)
{
    const GError *why = node->store ? node->store->unannounced : NULL;

    return !why || tm_error_set(error, "%s", why->message);
}

bool blk_bitmaps_commit(BlkNode *const *nodes, size_t n, GError **error)
{
    g_autofree BmpSet **sets = sets_of(nodes, n);

    for (size_t i = 0; i < n; i++) {
        if (!was_announced(nodes[i], error))
            return false;
    }
    if (!bmp_set_commit(sets, n, error))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!blk_bitmaps_has_image(nodes[i]))
            continue;
        g_ptr_array_unref(nodes[i]->store->removed);
        nodes[i]->store->removed = bmp_set_removed_names(nodes[i]->bitmaps);
    }
    return true;
}

/* The image follows its store. It may grow meanwhile, and with it the file below, whose bitmaps may
 * have been part of the change: so that is over. */
static void follow(BlkNode *node)
{
    g_autoptr(GPtrArray) removed = NULL;

    if (!node->store || !node->store->removed)
        return;
    removed = g_steal_pointer(&node->store->removed);
    g_clear_error(&node->store->unannounced);
    blk_bitmaps_image_follow(node, removed);
}

void blk_bitmaps_change_end(BlkNode *const *nodes, size_t n)
{
    g_autofree BmpSet **sets = sets_of(nodes, n);

    if (!n)
        return;
    bmp_set_change_end(sets, n);
    for (size_t i = 0; i < n; i++) {
        blk_bitmaps_guard(nodes[i], NULL); /* whoever has some has been guarded since the first */
        follow(nodes[i]);
        if (!nodes[i]->store)
            continue;
        nodes[i]->store->flushed = false;
        blk_bitmaps_note_place(nodes[i]);
    }
    blk_nodes_release(g_steal_pointer(&nodes[0]->held));
}

void blk_bitmaps_instant_begin(BlkNode *const *nodes, size_t n)
{
    g_autofree BmpSet **sets = sets_of(nodes, n);

    blk_losses_apply(nodes[0]->graph);
    bmp_set_change_begin(sets, n);
}

void blk_bitmaps_instant_end(BlkNode *const *nodes, size_t n)
{
    g_autofree BmpSet **sets = sets_of(nodes, n);

    bmp_set_change_end(sets, n);
    for (size_t i = 0; i < n; i++)
        blk_bitmaps_guard(nodes[i], NULL);
}

bool blk_bitmaps_note_backup(BlkNode *node, const char *checkpoint)
{
    return bmp_set_note_backup(node->bitmaps, checkpoint);
}

void blk_bitmaps_store(BlkNode *node, bool resized)
{
    g_autoptr(GError) error = NULL;
    bool image = blk_bitmaps_has_image(node) && !node->store->flushed;

    if (image)
        blk_bitmaps_flush_now(node);
    bmp_set_change_begin(&node->bitmaps, 1);
    if (resized)
        bmp_set_resize(node->bitmaps, blk_node_size(node));
    if (!bmp_set_commit(&node->bitmaps, 1, &error))
        bmp_set_distrust_store(node->bitmaps, error->message);
    bmp_set_change_end(&node->bitmaps, 1);
    if (image)
        node->store->flushed = false;
}
