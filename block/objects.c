/* block/objects.c: the registry of user-created objects. */
#include "block/objects_int.h"

#include "util/error.h"
#include "util/identifier.h"
#include "util/sync.h"

#include <string.h>

struct BlkObjects {
    GPtrArray *list; /* BlkObject, a reference each */
};

static const BlkObjectClass *const classes[] = {
    &blk_secret_class,       &blk_authz_list_class,     &blk_authz_list_file_class,
    &blk_authz_simple_class, &blk_tls_creds_x509_class, &blk_tls_creds_psk_class,
};

static const char *const kinds[] = { "a secret", "TLS credentials", "an authorization object" };
G_STATIC_ASSERT(G_N_ELEMENTS(kinds) == BLK_OBJECT_KINDS);

/* ---- properties */

const char *blk_object_string(json_object *props, const char *name)
{
    json_object *value;

    return json_object_object_get_ex(props, name, &value) ? json_object_get_string(value) : NULL;
}

bool blk_object_bool(json_object *props, const char *name, bool otherwise)
{
    json_object *value;

    return json_object_object_get_ex(props, name, &value) ? json_object_get_boolean(value)
                                                          : otherwise;
}

/* ---- objects */

BlkObject *blk_object_ref(BlkObject *object)
{
    tm_ref(&object->refs);
    return object;
}

void blk_object_unref(BlkObject *object)
{
    if (!object || !tm_unref(&object->refs))
        return;
    object->class->clear(object);
    g_free(object->id);
    g_free(object);
}

const char *blk_object_id(const BlkObject *object)
{
    return object->id;
}

const char *blk_object_type(const BlkObject *object)
{
    return object->class->type;
}

bool blk_object_in_use(const BlkObject *object)
{
    return __atomic_load_n(&object->refs, __ATOMIC_ACQUIRE) > 1;
}

/* ---- the registry */

BlkObjects *blk_objects_new(void)
{
    BlkObjects *objects = g_new0(BlkObjects, 1);

    objects->list = g_ptr_array_new_with_free_func((GDestroyNotify)blk_object_unref);
    return objects;
}

void blk_objects_free(BlkObjects *objects)
{
    if (!objects)
        return;
    g_ptr_array_unref(objects->list);
    g_free(objects);
}

static BlkObject *find(BlkObjects *objects, const char *id)
{
    for (guint i = 0; i < objects->list->len; i++) {
        BlkObject *object = objects->list->pdata[i];

        if (g_str_equal(object->id, id))
            return object;
    }
    return NULL;
}

static BlkObject *must_find(BlkObjects *objects, const char *id, GError **error)
{
    BlkObject *object = find(objects, id);

    if (!object)
        tm_error_set(error, "object '%s' not found", id);
    return object;
}

bool blk_objects_add(BlkObjects *objects, const char *type, const char *id, json_object *props,
                     GError **error)
{
    const BlkObjectClass *class = NULL;
    BlkObject *object;

    for (size_t i = 0; i < G_N_ELEMENTS(classes); i++) {
        if (g_str_equal(classes[i]->type, type))
            class = classes[i];
    }
    if (!class)
        return tm_error_set(error, "invalid object type: %s", type);
    if (!tm_identifier(id))
        return tm_error_set(error,
                            "Parameter 'id' expects an identifier, not '%s': letters, digits, "
                            "'-', '.', '_', starting with a letter",
                            id);
    if (find(objects, id))
        return tm_error_set(error, "attempt to add duplicate property '%s' to object (type '%s')",
                            id, "container");
    object = g_malloc0(class->size);
    object->class = class;
    object->refs = 1;
    object->id = g_strdup(id);
    if (!class->init(object, objects, props, error)) {
        blk_object_unref(object);
        return false;
    }
    g_ptr_array_add(objects->list, object);
    return true;
}

bool blk_objects_del(BlkObjects *objects, const char *id, GError **error)
{
    BlkObject *object = must_find(objects, id, error);

    if (!object)
        return false;
    if (blk_object_in_use(object))
        return tm_error_set(error, "object '%s' is in use, can not be deleted", id);
    g_ptr_array_remove(objects->list, object);
    return true;
}

bool blk_objects_reload(BlkObjects *objects, const char *id, GError **error)
{
    BlkObject *object = must_find(objects, id, error);

    if (!object)
        return false;
    if (!object->class->reload)
        return tm_error_set(error, "object '%s' of type '%s' is not made of files", id,
                            object->class->type);
    return object->class->reload(object, error);
}

BlkObject *blk_objects_get(BlkObjects *objects, const char *id, BlkObjectKind kind, GError **error)
{
    BlkObject *object = find(objects, id);

    if (!object) {
        tm_error_set(error, "No %s with id '%s'",
                     kind == BLK_OBJECT_TLS_CREDS ? "TLS credentials"
                     : kind == BLK_OBJECT_SECRET  ? "secret"
                                                  : "authorization object",
                     id);
        return NULL;
    }
    if (object->class->kind != kind) {
        tm_error_set(error, "Object with id '%s' is not %s", id, kinds[kind]);
        return NULL;
    }
    return blk_object_ref(object);
}

GPtrArray *blk_objects_list(BlkObjects *objects)
{
    GPtrArray *list = g_ptr_array_new();

    g_ptr_array_extend(list, objects->list, NULL, NULL);
    return list;
}
