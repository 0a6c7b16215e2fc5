/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/counts.h: what a store writes, counted for whoever watches it.
 *
 * Threads: any; the members are atomic. */
#pragma once
#include "util/clock.h"

/* Since the store was opened. */
typedef struct BmpStoreCounts {
    uint64_t syncs;   /* of the store's file that succeeded */
    uint64_t failed;  /* that did not */
    uint64_t ns;      /* that all of them took */
    uint64_t intents; /* that have come into force */
} BmpStoreCounts;

/* A sync that began at @began (tm_now_ns()) has ended with @ret, 0 or -errno. */
static inline void bmp_store_count_sync(BmpStoreCounts *counts, uint64_t began, int ret)
{
    __atomic_add_fetch(ret < 0 ? &counts->failed : &counts->syncs, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&counts->ns, tm_now_ns() - began, __ATOMIC_RELAXED);
}
