/* block/image.h: images as files: made, looked at, checked and mended, with no node of their own.
 *
 * What an image says is never followed: backing and data file names in it are text, and formats are
 * found by their magic only where the caller asks for it. Every field is checked before use.
 *
 * Threads: each function says so. Those that do I/O block, and tell how far they are. */
#pragma once
#include "block/graph.h"

/* How far it is: @done of @total, in no particular unit; @total may change. Returning false stops
 * the work, which then fails with "Operation canceled". On the thread that does the work. */
typedef bool (*BlkProgressFn)(void *opaque, uint64_t done, uint64_t total);

/* Images of a backing chain that is followed by the names in them. */
#define BLK_IMAGE_CHAIN_MAX 256u

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
 * on any one thread; a file that begin made is removed if it fails. end closes what was opened;
 * main thread, NULL is fine. */
BlkImageCreate *blk_image_create_begin(BlkGraph *graph, json_object *options, GError **error);
bool blk_image_create_run(BlkImageCreate *create, BlkProgressFn progress, void *opaque,
                          GError **error);
void blk_image_create_end(BlkImageCreate *create);
/* All three; main thread. @progress may be NULL. */
bool blk_image_create(BlkGraph *graph, json_object *options, BlkProgressFn progress, void *opaque,
                      GError **error);

/* ---- looking */

/* What `qemu-img info --output=json` tells of the image in @file: filename, format, virtual-size,
 * actual-size, dirty-flag, cluster-size, backing-filename, full-backing-filename,
 * backing-filename-format, snapshots, format-specific. @format is "qcow2" or "raw"; NULL: by the
 * magic, raw if there is none that is known. The result is a reference; NULL: @error says why. Any
 * thread that may block. */
json_object *blk_image_info(BlkNode *file, const char *format, GError **error);
/* "qcow2", "raw" or the name of a format that is known but not supported ("qed", "vmdk", ...), by
 * the magic. Static; NULL: it can't be read. Any thread that may block. */
const char *blk_image_probe(BlkNode *file, GError **error);

/* ---- checking */

#define BLK_IMAGE_FIX_LEAKS  1u /* clusters that nothing refers to become free */
#define BLK_IMAGE_FIX_ERRORS 2u /* everything else */
#define BLK_IMAGE_FIX_ALL    3u

/* As `qemu-img check` counts. After a repair the counts are those of another check. */
typedef struct BlkImageCheck {
    uint64_t leaks, corruptions; /* that are left */
    uint64_t leaks_fixed, corruptions_fixed;
    uint64_t check_errors; /* things that could not be looked at */
    uint64_t image_end;    /* bytes in use, from the start of the file */
    uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
} BlkImageCheck;

/* One line about a thing that was found, for people. */
typedef void (*BlkImageFoundFn)(void *opaque, const char *line);

typedef struct BlkImageCheckOptions {
    unsigned fix;           /* BLK_IMAGE_FIX_* */
    BlkProgressFn progress; /* may be NULL */
    BlkImageFoundFn found;  /* may be NULL */
    void *opaque;           /* of both */
} BlkImageCheckOptions;

/* Checks the qcow2 image in @file, and its data file, NULL if it has none. Nobody else uses it
 * meanwhile; with fix, @file is writable. true: it could be checked, whatever was found: look at
 * the result. false: it is no image, or checking it is impossible. @options may be NULL. Any thread
 * that may block.
 *
 * A repair writes nothing over what may be in use, and what refers to a thing after the thing. When
 * no corruption is left, the dirty and corrupt bits are cleared. */
bool blk_image_check(BlkNode *file, BlkNode *data_file, const BlkImageCheckOptions *options,
                     BlkImageCheck *result, GError **error);
/* The same as JSON, as `qemu-img check --output=json` without filename and format: a reference. */
json_object *blk_image_check_json(const BlkImageCheck *result);
