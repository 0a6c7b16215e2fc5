/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/host.c: the services that drivers get from the block layer (include/tidemark/driver.h).
 * */
#include "block/node_internal.h"

#include "block/io/request.h"
#include "block/registry.h"
#include "object/objects.h"
#include "util/error.h"

#include <errno.h>
#include <string.h>

static void host_error(struct tidemark_node *node, const char *format, ...)
{
    va_list ap;

    g_free(node->error);
    va_start(ap, format);
    node->error = g_strdup_vprintf(format, ap);
    va_end(ap);
}

static const char *host_node_name(struct tidemark_node *node)
{
    return node->name;
}

static int host_option_is_set(struct tidemark_node *node, const char *name)
{
    const struct tidemark_child *kind = node->driver->children;
    json_object *child;

    while (kind && kind->name && strcmp(kind->name, name))
        kind++;
    return kind && kind->name ? blk_options_child(node->options, name, &child)
                              : blk_options_is_set(node->options, name);
}

static const char *host_option_string(struct tidemark_node *node, const char *name)
{
    return blk_options_string(node->options, name);
}

static uint64_t host_option_uint(struct tidemark_node *node, const char *name)
{
    return blk_options_uint(node->options, name);
}

static int host_option_bool(struct tidemark_node *node, const char *name)
{
    return blk_options_bool(node->options, name);
}

/* Runs @call on the child, or says that there is none. */
#define ON_CHILD(call)                                                                             \
    do {                                                                                           \
        BlkNode *child_node = blk_node_child_at(node, child);                                      \
        return child_node ? (call) : -ENOMEDIUM;                                                   \
    } while (0)

static int host_child_info(struct tidemark_node *node, uint32_t child, struct tidemark_info *info)
{
    ON_CHILD((blk_node_info(child_node, info), 0));
}

static int host_child_pread(struct tidemark_node *node, uint32_t child, void *buf, uint64_t offset,
                            uint64_t length, uint32_t flags)
{
    ON_CHILD(blk_node_pread(child_node, buf, offset, length));
}

static int host_child_pwrite(struct tidemark_node *node, uint32_t child, const void *buf,
                             uint64_t offset, uint64_t length, uint32_t flags)
{
    /* That nobody else is there is of the parent's range, not of the child's. */
    ON_CHILD(blk_node_pwrite(child_node, buf, offset, length, flags & ~TIDEMARK_EXCLUSIVE));
}

static int host_child_flush(struct tidemark_node *node, uint32_t child)
{
    ON_CHILD(blk_node_flush(child_node));
}

static int host_child_write_zeroes(struct tidemark_node *node, uint32_t child, uint64_t offset,
                                   uint64_t length, uint32_t flags)
{
    ON_CHILD(blk_node_write_zeroes(child_node, offset, length, flags));
}

static int host_child_discard(struct tidemark_node *node, uint32_t child, uint64_t offset,
                              uint64_t length)
{
    ON_CHILD(blk_node_discard(child_node, offset, length, 0));
}

static int host_child_invalidate(struct tidemark_node *node, uint32_t child, uint64_t offset,
                                 uint64_t length, uint32_t flags)
{
    ON_CHILD(blk_node_invalidate(child_node, offset, length, flags));
}

static int host_child_cache(struct tidemark_node *node, uint32_t child, uint64_t offset,
                            uint64_t length)
{
    ON_CHILD(blk_node_cache(child_node, offset, length));
}

static int host_child_resize(struct tidemark_node *node, uint32_t child, uint64_t size)
{
    BlkNode *child_node = blk_node_child_at(node, child);
    int ret = -ENOMEDIUM;

    if (child_node) {
        blk_inflight_drain(&child_node->inflight);
        g_clear_pointer(&child_node->error, g_free);
        ret = blk_node_resize(child_node, size);
        if (child_node->error)
            host_error(node, "%s", child_node->error);
        blk_inflight_drain_end(&child_node->inflight);
    }
    return ret;
}

static int host_child_grow(struct tidemark_node *node, uint32_t child, uint64_t size)
{
    ON_CHILD(blk_node_grow(child_node, size));
}

static uint64_t host_child_size(struct tidemark_node *node, uint32_t child)
{
    BlkNode *child_node = blk_node_child_at(node, child);

    return child_node ? blk_node_size(child_node) : 0;
}

static int host_child_status(struct tidemark_node *node, uint32_t child, uint64_t offset,
                             uint64_t length, struct tidemark_mapping *status)
{
    BlkNode *child_node = blk_node_child_at(node, child);
    struct tidemark_mapping m = { .kind = TIDEMARK_MAP_SELF, .fd = -1 };
    uint32_t flags;
    int ret =
        child_node ? blk_node_status_at(child_node, offset, length, &m.length, &flags) : -ENOMEDIUM;

    if (ret < 0)
        return ret;
    if (flags & TM_STATE_ZERO)
        m.kind = TIDEMARK_MAP_ZERO;
    if (flags & TM_STATE_HOLE)
        m.flags = TIDEMARK_MAPPED_HOLE;
    *status = m;
    return 0;
}

void *blk_host_handle(struct tidemark_node *node, const struct tidemark_driver *driver)
{
    return node->open && node->driver == driver ? node->handle : NULL;
}

const TmSys *blk_host_sys(struct tidemark_node *node)
{
    return blk_graph_sys(node->graph);
}

void blk_host_corrupted(struct tidemark_node *node, const char *reason)
{
    json_object *data = json_object_new_object();
    g_autofree char *who = blk_node_said(node);

    json_object_object_add(data, "device", json_object_new_string(""));
    json_object_object_add(data, "node-name", json_object_new_string(node->name));
    json_object_object_add(data, "msg", json_object_new_string(reason));
    json_object_object_add(data, "fatal", json_object_new_boolean(true));
    BLK_NODE_WARN(node, "%s: the image is corrupt and is not written any more: %s", who, reason);
    blk_graph_emit(node->graph, "BLOCK_IMAGE_CORRUPTED", data);
}

void blk_host_log(struct tidemark_node *node, const char *format, ...)
{
    g_autofree char *text = NULL, *who = blk_node_said(node);
    va_list ap;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    BLK_NODE_WARN(node, "%s: %s", who, text);
}

bool blk_host_awaited(const struct tidemark_node *node)
{
    return blk_graph_awaited(node->graph);
}

void blk_host_unfinished(struct tidemark_node *node, int error)
{
    g_autofree char *who = blk_node_said(node);

    BLK_NODE_WARN(node, "%s: data that was not flushed could not be written when it was closed: %s",
                  who, tm_strerror(-error));
    blk_graph_set_unsaved(node->graph);
}

static int64_t host_secret(struct tidemark_node *node, const char *id, void *buf, uint64_t size)
{
    g_autoptr(GError) error = NULL;
    TmObject *secret = tm_objects_get(blk_graph_objects(node->graph), id, TM_OBJECT_SECRET, &error);
    const guint8 *data;
    size_t length;

    if (!secret) {
        host_error(node, "%s", error->message);
        return -ENOENT;
    }
    data = tm_secret_data(secret, &length);
    if (length)
        memcpy(buf, data, MIN(length, size));
    tm_object_unref(secret);
    return (int64_t)length;
}

const struct tidemark_host blk_host = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_host),
    .error = host_error,
    .node_name = host_node_name,
    .option_is_set = host_option_is_set,
    .option_string = host_option_string,
    .option_uint = host_option_uint,
    .option_bool = host_option_bool,
    .child_info = host_child_info,
    .child_pread = host_child_pread,
    .child_pwrite = host_child_pwrite,
    .child_flush = host_child_flush,
    .child_write_zeroes = host_child_write_zeroes,
    .child_discard = host_child_discard,
    .child_invalidate = host_child_invalidate,
    .child_cache = host_child_cache,
    .child_resize = host_child_resize,
    .child_grow = host_child_grow,
    .child_size = host_child_size,
    .child_status = host_child_status,
    .complete = blk_transfer_done,
    .secret = host_secret,
    .log = blk_host_log,
    .unfinished = blk_host_unfinished,
};
