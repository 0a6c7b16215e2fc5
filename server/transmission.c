/* server/transmission.c: requests: parsing, checking, and handing them to the block layer.
 *
 * What is wrong with a request is answered and the session lives, a write's payload being thrown
 * away; only a wrong magic ends it, since then nothing that follows can be told apart.
 *
 * A request object is prepared before each submission because a request may complete, on another
 * thread, before blk_submit() returns. One that completes inline leaves the object for the next.
 *
 * Source: the NBD specification, "Request message", "Request types", "Command flags". */
#include "server/internal.h"

#include "util/endian.h"
#include "util/range.h"

#include <errno.h>
#include <string.h>

typedef struct Head {
    uint16_t flags, command;
    uint64_t cookie, offset;
    uint32_t length;
} Head;

/* ---- request objects */

static void request_release(NbdsSession *s, NbdsOut *out)
{
    NbdsRequest *r = (NbdsRequest *)out;

    if (r->chunk)
        nbds_chunk_unref(s->server, r->chunk);
    nbds_sparse_free(r->sparse);
    g_free(r);
    nbds_session_unref(s, 1);
}

static NbdsRequest *prepare(NbdsSession *s)
{
    NbdsRequest *r = s->request;

    if (!r) {
        r = s->request = g_new0(NbdsRequest, 1);
        r->session = s;
        r->out.release = request_release;
    }
    r->chunk = NULL;
    return r;
}

void nbds_request_taken(NbdsSession *s, NbdsChunk *chunk)
{
    s->request = NULL;
    __atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED); /* the request has the spare one */
    if (chunk)
        nbds_chunk_lent(chunk, s);
}

static bool writes(uint16_t command)
{
    return command == NBD_CMD_WRITE || command == NBD_CMD_TRIM || command == NBD_CMD_WRITE_ZEROES;
}

/* What the block layer failed with, as the client is told; and the management. */
static uint32_t failure(NbdsSession *s, uint16_t command, uint16_t flags, int err)
{
    bool fast = flags & NBD_CMD_FLAG_FAST_ZERO;

    if (!(err == ENOTSUP && fast))
        blk_export_io_error(s->export_, writes(command), err);
    return nbds_error(err, fast);
}

void nbds_request_done(NbdsRequest *r, int result)
{
    NbdsSession *s = r->session;

    if (!result && r->sparse) {
        nbds_sparse_format(r);
    } else if (!result && r->command == NBD_CMD_READ) {
        r->iov[0].iov_len = nbds_data_format(s, r->head, true, r->cookie, r->offset, r->length);
        r->iov[1] = (struct iovec){ r->data, r->length };
        r->out.n = 2;
    } else {
        uint32_t error = result ? failure(s, r->command, r->flags, -result) : 0;

        r->iov[0].iov_len = nbds_reply_format(s, r->head, r->command, r->cookie, error,
                                              error ? g_strerror(-result) : "");
        r->out.n = 1;
    }
    if (!r->out.iov) {
        r->iov[0].iov_base = r->head;
        r->out.iov = r->iov;
    }
    nbds_out_push(s, &r->out);
}

static void blk_done(BlkRequest *blk, int result)
{
    nbds_request_done((NbdsRequest *)((char *)blk - offsetof(NbdsRequest, blk)), result);
}

NbdsRequest *nbds_request_fill(NbdsSession *s, BlkOp op, uint16_t command, uint64_t cookie,
                               uint16_t flags, uint64_t offset, uint32_t length)
{
    NbdsRequest *r = prepare(s);

    r->command = command;
    r->flags = flags;
    r->cookie = cookie;
    r->offset = offset;
    r->length = length;
    r->blk.op = op;
    r->blk.flags = 0;
    r->blk.offset = offset;
    r->blk.length = length;
    r->blk.done = blk_done;
    return r;
}

void nbds_request_failed(NbdsSession *s, uint16_t command, uint16_t flags, uint64_t cookie,
                         int result)
{
    nbds_reply(s, command, cookie, failure(s, command, flags, -result), g_strerror(-result));
}

/* ---- commands */

static uint32_t block_flags(const NbdsSession *s, const Head *h)
{
    uint32_t flags = 0;

    if (writes(h->command) && ((h->flags & NBD_CMD_FLAG_FUA) || s->writethrough))
        flags |= TIDEMARK_FUA;
    if (h->command == NBD_CMD_WRITE_ZEROES) {
        if (!(h->flags & NBD_CMD_FLAG_NO_HOLE))
            flags |= TIDEMARK_MAY_UNMAP;
        if (h->flags & NBD_CMD_FLAG_FAST_ZERO)
            flags |= TIDEMARK_FAST_ZERO;
    }
    return flags;
}

/* @chunk: where the payload at @buf is, owned by the caller. */
static void submit(NbdsSession *s, BlkOp op, const Head *h, NbdsChunk *chunk, void *buf)
{
    NbdsRequest *r =
        nbds_request_fill(s, op, h->command, h->cookie, h->flags, h->offset, h->length);
    int ret;

    r->blk.flags = block_flags(s, h);
    r->blk.buf = buf;
    r->chunk = chunk;
    ret = blk_submit(s->node, &r->blk);
    if (ret == -EINPROGRESS)
        nbds_request_taken(s, chunk);
    else if (ret < 0)
        nbds_request_failed(s, h->command, h->flags, h->cookie, ret);
    else
        nbds_reply(s, h->command, h->cookie, 0, "");
}

static void write_(NbdsSession *s, const Head *h, uint8_t *payload)
{
    NbdsChunk *copy;

    /* In place, but where the medium wants alignment that the stream does not have. */
    if (s->align < 512 || !((uintptr_t)payload & (s->align - 1))) {
        submit(s, BLK_OP_WRITE, h, s->rx, payload);
        return;
    }
    copy = nbds_chunk_get(s->server, h->length);
    if (!copy) {
        nbds_reply(s, h->command, h->cookie, NBD_ENOMEM, "no memory for the payload");
        return;
    }
    memcpy(copy->data, payload, h->length);
    submit(s, BLK_OP_WRITE, h, copy, copy->data);
    nbds_chunk_put(s->server, copy);
}

/* The command's flags; FUA is "valid for all commands". -1: no such command. */
static int flags_allowed(const NbdsSession *s, uint16_t command)
{
    switch (command) {
    case NBD_CMD_READ:
        return NBD_CMD_FLAG_FUA | (s->structured ? NBD_CMD_FLAG_DF : 0);
    case NBD_CMD_WRITE:
    case NBD_CMD_FLUSH:
    case NBD_CMD_TRIM:
    case NBD_CMD_CACHE:
    case NBD_CMD_DISC:
        return NBD_CMD_FLAG_FUA;
    case NBD_CMD_WRITE_ZEROES:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    case NBD_CMD_BLOCK_STATUS:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE;
    default:
        return -1;
    }
}

/* 0, or the error and why. */
static uint32_t check(const NbdsSession *s, const Head *h, const char **why)
{
    int allowed = flags_allowed(s, h->command);

    *why = "unknown command";
    if (allowed < 0)
        return NBD_EINVAL;
    *why = "a flag that this command does not take";
    if (h->flags & ~allowed)
        return NBD_EINVAL;
    if (h->command == NBD_CMD_FLUSH || h->command == NBD_CMD_DISC)
        return 0;
    *why = "the export is read-only";
    if (writes(h->command) && !s->writable)
        return NBD_EPERM;
    *why = "the range is not within the export";
    if (!tm_range_within(h->offset, h->length, s->size))
        return h->command == NBD_CMD_WRITE || h->command == NBD_CMD_WRITE_ZEROES ? NBD_ENOSPC
                                                                                 : NBD_EINVAL;
    *why = "more than 32 MiB in one request";
    if (h->length > NBD_PAYLOAD_MAX && h->command == NBD_CMD_READ)
        return s->structured ? NBD_EOVERFLOW : NBD_EINVAL;
    if (h->length > NBD_PAYLOAD_MAX && h->command == NBD_CMD_WRITE)
        return NBD_EINVAL;
    *why = "no metadata context was selected";
    if (h->command == NBD_CMD_BLOCK_STATUS && !s->meta.count)
        return NBD_EINVAL;
    *why = "the length is 0";
    if (h->command == NBD_CMD_BLOCK_STATUS && !h->length)
        return NBD_EINVAL;
    return 0;
}

static void execute(NbdsSession *s, const Head *h, uint8_t *payload)
{
    switch (h->command) {
    case NBD_CMD_READ:
        nbds_read(s, h->cookie, h->flags, h->offset, h->length);
        break;
    case NBD_CMD_WRITE:
        write_(s, h, payload);
        break;
    case NBD_CMD_FLUSH:
        submit(s, BLK_OP_FLUSH, h, NULL, NULL);
        break;
    case NBD_CMD_TRIM:
        submit(s, BLK_OP_DISCARD, h, NULL, NULL);
        break;
    case NBD_CMD_CACHE:
        submit(s, BLK_OP_CACHE, h, NULL, NULL);
        break;
    case NBD_CMD_WRITE_ZEROES:
        submit(s, BLK_OP_WRITE_ZEROES, h, NULL, NULL);
        break;
    case NBD_CMD_BLOCK_STATUS:
        nbds_block_status(s, h->cookie, h->flags, h->offset, h->length);
        break;
    }
}

/* ---- the stream */

static void parse(const uint8_t *at, Head *h)
{
    h->flags = tm_get_be16(at + 4);
    h->command = tm_get_be16(at + 6);
    h->cookie = tm_get_be64(at + 8);
    h->offset = tm_get_be64(at + 16);
    h->length = tm_get_be32(at + 24);
}

/* Answers at once, or after the payload has passed by: a client that is still sending it may not
 * expect an answer. */
static void refuse(NbdsSession *s, const Head *h, uint32_t error, const char *why)
{
    s->skip = h->command == NBD_CMD_WRITE ? h->length : 0;
    s->skipped.command = h->command;
    s->skipped.cookie = h->cookie;
    s->skipped.error = error;
    s->skipped.message = why;
}

static void refused(NbdsSession *s)
{
    nbds_reply(s, (uint16_t)s->skipped.command, s->skipped.cookie, s->skipped.error,
               s->skipped.message);
    s->skipped.error = 0;
}

/* Whether the batch has room for the reply; sends it if not. */
static bool make_room(NbdsSession *s, const Head *h)
{
    size_t room = 256;

    if (h->command == NBD_CMD_READ && h->length <= NBDS_CHUNK / 2)
        room += h->length + s->align;
    else if (h->command == NBD_CMD_BLOCK_STATUS)
        room = NBDS_CHUNK / 2;
    return nbds_batch_has_room(s->batch, room) || nbds_session_flush(s);
}

static bool skip(NbdsSession *s)
{
    size_t n = MIN(s->skip, nbds_session_available(s));

    s->begin += n;
    s->skip -= n;
    return s->skip == 0;
}

NbdsVerdict nbds_transmission_input(NbdsSession *s)
{
    for (;;) {
        const uint8_t *at = nbds_session_bytes(s);
        uint32_t error;
        const char *why;
        size_t whole = NBD_REQUEST_HEAD;
        Head h;

        if (s->skipped.error) {
            if (!skip(s))
                return NBDS_MORE;
            refused(s);
            continue;
        }
        s->need = NBD_REQUEST_HEAD;
        if (nbds_session_available(s) < NBD_REQUEST_HEAD)
            return NBDS_MORE;
        if (tm_get_be32(at) != NBD_MAGIC_REQUEST)
            return NBDS_CUT;
        parse(at, &h);
        if (nbds_session_over(s) || !make_room(s, &h))
            return NBDS_PAUSE;
        error = check(s, &h, &why);
        if (error) {
            s->begin += NBD_REQUEST_HEAD;
            refuse(s, &h, error, why);
            continue;
        }
        if (h.command == NBD_CMD_DISC)
            return NBDS_END;
        if (h.command == NBD_CMD_WRITE) {
            whole += h.length;
            s->need = whole;
            s->large = h.length > NBDS_CHUNK / 4;
            if (nbds_session_available(s) < whole)
                return NBDS_MORE;
        }
        s->begin += whole;
        execute(s, &h, (uint8_t *)at + NBD_REQUEST_HEAD);
        if (!s->batch)
            return NBDS_PAUSE;
    }
}
