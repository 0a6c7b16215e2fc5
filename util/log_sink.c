/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/log_sink.c: a message as a line on standard error, or as an entry of systemd's journal.
 *
 * An entry is one datagram of lines "FIELD=value" (systemd's "Journal Native Protocol"). This needs
 * no library, because no value has a line break or is too long for a datagram. The address goes
 * with each one: a journal that is restarted is found again, and the daemon, which may not connect
 * once it is restricted, need not. */
#include "util/log_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define JOURNAL  "/run/systemd/journal/socket"
#define WAIT_MAX 100000 /* microseconds for a journal that does not keep up */

const char *tm_log_journal(void)
{
    const char *stream = g_getenv("JOURNAL_STREAM");
    unsigned long long dev, ino;
    struct stat st;
    char end;

    if (!stream || sscanf(stream, "%llu:%llu%c", &dev, &ino, &end) != 2 ||
        fstat(STDERR_FILENO, &st) < 0)
        return NULL;
    return st.st_dev == dev && st.st_ino == ino ? JOURNAL : NULL;
}

void tm_log_sink_open(TmLogSink *sink, const char *journal)
{
    struct timeval limit = { .tv_usec = WAIT_MAX };
    struct sockaddr_un address;

    sink->fd = -1;
    if (!journal || strlen(journal) >= sizeof(address.sun_path))
        return;
    sink->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sink->journal = g_strdup(journal);
    if (sink->fd >= 0)
        setsockopt(sink->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

void tm_log_sink_close(TmLogSink *sink)
{
    if (sink->fd >= 0)
        close(sink->fd);
    g_free(sink->journal);
}

static const char *program(void)
{
    return g_get_prgname() ? g_get_prgname() : "tidemark";
}

static void add_field(GString *entry, const char *name, const char *value)
{
    if (value)
        g_string_append_printf(entry, "%s=%s\n", name, value);
}

/* Whether the message is in the journal, or lost because that stands still: standard error would
 * wait for it, too, and requests for both. */
static bool to_journal(const TmLogSink *sink, const TmLogFacts *facts, const char *text)
{
    static const int priorities[TM_LOG_LEVELS] = { 3, 4, 6, 7 }; /* of syslog(3) */
    g_autoptr(GString) entry = g_string_new(NULL);
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    g_strlcpy(address.sun_path, sink->journal, sizeof(address.sun_path));
    add_field(entry, "MESSAGE", text);
    g_string_append_printf(entry, "PRIORITY=%d\n", priorities[facts->level]);
    add_field(entry, "SYSLOG_IDENTIFIER", program());
    add_field(entry, "TIDEMARK_AREA", tm_log_area_names[facts->area]);
    add_field(entry, "TIDEMARK_NODE", facts->node);
    add_field(entry, "TIDEMARK_EXPORT", facts->export);
    add_field(entry, "TIDEMARK_CLIENT", facts->client);
    if (facts->session)
        g_string_append_printf(entry, "TIDEMARK_SESSION=%" PRIu64 "\n", facts->session);
    return sendto(sink->fd, entry->str, entry->len, MSG_NOSIGNAL, (struct sockaddr *)&address,
                  sizeof(address)) >= 0 ||
           errno == EAGAIN;
}

void tm_log_sink_write(const TmLogSink *sink, const TmLogFacts *facts, const char *text)
{
    static const char *const prefix[] = { "", "warning: ", "", "debug: " };
    G_STATIC_ASSERT(G_N_ELEMENTS(prefix) == TM_LOG_LEVELS);
    g_autofree char *line = NULL;

    if (sink->fd >= 0 && to_journal(sink, facts, text))
        return;
    line = g_strdup_printf("%s: %s%s\n", program(), prefix[facts->level], text);
    if (write(STDERR_FILENO, line, strlen(line)) < 0)
        return; /* nowhere left to say so */
}
