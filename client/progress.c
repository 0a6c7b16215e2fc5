/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/progress.c: see progress.h. */
#include "client/progress.h"
#include "client/text.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BAR_MIN = 10, BAR_MAX = 40, INTERVAL_US = 100000, QUIET_US = 300000 };

struct TcProgress {
    bool on, drawn, utf8;
    gint64 started, last;
    char *what; /* a change of it starts the rate anew */
    gint64 rate_since;
    uint64_t rate_from;
};

static void append_bar(GString *line, uint64_t done, uint64_t total, unsigned width, bool utf8)
{
    unsigned full = (unsigned)((double)done / (double)total * width);

    g_string_append(line, utf8 ? "" : "[");
    for (unsigned i = 0; i < width; i++)
        g_string_append(line, i < full ? (utf8 ? "\u2588" : "#") : (utf8 ? "\u2591" : "."));
    g_string_append(line, utf8 ? " " : "] ");
}

char *tc_progress_line(const char *what, uint64_t done, uint64_t total, double rate,
                       unsigned columns, bool utf8)
{
    g_autoptr(GString) line = g_string_new(what);
    g_autofree char *have = tc_human_size(done), *all = tc_human_size(total);
    g_autofree char *speed = tc_human_size((uint64_t)rate);
    g_autofree char *left = tc_clock(rate > 0 ? (double)(total - MIN(done, total)) / rate : 0);
    g_autoptr(GString) tail = g_string_new(NULL);
    unsigned used;

    if (!total)
        return g_string_free(g_steal_pointer(&line), FALSE);
    done = MIN(done, total);
    g_string_append_printf(line, " %3u %% ", (unsigned)((double)done / (double)total * 100));
    g_string_append_printf(tail, "%s of %s", have, all);
    if (rate > 0) {
        g_string_append_printf(tail, "  %s/s", speed);
        if (line->len + tail->len + 24 < columns)
            g_string_append_printf(tail, "  %s left", left);
    }
    used = (unsigned)(line->len + tail->len) + 3;
    if (used + BAR_MIN < columns)
        append_bar(line, done, total, MIN(columns - used - 1, BAR_MAX), utf8);
    g_string_append(line, tail->str);
    if (g_utf8_strlen(line->str, -1) > (glong)columns - 1)
        g_string_truncate(line, g_utf8_offset_to_pointer(line->str, columns - 1) - line->str);
    return g_string_free(g_steal_pointer(&line), FALSE);
}

TcProgress *tc_progress_new(bool wanted)
{
    const char *term = g_getenv("TERM");
    TcProgress *p = g_new0(TcProgress, 1);

    p->on = wanted && isatty(STDERR_FILENO) && g_strcmp0(term, "dumb");
    p->utf8 = tc_terminal_utf8();
    p->started = g_get_monotonic_time();
    return p;
}

void tc_progress_show(TcProgress *p, const char *what, uint64_t done, uint64_t total)
{
    gint64 now = g_get_monotonic_time();
    g_autofree char *line = NULL;
    unsigned columns, rows;
    double rate = 0;

    /* what is over in a moment needs no line that flashes up */
    if (!p->on || now - p->started < QUIET_US)
        return;
    if (g_strcmp0(p->what, what)) {
        g_free(p->what);
        p->what = g_strdup(what);
        p->rate_since = now;
        p->rate_from = done;
    } else if (now - p->last < INTERVAL_US) {
        return;
    }
    p->last = now;
    if (now > p->rate_since + INTERVAL_US)
        rate = (double)(done - p->rate_from) * 1e6 / (double)(now - p->rate_since);
    tc_terminal_size(stderr, &columns, &rows);
    line = tc_progress_line(what, done, total, rate, columns, p->utf8);
    fprintf(stderr, "\r%s\033[K", line);
    fflush(stderr);
    p->drawn = true;
}

void tc_progress_clear(TcProgress *p)
{
    if (p->drawn)
        fputs("\r\033[K", stderr);
    fflush(stderr);
    p->drawn = false;
}

void tc_progress_free(TcProgress *p)
{
    if (!p)
        return;
    tc_progress_clear(p);
    g_free(p->what);
    g_free(p);
}
