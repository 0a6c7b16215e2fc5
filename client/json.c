/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/json.c: see json.h. */
#include "client/json.h"
#include <stdarg.h>

json_object *tc_json_get(json_object *object, ...)
{
    const char *key;
    va_list ap;

    va_start(ap, object);
    while ((key = va_arg(ap, const char *)) && object) {
        json_object *next = NULL;

        if (json_object_is_type(object, json_type_object))
            json_object_object_get_ex(object, key, &next);
        object = next;
    }
    va_end(ap);
    return object;
}

const char *tc_json_string(json_object *object, const char *key)
{
    json_object *value = tc_json_get(object, key, NULL);

    return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

uint64_t tc_json_number(json_object *object, const char *key)
{
    return json_object_get_uint64(tc_json_get(object, key, NULL));
}

size_t tc_json_length(json_object *array)
{
    return json_object_is_type(array, json_type_array) ? json_object_array_length(array) : 0;
}

bool tc_json_true(json_object *object, const char *key)
{
    return json_object_get_boolean(tc_json_get(object, key, NULL));
}

json_object *tc_json_new(const char *key, ...)
{
    json_object *object = json_object_new_object();
    va_list ap;

    va_start(ap, key);
    for (; key; key = va_arg(ap, const char *))
        json_object_object_add(object, key, json_object_new_string(va_arg(ap, const char *)));
    va_end(ap);
    return object;
}

void tc_json_print(json_object *object, FILE *out)
{
    int flags = JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE;
    g_autofree char *valid = NULL;

    /* json-c takes two lines for an object without members */
    if (json_object_is_type(object, json_type_object) && !json_object_object_length(object))
        flags = JSON_C_TO_STRING_PLAIN;
    /* Names of files may be any bytes. */
    valid = g_utf8_make_valid(json_object_to_json_string_ext(object, flags), -1);
    fprintf(out, "%s\n", valid);
}
