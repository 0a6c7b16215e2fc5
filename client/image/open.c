/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/image/open.c: images opened by their paths. */
#include "client/image/image.h"

#include <string.h>

/* What befell bitmaps, as the line that a daemon would log. */
static void heard(void *opaque, const char *name, json_object *data)
{
    json_object *bitmap = NULL, *reason = NULL;

    if (!strcmp(name, "BITMAP_DEGRADED") && json_object_object_get_ex(data, "reason", &reason)) {
        const char *why = json_object_get_string(reason);

        json_object_object_get_ex(data, "bitmap", &bitmap);
        g_ptr_array_add(
            opaque, bitmap ? g_strdup_printf("bitmap '%s': %s", json_object_get_string(bitmap), why)
                           : g_strdup(why));
    }
    json_object_put(data);
}

bool tc_image_open(const char *path, const TcImageOptions *options, TcImage *image, GError **error)
{
    *image = (TcImage){ 0 };
    image->layers =
        tc_image_layers(path, options->format, options->chain ? options->names : NULL, error);
    if (image->layers && tc_image_begin(image, error)) {
        if (options->reports) {
            blk_graph_set_events(image->graph, heard, options->reports);
            blk_graph_set_log(image->graph, NULL);
        }
        if (tc_image_add_layers(image, image->layers, options, &image->node, error))
            return true;
    }
    tc_image_clear(image);
    return false;
}

BlkNode *tc_image_add(TcImage *image, const char *path, const TcImageOptions *options,
                      GError **error)
{
    g_autoptr(GPtrArray) layers =
        tc_image_layers(path, options->format, options->chain ? options->names : NULL, error);
    BlkNode *node = NULL;

    return layers && tc_image_add_layers(image, layers, options, &node, error) ? node : NULL;
}
