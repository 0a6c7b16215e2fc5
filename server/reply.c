/* server/reply.c: how replies look on the wire.
 *
 * Success without payload is a simple reply, which is allowed for everything but reads; an error is
 * a structured one with a message where that is agreed on.
 *
 * Source: the NBD specification, "Simple reply message", "Structured reply chunk message",
 * "Structured reply types", "Error values". */
#include "server/internal.h"

#include "util/endian.h"

#include <errno.h>
#include <string.h>

#define MESSAGE_MAX 120u

uint32_t nbds_error(int err, bool fast_zero)
{
    switch (err) {
    case 0:
        return 0;
    case EPERM:
    case EROFS:
        return NBD_EPERM;
    case ENOMEM:
        return NBD_ENOMEM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return NBD_ENOSPC;
    case ENOTSUP:
        return fast_zero ? NBD_ENOTSUP : NBD_EINVAL;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

static size_t simple_format(uint8_t *to, uint64_t cookie, uint32_t error)
{
    tm_put_be32(to, NBD_MAGIC_SIMPLE);
    tm_put_be32(to + 4, error);
    tm_put_be64(to + 8, cookie);
    return NBD_SIMPLE_HEAD;
}

void nbds_chunk_format(uint8_t *to, uint16_t flags, uint16_t type, uint64_t cookie, uint32_t length)
{
    tm_put_be32(to, NBD_MAGIC_STRUCTURED);
    tm_put_be16(to + 4, flags);
    tm_put_be16(to + 6, type);
    tm_put_be64(to + 8, cookie);
    tm_put_be32(to + 16, length);
}

size_t nbds_data_format(const NbdsSession *s, uint8_t *to, bool last, uint64_t cookie,
                        uint64_t offset, uint32_t length)
{
    if (!s->structured)
        return simple_format(to, cookie, 0);
    nbds_chunk_format(to, last ? NBD_REPLY_FLAG_DONE : 0, NBD_REPLY_TYPE_OFFSET_DATA, cookie,
                      length + 8);
    tm_put_be64(to + 20, offset);
    return NBD_DATA_HEAD;
}

size_t nbds_reply_format(const NbdsSession *s, uint8_t *to, uint16_t command, uint64_t cookie,
                         uint32_t error, const char *message)
{
    size_t n;

    if (!s->structured || (!error && command != NBD_CMD_READ))
        return simple_format(to, cookie, error);
    if (!error) {
        nbds_chunk_format(to, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, cookie, 0);
        return NBD_STRUCTURED_HEAD;
    }
    n = MIN(strlen(message), MESSAGE_MAX);
    nbds_chunk_format(to, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, cookie, (uint32_t)(6 + n));
    tm_put_be32(to + 20, error);
    tm_put_be16(to + 24, (uint16_t)n);
    memcpy(to + 26, message, n);
    return 26 + n;
}

void nbds_reply(NbdsSession *s, uint16_t command, uint64_t cookie, uint32_t error,
                const char *message)
{
    uint8_t reply[160];

    nbds_session_put(s, reply, nbds_reply_format(s, reply, command, cookie, error, message));
}
