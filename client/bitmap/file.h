/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/bitmap/file.h: a bitmap as a file, as docs/bitmap-file.md says: a line of JSON, lines of
 * runs, and a checksum. Threads: one at a time per file. */
#pragma once
#include "client/json.h"
#include "util/error.h"

#define TC_BITMAP_FILE_MAX ((size_t)1 << 30) /* bytes */

typedef struct TcBitmapFile {
    char *text;
    json_object *head; /* checked: "name", "size" and "granularity" are there */
    GPtrArray *runs;   /* const char *, borrowed: the lines, in order */
} TcBitmapFile;

/* @text (taken) as a file, of @length bytes and a NUL; @path is for messages. On failure there is
 * nothing to clear. Errors: it is no such file, of another version, or damaged. */
bool tc_bitmap_file_parse(char *text, size_t length, const char *path, TcBitmapFile *file,
                          GError **error);
/* The same of the file at @path; NULL: of standard input. */
bool tc_bitmap_file_read(const char *path, TcBitmapFile *file, GError **error);
void tc_bitmap_file_clear(TcBitmapFile *file);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(TcBitmapFile, tc_bitmap_file_clear)

/* The text of a file, in order: its head (taken), to which format and version are added; runs; the
 * checksum. */
void tc_bitmap_file_begin(GString *text, json_object *head);
void tc_bitmap_file_add(GString *text, const char *runs);
void tc_bitmap_file_end(GString *text);
