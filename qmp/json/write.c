/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/json/write.c: a json-c object as the text that QEMU writes.
 *
 * json-c's own serializer spaces and escapes differently, and shell scripts compare the text.
 * Strings that are not UTF-8 (a file's name, stray input in an error) show U+FFFD for each bad
 * byte. */
#include "qmp/json/json.h"
#include <math.h>
#include <string.h>

static void write_char(GString *out, gunichar c)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *at = c && c < 0x80 ? strchr(from, (int)c) : NULL;

    if (at)
        g_string_append_printf(out, "\\%c", to[at - from]);
    else if (c >= 0x20 && c < 0x7f)
        g_string_append_c(out, (char)c);
    else if (c < 0x10000)
        g_string_append_printf(out, "\\u%04X", c);
    else
        g_string_append_printf(out, "\\u%04X\\u%04X", 0xd800 + ((c - 0x10000) >> 10),
                               0xdc00 + ((c - 0x10000) & 0x3ff));
}

static void write_string(GString *out, const char *s, size_t length)
{
    const char *end = s + length;

    g_string_append_c(out, '"');
    while (s < end) {
        gunichar c = *s ? g_utf8_get_char_validated(s, end - s) : 0;

        if (c >= (gunichar)-2) {
            write_char(out, 0xfffd);
            s++;
        } else {
            write_char(out, c);
            s += *s ? g_utf8_skip[(guchar)*s] : 1;
        }
    }
    g_string_append_c(out, '"');
}

/* A number that was read has its text. */
static void write_double(GString *out, json_object *value)
{
    const char *given = json_object_get_userdata(value);
    char text[G_ASCII_DTOSTR_BUF_SIZE];
    double d = json_object_get_double(value);

    /* JSON has no infinities. */
    if (given)
        g_string_append(out, given);
    else
        g_string_append(out, isfinite(d) ? g_ascii_formatd(text, sizeof(text), "%.17g", d) : "0");
}

static void newline(GString *out, bool pretty, unsigned level)
{
    if (pretty)
        g_string_append_printf(out, "\n%*s", 4 * (int)level, "");
}

static void write_value(GString *out, json_object *value, bool pretty, unsigned level);

/* What precedes a member: the comma after the previous one. */
static void separate(GString *out, bool first, bool pretty, unsigned level)
{
    if (!first)
        g_string_append(out, pretty ? "," : ", ");
    newline(out, pretty, level);
}

static void write_object(GString *out, json_object *value, bool pretty, unsigned level)
{
    bool first = true;

    g_string_append_c(out, '{');
    json_object_object_foreach(value, key, member)
    {
        separate(out, first, pretty, level + 1);
        first = false;
        write_string(out, key, strlen(key));
        g_string_append(out, ": ");
        write_value(out, member, pretty, level + 1);
    }
    newline(out, pretty, level);
    g_string_append_c(out, '}');
}

static void write_array(GString *out, json_object *value, bool pretty, unsigned level)
{
    size_t n = json_object_array_length(value);

    g_string_append_c(out, '[');
    for (size_t i = 0; i < n; i++) {
        separate(out, i == 0, pretty, level + 1);
        write_value(out, json_object_array_get_idx(value, i), pretty, level + 1);
    }
    newline(out, pretty, level);
    g_string_append_c(out, ']');
}

static void write_value(GString *out, json_object *value, bool pretty, unsigned level)
{
    switch (json_object_get_type(value)) {
    case json_type_object:
        write_object(out, value, pretty, level);
        break;
    case json_type_array:
        write_array(out, value, pretty, level);
        break;
    case json_type_string:
        write_string(out, json_object_get_string(value), (size_t)json_object_get_string_len(value));
        break;
    case json_type_double:
        write_double(out, value);
        break;
    default: /* null, booleans and integers are the same everywhere */
        g_string_append(out, json_object_to_json_string(value));
    }
}

void qmp_json_write(GString *out, json_object *value, bool pretty)
{
    write_value(out, value, pretty, 0);
}

char *qmp_json_text(json_object *value, bool pretty)
{
    GString *out = g_string_new(NULL);

    qmp_json_write(out, value, pretty);
    return g_string_free(out, FALSE);
}
