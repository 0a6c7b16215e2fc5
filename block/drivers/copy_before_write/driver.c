/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* copy_before_write/driver.c: the driver: its options, and what requests do.
 *
 * Options and messages as QEMU's (qapi BlockdevOptionsCbw, block/copy-before-write.c). A write to
 * clusters that need no copy is mapped to the child, after a look at their bits. */
#include "block/drivers/copy_before_write/cbw_internal.h"
#include "block/drivers/drivers.h"
#include "block/registry.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <string.h>

#define CLUSTER_MIN (UINT64_C(64) << 10) /* QEMU's */

/* ---- opening */

static int cluster_size(struct tidemark_node *node, uint64_t *size)
{
    struct tidemark_info target = { .struct_size = sizeof(target) };
    uint64_t least = blk_host.option_uint(node, "min-cluster-size");
    int ret = blk_host.child_info(node, CBW_TARGET, &target);

    if (ret < 0) {
        blk_host.error(node, "Couldn't determine the cluster size of the target image: %s",
                       tm_strerror(-ret));
        return ret;
    }
    if (least && !tm_is_pow2(least)) {
        blk_host.error(node, "min-cluster-size needs to be a power of 2");
        return -EINVAL;
    }
    if (!blk_host_handle(blk_node_child(node, CBW_TARGET), &blk_driver_scratch))
        least = tm_max(least, CLUSTER_MIN);
    *size = tm_max(least, target.cluster_size);
    return 0;
}

/* The clusters of [from, to), which is clean, that touch nothing else. */
static void leave_out(Cbw *cbw, uint64_t from, uint64_t to)
{
    CbwClusters *c = &cbw->clusters;
    uint64_t first = cbw_clusters_up(c, from);
    uint64_t end = to == c->size ? c->n : to >> c->shift;

    if (first < end)
        cbw_clusters_settle(c, first, end, false);
}

static void set_bitmap(Cbw *cbw, BmpBitmap *bitmap)
{
    TmExtent list[256];
    uint64_t at = 0, clean = 0; /* clean: from there up to @at */

    while (at < cbw->clusters.size) {
        TmExtents x = { .list = list, .max = G_N_ELEMENTS(list) };

        bmp_bitmap_extents(bitmap, at, cbw->clusters.size - at, &x);
        for (size_t i = 0; i < x.count; i++) {
            if (list[i].flags & TM_STATE_DIRTY) {
                leave_out(cbw, clean, at);
                clean = at + list[i].length;
            }
            at += list[i].length;
        }
    }
    leave_out(cbw, clean, at);
}

static bool use_bitmap(Cbw *cbw, BmpBitmap *bitmap, GError **error)
{
    if (bmp_bitmap_inconsistent(bitmap))
        return tm_error_set(error, "Bitmap '%s' is inconsistent and cannot be used",
                            bmp_bitmap_name(bitmap));
    set_bitmap(cbw, bitmap);
    return true;
}

bool blk_cbw_set_bitmap(BlkNode *filter, BmpBitmap *bitmap, GError **error)
{
    return use_bitmap(cbw_of(filter), bitmap, error);
}

static int find_bitmap(Cbw *cbw, struct tidemark_node *node)
{
    const char *of = blk_host.option_string(node, "bitmap.node");
    const char *name = blk_host.option_string(node, "bitmap.name");
    g_autoptr(BmpBitmap) bitmap = NULL;
    g_autoptr(GError) error = NULL;

    if (!of && !name)
        return 0;
    if (!of || !name) {
        blk_host.error(node, "Parameter 'bitmap.%s' is missing", of ? "name" : "node");
        return -EINVAL;
    }
    bitmap = blk_graph_find_bitmap(blk_node_graph(node), of, name, &error);
    if (bitmap && bmp_bitmap_check_usable(bitmap, &error) && use_bitmap(cbw, bitmap, &error))
        return 0;
    blk_host.error(node, "%s", error->message);
    return -EINVAL;
}

static int init(Cbw *cbw, struct tidemark_node *node)
{
    uint64_t cluster = 0;
    int ret = cluster_size(node, &cluster);

    if (ret < 0)
        return ret;
    if (!cbw_clusters_init(&cbw->clusters, blk_host.child_size(node, CBW_SOURCE),
                           (unsigned)__builtin_ctzll(cluster))) {
        blk_host.error(node, "Not enough memory to record which clusters were copied");
        return -ENOMEM;
    }
    cbw->node = node;
    cbw->break_snapshot =
        g_str_equal(blk_host.option_string(node, "on-cbw-error"), "break-snapshot");
    cbw->timeout = (uint32_t)blk_host.option_uint(node, "cbw-timeout");
    return find_bitmap(cbw, node);
}

static int cbw_open(struct tidemark_node *node, void **handle)
{
    Cbw *cbw = g_new0(Cbw, 1);
    int ret = init(cbw, node);

    if (ret < 0) {
        cbw_clusters_free(&cbw->clusters);
        g_free(cbw);
        return ret;
    }
    cbw_copy_init(cbw);
    *handle = cbw;
    return 0;
}

static void cbw_close(void *handle)
{
    Cbw *cbw = handle;

    cbw_copy_destroy(cbw);
    cbw_clusters_free(&cbw->clusters);
    g_free(cbw);
}

static int cbw_get_info(void *handle, struct tidemark_info *info)
{
    const Cbw *cbw = handle;
    int ret = blk_host.child_info(cbw->node, CBW_SOURCE, info);

    info->flags |= TIDEMARK_INFO_FUA;
    return ret;
}

/* ---- requests */

static int cbw_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                   struct tidemark_mapping *m)
{
    const Cbw *cbw = handle;
    const CbwClusters *c = &cbw->clusters;
    uint64_t first = offset >> c->shift, end = cbw_clusters_up(c, offset + length), stop;

    memset(m, 0, sizeof(*m));
    m->kind = TIDEMARK_MAP_CHILD;
    m->child = CBW_SOURCE;
    m->offset = offset;
    m->length = length;
    if (purpose != TIDEMARK_MAP_FOR_WRITE || cbw_broken(cbw) || first >= end)
        return 0;
    stop = cbw_clusters_pending(c, first, end);
    if (stop == first) {
        m->kind = TIDEMARK_MAP_SELF;
        stop = end;
        cbw_clusters_run(c, first, &stop);
    }
    if (stop < end)
        m->length = cbw_clusters_offset(c, stop) - offset;
    return 0;
}

static int cbw_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length,
                      uint32_t flags)
{
    Cbw *cbw = handle;
    int ret = cbw_before_write(cbw, offset, length);

    return ret < 0 ? ret : blk_host.child_pwrite(cbw->node, CBW_SOURCE, buf, offset, length, flags);
}

static int cbw_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
    Cbw *cbw = handle;
    int ret = cbw_before_write(cbw, offset, length);

    return ret < 0 ? ret
                   : blk_host.child_write_zeroes(cbw->node, CBW_SOURCE, offset, length, flags);
}

static int cbw_discard(void *handle, uint64_t offset, uint64_t length)
{
    Cbw *cbw = handle;
    int ret = cbw_before_write(cbw, offset, length);

    return ret < 0 ? ret : blk_host.child_discard(cbw->node, CBW_SOURCE, offset, length);
}

/* The guest asks for its own disk; what is in the target it has not written. */
static int cbw_flush(void *handle)
{
    Cbw *cbw = handle;

    return blk_host.child_flush(cbw->node, CBW_SOURCE);
}

/* What is cut off would have to be copied; nobody who keeps an instant wants that. */
static int cbw_resize(void *handle, uint64_t size)
{
    Cbw *cbw = handle;
    const CbwClusters *c = &cbw->clusters;

    if (size < c->size && !cbw_broken(cbw) &&
        cbw_clusters_pending(c, size >> c->shift, c->n) < c->n) {
        blk_host.error(cbw->node,
                       "The disk can't become shorter than %" PRIu64
                       " bytes, its size at the instant that the filter keeps",
                       c->size);
        return -EBUSY;
    }
    return blk_host.child_resize(cbw->node, CBW_SOURCE, size);
}

uint64_t blk_cbw_cluster_size(BlkNode *filter)
{
    return UINT64_C(1) << cbw_of(filter)->clusters.shift;
}

static const char *const cbw_errors[] = { "break-guest-write", "break-snapshot", NULL };

static const struct tidemark_option cbw_options[] = {
    { .name = "bitmap.node",
      .type = TIDEMARK_OPTION_STRING,
      .help =
          "node of a dirty bitmap: only what is dirty in it when the node is opened is copied" },
    { .name = "bitmap.name", .type = TIDEMARK_OPTION_STRING, .help = "name of that bitmap" },
    { .name = "on-cbw-error",
      .type = TIDEMARK_OPTION_ENUM,
      .choices = cbw_errors,
      .default_value = "break-guest-write",
      .help = "what fails if data can't be copied: the write, or all later reads of the snapshot" },
    { .name = "cbw-timeout",
      .type = TIDEMARK_OPTION_UINT,
      .default_value = "0",
      .max = UINT32_MAX,
      .help = "seconds after which a copy counts as failed (0: never)" },
    { .name = "min-cluster-size",
      .type = TIDEMARK_OPTION_SIZE,
      .max = UINT64_C(1) << 31,
      .help =
          "minimum unit of copying, a power of two; the unit is never smaller than the target's "
          "cluster size, nor than 64 KiB unless the target is a scratch node" },
    { 0 },
};

static const struct tidemark_child cbw_children[] = { { "file", 1 }, { "target", 1 }, { 0 } };

const struct tidemark_driver blk_driver_copy_before_write = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "copy-before-write",
    .help = "a filter that copies data to another node before a write replaces it",
    .options = cbw_options,
    .children = cbw_children,
    .open = cbw_open,
    .close = cbw_close,
    .get_info = cbw_get_info,
    .map = cbw_map,
    .pwrite = cbw_pwrite,
    .write_zeroes = cbw_write_zeroes,
    .discard = cbw_discard,
    .flush = cbw_flush,
    .resize = cbw_resize,
};
