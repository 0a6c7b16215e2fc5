/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_json_stream.c: JSON from a stream of bytes, whole and in pieces, good and bad,
 * and written back. The error texts are those that qemu-storage-daemon 7.2 gives for the same
 * input. */
#include "qmp/json/json.h"
#include "tests/asserts.h"

#include <stdlib.h>
#include <string.h>

/* What a stream said: a line for each value ("v TEXT") and error ("e MESSAGE"). */
static void collect(void *opaque, json_object *value, const GError *error)
{
    GString *out = opaque;

    if (error) {
        g_string_append_printf(out, "e %s\n", error->message);
    } else {
        g_string_append(out, "v ");
        qmp_json_write(out, value, false);
        g_string_append_c(out, '\n');
    }
}

/* Feeds @text in pieces of @piece bytes; what was said (g_free). */
static char *feed(const char *text, size_t length, size_t piece)
{
    GString *out = g_string_new(NULL);
    QmpStream *stream = qmp_stream_new(collect, out);

    for (size_t at = 0; at < length; at += piece)
        qmp_stream_feed(stream, text + at, MIN(piece, length - at));
    qmp_stream_free(stream);
    return g_string_free(out, FALSE);
}

static const struct {
    const char *text, *said;
} cases[] = {
    { "{\"a\": [1, -2, true, false, null, \"x\"]}",
      "v {\"a\": [1, -2, true, false, null, \"x\"]}\n" },
    { " [] {} \r\n\t", "v []\nv {}\n" },
    { "1 null\n", "v 1\nv null\n" },
    { "'it\\'s'", "v \"it's\"\n" },
    { "{'execute':'q\\u0075it'}", "v {\"execute\": \"quit\"}\n" },
    { "'a\"b'", "v \"a\\\"b\"\n" },
    { "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "v \"\\\"\\\\/\\b\\f\\n\\r\\t\"\n" },
    { "\"\\u00e9\xc3\xa9\\ud834\\udd1e\"", "v \"\\u00E9\\u00E9\\uD834\\uDD1E\"\n" },
    { "\"\\u0000x\"", "v \"\\u0000x\"\n" },
    { "[18446744073709551615,9223372036854775808,-9223372036854775808]",
      "v [18446744073709551615, 9223372036854775808, -9223372036854775808]\n" },
    { "[99999999999999999999,-9223372036854775809,1.5,1e3,0.25E-1]",
      "v [99999999999999999999, -9223372036854775809, 1.5, 1e3, 0.25E-1]\n" },
    { "[\"]}\", '}']", "v [\"]}\", \"}\"]\n" },
    /* malformed: one error, then what follows is read again */
    { "}1\n", "e JSON parse error, expecting value\nv 1\n" },
    { "{\"a\" 1}", "e JSON parse error, missing : in object pair\n" },
    { "{\"a\":1,}", "e JSON parse error, expecting value\n" },
    { "{\"a\":1 \"b\":2}", "e JSON parse error, expected separator in dict\n" },
    { "{\"a\":}", "e JSON parse error, expecting value\n" },
    { "{\"a\":1,\"a\":2}", "e JSON parse error, duplicate key\n" },
    { "{1:2}", "e JSON parse error, key is not a string in object\n" },
    { "[1 2]", "e JSON parse error, expected separator in list\n" },
    { "[,]", "e JSON parse error, expecting value\n" },
    { "[1,2,}", "e JSON parse error, expecting value\n" },
    { "nul ", "e JSON parse error, invalid keyword 'nul'\n" },
    { "'\\x'", "e JSON parse error, invalid escape sequence in string\n" },
    { "'\\u12g4'", "e JSON parse error, \\u12g4 is not a valid Unicode character\n" },
    { "'\\ud800'", "e JSON parse error, \\ud800 is not a valid Unicode character\n" },
    { "'\\ud800\\u0041'", "e JSON parse error, \\ud800\\u0041 is not a valid Unicode character\n" },
    { "'\xc3'", "e JSON parse error, invalid UTF-8 sequence in string\n" },
    { "tRue\n1\n",
      "e JSON parse error, invalid keyword 't'\ne JSON parse error, stray 'R'\nv 1\n" },
    { "{\"a\":0x10}", "e JSON parse error, expected separator in dict\n" },
    { "{\"a\":01}1\n",
      "e JSON parse error, stray '01'\ne JSON parse error, expecting value\nv 1\n" },
    { "{\"a\":1.}\n1\n", "e JSON parse error, stray '1.}'\nv 1\n" },
    { "{\"a\":-}\n", "e JSON parse error, stray '-}'\n" },
    { "1e+ [2]", "e JSON parse error, stray '1e+ '\nv [2]\n" },
    { "{\"a\":\"line\nbreak\"}",
      "e JSON parse error, stray '\"line\n'\ne JSON parse error, expecting value\n" },
    { "%d\n[]", "e JSON parse error, stray '%'\nv []\n" },
    { "\xff{\"a\":1}", "e JSON parse error, stray '\xff'\nv {\"a\": 1}\n" },
    { "[[[{\"a\xff\n[]", "e JSON parse error, stray '\"a\xff'\nv []\n" },
    { "\xfe\xfe\xff[]", "e JSON parse error, stray '\xfe'\ne JSON parse error, stray '\xfe'\n"
                        "e JSON parse error, stray '\xff'\nv []\n" },
};

START_TEST(values_are_split_from_a_stream)
{
    size_t length = strlen(cases[_i].text);

    for (size_t piece = 1; piece <= length; piece++) {
        g_autofree char *said = feed(cases[_i].text, length, piece);

        ck_assert_str_eq(said, cases[_i].said);
    }
}
END_TEST

/* A good message after a bad one arrives, wherever the bad one was cut and whatever byte was put
 * in. */
START_TEST(a_stream_resynchronises_after_an_error)
{
    static const char good[] = "{'a': [1, {'b': \"x\\n\"}], 'c': 2.5, 'd': true}";
    static const char after[] = "\xff\n[7]\n";

    for (size_t cut = 1; cut < strlen(good); cut++) {
        for (unsigned byte = 0; byte < 256; byte++) {
            g_autofree char *text = g_strndup(good, strlen(good) + strlen(after));
            g_autofree char *said = NULL;
            size_t length = cut;

            text[length++] = (char)byte;
            memcpy(text + length, after, strlen(after));
            length += strlen(after);
            said = feed(text, length, length);
            ck_assert_msg(g_str_has_suffix(said, "v [7]\n"), "cut %zu, byte %u: %s", cut, byte,
                          said);
            ck_assert_msg(strstr(said, "e JSON") != NULL, "cut %zu, byte %u: %s", cut, byte, said);
        }
    }
}
END_TEST

static char *nested(unsigned depth)
{
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < depth; i++)
        g_string_append_c(text, '[');
    for (unsigned i = 0; i < depth; i++)
        g_string_append_c(text, ']');
    return g_string_free(text, FALSE);
}

START_TEST(depth_is_limited)
{
    g_autofree char *fits = nested(QMP_JSON_MAX_DEPTH), *too_deep = nested(QMP_JSON_MAX_DEPTH + 1);
    g_autofree char *good = feed(fits, strlen(fits), 100), *bad = NULL;

    ck_assert(g_str_has_prefix(good, "v [["));
    bad = feed(too_deep, strlen(too_deep), 100);
    ck_assert(g_str_has_prefix(bad, "e JSON nesting depth limit exceeded\n"));
}
END_TEST

START_TEST(tokens_are_limited)
{
    GString *text = g_string_new("[");
    g_autofree char *said = NULL;

    for (size_t i = 0; i < QMP_JSON_MAX_TOKENS / 2 + 1; i++)
        g_string_append(text, "1,");
    g_string_append(text, "\n{}");
    said = feed(text->str, text->len, 1 << 16);
    ck_assert(g_str_has_prefix(said, "e JSON token count limit exceeded\n"));
    ck_assert(g_str_has_suffix(said, "v {}\n"));
    g_string_free(text, TRUE);
}
END_TEST

START_TEST(length_is_limited)
{
    size_t length = QMP_JSON_MAX_BYTES + 8;
    char *text = g_malloc(length);
    g_autofree char *said = NULL;

    memset(text, 'x', length);
    text[0] = '"';
    memcpy(text + length - 3, "\n{}", 3);
    said = feed(text, length, 1 << 20);
    ck_assert_str_eq(said, "e JSON token size limit exceeded\nv {}\n");
    g_free(text);
}
END_TEST

static void parses(const char *text, const char *said)
{
    json_object *value = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *got = NULL;

    if (qmp_json_parse(text, &value, &error))
        got = qmp_json_text(value, false);
    else
        got = g_strdup(error->message);
    json_object_put(value);
    ck_assert_str_eq(got, said);
}

START_TEST(a_whole_text_is_one_value)
{
    parses("{\"a\":1}", "{\"a\": 1}");
    parses(" 12", "12");
    parses("null", "null");
    parses("", "Expecting a JSON value");
    parses("1 2", "Expecting at most one JSON value");
    parses("{\"a\":1,", "JSON parse error, premature EOI");
    parses("{\"a\"", "JSON parse error, premature EOI");
    parses("[1", "JSON parse error, premature EOI");
    parses("\"abc", "JSON parse error, stray '\"abc'");
    parses("1.", "JSON parse error, stray '1.'");
}
END_TEST

/* Comments are left out, in strings they are text; each value has the line of its key. */
START_TEST(a_document_has_comments_and_lines)
{
    static const char text[] =
        "# one\n{ // {\n 'a': /* [\n */ [ '#', \"/*\\\"//\",\n  {'b':\n 1}],\n"
        " 'c': {'d':\n 'x'} }\n# end";
    static const struct {
        const char *path;
        unsigned line;
    } places[] = { { "a", 3 },           { "a[1]", 4 }, { "a[2]", 5 },      { "a[2].b", 5 },
                   { "c", 7 },           { "c.d", 7 },  { "c.nothing", 7 }, { "a[9]", 3 },
                   { "a[2].b.c[1]", 5 }, { "", 1 } };
    json_object *value = NULL;
    g_autofree char *written = NULL;
    QmpPlaces at;

    ck_assert(qmp_json_parse_document(text, &value, &at, NULL));
    written = qmp_json_text(value, false);
    ck_assert_str_eq(written, "{\"a\": [\"#\", \"/*\\\"//\", {\"b\": 1}], \"c\": {\"d\": \"x\"}}");
    for (size_t i = 0; i < G_N_ELEMENTS(places); i++)
        ck_assert_uint_eq(qmp_places_line(&at, places[i].path), places[i].line);
    qmp_places_clear(&at);
    json_object_put(value);
}
END_TEST

/* The places of a hostile document take no more memory than its text explains. */
START_TEST(long_paths_have_no_places)
{
    GString *text = g_string_new("{\"a\":{\"");
    json_object *value = NULL;
    QmpPlaces at;

    for (int i = 0; i < 1000; i++)
        g_string_append_c(text, 'k');
    g_string_append(text, "\":[");
    for (int i = 0; i < 1000; i++)
        g_string_append(text, "\n0,");
    g_string_append(text, "0]}}");
    ck_assert(qmp_json_parse_document(text->str, &value, &at, NULL));
    ck_assert_uint_eq(g_hash_table_size(at.lines), 1);
    qmp_places_clear(&at);
    json_object_put(value);
    g_string_free(text, TRUE);
}
END_TEST

START_TEST(pretty_output_is_qemus)
{
    json_object *value = NULL;
    g_autofree char *text = NULL;

    ck_assert(qmp_json_parse("{'a':[1,{'b':2}],'c':{}}", &value, NULL));
    text = qmp_json_text(value, true);
    ck_assert_str_eq(text,
                     "{\n    \"a\": [\n        1,\n        {\n            \"b\": 2\n        }\n"
                     "    ],\n    \"c\": {\n    }\n}");
    json_object_put(value);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("json_stream");
    TCase *stream = tcase_create("stream");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(stream, 60);
    tcase_add_loop_test(stream, values_are_split_from_a_stream, 0, G_N_ELEMENTS(cases));
    tcase_add_test(stream, a_stream_resynchronises_after_an_error);
    tcase_add_test(stream, depth_is_limited);
    tcase_add_test(stream, tokens_are_limited);
    tcase_add_test(stream, length_is_limited);
    tcase_add_test(stream, a_whole_text_is_one_value);
    tcase_add_test(stream, a_document_has_comments_and_lines);
    tcase_add_test(stream, long_paths_have_no_places);
    tcase_add_test(stream, pretty_output_is_qemus);
    suite_add_tcase(suite, stream);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
