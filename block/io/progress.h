/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/progress.h: long work that shows how far it is and can be given up. */
#pragma once
#include "block/node.h"

/* How far it is: @done of @total, in no particular unit; @total may change. Returning false stops
 * the work, which then fails with "Operation canceled". On the thread that does the work. */
typedef bool (*BlkProgressFn)(void *opaque, uint64_t done, uint64_t total);

/* How far a piece of work is, and whether to go on. */
typedef struct BlkProgress {
    BlkProgressFn fn; /* NULL: nobody asks */
    void *opaque;
    uint64_t done, total;
} BlkProgress;

/* Counts @more as done; false, and "Operation canceled", if it is to stop. */
bool blk_progress_add(BlkProgress *progress, uint64_t more, GError **error);

/* Room for [offset, offset + length): allocated, reading as zeroes; written if @written, else
 * reserved as the medium can. Counts bytes. */
bool blk_preallocate(BlkNode *node, uint64_t offset, uint64_t length, bool written,
                     BlkProgress *progress, GError **error);
