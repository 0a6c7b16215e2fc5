/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/restore_run.c: see restore_run.h. */
#include "client/restore/restore_run.h"
#include "client/repository/error.h"
#include "client/restore/lane_run.h"
#include "util/extent.h"
#include "util/range.h"

#include <errno.h>
#include <stdatomic.h>

struct TcRestore {
    TcPointReader *reader, *before;
    TcPlace *place;
    TcRate *rate;
    char *what;
    TcPlan *plan;
    uint64_t planned_to; /* the end of its last range */
    atomic_bool stop, planned, copied;
    atomic_uint_fast64_t walked, total;
};

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
    return r;
}

void tc_restore_free(TcRestore *r)
{
    if (!r)
        return;
    tc_plan_free(r->plan);
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

static bool read_piece(void *opaque, void *buf, const TcStep *step, GError **error)
{
    TcRestore *r = opaque;
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

bool tc_restore_copy(TcRestore *r, GError **error)
{
    TcLaneRun run = { r->place, r->plan, r->rate, &r->stop, read_piece, r };

    if (!tc_place_walk(r->place, plan_extent, r, error))
        return false;
    atomic_store(&r->total, tc_plan_bytes(r->plan));
    atomic_store(&r->planned, true);
    if (!tc_lane_run(&run, error))
        return false;
    atomic_store(&r->copied, true);
    return tc_place_finish(r->place, error);
}
