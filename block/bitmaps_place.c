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
    g_autoptr(GPtrArray) nodes = blk_graph_nodes(node->graph);

    for (guint i = 0; i < nodes->len; i++) {
        BlkNode *other = nodes->pdata[i];

        if (other != node && other->store && other->store->in_place &&
            !g_strcmp0(bmp_set_store_path(other->bitmaps), path))
            return other;
    }
    return NULL;
}

void blk_bitmaps_note_place(BlkNode *node)
{
    node->store->in_place =
        bmp_set_store_exists(node->bitmaps) || bmp_set_has_persistent(node->bitmaps);
}

bool blk_bitmaps_may_add(BlkNode *node, GError **error)
{
    const char *path = bmp_set_store_path(node->bitmaps);
    BlkNode *other = path && !bmp_set_store_exists(node->bitmaps) ? holder(node, path) : NULL;

    if (node->store)
        node->store->in_place |= !other;
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
