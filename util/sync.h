/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/sync.h: reference counts and scoped locks.
 *
 * Locks are pthread mutexes, not GMutex: the thread sanitizer sees them. For the same reason counts
 * are the compiler's atomics here, not library calls. Any thread. */
#pragma once
#include <pthread.h>
#include <stdbool.h>

static inline void tm_ref(int *refs)
{
    __atomic_add_fetch(refs, 1, __ATOMIC_RELAXED);
}

/* Whether that was the last one. */
static inline bool tm_unref(int *refs)
{
    return __atomic_sub_fetch(refs, 1, __ATOMIC_ACQ_REL) == 0;
}

static inline void tm_unlock(pthread_mutex_t **lock)
{
    pthread_mutex_unlock(*lock);
}

static inline pthread_mutex_t *tm_lock(pthread_mutex_t *lock)
{
    pthread_mutex_lock(lock);
    return lock;
}

/* Holds @mutex until the end of the enclosing block. */
#define TM_GUARD(mutex)                                                                            \
    __attribute__((cleanup(tm_unlock), unused)) pthread_mutex_t *tm_guard_ = tm_lock(mutex)
