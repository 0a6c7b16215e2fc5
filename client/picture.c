/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/picture.c: see picture.h. */
#include "client/picture.h"
#include "client/text.h"
#include "util/extent.h"
#include "util/range.h"
#include <string.h>

enum { MIN_CELL = 512 };
enum { OTHER_ROWS = 8, ROWS_MAX = 24 }; /* rows of the terminal that are not the picture */

typedef struct Style {
    const char *name, *ascii, *utf8, *color;
    uint32_t rgb; /* of drawings */
} Style;

/* Distinguished three times: by letter, by density and by colour. */
static const Style styles[] = {
    { "hole", ".", "\u00b7", "\033[90m", 0xeef1f4 },
    { "zero", "o", "\u2591", "\033[36m", 0xa5cbe6 },
    { "data", "=", "\u2592", "\033[34m", 0x4c93c9 },
    { "dirty", "#", "\u2588", "\033[1;31m", 0x7a2200 },
};
G_STATIC_ASSERT(G_N_ELEMENTS(styles) == TC_STATES);

struct TcPicture {
    uint64_t size;
    uint64_t cell; /* bytes, a power of two */
    unsigned columns;
    uint64_t count; /* cells */
    bool dirty;
    uint8_t *states; /* TcState + 1, by cell; 0 for not yet known */
    uint64_t totals[TC_STATES];
    uint64_t dirty_below[TC_STATES]; /* what the dirty bytes are, without the bitmap */
};

TcPicture *tc_picture_new(uint64_t size, unsigned columns, unsigned rows, bool dirty)
{
    TcPicture *p = g_new0(TcPicture, 1);

    p->size = size;
    p->dirty = dirty;
    p->columns = tc_chart_columns(columns);
    p->cell = tc_chart_cell(size, p->columns, rows, MIN_CELL);
    p->count = size / p->cell + (size % p->cell != 0);
    p->states = g_malloc0(p->count + 1);
    return p;
}

void tc_picture_add(TcPicture *p, uint64_t offset, uint64_t length, TcState state, TcState below)
{
    uint64_t end;

    if (!length || !tm_range_within(offset, length, p->size))
        return;
    p->totals[state] += length;
    if (state == TC_DIRTY)
        p->dirty_below[below] += length;
    end = (offset + length - 1) / p->cell;
    for (uint64_t i = offset / p->cell; i <= end; i++)
        p->states[i] = MAX(p->states[i], (uint8_t)state + 1);
}

uint64_t tc_picture_cell_size(const TcPicture *p)
{
    return p->cell;
}

unsigned tc_picture_columns(const TcPicture *p)
{
    return p->columns;
}

uint64_t tc_picture_cells(const TcPicture *p)
{
    return p->count;
}

TcState tc_picture_cell(const TcPicture *p, uint64_t cell)
{
    return p->states[cell] ? (TcState)(p->states[cell] - 1) : TC_HOLE;
}

uint64_t tc_picture_total(const TcPicture *p, TcState state)
{
    return p->totals[state];
}

/* What of the dirty bytes a copy reads. Returned; NULL: none is dirty. */
static char *dirty_note(const TcPicture *p)
{
    g_autofree char *data = tc_human_size(p->dirty_below[TC_DATA]);
    g_autofree char *rest = tc_human_size(p->dirty_below[TC_ZERO] + p->dirty_below[TC_HOLE]);

    return p->totals[TC_DIRTY] ? g_strdup_printf("%s to read, %s of zeroes", data, rest) : NULL;
}

TcChart *tc_picture_chart(const TcPicture *p, const char *title, const char *bitmap)
{
    TcChart *chart = tc_chart_new(p->size, p->cell, p->columns, p->count);
    g_autofree char *size = tc_human_size(p->size);
    int first = p->dirty ? TC_DIRTY : TC_DATA;

    chart->title = g_strdup(title);
    chart->subtitle = g_strdup_printf("disk of %s%s%s", size, bitmap ? "; dirty in bitmap " : "",
                                      bitmap ? bitmap : "");
    chart->rule = "shows the first of these states in it";
    for (uint64_t i = 0; i < p->count; i++)
        chart->cells[i] = (uint8_t)(first - (int)tc_picture_cell(p, i));
    for (int state = first; state >= TC_HOLE; state--)
        tc_chart_add_class(chart, (TcChartClass){
                                      .name = g_strdup(styles[state].name),
                                      .ascii = styles[state].ascii,
                                      .utf8 = styles[state].utf8,
                                      .ansi = styles[state].color,
                                      .rgb = styles[state].rgb,
                                      .bytes = p->totals[state],
                                      .note = state == TC_DIRTY ? dirty_note(p) : NULL,
                                  });
    return chart;
}

void tc_picture_print(const TcPicture *p, FILE *out, bool colors, bool utf8)
{
    g_autoptr(TcChart) chart = tc_picture_chart(p, "", NULL);

    tc_chart_print(chart, out, colors, utf8);
}

bool tc_picture_wanted(const TcInvocation *inv)
{
    return tc_flag(inv, "picture") || tc_flag(inv, "svg") || tc_flag(inv, "png");
}

bool tc_picture_check(const TcInvocation *inv, bool json, GError **error)
{
    static const char *const forms[] = { "picture", "svg", "png" };

    for (unsigned i = 0; i < G_N_ELEMENTS(forms); i++) {
        if (!tc_flag(inv, forms[i]))
            continue;
        if (json)
            return tm_error_set(error, "--%s and --json exclude each other", forms[i]);
        if (i && tc_flag(inv, "picture"))
            return tm_error_set(error, "--picture and --%s exclude each other", forms[i]);
    }
    return true;
}

bool tc_picture_write(const TcInvocation *inv, const TcChart *chart, GError **error)
{
    const char *svg = tc_option(inv, "svg"), *png = tc_option(inv, "png");

    return (!svg || tc_chart_write(chart, TC_CHART_SVG, svg, error)) &&
           (!png || tc_chart_write(chart, TC_CHART_PNG, png, error));
}

bool tc_picture_size(const TcInvocation *inv, unsigned *columns, unsigned *rows, GError **error)
{
    uint64_t width;
    unsigned all;

    if (!tc_flag(inv, "picture") && tc_picture_wanted(inv)) {
        *columns = TC_CHART_COLUMNS + TC_CHART_LABEL;
        *rows = TC_CHART_ROWS;
        return true;
    }
    tc_terminal_size(stdout, columns, &all);
    width = *columns;
    if (!tc_option_number(inv, "width", 20, 10000, &width, error))
        return false;
    *columns = (unsigned)width;
    *rows = MIN(all > OTHER_ROWS + 4 ? all - OTHER_ROWS : 4, ROWS_MAX);
    return true;
}

void tc_picture_free(TcPicture *p)
{
    if (!p)
        return;
    g_free(p->states);
    g_free(p);
}
