/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/blockdev.c: nodes come, change size, go, and are listed. The work is the block
 * layer's.
 *
 * The members of query-named-block-nodes are QEMU's BlockDeviceInfo; figures of features that do
 * not exist here (I/O limits, write thresholds, encryption) have the values that QEMU gives when
 * they are off. Newest node first, as there. */
#include "block/parents.h"
#include "qmp/commands/families.h"
#include "qmp/context.h"
#include "util/error.h"
#include "util/json.h"
#include <string.h>

static bool run_add(QmpCall *call, GError **error)
{
    return blk_graph_add(qmp_context_graph(call->ctx), call->args, error) != NULL;
}

static bool run_del(QmpCall *call, GError **error)
{
    return blk_graph_del(qmp_context_graph(call->ctx), qmp_arg_str(call->args, "node-name"), error);
}

static bool run_reopen(QmpCall *call, GError **error)
{
    return blk_graph_reopen(qmp_context_graph(call->ctx), qmp_arg(call->args, "options"), error);
}

static bool run_set_active(QmpCall *call, GError **error)
{
    BlkGraph *graph = qmp_context_graph(call->ctx);
    const char *name = qmp_arg_str(call->args, "node-name");
    BlkNode *node = name ? blk_graph_find(graph, name, error) : NULL;

    return (node || !name) &&
           blk_graph_set_active(graph, node, qmp_arg_bool(call->args, "active", true), error);
}

static bool has_child(BlkNode *node, const char *name)
{
    const struct tidemark_child *child = blk_node_driver(node)->children;
    bool has = false;

    for (unsigned i = 0; child && child[i].name && !has; i++)
        has = !strcmp(child[i].name, name) && blk_node_child(node, i);
    return has;
}

/* A child of a driver that can have any number of them. No driver here does. */
static bool run_change(QmpCall *call, GError **error)
{
    BlkGraph *graph = qmp_context_graph(call->ctx);
    const char *name = qmp_arg_str(call->args, "parent");
    const char *child = qmp_arg_str(call->args, "child"), *added = qmp_arg_str(call->args, "node");
    BlkNode *parent = blk_graph_lookup(graph, name, name, error);

    if (!parent)
        return false;
    if (child && added)
        return tm_error_set(error, "The parameters child and node are in conflict");
    if (!child && !added)
        return tm_error_set(error, "Either child or node must be specified");
    if (child && !has_child(parent, child))
        return tm_error_set(error, "Node '%s' does not have child '%s'", name, child);
    if (added && !blk_graph_find(graph, added, NULL))
        return tm_error_set(error, "Node '%s' not found", added);
    return tm_error_set(error, "The node %s does not support %s a child", name,
                        child ? "removing" : "adding");
}

static bool run_resize(QmpCall *call, GError **error)
{
    /* "device" names a guest's device in QEMU; a storage daemon has none. */
    BlkNode *node =
        blk_graph_lookup(qmp_context_graph(call->ctx), qmp_arg_str(call->args, "device"),
                         qmp_arg_str(call->args, "node-name"), error);
    json_object *size = qmp_arg(call->args, "size");

    if (!node)
        return false;
    if (json_object_get_int64(size) < 0)
        return tm_error_set(error, "Parameter 'size' expects a >0 size");
    return blk_graph_resize(qmp_context_graph(call->ctx), node, json_object_get_uint64(size),
                            error);
}

/* ---- query-named-block-nodes ---- */

/* Whether the node keeps its data on a medium, itself or below: then there is such a thing as an
 * image, with a dirty flag (always clear here). */
static bool has_image(BlkNode *node)
{
    const struct tidemark_driver *driver = blk_node_driver(node);

    if (blk_node_child(node, 0))
        return true;
    for (const struct tidemark_option *o = driver->options; o && o->name; o++)
        if (!strcmp(o->name, "filename"))
            return true;
    return false;
}

static json_object *image_info(BlkNode *node)
{
    g_autofree char *filename = blk_node_filename(node);
    json_object *image = json_object_new_object();
    struct tidemark_info info = { .struct_size = sizeof(info) };

    blk_node_info(node, &info);
    tm_json_add_uint(image, "virtual-size", blk_node_size(node));
    tm_json_add_string(image, "filename", filename);
    tm_json_add_string(image, "format", blk_node_driver(node)->name);
    if (info.allocated != UINT64_MAX)
        tm_json_add_uint(image, "actual-size", info.allocated);
    if (info.cluster_size)
        tm_json_add_uint(image, "cluster-size", info.cluster_size);
    if (has_image(node))
        tm_json_add_bool(image, "dirty-flag", false);
    blk_node_describe(node, image);
    return image;
}

static json_object *cache_info(BlkNode *node)
{
    json_object *cache = json_object_new_object();

    tm_json_add_bool(cache, "no-flush", blk_node_option_bool(node, "cache.no-flush"));
    tm_json_add_bool(cache, "direct", blk_node_option_bool(node, "cache.direct"));
    tm_json_add_bool(cache, "writeback", true);
    return cache;
}

static json_object *bitmap_info(BmpBitmap *bitmap)
{
    g_autofree char *reason = bmp_bitmap_reason(bitmap);
    json_object *info = json_object_new_object();
    uint64_t age;

    tm_json_add_string(info, "name", bmp_bitmap_name(bitmap));
    tm_json_add_bool(info, "recording", bmp_bitmap_enabled(bitmap));
    tm_json_add_bool(info, "persistent", bmp_bitmap_persistent(bitmap));
    tm_json_add_bool(info, "busy", bmp_bitmap_busy(bitmap));
    tm_json_add_uint(info, "granularity", bmp_bitmap_granularity(bitmap));
    tm_json_add_uint(info, "count", bmp_bitmap_count(bitmap));
    if (bmp_bitmap_inconsistent(bitmap))
        tm_json_add_bool(info, "inconsistent", true);
    if (bmp_bitmap_recovered(bitmap))
        tm_json_add_uint(info, "recovered", bmp_bitmap_recovered(bitmap));
    if (bmp_bitmap_age(bitmap, &age))
        tm_json_add_uint(info, "age", age);
    if (reason)
        tm_json_add_string(info, "reason", reason);
    return info;
}

/* Newest first, as QEMU. */
static json_object *bitmap_list(BlkNode *node)
{
    json_object *list = json_object_new_array();
    BmpSet *set = blk_node_bitmaps(node);

    for (size_t n = bmp_set_length(set); n > 0; n--) {
        g_autoptr(BmpBitmap) bitmap = bmp_set_nth(set, n - 1);

        json_object_array_add(list, bitmap_info(bitmap));
    }
    return list;
}

static void add_limits(json_object *info)
{
    static const char *const limits[] = { "bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr" };

    for (size_t i = 0; i < G_N_ELEMENTS(limits); i++)
        tm_json_add_uint(info, limits[i], 0);
}

static BlkNode *backing_of(BlkNode *node)
{
    const struct tidemark_child *child = blk_node_driver(node)->children;

    for (unsigned i = 0; child && child[i].name; i++)
        if (!strcmp(child[i].name, "backing"))
            return blk_node_child(node, i);
    return NULL;
}

/* What QEMU calls the backing image, of a filter too. */
static BlkNode *image_below(BlkNode *node)
{
    bool filter = blk_node_child(node, 0) && blk_node_child_role(node, 0) == BLK_ROLE_FILTER;

    return filter ? blk_node_child(node, 0) : backing_of(node);
}

/* The images below, nested one in the other. Returned: how many. */
static unsigned add_below(json_object *image, BlkNode *node)
{
    unsigned depth = 0;

    while ((node = image_below(node))) {
        json_object *inner = image_info(node);

        json_object_object_add(image, "backing-image", inner);
        image = inner;
        depth++;
    }
    return depth;
}

/* @flat: without what is below, whose depth is then said to be 0, as in QEMU. */
static json_object *node_info(BlkNode *node, bool flat)
{
    json_object *info = json_object_new_object(), *image = image_info(node);
    g_autofree char *filename = blk_node_filename(node);
    unsigned depth = flat ? 0 : add_below(image, node);
    const char *detect = blk_node_option_string(node, "detect-zeroes");

    tm_json_add_string(info, "detect_zeroes", detect ? detect : "off");
    json_object_object_add(info, "image", image);
    if (backing_of(node)) {
        g_autofree char *backing = blk_node_filename(backing_of(node));

        tm_json_add_string(info, "backing_file", backing);
    }
    tm_json_add_bool(info, "ro", blk_node_meant_read_only(node));
    tm_json_add_bool(info, "active", blk_node_active(node));
    tm_json_add_string(info, "node-name", blk_node_name(node));
    tm_json_add_uint(info, "backing_file_depth", depth);
    tm_json_add_string(info, "drv", blk_node_driver(node)->name);
    add_limits(info);
    tm_json_add_uint(info, "write_threshold", 0);
    if (bmp_set_length(blk_node_bitmaps(node)))
        json_object_object_add(info, "dirty-bitmaps", bitmap_list(node));
    tm_json_add_bool(info, "encrypted", false);
    json_object_object_add(info, "cache", cache_info(node));
    tm_json_add_string(info, "file", filename);
    if (blk_node_last_backup(node))
        tm_json_add_uint(info, "last-backup", (uint64_t)blk_node_last_backup(node));
    if (blk_node_lost(node))
        tm_json_add_string(info, "lost", blk_node_lost(node));
    return info;
}

static const char *name_of(const void *node)
{
    return blk_node_name(node);
}

static bool run_query(QmpCall *call, GError **error)
{
    g_autoptr(GPtrArray) nodes = blk_graph_nodes(qmp_context_graph(call->ctx));
    g_autoptr(GPtrArray) page = qmp_arg_page(call->args, nodes, true, name_of);
    bool flat = qmp_arg_bool(call->args, "flat", false);

    call->result = json_object_new_array();
    for (guint i = 0; i < page->len; i++)
        json_object_array_add(call->result, node_info(page->pdata[i], flat));
    return true;
}

/* ---- types ---- */

static const QmpMember del_members[] = {
    { "node-name", &qmp_type_str, false, "name of the node" },
    { NULL },
};
static const QmpType del_args = { .kind = QMP_KIND_OBJECT,
                                  .name = "q_obj_blockdev-del-arg",
                                  .members = del_members };

static const QmpType reopen_list = { .kind = QMP_KIND_ARRAY,
                                     .name = "array",
                                     .element = &qmp_type_blockdev_options };
static const QmpMember reopen_members[] = {
    { "options", &reopen_list, false, "the nodes, each with all of its new options" },
    { NULL },
};
static const QmpType reopen_args = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_blockdev-reopen-arg",
                                     .members = reopen_members };

static const QmpMember resize_members[] = {
    { "device", &qmp_type_str, true, "for compatibility; ignored" },
    { "node-name", &qmp_type_str, true, "name of the node" },
    { "size", &qmp_type_int, false, "new size in bytes" },
    { NULL },
};
static const QmpType resize_args = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_block_resize-arg",
                                     .members = resize_members };

static const QmpMember active_members[] = {
    { "node-name", &qmp_type_str, true, "the node (default: all nodes)" },
    { "active", &qmp_type_bool, false, "whether it is to be active" },
    { NULL },
};
static const QmpType active_args = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_blockdev-set-active-arg",
                                     .members = active_members };

static const QmpMember change_members[] = {
    { "parent", &qmp_type_str, false, "the node whose children are to change" },
    { "child", &qmp_type_str, true, "the name of the child to remove" },
    { "node", &qmp_type_str, true, "the node to add as a child" },
    { NULL },
};
static const QmpType change_args = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_x-blockdev-change-arg",
                                     .members = change_members };

static const QmpMember query_members[] = {
    { "flat", &qmp_type_bool, true, "don't nest backing images" },
    QMP_PAGE_MEMBERS("node-name"),
    { NULL },
};
static const QmpType query_args = { .kind = QMP_KIND_OBJECT,
                                    .name = "q_obj_query-named-block-nodes-arg",
                                    .members = query_members };

static const QmpType image_type;

static const QmpMember qcow2_members[] = {
    { "compat", &qmp_type_str, false, "0.10 (version 2) or 1.1 (version 3)" },
    { "data-file", &qmp_type_str, true, "the data file, as the image names it" },
    { "data-file-raw", &qmp_type_bool, true, "the data file is the disk, byte by byte" },
    { "extended-l2", &qmp_type_bool, true, "clusters have subclusters" },
    { "lazy-refcounts", &qmp_type_bool, true, "refcounts may be out of date" },
    { "corrupt", &qmp_type_bool, true, "the image was found corrupt" },
    { "refcount-bits", &qmp_type_int, false, "bits of a refcount" },
    { "compression-type", &qmp_type_str, false, "of compressed clusters: zlib or zstd" },
    { NULL },
};
static const QmpType qcow2_type = { .kind = QMP_KIND_OBJECT,
                                    .name = "ImageInfoSpecificQCow2",
                                    .members = qcow2_members };
static const QmpMember wrapper_members[] = {
    { "data", &qcow2_type, false, "the properties of the qcow2 image" },
    { NULL },
};
static const QmpType wrapper_type = { .kind = QMP_KIND_OBJECT,
                                      .name = "ImageInfoSpecificQCow2Wrapper",
                                      .members = wrapper_members };
static const char *const kind_values[] = { "qcow2", NULL };
static const QmpType kind_type = { .kind = QMP_KIND_ENUM,
                                   .name = "ImageInfoSpecificKind",
                                   .values = kind_values };
static const QmpMember specific_members[] = {
    { "type", &kind_type, false, "the format" },
    { NULL },
};
static const QmpVariant specific_variants[] = { { "qcow2", &wrapper_type }, { NULL } };
static const QmpType specific_type = { .kind = QMP_KIND_OBJECT,
                                       .name = "ImageInfoSpecific",
                                       .members = specific_members,
                                       .tag = "type",
                                       .variants = specific_variants };

static const QmpMember snapshot_members[] = {
    { "id", &qmp_type_str, false, "identifier, unique in the image" },
    { "name", &qmp_type_str, false, "name that the user gave it" },
    { "vm-state-size", &qmp_type_int, false, "bytes of the machine's state" },
    { "date-sec", &qmp_type_int, false, "when it was taken: seconds since 1970" },
    { "date-nsec", &qmp_type_int, false, "nanoseconds to add to the seconds" },
    { "vm-clock-sec", &qmp_type_int, false, "the machine's clock at that time: seconds" },
    { "vm-clock-nsec", &qmp_type_int, false, "nanoseconds to add to the seconds" },
    { "icount", &qmp_type_int, true, "instructions executed up to that time" },
    { NULL },
};
static const QmpType snapshot_type = { .kind = QMP_KIND_OBJECT,
                                       .name = "SnapshotInfo",
                                       .members = snapshot_members };
static const QmpType snapshot_array = { .kind = QMP_KIND_ARRAY,
                                        .name = "array",
                                        .element = &snapshot_type };

static const QmpMember image_members[] = {
    { "filename", &qmp_type_str, false, "name of the image file" },
    { "format", &qmp_type_str, false, "the driver" },
    { "dirty-flag", &qmp_type_bool, true, "the image was not closed cleanly" },
    { "actual-size", &qmp_type_int, true, "bytes occupied on the medium" },
    { "virtual-size", &qmp_type_int, false, "bytes of the disk" },
    { "cluster-size", &qmp_type_int, true, "bytes of an allocation unit" },
    { "backing-filename", &qmp_type_str, true, "the backing file, as the image names it" },
    { "full-backing-filename", &qmp_type_str, true, "the same, with the image's directory" },
    { "backing-filename-format", &qmp_type_str, true, "its format, as the image names it" },
    { "snapshots", &snapshot_array, true, "internal snapshots" },
    { "backing-image", &image_type, true, "the image of the backing node" },
    { "format-specific", &specific_type, true, "information specific to the format" },
    { NULL },
};
static const QmpType image_type = { .kind = QMP_KIND_OBJECT,
                                    .name = "ImageInfo",
                                    .members = image_members };

static const QmpMember cache_members[] = {
    { "writeback", &qmp_type_bool, false, "for compatibility; true" },
    { "direct", &qmp_type_bool, false, "the page cache is bypassed" },
    { "no-flush", &qmp_type_bool, false, "flushes are ignored" },
    { NULL }
};
static const QmpType cache_type = { .kind = QMP_KIND_OBJECT,
                                    .name = "BlockdevCacheInfo",
                                    .members = cache_members };

static const QmpMember bitmap_members[] = {
    { "name", &qmp_type_str, true, "name of the bitmap" },
    { "count", &qmp_type_int, false, "dirty bytes" },
    { "granularity", &qmp_type_int, false, "bytes that one bit stands for" },
    { "recording", &qmp_type_bool, false, "writes are recorded" },
    { "busy", &qmp_type_bool, false, "in use by an export or a job" },
    { "persistent", &qmp_type_bool, false, "survives a restart of the daemon" },
    { "inconsistent", &qmp_type_bool, true,
      "the bitmap was not stored properly and can only be removed" },
    { "recovered", &qmp_type_uint64, true, "bytes that are dirty only because of a recovery" },
    { "reason", &qmp_type_str, true,
      "why it is inconsistent, or has more dirty bytes than were written" },
    { "age", &qmp_type_uint64, true,
      "seconds since it was created or last cleared; absent if that was before the node was "
      "opened" },
    { NULL },
};
static const QmpType bitmap_type = { .kind = QMP_KIND_OBJECT,
                                     .name = "BlockDirtyInfo",
                                     .members = bitmap_members };
static const QmpType bitmap_array = { .kind = QMP_KIND_ARRAY,
                                      .name = "array",
                                      .element = &bitmap_type };

static const char *const detect_values[] = { "off", "on", "unmap", NULL };
static const QmpType detect_type = { .kind = QMP_KIND_ENUM,
                                     .name = "BlockdevDetectZeroesOptions",
                                     .values = detect_values };

static const QmpMember node_members[] = {
    { "file", &qmp_type_str, false, "name of the image file" },
    { "node-name", &qmp_type_str, true, "name of the node" },
    { "ro", &qmp_type_bool, false, "it is read-only" },
    { "active", &qmp_type_bool, false, "it is active: see blockdev-set-active" },
    { "drv", &qmp_type_str, false, "the driver" },
    { "backing_file", &qmp_type_str, true, "name of the backing image's file" },
    { "backing_file_depth", &qmp_type_int, false, "number of backing images" },
    { "encrypted", &qmp_type_bool, false, "for compatibility; false" },
    { "detect_zeroes", &detect_type, false, "whether written data is searched for zeroes" },
    { "bps", &qmp_type_int, false, "for compatibility; 0" },
    { "bps_rd", &qmp_type_int, false, "for compatibility; 0" },
    { "bps_wr", &qmp_type_int, false, "for compatibility; 0" },
    { "iops", &qmp_type_int, false, "for compatibility; 0" },
    { "iops_rd", &qmp_type_int, false, "for compatibility; 0" },
    { "iops_wr", &qmp_type_int, false, "for compatibility; 0" },
    { "image", &image_type, false, "the image" },
    { "cache", &cache_type, false, "how the page cache is used" },
    { "write_threshold", &qmp_type_int, false, "for compatibility; 0" },
    { "dirty-bitmaps", &bitmap_array, true, "its dirty bitmaps, the newest first" },
    { "last-backup", &qmp_type_uint64, true,
      "when a backup of it succeeded last, in seconds since 1970; absent if none has since it was "
      "opened" },
    { "lost", &qmp_type_str, true,
      "why the node could not be opened again; all its requests fail" },
    { NULL },
};
const QmpType qmp_type_node_info = { .kind = QMP_KIND_OBJECT,
                                     .name = "BlockDeviceInfo",
                                     .members = node_members };
static const QmpType node_array = { .kind = QMP_KIND_ARRAY,
                                    .name = "array",
                                    .element = &qmp_type_node_info };

static const QmpMember corrupted_members[] = {
    { "device", &qmp_type_str, false, "for compatibility; empty" },
    { "node-name", &qmp_type_str, true, "the node" },
    { "msg", &qmp_type_str, false, "a message for people" },
    { "offset", &qmp_type_int, true, "offset in the image, in bytes" },
    { "size", &qmp_type_int, true, "number of bytes" },
    { "fatal", &qmp_type_bool, false, "the image is no longer written" },
    { NULL },
};
static const QmpType corrupted_data = { .kind = QMP_KIND_OBJECT,
                                        .name = "q_obj_BLOCK_IMAGE_CORRUPTED-arg",
                                        .members = corrupted_members };

static const QmpEvent events[] = {
    { "BLOCK_IMAGE_CORRUPTED", "an image was found corrupt", &corrupted_data },
    { NULL },
};

static const char *const blockdev_add_errors[] = {
    "'node-name' must be specified for the root node",
    "Invalid node-name: 'NAME'",
    "Duplicate nodes with node-name='NAME'",
    "Cannot find device='NAME' nor node-name='NAME'",
    "Block node is read-only",
    NULL
};
static const char *const blockdev_del_errors[] = { "Failed to find node with node-name='NAME'",
                                                   "Node NAME is not owned by the monitor",
                                                   "Node NAME is in use",
                                                   "Block device NAME is in use", NULL };
static const char *const blockdev_reopen_errors[] = {
    "node-name not specified",
    "Failed to find node with node-name='NAME'",
    "Cannot find device='' nor node-name='NAME'",
    "Cannot change the option 'NAME'",
    "Option 'NAME' cannot be reset to its default value",
    "backing is missing for 'NAME'",
    "Making 'NAME' a backing child of 'NAME' would create a cycle",
    "Read-only block node 'NAME' cannot support read-write users",
    "Node 'NAME' would change its size, which USER does not allow",
    "Node 'NAME' can't change to another disk: REASON",
    NULL
};
static const char *const active_errors[] = {
    "Failed to find node with node-name='NAME'", "Node has active parent node",
    "Failed to inactivate node: Operation not permitted: USER writes to node 'NODE', and was not "
    "added with allow-inactive",
    "Failed to inactivate node: bitmaps of node 'NODE' are in use", NULL
};
static const char *const change_errors[] = { "Cannot find device='NAME' nor node-name='NAME'",
                                             "Node 'NODE' does not have child 'CHILD'",
                                             "The node NODE does not support adding a child",
                                             "The node NODE does not support removing a child",
                                             NULL };
static const char *const block_resize_errors[] = { "Cannot find device='NAME' nor node-name='NAME'",
                                                   "Parameter 'size' expects a >0 size",
                                                   "Image format driver does not support resize",
                                                   "Image is read-only", NULL };

static const QmpCommand commands[] = {
    { "blockdev-add", "open a node", &qmp_type_blockdev_options, &qmp_type_empty, run_add,
      .example = "{'driver': 'file', 'node-name': 'disk0', 'filename': 'disk.img'}",
      .errors = blockdev_add_errors },
    { "blockdev-del", "close a node that nothing uses", &del_args, &qmp_type_empty, run_del,
      .example = "{'node-name': 'disk0'}", .errors = blockdev_del_errors },
    { "blockdev-reopen", "change the options of nodes, of all of them or none", &reopen_args,
      &qmp_type_empty, run_reopen,
      .example = "{'options': [{'driver': 'file', 'node-name': 'disk0', 'filename': 'disk.img', "
                 "'read-only': true}]}",
      .errors = blockdev_reopen_errors },
    { "block_resize", "change the size of a node", &resize_args, &qmp_type_empty, run_resize,
      .example = "{'node-name': 'disk0', 'size': 10737418240}", .errors = block_resize_errors },
    { "blockdev-set-active", "let another process write to images, or take them over", &active_args,
      &qmp_type_empty, run_set_active, .example = "{'node-name': 'disk0', 'active': false}",
      .errors = active_errors },
    { "x-blockdev-change", "add a child to a node or remove one; no driver supports it",
      &change_args, &qmp_type_empty, run_change, QMP_COMMAND_UNSTABLE,
      .example = "{'parent': 'disk0', 'child': 'file'}", .errors = change_errors },
    { "query-named-block-nodes", "the nodes, with their images and dirty bitmaps", &query_args,
      &node_array, run_query },
    { NULL },
};

const QmpFamily qmp_family_blockdev = { "Block nodes", commands, events };
