/* block/objects.h: objects that users create and name: secrets, TLS credentials, lists of who may
 * do what. QEMU's user-creatable objects, with its types and properties (qapi/qom.json,
 * crypto.json, authz.json).
 *
 * Who uses an object holds a reference; while there is one it can't be deleted.
 *
 * Threads: the registry belongs to the main thread. References are counted by any thread; what a
 * kind says of itself (blk_authz_allowed() and so on) says where it may be called. */
#pragma once
#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>

typedef struct BlkObjects BlkObjects;
typedef struct BlkObject BlkObject;

typedef enum {
    BLK_OBJECT_SECRET,
    BLK_OBJECT_TLS_CREDS,
    BLK_OBJECT_AUTHZ,
    BLK_OBJECT_KINDS, /* how many there are */
} BlkObjectKind;

BlkObjects *blk_objects_new(void);
void blk_objects_free(BlkObjects *objects); /* those still referenced live on; NULL is fine */

/* @props: the properties by name, of the right types; borrowed. Errors: the type or a property's
 * value, a malformed or taken @id, files that can't be read or make no sense. */
bool blk_objects_add(BlkObjects *objects, const char *type, const char *id, json_object *props,
                     GError **error);
/* Errors: there is none; it is in use. */
bool blk_objects_del(BlkObjects *objects, const char *id, GError **error);
/* Reads an object's files again: who asks from now on gets what they say now. On an error all stays
 * as it was. Errors: there is none; it has no files; they can't be read or make no sense. */
bool blk_objects_reload(BlkObjects *objects, const char *id, GError **error);
/* A reference to the object @id of that kind. Errors: there is none; it is of another kind. */
BlkObject *blk_objects_get(BlkObjects *objects, const char *id, BlkObjectKind kind, GError **error);
/* In the order in which they were made; borrowed BlkObjects. g_ptr_array_unref. */
GPtrArray *blk_objects_list(BlkObjects *objects);

BlkObject *blk_object_ref(BlkObject *object);
void blk_object_unref(BlkObject *object); /* NULL is fine */
const char *blk_object_id(const BlkObject *object);
const char *blk_object_type(const BlkObject *object);
bool blk_object_in_use(const BlkObject *object);

/* What a secret holds; any thread. Not terminated. */
const guint8 *blk_secret_data(const BlkObject *secret, size_t *length);

/* Whether the one called @identity may; NULL: nobody knows who it is, which only a rule for
 * everybody lets pass. Any thread. */
bool blk_authz_allowed(BlkObject *authz, const char *identity);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlkObject, blk_object_unref)
