/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/trace.c: the semaphores of the trace points, where tracers look for them. */
#include "util/trace.h"

#ifdef TM_TRACEPOINTS
#define DEFINE(name)                                                                               \
    volatile unsigned short tidemark_##name##_semaphore __attribute__((section(".probes")));
TM_TRACEPOINTS_LIST(DEFINE)
#endif
