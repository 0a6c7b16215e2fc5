/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/rbd/status.c: block status, by whole objects.
 *
 * The object map of an image shows which objects exist. It is read at once for the whole image
 * (rbd_diff_iterate2() with fast-diff, which first waits for writes that have begun), and is kept
 * until something that may free objects has happened and a new walk begins. Each write notes its
 * objects before it begins and after it has ended, so one that was not in the map is known from its
 * end on, whenever the map was read.
 *
 * All is data: without fast-diff; if the map is invalid; in striped images; in a clone, below the
 * overlap with its parent. */
#include "block/drivers/rbd/rbd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHUNKS_MAX  (UINT64_C(1) << 26)
#define AGE_MAX_NS  INT64_C(1000000000) /* of a map of an image that others may write to */
#define MAP_INVALID (RBD_FLAG_OBJECT_MAP_INVALID | RBD_FLAG_FAST_DIFF_INVALID)

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- bits */

static uint64_t bit(uint64_t chunk)
{
    return UINT64_C(1) << (chunk & 63);
}

static size_t words(uint64_t chunks)
{
    return (size_t)((chunks + 63) / 64);
}

static bool is_data(const RbdDisk *d, uint64_t chunk)
{
    return (d->exists[chunk / 64] | __atomic_load_n(&d->touched[chunk / 64], __ATOMIC_ACQUIRE)) &
           bit(chunk);
}

static void set_exists(RbdDisk *d, uint64_t offset, uint64_t length)
{
    for (uint64_t i = offset / d->chunk;
         length && i <= (offset + length - 1) / d->chunk && i < d->chunks; i++)
        d->exists[i / 64] |= bit(i);
}

void rbd_status_touch(RbdDisk *d, uint64_t offset, uint64_t length, bool frees)
{
    if (frees)
        __atomic_store_n(&d->stale, 1, __ATOMIC_RELEASE);
    if (!d->chunk)
        return;
    for (uint64_t i = offset / d->chunk; i <= (offset + length - 1) / d->chunk; i++) {
        uint64_t *word = &d->touched[i / 64];

        if (!(__atomic_load_n(word, __ATOMIC_ACQUIRE) & bit(i)))
            __atomic_fetch_or(word, bit(i), __ATOMIC_ACQ_REL);
    }
}

/* ---- the map */

static int found(uint64_t offset, size_t length, int exists, void *opaque)
{
    if (exists)
        set_exists(opaque, offset, length);
    return 0;
}

static bool is_valid(const RbdDisk *d)
{
    uint64_t features, flags;

    return rbd_get_features(d->image, &features) == 0 && features & RBD_FEATURE_FAST_DIFF &&
           rbd_get_flags(d->image, &flags) == 0 && !(flags & MAP_INVALID);
}

static bool read_map(RbdDisk *d)
{
    uint64_t size = __atomic_load_n(&d->size, __ATOMIC_ACQUIRE), overlap = 0;

    __atomic_store_n(&d->stale, 0, __ATOMIC_RELEASE);
    for (size_t i = 0; i < words(d->chunks); i++)
        __atomic_store_n(&d->touched[i], 0, __ATOMIC_RELEASE);
    memset(d->exists, 0, words(d->chunks) * sizeof(d->exists[0]));
    d->read_at = now_ns();
    if (!is_valid(d) || rbd_get_overlap(d->image, &overlap) < 0 ||
        rbd_diff_iterate2(d->image, NULL, 0, size, 0, 1, found, d) < 0)
        return false;
    set_exists(d, 0, overlap);
    return is_valid(d); /* it may have become invalid */
}

/* Whether what is known can be used for an answer that begins at @offset. What was written since is
 * known in any case. */
static bool is_fresh(const RbdDisk *d, uint64_t offset)
{
    if (!d->known)
        return false;
    if (d->fixed)
        return true;
    if (!d->read_only && !__atomic_load_n(&d->stale, __ATOMIC_ACQUIRE))
        return true;
    return offset == d->cursor && offset && now_ns() - d->read_at < AGE_MAX_NS;
}

int rbd_disk_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                 struct tidemark_mapping *m)
{
    RbdDisk *d = handle;
    uint64_t i, end;
    bool data;

    *m = (struct tidemark_mapping){ .kind = TIDEMARK_MAP_SELF, .fd = -1, .length = length };
    if (purpose != TIDEMARK_MAP_FOR_STATUS)
        return 0;
    if (rbd_lost(d))
        return -EIO;
    pthread_mutex_lock(&d->scan);
    if (d->chunk && !is_fresh(d, offset))
        d->known = read_map(d);
    if (d->chunk && d->known) {
        i = offset / d->chunk;
        data = is_data(d, i);
        end = offset + length;
        do
            i++;
        while (i * d->chunk < end && is_data(d, i) == data);
        if (i * d->chunk < end)
            m->length = i * d->chunk - offset;
        if (!data) {
            m->kind = TIDEMARK_MAP_ZERO;
            m->flags = TIDEMARK_MAPPED_HOLE;
        }
    }
    d->cursor = offset + m->length;
    pthread_mutex_unlock(&d->scan);
    return 0;
}

/* ---- memory */

/* 0: it can't be known. */
static uint64_t object_size(const RbdDisk *d)
{
    rbd_image_info_t info;
    uint64_t stripes;

    if (rbd_get_stripe_count(d->image, &stripes) < 0 || stripes != 1 ||
        rbd_stat(d->image, &info, sizeof(info)) < 0 || !info.obj_size)
        return 0;
    return d->size / info.obj_size < CHUNKS_MAX ? info.obj_size : 0;
}

int rbd_status_size(RbdDisk *d)
{
    uint64_t chunk = object_size(d), chunks = chunk ? (d->size + chunk - 1) / chunk : 0;
    uint64_t *exists = calloc(words(chunks) + 1, sizeof(*exists));
    uint64_t *touched = calloc(words(chunks) + 1, sizeof(*touched));
    int ret = exists && touched ? 0 : -ENOMEM;

    if (ret < 0) {
        free(exists);
        free(touched);
        exists = touched = NULL;
        chunk = chunks = 0;
    }
    pthread_mutex_lock(&d->scan);
    rbd_status_free(d);
    d->exists = exists;
    d->touched = touched;
    d->chunk = chunk;
    d->chunks = chunks;
    d->known = false;
    pthread_mutex_unlock(&d->scan);
    return ret;
}

void rbd_status_free(RbdDisk *d)
{
    free(d->exists);
    free(d->touched);
}
