/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/progress.c: see progress.h.
 *
 * Lock: TcProgress.lock guards the parts, what they say and the count of lines drawn; it is held
 * while lines are printed. */
#include "client/progress.h"
#include "client/text.h"
#include "util/json.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BAR_MIN = 10, BAR_MAX = 40, SECOND_US = 1000000, QUIET_US = 300000 };
/* As long as nothing may come before that is said. */
enum { STALL_US = 5 * SECOND_US };

struct TcPart {
    TcProgress *progress;
    char *name;
    const char *what; /* a change of it starts the rate anew */
    char *end;        /* what it says when it is over */
    uint64_t done, total;
    gint64 rate_since, moved_at; /* when done last changed */
    uint64_t rate_from;
};

struct TcProgress {
    TcProgressStyle style;
    bool tty, utf8, again; /* something changed that is not to wait */
    gint64 started, last;
    unsigned drawn; /* lines */
    GMutex lock;
    GPtrArray *parts;
};

static void append_bar(GString *line, uint64_t done, uint64_t total, unsigned width, bool utf8)
{
    unsigned full = (unsigned)((double)done / (double)total * width);

    g_string_append(line, utf8 ? "" : "[");
    for (unsigned i = 0; i < width; i++)
        g_string_append(line, i < full ? (utf8 ? "\u2588" : "#") : (utf8 ? "\u2591" : "."));
    g_string_append(line, utf8 ? " " : "] ");
}

static void cut(GString *line, unsigned columns)
{
    if (g_utf8_strlen(line->str, -1) > (glong)columns - 1)
        g_string_truncate(line, g_utf8_offset_to_pointer(line->str, columns - 1) - line->str);
}

/* Seconds until all is done, if it goes on at this rate, which is not 0. */
static double time_left(uint64_t done, uint64_t total, double rate)
{
    return (double)(total - MIN(done, total)) / rate;
}

char *tc_progress_line(const char *what, uint64_t done, uint64_t total, double rate,
                       unsigned columns, bool utf8)
{
    g_autoptr(GString) line = g_string_new(what);
    g_autofree char *have = tc_human_size(done), *all = tc_human_size(total);
    g_autofree char *speed = tc_human_size((uint64_t)rate);
    g_autofree char *left = tc_clock(rate > 0 ? time_left(done, total, rate) : 0);
    g_autoptr(GString) tail = g_string_new(NULL);
    unsigned used;

    if (total) {
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
    }
    cut(line, columns);
    return g_string_free(g_steal_pointer(&line), FALSE);
}

static void part_free(gpointer p)
{
    TcPart *part = p;

    g_free(part->name);
    g_free(part->end);
    g_free(part);
}

TcProgress *tc_progress_new(TcProgressStyle style)
{
    const char *term = g_getenv("TERM");
    TcProgress *p = g_new0(TcProgress, 1);

    p->tty = isatty(STDERR_FILENO) && g_strcmp0(term, "dumb");
    p->style = style == TC_PROGRESS_TERMINAL && !p->tty ? TC_PROGRESS_NONE : style;
    p->utf8 = tc_terminal_utf8();
    p->started = g_get_monotonic_time();
    p->parts = g_ptr_array_new_with_free_func(part_free);
    g_mutex_init(&p->lock);
    return p;
}

TcProgress *tc_progress_on_terminal(bool wanted)
{
    return tc_progress_new(wanted ? TC_PROGRESS_TERMINAL : TC_PROGRESS_NONE);
}

TcPart *tc_progress_part(TcProgress *p, const char *name)
{
    TcPart *part = g_new0(TcPart, 1);

    part->progress = p;
    part->name = tc_printable(name);
    part->what = "";
    g_mutex_lock(&p->lock);
    g_ptr_array_add(p->parts, part);
    g_mutex_unlock(&p->lock);
    return part;
}

void tc_part_set(TcPart *part, const char *what, uint64_t done, uint64_t total)
{
    g_mutex_lock(&part->progress->lock);
    if (strcmp(part->what, what)) {
        part->rate_since = part->moved_at = g_get_monotonic_time();
        part->rate_from = done;
        part->progress->again = true;
    }
    if (part->done != done)
        part->moved_at = g_get_monotonic_time();
    part->what = what;
    part->done = done;
    part->total = total;
    g_mutex_unlock(&part->progress->lock);
}

void tc_part_end(TcPart *part, const char *what)
{
    g_mutex_lock(&part->progress->lock);
    g_free(part->end);
    part->end = tc_printable(what);
    part->progress->again = true;
    g_mutex_unlock(&part->progress->lock);
}

static double rate_of(const TcPart *part, gint64 now)
{
    if (now <= part->rate_since + SECOND_US / 10 || part->done <= part->rate_from)
        return 0;
    return (double)(part->done - part->rate_from) * 1e6 / (double)(now - part->rate_since);
}

/* Seconds for which the part has not come further, though it could; 0: that is not long. */
static double stalled(const TcPart *part, gint64 now)
{
    return !part->end && part->total && part->done < part->total && part->moved_at &&
                   now - part->moved_at >= STALL_US
               ? (double)(now - part->moved_at) / 1e6
               : 0;
}

/* "copying, stalled for 0:12". Returned. */
static char *doing(const TcPart *part, gint64 now)
{
    double seconds = stalled(part, now);
    g_autofree char *clock = tc_clock(seconds);

    return seconds > 0 ? g_strdup_printf("%s, stalled for %s,", part->what, clock)
                       : g_strdup(part->what);
}

/* The part's line; @width is that of the longest name. Returned. */
static char *line_of(const TcPart *part, int width, gint64 now, unsigned columns, bool utf8)
{
    g_autoptr(GString) line = g_string_new(NULL);
    g_autofree char *rest = NULL, *what = doing(part, now);
    unsigned used = 0;

    if (width) {
        g_string_printf(line, "%-*s  ", width, part->name);
        used = (unsigned)g_utf8_strlen(line->str, -1);
    }
    if (part->end)
        rest = g_strdup(part->end);
    else
        rest = tc_progress_line(what, part->done, part->total,
                                stalled(part, now) > 0 ? 0 : rate_of(part, now),
                                columns > used + 20 ? columns - used : 20, utf8);
    g_string_append(line, rest);
    cut(line, columns);
    return g_string_free(g_steal_pointer(&line), FALSE);
}

static int name_width(const TcProgress *p)
{
    size_t width = 0;

    for (unsigned i = 0; i < p->parts->len; i++)
        width = MAX(width, strlen(((TcPart *)p->parts->pdata[i])->name));
    return (int)width;
}

static void wipe(TcProgress *p)
{
    if (!p->drawn)
        return;
    if (p->drawn > 1)
        fprintf(stderr, "\r\033[%uA\033[J", p->drawn - 1);
    else
        fputs("\r\033[K", stderr);
    p->drawn = 0;
}

static void draw(TcProgress *p, gint64 now)
{
    unsigned columns, rows, shown, before = p->drawn;
    int width = name_width(p);

    tc_terminal_size(stderr, &columns, &rows);
    shown = MIN(p->parts->len, MAX(rows, 2) - 1);
    if (before > 1)
        fprintf(stderr, "\033[%uA", before - 1);
    for (unsigned i = 0; i < shown; i++) {
        g_autofree char *line = line_of(p->parts->pdata[i], width, now, columns, p->utf8);

        fprintf(stderr, "%s\r%s\033[K", i ? "\n" : "", line);
    }
    fflush(stderr);
    p->drawn = shown;
}

static void print(TcProgress *p, gint64 now)
{
    int width = name_width(p);

    for (unsigned i = 0; i < p->parts->len; i++) {
        g_autofree char *line = line_of(p->parts->pdata[i], width, now, 80, false);

        fprintf(stderr, "%s\n", line);
    }
}

static void print_event(const char *name, json_object *event)
{
    json_object *line = json_object_new_object();

    tm_json_add_string(line, "event", name);
    json_object_object_foreach(event, key, value)
        json_object_object_add(line, key, json_object_get(value));
    printf("%s\n", json_object_to_json_string_ext(line, JSON_C_TO_STRING_PLAIN |
                                                            JSON_C_TO_STRING_NOSLASHESCAPE));
    fflush(stdout);
    json_object_put(line);
    json_object_put(event);
}

static void report(TcProgress *p, gint64 now)
{
    for (unsigned i = 0; i < p->parts->len; i++) {
        TcPart *part = p->parts->pdata[i];
        json_object *event = json_object_new_object();
        double seconds = stalled(part, now), rate = seconds > 0 ? 0 : rate_of(part, now);

        if (*part->name)
            tm_json_add_string(event, "disk", part->name);
        tm_json_add_string(event, "doing", part->end ? part->end : part->what);
        tm_json_add_uint(event, "done", part->done);
        tm_json_add_uint(event, "total", part->total);
        if (seconds > 0)
            tm_json_add_uint(event, "stalled", (uint64_t)seconds);
        if (rate > 0)
            tm_json_add_uint(event, "rate", (uint64_t)rate);
        if (rate > 0 && part->total && !part->end)
            tm_json_add_uint(event, "left", (uint64_t)time_left(part->done, part->total, rate));
        print_event("progress", event);
    }
}

void tc_progress_draw(TcProgress *p)
{
    gint64 now = g_get_monotonic_time(), wait;
    bool lines = p->tty && p->style != TC_PROGRESS_JSON;

    /* what is over in a moment needs no line that flashes up */
    if (p->style == TC_PROGRESS_NONE || now - p->started < QUIET_US)
        return;
    wait = lines ? SECOND_US / 10 : p->style == TC_PROGRESS_JSON ? SECOND_US : 10 * SECOND_US;
    g_mutex_lock(&p->lock);
    if (p->parts->len && (now - p->last >= wait || (p->again && lines))) {
        if (lines)
            draw(p, now);
        else if (p->style == TC_PROGRESS_JSON)
            report(p, now);
        else if (now - p->started >= wait)
            print(p, now);
        p->last = now;
        p->again = false;
    }
    g_mutex_unlock(&p->lock);
}

void tc_progress_hold(TcProgress *p)
{
    g_mutex_lock(&p->lock);
    wipe(p);
    fflush(stderr);
}

void tc_progress_release(TcProgress *p)
{
    g_mutex_unlock(&p->lock);
}

void tc_progress_clear(TcProgress *p)
{
    tc_progress_hold(p);
    tc_progress_release(p);
}

void tc_progress_free(TcProgress *p)
{
    if (!p)
        return;
    tc_progress_clear(p);
    g_ptr_array_unref(p->parts);
    g_mutex_clear(&p->lock);
    g_free(p);
}

void tc_progress_show(TcProgress *p, const char *what, uint64_t done, uint64_t total)
{
    if (p->style == TC_PROGRESS_NONE)
        return;
    tc_part_set(p->parts->len ? p->parts->pdata[0] : tc_progress_part(p, ""), what, done, total);
    tc_progress_draw(p);
}

void tc_progress_event(TcProgress *p, const char *name, json_object *event)
{
    if (p->style != TC_PROGRESS_JSON) {
        json_object_put(event);
        return;
    }
    g_mutex_lock(&p->lock);
    print_event(name, event);
    g_mutex_unlock(&p->lock);
}
