/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/sys.h: the system calls that touch disks and stores, as a table that tests can replace.
 *
 * Whoever opens files is given a const TmSys * (borrowed, outlives the user) and calls the kernel
 * through it only. Every entry behaves as the call of its name: result, or -1 and errno.
 * Threads: any; a replacement must be thread-safe too. */
#pragma once
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef struct TmSys {
    /* Waits for no peer, as open(2) of a FIFO would: the caller checks what it is. */
    int (*open)(const char *path, int flags, mode_t mode);
    int (*close)(int fd);
    int (*fstat)(int fd, struct stat *st);
    ssize_t (*preadv2)(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags);
    ssize_t (*pwritev2)(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags);
    int (*fdatasync)(int fd);
    int (*fsync)(int fd);
    int (*fallocate)(int fd, int mode, off_t offset, off_t length);
    int (*ftruncate)(int fd, off_t length);
    off_t (*lseek)(int fd, off_t offset, int whence);
    int (*rename)(const char *from, const char *to);
    int (*unlink)(const char *path);
    int (*ioctl)(int fd, unsigned long request, void *arg);
    int (*lock)(int fd, int cmd, struct flock *lock); /* fcntl(2): F_OFD_SETLK, F_OFD_GETLK */
    ssize_t (*readahead)(int fd, off_t offset, size_t count);
    /* sendfile(2) to a socket from @offset of a file. May be NULL: not supported. */
    ssize_t (*sendfile)(int socket, int fd, off_t offset, size_t count);
    /* copy_file_range(2) from @from_offset of a file to @to_offset of another one. May be NULL: not
     * supported. */
    ssize_t (*copy)(int from, off_t from_offset, int to, off_t to_offset, size_t count);
    /* Whether the range of a file is in the page cache, @whole or any page of it (cachestat(2),
     * Linux 6.5): 1, 0, or -1 and errno. May be NULL: not supported. */
    int (*cached)(int fd, off_t offset, size_t count, bool whole);
    /* Whether some of the range is in the page cache and not on the medium yet: as cached. */
    int (*dirty)(int fd, off_t offset, size_t count);
    /* A shared mapping of [offset, offset + length) for reading and writing; NULL, not
     * MAP_FAILED. */
    void *(*mmap)(int fd, off_t offset, size_t length);
    int (*munmap)(void *address, size_t length);
    ssize_t (*fgetxattr)(int fd, const char *name, void *value, size_t size);
    int (*fsetxattr)(int fd, const char *name, const void *value, size_t size);
    int (*fremovexattr)(int fd, const char *name);
    /* When the file was made (statx(2)); -1 and ENOTSUP where nobody knows. May be NULL: that. */
    int (*birth)(int fd, struct timespec *time);
} TmSys;

/* The real ones. */
extern const TmSys tm_sys_kernel;
/* The same, but open() follows no link that is the last name of a path or the one before: these are
 * a file and its directory themselves, whatever becomes a link meanwhile. */
extern const TmSys tm_sys_nofollow;

/* All of a range, whatever a call takes at a time and however often a signal interrupts it. 0 or
 * -errno; of a read, *done bytes, fewer than @length where the file ends or an error comes. */
int tm_write_all(const TmSys *sys, int fd, const void *data, uint64_t length, uint64_t offset);
int tm_read_all(const TmSys *sys, int fd, void *data, uint64_t length, uint64_t offset,
                uint64_t *done);
/* 0 or -errno. What has failed is lost, and later calls may say that all is well. */
int tm_fsync(const TmSys *sys, int fd);
int tm_fdatasync(const TmSys *sys, int fd);
