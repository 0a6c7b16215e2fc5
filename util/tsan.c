/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/tsan.c: annotates for the thread sanitizer GLib's locks. Built under -fsanitize=thread only.
 *
 * The sanitizer sees what is compiled for it and the pthread functions. GLib isn't compiled for it,
 * and its locks are futexes of its own, so everything that they guard would be called a race. Each
 * lock function that we use is therefore defined here, in front of GLib's: it calls the original,
 * and says to the sanitizer what happened. What isn't here (GAsyncQueue, GThreadPool) synchronises
 * inside GLib, which can't be annotated: don't hand data between threads through those. */
#include <dlfcn.h>
#include <glib.h>
#include <sanitizer/tsan_interface.h>

/* The recursive kind: the sanitizer counts, so that one description fits all locks. */
#define KIND   __tsan_mutex_write_reentrant
#define READ   (__tsan_mutex_read_lock | KIND)
#define TRY    __tsan_mutex_try_lock
#define FAILED __tsan_mutex_try_lock_failed
#define ORIGINAL(name)                                                                             \
    static gpointer found;                                                                         \
    __typeof__(&name) real = (__typeof__(&name))original(&found, #name)

/* Looked up once; all lookups have the same answer, so it doesn't matter whose is kept. */
static void *original(gpointer *found, const char *name)
{
    if (!g_atomic_pointer_get(found))
        g_atomic_pointer_set(found, dlsym(RTLD_NEXT, name));
    return g_atomic_pointer_get(found);
}

#define LOCK(name, type, kind)                                                                     \
    void name(type *lock)                                                                          \
    {                                                                                              \
        ORIGINAL(name);                                                                            \
        __tsan_mutex_pre_lock(lock, kind);                                                         \
        real(lock);                                                                                \
        __tsan_mutex_post_lock(lock, kind, 1);                                                     \
    }
#define TRYLOCK(name, type, kind)                                                                  \
    gboolean name(type *lock)                                                                      \
    {                                                                                              \
        ORIGINAL(name);                                                                            \
        gboolean taken;                                                                            \
        __tsan_mutex_pre_lock(lock, (kind) | TRY);                                                 \
        taken = real(lock);                                                                        \
        __tsan_mutex_post_lock(lock, (kind) | TRY | (taken ? 0 : FAILED), 1);                      \
        return taken;                                                                              \
    }
#define UNLOCK(name, type, kind)                                                                   \
    void name(type *lock)                                                                          \
    {                                                                                              \
        ORIGINAL(name);                                                                            \
        __tsan_mutex_pre_unlock(lock, kind);                                                       \
        real(lock);                                                                                \
        __tsan_mutex_post_unlock(lock, kind);                                                      \
    }
/* Memory is used again: a lock's history must end with it. */
#define CLEAR(name, type)                                                                          \
    void name(type *lock)                                                                          \
    {                                                                                              \
        ORIGINAL(name);                                                                            \
        __tsan_mutex_destroy(lock, 0);                                                             \
        real(lock);                                                                                \
    }

LOCK(g_mutex_lock, GMutex, KIND)
TRYLOCK(g_mutex_trylock, GMutex, KIND)
UNLOCK(g_mutex_unlock, GMutex, KIND)
CLEAR(g_mutex_clear, GMutex)
LOCK(g_rec_mutex_lock, GRecMutex, KIND)
TRYLOCK(g_rec_mutex_trylock, GRecMutex, KIND)
UNLOCK(g_rec_mutex_unlock, GRecMutex, KIND)
CLEAR(g_rec_mutex_clear, GRecMutex)
LOCK(g_rw_lock_writer_lock, GRWLock, KIND)
TRYLOCK(g_rw_lock_writer_trylock, GRWLock, KIND)
UNLOCK(g_rw_lock_writer_unlock, GRWLock, KIND)
LOCK(g_rw_lock_reader_lock, GRWLock, READ)
TRYLOCK(g_rw_lock_reader_trylock, GRWLock, READ)
UNLOCK(g_rw_lock_reader_unlock, GRWLock, READ)
CLEAR(g_rw_lock_clear, GRWLock)

/* Waiting lets the mutex go and takes it again. */
void g_cond_wait(GCond *cond, GMutex *mutex)
{
    ORIGINAL(g_cond_wait);

    __tsan_mutex_pre_unlock(mutex, KIND);
    __tsan_mutex_post_unlock(mutex, KIND);
    real(cond, mutex);
    __tsan_mutex_pre_lock(mutex, KIND);
    __tsan_mutex_post_lock(mutex, KIND, 1);
}

gboolean g_cond_wait_until(GCond *cond, GMutex *mutex, gint64 end_time)
{
    ORIGINAL(g_cond_wait_until);
    gboolean signalled;

    __tsan_mutex_pre_unlock(mutex, KIND);
    __tsan_mutex_post_unlock(mutex, KIND);
    signalled = real(cond, mutex, end_time);
    __tsan_mutex_pre_lock(mutex, KIND);
    __tsan_mutex_post_lock(mutex, KIND, 1);
    return signalled;
}
