/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/model.c: see the header. */
#include "tests/crash/model.h"

#include "util/range.h"

#include <string.h>

void model_set(ModelBits *bits, unsigned shift, uint64_t offset, uint64_t length)
{
    if (!length)
        return;
    for (uint64_t i = offset >> shift; i <= (offset + length - 1) >> shift; i++)
        bits->words[i / 64] |= UINT64_C(1) << (i % 64);
}

void model_or(ModelBits *to, unsigned shift, const ModelBits *from, unsigned from_shift,
              uint64_t size)
{
    uint64_t granule = UINT64_C(1) << from_shift;

    for (uint64_t at = 0; at < size; at += granule) {
        if (model_test(from, at >> from_shift))
            model_set(to, shift, at, MIN(granule, size - at));
    }
}

bool model_subset(const ModelBits *small, const ModelBits *big)
{
    uint64_t rest = 0;

    for (size_t i = 0; i < MODEL_WORDS; i++)
        rest |= small->words[i] & ~big->words[i];
    return !rest;
}

void model_marking(ModelDisk *disk, uint64_t offset, uint64_t length)
{
    for (unsigned i = 0; i < disk->n; i++) {
        if (disk->bitmaps[i].enabled)
            model_set(&disk->bitmaps[i].may, disk->bitmaps[i].shift, offset, length);
    }
}

void model_written(ModelDisk *disk, uint64_t offset, uint64_t length)
{
    model_marking(disk, offset, length);
    for (unsigned i = 0; i < disk->n; i++) {
        if (disk->bitmaps[i].enabled)
            model_set(&disk->bitmaps[i].must, disk->bitmaps[i].shift, offset, length);
        if (disk->bitmaps[i].enabled && disk->bitmaps[i].frozen)
            model_set(&disk->bitmaps[i].later, disk->bitmaps[i].shift, offset, length);
    }
}

void model_flushed(ModelDisk *disk, const ModelBits *lost)
{
    for (unsigned i = 0; i < disk->n; i++) {
        for (size_t k = 0; k < MODEL_WORDS; k++)
            disk->bitmaps[i].unflushed.words[k] &= lost->words[k];
        for (size_t k = 0; k < MODEL_WORDS; k++)
            disk->bitmaps[i].later_unflushed.words[k] &= lost->words[k];
    }
}

void model_begins(ModelBitmap *bitmap, const ModelBits *unflushed, const ModelBits *lost)
{
    for (size_t k = 0; k < MODEL_WORDS; k++)
        bitmap->unflushed.words[k] = bitmap->enabled ? unflushed->words[k] | lost->words[k] : 0;
}

void model_fill(ModelDisk *disk, ModelBitmap *bitmap)
{
    model_set(&bitmap->must, bitmap->shift, 0, disk->size);
    model_set(&bitmap->may, bitmap->shift, 0, disk->size);
    model_set(&bitmap->later, bitmap->shift, 0, disk->size);
    bitmap->exact = false;
}

ModelBitmap *model_find(ModelDisk *disk, const char *name)
{
    for (unsigned i = 0; i < disk->n; i++) {
        if (!strcmp(disk->bitmaps[i].name, name))
            return &disk->bitmaps[i];
    }
    return NULL;
}

ModelBitmap *model_add(ModelDisk *disk, const char *name, unsigned shift, bool persistent,
                       bool enabled)
{
    ModelBitmap *bitmap = &disk->bitmaps[disk->n++];

    memset(bitmap, 0, sizeof(*bitmap));
    g_strlcpy(bitmap->name, name, sizeof(bitmap->name));
    bitmap->shift = shift;
    bitmap->persistent = persistent;
    bitmap->enabled = enabled;
    bitmap->exact = true;
    return bitmap;
}

void model_remove(ModelDisk *disk, ModelBitmap *bitmap)
{
    unsigned at = bitmap - disk->bitmaps;

    memmove(bitmap, bitmap + 1, (--disk->n - at) * sizeof(*bitmap));
}

void model_clear(ModelBitmap *bitmap)
{
    memset(&bitmap->must, 0, sizeof(bitmap->must));
    memset(&bitmap->may, 0, sizeof(bitmap->may));
    bitmap->exact = true;
}

void model_freeze(ModelBitmap *bitmap, const ModelBits *unflushed, const ModelBits *lost)
{
    bitmap->frozen = true;
    bitmap->shown = bitmap->must;
    memset(&bitmap->later, 0, sizeof(bitmap->later));
    for (size_t k = 0; k < MODEL_WORDS; k++)
        bitmap->later_unflushed.words[k] =
            bitmap->enabled ? unflushed->words[k] | lost->words[k] : 0;
}

void model_thaw(ModelBitmap *bitmap, bool whole)
{
    bitmap->frozen = false;
    if (whole)
        return;
    bitmap->must = bitmap->may = bitmap->later;
    bitmap->unflushed = bitmap->later_unflushed;
    bitmap->exact = true;
}

void model_merge(ModelDisk *disk, ModelBitmap *to, const ModelBitmap *from)
{
    model_or(&to->must, to->shift, &from->must, from->shift, disk->size);
    model_or(&to->may, to->shift, &from->may, from->shift, disk->size);
    to->exact &= from->exact;
}

/* Drops what is beyond @size. */
static void cut(ModelBits *bits, unsigned shift, uint64_t size)
{
    uint64_t n = (size + (UINT64_C(1) << shift) - 1) >> shift;

    for (size_t i = 0; i < MODEL_WORDS; i++) {
        if (i * 64 >= n)
            bits->words[i] = 0;
        else if (n - i * 64 < 64)
            bits->words[i] &= (UINT64_C(1) << (n - i * 64)) - 1;
    }
}

void model_resize(ModelDisk *disk, uint64_t size)
{
    for (unsigned i = 0; i < disk->n; i++) {
        ModelBitmap *bitmap = &disk->bitmaps[i];

        if (size > disk->size) {
            model_set(&bitmap->must, bitmap->shift, disk->size, size - disk->size);
            model_set(&bitmap->may, bitmap->shift, disk->size, size - disk->size);
            model_set(&bitmap->later, bitmap->shift, disk->size, size - disk->size);
        } else {
            cut(&bitmap->must, bitmap->shift, size);
            cut(&bitmap->may, bitmap->shift, size);
            cut(&bitmap->shown, bitmap->shift, size);
            cut(&bitmap->later, bitmap->shift, size);
        }
    }
    disk->size = size;
}

/* As a resize. Where the disk ends, a granule may be dirty for a part that is not there any more,
 * or that never was. */
void model_found_with_size(ModelDisk *disk, uint64_t size, bool unsure)
{
    uint64_t end = MIN(size, disk->size);
    bool shorter = size < disk->size;

    if (size == disk->size)
        return;
    model_resize(disk, size);
    for (unsigned i = 0; end && i < disk->n; i++) {
        ModelBitmap *b = &disk->bitmaps[i];
        uint64_t granule = (end - 1) >> b->shift;

        model_set(&b->may, b->shift, end - 1, 1);
        if (!shorter && unsure)
            cut(&b->must, b->shift, tm_align_down(end, UINT64_C(1) << b->shift));
        if (shorter && end & ((UINT64_C(1) << b->shift) - 1))
            b->must.words[granule / 64] &= ~(UINT64_C(1) << (granule % 64));
    }
}

void model_drop_transient(ModelDisk *disk)
{
    for (unsigned i = disk->n; i-- > 0;) {
        disk->bitmaps[i].frozen = false;
        if (!disk->bitmaps[i].persistent)
            model_remove(disk, &disk->bitmaps[i]);
    }
}

void model_drop_unfinished(ModelDisk *disk)
{
    for (unsigned i = disk->n; i-- > 0;) {
        if (disk->bitmaps[i].unfinished)
            model_remove(disk, &disk->bitmaps[i]);
    }
}

void model_read(BmpBitmap *bitmap, uint64_t size, ModelBits *bits)
{
    unsigned shift = __builtin_ctzll(bmp_bitmap_granularity(bitmap));
    TmExtent list[512];
    uint64_t at = 0;

    memset(bits, 0, sizeof(*bits));
    while (at < size) {
        TmExtents out = { .list = list, .max = G_N_ELEMENTS(list) };

        bmp_bitmap_extents(bitmap, at, size - at, &out);
        for (size_t i = 0; i < out.count; i++) {
            if (list[i].flags & TM_STATE_DIRTY)
                model_set(bits, shift, at, list[i].length);
            at += list[i].length;
        }
    }
}
