/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/address_bound.c: what a listening socket is bound to, as QMP shows it. */
#include "util/address.h"
#include "util/json.h"

#include <sys/socket.h>

static int family_of(int fd)
{
    int family = AF_UNSPEC;
    socklen_t length = sizeof(family);

    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) < 0 ? AF_UNSPEC : family;
}

json_object *tm_address_bound(int fd)
{
    json_object *info = json_object_new_object();
    bool abstract, padded;
    g_autofree char *path = tm_address_path(fd, &abstract, &padded), *host = NULL, *port = NULL;
    bool vsock = family_of(fd) == AF_VSOCK;

    if (path) {
        tm_json_add_string(info, "type", "unix");
        tm_json_add_string(info, "path", path);
        if (abstract) {
            tm_json_add_bool(info, "abstract", true);
            tm_json_add_bool(info, "tight", !padded);
        }
    } else {
        tm_address_numbers(fd, false, &host, &port);
        tm_json_add_string(info, "type", vsock ? "vsock" : "inet");
        tm_json_add_string(info, vsock ? "cid" : "host", host ? host : "");
        tm_json_add_string(info, "port", port ? port : "");
    }
    return info;
}
