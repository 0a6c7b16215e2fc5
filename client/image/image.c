/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/image/image.c: the graph that images are opened in, for the time of a command. */
#include "client/image/image.h"
#include "bitmap/store/store.h"
#include "block/image/image.h"
#include "s3/s3.h"
#include "util/json.h"
#include "util/log.h"
#include "util/sys.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* ---- what is to be opened, as BlockdevOptions */

/* Whether a writer holds its lock: QEMU's byte of the permission to write, 100 and 1 (see
 * block/drivers/file/lock.c). */
static bool is_written(const char *path)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1 };
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    bool held = fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;

    if (fd >= 0)
        close(fd);
    return held;
}

bool tc_image_check_written(const TcLayer *layer, const TcImageOptions *options, GError **error)
{
    return options->writable || options->force_share || layer->definition ||
           !strcmp(layer->format, "raw") || !is_written(layer->path) ||
           tm_error_set(error,
                        "another process has '%s' open for writing; use --force-share to open it "
                        "nevertheless",
                        layer->path);
}

static json_object *file_options(const char *path, const TcImageOptions *options)
{
    json_object *file = json_object_new_object();

    tm_json_add_string(file, "driver", "file");
    tm_json_add_string(file, "filename", path);
    tm_json_add_bool(file, "read-only", !options->writable);
    tm_json_add_bool(file, "force-share", options->force_share);
    if (options->writable) /* what is discarded is to be free */
        tm_json_add_string(file, "discard", "unmap");
    return file;
}

/* That the file which has the data of @layer, if not itself, may be opened. */
static bool check_data_file(const TcLayer *layer, const TcImageOptions *options, GError **error)
{
    g_autofree char *path = NULL;

    if (!layer->names.data_file || layer->definition) /* of which the driver decides */
        return true;
    if (!options->names || !strcmp(options->names, "none"))
        return tm_error_set(error,
                            "the data of '%s' is in '%s', which --backing-names does not allow",
                            layer->path, layer->names.data_file);
    path = tc_image_path(layer->path, layer->names.data_file, options->names, error);
    return path != NULL;
}

/* A raw image's bitmaps are those of the node that the store beside it is of. */
static bool is_of_raw_node(const char *path)
{
    g_autofree char *store = g_strconcat(path, BMP_STORE_SUFFIX, NULL);
    uint8_t boot_id[16] = { 0 };
    BmpStoreInfo info = { 0 };
    bool raw = bmp_store_inspect(&tm_sys_kernel, store, NULL, boot_id, &info, NULL) &&
               !strcmp(info.super.layer, "raw");

    bmp_store_info_clear(&info);
    return raw;
}

static json_object *raw_options(const TcLayer *layer, const TcImageOptions *options)
{
    json_object *file = file_options(layer->path, options), *raw;

    if (!options->bitmaps || !is_of_raw_node(layer->path))
        return file;
    raw = json_object_new_object();
    tm_json_add_string(raw, "driver", "raw");
    json_object_object_add(raw, "file", file);
    tm_json_add_bool(raw, "read-only", !options->writable);
    return raw;
}

/* The definition of @layer, or its member @part, to be read. A new reference. */
static json_object *described_options(const TcLayer *layer, const char *part)
{
    json_object *object = NULL;

    json_object_deep_copy(
        part ? json_object_object_get(layer->definition, part) : layer->definition, &object, NULL);
    tm_json_add_bool(object, "read-only", true);
    return object;
}

/* The topmost image. The driver opens what it names, as it does in the daemon. A new reference. */
static json_object *top_options(GPtrArray *layers, const TcImageOptions *options)
{
    const TcLayer *layer = layers->pdata[0];
    json_object *image;

    if (layer->definition)
        return described_options(layer, NULL);
    if (!strcmp(layer->format, "raw"))
        return raw_options(layer, options);
    image = json_object_new_object();
    tm_json_add_string(image, "driver", layer->format);
    tm_json_add_bool(image, "read-only", !options->writable);
    tm_json_add_bool(image, "force-share", options->force_share);
    if (options->writable)
        tm_json_add_string(image, "discard", "unmap");
    json_object_object_add(image, "file", file_options(layer->path, options));
    tm_json_add_string(image, "backing-names", options->names ? options->names : "none");
    if (layers->len == 1)
        json_object_object_add(image, "backing", NULL);
    return image;
}

/* Only the topmost is written. */
static json_object *chain_options(GPtrArray *layers, const TcImageOptions *options, GError **error)
{
    for (guint i = layers->len; i-- > 0;) {
        TcImageOptions o = *options;

        o.writable = options->writable && i == 0;
        if (!tc_image_check_written(layers->pdata[i], &o, error) ||
            !check_data_file(layers->pdata[i], &o, error))
            return NULL;
    }
    return top_options(layers, options);
}

/* ---- opening and closing */

/* What is read may be written by others, but stays as long as it is. */
static bool use(TcImage *image, BlkNode *node, bool writes, GError **error)
{
    unsigned needs = BLK_PERM_CONSISTENT_READ | (writes ? BLK_PERM_WRITE : 0);
    unsigned shares = writes ? BLK_PERM_ALL : BLK_PERM_ALL & ~(BLK_PERM_RESIZE | BLK_PERM_GROW);
    BlkUser *user = blk_node_use(node, "this program", needs, shares, error);

    if (user)
        g_ptr_array_add(image->users, user);
    return user != NULL;
}

/* Takes @object. NULL is fine. */
static bool add(TcImage *image, json_object *object, const TcImageOptions *options, BlkNode **node,
                GError **error)
{
    g_autofree char *name = NULL;
    g_autoptr(GPtrArray) all = blk_graph_nodes(image->graph);

    if (!object)
        return false;
    name = g_strdup_printf("image%u", all->len);
    tm_json_add_string(object, "node-name", name);
    blk_graph_set_stores(image->graph, options->bitmaps);
    *node = blk_graph_add(image->graph, object, error);
    json_object_put(object);
    return *node && use(image, *node, options->writable, error);
}

bool tc_image_add_layers(TcImage *image, GPtrArray *layers, const TcImageOptions *options,
                         BlkNode **node, GError **error)
{
    return add(image, chain_options(layers, options, error), options, node, error);
}

BlkNode *tc_image_add_bytes(TcImage *image, const TcLayer *layer, const TcImageOptions *options,
                            GError **error)
{
    bool raw = !strcmp(layer->format, "raw");
    BlkNode *node;

    if (!layer->definition)
        return add(image, file_options(layer->path, options), options, &node, error) ? node : NULL;
    return add(image, described_options(layer, raw ? NULL : "file"), options, &node, error) ? node
                                                                                            : NULL;
}

bool tc_image_begin(TcImage *image, GError **error)
{
    BlkEngineOptions options = { .loops = 1, .workers = 4, .io = BLK_IO_THREADS };
    const TmSys *sys = image->sys ? image->sys : &tm_sys_kernel;

    image->engine = blk_engine_new(&options, error);
    if (!image->engine)
        return false;
    image->registry = blk_registry_new(sys);
    blk_registry_add(image->registry, s3_driver_init); /* images of repositories in buckets */
    image->graph = blk_graph_new(image->registry, image->engine, sys);
    image->users = g_ptr_array_new_with_free_func((GDestroyNotify)blk_node_release);
    image->log = tm_log_new(NULL);
    blk_graph_set_log(image->graph, image->log);
    blk_graph_set_names_files(image->graph);
    blk_graph_set_stores(image->graph, false);
    return true;
}

bool tc_image_finish(TcImage *image, GError **error)
{
    bool ok = !image->graph || blk_graph_flush_all(image->graph, error);

    g_clear_pointer(&image->users, g_ptr_array_unref);
    if (!blk_graph_free(image->graph) && ok)
        ok = tm_error_set(error, "some data in memory could not be written to the image");
    blk_engine_free(image->engine);
    blk_registry_free(image->registry);
    tm_log_free(image->log);
    g_clear_pointer(&image->layers, g_ptr_array_unref);
    *image = (TcImage){ 0 };
    return ok;
}

void tc_image_clear(TcImage *image)
{
    tc_image_finish(image, NULL);
}

const TcLayer *tc_image_layer(const TcImage *image)
{
    return image->layers->pdata[0];
}
