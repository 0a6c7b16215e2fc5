/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/extent.h: a run of a disk with one property, as block status describes it.
 *
 * An array of extents describes a range from its beginning, in order and without a gap. */
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef struct TmExtent {
    uint64_t length; /* bytes, never 0 */
    uint64_t flags;  /* the values of the metadata context that it belongs to, see below */
} TmExtent;

/* base:allocation, the NBD specification's "base:allocation metadata context" */
#define TM_STATE_HOLE 1u
#define TM_STATE_ZERO 2u
/* qemu:dirty-bitmap:NAME, QEMU docs/interop/nbd.txt */
#define TM_STATE_DIRTY 1u
/* x-tidemark:backup:NAME, docs/nbd.md: the latter only together with the former */
#define TM_BACKUP_DIRTY 1u
#define TM_BACKUP_ZERO  2u

/* An array being filled by runs in order. Equal neighbours merge. */
typedef struct TmExtents {
    TmExtent *list; /* borrowed */
    size_t max;     /* entries in list */
    size_t count;
} TmExtents;

/* Appends a run; false if the list is full and it could not be merged. */
static inline _Bool tm_extents_add(TmExtents *x, uint64_t length, uint64_t flags)
{
    if (x->count && x->list[x->count - 1].flags == flags) {
        x->list[x->count - 1].length += length;
        return 1;
    }
    if (x->count == x->max)
        return 0;
    x->list[x->count++] = (TmExtent){ length, flags };
    return 1;
}
