/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/jobs/job_internal.h: what a job is made of. Private to block/jobs/. */
#pragma once
#include "block/jobs/job.h"

#include <pthread.h>

typedef enum {
    BLK_JOB_CREATED,
    BLK_JOB_RUNNING,
    BLK_JOB_PAUSED,
    BLK_JOB_READY,
    BLK_JOB_STANDBY,
    BLK_JOB_WAITING,
    BLK_JOB_PENDING,
    BLK_JOB_ABORTING,
    BLK_JOB_CONCLUDED,
    BLK_JOB_NULL,
    BLK_JOB_STATUSES,
} BlkJobStatus;

extern const char *const blk_job_status_names[BLK_JOB_STATUSES];

struct BlkJobs {
    BlkGraph *graph; /* borrowed */
    GPtrArray *list; /* BlkJob, the newest first */
    int bell;
    GSource *ringing;
};

struct BlkJobTxn {
    int refs;        /* the maker's, and one a job */
    GPtrArray *jobs; /* BlkJob, borrowed; the newest first */
    bool aborting;
};

/* A budget of bytes for a slice of time. */
typedef struct BlkJobLimit {
    uint64_t quota;      /* of a slice; 0: no limit */
    uint64_t begin, end; /* of the slice, ns; it is longer if more was spent */
    uint64_t spent;
} BlkJobLimit;

struct BlkJob {
    BlkJobs *jobs;
    BlkJobTxn *txn; /* until it is concluded */
    char *id;
    const BlkJobKind *kind;
    void *opaque;
    bool manual_finalize, manual_dismiss;
    pthread_t thread;
    bool started, threaded;
    bool completed; /* it is waiting, or has failed */
    bool awaited;   /* it was canceled while its thread ran (blk_graph_await) */

    pthread_mutex_t lock; /* guards the rest; a leaf */
    pthread_cond_t kick;
    BlkJobStatus status;
    bool kicked;
    bool canceled, paused; /* that it is to be */
    bool ready;
    bool through; /* run() has returned */
    uint64_t done, total;
    int64_t speed;
    BlkJobLimit limit;
    int io_error; /* errno for which it was paused; 0: none */
    GError *error;
};

/* job.c */
void blk_job_cancel(BlkJob *job);
/* run.c; under the lock */
#define NS_A_SECOND UINT64_C(1000000000)
#define SLICE       (NS_A_SECOND / 10)
void blk_job_limit_set(BlkJobLimit *limit, uint64_t speed);
/* query.c */
void blk_job_change(BlkJob *job, BlkJobStatus status);
void blk_job_emit(BlkJob *job, const char *event);
