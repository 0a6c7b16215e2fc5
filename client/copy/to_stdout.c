/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/to_stdout.c: a whole disk to standard output, from its first byte to its last.
 *
 * Reads are in flight while earlier ones are written, in a ring: its first slot is written next. */
#include "client/copy/copy_job.h"
#include "client/copy/nbd_wait.h"
#include "util/range.h"
#include "util/sys.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

typedef struct Slot {
    TcStep step;
    bool arrived;
    int error; /* errno, once arrived */
    char *buf;
} Slot;

typedef struct ToStdout {
    Slot *slots;
    unsigned first, used;
    atomic_uint_fast64_t read, zeroed;
} ToStdout;

static void to_stdout_free(TcCopyJob *job)
{
    ToStdout *o = job->own;

    /* what is in flight must not arrive in buffers that are gone */
    tc_source_free(g_steal_pointer(&job->source));
    for (unsigned i = 0; o->slots && i < job->requests; i++)
        g_free(o->slots[i].buf);
    g_free(o->slots);
    g_free(o);
}

static int arrived(void *opaque, int *error)
{
    Slot *slot = opaque;

    slot->arrived = true;
    slot->error = *error;
    return 1; /* retires the command */
}

static bool fail_read(TcCopyJob *job, const Slot *slot, GError **error)
{
    g_autofree char *why = slot->error ? g_strdup(tm_strerror(slot->error)) : tc_nbd_error();

    return tm_error_set(error, "%s: reading at offset %" PRIu64 ": %s", job->uri, slot->step.offset,
                        why);
}

/* Issues reads while there is room; false with an error. */
static bool fill(TcCopyJob *job, ToStdout *o, GError **error)
{
    struct nbd_handle *nbd = tc_source_handle(job->source);

    while (o->used < job->requests) {
        Slot *slot = &o->slots[(o->first + o->used) % job->requests];
        nbd_completion_callback callback = { .callback = arrived, .user_data = slot };

        if (!tc_plan_next(job->plan, TC_READ_SIZE, TC_READ_SIZE, &slot->step))
            return true;
        slot->error = 0;
        slot->arrived = slot->step.action != TC_DO_READ;
        o->used++;
        if (slot->arrived)
            memset(slot->buf, 0, slot->step.length);
        else if (nbd_aio_pread(nbd, slot->buf, slot->step.length, slot->step.offset, callback, 0) ==
                 -1)
            return fail_read(job, slot, error);
    }
    return true;
}

static bool wait_for(TcCopyJob *job, Slot *slot, GError **error)
{
    struct nbd_handle *nbd = tc_source_handle(job->source);

    while (!slot->arrived) {
        if (nbd_aio_is_dead(nbd) == 1 || nbd_aio_is_closed(nbd) == 1)
            return fail_read(job, slot, error);
        tc_nbd_turn(nbd, -1, -1);
    }
    return !slot->error || fail_read(job, slot, error);
}

static bool put(const char *buf, uint64_t length, GError **error)
{
    struct pollfd room = { .fd = STDOUT_FILENO, .events = POLLOUT };

    while (length) {
        ssize_t n = write(STDOUT_FILENO, buf, length);

        if (n < 0 && errno == EAGAIN)
            poll(&room, 1, -1);
        else if (n < 0 && errno != EINTR)
            return tm_error_set_errno(error, errno, "standard output");
        buf += n > 0 ? n : 0;
        length -= n > 0 ? (uint64_t)n : 0;
    }
    return true;
}

static bool stream(TcCopyJob *job, ToStdout *o, GError **error)
{
    while (fill(job, o, error)) {
        Slot *slot = &o->slots[o->first];
        bool data = slot->step.action == TC_DO_READ;

        if (!o->used)
            return true;
        if (!wait_for(job, slot, error) || !put(slot->buf, slot->step.length, error))
            return false;
        atomic_fetch_add(data ? &o->read : &o->zeroed, slot->step.length);
        o->first = (o->first + 1) % job->requests;
        o->used--;
    }
    return false;
}

static bool to_stdout_run(TcCopyJob *job, GError **error)
{
    ToStdout *o = g_new0(ToStdout, 1);
    int ret;

    job->own = o;
    job->used_connections = 1;
    if (!tc_copy_open(job, error) || !tc_copy_map(job, false, error))
        return false;
    o->slots = g_new0(Slot, job->requests);
    for (unsigned i = 0; i < job->requests; i++) {
        o->slots[i].buf = g_try_malloc(TC_READ_SIZE);
        if (!o->slots[i].buf)
            return tm_error_set(error, "out of memory for %u buffers", (unsigned)job->requests);
    }
    if (!tc_copy_begin(job) || !stream(job, o, error))
        return false;
    atomic_store(&job->stage, TC_STAGE_SYNC);
    ret = tm_fdatasync(&tm_sys_kernel, STDOUT_FILENO);
    /* a pipe can't be synced */
    return !ret || ret == -EINVAL || ret == -EROFS ||
           tm_error_set_errno(error, -ret, "Could not sync standard output");
}

static void to_stdout_counts(TcCopyJob *job, TcTransferCounts *counts)
{
    ToStdout *o = job->own;

    counts->read = atomic_load(&o->read);
    counts->zeroed = atomic_load(&o->zeroed);
    counts->done = counts->read + counts->zeroed;
}

static char *to_stdout_state(TcCopyJob *job)
{
    TcTransferCounts counts;

    if (atomic_load(&job->stage) < TC_STAGE_COPY)
        return NULL;
    to_stdout_counts(job, &counts);
    return g_strdup_printf("standard output got %" PRIu64 " of %" PRIu64 " bytes", counts.done,
                           (uint64_t)atomic_load(&job->planned));
}

const TcCopyKind tc_copy_to_stdout = {
    .run = to_stdout_run,
    .counts = to_stdout_counts,
    .state = to_stdout_state,
    .free = to_stdout_free,
};
