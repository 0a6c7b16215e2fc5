/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/fuzz/memory_sys.c: a table of memfds with names. Each open() is a description of its own,
 * as locks need. */
#include "tests/fuzz/fuzz_store.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FILES 8

typedef struct MemoryFile {
    char *path; /* NULL: free, or unlinked but known by its inode */
    int fd;     /* -1: free */
    ino_t kernel_ino;
    ino_t ino;
} MemoryFile;

static MemoryFile files[FILES];
static ino_t last_ino;
static int mappings; /* atomic */
static uint8_t xattr[512];
static size_t xattr_size;

static MemoryFile *find(const char *path)
{
    for (size_t i = 0; i < FILES; i++) {
        if (files[i].path && !strcmp(files[i].path, path))
            return &files[i];
    }
    return NULL;
}

static MemoryFile *create(const char *path)
{
    MemoryFile *file = files;
    struct stat st;
    static bool once;

    if (!once) {
        for (size_t i = 0; i < FILES; i++)
            files[i].fd = -1;
        once = true;
    }
    while (file < files + FILES && file->fd >= 0)
        file++;
    if (file == files + FILES)
        abort();
    file->fd = memfd_create("file", MFD_CLOEXEC);
    if (file->fd < 0 || fstat(file->fd, &st) < 0)
        abort();
    file->path = g_strdup(path);
    file->kernel_ino = st.st_ino;
    file->ino = ++last_ino;
    return file;
}

/* ---- the table */

static int sys_open(const char *path, int flags, mode_t mode)
{
    MemoryFile *file = find(path);
    char name[64];

    if (flags & O_DIRECTORY) {
        snprintf(name, sizeof(name), "/");
    } else if (!file && !(flags & O_CREAT)) {
        errno = ENOENT;
        return -1;
    } else if (file && (flags & O_CREAT) && (flags & O_EXCL)) {
        errno = EEXIST;
        return -1;
    } else {
        file = file ? file : create(path);
        snprintf(name, sizeof(name), "/proc/self/fd/%d", file->fd);
    }
    return open(name, flags & ~(O_CREAT | O_EXCL | O_NOFOLLOW), mode);
}

static int sys_fstat(int fd, struct stat *st)
{
    if (fstat(fd, st) < 0)
        return -1;
    for (size_t i = 0; i < FILES; i++) {
        if (files[i].fd >= 0 && files[i].kernel_ino == st->st_ino) {
            st->st_ino = files[i].ino;
            st->st_dev = 1;
            st->st_nlink = 1;
            st->st_mtim = st->st_ctim = (struct timespec){ .tv_sec = 1 };
        }
    }
    return 0;
}

static int sys_sync(int fd)
{
    return 0;
}

static int sys_unlink(const char *path)
{
    MemoryFile *file = find(path);

    if (!file) {
        errno = ENOENT;
        return -1;
    }
    g_free(file->path);
    file->path = NULL;
    close(file->fd);
    file->fd = -1;
    return 0;
}

static int sys_rename(const char *from, const char *to)
{
    MemoryFile *file = find(from);

    if (!file) {
        errno = ENOENT;
        return -1;
    }
    if (find(to))
        sys_unlink(to);
    g_free(file->path);
    file->path = g_strdup(to);
    return 0;
}

static void *sys_mmap(int fd, off_t offset, size_t length)
{
    void *address = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);

    if (address == MAP_FAILED)
        return NULL;
    __atomic_add_fetch(&mappings, 1, __ATOMIC_SEQ_CST);
    return address;
}

static int sys_munmap(void *address, size_t length)
{
    __atomic_sub_fetch(&mappings, 1, __ATOMIC_SEQ_CST);
    return munmap(address, length);
}

static ssize_t sys_fgetxattr(int fd, const char *name, void *value, size_t size)
{
    if (!xattr_size) {
        errno = ENODATA;
        return -1;
    }
    if (size && size < xattr_size) {
        errno = ERANGE;
        return -1;
    }
    memcpy(value, xattr, size ? xattr_size : 0);
    return (ssize_t)xattr_size;
}

static int sys_fsetxattr(int fd, const char *name, const void *value, size_t size)
{
    memory_sys_set_xattr(value, size);
    return 0;
}

static int sys_fremovexattr(int fd, const char *name)
{
    bool there = xattr_size > 0;

    xattr_size = 0;
    errno = ENODATA;
    return there ? 0 : -1;
}

static int sys_ioctl(int fd, unsigned long request, void *arg)
{
    errno = ENOTTY;
    return -1;
}

static int sys_lock(int fd, int cmd, struct flock *lock)
{
    return fcntl(fd, cmd, lock);
}

const TmSys memory_sys = {
    .open = sys_open,
    .close = close,
    .fstat = sys_fstat,
    .preadv2 = preadv2,
    .pwritev2 = pwritev2,
    .fdatasync = sys_sync,
    .fsync = sys_sync,
    .fallocate = fallocate,
    .ftruncate = ftruncate,
    .lseek = lseek,
    .rename = sys_rename,
    .unlink = sys_unlink,
    .ioctl = sys_ioctl,
    .lock = sys_lock,
    .readahead = readahead,
    .mmap = sys_mmap,
    .munmap = sys_munmap,
    .fgetxattr = sys_fgetxattr,
    .fsetxattr = sys_fsetxattr,
    .fremovexattr = sys_fremovexattr,
};

/* ---- for the fuzzer */

void memory_sys_put(const char *path, const void *data, size_t length, uint64_t size)
{
    MemoryFile *file = find(path);

    file = file ? file : create(path);
    if (ftruncate(file->fd, 0) < 0 || ftruncate(file->fd, (off_t)MAX(size, length)) < 0 ||
        (length && pwrite(file->fd, data, length, 0) != (ssize_t)length))
        abort();
}

GByteArray *memory_sys_get(const char *path)
{
    MemoryFile *file = find(path);
    GByteArray *bytes;
    struct stat st;

    if (!file)
        return NULL;
    if (fstat(file->fd, &st) < 0)
        abort();
    bytes = g_byte_array_sized_new((guint)st.st_size);
    g_byte_array_set_size(bytes, (guint)st.st_size);
    if (pread(file->fd, bytes->data, bytes->len, 0) != (ssize_t)bytes->len)
        abort();
    return bytes;
}

void memory_sys_set_xattr(const void *value, size_t size)
{
    if (size > sizeof(xattr))
        abort();
    memcpy(xattr, value, size);
    xattr_size = size;
}

size_t memory_sys_get_xattr(void *value, size_t size)
{
    if (size < xattr_size)
        abort();
    memcpy(value, xattr, xattr_size);
    return xattr_size;
}

void memory_sys_reset(void)
{
    if (__atomic_load_n(&mappings, __ATOMIC_SEQ_CST))
        abort(); /* a mapping was left */
    for (size_t i = 0; i < FILES; i++) {
        if (files[i].path)
            sys_unlink(files[i].path);
    }
    last_ino = 0;
    xattr_size = 0;
}
