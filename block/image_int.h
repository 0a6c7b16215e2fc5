/* block/image_int.h: what the files about images share, and what a format does for them. Private to
 * block/. */
#pragma once
#include "block/image.h"
#include "block/options.h"

/* How far a piece of work is, and whether to go on. */
typedef struct BlkWorkDone {
    BlkProgressFn fn;
    void *opaque;
    uint64_t done, total;
} BlkWorkDone;

/* Counts @more as done; false, and "Operation canceled", if it is to stop. */
bool blk_work_done(BlkWorkDone *work, uint64_t more, GError **error);

/* Room for [offset, offset + length): allocated, reading as zeroes; written if @written, else
 * reserved as the medium can. Fills @work by bytes. */
bool blk_image_reserve(BlkNode *node, uint64_t offset, uint64_t length, bool written,
                       BlkWorkDone *work, GError **error);

/* ---- qcow2: block/drivers/qcow2/create.c */

extern const struct tidemark_option qcow2_create_options[];
/* The options alone; before anything is opened. */
bool qcow2_create_check(const BlkOptions *options, bool data_file, GError **error);
/* @file holds nothing, or nothing that counts. */
bool qcow2_create(BlkNode *file, BlkNode *data_file, const BlkOptions *options, BlkWorkDone *work,
                  GError **error);
