/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/sys.c: the kernel's own entries of the table; see the header. */
#include "util/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

/* A file, a directory or a block device is opened through an O_PATH descriptor, so that it is what
 * was checked, whatever the path means by then. -1 and ENOENT also without /proc. */
static int open_seen(const char *path, int flags, mode_t mode)
{
    char seen[sizeof("/proc/self/fd/") + 10];
    int path_fd = open(path, O_PATH | O_CLOEXEC | (flags & O_NOFOLLOW)), fd = -1, err;
    struct stat st;

    if (path_fd < 0)
        return -1;
    snprintf(seen, sizeof(seen), "/proc/self/fd/%d", path_fd);
    errno = ENOENT;
    if (fstat(path_fd, &st) == 0 &&
        (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) || S_ISDIR(st.st_mode)))
        fd = open(seen, flags & ~(O_CREAT | O_NOFOLLOW), mode); /* O_TMPFILE has a mode, too */
    err = errno;
    close(path_fd);
    errno = err;
    return fd;
}

/* A path may lead to anything: a FIFO must not be waited for. */
static int sys_open(const char *path, int flags, mode_t mode)
{
    bool fresh = (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL);
    int fd = fresh ? open(path, flags, mode) : open_seen(path, flags, mode);

    if (fd >= 0 || fresh || errno != ENOENT)
        return fd;
    fd = open(path, flags | O_NONBLOCK, mode);
    if (fd >= 0 && !(flags & O_NONBLOCK))
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    return fd;
}

static int sys_ioctl(int fd, unsigned long request, void *arg)
{
    return ioctl(fd, request, arg);
}

static int sys_lock(int fd, int cmd, struct flock *lock)
{
    return fcntl(fd, cmd, lock);
}

static void *sys_mmap(int fd, off_t offset, size_t length)
{
    void *address = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);

    return address == MAP_FAILED ? NULL : address;
}

static ssize_t sys_sendfile(int socket, int fd, off_t offset, size_t count)
{
    return sendfile(socket, fd, &offset, count);
}

static ssize_t sys_copy(int from, off_t from_offset, int to, off_t to_offset, size_t count)
{
    return copy_file_range(from, &from_offset, to, &to_offset, count, 0);
}

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

typedef struct CacheStat {
    uint64_t cached, dirty, writeback, evicted, recently_evicted; /* pages */
} CacheStat;

static bool cache_stat(int fd, off_t offset, size_t count, CacheStat *found)
{
    struct {
        uint64_t offset, length;
    } range = { (uint64_t)offset, count };

    *found = (CacheStat){ 0 };
    return syscall(SYS_cachestat, fd, &range, found, 0) == 0;
}

static int sys_cached(int fd, off_t offset, size_t count, bool whole)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t pages = ((uint64_t)offset + count - 1) / page - (uint64_t)offset / page + 1;
    CacheStat found;

    return cache_stat(fd, offset, count, &found) ? found.cached >= (whole ? pages : 1) : -1;
}

static int sys_dirty(int fd, off_t offset, size_t count)
{
    CacheStat found;

    return cache_stat(fd, offset, count, &found) ? found.dirty || found.writeback : -1;
}

static int sys_birth(int fd, struct timespec *time)
{
    struct statx st;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &st) < 0)
        return -1;
    if (!(st.stx_mask & STATX_BTIME)) {
        errno = ENOTSUP;
        return -1;
    }
    *time = (struct timespec){ st.stx_btime.tv_sec, st.stx_btime.tv_nsec };
    return 0;
}

static int sys_fsetxattr(int fd, const char *name, const void *value, size_t size)
{
    return fsetxattr(fd, name, value, size, 0);
}

/* The directory is opened by itself: then it is that one, whatever becomes of its name. */
static int nofollow_open(const char *path, int flags, mode_t mode)
{
    g_autofree char *directory = g_path_get_dirname(path), *name = g_path_get_basename(path);
    g_autofree char *inside = NULL;
    int dir, fd, err;

    if (flags & O_DIRECTORY) /* for its sync only */
        return sys_open(path, flags, mode);
    dir = open(directory, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        return -1;
    inside = g_strdup_printf("/proc/self/fd/%d/%s", dir, name);
    fd = sys_open(access("/proc/self/fd", X_OK) == 0 ? inside : path, flags | O_NOFOLLOW, mode);
    err = errno;
    close(dir);
    errno = err;
    return fd;
}

/* All but open. */
#define CALLS                                                                                      \
    .close = close, .fstat = fstat, .preadv2 = preadv2, .pwritev2 = pwritev2,                      \
    .fdatasync = fdatasync, .fsync = fsync, .fallocate = fallocate, .ftruncate = ftruncate,        \
    .lseek = lseek, .rename = rename, .unlink = unlink, .ioctl = sys_ioctl, .lock = sys_lock,      \
    .readahead = readahead, .sendfile = sys_sendfile, .copy = sys_copy, .cached = sys_cached,      \
    .dirty = sys_dirty, .mmap = sys_mmap, .munmap = munmap, .fgetxattr = fgetxattr,                \
    .fsetxattr = sys_fsetxattr, .birth = sys_birth, .fremovexattr = fremovexattr

const TmSys tm_sys_kernel = { .open = sys_open, CALLS };
const TmSys tm_sys_nofollow = { .open = nofollow_open, CALLS };

/* ---- over the table */

#define CALL_MAX ((uint64_t)1 << 30) /* bytes; Linux takes no more than 2 GiB at a time */

int tm_write_all(const TmSys *sys, int fd, const void *data, uint64_t length, uint64_t offset)
{
    const char *at = data;

    while (length) {
        struct iovec iov = { (void *)at, length < CALL_MAX ? length : CALL_MAX };
        ssize_t n = sys->pwritev2(fd, &iov, 1, (off_t)offset, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENOSPC;
        at += n;
        offset += (uint64_t)n;
        length -= (uint64_t)n;
    }
    return 0;
}

int tm_read_all(const TmSys *sys, int fd, void *data, uint64_t length, uint64_t offset,
                uint64_t *done)
{
    *done = 0;
    while (*done < length) {
        uint64_t left = length - *done;
        struct iovec iov = { (char *)data + *done, left < CALL_MAX ? left : CALL_MAX };
        ssize_t n = sys->preadv2(fd, &iov, 1, (off_t)(offset + *done), 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : 0;
        *done += (uint64_t)n;
    }
    return 0;
}

static int sync_with(int (*sync)(int fd), int fd)
{
    while (sync(fd) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

int tm_fsync(const TmSys *sys, int fd)
{
    return sync_with(sys->fsync, fd);
}

int tm_fdatasync(const TmSys *sys, int fd)
{
    return sync_with(sys->fdatasync, fd);
}
