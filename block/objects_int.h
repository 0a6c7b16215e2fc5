/* block/objects_int.h: what the kinds of objects are made of. Private to block/. */
#pragma once
#include "block/objects.h"

typedef struct BlkObjectClass {
    const char *type;
    BlkObjectKind kind;
    size_t size; /* of the object, which begins with a BlkObject and is zeroed */
    bool (*init)(BlkObject *object, BlkObjects *objects, json_object *props, GError **error);
    void (*clear)(BlkObject *object);                  /* also after a failed init */
    bool (*reload)(BlkObject *object, GError **error); /* NULL: has no files */
} BlkObjectClass;

struct BlkObject {
    const BlkObjectClass *class;
    int refs; /* atomic; one is the registry's */
    char *id;
};

extern const BlkObjectClass blk_secret_class, blk_authz_list_class, blk_authz_list_file_class,
    blk_authz_simple_class, blk_tls_creds_x509_class, blk_tls_creds_psk_class;

/* A property, or NULL or @otherwise. Borrowed. */
const char *blk_object_string(json_object *props, const char *name);
bool blk_object_bool(json_object *props, const char *name, bool otherwise);
