/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/rbd/store.c: the store of the image's bitmaps, one object beside it.
 *
 * Its name has the image's id, which no other image ever gets. Its attribute "tidemark.owner" says
 * who may write it: a number that grows with each host that takes the store over, and 16 random
 * bytes. Every write compares it in the same operation, so a write of a host that was cut off fails
 * wherever it comes from, whether the cluster has shut that host out or not. Who takes the store
 * over has the image's exclusive lock.
 *
 * An object with nothing in it stands for no store. It stays, as nobody else must write there.
 *
 * In a full pool writes that need no more space go on, and the others fail at once
 * (rados_set_pool_full_try). A cluster that doesn't answer is waited for. */
#include "block/drivers/rbd/rbd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define OWNER    "tidemark.owner"
#define RBD_LOCK "rbd_lock" /* that of the header, which librbd takes */
#define TRIES    16

static const char *object(const RbdDisk *d)
{
    return strrchr(d->store_name, '/') + 1;
}

int rbd_store_init(RbdDisk *d)
{
    const char *space = rbd_host->option_string(d->node, "namespace");
    int ret = rbd_get_id(d->image, d->id, sizeof(d->id));

    if (ret < 0 && ret != -EINVAL) {
        rbd_host->error(d->node, "error reading the id of image %s", d->name);
        return ret;
    }
    if (ret < 0) { /* an image of version 1 has none */
        d->id[0] = '\0';
        return asprintf(&d->store_name, "rbd:%s", d->name) < 0 ? -ENOMEM : 0;
    }
    return asprintf(&d->store_name, "rbd:%s/%s%srbd_tidemark.%s.bitmaps",
                    rbd_host->option_string(d->node, "pool"), space ? space : "", space ? "/" : "",
                    d->id) < 0
               ? -ENOMEM
               : 0;
}

const char *rbd_store_name(void *handle)
{
    const RbdDisk *d = handle;

    return d->store_name;
}

/* What an operation on the object was answered with. */
static int result(RbdDisk *d, int ret)
{
    if (ret == -ECANCELED)
        rbd_lose(d, "another host has taken over the store of its bitmaps");
    return rbd_result(d, ret);
}

/* ---- who may write */

/* The length of the owner that the object has, 0: none; or -errno. */
static int read_owner(RbdDisk *d, char owner[RBD_OWNER])
{
    int ret = rados_getxattr(d->pool, object(d), OWNER, owner, RBD_OWNER);

    return ret == -ENODATA ? 0 : ret;
}

/* The next one after @old. */
static int new_owner(RbdDisk *d, const char *old, int length)
{
    uint64_t number = 0;

    for (int i = 0; length == RBD_OWNER && i < 8; i++)
        number = number << 8 | (uint8_t)old[i];
    number++;
    for (int i = 7; i >= 0; i--, number >>= 8)
        d->owner[i] = (char)(uint8_t)number;
    return getrandom(d->owner + 8, RBD_OWNER - 8, 0) == RBD_OWNER - 8 ? 0 : -EIO;
}

/* -EEXIST, -ECANCELED: somebody else was faster. */
static int take_over(RbdDisk *d)
{
    char old[RBD_OWNER];
    int length = read_owner(d, old), ret;
    rados_write_op_t op;

    if (length < 0 && length != -ENOENT)
        return length;
    ret = new_owner(d, old, length);
    if (ret < 0)
        return ret;
    op = rados_create_write_op();
    if (length < 0)
        rados_write_op_create(op, LIBRADOS_CREATE_EXCLUSIVE, NULL);
    else
        rados_write_op_cmpxattr(op, OWNER, LIBRADOS_CMPXATTR_OP_EQ, old, (size_t)length);
    rados_write_op_setxattr(op, OWNER, d->owner, RBD_OWNER);
    ret = rados_write_op_operate(op, d->pool, object(d), NULL, LIBRADOS_OPERATION_NOFLAG);
    rados_release_write_op(op);
    return ret;
}

/* Whether somebody has the lock of the image, and so may write to it. (librbd doesn't say it of an
 * image that is open for reading.) */
static int check_unlocked(RbdDisk *d)
{
    char header[256], tag[64], clients[256], cookies[256], addresses[256];
    size_t tag_size = sizeof(tag), clients_size = sizeof(clients), cookies_size = sizeof(cookies),
           addresses_size = sizeof(addresses);
    int exclusive;
    ssize_t n;

    snprintf(header, sizeof(header), "rbd_header.%s", d->id);
    n = rados_list_lockers(d->pool, header, RBD_LOCK, &exclusive, tag, &tag_size, clients,
                           &clients_size, cookies, &cookies_size, addresses, &addresses_size);
    if (n > 0 || n == -ERANGE) /* somebody has, with a long name */
        return -EBUSY;
    return n == -ENOENT ? 0 : (int)n;
}

int rbd_store_open(void *handle, uint64_t *size)
{
    RbdDisk *d = handle;
    time_t time;
    int ret = d->id[0] && !d->fixed ? -EEXIST : -ENOTSUP; /* they are not a snapshot's */

    if (rbd_lost(d))
        return -EIO;
    for (int i = 0; i < TRIES && (ret == -EEXIST || ret == -ECANCELED); i++)
        ret = d->read_only ? check_unlocked(d) : take_over(d);
    if (ret < 0)
        return d->read_only ? ret : rbd_result(d, ret);
    ret = rados_stat(d->pool, object(d), size, &time);
    if (ret == -ENOENT) {
        *size = 0;
        ret = 0;
    }
    d->store_size = *size;
    return rbd_result(d, ret);
}

/* ---- what it has */

int rbd_store_read(void *handle, void *buf, uint64_t offset, uint64_t length)
{
    RbdDisk *d = handle;
    int ret = rados_read(d->pool, object(d), buf, length, offset);

    return ret < 0 || (uint64_t)ret == length ? result(d, ret) : -EIO;
}

static rados_write_op_t operation(RbdDisk *d, const struct tidemark_piece *pieces, uint32_t n,
                                  uint64_t size, bool replace, bool create)
{
    rados_write_op_t op = rados_create_write_op();

    if (create) {
        rados_write_op_create(op, LIBRADOS_CREATE_EXCLUSIVE, NULL);
        rados_write_op_setxattr(op, OWNER, d->owner, RBD_OWNER);
    } else {
        rados_write_op_cmpxattr(op, OWNER, LIBRADOS_CMPXATTR_OP_EQ, d->owner, RBD_OWNER);
    }
    if (replace)
        rados_write_op_truncate(op, 0);
    for (uint32_t i = 0; i < n; i++)
        rados_write_op_write(op, pieces[i].buf, pieces[i].length, pieces[i].offset);
    if (replace || size != d->store_size)
        rados_write_op_truncate(op, size);
    return op;
}

/* The object was deleted, with all that it said: it can be made again. */
static bool is_gone(RbdDisk *d)
{
    char owner[RBD_OWNER];

    return read_owner(d, owner) == -ENOENT;
}

int rbd_store_write(void *handle, const struct tidemark_piece *pieces, uint32_t n, uint64_t size,
                    uint32_t flags)
{
    bool replace = flags & TIDEMARK_STORE_REPLACE, create = false;
    RbdDisk *d = handle;
    int ret;

    do {
        rados_write_op_t op;

        if (rbd_lost(d))
            return -EIO;
        op = operation(d, pieces, n, size, replace, create);
        ret = rados_write_op_operate(op, d->pool, object(d), NULL, LIBRADOS_OPERATION_NOFLAG);
        rados_release_write_op(op);
        if ((ret == -ECANCELED || ret == -ENOENT) && !create && is_gone(d)) {
            ret = replace ? -ETIMEDOUT : -ENOENT;
            create = true;
        }
    } while (ret == -ETIMEDOUT); /* as the data of the disk, which wait, too */
    if (ret == 0)
        d->store_size = size;
    return result(d, ret);
}

void rbd_store_abandon(void *handle)
{
    rbd_lose(handle, "the store of its bitmaps can't be written");
}
