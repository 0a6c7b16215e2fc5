/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/export/contexts.h: metadata contexts that the management attaches to an export: named maps
 * of ranges of the disk to values of 32 or 64 bits, which clients see as they were given.
 *
 * A context is its name, its width, and its newest map. A map is immutable, counted by reference,
 * and replaced as a whole: an answer that is being written is never made of two. A session that has
 * selected a context sees its newest map, as it sees what becomes of a dirty bitmap; of one that is
 * removed, or replaced by one of another width, it goes on seeing the last.
 *
 * Bounded: BLK_CONTEXTS_MAX contexts of an export, BLK_CONTEXT_RANGES_MAX ranges of a map, and
 * BLK_CONTEXT_RANGES_ALL of all maps of an export, those included that only sessions still hold
 * (24 bytes each; equal ones that touch are one, and what has the value 0 is none).
 *
 * Threads: set and remove on the main thread; the rest from any. */
#pragma once
#include "util/extent.h"
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define BLK_CONTEXTS_MAX       64u
#define BLK_CONTEXT_RANGES_MAX ((size_t)1000000)
#define BLK_CONTEXT_RANGES_ALL ((size_t)4000000)
#define BLK_CONTEXT_NAME_MAX   1023 /* bytes, as a bitmap's */

typedef struct BlkContexts BlkContexts;
typedef struct BlkContext BlkContext;
typedef struct BlkContextMap BlkContextMap;

typedef struct BlkContextRange {
    uint64_t offset, length, value;
} BlkContextRange;

/* ---- the contexts of an export */
BlkContexts *blk_contexts_new(void);
/* No reference to a context or a map is left. NULL is fine. */
void blk_contexts_free(BlkContexts *contexts);

typedef struct BlkContextChange {
    const char *name;
    unsigned width; /* of values, in bits: 32 or 64; 0: as it is if appended to, else 32 */
    bool append;    /* to what there is; where ranges overlap the new ones count. Else instead */
    const BlkContextRange *ranges; /* in any order; those of one change don't overlap */
    size_t n;
} BlkContextChange;
/* Makes a context, or changes it. The disk has @size bytes. What is in no range has the value 0.
 * All or nothing. Errors: name, width, ranges, limits; to append: none of that name, or another
 * width. */
bool blk_contexts_set(BlkContexts *contexts, uint64_t size, const BlkContextChange *change,
                      GError **error);
/* Errors: not found. */
bool blk_contexts_remove(BlkContexts *contexts, const char *name, GError **error);
/* All, in order of creation: array of references, with blk_context_unref. */
GPtrArray *blk_contexts_list(BlkContexts *contexts);

/* ---- one of them. Name (borrowed) and width never change. */
BlkContext *blk_context_ref(BlkContext *context);
void blk_context_unref(BlkContext *context); /* NULL is fine */
const char *blk_context_name(const BlkContext *context);
bool blk_context_wide(const BlkContext *context); /* values of 64 bits, else of 32 */

/* ---- its newest map: a reference */
BlkContextMap *blk_context_map(BlkContext *context);
void blk_context_map_unref(BlkContextMap *map); /* NULL is fine */
size_t blk_context_map_count(const BlkContextMap *map);
uint64_t blk_context_map_bytes(const BlkContextMap *map); /* with another value than 0 */
/* Appends the runs of [offset, offset + length), which is not empty and doesn't overflow, to @out
 * until that is full. Returns the bytes described. */
uint64_t blk_context_map_extents(const BlkContextMap *map, uint64_t offset, uint64_t length,
                                 TmExtents *out);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlkContext, blk_context_unref)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlkContextMap, blk_context_map_unref)
