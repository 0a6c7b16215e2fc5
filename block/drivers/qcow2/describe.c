/* block/drivers/qcow2/describe.c: what QMP's listings tell of an open image.
 *
 * Source: QEMU qapi/block-core.json, ImageInfo and ImageInfoSpecificQCow2. */
#include "block/drivers/qcow2/qcow2.h"

#include <json-c/json.h>
#include <string.h>

static void add_string(json_object *to, const char *key, const char *value)
{
    json_object_object_add(to, key, json_object_new_string(value));
}

static void add_bool(json_object *to, const char *key, bool value)
{
    json_object_object_add(to, key, json_object_new_boolean(value));
}

static json_object *specific(const Qcow2 *q)
{
    const Qcow2Header *h = &q->header;
    json_object *data = json_object_new_object(), *info = json_object_new_object();

    add_string(data, "compat", h->version < 3 ? "0.10" : "1.1");
    add_string(data, "compression-type", h->compression == QCOW2_ZSTD ? "zstd" : "zlib");
    json_object_object_add(data, "refcount-bits", json_object_new_int(1 << h->refcount_order));
    if (h->version >= 3) {
        add_bool(data, "lazy-refcounts", h->compatible & QCOW2_COMPATIBLE_LAZY);
        add_bool(data, "corrupt",
                 __atomic_load_n(&h->incompatible, __ATOMIC_RELAXED) & QCOW2_INCOMPATIBLE_CORRUPT);
        add_bool(data, "extended-l2", h->extended_l2);
        if (h->external_data) {
            if (h->data_file)
                add_string(data, "data-file", h->data_file);
            add_bool(data, "data-file-raw", h->data_raw);
        }
    }
    add_string(info, "type", "qcow2");
    json_object_object_add(info, "data", data);
    return info;
}

/* Relative to the image's directory, where it is a path. */
static char *full_name(const char *image, const char *name)
{
    const char *colon = strchr(name, ':'), *slash = strchr(name, '/');
    g_autofree char *directory = g_path_get_dirname(image);

    if (g_path_is_absolute(name) || (colon && (!slash || colon < slash)) || !strchr(image, '/'))
        return g_strdup(name);
    return g_build_filename(directory, name, NULL);
}

static void describe(void *handle, json_object *image)
{
    const Qcow2 *q = handle;
    json_object *filename;

    if (q->header.backing && json_object_object_get_ex(image, "filename", &filename)) {
        g_autofree char *full = full_name(json_object_get_string(filename), q->header.backing);

        add_string(image, "backing-filename", q->header.backing);
        add_string(image, "full-backing-filename", full);
        if (q->header.backing_format)
            add_string(image, "backing-filename-format", q->header.backing_format);
    }
    add_bool(image, "dirty-flag", q->header.incompatible & QCOW2_INCOMPATIBLE_DIRTY);
    json_object_object_add(image, "format-specific", specific(q));
}

const BlkFormat blk_format_qcow2 = { .driver = &blk_driver_qcow2, .describe = describe };
