/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/option.c: what the options of the handshake have in common: their replies, their
 * strings, the exports that they name. */
#include "server/nbd/nbd_internal.h"

#include "util/endian.h"

#include <stdarg.h>
#include <string.h>

void nbds_option_reply(NbdsSession *s, uint32_t option, uint32_t type, const void *data,
                       size_t length)
{
    uint8_t head[NBD_OPTION_REPLY];

    tm_put_be64(head, NBD_MAGIC_REPLY);
    tm_put_be32(head + 8, option);
    tm_put_be32(head + 12, type);
    tm_put_be32(head + 16, (uint32_t)length);
    nbds_session_put(s, head, sizeof(head));
    nbds_session_put(s, data, length);
}

void nbds_option_error(NbdsSession *s, uint32_t option, uint32_t type, const char *format, ...)
{
    char message[256];
    const char *end;
    va_list args;

    va_start(args, format);
    g_vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    g_utf8_validate(message, -1, &end); /* it may have been cut within a character */
    /* Clients try what servers may not know. */
    if (type != NBD_REP_ERR_UNSUP)
        nbds_note_refused(s,
                          type == NBD_REP_ERR_UNKNOWN ? NBDS_REFUSED_EXPORT : NBDS_REFUSED_OPTION,
                          "%.*s", (int)(end - message), message);
    nbds_option_reply(s, option, type, message, (size_t)(end - message));
}

char *nbds_option_string(const uint8_t *data, uint32_t length)
{
    return length <= NBD_STRING_MAX && g_utf8_validate((const char *)data, length, NULL) &&
                   !memchr(data, 0, length)
               ? g_strndup((const char *)data, length)
               : NULL;
}

/* Why a client may not open @x, for its error. Who may not see it either learns nothing. */
static void refuse(NbdsSession *s, uint32_t option, const BlkExport *x, const char *name)
{
    if (!x || (!blk_export_allows(x, BLK_LIST, s->identity) && (s->tls || !s->server->tls)))
        nbds_option_error(s, option, NBD_REP_ERR_UNKNOWN, "export '%s' not present", name);
    else if (!s->tls && s->server->tls)
        nbds_option_error(s, option, NBD_REP_ERR_TLS_REQD, "export '%s' needs TLS", name);
    else
        nbds_option_error(s, option, NBD_REP_ERR_POLICY, "you are not allowed to open export '%s'",
                          name);
}

BlkExport *nbds_lookup(NbdsSession *s, uint32_t option, const char *name)
{
    BlkExport *x = blk_exports_lookup(s->servers->exports, "nbd", s->server->id, name);

    if (x && blk_export_allows(x, BLK_OPEN, s->identity))
        return x;
    if (option != NBD_OPT_EXPORT_NAME) /* which has no error reply */
        refuse(s, option, x, name);
    else
        nbds_note_refused(s, NBDS_REFUSED_EXPORT, "export '%.256s' is not present, or not allowed",
                          name);
    blk_export_unref(x);
    return NULL;
}
