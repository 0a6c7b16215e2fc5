/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/jobs/query.c: what users see of jobs. */
#include "block/jobs/job_internal.h"

#include "util/json.h"
#include "util/sync.h"

#include <errno.h>

/* While it runs an error may be there that the main thread does not know of. */
static void add_error(json_object *to, const BlkJob *job)
{
    if (job->error && job->status >= BLK_JOB_ABORTING)
        tm_json_add_string(to, "error", job->error->message);
}

static json_object *info(BlkJob *job)
{
    json_object *data = json_object_new_object();
    TM_GUARD(&job->lock);

    tm_json_add_uint(data, "current-progress", job->done);
    tm_json_add_string(data, "status", blk_job_status_names[job->status]);
    tm_json_add_uint(data, "total-progress", job->total);
    tm_json_add_string(data, "type", job->kind->type);
    tm_json_add_string(data, "id", job->id);
    add_error(data, job);
    return data;
}

/* What BlockJobInfo and the events have in common; under the lock. */
static json_object *common(const BlkJob *job)
{
    json_object *data = json_object_new_object();

    tm_json_add_string(data, "type", job->kind->type);
    tm_json_add_string(data, "device", job->id);
    tm_json_add_uint(data, "len", job->total);
    tm_json_add_uint(data, "offset", job->done);
    json_object_object_add(data, "speed", json_object_new_int64(job->speed));
    return data;
}

static json_object *block_info(BlkJob *job)
{
    json_object *data;
    TM_GUARD(&job->lock);

    data = common(job);
    /* In QEMU a job that waits for its requests is not. */
    tm_json_add_bool(data, "busy", false);
    tm_json_add_bool(data, "paused", job->paused);
    tm_json_add_string(data, "io-status",
                       !job->io_error            ? "ok"
                       : job->io_error == ENOSPC ? "nospace"
                                                 : "failed");
    tm_json_add_bool(data, "ready", job->ready);
    tm_json_add_string(data, "status", blk_job_status_names[job->status]);
    tm_json_add_bool(data, "auto-finalize", !job->manual_finalize);
    tm_json_add_bool(data, "auto-dismiss", !job->manual_dismiss);
    add_error(data, job);
    return data;
}

static json_object *event_data(BlkJob *job)
{
    json_object *data;
    TM_GUARD(&job->lock);

    data = common(job);
    add_error(data, job);
    return data;
}

void blk_job_emit(BlkJob *job, const char *event)
{
    json_object *data;

    if (g_str_equal(event, "BLOCK_JOB_PENDING")) {
        data = json_object_new_object();
        tm_json_add_string(data, "type", job->kind->type);
        tm_json_add_string(data, "id", job->id);
    } else {
        data = event_data(job);
    }
    if (g_str_equal(event, "BLOCK_JOB_CANCELLED"))
        json_object_object_del(data, "error");
    blk_graph_emit(job->jobs->graph, event, data);
}

json_object *blk_jobs_query(BlkJobs *jobs)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; i < jobs->list->len; i++)
        json_object_array_add(list, info(jobs->list->pdata[i]));
    return list;
}

json_object *blk_jobs_query_block(BlkJobs *jobs)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; i < jobs->list->len; i++) {
        BlkJob *job = jobs->list->pdata[i];

        if (job->kind->block)
            json_object_array_add(list, block_info(job));
    }
    return list;
}

static void report(BlkJob *job, BlkJobStatus status)
{
    json_object *data = json_object_new_object();

    json_object_object_add(data, "status", json_object_new_string(blk_job_status_names[status]));
    json_object_object_add(data, "id", json_object_new_string(job->id));
    blk_graph_emit(job->jobs->graph, "JOB_STATUS_CHANGE", data);
}

void blk_job_change(BlkJob *job, BlkJobStatus status)
{
    pthread_mutex_lock(&job->lock);
    job->status = status;
    pthread_mutex_unlock(&job->lock);
    report(job, status);
}
