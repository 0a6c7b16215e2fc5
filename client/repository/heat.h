/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/heat.h: how often each part of a disk changed, from what the increments of a
 * repository store.
 *
 * An increment stores the blocks that were dirty since its parent. So a block that several of them
 * have changed often. A full backup says nothing of changes and is not counted; increments that
 * were merged (tidemark prune) count once. Threads: main. */
#pragma once
#include "client/chart/chart.h"
#include "client/repository/repository.h"

typedef struct TcHeatExtent {
    uint64_t offset, length; /* bytes */
    unsigned changes;        /* increments that have it */
} TcHeatExtent;

typedef struct TcHeatPoint {
    const TcManifest *point; /* borrowed from the repository */
    uint64_t changed;        /* bytes that it stores */
} TcHeatPoint;

typedef struct TcHeat {
    uint64_t size;    /* of the disk at its newest point */
    GArray *points;   /* TcHeatPoint: the increments, the oldest first */
    unsigned fulls;   /* points that are not counted */
    unsigned damaged; /* increments whose hashes can't be read: they were logged, and not counted */
    GArray *extents;  /* TcHeatExtent: the whole disk, in order */
} TcHeat;

/* Of disk @disk, which the repository has. Returned; the error: it has no increment. */
TcHeat *tc_heat_new(const TcRepository *repo, const char *disk, GError **error);
void tc_heat_free(TcHeat *heat);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcHeat, tc_heat_free)
/* In @rows rows of @columns cells at most. Returned. */
TcChart *tc_heat_chart(const TcHeat *heat, const char *title, unsigned columns, unsigned rows);
