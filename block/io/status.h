/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/status.h: for drivers that ask another machine for block status: one question is worth
 * many extents, but map() returns one.
 *
 * A walk is one answer of many extents about a disk, being made by this thread. Its memory is for
 * the driver that is asked. What is in it was true within the walk, which nobody can distinguish
 * from its being true when it was asked for. */
#pragma once
#include "util/extent.h"

typedef struct BlkStatusWalk {
    const void *owner; /* the driver's: whose extents they are; NULL: there are none */
    uint64_t stamp;    /* the driver's: when they were */
    uint64_t offset;   /* where list[at] begins */
    size_t at, count, max;
    TmExtent *list;
} BlkStatusWalk;

/* This thread's; NULL: one extent is wanted. Borrowed. */
BlkStatusWalk *blk_status_walk(void);
