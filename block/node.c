/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/node.c: facts about a node, and what its driver says of it. */
#include "block/node_internal.h"

#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>

BlkNode *blk_node_ref(BlkNode *node)
{
    tm_ref(&node->refs);
    return node;
}

/* ---- facts */

const char *blk_node_name(const BlkNode *node)
{
    return node->name;
}

const struct tidemark_driver *blk_node_driver(const BlkNode *node)
{
    return node->driver;
}

BlkGraph *blk_node_graph(const BlkNode *node)
{
    return node->graph;
}

uint64_t blk_node_size(const BlkNode *node)
{
    return __atomic_load_n(&node->size, __ATOMIC_ACQUIRE);
}

bool blk_node_read_only(const BlkNode *node)
{
    return __atomic_load_n(&node->read_only, __ATOMIC_RELAXED);
}

bool blk_node_active(const BlkNode *node)
{
    return blk_options_bool(node->options, "active");
}

bool blk_node_meant_read_only(const BlkNode *node)
{
    return blk_node_active(node) ? blk_node_read_only(node)
                                 : blk_options_uint(node->options, "read-only") != 0;
}

bool blk_node_background(const BlkNode *node)
{
    return node->builtin->background;
}

const char *blk_node_lost(const BlkNode *node)
{
    return node->open ? NULL : node->lost;
}

void blk_node_note_backup(BlkNode *node)
{
    node->last_backup = g_get_real_time() / G_USEC_PER_SEC;
}

int64_t blk_node_last_backup(const BlkNode *node)
{
    return node->last_backup;
}

BmpSet *blk_node_bitmaps(BlkNode *node)
{
    return node->bitmaps;
}

void blk_node_counts(const BlkNode *node, BlkCounts *counts)
{
    blk_counters_sum(&node->counters, counts);
}

BlkNode *blk_node_child(const BlkNode *node, unsigned index)
{
    return blk_node_child_at(node, index);
}

bool blk_node_option_bool(const BlkNode *node, const char *name)
{
    return blk_options_bool(node->options, name);
}

const char *blk_node_option_string(const BlkNode *node, const char *name)
{
    return blk_options_is_set(node->options, name) ? blk_options_string(node->options, name) : NULL;
}

static bool has_filename(const BlkNode *node)
{
    for (const struct tidemark_option *o = node->driver->options; o && o->name; o++) {
        if (g_str_equal(o->name, "filename"))
            return true;
    }
    return false;
}

/* A node without a file, as QEMU names one: what it takes to open it again. */
static char *pseudo_filename(const BlkNode *node)
{
    g_autoptr(GString) json = g_string_new(NULL);

    for (const struct tidemark_option *o = node->driver->options; o && o->name; o++) {
        /* Such disks differ in size; how they behave is not part of their name. */
        if (o->type != TIDEMARK_OPTION_SIZE || !blk_options_is_set(node->options, o->name))
            continue;
        uint64_t value = blk_options_uint(node->options, o->name);
        if (!o->default_value || value != g_ascii_strtoull(o->default_value, NULL, 10))
            g_string_append_printf(json, ", \"%s\": %" G_GUINT64_FORMAT, o->name, value);
    }
    return json->len ? g_strdup_printf("json:{\"driver\": \"%s\"%s}", node->driver->name, json->str)
                     : g_strdup_printf("%s://", node->driver->name);
}

char *blk_node_filename(const BlkNode *node)
{
    char *own = node->builtin->filename ? node->builtin->filename((BlkNode *)node) : NULL;

    if (own)
        return own;
    if (has_filename(node) && blk_options_is_set(node->options, "filename"))
        return g_strdup(blk_options_string(node->options, "filename"));
    for (unsigned i = 0; i < node->n_children; i++) {
        if (node->children[i] && (int)i != node->backing)
            return blk_node_filename(node->children[i]->node);
    }
    return pseudo_filename(node);
}

char *blk_node_said(const BlkNode *node)
{
    g_autofree char *file = blk_graph_names_files(node->graph) ? blk_node_filename(node) : NULL;

    return file ? g_strdup_printf("'%s'", file) : g_strdup_printf("node '%s'", node->name);
}

static int driver_info(BlkNode *node, struct tidemark_info *info)
{
    int ret;

    memset(info, 0, sizeof(*info));
    info->struct_size = sizeof(*info);
    info->request_alignment = 1;
    info->allocated = UINT64_MAX;
    if (!node->open)
        return -EIO;
    blk_node_serial_begin(node);
    ret = node->driver->get_info(node->handle, info);
    blk_node_serial_end(node);
    return ret;
}

void blk_node_describe(BlkNode *node, json_object *image)
{
    const BlkFormat *format = blk_builtin_of(node->driver)->format;

    blk_quiesce_enter(&node->quiesce);
    if (format && node->open)
        format->describe(node->handle, image);
    blk_quiesce_leave(&node->quiesce);
}

void blk_node_info(BlkNode *node, struct tidemark_info *info)
{
    blk_quiesce_enter(&node->quiesce);
    if (driver_info(node, info) < 0)
        info->flags = __atomic_load_n(&node->info_flags, __ATOMIC_RELAXED);
    info->size = blk_node_size(node);
    info->request_alignment = __atomic_load_n(&node->request_alignment, __ATOMIC_RELAXED);
    blk_quiesce_leave(&node->quiesce);
}

int blk_node_refresh(BlkNode *node)
{
    struct tidemark_info info;
    int ret = driver_info(node, &info);

    if (ret < 0)
        return ret;
    if (info.size > TM_SIZE_MAX)
        return -EFBIG;
    if (!tm_is_pow2(info.request_alignment) || info.request_alignment > (1u << 26))
        return -EINVAL;
    __atomic_store_n(&node->size, info.size, __ATOMIC_RELEASE);
    __atomic_store_n(&node->info_flags, info.flags, __ATOMIC_RELAXED);
    __atomic_store_n(&node->request_alignment, info.request_alignment, __ATOMIC_RELAXED);
    __atomic_store_n(&node->cluster, tm_is_pow2(info.cluster_size) ? info.cluster_size : 1,
                     __ATOMIC_RELAXED);
    __atomic_store_n(&node->read_only,
                     (info.flags & TIDEMARK_INFO_READ_ONLY) != 0 ||
                         blk_options_bool(node->options, "read-only"),
                     __ATOMIC_RELAXED);
    return 0;
}

int blk_node_map(BlkNode *node, uint64_t offset, uint64_t length, uint32_t purpose,
                 struct tidemark_mapping *m)
{
    int ret;

    *m = (struct tidemark_mapping){ .kind = TIDEMARK_MAP_SELF, .fd = -1, .length = length };
    if (!node->open)
        return -EIO;
    if (!node->driver->map)
        return 0;
    blk_node_serial_begin(node);
    ret = node->driver->map(node->handle, offset, length, purpose, m);
    blk_node_serial_end(node);
    if (ret < 0)
        return ret;
    if (m->length == 0 || m->length > length || m->kind > TIDEMARK_MAP_BACKING ||
        (m->kind == TIDEMARK_MAP_CHILD && !blk_node_child_at(node, m->child)) ||
        (m->kind == TIDEMARK_MAP_FD && m->fd < 0))
        return -EIO; /* a driver that breaks its contract */
    if ((purpose & TIDEMARK_MAP_FOR_WRITE) && m->kind != TIDEMARK_MAP_FD &&
        m->kind != TIDEMARK_MAP_CHILD)
        m->kind = TIDEMARK_MAP_SELF;
    return 0;
}
