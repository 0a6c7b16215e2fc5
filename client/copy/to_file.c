/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/to_file.c: a disk, or what is dirty of it, into a file or device.
 *
 * Invariant: before the first byte of a file changes, the file durably says that it is incomplete;
 * that it is complete it says after its sync. A device can't remember anything. */
#include "client/copy/copy_job.h"
#include "client/copy/origin.h"
#include "client/copy/target.h"
#include "util/log.h"

typedef struct ToFile {
    TcTargetFacts facts;
    TcOrigin was, is; /* what the target remembers, and what it shall */
    TcTarget *target;
    TcTransfer *transfer; /* set before TC_STAGE_COPY */
} ToFile;

static void to_file_free(TcCopyJob *job)
{
    ToFile *f = job->own;

    tc_transfer_free(f->transfer);
    tc_target_free(f->target);
    tc_origin_clear(&f->was);
    tc_origin_clear(&f->is);
    g_free(f);
}

static bool interrupted(const TcOrigin *origin)
{
    return origin->state == TC_ORIGIN_COPYING || origin->state == TC_ORIGIN_UPDATING;
}

/* A file that something else is in is never overwritten by mistake. */
static bool check_full(const TcCopyJob *job, const ToFile *f, GError **error)
{
    if (job->force || !f->facts.exists || f->facts.empty)
        return true;
    if (f->facts.is_block)
        return tm_error_set(error, "target '%s' is a device: --force overwrites what is on it",
                            job->to);
    if (f->was.state == TC_ORIGIN_NONE)
        return tm_error_set(error,
                            "target '%s' exists, and is not known to be a copy of %s: --force "
                            "overwrites it",
                            job->to, f->is.source);
    return !g_strcmp0(f->was.source, f->is.source) ||
           tm_error_set(error, "target '%s' is a copy of %s, not of %s: --force overwrites it",
                        job->to, f->was.source, f->is.source);
}

/* An update makes a copy whole only if the copy was whole, and of this disk. */
static bool check_update(const TcCopyJob *job, const ToFile *f, GError **error)
{
    const TcOrigin *was = &f->was;

    if (was->state == TC_ORIGIN_COPYING)
        return tm_error_set(error,
                            "target '%s' is incomplete, because its full copy did not come to its "
                            "end: copy without --bitmap first",
                            job->to);
    if (was->state == TC_ORIGIN_UPDATING && g_strcmp0(was->bitmap, job->bitmap))
        return tm_error_set(error,
                            "target '%s' is incomplete, because its update with bitmap '%s' did "
                            "not come to its end: run that again first, or copy without --bitmap",
                            job->to, was->bitmap);
    if (job->force || f->facts.is_block)
        return true;
    if (was->state == TC_ORIGIN_NONE)
        return tm_error_set(error,
                            "target '%s' is not known to be a copy of %s: --force updates it all "
                            "the same",
                            job->to, f->is.source);
    if (g_strcmp0(was->source, f->is.source))
        return tm_error_set(error,
                            "target '%s' is a copy of %s, not of %s: --force updates it all the "
                            "same",
                            job->to, was->source, f->is.source);
    return !was->moved ||
           tm_error_set(error,
                        "target '%s' is a duplicate of a copy of %s, and may lack what that was "
                        "updated with: copy without --bitmap, or use --force if it lacks nothing",
                        job->to, f->is.source);
}

/* Everything that can be found out without touching the target. */
static bool prepare(TcCopyJob *job, ToFile *f, GError **error)
{
    if (!tc_target_examine(job->to, &f->facts, error) || !tc_copy_open(job, error) ||
        !tc_target_check(job->to, &f->facts, tc_source_size(job->source), job->bitmap, error))
        return false;
    f->is.source = tc_origin_source(job->uri);
    f->is.bitmap = g_strdup(job->bitmap);
    f->is.state = job->bitmap ? TC_ORIGIN_UPDATING : TC_ORIGIN_COPYING;
    if (f->facts.exists && !f->facts.is_block &&
        !tc_origin_read(&tm_sys_kernel, job->to, &f->was, error))
        return false;
    if (!(job->bitmap ? check_update : check_full)(job, f, error))
        return false;
    if (interrupted(&f->was))
        tm_log(TM_LOG_INFO, "target '%s' is incomplete: the copy begins again", job->to);
    if (f->facts.is_block)
        job->left_alone = f->facts.size - tc_source_size(job->source);
    return tc_copy_map(job, tc_target_fresh(&f->facts), error);
}

static bool transfer(TcCopyJob *job, ToFile *f, GError **error)
{
    g_autofree char *name = g_strconcat("target ", job->to, NULL);

    f->target = tc_target_open(&tm_sys_kernel, job->to, &f->facts, tc_source_size(job->source),
                               &f->is, error);
    if (!f->target || !tc_transfer_run(f->transfer, tc_target_sink(f->target), name, error))
        return false;
    atomic_store(&job->stage, TC_STAGE_SYNC);
    g_clear_pointer(&f->is.bitmap, g_free);
    f->is.state = TC_ORIGIN_COMPLETE;
    return tc_target_sync(f->target, error) && tc_target_remember(f->target, &f->is, error);
}

static bool to_file_run(TcCopyJob *job, GError **error)
{
    TcTransferOptions how = { .connections = (unsigned)job->connections,
                              .requests = (unsigned)job->requests,
                              .rate = job->rate };
    ToFile *f = g_new0(ToFile, 1);

    job->own = f;
    if (!prepare(job, f, error))
        return false;
    how.fresh = tc_target_fresh(&f->facts);
    f->transfer = tc_transfer_new(job->source, job->plan, &how);
    if (!tc_copy_begin(job) || !transfer(job, f, error))
        return false;
    job->used_connections = tc_transfer_connections(f->transfer);
    return true;
}

static void to_file_counts(TcCopyJob *job, TcTransferCounts *counts)
{
    tc_transfer_counts(((ToFile *)job->own)->transfer, counts);
}

static void to_file_cancel(TcCopyJob *job)
{
    tc_transfer_cancel(((ToFile *)job->own)->transfer);
}

static char *to_file_state(TcCopyJob *job)
{
    ToFile *f = job->own;
    TcTransferCounts counts;

    if (!f || !f->target)
        return NULL;
    if (atomic_load(&job->stage) == TC_STAGE_SYNC)
        return g_strdup_printf("target '%s' has all bytes, but they may not have reached the disk",
                               job->to);
    tc_transfer_counts(f->transfer, &counts);
    return g_strdup_printf(
        "target '%s' is incomplete: %" PRIu64 " of %" PRIu64
        " bytes were copied; run the same command again: it begins from the start",
        job->to, counts.done, (uint64_t)atomic_load(&job->planned));
}

const TcCopyKind tc_copy_to_file = {
    .run = to_file_run,
    .counts = to_file_counts,
    .cancel = to_file_cancel,
    .state = to_file_state,
    .free = to_file_free,
};
