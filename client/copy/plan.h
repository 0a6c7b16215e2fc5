/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/plan.h: what a copy has to do, as a list of ranges.
 *
 * Built from the extents of the source before the target is touched, so that totals are known from
 * the start. Ranges are in order and don't overlap; what is in none of them is left alone.
 * Threads: one builds; afterwards tc_plan_* may be called by any that hold the caller's lock. */
#pragma once
#include "util/error.h"
#include <inttypes.h>

typedef enum {
    TC_DO_READ, /* read from the source and write */
    TC_DO_ZERO, /* make it read as zeroes, allocated */
    TC_DO_HOLE, /* make it read as zeroes, deallocated where that is possible */
} TcAction;

typedef struct TcStep {
    uint64_t offset, length;
    TcAction action;
} TcStep;

typedef struct TcPlan TcPlan;

/* @bitmap: only what is dirty is added. @fresh: the target reads as zeroes already. Returned. */
TcPlan *tc_plan_new(bool bitmap, bool fresh);
/* The next run of the source, with base:allocation's flags (0 if it is not known) and the bitmap's.
 * The list has a limit, beyond which runs are joined, and read where they could have been skipped.
 * Fails only for want of memory. */
bool tc_plan_add(TcPlan *plan, uint64_t offset, uint64_t length, uint32_t allocation,
                 uint32_t dirty, GError **error);
/* For tests: the greatest number of ranges that are kept apart. */
void tc_plan_set_limit(TcPlan *plan, size_t ranges);
void tc_plan_free(TcPlan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcPlan, tc_plan_free)

uint64_t tc_plan_bytes(const TcPlan *plan); /* of all ranges */
size_t tc_plan_ranges(const TcPlan *plan);

/* Cuts the next piece off: at most @read_size bytes (a power of two, pieces end at its multiples)
 * to read, or @zero_size to zero. False when there is none left. */
bool tc_plan_next(TcPlan *plan, uint64_t read_size, uint64_t zero_size, TcStep *step);
