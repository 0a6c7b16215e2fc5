/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/qom.c: properties of objects. The work is object/objects.h's.
 *
 * Names, answers and messages are QEMU's (qapi/qom.json, qom/qom-qmp-cmds.c). Of its tree there is
 * the root, /objects, /chardevs, and what users created below these; of its types, those they can
 * create.
 * /exports, where QEMU's devices would be, is ours: exports, whose property drive is their node. */
#include "qmp/commands/families.h"
#include "qmp/context.h"
#include "util/error.h"

#include <string.h>

#define OBJECTS  "/objects"
#define CHARDEVS "/chardevs"
#define EXPORTS  "/exports"
#define CHARDEV  "chardev-" /* types: and the driver's name */

static TmObjects *objects_of(QmpCall *call)
{
    return blk_exports_objects(qmp_context_exports(call->ctx));
}

/* ---- paths: the whole one, or its end */

/* Slashes count once, and not at the end, as in QEMU. Returned. */
static char *path_of(QmpCall *call)
{
    const char *path = qmp_arg_str(call->args, "path");
    GString *normal = g_string_new(NULL);

    for (; *path; path++) {
        if (*path != '/' || !g_str_has_suffix(normal->str, "/"))
            g_string_append_c(normal, *path);
    }
    if (normal->len > 1 && g_str_has_suffix(normal->str, "/"))
        g_string_truncate(normal, normal->len - 1);
    return g_string_free(normal, FALSE);
}

static bool not_found(const char *path, GError **error)
{
    if (!*path)
        return tm_error_set(error, "Path '%s' is ambiguous", path);
    return tm_error_set_class(error, TM_ERROR_DEVICE_NOT_FOUND, "Device '%s' not found", path);
}

/* What is named in a container, "" or a path as above; its whole path, NULL: it is none. */
static const char *container(const char *path)
{
    static const char *const all[] = { "/", OBJECTS, CHARDEVS, EXPORTS };

    for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
        if (g_str_equal(path, all[i]) || (*path && g_str_equal(path, all[i] + 1)))
            return all[i];
    }
    return NULL;
}

/* What @path names in the container @of, if it is in there: its id, or NULL. */
static const char *id_in(const char *of, const char *path)
{
    const char *id = path + g_str_has_prefix(path, "/"), *name = of + 1;

    if (g_str_has_prefix(id, name) && id[strlen(name)] == '/')
        return id + strlen(name) + 1;
    return id == path ? id : NULL;
}

static TmObject *find(QmpCall *call, const char *path)
{
    const char *id = id_in(OBJECTS, path);

    return id ? tm_objects_find(objects_of(call), id) : NULL;
}

static QmpChardev *find_chardev(QmpCall *call, const char *path)
{
    const char *id = id_in(CHARDEVS, path);

    return id ? qmp_chardevs_find(qmp_context_chardevs(call->ctx), id) : NULL;
}

static BlkExport *find_export(QmpCall *call, const char *path)
{
    return g_str_has_prefix(path, EXPORTS "/")
               ? blk_exports_find_id(qmp_context_exports(call->ctx), path + strlen(EXPORTS "/"))
               : NULL;
}

/* ---- what there is */

static json_object *entry(const char *name, const char *type)
{
    json_object *one = json_object_new_object();

    json_object_object_add(one, "name", json_object_new_string(name));
    json_object_object_add(one, "type", json_object_new_string(type));
    return one;
}

static void add_child(json_object *list, const char *name, const char *type)
{
    g_autofree char *child = g_strdup_printf("child<%s>", type);

    json_object_array_add(list, entry(name, child));
}

static void list_objects(QmpCall *call, json_object *list)
{
    g_autoptr(GPtrArray) objects = tm_objects_list(objects_of(call));

    for (guint i = 0; i < objects->len; i++)
        add_child(list, tm_object_id(objects->pdata[i]), tm_object_type(objects->pdata[i]));
}

static void list_chardevs(QmpCall *call, json_object *list)
{
    g_autoptr(GPtrArray) chardevs = qmp_chardevs_list(qmp_context_chardevs(call->ctx));

    for (guint i = 0; i < chardevs->len; i++) {
        g_autofree char *type = g_strconcat(CHARDEV, qmp_chardev_driver(chardevs->pdata[i]), NULL);

        add_child(list, qmp_chardev_id(chardevs->pdata[i]), type);
    }
}

static void list_exports(QmpCall *call, json_object *list)
{
    g_autoptr(GPtrArray) exports = blk_exports_list(qmp_context_exports(call->ctx));

    for (guint i = 0; i < exports->len; i++)
        add_child(list, blk_export_id(exports->pdata[i]), "export");
}

static json_object *list_container(QmpCall *call, const char *path)
{
    json_object *list = json_object_new_array();

    json_object_array_add(list, entry("type", "string"));
    if (g_str_equal(path, OBJECTS)) {
        list_objects(call, list);
    } else if (g_str_equal(path, CHARDEVS)) {
        list_chardevs(call, list);
    } else if (g_str_equal(path, EXPORTS)) {
        list_exports(call, list);
    } else {
        add_child(list, "objects", "container");
        add_child(list, "chardevs", "container");
        add_child(list, "exports", "container");
    }
    return list;
}

static json_object *list_type(const char *type)
{
    json_object *list = json_object_new_array();
    const char *name, *property_type;

    json_object_array_add(list, entry("type", "string"));
    for (unsigned i = 0; tm_objects_property(type, i, &name, &property_type); i++)
        json_object_array_add(list, entry(name, property_type));
    return list;
}

static json_object *list_chardev(const char *driver)
{
    json_object *list = list_type("");

    if (g_str_equal(driver, "socket")) {
        json_object_array_add(list, entry("connected", "bool"));
        json_object_array_add(list, entry("addr", "SocketAddress"));
    }
    return list;
}

static json_object *list_export(void)
{
    json_object *list = json_object_new_array();

    json_object_array_add(list, entry("type", "string"));
    json_object_array_add(list, entry("drive", "str"));
    return list;
}

static bool run_list(QmpCall *call, GError **error)
{
    g_autofree char *path = path_of(call);
    TmObject *object = find(call, path);
    g_autoptr(BlkExport) x = find_export(call, path);
    const QmpChardev *c = find_chardev(call, path);

    if (object)
        call->result = list_type(tm_object_type(object));
    else if (c)
        call->result = list_chardev(qmp_chardev_driver(c));
    else if (x)
        call->result = list_export();
    else if (container(path))
        call->result = list_container(call, container(path));
    return call->result || not_found(path, error);
}

/* Types that have only a type, and that nothing is made of. */
static const char *const bare[] = { "object", "container", "chardev", NULL };

static bool is_chardev(const char *type)
{
    return g_str_has_prefix(type, CHARDEV) &&
           g_strv_contains(qmp_chardev_drivers(), type + strlen(CHARDEV));
}

static bool run_list_properties(QmpCall *call, GError **error)
{
    const char *type = qmp_arg_str(call->args, "typename");

    if (is_chardev(type))
        call->result = list_chardev(type + strlen(CHARDEV));
    else if (tm_objects_has_type(type) || g_strv_contains(bare, type))
        call->result = list_type(type);
    return call->result ||
           tm_error_set_class(error, TM_ERROR_DEVICE_NOT_FOUND, "Class '%s' not found", type);
}

/* @family: what it belongs to by way of its parent, or by what it can. */
static void add_type(QmpCall *call, const char *name, const char *parent, const char *family)
{
    const char *of = qmp_arg_str(call->args, "implements");
    json_object *one;

    if (of && !g_str_equal(of, "object") && !g_str_equal(of, name) && !g_str_equal(of, parent) &&
        !g_str_equal(of, family))
        return;
    one = json_object_new_object();
    json_object_object_add(one, "name", json_object_new_string(name));
    json_object_object_add(one, "parent", json_object_new_string(parent));
    json_object_array_add(call->result, one);
}

static bool run_list_types(QmpCall *call, GError **error)
{
    const char *type;

    call->result = json_object_new_array();
    for (unsigned i = 0; (type = tm_objects_type(i)); i++)
        add_type(call, type, tm_objects_parent(type), "user-creatable");
    for (const char *const *driver = qmp_chardev_drivers(); *driver; driver++) {
        g_autofree char *name = g_strconcat(CHARDEV, *driver, NULL);
        bool fd = g_str_equal(*driver, "file") || g_str_equal(*driver, "stdio");

        add_type(call, name, fd ? CHARDEV "fd" : "chardev", "chardev");
    }
    return true;
}

/* ---- chardevs */

static bool not_of_chardev(const QmpChardev *c, const char *property, GError **error)
{
    return tm_error_set(error, "Property '" CHARDEV "%s.%s' not found", qmp_chardev_driver(c),
                        property);
}

static bool get_of_chardev(QmpCall *call, const QmpChardev *c, const char *property, GError **error)
{
    bool connected;
    json_object *address = qmp_chardev_address(c, &connected);
    g_autofree char *type = g_strconcat(CHARDEV, qmp_chardev_driver(c), NULL);

    if (g_str_equal(property, "type"))
        call->result = json_object_new_string(type);
    else if (address && g_str_equal(property, "connected"))
        call->result = json_object_new_boolean(connected);
    else if (address && g_str_equal(property, "addr"))
        call->result = json_object_get(address);
    json_object_put(address);
    return call->result || not_of_chardev(c, property, error);
}

static bool set_of_chardev(const QmpChardev *c, const char *property, GError **error)
{
    bool of_socket = g_str_equal(property, "addr") || g_str_equal(property, "connected");

    if (!g_str_equal(property, "type") &&
        !(of_socket && g_str_equal(qmp_chardev_driver(c), "socket")))
        return not_of_chardev(c, property, error);
    return tm_error_set(error, "Property '" CHARDEV "%s.%s' is not writable", qmp_chardev_driver(c),
                        property);
}

/* ---- exports: their node, as QEMU's devices have it */

static bool is_drive(const char *property, GError **error)
{
    return g_str_equal(property, "drive") ||
           tm_error_set(error, "Property 'export.%s' not found", property);
}

static bool get_of_export(QmpCall *call, const BlkExport *x, const char *property, GError **error)
{
    bool type = g_str_equal(property, "type");

    if (!type && !is_drive(property, error))
        return false;
    call->result = json_object_new_string(type ? "export" : blk_node_name(blk_export_node(x)));
    return true;
}

static bool set_drive(QmpCall *call, const BlkExport *x, const char *property, json_object *value,
                      GError **error)
{
    if (!is_drive(property, error))
        return false;
    if (!json_object_is_type(value, json_type_string))
        return tm_error_set(error, "Invalid parameter type for '%s', expected: string", property);
    return blk_exports_move(qmp_context_exports(call->ctx), blk_export_id(x),
                            json_object_get_string(value), error);
}

/* ---- properties */

/* A child's value is its path. */
static bool get_of_container(QmpCall *call, const char *path, const char *property, GError **error)
{
    g_autofree char *child = g_strconcat(g_str_equal(path, "/") ? "" : path, "/", property, NULL);
    g_autoptr(BlkExport) x = find_export(call, child);

    if (g_str_equal(property, "type"))
        call->result = json_object_new_string("container");
    else if (x || container(child) ||
             (!g_str_equal(path, "/") && (find(call, child) || find_chardev(call, child))))
        call->result = json_object_new_string(child);
    return call->result || tm_error_set(error, "Property 'container.%s' not found", property);
}

static bool run_get(QmpCall *call, GError **error)
{
    g_autofree char *path = path_of(call);
    const char *property = qmp_arg_str(call->args, "property");
    g_autoptr(BlkExport) x = find_export(call, path);
    TmObject *object = find(call, path);
    const QmpChardev *c = find_chardev(call, path);

    if (x)
        return get_of_export(call, x, property, error);
    if (object) {
        call->result = tm_object_get(object, property, error);
        return call->result != NULL;
    }
    if (c)
        return get_of_chardev(call, c, property, error);
    if (!container(path))
        return not_found(path, error);
    return get_of_container(call, container(path), property, error);
}

/* Whether @value is of the property's type; the error names the property. */
static bool check_value(QmpCall *call, const TmObject *object, const char *property,
                        json_object *value, GError **error)
{
    static const struct {
        const char *name;
        const QmpType *type;
    } known[] = { { "int", &qmp_type_int },
                  { "bool", &qmp_type_bool },
                  { "string", &qmp_type_str },
                  { "ThrottleLimits", &qmp_type_throttle_limits } };
    QmpMember members[] = { { property }, { NULL } };
    const QmpType type = { .kind = QMP_KIND_OBJECT, .name = "object", .members = members };
    json_object *wrapped;
    const char *name, *of;
    bool ok;

    for (unsigned i = 0;; i++) {
        if (!tm_object_property(object, i, &name, &of))
            return true; /* it has none of that name */
        if (g_str_equal(name, property))
            break;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        if (g_str_equal(of, known[i].name))
            members[0].type = known[i].type;
    }
    if (!members[0].type)
        return true; /* whoever sets it checks it */
    wrapped = json_object_new_object();
    json_object_object_add(wrapped, property, json_object_get(value));
    ok = qmp_check(qmp_context_types(call->ctx), &type, wrapped, error);
    json_object_put(wrapped);
    return ok;
}

static bool run_set(QmpCall *call, GError **error)
{
    g_autofree char *path = path_of(call);
    const char *property = qmp_arg_str(call->args, "property");
    json_object *value = qmp_arg(call->args, "value");
    g_autoptr(BlkExport) x = find_export(call, path);
    TmObject *object = find(call, path);
    const QmpChardev *c = find_chardev(call, path);

    if (x)
        return set_drive(call, x, property, value, error);
    if (object)
        return check_value(call, object, property, value, error) &&
               tm_object_set(object, property, value, error);
    if (c)
        return set_of_chardev(c, property, error);
    if (!container(path))
        return not_found(path, error);
    return tm_error_set(error, "Property 'container.%s' is not writable", property);
}

/* ---- the tables */

#define OBJECT(c_name, type_name, list)                                                            \
    static const QmpType c_name = { .kind = QMP_KIND_OBJECT, .name = type_name, .members = list }
#define ARRAY(c_name, of)                                                                          \
    static const QmpType c_name = { .kind = QMP_KIND_ARRAY, .name = "array", .element = &(of) }

static const QmpMember list_members[] = {
    { "path", &qmp_type_str, false, "/objects/ID, /chardevs/ID or /exports/ID" }, { NULL }
};
OBJECT(list_args, "q_obj_qom-list-arg", list_members);

static const QmpMember get_members[] = {
    { "path", &qmp_type_str, false, "/objects/ID, /chardevs/ID, or ID; /exports/ID of an export" },
    { "property", &qmp_type_str, false, "its name; 'drive' is an export's node" },
    { NULL }
};
OBJECT(get_args, "q_obj_qom-get-arg", get_members);

static const QmpMember set_members[] = {
    { "path", &qmp_type_str, false, "/objects/ID, or ID; /exports/ID of an export" },
    { "property", &qmp_type_str, false, "its name; 'drive' is an export's node" },
    { "value", &qmp_type_any, false, "the new value" },
    { NULL }
};
OBJECT(set_args, "q_obj_qom-set-arg", set_members);

static const QmpMember list_types_members[] = {
    { "implements", &qmp_type_str, true, "show only types that are derived from this type" },
    { "abstract", &qmp_type_bool, true, "for compatibility; there are no abstract types" },
    { NULL },
};
OBJECT(list_types_args, "q_obj_qom-list-types-arg", list_types_members);

static const QmpMember list_properties_members[] = {
    { "typename", &qmp_type_str, false, "type of objects" },
    { NULL },
};
OBJECT(list_properties_args, "q_obj_qom-list-properties-arg", list_properties_members);

static const QmpMember property_members[] = {
    { "name", &qmp_type_str, false, "its name" },
    { "type", &qmp_type_str, false, "type of its value; child<TYPE>: an object within it" },
    { NULL },
};
OBJECT(property, "ObjectPropertyInfo", property_members);
ARRAY(properties, property);

static const QmpMember type_members[] = {
    { "name", &qmp_type_str, false, "its name" },
    { "parent", &qmp_type_str, true, "the type that it is derived from" },
    { NULL },
};
OBJECT(type_info, "ObjectTypeInfo", type_members);
ARRAY(type_infos, type_info);

static const char *const path_errors[] = { "Device 'PATH' not found", NULL };
static const char *const get_errors[] = { "Device 'PATH' not found",
                                          "Property 'TYPE.NAME' not found",
                                          "Property 'TYPE.NAME' is not readable", NULL };
static const char *const set_errors[] = { "Device 'PATH' not found",
                                          "Property 'TYPE.NAME' not found",
                                          "Property 'TYPE.NAME' is not writable",
                                          "Property cannot be set after initialization", NULL };
static const char *const type_errors[] = { "Class 'TYPE' not found", NULL };

static const QmpCommand commands[] = {
    { "qom-list", "the properties of an object", &list_args, &properties, run_list,
      .example = "{'path': '/objects/limits0'}", .errors = path_errors },
    { "qom-get", "the value of an object's property", &get_args, &qmp_type_any, run_get,
      .example = "{'path': '/objects/limits0', 'property': 'limits'}", .errors = get_errors },
    { "qom-set", "set an object's property", &set_args, &qmp_type_empty, run_set,
      .example = "{'path': '/objects/limits0', 'property': 'limits', "
                 "'value': {'iops-total': 1000}}",
      .errors = set_errors },
    { "qom-list-types", "the types of objects", &list_types_args, &type_infos, run_list_types,
      .example = "{'implements': 'user-creatable'}" },
    { "qom-list-properties", "the properties of a type of objects", &list_properties_args,
      &properties, run_list_properties, .example = "{'typename': 'throttle-group'}",
      .errors = type_errors },
    { NULL },
};

const QmpFamily qmp_family_qom = { "Properties of objects", commands };
