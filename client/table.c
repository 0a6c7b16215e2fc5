/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/table.c: see table.h. */
#include "client/table.h"
#include "client/text.h"
#include <stdarg.h>

struct TcTable {
    char *title;
    char **headers;
    unsigned columns;
    bool *right;
    unsigned *widths; /* columns of the terminal */
    GPtrArray *cells; /* char *, row by row */
};

TcTable *tc_table_new(const char *title, const char *headers)
{
    TcTable *table = g_new0(TcTable, 1);

    table->title = g_strdup(title);
    table->headers = g_strsplit(headers, "|", -1);
    table->columns = g_strv_length(table->headers);
    table->right = g_new0(bool, table->columns);
    table->widths = g_new0(unsigned, table->columns);
    table->cells = g_ptr_array_new_with_free_func(g_free);
    for (unsigned i = 0; i < table->columns; i++) {
        char *header = table->headers[i];

        table->right[i] = *header == '>';
        if (table->right[i])
            memmove(header, header + 1, strlen(header));
        table->widths[i] = tc_text_width(header);
    }
    return table;
}

void tc_table_add(TcTable *table, ...)
{
    va_list ap;

    va_start(ap, table);
    for (unsigned i = 0; i < table->columns; i++) {
        const char *cell = va_arg(ap, const char *);
        char *clean = tc_printable(cell ? cell : "-");

        table->widths[i] = MAX(table->widths[i], tc_text_width(clean));
        g_ptr_array_add(table->cells, clean);
    }
    va_end(ap);
}

static void print_row(const TcTable *table, char *const *cells, FILE *out)
{
    unsigned n = table->columns;

    while (n && !*cells[n - 1]) /* no blanks at the end of a line */
        n--;
    for (unsigned i = 0; i < n; i++) {
        int pad = (int)(table->widths[i] - tc_text_width(cells[i]));

        if (i)
            fputs("  ", out);
        if (table->right[i])
            fprintf(out, "%*s%s", pad, "", cells[i]);
        else if (i + 1 < n)
            fprintf(out, "%s%*s", cells[i], pad, "");
        else
            fputs(cells[i], out);
    }
}

void tc_table_print(const TcTable *table, FILE *out, bool colors)
{
    unsigned rows = table->cells->len / table->columns;

    if (table->title)
        fprintf(out, "%s%s%s\n", colors ? "\033[1m" : "", table->title, colors ? "\033[0m" : "");
    if (!rows) {
        fputs(table->title ? "  none\n" : "none\n", out);
        return;
    }
    fputs(colors ? "\033[2m" : "", out);
    fputs(table->title ? "  " : "", out);
    print_row(table, table->headers, out);
    fputs(colors ? "\033[0m\n" : "\n", out);
    for (unsigned i = 0; i < rows; i++) {
        fputs(table->title ? "  " : "", out);
        print_row(table, (char *const *)&table->cells->pdata[i * table->columns], out);
        fputc('\n', out);
    }
}

void tc_table_free(TcTable *table)
{
    if (!table)
        return;
    g_free(table->title);
    g_strfreev(table->headers);
    g_free(table->right);
    g_free(table->widths);
    g_ptr_array_free(table->cells, TRUE);
    g_free(table);
}
