/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/schema/visit.c: shows each value that a type knows, with its own type: which strings name
 * nodes, which files. */
#include "qmp/schema/table.h"

#include <string.h>

typedef struct Visit {
    const QmpTypes *types;
    QmpVisitFn fn;
    void *opaque;
    GString *path;
} Visit;

static void visit(Visit *v, const QmpType *type, const char *name, json_object *parent,
                  json_object *value);

static void visit_member(Visit *v, const QmpMember *m, json_object *object)
{
    json_object *value;
    gsize length = v->path->len;

    if (!json_object_object_get_ex(object, m->name, &value))
        return;
    g_string_append_printf(v->path, "%s%s", length ? "." : "", m->name);
    visit(v, m->type, m->name, object, value);
    g_string_truncate(v->path, length);
}

static void visit_object(Visit *v, const QmpType *t, json_object *object)
{
    json_object *tag = t->tag ? json_object_object_get(object, t->tag) : NULL;

    for (const QmpMember *m = t->members; m && m->name; m++)
        visit_member(v, m, object);
    for (const QmpVariant *variant = tag ? t->variants : NULL; variant && variant->value; variant++)
        if (!strcmp(variant->value, json_object_get_string(tag)))
            visit_object(v, qmp_types_resolve(v->types, variant->type), object);
}

static void visit_array(Visit *v, const QmpType *t, const char *name, json_object *parent,
                        json_object *array)
{
    gsize length = v->path->len;

    for (size_t i = 0; i < json_object_array_length(array); i++) {
        g_string_append_printf(v->path, "[%zu]", i);
        visit(v, t->element, name, parent, json_object_array_get_idx(array, i));
        g_string_truncate(v->path, length);
    }
}

/* Of an alternate, containers only: the scalars that stand for them have no members. */
static const QmpType *chosen(const Visit *v, const QmpType *t, json_object *value)
{
    for (const QmpType *const *a = t->alternatives; a && *a; a++) {
        const QmpType *type = qmp_types_resolve(v->types, *a);

        if ((type->kind == QMP_KIND_OBJECT && json_object_is_type(value, json_type_object)) ||
            (type->kind == QMP_KIND_ARRAY && json_object_is_type(value, json_type_array)))
            return type;
    }
    return t;
}

static void visit(Visit *v, const QmpType *type, const char *name, json_object *parent,
                  json_object *value)
{
    const QmpType *t = qmp_types_resolve(v->types, type);

    if (name)
        v->fn(v->opaque, &(QmpVisited){ v->path->str, name, type, parent, value });
    t = chosen(v, t, value);
    if (t->kind == QMP_KIND_OBJECT && json_object_is_type(value, json_type_object))
        visit_object(v, t, value);
    else if (t->kind == QMP_KIND_ARRAY && json_object_is_type(value, json_type_array))
        visit_array(v, t, name, parent, value);
}

void qmp_visit(const QmpTypes *types, const QmpType *type, json_object *value, QmpVisitFn fn,
               void *opaque)
{
    Visit v = { types, fn, opaque, g_string_new(NULL) };

    visit(&v, type, NULL, NULL, value);
    g_string_free(v.path, TRUE);
}
