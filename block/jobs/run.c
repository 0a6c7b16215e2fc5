/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/jobs/run.c: what a job does while it runs: waits, pauses, keeps its speed, has errors. */
#include "block/jobs/job_internal.h"

#include "util/clock.h"
#include "util/json.h"
#include "util/sync.h"

#include <errno.h>

/* ---- waiting */

void blk_job_kick(BlkJob *job)
{
    TM_GUARD(&job->lock);

    job->kicked = true;
    pthread_cond_signal(&job->kick);
}

void blk_job_wait(BlkJob *job, uint64_t ns)
{
    uint64_t until = ns == BLK_JOB_FOREVER ? 0 : tm_now_ns() + ns;
    struct timespec t = { (time_t)(until / NS_A_SECOND), (long)(until % NS_A_SECOND) };
    int ret = 0;
    TM_GUARD(&job->lock);

    while (!job->kicked && ret == 0)
        ret = until ? pthread_cond_timedwait(&job->kick, &job->lock, &t)
                    : pthread_cond_wait(&job->kick, &job->lock);
    job->kicked = false;
}

bool blk_job_interrupted(BlkJob *job)
{
    TM_GUARD(&job->lock);

    return job->paused || job->canceled;
}

static bool wants_pause(BlkJob *job, bool *canceled)
{
    TM_GUARD(&job->lock);

    *canceled = job->canceled;
    return job->paused && !job->canceled;
}

static void wait_while_paused(BlkJob *job)
{
    bool canceled;

    blk_job_change(job, job->ready ? BLK_JOB_STANDBY : BLK_JOB_PAUSED);
    while (wants_pause(job, &canceled))
        blk_job_wait(job, BLK_JOB_FOREVER);
    blk_job_change(job, job->ready ? BLK_JOB_READY : BLK_JOB_RUNNING);
}

bool blk_job_pause_point(BlkJob *job)
{
    bool canceled;

    while (wants_pause(job, &canceled))
        wait_while_paused(job);
    return !canceled;
}

/* ---- progress */

void blk_job_set_progress(BlkJob *job, uint64_t done, uint64_t total)
{
    TM_GUARD(&job->lock);

    job->done = done;
    job->total = total;
}

bool blk_job_progress(BlkJob *job, uint64_t done, uint64_t total)
{
    blk_job_set_progress(job, done, total);
    return blk_job_pause_point(job);
}

void blk_job_ready(BlkJob *job)
{
    job->ready = true;
    blk_job_change(job, BLK_JOB_READY);
    if (job->kind->block)
        blk_job_emit(job, "BLOCK_JOB_READY");
}

/* ---- speed */

void blk_job_limit_set(BlkJobLimit *limit, uint64_t speed)
{
    uint64_t slices = NS_A_SECOND / SLICE;

    *limit = (BlkJobLimit){ .quota = speed ? (speed + slices - 1) / slices : 0 };
}

/* Who spends more than a slice has waits for as many slices. */
static void spend(BlkJobLimit *limit, uint64_t bytes, uint64_t at)
{
    if (!limit->quota)
        return;
    if (at >= limit->end)
        *limit = (BlkJobLimit){ .quota = limit->quota, .begin = at, .end = at + SLICE };
    limit->spent += bytes;
    if (limit->spent > limit->quota)
        limit->end = limit->begin + (uint64_t)((double)limit->spent / (double)limit->quota * SLICE);
}

void blk_job_spend(BlkJob *job, uint64_t bytes)
{
    uint64_t at = tm_now_ns();
    TM_GUARD(&job->lock);

    spend(&job->limit, bytes, at);
}

uint64_t blk_job_delay(BlkJob *job)
{
    uint64_t at = tm_now_ns();
    TM_GUARD(&job->lock);

    return job->limit.spent >= job->limit.quota && at < job->limit.end ? job->limit.end - at : 0;
}

/* ---- errors */

static BlkOnError settle(BlkOnError policy, int errnum)
{
    if (policy == BLK_ON_ERROR_ENOSPC)
        return errnum == ENOSPC ? BLK_ON_ERROR_STOP : BLK_ON_ERROR_REPORT;
    return policy;
}

static void pause_for(BlkJob *job, int errnum)
{
    TM_GUARD(&job->lock);

    if (job->canceled)
        return;
    job->paused = true;
    job->io_error = errnum;
}

BlkOnError blk_job_error(BlkJob *job, BlkOnError policy, bool read, int errnum)
{
    static const char *const actions[] = { "report", "ignore", "stop" };
    BlkOnError action = settle(policy, errnum);
    json_object *data = json_object_new_object();

    tm_json_add_string(data, "device", job->id);
    tm_json_add_string(data, "operation", read ? "read" : "write");
    tm_json_add_string(data, "action", actions[action]);
    blk_graph_emit(job->jobs->graph, "BLOCK_JOB_ERROR", data);
    if (action == BLK_ON_ERROR_STOP)
        pause_for(job, errnum);
    return action;
}
