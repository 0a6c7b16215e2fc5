/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/place_qcow2.c: a qcow2 image, new or as it is. */
#include "block/image/image.h"
#include "client/image/image.h"
#include "client/restore/place_internal.h"
#include "tidemark/driver.h"
#include "util/extent.h"
#include "util/json.h"
#include "util/range.h"

#define SECTOR 512u

static void qcow2_close(TcPlace *d)
{
    TcImage *image = g_steal_pointer(&d->own);

    if (image)
        tc_image_clear(image);
    g_free(image);
}

/* Room for a disk of the place's size, and nothing in it. */
static bool make_image(TcPlace *d, GError **error)
{
    json_object *create = json_object_new_object(), *file = json_object_new_object();
    g_auto(TcImage) maker = { 0 };
    bool ok;

    tm_json_add_string(file, "driver", "file");
    tm_json_add_string(file, "filename", d->path);
    tm_json_add_string(create, "driver", "qcow2");
    json_object_object_add(create, "file", file);
    json_object_object_add(create, "size", json_object_new_uint64(tm_align_up(d->size, SECTOR)));
    ok = tc_image_begin(&maker, error) && blk_image_create(maker.graph, create, NULL, NULL, error);
    json_object_put(create);
    d->fresh = ok;
    return ok;
}

static bool qcow2_begin(TcPlace *d, GError **error)
{
    TcImageOptions options = { .format = "qcow2",
                               .writable = true,
                               .chain = d->options.in_place,
                               .names = "any",
                               .bitmaps = true };
    TcImage *image;

    if (!d->options.in_place && !make_image(d, error))
        return false;
    image = g_new0(TcImage, 1);
    d->own = image;
    return tc_image_open(d->path, &options, image, error);
}

static bool qcow2_finish(TcPlace *d, GError **error)
{
    TcImage *image = d->own;

    if (!tc_image_finish(image, error))
        return false;
    qcow2_close(d);
    return true;
}

static BlkNode *node_of(TcPlace *d)
{
    return ((TcImage *)d->own)->node;
}

static bool qcow2_walk(TcPlace *d, TcExtentFn fn, void *opaque, GError **error)
{
    for (uint64_t offset = 0, length = 0; offset < d->size; offset += length) {
        uint32_t flags = 0;
        int r = blk_node_status_at(node_of(d), offset, d->size - offset, &length, &flags);

        if (r)
            return tc_place_fail(d, "block status of", offset, r, error);
        if (!fn(opaque, offset, length, flags & TM_STATE_ZERO, true, error))
            return false;
    }
    return true;
}

static int qcow2_read(TcPlace *d, void *buf, uint64_t offset, uint64_t length)
{
    return blk_node_pread(node_of(d), buf, offset, length);
}

static int qcow2_write(TcPlace *d, const void *buf, uint64_t offset, uint64_t length)
{
    return blk_node_pwrite(node_of(d), buf, offset, length, 0);
}

static int qcow2_zero(TcPlace *d, uint64_t offset, uint64_t length)
{
    return blk_node_write_zeroes(node_of(d), offset, length, TIDEMARK_MAY_UNMAP);
}

const Kind tc_place_qcow2 = {
    .format = "qcow2",
    .lanes = &tc_plain_lanes,
    .begin = qcow2_begin,
    .finish = qcow2_finish,
    .close = qcow2_close,
    .walk = qcow2_walk,
    .read = qcow2_read,
    .write = qcow2_write,
    .zero = qcow2_zero,
};
