/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/chart/chart.h: a disk as rows of cells, each of one class, with a legend: as characters,
 * as SVG and as PNG.
 *
 * Classes differ by their character, and by colours that are the darker, the more important the
 * class is: they can be distinguished in black and white, and without red or green.
 * Threads: a chart belongs to one. */
#pragma once
#include "util/error.h"
#include <inttypes.h>
#include <stdio.h>

typedef struct TcChartClass {
    char *name;               /* owned */
    const char *ascii, *utf8; /* one character each */
    const char *ansi;         /* escape sequence of its colour */
    uint32_t rgb;             /* 0xrrggbb */
    uint64_t bytes;           /* of the disk */
    char *note;               /* after its bytes in the legend; owned, or NULL */
} TcChartClass;

typedef struct TcChart {
    char *title, *subtitle; /* of drawings; owned */
    const char *rule;       /* what class a cell has: "shows the first of these states in it" */
    uint64_t size, cell;    /* bytes of the disk and of a cell */
    unsigned columns;
    uint64_t count;  /* cells */
    uint8_t *cells;  /* owned: index of the class */
    GArray *classes; /* TcChartClass, in the legend's order: the most important first */
} TcChart;

/* Of @count cells of class 0. Returned. */
TcChart *tc_chart_new(uint64_t size, uint64_t cell, unsigned columns, uint64_t count);
void tc_chart_free(TcChart *chart);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcChart, tc_chart_free)
/* The strings that it will own are taken. */
void tc_chart_add_class(TcChart *chart, TcChartClass class);

/* ---- characters */

enum { TC_CHART_LABEL = 10 }; /* columns at the left of each row, for its offset */

/* Cells a row in a terminal of @width columns: a multiple of 16 if there is room for it, so that
 * rows begin at round offsets. */
unsigned tc_chart_columns(unsigned width);
/* Bytes of a cell, @smallest times a power of two, so that a disk fits @rows rows. */
uint64_t tc_chart_cell(uint64_t size, unsigned columns, unsigned rows, uint64_t smallest);
void tc_chart_print(const TcChart *chart, FILE *out, bool colors, bool utf8);

/* ---- drawings */

/* Cells a row and rows of a drawing, at most. */
enum { TC_CHART_COLUMNS = 96, TC_CHART_ROWS = 48 };

typedef enum { TC_CHART_SVG, TC_CHART_PNG } TcChartFormat;
/* Writes it to the file at @path, or to standard output if that is "-". */
bool tc_chart_write(const TcChart *chart, TcChartFormat format, const char *path, GError **error);
