/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/text.h: sizes, percentages and words as people read and write them, and what the terminal
 * can show.
 *
 * Pure functions but for the tc_terminal_* ones, which read the environment. Threads: any. */
#pragma once
#include <glib.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

/* "0 B", "512 B", "64 KiB", "1.5 GiB": powers of 1024, one decimal unless exact. Returned. */
char *tc_human_size(uint64_t bytes);
/* "0 %", "<0.1 %", "12.3 %", "100 %"; only all of @whole is 100 %. Returned. */
char *tc_percent(uint64_t part, uint64_t whole);
/* "0:07", "12:34", "1:02:03". Returned. */
char *tc_clock(double seconds);
/* For narrow columns, at most five characters: "0", "512", "1.5K", "48.1M", "1023G", in powers of
 * 1024. Returned. */
char *tc_short_size(double bytes);
/* The same in powers of 1000: "12.3k". Returned. */
char *tc_short_count(double count);
/* "850ns", "12us", "1.2ms", "3.4s". Returned. */
char *tc_short_time(double ns);

/* A decimal or 0x number with an optional suffix B, k, M, G, T, P or E (powers of 1024, either
 * case, "KiB" and "kB" mean the same). False, and *bytes untouched, for anything else or past 2^64
 * - 1. */
bool tc_parse_size(const char *text, uint64_t *bytes);

/* @text with control characters and invalid UTF-8 replaced, fit for a terminal. Returned. */
char *tc_printable(const char *text);

/* The columns that @text (printable) takes on a terminal: wide characters take two, combining ones
 * none. */
unsigned tc_text_width(const char *text);
/* The length in bytes of the longest beginning of @text that fits @columns. */
size_t tc_text_fit(const char *text, unsigned columns);

/* Prints @text, cleaned, as a line that begins with @indent spaces; on a terminal, broken between
 * words where its width asks for that, further lines beginning with @hang spaces. */
void tc_print_wrapped(FILE *out, unsigned indent, unsigned hang, const char *text);
/* The same, for tests: broken before @columns (0: never). Returned. */
char *tc_wrapped(unsigned indent, unsigned hang, const char *text, unsigned columns);

/* Whether to colour what goes to @stream: a terminal that is not "dumb", and no NO_COLOR
 * (https://no-color.org). */
bool tc_terminal_colors(FILE *stream);
/* Whether the locale can show block characters. */
bool tc_terminal_utf8(void);
/* Columns and rows of the terminal of @stream, else of COLUMNS and LINES, else 80 by 24. */
void tc_terminal_size(FILE *stream, unsigned *columns, unsigned *rows);
