/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/merge_internal.h: what the files of a merge share.
 *
 * Threads: one. */
#pragma once
#include "client/repository/hashes.h"
#include "client/repository/merge.h"
#include "util/sys.h"

/* A child's new hashes, until the merge has come so far; REPOSITORY/CHILD/DISK.this. */
#define TC_MERGED_HASHES "hashes.merged"

/* ---- merge_runs.c: which blocks come from where */

typedef struct TcMergeRun {
    uint64_t offset, length;
    TcRunKind kind; /* DATA or ZERO */
    bool upper;     /* of two that were merged, the upper one has it */
} TcMergeRun;

/* A disk at a point, as far as a merge is concerned. */
typedef struct TcMergeLayer {
    uint64_t size;
    char *parent; /* the point that it stands on, or NULL */
    GArray *runs; /* TcMergeRun: in order, apart; blocks that were found to be zeroes are ZERO */
} TcMergeLayer;

TcMergeLayer *tc_merge_layer_new(const TcHashes *hashes, const TcPointDisk *disk);
/* What @lower becomes when @upper is merged into it; both of one size. */
TcMergeLayer *tc_merge_layers(const TcMergeLayer *upper, const TcMergeLayer *lower);
uint64_t tc_merge_layer_bytes(const TcMergeLayer *layer, TcRunKind kind);
void tc_merge_layer_free(TcMergeLayer *layer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcMergeLayer, tc_merge_layer_free)
/* Adds what is written for it, and what is freed by it. */
void tc_merge_layers_cost(const TcMergeLayer *upper, const TcMergeLayer *lower,
                          const TcMergeLayer *merged, TcMergeCost *cost);

/* ---- merge_plan.c */

/* Why a point stays of whose disk two are the child. Returned. */
char *tc_merge_two_children(const char *a, const char *b, const char *disk);

/* ---- merge_hashes.c */

TcHashes *tc_merge_open_hashes(const TcRepository *repo, const TcManifest *point, const char *disk,
                               GError **error);
/* Writes CHILD/DISK.hashes.merged, durable but for its name, of @disk of @child and of @point,
 * which it stands on; makes @entry what the child's manifest says of the disk then. */
bool tc_merge_write_hashes(const TcRepository *repo, const TcManifest *point,
                           const TcManifest *child, const char *disk, TcPointDisk *entry,
                           GError **error);

/* ---- merge_copy.c: the images */

typedef struct TcMergeCopy {
    TcRepository *repo;
    const TcManifest *point, *child; /* as they were before the merge */
    const char *disk;
    TcMergeWatch *watch;
} TcMergeCopy;

/* Whether the images can be opened for that: nobody else has them open. */
bool tc_merge_copy_check(const TcMergeCopy *copy, GError **error);
/* Gives the point's image the child's size, and writes the child's blocks into it, durably. May be
 * repeated. */
bool tc_merge_copy_run(const TcMergeCopy *copy, GError **error);
