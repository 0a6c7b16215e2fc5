/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/schema/table.h: types, commands and events as constant tables, and what is derived from them.
 *
 * A family of commands is one const table. From it derive: the check of arguments (with QEMU's
 * messages), query-qmp-schema, query-commands, the command line's options (--blockdev takes
 * blockdev-add's arguments), `tidemark qmp COMMAND --help`, the shell's completion,
 * docs/qmp-reference.md and tidemarkd(8)'s list of commands (both by `make docs`, and held to the
 * tables by tests/unit/check_lists). Nothing about a command is written twice.
 *
 * The one type that is not constant is BlockdevOptions: what it may hold depends on the drivers
 * that are loaded. A table names it as a late type, and a QmpTypes, made once from the block
 * registry, resolves it.
 *
 * Threads: tables are constant; a QmpTypes is after it has been made. */
#pragma once
#include "block/registry.h"
#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct QmpType QmpType;
typedef struct QmpTypes QmpTypes;
typedef struct QmpCall QmpCall;

typedef enum {
    QMP_KIND_ANY,
    QMP_KIND_NULL,
    QMP_KIND_BOOL,
    QMP_KIND_STR,
    QMP_KIND_INT,  /* min..max; on the command line a plain integer */
    QMP_KIND_UINT, /* 0..umax */
    QMP_KIND_ENUM, /* values */
    QMP_KIND_ARRAY,
    QMP_KIND_OBJECT,    /* members, and, with a tag, the variant's */
    QMP_KIND_ALTERNATE, /* one of several types that differ in JSON */
    QMP_KIND_LATE,      /* resolved by a QmpTypes */
} QmpKind;

typedef struct QmpMember {
    const char *name; /* NULL ends the list */
    const QmpType *type;
    bool optional;
    const char *help; /* a phrase, or NULL */
} QmpMember;

typedef struct QmpVariant {
    const char *value;   /* of the tag; NULL ends the list */
    const QmpType *type; /* an object, whose members join */
} QmpVariant;

struct QmpType {
    QmpKind kind;
    const char *name;           /* shown in messages and in descriptions */
    int64_t min, max;           /* INT */
    uint64_t umax;              /* UINT */
    bool suffixes;              /* INT, UINT: the command line takes k M G T P E */
    const char *const *values;  /* ENUM: NULL-terminated */
    const QmpType *element;     /* ARRAY */
    const QmpMember *members;   /* OBJECT */
    const char *tag;            /* OBJECT: the (enum) member that selects the variant, or NULL */
    const QmpVariant *variants; /* OBJECT with a tag; a value not listed adds nothing */
    const QmpType *const *alternatives; /* ALTERNATE: NULL-terminated */
};

typedef enum {
    QMP_COMMAND_DEPRECATED = 1,
    QMP_COMMAND_UNSTABLE = 2,
} QmpCommandFlags;

/* Runs a command on the main thread; the arguments have been checked. On success call->result may
 * have been set. */
typedef bool (*QmpHandler)(QmpCall *call, GError **error);

typedef struct QmpCommand {
    const char *name; /* NULL ends the list */
    const char *help; /* one line */
    const QmpType *args;
    const QmpType *result; /* &qmp_type_empty: {} */
    QmpHandler run;
    unsigned flags;
    const char *example;       /* the arguments as JSON with ' for \", or NULL if it takes none */
    const char *const *errors; /* messages of its own, what varies in capitals; NULL-terminated */
    const char *feature;       /* one that the schema shows besides those of @flags; or NULL */
} QmpCommand;

typedef struct QmpEvent {
    const char *name; /* NULL ends the list */
    const char *help;
    const QmpType *data;
} QmpEvent;

typedef struct QmpFamily {
    const char *title; /* of its chapter */
    const QmpCommand *commands;
    const QmpEvent *events; /* or NULL */
} QmpFamily;

/* All of them; NULL-terminated. Here is where a new family is entered (families.c). */
extern const QmpFamily *const qmp_families[];

/* ---- common types (types.c) */
extern const QmpType qmp_type_any, qmp_type_bool, qmp_type_str, qmp_type_int, qmp_type_uint32,
    qmp_type_uint64, qmp_type_size, qmp_type_empty, qmp_type_str_array;
extern const QmpType qmp_type_blockdev_options;  /* late */
extern const QmpType qmp_type_blockdev_ref;      /* a node's name or a definition */
extern const QmpType qmp_type_blockdev_ref_null; /* the same, or null: explicitly none */
extern const QmpType qmp_type_bitmap;            /* {node, name} */
extern const QmpType qmp_type_bitmap_or_str;     /* a bitmap of "the" node, or {node, name} */
extern const QmpType qmp_type_bitmaps;           /* an array of those */
extern const QmpType qmp_type_export_type;       /* BlockExportType */
extern const QmpType qmp_type_export_options;    /* block-export-add's, and --export's */
extern const QmpType qmp_type_object_options;    /* object-add's, and --object's */
extern const QmpType qmp_type_throttle_limits;
extern const QmpType qmp_type_socket_address;
extern const QmpType qmp_type_socket_address_legacy; /* the same with a "data" level */
extern const QmpType qmp_type_peer_address;          /* the same, of whom to connect to */
extern const QmpType qmp_type_nbd_server_limits;     /* nbd-server-set-limits's */
extern const QmpType qmp_type_nbd_server_args;       /* nbd-server-start's */
extern const QmpType qmp_type_metrics_args;          /* metrics-server-start's */
extern const QmpType qmp_type_metrics_option;        /* --metrics's: without the "data" level */
extern const QmpType qmp_type_nbd_server_option;     /* --nbd-server's: without the "data" level */
extern const QmpType qmp_type_chardev_add;           /* chardev-add's */
extern const QmpType qmp_type_bitmap_add;            /* block-dirty-bitmap-add's */
extern const QmpType qmp_type_monitor;               /* --monitor's */
extern const QmpType qmp_type_sandbox;               /* --sandbox's */
extern const QmpType qmp_type_configuration;         /* all of a daemon: a configuration file */

/* ---- run-time types */
/* @registry (borrowed, outlives the result) must be complete: plug-ins loaded later are not
 * seen. */
QmpTypes *qmp_types_new(BlkRegistry *registry);
void qmp_types_free(QmpTypes *types); /* NULL is fine */
/* @type itself, unless it is a late one. Borrowed. */
const QmpType *qmp_types_resolve(const QmpTypes *types, const QmpType *type);

/* ---- looking up; borrowed, or NULL */
const QmpCommand *qmp_table_command(const char *name);

/* ---- checking */
/* Checks @value against @type. The error is QEMU's and names the argument. */
bool qmp_check(const QmpTypes *types, const QmpType *type, json_object *value, GError **error);
/* The same for what qmp_keyval_parse() gave, in which every scalar is a string: these are replaced,
 * in place, by what the type expects (on/off, numbers, sizes with a suffix). */
bool qmp_check_keyval(const QmpTypes *types, const QmpType *type, json_object *value,
                      GError **error);
/* Calls @fn for each problem of @value, up to a limit, with the path ("a.b[0]") of what is wrong or
 * missing, which is for people: names may have dots and brackets. After what is missing, or an
 * element, it finds no more. */
typedef void (*QmpProblemFn)(void *opaque, const char *path, const char *message);
void qmp_check_all(const QmpTypes *types, const QmpType *type, json_object *value, QmpProblemFn fn,
                   void *opaque);

/* A value that a type knows. All borrowed. */
typedef struct QmpVisited {
    const char *path;    /* "a.b[0]" */
    const char *name;    /* of the member that it is, or is an element of */
    const QmpType *type; /* as in the table */
    json_object *parent; /* the object of that member */
    json_object *value;
} QmpVisited;
/* Calls @fn for each member of @value, at any depth, that @type knows, and for each element of one
 * that is an array. @value is of @type, or not: what does not fit is passed over. */
typedef void (*QmpVisitFn)(void *opaque, const QmpVisited *visited);
void qmp_visit(const QmpTypes *types, const QmpType *type, json_object *value, QmpVisitFn fn,
               void *opaque);

/* ---- descriptions */
/* query-qmp-schema and query-commands: a reference. */
json_object *qmp_table_schema(const QmpTypes *types);
json_object *qmp_table_commands(void);
/* For people: one command, with its arguments, results, errors and an example; all commands, a line
 * each. Lines of text, indented, and not broken. Returned; NULL: there is no such command. */
char *qmp_table_help(const QmpTypes *types, const char *command);
char *qmp_table_list(void);
/* The same of all commands and events as Markdown, and their list as mdoc(7). Returned. */
char *qmp_table_markdown(const QmpTypes *types);
char *qmp_table_man(void);
/* Completion: the names of all commands, or, given a @command, its arguments as "name=" (members of
 * members as "a.b="), or NULL if there is no such command. NULL-terminated; g_strfreev. */
char **qmp_table_completion(const QmpTypes *types, const char *command);
/* The names of all events. As above. */
char **qmp_table_events(void);
