/* server/status.c: NBD_CMD_BLOCK_STATUS: extents of every context that was selected.
 *
 * The extents are written straight into the batch, equal neighbours merged, cut at the end of the
 * range asked for. A reply is bounded: the contexts of a request share EXTENTS_MAX, and each has at
 * least EXTENTS_MIN, so that an answer may be shorter than the range.
 *
 * Source: the NBD specification, NBD_CMD_BLOCK_STATUS and NBD_REPLY_TYPE_BLOCK_STATUS. */
#include "server/internal.h"

#include "util/endian.h"
#include "util/range.h"

#define EXTENTS_MAX (128u << 10)
#define EXTENTS_MIN 16u
#define ASK         512u /* extents asked of the block layer at a time */
#define CHUNK_HEAD  (NBD_STRUCTURED_HEAD + 4u)

/* One context's extents being written: one more than max is never there. */
typedef struct Writer {
    uint8_t *to;
    size_t max, n;
    uint32_t length, flags; /* of the last one, not written yet; length 0: none */
} Writer;

static bool writer_put(Writer *w)
{
    if (!w->length)
        return true;
    tm_put_be32(w->to + 8 * w->n, w->length);
    tm_put_be32(w->to + 8 * w->n + 4, w->flags);
    w->n++;
    w->length = 0;
    return w->n < w->max;
}

/* false: full. */
static bool writer_add(Writer *w, uint64_t length, uint32_t flags)
{
    if (w->length && w->flags != flags && !writer_put(w))
        return false;
    w->length += (uint32_t)length; /* within the request's 32 bits */
    w->flags = flags;
    return true;
}

static int ask(NbdsSession *s, const NbdsContext *c, uint64_t offset, uint64_t length, TmExtents *x,
               uint64_t *described)
{
    if (!c->bitmap)
        return c->depth ? blk_node_depth(s->node, offset, length, x, described)
                        : blk_node_status(s->node, offset, length, x, described);
    *described = bmp_bitmap_extents(c->bitmap, offset, length, x);
    return *described ? 0 : -EIO;
}

/* Fills @w; 0 or -errno. */
static int collect(NbdsSession *s, const NbdsContext *c, uint64_t offset, uint64_t length,
                   Writer *w)
{
    TmExtent list[ASK];

    while (length) {
        TmExtents x = { .list = list, .max = MIN(ASK, w->max - w->n + 1) };
        uint64_t described = 0;
        int ret = ask(s, c, offset, length, &x, &described);

        if (ret < 0)
            return ret;
        for (size_t i = 0; i < x.count; i++) {
            if (!writer_add(w, list[i].length, (uint32_t)list[i].flags))
                return 0;
        }
        offset += described;
        length -= described;
    }
    writer_put(w);
    return 0;
}

void nbds_block_status(NbdsSession *s, uint64_t cookie, uint16_t flags, uint64_t offset,
                       uint32_t length)
{
    const NbdsMeta *meta = &s->meta;
    bool one = flags & NBD_CMD_FLAG_REQ_ONE;
    size_t share = one ? 1 : MAX(EXTENTS_MAX / meta->count, EXTENTS_MIN);

    for (unsigned i = 0; i < meta->count; i++) {
        const NbdsContext *c = &meta->contexts[i];
        bool last = i == meta->count - 1;
        size_t room;
        uint8_t *to;
        Writer w;
        int ret;

        if (!nbds_batch_has_room(s->batch, CHUNK_HEAD + 8 * MIN(share, NBDS_CHUNK / 32)))
            nbds_session_flush(s);
        if (!s->batch)
            return;
        to = s->batch->chunk->data + s->batch->used;
        room = (s->batch->chunk->cap - s->batch->used - CHUNK_HEAD) / 8;
        w = (Writer){ .to = to + CHUNK_HEAD, .max = MIN(share, room) };
        ret = collect(s, c, offset, length, &w);
        if (ret < 0) {
            nbds_request_failed(s, NBD_CMD_BLOCK_STATUS, flags, cookie, ret);
            return;
        }
        nbds_chunk_format(to, last ? NBD_REPLY_FLAG_DONE : 0, NBD_REPLY_TYPE_BLOCK_STATUS, cookie,
                          (uint32_t)(4 + 8 * w.n));
        tm_put_be32(to + NBD_STRUCTURED_HEAD, c->id);
        nbds_batch_add(s->batch, to, CHUNK_HEAD + 8 * w.n);
    }
}
