/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/file/io.c: reading, writing and flushing for what map's answer won't do.
 *
 * Page-cache I/O needs nothing from here: the core does it on the descriptor. With O_DIRECT, what
 * isn't aligned (range or memory) is bounced here, and writes become read-modify-write.
 *
 * Invariants:
 *  - reads beyond the end of the file, which another program may have truncated, give zeroes;
 *  - read-modify-writes exclude each other (bounce_lock); that an aligned write to the same block
 *    isn't under way is the core's part, which counts unaligned writes by request_alignment;
 *  - O_DIRECT can't write a part of a block, so the bytes after the last whole block of a file of
 *    odd size go through a second, buffered descriptor, and nothing else does: the file never
 *    grows;
 *  - once an fdatasync has failed, all later ones fail: the kernel has dropped the dirty pages, and
 *    a second call would claim that they are safe. */
#include "block/drivers/file/file.h"
#include "util/range.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BOUNCE_MAX ((uint64_t)1 << 20)

static int read_all(const FileDisk *file, int fd, void *buf, uint64_t offset, uint64_t length)
{
    char *at = buf;

    while (length) {
        struct iovec iov = { at, tm_min(length, 1u << 30) };
        ssize_t n = file->sys->preadv2(fd, &iov, 1, (off_t)offset, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        /* O_DIRECT ends a transfer at the end of the file, inside a block */
        if (n == 0 || (uint64_t)n % file->align) {
            memset(at + n, 0, length - (uint64_t)n);
            return 0;
        }
        at += n;
        offset += (uint64_t)n;
        length -= (uint64_t)n;
    }
    return 0;
}

uint64_t blk_file_direct_end(const FileDisk *file)
{
    uint64_t size = __atomic_load_n(&file->size, __ATOMIC_RELAXED); /* block status asks any time */

    return file->direct ? tm_align_down(size, file->align) : size;
}

int blk_file_open_tail(FileDisk *file)
{
    struct stat a, b;

    if (file->tail_fd >= 0 || blk_file_direct_end(file) == file->size)
        return 0;
    file->tail_fd =
        file->sys->open(file->path, (file->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC, 0);
    if (file->tail_fd < 0)
        return -errno;
    if (file->sys->fstat(file->fd, &a) == 0 && file->sys->fstat(file->tail_fd, &b) == 0 &&
        a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return 0;
    file->sys->close(file->tail_fd); /* the path leads to another file by now */
    file->tail_fd = -1;
    return -ESTALE;
}

static bool fits(const FileDisk *file, const void *buf, uint64_t offset, uint64_t length)
{
    return !(((uintptr_t)buf | offset | length) & (file->align - 1));
}

/* The aligned range around what of [offset, offset + length) one bounce buffer takes. */
typedef struct Bounce {
    char *memory;
    uint64_t start, length; /* aligned, within the file */
    uint64_t skip, take;    /* the caller's bytes in it */
} Bounce;

static int bounce_begin(const FileDisk *file, uint64_t offset, uint64_t length, Bounce *b)
{
    b->start = tm_align_down(offset, file->align);
    b->skip = offset - b->start;
    b->take = tm_min(length, BOUNCE_MAX - b->skip);
    b->length = tm_align_up(b->skip + b->take, file->align);
    return posix_memalign((void **)&b->memory, MAX(file->align, sizeof(void *)), b->length)
               ? -ENOMEM
               : 0;
}

/* Both work up to direct_end() */
static int read_bounced(const FileDisk *file, char *buf, uint64_t offset, uint64_t length)
{
    while (length) {
        Bounce b;
        int ret = bounce_begin(file, offset, length, &b);

        if (ret < 0)
            return ret;
        ret = read_all(file, file->fd, b.memory, b.start, b.length);
        if (ret == 0)
            memcpy(buf, b.memory + b.skip, b.take);
        free(b.memory);
        if (ret < 0)
            return ret;
        buf += b.take;
        offset += b.take;
        length -= b.take;
    }
    return 0;
}

static int write_one_bounced(FileDisk *file, const char *buf, Bounce *b)
{
    bool whole = b->skip == 0 && b->take == b->length;
    int ret = 0;

    if (!whole)
        ret = read_all(file, file->fd, b->memory, b->start, b->length);
    if (ret < 0)
        return ret;
    memcpy(b->memory + b->skip, buf, b->take);
    return tm_write_all(file->sys, file->fd, b->memory, b->length, b->start);
}

static int write_bounced(FileDisk *file, const char *buf, uint64_t offset, uint64_t length)
{
    while (length) {
        Bounce b;
        int ret = bounce_begin(file, offset, length, &b);

        if (ret < 0)
            return ret;
        pthread_mutex_lock(&file->bounce_lock);
        ret = write_one_bounced(file, buf, &b);
        pthread_mutex_unlock(&file->bounce_lock);
        free(b.memory);
        if (ret < 0)
            return ret;
        buf += b.take;
        offset += b.take;
        length -= b.take;
    }
    return 0;
}

int blk_file_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    FileDisk *file = handle;
    uint64_t end = blk_file_direct_end(file);
    uint64_t body = offset < end ? tm_min(length, end - offset) : 0;
    int ret = 0;

    if (body && fits(file, buf, offset, body))
        ret = read_all(file, file->fd, buf, offset, body);
    else if (body)
        ret = read_bounced(file, buf, offset, body);
    if (ret == 0 && length > body)
        ret = read_all(file, file->tail_fd, (char *)buf + body, offset + body, length - body);
    return ret;
}

int blk_file_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    FileDisk *file = handle;
    uint64_t end = blk_file_direct_end(file);
    uint64_t body = offset < end ? tm_min(length, end - offset) : 0;
    int ret = 0;

    if (body && fits(file, buf, offset, body))
        ret = tm_write_all(file->sys, file->fd, buf, body, offset);
    else if (body)
        ret = write_bounced(file, buf, offset, body);
    if (ret == 0 && length > body)
        ret = tm_write_all(file->sys, file->tail_fd, (const char *)buf + body, length - body,
                           offset + body);
    return ret;
}

/* Under the lock, which is let go of meanwhile: one fdatasync for everybody who waits now. */
static void sync_for_all(FileDisk *file)
{
    uint64_t wanted = file->sync_wanted;
    int err;

    file->syncing = true;
    pthread_mutex_unlock(&file->sync_lock);
    err = -tm_fdatasync(file->sys, file->fd);
    pthread_mutex_lock(&file->sync_lock);
    file->syncing = false;
    if (err)
        file->sync_error = err;
    else
        file->sync_done = wanted;
    pthread_cond_broadcast(&file->synced);
}

/* The kernel reports a failed writeback once to a descriptor and then drops the pages. All
 * syncing of the file is therefore done here, one sync at a time, and after a failure every flush
 * fails. */
int blk_file_flush(void *handle)
{
    FileDisk *file = handle;
    uint64_t mine;
    int ret;

    if (file->no_flush || file->read_only)
        return 0;
    pthread_mutex_lock(&file->sync_lock);
    mine = ++file->sync_wanted;
    while (!file->sync_error && file->sync_done < mine) {
        if (file->syncing)
            pthread_cond_wait(&file->synced, &file->sync_lock);
        else
            sync_for_all(file);
    }
    ret = -file->sync_error;
    pthread_mutex_unlock(&file->sync_lock);
    return ret;
}
