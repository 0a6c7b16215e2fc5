/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/copy_job.h: one run of "tidemark copy", and the kinds that there are, by the target.
 *
 * A thread does the work (run of the kind); the main thread waits for it, draws the progress and
 * takes the signals. Invariant: the target is not touched before stage leaves TC_STAGE_PREPARE, and
 * whoever wins the exchange on stage, the thread that begins to write or the signal that ends it
 * all, decides whether it ever is. So every end can say truly what state the target is in. */
#pragma once
#include "client/copy/plan.h"
#include "client/copy/rate.h"
#include "client/copy/source.h"
#include "client/copy/transfer.h"
#include <stdatomic.h>

typedef enum { TC_STAGE_PREPARE, TC_STAGE_COPY, TC_STAGE_SYNC, TC_STAGE_ABANDONED } TcCopyStage;

typedef struct TcCopyJob TcCopyJob;

typedef struct TcCopyKind {
    bool (*run)(TcCopyJob *job, GError **error); /* false without an error: it was cancelled */
    /* From TC_STAGE_COPY on. Threads: any. */
    void (*counts)(TcCopyJob *job, TcTransferCounts *counts);
    /* Asks it to end early, at TC_STAGE_COPY. NULL: it may end at once. Threads: main. */
    void (*cancel)(TcCopyJob *job);
    /* What the target is after a failure: a phrase, returned; NULL: nothing was done. */
    char *(*state)(TcCopyJob *job);
    void (*free)(TcCopyJob *job); /* what own is, which is not NULL */
} TcCopyKind;

struct TcCopyJob {
    const TcCopyKind *kind;
    /* what was asked for; borrowed but for the rate */
    const char *from, *to, *bitmap, *socket;
    bool force;
    uint64_t connections, requests;
    TcRate *rate;
    /* of the thread, until it is joined */
    char *uri; /* of the source, or of the target */
    TcSource *source;
    TcPlan *plan;
    void *own;                 /* the kind's */
    uint64_t left_alone;       /* bytes of the target that the disk does not reach */
    unsigned used_connections; /* set at the end */
    /* shared; the last three are set before TC_STAGE_COPY */
    atomic_int stage;
    atomic_uint_fast64_t mapped; /* bytes of the disk */
    atomic_uint_fast64_t size;
    atomic_uint_fast64_t planned, ranges; /* bytes and ranges to read or zero */
};

/* A disk into a file or device, or to standard output; a file or device into an NBD export. */
extern const TcCopyKind tc_copy_to_file, tc_copy_to_stdout, tc_copy_to_nbd;

/* copy_job.c, for the kinds: */
/* Opens the source and plans what to copy of it; @fresh: the target reads as zeroes. */
bool tc_copy_open(TcCopyJob *job, GError **error);
bool tc_copy_map(TcCopyJob *job, bool fresh, GError **error);
/* Says how much there is to do. */
void tc_copy_known(TcCopyJob *job);
/* From now on the target may be touched; false: a signal came first. */
bool tc_copy_begin(TcCopyJob *job);
