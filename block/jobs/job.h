/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/jobs/job.h: work that goes on after its command has been answered.
 *
 * A job's life is QEMU's (qapi/job.json): created, running (paused, ready and standby in between),
 * then waiting, pending, concluded, or, if it failed or was canceled, aborting, concluded; it stays
 * concluded until it is dismissed, so that its result can be asked for. Each change is an event,
 * JOB_STATUS_CHANGE. A block job sends the older BLOCK_JOB_* besides.
 *
 * Each job belongs to a transaction, most are alone in it. Those of one transaction succeed
 * together or not at all: who is done waits for the others, and when one fails or is canceled all
 * are.
 *
 * Threads: the main thread, except where it says so. */
#pragma once
#include "block/graph.h"

typedef struct BlkJobs BlkJobs;
typedef struct BlkJob BlkJob;
typedef struct BlkJobTxn BlkJobTxn;

/* What a job does. */
typedef struct BlkJobKind {
    const char *type;                                       /* as query-jobs calls it */
    bool block;                                             /* a block job */
    bool (*begin)(void *opaque, GError **error);            /* main thread; or NULL */
    bool (*run)(void *opaque, BlkJob *job, GError **error); /* a thread of the job's own */
    void (*complete)(void *opaque); /* main thread: a user wants a ready job to end; or NULL */
    /* Main thread; or NULL. All of a transaction are through, and this is the last that may fail:
     * @n jobs of this kind. */
    bool (*prepare)(void *const *opaques, size_t n, GError **error);
    /* Main thread; whatever happened; frees @opaque. @success: prepare() was called and all went
     * well. */
    void (*end)(void *opaque, bool success);
} BlkJobKind;

typedef enum {
    BLK_JOB_CANCEL,
    BLK_JOB_PAUSE,
    BLK_JOB_RESUME,
    BLK_JOB_SET_SPEED,
    BLK_JOB_COMPLETE,
    BLK_JOB_FINALIZE,
    BLK_JOB_DISMISS,
    BLK_JOB_CHANGE,
    BLK_JOB_VERBS, /* how many there are */
} BlkJobVerb;

/* Both borrowed, must outlive it; @main NULL: the default context. */
BlkJobs *blk_jobs_new(BlkGraph *graph, GMainContext *main);
/* Cancels what is still running, waits for it and takes its result. NULL is fine. */
void blk_jobs_end(BlkJobs *jobs);
void blk_jobs_free(BlkJobs *jobs);

/* ---- beginning */

BlkJobTxn *blk_job_txn_new(void);
void blk_job_txn_unref(BlkJobTxn *txn); /* its jobs keep it; NULL is fine */

typedef struct BlkJobOptions {
    const char *id;
    const BlkJobKind *kind;
    void *opaque;   /* taken, but not on failure */
    BlkJobTxn *txn; /* NULL: one of its own; all jobs of one are of one kind */
    bool manual_finalize, manual_dismiss;
    int64_t speed; /* bytes a second; 0: as fast as it can */
} BlkJobOptions;

/* A job that does not run yet. It is borrowed, until it is dismissed. Errors: "Invalid job ID 'x'",
 * "Job ID 'x' already in use", "Parameter 'speed' expects a non-negative value". */
BlkJob *blk_job_new(BlkJobs *jobs, const BlkJobOptions *options, GError **error);
/* What goes wrong from here on is the job's error. */
void blk_job_start(BlkJob *job);
/* It is not to be started after all: ends it, and it is gone. */
void blk_job_drop(BlkJob *job);

/* ---- users */

/* An array of JobInfo, and of BlockJobInfo: a reference. The newest first. */
json_object *blk_jobs_query(BlkJobs *jobs);
json_object *blk_jobs_query_block(BlkJobs *jobs);
/* Borrowed, or NULL: "Job not found", and of a block job DeviceNotActive, "Block job 'x' not
 * found". */
BlkJob *blk_jobs_find(BlkJobs *jobs, const char *id, GError **error);
BlkJob *blk_jobs_find_block(BlkJobs *jobs, const char *id, GError **error);
/* What a user wants of a job. Errors as QEMU's. */
bool blk_job_act(BlkJob *job, BlkJobVerb verb, GError **error);
bool blk_job_set_speed(BlkJob *job, int64_t speed, GError **error);
bool blk_job_paused(BlkJob *job); /* whether it is to be */

/* ---- for run(); these from any thread */

/* How far it is, in bytes or in no particular unit. */
void blk_job_set_progress(BlkJob *job, uint64_t done, uint64_t total);
/* Whether it is to stop for now, or for good. */
bool blk_job_interrupted(BlkJob *job);
/* Returns after blk_job_kick(), when a user wants something, or @ns later. It may be called for
 * nothing, but never misses a kick since it returned last. */
#define BLK_JOB_FOREVER UINT64_MAX
void blk_job_wait(BlkJob *job, uint64_t ns);
void blk_job_kick(BlkJob *job);
/* @bytes have been begun. And how many ns to wait until more may be, within the job's speed. */
void blk_job_spend(BlkJob *job, uint64_t bytes);
uint64_t blk_job_delay(BlkJob *job);

/* ---- for run(), on its own thread */

/* Waits while the job is paused. false: it was canceled. */
bool blk_job_pause_point(BlkJob *job);
/* Both: progress, and a pause point. */
bool blk_job_progress(BlkJob *job, uint64_t done, uint64_t total);
/* From now on it could be completed. */
void blk_job_ready(BlkJob *job);

/* What is to follow from an error of I/O. */
typedef enum {
    BLK_ON_ERROR_REPORT, /* the job fails */
    BLK_ON_ERROR_IGNORE, /* try again later */
    BLK_ON_ERROR_STOP,   /* the job is paused; try again when it goes on */
    BLK_ON_ERROR_ENOSPC, /* stop if there is no space, else report */
    BLK_ON_ERRORS,
} BlkOnError;

/* Reports an error, @errnum > 0, and pauses the job where that is what @policy wants. Returned:
 * REPORT, IGNORE or STOP. */
BlkOnError blk_job_error(BlkJob *job, BlkOnError policy, bool read, int errnum);

/* ---- create.c: blockdev-create, as a job. Main thread. */

/* @options: BlockdevCreateOptions (block/image/image.h), borrowed. Errors: the id's; others are the
 * job's. */
bool blk_jobs_create(BlkJobs *jobs, BlkGraph *graph, const char *id, json_object *options,
                     GError **error);
