/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/nbd/nbd.c: opening and closing a disk that is another server's export.
 *
 * The main thread waits for the first connection, as long as open-timeout says, and once at least.
 * Where the server allows several connections, the others follow in the background.
 *
 * Options and messages as QEMU's qapi BlockdevOptionsNbd. */
#include "block/drivers/nbd/nbd.h"
#include "block/drivers/drivers.h"

#include <errno.h>

#define HURRY_US (10 * G_USEC_PER_SEC) /* what is under way at the end has that long */

static void disk_free(BlkNbd *d)
{
    pthread_mutex_lock(&d->lock);
    d->closing = true;
    pthread_mutex_unlock(&d->lock);
    for (unsigned i = 0; i < d->n; i++)
        blk_nbd_connection_end(d->connections[i]);
    for (unsigned i = 0; i < d->n; i++)
        blk_nbd_connection_free(d->connections[i]);
    blk_nbd_server_free(d->server);
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    g_free(d->why);
    g_free(d->reported);
    g_free(d);
}

static bool add_connection(BlkNbd *d)
{
    BlkNbdConnection *x = blk_nbd_connection_new(d, d->n);

    if (!x)
        return false;
    d->connections[d->n] = x;
    __atomic_store_n(&d->n, d->n + 1, __ATOMIC_RELEASE);
    return true;
}

/* By what the server allows, read-only if need be. */
static int set_read_only(BlkNbd *d)
{
    d->read_only = blk_host.option_bool(d->node, "read-only");
    if (d->read_only || !d->facts.read_only)
        return 0;
    if (!blk_host.option_bool(d->node, "auto-read-only")) {
        blk_host.error(d->node, "NBD export is read-only");
        return -EACCES;
    }
    d->read_only = true;
    return 0;
}

static int disk_connect(BlkNbd *d)
{
    int64_t patience = (int64_t)blk_host.option_uint(d->node, "open-timeout") * G_USEC_PER_SEC;
    g_autoptr(GError) error = NULL;
    int ret;

    if (!add_connection(d)) {
        blk_host.error(d->node, "Could not start a thread for a connection to the server");
        return -EAGAIN;
    }
    if (!blk_nbd_wait_open(d, g_get_monotonic_time() + patience, &error)) {
        blk_host.error(d->node, "%s", error->message);
        return -ECONNREFUSED;
    }
    ret = set_read_only(d);
    while (ret == 0 && d->facts.multi && d->n < BLK_NBD_CONNECTIONS && add_connection(d))
        continue;
    return ret;
}

static int nbd_open(struct tidemark_node *node, void **handle)
{
    BlkNbdServer *server = blk_nbd_server_new(node);
    pthread_condattr_t attr;
    BlkNbd *d;
    int ret;

    if (!server)
        return -EINVAL;
    d = g_new0(BlkNbd, 1);
    d->node = node;
    d->server = server;
    d->reconnect_us = (int64_t)blk_host.option_uint(node, "reconnect-delay") * G_USEC_PER_SEC;
    pthread_mutex_init(&d->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&d->changed, &attr);
    pthread_condattr_destroy(&attr);
    ret = disk_connect(d);
    if (ret < 0)
        disk_free(d);
    else
        *handle = d;
    return ret;
}

void blk_nbd_hurry(void *handle)
{
    BlkNbd *d = handle;

    if (__atomic_load_n(&d->end_at, __ATOMIC_RELAXED))
        return;
    __atomic_store_n(&d->end_at, g_get_monotonic_time() + HURRY_US, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < d->n; i++)
        blk_nbd_connection_wake(d->connections[i], false);
    pthread_mutex_lock(&d->lock);
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

/* Nobody will be there to flush what is on its way to the medium. */
static void nbd_close_disk(void *handle)
{
    BlkNbd *d = handle;
    int ret = 0;

    if (blk_nbd_unflushed(d)) {
        blk_nbd_hurry(d);
        ret = blk_nbd_flush(d);
    }
    if (ret < 0)
        blk_host_unfinished(d->node, ret);
    disk_free(d);
}

static int nbd_get_info(void *handle, struct tidemark_info *info)
{
    const BlkNbd *d = handle;

    info->flags = (d->read_only ? TIDEMARK_INFO_READ_ONLY : 0) |
                  (d->facts.fast_zero ? TIDEMARK_INFO_FAST_ZERO : 0) |
                  (d->facts.trim ? TIDEMARK_INFO_DISCARD : 0) |
                  (d->facts.fua ? TIDEMARK_INFO_FUA : 0);
    info->size = d->facts.size;
    info->request_alignment = d->facts.min;
    info->preferred_block = d->facts.preferred;
    info->allocated = UINT64_MAX;
    return 0;
}

static const char *const address_types[] = { "inet", "unix", "vsock", NULL };

/* QEMU waits up to 2^32-1 seconds. */
static const struct tidemark_option nbd_options[] = {
    { .name = "server.type",
      .type = TIDEMARK_OPTION_ENUM,
      .required = 1,
      .choices = address_types,
      .help = "kind of address" },
    { .name = "server.path", .type = TIDEMARK_OPTION_STRING, .help = "unix: path of the socket" },
    { .name = "server.host", .type = TIDEMARK_OPTION_STRING, .help = "inet: host name or address" },
    { .name = "server.port",
      .type = TIDEMARK_OPTION_STRING,
      .help = "inet: port number or service name; vsock: port number" },
    { .name = "server.ipv4", .type = TIDEMARK_OPTION_BOOL, .help = "inet: use IPv4 addresses" },
    { .name = "server.ipv6", .type = TIDEMARK_OPTION_BOOL, .help = "inet: use IPv6 addresses" },
    { .name = "server.numeric",
      .type = TIDEMARK_OPTION_BOOL,
      .help = "inet: host and port are numbers: resolve no names (default: off)" },
    { .name = "server.keep-alive",
      .type = TIDEMARK_OPTION_BOOL,
      .help = "inet: probe the connections while they are idle (default: on)" },
    { .name = "server.abstract",
      .type = TIDEMARK_OPTION_BOOL,
      .help = "unix: the path is a name in Linux's abstract name space (default: off)" },
    { .name = "server.tight",
      .type = TIDEMARK_OPTION_BOOL,
      .help = "unix, abstract: the name ends with its last byte, without padding (default: on)" },
    { .name = "server.cid", .type = TIDEMARK_OPTION_STRING, .help = "vsock: context id" },
    { .name = "export",
      .type = TIDEMARK_OPTION_STRING,
      .help = "name of the export (default: the server's default export)" },
    { .name = "tls-creds",
      .type = TIDEMARK_OPTION_STRING,
      .help = "id of a tls-creds object of a client (default: no TLS)" },
    { .name = "tls-hostname",
      .type = TIDEMARK_OPTION_STRING,
      .help = "name that the server's certificate must have (default: server.host)" },
    { .name = "x-dirty-bitmap",
      .type = TIDEMARK_OPTION_STRING,
      .help = "metadata context to show as block status, in place of base:allocation" },
    { .name = "reconnect-delay",
      .type = TIDEMARK_OPTION_UINT,
      .default_value = "0",
      .max = UINT32_MAX,
      .help = "seconds that requests wait for a lost connection to come back" },
    { .name = "open-timeout",
      .type = TIDEMARK_OPTION_UINT,
      .default_value = "0",
      .max = UINT32_MAX,
      .help = "seconds for which a failed connection is retried when the node is opened" },
    { 0 },
};

const struct tidemark_driver blk_driver_nbd = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "nbd",
    .help = "an export of an NBD server",
    .flags = TIDEMARK_DRIVER_REMOTE,
    .options = nbd_options,
    .open = nbd_open,
    .close = nbd_close_disk,
    .get_info = nbd_get_info,
    .map = blk_nbd_map,
    .pread = blk_nbd_pread,
    .pwrite = blk_nbd_pwrite,
    .flush = blk_nbd_flush,
    .write_zeroes = blk_nbd_write_zeroes,
    .discard = blk_nbd_discard,
    .cache = blk_nbd_cache,
    .start = blk_nbd_start,
    .wrote = blk_nbd_wrote,
};
