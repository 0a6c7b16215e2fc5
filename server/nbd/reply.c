/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/reply.c: how replies look on the wire.
 *
 * Success without payload is a simple reply, which with structured replies is allowed for
 * everything but reads, and with extended headers for nothing; an error is a chunk with a message
 * where chunks are agreed on.
 *
 * Source: the NBD specification, "Simple reply message", "Structured reply chunk message",
 * "Extended reply chunk message", "Structured reply types". */
#include "server/nbd/nbd_internal.h"

#include "util/endian.h"

#include <string.h>

#define MESSAGE_MAX 120u

static size_t simple_format(uint8_t *to, const NbdsHead *h, uint32_t error)
{
    tm_put_be32(to, NBD_MAGIC_SIMPLE);
    tm_put_be32(to + 4, error);
    tm_put_be64(to + 8, h->cookie);
    return NBD_SIMPLE_HEAD;
}

void nbds_chunk_format(const NbdsSession *s, uint8_t *to, uint16_t flags, uint16_t type,
                       const NbdsHead *h, uint32_t length)
{
    tm_put_be16(to + 4, flags);
    tm_put_be16(to + 6, type);
    tm_put_be64(to + 8, h->cookie);
    if (s->extended) {
        tm_put_be32(to, NBD_MAGIC_EXTENDED_REPLY);
        tm_put_be64(to + 16, h->offset);
        tm_put_be64(to + 24, length);
    } else {
        tm_put_be32(to, NBD_MAGIC_STRUCTURED);
        tm_put_be32(to + 16, length);
    }
}

void nbds_data_format(const NbdsSession *s, uint8_t *to, bool last, const NbdsHead *h,
                      uint64_t offset, uint32_t length)
{
    if (!s->structured) {
        simple_format(to, h, 0);
        return;
    }
    nbds_chunk_format(s, to, last ? NBD_REPLY_FLAG_DONE : 0, NBD_REPLY_TYPE_OFFSET_DATA, h,
                      length + 8);
    tm_put_be64(to + s->reply_head, offset);
}

/* The beginning that all error chunks have; @more: bytes after the message. Returns where they
 * go. */
static uint8_t *error_format(const NbdsSession *s, uint8_t *to, bool last, uint16_t type,
                             const NbdsHead *h, uint32_t error, const char *message, uint32_t more)
{
    size_t n = MIN(strlen(message), MESSAGE_MAX);
    uint8_t *at = to + s->reply_head;

    nbds_chunk_format(s, to, last ? NBD_REPLY_FLAG_DONE : 0, type, h, (uint32_t)(6 + n + more));
    tm_put_be32(at, error);
    tm_put_be16(at + 4, (uint16_t)n);
    memcpy(at + 6, message, n);
    return at + 6 + n;
}

size_t nbds_error_offset_format(const NbdsSession *s, uint8_t *to, bool last, const NbdsHead *h,
                                uint64_t offset, uint32_t error, const char *message)
{
    uint8_t *at = error_format(s, to, last, NBD_REPLY_TYPE_ERROR_OFFSET, h, error, message, 8);

    tm_put_be64(at, offset);
    return (size_t)(at - to) + 8;
}

size_t nbds_reply_format(const NbdsSession *s, uint8_t *to, const NbdsHead *h, uint32_t error,
                         const char *message)
{
    if (!s->structured || (!error && !s->extended && h->command != NBD_CMD_READ))
        return simple_format(to, h, error);
    if (!error) {
        nbds_chunk_format(s, to, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, h, 0);
        return s->reply_head;
    }
    return (size_t)(error_format(s, to, true, NBD_REPLY_TYPE_ERROR, h, error, message, 0) - to);
}

void nbds_reply(NbdsSession *s, const NbdsHead *h, uint32_t error, const char *message)
{
    uint8_t reply[NBDS_REPLY_MAX];

    NBDS_TRACE_END(s, h, error);
    nbds_count_error(s, error);
    nbds_session_put(s, reply, nbds_reply_format(s, reply, h, error, message));
}
