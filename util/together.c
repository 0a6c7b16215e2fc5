/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/together.c: see the header. */
#include "util/together.h"

#include <pthread.h>

typedef struct Work {
    void (*fn)(void *opaque, size_t i);
    void *opaque;
    size_t n, next; /* next: atomic */
} Work;

static void *work(void *opaque)
{
    Work *w = opaque;
    size_t i;

    while ((i = __atomic_fetch_add(&w->next, 1, __ATOMIC_RELAXED)) < w->n)
        w->fn(w->opaque, i);
    return NULL;
}

void tm_together(void (*fn)(void *opaque, size_t i), void *opaque, size_t n)
{
    Work w = { .fn = fn, .opaque = opaque, .n = n };
    pthread_t threads[TM_TOGETHER_MAX];
    size_t started = 0;

    while (started < TM_TOGETHER_MAX && started + 1 < n &&
           pthread_create(&threads[started], NULL, work, &w) == 0)
        started++;
    work(&w); /* also if there could be no thread */
    while (started > 0)
        pthread_join(threads[--started], NULL);
}

typedef struct Syncs {
    const TmSys *sys;
    const int *fds;
    int *results;
} Syncs;

static void sync_one(void *opaque, size_t i)
{
    Syncs *s = opaque;

    s->results[i] = s->fds[i] < 0 ? 0 : tm_fdatasync(s->sys, s->fds[i]);
}

void tm_fdatasync_all(const TmSys *sys, const int *fds, int *results, size_t n)
{
    Syncs s = { sys, fds, results };

    if (sys == &tm_sys_kernel)
        tm_together(sync_one, &s, n);
    for (size_t i = 0; sys != &tm_sys_kernel && i < n; i++)
        sync_one(&s, i);
}
