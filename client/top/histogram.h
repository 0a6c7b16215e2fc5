/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/top/histogram.h: percentiles of the latencies in an interval, from two states of a
 * histogram as query-blockstats has it: boundaries in ns, and one bin more than there are.
 *
 * Threads: any. */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>

/* Adds "p50-ns", "p99-ns" and "worst-ns" to @figures: the first two interpolated in their bin, the
 * last the end of the furthest bin that grew, so it is at most that, except in the last bin, where
 * it is more. Adds nothing if nothing grew, or if the states don't match. @before may be NULL. */
void tc_top_percentiles(json_object *figures, json_object *before, json_object *now);
