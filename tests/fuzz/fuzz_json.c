/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/fuzz/fuzz_json.c: the monitor's input, and configuration files. Asserts that how the bytes
 * are split does not matter, and that what is written reads back as the same. The first byte is
 * where the input is split. */
#include "qmp/json/json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void collect(void *opaque, json_object *value, const GError *error)
{
    GString *seen = opaque;

    if (error) {
        g_string_append_printf(seen, "error: %s\n", error->message);
        return;
    }
    qmp_json_write(seen, value, false);
    g_string_append_c(seen, '\n');
}

static GString *read_all(const char *text, size_t size, size_t piece)
{
    GString *seen = g_string_new(NULL);
    QmpStream *stream = qmp_stream_new(collect, seen);

    for (size_t at = 0; at < size; at += piece)
        qmp_stream_feed(stream, text + at, MIN(piece, size - at));
    qmp_stream_end(stream);
    qmp_stream_free(stream);
    return seen;
}

static void reread(const char *text)
{
    json_object *value = NULL;

    if (!qmp_json_parse(text, &value, NULL))
        return;
    for (int pretty = 0; pretty < 2; pretty++) {
        g_autofree char *first = qmp_json_text(value, pretty), *second = NULL;
        json_object *again = NULL;

        if (!qmp_json_parse(first, &again, NULL))
            abort();
        second = qmp_json_text(again, pretty);
        if (strcmp(first, second))
            abort();
        json_object_put(again);
    }
    json_object_put(value);
}

/* A document is the value without its comments, and each place is a line of it; an error is at one,
 * too. */
static void read_document(const char *text)
{
    json_object *value = NULL;
    QmpPlaces places;
    unsigned lines = 1;
    GHashTableIter iter;
    void *path, *line;

    for (const char *s = text; *s; s++)
        lines += *s == '\n';
    if (!qmp_json_parse_document(text, &value, &places, NULL) &&
        (places.failed < 1 || places.failed > lines))
        abort();
    g_hash_table_iter_init(&iter, places.lines);
    while (g_hash_table_iter_next(&iter, &path, &line)) {
        if (qmp_places_line(&places, path) != GPOINTER_TO_UINT(line) ||
            GPOINTER_TO_UINT(line) > lines || strlen(path) > QMP_PLACE_MAX)
            abort();
    }
    qmp_places_clear(&places);
    json_object_put(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = NULL;
    GString *whole, *pieces;

    if (size < 1 || size > 65536)
        return 0;
    text = g_strndup((const char *)data + 1, size - 1);
    whole = read_all((const char *)data + 1, size - 1, size);
    pieces = read_all((const char *)data + 1, size - 1, 1 + data[0] % 16);
    if (!g_string_equal(whole, pieces))
        abort();
    g_string_free(whole, TRUE);
    g_string_free(pieces, TRUE);
    reread(text);
    read_document(text);
    return 0;
}
