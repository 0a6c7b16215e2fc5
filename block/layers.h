/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/layers.h: which image of a chain a range of the disk is in, and where: what qemu-img map
 * reports.
 *
 * The words are QEMU's (qapi MapEntry). A format whose own allocation says all there is to say (one
 * with clusters) is asked for that; below it only holes in preallocated data count, as there. */
#pragma once
#include "block/node.h"

typedef struct BlkLayerRun {
    uint64_t length;
    unsigned depth;  /* of the image that says it: 0 the node's own, 1 its backing, ... */
    bool present;    /* allocated somewhere in the chain */
    bool zero, data; /* reads as zeroes; has data to be read */
    bool end;        /* not present, and no image was looked into below */
    bool has_offset;
    uint64_t offset;     /* in @file */
    const BlkNode *file; /* borrowed; NULL: has no offset */
} BlkLayerRun;

/* The first run of [offset, offset + length), which lies in the disk. 0 or -errno. Any thread. */
int blk_node_layer_run(BlkNode *node, uint64_t offset, uint64_t length, BlkLayerRun *run);
