/* block/image_info.c: what an image says of itself, as `qemu-img info` and `qemu-img check` put it.
 */
#include "block/drivers/qcow2/check.h"
#include "block/image_int.h"

#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"

#include <inttypes.h>
#include <string.h>

static void add_uint(json_object *object, const char *key, uint64_t value)
{
    json_object_object_add(object, key, json_object_new_uint64(value));
}

static void add_bool(json_object *object, const char *key, bool value)
{
    json_object_object_add(object, key, json_object_new_boolean(value));
}

static void add_string(json_object *object, const char *key, const char *value)
{
    json_object_object_add(object, key, json_object_new_string(value));
}

/* ---- checks */

json_object *blk_image_check_json(const BlkImageCheck *r)
{
    json_object *o = json_object_new_object();

    add_uint(o, "image-end-offset", r->image_end);
    /* QEMU leaves out what is 0. */
    if (r->total_clusters)
        add_uint(o, "total-clusters", r->total_clusters);
    if (r->allocated_clusters)
        add_uint(o, "allocated-clusters", r->allocated_clusters);
    if (r->fragmented_clusters)
        add_uint(o, "fragmented-clusters", r->fragmented_clusters);
    if (r->compressed_clusters)
        add_uint(o, "compressed-clusters", r->compressed_clusters);
    add_uint(o, "check-errors", r->check_errors);
    if (r->corruptions)
        add_uint(o, "corruptions", r->corruptions);
    if (r->leaks)
        add_uint(o, "leaks", r->leaks);
    if (r->corruptions_fixed)
        add_uint(o, "corruptions-fixed", r->corruptions_fixed);
    if (r->leaks_fixed)
        add_uint(o, "leaks-fixed", r->leaks_fixed);
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
    { "qcow2", 0, 4, "QFI\xfb" }, /* of whatever later version: opening it tells */
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

static json_object *snapshot_json(const Qcow2Snapshot *s)
{
    json_object *o = json_object_new_object();

    add_string(o, "id", s->id);
    add_string(o, "name", s->name);
    add_uint(o, "vm-state-size", s->vm_state_size);
    add_uint(o, "date-sec", s->date_seconds);
    add_uint(o, "date-nsec", s->date_nanoseconds);
    add_uint(o, "vm-clock-sec", s->vm_clock_nanoseconds / 1000000000);
    add_uint(o, "vm-clock-nsec", s->vm_clock_nanoseconds % 1000000000);
    if (s->icount != UINT64_MAX)
        add_uint(o, "icount", s->icount);
    return o;
}

static bool add_snapshots(json_object *info, BlkNode *file, const Qcow2Header *h, GError **error)
{
    uint64_t bytes;
    g_autoptr(GArray) list = qcow2_snapshots_read(file, h, &bytes, error);
    json_object *array;

    if (!list)
        return false;
    if (!list->len)
        return true;
    array = json_object_new_array();
    for (guint i = 0; i < list->len; i++)
        json_object_array_add(array, snapshot_json(&g_array_index(list, Qcow2Snapshot, i)));
    json_object_object_add(info, "snapshots", array);
    return true;
}

static json_object *bitmap_json(const Qcow2DirectoryEntry *b)
{
    json_object *o = json_object_new_object(), *flags = json_object_new_array();

    if (b->flags & 1)
        json_object_array_add(flags, json_object_new_string("in-use"));
    if (b->flags & 2)
        json_object_array_add(flags, json_object_new_string("auto"));
    json_object_object_add(o, "flags", flags);
    add_string(o, "name", b->name);
    add_uint(o, "granularity", UINT64_C(1) << b->granularity_bits);
    return o;
}

static bool add_bitmaps(json_object *data, BlkNode *file, const Qcow2Header *h, GError **error)
{
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

static bool add_specific(json_object *info, BlkNode *file, const Qcow2Header *h, GError **error)
{
    json_object *specific = json_object_new_object(), *data = json_object_new_object();

    json_object_object_add(info, "format-specific", specific);
    add_string(specific, "type", "qcow2");
    json_object_object_add(specific, "data", data);
    add_string(data, "compat", h->version == 2 ? "0.10" : "1.1");
    add_string(data, "compression-type", h->compression == QCOW2_ZSTD ? "zstd" : "zlib");
    if (h->version == 2) {
        add_uint(data, "refcount-bits", 16);
        return true;
    }
    add_bool(data, "lazy-refcounts", h->compatible & QCOW2_COMPATIBLE_LAZY);
    add_uint(data, "refcount-bits", UINT64_C(1) << h->refcount_order);
    add_bool(data, "corrupt", h->incompatible & QCOW2_INCOMPATIBLE_CORRUPT);
    add_bool(data, "extended-l2", h->extended_l2);
    if (h->external_data) {
        if (h->data_file)
            add_string(data, "data-file", h->data_file);
        add_bool(data, "data-file-raw", h->data_raw);
    }
    return add_bitmaps(data, file, h, error);
}

/* The backing file's name is relative to the image's directory. It is only put together, not looked
 * for. */
static void add_backing(json_object *info, const char *filename, const Qcow2Header *h)
{
    g_autofree char *directory = g_path_get_dirname(filename), *full = NULL;
    const char *name = h->backing;

    if (!name)
        return;
    add_string(info, "backing-filename", name);
    /* "proto:..." is no path. */
    if (*name == '/' || !strchr(filename, '/') ||
        (strchr(name, ':') && (!strchr(name, '/') || strchr(name, ':') < strchr(name, '/'))))
        full = g_strdup(name);
    else
        full = g_str_equal(directory, "/") ? g_strconcat("/", name, NULL)
                                           : g_strconcat(directory, "/", name, NULL);
    add_string(info, "full-backing-filename", full);
    if (h->backing_format)
        add_string(info, "backing-filename-format", h->backing_format);
}

static bool add_qcow2(json_object *info, const char *filename, BlkNode *file, GError **error)
{
    Qcow2Header h;
    g_autofree char *why = NULL;
    int ret = qcow2_header_load(file, &h, &why);
    bool ok;

    if (ret < 0)
        return why ? tm_error_set(error, "%s", why)
                   : tm_error_set_errno(error, -ret, "Could not read qcow2 header");
    add_uint(info, "virtual-size", h.size);
    add_uint(info, "cluster-size", UINT64_C(1) << h.cluster_bits);
    add_bool(info, "dirty-flag", h.incompatible & QCOW2_INCOMPATIBLE_DIRTY);
    add_backing(info, filename, &h);
    ok = add_snapshots(info, file, &h, error) && add_specific(info, file, &h, error);
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
    add_string(info, "filename", filename);
    add_string(info, "format", format);
    if (facts.allocated != UINT64_MAX)
        add_uint(info, "actual-size", facts.allocated);
    if (g_str_equal(format, "qcow2")) {
        ok = add_qcow2(info, filename, file, error);
    } else {
        add_uint(info, "virtual-size", blk_node_size(file));
        add_bool(info, "dirty-flag", false);
    }
    if (ok)
        return info;
    json_object_put(info);
    return NULL;
}
