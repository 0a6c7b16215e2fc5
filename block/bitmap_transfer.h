/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/bitmap_transfer.h: bitmaps that go to another daemon or into a file, and that come from
 * there.
 *
 * A bitmap that goes on recording must not miss what was written in between. So it is taken only
 * where the disk's file shows that nobody wrote to it since, and nobody can write now; an inactive
 * node compares once more when it becomes active. Where nothing can show that (a block device, a
 * disk of a cluster), the node's option bitmap-accept-changed is the user's word for it.
 *
 * Main thread. */
#pragma once
#include "bitmap/copy.h"
#include "block/node.h"
#include <json-c/json.h>

/* The bitmap as it is now: *copy, and what else is to be known of it as an object, of which
 * docs/bitmap-file.md is the documentation; a reference. Errors: it is inconsistent. */
json_object *blk_bitmap_export(BlkNode *node, BmpBitmap *bitmap, BmpCopy **copy, GError **error);

typedef struct BlkBitmapImport {
    const char *name;       /* borrowed */
    const BmpCopy *copy;    /* borrowed */
    json_object *disk;      /* as it was exported; borrowed, checked; NULL: not known */
    uint64_t granularity;   /* of a new bitmap; 0: that of the copy */
    bool recording;         /* it is to record writes from now on */
    bool persistent, merge; /* merge: into a bitmap that there is, whatever disk it is of */
} BlkBitmapImport;

/* All or nothing. Errors: those of blk_bitmap_changes_add(), the sizes differ; the disk is another
 * one, or was written to, or that can't be known. */
bool blk_bitmap_import(BlkNode *node, const BlkBitmapImport *import, GError **error);
