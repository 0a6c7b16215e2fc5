/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/schema.h: the answer of query-qmp-schema (QEMU docs/devel/qapi-code-gen, "Client
 * JSON Protocol introspection"), asked what type an argument has.
 *
 * Types are known by the names that the schema gives them; NULL stands for "not known" and every
 * question about it answers NULL. Names and results are borrowed from the schema.
 * Threads: reading by any. */
#pragma once
#include "client/daemon/qmp_client.h"

typedef struct TcSchema TcSchema;

/* @array is borrowed for the schema's life. Returned. */
TcSchema *tc_schema_new(json_object *array);
/* What the server has; NULL if it has none, which is no reason not to go on. */
TcSchema *tc_schema_fetch(TcQmp *qmp);
void tc_schema_free(TcSchema *schema);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcSchema, tc_schema_free)

/* The object type of a command's arguments. */
const char *tc_schema_arguments(const TcSchema *schema, const char *command);
/* The arguments of a command, a line each with name and type, for people; those that depend on
 * another one's value follow it. NULL if there is no such command. Returned. */
char *tc_schema_help(const TcSchema *schema, const char *command);
/* The @meta ("command", "event") that @name is, or is probably meant to be. */
const char *tc_schema_closest(const TcSchema *schema, const char *meta, const char *name);
/* The type of @object_type's member; where it depends on the value of another member (a union's
 * tag, like "driver"), that is looked up in @given, which may lack it. */
const char *tc_schema_member(const TcSchema *schema, const char *object_type, const char *member,
                             json_object *given);
/* Of an alternate, the choice of meta-type @meta ("object", "array"); of any other type, that type
 * if its meta-type is @meta. */
const char *tc_schema_choice(const TcSchema *schema, const char *type, const char *meta);
/* The type of an array's elements. */
const char *tc_schema_element(const TcSchema *schema, const char *array_type);

/* What a value of a type may be. */
typedef enum {
    TC_JSON_STRING = 1,
    TC_JSON_INT = 2,
    TC_JSON_NUMBER = 4,
    TC_JSON_BOOL = 8,
    TC_JSON_NULL = 16,
    TC_JSON_OBJECT = 32,
    TC_JSON_ARRAY = 64,
    TC_JSON_ANY = 127,
} TcJsonKinds;
unsigned tc_schema_kinds(const TcSchema *schema, const char *type);
