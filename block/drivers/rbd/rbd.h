/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/rbd/rbd.h: a disk that is an image in a Ceph cluster. A plug-in: it reaches the
 * daemon through tidemark/driver.h alone.
 *
 *   rbd.c      options, opening, closing, size
 *   connect.c  from the options to an open image
 *   lock.c     the exclusive lock of an image that is written to, and its loss
 *   io.c       the callbacks: requests that are waited for, and those that complete later
 *   status.c   block status, from the object map
 *   store.c    the store of the image's bitmaps, an object beside it
 *
 * Requests are given to librbd by whoever has them, as many as there are, and complete on threads
 * of librbd, which go on with the client's reply.
 *
 * Invariants:
 *  - Nothing is written without the exclusive lock. Once it is lost every request fails, for good:
 *    what is on the disk may be somebody else's.
 *  - A range is shown as a hole only if the object map says so, and no write through this disk has
 *    begun or ended there since it was read. */
#pragma once
#include <pthread.h>
#include <rbd/librbd.h>
#include <stdbool.h>
#include <stdint.h>
#include <tidemark/driver.h>

#define RBD_OWNER 24 /* bytes of what says who may write the store of the bitmaps */

typedef struct RbdDisk {
    struct tidemark_node *node;
    rados_t cluster;
    rados_ioctx_t pool;
    rbd_image_t image;
    char *name; /* POOL/NAMESPACE/IMAGE@SNAPSHOT, for messages */
    bool read_only;
    bool fixed;    /* a snapshot, which doesn't change */
    uint64_t size; /* atomic */
    int lost;      /* atomic: the lock is, or the cluster has shut us out */
    bool locked;   /* the lock was taken, and the watcher runs */
    pthread_t watcher;
    char *header;         /* the object whose watchers hear of a new owner; the watcher's */
    uint64_t watch;       /* on it; the watcher's, 0: none */
    pthread_mutex_t lock; /* guards what follows; a leaf */
    pthread_cond_t wake;
    bool end;     /* the watcher is to */
    bool news;    /* the watcher is to check */
    bool unheard; /* the watch has ended */

    char *store_name;      /* of the store of the bitmaps; the object's comes after the last '/' */
    char id[128];          /* of the image; "": it has none, and there can be no store */
    char owner[RBD_OWNER]; /* what this host has taken it over with */
    uint64_t store_size;   /* bytes */

    pthread_mutex_t scan; /* guards what follows, but what is atomic; held while a map is read */
    uint64_t chunk;       /* bytes of an object; 0: all is shown as data */
    uint64_t chunks;
    uint64_t *exists;  /* a bit for each: the object did exist when the map was read */
    uint64_t *touched; /* atomic; a bit for each: written since then, as far as is known */
    bool known;        /* the map was read */
    int stale;         /* atomic: something was discarded or zeroed since then */
    uint64_t cursor;   /* where the last answer ended */
    int64_t read_at;   /* ns, when */
} RbdDisk;

extern const struct tidemark_host *rbd_host;

/* ---- connect.c. From the options of the node; within open(). 0 or -errno, and the host has the
 * reason. What was opened is in @d, also after an error. */
int rbd_connect(RbdDisk *d);
void rbd_disconnect(RbdDisk *d);
int rbd_read_size(RbdDisk *d);
/* Within open(): what was being done to @name failed with @ret, which is returned. */
int rbd_failed(const RbdDisk *d, int ret, const char *what, const char *name);

/* ---- lock.c. Takes the lock and begins to watch it; within open(). As rbd_connect(). */
int rbd_lock_take(RbdDisk *d);
void rbd_lock_drop(RbdDisk *d); /* also if it was not taken */
bool rbd_lost(const RbdDisk *d);
/* Every request fails from now on. Any thread. */
void rbd_lose(RbdDisk *d, const char *why);
/* What a request is answered with that librbd answered with @ret. Notices a loss. Any thread. */
int rbd_result(RbdDisk *d, int64_t ret);

/* ---- io.c: the callbacks */
int rbd_disk_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags);
int rbd_disk_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length,
                    uint32_t flags);
int rbd_disk_flush(void *handle);
int rbd_disk_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags);
int rbd_disk_discard(void *handle, uint64_t offset, uint64_t length);
int rbd_disk_start(void *handle, struct tidemark_transfer *transfer);

/* ---- store.c: the callbacks, and within open() the name; 0 or -ENOMEM. */
int rbd_store_init(RbdDisk *d);
int rbd_store_open(void *handle, uint64_t *size);
int rbd_store_read(void *handle, void *buf, uint64_t offset, uint64_t length);
int rbd_store_write(void *handle, const struct tidemark_piece *pieces, uint32_t n, uint64_t size,
                    uint32_t flags);
void rbd_store_abandon(void *handle);
const char *rbd_store_name(void *handle);

/* ---- status.c. Within open() and resize(), when the size is known. 0 or -ENOMEM. */
int rbd_status_size(RbdDisk *d);
void rbd_status_free(RbdDisk *d);
/* A change of the range begins or has ended. @frees: it may free objects. Any thread. */
void rbd_status_touch(RbdDisk *d, uint64_t offset, uint64_t length, bool frees);
int rbd_disk_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                 struct tidemark_mapping *mapping);
