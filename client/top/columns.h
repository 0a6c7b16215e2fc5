/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/top/columns.h: JSON objects as rows of a table that fits a terminal.
 *
 * The columns that matter least are left out where the terminal is narrow, and columns of text grow
 * where it is wide. Threads: any. */
#pragma once
#include "client/top/frame.h"
#include <json-c/json.h>

typedef enum {
    TC_COLUMN_TEXT, /* at the left of its field; the others at the right */
    TC_COLUMN_COUNT,
    TC_COLUMN_SIZE,
    TC_COLUMN_GROWTH, /* a size with its sign */
    TC_COLUMN_TIME,   /* ns */
    TC_COLUMN_CLOCK,  /* s */
} TcColumnFormat;

typedef struct TcColumn {
    const char *title;    /* NULL ends a table */
    unsigned width, keep; /* columns, with the blank between; the greater, the longer it is kept */
    TcColumnFormat format;
    const char *member, *inner; /* of the row, and in that one or NULL */
} TcColumn;

/* The value of a column in @row, for sorting; less than every other if it has none. */
double tc_column_value(const TcColumn *column, json_object *row);
/* The same as text, "-" if it has none. Returned. */
char *tc_column_text(const TcColumn *column, json_object *row);
/* The headers and @rows from @first to before @end. @sorted: the column whose header is marked;
 * @selected: the row that is; -1: none. */
void tc_columns_draw(TcFrame *frame, const TcColumn *columns, json_object *const *rows,
                     unsigned first, unsigned end, int sorted, int selected);
