/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/lane_run.c: see lane_run.h. */
#include "client/restore/lane_run.h"
#include "util/range.h"

/* Pieces to zero are as long as a stop may have to wait for. */
#define ZERO_SIZE   (UINT64_C(256) << 20)
#define WAIT_MAX_MS 100u

typedef struct Running {
    const TcLaneRun *run;
    GMutex lock; /* guards the plan's cursor and error */
    GError *error;
} Running;

typedef struct Worker {
    Running *running;
    TcLane *lane;
    GThread *thread;
} Worker;

/* Keeps the first error (taken) and stops everybody. */
static void fail(Running *r, GError *error)
{
    g_mutex_lock(&r->lock);
    if (r->error)
        g_error_free(error);
    else
        r->error = error;
    g_mutex_unlock(&r->lock);
    atomic_store(r->run->stop, true);
}

static bool next_step(Running *r, uint64_t zero_size, TcStep *step)
{
    bool any;

    g_mutex_lock(&r->lock);
    any = tc_plan_next(r->run->plan, TC_PIECE, zero_size, step);
    g_mutex_unlock(&r->lock);
    return any;
}

static void wait_for_rate(const TcLaneRun *run, uint64_t length)
{
    int ms;

    while (!atomic_load(run->stop) && (ms = tc_rate_take(run->rate, length)) > 0)
        g_usleep(1000 * tm_min((unsigned)ms, WAIT_MAX_MS));
}

static bool do_step(Worker *w, const TcStep *step, GError **error)
{
    const TcLaneRun *run = w->running->run;
    void *buf;

    wait_for_rate(run, step->action == TC_DO_READ ? step->length : 0);
    if (step->action != TC_DO_READ)
        return tc_lane_zero(w->lane, step->offset, step->length, error);
    buf = tc_lane_buffer(w->lane, error);
    return buf && run->read(run->opaque, buf, step, error) &&
           tc_lane_write(w->lane, step->offset, step->length, error);
}

static void *work(void *opaque)
{
    Worker *w = opaque;
    const TcLaneRun *run = w->running->run;
    TcStep step;
    GError *error = NULL;
    uint64_t zero_size = tc_place_compares(run->place) ? TC_PIECE : ZERO_SIZE;

    while (!atomic_load(run->stop) && next_step(w->running, zero_size, &step)) {
        if (!do_step(w, &step, &error)) {
            fail(w->running, error);
            return NULL;
        }
    }
    if (!tc_lane_drain(w->lane, &error))
        fail(w->running, error);
    return NULL;
}

/* As many lanes as are of use and to be had; at least one. */
static unsigned open_lanes(Running *r, Worker *workers, unsigned most, GError **error)
{
    uint64_t pieces = tc_plan_bytes(r->run->plan) / TC_PIECE + 1;
    unsigned wanted = (unsigned)tm_min(most, pieces), have = 0;

    for (; have < wanted && !atomic_load(r->run->stop); have++) {
        g_autoptr(GError) ignored = NULL;

        workers[have].running = r;
        workers[have].lane = tc_lane_new(r->run->place, have ? &ignored : error);
        if (!workers[have].lane)
            break;
    }
    return have;
}

bool tc_lane_run(const TcLaneRun *run, GError **error)
{
    Running running = { .run = run };
    unsigned most = tc_place_lanes(run->place), count;
    g_autofree Worker *workers = g_new0(Worker, most);

    g_mutex_init(&running.lock);
    count = open_lanes(&running, workers, most, error);
    for (unsigned i = 0; i < count; i++)
        workers[i].thread = g_thread_new("restore", work, &workers[i]);
    for (unsigned i = 0; i < count; i++) {
        g_thread_join(workers[i].thread);
        tc_lane_free(workers[i].lane);
    }
    g_mutex_clear(&running.lock);
    if (running.error) {
        g_propagate_error(error, running.error);
        return false;
    }
    return count && !atomic_load(run->stop);
}
