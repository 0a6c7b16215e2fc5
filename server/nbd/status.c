/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/status.c: NBD_CMD_BLOCK_STATUS: extents of the contexts that were selected, or of
 * those that the request's payload chooses among them.
 *
 * All contexts of a reply end at the same place, since clients that walk by one of them take the
 * others along. A chunk's length stands before its extents, so that place must be known first: a
 * first pass measures the contexts, one after the other up to where the shortest so far ends, and a
 * second one reports each up to the common end. A change in between may make more extents than were
 * measured; there is some room for them, and if that is not enough the rest is reported as the
 * state on the safe side. A single context is reported without the first pass.
 *
 * A context has at most EXTENTS_MAX extents, equal neighbours merged, and costs at most LOOKUPS_MAX
 * look-ups, so that an answer may be shorter than the range. One context's extents are in memory at
 * a time. After a bounded amount of work (effort), and while the output has to wait, a session lets
 * others go first; the state of an answer is kept with it until its next turn.
 *
 * Source: the NBD specification, NBD_CMD_BLOCK_STATUS, NBD_REPLY_TYPE_BLOCK_STATUS and
 * NBD_REPLY_TYPE_BLOCK_STATUS_EXT. */
#include "block/users.h"
#include "server/nbd/nbd_internal.h"

#include "util/endian.h"
#include "util/range.h"

#include <errno.h>
#include <string.h>

#define EXTENTS_MAX  (128u << 10)      /* as QEMU's */
#define EXTENTS_ROOM (EXTENTS_MAX / 8) /* more, if they became more */
#define LOOKUPS_MAX  (8 * EXTENTS_MAX) /* at the graph, for one context */
#define ASK          512u              /* extents asked of the block layer at a time */
#define EDGES        2048u             /* of a bitmap at a time */
#define EFFORT_MAP   8u                /* of ASK look-ups in the graph, in asks of a bitmap */
#define COPIED_MAX   (NBDS_CHUNK / 8)  /* bytes of a chunk that goes into the batch by copying */

/* One context's extents being written, or only measured: one more than max is never there. */
typedef struct Writer {
    NbdsServers *servers;
    NbdsChunk *chunk; /* NULL: measured */
    size_t head, each;
    size_t max, n;
    uint64_t end;           /* of those that are there, on the disk */
    uint64_t length, flags; /* of the next one, which begins there; length 0: none */
    bool extended;
    bool clean; /* what is not dirty is reported, in the form of 2016 */
} Writer;

/* A context of an answer. */
typedef struct Walk {
    NbdsContext c;      /* borrowed */
    BlkContextMap *map; /* USER: one map, whatever replaces it meanwhile */
} Walk;

/* An answer that is being made. */
struct NbdsStatus {
    NbdsHead h;
    uint64_t end; /* where the contexts end, as far as they were measured */
    bool telling, measured;
    unsigned i;       /* the context */
    uint64_t at;      /* from where on it is asked */
    unsigned lookups; /* at the graph for it, which take longer than those at a bitmap or a map */
    Writer w;
    unsigned n;
    Walk walks[];
};

/* ---- writing */

/* Makes room for @n more; false: no memory, which is as good as full. */
static bool writer_room(Writer *w, size_t n)
{
    size_t need = w->head + w->each * (w->n + n), most = w->head + w->each * w->max;
    NbdsChunk *more;

    if (!w->chunk || need <= w->chunk->cap)
        return true;
    more = nbds_chunk_get(w->servers, MIN(MAX(need, 2 * w->chunk->cap), MAX(need, most)));
    if (!more) {
        w->max = w->n;
        return false;
    }
    memcpy(more->data, w->chunk->data, w->head + w->each * w->n);
    nbds_chunk_put(w->servers, w->chunk);
    w->chunk = more;
    return true;
}

/* Writes the one that ends at @end. There is room. */
static void write_one(Writer *w, uint64_t end, uint64_t flags)
{
    uint8_t *to = w->chunk ? w->chunk->data + w->head + w->each * w->n : NULL;

    if (to && w->extended) {
        tm_put_be64(to, end - w->end);
        tm_put_be64(to + 8, flags);
    } else if (to) { /* within the request's 32 bits */
        tm_put_be64(to, (end - w->end) << 32 | (uint32_t)flags);
    }
    w->n++;
    w->end = end;
}

/* false: full. */
static bool writer_put(Writer *w)
{
    if (!w->length)
        return true;
    if (!writer_room(w, 1))
        return false;
    write_one(w, w->end + w->length, w->flags);
    w->length = 0;
    return w->n < w->max;
}

/* false: full. */
static bool writer_add(Writer *w, uint64_t length, uint64_t flags)
{
    if (w->clean)
        flags = flags & TM_STATE_DIRTY ? 0 : NBD_2016_STATE_CLEAN;
    if (w->length && w->flags != flags && !writer_put(w))
        return false;
    w->length += length;
    w->flags = flags;
    return true;
}

/* The last one, which is what more of them there were no place for, goes to @end as @flags. */
static void writer_stretch(Writer *w, uint64_t end, uint64_t flags)
{
    const uint8_t *last = w->chunk->data + w->head + w->each * (w->n - 1);

    w->n--;
    w->end -= w->extended ? tm_get_be64(last) : tm_get_be32(last);
    write_one(w, end, flags);
}

/* ---- asking */

/* A dirty bitmap's: straight from where it changes to the wire. */
static void ask_bitmap(NbdsStatus *st, const Walk *walk, uint64_t length)
{
    Writer *w = &st->w;
    const uint64_t values[2] = { w->clean ? NBD_2016_STATE_CLEAN : 0,
                                 w->clean ? 0 : TM_STATE_DIRTY };
    uint64_t edges[EDGES], described;
    bool dirty;
    size_t n = bmp_bitmap_edges(walk->c.bitmap, st->at, length, edges, MIN(EDGES, w->max - w->n),
                                &dirty, &described);

    /* It may have changed since the last look. */
    if (w->length && w->flags != values[dirty] && !writer_put(w))
        return;
    n = MIN(n, w->max - w->n);
    if (n && !writer_room(w, n))
        return;
    for (size_t i = 0; i < n; i++)
        write_one(w, edges[i], values[dirty ^ (i % 2)]);
    st->at += described;
    w->length = st->at - w->end;
    w->flags = values[dirty ^ (n % 2)];
}

static int ask_node(BlkNode *node, NbdsStatus *st, const Walk *walk, uint64_t length, TmExtents *x,
                    uint64_t *described, unsigned *lookups)
{
    switch (walk->c.kind) {
    case NBDS_CONTEXT_BASE:
        *lookups = ASK;
        return blk_node_status(node, st->at, length, x, described);
    case NBDS_CONTEXT_DEPTH:
        *lookups = ASK;
        return blk_node_depth(node, st->at, length, x, described);
    case NBDS_CONTEXT_BACKUP:
        return blk_node_backup(node, walk->c.bitmap, st->at, length, x, described, lookups);
    case NBDS_CONTEXT_USER:
        *described = blk_context_map_extents(walk->map, st->at, length, x);
        return 0;
    case NBDS_CONTEXT_BITMAP: /* ask_bitmap() */
    case NBDS_CONTEXT_KINDS:
        break;
    }
    return -EINVAL;
}

static int ask_extents(NbdsSession *s, NbdsStatus *st, const Walk *walk, uint64_t length,
                       TmExtents *x, uint64_t *described, unsigned *lookups)
{
    int ret = ask_node(blk_user_enter(s->disk), st, walk, length, x, described, lookups);

    blk_user_leave(s->disk);
    return ret;
}

/* Asks for what comes next of the context, once. 0 or -errno. */
static int ask(NbdsSession *s, NbdsStatus *st)
{
    const Walk *walk = &st->walks[st->i];
    uint64_t length = st->end - st->at, described = 0;
    TmExtent list[ASK];
    TmExtents x = { .list = list, .max = MIN(ASK, st->w.max - st->w.n + 1) };
    unsigned lookups = 0;
    int ret;

    if (walk->c.kind == NBDS_CONTEXT_BITMAP) {
        s->effort++;
        ask_bitmap(st, walk, length);
        return 0;
    }
    ret = ask_extents(s, st, walk, length, &x, &described, &lookups);
    st->lookups += lookups;
    s->effort += lookups ? (lookups + ASK / EFFORT_MAP - 1) / (ASK / EFFORT_MAP) : 1;
    if (ret < 0 || !described)
        return ret < 0 ? ret : -EIO;
    for (size_t i = 0; i < x.count; i++) {
        if (!writer_add(&st->w, list[i].length, list[i].flags))
            return 0;
    }
    st->at += described;
    return 0;
}

/* ---- one context after the other */

/* Begins with context i; false: no memory. */
static bool begin(NbdsSession *s, NbdsStatus *st)
{
    bool one = st->h.flags & NBD_CMD_FLAG_REQ_ONE;

    st->at = st->h.offset;
    st->lookups = 0;
    st->w = (Writer){ .servers = s->servers,
                      .chunk = st->telling ? nbds_chunk_get(s->servers, 1) : NULL,
                      .head = s->reply_head + (s->extended      ? 8
                                               : s->status_2016 ? 0
                                                                : 4),
                      .each = s->extended ? 16 : 8,
                      .max = one ? 1 : EXTENTS_MAX + (st->measured ? EXTENTS_ROOM : 0),
                      .end = st->h.offset,
                      .extended = s->extended,
                      .clean = s->status_2016 && st->walks[st->i].c.bitmap };
    return !st->telling || st->w.chunk;
}

/* What hides nothing from a client that copies by it. */
static uint64_t safe_value(const NbdsStatus *st)
{
    switch (st->walks[st->i].c.kind) {
    case NBDS_CONTEXT_DEPTH:
        return 1;
    case NBDS_CONTEXT_BITMAP:
        return st->w.clean ? 0 : TM_STATE_DIRTY;
    case NBDS_CONTEXT_BACKUP:
        return TM_BACKUP_DIRTY;
    case NBDS_CONTEXT_BASE: /* data */
    case NBDS_CONTEXT_USER: /* it does not change */
    case NBDS_CONTEXT_KINDS:
        break;
    }
    return 0;
}

/* Sends what was written; small chunks along with others. */
static void send_chunk(NbdsSession *s, NbdsStatus *st)
{
    Writer *w = &st->w;
    uint8_t *to = w->chunk->data;
    size_t length = w->head + w->each * w->n;

    if (st->i + 1 == st->n)
        NBDS_TRACE_END(s, &st->h, 0);
    nbds_chunk_format(s, to, st->i + 1 == st->n ? NBD_REPLY_FLAG_DONE : 0,
                      s->extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS,
                      &st->h, (uint32_t)(length - s->reply_head));
    if (!s->status_2016)
        tm_put_be32(to + s->reply_head, st->walks[st->i].c.id);
    if (s->extended)
        tm_put_be32(to + s->reply_head + 4, (uint32_t)w->n);
    if (length <= COPIED_MAX) {
        nbds_session_put(s, to, length);
        nbds_chunk_put(s->servers, w->chunk);
    } else {
        nbds_session_give(s, w->chunk, length);
    }
    w->chunk = NULL;
}

/* The context is through: goes to the next one, and from the last one that was measured to the
 * first one to report. */
static void next(NbdsSession *s, NbdsStatus *st)
{
    Writer *w = &st->w;

    if (w->n < w->max)
        writer_put(w);
    if (st->measured && w->end < st->end)
        writer_stretch(w, st->end, safe_value(st));
    st->end = w->end;
    if (st->telling)
        send_chunk(s, st);
    st->i++;
    if (st->i == st->n && !st->telling) {
        st->i = 0;
        st->telling = st->measured = true;
    }
    if (st->i < st->n && !begin(s, st))
        nbds_session_cut(s, NBDS_REASON_ERROR); /* no memory in the middle of a reply */
}

static void finish(NbdsSession *s)
{
    NbdsStatus *st = g_steal_pointer(&s->status);

    for (unsigned i = 0; i < st->n; i++)
        blk_context_map_unref(st->walks[i].map);
    nbds_chunk_put(s->servers, st->w.chunk);
    g_free(st);
}

void nbds_status_free(NbdsSession *s)
{
    if (s->status)
        finish(s);
}

bool nbds_status_waits(NbdsSession *s)
{
    const NbdsStatus *st = s->status;
    bool asks = false; /* the graph */
    bool waits;

    for (unsigned i = 0; i < st->n && !asks; i++)
        asks =
            st->walks[i].c.kind != NBDS_CONTEXT_BITMAP && st->walks[i].c.kind != NBDS_CONTEXT_USER;
    if (!asks || s->may_wait)
        return false;
    waits = blk_node_status_waits(blk_user_enter(s->disk));
    blk_user_leave(s->disk);
    return waits;
}

/* An error after something known is left for the next request to meet. */
bool nbds_status_run(NbdsSession *s)
{
    NbdsStatus *st = s->status;

    while (st->i < st->n && !__atomic_load_n(&s->dead, __ATOMIC_ACQUIRE)) {
        bool known;
        int ret;

        if (s->effort >= NBDS_EFFORT || !s->batch || nbds_session_over(s)) {
            s->effort = 0;
            return false;
        }
        ret = ask(s, st);
        known = st->w.n || st->w.length;
        if (ret < 0 && !known) {
            nbds_request_failed(s, &st->h, ret);
            break;
        }
        if (ret < 0 || st->at >= st->end || st->w.n >= st->w.max ||
            (!st->measured && st->lookups >= LOOKUPS_MAX))
            next(s, st);
    }
    finish(s);
    return true;
}

/* ---- the choice of a payload */

static int by_id(const void *id, const void *context)
{
    uint32_t a = *(const uint32_t *)id, b = ((const NbdsContext *)context)->id;

    return a < b ? -1 : a > b;
}

/* Marks in @chosen the contexts of the @n ids at @ids; false if one is unknown or there twice. */
static bool choose(const NbdsMeta *meta, const uint8_t *ids, unsigned n, bool *chosen)
{
    for (unsigned i = 0; i < n; i++) {
        uint32_t id = tm_get_be32(ids + 4 * i);
        const NbdsContext *c = bsearch(&id, meta->contexts, meta->count, sizeof(*c), by_id);

        if (!c || chosen[c - meta->contexts])
            return false;
        chosen[c - meta->contexts] = true;
    }
    return true;
}

/* The request's range and contexts, out of its payload. An error was answered if it fails. */
static bool *take_payload(NbdsSession *s, NbdsHead *h, const uint8_t *payload, unsigned *n)
{
    g_autofree bool *chosen = g_new0(bool, s->meta.count);

    h->length = tm_get_be64(payload);
    *n = (unsigned)(h->payload - 8) / 4;
    if (!h->length || !tm_range_within(h->offset, h->length, s->size))
        nbds_reply(s, h, NBD_EINVAL, "the range is empty or not within the export");
    else if (!choose(&s->meta, payload + 8, *n, chosen))
        nbds_reply(s, h, NBD_EINVAL,
                   "a context of the payload was not selected, or is named twice");
    else
        return g_steal_pointer(&chosen);
    return NULL;
}

/* Provisioning or, if the request says so, dirtiness. */
static NbdsContext context_2016(const NbdsSession *s, const NbdsHead *h)
{
    return h->flags & s->dirty_flag_2016
               ? (NbdsContext){ .kind = NBDS_CONTEXT_BITMAP, .bitmap = s->bitmap_2016 }
               : (NbdsContext){ .kind = NBDS_CONTEXT_BASE };
}

static void add_walk(NbdsStatus *st, const NbdsContext *c)
{
    st->walks[st->n++] =
        (Walk){ *c, c->kind == NBDS_CONTEXT_USER ? blk_context_map(c->user) : NULL };
}

void nbds_block_status(NbdsSession *s, const NbdsHead *request, const uint8_t *payload)
{
    unsigned n = s->status_2016 ? 1 : s->meta.count;
    g_autofree bool *chosen = NULL;
    NbdsHead h = *request;
    NbdsContext context;
    NbdsStatus *st;

    if (h.payload) {
        chosen = take_payload(s, &h, payload, &n);
        if (!chosen)
            return;
    }
    s->status = st = g_malloc0(sizeof(*st) + n * sizeof(Walk));
    st->h = h;
    st->end = h.offset + h.length;
    st->telling = n == 1;
    if (s->status_2016) {
        context = context_2016(s, &h);
        add_walk(st, &context);
    }
    for (unsigned i = 0; !s->status_2016 && i < s->meta.count; i++) {
        if (!chosen || chosen[i])
            add_walk(st, &s->meta.contexts[i]);
    }
    if (!begin(s, st)) {
        nbds_reply(s, &h, NBD_ENOMEM, "no memory for the answer");
        finish(s);
    }
}
