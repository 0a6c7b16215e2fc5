/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/handshake.c: fixed newstyle negotiation up to the options' data.
 *
 * A state machine over what has been received: each step needs a whole header, or an option with
 * all of its data, and otherwise says how much more it waits for. Data too large to be parsed
 * are skipped as they come.
 *
 * Source: the NBD specification, "Newstyle negotiation" and "Fixed newstyle negotiation". */
#include "server/nbd/nbd_internal.h"

#include "util/endian.h"

void nbds_handshake_greet(NbdsSession *s)
{
    uint8_t hello[18];

    tm_put_be64(hello, NBD_MAGIC_INIT);
    tm_put_be64(hello + 8, NBD_MAGIC_OPTION);
    tm_put_be16(hello + 16, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
    nbds_session_put(s, hello, sizeof(hello));
    s->options = 1;
}

/* "Client flags": unknown ones end the session. */
static NbdsVerdict client_flags(NbdsSession *s)
{
    uint32_t flags;

    if (nbds_session_available(s) < 4) {
        s->need = 4;
        return NBDS_MORE;
    }
    flags = tm_get_be32(nbds_session_bytes(s));
    s->begin += 4;
    if (flags & ~(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES))
        return NBDS_CUT;
    s->fixed = flags & NBD_FIXED_NEWSTYLE;
    s->no_zeroes = flags & NBD_NO_ZEROES;
    s->phase = NBDS_OPTIONS;
    return NBDS_MORE;
}

/* The data of an option that is unknown, too large or not allowed yet pass by; then comes the
 * error. */
static NbdsVerdict skip_option(NbdsSession *s, uint32_t option, uint32_t length)
{
    if (option == NBD_OPT_EXPORT_NAME)
        return NBDS_CUT; /* it has no error reply */
    s->skipped.option = option;
    s->skip_kind = nbds_option_needs_tls(s, option) ? NBD_REP_ERR_TLS_REQD
                   : nbds_option_known(option)      ? NBD_REP_ERR_TOO_BIG
                                                    : NBD_REP_ERR_UNSUP;
    s->begin += NBD_OPTION_HEAD;
    s->skip = length;
    return NBDS_MORE;
}

static void skipped(NbdsSession *s)
{
    uint32_t option = s->skipped.option, kind = s->skip_kind;

    s->skip_kind = 0;
    if (kind == NBD_REP_ERR_TOO_BIG)
        nbds_option_error(s, option, kind,
                          "option %u: more than %" G_GUINT64_FORMAT " bytes of data", option,
                          nbds_limits(s->server)->option_size);
    else if (kind == NBD_REP_ERR_TLS_REQD)
        nbds_option_error(s, option, kind, "option %u needs TLS first (STARTTLS)", option);
    else
        nbds_option_error(s, option, kind, "option %u is not supported", option);
}

static NbdsVerdict next_option(NbdsSession *s)
{
    const uint8_t *head = nbds_session_bytes(s);
    uint32_t option, length;

    s->need = NBD_OPTION_HEAD;
    if (nbds_session_available(s) < NBD_OPTION_HEAD)
        return NBDS_MORE;
    option = tm_get_be32(head + 8);
    length = tm_get_be32(head + 12);
    if (tm_get_be64(head) != NBD_MAGIC_OPTION || (!s->fixed && option != NBD_OPT_EXPORT_NAME) ||
        s->options > nbds_limits(s->server)->option_count)
        return NBDS_CUT;
    if (!nbds_option_known(option) || length > nbds_limits(s->server)->option_size ||
        nbds_option_needs_tls(s, option)) {
        s->options++;
        return skip_option(s, option, length);
    }
    s->need = NBD_OPTION_HEAD + length;
    if (nbds_session_available(s) < s->need)
        return NBDS_MORE;
    s->options++;
    s->begin += s->need;
    return nbds_option_run(s, option, head + NBD_OPTION_HEAD, length);
}

NbdsVerdict nbds_handshake_input(NbdsSession *s)
{
    NbdsVerdict verdict = NBDS_MORE;

    if (s->phase == NBDS_FLAGS)
        verdict = client_flags(s);
    while (verdict == NBDS_MORE && s->phase == NBDS_OPTIONS) {
        size_t before = s->begin;

        if (s->skip) {
            size_t n = MIN(s->skip, nbds_session_available(s));

            s->begin += n;
            s->skip -= n;
            if (s->skip)
                return NBDS_MORE;
        }
        if (s->skip_kind) {
            skipped(s);
        } else {
            verdict = next_option(s);
            if (s->begin == before)
                return verdict;
        }
        /* Replies may be large: they go before more is asked. */
        if (verdict == NBDS_MORE && !nbds_session_flush(s))
            return NBDS_PAUSE;
    }
    return verdict;
}
