/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/picture.h: a whole disk as a rectangle of characters, one cell a range.
 *
 * A cell shows the most important state that occurs anywhere in its range, so a single dirty
 * granule can't hide; the totals, in bytes, are exact. Extents are taken as they come and not kept.
 * Threads: a picture belongs to one. */
#pragma once
#include "client/chart/chart.h"
#include "client/cli.h"
#include "util/extent.h"
#include <glib.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

/* What a range of a disk holds, as people are shown it: the more important, the greater. */
typedef enum { TC_HOLE, TC_ZERO, TC_DATA, TC_DIRTY, TC_STATES } TcState;

/* base:allocation's flags (TM_STATE_*) as a state. */
static inline TcState tc_state_of_allocation(uint32_t flags)
{
    return flags & TM_STATE_HOLE ? TC_HOLE : flags & TM_STATE_ZERO ? TC_ZERO : TC_DATA;
}

#define TC_DRAWING_OPTIONS                                                                         \
    { "svg", "FILE", "draw the whole disk as SVG (-: to standard output)" },                       \
    {                                                                                              \
        "png", "FILE", "draw the whole disk as PNG (-: to standard output)"                        \
    }
/* Whether --picture, --svg or --png is given. */
bool tc_picture_wanted(const TcInvocation *inv);
/* That they and --json don't exclude each other. */
bool tc_picture_check(const TcInvocation *inv, bool json, GError **error);
/* Writes @chart to the files of --svg and --png. */
bool tc_picture_write(const TcInvocation *inv, const TcChart *chart, GError **error);

typedef struct TcPicture TcPicture;

/* How large a picture on the terminal of standard output is: --width columns, or the terminal's,
 * and the rows that leave room for the legend. With --svg or --png, how large a drawing is. */
bool tc_picture_size(const TcInvocation *inv, unsigned *columns, unsigned *rows, GError **error);

/* @columns and @rows bound the rectangle with the offsets at its left (legend and scale not
 * counted); @dirty says whether there is a bitmap, so that the legend knows. Returned. */
TcPicture *tc_picture_new(uint64_t size, unsigned columns, unsigned rows, bool dirty);
/* [@offset, @offset + @length) is in @state; @state_below is what a dirty range would be without
 * its bitmap, else the same. The range lies in the disk. */
void tc_picture_add(TcPicture *picture, uint64_t offset, uint64_t length, TcState state,
                    TcState state_below);
void tc_picture_print(const TcPicture *picture, FILE *out, bool colors, bool utf8);
/* The same as a chart, with @title and the name of the bitmap (or NULL) for drawings. Returned. */
TcChart *tc_picture_chart(const TcPicture *picture, const char *title, const char *bitmap);
void tc_picture_free(TcPicture *picture);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcPicture, tc_picture_free)

/* What it was drawn with, for whoever checks it: bytes a cell (a power of two), cells a row, cells
 * in all, and the state of one. */
uint64_t tc_picture_cell_size(const TcPicture *picture);
unsigned tc_picture_columns(const TcPicture *picture);
uint64_t tc_picture_cells(const TcPicture *picture);
TcState tc_picture_cell(const TcPicture *picture, uint64_t cell);
uint64_t tc_picture_total(const TcPicture *picture, TcState state);
