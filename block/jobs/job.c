/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/jobs/job.c: the life of jobs.
 *
 * A job runs on a thread of its own, as it may take long or be paused, which workers are not for.
 * When it is through it rings a bell, and the main thread concludes it.
 *
 * Invariant: the status changes on the main thread, except between running and paused, which the
 * job's own thread does before it rings. */
#include "block/jobs/job.h"

#include "util/error.h"
#include "util/identifier.h"
#include "util/sync.h"

#include <glib-unix.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef enum {
    CREATED,
    RUNNING,
    PAUSED,
    WAITING,
    PENDING,
    ABORTING,
    CONCLUDED,
    GONE,
    STATUSES,
} Status;

static const char *const status_names[] = { "created", "running",  "paused",    "waiting",
                                            "pending", "aborting", "concluded", "null" };
G_STATIC_ASSERT(G_N_ELEMENTS(status_names) == STATUSES);

#define BIT(n) (1u << (n))

/* And in which statuses a job takes it. */
static const struct {
    const char *name;
    unsigned allowed;
} verbs[] = {
    { "cancel", BIT(CREATED) | BIT(RUNNING) | BIT(PAUSED) | BIT(WAITING) | BIT(PENDING) },
    { "pause", BIT(CREATED) | BIT(RUNNING) | BIT(PAUSED) },
    { "resume", BIT(CREATED) | BIT(RUNNING) | BIT(PAUSED) },
    { "complete", 0 },
    { "finalize", BIT(PENDING) },
    { "dismiss", BIT(CONCLUDED) },
};
G_STATIC_ASSERT(G_N_ELEMENTS(verbs) == BLK_JOB_VERBS);

struct BlkJobs {
    BlkGraph *graph; /* borrowed */
    GPtrArray *list; /* BlkJob, in order of their beginning */
    int bell;
    GSource *ringing;
};

struct BlkJob {
    BlkJobs *jobs;
    char *id;
    const BlkJobKind *kind;
    void *opaque;
    pthread_t thread;
    bool threaded;

    pthread_mutex_t lock; /* guards the next; a leaf */
    pthread_cond_t resumed;
    Status status;
    bool canceled, paused; /* that it is to be */
    bool through;          /* run() has returned */
    uint64_t done, total;
    GError *error;
};

/* ---- statuses */

static void tell(BlkJob *job, Status status)
{
    json_object *data = json_object_new_object();

    json_object_object_add(data, "status", json_object_new_string(status_names[status]));
    json_object_object_add(data, "id", json_object_new_string(job->id));
    blk_graph_emit(job->jobs->graph, "JOB_STATUS_CHANGE", data);
}

static void change(BlkJob *job, Status status)
{
    pthread_mutex_lock(&job->lock);
    job->status = status;
    pthread_mutex_unlock(&job->lock);
    tell(job, status);
}

/* ---- the job's thread */

static bool wants(BlkJob *job, bool *canceled)
{
    TM_GUARD(&job->lock);

    *canceled = job->canceled;
    return job->paused && !job->canceled;
}

static void wait_while_paused(BlkJob *job)
{
    change(job, PAUSED);
    pthread_mutex_lock(&job->lock);
    while (job->paused && !job->canceled)
        pthread_cond_wait(&job->resumed, &job->lock);
    pthread_mutex_unlock(&job->lock);
    change(job, RUNNING);
}

bool blk_job_progress(BlkJob *job, uint64_t done, uint64_t total)
{
    bool canceled;

    pthread_mutex_lock(&job->lock);
    job->done = done;
    job->total = total;
    pthread_mutex_unlock(&job->lock);
    while (wants(job, &canceled))
        wait_while_paused(job);
    return !canceled;
}

static void ring(BlkJob *job, GError *error)
{
    pthread_mutex_lock(&job->lock);
    job->error = error;
    job->through = true;
    pthread_mutex_unlock(&job->lock);
    eventfd_write(job->jobs->bell, 1);
}

static void *run(void *opaque)
{
    BlkJob *job = opaque;
    GError *error = NULL;

    job->kind->run(job->opaque, job, &error);
    ring(job, error);
    return NULL;
}

/* ---- its end */

static void job_free(void *data)
{
    BlkJob *job = data;

    g_clear_error(&job->error);
    pthread_mutex_destroy(&job->lock);
    pthread_cond_destroy(&job->resumed);
    g_free(job->id);
    g_free(job);
}

/* Its thread has ended, and nobody else looks. */
static void conclude(BlkJob *job)
{
    if (job->threaded)
        pthread_join(job->thread, NULL);
    job->threaded = job->through = false;
    job->kind->end(job->opaque);
    job->opaque = NULL;
    if (!job->error && job->canceled)
        tm_error_set(&job->error, "Operation canceled");
    if (job->error) {
        change(job, ABORTING);
    } else {
        job->total = job->done = job->total ? job->total : 1;
        change(job, WAITING);
        change(job, PENDING);
    }
    change(job, CONCLUDED);
}

static bool is_through(BlkJob *job)
{
    TM_GUARD(&job->lock);

    return job->through;
}

static gboolean rung(int fd, GIOCondition condition, void *opaque)
{
    BlkJobs *jobs = opaque;
    eventfd_t count;

    eventfd_read(fd, &count);
    for (guint i = 0; i < jobs->list->len; i++) {
        BlkJob *job = jobs->list->pdata[i];

        if (is_through(job))
            conclude(job);
    }
    return G_SOURCE_CONTINUE;
}

/* ---- all of them */

BlkJobs *blk_jobs_new(BlkGraph *graph, GMainContext *main)
{
    BlkJobs *jobs = g_new0(BlkJobs, 1);

    jobs->graph = graph;
    jobs->list = g_ptr_array_new_with_free_func(job_free);
    jobs->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    jobs->ringing = g_unix_fd_source_new(jobs->bell, G_IO_IN);
    g_source_set_callback(jobs->ringing, G_SOURCE_FUNC(rung), jobs, NULL);
    g_source_attach(jobs->ringing, main);
    return jobs;
}

static void cancel(BlkJob *job)
{
    TM_GUARD(&job->lock);

    job->canceled = true;
    pthread_cond_signal(&job->resumed);
}

void blk_jobs_free(BlkJobs *jobs)
{
    if (!jobs)
        return;
    for (guint i = 0; i < jobs->list->len; i++)
        cancel(jobs->list->pdata[i]);
    for (guint i = 0; i < jobs->list->len; i++) {
        BlkJob *job = jobs->list->pdata[i];

        if (job->opaque)
            conclude(job);
    }
    g_source_destroy(jobs->ringing);
    g_source_unref(jobs->ringing);
    close(jobs->bell);
    g_ptr_array_unref(jobs->list);
    g_free(jobs);
}

static BlkJob *find(BlkJobs *jobs, const char *id)
{
    for (guint i = 0; i < jobs->list->len; i++) {
        BlkJob *job = jobs->list->pdata[i];

        if (g_str_equal(job->id, id))
            return job;
    }
    return NULL;
}

/* What can't even begin is through at once, but told of after the command's answer. */
static void begin(BlkJob *job)
{
    GError *error = NULL;
    int ret;

    if (job->kind->begin(job->opaque, &error)) {
        ret = pthread_create(&job->thread, NULL, run, job);
        job->threaded = ret == 0;
        if (ret == 0)
            return;
        tm_error_set_errno(&error, ret, "Could not start a thread");
    }
    ring(job, error);
}

bool blk_jobs_start(BlkJobs *jobs, const char *id, const BlkJobKind *kind, void *opaque,
                    GError **error)
{
    BlkJob *job;

    if (!tm_identifier(id) || find(jobs, id)) {
        kind->end(opaque);
        return find(jobs, id) ? tm_error_set(error, "Job ID '%s' already in use", id)
                              : tm_error_set(error, "Invalid job ID '%s'", id);
    }
    job = g_new0(BlkJob, 1);
    job->jobs = jobs;
    job->id = g_strdup(id);
    job->kind = kind;
    job->opaque = opaque;
    job->total = 1;
    pthread_mutex_init(&job->lock, NULL);
    pthread_cond_init(&job->resumed, NULL);
    g_ptr_array_add(jobs->list, job);
    tell(job, CREATED);
    change(job, RUNNING);
    begin(job);
    return true;
}

static json_object *job_json(BlkJob *job)
{
    json_object *info = json_object_new_object();
    TM_GUARD(&job->lock);

    json_object_object_add(info, "current-progress", json_object_new_uint64(job->done));
    json_object_object_add(info, "status", json_object_new_string(status_names[job->status]));
    json_object_object_add(info, "total-progress", json_object_new_uint64(job->total));
    json_object_object_add(info, "type", json_object_new_string(job->kind->type));
    json_object_object_add(info, "id", json_object_new_string(job->id));
    if (job->error && job->status >= ABORTING)
        json_object_object_add(info, "error", json_object_new_string(job->error->message));
    return info;
}

json_object *blk_jobs_query(BlkJobs *jobs)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; i < jobs->list->len; i++)
        json_object_array_add(list, job_json(jobs->list->pdata[i]));
    return list;
}

/* ---- verbs */

static bool pause_job(BlkJob *job, bool pause, GError **error)
{
    TM_GUARD(&job->lock);

    if (pause && job->paused)
        return tm_error_set(error, "Job is already paused");
    job->paused = pause;
    pthread_cond_signal(&job->resumed);
    return true;
}

static bool is_paused(BlkJob *job)
{
    TM_GUARD(&job->lock);

    return job->paused;
}

static Status status_of(BlkJob *job)
{
    TM_GUARD(&job->lock);

    return job->status;
}

bool blk_jobs_act(BlkJobs *jobs, const char *id, BlkJobVerb verb, GError **error)
{
    BlkJob *job = find(jobs, id);
    Status status;

    if (!job)
        return tm_error_set(error, "Job not found");
    if (verb == BLK_JOB_RESUME && !is_paused(job))
        return tm_error_set(error, "Can't resume a job that was not paused");
    status = status_of(job);
    if (!(verbs[verb].allowed & BIT(status)))
        return tm_error_set(error, "Job '%s' in state '%s' cannot accept command verb '%s'", id,
                            status_names[status], verbs[verb].name);
    switch (verb) {
    case BLK_JOB_CANCEL:
        cancel(job);
        return true;
    case BLK_JOB_PAUSE:
    case BLK_JOB_RESUME:
        return pause_job(job, verb == BLK_JOB_PAUSE, error);
    case BLK_JOB_DISMISS:
        change(job, GONE);
        g_ptr_array_remove(jobs->list, job);
        return true;
    default:
        return true; /* no status takes them */
    }
}
