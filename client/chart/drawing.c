/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/chart/drawing.c: see drawing.h. From above: title, subtitle, the cells with offsets at
 * their left, the legend, the scale. */
#include "client/chart/drawing.h"
#include "client/text.h"
#include "util/range.h"

enum {
    MARGIN = 24,
    TITLE = 22, /* sizes of text */
    TEXT = 14,
    LINE = 24,
    LABELS = 92, /* the offsets */
    SIDE = 9,    /* of a cell, with the gap of 1 to the next */
    LABEL_EVERY = 4,
    HEAD = MARGIN + TITLE + 2 * LINE,
    SWATCH = 14,
    NAME = 30, /* where the parts of a line of the legend begin or end */
    BYTES = 560,
    PERCENT = 660,
};

static const uint32_t ink = 0x1b1f24, dim = 0x57606a, paper = 0xffffff, edge = 0x8c959f;

static unsigned rows_of(const TcChart *chart)
{
    return (unsigned)((chart->count + chart->columns - 1) / chart->columns);
}

/* A line for each class, and one for its note. */
static unsigned legend_height(const TcChart *chart)
{
    unsigned lines = chart->classes->len;

    for (guint i = 0; i < chart->classes->len; i++)
        lines += g_array_index(chart->classes, TcChartClass, i).note != NULL;
    return lines * LINE;
}

void tc_drawing_size(const TcChart *chart, unsigned *width, unsigned *height)
{
    *width = 2 * MARGIN + LABELS + TC_CHART_COLUMNS * SIDE;
    *height = HEAD + rows_of(chart) * SIDE + legend_height(chart) + 2 * LINE + MARGIN;
}

/* Cells of one class beside each other are one rectangle, so that no seam shows. */
static void paint_cells(const TcChart *chart, const TcPainter *p)
{
    for (unsigned row = 0; row < rows_of(chart); row++) {
        uint64_t first = (uint64_t)row * chart->columns;
        uint64_t end = tm_min(first + chart->columns, chart->count);

        for (uint64_t i = first, next; i < end; i = next) {
            uint8_t class = chart->cells[i];

            for (next = i; next < end && chart->cells[next] == class;)
                next++;
            p->rect(p->opaque, MARGIN + LABELS + (unsigned)(i - first) * SIDE, HEAD + row * SIDE,
                    (unsigned)(next - i) * SIDE, SIDE,
                    g_array_index(chart->classes, TcChartClass, class).rgb, class);
        }
    }
}

/* One pixel between cells, so that they can be counted. */
static void paint_grid(const TcChart *chart, const TcPainter *p)
{
    unsigned rows = rows_of(chart), width = chart->columns * SIDE, height = rows * SIDE;

    for (unsigned i = 1; i < rows; i++)
        p->rect(p->opaque, MARGIN + LABELS, HEAD + i * SIDE - 1, width, 1, paper, -1);
    for (unsigned i = 1; i < chart->columns; i++)
        p->rect(p->opaque, MARGIN + LABELS + i * SIDE - 1, HEAD, 1, height, paper, -1);
}

static void paint_offsets(const TcChart *chart, const TcPainter *p)
{
    for (unsigned row = 0; row < rows_of(chart); row += LABEL_EVERY) {
        g_autofree char *offset = tc_human_size((uint64_t)row * chart->columns * chart->cell);

        p->text(p->opaque, MARGIN + LABELS - 10, HEAD + row * SIDE + SIDE, TEXT, TC_ANCHOR_END, dim,
                offset);
    }
}

static void paint_legend(const TcChart *chart, const TcPainter *p, unsigned y)
{
    unsigned x = MARGIN + LABELS;

    for (guint i = 0; i < chart->classes->len; i++, y += LINE) {
        const TcChartClass *class = &g_array_index(chart->classes, TcChartClass, i);
        g_autofree char *human = tc_human_size(class->bytes);
        g_autofree char *percent = tc_percent(class->bytes, chart->size);

        p->rect(p->opaque, x, y - SWATCH + 2, SWATCH, SWATCH, edge, -1);
        p->rect(p->opaque, x + 1, y - SWATCH + 3, SWATCH - 2, SWATCH - 2, class->rgb, -1);
        p->text(p->opaque, x + NAME, y, TEXT, TC_ANCHOR_START, ink, class->name);
        p->text(p->opaque, x + BYTES, y, TEXT, TC_ANCHOR_END, ink, human);
        p->text(p->opaque, x + PERCENT, y, TEXT, TC_ANCHOR_END, ink, percent);
        if (class->note)
            p->text(p->opaque, x + NAME, y += LINE, TEXT, TC_ANCHOR_START, dim, class->note);
    }
}

void tc_drawing_paint(const TcChart *chart, const TcPainter *p)
{
    unsigned width, height, below = HEAD + rows_of(chart) * SIDE + LINE + 6;
    g_autofree char *cell = tc_human_size(chart->cell);
    g_autofree char *scale = g_strdup_printf("each square stands for %s and %s", cell, chart->rule);

    tc_drawing_size(chart, &width, &height);
    p->rect(p->opaque, 0, 0, width, height, paper, -1);
    p->text(p->opaque, MARGIN, MARGIN + TITLE - 4, TITLE, TC_ANCHOR_START, ink, chart->title);
    p->text(p->opaque, MARGIN, MARGIN + TITLE + LINE - 2, TEXT, TC_ANCHOR_START, dim,
            chart->subtitle);
    paint_cells(chart, p);
    paint_grid(chart, p);
    paint_offsets(chart, p);
    paint_legend(chart, p, below);
    p->text(p->opaque, MARGIN + LABELS, below + legend_height(chart) + 4, TEXT, TC_ANCHOR_START,
            dim, scale);
}

char *tc_drawing_words(const TcChart *chart)
{
    g_autofree char *cell = tc_human_size(chart->cell);
    g_autoptr(GString) text = g_string_new(chart->subtitle);

    for (guint i = 0; i < chart->classes->len; i++) {
        const TcChartClass *class = &g_array_index(chart->classes, TcChartClass, i);
        g_autofree char *human = tc_human_size(class->bytes);
        g_autofree char *percent = tc_percent(class->bytes, chart->size);

        g_string_append_printf(text, "%s %s: %s (%s)", i ? ";" : ".", class->name, human, percent);
    }
    g_string_append_printf(text, ". Each square stands for %s and %s.", cell, chart->rule);
    return g_string_free(g_steal_pointer(&text), FALSE);
}
