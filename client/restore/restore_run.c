/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/restore_run.c: see restore_run.h. */
#include "client/restore/restore_run.h"
#include "client/copy/plan.h"
#include "client/repository/error.h"
#include "util/extent.h"
#include "util/range.h"

#include <errno.h>
#include <stdatomic.h>

/* Pieces to zero are as long as a stop may have to wait for. */
#define ZERO_SIZE   (UINT64_C(256) << 20)
#define WAIT_MAX_MS 100u

struct TcRestore {
    TcPointReader *reader, *before;
    TcPlace *place;
    TcRate *rate;
    char *what;
    TcPlan *plan;
    uint64_t planned_to; /* the end of its last range */
    GMutex lock;         /* guards the plan's cursor and error */
    GError *error;
    atomic_bool stop, planned, copied;
    atomic_uint_fast64_t walked, total;
};

typedef struct Worker {
    TcRestore *restore;
    TcLane *lane;
    GThread *thread;
} Worker;

TcRestore *tc_restore_new(TcPointReader *reader, TcPlace *place, TcPointReader *before,
                          TcRate *rate, const char *what)
{
    TcRestore *r = g_new0(TcRestore, 1);

    r->reader = reader;
    r->before = before;
    r->place = place;
    r->rate = rate;
    r->what = g_strdup(what);
    r->plan = tc_plan_new(false, false);
    g_mutex_init(&r->lock);
    return r;
}

void tc_restore_free(TcRestore *r)
{
    if (!r)
        return;
    tc_plan_free(r->plan);
    g_clear_error(&r->error);
    g_mutex_clear(&r->lock);
    g_free(r->what);
    g_free(r);
}

void tc_restore_cancel(TcRestore *r)
{
    atomic_store(&r->stop, true);
}

const char *tc_restore_progress(TcRestore *r, uint64_t *done, uint64_t *total)
{
    TcPlaceCounts counts;

    if (!atomic_load(&r->planned)) {
        *done = atomic_load(&r->walked);
        *total = tc_point_reader_size(r->reader);
        return "mapping";
    }
    tc_place_counts(r->place, &counts);
    *done = counts.done;
    *total = atomic_load(&r->total);
    if (!atomic_load(&r->copied))
        return "restoring";
    *total = 0;
    return "making it durable";
}

/* ---- the plan */

/* Whether the disk had the same here when the bitmap began: then both find it in the same place.
 * Shortens *length to what that is known of. */
static bool was_same(const TcRestore *r, uint64_t offset, uint64_t *length)
{
    uint64_t is_length = 0, was_length = 0;
    const TcManifest *is_in = NULL, *was_in = NULL;
    TcRunKind is, was;

    if (!r->before || offset >= tc_point_reader_size(r->before))
        return false;
    is = tc_point_reader_find(r->reader, offset, &is_length, &is_in);
    was = tc_point_reader_find(r->before, offset, &was_length, &was_in);
    *length = tm_min(*length, tm_min(is_length, was_length));
    if (is != TC_RUN_DATA || was != TC_RUN_DATA)
        return is != TC_RUN_DATA && was != TC_RUN_DATA;
    return is_in == was_in;
}

/* Whole blocks are read, while a target's extents, and a bitmap's marks, may be finer. A block has
 * one range: all of it is alike in the point. */
static bool plan_blocks(TcRestore *r, uint64_t offset, uint64_t length, bool data, GError **error)
{
    uint64_t from = tm_max(tm_align_down(offset, TC_BLOCK), r->planned_to);
    uint64_t to = tm_min(tm_align_up(offset + length, TC_BLOCK), tc_point_reader_size(r->reader));

    if (from >= to)
        return true;
    r->planned_to = to;
    return tc_plan_add(r->plan, from, to - from, data ? 0 : TM_STATE_ZERO | TM_STATE_HOLE, 0,
                       error);
}

static bool plan_extent(void *opaque, uint64_t offset, uint64_t length, bool zero, bool dirty,
                        GError **error)
{
    TcRestore *r = opaque;
    uint64_t end = offset + length, piece;

    for (; offset < end; offset += piece) {
        TcRunKind kind = tc_point_reader_find(r->reader, offset, &piece, NULL);
        bool data = kind == TC_RUN_DATA, same;

        piece = tm_min(piece, end - offset);
        same = !dirty && was_same(r, offset, &piece);
        if (!same && (data || !zero) && !plan_blocks(r, offset, piece, data, error))
            return false;
    }
    atomic_store(&r->walked, end);
    return !atomic_load(&r->stop);
}

/* ---- the work */

/* Keeps the first error (taken) and stops everybody. */
static void fail(TcRestore *r, GError *error)
{
    g_mutex_lock(&r->lock);
    if (r->error)
        g_error_free(error);
    else
        r->error = error;
    g_mutex_unlock(&r->lock);
    tc_restore_cancel(r);
}

static bool next_step(TcRestore *r, uint64_t zero_size, TcStep *step)
{
    bool any;

    g_mutex_lock(&r->lock);
    any = tc_plan_next(r->plan, TC_PIECE, zero_size, step);
    g_mutex_unlock(&r->lock);
    return any;
}

static void wait_for_rate(TcRestore *r, uint64_t length)
{
    int ms;

    while (!atomic_load(&r->stop) && (ms = tc_rate_take(r->rate, length)) > 0)
        g_usleep(1000 * tm_min((unsigned)ms, WAIT_MAX_MS));
}

static bool read_piece(TcRestore *r, void *buf, const TcStep *step, GError **error)
{
    const TcManifest *point = NULL;
    uint64_t bad = step->offset;
    int ret = tc_point_reader_read(r->reader, buf, step->offset, step->length, &bad, &point);
    const char *where = point ? point->point : "?";

    if (ret == -EBADMSG)
        return tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED,
                                 "%s: the block at offset %" PRIu64 ", which is stored in point "
                                 "'%s', is damaged: it does not have its hash ('tidemark verify' "
                                 "shows what is whole)",
                                 r->what, bad, where);
    return !ret || tm_error_set_errno(error, -ret,
                                      "%s: reading the block at offset %" PRIu64
                                      ", which is stored in point '%s'",
                                      r->what, bad, where);
}

static bool do_step(Worker *w, const TcStep *step, GError **error)
{
    TcRestore *r = w->restore;
    void *buf;

    wait_for_rate(r, step->action == TC_DO_READ ? step->length : 0);
    if (step->action != TC_DO_READ)
        return tc_lane_zero(w->lane, step->offset, step->length, error);
    buf = tc_lane_buffer(w->lane, error);
    return buf && read_piece(r, buf, step, error) &&
           tc_lane_write(w->lane, step->offset, step->length, error);
}

static void *work(void *opaque)
{
    Worker *w = opaque;
    TcRestore *r = w->restore;
    TcStep step;
    GError *error = NULL;
    uint64_t zero_size = tc_place_compares(r->place) ? TC_PIECE : ZERO_SIZE;

    while (!atomic_load(&r->stop) && next_step(r, zero_size, &step)) {
        if (!do_step(w, &step, &error)) {
            fail(r, error);
            return NULL;
        }
    }
    if (!tc_lane_drain(w->lane, &error))
        fail(r, error);
    return NULL;
}

/* As many lanes as are of use and to be had; at least one. */
static unsigned open_lanes(TcRestore *r, Worker *workers, unsigned most, GError **error)
{
    uint64_t pieces = tc_plan_bytes(r->plan) / TC_PIECE + 1;
    unsigned wanted = (unsigned)tm_min(most, pieces), have = 0;

    for (; have < wanted && !atomic_load(&r->stop); have++) {
        g_autoptr(GError) ignored = NULL;

        workers[have].restore = r;
        workers[have].lane = tc_lane_new(r->place, have ? &ignored : error);
        if (!workers[have].lane)
            break;
    }
    return have;
}

static bool copy(TcRestore *r, GError **error)
{
    unsigned most = tc_place_lanes(r->place), count;
    g_autofree Worker *workers = g_new0(Worker, most);

    if (!tc_place_walk(r->place, plan_extent, r, error))
        return false;
    atomic_store(&r->total, tc_plan_bytes(r->plan));
    atomic_store(&r->planned, true);
    count = open_lanes(r, workers, most, error);
    for (unsigned i = 0; i < count; i++)
        workers[i].thread = g_thread_new("restore", work, &workers[i]);
    for (unsigned i = 0; i < count; i++) {
        g_thread_join(workers[i].thread);
        tc_lane_free(workers[i].lane);
    }
    if (r->error) {
        g_propagate_error(error, g_steal_pointer(&r->error));
        return false;
    }
    return count && !atomic_load(&r->stop);
}

bool tc_restore_copy(TcRestore *r, GError **error)
{
    if (!copy(r, error))
        return false;
    atomic_store(&r->copied, true);
    return tc_place_finish(r->place, error);
}
