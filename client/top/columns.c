/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/top/columns.c: see columns.h. */
#include "client/top/columns.h"
#include "client/json.h"
#include "client/text.h"
#include <math.h>

enum { COLUMNS_MAX = 16, MARK = 2 }; /* the mark of the selected row, and a blank */

static json_object *member_of(const TcColumn *column, json_object *row)
{
    return tc_json_get(row, column->member, column->inner, NULL);
}

double tc_column_value(const TcColumn *column, json_object *row)
{
    json_object *value = member_of(column, row);

    return value ? json_object_get_double(value) : -INFINITY;
}

char *tc_column_text(const TcColumn *column, json_object *row)
{
    json_object *json = member_of(column, row);
    double value = json ? json_object_get_double(json) : 0;
    g_autofree char *size = NULL;

    if (!json)
        return g_strdup(column->format == TC_COLUMN_TEXT ? "" : "-");
    switch (column->format) {
    case TC_COLUMN_TEXT:
        return tc_printable(json_object_get_string(json));
    case TC_COLUMN_COUNT:
        return tc_short_count(value);
    case TC_COLUMN_SIZE:
        return tc_short_size(value);
    case TC_COLUMN_GROWTH:
        size = tc_short_size(fabs(value));
        return g_strdup_printf("%s%s", value > 0 ? "+" : value < 0 ? "-" : "", size);
    case TC_COLUMN_TIME:
        return tc_short_time(value);
    default:
        return tc_clock(value);
    }
}

/* The columns that the texts of a column need, with so many @blanks. */
static unsigned needed(const TcColumn *column, json_object *const *rows, unsigned first,
                       unsigned end, unsigned blanks)
{
    unsigned need = column->width;

    for (unsigned r = first; r < end; r++) {
        g_autofree char *text = tc_column_text(column, rows[r]);

        need = MAX(need, tc_text_width(text) + blanks);
    }
    return need;
}

/* The widths of those that fit, 0 of the others. @name: that of the first one. */
static void choose(const TcColumn *columns, unsigned name, unsigned room, unsigned *widths)
{
    unsigned n = 0;

    for (; columns[n].title; n++)
        widths[n] = 0;
    widths[0] = MIN(name, room);
    room -= widths[0];
    for (unsigned round = 0; round < n; round++) {
        int best = -1;

        for (unsigned i = 0; i < n; i++)
            if (!widths[i] && columns[i].width <= room &&
                (best < 0 || columns[i].keep > columns[best].keep))
                best = (int)i;
        if (best < 0)
            return;
        widths[best] = columns[best].width;
        room -= columns[best].width;
    }
}

/* Gives texts the room that they need and the others leave. */
static void grow(const TcColumn *columns, json_object *const *rows, unsigned first, unsigned end,
                 unsigned room, unsigned *widths)
{
    for (unsigned i = 0; columns[i].title; i++)
        room -= MIN(room, widths[i]);
    for (unsigned i = 0; columns[i].title; i++) {
        unsigned need = needed(&columns[i], rows, first, end, 2), more;

        if (columns[i].format != TC_COLUMN_TEXT || !widths[i] || need <= widths[i])
            continue;
        more = MIN(need - widths[i], room);
        widths[i] += more;
        room -= more;
    }
}

static void put_cell(TcFrame *frame, TcStyle style, const TcColumn *column, const char *text,
                     unsigned width)
{
    if (!width)
        return;
    if (column->format != TC_COLUMN_TEXT) {
        tc_frame_field(frame, style, text, width, true);
        return;
    }
    tc_frame_field(frame, style, text, width - 1, false);
    tc_frame_put(frame, style, " ");
}

static void draw_header(TcFrame *frame, const TcColumn *columns, const unsigned *widths, int sorted)
{
    tc_frame_put(frame, TC_STYLE_HEADER, "  ");
    for (unsigned i = 0; columns[i].title; i++)
        put_cell(frame, (int)i == sorted ? TC_STYLE_SORTED : TC_STYLE_HEADER, &columns[i],
                 columns[i].title, widths[i]);
    tc_frame_end(frame, TC_STYLE_PLAIN);
}

void tc_columns_draw(TcFrame *frame, const TcColumn *columns, json_object *const *rows,
                     unsigned first, unsigned end, int sorted, int selected)
{
    unsigned widths[COLUMNS_MAX], room = frame->columns > MARK ? frame->columns - MARK : 0;

    /* A name comes before the columns that matter least, up to twice its width. */
    choose(columns, MIN(needed(&columns[0], rows, first, end, 1), 2 * columns[0].width), room,
           widths);
    grow(columns, rows, first, end, room, widths);
    draw_header(frame, columns, widths, sorted);
    for (unsigned r = first; r < end; r++) {
        TcStyle style = (int)r == selected ? TC_STYLE_SELECTED : TC_STYLE_PLAIN;

        tc_frame_put(frame, style, (int)r == selected ? "> " : "  ");
        for (unsigned i = 0; columns[i].title; i++) {
            g_autofree char *text = tc_column_text(&columns[i], rows[r]);

            put_cell(frame, style, &columns[i], text, widths[i]);
        }
        tc_frame_end(frame, style);
    }
}
