/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/rbd/lock.c: the exclusive lock of an image that is written to.
 *
 * It is taken in the mode in which librbd keeps it: a client that asks for it is refused. A client
 * may break it, which shuts us out of the cluster (the blocklist) before the lock is theirs: the
 * cluster answers our next request with an error. If that client was configured not to shut us out,
 * the watcher finds out: a new owner says so to all who watch the header of the image, and the
 * watcher checks then, and from time to time. A lock that was lost is not taken again: only the
 * next opening does. */
#include "block/drivers/rbd/rbd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WATCH_SECONDS 5

bool rbd_lost(const RbdDisk *d)
{
    return __atomic_load_n(&d->lost, __ATOMIC_ACQUIRE);
}

void rbd_lose(RbdDisk *d, const char *why)
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
        rbd_lose(d, "the cluster has blocklisted this client");
    else if (ret == -EROFS && d->locked)
        rbd_lose(d, "the exclusive lock was lost");
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
        rbd_lose(d, "the exclusive lock was lost");
}

/* ---- the watcher */

static void wake(RbdDisk *d, bool *why)
{
    pthread_mutex_lock(&d->lock);
    *why = true;
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->lock);
}

/* Something about the image has changed, perhaps the owner of the lock. A thread of librados. */
static void notified(void *opaque, uint64_t id, uint64_t watch, uint64_t from, void *data, size_t n)
{
    RbdDisk *d = opaque;

    rados_notify_ack(d->pool, d->header, id, watch, NULL, 0);
    wake(d, &d->news);
}

/* The cluster has forgotten the watch, or us. A thread of librados. */
static void watch_ended(void *opaque, uint64_t watch, int error)
{
    RbdDisk *d = opaque;

    wake(d, &d->unheard);
}

static void watch_end(RbdDisk *d)
{
    if (d->watch)
        rados_unwatch2(d->pool, d->watch);
    d->watch = 0;
}

/* If it can't be had, the watcher goes on without. */
static void watch_begin(RbdDisk *d)
{
    if (rados_watch3(d->pool, d->header, &d->watch, notified, watch_ended, 0, d) < 0)
        d->watch = 0;
}

/* Waits for WATCH_SECONDS, or until somebody wakes it. false: it is the end. */
static bool pause_watch(RbdDisk *d, bool *again)
{
    struct timespec until;
    bool end;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += WATCH_SECONDS;
    pthread_mutex_lock(&d->lock);
    while (!d->end && !d->news && !d->unheard &&
           pthread_cond_timedwait(&d->wake, &d->lock, &until) == 0)
        continue;
    end = d->end;
    *again = d->unheard;
    d->news = d->unheard = false;
    pthread_mutex_unlock(&d->lock);
    return !end;
}

static void *watch(void *opaque)
{
    RbdDisk *d = opaque;
    bool again = true;

    do {
        if (again) {
            watch_end(d);
            watch_begin(d);
        }
        if (!rbd_lost(d))
            check(d);
    } while (pause_watch(d, &again));
    watch_end(d);
    rados_watch_flush(d->cluster);
    return NULL;
}

/* ---- taking it */

/* Who has it, for the message. */
static int refused(RbdDisk *d, int ret)
{
    char *owner = NULL;
    rbd_lock_mode_t mode;
    size_t n = 1;

    if (rbd_lock_get_owners(d->image, &mode, &owner, &n) < 0 || !n)
        return rbd_failed(d, ret, "locking RBD image", d->name);
    rbd_host->error(d->node, "RBD image '%s' is locked by client '%s'", d->name, owner);
    rbd_lock_get_owners_cleanup(&owner, n);
    return ret;
}

static int check_features(const RbdDisk *d)
{
    uint64_t features = 0;
    int ret = rbd_get_features(d->image, &features);

    if (ret < 0)
        return rbd_failed(d, ret, "reading the features of image", d->name);
    if (features & RBD_FEATURE_EXCLUSIVE_LOCK)
        return 0;
    rbd_host->error(d->node,
                    "RBD image '%s' can't be written to without the feature exclusive-lock: see "
                    "'rbd feature enable'",
                    d->name);
    return -ENOTSUP;
}

static int begin_watching(RbdDisk *d)
{
    char id[128];
    int ret = rbd_get_id(d->image, id, sizeof(id));

    if (ret == 0 && asprintf(&d->header, "rbd_header.%s", id) < 0) {
        d->header = NULL;
        ret = -ENOMEM;
    }
    if (ret == 0)
        ret = -pthread_create(&d->watcher, NULL, watch, d);
    return ret < 0 ? rbd_failed(d, ret, "watching the lock of image", d->name) : 0;
}

int rbd_lock_take(RbdDisk *d)
{
    int ret = check_features(d);

    if (ret < 0)
        return ret;
    ret = rbd_lock_acquire(d->image, RBD_LOCK_MODE_EXCLUSIVE);
    if (ret < 0)
        return refused(d, ret);
    ret = begin_watching(d);
    if (ret < 0)
        rbd_lock_release(d->image);
    else
        d->locked = true;
    return ret;
}

void rbd_lock_drop(RbdDisk *d)
{
    if (d->locked) {
        wake(d, &d->end);
        pthread_join(d->watcher, NULL);
        if (!rbd_lost(d))
            rbd_lock_release(d->image);
    }
    free(d->header);
}
