/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/keyval.c: see keyval.h.
 *
 * A key is a path. While reading, every inner node is an object whose keys may all be numbers; the
 * numbered ones become arrays afterwards, since their members may come in any order. */
#include "qmp/keyval.h"
#include "qmp/json/json.h"
#include "util/error.h"
#include <string.h>

#define FRAGMENT_MAX 127

/* Deeper than any type goes, shallow enough to recurse. */
#define DEPTH_MAX 64

/* A QAPI name, with an optional __vendor_ prefix, is letters, digits, '-' and '_', a letter first;
 * an index is digits. @first: the first fragment of a key is no index. */
static bool fragment_valid(const char *s, size_t n, bool first)
{
    size_t digits = 0;

    if (n == 0)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (g_ascii_isdigit(s[i]))
            digits++;
        else if (!g_ascii_isalpha(s[i]) && s[i] != '-' && s[i] != '_')
            return false;
    }
    return digits == n ? !first : g_ascii_isalpha(s[0]) || (n > 2 && !strncmp(s, "__", 2));
}

/* Puts @value (taken; NULL: an object) under @name. The object or value that is there then,
 * borrowed; NULL if it is of the other kind. */
static json_object *put(json_object *parent, const char *name, json_object *value)
{
    json_object *old;
    json_type want = value ? json_type_string : json_type_object;

    if (json_object_object_get_ex(parent, name, &old)) {
        if (!json_object_is_type(old, want)) {
            json_object_put(value);
            return NULL;
        }
        if (!value)
            return old;
    }
    if (!value)
        value = json_object_new_object();
    json_object_object_add(parent, name, value);
    return value;
}

/* Walks the path @key of @length bytes and puts @value (taken) at its end. */
static bool put_path(json_object *root, const char *key, size_t length, json_object *value,
                     GError **error)
{
    json_object *at = root;
    const char *s = key, *end = key + length;

    for (unsigned depth = 0;; depth++) {
        const char *dot = memchr(s, '.', (size_t)(end - s));
        size_t n = (size_t)((dot ? dot : end) - s);
        char name[FRAGMENT_MAX + 1];

        if (!fragment_valid(s, n, s == key) || depth == DEPTH_MAX) {
            json_object_put(value);
            return tm_error_set(error, "Invalid parameter '%.*s'", (int)length, key);
        }
        if (n > FRAGMENT_MAX) {
            json_object_put(value);
            return tm_error_set(error, "Parameter%s '%.*s' is too long",
                                n == length ? "" : " fragment", (int)n, s);
        }
        memcpy(name, s, n);
        name[n] = 0;
        at = put(at, name, dot ? NULL : value);
        if (!at) {
            if (dot)
                json_object_put(value);
            return tm_error_set(error, "Parameters '%.*s.*' used inconsistently",
                                (int)(s + n - key), key);
        }
        if (!dot)
            return true;
        s = dot + 1;
    }
}

/* Reads a value up to its comma; @s ends after that. */
static json_object *read_value(const char **s)
{
    GString *text = g_string_new(NULL);
    json_object *value;

    while (**s && (**s != ',' || *++*s == ','))
        g_string_append_c(text, *(*s)++);
    value = json_object_new_string_len(text->str, (int)text->len);
    g_string_free(text, TRUE);
    return value;
}

static bool parse_one(json_object *root, const char **s, const char *implied_key, GError **error)
{
    const char *key = *s;
    size_t length = strcspn(key, "=,");

    if (implied_key && length && key[length] != '=') {
        key = implied_key;
        length = strlen(implied_key);
    } else if (key[length] != '=') {
        if (!length)
            return tm_error_set(error, "Invalid parameter ''");
        return tm_error_set(error, "Expected '=' after parameter '%.*s'", (int)length, key);
    } else {
        *s += length + 1;
    }
    return put_path(root, key, length, read_value(s), error);
}

static bool is_index(const char *name)
{
    return name[strspn(name, "0123456789")] == 0;
}

/* Makes the array of an object all of whose keys are indexes. */
static json_object *array_of(json_object *object, const char *path, GError **error)
{
    json_object *array = json_object_new_array();
    int n = json_object_object_length(object);

    for (int i = 0; i < n; i++) {
        char name[16];
        json_object *value;

        g_snprintf(name, sizeof(name), "%d", i);
        if (!json_object_object_get_ex(object, name, &value)) {
            json_object_put(array);
            tm_error_set(error, "Parameter '%s%d' missing", path, i);
            return NULL;
        }
        json_object_array_add(array, json_object_get(value));
    }
    return array;
}

/* Turns @object's indexed objects into arrays, from the leaves up. A reference to @object or to
 * what replaces it. @path ends with a dot, if it is not empty. */
static json_object *listify(json_object *object, const char *path, GError **error)
{
    bool indexes = false, names = false;

    json_object_object_foreach(object, key, value)
    {
        *(is_index(key) ? &indexes : &names) = true;
        if (json_object_is_type(value, json_type_object)) {
            g_autofree char *deeper = g_strconcat(path, key, ".", NULL);
            json_object *list = listify(value, deeper, error);

            if (!list)
                return NULL;
            if (list == value)
                json_object_put(list);
            else
                json_object_object_add(object, key, list);
        }
    }
    if (indexes && names) {
        tm_error_set(error, "Parameters '%s*' used inconsistently", path);
        return NULL;
    }
    return indexes ? array_of(object, path, error) : json_object_get(object);
}

json_object *qmp_keyval_parse(const char *text, const char *implied_key, GError **error)
{
    json_object *root = json_object_new_object(), *result = NULL;
    const char *s = text;
    bool ok = true;

    while (*s && ok) {
        ok = parse_one(root, &s, implied_key, error);
        implied_key = NULL;
    }
    if (ok)
        result = listify(root, "", error);
    json_object_put(root);
    return result;
}

json_object *qmp_option_parse(const QmpTypes *types, const QmpType *type, const char *text,
                              const char *implied_key, GError **error)
{
    json_object *value = NULL;
    bool ok;

    if (text[0] == '{') {
        ok = qmp_json_parse(text, &value, error) && qmp_check(types, type, value, error);
    } else {
        value = qmp_keyval_parse(text, implied_key, error);
        ok = value && qmp_check_keyval(types, type, value, error);
    }
    if (ok)
        return value;
    json_object_put(value);
    return NULL;
}
