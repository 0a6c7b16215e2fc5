/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/runs.c: pieces of a disk rounded to runs of blocks. */
#include "client/repository/hashes.h"
#include "util/range.h"

enum { HAS_NONE = 1, HAS_DATA = 2, HAS_ZERO = 4 };

struct TcRuns {
    uint64_t size;
    uint64_t at;   /* the next piece begins there, or later */
    unsigned part; /* what the block that @at is within has so far */
    TcRun *runs;
    size_t n, room;
    uint64_t bytes[TC_RUN_ZERO + 1];
};

TcRuns *tc_runs_new(uint64_t size)
{
    TcRuns *runs = g_new0(TcRuns, 1);

    runs->size = size;
    return runs;
}

void tc_runs_free(TcRuns *runs)
{
    if (!runs)
        return;
    g_free(runs->runs);
    g_free(runs);
}

/* Whole blocks. */
static bool append(TcRuns *r, uint64_t offset, uint64_t length, TcRunKind kind, GError **error)
{
    TcRun *last = r->n ? &r->runs[r->n - 1] : NULL;

    r->bytes[kind] += length;
    if (kind == TC_RUN_NONE || !length)
        return true;
    if (last && last->kind == kind && last->offset + last->length == offset) {
        last->length += length;
        return true;
    }
    if (r->n == r->room) {
        size_t room = r->room ? r->room * 2 : 64;
        TcRun *more = g_try_renew(TcRun, r->runs, room);

        if (!more)
            return tm_error_set(error, "there is not enough memory for %zu runs of blocks", room);
        r->runs = more;
        r->room = room;
    }
    r->runs[r->n++] = (TcRun){ offset, length, kind };
    return true;
}

/* The block that the last pieces were in is complete: its end is @at. */
static bool end_block(TcRuns *r, GError **error)
{
    uint64_t start = tm_align_down(r->at - 1, TC_BLOCK);
    TcRunKind kind = r->part == HAS_NONE   ? TC_RUN_NONE
                     : r->part == HAS_ZERO ? TC_RUN_ZERO
                                           : TC_RUN_DATA;

    r->part = 0;
    return append(r, start, r->at - start, kind, error);
}

/* Goes on to @end with @kind. */
static bool go_on(TcRuns *r, uint64_t end, TcRunKind kind, GError **error)
{
    while (r->at < end) {
        uint64_t block = tm_min(tm_align_down(r->at, TC_BLOCK) + TC_BLOCK, r->size);
        uint64_t whole = end == r->size ? end : tm_align_down(end, TC_BLOCK);

        if (!r->part && !(r->at & (TC_BLOCK - 1)) && whole > r->at) {
            if (!append(r, r->at, whole - r->at, kind, error))
                return false;
            r->at = whole;
            continue;
        }
        r->part |= 1u << kind;
        r->at = tm_min(end, block);
        if (r->at == block && !end_block(r, error))
            return false;
    }
    return true;
}

bool tc_runs_add(TcRuns *r, uint64_t offset, uint64_t length, TcRunKind kind, GError **error)
{
    if (offset < r->at || !tm_range_within(offset, length, r->size))
        return tm_error_set(error,
                            "the piece of %" PRIu64 " bytes at %" PRIu64
                            " is not after the one before, or beyond the disk's end",
                            length, offset);
    return go_on(r, offset, TC_RUN_NONE, error) && go_on(r, offset + length, kind, error);
}

bool tc_runs_end(TcRuns *r, GError **error)
{
    return go_on(r, r->size, TC_RUN_NONE, error);
}

uint64_t tc_runs_bytes(const TcRuns *runs, TcRunKind kind)
{
    return runs->bytes[kind];
}

size_t tc_runs_count(const TcRuns *runs)
{
    return runs->n;
}

const TcRun *tc_runs_get(const TcRuns *runs, size_t i)
{
    return &runs->runs[i];
}
