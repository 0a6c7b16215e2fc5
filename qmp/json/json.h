/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/json/json.h: JSON text in QEMU's dialect, to and from json-c objects.
 *
 * The dialect (QEMU docs/interop/qmp-spec) is RFC 8259 and, read but never written, strings in
 * single quotes and the escape \'. Integers that fit int64_t or uint64_t stay integers, others
 * become doubles. Duplicate keys, stray bytes and invalid UTF-8 are errors; their texts are QEMU's.
 *
 * Threads: any, one thread an object at a time. */
#pragma once
#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

/* What one message may not exceed; QEMU's limits. */
#define QMP_JSON_MAX_BYTES  ((size_t)64 << 20)
#define QMP_JSON_MAX_TOKENS ((size_t)2 << 20)
#define QMP_JSON_MAX_DEPTH  1024

/* ---- a stream of values --------------------------------------------------------------------- */

/* Called for each value (@error is NULL; @value, borrowed, may be NULL: JSON null) and for each
 * piece of malformed input (@error, borrowed). The stream must not be freed within. */
typedef void (*QmpStreamFn)(void *opaque, json_object *value, const GError *error);

typedef struct QmpStream QmpStream;
QmpStream *qmp_stream_new(QmpStreamFn fn, void *opaque);
void qmp_stream_free(QmpStream *stream); /* NULL is fine */
/* Takes in bytes as they come; a value may be split over any number of calls. After malformed input
 * reading resumes at the next structural character, control character, 0xFE or 0xFF. */
void qmp_stream_feed(QmpStream *stream, const char *bytes, size_t length);
/* The input has ended: what was begun and not finished is an error. */
void qmp_stream_end(QmpStream *stream);

/* Exactly one value in @text: true and *value (a reference, or NULL for null), or false. */
bool qmp_json_parse(const char *text, json_object **value, GError **error);

/* ---- documents: files that people write ------------------------------------------------------ */

/* Where things are in a document. */
typedef struct QmpPlaces {
    GHashTable
        *lines;      /* the line (GUINT_TO_POINTER(), from 1 on) of the value at a path, "a.b[0]" */
    unsigned failed; /* the line of an error */
} QmpPlaces;

/* The places of paths longer than this are not kept: memory follows the text. */
#define QMP_PLACE_MAX 128

/* As qmp_json_parse(), with comments (from '#' or two slashes to the end of the line, and between
 * slash-star and star-slash), and places->failed on an error. */
bool qmp_json_parse_document(const char *text, json_object **value, QmpPlaces *places,
                             GError **error);
void qmp_places_clear(QmpPlaces *places);
/* The line of @path, or of the nearest that it is in. */
unsigned qmp_places_line(const QmpPlaces *places, const char *path);

/* ---- one value from its tokens (stream.c to parse.c) ------------------------------- */

typedef enum {
    QMP_TOKEN_PUNCT,
    QMP_TOKEN_STRING,
    QMP_TOKEN_INT,
    QMP_TOKEN_FLOAT,
    QMP_TOKEN_WORD
} QmpTokenType;

typedef struct QmpToken {
    QmpTokenType type;
    uint32_t offset, length; /* of its text; a string's with its quotes */
    uint32_t line;           /* where it begins; from 1 on */
} QmpToken;

/* The value that begins at the first token. Nesting is within QMP_JSON_MAX_DEPTH. @places: NULL:
 * nobody wants to know. */
bool qmp_json_parse_tokens(const char *text, const QmpToken *tokens, size_t n, json_object **value,
                           QmpPlaces *places, GError **error);
/* Where errors of the lexer are noted. stream.c */
void qmp_stream_set_places(QmpStream *stream, QmpPlaces *places);

/* ---- writing --------------------------------------------------------------------------------- */

/* Appends @value as QEMU writes it: ASCII only, a space after ':' and ',', or, @pretty, a member a
 * line with four spaces for a level. No newline at the end. */
void qmp_json_write(GString *out, json_object *value, bool pretty);
/* The same, returned (g_free). */
char *qmp_json_text(json_object *value, bool pretty);
