/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/image/image.h: images as files: made, shown, checked and repaired, with no node of their
 * own.
 *
 * What an image says is never followed: backing and data file names in it are text, and formats are
 * found by their magic only where the caller asks for it. Every field is checked before use.
 *
 * Threads: each function says so. Those that do I/O block, and report their progress. */
#pragma once
#include "block/drivers/qcow2/image.h" /* checking */
#include "block/graph.h"
#include "block/io/progress.h"

/* ---- creating */

typedef struct BlkImageCreate BlkImageCreate;

/* @options: QEMU's BlockdevCreateOptions (qapi/block-core.json).
 *   driver=file: filename, size, preallocation (off, falloc, full), nocow, extent-size-hint
 *     (accepted, without effect). The file is made if need be, and emptied.
 *   driver=qcow2: file and data-file (a node's name or a definition), size, version (v2, v3),
 *     cluster-size, backing-file, backing-fmt, data-file-raw, extended-l2, preallocation (off,
 *     metadata, falloc, full), lazy-refcounts, refcount-bits, compression-type (zlib, zstd). What
 *     was in the file is gone; a data file keeps what it has.
 * The header of a qcow2 image is written last, when everything else is on the medium: until then
 * the file is not an image. Messages are QEMU's where it has some.
 *
 * begin checks the options, opens the nodes and empties the file; main thread. run does the rest,
 * on any one thread. end closes what was opened, and removes a file that begin made unless run has
 * succeeded; main thread, NULL is fine. */
BlkImageCreate *blk_image_create_begin(BlkGraph *graph, json_object *options, GError **error);
bool blk_image_create_run(BlkImageCreate *create, BlkProgressFn progress, void *opaque,
                          GError **error);
void blk_image_create_end(BlkImageCreate *create);
/* All three; main thread. @progress may be NULL. */
bool blk_image_create(BlkGraph *graph, json_object *options, BlkProgressFn progress, void *opaque,
                      GError **error);

/* ---- looking */

/* What `qemu-img info --output=json` shows of the image in @file: filename, format, virtual-size,
 * actual-size, dirty-flag, cluster-size, backing-filename, full-backing-filename,
 * backing-filename-format, snapshots, format-specific. @format is "qcow2" or "raw"; NULL: by the
 * magic, raw if there is none that is known. The result is a reference; NULL: @error says why. Any
 * thread that may block. */
json_object *blk_image_info(BlkNode *file, const char *format, GError **error);
/* "qcow2", "raw" or the name of a format that is known but not supported ("qed", "vmdk", ...), by
 * the magic. Static; NULL: it can't be read. Any thread that may block. */
const char *blk_image_probe(BlkNode *file, GError **error);
