/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/describe.c: what QMP's listings show of an open image, and the client of a
 * file.
 *
 * Source: QEMU qapi/block-core.json, ImageInfo and ImageInfoSpecificQCow2. */
#include "block/drivers/qcow2/bitmaps.h"
#include "block/drivers/qcow2/snapshots.h"

#include "util/json.h"

#include <json-c/json.h>
#include <string.h>

static json_object *specific(const Qcow2Header *h)
{
    json_object *data = json_object_new_object(), *info = json_object_new_object();

    tm_json_add_string(data, "compat", h->version < 3 ? "0.10" : "1.1");
    tm_json_add_string(data, "compression-type", h->compression == QCOW2_ZSTD ? "zstd" : "zlib");
    json_object_object_add(data, "refcount-bits", json_object_new_int(1 << h->refcount_order));
    if (h->version >= 3) {
        tm_json_add_bool(data, "lazy-refcounts", h->compatible & QCOW2_COMPATIBLE_LAZY);
        tm_json_add_bool(data, "corrupt",
                         __atomic_load_n(&h->incompatible, __ATOMIC_RELAXED) &
                             QCOW2_INCOMPATIBLE_CORRUPT);
        tm_json_add_bool(data, "extended-l2", h->extended_l2);
        if (h->external_data) {
            if (h->data_file)
                tm_json_add_string(data, "data-file", h->data_file);
            tm_json_add_bool(data, "data-file-raw", h->data_raw);
        }
    }
    tm_json_add_string(info, "type", "qcow2");
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

static json_object *snapshot_json(const Qcow2Snapshot *s)
{
    json_object *o = json_object_new_object();

    tm_json_add_string(o, "id", s->id);
    tm_json_add_string(o, "name", s->name);
    tm_json_add_uint(o, "vm-state-size", s->vm_state_size);
    tm_json_add_uint(o, "date-sec", s->date_seconds);
    tm_json_add_uint(o, "date-nsec", s->date_nanoseconds);
    tm_json_add_uint(o, "vm-clock-sec", s->vm_clock_nanoseconds / 1000000000);
    tm_json_add_uint(o, "vm-clock-nsec", s->vm_clock_nanoseconds % 1000000000);
    if (s->icount != UINT64_MAX)
        tm_json_add_uint(o, "icount", s->icount);
    return o;
}

static bool add_snapshots(json_object *image, BlkNode *file, const Qcow2Header *h, GError **error)
{
    uint64_t bytes;
    bool cut;
    g_autoptr(GArray) list = qcow2_snapshots_read(file, h, &bytes, &cut, error);
    json_object *array;

    if (!list)
        return false;
    if (!list->len)
        return true;
    array = json_object_new_array();
    for (guint i = 0; i < list->len; i++)
        json_object_array_add(array, snapshot_json(&g_array_index(list, Qcow2Snapshot, i)));
    json_object_object_add(image, "snapshots", array);
    return true;
}

bool qcow2_describe(BlkNode *file, const Qcow2Header *h, json_object *image, GError **error)
{
    json_object *filename;

    if (h->backing && json_object_object_get_ex(image, "filename", &filename)) {
        g_autofree char *full = full_name(json_object_get_string(filename), h->backing);

        tm_json_add_string(image, "backing-filename", h->backing);
        tm_json_add_string(image, "full-backing-filename", full);
        if (h->backing_format)
            tm_json_add_string(image, "backing-filename-format", h->backing_format);
    }
    tm_json_add_bool(image, "dirty-flag", h->incompatible & QCOW2_INCOMPATIBLE_DIRTY);
    json_object_object_add(image, "format-specific", specific(h));
    return add_snapshots(image, file, h, error);
}

/* A check reports an impossible table of snapshots. */
static void describe(void *handle, json_object *image)
{
    const Qcow2 *q = handle;

    qcow2_describe(blk_node_child(q->node, QCOW2_FILE), &q->header, image, NULL);
}

const BlkFormat blk_format_qcow2 = { .describe = describe, .bitmaps = &qcow2_kept_bitmaps };
