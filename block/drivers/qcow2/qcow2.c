/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/qcow2.c: the driver: what of an image is mapped, and what is read here.
 *
 * Clusters of data are mapped into the image (or its data file) in place, for reads and for
 * overwrites. What is not known without reading a table, what is compressed, and what takes new
 * clusters goes the blocking lane.
 *
 * What stands below is what the options "backing" and "data-file" say. If they say nothing, it is
 * the file that the image names, as far as "backing-names" allows it. */
#include "block/drivers/qcow2/image.h"
#include "block/drivers/qcow2/snapshots.h"
#include "block/named.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static const struct tidemark_child qcow2_children[] = {
    [QCOW2_FILE] = { "file", 1 },
    [QCOW2_BACKING] = { "backing", 0 },
    [QCOW2_DATA_FILE] = { "data-file", 0 },
    { 0 },
};

/* ---- opening */

/* The child @index: the one of the options, else the file that the image names, if it does. */
static int open_child(struct tidemark_node *node, unsigned index, const char *name,
                      const char *format)
{
    if (blk_node_child(node, index) || !name ||
        blk_host.option_is_set(node, qcow2_children[index].name))
        return 0;
    return blk_host_open_named(node, index, name, format,
                               blk_host.option_string(node, "backing-names"));
}

static int open_children(struct tidemark_node *node, const Qcow2Header *h)
{
    int ret = h->external_data ? open_child(node, QCOW2_DATA_FILE, h->data_file, NULL) : 0;

    if (ret < 0)
        return ret;
    if (!h->external_data == !blk_node_child(node, QCOW2_DATA_FILE))
        return open_child(node, QCOW2_BACKING, h->backing, h->backing_format);
    blk_host.error(node, h->external_data
                             ? "'data-file' is required for this image"
                             : "'data-file' can only be set for images with an external data file");
    return -EINVAL;
}

static bool child_is_read_only(struct tidemark_node *node, uint32_t child)
{
    struct tidemark_info info = { .struct_size = sizeof(info) };

    return blk_host.child_info(node, child, &info) == 0 && info.flags & TIDEMARK_INFO_READ_ONLY;
}

/* Whether the image is to be written; -EACCES: it can't be, and the host has the error. */
static int find_writable(Qcow2 *q)
{
    bool file_fixed = child_is_read_only(q->node, QCOW2_FILE);
    bool fixed =
        file_fixed || (q->header.external_data && child_is_read_only(q->node, QCOW2_DATA_FILE));

    q->writable = !blk_host.option_bool(q->node, "read-only") && !fixed;
    if (q->writable || blk_host.option_bool(q->node, "read-only") ||
        blk_host.option_bool(q->node, "auto-read-only"))
        return 0;
    blk_host.error(q->node, "The image is opened for writing, but its child '%s' is read-only",
                   file_fixed ? "file" : "data-file");
    return -EACCES;
}

/* QEMU did not close it, and keeps refcounts lazily: they are made anew before anything is
 * written. */
static int repair(Qcow2 *q)
{
    BlkImageCheckOptions options = { .fix = BLK_IMAGE_FIX_ALL };
    BlkImageCheck result;
    Qcow2Header header;
    g_autoptr(GError) error = NULL;
    int ret;

    if (!blk_image_check(blk_node_child(q->node, QCOW2_FILE),
                         blk_node_child(q->node, QCOW2_DATA_FILE), &options, &result, &error)) {
        blk_host.error(q->node, "qcow2: the image was not closed, and can't be repaired: %s",
                       error->message);
        return -EIO;
    }
    ret = qcow2_header_read(q->node, &header);
    if (ret < 0)
        return ret;
    qcow2_header_clear(&q->header);
    q->header = header;
    if (!(header.incompatible & (QCOW2_INCOMPATIBLE_DIRTY | QCOW2_INCOMPATIBLE_CORRUPT)))
        return 0;
    blk_host.error(
        q->node,
        "qcow2: the image was not closed, and is corrupt: repair it, or open it read-only");
    return -EIO;
}

/* The disk is that of a snapshot, if the options say so: only to be read. */
static int choose_disk(Qcow2 *q)
{
    const char *which = blk_host.option_string(q->node, "snapshot");
    g_autoptr(GError) error = NULL;

    if (!which)
        return 0;
    if (q->writable) {
        blk_host.error(q->node, "'snapshot' needs read-only=on");
        return -EACCES;
    }
    if (qcow2_snapshot_use(blk_node_child(q->node, QCOW2_FILE), &q->header, which, &error))
        return 0;
    blk_host.error(q->node, "%s", error->message);
    return -EINVAL;
}

static int refuse_state(Qcow2 *q)
{
    if (!q->writable)
        return 0;
    if (q->header.incompatible & QCOW2_INCOMPATIBLE_CORRUPT) {
        blk_host.error(q->node, "qcow2: Image is corrupt; cannot be opened read/write");
        return -EACCES;
    }
    return q->header.incompatible & QCOW2_INCOMPATIBLE_DIRTY ? repair(q) : 0;
}

/* Who doesn't know what these bits vouch for is to clear them. */
static int clear_unknown(Qcow2 *q)
{
    int ret;

    if (!(q->header.autoclear & ~QCOW2_AUTOCLEAR_KNOWN))
        return 0;
    q->header.autoclear &= QCOW2_AUTOCLEAR_KNOWN;
    ret = qcow2_header_write(q);
    if (ret < 0)
        blk_host.error(q->node, "Could not update the qcow2 header: %s", tm_strerror(-ret));
    return ret;
}

static int open_tables(Qcow2 *q)
{
    int ret = 0;

    if (q->writable)
        ret = qcow2_metadata_open(q);
    if (ret == 0 && q->writable)
        ret = qcow2_refcounts_open(q);
    if (ret == 0)
        ret = qcow2_tables_open(q);
    return ret == 0 && q->writable ? clear_unknown(q) : ret;
}

/* All of it on the medium, and the file no longer than it takes. */
static void finish(Qcow2 *q)
{
    int ret = 0;

    qcow2_free_retired(q);
    for (int i = 0; i < 3 && q->dirty && ret == 0; i++)
        ret = qcow2_commit(q);
    if (ret < 0 && !q->corrupt) /* whoever flushed got the error; here nobody asks */
        blk_host_unfinished(q->node, ret);
    if (ret == 0 && !q->corrupt && q->touched < blk_host.child_size(q->node, QCOW2_FILE))
        blk_host.child_resize(q->node, QCOW2_FILE, q->touched);
}

static void qcow2_close(void *handle)
{
    Qcow2 *q = handle;

    if (q->opened && q->writable)
        finish(q);
    qcow2_tables_close(q);
    qcow2_refcounts_close(q);
    qcow2_inflate_close(q);
    qcow2_header_clear(&q->header);
    if (q->metadata)
        g_hash_table_unref(q->metadata);
    pthread_mutex_destroy(&q->tables_lock);
    pthread_mutex_destroy(&q->alloc_lock);
    pthread_mutex_destroy(&q->commit_lock);
    pthread_mutex_destroy(&q->inflated_lock);
    pthread_cond_destroy(&q->unclaimed);
    g_free(q);
}

static bool option_or(struct tidemark_node *node, const char *name, bool otherwise)
{
    return blk_host.option_is_set(node, name) ? blk_host.option_bool(node, name) : otherwise;
}

static void read_options(Qcow2 *q)
{
    struct tidemark_node *node = q->node;
    const char *discard = blk_host.option_string(node, "discard");

    q->tables_max = blk_host.option_uint(node, "l2-cache-size");
    q->blocks_max = MAX(blk_host.option_uint(node, "refcount-cache-size") / q->cluster, 4);
    q->discard_no_unref = blk_host.option_bool(node, "discard-no-unref");
    q->pass_discard[QCOW2_FREED_REQUEST] =
        option_or(node, "pass-discard-request", !g_strcmp0(discard, "unmap"));
    q->pass_discard[QCOW2_FREED_OTHER] = blk_host.option_bool(node, "pass-discard-other");
}

static Qcow2 *qcow2_new(struct tidemark_node *node, const Qcow2Header *header)
{
    Qcow2 *q = g_new0(Qcow2, 1);

    q->node = node;
    q->header = *header;
    q->cluster = UINT64_C(1) << header->cluster_bits;
    q->subcluster = header->extended_l2 ? q->cluster / QCOW2_SUBCLUSTERS : q->cluster;
    q->entry_bytes = header->extended_l2 ? 16 : 8;
    q->l2_bits = header->cluster_bits - (header->extended_l2 ? 4 : 3);
    q->data_child = header->external_data ? QCOW2_DATA_FILE : QCOW2_FILE;
    pthread_mutex_init(&q->tables_lock, NULL);
    pthread_mutex_init(&q->alloc_lock, NULL);
    pthread_mutex_init(&q->commit_lock, NULL);
    pthread_mutex_init(&q->inflated_lock, NULL);
    pthread_cond_init(&q->unclaimed, NULL);
    read_options(q);
    return q;
}

static int refuse_options(const Qcow2 *q)
{
    if (!q->discard_no_unref || q->header.version >= 3)
        return 0;
    blk_host.error(q->node, "discard-no-unref is only supported since qcow2 version 3");
    return -EINVAL; /* it has no entry that has a place and reads as zeroes */
}

static int qcow2_open(struct tidemark_node *node, void **handle)
{
    Qcow2 *q;
    Qcow2Header header;
    int ret = qcow2_header_read(node, &header);

    if (ret < 0)
        return ret;
    q = qcow2_new(node, &header);
    ret = open_children(node, &header);
    if (ret == 0)
        ret = refuse_options(q);
    if (ret == 0)
        ret = find_writable(q);
    if (ret == 0)
        ret = refuse_state(q);
    if (ret == 0)
        ret = choose_disk(q);
    if (ret == 0)
        ret = open_tables(q);
    if (ret < 0) {
        qcow2_close(q);
        return ret;
    }
    q->size = q->header.size;
    q->opened = true;
    *handle = q;
    return 0;
}

/* What the image takes besides @data, if its data is elsewhere. */
static uint64_t allocated(const Qcow2 *q, uint64_t data)
{
    struct tidemark_info file = { .struct_size = sizeof(file) };

    if (!q->header.external_data)
        return data;
    if (blk_host.child_info(q->node, QCOW2_FILE, &file) < 0 || data == UINT64_MAX ||
        file.allocated == UINT64_MAX)
        return UINT64_MAX;
    return data + file.allocated;
}

static int qcow2_get_info(void *handle, struct tidemark_info *info)
{
    const Qcow2 *q = handle;
    struct tidemark_info child = { .struct_size = sizeof(child) };
    int ret = blk_host.child_info(q->node, q->data_child, &child);

    if (ret < 0)
        return ret;
    info->flags = (child.flags & TIDEMARK_INFO_DISCARD) | TIDEMARK_INFO_COMPRESS;
    if (!q->writable)
        info->flags |= TIDEMARK_INFO_READ_ONLY;
    if (q->header.version >= 3)
        info->flags |= TIDEMARK_INFO_FAST_ZERO;
    info->size = __atomic_load_n(&q->size, __ATOMIC_RELAXED);
    info->request_alignment = 1;
    info->preferred_block = 0;
    info->allocated = allocated(q, child.allocated);
    info->cluster_size = (uint32_t)q->cluster;
    return 0;
}

static int qcow2_write(void *handle, const void *buf, uint64_t offset, uint64_t length,
                       uint32_t flags)
{
    return flags & TIDEMARK_COMPRESSED ? qcow2_write_compressed(handle, buf, offset, length)
                                       : qcow2_pwrite(handle, buf, offset, length, flags);
}

static int qcow2_flush(void *handle)
{
    Qcow2 *q = handle;

    return q->writable ? qcow2_commit(q) : 0;
}

static const char *const overlap_choices[] = { "none", "constant", "cached", "all", NULL };

#define OVERLAP_FLAG(structure)                                                                    \
    {                                                                                              \
        .name = structure, .type = TIDEMARK_OPTION_BOOL,                                           \
        .help = "accepted for compatibility; the checks are always on"                             \
    }
static const struct tidemark_option overlap_fields[] = {
    { .name = "template",
      .type = TIDEMARK_OPTION_ENUM,
      .choices = overlap_choices,
      .help = "accepted for compatibility; the checks are always on" },
    OVERLAP_FLAG("main-header"),
    OVERLAP_FLAG("active-l1"),
    OVERLAP_FLAG("active-l2"),
    OVERLAP_FLAG("refcount-table"),
    OVERLAP_FLAG("refcount-block"),
    OVERLAP_FLAG("snapshot-table"),
    OVERLAP_FLAG("inactive-l1"),
    OVERLAP_FLAG("inactive-l2"),
    OVERLAP_FLAG("bitmap-directory"),
    { 0 },
};

static const struct tidemark_option qcow2_options[] = {
    { .name = "backing-names",
      .type = TIDEMARK_OPTION_ENUM,
      .choices = blk_names_choices,
      .default_value = BLK_NAMES_DEFAULT,
      .help = "which backing and data files that images name are opened: those in the image's own "
              "directory or below it, none, or any" },
    { .name = "l2-cache-size",
      .type = TIDEMARK_OPTION_SIZE,
      .default_value = "33554432",
      .help = "memory for L2 tables" },
    { .name = "refcount-cache-size",
      .type = TIDEMARK_OPTION_SIZE,
      .default_value = "4194304",
      .help = "memory for refcount blocks" },
    { .name = "cache-size",
      .type = TIDEMARK_OPTION_SIZE,
      .help = "accepted for compatibility; see l2-cache-size and refcount-cache-size" },
    { .name = "l2-cache-entry-size",
      .type = TIDEMARK_OPTION_SIZE,
      .help = "accepted for compatibility; whole tables are cached" },
    { .name = "cache-clean-interval",
      .type = TIDEMARK_OPTION_UINT,
      .help = "accepted for compatibility; the caches have fixed limits" },
    { .name = "overlap-check",
      .type = TIDEMARK_OPTION_ENUM,
      .choices = overlap_choices,
      .fields = overlap_fields,
      .help = "accepted for compatibility; the checks are always on" },
    { .name = "lazy-refcounts",
      .type = TIDEMARK_OPTION_BOOL,
      .default_value = "off",
      .help = "accepted for compatibility; refcounts are always up to date" },
    { .name = "pass-discard-request",
      .type = TIDEMARK_OPTION_BOOL,
      .help = "pass discards of the client to the file (default: on with discard=unmap)" },
    { .name = "pass-discard-snapshot",
      .type = TIDEMARK_OPTION_BOOL,
      .default_value = "on",
      .help = "accepted for compatibility; snapshots are never deleted" },
    { .name = "snapshot",
      .type = TIDEMARK_OPTION_STRING,
      .help = "id or name of the internal snapshot to open instead of the current disk" },
    { .name = "pass-discard-other",
      .type = TIDEMARK_OPTION_BOOL,
      .default_value = "off",
      .help = "discard space in the file that becomes free for other reasons" },
    { .name = "discard-no-unref",
      .type = TIDEMARK_OPTION_BOOL,
      .default_value = "off",
      .help = "keep the clusters of discarded ranges allocated" },
    { 0 },
};

const struct tidemark_driver blk_driver_qcow2 = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "qcow2",
    .help = "images in QEMU's format",
    .flags = TIDEMARK_DRIVER_FORMAT,
    .options = qcow2_options,
    .children = qcow2_children,
    .open = qcow2_open,
    .close = qcow2_close,
    .get_info = qcow2_get_info,
    .map = qcow2_map,
    .pread = qcow2_pread,
    .pwrite = qcow2_write,
    .flush = qcow2_flush,
    .write_zeroes = qcow2_write_zeroes,
    .discard = qcow2_discard,
    .resize = qcow2_resize,
};
