/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/place_nbd.c: an export of an NBD server.
 *
 * A lane is a connection with a number of slots, each a request: what is there now is read first
 * with in_place, and then written only if it differs. */
#include "client/copy/nbd_wait.h"
#include "client/copy/source.h"
#include "client/restore/place_internal.h"
#include "util/extent.h"
#include "util/range.h"

#include <errno.h>
#include <string.h>

/* As long as a connection more is waited for. */
enum { CONNECT_MS = 2000 };
/* A server may not know how long 32 bits of zeroes take. */
#define ZERO_MAX (UINT64_C(64) << 20)

typedef struct Export {
    TcSource *source;
    GMutex lock; /* guards taken */
    bool taken;  /* the source's own connection is a lane's */
    bool can_zero;
} Export;

typedef enum { FREE, TAKEN, READING, WRITING } State;

typedef struct Slot {
    State state;
    bool arrived;
    int error; /* errno, once arrived */
    bool zero; /* the range is to read as zeroes */
    uint64_t offset, length;
    uint8_t *buf, *old;
} Slot;

typedef struct NbdLane {
    TcLane lane;
    struct nbd_handle *nbd;
    bool own; /* not the source's */
    Slot *slots;
    unsigned count;
    Slot *taken; /* its buffer is out */
} NbdLane;

/* ---- the export */

static bool nbd_examine(TcPlace *d, GError **error)
{
    g_autofree char *bitmap =
        d->options.bitmap ? g_strconcat(TC_CONTEXT_BITMAP_PREFIX, d->options.bitmap, NULL) : NULL;
    const char *contexts[] = { TC_CONTEXT_ALLOCATION, bitmap, NULL };
    g_autoptr(TcSource) source = tc_source_open(d->name, contexts, d->options.stop_fd, error);
    Export *e;

    if (!source || (bitmap && !tc_source_require(source, 1, bitmap, error)))
        return false;
    if (nbd_is_read_only(tc_source_handle(source)) == 1)
        return tm_error_set(error, "target '%s' is read-only", d->name);
    e = g_new0(Export, 1);
    g_mutex_init(&e->lock);
    e->can_zero = nbd_can_zero(tc_source_handle(source)) == 1;
    if (nbd_can_multi_conn(tc_source_handle(source)) != 1)
        d->options.connections = 1;
    d->found = tc_source_size(source);
    e->source = g_steal_pointer(&source);
    d->own = e;
    return true;
}

static void nbd_close_export(TcPlace *d)
{
    Export *e = g_steal_pointer(&d->own);

    if (!e)
        return;
    tc_source_free(e->source);
    g_mutex_clear(&e->lock);
    g_free(e);
}

static bool nbd_begin(TcPlace *d, GError **error)
{
    return true;
}

static bool fail_nbd(const TcPlace *d, const char *doing, GError **error)
{
    g_autofree char *why = tc_nbd_error();

    return tm_error_set(error, "%s target '%s': %s", doing, d->name, why);
}

static bool fail_stopped(GError **error)
{
    return tm_error_set(error, "interrupted");
}

static bool nbd_finish(TcPlace *d, GError **error)
{
    struct nbd_handle *nbd = tc_source_handle(((Export *)d->own)->source);
    int done =
        nbd_can_flush(nbd) != 1
            ? 1
            : tc_nbd_complete(nbd, nbd_aio_flush(nbd, NBD_NULL_COMPLETION, 0), d->options.stop_fd);

    if (done != 1)
        return done ? fail_nbd(d, "Could not sync", error) : fail_stopped(error);
    nbd_close_export(d);
    return true;
}

typedef struct Walk {
    TcPlace *d;
    TcExtentFn fn;
    void *opaque;
} Walk;

static bool walk_extent(void *opaque, uint64_t offset, uint64_t length, const uint32_t *values,
                        GError **error)
{
    Walk *walk = opaque;
    TcPlace *d = walk->d;
    bool dirty = !d->options.bitmap || values[1] & TM_STATE_DIRTY;

    if (offset >= d->size)
        return true;
    return walk->fn(walk->opaque, offset, tm_min(length, d->size - offset),
                    values[0] & TM_STATE_ZERO, dirty, error);
}

static bool nbd_walk(TcPlace *d, TcExtentFn fn, void *opaque, GError **error)
{
    Walk walk = { d, fn, opaque };

    return tc_source_walk(((Export *)d->own)->source, walk_extent, &walk, error);
}

/* ---- lanes */

static void nbd_lane_free(TcLane *lane)
{
    NbdLane *l = (NbdLane *)lane;

    /* what is in flight arrives no more once nobody turns the handle */
    if (l->own)
        tc_nbd_close(l->nbd, lane->place->options.stop_fd);
    for (unsigned i = 0; i < l->count; i++) {
        g_free(l->slots[i].buf);
        g_free(l->slots[i].old);
    }
    g_free(l->slots);
    g_free(l);
}

/* The first lane has the source's connection. */
static void connect_lane(NbdLane *l, Export *e)
{
    g_mutex_lock(&e->lock);
    l->own = e->taken;
    e->taken = true;
    g_mutex_unlock(&e->lock);
    l->nbd = l->own ? tc_source_another(e->source, CONNECT_MS) : tc_source_handle(e->source);
}

static TcLane *nbd_lane_new(TcPlace *d, GError **error)
{
    NbdLane *l = g_new0(NbdLane, 1);
    bool ok;

    l->lane.place = d;
    l->count = d->options.requests;
    l->slots = g_new0(Slot, l->count);
    connect_lane(l, d->own);
    ok = l->nbd || tm_error_set(error, "target '%s': no further connection", d->name);
    for (unsigned i = 0; ok && i < l->count; i++) {
        l->slots[i].buf = g_try_malloc(TC_PIECE);
        l->slots[i].old = d->options.in_place ? g_try_malloc(TC_PIECE) : NULL;
        if (!l->slots[i].buf || (d->options.in_place && !l->slots[i].old))
            ok = tm_error_set(error, "out of memory for buffers of %" PRIu64 " bytes", TC_PIECE);
    }
    if (ok)
        return &l->lane;
    nbd_lane_free(&l->lane);
    return NULL;
}

static int arrived(void *opaque, int *error)
{
    Slot *slot = opaque;

    slot->arrived = true;
    slot->error = *error;
    return 1; /* retires the command */
}

static bool issue(NbdLane *l, Slot *slot, State state, GError **error)
{
    nbd_completion_callback callback = { .callback = arrived, .user_data = slot };
    TcPlace *d = l->lane.place;
    Export *e = d->own;
    int64_t r;

    slot->state = state;
    slot->arrived = false;
    if (state == WRITING)
        atomic_store(&d->touched, true);
    if (state == READING)
        r = nbd_aio_pread(l->nbd, slot->old, slot->length, slot->offset, callback, 0);
    else if (slot->zero && e->can_zero)
        r = nbd_aio_zero(l->nbd, slot->length, slot->offset, callback, 0);
    else
        r = nbd_aio_pwrite(l->nbd, slot->buf, slot->length, slot->offset, callback, 0);
    return r != -1 || fail_nbd(d, state == READING ? "reading" : "writing", error);
}

/* The slot's request has been answered: what is next for it. */
static bool advance(NbdLane *l, Slot *slot, GError **error)
{
    TcPlace *d = l->lane.place;
    bool was_read = slot->state == READING, same = false;

    if (slot->error)
        return tc_place_fail(d, was_read ? "reading" : "writing", slot->offset, -slot->error,
                             error);
    if (was_read) {
        same = slot->zero ? tc_all_zero(slot->old, slot->length)
                          : !memcmp(slot->old, slot->buf, slot->length);
        if (!same)
            return issue(l, slot, WRITING, error);
    }
    tc_place_count(d, same ? &d->same : slot->zero ? &d->zeroed : &d->written, slot->length);
    slot->state = FREE;
    return true;
}

static bool advance_all(NbdLane *l, GError **error)
{
    for (unsigned i = 0; i < l->count; i++) {
        Slot *slot = &l->slots[i];

        if (slot->state >= READING && slot->arrived && !advance(l, slot, error))
            return false;
    }
    return true;
}

static bool is_lost(const NbdLane *l)
{
    return nbd_aio_is_dead(l->nbd) == 1 || nbd_aio_is_closed(l->nbd) == 1;
}

/* Waits for the server and takes its answers. */
static bool turn(NbdLane *l, GError **error)
{
    const TcPlace *d = l->lane.place;

    if (!is_lost(l) && !tc_nbd_turn(l->nbd, d->options.stop_fd, -1))
        return fail_stopped(error);
    if (is_lost(l))
        return fail_nbd(d, "connection lost:", error);
    return advance_all(l, error);
}

static Slot *free_slot(NbdLane *l, GError **error)
{
    if (!advance_all(l, error))
        return NULL;
    for (;;) {
        for (unsigned i = 0; i < l->count; i++)
            if (l->slots[i].state <= TAKEN)
                return &l->slots[i];
        if (!turn(l, error))
            return NULL;
    }
}

static void *nbd_lane_buffer(TcLane *lane, GError **error)
{
    NbdLane *l = (NbdLane *)lane;

    l->taken = free_slot(l, error);
    if (!l->taken)
        return NULL;
    l->taken->state = TAKEN;
    return l->taken->buf;
}

static bool start(NbdLane *l, Slot *slot, uint64_t offset, uint64_t length, bool zero,
                  GError **error)
{
    slot->offset = offset;
    slot->length = length;
    slot->zero = zero;
    return issue(l, slot, l->lane.place->options.in_place ? READING : WRITING, error);
}

static bool nbd_lane_write(TcLane *lane, uint64_t offset, uint64_t length, GError **error)
{
    NbdLane *l = (NbdLane *)lane;
    Slot *slot = g_steal_pointer(&l->taken);

    return start(l, slot, offset, length, false, error);
}

static bool nbd_lane_zero(TcLane *lane, uint64_t offset, uint64_t length, GError **error)
{
    NbdLane *l = (NbdLane *)lane;
    Export *e = lane->place->own;
    uint64_t most = e->can_zero && !lane->place->options.in_place ? ZERO_MAX : TC_PIECE;

    while (length) {
        Slot *slot = free_slot(l, error);
        uint64_t piece = tm_min(length, most);

        if (!slot)
            return false;
        if (!e->can_zero)
            memset(slot->buf, 0, piece);
        if (!start(l, slot, offset, piece, true, error))
            return false;
        offset += piece;
        length -= piece;
    }
    return true;
}

static bool nbd_lane_drain(TcLane *lane, GError **error)
{
    NbdLane *l = (NbdLane *)lane;

    if (!advance_all(l, error))
        return false;
    while (nbd_aio_in_flight(l->nbd) > 0)
        if (!turn(l, error))
            return false;
    return true;
}

static const Lanes nbd_lanes = {
    .new = nbd_lane_new,
    .buffer = nbd_lane_buffer,
    .write = nbd_lane_write,
    .zero = nbd_lane_zero,
    .drain = nbd_lane_drain,
    .free = nbd_lane_free,
};

const Kind tc_place_nbd = {
    .format = "nbd",
    .lanes = &nbd_lanes,
    .examine = nbd_examine,
    .begin = nbd_begin,
    .finish = nbd_finish,
    .close = nbd_close_export,
    .walk = nbd_walk,
};
