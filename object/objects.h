/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* object/objects.h: objects that users create and name: secrets, TLS credentials, lists of who may
 * do what, limits of I/O. QEMU's user-creatable objects, with its types and properties
 * (qapi/qom.json, crypto.json, authz.json).
 *
 * Who uses an object holds a reference; while there is one it can't be deleted.
 *
 * Threads: the registry belongs to the main thread. References are counted by any thread; what a
 * kind says of itself (tm_authz_allowed() and so on) says where it may be called. */
#pragma once
#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>

typedef struct TmObjects TmObjects;
typedef struct TmObject TmObject;

typedef enum {
    TM_OBJECT_SECRET,
    TM_OBJECT_TLS_CREDS,
    TM_OBJECT_AUTHZ,
    TM_OBJECT_THROTTLE_GROUP,
    TM_OBJECT_IOTHREAD,
    TM_OBJECT_KINDS, /* how many there are */
} TmObjectKind;

TmObjects *tm_objects_new(void);
void tm_objects_free(TmObjects *objects); /* those still referenced live on; NULL is fine */

/* @props: the properties by name, of the right types; borrowed. Errors: the type or a property's
 * value, a malformed or taken @id, files that can't be read or make no sense. */
bool tm_objects_add(TmObjects *objects, const char *type, const char *id, json_object *props,
                    GError **error);
/* Errors: there is none; it is in use. */
bool tm_objects_del(TmObjects *objects, const char *id, GError **error);
/* Reads an object's files again: who asks from now on gets what they say now. On an error all stays
 * as it was. Errors: there is none; it has no files; they can't be read or make no sense. */
bool tm_objects_reload(TmObjects *objects, const char *id, GError **error);
/* The object @id, borrowed; or NULL, without an error. */
TmObject *tm_objects_find(TmObjects *objects, const char *id);
/* A reference to the object @id of that kind. Errors: there is none; it is of another kind. */
TmObject *tm_objects_get(TmObjects *objects, const char *id, TmObjectKind kind, GError **error);
/* In the order in which they were made; borrowed TmObjects. g_ptr_array_unref. */
GPtrArray *tm_objects_list(TmObjects *objects);

TmObject *tm_object_ref(TmObject *object);
void tm_object_unref(TmObject *object); /* NULL is fine */
const char *tm_object_id(const TmObject *object);
const char *tm_object_type(const TmObject *object);
bool tm_object_in_use(const TmObject *object);
bool tm_object_has_files(const TmObject *object); /* that tm_objects_reload() reads */

/* The properties of objects of a type, after "type" which all have; borrowed, by index from 0 on;
 * false: there are no more. *type is QEMU's name of the property's type. */
bool tm_object_property(const TmObject *object, unsigned index, const char **name,
                        const char **type);
/* The same of a type by name, and whether there is such a type. */
bool tm_objects_has_type(const char *type);
bool tm_objects_property(const char *type, unsigned index, const char **name,
                         const char **property_type);
/* Number @index of the types of objects, in alphabetical order; or NULL. */
const char *tm_objects_type(unsigned index);
/* What it is derived from in QEMU; it is one of them. */
const char *tm_objects_parent(const char *type);
/* The value of one (a reference), or NULL; sets it to @value, of its type. Errors: there is none,
 * it can't be set, or not to that. Main thread. */
json_object *tm_object_get(TmObject *object, const char *property, GError **error);
bool tm_object_set(TmObject *object, const char *property, json_object *value, GError **error);

/* What object-add would make it again from: {"qom-type", "id", ...}, with what was set since then.
 * A secret's data are replaced by TM_OBJECT_LEFT_OUT, which no object is made from. A reference. */
json_object *tm_object_definition(TmObject *object);
#define TM_OBJECT_LEFT_OUT "(left out)"

/* What a secret holds; any thread. Not terminated. */
const guint8 *tm_secret_data(const TmObject *secret, size_t *length);

/* Whether the one called @identity may; NULL: nobody knows who it is, which only a rule for
 * everybody lets pass. Any thread. */
bool tm_authz_allowed(TmObject *authz, const char *identity);

/* How many ns from @now on, on the monotonic clock, a read or write has to wait for the limits of a
 * throttle group; and that one is done. Any thread. */
int64_t tm_throttle_wait(TmObject *group, bool write, int64_t now);
void tm_throttle_account(TmObject *group, bool write, uint64_t bytes);
/* A place for what those who use the group share, NULL at first: theirs. Main thread. */
void **tm_throttle_shared(TmObject *group);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(TmObject, tm_object_unref)
