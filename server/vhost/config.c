/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/config.c: what the virtio block device offers.
 *
 * CONFIG_WCE is not offered: a guest that turned the write cache off would have it on again after a
 * restart of the daemon, and not notice. */
#include "server/vhost/vhost_internal.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#define DISCARD_SECTORS (1u << 22) /* of a request: 2 GiB */

uint64_t vhost_config_features(const VhostSession *s)
{
    static const unsigned bits[] = {
        VIRTIO_F_VERSION_1,   VIRTIO_RING_F_INDIRECT_DESC, VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE,       VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_BLK_F_FLUSH,   VIRTIO_BLK_F_DISCARD,        VIRTIO_BLK_F_WRITE_ZEROES,
        VIRTIO_BLK_F_MQ,      VHOST_F_PROTOCOL_FEATURES,
    };
    uint64_t features = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(bits); i++)
        features |= UINT64_C(1) << bits[i];
    if (!blk_export_writable(s->export_->blk))
        features |= UINT64_C(1) << VIRTIO_BLK_F_RO;
    return features;
}

size_t vhost_config_fill(const VhostSession *s, uint8_t *space)
{
    uint32_t sectors = s->export_->block_size / 512;
    struct virtio_blk_config config = {
        .capacity = htole64(blk_node_size(blk_export_node(s->export_->blk)) / 512),
        .seg_max = htole32(VHOST_SEGMENTS),
        .blk_size = htole32(s->export_->block_size),
        .min_io_size = htole16(1),
        .opt_io_size = htole32(1),
        .num_queues = htole16((uint16_t)s->n_queues),
        .max_discard_sectors = htole32(DISCARD_SECTORS / sectors * sectors),
        .max_discard_seg = htole32(1),
        .discard_sector_alignment = htole32(sectors),
        .max_write_zeroes_sectors = htole32(DISCARD_SECTORS / sectors * sectors),
        .max_write_zeroes_seg = htole32(1),
        .write_zeroes_may_unmap = 1,
    };

    memcpy(space, &config, sizeof(config));
    return sizeof(config);
}
