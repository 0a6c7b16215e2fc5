/* server/status.c: NBD_CMD_BLOCK_STATUS: extents of the contexts that were selected, or of those
 * that the request's payload chooses among them.
 *
 * The extents are written straight into the batch, equal neighbours merged, cut at the end of the
 * range asked for. A reply is bounded, and so is the work for it, so that an answer may be shorter
 * than the range: the contexts of a request share EXTENTS_MAX, each having at least EXTENTS_MIN,
 * and the graph is looked at LOOKS_MAX times. After so much work (effort) a session lets others go
 * first, however many requests it has sent.
 *
 * Source: the NBD specification, NBD_CMD_BLOCK_STATUS, NBD_REPLY_TYPE_BLOCK_STATUS and
 * NBD_REPLY_TYPE_BLOCK_STATUS_EXT. */
#include "server/internal.h"

#include "util/endian.h"
#include "util/range.h"

#include <errno.h>
#include <string.h>

#define EXTENTS_MAX (128u << 10)
#define EXTENTS_MIN 16u
#define ASK         512u        /* extents asked of the block layer at a time */
#define EDGES       2048u       /* of a bitmap at a time */
#define LOOKS_MAX   (16u * ASK) /* at the graph, for one context */
#define EFFORT_MAP  8u          /* of ASK looks at the graph, in asks of a bitmap */

/* One context's extents being written: one more than max is never there. */
typedef struct Writer {
    uint8_t *to;
    size_t max, n;
    uint64_t length, flags; /* of the last one, not written yet; length 0: none */
    bool extended;
    bool clean; /* told is what is not dirty, in the form of the draft */
} Writer;

static bool writer_put(Writer *w)
{
    if (!w->length)
        return true;
    if (w->extended) {
        tm_put_be64(w->to + 16 * w->n, w->length);
        tm_put_be64(w->to + 16 * w->n + 8, w->flags);
    } else {
        tm_put_be32(w->to + 8 * w->n, (uint32_t)w->length); /* within the request's 32 bits */
        tm_put_be32(w->to + 8 * w->n + 4, (uint32_t)w->flags);
    }
    w->n++;
    w->length = 0;
    return w->n < w->max;
}

/* false: full. */
static bool writer_add(Writer *w, uint64_t length, uint64_t flags)
{
    if (w->clean)
        flags = flags & TM_STATE_DIRTY ? 0 : NBD_DRAFT_STATE_CLEAN;
    if (w->length && w->flags != flags && !writer_put(w))
        return false;
    w->length += length;
    w->flags = flags;
    return true;
}

/* What one context's extents are asked of, for the time of one answer. */
typedef struct Walk {
    NbdsSession *s;
    const NbdsContext *c;
    const BlkContextMap *map; /* USER: one map, whatever replaces it meanwhile */
    unsigned looks;           /* at the graph, which take longer than those at a bitmap or a map */
} Walk;

/* Writes the extents that end at each of @edges, the first of which begins at @at. There is room.
 */
static void write_edges(Writer *w, uint64_t at, const uint64_t *edges, size_t n, uint64_t flags,
                        uint64_t others)
{
    uint8_t *to = w->to + (w->extended ? 16 : 8) * w->n;

    for (size_t i = 0; i < n; i++) {
        uint64_t next = edges[i], now = i % 2 ? others : flags;

        if (w->extended) {
            tm_put_be64(to, next - at);
            tm_put_be64(to + 8, now);
            to += 16;
        } else {
            tm_put_be64(to, (next - at) << 32 | now);
            to += 8;
        }
        at = next;
    }
    w->n += n;
}

/* A dirty bitmap's: straight from where it changes to the wire. */
static void collect_bitmap(Walk *walk, uint64_t offset, uint64_t length, Writer *w)
{
    const uint64_t values[2] = { w->clean ? NBD_DRAFT_STATE_CLEAN : 0,
                                 w->clean ? 0 : TM_STATE_DIRTY };
    uint64_t edges[EDGES];

    while (length && w->n < w->max) {
        uint64_t described, at = offset;
        bool dirty;
        size_t n = bmp_bitmap_edges(walk->c->bitmap, offset, length, edges,
                                    MIN(EDGES, w->max - w->n), &dirty, &described);

        walk->s->effort++;
        /* It may have changed since the last look. */
        if (w->length && w->flags != values[dirty] && !writer_put(w))
            return;
        n = MIN(n, w->max - w->n);
        if (n) {
            write_edges(w, offset - w->length, edges, n, values[dirty], values[!dirty]);
            at = edges[n - 1];
            w->length = 0;
        }
        offset += described;
        length -= described;
        w->length += offset - at;
        w->flags = values[dirty ^ (n % 2)];
    }
    if (w->n < w->max)
        writer_put(w);
}

static int ask(Walk *walk, uint64_t offset, uint64_t length, TmExtents *x, uint64_t *described)
{
    BlkNode *node = walk->s->node;
    unsigned looks = 0;
    int ret = 0;

    switch (walk->c->kind) {
    case NBDS_CONTEXT_BASE:
        looks = ASK;
        ret = blk_node_status(node, offset, length, x, described);
        break;
    case NBDS_CONTEXT_DEPTH:
        looks = ASK;
        ret = blk_node_depth(node, offset, length, x, described);
        break;
    case NBDS_CONTEXT_BACKUP:
        ret = blk_node_backup(node, walk->c->bitmap, offset, length, x, described, &looks);
        break;
    case NBDS_CONTEXT_BITMAP: /* collect_bitmap() */
    case NBDS_CONTEXT_KINDS:
        break;
    case NBDS_CONTEXT_USER:
        *described = blk_context_map_extents(walk->map, offset, length, x);
        break;
    }
    walk->looks += looks;
    walk->s->effort += looks ? (looks + ASK / EFFORT_MAP - 1) / (ASK / EFFORT_MAP) : 1;
    return ret == 0 && !*described ? -EIO : ret;
}

/* Fills @w; 0 or -errno. An error behind something known is left for the next request to meet. */
static int collect(Walk *walk, uint64_t offset, uint64_t length, Writer *w)
{
    TmExtent list[ASK];

    if (walk->c->kind == NBDS_CONTEXT_BITMAP) {
        collect_bitmap(walk, offset, length, w);
        return 0;
    }
    while (length && walk->looks < LOOKS_MAX) {
        TmExtents x = { .list = list, .max = MIN(ASK, w->max - w->n + 1) };
        uint64_t described = 0;
        int ret = ask(walk, offset, length, &x, &described);

        if (ret < 0 && !w->length)
            return ret;
        if (ret < 0)
            break;
        for (size_t i = 0; i < x.count; i++) {
            if (!writer_add(w, list[i].length, list[i].flags))
                return 0;
        }
        offset += described;
        length -= described;
    }
    writer_put(w);
    return 0;
}

/* How big the parts of a chunk are: what stands before the extents, and an extent. */
static void layout(const NbdsSession *s, size_t *head, size_t *each)
{
    *head = s->reply_head + (s->extended ? 8 : s->draft ? 0 : 4);
    *each = s->extended ? 16 : 8;
}

/* The chunk of one context, with at most @share extents; false: an error was answered instead, or
 * the session is at its end. */
static bool answer(NbdsSession *s, const NbdsHead *h, const NbdsContext *c, size_t share, bool last)
{
    Writer w = { .extended = s->extended, .clean = s->draft && c->bitmap };
    BlkContextMap *map = NULL;
    size_t head, each;
    uint8_t *to;
    int ret;

    layout(s, &head, &each);
    if (!nbds_batch_has_room(s->batch, head + MIN(each * share, NBDS_CHUNK / 4)))
        nbds_session_flush(s);
    if (!s->batch)
        return false;
    to = s->batch->chunk->data + s->batch->used;
    w.to = to + head;
    w.max = MIN(share, (s->batch->chunk->cap - s->batch->used - head) / each);
    if (c->kind == NBDS_CONTEXT_USER)
        map = blk_context_map(c->user);
    ret = collect(&(Walk){ .s = s, .c = c, .map = map }, h->offset, h->length, &w);
    blk_context_map_unref(map);
    if (ret < 0) {
        nbds_request_failed(s, h, ret);
        return false;
    }
    nbds_chunk_format(s, to, last ? NBD_REPLY_FLAG_DONE : 0,
                      s->extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS,
                      h, (uint32_t)(head - s->reply_head + each * w.n));
    if (!s->draft)
        tm_put_be32(to + s->reply_head, c->id);
    if (s->extended)
        tm_put_be32(to + s->reply_head + 4, (uint32_t)w.n);
    nbds_batch_add(s->batch, to, head + each * w.n);
    return true;
}

/* Provisioning or, if the request says so, dirtiness. */
static void answer_draft(NbdsSession *s, const NbdsHead *h)
{
    NbdsContext c = { .kind = NBDS_CONTEXT_BASE };

    if (h->flags & s->draft_flag)
        c = (NbdsContext){ .kind = NBDS_CONTEXT_BITMAP, .bitmap = s->draft_bitmap };
    answer(s, h, &c, EXTENTS_MAX, true);
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
        nbds_reply(s, h, NBD_EINVAL, "a context that was not selected, or one named twice");
    else
        return g_steal_pointer(&chosen);
    return NULL;
}

void nbds_block_status(NbdsSession *s, const NbdsHead *request, const uint8_t *payload)
{
    const NbdsMeta *meta = &s->meta;
    g_autofree bool *chosen = NULL;
    unsigned left = meta->count;
    NbdsHead h = *request;
    size_t share;

    if (s->draft) {
        answer_draft(s, &h);
        return;
    }
    if (h.payload) {
        chosen = take_payload(s, &h, payload, &left);
        if (!chosen)
            return;
    }
    share = h.flags & NBD_CMD_FLAG_REQ_ONE ? 1 : MAX(EXTENTS_MAX / left, EXTENTS_MIN);
    for (unsigned i = 0; left; i++) {
        if ((!chosen || chosen[i]) && !answer(s, &h, &meta->contexts[i], share, --left == 0))
            return;
    }
}
