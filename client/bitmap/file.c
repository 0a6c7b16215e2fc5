/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/bitmap/file.c: see the header. */
#include "client/bitmap/file.h"

#include "util/file.h"
#include "util/json.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

#define FORMAT    "tidemark-bitmap"
#define VERSION   1
#define SUM       "sha256 "
#define DIGITS    64u /* of the sum */
#define NO_BITMAP "'%s' is no bitmap: its first line is no JSON object with the format '" FORMAT "'"

/* ---- writing */

void tc_bitmap_file_begin(GString *text, json_object *head)
{
    g_autoptr(json_object) line = json_object_new_object();

    tm_json_add_string(line, "format", FORMAT);
    tm_json_add_uint(line, "version", VERSION);
    json_object_object_foreach(head, key, value)
    {
        json_object_object_add(line, key, json_object_get(value));
    }
    json_object_put(head);
    g_string_append(text, json_object_to_json_string_ext(line, JSON_C_TO_STRING_SPACED |
                                                                   JSON_C_TO_STRING_NOSLASHESCAPE));
    g_string_append_c(text, '\n');
}

void tc_bitmap_file_add(GString *text, const char *runs)
{
    if (*runs)
        g_string_append_printf(text, "%s\n", runs);
}

static char *sum_of(const char *text, size_t length)
{
    return g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)text, length);
}

void tc_bitmap_file_end(GString *text)
{
    g_autofree char *sum = sum_of(text->str, text->len);

    g_string_append_printf(text, SUM "%s\n", sum);
}

/* ---- reading */

void tc_bitmap_file_clear(TcBitmapFile *file)
{
    g_free(file->text);
    json_object_put(file->head);
    if (file->runs)
        g_ptr_array_unref(file->runs);
    *file = (TcBitmapFile){ 0 };
}

/* That the last line is the checksum of all before it, which it cuts off. */
static bool check_sum(TcBitmapFile *file, size_t *length, const char *path, GError **error)
{
    size_t line = strlen(SUM) + DIGITS + 1;
    char *last = *length > line ? file->text + *length - line : NULL;
    g_autofree char *sum = NULL;

    if (!last || last[-1] != '\n' || strncmp(last, SUM, strlen(SUM)) ||
        file->text[*length - 1] != '\n')
        return tm_error_set(error, "'%s' is cut off: its last line is no checksum", path);
    sum = sum_of(file->text, (size_t)(last - file->text));
    if (strncmp(last + strlen(SUM), sum, DIGITS))
        return tm_error_set(error, "'%s' is damaged: its checksum is not that of its content",
                            path);
    *last = '\0';
    *length = (size_t)(last - file->text);
    return true;
}

static bool is_number(json_object *head, const char *key)
{
    json_object *value = tc_json_get(head, key, NULL);

    return json_object_is_type(value, json_type_int) && json_object_get_int64(value) >= 0;
}

static bool check_head(const TcBitmapFile *file, const char *path, GError **error)
{
    json_object *disk = tc_json_get(file->head, "disk", NULL);

    if (g_strcmp0(tc_json_string(file->head, "format"), FORMAT))
        return tm_error_set(error, NO_BITMAP, path);
    if (tc_json_number(file->head, "version") != VERSION)
        return tm_error_set(error, "'%s' has version %" PRIu64 " of the format: only %d is known",
                            path, tc_json_number(file->head, "version"), VERSION);
    if (!tc_json_string(file->head, "name") || !is_number(file->head, "size") ||
        !is_number(file->head, "granularity") ||
        (disk && !json_object_is_type(disk, json_type_object)))
        return tm_error_set(error, "'%s' lacks the name, the size or the granularity of its bitmap",
                            path);
    return true;
}

/* The next line of *@text, cut off from the rest; NULL: there is none. */
static char *take_line(char **text)
{
    char *line = *text, *end = strchr(line, '\n');

    if (!*line)
        return NULL;
    *text = end ? end + 1 : line + strlen(line);
    if (end)
        *end = '\0';
    return line;
}

bool tc_bitmap_file_parse(char *text, size_t length, const char *path, TcBitmapFile *file,
                          GError **error)
{
    TcBitmapFile f = { .text = text };
    char *next = text, *line;
    bool ok;

    if (!g_str_has_prefix(text, "{") || strlen(text) != length)
        ok = tm_error_set(error, NO_BITMAP, path);
    else
        ok = check_sum(&f, &length, path, error);
    if (ok) {
        line = take_line(&next);
        f.head = json_tokener_parse(line);
        f.runs = g_ptr_array_new();
        ok = check_head(&f, path, error);
    }
    while (ok && (line = take_line(&next)))
        g_ptr_array_add(f.runs, line);
    if (ok)
        *file = f;
    else
        tc_bitmap_file_clear(&f);
    return ok;
}

static bool read_input(char **text, size_t *length, GError **error)
{
    g_autoptr(GString) all = g_string_new(NULL);
    char part[65536];
    ssize_t n;

    while ((n = read(STDIN_FILENO, part, sizeof(part))) != 0) {
        if (n < 0 && errno != EINTR)
            return tm_error_set_errno(error, errno, "Could not read standard input");
        if (n > 0)
            g_string_append_len(all, part, n);
        if (all->len > TC_BITMAP_FILE_MAX)
            return tm_error_set(error, "standard input has more than %zu bytes",
                                TC_BITMAP_FILE_MAX);
    }
    *length = all->len;
    *text = g_string_free(g_steal_pointer(&all), FALSE);
    return true;
}

bool tc_bitmap_file_read(const char *path, TcBitmapFile *file, GError **error)
{
    size_t length;
    char *text;

    return (path ? tm_file_read(path, TC_BITMAP_FILE_MAX, &text, &length, error)
                 : read_input(&text, &length, error)) &&
           tc_bitmap_file_parse(text, length, path ? path : "standard input", file, error);
}
