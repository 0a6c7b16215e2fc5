/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/jobs/job.h: work that goes on after its command has been answered.
 *
 * A job's life is QEMU's (qapi/job.json): created, running (paused and running again), then
 * waiting, pending, concluded, or, if it failed or was canceled, aborting, concluded; it stays
 * concluded until it is dismissed, so that its result can be asked for. Each change is an event,
 * JOB_STATUS_CHANGE.
 *
 * Threads: the main thread, except blk_job_progress(). */
#pragma once
#include "block/graph.h"

typedef struct BlkJobs BlkJobs;
typedef struct BlkJob BlkJob;

/* What a job does. */
typedef struct BlkJobKind {
    const char *type;                                       /* as query-jobs calls it */
    bool (*begin)(void *opaque, GError **error);            /* main thread */
    bool (*run)(void *opaque, BlkJob *job, GError **error); /* a thread of the job's own */
    void (*end)(void *opaque); /* main thread; whatever happened; frees @opaque */
} BlkJobKind;

typedef enum {
    BLK_JOB_CANCEL,
    BLK_JOB_PAUSE,
    BLK_JOB_RESUME,
    BLK_JOB_COMPLETE,
    BLK_JOB_FINALIZE,
    BLK_JOB_DISMISS,
    BLK_JOB_VERBS, /* how many there are */
} BlkJobVerb;

/* Both borrowed, must outlive it; @main NULL: the default context. */
BlkJobs *blk_jobs_new(BlkGraph *graph, GMainContext *main);
/* Cancels what is still running and waits for it. NULL is fine. */
void blk_jobs_free(BlkJobs *jobs);

/* Starts a job; takes @opaque, also if it fails, which it does only for its id ("Invalid job ID
 * 'x'", "Job ID 'x' already in use"). What else goes wrong is the job's error. */
bool blk_jobs_start(BlkJobs *jobs, const char *id, const BlkJobKind *kind, void *opaque,
                    GError **error);
/* An array of JobInfo: a reference. */
json_object *blk_jobs_query(BlkJobs *jobs);
/* What a user wants of a job. Errors as QEMU's. */
bool blk_jobs_act(BlkJobs *jobs, const char *id, BlkJobVerb verb, GError **error);

/* For run(): reports how far it is, and waits while the job is paused. false: it was canceled. */
bool blk_job_progress(BlkJob *job, uint64_t done, uint64_t total);
