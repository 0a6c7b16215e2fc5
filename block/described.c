/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/described.c: names in images that are no paths, as definitions of nodes.
 *
 * Source: QEMU docs/system/qemu-block-drivers.rst.inc, the NBD URI specification. */
#include "block/described.h"

#include "block/rbd_name.h"
#include "util/json.h"

#include <glib.h>
#include <string.h>

#define DEPTH_MAX    8
#define DEFAULT_PORT "10809"

static json_object *refuse(json_object *object, GError **error, const char *what, const char *value)
{
    json_object_put(object);
    tm_error_set(error, what, value);
    return NULL;
}

bool blk_name_is_path(const char *name)
{
    const char *colon = strchr(name, ':'), *slash = strchr(name, '/');

    return !colon || (slash && slash < colon);
}

/* ---- members of objects */

#define NOT_TAKEN "its member '%s' is not taken from an image"

/* That all members are of the @known ones (NULL-terminated). */
static bool check_members(json_object *object, const char *const *known, GError **error)
{
    json_object_object_foreach(object, key, value)
    {
        (void)value;
        if (!g_strv_contains(known, key))
            return tm_error_set(error, NOT_TAKEN, key);
    }
    return true;
}

/* The string that the member @key is, in *@value; NULL if there is none. */
static bool take_string(json_object *given, const char *key, const char **value, GError **error)
{
    json_object *member;

    *value = NULL;
    if (!json_object_object_get_ex(given, key, &member))
        return true;
    if (!json_object_is_type(member, json_type_string))
        return tm_error_set(error, "its member '%s' is not a string", key);
    *value = json_object_get_string(member);
    return true;
}

static void copy_member(json_object *to, json_object *from, const char *key)
{
    json_object *value;

    if (json_object_object_get_ex(from, key, &value))
        json_object_object_add(to, key, json_object_get(value));
}

/* Two objects of one name are one. */
static void add_or_merge(json_object *object, const char *key, json_object *value)
{
    json_object *inner = json_object_object_get(object, key);

    if (!json_object_is_type(inner, json_type_object) ||
        !json_object_is_type(value, json_type_object)) {
        json_object_object_add(object, key, json_object_get(value));
        return;
    }
    json_object_object_foreach(value, name, member)
    {
        json_object_object_add(inner, name, json_object_get(member));
    }
}

/* "a.b" is the member "b" of the object "a". */
static bool put(json_object *object, const char *key, json_object *value)
{
    const char *dot = strchr(key, '.');
    g_autofree char *head = dot ? g_strndup(key, (gsize)(dot - key)) : NULL;
    json_object *inner;

    if (!dot) {
        add_or_merge(object, key, value);
        return true;
    }
    if (!json_object_object_get_ex(object, head, &inner)) {
        inner = json_object_new_object();
        json_object_object_add(object, head, inner);
    }
    return json_object_is_type(inner, json_type_object) && put(inner, dot + 1, value);
}

/* That what is before and after each dot has a name. */
static bool check_key(const char *key)
{
    return *key && *key != '.' && !g_str_has_suffix(key, ".") && !strstr(key, "..");
}

/* A reference to the same with no dots in the names of members, at any depth. */
static json_object *nested(json_object *flat, GError **error)
{
    json_object *object = json_object_new_object();

    json_object_object_foreach(flat, key, value)
    {
        json_object *inner;
        bool ok;

        if (!check_key(key))
            return refuse(object, error, NOT_TAKEN, key);
        inner = json_object_is_type(value, json_type_object) ? nested(value, error)
                                                             : json_object_get(value);
        ok = (inner || !value) && put(object, key, inner);
        json_object_put(inner);
        if (!ok && (!error || !*error))
            return refuse(object, error, "its member '%s' contradicts another one", key);
        if (!ok) {
            json_object_put(object);
            return NULL;
        }
    }
    return object;
}

static json_object *parse(const char *text, GError **error)
{
    json_tokener *tokener = json_tokener_new_ex(DEPTH_MAX);
    size_t length = strlen(text);
    json_object *flat = json_tokener_parse_ex(tokener, text, (int)length + 1), *object = NULL;
    bool all = json_tokener_get_error(tokener) == json_tokener_success &&
               json_tokener_get_parse_end(tokener) >= length;

    json_tokener_free(tokener);
    if (!all || !json_object_is_type(flat, json_type_object))
        tm_error_set(error, "it is not a JSON object");
    else
        object = nested(flat, error);
    json_object_put(flat);
    return object;
}

/* ---- NBD */

static json_object *nbd(json_object *server, const char *export)
{
    json_object *object = json_object_new_object();

    tm_json_add_string(object, "driver", "nbd");
    json_object_object_add(object, "server", server);
    if (export && *export)
        tm_json_add_string(object, "export", export);
    return object;
}

static json_object *unix_server(const char *path)
{
    json_object *server = json_object_new_object();

    tm_json_add_string(server, "type", "unix");
    tm_json_add_string(server, "path", path);
    return server;
}

static json_object *inet_server(const char *host, const char *port)
{
    json_object *server = json_object_new_object();

    tm_json_add_string(server, "type", "inet");
    tm_json_add_string(server, "host", host);
    tm_json_add_string(server, "port", port);
    return server;
}

/* "nbd://HOST:PORT/EXPORT", "nbd+unix:///EXPORT?socket=PATH". */
static json_object *nbd_uri(const char *name, GError **error)
{
    g_autoptr(GUri) uri = g_uri_parse(name, G_URI_FLAGS_ENCODED_QUERY, NULL);
    const char *query = uri ? g_uri_get_query(uri) : NULL, *host, *export, *socket;
    g_autoptr(GHashTable) parameters =
        query ? g_uri_parse_params(query, -1, "&", G_URI_PARAMS_NONE, NULL) : NULL;
    g_autofree char *port = NULL;

    if (!uri || (query && !parameters))
        return refuse(NULL, error, "'%s' is not a URI", name);
    if (g_uri_get_userinfo(uri)) /* which may be a secret */
        return refuse(NULL, error, "user information in URIs is not supported by the driver '%s'",
                      "nbd");
    export = g_uri_get_path(uri);
    export += *export == '/';
    host = g_uri_get_host(uri);
    socket = parameters ? g_hash_table_lookup(parameters, "socket") : NULL;
    if (parameters && g_hash_table_size(parameters) > (socket ? 1 : 0))
        return refuse(NULL, error, "'%s' has parameters other than 'socket'", name);
    if (!strcmp(g_uri_get_scheme(uri), "nbd+unix"))
        return socket && (!host || !*host)
                   ? nbd(unix_server(socket), export)
                   : refuse(NULL, error, "'%s' is not nbd+unix:///EXPORT?socket=PATH", name);
    if (!host || !*host || socket)
        return refuse(NULL, error, "'%s' is not nbd://HOST[:PORT]/EXPORT", name);
    port = g_uri_get_port(uri) < 0 ? g_strdup(DEFAULT_PORT)
                                   : g_strdup_printf("%d", g_uri_get_port(uri));
    return nbd(inet_server(host, port), export);
}

/* "nbd:unix:PATH:exportname=EXPORT", "nbd:HOST:PORT:exportname=EXPORT". */
static json_object *nbd_colons(const char *name, GError **error)
{
    const char *at = name + strlen("nbd:"), *export = strstr(at, ":exportname=");
    g_autofree char *address = export ? g_strndup(at, (gsize)(export - at)) : g_strdup(at);
    char *host = address, *colon = strrchr(address, ':');

    if (export)
        export += strlen(":exportname=");
    if (g_str_has_prefix(address, "unix:") && address[5])
        return nbd(unix_server(address + 5), export);
    if (!colon || colon == address || !colon[1])
        return refuse(NULL, error, "'%s' is not nbd:HOST:PORT[:exportname=EXPORT]", name);
    *colon = '\0';
    if (*host == '[' && colon[-1] == ']') {
        host++;
        colon[-1] = '\0';
    }
    return nbd(inet_server(host, colon + 1), export);
}

/* The port may be a number, too. */
static bool take_port(json_object *given, const char **port, GError **error)
{
    json_object *member = json_object_object_get(given, "port");

    if (!json_object_is_type(member, json_type_int))
        return take_string(given, "port", port, error);
    *port = json_object_get_string(member);
    return true;
}

/* The members "path", or "host" and "port", are QEMU's older ones. */
static json_object *nbd_members(json_object *given, GError **error)
{
    static const char *const known[] = {
        "driver", "server", "export", "path", "host", "port", NULL
    };
    json_object *server = json_object_object_get(given, "server");
    const char *export, *path, *host, *port;

    if (!check_members(given, known, error) || !take_string(given, "export", &export, error) ||
        !take_string(given, "path", &path, error) || !take_string(given, "host", &host, error) ||
        !take_port(given, &port, error))
        return NULL;
    if (json_object_is_type(server, json_type_object))
        return nbd(json_object_get(server), export);
    if (path)
        return nbd(unix_server(path), export);
    if (host)
        return nbd(inet_server(host, port ? port : DEFAULT_PORT), export);
    return refuse(NULL, error, "its member '%s' is missing", "server");
}

/* ---- Ceph */

static json_object *rbd_members(json_object *given, GError **error)
{
    static const char *const known[] = { "driver", "pool", "namespace", "image", "snapshot", NULL };
    const char *value;

    if (!check_members(given, known, error))
        return NULL;
    for (size_t i = 1; known[i]; i++)
        if (!take_string(given, known[i], &value, error))
            return NULL;
    return json_object_get(given);
}

/* ---- what an image is in */

static json_object *in_file(const char *path)
{
    json_object *object = json_object_new_object();

    tm_json_add_string(object, "driver", "file");
    tm_json_add_string(object, "filename", path);
    return object;
}

/* @name: a path, or after a protocol. */
static json_object *from_name(const char *name, GError **error)
{
    const char *colon = strchr(name, ':');
    g_autofree char *protocol = NULL;

    if (blk_name_is_path(name))
        return in_file(name);
    if (g_str_has_prefix(name, "file:"))
        return in_file(name + strlen("file:"));
    protocol = g_strndup(name, (gsize)(colon - name));
    if (!strcmp(protocol, "nbd") && !g_str_has_prefix(colon, "://"))
        return nbd_colons(name, error);
    if (!strcmp(protocol, "nbd") || !strcmp(protocol, "nbd+tcp") || !strcmp(protocol, "nbd+unix"))
        return nbd_uri(name, error);
    if (blk_is_rbd_name(name))
        return blk_rbd_definition(name, false, error);
    return refuse(NULL, error, "the protocol '%s' is not supported: only file, nbd and rbd are",
                  protocol);
}

/* The member "file": a definition, or no more than a name. */
static json_object *from_members(json_object *given, GError **error)
{
    static const char *const known[] = { "driver", "filename", NULL };
    const char *driver, *filename, *is;

    if (!take_string(given, "driver", &driver, error) ||
        !take_string(given, "filename", &filename, error))
        return NULL;
    is = driver ? driver : "file";
    if (!strcmp(is, "nbd") && !filename)
        return nbd_members(given, error);
    if (!strcmp(is, "rbd") && !filename)
        return rbd_members(given, error);
    if (strcmp(is, "file") && strcmp(is, "host_device"))
        return refuse(NULL, error, "the driver '%s' is not taken from an image in 'file'", is);
    if (!check_members(given, known, error))
        return NULL;
    if (!filename)
        return refuse(NULL, error, "its member '%s' is missing", "filename");
    if (!driver)
        return from_name(filename, error);
    given = in_file(filename);
    tm_json_add_string(given, "driver", is);
    return given;
}

/* ---- images */

/* Takes @file. */
static json_object *image_in(json_object *file, const char *format)
{
    json_object *object = json_object_new_object();

    tm_json_add_string(object, "driver", format);
    json_object_object_add(object, "file", file);
    return object;
}

/* An object with the member "file"; the image is of @format. */
static json_object *from_image(json_object *given, const char *format, GError **error)
{
    static const char *const known[] = { "driver", "file", "backing", "offset", "size", NULL };
    json_object *value, *object = NULL;

    if (!json_object_object_get_ex(given, "file", &value) ||
        !json_object_is_type(value, json_type_object))
        return refuse(NULL, error, "its member '%s' is not an object", "file");
    if (json_object_object_get(given, "backing"))
        return refuse(NULL, error, "its member '%s' is not null", "backing");
    object = check_members(given, known, error) ? from_members(value, error) : NULL;
    if (!object)
        return NULL;
    object = image_in(object, format);
    copy_member(object, given, "backing");
    copy_member(object, given, "offset");
    copy_member(object, given, "size");
    return object;
}

/* The recorded format goes before the driver, as in QEMU. */
static json_object *from_json(const char *text, const char *format, GError **error)
{
    json_object *given = parse(text, error), *object = NULL;
    const char *driver, *is;

    if (!given || !take_string(given, "driver", &driver, error)) {
        json_object_put(given);
        return NULL;
    }
    is = format ? format : driver ? driver : "";
    if (!strcmp(is, "raw") || !strcmp(is, "qcow2"))
        object = from_image(given, is, error);
    else if (!strcmp(is, "file") || !strcmp(is, "host_device") || !strcmp(is, "nbd") ||
             !strcmp(is, "rbd"))
        object = from_members(given, error);
    else
        tm_error_set(error, "its driver is none of raw, qcow2, file, host_device, nbd, rbd");
    if (object && !json_object_object_get_ex(object, "file", NULL))
        object = image_in(object, "raw");
    json_object_put(given);
    return object;
}

json_object *blk_name_definition(const char *name, const char *format, GError **error)
{
    json_object *file;

    if (g_str_has_prefix(name, "json:"))
        return from_json(name + strlen("json:"), format, error);
    if (!format)
        return refuse(NULL, error, "its format is not recorded, and formats are never %s",
                      "guessed");
    file = from_name(name, error);
    return file ? image_in(file, format) : NULL;
}

const char *blk_name_definition_path(json_object *definition)
{
    json_object *file = json_object_object_get(definition, "file");
    json_object *filename = json_object_object_get(file, "filename");

    if (json_object_object_get(definition, "offset") ||
        json_object_object_get(definition, "size") ||
        json_object_object_get_ex(definition, "backing", NULL))
        return NULL;
    return filename ? json_object_get_string(filename) : NULL;
}
