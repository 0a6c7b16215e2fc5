/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* object/objects_internal.h: what the kinds of objects are made of. Private to block/. */
#pragma once
#include "object/objects.h"

typedef struct TmObjectClass {
    const char *type;
    TmObjectKind kind;
    size_t size; /* of the object, which begins with a TmObject and is zeroed */
    bool (*init)(TmObject *object, TmObjects *objects, json_object *props, GError **error);
    void (*clear)(TmObject *object);                  /* also after a failed init */
    bool (*reload)(TmObject *object, GError **error); /* NULL: has no files */
} TmObjectClass;

struct TmObject {
    const TmObjectClass *class;
    int refs; /* atomic; one is the registry's */
    char *id;
};

extern const TmObjectClass tm_secret_class, tm_authz_list_class, tm_authz_list_file_class,
    tm_authz_simple_class, tm_tls_creds_x509_class, tm_tls_creds_psk_class;

/* A property, or NULL or @otherwise. Borrowed. */
const char *tm_object_string(json_object *props, const char *name);
bool tm_object_bool(json_object *props, const char *name, bool otherwise);
