/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/jobs/backup_run.c: the copying of a backup.
 *
 * The job's thread hands out chunks to workers of the target's quota, several at a time, and waits.
 * It goes over the disk from its beginning to its end; what failed, or was in a guest's hands, is
 * tried again in the next pass, until nothing is left. While the job is paused nothing is in
 * flight. */
#include "block/jobs/backup_internal.h"

#include "block/drivers/copy_before_write/cbw.h"
#include "block/io/copy.h"
#include "block/io/request.h"
#include "util/error.h"
#include "util/sync.h"

#include <errno.h>

/* At once: few, so that guests find workers, too. */
#define MAX_CHUNKS 8u
#define RETRY      (G_USEC_PER_SEC / 10) /* until what was ignored is tried again */

#define SECOND          (UINT64_C(1000) * 1000 * 1000)
#define REPORT_INTERVAL (G_USEC_PER_SEC / 10)

typedef struct Chunk {
    BlkWork work;
    struct BackupRun *run;
    uint64_t offset, length;
    bool busy; /* guarded by the run's lock */
} Chunk;

typedef struct BackupRun {
    BackupJob *b;
    BlkNode *target;      /* borrowed */
    unsigned n;           /* of the chunks */
    uint64_t from;        /* where the pass is */
    pthread_mutex_t lock; /* guards the rest; a leaf */
    unsigned busy;
    int error; /* the first of this pass, or 0 */
    bool on_source;
    Chunk chunks[MAX_CHUNKS];
} BackupRun;

/* ---- a chunk, on a worker */

static void chunk_end(Chunk *c, int ret, bool on_source)
{
    BackupRun *run = c->run;
    BlkJob *job = run->b->job;

    blk_node_worked(run->target);
    pthread_mutex_lock(&run->lock);
    if (ret < 0 && run->error == 0) {
        run->error = ret;
        run->on_source = on_source;
    }
    c->busy = false;
    run->busy--;
    blk_job_kick(job); /* under the lock: after it the run may be gone */
    pthread_mutex_unlock(&run->lock);
}

static void chunk_run(BlkWork *work)
{
    Chunk *c = (Chunk *)((char *)work - offsetof(Chunk, work));
    BackupJob *b = c->run->b;
    BlkCopied copied = { 0 };
    int ret = blk_cbw_copy(b->filter, c->offset, c->length, &copied);

    if (ret == 0 && b->discard_source)
        blk_node_discard(b->source, c->offset, c->length, 0); /* advice */
    chunk_end(c, ret, copied.on_source);
}

/* ---- a pass, on the job's thread */

static Chunk *take_free(BackupRun *run)
{
    TM_GUARD(&run->lock);

    if (run->error)
        return NULL;
    for (unsigned i = 0; i < run->n; i++) {
        if (!run->chunks[i].busy) {
            run->chunks[i].busy = true;
            run->busy++;
            return &run->chunks[i];
        }
    }
    return NULL;
}

static void give_back(BackupRun *run, Chunk *c)
{
    TM_GUARD(&run->lock);

    c->busy = false;
    run->busy--;
}

/* false: nothing more can be begun now. *end: nor in this pass. */
static bool hand_out(BackupRun *run, bool *end)
{
    BackupJob *b = run->b;
    Chunk *c = take_free(run);

    if (!c)
        return false;
    if (!blk_cbw_next(b->filter, run->from, b->chunk, &c->offset, &c->length)) {
        give_back(run, c);
        *end = true;
        return false;
    }
    run->from = c->offset + c->length;
    blk_job_spend(b->job, c->length);
    c->work.background = true;
    blk_node_work(run->target, &c->work);
    return true;
}

static bool is_idle(BackupRun *run, int *error)
{
    TM_GUARD(&run->lock);

    *error = run->error;
    return run->busy == 0;
}

/* What guests have had copied counts, too. The whole disk is gone over for that: not too often. */
static void report_progress(BackupJob *b, bool now)
{
    uint64_t rest, total = b->total - b->skipped;

    if (!now && g_get_monotonic_time() < b->reported + REPORT_INTERVAL)
        return;
    rest = blk_cbw_remaining(b->filter);
    blk_job_set_progress(b->job, total - MIN(rest, total), total);
    b->reported = g_get_monotonic_time();
}

/* 0 when it has come to the end, or was interrupted; or -errno. */
static int pass(BackupRun *run)
{
    BlkJob *job = run->b->job;
    bool end = false;
    int error = 0;

    run->from = 0;
    for (;;) {
        uint64_t delay = blk_job_delay(job);

        while (!end && delay == 0 && !blk_job_interrupted(job) && hand_out(run, &end))
            delay = blk_job_delay(job);
        report_progress(run->b, false);
        if (is_idle(run, &error) && (end || error || blk_job_interrupted(job)))
            break;
        blk_job_wait(job, delay && !end ? delay : BLK_JOB_FOREVER);
    }
    run->error = 0;
    report_progress(run->b, true);
    return error;
}

/* ---- all of it */

/* Kicks of workers don't cut it short. */
static void wait_for_retry(BlkJob *job)
{
    gint64 until = g_get_monotonic_time() + RETRY, left;

    while (!blk_job_interrupted(job) && (left = until - g_get_monotonic_time()) > 0)
        blk_job_wait(job, (uint64_t)left * 1000);
}

/* Whether to go on. */
static bool settle(BackupRun *run, int ret, bool on_source, GError **error)
{
    BackupJob *b = run->b;
    BlkOnError policy = on_source ? b->on_source_error : b->on_target_error;

    switch (blk_job_error(b->job, policy, on_source, -ret)) {
    case BLK_ON_ERROR_REPORT:
        return tm_error_set(error, "%s", tm_strerror(-ret));
    case BLK_ON_ERROR_IGNORE:
        wait_for_retry(b->job);
        return true;
    default:
        return true;
    }
}

static bool is_left(const BackupJob *b)
{
    uint64_t offset, length;

    return blk_cbw_next(b->filter, 0, b->chunk, &offset, &length);
}

static bool copy_all(BackupRun *run, GError **error)
{
    BackupJob *b = run->b;

    while (blk_job_pause_point(b->job)) {
        bool left = is_left(b), on_source = false;
        int ret = left ? pass(run) : blk_node_flush(run->target);

        if (left)
            on_source = run->on_source;
        else if (ret == 0)
            ret = -blk_cbw_broken(b->filter); /* nothing is left of it either */
        if (ret < 0 && !settle(run, ret, on_source, error))
            return false;
        if (ret == 0 && !left)
            return true;
    }
    return false;
}

/* Whole clusters of [first, end). */
static void skip(BackupJob *b, uint64_t first, uint64_t end)
{
    uint64_t cluster = blk_cbw_cluster_size(b->filter);

    first = (first + cluster - 1) / cluster * cluster;
    if (end < blk_cbw_snapshot_size(b->filter, 0))
        end = end / cluster * cluster;
    if (first < end)
        b->skipped += blk_cbw_skip(b->filter, first, end - first);
}

/* What the top of the chain does not have: runs of it, as block status describes them. */
static int skip_below(BackupJob *b)
{
    uint64_t size = blk_cbw_snapshot_size(b->filter, 0), at = 0, first = 0;
    TmExtent list[64];

    while (at < size && blk_job_pause_point(b->job)) {
        TmExtents out = { .list = list, .max = G_N_ELEMENTS(list) };
        uint64_t described;
        int ret = blk_node_depth(b->source, at, size - at, &out, &described);

        if (ret < 0)
            return ret;
        for (size_t i = 0; i < out.count; i++) {
            if (list[i].flags == 1) {
                skip(b, first, at);
                first = at + list[i].length;
            }
            at += list[i].length;
        }
    }
    if (at == size)
        skip(b, first, size);
    return 0;
}

static bool skip_or_fail(BackupJob *b, GError **error)
{
    int ret = b->sync == BLK_SYNC_TOP ? skip_below(b) : 0;

    return ret == 0 || tm_error_set(error, "%s", tm_strerror(-ret));
}

static void run_init(BackupRun *run, BackupJob *b)
{
    *run = (BackupRun){ .b = b,
                        .target = blk_user_node(b->target_user),
                        .n = MIN(b->max_workers, MAX_CHUNKS) };
    pthread_mutex_init(&run->lock, NULL);
    for (unsigned i = 0; i < run->n; i++) {
        run->chunks[i].run = run;
        run->chunks[i].work.run = chunk_run;
    }
}

bool blk_backup_run(void *opaque, BlkJob *job, GError **error)
{
    BackupJob *b = opaque;
    BackupRun run;
    bool ok;

    if (b->sync == BLK_SYNC_NONE) {
        while (blk_job_pause_point(job)) {
            report_progress(b, true);
            blk_job_wait(job, SECOND);
        }
        return false;
    }
    run_init(&run, b);
    ok = skip_or_fail(b, error) && copy_all(&run, error);
    pthread_mutex_lock(&run.lock); /* the last worker has let go of it */
    pthread_mutex_unlock(&run.lock);
    pthread_mutex_destroy(&run.lock);
    return ok;
}
