/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/lane_run.h: carries a plan out: several threads read what it names, and write it
 * through lanes of a place.
 *
 * Invariant: the first failure stops all threads and is the one reported. Threads: tc_lane_run() is
 * called by one; read by several at once. */
#pragma once
#include "client/copy/plan.h"
#include "client/copy/rate.h"
#include "client/restore/place.h"
#include <stdatomic.h>

typedef struct TcLaneRun {
    TcPlace *place;
    TcPlan *plan;
    TcRate *rate;      /* NULL: no limit */
    atomic_bool *stop; /* set to end early; it is set after a failure, too */
    /* Fills @buf with what is at @step, at most TC_PIECE bytes. */
    bool (*read)(void *opaque, void *buf, const TcStep *step, GError **error);
    void *opaque;
} TcLaneRun;

/* All members are borrowed. False with @error set, or without one if it was stopped. */
bool tc_lane_run(const TcLaneRun *run, GError **error);
