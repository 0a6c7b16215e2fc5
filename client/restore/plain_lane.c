/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/plain_lane.c: lanes of files and devices: each request is waited for. */
#include "client/restore/place_internal.h"
#include "util/sync.h"

#include <string.h>

typedef struct PlainLane {
    TcLane lane;
    uint8_t *buf, *old;
} PlainLane;

static void lane_free(TcLane *lane)
{
    PlainLane *l = (PlainLane *)lane;

    g_free(l->buf);
    g_free(l->old);
    g_free(l);
}

static TcLane *lane_new(TcPlace *place, GError **error)
{
    PlainLane *l = g_new0(PlainLane, 1);

    l->lane.place = place;
    l->buf = g_try_malloc(TC_PIECE);
    l->old = g_try_malloc(TC_PIECE);
    if (l->buf && l->old)
        return &l->lane;
    lane_free(&l->lane);
    tm_error_set(error, "out of memory for buffers of %" PRIu64 " bytes", TC_PIECE);
    return NULL;
}

static void *lane_buffer(TcLane *lane, GError **error)
{
    return ((PlainLane *)lane)->buf;
}

/* Reads what is there now, if that decides anything. */
static bool read_old(PlainLane *l, uint64_t offset, uint64_t length, GError **error)
{
    TcPlace *d = l->lane.place;
    int r = d->kind->read(d, l->old, offset, length);

    return !r || tc_place_fail(d, "reading", offset, r, error);
}

/* Zeroes, if @buf is NULL. */
static int change(TcPlace *d, const void *buf, uint64_t offset, uint64_t length)
{
    return buf ? d->kind->write(d, buf, offset, length) : d->kind->zero(d, offset, length);
}

static int change_in_turn(TcPlace *d, const void *buf, uint64_t offset, uint64_t length)
{
    TM_GUARD(&d->turn);

    return change(d, buf, offset, length);
}

static bool lane_write(TcLane *lane, uint64_t offset, uint64_t length, GError **error)
{
    PlainLane *l = (PlainLane *)lane;
    TcPlace *d = lane->place;
    int r;

    if (d->options.in_place) {
        if (!read_old(l, offset, length, error))
            return false;
        if (!memcmp(l->buf, l->old, length)) {
            tc_place_count(d, &d->same, length);
            return true;
        }
    }
    atomic_store(&d->touched, true);
    r = (d->device ? change : change_in_turn)(d, l->buf, offset, length);
    if (r)
        return tc_place_fail(d, "writing", offset, r, error);
    tc_place_count(d, &d->written, length);
    return true;
}

static bool lane_zero(TcLane *lane, uint64_t offset, uint64_t length, GError **error)
{
    PlainLane *l = (PlainLane *)lane;
    TcPlace *d = lane->place;
    int r;

    if (d->options.in_place) {
        if (!read_old(l, offset, length, error))
            return false;
        if (tc_all_zero(l->old, length)) {
            tc_place_count(d, &d->same, length);
            return true;
        }
    }
    atomic_store(&d->touched, true);
    r = (d->device ? change : change_in_turn)(d, NULL, offset, length);
    if (r)
        return tc_place_fail(d, "zeroing", offset, r, error);
    tc_place_count(d, &d->zeroed, length);
    return true;
}

static bool lane_drain(TcLane *lane, GError **error)
{
    return true;
}

const Lanes tc_plain_lanes = {
    .new = lane_new,
    .buffer = lane_buffer,
    .write = lane_write,
    .zero = lane_zero,
    .drain = lane_drain,
    .free = lane_free,
};
