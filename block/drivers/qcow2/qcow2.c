/* block/drivers/qcow2/qcow2.c: the driver: what of an image is mapped, and what is read here.
 *
 * Clusters of data are mapped into the image (or its data file) in place. What is not known without
 * reading a table, and what is compressed, takes the slow lane.
 *
 * A backing file that an image names is not opened because an image names it: the option "backing"
 * says what stands below, or null for nothing. */
#include "block/drivers/qcow2/qcow2.h"
#include "util/range.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* ---- children */

static int child_size(Qcow2 *q, uint32_t child, uint64_t *size)
{
    struct tidemark_info info = { .struct_size = sizeof(info) };
    int ret = blk_host.child_info(q->node, child, &info);

    *size = ret == 0 ? info.size : 0;
    return ret;
}

int qcow2_read_child(Qcow2 *q, uint32_t child, void *buf, uint64_t offset, uint64_t length)
{
    uint64_t size, there;
    int ret = child_size(q, child, &size);

    if (ret < 0)
        return ret;
    there = offset < size ? tm_min(length, size - offset) : 0;
    memset((char *)buf + there, 0, length - there);
    return there ? blk_host.child_pread(q->node, child, buf, offset, there, 0) : 0;
}

static int read_backing(Qcow2 *q, void *buf, uint64_t offset, uint64_t length)
{
    int ret = qcow2_read_child(q, QCOW2_BACKING, buf, offset, length);

    if (ret != -ENOMEDIUM)
        return ret;
    memset(buf, 0, length);
    return 0;
}

/* ---- opening */

static int refuse_children(struct tidemark_node *node, const Qcow2Header *h)
{
    struct tidemark_info info = { .struct_size = sizeof(info) };

    if (h->external_data && blk_host.child_info(node, QCOW2_DATA_FILE, &info) < 0) {
        blk_host.error(node, "'data-file' is required for this image");
        return -EINVAL;
    }
    if (!h->external_data && blk_host.child_info(node, QCOW2_DATA_FILE, &info) == 0) {
        blk_host.error(node, "'data-file' can only be set for images with an external data file");
        return -EINVAL;
    }
    if (h->backing && !blk_host.option_is_set(node, "backing")) {
        blk_host.error(node,
                       "The image names the backing file '%s'%s%s%s: say what it is with 'backing' "
                       "(a node, or null for none); names in images are not followed",
                       h->backing, h->backing_format ? " (" : "",
                       h->backing_format ? h->backing_format : "", h->backing_format ? ")" : "");
        return -EINVAL;
    }
    if (!blk_host.option_bool(node, "read-only")) {
        blk_host.error(node, "qcow2 images can only be read yet: read-only=on");
        return -EROFS;
    }
    return 0;
}

static void qcow2_close(void *handle)
{
    Qcow2 *q = handle;

    qcow2_tables_close(q);
    qcow2_inflate_close(q);
    qcow2_header_clear(&q->header);
    pthread_mutex_destroy(&q->tables_lock);
    pthread_mutex_destroy(&q->inflated_lock);
    g_free(q);
}

static int qcow2_open(struct tidemark_node *node, void **handle)
{
    Qcow2 *q;
    Qcow2Header header;
    int ret = qcow2_header_read(node, &header);

    if (ret < 0)
        return ret;
    q = g_new0(Qcow2, 1);
    q->node = node;
    q->header = header;
    q->cluster = UINT64_C(1) << header.cluster_bits;
    q->subcluster = header.extended_l2 ? q->cluster / QCOW2_SUBCLUSTERS : q->cluster;
    q->entry_bytes = header.extended_l2 ? 16 : 8;
    q->l2_bits = header.cluster_bits - (header.extended_l2 ? 4 : 3);
    q->data_child = header.external_data ? QCOW2_DATA_FILE : QCOW2_FILE;
    q->tables_max = blk_host.option_uint(node, "l2-cache-size");
    pthread_mutex_init(&q->tables_lock, NULL);
    pthread_mutex_init(&q->inflated_lock, NULL);
    ret = refuse_children(node, &header);
    if (ret == 0)
        ret = qcow2_tables_open(q);
    if (ret < 0) {
        qcow2_close(q);
        return ret;
    }
    *handle = q;
    return 0;
}

static int qcow2_get_info(void *handle, struct tidemark_info *info)
{
    const Qcow2 *q = handle;
    struct tidemark_info child = { .struct_size = sizeof(child) };
    int ret = blk_host.child_info(q->node, q->data_child, &child);

    if (ret < 0)
        return ret;
    info->flags = child.flags | TIDEMARK_INFO_READ_ONLY;
    info->size = q->header.size;
    info->request_alignment = 1;
    info->preferred_block = (uint32_t)q->cluster;
    info->allocated = child.allocated;
    info->cluster_size = (uint32_t)q->cluster;
    return 0;
}

/* ---- the road of a read */

/* As much of a run of data as the file has; its last cluster may be cut short. */
static void map_data(Qcow2 *q, const Qcow2Run *run, struct tidemark_mapping *m)
{
    uint64_t size;

    if (child_size(q, q->data_child, &size) < 0 || run->host >= size)
        return; /* SELF: zeroes, or the error */
    m->kind = TIDEMARK_MAP_CHILD;
    m->child = q->data_child;
    m->offset = run->host;
    m->length = tm_min(run->length, size - run->host);
}

static int qcow2_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                     struct tidemark_mapping *m)
{
    Qcow2 *q = handle;
    Qcow2Run run;
    int ret = qcow2_lookup(q, offset, length, purpose == TIDEMARK_MAP_FOR_STATUS, &run);

    memset(m, 0, sizeof(*m));
    m->kind = TIDEMARK_MAP_SELF;
    m->length = length;
    if (ret == -EAGAIN)
        return 0;
    if (ret < 0)
        return ret;
    m->length = run.length;
    switch (run.kind) {
    case QCOW2_UNALLOCATED:
        m->kind = TIDEMARK_MAP_BACKING;
        m->flags = TIDEMARK_MAPPED_HOLE;
        break;
    case QCOW2_ZERO:
        m->kind = TIDEMARK_MAP_ZERO;
        m->flags = run.occupied ? 0 : TIDEMARK_MAPPED_HOLE;
        break;
    case QCOW2_DATA:
        map_data(q, &run, m);
        break;
    case QCOW2_COMPRESSED:
        break;
    }
    return 0;
}

static int read_run(Qcow2 *q, const Qcow2Run *run, void *buf, uint64_t offset)
{
    switch (run->kind) {
    case QCOW2_UNALLOCATED:
        return read_backing(q, buf, offset, run->length);
    case QCOW2_ZERO:
        memset(buf, 0, run->length);
        return 0;
    case QCOW2_DATA:
        return qcow2_read_child(q, q->data_child, buf, run->host, run->length);
    default:
        return qcow2_inflate(q, run->host, buf, offset & (q->cluster - 1), run->length);
    }
}

static int qcow2_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    char *at = buf;
    int ret = 0;

    while (ret == 0 && length) {
        Qcow2Run run;

        ret = qcow2_lookup(handle, offset, length, true, &run);
        if (ret == 0)
            ret = read_run(handle, &run, at, offset);
        if (ret < 0)
            return ret;
        at += run.length;
        offset += run.length;
        length -= run.length;
    }
    return ret;
}

static const struct tidemark_option qcow2_options[] = {
    { .name = "l2-cache-size",
      .type = TIDEMARK_OPTION_SIZE,
      .default_value = "33554432",
      .help = "memory for L2 tables" },
    { 0 },
};

static const struct tidemark_child_role qcow2_children[] = {
    { "file", 1 }, { "backing", 0 }, { "data-file", 0 }, { 0 }
};

const struct tidemark_driver blk_driver_qcow2 = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "qcow2",
    .help = "images in QEMU's format, so far for reading",
    .flags = TIDEMARK_DRIVER_FORMAT,
    .options = qcow2_options,
    .children = qcow2_children,
    .open = qcow2_open,
    .close = qcow2_close,
    .get_info = qcow2_get_info,
    .map = qcow2_map,
    .pread = qcow2_pread,
};
