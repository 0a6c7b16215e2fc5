/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/json/parse.c: a JSON value from its tokens, by recursive descent.
 *
 * The depth is bounded by whoever collected the tokens. Every error is "JSON parse error, ...". */
#include "qmp/json/json.h"
#include "util/error.h"
#include <errno.h>
#include <stdarg.h>
#include <string.h>

typedef struct Parser {
    const char *text;
    const QmpToken *next, *end;
    QmpPlaces *places; /* or NULL */
    GString *path;     /* of the value that is next; if there are places */
    GError **error;
} Parser;

static bool fail(Parser *p, const char *format, ...) G_GNUC_PRINTF(2, 3);

static bool fail(Parser *p, const char *format, ...)
{
    va_list ap;
    g_autofree char *what = NULL;

    va_start(ap, format);
    what = g_strdup_vprintf(format, ap);
    va_end(ap);
    if (p->places)
        p->places->failed = (p->next == p->end ? p->next[-1] : *p->next).line;
    return tm_error_set(p->error, "JSON parse error, %s", what);
}

/* ---- where it is */

/* Goes down to the member @key, or to element @index; what leave() takes. */
static gsize enter(Parser *p, const char *key, size_t index)
{
    gsize length = p->places ? p->path->len : 0;

    if (p->places && key)
        g_string_append_printf(p->path, "%s%s", length ? "." : "", key);
    else if (p->places)
        g_string_append_printf(p->path, "[%zu]", index);
    return length;
}

static void leave(Parser *p, gsize length)
{
    if (p->places)
        g_string_truncate(p->path, length);
}

/* The value begins at the next token. */
static void note_place(Parser *p, unsigned line)
{
    if (p->places && p->path->len <= QMP_PLACE_MAX)
        g_hash_table_insert(p->places->lines, g_strdup(p->path->str), GUINT_TO_POINTER(line));
}

/* ---- values */

/* Whether the next token is the punctuation @c; it is then taken. */
static bool take(Parser *p, char c)
{
    if (p->next == p->end || p->next->type != QMP_TOKEN_PUNCT || p->text[p->next->offset] != c)
        return false;
    p->next++;
    return true;
}

static bool hex4(const char *s, const char *end, gunichar *c)
{
    *c = 0;
    if (end - s < 4)
        return false;
    for (int i = 0; i < 4; i++) {
        int digit = g_ascii_xdigit_value(s[i]);

        if (digit < 0)
            return false;
        *c = *c << 4 | (gunichar)digit;
    }
    return true;
}

/* The escape \uXXXX, of which *s is past the u, or two that make a surrogate pair. */
static bool unescape_unicode(Parser *p, const char **s, const char *end, GString *out)
{
    const char *begin = *s - 2;
    gunichar c, low;

    if (!hex4(*s, end, &c))
        return fail(p, "%.*s is not a valid Unicode character", (int)MIN(end - begin, 6), begin);
    *s += 4;
    if (c >= 0xd800 && c <= 0xdbff && end - *s >= 6 && (*s)[0] == '\\' && (*s)[1] == 'u' &&
        hex4(*s + 2, end, &low)) {
        *s += 6;
        if (low >= 0xdc00 && low <= 0xdfff)
            c = 0x10000 + ((c & 0x3ff) << 10 | (low & 0x3ff));
    }
    if ((c >= 0xd800 && c <= 0xdfff) || (c >= 0xfdd0 && c <= 0xfdef) || (c & 0xfffe) == 0xfffe)
        return fail(p, "%.*s is not a valid Unicode character", (int)(*s - begin), begin);
    /* g_string_append_unichar() takes a NUL for the end of the string. */
    if (c)
        g_string_append_unichar(out, c);
    else
        g_string_append_c(out, 0);
    return true;
}

static bool unescape(Parser *p, const char **s, const char *end, GString *out)
{
    static const char from[] = "\"'\\/bfnrt", to[] = "\"'\\/\b\f\n\r\t";
    char c = *(*s)++;
    const char *at;

    if (c == 'u')
        return unescape_unicode(p, s, end, out);
    at = c ? strchr(from, c) : NULL;
    if (!at)
        return fail(p, "invalid escape sequence in string");
    g_string_append_c(out, to[at - from]);
    return true;
}

static json_object *string(Parser *p, const QmpToken *t)
{
    const char *s = p->text + t->offset + 1, *end = p->text + t->offset + t->length - 1;
    GString *out;
    json_object *value = NULL;

    if (!g_utf8_validate(s, end - s, NULL)) {
        fail(p, "invalid UTF-8 sequence in string");
        return NULL;
    }
    out = g_string_sized_new((gsize)(end - s));
    while (s < end) {
        if (*s != '\\')
            g_string_append_c(out, *s++);
        else if (s++, !unescape(p, &s, end, out))
            goto out;
    }
    value = json_object_new_string_len(out->str, (int)out->len);
out:
    g_string_free(out, TRUE);
    return value;
}

static json_object *number(const char *text, bool integer)
{
    char *end;

    if (integer) {
        gint64 i;

        errno = 0;
        i = g_ascii_strtoll(text, &end, 10);
        if (!errno)
            return json_object_new_int64(i);
        errno = 0;
        if (*text != '-') {
            guint64 u = g_ascii_strtoull(text, &end, 10);

            if (!errno)
                return json_object_new_uint64(u);
        }
    }
    /* With its text, so that what is echoed is what came. */
    return json_object_new_double_s(g_ascii_strtod(text, &end), text);
}

static bool scalar(Parser *p, const QmpToken *t, json_object **value)
{
    g_autofree char *text = NULL;

    if (t->type == QMP_TOKEN_STRING)
        return (*value = string(p, t)) != NULL;
    text = g_strndup(p->text + t->offset, t->length);
    if (t->type != QMP_TOKEN_WORD)
        return (*value = number(text, t->type == QMP_TOKEN_INT)) != NULL;
    if (!strcmp(text, "null"))
        *value = NULL;
    else if (!strcmp(text, "true") || !strcmp(text, "false"))
        *value = json_object_new_boolean(*text == 't');
    else
        return fail(p, "invalid keyword '%s'", text);
    return true;
}

static bool parse(Parser *p, json_object **value);

/* The value of a pair, whose place is that of its key. */
static bool member(Parser *p, const char *key, unsigned line, json_object **value)
{
    gsize up = enter(p, key, 0);
    bool ok;

    note_place(p, line);
    ok = parse(p, value);
    leave(p, up);
    return ok;
}

static bool pair(Parser *p, json_object *object)
{
    json_object *key = NULL, *value = NULL;
    unsigned line = p->next < p->end ? p->next->line : 0;
    bool ok;

    if (!parse(p, &key))
        return false;
    if (!json_object_is_type(key, json_type_string))
        ok = fail(p, "key is not a string in object");
    else if (p->next == p->end)
        ok = fail(p, "premature EOI");
    else if (!take(p, ':'))
        ok = fail(p, "missing : in object pair");
    else if (!member(p, json_object_get_string(key), line, &value))
        ok = false;
    else if (json_object_object_get_ex(object, json_object_get_string(key), NULL))
        ok = fail(p, "duplicate key");
    else
        ok = !json_object_object_add(object, json_object_get_string(key), json_object_get(value));
    json_object_put(value);
    json_object_put(key);
    return ok;
}

static bool element(Parser *p, json_object *array)
{
    json_object *value = NULL;
    gsize up = enter(p, NULL, json_object_array_length(array));
    bool ok;

    note_place(p, p->next < p->end ? p->next->line : 0);
    ok = parse(p, &value) && !json_object_array_add(array, value);
    leave(p, up);
    return ok;
}

/* The rest of an object or an array, whose opening bracket has been taken. */
static bool container(Parser *p, bool object, json_object **value)
{
    json_object *c = object ? json_object_new_object() : json_object_new_array();
    char close = object ? '}' : ']';
    bool ok = true, more = !take(p, close);

    while (ok && more) {
        ok = object ? pair(p, c) : element(p, c);
        if (!ok || take(p, close))
            break;
        if (p->next == p->end)
            ok = fail(p, "premature EOI");
        else if (!take(p, ','))
            ok = fail(p, "expected separator in %s", object ? "dict" : "list");
    }
    if (!ok) {
        json_object_put(c);
        return false;
    }
    *value = c;
    return true;
}

static bool parse(Parser *p, json_object **value)
{
    if (p->next == p->end)
        return fail(p, "premature EOI");
    if (take(p, '{'))
        return container(p, true, value);
    if (take(p, '['))
        return container(p, false, value);
    if (p->next->type == QMP_TOKEN_PUNCT)
        return fail(p, "expecting value");
    return scalar(p, p->next++, value);
}

bool qmp_json_parse_tokens(const char *text, const QmpToken *tokens, size_t n, json_object **value,
                           QmpPlaces *places, GError **error)
{
    Parser p = { text, tokens, tokens + n, places, NULL, error };
    bool ok;

    if (!places)
        return parse(&p, value);
    p.path = g_string_new(NULL);
    ok = parse(&p, value);
    g_string_free(p.path, TRUE);
    return ok;
}
