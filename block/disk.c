/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/disk.c: see the header. */
#include "block/disk.h"

#include "block/node_internal.h"
#include "util/error.h"

/* ---- where */

static const char *filename_of(const BlkNode *node)
{
    for (const struct tidemark_option *o = node->driver->options; o && o->name; o++) {
        if (g_str_equal(o->name, "filename") && o->type == TIDEMARK_OPTION_STRING &&
            blk_options_is_set(node->options, "filename"))
            return blk_options_string(node->options, "filename");
    }
    return NULL;
}

/* A child that has data of the node; NULL. */
static BlkNode *data_child(const BlkNode *node, unsigned index)
{
    return (int)index == node->backing ? NULL : blk_node_child_at(node, index);
}

const char *blk_disk_path(BlkNode *node)
{
    const char *path = NULL;

    while (node && !(path = filename_of(node))) {
        BlkNode *below = NULL;

        for (unsigned i = 0; i < node->n_children && !below; i++)
            below = data_child(node, i);
        node = below;
    }
    return path;
}

int blk_disk_open(BlkNode *node, bool *regular)
{
    const char *path = blk_disk_path(node);
    int fd = path ? node->graph_sys->open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0) : -1;
    struct stat st;

    *regular = fd >= 0 && node->graph_sys->fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    return fd;
}

int blk_disk_fd(BlkNode *node)
{
    struct tidemark_mapping mapping;

    if (node->n_children || !node->open ||
        blk_node_map(node, 0, 1, TIDEMARK_MAP_FOR_READ, &mapping) < 0)
        return -1;
    return mapping.fd;
}

bool blk_disk_is_in_place(BlkNode *node)
{
    struct stat has, there;
    bool regular, is;
    int fd = blk_disk_open(node, &regular);

    if (fd < 0)
        return false;
    is = node->graph_sys->fstat(fd, &there) == 0 &&
         node->graph_sys->fstat(blk_disk_fd(node), &has) == 0 && has.st_dev == there.st_dev &&
         has.st_ino == there.st_ino;
    node->graph_sys->close(fd);
    return is;
}

bool blk_disk_is_shared(BlkNode *node)
{
    bool is = node->driver->flags & TIDEMARK_DRIVER_SHARED;

    for (unsigned i = 0; i < node->n_children && !is; i++) {
        BlkNode *child = data_child(node, i);

        is = child && blk_disk_is_shared(child);
    }
    return is;
}

int blk_disk_hold(BlkNode *node)
{
    int fd = blk_disk_fd(node), held = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);

    for (unsigned i = 0; i < node->n_children && held < 0; i++) {
        BlkNode *child = data_child(node, i);

        if (child)
            held = blk_disk_hold(child);
    }
    return held;
}

/* ---- who writes */

/* Whether a node has that store open for writing: mostly @writer, which may not be listed yet. */
static bool is_open(void *writer, const uint8_t uuid[16])
{
    BlkNode *node = writer;
    g_autoptr(GPtrArray) nodes = NULL;
    bool is = bmp_set_follows(node->bitmaps, uuid);

    if (is)
        return true;
    nodes = blk_graph_nodes(node->graph);
    for (guint i = 0; i < nodes->len && !is; i++)
        is = bmp_set_follows(((BlkNode *)nodes->pdata[i])->bitmaps, uuid);
    return is;
}

static bool claim(BlkNode *node, BlkNode *writer, GError **error)
{
    int fd = blk_disk_fd(node);

    if (fd >= 0 && !bmp_disk_claim(node->graph_sys, fd, is_open, writer, error))
        return false;
    for (unsigned i = 0; i < node->n_children; i++) {
        BlkNode *child = data_child(node, i);

        if (child && !claim(child, writer, error))
            return false;
    }
    return true;
}

bool blk_disk_claim(BlkNode *node, GError **error)
{
    return claim(node, node, error);
}

static void add_own(GPtrArray *own, BlkNode *node)
{
    g_ptr_array_add(own, node);
    for (unsigned i = 0; i < node->n_children; i++) {
        BlkNode *child = data_child(node, i);

        if (child)
            add_own(own, child);
    }
}

bool blk_disk_written_beside(BlkNode *node, const GPtrArray *going)
{
    g_autoptr(GPtrArray) own = g_ptr_array_new();
    bool beside = false;

    add_own(own, node);
    for (guint i = 1; i < own->len && !beside; i++) /* those that are below */
        beside = blk_permissions_written_beside(own->pdata[i], going ? going : own);
    return beside;
}

/* ---- whether it is the same */

void blk_disk_remember(BlkNode *node)
{
    int fd = blk_disk_fd(node);

    if (fd < 0 && !(node->driver->flags & TIDEMARK_DRIVER_SHARED))
        return;
    if (node->seen && node->open && blk_node_read_only(node))
        return;
    if (!node->seen)
        node->seen = g_new0(BmpIdentity, 1);
    if (fd < 0)
        return;
    if (!blk_node_read_only(node))
        bmp_identity_settle(node->graph_sys, fd);
    bmp_identity_read(node->graph_sys, fd, node->seen);
}

void blk_disk_remember_read_only(BlkNode *node)
{
    if (node->open && blk_node_read_only(node)) {
        if (!node->seen)
            bmp_identity_settle(node->graph_sys, blk_disk_fd(node));
        blk_disk_remember(node);
    }
    for (unsigned i = 0; i < node->n_children; i++) {
        BlkNode *child = data_child(node, i);

        if (child)
            blk_disk_remember_read_only(child);
    }
}

void blk_disk_compared(BlkNode *node)
{
    if (node->open && !blk_node_read_only(node))
        g_clear_pointer(&node->seen, g_free);
}

char *blk_disk_changed(BlkNode *node)
{
    int fd = blk_disk_fd(node);
    char *why = NULL;

    if (node->seen && node->driver->flags & TIDEMARK_DRIVER_SHARED)
        why = g_strdup("others may have written to the disk while it was closed, which nothing "
                       "shows");
    else if (fd >= 0 && node->seen) {
        BmpIdentity now;

        int ret = bmp_identity_sync(node->graph_sys, fd);

        bmp_identity_read(node->graph_sys, fd, &now);
        why = ret < 0 ? g_strdup_printf("the disk could not be synced: %s", tm_strerror(-ret))
                      : bmp_identity_changed(node->seen, &now);
    }
    for (unsigned i = 0; i < node->n_children && !why; i++) {
        BlkNode *child = data_child(node, i);

        if (child)
            why = blk_disk_changed(child);
    }
    return why;
}

/* The node without children that has all of the node's data, or NULL. */
static BlkNode *whole_file(BlkNode *node)
{
    while (node && node->n_children) {
        BlkNode *below = NULL;

        for (unsigned i = 0; i < node->n_children; i++) {
            BlkNode *child = data_child(node, i);

            if (child && below)
                return NULL;
            below = child ? child : below;
        }
        node = below;
    }
    return node;
}

void blk_disk_identity(BlkNode *node, bool seen, BmpIdentity *identity)
{
    BlkNode *file = whole_file(node);
    bool regular;
    int fd;

    *identity = (BmpIdentity){ .known = false };
    if (!file)
        return;
    if (seen) {
        if (file->seen)
            *identity = *file->seen;
    } else if (blk_disk_is_in_place(file)) {
        fd = blk_disk_open(file, &regular); /* a network's file system then asks the server */
        bmp_identity_read(node->graph_sys, fd, identity);
        if (fd >= 0)
            node->graph_sys->close(fd);
    }
    if (identity->device)
        *identity = (BmpIdentity){ .known = false };
}

bool blk_disk_at_rest(BlkNode *node)
{
    g_autoptr(GPtrArray) none = g_ptr_array_new();

    return (blk_node_read_only(node) || !blk_permissions_written_beside(node, none)) &&
           !blk_disk_written_beside(node, NULL);
}
