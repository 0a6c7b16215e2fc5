/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/json/document.c: one value that is a whole text, and a document: such a text with comments,
 * and with the lines of what is in it.
 *
 * Comments become spaces before the text is read, so that the dialect of QMP itself has none. */
#include "qmp/json/json.h"
#include "util/error.h"
#include <string.h>

typedef struct Single {
    unsigned n;
    json_object *value;
    GError *error;
} Single;

static void single_value(void *opaque, json_object *value, const GError *error)
{
    Single *single = opaque;

    if (single->n++ == 0) {
        single->value = json_object_get(value);
        single->error = error ? g_error_copy(error) : NULL;
    }
}

/* Of a text that has several values, or none. */
static void complain(Single *single, bool is_document)
{
    const char *message = single->n ? "Expecting at most one JSON value" : "Expecting a JSON value";

    if (is_document)
        message = single->n ? "expected the end of the file, as the JSON value before has ended"
                            : "expected a JSON value: the file is empty";
    tm_error_set(&single->error, "%s", message);
}

static bool parse(const char *text, json_object **value, QmpPlaces *places, GError **error)
{
    Single single = { 0 };
    QmpStream *s = qmp_stream_new(single_value, &single);

    qmp_stream_set_places(s, places);
    /* What follows the first error is in the wake of it. */
    for (const char *line = text, *next; *line && !single.error && single.n < 2; line = next) {
        next = line + strcspn(line, "\n");
        next += *next == '\n';
        qmp_stream_feed(s, line, (size_t)(next - line));
    }
    if (!single.error && single.n < 2)
        qmp_stream_end(s);
    qmp_stream_free(s);
    if (!single.error && single.n != 1)
        complain(&single, places != NULL);
    if (single.error) {
        json_object_put(single.value);
        g_propagate_error(error, single.error);
        return false;
    }
    *value = single.value;
    return true;
}

bool qmp_json_parse(const char *text, json_object **value, GError **error)
{
    return parse(text, value, NULL, error);
}

/* ---- comments */

/* The end of the string that begins at @s. */
static char *string_end(char *s)
{
    char quote = *s++;

    while (*s && *s != quote && *s != '\n')
        s += *s == '\\' && s[1] ? 2 : 1;
    return *s ? s + 1 : s;
}

/* The end of the comment that begins at @s; @s itself if none does; NULL: it has none. */
static char *comment_end(char *s)
{
    char *end;

    if (*s == '#' || (s[0] == '/' && s[1] == '/'))
        return s + strcspn(s, "\n");
    if (s[0] != '/' || s[1] != '*')
        return s;
    end = strstr(s + 2, "*/");
    return end ? end + 2 : NULL;
}

static unsigned line_of(const char *text, const char *at)
{
    unsigned line = 1;

    for (; text < at; text++)
        line += *text == '\n';
    return line;
}

static bool blank_comments(char *text, QmpPlaces *places, GError **error)
{
    for (char *s = text; *s;) {
        char *end = *s == '"' || *s == '\'' ? NULL : comment_end(s);

        if (*s == '"' || *s == '\'') {
            s = string_end(s);
        } else if (!end) {
            places->failed = line_of(text, s);
            return tm_error_set(error, "JSON parse error, a comment has no end");
        } else if (end == s) {
            s++;
        }
        for (; end && s < end; s++)
            *s = *s == '\n' ? '\n' : ' ';
    }
    return true;
}

bool qmp_json_parse_document(const char *text, json_object **value, QmpPlaces *places,
                             GError **error)
{
    g_autofree char *plain = g_strdup(text);
    bool ok;

    *places = (QmpPlaces){ .lines = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL) };
    ok = blank_comments(plain, places, error) && parse(plain, value, places, error);
    if (!ok && !places->failed)
        places->failed = line_of(plain, plain + strlen(plain));
    return ok;
}

void qmp_places_clear(QmpPlaces *places)
{
    g_clear_pointer(&places->lines, g_hash_table_unref);
}

unsigned qmp_places_line(const QmpPlaces *places, const char *path)
{
    g_autofree char *at = g_strdup(path);

    for (;;) {
        char *dot = strrchr(at, '.'), *bracket = strrchr(at, '[');
        unsigned line = GPOINTER_TO_UINT(g_hash_table_lookup(places->lines, at));
        char *end = dot && (!bracket || dot > bracket) ? dot : bracket;

        if (line || !end)
            return line ? line : 1;
        *end = '\0';
    }
}
