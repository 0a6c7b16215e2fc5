/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/image.h: what is done to a qcow2 image that no node has open: it is created,
 * and checked. */
#pragma once
#include "block/io/progress.h"
#include "block/options.h"

/* ---- creating (create.c), for block/image/create.c */

extern const struct tidemark_option qcow2_create_options[];
/* The options alone; before anything is opened. */
bool qcow2_create_check(const BlkOptions *options, bool data_file, GError **error);
/* @file holds nothing, or nothing that counts. */
bool qcow2_create(BlkNode *file, BlkNode *data_file, const BlkOptions *options, BlkProgress *work,
                  GError **error);

/* ---- checking (check.c) */

#define BLK_IMAGE_FIX_LEAKS  1u /* clusters that nothing refers to become free */
#define BLK_IMAGE_FIX_ERRORS 2u /* everything else */
#define BLK_IMAGE_FIX_ALL    3u

/* As `qemu-img check` counts. After a repair the counts are those of another check. */
typedef struct BlkImageCheck {
    uint64_t leaks, corruptions; /* that are left */
    uint64_t leaks_fixed, corruptions_fixed;
    uint64_t check_errors; /* things that could not be checked */
    uint64_t image_end;    /* bytes in use, from the start of the file */
    uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
    bool unlisted; /* snapshots or bitmaps can't be listed: QEMU may refuse to open the image */
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
 * meanwhile; with fix, @file is writable. true: it could be checked, whatever was found: see
 * the result. false: it is no image, or checking it is impossible. @options may be NULL. Any thread
 * that may block.
 *
 * A repair writes nothing over what may be in use, and what refers to a thing after the thing. When
 * no corruption is left, the dirty and corrupt bits are cleared. */
bool blk_image_check(BlkNode *file, BlkNode *data_file, const BlkImageCheckOptions *options,
                     BlkImageCheck *result, GError **error);
/* The same as JSON, as `qemu-img check --output=json` without filename and format: a reference. */
json_object *blk_image_check_json(const BlkImageCheck *result);
