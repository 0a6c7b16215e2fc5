/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/image/layers.c: which format an image has, and the chain of images that it begins. */
#include "client/image/image.h"

#include "block/described.h"
#include "block/image/image.h"

#include <string.h>

const char *tc_image_probe(const char *path, GError **error)
{
    TcImageOptions options = { .format = "raw", .force_share = true };
    g_autoptr(GPtrArray) layers = tc_image_layers(path, options.format, NULL, error);
    g_auto(TcImage) image = { 0 };
    const char *format = NULL;
    BlkNode *file;

    if (layers && tc_image_begin(&image, error) &&
        tc_image_add_layers(&image, layers, &options, &file, error))
        format = blk_image_probe(file, error);
    if (!format || !strcmp(format, "raw") || !strcmp(format, "qcow2"))
        return format;
    tm_error_set(
        error,
        "'%s' is a %s image, which is not supported: use --format raw to open it as raw bytes",
        path, format);
    return NULL;
}

/* ---- chains */

static void layer_free(void *data)
{
    TcLayer *layer = data;

    g_free(layer->path);
    g_free(layer->format);
    json_object_put(layer->definition);
    tc_image_names_clear(&layer->names);
    g_free(layer);
}

/* Takes @path. */
static TcLayer *add_layer(GPtrArray *layers, char *path, const char *format, GError **error)
{
    TcLayer *layer = g_new0(TcLayer, 1);

    layer->path = path;
    g_ptr_array_add(layers, layer);
    if (!format)
        format = tc_image_probe(path, error);
    layer->format = g_strdup(format);
    return format && tc_image_names(path, format, &layer->names, error) ? layer : NULL;
}

static bool names_of_described(TcLayer *layer, GError **error)
{
    TcImageOptions options = { .force_share = true };
    g_auto(TcImage) image = { 0 };
    BlkNode *bytes;

    if (strcmp(layer->format, "qcow2"))
        return true;
    bytes =
        tc_image_begin(&image, error) ? tc_image_add_bytes(&image, layer, &options, error) : NULL;
    return bytes && tc_image_names_through(bytes, layer->path, &layer->names, error);
}

/* Where the definition is no more than a path, a path is what is added. */
static TcLayer *add_described(GPtrArray *layers, const char *name, const char *format,
                              GError **error)
{
    json_object *definition = blk_name_definition(name, format, error);
    const char *path = definition ? blk_name_definition_path(definition) : NULL, *is;
    TcLayer *layer = NULL;

    if (!definition)
        return NULL;
    is = json_object_get_string(json_object_object_get(definition, "driver"));
    if (path) {
        layer = add_layer(layers, g_strdup(path), is, error);
    } else {
        layer = g_new0(TcLayer, 1);
        g_ptr_array_add(layers, layer);
        layer->path = g_strdup(name);
        layer->format = g_strdup(is);
        layer->definition = json_object_get(definition);
        layer = names_of_described(layer, error) ? layer : NULL;
        if (layer && json_object_object_get_ex(definition, "backing", NULL))
            g_clear_pointer(&layer->names.backing, g_free); /* it is null: the chain ends there */
    }
    json_object_put(definition);
    return layer;
}

GPtrArray *tc_image_layers_described(const char *name, const char *format, GError **error)
{
    g_autoptr(GPtrArray) layers = g_ptr_array_new_with_free_func(layer_free);

    return add_described(layers, name, format, error) ? g_steal_pointer(&layers) : NULL;
}

/* The file that the names in an image are relative to; NULL: it is in none. */
static const char *place(const TcLayer *layer)
{
    json_object *file = json_object_object_get(layer->definition, "file");

    return layer->definition ? json_object_get_string(json_object_object_get(file, "filename"))
                             : layer->path;
}

static TcLayer *add_named(GPtrArray *layers, const TcLayer *above, const char *names,
                          GError **error)
{
    const char *name = above->names.backing, *format = above->names.backing_format;
    const char *at = place(above);
    TcLayer *layer;
    char *path;

    if (!blk_name_is_path(name) && !strcmp(names, "any")) {
        layer = add_described(layers, name, format, error);
        if (!layer && error && *error)
            g_prefix_error(error, "'%s' names '%s': ", above->path, name);
        return layer;
    }
    if (!at && !g_path_is_absolute(name)) {
        tm_error_set(error, "'%s' names '%s', which is relative, but the image is in no file",
                     above->path, name);
        return NULL;
    }
    path = tc_image_path(at ? at : above->path, name, names, error);
    if (path && format)
        return add_layer(layers, path, format, error);
    if (path)
        tm_error_set(error,
                     "'%s' does not record the format of its backing file '%s', and formats are "
                     "never guessed: record it with 'qemu-img rebase -u -b %s -F FORMAT %s'",
                     above->path, name, name, above->path);
    g_free(path);
    return NULL;
}

/* That the last one was not there before, and that there are not too many. */
static bool check_chain(GPtrArray *layers, GError **error)
{
    const char *first = ((TcLayer *)layers->pdata[0])->path;
    const char *last = ((TcLayer *)layers->pdata[layers->len - 1])->path;

    for (guint i = 0; i + 1 < layers->len; i++) {
        if (tc_image_same(((TcLayer *)layers->pdata[i])->path, last))
            return tm_error_set(error, "the backing chain of '%s' is a loop: '%s' comes again",
                                first, last);
    }
    return layers->len <= BLK_IMAGE_CHAIN_MAX ||
           tm_error_set(error, "the backing chain of '%s' has more than %u images", first,
                        BLK_IMAGE_CHAIN_MAX);
}

GPtrArray *tc_image_layers(const char *path, const char *format, const char *names, GError **error)
{
    g_autoptr(GPtrArray) layers = g_ptr_array_new_with_free_func(layer_free);
    TcLayer *layer =
        tc_image_check_path(path, error) ? add_layer(layers, g_strdup(path), format, error) : NULL;

    while (layer && names && strcmp(names, "none") && layer->names.backing) {
        layer = add_named(layers, layer, names, error);
        if (layer && !check_chain(layers, error))
            layer = NULL;
    }
    return layer ? g_steal_pointer(&layers) : NULL;
}
