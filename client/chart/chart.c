/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/chart/chart.c: see chart.h; charts as characters. */
#include "client/chart/chart.h"
#include "client/text.h"
#include "util/range.h"

enum { NAME_MIN = 5 };

static void class_clear(gpointer p)
{
    TcChartClass *class = p;

    g_free(class->name);
    g_free(class->note);
}

TcChart *tc_chart_new(uint64_t size, uint64_t cell, unsigned columns, uint64_t count)
{
    TcChart *chart = g_new0(TcChart, 1);

    chart->size = size;
    chart->cell = cell;
    chart->columns = columns;
    chart->count = count;
    chart->cells = g_malloc0(count + 1);
    chart->classes = g_array_new(FALSE, FALSE, sizeof(TcChartClass));
    g_array_set_clear_func(chart->classes, class_clear);
    return chart;
}

void tc_chart_free(TcChart *chart)
{
    if (!chart)
        return;
    g_free(chart->title);
    g_free(chart->subtitle);
    g_free(chart->cells);
    g_array_unref(chart->classes);
    g_free(chart);
}

void tc_chart_add_class(TcChart *chart, TcChartClass class)
{
    g_array_append_val(chart->classes, class);
}

unsigned tc_chart_columns(unsigned width)
{
    unsigned usable = width > TC_CHART_LABEL + 1 ? width - TC_CHART_LABEL : 1;

    return usable >= 16 ? usable / 16 * 16 : usable;
}

uint64_t tc_chart_cell(uint64_t size, unsigned columns, unsigned rows, uint64_t smallest)
{
    uint64_t cell = smallest;

    while (size / cell / columns >= MAX(rows, 1) && cell < (UINT64_C(1) << 62))
        cell *= 2;
    /* the test above leaves out a last, partly filled row that just fits */
    if (cell > smallest && size <= cell / 2 * columns * MAX(rows, 1))
        cell /= 2;
    return cell;
}

static void print_glyph(const TcChartClass *class, unsigned times, FILE *out, bool colors,
                        bool utf8)
{
    fputs(colors ? class->ansi : "", out);
    while (times--)
        fputs(utf8 ? class->utf8 : class->ascii, out);
    fputs(colors ? "\033[0m" : "", out);
}

static void print_cells(const TcChart *chart, uint64_t row, FILE *out, bool colors, bool utf8)
{
    uint64_t i = row * chart->columns, end = tm_min(i + chart->columns, chart->count);

    while (i < end) {
        unsigned run = 1;

        while (i + run < end && chart->cells[i + run] == chart->cells[i])
            run++;
        print_glyph(&g_array_index(chart->classes, TcChartClass, chart->cells[i]), run, out, colors,
                    utf8);
        i += run;
    }
}

static void print_legend(const TcChart *chart, FILE *out, bool colors, bool utf8)
{
    unsigned width = NAME_MIN;

    for (guint i = 0; i < chart->classes->len; i++)
        width = MAX(width, tc_text_width(g_array_index(chart->classes, TcChartClass, i).name));
    for (guint i = 0; i < chart->classes->len; i++) {
        const TcChartClass *class = &g_array_index(chart->classes, TcChartClass, i);
        g_autofree char *human = tc_human_size(class->bytes);
        g_autofree char *percent = tc_percent(class->bytes, chart->size);

        fprintf(out, "%*s", TC_CHART_LABEL, "");
        print_glyph(class, 1, out, colors, utf8);
        fprintf(out, " %-*s  %10s  %7s", (int)width, class->name, human, percent);
        fprintf(out, class->note ? "  (%s)\n" : "%s\n", class->note ? class->note : "");
    }
}

void tc_chart_print(const TcChart *chart, FILE *out, bool colors, bool utf8)
{
    g_autofree char *size = tc_human_size(chart->size);
    g_autofree char *cell = tc_human_size(chart->cell);
    uint64_t rows = (chart->count + chart->columns - 1) / chart->columns;

    for (uint64_t row = 0; row < rows; row++) {
        g_autofree char *offset = tc_human_size(row * chart->columns * chart->cell);

        fprintf(out, "%s%*s%s ", colors ? "\033[2m" : "", TC_CHART_LABEL - 1, offset,
                colors ? "\033[0m" : "");
        print_cells(chart, row, out, colors, utf8);
        fputc('\n', out);
    }
    if (rows)
        fputc('\n', out);
    print_legend(chart, out, colors, utf8);
    fprintf(out, "%*sdisk of %s; each character stands for %s and %s\n", TC_CHART_LABEL, "", size,
            cell, chart->rule);
}
