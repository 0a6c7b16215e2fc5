/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/jobs/job.c: the life of jobs.
 *
 * A job runs on a thread of its own, as it may take long or be paused, which workers are not for.
 * When it is through it rings a bell, and the main thread completes it: it waits for the others of
 * its transaction, or takes them with it.
 *
 * Invariant: the status changes on the main thread, except between running and paused, ready and
 * standby, and from running to ready, which the job's own thread does before it rings. */
#include "block/jobs/job_internal.h"

#include "util/error.h"
#include "util/identifier.h"
#include "util/sync.h"

#include <glib-unix.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---- statuses */

const char *const blk_job_status_names[BLK_JOB_STATUSES] = { "created", "running",  "paused",
                                                             "ready",   "standby",  "waiting",
                                                             "pending", "aborting", "concluded",
                                                             "null" };

#define BIT(n) (1u << BLK_JOB_##n)
#define ALIVE  (BIT(CREATED) | BIT(RUNNING) | BIT(PAUSED) | BIT(READY) | BIT(STANDBY))

/* And in which statuses a job takes it. */
static const struct {
    const char *name;
    unsigned allowed;
} verbs[] = {
    [BLK_JOB_CANCEL] = { "cancel", ALIVE | BIT(WAITING) | BIT(PENDING) },
    [BLK_JOB_PAUSE] = { "pause", ALIVE },
    [BLK_JOB_RESUME] = { "resume", ALIVE },
    [BLK_JOB_SET_SPEED] = { "set-speed", ALIVE },
    [BLK_JOB_COMPLETE] = { "complete", BIT(READY) },
    [BLK_JOB_FINALIZE] = { "finalize", BIT(PENDING) },
    [BLK_JOB_DISMISS] = { "dismiss", BIT(CONCLUDED) },
    [BLK_JOB_CHANGE] = { "change", ALIVE },
};
G_STATIC_ASSERT(G_N_ELEMENTS(verbs) == BLK_JOB_VERBS);

static BlkJobStatus status_of(BlkJob *job)
{
    TM_GUARD(&job->lock);

    return job->status;
}

/* ---- transactions */

BlkJobTxn *blk_job_txn_new(void)
{
    BlkJobTxn *txn = g_new0(BlkJobTxn, 1);

    txn->refs = 1;
    txn->jobs = g_ptr_array_new();
    return txn;
}

void blk_job_txn_unref(BlkJobTxn *txn)
{
    if (!txn || !tm_unref(&txn->refs))
        return;
    g_ptr_array_unref(txn->jobs);
    g_free(txn);
}

static void join_txn(BlkJob *job, BlkJobTxn *txn)
{
    if (txn)
        tm_ref(&txn->refs);
    else
        txn = blk_job_txn_new();
    job->txn = txn;
    g_ptr_array_insert(txn->jobs, 0, job);
}

static void leave_txn(BlkJob *job)
{
    g_ptr_array_remove(job->txn->jobs, job);
    blk_job_txn_unref(g_steal_pointer(&job->txn));
}

/* ---- the end */

static void job_free(void *data)
{
    BlkJob *job = data;

    g_clear_error(&job->error);
    pthread_mutex_destroy(&job->lock);
    pthread_cond_destroy(&job->kick);
    g_free(job->id);
    g_free(job);
}

static void dismiss(BlkJob *job)
{
    blk_job_change(job, BLK_JOB_NULL);
    g_ptr_array_remove(job->jobs->list, job);
}

/* Also of one that had gone well, until another of its transaction failed. */
static void note_canceled(BlkJob *job)
{
    TM_GUARD(&job->lock);

    if (!job->error && job->canceled)
        tm_error_set(&job->error, "Operation canceled");
}

static void log_end(const BlkJob *job)
{
    tm_log_note(
        blk_graph_log(job->jobs->graph),
        &(TmLogFacts){ .area = TM_LOG_JOB,
                       .level = job->error && !job->canceled ? TM_LOG_WARNING : TM_LOG_DEBUG },
        "job '%s' has ended%s%s", job->id, job->error ? ": " : "",
        job->error ? job->error->message : "");
}

static void conclude(BlkJob *job)
{
    note_canceled(job);
    log_end(job);
    if (job->error && status_of(job) != BLK_JOB_ABORTING)
        blk_job_change(job, BLK_JOB_ABORTING);
    job->kind->end(job->opaque, !job->error);
    job->opaque = NULL;
    if (job->awaited)
        blk_graph_await(job->jobs->graph, -1);
    job->awaited = false;
    if (job->kind->block && job->started)
        blk_job_emit(job, job->canceled ? "BLOCK_JOB_CANCELLED" : "BLOCK_JOB_COMPLETED");
    leave_txn(job);
    blk_job_change(job, BLK_JOB_CONCLUDED);
    if (!job->manual_dismiss || !job->started)
        dismiss(job);
}

static void conclude_all(BlkJobTxn *txn)
{
    tm_ref(&txn->refs);
    while (txn->jobs->len)
        conclude(txn->jobs->pdata[0]);
    blk_job_txn_unref(txn);
}

static bool all_completed(const BlkJobTxn *txn)
{
    for (guint i = 0; i < txn->jobs->len; i++) {
        const BlkJob *job = txn->jobs->pdata[i];

        if (!job->completed)
            return false;
    }
    return true;
}

/* @job has failed, or was canceled, and so all. */
static void abort_txn(BlkJobTxn *txn, const BlkJob *job)
{
    for (guint i = 0; !txn->aborting && i < txn->jobs->len; i++) {
        if (txn->jobs->pdata[i] != job)
            blk_job_cancel(txn->jobs->pdata[i]);
    }
    txn->aborting = true;
    if (all_completed(txn))
        conclude_all(txn);
}

static void finalize(BlkJobTxn *txn)
{
    g_autofree void **opaques = g_new(void *, txn->jobs->len);
    BlkJob *first = txn->jobs->pdata[0];

    for (guint i = 0; i < txn->jobs->len; i++)
        opaques[i] = ((BlkJob *)txn->jobs->pdata[i])->opaque;
    if (!first->kind->prepare || first->kind->prepare(opaques, txn->jobs->len, &first->error)) {
        conclude_all(txn);
        return;
    }
    blk_job_change(first, BLK_JOB_ABORTING);
    abort_txn(txn, first);
}

/* The last of them was done. */
static void to_pending(BlkJobTxn *txn)
{
    bool manual = false;

    for (guint i = 0; i < txn->jobs->len; i++) {
        BlkJob *job = txn->jobs->pdata[i];

        blk_job_change(job, BLK_JOB_PENDING);
        if (job->manual_finalize && job->kind->block)
            blk_job_emit(job, "BLOCK_JOB_PENDING");
        manual |= job->manual_finalize;
    }
    if (!manual)
        finalize(txn);
}

/* Its thread has ended, and nobody else looks. */
static void complete(BlkJob *job)
{
    if (job->threaded)
        pthread_join(job->thread, NULL);
    job->threaded = job->through = false;
    job->completed = true;
    note_canceled(job);
    if (job->error) {
        blk_job_change(job, BLK_JOB_ABORTING);
        abort_txn(job->txn, job);
        return;
    }
    if (!job->kind->block)
        job->total = job->done = job->total ? job->total : 1;
    blk_job_change(job, BLK_JOB_WAITING);
    if (all_completed(job->txn))
        to_pending(job->txn);
}

/* ---- beginning, and the job's thread */

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

    if (blk_job_pause_point(job))
        job->kind->run(job->opaque, job, &error);
    ring(job, error);
    return NULL;
}

static bool is_through(BlkJob *job)
{
    TM_GUARD(&job->lock);

    return job->through;
}

static BlkJob *next_through(BlkJobs *jobs)
{
    for (guint i = jobs->list->len; i-- > 0;) {
        if (is_through(jobs->list->pdata[i]))
            return jobs->list->pdata[i];
    }
    return NULL;
}

static gboolean rung(int fd, GIOCondition condition, void *opaque)
{
    BlkJobs *jobs = opaque;
    eventfd_t count;
    BlkJob *job;

    eventfd_read(fd, &count);
    while ((job = next_through(jobs)))
        complete(job);
    return G_SOURCE_CONTINUE;
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

static void init_locks(BlkJob *job)
{
    pthread_condattr_t monotonic;

    pthread_mutex_init(&job->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&job->kick, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

BlkJob *blk_job_new(BlkJobs *jobs, const BlkJobOptions *o, GError **error)
{
    BlkJob *job;

    if (!tm_identifier(o->id)) {
        tm_error_set(error, "Invalid job ID '%s'", o->id);
        return NULL;
    }
    if (find(jobs, o->id)) {
        tm_error_set(error, "Job ID '%s' already in use", o->id);
        return NULL;
    }
    job = g_new0(BlkJob, 1);
    job->jobs = jobs;
    job->id = g_strdup(o->id);
    job->kind = o->kind;
    job->opaque = o->opaque;
    job->manual_finalize = o->manual_finalize;
    job->manual_dismiss = o->manual_dismiss;
    job->total = 1;
    init_locks(job);
    g_ptr_array_insert(jobs->list, 0, job);
    blk_job_change(job, BLK_JOB_CREATED);
    if (o->speed && !blk_job_set_speed(job, o->speed, error)) {
        dismiss(job);
        return NULL;
    }
    join_txn(job, o->txn);
    return job;
}

/* What can't even begin ends at once, but is reported after the command's answer. */
void blk_job_start(BlkJob *job)
{
    GError *error = NULL;
    int ret;

    job->started = true;
    blk_job_change(job, BLK_JOB_RUNNING);
    if (!job->kind->begin || job->kind->begin(job->opaque, &error)) {
        ret = pthread_create(&job->thread, NULL, run, job);
        job->threaded = ret == 0;
        if (ret == 0)
            return;
        tm_error_set_errno(&error, ret, "Could not start a thread for job '%s'", job->id);
    }
    ring(job, error);
}

void blk_job_drop(BlkJob *job)
{
    blk_job_cancel(job);
    job->completed = true;
    abort_txn(job->txn, job);
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

static BlkJob *next_to_end(BlkJobs *jobs, bool completed)
{
    for (guint i = 0; i < jobs->list->len; i++) {
        BlkJob *job = jobs->list->pdata[i];

        if (job->opaque && job->completed == completed)
            return job;
    }
    return NULL;
}

void blk_jobs_end(BlkJobs *jobs)
{
    BlkJob *job;

    for (guint i = 0; i < jobs->list->len; i++)
        blk_job_cancel(jobs->list->pdata[i]);
    while ((job = next_to_end(jobs, false)))
        complete(job);
    while ((job = next_to_end(jobs, true)))
        abort_txn(job->txn, job);
}

void blk_jobs_free(BlkJobs *jobs)
{
    if (!jobs)
        return;
    blk_jobs_end(jobs);
    g_source_destroy(jobs->ringing);
    g_source_unref(jobs->ringing);
    close(jobs->bell);
    g_ptr_array_unref(jobs->list);
    g_free(jobs);
}

BlkJob *blk_jobs_find(BlkJobs *jobs, const char *id, GError **error)
{
    BlkJob *job = find(jobs, id);

    if (!job)
        tm_error_set(error, "Job not found");
    return job;
}

BlkJob *blk_jobs_find_block(BlkJobs *jobs, const char *id, GError **error)
{
    BlkJob *job = find(jobs, id);

    if (job && job->kind->block)
        return job;
    tm_error_set_class(error, TM_ERROR_DEVICE_NOT_ACTIVE, "Block job '%s' not found", id);
    return NULL;
}

/* ---- verbs */

bool blk_job_paused(BlkJob *job)
{
    TM_GUARD(&job->lock);

    return job->paused;
}

void blk_job_cancel(BlkJob *job)
{
    if (job->threaded && !job->awaited) {
        job->awaited = true;
        blk_graph_await(job->jobs->graph, 1);
    }
    pthread_mutex_lock(&job->lock);
    job->canceled = true;
    job->paused = false;
    job->io_error = 0;
    pthread_mutex_unlock(&job->lock);
    blk_job_kick(job);
}

static bool pause_job(BlkJob *job, bool pause, GError **error)
{
    if (pause && blk_job_paused(job))
        return tm_error_set(error, "Job is already paused");
    pthread_mutex_lock(&job->lock);
    job->paused = pause;
    job->io_error = 0;
    pthread_mutex_unlock(&job->lock);
    blk_job_kick(job);
    return true;
}

static void cancel_by_user(BlkJob *job)
{
    blk_job_cancel(job);
    if (job->completed)
        abort_txn(job->txn, job);
}

static bool complete_by_user(BlkJob *job, GError **error)
{
    if (blk_job_paused(job) || job->canceled || !job->kind->complete)
        return tm_error_set(error, "The active block job '%s' cannot be completed", job->id);
    job->kind->complete(job->opaque);
    blk_job_kick(job);
    return true;
}

static bool check_verb(BlkJob *job, BlkJobVerb verb, GError **error)
{
    BlkJobStatus status = status_of(job);

    if (verb == BLK_JOB_RESUME && !blk_job_paused(job))
        return tm_error_set(error, "Can't resume a job that was not paused");
    return verbs[verb].allowed & 1u << status ||
           tm_error_set(error, "Job '%s' in state '%s' cannot accept command verb '%s'", job->id,
                        blk_job_status_names[status], verbs[verb].name);
}

bool blk_job_act(BlkJob *job, BlkJobVerb verb, GError **error)
{
    if (!check_verb(job, verb, error))
        return false;
    switch (verb) {
    case BLK_JOB_CANCEL:
        cancel_by_user(job);
        return true;
    case BLK_JOB_PAUSE:
    case BLK_JOB_RESUME:
        return pause_job(job, verb == BLK_JOB_PAUSE, error);
    case BLK_JOB_COMPLETE:
        return complete_by_user(job, error);
    case BLK_JOB_FINALIZE:
        finalize(job->txn);
        return true;
    case BLK_JOB_DISMISS:
        dismiss(job);
        return true;
    default: /* of no kind is there anything to change */
        return tm_error_set(error, "Job type does not support change");
    }
}

bool blk_job_set_speed(BlkJob *job, int64_t speed, GError **error)
{
    if (!check_verb(job, BLK_JOB_SET_SPEED, error))
        return false;
    if (speed < 0)
        return tm_error_set(error, "Parameter 'speed' expects a non-negative value");
    pthread_mutex_lock(&job->lock);
    job->speed = speed;
    blk_job_limit_set(&job->limit, (uint64_t)speed);
    pthread_mutex_unlock(&job->lock);
    blk_job_kick(job);
    return true;
}
