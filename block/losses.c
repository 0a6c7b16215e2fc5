/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/losses.c: see the header. */
#include "block/losses.h"

#include "bitmap/store/store.h"
#include "block/disk.h"
#include "block/graph_internal.h"

typedef struct File {
    dev_t dev; /* of a device: 0, and its own number */
    ino_t ino;
} File;

void blk_losses_clear(BlkLosses *losses)
{
    g_clear_pointer(&losses->files, g_array_unref);
}

void blk_losses_note(BlkNode *node)
{
    if (__atomic_exchange_n(&node->flush_failed, true, __ATOMIC_ACQ_REL))
        return;
    __atomic_store_n(&node->graph->losses.failed, true, __ATOMIC_RELEASE);
    blk_graph_ask_heal(node->graph);
}

/* What the node has open. */
static bool file_of(BlkNode *node, File *file)
{
    int fd = blk_disk_fd(node);
    struct stat st;

    if (fd < 0 || node->graph_sys->fstat(fd, &st) < 0)
        return false;
    if (S_ISBLK(st.st_mode))
        *file = (File){ .ino = st.st_rdev };
    else
        *file = (File){ .dev = st.st_dev, .ino = st.st_ino };
    return true;
}

static bool is_known(const BlkLosses *losses, const File *file)
{
    for (guint i = 0; losses->files && i < losses->files->len; i++) {
        const File *known = &g_array_index(losses->files, File, i);

        if (known->dev == file->dev && known->ino == file->ino)
            return true;
    }
    return false;
}

static bool has_failed(const BlkNode *node)
{
    return __atomic_load_n(&node->flush_failed, __ATOMIC_ACQUIRE);
}

void blk_losses_remember(BlkNode *node)
{
    BlkLosses *losses = &node->graph->losses;
    File file;

    if (!has_failed(node) || !file_of(node, &file) || is_known(losses, &file))
        return;
    if (!losses->files)
        losses->files = g_array_new(FALSE, FALSE, sizeof(File));
    g_array_append_val(losses->files, file);
}

/* Whether some of the node's data, or of what shows through it, is in such a file. */
static bool is_lossy(BlkNode *node)
{
    bool lossy = has_failed(node);
    File file;

    if (!lossy && file_of(node, &file))
        lossy = is_known(&node->graph->losses, &file);
    for (unsigned i = 0; i < node->n_children && !lossy; i++) {
        BlkNode *child = blk_node_child_at(node, i);

        lossy = child && is_lossy(child);
    }
    return lossy;
}

void blk_losses_apply(BlkGraph *graph)
{
    g_autoptr(GPtrArray) nodes = NULL;

    if (!__atomic_load_n(&graph->losses.failed, __ATOMIC_ACQUIRE))
        return;
    nodes = blk_graph_nodes(graph);
    for (guint i = 0; i < nodes->len; i++)
        blk_losses_remember(nodes->pdata[i]);
    for (guint i = 0; i < nodes->len; i++) {
        BlkNode *node = nodes->pdata[i];

        if (bmp_set_lossy(node->bitmaps) || !is_lossy(node))
            continue;
        if (bmp_set_length(node->bitmaps))
            bmp_set_report(node->bitmaps, &(BmpReport){ .reason = BMP_LOSS });
        bmp_set_lose(node->bitmaps);
    }
}
