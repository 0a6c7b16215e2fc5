/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/image/layers.c: which format an image has, and the chain of images that it begins. */
#include "client/image/image.h"

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

/* The path of the layer below @layer. Returned. */
static char *next_path(GPtrArray *layers, const TcLayer *layer, const char *names, GError **error)
{
    g_autofree char *path = tc_image_path(layer->path, layer->names.backing, names, error);

    if (!path)
        return NULL;
    if (!layer->names.backing_format) {
        tm_error_set(error,
                     "'%s' does not record the format of its backing file '%s', and formats are "
                     "never guessed: record it with 'qemu-img rebase -u -b %s -F FORMAT %s'",
                     layer->path, layer->names.backing, layer->names.backing, layer->path);
        return NULL;
    }
    for (guint i = 0; i < layers->len; i++) {
        if (tc_image_same(((TcLayer *)layers->pdata[i])->path, path)) {
            tm_error_set(error, "the backing chain of '%s' is a loop: '%s' comes again",
                         ((TcLayer *)layers->pdata[0])->path, path);
            return NULL;
        }
    }
    if (layers->len >= BLK_IMAGE_CHAIN_MAX) {
        tm_error_set(error, "the backing chain of '%s' has more than %u images",
                     ((TcLayer *)layers->pdata[0])->path, BLK_IMAGE_CHAIN_MAX);
        return NULL;
    }
    return g_steal_pointer(&path);
}

GPtrArray *tc_image_layers(const char *path, const char *format, const char *names, GError **error)
{
    g_autoptr(GPtrArray) layers = g_ptr_array_new_with_free_func(layer_free);
    TcLayer *layer =
        tc_image_check_path(path, error) ? add_layer(layers, g_strdup(path), format, error) : NULL;

    while (layer && names && strcmp(names, "none") && layer->names.backing) {
        char *next = next_path(layers, layer, names, error);

        layer = next ? add_layer(layers, next, layer->names.backing_format, error) : NULL;
    }
    return layer ? g_steal_pointer(&layers) : NULL;
}
