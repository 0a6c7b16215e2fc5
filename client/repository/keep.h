/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/keep.h: which points a rule such as "last=7,daily=14" keeps.
 *
 * Pure functions but for the time zone. Threads: any. */
#pragma once
#include "util/error.h"
#include <inttypes.h>

typedef enum {
    TC_KEEP_LAST,
    TC_KEEP_HOURLY,
    TC_KEEP_DAILY,
    TC_KEEP_WEEKLY,
    TC_KEEP_MONTHLY,
    TC_KEEP_YEARLY,
    TC_KEEP_KINDS,
} TcKeepKind;

typedef struct TcKeep {
    uint64_t count[TC_KEEP_KINDS]; /* UINT64_MAX: all; 0: by this kind none */
} TcKeep;

/* "KIND=N,...", N a number or "all"; added to what *keep has, where a kind must not come again. */
bool tc_keep_parse(const char *text, TcKeep *keep, GError **error);
/* Of points at these @instants (ns since 1970), in the order in which they were made: why each
 * stays, as "last, daily" (returned), or NULL. Of each of the newest N periods of local time that
 * have points, the newest point stays, and the newest of all in any case. If the clock was wrong,
 * what is newest depends on whether the order or the instants count: what either keeps stays. */
void tc_keep_apply(const TcKeep *keep, const uint64_t *instants, size_t n, char **why);
