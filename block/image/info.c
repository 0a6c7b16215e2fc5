/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/image/info.c: what an image says of itself, as `qemu-img info` and `qemu-img check` put
 * it. */
#include "block/drivers/qcow2/check.h"
#include "block/image/image.h"

#include "util/endian.h"
#include "util/error.h"
#include "util/json.h"
#include "util/range.h"

#include <inttypes.h>
#include <string.h>

/* ---- checks */

json_object *blk_image_check_json(const BlkImageCheck *r)
{
    json_object *o = json_object_new_object();

    tm_json_add_uint(o, "image-end-offset", r->image_end);
    /* QEMU leaves out what is 0. */
    if (r->total_clusters)
        tm_json_add_uint(o, "total-clusters", r->total_clusters);
    if (r->allocated_clusters)
        tm_json_add_uint(o, "allocated-clusters", r->allocated_clusters);
    if (r->fragmented_clusters)
        tm_json_add_uint(o, "fragmented-clusters", r->fragmented_clusters);
    if (r->compressed_clusters)
        tm_json_add_uint(o, "compressed-clusters", r->compressed_clusters);
    tm_json_add_uint(o, "check-errors", r->check_errors);
    if (r->corruptions)
        tm_json_add_uint(o, "corruptions", r->corruptions);
    if (r->leaks)
        tm_json_add_uint(o, "leaks", r->leaks);
    if (r->corruptions_fixed)
        tm_json_add_uint(o, "corruptions-fixed", r->corruptions_fixed);
    if (r->leaks_fixed)
        tm_json_add_uint(o, "leaks-fixed", r->leaks_fixed);
    return o;
}

/* ---- formats */

typedef struct Magic {
    const char *format;
    uint32_t offset, length;
    const char *bytes;
} Magic;

static const Magic magics[] = {
    { "qcow", 0, 8, "QFI\xfb\0\0\0\1" },
    { "qcow2", 0, 4, "QFI\xfb" }, /* of any later version: opening it reports that */
    { "qed", 0, 4, "QED\0" },
    { "vmdk", 0, 4, "KDMV" },
    { "vmdk", 0, 4, "COWD" },
    { "vdi", 64, 4, "\x7f\x10\xda\xbe" },
    { "vhdx", 0, 8, "vhdxfile" },
    { "vpc", 0, 8, "conectix" },
    { "luks", 0, 6, "LUKS\xba\xbe" },
    { "parallels", 0, 16, "WithoutFreeSpace" },
};

const char *blk_image_probe(BlkNode *file, GError **error)
{
    uint8_t start[512] = { 0 };
    uint64_t length = tm_min(blk_node_size(file), sizeof(start));
    int ret = length ? blk_node_pread(file, start, 0, length) : 0;

    if (ret < 0) {
        tm_error_set_errno(error, -ret, "Could not read image for determining its format");
        return NULL;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(magics); i++)
        if (!memcmp(start + magics[i].offset, magics[i].bytes, magics[i].length))
            return magics[i].format;
    return "raw";
}

/* ---- qcow2 */

static json_object *bitmap_json(const Qcow2DirectoryEntry *b)
{
    json_object *o = json_object_new_object(), *flags = json_object_new_array();

    if (b->flags & 1)
        json_object_array_add(flags, json_object_new_string("in-use"));
    if (b->flags & 2)
        json_object_array_add(flags, json_object_new_string("auto"));
    json_object_object_add(o, "flags", flags);
    tm_json_add_string(o, "name", b->name);
    tm_json_add_uint(o, "granularity", UINT64_C(1) << b->granularity_bits);
    return o;
}

static bool add_bitmaps(json_object *info, BlkNode *file, const Qcow2Header *h, GError **error)
{
    json_object *data =
        json_object_object_get(json_object_object_get(info, "format-specific"), "data");
    g_autoptr(GArray) list = NULL;
    json_object *array;

    if (!h->has_bitmaps || !(h->autoclear & QCOW2_AUTOCLEAR_BITMAPS) || !h->n_bitmaps)
        return true;
    list = qcow2_directory_read(file, h, error);
    if (!list)
        return false;
    array = json_object_new_array();
    for (guint i = 0; i < list->len; i++)
        json_object_array_add(array, bitmap_json(&g_array_index(list, Qcow2DirectoryEntry, i)));
    json_object_object_add(data, "bitmaps", array);
    return true;
}

static bool add_qcow2(json_object *info, BlkNode *file, GError **error)
{
    Qcow2Header h;
    g_autofree char *why = NULL;
    int ret = qcow2_header_load(file, &h, &why);
    bool ok;

    if (ret < 0)
        return why ? tm_error_set(error, "%s", why)
                   : tm_error_set_errno(error, -ret, "Could not read qcow2 header");
    tm_json_add_uint(info, "virtual-size", h.size);
    tm_json_add_uint(info, "cluster-size", UINT64_C(1) << h.cluster_bits);
    ok = qcow2_describe(file, &h, info, error) && add_bitmaps(info, file, &h, error);
    qcow2_header_clear(&h);
    return ok;
}

json_object *blk_image_info(BlkNode *file, const char *format, GError **error)
{
    struct tidemark_info facts = { .struct_size = sizeof(facts) };
    g_autofree char *filename = blk_node_filename(file);
    json_object *info;
    bool ok = true;

    if (!format)
        format = blk_image_probe(file, error);
    if (!format)
        return NULL;
    if (strcmp(format, "qcow2") && strcmp(format, "raw")) {
        tm_error_set(error, "Images of format '%s' are not supported", format);
        return NULL;
    }
    info = json_object_new_object();
    blk_node_info(file, &facts);
    tm_json_add_string(info, "filename", filename);
    tm_json_add_string(info, "format", format);
    if (facts.allocated != UINT64_MAX)
        tm_json_add_uint(info, "actual-size", facts.allocated);
    if (g_str_equal(format, "qcow2")) {
        ok = add_qcow2(info, file, error);
    } else {
        tm_json_add_uint(info, "virtual-size", blk_node_size(file));
        tm_json_add_bool(info, "dirty-flag", false);
    }
    if (ok)
        return info;
    json_object_put(info);
    return NULL;
}
