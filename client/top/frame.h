/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/top/frame.h: lines of text that fit a terminal, built piece by piece.
 *
 * What doesn't fit a line is cut; names are cleaned with tc_printable. Threads: a frame belongs to
 * one. */
#pragma once
#include <glib.h>
#include <stdbool.h>

typedef enum {
    TC_STYLE_PLAIN,
    TC_STYLE_BAR,      /* the first and the last line */
    TC_STYLE_HEADER,   /* of a table */
    TC_STYLE_SORTED,   /* the column that the table is sorted by */
    TC_STYLE_SELECTED, /* a row */
    TC_STYLE_TITLE,
    TC_STYLE_DIM,
    TC_STYLE_GOOD, /* a bar */
    TC_STYLE_WARN,
    TC_STYLE_BAD,
    TC_STYLES
} TcStyle;

typedef struct TcFrame {
    unsigned columns;
    bool colors, utf8;
    GPtrArray *lines; /* char *: without a newline */
    GString *line;    /* the one that is not ended */
    unsigned used;    /* its columns */
} TcFrame;

TcFrame *tc_frame_new(unsigned columns, bool colors, bool utf8); /* returned */
void tc_frame_free(TcFrame *frame);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcFrame, tc_frame_free)

/* Appends @text. */
void tc_frame_put(TcFrame *frame, TcStyle style, const char *text);
/* Appends @text, in a field of @width columns: cut, or filled up at its right or (@right) its
 * left. */
void tc_frame_field(TcFrame *frame, TcStyle style, const char *text, unsigned width, bool right);
/* A bar of @width columns, of which @part (0 to 1) is full. */
void tc_frame_gauge(TcFrame *frame, TcStyle style, double part, unsigned width);
/* The last @width of @values as columns of different heights, the newest at the right. */
void tc_frame_history(TcFrame *frame, TcStyle style, const double *values, unsigned count,
                      unsigned width);
/* Ends the line; TC_STYLE_PLAIN, else it is filled up with that style. */
void tc_frame_end(TcFrame *frame, TcStyle style);
