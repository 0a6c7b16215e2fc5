/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/schema.c: see schema.h. */
#include "client/daemon/schema.h"
#include "client/text.h"
#include "util/text.h"
#include <string.h>

struct TcSchema {
    json_object *array;
    GHashTable *by_name; /* borrowed strings to borrowed objects */
};

TcSchema *tc_schema_new(json_object *array)
{
    TcSchema *schema = g_new0(TcSchema, 1);

    schema->array = json_object_get(array);
    schema->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    for (size_t i = 0;
         json_object_is_type(array, json_type_array) && i < json_object_array_length(array); i++) {
        json_object *entry = json_object_array_get_idx(array, i);
        const char *name = tc_json_string(entry, "name");

        if (name)
            g_hash_table_insert(schema->by_name, (gpointer)name, entry);
    }
    return schema;
}

TcSchema *tc_schema_fetch(TcQmp *qmp)
{
    g_autoptr(json_object) array = tc_qmp_execute(qmp, "query-qmp-schema", NULL, NULL);

    return array ? tc_schema_new(array) : NULL;
}

void tc_schema_free(TcSchema *schema)
{
    if (!schema)
        return;
    g_hash_table_unref(schema->by_name);
    json_object_put(schema->array);
    g_free(schema);
}

/* The entry called @name if its meta-type is @meta. */
static json_object *find(const TcSchema *schema, const char *name, const char *meta)
{
    json_object *entry = schema && name ? g_hash_table_lookup(schema->by_name, name) : NULL;

    return g_strcmp0(tc_json_string(entry, "meta-type"), meta) ? NULL : entry;
}

const char *tc_schema_arguments(const TcSchema *schema, const char *command)
{
    return tc_json_string(find(schema, command, "command"), "arg-type");
}

const char *tc_schema_closest(const TcSchema *schema, const char *meta, const char *name)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    GHashTableIter iter;
    gpointer key;

    g_hash_table_iter_init(&iter, schema->by_name);
    while (g_hash_table_iter_next(&iter, &key, NULL))
        if (find(schema, key, meta))
            g_ptr_array_add(names, key);
    g_ptr_array_add(names, NULL);
    return tm_text_nearest(name, (const char *const *)names->pdata);
}

/* In @list, an array of objects, the "type" of the one whose @key is @value. */
static const char *type_in(json_object *list, const char *key, const char *value)
{
    for (size_t i = 0;
         json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
        json_object *item = json_object_array_get_idx(list, i);

        if (!g_strcmp0(tc_json_string(item, key), value))
            return tc_json_string(item, "type");
    }
    return NULL;
}

const char *tc_schema_member(const TcSchema *schema, const char *object_type, const char *member,
                             json_object *given)
{
    json_object *object = find(schema, object_type, "object");
    json_object *variants = tc_json_get(object, "variants", NULL);
    const char *type = type_in(tc_json_get(object, "members", NULL), "name", member);
    const char *tag = tc_json_string(object, "tag");
    const char *value = tag ? tc_json_string(given, tag) : NULL;

    if (type || !variants)
        return type;
    if (value)
        return tc_schema_member(schema, type_in(variants, "case", value), member, given);
    for (size_t i = 0; !type && i < json_object_array_length(variants); i++)
        type = tc_schema_member(
            schema, tc_json_string(json_object_array_get_idx(variants, i), "type"), member, given);
    return type;
}

const char *tc_schema_choice(const TcSchema *schema, const char *type, const char *meta)
{
    json_object *members = tc_json_get(find(schema, type, "alternate"), "members", NULL);

    if (find(schema, type, meta))
        return type;
    for (size_t i = 0; members && i < json_object_array_length(members); i++) {
        const char *choice = tc_json_string(json_object_array_get_idx(members, i), "type");

        if (find(schema, choice, meta))
            return choice;
    }
    return NULL;
}

const char *tc_schema_element(const TcSchema *schema, const char *array_type)
{
    return tc_json_string(find(schema, array_type, "array"), "element-type");
}

static unsigned builtin_kinds(const char *json_type)
{
    static const struct {
        const char *name;
        unsigned kinds;
    } kinds[] = {
        { "string", TC_JSON_STRING }, { "int", TC_JSON_INT },   { "number", TC_JSON_NUMBER },
        { "boolean", TC_JSON_BOOL },  { "null", TC_JSON_NULL }, { "object", TC_JSON_OBJECT },
        { "array", TC_JSON_ARRAY },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++)
        if (!g_strcmp0(json_type, kinds[i].name))
            return kinds[i].kinds;
    return TC_JSON_ANY;
}

unsigned tc_schema_kinds(const TcSchema *schema, const char *type)
{
    json_object *alternate = find(schema, type, "alternate"), *members;
    unsigned kinds = 0;

    if (find(schema, type, "enum"))
        return TC_JSON_STRING;
    if (find(schema, type, "object"))
        return TC_JSON_OBJECT;
    if (find(schema, type, "array"))
        return TC_JSON_ARRAY;
    if (!alternate)
        return builtin_kinds(tc_json_string(find(schema, type, "builtin"), "json-type"));
    members = tc_json_get(alternate, "members", NULL);
    for (size_t i = 0; members && i < json_object_array_length(members); i++)
        kinds |=
            tc_schema_kinds(schema, tc_json_string(json_object_array_get_idx(members, i), "type"));
    return kinds;
}

/* ---- for people */

static json_object *items(json_object *entry, const char *key, size_t *n)
{
    json_object *list = tc_json_get(entry, key, NULL);

    *n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
    return list;
}

/* "one of a, b, c". Returned. */
static char *enum_text(json_object *entry)
{
    g_autoptr(GString) text = g_string_new("one of ");
    size_t n;
    json_object *values = items(entry, "values", &n);

    for (size_t i = 0; i < n; i++)
        g_string_append_printf(text, "%s%s", i ? ", " : "",
                               json_object_get_string(json_object_array_get_idx(values, i)));
    return g_string_free(g_steal_pointer(&text), FALSE);
}

/* "string", "array of object", "string or object". Returned. */
static char *type_text(const TcSchema *schema, const char *type)
{
    static const struct {
        unsigned kind;
        const char *name;
    } kinds[] = {
        { TC_JSON_STRING, "string" }, { TC_JSON_INT, "integer" }, { TC_JSON_NUMBER, "number" },
        { TC_JSON_BOOL, "boolean" },  { TC_JSON_NULL, "null" },   { TC_JSON_OBJECT, "object" },
        { TC_JSON_ARRAY, "array" },
    };
    g_autoptr(GString) text = g_string_new(NULL);
    const char *element = tc_schema_element(schema, type);
    json_object *values = find(schema, type, "enum");
    unsigned all = tc_schema_kinds(schema, type);

    if (values)
        return enum_text(values);
    if (all == TC_JSON_ANY)
        return g_strdup("any");
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++)
        if (all & kinds[i].kind)
            g_string_append_printf(text, "%s%s", text->len ? " or " : "", kinds[i].name);
    if (element) {
        g_autofree char *inner =
            tc_schema_element(schema, element) ? g_strdup("array") : type_text(schema, element);

        g_string_append_printf(text, " of %s", inner);
    }
    return g_string_free(g_steal_pointer(&text), FALSE);
}

/* @with: "; with TAG=CASE", or "". */
static void append_members(const TcSchema *schema, const char *type, const char *with,
                           GString *text)
{
    size_t n;
    json_object *members = items(find(schema, type, "object"), "members", &n), *optional;

    for (size_t i = 0; i < n; i++) {
        json_object *member = json_object_array_get_idx(members, i);
        g_autofree char *of = type_text(schema, tc_json_string(member, "type"));

        optional = NULL; /* its default, null; what is required has no such key */
        g_string_append_printf(
            text, "  %s (%s%s%s)\n", tc_json_string(member, "name"), of,
            json_object_object_get_ex(member, "default", &optional) ? ", optional" : "", with);
    }
}

char *tc_schema_help(const TcSchema *schema, const char *command)
{
    g_autoptr(GString) text = g_string_new(NULL);
    const char *type = tc_schema_arguments(schema, command), *tag;
    json_object *object = find(schema, type, "object"), *variants;
    size_t n;

    if (!find(schema, command, "command"))
        return NULL;
    g_string_append_printf(text, "%s\n\nArguments:\n", command);
    append_members(schema, type, "", text);
    tag = tc_json_string(object, "tag");
    variants = items(object, "variants", &n);
    for (size_t i = 0; i < n; i++) {
        json_object *variant = json_object_array_get_idx(variants, i);
        g_autofree char *with =
            g_strdup_printf("; with %s=%s", tag, tc_json_string(variant, "case"));

        append_members(schema, tc_json_string(variant, "type"), with, text);
    }
    return g_string_free(g_steal_pointer(&text), FALSE);
}
