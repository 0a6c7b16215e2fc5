/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* copy_before_write/snapshot.c: the disk at the instant.
 *
 * Nobody is kept away from what is read. A write to a cluster begins after the cluster was settled,
 * or the snapshot broken. So if that is not so after a cluster was read from the source, then no
 * write had begun when the read ended, and what was read is right; else it is read again, from
 * where it is now. */
#include "block/drivers/copy_before_write/cbw_internal.h"

#include "util/range.h"

#include <errno.h>

/* How far clusters of one state are looked for at once. A walk over the status of a disk asks for
 * all that is left of it after each extent. */
#define AHEAD (UINT64_C(256) << 20)

/* What was read from or said of the clusters [first, end), found in @state: up to where that still
 * holds. */
static uint64_t still(const Cbw *cbw, uint64_t first, uint64_t end, CbwState state)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return cbw_broken(cbw) || cbw_clusters_run(&cbw->clusters, first, &end) != state ? first : end;
}

/* Where the clusters at @offset are, and how far, within @length: NULL: nowhere. */
static BlkNode *place(const Cbw *cbw, uint64_t offset, uint64_t *length, CbwState *state)
{
    const CbwClusters *c = &cbw->clusters;
    uint64_t end = cbw_clusters_up(c, offset + tm_min(*length, AHEAD));

    *state = cbw_clusters_run(c, offset >> c->shift, &end);
    *length = tm_min(*length, cbw_clusters_offset(c, end) - offset);
    if (*state == CBW_RELEASED || cbw_broken(cbw))
        return NULL;
    return blk_node_child(cbw->node, *state == CBW_COPIED ? CBW_TARGET : CBW_SOURCE);
}

/* How much of [offset, offset + length) is still in that state. */
static uint64_t confirmed(const Cbw *cbw, uint64_t offset, uint64_t length, CbwState state)
{
    const CbwClusters *c = &cbw->clusters;
    uint64_t first = offset >> c->shift;
    uint64_t end = still(cbw, first, cbw_clusters_up(c, offset + length), state);

    return end == first ? 0 : tm_min(length, cbw_clusters_offset(c, end) - offset);
}

uint64_t blk_cbw_snapshot_size(BlkNode *filter, uint64_t other)
{
    const Cbw *cbw = cbw_of(filter);

    return cbw ? cbw->clusters.size : other;
}

int blk_cbw_snapshot_pread(BlkNode *filter, void *buf, uint64_t offset, uint64_t length)
{
    Cbw *cbw = cbw_of(filter);
    uint8_t *at = buf;

    if (!cbw)
        return -ENOTSUP;
    if (!tm_range_within(offset, length, cbw->clusters.size))
        return -EINVAL;
    while (length) {
        CbwState state;
        uint64_t n = length;
        BlkNode *node = place(cbw, offset, &n, &state);
        int ret = node ? blk_node_pread(node, at, offset, n) : -EACCES;

        if (ret < 0)
            return ret;
        n = confirmed(cbw, offset, n, state);
        at += n;
        offset += n;
        length -= n;
    }
    return 0;
}

int blk_cbw_snapshot_status(BlkNode *filter, uint64_t offset, uint64_t length,
                            struct tidemark_mapping *status)
{
    Cbw *cbw = cbw_of(filter);

    if (!cbw)
        return -ENOTSUP;
    if (!tm_range_within(offset, length, cbw->clusters.size))
        return -EINVAL;
    for (;;) {
        struct tidemark_mapping m;
        CbwState state;
        uint64_t n = length;
        BlkNode *node = place(cbw, offset, &n, &state);
        int ret =
            !node ? -EACCES
                  : blk_host.child_status(cbw->node, state == CBW_COPIED ? CBW_TARGET : CBW_SOURCE,
                                          offset, n, &m);

        if (ret < 0)
            return ret;
        n = confirmed(cbw, offset, tm_min(n, m.length), state);
        if (!n)
            continue;
        m.length = n;
        *status = m;
        return 0;
    }
}
