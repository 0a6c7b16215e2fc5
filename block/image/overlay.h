/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/image/overlay.h: a new image that is to be the overlay of a node (block/snapshot.h): made,
 * opened, and removed again if nothing comes of it. Main thread. */
#pragma once
#include "block/node.h"

typedef struct BlkOverlayOptions {
    const char *file;      /* its path */
    const char *format;    /* name of a driver */
    const char *node_name; /* NULL: it gets one of its own, as nested nodes do */
    bool existing;         /* the image is there; else it is made, as qcow2 */
} BlkOverlayOptions;

/* Makes the image, which names the node's file as its backing file, and opens it without a backing,
 * as the node is opened (read-only, cache, discard). Nobody owns it: it goes with its last user. */
typedef struct BlkOverlay BlkOverlay;
BlkOverlay *blk_overlay_new(BlkNode *node, const BlkOverlayOptions *options, GError **error);
BlkNode *blk_overlay_node(const BlkOverlay *overlay); /* borrowed */
/* @keep: it is used now; else a file that was made goes. NULL is fine. */
void blk_overlay_end(BlkOverlay *overlay, bool keep);
