/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/copy_job.c: what the kinds of copies have in common. */
#include "client/copy/copy_job.h"
#include "client/daemon/export_view.h"

static bool plan_extent(void *opaque, uint64_t offset, uint64_t length, const uint32_t *values,
                        GError **error)
{
    TcCopyJob *job = opaque;

    atomic_store(&job->mapped, offset);
    return tc_plan_add(job->plan, offset, length, values[0], values[1], error);
}

bool tc_copy_open(TcCopyJob *job, GError **error)
{
    g_autofree char *context =
        job->bitmap ? g_strconcat(TC_CONTEXT_BITMAP_PREFIX, job->bitmap, NULL) : NULL;
    const char *contexts[] = { TC_CONTEXT_ALLOCATION, context, NULL };

    job->uri = tc_export_uri(job->from, job->socket, job->bitmap,
                             "the target of its copy has to be an NBD URI or an export", error);
    job->source = job->uri ? tc_source_open(job->uri, contexts, -1, error) : NULL;
    if (!job->source)
        return false;
    atomic_store(&job->size, tc_source_size(job->source));
    return !context || tc_export_require(job->source, 1, context, job->socket, error);
}

void tc_copy_known(TcCopyJob *job)
{
    atomic_store(&job->planned, tc_plan_bytes(job->plan));
    atomic_store(&job->ranges, tc_plan_ranges(job->plan));
}

bool tc_copy_map(TcCopyJob *job, bool fresh, GError **error)
{
    job->plan = tc_plan_new(job->bitmap != NULL, fresh);
    if (!tc_source_walk(job->source, plan_extent, job, error))
        return false;
    tc_copy_known(job);
    return true;
}

bool tc_copy_begin(TcCopyJob *job)
{
    int expected = TC_STAGE_PREPARE;

    return atomic_compare_exchange_strong(&job->stage, &expected, TC_STAGE_COPY);
}
