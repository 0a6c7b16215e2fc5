/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/rbd/lock.c: the exclusive lock of an image that is written to.
 *
 * It is taken in the mode in which librbd keeps it: a client that asks for it is refused. A client
 * may break it, which shuts us out of the cluster (the blocklist) before the lock is theirs: the
 * cluster answers our next request with an error. If it was configured not to shut us out, the
 * watcher finds out. A lock that was lost is not taken again: only the next opening does. */
#include "block/drivers/rbd/rbd.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define WATCH_SECONDS 5

bool rbd_lost(const RbdDisk *d)
{
    return __atomic_load_n(&d->lost, __ATOMIC_ACQUIRE);
}

static void lose(RbdDisk *d, const char *why)
{
    if (!__atomic_exchange_n(&d->lost, 1, __ATOMIC_ACQ_REL))
        rbd_host->log(d->node, "RBD image '%s': %s, and every request fails from now on", d->name,
                      why);
}

int rbd_result(RbdDisk *d, int64_t ret)
{
    if (ret >= 0)
        return 0;
    if (ret == -ESHUTDOWN)
        lose(d, "the cluster has blocklisted this client");
    else if (ret == -EROFS && d->locked)
        lose(d, "the exclusive lock was lost");
    if (rbd_lost(d))
        return -EIO;
    return ret == -EDQUOT ? -ENOSPC : (int)ret;
}

static void check(RbdDisk *d)
{
    int owner = 0, ret = rbd_is_exclusive_lock_owner(d->image, &owner);

    if (ret < 0)
        rbd_result(d, ret);
    else if (!owner)
        lose(d, "the exclusive lock was lost");
}

static void *watch(void *opaque)
{
    RbdDisk *d = opaque;
    struct timespec until;

    pthread_mutex_lock(&d->lock);
    clock_gettime(CLOCK_MONOTONIC, &until);
    while (!d->end) {
        until.tv_sec += WATCH_SECONDS;
        while (!d->end && pthread_cond_timedwait(&d->ending, &d->lock, &until) == 0)
            continue;
        if (d->end || rbd_lost(d))
            continue;
        pthread_mutex_unlock(&d->lock);
        check(d);
        pthread_mutex_lock(&d->lock);
        clock_gettime(CLOCK_MONOTONIC, &until);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

/* Who has it, for the message. */
static int refused(RbdDisk *d, int ret)
{
    char *owner = NULL, reason[128];
    rbd_lock_mode_t mode;
    size_t n = 1;

    if (rbd_lock_get_owners(d->image, &mode, &owner, &n) == 0 && n) {
        rbd_host->error(d->node, "RBD image '%s' is locked by client '%s'", d->name, owner);
        rbd_lock_get_owners_cleanup(&owner, n);
    } else {
        rbd_host->error(d->node, "error locking RBD image '%s': %s", d->name,
                        strerror_r(-ret, reason, sizeof(reason)));
    }
    return ret;
}

int rbd_lock_take(RbdDisk *d)
{
    uint64_t features = 0;
    int ret = rbd_get_features(d->image, &features);

    if (ret == 0 && !(features & RBD_FEATURE_EXCLUSIVE_LOCK)) {
        rbd_host->error(d->node,
                        "RBD image '%s' can't be written to without the feature exclusive-lock: "
                        "see 'rbd feature enable'",
                        d->name);
        return -ENOTSUP;
    }
    if (ret == 0)
        ret = rbd_lock_acquire(d->image, RBD_LOCK_MODE_EXCLUSIVE);
    if (ret < 0)
        return refused(d, ret);
    ret = -pthread_create(&d->watcher, NULL, watch, d);
    if (ret == 0)
        d->locked = true;
    else
        rbd_lock_release(d->image);
    return ret;
}

void rbd_lock_drop(RbdDisk *d)
{
    if (!d->locked)
        return;
    pthread_mutex_lock(&d->lock);
    d->end = true;
    pthread_cond_signal(&d->ending);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->watcher, NULL);
    if (!rbd_lost(d))
        rbd_lock_release(d->image);
}
