/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/bitmaps_place.c: where the bitmaps of a node are kept, and whose may be there. */
#include "block/bitmaps_internal.h"
#include "util/error.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Absolute, as other stores may refer to it; g_free. */
static char *real_path(const char *path)
{
    char *resolved = realpath(path, NULL);
    char *real = resolved ? g_strdup(resolved) : g_canonicalize_filename(path, NULL);

    free(resolved);
    return real;
}

/* Whose bitmaps are there, or are about to be, but for the node's: those of the file below, or of
 * another part; or NULL. */
static BlkNode *holder(BlkNode *node, const char *path)
{
    const GPtrArray *there = g_hash_table_lookup(blk_graph_places(node->graph), path);

    for (guint i = 0; there && i < there->len; i++) {
        if (there->pdata[i] != node)
            return there->pdata[i];
    }
    return NULL;
}

static void take_place(BlkNode *node)
{
    const char *path = bmp_set_store_path(node->bitmaps);
    GHashTable *places = blk_graph_places(node->graph);
    GPtrArray *there;

    if (node->store->place || !path)
        return;
    node->store->place = g_strdup(path);
    there = g_hash_table_lookup(places, path);
    if (!there) {
        there = g_ptr_array_new();
        g_hash_table_insert(places, g_strdup(path), there);
    }
    g_ptr_array_add(there, node);
}

void blk_bitmaps_leave_place(BlkNode *node)
{
    GHashTable *places = blk_graph_places(node->graph);
    g_autofree char *path = g_steal_pointer(&node->store->place);
    GPtrArray *there = path ? g_hash_table_lookup(places, path) : NULL;

    if (there && g_ptr_array_remove(there, node) && !there->len)
        g_hash_table_remove(places, path);
}

void blk_bitmaps_note_place(BlkNode *node)
{
    if (bmp_set_store_exists(node->bitmaps) || bmp_set_has_persistent(node->bitmaps))
        take_place(node);
    else
        blk_bitmaps_leave_place(node);
}

bool blk_bitmaps_may_add(BlkNode *node, GError **error)
{
    const char *path = bmp_set_store_path(node->bitmaps);
    BlkNode *other = path && !bmp_set_store_exists(node->bitmaps) ? holder(node, path) : NULL;

    if (node->store && !other)
        take_place(node);
    return !other ||
           tm_error_set(error,
                        "Node '%s' can't keep persistent bitmaps in '%s', which has those of "
                        "node '%s': see the option bitmap-store",
                        node->name, path, other->name);
}

/* With what is appended while it is written. */
static bool fits(const char *path)
{
    static const size_t more = sizeof(".tmp") - 1;

    return strlen(strrchr(path, '/') + 1) + more <= NAME_MAX && strlen(path) + more < PATH_MAX;
}

char *blk_bitmaps_store_path(BlkNode *node, const char *disk, bool regular, bool by_default)
{
    g_autofree char *real = NULL, *path = NULL;

    if (blk_bitmaps_beside(node))
        return g_strdup(node->driver->store_name(node->handle));
    if (blk_options_is_set(node->options, "bitmap-store"))
        return real_path(blk_options_string(node->options, "bitmap-store"));
    if (!by_default || !regular)
        return NULL;
    real = real_path(disk);
    path = g_strconcat(real, BMP_STORE_SUFFIX, NULL);
    if (!fits(path)) {
        bmp_set_refuse_store(node->bitmaps,
                             "the name of the disk is too long for a store beside it: "
                             "see the option bitmap-store");
        return NULL;
    }
    return holder(node, path) ? NULL : g_steal_pointer(&path);
}

/* Where the node's data begins in the file. */
static uint64_t data_offset(BlkNode *node)
{
    uint64_t offset = 0;

    while (node) {
        const struct tidemark_option *o = node->driver->options;
        BlkNode *below = NULL;

        for (; o && o->name; o++) {
            if (g_str_equal(o->name, "offset") && o->type == TIDEMARK_OPTION_SIZE &&
                blk_options_is_set(node->options, "offset"))
                offset += blk_options_uint(node->options, "offset");
        }
        for (unsigned i = 0; i < node->n_children && !below; i++) {
            if (node->children[i] && (int)i != node->backing)
                below = node->children[i]->node;
        }
        node = below;
    }
    return offset;
}

char *blk_bitmaps_layer(BlkNode *node)
{
    uint64_t offset = data_offset(node);

    return offset ? g_strdup_printf("%.14s+%" G_GINT64_MODIFIER "x", node->driver->name, offset)
                  : g_strndup(node->driver->name, 31);
}
