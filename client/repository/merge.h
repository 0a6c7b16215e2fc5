/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/merge.h: removes points, those within a chain by merging.
 *
 * Of each disk of a point that has a child, the child's blocks are written into the image of the
 * point, which then becomes the child's. Invariants: the child's image reads as before at every
 * moment, be it with qemu-img alone; each step may be repeated; merge.json is durable before the
 * first step that changes a file, and goes last (docs/repository.md).
 *
 * While there is a merge.json, its point is going: it is no point any more, but its manifest, its
 * hashes and its images are what the child stands on. tc_repo_open() leaves it out of
 * tc_repo_points(); who follows a chain finds it.
 *
 * Threads: main, but for what is said to be otherwise. */
#pragma once
#include "client/repository/repository.h"
#include <stdatomic.h>

/* ---- what it will cost */

typedef struct TcMergeCost {
    uint64_t written; /* bytes of blocks, before they are compressed */
    uint64_t freed;
} TcMergeCost;

/* Removals, one after the other, as they would be: the oldest first where images are merged, else
 * the newest (tc_merge_order()). @repo is borrowed. */
typedef struct TcMergePlan TcMergePlan;
TcMergePlan *tc_merge_plan(TcRepository *repo);
/* The next one. *kept is NULL, or why @point can't be removed (returned): several points stand on
 * it. @cost is added to. */
bool tc_merge_plan_remove(TcMergePlan *plan, const char *point, TcMergeCost *cost, char **kept,
                          GError **error);
/* The one of @n points, the oldest first, that is the @i-th to be removed. */
guint tc_merge_order(const TcRepository *repo, guint i, guint n);
void tc_merge_plan_free(TcMergePlan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcMergePlan, tc_merge_plan_free)

/* ---- doing it */

/* For whoever watches; any thread reads and sets it meanwhile. All zeroes at first. */
typedef struct TcMergeWatch {
    atomic_bool stop;           /* set it to end early: what has begun goes on with the next one */
    atomic_uint_fast64_t done;  /* bytes of blocks that were written */
    atomic_uint_fast64_t wrong; /* blocks that differed from their hashes, and still do */
} TcMergeWatch;

/* Removes @point; @repo is open to CHANGE and knows afterwards. @watch may be NULL. On failure the
 * point is there as before, or it is going and tc_merge_recover() goes on: the message says which.
 * A failure by @watch->stop sets no error. */
bool tc_merge_run(TcRepository *repo, const char *point, TcMergeWatch *watch, GError **error);

/* ---- what was interrupted */

typedef enum {
    TC_MERGE_NONE,
    TC_MERGE_COPYING, /* all points can be read */
    TC_MERGE_ENDING,  /* the child can't be before the merge has ended */
    TC_MERGE_DAMAGED, /* merge.json can't be read */
} TcMergeState;
TcMergeState tc_merge_state(const TcRepository *repo);
/* Of a merge that is ending: has the points of @repo be as they will be then. For LIST. */
void tc_merge_show(TcRepository *repo);

/* The point that is going, or NULL: none (no error then), or that can't be read. Returned. Takes no
 * lock. */
char *tc_merge_pending(const char *repository, GError **error);
/* Completes the merge that was interrupted, if there is one. By tc_repo_open() for ADD and CHANGE,
 * with the locks of CHANGE. Where these can't be had, or it fails, ADD goes on without, unless it
 * is ending; READ completes it only then. */
bool tc_merge_recover(TcRepository *repo, GError **error);
