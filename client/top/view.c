/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/top/view.c: see view.h. */
#include "client/top/view.h"
#include "client/json.h"
#include "client/text.h"
#include "client/top/columns.h"
#include "client/top/figures.h"
#include <string.h>

enum { GAUGE = 20, NARROW_GAUGE = 8, WIDE = 72 };

static const TcColumn disk_columns[] = {
    { "DISK", 9, 20, TC_COLUMN_TEXT, "node", NULL },
    { "READS/S", 9, 15, TC_COLUMN_COUNT, "read", "requests-per-second" },
    { "READ B/S", 10, 19, TC_COLUMN_SIZE, "read", "bytes-per-second" },
    { "WRITES/S", 10, 14, TC_COLUMN_COUNT, "write", "requests-per-second" },
    { "WRITE B/S", 11, 18, TC_COLUMN_SIZE, "write", "bytes-per-second" },
    { "FLUSHES/S", 11, 9, TC_COLUMN_COUNT, "flush", "requests-per-second" },
    { "DISCARDS/S", 12, 8, TC_COLUMN_COUNT, "discard", "requests-per-second" },
    { "MEAN", 7, 16, TC_COLUMN_TIME, "mean-ns", NULL },
    { "WORST", 7, 12, TC_COLUMN_TIME, "worst-ns", NULL },
    { "DIRTY", 7, 17, TC_COLUMN_SIZE, "dirty", NULL },
    { "GROWTH", 8, 13, TC_COLUMN_GROWTH, "growth-per-second", NULL },
    { "CLIENTS", 9, 10, TC_COLUMN_COUNT, "clients", NULL },
    { 0 },
};

static const TcColumn op_columns[] = {
    { "REQUESTS", 10, 9, TC_COLUMN_TEXT, "kind", NULL },
    { "PER SECOND", 12, 8, TC_COLUMN_COUNT, "requests-per-second", NULL },
    { "BYTES/S", 9, 7, TC_COLUMN_SIZE, "bytes-per-second", NULL },
    { "MEAN", 8, 6, TC_COLUMN_TIME, "mean-ns", NULL },
    { "P50", 8, 3, TC_COLUMN_TIME, "p50-ns", NULL },
    { "P99", 8, 4, TC_COLUMN_TIME, "p99-ns", NULL },
    { "WORST", 8, 5, TC_COLUMN_TIME, "worst-ns", NULL },
    { "FAILED", 8, 2, TC_COLUMN_COUNT, "failed", NULL },
    { 0 },
};

static const TcColumn bitmap_columns[] = {
    { "BITMAP", 12, 9, TC_COLUMN_TEXT, "name", NULL },
    { "DIRTY", 8, 8, TC_COLUMN_SIZE, "dirty", NULL },
    { "GROWTH/S", 10, 7, TC_COLUMN_GROWTH, "growth-per-second", NULL },
    { "GRANULE", 9, 6, TC_COLUMN_SIZE, "granularity", NULL },
    { "  STATE", 14, 5, TC_COLUMN_TEXT, "state", NULL },
    { 0 },
};

static const TcColumn client_columns[] = {
    { "CLIENT OF", 12, 9, TC_COLUMN_TEXT, "export", NULL },
    { "PEER", 14, 8, TC_COLUMN_TEXT, "peer", NULL },
    { "REQUESTS/S", 12, 4, TC_COLUMN_COUNT, "requests-per-second", NULL },
    { "READ B/S", 10, 6, TC_COLUMN_SIZE, "read-per-second", NULL },
    { "WRITE B/S", 11, 5, TC_COLUMN_SIZE, "written-per-second", NULL },
    { "ERRORS", 8, 2, TC_COLUMN_COUNT, "errors", NULL },
    { "IDLE", 7, 3, TC_COLUMN_CLOCK, "idle", NULL },
    { 0 },
};

static json_object *array_of(const TcTopView *view, const char *key)
{
    return tc_json_get(view->figures, key, NULL);
}

/* Its elements, borrowed. Returned. */
static GPtrArray *elements(json_object *array)
{
    GPtrArray *list = g_ptr_array_new();

    for (size_t i = 0; i < tc_json_length(array); i++)
        g_ptr_array_add(list, json_object_array_get_idx(array, i));
    return list;
}

static void draw_all(TcFrame *frame, const TcColumn *columns, GPtrArray *rows)
{
    if (!rows->len)
        return;
    tc_frame_end(frame, TC_STYLE_PLAIN);
    tc_columns_draw(frame, columns, (json_object *const *)rows->pdata, 0, rows->len, -1, -1);
}

/* ---- the disks in their order */

unsigned tc_top_sorts(void)
{
    return G_N_ELEMENTS(disk_columns) - 1;
}

/* By the name from the first, by figures from the greatest; among equals by the name. */
static int compare_disks(gconstpointer a, gconstpointer b, gpointer opaque)
{
    const TcColumn *column = &disk_columns[*(const unsigned *)opaque];
    json_object *x = *(json_object *const *)a, *y = *(json_object *const *)b;
    double p = tc_column_value(column, x), q = tc_column_value(column, y);

    if (column->format != TC_COLUMN_TEXT && p != q)
        return p < q ? 1 : -1;
    return g_strcmp0(tc_json_string(x, "node"), tc_json_string(y, "node"));
}

GPtrArray *tc_top_disks(const TcTopView *view)
{
    unsigned sort = view->sort;
    GPtrArray *disks = elements(array_of(view, "disks"));

    g_ptr_array_sort_with_data(disks, compare_disks, &sort);
    return disks;
}

static int selected_index(const TcTopView *view, GPtrArray *disks)
{
    for (unsigned i = 0; i < disks->len; i++)
        if (!g_strcmp0(tc_json_string(disks->pdata[i], "node"), view->selected))
            return (int)i;
    return disks->len ? 0 : -1;
}

void tc_top_remember(TcTopView *view)
{
    json_object *disks = array_of(view, "disks");

    for (size_t i = 0; i < tc_json_length(disks); i++) {
        json_object *disk = json_object_array_get_idx(disks, i);
        const char *node = tc_json_string(disk, "node");
        GArray *history = g_hash_table_lookup(view->history, node);
        TcTopMoment moment = {
            json_object_get_double(tc_json_get(disk, "read", "bytes-per-second", NULL)),
            json_object_get_double(tc_json_get(disk, "write", "bytes-per-second", NULL)),
        };

        if (!history) {
            history = g_array_new(FALSE, FALSE, sizeof(TcTopMoment));
            g_hash_table_insert(view->history, g_strdup(node), history);
        }
        if (history->len == TC_TOP_HISTORY)
            g_array_remove_index(history, 0);
        g_array_append_val(history, moment);
    }
}

/* ---- first and last line */

static void draw_title(const TcTopView *view, TcFrame *frame, bool screen)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_local();
    g_autofree char *clock = g_date_time_format(now, "%H:%M:%S");
    g_autofree char *state = view->problem  ? g_strdup("NO ANSWER ")
                             : view->paused ? g_strdup("PAUSED ")
                             : frame->columns < WIDE
                                 ? g_strdup_printf("%s ", clock)
                                 : g_strdup_printf("every %g s, %s ", view->interval, clock);
    unsigned width = tc_text_width(state);
    g_autofree char *left = g_strdup_printf(" tidemark top  %s", view->socket);

    tc_frame_field(frame, screen ? TC_STYLE_BAR : TC_STYLE_PLAIN, left,
                   frame->columns > width ? frame->columns - width : 0, false);
    tc_frame_put(frame,
                 view->problem ? TC_STYLE_BAD
                 : screen      ? TC_STYLE_BAR
                               : TC_STYLE_PLAIN,
                 state);
    tc_frame_end(frame, TC_STYLE_PLAIN);
}

static double sum(json_object *disks, const char *op, const char *member)
{
    double total = 0;

    for (size_t i = 0; i < tc_json_length(disks); i++)
        total += json_object_get_double(
            tc_json_get(json_object_array_get_idx(disks, i), op, member, NULL));
    return total;
}

/* "1.5 MiB/s". Returned. */
static char *human_rate(double bytes)
{
    g_autofree char *size = tc_human_size((uint64_t)bytes);

    return g_strconcat(size, "/s", NULL);
}

/* All disks together, or why there are no figures. */
static void draw_summary(const TcTopView *view, TcFrame *frame)
{
    json_object *disks = array_of(view, "disks");
    g_autofree char *read = human_rate(sum(disks, "read", "bytes-per-second"));
    g_autofree char *reads = tc_short_count(sum(disks, "read", "requests-per-second"));
    g_autofree char *written = human_rate(sum(disks, "write", "bytes-per-second"));
    g_autofree char *writes = tc_short_count(sum(disks, "write", "requests-per-second"));
    unsigned n = (unsigned)tc_json_length(disks);
    unsigned clients = (unsigned)tc_json_length(array_of(view, "sessions"));
    g_autofree char *text = g_strdup_printf(
        " %u disk%s, %u client%s   read %s in %s/s   written %s in %s/s", n, n == 1 ? "" : "s",
        clients, clients == 1 ? "" : "s", read, reads, written, writes);

    if (view->problem) {
        tc_frame_put(frame, TC_STYLE_BAD, " ");
        tc_frame_put(frame, TC_STYLE_BAD, view->problem);
    } else
        tc_frame_put(frame, TC_STYLE_PLAIN, view->figures ? text : " measuring");
    tc_frame_end(frame, TC_STYLE_PLAIN);
}

static void draw_keys(const TcTopView *view, TcFrame *frame)
{
    const char *list = " q quit  p pause  s sort  j/k choose  enter detail  +/- interval  ? help";
    const char *detail = " q quit  p pause  j/k other disk  esc back  +/- interval  ? help";

    tc_frame_field(frame, TC_STYLE_BAR,
                   view->help     ? " any key goes back"
                   : view->detail ? detail
                                  : list,
                   frame->columns, false);
    tc_frame_end(frame, TC_STYLE_PLAIN);
}

/* ---- what goes on for a while */

/* "name  what  [bar]  42 %  12.3M/s  0:07 left" */
static void draw_progress(TcFrame *frame, const char *name, const char *what, double done,
                          double total, double rate)
{
    bool wide = frame->columns >= WIDE;
    g_autofree char *percent =
        total > 0 ? g_strdup_printf("%3.0f %%", MIN(done / total, 1) * 100) : g_strdup("    -");
    g_autofree char *per_second = human_rate(rate);
    g_autofree char *left = tc_clock(rate > 0 ? (total - done) / rate : 0);

    tc_frame_put(frame, TC_STYLE_PLAIN, "  ");
    tc_frame_field(frame, TC_STYLE_PLAIN, name, wide ? 24 : 12, false);
    tc_frame_put(frame, TC_STYLE_PLAIN, " ");
    tc_frame_field(frame, TC_STYLE_DIM, what, wide ? 10 : 7, false);
    tc_frame_put(frame, TC_STYLE_PLAIN, " ");
    tc_frame_gauge(frame, TC_STYLE_GOOD, total > 0 ? done / total : 0, wide ? GAUGE : NARROW_GAUGE);
    tc_frame_field(frame, TC_STYLE_PLAIN, percent, 6, true);
    tc_frame_field(frame, TC_STYLE_PLAIN, per_second, 13, true);
    if (rate > 0 && total > done) {
        tc_frame_put(frame, TC_STYLE_PLAIN, "  ");
        tc_frame_put(frame, TC_STYLE_PLAIN, left);
        tc_frame_put(frame, TC_STYLE_PLAIN, " left");
    }
    tc_frame_end(frame, TC_STYLE_PLAIN);
}

static double number(json_object *object, const char *key)
{
    return json_object_get_double(tc_json_get(object, key, NULL));
}

static void draw_section(TcFrame *frame, const char *title)
{
    tc_frame_end(frame, TC_STYLE_PLAIN);
    tc_frame_put(frame, TC_STYLE_HEADER, "  ");
    tc_frame_put(frame, TC_STYLE_HEADER, title);
    tc_frame_end(frame, TC_STYLE_PLAIN);
}

/* A line of the backup, and one for each disk: bytes read of those to copy. */
static void draw_backup(TcFrame *frame, json_object *backup, const char *node)
{
    json_object *disks = tc_json_get(backup, "disks", NULL);
    g_autofree char *used = tc_human_size(tc_json_number(backup, "scratch-used"));
    g_autofree char *age = tc_clock(number(backup, "age"));
    const char *id = tc_json_string(backup, "id"), *aborted = tc_json_string(backup, "aborted");

    for (size_t i = 0; i < tc_json_length(disks); i++) {
        json_object *disk = json_object_array_get_idx(disks, i);
        const char *name = tc_json_string(disk, "node");
        g_autofree char *label = g_strdup_printf("%s of %s", id, name);

        if (!node || !g_strcmp0(node, name))
            draw_progress(frame, label, number(disk, "clients") > 0 ? "reading" : "waiting",
                          number(disk, "read"), number(disk, "dirty"),
                          number(disk, "read-per-second"));
    }
    {
        g_autofree char *text =
            g_strdup_printf("    begun %s ago, scratch %s%s%s", age, used,
                            aborted ? ", aborted: " : "", aborted ? aborted : "");

        tc_frame_put(frame, aborted ? TC_STYLE_BAD : TC_STYLE_DIM, text);
        tc_frame_end(frame, TC_STYLE_PLAIN);
    }
}

/* Whether @node (NULL: any disk) is in the backup. */
static bool concerns(json_object *backup, const char *node)
{
    json_object *disks = tc_json_get(backup, "disks", NULL);
    bool found = !node;

    for (size_t i = 0; i < tc_json_length(disks) && !found; i++)
        found = !g_strcmp0(tc_json_string(json_object_array_get_idx(disks, i), "node"), node);
    return found;
}

static void draw_work(const TcTopView *view, TcFrame *frame, const char *node)
{
    json_object *backups = array_of(view, "backups"), *jobs = array_of(view, "jobs");
    bool titled = false;

    for (size_t i = 0; i < tc_json_length(backups); i++) {
        json_object *backup = json_object_array_get_idx(backups, i);

        if (!concerns(backup, node))
            continue;
        if (!titled)
            draw_section(frame, "BACKUPS");
        titled = true;
        draw_backup(frame, backup, node);
    }
    if (tc_json_length(jobs))
        draw_section(frame, "JOBS");
    for (size_t i = 0; i < tc_json_length(jobs); i++) {
        json_object *job = json_object_array_get_idx(jobs, i);
        g_autofree char *name =
            g_strdup_printf("%s (%s)", tc_json_string(job, "id"), tc_json_string(job, "type"));

        draw_progress(frame, name, tc_json_string(job, "status"), number(job, "done"),
                      number(job, "total"), number(job, "rate"));
    }
}

/* ---- the clients of all, or of the exports of @disk */

static bool is_of_disk(json_object *session, json_object *disk)
{
    json_object *exports = tc_json_get(disk, "exports", NULL);
    const char *id = tc_json_string(session, "export");
    bool found = !disk;

    for (size_t i = 0; i < tc_json_length(exports) && !found; i++)
        found = !g_strcmp0(tc_json_string(json_object_array_get_idx(exports, i), "id"), id);
    return found;
}

static void draw_clients(const TcTopView *view, TcFrame *frame, json_object *disk)
{
    json_object *sessions = array_of(view, "sessions");
    g_autoptr(GPtrArray) rows = g_ptr_array_new();

    for (size_t i = 0; i < tc_json_length(sessions); i++) {
        json_object *session = json_object_array_get_idx(sessions, i);

        if (is_of_disk(session, disk))
            g_ptr_array_add(rows, session);
    }
    draw_all(frame, client_columns, rows);
}

/* ---- the list of disks */

/* Appends the lines of @more that fit @rows (0: all of them). */
static void append_lines(TcFrame *frame, TcFrame *more, unsigned rows)
{
    for (unsigned i = 0; i < more->lines->len && (!rows || i < rows); i++)
        g_ptr_array_add(frame->lines, g_strdup(more->lines->pdata[i]));
}

/* In @rows lines. Others get half of them at most, or what the disks leave. */
static void draw_list(const TcTopView *view, TcFrame *frame, unsigned rows)
{
    g_autoptr(GPtrArray) disks = tc_top_disks(view);
    g_autoptr(TcFrame) others = tc_frame_new(frame->columns, frame->colors, frame->utf8);
    unsigned wanted, shown = disks->len, first = 0;
    int selected = selected_index(view, disks);

    draw_work(view, others, NULL);
    draw_clients(view, others, NULL);
    if (rows) {
        wanted = MIN(others->lines->len, rows / 2);
        shown = MIN(disks->len, MAX(rows - wanted, 2) - 1);
        if (selected >= (int)shown)
            first = (unsigned)selected + 1 - shown;
    }
    if (!disks->len && view->figures) {
        tc_frame_put(frame, TC_STYLE_DIM, "  The daemon has no exports and no bitmaps.");
        tc_frame_end(frame, TC_STYLE_PLAIN);
    } else
        tc_columns_draw(frame, disk_columns, (json_object *const *)disks->pdata, first,
                        first + shown, rows ? (int)view->sort : -1, rows ? selected : -1);
    append_lines(frame, others, rows ? MAX(rows - shown, 2) - 1 : 0);
}

/* ---- one disk: its rows get members for the columns that are words */

static void draw_ops(TcFrame *frame, json_object *disk)
{
    g_autoptr(GPtrArray) rows = g_ptr_array_new();

    for (unsigned op = 0; op < TC_TOP_OPS; op++) {
        json_object *row = tc_json_get(disk, tc_top_ops[op], NULL);

        json_object_object_add(row, "kind", json_object_new_string(tc_top_ops[op]));
        g_ptr_array_add(rows, row);
    }
    draw_all(frame, op_columns, rows);
}

static void draw_history(const TcTopView *view, TcFrame *frame, const char *node)
{
    GArray *history = g_hash_table_lookup(view->history, node);
    unsigned width = frame->columns > 40 ? frame->columns - 34 : 8;

    tc_frame_end(frame, TC_STYLE_PLAIN);
    for (unsigned which = 0; which < 2 && history; which++) {
        double values[TC_TOP_HISTORY], peak = 0;
        g_autofree char *text = NULL, *label = NULL;

        for (unsigned i = 0; i < history->len; i++) {
            const TcTopMoment *moment = &g_array_index(history, TcTopMoment, i);

            values[i] = which ? moment->written : moment->read;
            peak = MAX(peak, values[i]);
        }
        text = human_rate(peak);
        label = g_strdup_printf("  highest %s", text);
        tc_frame_field(frame, TC_STYLE_PLAIN, which ? "  written" : "  read", 11, false);
        tc_frame_history(frame, which ? TC_STYLE_WARN : TC_STYLE_GOOD, values, history->len, width);
        tc_frame_put(frame, TC_STYLE_DIM, label);
        tc_frame_end(frame, TC_STYLE_PLAIN);
    }
}

static void draw_bitmaps(TcFrame *frame, json_object *disk)
{
    g_autoptr(GPtrArray) rows = elements(tc_json_get(disk, "bitmaps", NULL));
    double size = number(disk, "size");

    for (unsigned i = 0; i < rows->len; i++) {
        json_object *row = rows->pdata[i];
        g_autofree char *percent = tc_percent(tc_json_number(row, "dirty"), (uint64_t)size);
        g_autofree char *state =
            g_strdup_printf("  %s of the disk%s", percent,
                            tc_json_true(row, "inconsistent") ? ", inconsistent"
                            : tc_json_true(row, "recording")  ? ", recording"
                                                              : ", disabled");

        json_object_object_add(row, "state", json_object_new_string(state));
    }
    draw_all(frame, bitmap_columns, rows);
}

static void draw_detail(const TcTopView *view, TcFrame *frame, unsigned rows)
{
    g_autoptr(GPtrArray) disks = tc_top_disks(view);
    g_autoptr(TcFrame) all = tc_frame_new(frame->columns, frame->colors, frame->utf8);
    int selected = selected_index(view, disks);
    json_object *disk = selected >= 0 ? disks->pdata[selected] : NULL;
    g_autofree char *size = tc_human_size(tc_json_number(disk, "size"));
    g_autofree char *text = g_strdup_printf("  %s", size);

    if (!disk)
        return;
    tc_frame_put(all, TC_STYLE_PLAIN, "  ");
    tc_frame_put(all, TC_STYLE_TITLE, tc_json_string(disk, "node"));
    tc_frame_put(all, TC_STYLE_DIM, text);
    tc_frame_end(all, TC_STYLE_PLAIN);
    draw_ops(all, disk);
    draw_history(view, all, tc_json_string(disk, "node"));
    draw_bitmaps(all, disk);
    draw_work(view, all, tc_json_string(disk, "node"));
    draw_clients(view, all, disk);
    append_lines(frame, all, rows);
}

/* ---- help */

static void draw_help(TcFrame *frame, unsigned rows)
{
    static const struct {
        const char *key, *what;
    } keys[] = {
        { "q", "quit" },
        { "p, space", "pause, and go on" },
        { "s, S", "sort by the next column, or the one before" },
        { "j, k, arrows", "choose a disk" },
        { "enter, d", "show the disk that is chosen, or all again" },
        { "esc", "show all disks" },
        { "+, -", "measure more rarely, or more often" },
        { "h, ?", "this help" },
        { "", "" },
        { "MEAN", "latency of all requests that ended in the interval" },
        { "WORST", "none of them took longer than that" },
        { "DIRTY", "bytes in the newest bitmap that records" },
        { "GROWTH", "how many more these become in a second" },
    };
    g_autoptr(TcFrame) all = tc_frame_new(frame->columns, frame->colors, frame->utf8);

    for (unsigned i = 0; i < G_N_ELEMENTS(keys); i++) {
        tc_frame_field(all, TC_STYLE_HEADER, keys[i].key, 14, true);
        tc_frame_put(all, TC_STYLE_PLAIN, "  ");
        tc_frame_put(all, TC_STYLE_PLAIN, keys[i].what);
        tc_frame_end(all, TC_STYLE_PLAIN);
    }
    append_lines(frame, all, rows);
}

void tc_top_draw(const TcTopView *view, TcFrame *frame, unsigned rows)
{
    unsigned body = rows > 5 ? rows - 4 : 1;

    draw_title(view, frame, rows > 0);
    draw_summary(view, frame);
    tc_frame_end(frame, TC_STYLE_PLAIN);
    if (view->help)
        draw_help(frame, body);
    else if (view->detail)
        draw_detail(view, frame, rows ? body : 0);
    else
        draw_list(view, frame, rows ? body : 0);
    if (!rows)
        return;
    while (frame->lines->len + 1 < rows)
        tc_frame_end(frame, TC_STYLE_PLAIN);
    g_ptr_array_set_size(frame->lines, (gint)MIN(frame->lines->len, rows - 1));
    draw_keys(view, frame);
}
