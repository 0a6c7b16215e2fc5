/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/arguments.c: see arguments.h. */
#include "client/daemon/arguments.h"
#include "client/text.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { INDEX_MAX = 65535 };

/* A word on its way into the object. */
typedef struct Word {
    const TcSchema *schema;
    const char *key;   /* all of it, for messages */
    const char *value; /* text */
    json_object *json; /* of "KEY:=JSON": is_json; NULL is JSON's null */
    bool is_json;
} Word;

/* @text as one JSON value: a new reference in *value, which is NULL for "null". */
static bool parse_json(const char *text, json_object **value)
{
    json_tokener *tokener = json_tokener_new_ex(64);
    json_object *parsed;
    bool ok;

    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
    /* with the final NUL, without which a number could go on */
    parsed = json_tokener_parse_ex(tokener, text, (int)strlen(text) + 1);
    ok = json_tokener_get_error(tokener) == json_tokener_success &&
         json_tokener_get_parse_end(tokener) >= strlen(text);
    json_tokener_free(tokener);
    if (!ok) {
        json_object_put(parsed);
        return false;
    }
    *value = parsed;
    return true;
}

static bool parse_bool(const char *text, json_object **value)
{
    static const char *const yes[] = { "on", "true", "yes", "y", NULL };
    static const char *const no[] = { "off", "false", "no", "n", NULL };
    bool is = g_strv_contains(yes, text);

    if (!is && !g_strv_contains(no, text))
        return false;
    *value = json_object_new_boolean(is);
    return true;
}

static bool parse_int(const char *text, json_object **value)
{
    bool negative = *text == '-';
    uint64_t number;

    if (!tc_parse_size(text + negative, &number) || (negative && number > INT64_MAX))
        return false;
    if (negative)
        *value = json_object_new_int64(-(int64_t)number);
    else
        *value = json_object_new_uint64(number);
    return true;
}

static bool parse_number(const char *text, json_object **value)
{
    char *end;
    double number = g_ascii_strtod(text, &end);

    if (end == text || *end)
        return false;
    *value = json_object_new_double_s(number, text);
    return true;
}

/* A value of which the schema knows nothing: JSON's scalars, else a string. */
static json_object *guess(const char *text)
{
    json_object *value;

    if (parse_json(text, &value) && !json_object_is_type(value, json_type_array) &&
        !json_object_is_type(value, json_type_object))
        return value;
    return json_object_new_string(text);
}

/* The word's value as what @type may be. */
static bool convert(const Word *word, const char *type, json_object **value, GError **error)
{
    unsigned kinds = tc_schema_kinds(word->schema, type);
    const char *text = word->value;
    const char *expected = kinds & (TC_JSON_INT | TC_JSON_NUMBER) ? "a number"
                           : kinds & TC_JSON_BOOL                 ? "on or off"
                                                                  : "JSON";

    if (word->is_json) {
        *value = json_object_get(word->json);
        return true;
    }
    if (kinds == TC_JSON_ANY) {
        *value = guess(text);
        return true;
    }
    if ((kinds & TC_JSON_OBJECT && *text == '{') || (kinds & TC_JSON_ARRAY && *text == '['))
        if (parse_json(text, value))
            return true;
    if ((kinds & TC_JSON_INT && parse_int(text, value)) ||
        (kinds & TC_JSON_NUMBER && parse_number(text, value)) ||
        (kinds & TC_JSON_BOOL && parse_bool(text, value)))
        return true;
    if (kinds & TC_JSON_STRING) {
        *value = json_object_new_string(text);
        return true;
    }
    if (kinds == TC_JSON_NULL) {
        *value = NULL;
        return true;
    }
    if (kinds == TC_JSON_OBJECT)
        expected = "an object (as JSON, or its members with dots)";
    return tm_error_set(error, "argument '%s': '%s' is not %s", word->key, text, expected);
}

static bool place_member(const Word *word, json_object *object, const char *type, char **path,
                         GError **error);

/* Puts the word at @path, which may be empty, below the next element of @array. */
static bool place_element(const Word *word, json_object *array, const char *type, char **path,
                          GError **error)
{
    const char *element_type = tc_schema_element(word->schema, type);
    size_t length = json_object_array_length(array);
    json_object *value = NULL;
    guint64 index = length;

    if (*path && !g_ascii_string_to_unsigned(*path, 10, 0, INDEX_MAX, &index, NULL))
        return tm_error_set(error, "argument '%s': '%s' is not the number of an element", word->key,
                            *path);
    if (index > length)
        return tm_error_set(error, "argument '%s': element %zu has to come first", word->key,
                            length);
    if (*path && path[1]) {
        value = index < length ? json_object_array_get_idx(array, index) : NULL;
        if (!value) {
            value = json_object_new_object();
            json_object_array_put_idx(array, index, value);
        }
        if (!json_object_is_type(value, json_type_object))
            return tm_error_set(error, "argument '%s' contradicts an earlier one", word->key);
        return place_member(word, value, tc_schema_choice(word->schema, element_type, "object"),
                            path + 1, error);
    }
    if (index < length)
        return tm_error_set(error, "argument '%s' is given twice", word->key);
    if (!convert(word, element_type, &value, error))
        return false;
    json_object_array_put_idx(array, index, value);
    return true;
}

/* Whether what is at a key is an array, or is to be one: the schema says so, or there is a number
 * below it. */
static bool wants_array(const Word *word, const char *type, char **path)
{
    if (!type)
        return path[1] && g_ascii_isdigit(path[1][0]);
    if (!tc_schema_choice(word->schema, type, "array"))
        return false;
    return path[1] ? g_ascii_isdigit(path[1][0])
                   : !word->is_json && *word->value != '[' &&
                         tc_schema_kinds(word->schema, type) == TC_JSON_ARRAY;
}

/* Puts the word at @path below @object, whose schema type is @type or NULL. */
static bool place_member(const Word *word, json_object *object, const char *type, char **path,
                         GError **error)
{
    const char *member = tc_schema_member(word->schema, type, *path, object);
    bool array = wants_array(word, member, path);
    json_object *value = NULL;
    bool exists = json_object_object_get_ex(object, *path, &value);

    if (!**path)
        return tm_error_set(error, "argument '%s': a part of the key is empty", word->key);
    if (!array && !path[1]) {
        if (exists)
            return tm_error_set(error, "argument '%s' is given twice", word->key);
        if (!convert(word, member, &value, error))
            return false;
        json_object_object_add(object, *path, value);
        return true;
    }
    if (!exists) {
        value = array ? json_object_new_array() : json_object_new_object();
        json_object_object_add(object, *path, value);
    }
    if (!json_object_is_type(value, array ? json_type_array : json_type_object))
        return tm_error_set(error, "argument '%s' contradicts an earlier one", word->key);
    if (array)
        return place_element(word, value, tc_schema_choice(word->schema, member, "array"), path + 1,
                             error);
    return place_member(word, value, tc_schema_choice(word->schema, member, "object"), path + 1,
                        error);
}

static bool place_word(const TcSchema *schema, json_object *arguments, const char *type,
                       const char *text, GError **error)
{
    const char *equals = strchr(text, '=');
    g_autoptr(json_object) json = NULL;
    g_autofree char *key = NULL;
    g_auto(GStrv) path = NULL;
    Word word = { .schema = schema };

    if (!equals || equals == text)
        return tm_error_set(error, "'%s' is not of the form KEY=VALUE or KEY:=JSON", text);
    word.value = equals + 1;
    word.is_json = equals[-1] == ':';
    key = g_strndup(text, equals - text - word.is_json);
    word.key = key;
    if (word.is_json && !parse_json(word.value, &json))
        return tm_error_set(error, "argument '%s': '%s' is not JSON", key, word.value);
    word.json = json;
    path = g_strsplit(key, ".", -1);
    if (!*path)
        return tm_error_set(error, "'%s' is not of the form KEY=VALUE or KEY:=JSON", text);
    return place_member(&word, arguments, type, path, error);
}

json_object *tc_arguments_build(const TcSchema *schema, const char *command,
                                const char *const *words, GError **error)
{
    g_autoptr(json_object) arguments = json_object_new_object();
    const char *type = tc_schema_arguments(schema, command);

    for (; *words; words++)
        if (!place_word(schema, arguments, type, *words, error))
            return NULL;
    return json_object_get(arguments);
}
