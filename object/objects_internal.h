/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* object/objects_internal.h: what the kinds of objects are made of. Private to block/. */
#pragma once
#include "object/objects.h"

/* What can be asked and set of an object that is there; main thread. */
typedef struct TmProperty {
    const char *name, *type; /* QEMU's name of the type */
    /* NULL: what the user gave, else otherwise. */
    json_object *(*get)(TmObject *object, const char *name);
    /* @value is of the type, if qmp/commands/qom.c knows that. NULL: it can't be set. */
    bool (*set)(TmObject *object, const char *name, json_object *value, GError **error);
    const char *otherwise; /* JSON; NULL: nobody may read what was given */
} TmProperty;

typedef struct TmObjectClass {
    const char *type;
    TmObjectKind kind;
    size_t size; /* of the object, which begins with a TmObject and is zeroed */
    bool (*init)(TmObject *object, TmObjects *objects, json_object *props, GError **error);
    void (*clear)(TmObject *object);                  /* also after a failed init */
    bool (*reload)(TmObject *object, GError **error); /* NULL: has no files */
    const TmProperty *properties;                     /* ends with a NULL name; NULL: none */
} TmObjectClass;

struct TmObject {
    const TmObjectClass *class;
    int refs; /* atomic; one is the registry's */
    char *id;
    json_object *given; /* those of its properties that have no get(); no secrets */
};

extern const TmObjectClass tm_secret_class, tm_authz_list_class, tm_authz_list_file_class,
    tm_authz_simple_class, tm_tls_creds_x509_class, tm_tls_creds_psk_class, tm_throttle_group_class,
    tm_iothread_class;

/* A property, or NULL or @otherwise. Borrowed. */
const char *tm_object_string(json_object *props, const char *name);
bool tm_object_bool(json_object *props, const char *name, bool otherwise);
/* Its properties as they were given, with another one set to @value: a reference, or taken in their
 * place. */
json_object *tm_object_given_with(const TmObject *object, const char *name, json_object *value);
void tm_object_set_given(TmObject *object, json_object *given);
/* A path, absolute: a daemon in the background has another directory. Returned, or NULL. */
char *tm_object_path(json_object *props, const char *name);
