/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/transmission.c: requests: parsing, checking, and handing them to the block layer.
 *
 * What is wrong with a request is answered and the session lives, its payload being thrown away;
 * only a wrong magic ends it, since then nothing that follows can be parsed, and a payload of
 * an extended request that is announced larger than any may be.
 *
 * Source: the NBD specification, "Request message", "Request types", "Command flags", "Size
 * constraints". */
#include "server/nbd/nbd_internal.h"

#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <string.h>

#define CACHE_MAX ((uint64_t)1 << 30) /* of a request to cache, what is done about it */

/* ---- commands */

static uint32_t block_flags(const NbdsSession *s, const NbdsHead *h)
{
    uint32_t flags = 0;

    if (nbds_command_writes(h->command) && ((h->flags & NBD_CMD_FLAG_FUA) || s->writethrough))
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
static void submit(NbdsSession *s, BlkOp op, const NbdsHead *h, NbdsChunk *chunk, void *buf)
{
    NbdsRequest *r = nbds_request_fill(s, op, h);
    int ret;

    r->blk.flags = block_flags(s, h);
    r->blk.buf = buf;
    r->chunk = chunk;
    ret = blk_user_submit(s->disk, &r->blk);
    if (ret != -EINPROGRESS)
        nbds_count_disk(s, h, ret, r->blk.took);
    if (ret == -EINPROGRESS)
        nbds_request_taken(s, chunk);
    else if (ret < 0)
        nbds_request_failed(s, h, ret);
    else
        nbds_reply(s, h, 0, "");
}

static void write_(NbdsSession *s, const NbdsHead *h, uint8_t *payload)
{
    NbdsChunk *copy;

    /* In place, but where the medium wants alignment that the stream does not have. */
    if (s->align < 512 || !((uintptr_t)payload & (s->align - 1))) {
        submit(s, BLK_OP_WRITE, h, s->rx, payload);
        return;
    }
    copy = nbds_chunk_get(s->servers, h->length);
    if (!copy) {
        nbds_reply(s, h, NBD_ENOMEM, "no memory for the payload");
        return;
    }
    memcpy(copy->data, payload, h->length);
    submit(s, BLK_OP_WRITE, h, copy, copy->data);
    nbds_chunk_put(s->servers, copy);
}

/* "there is no guarantee of an actual performance gain": one request does not push everything else
 * out of the page cache. */
static void cache(NbdsSession *s, const NbdsHead *request)
{
    NbdsHead h = *request;

    h.length = tm_min(h.length, CACHE_MAX);
    submit(s, BLK_OP_CACHE, &h, NULL, NULL);
}

/* The command's flags; FUA is "valid for all commands". -1: no such command. */
static int flags_allowed(const NbdsSession *s, uint16_t command)
{
    unsigned payload = s->extended ? NBD_CMD_FLAG_PAYLOAD_LEN : 0;

    switch (command) {
    case NBD_CMD_READ:
        return NBD_CMD_FLAG_FUA | (s->structured ? NBD_CMD_FLAG_DF : 0);
    case NBD_CMD_WRITE:
        return (int)(NBD_CMD_FLAG_FUA | payload);
    case NBD_CMD_FLUSH:
    case NBD_CMD_TRIM:
    case NBD_CMD_CACHE:
        return NBD_CMD_FLAG_FUA;
    case NBD_CMD_DISC:
        return 0xffff; /* "There is no reply", so none with an error either */
    case NBD_CMD_WRITE_ZEROES:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    case NBD_CMD_BLOCK_STATUS:
        if (s->status_2016)
            return NBD_CMD_FLAG_FUA | s->dirty_flag_2016;
        return (int)(NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE | (s->meta.count ? payload : 0));
    default:
        return -1;
    }
}

/* With a payload, the range is in there: nbds_block_status() checks it. */
static uint32_t check_status(const NbdsSession *s, const NbdsHead *h, const char **why)
{
    *why = "no metadata context was selected";
    if (!s->meta.count && !s->status_2016)
        return NBD_EINVAL;
    *why = "no dirty bitmap is offered";
    if (h->flags & s->dirty_flag_2016 && !s->bitmap_2016)
        return NBD_EINVAL;
    *why = "the payload is not a length followed by IDs of selected contexts";
    if (h->payload)
        return h->payload < 12 || h->payload % 4 || h->payload > 8 + 4ull * s->meta.count
                   ? NBD_EINVAL
                   : 0;
    *why = "the length is 0";
    if (!h->length)
        return NBD_EINVAL;
    *why = "the range is not within the export";
    return tm_range_within(h->offset, h->length, s->size) ? 0 : NBD_EINVAL;
}

/* 0, or the error and why. */
static uint32_t check(const NbdsSession *s, const NbdsHead *h, const char **why)
{
    int allowed = flags_allowed(s, h->command);

    *why = "unknown command";
    if (allowed < 0)
        return NBD_EINVAL;
    *why = "the request has a flag that this command does not take";
    if (h->flags & ~allowed)
        return NBD_EINVAL;
    if (h->command == NBD_CMD_DISC)
        return 0;
    if (h->command == NBD_CMD_BLOCK_STATUS)
        return check_status(s, h, why);
    *why = "the offset and the length of a flush must be 0";
    if (h->command == NBD_CMD_FLUSH)
        return h->offset || h->length ? NBD_EINVAL : 0;
    *why = "the export is read-only";
    if (nbds_command_writes(h->command) && !s->writable &&
        !(h->command == NBD_CMD_TRIM && blk_export_releases(s->export_)))
        return NBD_EPERM;
    *why = "the range is not within the export";
    if (!tm_range_within(h->offset, h->length, s->size))
        return h->command == NBD_CMD_WRITE || h->command == NBD_CMD_WRITE_ZEROES ? NBD_ENOSPC
                                                                                 : NBD_EINVAL;
    *why = "the length exceeds the maximum payload of the server";
    if (h->length > s->payload_max && h->command == NBD_CMD_READ)
        return s->structured ? NBD_EOVERFLOW : NBD_EINVAL;
    if (h->length > s->payload_max && h->command == NBD_CMD_WRITE)
        return NBD_EINVAL;
    return 0;
}

static void execute(NbdsSession *s, const NbdsHead *h, uint8_t *payload)
{
    TM_TRACE(request_begin, s->id, h->cookie, blk_export_id(s->export_),
             nbds_command_name(h->command), h->offset, h->length);
    nbds_count(&s->requests[h->command], 1);
    nbds_count(&s->bytes[h->command], h->length);
    switch (h->command) {
    case NBD_CMD_READ:
        nbds_read(s, h);
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
        cache(s, h);
        break;
    case NBD_CMD_WRITE_ZEROES:
        submit(s, BLK_OP_WRITE_ZEROES, h, NULL, NULL);
        break;
    case NBD_CMD_BLOCK_STATUS:
        nbds_block_status(s, h, payload);
        break;
    }
}

/* ---- the stream */

static void parse(const NbdsSession *s, const uint8_t *at, NbdsHead *h)
{
    h->flags = tm_get_be16(at + 4);
    h->command = tm_get_be16(at + 6);
    h->cookie = tm_get_be64(at + 8);
    h->offset = tm_get_be64(at + 16);
    h->length = s->extended ? tm_get_be64(at + 24) : tm_get_be32(at + 24);
    /* With extended headers a flag is to say that there is a payload; QEMU 10's client leaves it
     * out, and its server does without. */
    if (h->command == NBD_CMD_WRITE || (s->extended && h->flags & NBD_CMD_FLAG_PAYLOAD_LEN))
        h->payload = h->length;
    else
        h->payload = 0;
}

/* Answers at once, or after the payload has passed by: a client that is still sending it may not
 * expect an answer. */
static void refuse(NbdsSession *s, const NbdsHead *h, uint32_t error, const char *why)
{
    s->skip = h->payload;
    s->skipped.head = *h;
    s->skipped.error = error;
    s->skipped.message = why;
}

static void refused(NbdsSession *s)
{
    nbds_reply(s, &s->skipped.head, s->skipped.error, s->skipped.message);
    s->skipped.error = 0;
}

/* Whether the batch has room for the reply; sends it if not. */
static bool make_room(NbdsSession *s, const NbdsHead *h)
{
    size_t room = 256;

    if (h->command == NBD_CMD_READ && h->length <= NBDS_CHUNK / 2)
        room += h->length + s->align;
    return nbds_batch_has_room(s->batch, room) || nbds_session_flush(s);
}

static bool skip(NbdsSession *s)
{
    size_t n = MIN(s->skip, nbds_session_available(s));

    s->begin += n;
    s->skip -= n;
    return s->skip == 0;
}

/* "A server SHOULD initiate hard disconnect if a client [...] uses a length larger than" the
 * maximum payload; without extended headers, such payloads pass by. */
static bool denial(const NbdsSession *s, const NbdsHead *h)
{
    return s->extended && h->payload > s->payload_max;
}

NbdsVerdict nbds_transmission_input(NbdsSession *s)
{
    const size_t head = s->request_head;

    for (;;) {
        const uint8_t *at = nbds_session_bytes(s);
        uint32_t error;
        const char *why;
        NbdsHead h;

        if (s->status && nbds_status_waits(s))
            return NBDS_WORK;
        if (s->status && (!nbds_status_run(s) || !s->batch))
            return NBDS_PAUSE;
        if (s->skipped.error) {
            if (!skip(s))
                return NBDS_MORE;
            refused(s);
            continue;
        }
        s->need = head;
        if (nbds_session_available(s) < head)
            return NBDS_MORE;
        if (tm_get_be32(at) != s->request_magic)
            return NBDS_CUT;
        parse(s, at, &h);
        if (nbds_session_over(s) || !make_room(s, &h))
            return NBDS_PAUSE;
        error = check(s, &h, &why);
        if (error) {
            if (denial(s, &h))
                return NBDS_CUT;
            s->begin += head;
            refuse(s, &h, error, why);
            continue;
        }
        if (h.command == NBD_CMD_DISC)
            return NBDS_END;
        if (h.payload) {
            s->need = head + h.payload;
            s->large = h.payload > NBDS_CHUNK / 4;
            if (nbds_session_available(s) < s->need)
                return NBDS_MORE;
        }
        s->begin += head + h.payload;
        execute(s, &h, (uint8_t *)at + head);
        if (!s->batch)
            return NBDS_PAUSE;
    }
}
