/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/trace.h: trace points (USDT, of systemtap's sys/sdt.h) that bpftrace, perf, gdb and the like
 * find in the program. docs/tracing.md lists them with their arguments.
 *
 * While nobody traces, one costs a load and a branch that is not taken: its arguments are computed
 * only if its semaphore is set, by the tracer, from outside. The program itself never writes one,
 * so that they are no state of it. Without sys/sdt.h (the build option `tracepoints`) there is
 * nothing. Up to 6 arguments, which are what bpftrace can read: integers, and strings for the
 * length of the call.
 *
 * Threads: any. */
#pragma once

/* A new one is entered here, and in docs/tracing.md. */
#define TM_TRACEPOINTS_LIST(X)                                                                     \
    X(session_begin)                                                                               \
    X(session_end)                                                                                 \
    X(request_begin)                                                                               \
    X(request_end)                                                                                 \
    X(io_begin)                                                                                    \
    X(io_lane)                                                                                     \
    X(io_run)                                                                                      \
    X(io_end)                                                                                      \
    X(uring_submit)                                                                                \
    X(uring_complete)                                                                              \
    X(sync_begin)                                                                                  \
    X(sync_end)                                                                                    \
    X(drain_begin)                                                                                 \
    X(drain_end)                                                                                   \
    X(intent_begin)                                                                                \
    X(intent_end)                                                                                  \
    X(journal_sync_begin)                                                                          \
    X(journal_sync_end)                                                                            \
    X(commit_begin)                                                                                \
    X(commit_end)                                                                                  \
    X(backup_begin)                                                                                \
    X(backup_end)

#ifdef TM_TRACEPOINTS

#define _SDT_HAS_SEMAPHORES 1
#define SDT_USE_VARIADIC    1
#include <sys/sdt.h>

#define TM_TRACE_DECLARE(name) extern volatile unsigned short tidemark_##name##_semaphore;
TM_TRACEPOINTS_LIST(TM_TRACE_DECLARE)
#undef TM_TRACE_DECLARE

#define TM_TRACE(name, ...)                                                                        \
    do {                                                                                           \
        if (__builtin_expect(tidemark_##name##_semaphore, 0))                                      \
            STAP_PROBEV(tidemark, name, __VA_ARGS__);                                              \
    } while (0)

#else

static inline void tm_trace_nothing(int none, ...)
{
}

#define TM_TRACE(name, ...)                                                                        \
    do {                                                                                           \
        if (0)                                                                                     \
            tm_trace_nothing(0, __VA_ARGS__);                                                      \
    } while (0)

#endif
