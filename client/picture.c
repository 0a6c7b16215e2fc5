/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/picture.c: see picture.h. */
#include "client/picture.h"
#include "client/text.h"
#include "util/extent.h"
#include "util/range.h"
#include <string.h>

enum { LABEL_WIDTH = 10, MIN_CELL = 512 };

typedef struct Style {
    const char *name, *ascii, *utf8, *color;
} Style;

/* Distinguished three times: by letter, by density and by colour. */
static const Style styles[] = {
    { "hole", ".", "\u00b7", "\033[90m" },
    { "zero", "o", "\u2591", "\033[36m" },
    { "data", "=", "\u2592", "\033[34m" },
    { "dirty", "#", "\u2588", "\033[1;31m" },
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
    unsigned usable = columns > LABEL_WIDTH + 1 ? columns - LABEL_WIDTH : 1;

    p->size = size;
    p->dirty = dirty;
    /* multiples of 16, so that rows begin at round offsets */
    p->columns = usable >= 16 ? usable / 16 * 16 : usable;
    p->cell = MIN_CELL;
    while (size / p->cell / p->columns >= MAX(rows, 1) && p->cell < (UINT64_C(1) << 62))
        p->cell *= 2;
    /* the test above leaves out a last, partly filled row that just fits */
    if (p->cell > MIN_CELL && size <= p->cell / 2 * p->columns * MAX(rows, 1))
        p->cell /= 2;
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

static void print_glyph(TcState state, unsigned times, FILE *out, bool colors, bool utf8)
{
    fputs(colors ? styles[state].color : "", out);
    while (times--)
        fputs(utf8 ? styles[state].utf8 : styles[state].ascii, out);
    fputs(colors ? "\033[0m" : "", out);
}

static void print_cells(const TcPicture *p, uint64_t row, FILE *out, bool colors, bool utf8)
{
    uint64_t i = row * p->columns, end = tm_min(i + p->columns, p->count);

    while (i < end) {
        TcState state = tc_picture_cell(p, i);
        unsigned run = 1;

        while (i + run < end && tc_picture_cell(p, i + run) == state)
            run++;
        print_glyph(state, run, out, colors, utf8);
        i += run;
    }
}

static void print_legend(const TcPicture *p, FILE *out, bool colors, bool utf8)
{
    for (int state = p->dirty ? TC_DIRTY : TC_DATA; state >= TC_HOLE; state--) {
        g_autofree char *human = tc_human_size(p->totals[state]);
        g_autofree char *percent = tc_percent(p->totals[state], p->size);

        fprintf(out, "%*s", LABEL_WIDTH, "");
        print_glyph(state, 1, out, colors, utf8);
        fprintf(out, " %-5s  %10s  %7s", styles[state].name, human, percent);
        if (state == TC_DIRTY && p->totals[state]) {
            g_autofree char *data = tc_human_size(p->dirty_below[TC_DATA]);
            g_autofree char *rest =
                tc_human_size(p->dirty_below[TC_ZERO] + p->dirty_below[TC_HOLE]);

            fprintf(out, "  (%s to read, %s of zeroes)", data, rest);
        }
        fputc('\n', out);
    }
}

void tc_picture_print(const TcPicture *p, FILE *out, bool colors, bool utf8)
{
    g_autofree char *size = tc_human_size(p->size);
    g_autofree char *cell = tc_human_size(p->cell);
    uint64_t rows = (p->count + p->columns - 1) / p->columns;

    for (uint64_t row = 0; row < rows; row++) {
        g_autofree char *label = tc_human_size(row * p->columns * p->cell);

        fprintf(out, "%s%*s%s ", colors ? "\033[2m" : "", LABEL_WIDTH - 1, label,
                colors ? "\033[0m" : "");
        print_cells(p, row, out, colors, utf8);
        fputc('\n', out);
    }
    if (rows)
        fputc('\n', out);
    print_legend(p, out, colors, utf8);
    fprintf(
        out,
        "%*sdisk of %s; each character stands for %s and shows the first of these states in it\n",
        LABEL_WIDTH, "", size, cell);
}

void tc_picture_free(TcPicture *p)
{
    if (!p)
        return;
    g_free(p->states);
    g_free(p);
}
