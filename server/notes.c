/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/notes.c: what is logged of clients. The log limits how much that is. */
#include "server/nbd/nbd_internal.h"

#include <stdarg.h>

static TmLog *log_of(const NbdsSession *s)
{
    return blk_graph_log(blk_exports_graph(s->servers->exports));
}

static TmLogFacts facts_of(const NbdsSession *s, TmLogArea area, TmLogLevel level)
{
    return (TmLogFacts){ .area = area,
                         .level = level,
                         .export = s->open ? blk_export_id(s->export_) : NULL,
                         .client = s->peer,
                         .session = s->id };
}

void nbds_note_refused(NbdsSession *s, NbdsRefusal why, const char *format, ...)
{
    TmLogFacts facts =
        facts_of(s, why == NBDS_REFUSED_TLS ? TM_LOG_TLS : TM_LOG_NBD, TM_LOG_WARNING);
    g_autofree char *text = NULL;
    va_list ap;

    __atomic_add_fetch(&s->server->refused[why], 1, __ATOMIC_RELAXED);
    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    tm_log_note(log_of(s), &facts, "NBD server '%s' refused client %s%s%s: %s", s->server->id,
                s->peer, s->identity ? ", " : "", s->identity ? s->identity : "", text);
}

void nbds_note_opened(const NbdsSession *s)
{
    TmLogFacts facts = facts_of(s, TM_LOG_NBD, TM_LOG_DEBUG);

    tm_log_note(log_of(s), &facts, "session %" PRIu64 ": client %s%s%s opened export '%s'%s%s",
                s->id, s->peer, s->identity ? ", " : "", s->identity ? s->identity : "",
                facts.export, s->writable ? "" : ", read-only", s->tls ? ", with TLS" : "");
}

void nbds_note_closed(const NbdsSession *s, const char *reason)
{
    TmLogFacts facts = facts_of(s, TM_LOG_NBD, TM_LOG_DEBUG);

    tm_log_note(log_of(s), &facts, "session %" PRIu64 " of export '%s' has ended: %s", s->id,
                facts.export, reason);
}
