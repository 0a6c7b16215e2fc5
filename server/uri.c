/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/uri.c: addresses as NBD URIs (nbd doc/uri.md), such as libnbd and QEMU take. */
#include "server/server_internal.h"

#include "util/json.h"

#include <string.h>

/* What others write for "all addresses of this machine". */
static const char *host_to_connect(const char *host)
{
    return g_str_equal(host, "0.0.0.0") || g_str_equal(host, "::") ? "localhost" : host;
}

/* A guest reaches its host at 2, whichever number the host listens on. */
static const char *cid_to_connect(const char *cid)
{
    return g_str_equal(cid, "4294967295") ? "2" : cid;
}

static const char *member(json_object *address, const char *key)
{
    return json_object_get_string(json_object_object_get(address, key));
}

char *nbds_uri(json_object *address, const char *path, bool tls, const char *export_)
{
    const char *type = member(address, "type"), *scheme = tls ? "nbds" : "nbd";
    g_autofree char *name = g_uri_escape_string(export_, "/", FALSE), *escaped = NULL;

    if (g_str_equal(type, "unix")) {
        if (json_object_object_get(address, "abstract"))
            return NULL; /* URIs can't have such a name */
        path = path ? path : member(address, "path");
        if (*path != '/')
            return NULL;
        escaped = g_uri_escape_string(path, "/", FALSE);
        return g_strdup_printf("%s+unix:///%s?socket=%s", scheme, name, escaped);
    }
    if (g_str_equal(type, "vsock"))
        return g_strdup_printf("%s+vsock://%s:%s/%s", scheme,
                               cid_to_connect(member(address, "cid")), member(address, "port"),
                               name);
    escaped = g_strdup(host_to_connect(member(address, "host")));
    return g_strdup_printf(strchr(escaped, ':') ? "%s://[%s]:%s/%s" : "%s://%s:%s/%s", scheme,
                           escaped, member(address, "port"), name);
}
