/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/rbd/rbd.c: options, opening, closing and size of a disk in a Ceph cluster. */
#include "block/drivers/rbd/rbd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const struct tidemark_host *rbd_host;

static void disk_free(RbdDisk *d)
{
    rbd_lock_drop(d);
    rbd_disconnect(d);
    rbd_status_free(d);
    free(d->store_name);
    pthread_cond_destroy(&d->wake);
    pthread_mutex_destroy(&d->lock);
    pthread_mutex_destroy(&d->scan);
    free(d);
}

static RbdDisk *disk_new(struct tidemark_node *node)
{
    RbdDisk *d = calloc(1, sizeof(*d));
    pthread_condattr_t attr;

    if (!d)
        return NULL;
    d->node = node;
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_init(&d->scan, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&d->wake, &attr);
    pthread_condattr_destroy(&attr);
    return d;
}

static int disk_open(struct tidemark_node *node, void **handle)
{
    RbdDisk *d = disk_new(node);
    int ret;

    if (!d)
        return -ENOMEM;
    ret = rbd_connect(d);
    if (ret == 0 && !d->read_only)
        ret = rbd_lock_take(d);
    if (ret == 0 && !d->read_only) /* it may have changed before the lock was ours */
        ret = rbd_read_size(d);
    if (ret == 0)
        ret = rbd_status_size(d);
    if (ret == 0)
        ret = rbd_store_init(d);
    if (ret < 0)
        disk_free(d);
    else
        *handle = d;
    return ret;
}

static void disk_close(void *handle)
{
    disk_free(handle);
}

static int disk_get_info(void *handle, struct tidemark_info *info)
{
    const RbdDisk *d = handle;

    info->flags = TIDEMARK_INFO_DISCARD | TIDEMARK_INFO_FAST_ZERO | TIDEMARK_INFO_FUA |
                  (d->read_only ? TIDEMARK_INFO_READ_ONLY : 0);
    info->size = __atomic_load_n(&d->size, __ATOMIC_ACQUIRE);
    info->request_alignment = 1;
    info->allocated = UINT64_MAX;
    return 0;
}

static int disk_resize(void *handle, uint64_t size)
{
    RbdDisk *d = handle;
    int ret = rbd_lost(d) ? -EIO : rbd_result(d, rbd_resize(d->image, size));

    if (ret < 0)
        return ret;
    __atomic_store_n(&d->size, size, __ATOMIC_RELEASE);
    rbd_status_size(d); /* without room for more all is data */
    return 0;
}

static const char *const auth_modes[] = { "cephx", "none", NULL };

static const struct tidemark_option auth_fields[] = {
    { .name = "", .type = TIDEMARK_OPTION_ENUM, .choices = auth_modes },
    { .name = NULL },
};

static const struct tidemark_option server_fields[] = {
    { .name = "host",
      .type = TIDEMARK_OPTION_STRING,
      .required = 1,
      .help = "host name or address of a monitor" },
    { .name = "port", .type = TIDEMARK_OPTION_STRING, .required = 1, .help = "its port" },
    { .name = NULL },
};

static const struct tidemark_option options[] = {
    { .name = "pool", .type = TIDEMARK_OPTION_STRING, .required = 1, .help = "name of the pool" },
    { .name = "namespace",
      .type = TIDEMARK_OPTION_STRING,
      .help = "namespace in the pool (default: the pool's own)" },
    { .name = "image",
      .type = TIDEMARK_OPTION_STRING,
      .required = 1,
      .help = "name of the image in the pool" },
    { .name = "snapshot",
      .type = TIDEMARK_OPTION_STRING,
      .help = "name of the snapshot to show, read-only (default: the image as it is now)" },
    { .name = "conf",
      .type = TIDEMARK_OPTION_STRING,
      .help = "path of Ceph's configuration file (default: as librados finds it)" },
    { .name = "user",
      .type = TIDEMARK_OPTION_STRING,
      .help = "name of the Ceph user, without 'client.' (default: admin)" },
    { .name = "auth-client-required",
      .type = TIDEMARK_OPTION_LIST,
      .fields = auth_fields,
      .help = "methods of authentication that are accepted (default: of the configuration)" },
    { .name = "key-secret",
      .type = TIDEMARK_OPTION_STRING,
      .help = "id of a secret object with the user's cephx key (default: a keyring)" },
    { .name = "server",
      .type = TIDEMARK_OPTION_LIST,
      .fields = server_fields,
      .help = "addresses of monitors (default: of the configuration)" },
    { .name = NULL },
};

static const struct tidemark_driver driver = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "rbd",
    .help = "an image in a Ceph cluster",
    .flags = TIDEMARK_DRIVER_REMOTE | TIDEMARK_DRIVER_SHARED,
    .options = options,
    .open = disk_open,
    .close = disk_close,
    .get_info = disk_get_info,
    .map = rbd_disk_map,
    .pread = rbd_disk_pread,
    .pwrite = rbd_disk_pwrite,
    .flush = rbd_disk_flush,
    .write_zeroes = rbd_disk_write_zeroes,
    .discard = rbd_disk_discard,
    .resize = disk_resize,
    .start = rbd_disk_start,
    .store_open = rbd_store_open,
    .store_read = rbd_store_read,
    .store_write = rbd_store_write,
    .store_abandon = rbd_store_abandon,
    .store_name = rbd_store_name,
};

__attribute__((visibility("default"))) const struct tidemark_driver *
tidemark_driver_init(const struct tidemark_host *host);
const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *host)
{
    rbd_host = host;
    return &driver;
}
