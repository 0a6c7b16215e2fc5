/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/table.h: rows in columns as wide as their widest cell, two spaces apart. On a terminal
 * that is too narrow for that, a long cell ends its line, and its row goes on in the next one.
 *
 * Cells are cleaned with tc_printable, so that a server's names can't control the terminal.
 * Threads: a table belongs to one. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdio.h>

typedef struct TcTable TcTable;

/* @title (borrowed for the call, may be NULL) goes over the table; @headers are separated by '|',
 * one that begins with '>' is right-aligned. Returned. */
TcTable *tc_table_new(const char *title, const char *headers);
/* Adds one row: as many strings (copied; NULL shows as "-") as there are headers. */
void tc_table_add(TcTable *table, ...);
/* The table, or the title and "none" if it has no rows. */
void tc_table_print(const TcTable *table, FILE *out, bool colors);
void tc_table_free(TcTable *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcTable, tc_table_free)
