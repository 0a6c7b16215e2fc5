/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/notes.c: lines for the log. Clients must not fill it: there are so many lines a second
 * (NBDS_NOTES_MAX), and one for those that are left out. */
#include "server/nbd/nbd_internal.h"

#include <stdarg.h>

void nbds_note_refused(NbdsSession *s, const char *format, ...)
{
    g_autofree char *why = NULL;
    va_list ap;

    if (__atomic_fetch_sub(&s->servers->notes_left, 1, __ATOMIC_RELAXED) <= 0)
        return;
    va_start(ap, format);
    why = g_strdup_vprintf(format, ap);
    va_end(ap);
    blk_graph_log(blk_exports_graph(s->servers->exports),
                  "NBD server '%s' refused client %s%s%s: %s", s->server->id, s->peer,
                  s->identity ? ", " : "", s->identity ? s->identity : "", why);
}

void nbds_note_second(NbdsServers *servers)
{
    int left = __atomic_exchange_n(&servers->notes_left, NBDS_NOTES_MAX, __ATOMIC_RELAXED);

    if (left < 0)
        blk_graph_log(blk_exports_graph(servers->exports),
                      "NBD servers refused clients %d more times in one second", -left);
}
