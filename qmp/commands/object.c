/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/object.c: objects that users create. The work is the block layer's
 * (object/objects.h).
 *
 * Names and members are QEMU's (qapi/qom.json, crypto.json, authz.json). */
#include "qmp/commands/families.h"
#include "qmp/context.h"
#include "util/error.h"

static TmObjects *objects_of(QmpCall *call)
{
    return blk_exports_objects(qmp_context_exports(call->ctx));
}

static bool run_add(QmpCall *call, GError **error)
{
    return tm_objects_add(objects_of(call), qmp_arg_str(call->args, "qom-type"),
                          qmp_arg_str(call->args, "id"), call->args, error);
}

static bool run_del(QmpCall *call, GError **error)
{
    return tm_objects_del(objects_of(call), qmp_arg_str(call->args, "id"), error);
}

static bool run_reload(QmpCall *call, GError **error)
{
    return tm_objects_reload(objects_of(call), qmp_arg_str(call->args, "id"), error);
}

static bool run_query(QmpCall *call, GError **error)
{
    g_autoptr(GPtrArray) list = tm_objects_list(objects_of(call));

    call->result = json_object_new_array();
    for (guint i = 0; i < list->len; i++) {
        const TmObject *object = list->pdata[i];
        json_object *one = json_object_new_object();

        json_object_object_add(one, "qom-type", json_object_new_string(tm_object_type(object)));
        json_object_object_add(one, "id", json_object_new_string(tm_object_id(object)));
        json_object_object_add(one, "in-use", json_object_new_boolean(tm_object_in_use(object)));
        json_object_array_add(call->result, one);
    }
    return true;
}

/* ---- properties ---- */

#define OBJECT(c_name, type_name, list)                                                            \
    static const QmpType c_name = { .kind = QMP_KIND_OBJECT, .name = type_name, .members = list }

static const char *const format_values[] = { "raw", "base64", NULL };
static const QmpType secret_format = { .kind = QMP_KIND_ENUM,
                                       .name = "QCryptoSecretFormat",
                                       .values = format_values };
static const QmpMember secret_members[] = {
    { "data", &qmp_type_str, true, "the secret itself; other users can see it on a command line" },
    { "file", &qmp_type_str, true, "the file that holds the secret" },
    { "format", &secret_format, true, "the encoding of the data (default: raw)" },
    { "keyid", &qmp_type_str, true, "id of the secret that decrypts this one (AES-256-CBC)" },
    { "iv", &qmp_type_str, true, "with keyid: the initialization vector, 16 bytes in base64" },
    { NULL },
};
OBJECT(secret, "SecretProperties", secret_members);

static const char *const endpoint_values[] = { "client", "server", NULL };
static const QmpType endpoint = { .kind = QMP_KIND_ENUM,
                                  .name = "QCryptoTLSCredsEndpoint",
                                  .values = endpoint_values };
static const QmpMember x509_members[] = {
    { "dir", &qmp_type_str, true,
      "directory of ca-cert.pem, server-cert.pem, server-key.pem and, optionally, ca-crl.pem" },
    { "endpoint", &endpoint, true, "whose credentials they are (default: client)" },
    { "verify-peer", &qmp_type_bool, true,
      "require a certificate of the client, signed by the CA (default: on)" },
    { "priority", &qmp_type_str, true, "gnutls priority string (default: the system's)" },
    { "sanity-check", &qmp_type_bool, true, "check the certificates first (default: on)" },
    { "passwordid", &qmp_type_str, true, "id of the secret with the password of server-key.pem" },
    { NULL },
};
OBJECT(x509, "TlsCredsX509Properties", x509_members);

static const QmpMember psk_members[] = {
    { "dir", &qmp_type_str, true, "directory of keys.psk, lines of USERNAME:KEY in hexadecimal" },
    { "endpoint", &endpoint, true, "whose credentials they are (default: client)" },
    { "verify-peer", &qmp_type_bool, true, "for compatibility; a key is always verified" },
    { "priority", &qmp_type_str, true, "gnutls priority string (default: the system's)" },
    { "username", &qmp_type_str, true, "for a client: the key to use (default: qemu)" },
    { NULL },
};
OBJECT(psk, "TlsCredsPskProperties", psk_members);

static const char *const policy_values[] = { "deny", "allow", NULL };
static const QmpType policy = { .kind = QMP_KIND_ENUM,
                                .name = "QAuthZListPolicy",
                                .values = policy_values };
static const char *const match_values[] = { "exact", "glob", NULL };
static const QmpType match = { .kind = QMP_KIND_ENUM,
                               .name = "QAuthZListFormat",
                               .values = match_values };
static const QmpMember rule_members[] = {
    { "match", &qmp_type_str, false,
      "a certificate's distinguished name, a PSK identity, or uid=N on a unix socket" },
    { "policy", &policy, false, "what to do with clients that match" },
    { "format", &match, true, "exact, or with the wildcards * and ? (default: exact)" },
    { NULL },
};
OBJECT(rule, "QAuthZListRule", rule_members);
static const QmpType rules = { .kind = QMP_KIND_ARRAY, .name = "array", .element = &rule };
static const QmpMember list_members[] = {
    { "policy", &policy, true, "what to do with clients that match no rule (default: deny)" },
    { "rules", &rules, true, "the rules; the first match decides" },
    { NULL },
};
OBJECT(list, "AuthZListProperties", list_members);

static const QmpMember list_file_members[] = {
    { "filename", &qmp_type_str, false,
      "file with a JSON object that has the members of authz-list" },
    { "refresh", &qmp_type_bool, true, "read the file again after it changed (default: on)" },
    { NULL },
};
OBJECT(list_file, "AuthZListFileProperties", list_file_members);

static const QmpMember simple_members[] = {
    { "identity", &qmp_type_str, false, "the client to allow" },
    { NULL },
};
OBJECT(simple, "AuthZSimpleProperties", simple_members);

#define LIMITS(x, what)                                                                            \
    { x, &qmp_type_int, true, what " a second (default: 0, no limit)" },                           \
        { x "-max", &qmp_type_int, true, "the same during a burst (default: 0, none)" },           \
    {                                                                                              \
        x "-max-length", &qmp_type_int, true, "seconds of a burst (default: 1)"                    \
    }
#define ALL_LIMITS(x)                                                                              \
    LIMITS(x "iops-total", "requests"), LIMITS(x "iops-read", "reads"),                            \
        LIMITS(x "iops-write", "writes"), LIMITS(x "bps-total", "bytes"),                          \
        LIMITS(x "bps-read", "bytes read"), LIMITS(x "bps-write", "bytes written"),                \
    {                                                                                              \
        x "iops-size", &qmp_type_int, true,                                                        \
            "bytes that count as one request (default: 0, every request counts as one)"            \
    }

static const QmpMember limits_members[] = { ALL_LIMITS(""), { NULL } };
const QmpType qmp_type_throttle_limits = { .kind = QMP_KIND_OBJECT,
                                           .name = "ThrottleLimits",
                                           .members = limits_members };
static const QmpMember throttle_members[] = {
    { "limits", &qmp_type_throttle_limits, true, "the limits" },
    ALL_LIMITS("x-"),
    { NULL },
};
OBJECT(throttle_group, "ThrottleGroupProperties", throttle_members);

static const QmpMember iothread_members[] = {
    { "poll-max-ns", &qmp_type_int, true, "for compatibility (default: 32768)" },
    { "poll-grow", &qmp_type_int, true, "for compatibility" },
    { "poll-shrink", &qmp_type_int, true, "for compatibility" },
    { "aio-max-batch", &qmp_type_int, true, "for compatibility" },
    { "thread-pool-min", &qmp_type_int, true, "for compatibility" },
    { "thread-pool-max", &qmp_type_int, true, "for compatibility (default: 64)" },
    { NULL },
};
OBJECT(iothread, "IothreadProperties", iothread_members);

static const char *const type_values[] = { "authz-list",    "authz-list-file", "authz-simple",
                                           "iothread",      "secret",          "throttle-group",
                                           "tls-creds-psk", "tls-creds-x509",  NULL };
static const QmpType object_type = { .kind = QMP_KIND_ENUM,
                                     .name = "ObjectType",
                                     .values = type_values };
static const QmpVariant variants[] = {
    { "authz-list", &list },
    { "authz-list-file", &list_file },
    { "authz-simple", &simple },
    { "iothread", &iothread },
    { "secret", &secret },
    { "throttle-group", &throttle_group },
    { "tls-creds-psk", &psk },
    { "tls-creds-x509", &x509 },
    { NULL },
};
static const QmpMember options_members[] = {
    { "qom-type", &object_type, false, "type of the object" },
    { "id", &qmp_type_str, false, "id of the object" },
    { NULL },
};
const QmpType qmp_type_object_options = {
    .kind = QMP_KIND_OBJECT,
    .name = "ObjectOptions",
    .members = options_members,
    .tag = "qom-type",
    .variants = variants,
};

/* ---- commands ---- */

static const QmpMember id_members[] = { { "id", &qmp_type_str, false, "id of the object" },
                                        { NULL } };
OBJECT(del_args, "q_obj_object-del-arg", id_members);
OBJECT(reload_args, "q_obj_object-reload-arg", id_members);

static const QmpMember info_members[] = {
    { "qom-type", &object_type, false, "type of the object" },
    { "id", &qmp_type_str, false, "id of the object" },
    { "in-use", &qmp_type_bool, false, "something refers to it" },
    { NULL },
};
OBJECT(info, "ObjectInfo", info_members);
static const QmpType infos = { .kind = QMP_KIND_ARRAY, .name = "array", .element = &info };

static const char *const object_add_errors[] = {
    "invalid object type: TYPE", "attempt to add duplicate property 'ID' to object (type 'TYPE')",
    NULL
};
static const char *const object_del_errors[] = { "object 'ID' not found",
                                                 "object 'ID' is in use, can not be deleted",
                                                 NULL };
static const char *const object_reload_errors[] = {
    "object 'ID' not found", "object 'ID' of type 'TYPE' has no files to reload", NULL
};

static const QmpCommand commands[] = {
    { "object-add", "create an object", &qmp_type_object_options, &qmp_type_empty, run_add,
      .example = "{'qom-type': 'authz-simple', 'id': 'alice', 'identity': 'CN=alice'}",
      .errors = object_add_errors },
    { "object-del", "remove an object that nothing refers to", &del_args, &qmp_type_empty, run_del,
      .example = "{'id': 'alice'}", .errors = object_del_errors },
    { "object-reload", "read the files of an object again, for new sessions", &reload_args,
      &qmp_type_empty, run_reload, .example = "{'id': 'tls0'}", .errors = object_reload_errors },
    { "query-objects", "the objects", &qmp_type_empty, &infos, run_query },
    { NULL },
};

const QmpFamily qmp_family_object = { "Objects", commands };
