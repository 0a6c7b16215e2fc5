/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/clock.h: how much time passes.
 *
 * Threads: any. */
#pragma once
#include <stdint.h>
#include <time.h>

/* Monotonic, in nanoseconds. */
static inline uint64_t tm_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}
