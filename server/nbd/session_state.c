/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/session_state.c: what every file asks of a session: how long it lives, that it is cut
 * off, that it is to pause. */
#include "server/nbd/nbd_internal.h"

#include <sys/socket.h>

void nbds_session_unref(NbdsSession *s, int n)
{
    if (__atomic_sub_fetch(&s->refs, n, __ATOMIC_ACQ_REL) == 0)
        s->free(s);
}

void nbds_session_note(NbdsSession *s, NbdsReason reason)
{
    int none = NBDS_REASON_CLOSED;

    __atomic_compare_exchange_n(&s->reason, &none, reason, false, __ATOMIC_RELAXED,
                                __ATOMIC_RELAXED);
}

void nbds_session_cut(NbdsSession *s, NbdsReason reason)
{
    nbds_session_note(s, reason);
    __atomic_store_n(&s->dead, true, __ATOMIC_RELEASE);
    shutdown(s->source.fd, SHUT_RDWR);
}

/* With no more under way than one request (two references are the reader's, one may be the
 * sender's) another one is always taken: whoever pauses is woken by a reply of its own. */
static bool limits_over(const NbdsSession *s, int64_t held)
{
    const BlkServerLimits *l = nbds_limits(s->server);

    return __atomic_load_n(&s->refs, __ATOMIC_RELAXED) > 3 &&
           ((l->bytes_in_flight && held > (int64_t)l->bytes_in_flight) ||
            (l->bytes_in_flight_total && __atomic_load_n(&s->server->held, __ATOMIC_RELAXED) >
                                             (int64_t)l->bytes_in_flight_total));
}

bool nbds_session_over(NbdsSession *s)
{
    int64_t held = __atomic_load_n(&s->held, __ATOMIC_RELAXED);

    return __atomic_load_n(&s->blocked, __ATOMIC_RELAXED) ||
           __atomic_load_n(&s->refs, __ATOMIC_RELAXED) > (int)NBDS_REQUESTS_MAX ||
           (held && limits_over(s, held));
}
