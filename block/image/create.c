/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/image/create.c: creating images: the options, the nodes, and raw files. */
#include "block/disk.h"
#include "block/image/image.h"
#include "block/node_internal.h"

#include "util/error.h"
#include "util/file.h"
#include "util/range.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>

/* Of whoever makes an image in a node. */
#define NEEDS (BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE)

struct BlkImageCreate {
    BlkGraph *graph;
    const struct tidemark_driver *kind; /* the entry of the list below */
    BlkOptions *options;
    BlkUser *file, *data_file;
    char *made; /* the file that was not there before */
};

/* ---- what can be created: tables as a driver's, for the check of options alone */

static const char *const file_preallocations[] = { "off", "metadata", "falloc", "full", NULL };

static const struct tidemark_option file_create_options[] = {
    { .name = "filename", .type = TIDEMARK_OPTION_STRING, .required = 1 },
    { .name = "size", .type = TIDEMARK_OPTION_SIZE, .required = 1 },
    { .name = "preallocation",
      .type = TIDEMARK_OPTION_ENUM,
      .choices = file_preallocations,
      .default_value = "off" },
    { .name = "nocow", .type = TIDEMARK_OPTION_BOOL, .default_value = "off" },
    { .name = "extent-size-hint", .type = TIDEMARK_OPTION_SIZE, .default_value = "1048576" },
    { 0 },
};

static const struct tidemark_child qcow2_create_children[] = { { "file", 1 },
                                                               { "data-file", 0 },
                                                               { 0 } };

static const struct tidemark_driver create_file = { .name = "file",
                                                    .options = file_create_options };
static const struct tidemark_driver create_qcow2 = { .name = "qcow2",
                                                     .options = qcow2_create_options,
                                                     .children = qcow2_create_children };
static const struct tidemark_driver *const kinds[] = { &create_file, &create_qcow2, NULL };

/* ---- nodes */

/* The node that a child is to be: one that there is, or one opened for the while. */
static bool use_node(BlkImageCreate *c, json_object *value, BlkUser **user, GError **error)
{
    g_autoptr(BlkNode) own = NULL;
    BlkNode *node;

    if (json_object_is_type(value, json_type_string)) {
        const char *name = json_object_get_string(value);

        node = blk_graph_lookup(c->graph, name, name, error);
    } else {
        node = own = blk_graph_open_child(c->graph, value, error);
    }
    if (!node)
        return false;
    if (blk_node_read_only(node))
        return tm_error_set(error, "Block node is read-only");
    *user = blk_node_use(node, BLK_USER_UNNAMED, NEEDS, BLK_PERM_ALL, error);
    return *user != NULL;
}

/* From here on nobody else makes it longer or shorter. */
static bool hold_size(BlkUser *user, GError **error)
{
    return !user ||
           blk_user_set(user, NEEDS, BLK_PERM_ALL & ~(BLK_PERM_RESIZE | BLK_PERM_GROW), error);
}

/* A device stays as long as it is; what a file holds is gone. */
static bool empty(BlkImageCreate *c, GError **error)
{
    BlkNode *node = blk_user_node(c->file);

    if (!blk_graph_resize(c->graph, node, 0, error))
        g_clear_error(error); /* it can't be made shorter: then it is written over */
    return hold_size(c->file, error) && hold_size(c->data_file, error);
}

static bool begin_qcow2(BlkImageCreate *c, GError **error)
{
    json_object *file = NULL, *data_file = NULL;

    blk_options_child(c->options, "file", &file);
    blk_options_child(c->options, "data-file", &data_file);
    return qcow2_create_check(c->options, data_file != NULL, error) &&
           use_node(c, file, &c->file, error) &&
           (!data_file || use_node(c, data_file, &c->data_file, error)) && empty(c, error);
}

/* ---- files */

static bool make_file(BlkImageCreate *c, const char *path, GError **error)
{
    const TmSys *sys = blk_graph_sys(c->graph);
    int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    int fd = sys->open(path, flags | O_EXCL, 0644);

    if (fd >= 0)
        c->made = g_strdup(path);
    else if (errno == EEXIST)
        fd = sys->open(path, flags, 0644);
    if (fd < 0)
        return tm_error_set_errno(error, errno, "Could not create '%s'", path);
    sys->close(fd);
    return true;
}

/* Of a file that is empty, as good as the file system can, as in QEMU. */
static void set_attributes(const BlkImageCreate *c)
{
    const TmSys *sys = blk_graph_sys(c->graph);
    int fd = blk_disk_fd(blk_user_node(c->file)), flags;
    uint32_t hint = (uint32_t)blk_options_uint(c->options, "extent-size-hint");
    struct fsxattr attributes;

    if (blk_options_bool(c->options, "nocow") && sys->ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags |= FS_NOCOW_FL;
        sys->ioctl(fd, FS_IOC_SETFLAGS, &flags);
    }
    if (hint && sys->ioctl(fd, FS_IOC_FSGETXATTR, &attributes) == 0) {
        attributes.fsx_xflags |= FS_XFLAG_EXTSIZE;
        attributes.fsx_extsize = hint;
        sys->ioctl(fd, FS_IOC_FSSETXATTR, &attributes);
    }
}

static bool begin_file(BlkImageCreate *c, GError **error)
{
    const char *path = blk_options_string(c->options, "filename");
    json_object *definition;
    bool ok;

    if (g_str_equal(blk_options_string(c->options, "preallocation"), "metadata"))
        return tm_error_set(error, "Unsupported preallocation mode: metadata");
    if (blk_options_uint(c->options, "extent-size-hint") > UINT32_MAX)
        return tm_error_set(error, "Extent size hint is too large");
    if (!make_file(c, path, error))
        return false;
    definition = json_object_new_object();
    json_object_object_add(definition, "driver", json_object_new_string("file"));
    json_object_object_add(definition, "filename", json_object_new_string(path));
    ok = use_node(c, definition, &c->file, error) && empty(c, error);
    json_object_put(definition);
    if (ok)
        set_attributes(c);
    return ok;
}

static bool run_file(BlkImageCreate *c, BlkProgress *work, GError **error)
{
    const char *mode = blk_options_string(c->options, "preallocation");
    uint64_t size = blk_options_uint(c->options, "size");
    BlkNode *node = blk_user_node(c->file);
    int ret = blk_node_grow(node, size);

    if (ret < 0)
        return tm_error_set_errno(error, -ret, "Could not resize file");
    work->total = size;
    if (!g_str_equal(mode, "off") &&
        !blk_preallocate(node, 0, size, g_str_equal(mode, "full"), work, error))
        return false;
    ret = blk_node_flush(node);
    if (ret < 0)
        return tm_error_set_errno(error, -ret, "Could not flush node '%s'", blk_node_name(node));
    ret = c->made ? tm_file_sync_name(blk_graph_sys(c->graph), c->made) : 0;
    if (ret < 0)
        return tm_error_set_errno(error, -ret, "Could not sync the directory of '%s'", c->made);
    return true;
}

/* ---- all of it */

static const struct tidemark_driver *find_kind(json_object *options, GError **error)
{
    json_object *name;

    if (!json_object_object_get_ex(options, "driver", &name)) {
        tm_error_set(error, "Parameter 'driver' is missing");
        return NULL;
    }
    for (size_t i = 0; kinds[i]; i++)
        if (g_str_equal(kinds[i]->name, json_object_get_string(name)))
            return kinds[i];
    tm_error_set(error, "Driver '%s' does not support image creation",
                 json_object_get_string(name));
    return NULL;
}

static void remove_made(BlkImageCreate *c)
{
    if (c->made)
        blk_graph_sys(c->graph)->unlink(c->made);
    g_clear_pointer(&c->made, g_free);
}

BlkImageCreate *blk_image_create_begin(BlkGraph *graph, json_object *options, GError **error)
{
    const struct tidemark_driver *kind = find_kind(options, error);
    BlkImageCreate *c;

    if (!kind)
        return NULL;
    if (json_object_object_get_ex(options, "encrypt", NULL)) {
        tm_error_set(error, "qcow2: encrypted images are not supported");
        return NULL;
    }
    c = g_new0(BlkImageCreate, 1);
    c->graph = graph;
    c->kind = kind;
    c->options = blk_options_parse(kind, options, error);
    if (c->options && (kind == &create_file ? begin_file : begin_qcow2)(c, error))
        return c;
    blk_image_create_end(c);
    return NULL;
}

bool blk_image_create_run(BlkImageCreate *c, BlkProgressFn progress, void *opaque, GError **error)
{
    BlkProgress work = { .fn = progress, .opaque = opaque };
    bool ok;

    if (c->kind == &create_file)
        ok = run_file(c, &work, error);
    else
        ok = qcow2_create(blk_user_node(c->file), c->data_file ? blk_user_node(c->data_file) : NULL,
                          c->options, &work, error);
    if (ok)
        g_clear_pointer(&c->made, g_free);
    return ok;
}

void blk_image_create_end(BlkImageCreate *c)
{
    if (!c)
        return;
    remove_made(c);
    blk_node_release(c->file);
    blk_node_release(c->data_file);
    blk_graph_settle(c->graph); /* what was opened for this alone */
    blk_options_free(c->options);
    g_free(c);
}

bool blk_image_create(BlkGraph *graph, json_object *options, BlkProgressFn progress, void *opaque,
                      GError **error)
{
    BlkImageCreate *c = blk_image_create_begin(graph, options, error);
    bool ok = c && blk_image_create_run(c, progress, opaque, error);

    blk_image_create_end(c);
    return ok;
}
