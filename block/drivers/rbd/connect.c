/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/rbd/connect.c: from the options of a node to an open image.
 *
 * Options, their precedence and messages as QEMU's qapi BlockdevOptionsRbd: the configuration file,
 * then what the options say. Nodes share no connection: whoever breaks the lock of one image shuts
 * its connection out of the cluster, and the other images would go with it. */
#include "block/drivers/rbd/rbd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_MAX  4096u
#define TEXT_MAX 16384u

static const char *text(const RbdDisk *d, const char *option)
{
    return rbd_host->option_string(d->node, option);
}

int rbd_failed(const RbdDisk *d, int ret, const char *what, const char *name)
{
    char reason[128];

    rbd_host->error(d->node, "error %s %s: %s", what, name,
                    strerror_r(-ret, reason, sizeof(reason)));
    return ret;
}

static int set(const RbdDisk *d, const char *key, const char *value)
{
    int ret = rados_conf_set(d->cluster, key, value);

    return ret < 0 ? rbd_failed(d, ret, "setting", key) : 0;
}

/* ---- what the options say */

static int set_key(const RbdDisk *d)
{
    const char *id = text(d, "key-secret");
    char key[KEY_MAX] = "";
    int64_t length;
    int ret;

    if (!id)
        return 0;
    length = rbd_host->secret(d->node, id, key, sizeof(key) - 1);
    if (length < 0)
        return (int)length;
    if (length >= (int64_t)sizeof(key)) {
        rbd_host->error(d->node, "secret '%s' has %" PRId64 " bytes, a key has at most %u", id,
                        length, KEY_MAX - 1);
        ret = -EINVAL;
    } else {
        ret = set(d, "key", key);
    }
    explicit_bzero(key, sizeof(key));
    return ret;
}

/* Appends to @list, after @separator if something is there; -E2BIG: it is full. */
static int __attribute__((format(printf, 3, 4)))
append(char list[TEXT_MAX], const char *separator, const char *format, ...)
{
    size_t used = strlen(list);
    va_list ap;
    int n, m;

    n = snprintf(list + used, TEXT_MAX - used, "%s", used ? separator : "");
    if ((size_t)n >= TEXT_MAX - used)
        return -E2BIG;
    used += (size_t)n;
    va_start(ap, format);
    m = vsnprintf(list + used, TEXT_MAX - used, format, ap);
    va_end(ap);
    return (size_t)m >= TEXT_MAX - used ? -E2BIG : 0;
}

static int set_servers(const RbdDisk *d)
{
    uint64_t n = rbd_host->option_uint(d->node, "server");
    char list[TEXT_MAX] = "";

    for (uint64_t i = 0; i < n; i++) {
        char name[64];
        const char *host, *port;

        snprintf(name, sizeof(name), "server.%" PRIu64 ".host", i);
        host = text(d, name);
        snprintf(name, sizeof(name), "server.%" PRIu64 ".port", i);
        port = text(d, name);
        if (append(list, ";", strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port) < 0)
            return rbd_failed(d, -E2BIG, "setting", "mon_host");
    }
    return n ? set(d, "mon_host", list) : 0;
}

static int set_auth(const RbdDisk *d)
{
    uint64_t n = rbd_host->option_uint(d->node, "auth-client-required");
    char list[TEXT_MAX] = "";

    for (uint64_t i = 0; i < n; i++) {
        char name[64];

        snprintf(name, sizeof(name), "auth-client-required.%" PRIu64, i);
        if (append(list, ";", "%s", text(d, name)) < 0)
            return rbd_failed(d, -E2BIG, "setting", "auth_client_required");
    }
    return n ? set(d, "auth_client_required", list) : 0;
}

/* Whatever the configuration says. librbd's cache answers writes before the cluster has them. If
 * the cluster then refuses one, "writearound" loses it and lets the next flush succeed, and
 * "writeback" blocks flushes and further writes for as long as the pool is full. Who takes over the
 * lock of a client that is cut off must shut it out of the cluster first. */
static const struct {
    const char *key, *value;
} required[] = {
    { "rbd_cache", "false" },
    { "rbd_cache_max_dirty", "0" }, /* if the pool or the image turn the cache on */
    { "rbd_blocklist_on_break_lock", "true" },
};

static int configure(const RbdDisk *d)
{
    const char *conf = text(d, "conf");
    int ret = rados_conf_read_file(d->cluster, conf);

    if (conf && ret < 0)
        return rbd_failed(d, ret, "reading conf file", conf);
    ret = 0; /* the default one need not exist */
    for (size_t i = 0; ret == 0 && i < sizeof(required) / sizeof(required[0]); i++)
        ret = set(d, required[i].key, required[i].value);
    if (ret == 0)
        ret = set_servers(d);
    if (ret == 0)
        ret = set_auth(d);
    return ret == 0 ? set_key(d) : ret;
}

/* ---- the image */

int rbd_read_size(RbdDisk *d)
{
    int ret = rbd_get_size(d->image, &d->size);

    return ret < 0 ? rbd_failed(d, ret, "reading the size of image", d->name) : 0;
}

static int open_image(RbdDisk *d)
{
    const char *image = text(d, "image"), *snapshot = text(d, "snapshot");
    int ret;

    d->fixed = snapshot;
    d->read_only = rbd_host->option_bool(d->node, "read-only");
    if (snapshot && !d->read_only) {
        if (!rbd_host->option_bool(d->node, "auto-read-only")) {
            rbd_host->error(d->node, "RBD snapshot '%s' is read-only", d->name);
            return -EACCES;
        }
        d->read_only = true;
    }
    ret = d->read_only ? rbd_open_read_only(d->pool, image, &d->image, snapshot)
                       : rbd_open(d->pool, image, &d->image, NULL);
    if (ret < 0) {
        d->image = NULL;
        return rbd_failed(d, ret, "opening image", d->name);
    }
    return rbd_read_size(d);
}

static char *name_of(const RbdDisk *d)
{
    const char *space = text(d, "namespace"), *snapshot = text(d, "snapshot");
    char *name;

    return asprintf(&name, "%s/%s%s%s%s%s", text(d, "pool"), space ? space : "", space ? "/" : "",
                    text(d, "image"), snapshot ? "@" : "", snapshot ? snapshot : "") < 0
               ? NULL
               : name;
}

int rbd_connect(RbdDisk *d)
{
    int ret;

    d->name = name_of(d);
    if (!d->name)
        return -ENOMEM;
    ret = rados_create(&d->cluster, text(d, "user"));
    if (ret < 0) {
        d->cluster = NULL;
        return rbd_failed(d, ret, "initializing a connection for image", d->name);
    }
    ret = configure(d);
    if (ret < 0)
        return ret;
    ret = rados_connect(d->cluster);
    if (ret < 0)
        return rbd_failed(d, ret, "connecting to the cluster of image", d->name);
    ret = rados_ioctx_create(d->cluster, text(d, "pool"), &d->pool);
    if (ret < 0) {
        d->pool = NULL;
        return rbd_failed(d, ret, "opening pool", text(d, "pool"));
    }
    rados_set_pool_full_try(d->pool); /* a full pool is an error, not a reason to wait */
    if (text(d, "namespace"))
        rados_ioctx_set_namespace(d->pool, text(d, "namespace"));
    return open_image(d);
}

void rbd_disconnect(RbdDisk *d)
{
    if (d->image)
        rbd_close(d->image);
    if (d->pool)
        rados_ioctx_destroy(d->pool);
    if (d->cluster)
        rados_shutdown(d->cluster);
    free(d->name);
}
