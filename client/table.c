/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/table.c: see table.h. */
#include "client/table.h"
#include "client/text.h"
#include <limits.h>
#include <stdarg.h>
#include <unistd.h>

enum { SPACES = 2, NARROWEST = 12 };

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

/* The widths of columns that fit into @limit: the widest columns of text get narrower, but for the
 * last one, which nothing follows. Returned. */
static unsigned *fit(const TcTable *table, unsigned limit)
{
    unsigned *widths = g_memdup2(table->widths, table->columns * sizeof(*widths));
    unsigned total = SPACES * (table->columns - 1);

    for (unsigned i = 0; i < table->columns; i++)
        total += widths[i];
    while (total > limit) {
        unsigned widest = 0, less;

        for (unsigned i = 0; i + 1 < table->columns; i++)
            if (!table->right[i] && (table->right[widest] || widths[i] > widths[widest]))
                widest = i;
        if (table->right[widest] || widths[widest] <= NARROWEST)
            break;
        less = MIN(total - limit, widths[widest] - NARROWEST);
        widths[widest] -= less;
        total -= less;
    }
    return widths;
}

/* A cell that is wider than its column ends its line. One that would not end within @limit, either,
 * begins further to the left in a line of its own. */
static void print_row(const TcTable *table, const unsigned *widths, unsigned limit,
                      char *const *cells, FILE *out)
{
    unsigned n = table->columns, column = table->title ? SPACES : 0, written = 0;

    while (n && !*cells[n - 1]) /* no blanks at the end of a line */
        n--;
    for (unsigned i = 0; i < n; i++) {
        unsigned width = tc_text_width(cells[i]), at = column;

        if (table->right[i])
            at += widths[i] - width;
        else if (width > widths[i] && at + width > limit)
            at = limit > width ? limit - width : 0;
        if (written && written + SPACES > at) {
            fputc('\n', out);
            written = 0;
        }
        fprintf(out, "%*s%s", (int)(at - written), "", cells[i]);
        written = at + width;
        column += widths[i] + SPACES;
    }
}

void tc_table_print(const TcTable *table, FILE *out, bool colors)
{
    unsigned rows = table->cells->len / table->columns, columns = UINT_MAX, lines;
    g_autofree unsigned *widths = NULL;

    if (isatty(fileno(out))) /* programs get a line for each row */
        tc_terminal_size(out, &columns, &lines);
    widths = fit(table, table->title ? columns - SPACES : columns);
    if (table->title)
        fprintf(out, "%s%s%s\n", colors ? "\033[1m" : "", table->title, colors ? "\033[0m" : "");
    if (!rows) {
        fputs(table->title ? "  none\n" : "none\n", out);
        return;
    }
    fputs(colors ? "\033[2m" : "", out);
    print_row(table, widths, columns, table->headers, out);
    fputs(colors ? "\033[0m\n" : "\n", out);
    for (unsigned i = 0; i < rows; i++) {
        print_row(table, widths, columns, (char *const *)&table->cells->pdata[i * table->columns],
                  out);
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
