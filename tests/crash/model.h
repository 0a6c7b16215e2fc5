/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/model.h: what the bitmaps of a disk have to say, as arrays of bits.
 *
 * Of each bitmap two sets are kept: what must be dirty (P1), and what may be at most, but for
 * regions in doubt (P2). They differ while a write is being marked and after a loss of power.
 *
 * A ModelDisk is a value: copy it by assignment. */
#pragma once
#include "bitmap/bitmap.h"
#include <stdbool.h>
#include <stdint.h>

#define MODEL_SIZE_MAX (UINT64_C(8) << 20)
#define MODEL_WORDS    (MODEL_SIZE_MAX / 512 / 64)
#define MODEL_BITMAPS  8u

typedef struct ModelBits {
    uint64_t words[MODEL_WORDS];
} ModelBits;

typedef struct ModelBitmap {
    char name[24];
    uint8_t shift;
    bool persistent, enabled;
    bool inconsistent;
    bool unfinished; /* no opening brings it back */
    bool exact;      /* nothing in it ever came from a recovery: recovered is 0 */
    ModelBits must, may;
    /* P5: granules of 512 bytes that were not on the medium when it began: what it was given as
     * clean may be lost yet. */
    ModelBits unflushed;
    /* Frozen: what it shows, what was written since, and what was unflushed then. What is stored is
     * all of it: must and may. */
    bool frozen;
    ModelBits shown, later, later_unflushed;
} ModelBitmap;

typedef struct ModelDisk {
    uint64_t size;
    unsigned n;
    ModelBitmap bitmaps[MODEL_BITMAPS];
} ModelDisk;

static inline bool model_test(const ModelBits *bits, uint64_t granule)
{
    return bits->words[granule / 64] >> (granule % 64) & 1;
}

/* The granules of 2^@shift bytes that the range touches. */
void model_set(ModelBits *bits, unsigned shift, uint64_t offset, uint64_t length);
/* *to |= @from, outward. */
void model_or(ModelBits *to, unsigned shift, const ModelBits *from, unsigned from_shift,
              uint64_t size);
bool model_subset(const ModelBits *small, const ModelBits *big);

/* A write to the range is being marked: it may be dirty. */
void model_marking(ModelDisk *disk, uint64_t offset, uint64_t length);
/* It may have reached the disk: it must be. */
void model_written(ModelDisk *disk, uint64_t offset, uint64_t length);

/* The disk was flushed, which has no effect on what is @lost by then; and: the bitmap begins while
 * @unflushed and @lost may go. */
void model_flushed(ModelDisk *disk, const ModelBits *lost);
void model_begins(ModelBitmap *bitmap, const ModelBits *unflushed, const ModelBits *lost);
/* All of it is dirty. */
void model_fill(ModelDisk *disk, ModelBitmap *bitmap);

ModelBitmap *model_find(ModelDisk *disk, const char *name);
ModelBitmap *model_add(ModelDisk *disk, const char *name, unsigned shift, bool persistent,
                       bool enabled);
void model_remove(ModelDisk *disk, ModelBitmap *bitmap);
void model_clear(ModelBitmap *bitmap);
void model_freeze(ModelBitmap *bitmap, const ModelBits *unflushed, const ModelBits *lost);
void model_thaw(ModelBitmap *bitmap, bool whole);
void model_merge(ModelDisk *disk, ModelBitmap *to, const ModelBitmap *from);
void model_resize(ModelDisk *disk, uint64_t size);
/* What a power loss that leaves the disk with @size bytes makes of it. @unsure: the store may not
 * know of the last resize, and then neither of a part that came back. */
void model_found_with_size(ModelDisk *disk, uint64_t size, bool unsure);
void model_drop_transient(ModelDisk *disk);
/* What an opening leaves out. */
void model_drop_unfinished(ModelDisk *disk);

/* The content of a bitmap of a disk of @size bytes. */
void model_read(BmpBitmap *bitmap, uint64_t size, ModelBits *bits);
