/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/schema/schema.c: query-qmp-schema and query-commands from the tables.
 *
 * The format is QEMU's SchemaInfo (qapi/introspect.json). Commands, events and built-in types go by
 * their names; other types by numbers, handed out as the walk from commands and events first meets
 * them, and arrays by their element's name in brackets: as QEMU does, so that nobody comes to rely
 * on type names. */
#include "qmp/schema/table.h"

#include "util/json.h"
#include <string.h>

typedef struct Schema {
    const QmpTypes *types;
    json_object *list;
    GHashTable *names; /* const QmpType * -> its name, owned */
    GPtrArray *queue;  /* types named and not yet described; grows while it is walked */
    unsigned next;
} Schema;

static json_object *entry(const char *name, const char *meta_type)
{
    json_object *e = json_object_new_object();

    json_object_object_add(e, "name", json_object_new_string(name));
    json_object_object_add(e, "meta-type", json_object_new_string(meta_type));
    return e;
}

/* The built-in type that the wire shows for a kind, or NULL. */
static const char *builtin(QmpKind kind)
{
    switch (kind) {
    case QMP_KIND_ANY:
        return "any";
    case QMP_KIND_NULL:
        return "null";
    case QMP_KIND_BOOL:
        return "bool";
    case QMP_KIND_STR:
        return "str";
    case QMP_KIND_INT:
    case QMP_KIND_UINT:
        return "int";
    default:
        return NULL;
    }
}

static const char *json_type_of(const char *name)
{
    static const char *const pairs[][2] = { { "any", "value" },
                                            { "null", "null" },
                                            { "bool", "boolean" },
                                            { "str", "string" },
                                            { "int", "int" } };

    for (size_t i = 0; i < G_N_ELEMENTS(pairs); i++)
        if (!strcmp(name, pairs[i][0]))
            return pairs[i][1];
    return NULL;
}

/* Describes a built-in type or an array once, under the name that makes it one. */
static void add_once(Schema *s, const char *name, json_object *(*describe)(const char *name))
{
    if (g_hash_table_contains(s->names, g_intern_string(name)))
        return;
    g_hash_table_insert(s->names, (void *)g_intern_string(name), g_strdup(name));
    json_object_array_add(s->list, describe(name));
}

static json_object *describe_builtin(const char *name)
{
    json_object *e = entry(name, "builtin");

    tm_json_add_string(e, "json-type", json_type_of(name));
    return e;
}

static json_object *describe_array(const char *name)
{
    json_object *e = entry(name, "array");
    g_autofree char *element = g_strndup(name + 1, strlen(name) - 2);

    tm_json_add_string(e, "element-type", element);
    return e;
}

/* The name of a type; a new one is queued to be described. Borrowed. */
static const char *name_of(Schema *s, const QmpType *type)
{
    const QmpType *t = qmp_types_resolve(s->types, type);
    const char *name = builtin(t->kind);

    if (name) {
        add_once(s, name, describe_builtin);
        return name;
    }
    if (t->kind == QMP_KIND_ARRAY) {
        g_autofree char *array = g_strdup_printf("[%s]", name_of(s, t->element));

        add_once(s, array, describe_array);
        return g_intern_string(array);
    }
    name = g_hash_table_lookup(s->names, t);
    if (!name) {
        name = g_strdup_printf("%u", s->next++);
        g_hash_table_insert(s->names, (void *)t, (void *)name);
        g_ptr_array_add(s->queue, (void *)t);
    }
    return name;
}

static json_object *enum_members(const QmpType *t)
{
    json_object *members = json_object_new_array();

    for (const char *const *v = t->values; *v; v++) {
        json_object *m = json_object_new_object();

        tm_json_add_string(m, "name", *v);
        json_object_array_add(members, m);
    }
    return members;
}

static json_object *string_array(const char *const *strings)
{
    json_object *array = json_object_new_array();

    for (; *strings; strings++)
        json_object_array_add(array, json_object_new_string(*strings));
    return array;
}

static json_object *object_members(Schema *s, const QmpType *t)
{
    json_object *members = json_object_new_array();

    for (const QmpMember *m = t->members; m && m->name; m++) {
        json_object *e = json_object_new_object();

        tm_json_add_string(e, "name", m->name);
        if (m->optional)
            json_object_object_add(e, "default", NULL);
        tm_json_add_string(e, "type", name_of(s, m->type));
        json_object_array_add(members, e);
    }
    return members;
}

/* QEMU lists a variant for every value of the tag. */
static json_object *object_variants(Schema *s, const QmpType *t)
{
    json_object *variants = json_object_new_array();

    for (const QmpVariant *v = t->variants; v && v->value; v++) {
        json_object *e = json_object_new_object();

        tm_json_add_string(e, "case", v->value);
        tm_json_add_string(e, "type", name_of(s, v->type));
        json_object_array_add(variants, e);
    }
    return variants;
}

static json_object *alternate_members(Schema *s, const QmpType *t)
{
    json_object *members = json_object_new_array();

    for (const QmpType *const *a = t->alternatives; *a; a++) {
        json_object *e = json_object_new_object();

        tm_json_add_string(e, "type", name_of(s, *a));
        json_object_array_add(members, e);
    }
    return members;
}

static json_object *describe(Schema *s, const QmpType *t)
{
    const char *name = g_hash_table_lookup(s->names, t);
    json_object *e;

    switch (t->kind) {
    case QMP_KIND_ENUM:
        e = entry(name, "enum");
        json_object_object_add(e, "members", enum_members(t));
        json_object_object_add(e, "values", string_array(t->values));
        return e;
    case QMP_KIND_ALTERNATE:
        e = entry(name, "alternate");
        json_object_object_add(e, "members", alternate_members(s, t));
        return e;
    default:
        e = entry(name, "object");
        json_object_object_add(e, "members", object_members(s, t));
        if (t->tag) {
            tm_json_add_string(e, "tag", t->tag);
            json_object_object_add(e, "variants", object_variants(s, t));
        }
        return e;
    }
}

static void add_command(Schema *s, const QmpCommand *c)
{
    json_object *e = entry(c->name, "command");
    const char *features[4] = { NULL };
    unsigned n = 0;

    tm_json_add_string(e, "arg-type", name_of(s, c->args));
    tm_json_add_string(e, "ret-type", name_of(s, c->result));
    if (c->flags & QMP_COMMAND_DEPRECATED)
        features[n++] = "deprecated";
    if (c->flags & QMP_COMMAND_UNSTABLE)
        features[n++] = "unstable";
    if (c->feature)
        features[n++] = c->feature;
    if (n)
        json_object_object_add(e, "features", string_array(features));
    json_object_array_add(s->list, e);
}

static void add_event(Schema *s, const QmpEvent *event)
{
    json_object *e = entry(event->name, "event");

    tm_json_add_string(e, "arg-type", name_of(s, event->data));
    json_object_array_add(s->list, e);
}

json_object *qmp_table_schema(const QmpTypes *types)
{
    Schema s = { types, json_object_new_array(), NULL, g_ptr_array_new(), 0 };

    s.names = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    for (const QmpFamily *const *f = qmp_families; *f; f++) {
        for (const QmpCommand *c = (*f)->commands; c->name; c++)
            add_command(&s, c);
        for (const QmpEvent *e = (*f)->events; e && e->name; e++)
            add_event(&s, e);
    }
    for (guint i = 0; i < s.queue->len; i++)
        json_object_array_add(s.list, describe(&s, g_ptr_array_index(s.queue, i)));
    g_hash_table_unref(s.names);
    g_ptr_array_unref(s.queue);
    return s.list;
}

json_object *qmp_table_commands(void)
{
    json_object *list = json_object_new_array();

    for (const QmpFamily *const *f = qmp_families; *f; f++)
        for (const QmpCommand *c = (*f)->commands; c->name; c++) {
            json_object *e = json_object_new_object();

            tm_json_add_string(e, "name", c->name);
            json_object_array_add(list, e);
        }
    return list;
}

const QmpCommand *qmp_table_command(const char *name)
{
    for (const QmpFamily *const *f = qmp_families; *f; f++)
        for (const QmpCommand *c = (*f)->commands; c->name; c++)
            if (!strcmp(c->name, name))
                return c;
    return NULL;
}
