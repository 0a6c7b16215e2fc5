/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/chart/drawing.h: what the files that draw a chart share: one drawing, of rectangles and
 * lines of text, for every format.
 *
 * Lengths are pixels. Threads: one. */
#pragma once
#include "client/chart/chart.h"

typedef enum { TC_ANCHOR_START, TC_ANCHOR_END } TcAnchor;

/* What a format makes of the parts of a drawing. */
typedef struct TcPainter {
    void *opaque;
    /* @class: of cells; -1: of the legend, or none. */
    void (*rect)(void *opaque, unsigned x, unsigned y, unsigned width, unsigned height,
                 uint32_t rgb, int class);
    /* @y is the baseline; @size the height of a line. */
    void (*text)(void *opaque, unsigned x, unsigned y, unsigned size, TcAnchor anchor, uint32_t rgb,
                 const char *text);
} TcPainter;

void tc_drawing_size(const TcChart *chart, unsigned *width, unsigned *height);
void tc_drawing_paint(const TcChart *chart, const TcPainter *painter);
/* What it shows in a sentence or two, for those that don't see it. Returned. */
char *tc_drawing_words(const TcChart *chart);

/* The files. Returned. */
GString *tc_drawing_svg(const TcChart *chart);
GString *tc_drawing_png(const TcChart *chart);

/* ---- font.c: a font of 5 by 7 pixels, some letters with two more below. */
enum { TC_FONT_WIDTH = 5, TC_FONT_HEIGHT = 9 };
/* The bits of row @row of @c (TC_FONT_WIDTH of them, the leftmost the highest). */
unsigned tc_font_row(char c, unsigned row);
