/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/chardev.c: see the header. Of QEMU's many channels the two that a storage daemon is
 * given. */
#include "daemon/daemon.h"

#include "qmp/keyval.h"
#include "util/error.h"

static const struct {
    const char *backend, *key;
} known[] = {
    { "socket", "path" },  { "socket", "server" }, { "socket", "wait" },    { "socket", "id" },
    { "stdio", "signal" }, { "stdio", "id" },      { "socket", "backend" }, { "stdio", "backend" },
};

static bool is_known(const char *backend, const char *key)
{
    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        if (g_str_equal(known[i].backend, backend) && g_str_equal(known[i].key, key))
            return true;
    }
    return false;
}

static const char *get(json_object *options, const char *key)
{
    json_object *value;

    return json_object_object_get_ex(options, key, &value) ? json_object_get_string(value) : NULL;
}

/* *set as "on" and "off" and their like say; untouched if the key is not given. */
static bool get_bool(json_object *options, const char *key, bool *set, GError **error)
{
    const char *text = get(options, key);

    if (!text)
        return true;
    if (g_str_equal(text, "on") || g_str_equal(text, "yes") || g_str_equal(text, "true"))
        *set = true;
    else if (g_str_equal(text, "off") || g_str_equal(text, "no") || g_str_equal(text, "false"))
        *set = false;
    else
        return tm_error_set(error, "Parameter '%s' expects 'on' or 'off'", key);
    return true;
}

static bool check_socket(json_object *options, GError **error)
{
    const char *path = get(options, "path");
    bool server = false, wait = true;

    if (!path || !*path)
        return tm_error_set(error, "Parameter 'path' is missing: monitors listen on unix sockets");
    if (!get_bool(options, "server", &server, error) || !get_bool(options, "wait", &wait, error))
        return false;
    if (!server)
        return tm_error_set(error,
                            "Parameter 'server' must be 'on': clients connect to the monitor");
    return true; /* wait=on is taken as off: clients may come at any time */
}

Chardev *chardev_parse(const char *text, GError **error)
{
    json_object *options = qmp_keyval_parse(text, "backend", error);
    g_autoptr(Chardev) chardev = NULL;
    const char *backend, *id;
    bool ok;

    if (!options)
        return NULL;
    backend = get(options, "backend");
    id = get(options, "id");
    ok = true;
    if (!backend || (!g_str_equal(backend, "socket") && !g_str_equal(backend, "stdio")))
        ok = tm_error_set(error, "'%s' is not a valid char driver, expected socket or stdio",
                          backend ? backend : "");
    json_object_object_foreach(options, key, value)
    {
        (void)value;
        if (ok && !is_known(backend, key))
            ok = tm_error_set(error, "Invalid parameter '%s'", key);
    }
    if (ok && (!id || !*id))
        ok = tm_error_set(error, "Parameter 'id' is missing");
    if (ok && g_str_equal(backend, "socket"))
        ok = check_socket(options, error);
    if (ok) {
        chardev = g_new0(Chardev, 1);
        chardev->id = g_strdup(id);
        chardev->path = g_str_equal(backend, "socket") ? g_strdup(get(options, "path")) : NULL;
    }
    json_object_put(options);
    return g_steal_pointer(&chardev);
}

void chardev_free(Chardev *chardev)
{
    if (!chardev)
        return;
    g_free(chardev->id);
    g_free(chardev->path);
    g_free(chardev);
}
