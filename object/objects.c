/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* object/objects.c: the registry of user-created objects. */
#include "object/objects_internal.h"

#include "util/error.h"
#include "util/identifier.h"
#include "util/sync.h"

#include <string.h>

struct TmObjects {
    GPtrArray *list; /* TmObject, a reference each */
};

/* In alphabetical order. */
static const TmObjectClass *const classes[] = {
    &tm_authz_list_class,    &tm_authz_list_file_class, &tm_authz_simple_class,
    &tm_iothread_class,      &tm_secret_class,          &tm_throttle_group_class,
    &tm_tls_creds_psk_class, &tm_tls_creds_x509_class,
};

static const char *const kinds[] = { "a secret", "TLS credentials", "an access list",
                                     "a throttle group", "an iothread" };
static const char *const parents[] = { "secret_common", "tls-creds", "authz", "object",
                                       "event-loop-base" };
G_STATIC_ASSERT(G_N_ELEMENTS(kinds) == TM_OBJECT_KINDS);
G_STATIC_ASSERT(G_N_ELEMENTS(parents) == TM_OBJECT_KINDS);

/* ---- properties */

const char *tm_object_string(json_object *props, const char *name)
{
    json_object *value;

    return json_object_object_get_ex(props, name, &value) ? json_object_get_string(value) : NULL;
}

char *tm_object_path(json_object *props, const char *name)
{
    const char *path = tm_object_string(props, name);
    g_autofree char *here = path && !g_path_is_absolute(path) ? g_get_current_dir() : NULL;

    return here ? g_build_filename(here, path, NULL) : g_strdup(path);
}

bool tm_object_bool(json_object *props, const char *name, bool otherwise)
{
    json_object *value;

    return json_object_object_get_ex(props, name, &value) ? json_object_get_boolean(value)
                                                          : otherwise;
}

/* ---- objects */

TmObject *tm_object_ref(TmObject *object)
{
    tm_ref(&object->refs);
    return object;
}

void tm_object_unref(TmObject *object)
{
    if (!object || !tm_unref(&object->refs))
        return;
    object->class->clear(object);
    json_object_put(object->given);
    g_free(object->id);
    g_free(object);
}

const char *tm_object_id(const TmObject *object)
{
    return object->id;
}

const char *tm_object_type(const TmObject *object)
{
    return object->class->type;
}

bool tm_object_in_use(const TmObject *object)
{
    return __atomic_load_n(&object->refs, __ATOMIC_ACQUIRE) > 1;
}

bool tm_object_has_files(const TmObject *object)
{
    return object->class->reload != NULL;
}

/* ---- types and properties */

static const TmObjectClass *class_of(const char *type)
{
    for (size_t i = 0; i < G_N_ELEMENTS(classes); i++) {
        if (g_str_equal(classes[i]->type, type))
            return classes[i];
    }
    return NULL;
}

const char *tm_objects_type(unsigned index)
{
    return index < G_N_ELEMENTS(classes) ? classes[index]->type : NULL;
}

const char *tm_objects_parent(const char *type)
{
    return parents[class_of(type)->kind];
}

bool tm_objects_has_type(const char *type)
{
    return class_of(type) != NULL;
}

static bool property_at(const TmObjectClass *class, unsigned index, const char **name,
                        const char **type)
{
    const TmProperty *p = class ? class->properties : NULL;

    for (unsigned i = 0; p && p->name && i < index; i++)
        p++;
    if (!p || !p->name)
        return false;
    *name = p->name;
    *type = p->type;
    return true;
}

bool tm_object_property(const TmObject *object, unsigned index, const char **name,
                        const char **type)
{
    return property_at(object->class, index, name, type);
}

bool tm_objects_property(const char *type, unsigned index, const char **name,
                         const char **property_type)
{
    return property_at(class_of(type), index, name, property_type);
}

static const TmProperty *find_property(const TmObject *object, const char *name, GError **error)
{
    const TmProperty *p = object->class->properties;

    while (p && p->name && !g_str_equal(p->name, name))
        p++;
    if (p && p->name)
        return p;
    tm_error_set(error, "Property '%s.%s' not found", object->class->type, name);
    return NULL;
}

/* What was given; of a secret, that it was. */
static json_object *readable(const TmObjectClass *class, json_object *props)
{
    json_object *given = json_object_new_object(), *value;

    for (const TmProperty *p = class->properties; p && p->name; p++) {
        if (!p->get && json_object_object_get_ex(props, p->name, &value))
            json_object_object_add(given, p->name,
                                   p->otherwise ? json_object_get(value)
                                                : json_object_new_string(TM_OBJECT_LEFT_OUT));
    }
    return given;
}

json_object *tm_object_given_with(const TmObject *object, const char *name, json_object *value)
{
    json_object *given = readable(object->class, object->given);

    json_object_object_add(given, name, json_object_get(value));
    return given;
}

void tm_object_set_given(TmObject *object, json_object *given)
{
    json_object_put(object->given);
    object->given = given;
}

static json_object *get_given(const TmObject *object, const TmProperty *p, GError **error)
{
    json_object *value;

    if (p->otherwise && json_object_object_get_ex(object->given, p->name, &value))
        return json_object_get(value);
    if (p->otherwise)
        return json_tokener_parse(p->otherwise);
    tm_error_set(error, "Property '%s.%s' is not readable", object->class->type, p->name);
    return NULL;
}

json_object *tm_object_get(TmObject *object, const char *property, GError **error)
{
    const TmProperty *p;

    if (g_str_equal(property, "type"))
        return json_object_new_string(object->class->type);
    p = find_property(object, property, error);
    if (!p)
        return NULL;
    return p->get ? p->get(object, property) : get_given(object, p, error);
}

/* QEMU's limits "x-..." are those of "limits" under other names, given at first only. */
static bool is_defining(const TmProperty *p)
{
    return !p->get || (p->set && !g_str_has_prefix(p->name, "x-"));
}

json_object *tm_object_definition(TmObject *object)
{
    json_object *definition = json_object_new_object(), *value;

    json_object_object_add(definition, "qom-type", json_object_new_string(object->class->type));
    json_object_object_add(definition, "id", json_object_new_string(object->id));
    for (const TmProperty *p = object->class->properties; p && p->name; p++) {
        if (!is_defining(p))
            continue;
        if (p->get)
            json_object_object_add(definition, p->name, p->get(object, p->name));
        else if (json_object_object_get_ex(object->given, p->name, &value))
            json_object_object_add(definition, p->name, json_object_get(value));
    }
    return definition;
}

bool tm_object_set(TmObject *object, const char *property, json_object *value, GError **error)
{
    bool type = g_str_equal(property, "type");
    const TmProperty *p = type ? NULL : find_property(object, property, error);

    if (!type && !p)
        return false;
    if (type || !p->set)
        return tm_error_set(error, "Property '%s.%s' is not writable", object->class->type,
                            property);
    return p->set(object, property, value, error);
}

/* ---- the registry */

TmObjects *tm_objects_new(void)
{
    TmObjects *objects = g_new0(TmObjects, 1);

    objects->list = g_ptr_array_new_with_free_func((GDestroyNotify)tm_object_unref);
    return objects;
}

void tm_objects_free(TmObjects *objects)
{
    if (!objects)
        return;
    g_ptr_array_unref(objects->list);
    g_free(objects);
}

TmObject *tm_objects_find(TmObjects *objects, const char *id)
{
    for (guint i = 0; i < objects->list->len; i++) {
        TmObject *object = objects->list->pdata[i];

        if (g_str_equal(object->id, id))
            return object;
    }
    return NULL;
}

static TmObject *must_find(TmObjects *objects, const char *id, GError **error)
{
    TmObject *object = tm_objects_find(objects, id);

    if (!object)
        tm_error_set(error, "object '%s' not found", id);
    return object;
}

bool tm_objects_add(TmObjects *objects, const char *type, const char *id, json_object *props,
                    GError **error)
{
    const TmObjectClass *class = class_of(type);
    TmObject *object;

    if (!class)
        return tm_error_set(error, "invalid object type: %s", type);
    if (!tm_identifier(id))
        return tm_error_set(error,
                            "Parameter 'id' expects an identifier, not '%s': letters, digits, "
                            "'-', '.', '_', starting with a letter",
                            id);
    if (tm_objects_find(objects, id))
        return tm_error_set(error, "attempt to add duplicate property '%s' to object (type '%s')",
                            id, "container");
    object = g_malloc0(class->size);
    object->class = class;
    object->refs = 1;
    object->id = g_strdup(id);
    object->given = readable(class, props);
    if (!class->init(object, objects, props, error)) {
        tm_object_unref(object);
        return false;
    }
    g_ptr_array_add(objects->list, object);
    return true;
}

bool tm_objects_del(TmObjects *objects, const char *id, GError **error)
{
    TmObject *object = must_find(objects, id, error);

    if (!object)
        return false;
    if (tm_object_in_use(object))
        return tm_error_set(error, "object '%s' is in use, can not be deleted", id);
    g_ptr_array_remove(objects->list, object);
    return true;
}

bool tm_objects_reload(TmObjects *objects, const char *id, GError **error)
{
    TmObject *object = must_find(objects, id, error);

    if (!object)
        return false;
    if (!object->class->reload)
        return tm_error_set(error, "object '%s' of type '%s' has no files to reload", id,
                            object->class->type);
    return object->class->reload(object, error);
}

/* Each as QEMU says it. */
static const char *const missing[] = {
    [TM_OBJECT_SECRET] = "No secret with id '%s'",
    [TM_OBJECT_TLS_CREDS] = "No TLS credentials with id '%s'",
    [TM_OBJECT_AUTHZ] = "No authorization object with id '%s'",
    [TM_OBJECT_THROTTLE_GROUP] = "Throttle group '%s' does not exist",
    [TM_OBJECT_IOTHREAD] = "iothread \"%s\" not found",
};
G_STATIC_ASSERT(G_N_ELEMENTS(missing) == TM_OBJECT_KINDS);

TmObject *tm_objects_get(TmObjects *objects, const char *id, TmObjectKind kind, GError **error)
{
    TmObject *object = tm_objects_find(objects, id);

    if (!object) {
        tm_error_set(error, missing[kind], id);
        return NULL;
    }
    if (object->class->kind != kind) {
        tm_error_set(error, "Object with id '%s' is not %s", id, kinds[kind]);
        return NULL;
    }
    return tm_object_ref(object);
}

GPtrArray *tm_objects_list(TmObjects *objects)
{
    GPtrArray *list = g_ptr_array_new();

    g_ptr_array_extend(list, objects->list, NULL, NULL);
    return list;
}
