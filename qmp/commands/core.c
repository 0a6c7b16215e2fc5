/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/core.c: the commands about QMP itself. */
#include "qmp/commands/families.h"
#include "qmp/context.h"
#include "util/error.h"

static bool run_capabilities(QmpCall *call, GError **error)
{
    /* A session's first one never comes here: session.c. */
    return tm_error_set_class(error, TM_ERROR_COMMAND_NOT_FOUND,
                              "Capabilities negotiation is already complete, command ignored");
}

static bool run_version(QmpCall *call, GError **error)
{
    call->result = qmp_context_version();
    return true;
}

static bool run_commands(QmpCall *call, GError **error)
{
    call->result = qmp_table_commands();
    return true;
}

static bool run_schema(QmpCall *call, GError **error)
{
    call->result = qmp_table_schema(qmp_context_types(call->ctx));
    return true;
}

static bool run_quit(QmpCall *call, GError **error)
{
    qmp_context_quit(call->ctx);
    return true;
}

/* ---- types ---- */

static const char *const capability_values[] = { "oob", NULL };
static const QmpType capability = { .kind = QMP_KIND_ENUM,
                                    .name = "QMPCapability",
                                    .values = capability_values };
static const QmpType capability_array = { .kind = QMP_KIND_ARRAY,
                                          .name = "array",
                                          .element = &capability };
static const QmpMember capabilities_members[] = {
    { "enable", &capability_array, true, "capabilities to enable; the greeting lists them" },
    { NULL },
};
static const QmpType capabilities_args = { .kind = QMP_KIND_OBJECT,
                                           .name = "q_obj_qmp_capabilities-arg",
                                           .members = capabilities_members };

static const QmpMember triple_members[] = { { "major", &qmp_type_int, false, "first number" },
                                            { "minor", &qmp_type_int, false, "second number" },
                                            { "micro", &qmp_type_int, false, "third number" },
                                            { NULL } };
static const QmpType triple = { .kind = QMP_KIND_OBJECT,
                                .name = "VersionTriple",
                                .members = triple_members };
static const QmpMember version_members[] = {
    { "qemu", &triple, false, "the version of QEMU whose QMP is spoken" },
    { "package", &qmp_type_str, false, "the version of tidemarkd" },
    { NULL }
};
static const QmpType version_info = { .kind = QMP_KIND_OBJECT,
                                      .name = "VersionInfo",
                                      .members = version_members };

static const QmpMember command_info_members[] = {
    { "name", &qmp_type_str, false, "name of the command" }, { NULL }
};
static const QmpType command_info = { .kind = QMP_KIND_OBJECT,
                                      .name = "CommandInfo",
                                      .members = command_info_members };
static const QmpType command_array = { .kind = QMP_KIND_ARRAY,
                                       .name = "array",
                                       .element = &command_info };

/* SchemaInfo: the common members; the ones of each meta-type are variants. */
static const char *const meta_values[] = { "builtin",   "enum",    "array", "object",
                                           "alternate", "command", "event", NULL };
static const QmpType meta_type = { .kind = QMP_KIND_ENUM,
                                   .name = "SchemaMetaType",
                                   .values = meta_values };
static const char *const json_values[] = { "string", "number", "int",   "boolean", "null",
                                           "object", "array",  "value", NULL };
static const QmpType json_type_enum = { .kind = QMP_KIND_ENUM,
                                        .name = "JSONType",
                                        .values = json_values };

#define OBJECT(id, qapi_name, ...)                                                                 \
    static const QmpMember id##_members[] = { __VA_ARGS__, { NULL } };                             \
    static const QmpType id = { .kind = QMP_KIND_OBJECT,                                           \
                                .name = qapi_name,                                                 \
                                .members = id##_members }
#define ARRAY(id, of)                                                                              \
    static const QmpType id = { .kind = QMP_KIND_ARRAY, .name = "array", .element = of }

OBJECT(enum_member, "SchemaInfoEnumMember", { "name", &qmp_type_str, false, "the value" },
       { "features", &qmp_type_str_array, true, "features of the value" });
ARRAY(enum_members_array, &enum_member);
OBJECT(object_member, "SchemaInfoObjectMember",
       { "name", &qmp_type_str, false, "name of the member" },
       { "type", &qmp_type_str, false, "name of its type" },
       { "default", &qmp_type_any, true, "the default value; present if the member is optional" },
       { "features", &qmp_type_str_array, true, "features of the member" });
ARRAY(object_members_array, &object_member);
OBJECT(object_variant, "SchemaInfoObjectVariant",
       { "case", &qmp_type_str, false, "value of the tag" },
       { "type", &qmp_type_str, false, "name of the type whose members are added" });
ARRAY(object_variants_array, &object_variant);
OBJECT(alternate_member, "SchemaInfoAlternateMember",
       { "type", &qmp_type_str, false, "name of the type" });
ARRAY(alternate_members_array, &alternate_member);

OBJECT(info_builtin, "SchemaInfoBuiltin",
       { "json-type", &json_type_enum, false, "its type in JSON" });
OBJECT(info_enum, "SchemaInfoEnum", { "members", &enum_members_array, false, "the values" },
       { "values", &qmp_type_str_array, false, "the values, for older clients" });
OBJECT(info_array, "SchemaInfoArray",
       { "element-type", &qmp_type_str, false, "name of the type of its elements" });
OBJECT(info_object, "SchemaInfoObject",
       { "members", &object_members_array, false, "the members that every object of the type has" },
       { "tag", &qmp_type_str, true, "name of the member that selects the variant" },
       { "variants", &object_variants_array, true, "the variants, by the value of the tag" });
OBJECT(info_alternate, "SchemaInfoAlternate",
       { "members", &alternate_members_array, false, "the possible types" });
OBJECT(info_command, "SchemaInfoCommand",
       { "arg-type", &qmp_type_str, false, "name of the type of its arguments" },
       { "ret-type", &qmp_type_str, false, "name of the type of its result" },
       { "allow-oob", &qmp_type_bool, true, "can run out of band" });
OBJECT(info_event, "SchemaInfoEvent",
       { "arg-type", &qmp_type_str, false, "name of the type of its data" });

static const QmpMember schema_members[] = {
    { "name", &qmp_type_str, false,
      "name of the command, event or type; names of types have no meaning" },
    { "meta-type", &meta_type, false, "the kind of entity" },
    { "features", &qmp_type_str_array, true, "deprecated, unstable, or what it can do besides" },
    { NULL }
};
static const QmpVariant schema_variants[] = {
    { "builtin", &info_builtin },     { "enum", &info_enum },
    { "array", &info_array },         { "object", &info_object },
    { "alternate", &info_alternate }, { "command", &info_command },
    { "event", &info_event },         { NULL },
};
static const QmpType schema_info = {
    .kind = QMP_KIND_OBJECT,
    .name = "SchemaInfo",
    .members = schema_members,
    .tag = "meta-type",
    .variants = schema_variants,
};
ARRAY(schema_array, &schema_info);

static const QmpCommand commands[] = {
    { "qmp_capabilities", "enable capabilities; must be the first command of a session",
      &capabilities_args, &qmp_type_empty, run_capabilities },
    { "query-version", "the version of the daemon", &qmp_type_empty, &version_info, run_version },
    { "query-commands", "the names of all commands", &qmp_type_empty, &command_array,
      run_commands },
    { "query-qmp-schema", "the types of all commands and events", &qmp_type_empty, &schema_array,
      run_schema },
    { "quit", "finish the requests in flight, flush the disks and exit", &qmp_type_empty,
      &qmp_type_empty, run_quit },
    { NULL },
};

const QmpFamily qmp_family_core = { "The monitor", commands };
