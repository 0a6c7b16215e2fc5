/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/plugin/hosts.c: a disk that several hosts reach, one after the other, and that keeps the
 * store of its bitmaps: a driver in a cluster, without the cluster.
 *
 * The disk is a file; beside it are PATH.store, the store, which is replaced as a whole by each
 * write, and PATH.owner, whose length says who has it: each host that takes it over makes it longer
 * by a byte. A write of the store is done while that file is locked. With PATH.broken in place
 * every write of the store fails, with ENOSPC. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <tidemark/driver.h>
#include <unistd.h>

static const struct tidemark_host *host;

struct disk {
    char path[4096];
    char name[4200];
    int fd, read_only;
    int abandoned; /* atomic */
    off_t owner;
    uint64_t size;
};

static int open_beside(const struct disk *disk, const char *suffix, int flags)
{
    char path[4200];
    int fd;

    snprintf(path, sizeof(path), "%s%s", disk->path, suffix);
    fd = open(path, flags | O_CLOEXEC, 0600);
    return fd < 0 ? -errno : fd;
}

static off_t size_of(int fd)
{
    struct stat st;

    return fstat(fd, &st) < 0 ? 0 : st.st_size;
}

static int hosts_open(struct tidemark_node *node, void **handle)
{
    struct disk *disk = calloc(1, sizeof(*disk));

    if (!disk)
        return -ENOMEM;
    snprintf(disk->path, sizeof(disk->path), "%s", host->option_string(node, "path"));
    snprintf(disk->name, sizeof(disk->name), "%s.store", disk->path);
    disk->read_only = host->option_bool(node, "read-only");
    disk->fd = open(disk->path, (disk->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (disk->fd < 0) {
        free(disk);
        return -errno;
    }
    disk->size = (uint64_t)size_of(disk->fd);
    *handle = disk;
    return 0;
}

static void hosts_close(void *handle)
{
    struct disk *disk = handle;

    close(disk->fd);
    free(disk);
}

static int hosts_get_info(void *handle, struct tidemark_info *info)
{
    const struct disk *disk = handle;

    info->size = disk->size;
    info->request_alignment = 1;
    info->flags = disk->read_only ? TIDEMARK_INFO_READ_ONLY : 0;
    return 0;
}

static int hosts_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    const struct disk *disk = handle;

    return pread(disk->fd, buf, length, (off_t)offset) == (ssize_t)length ? 0 : -EIO;
}

static int hosts_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length,
                        uint32_t flags)
{
    const struct disk *disk = handle;

    if (__atomic_load_n(&disk->abandoned, __ATOMIC_ACQUIRE))
        return -EIO;
    return pwrite(disk->fd, buf, length, (off_t)offset) == (ssize_t)length ? 0 : -EIO;
}

static int hosts_flush(void *handle)
{
    return 0;
}

/* ---- the store */

static int hosts_store_open(void *handle, uint64_t *size)
{
    struct disk *disk = handle;
    int owner = open_beside(disk, ".owner", O_RDWR | O_CREAT | O_APPEND);
    int store = open_beside(disk, ".store", O_RDONLY);

    *size = store < 0 ? 0 : (uint64_t)size_of(store);
    if (store >= 0)
        close(store);
    if (owner < 0)
        return owner;
    flock(owner, LOCK_EX);
    if (!disk->read_only && write(owner, "x", 1) == 1)
        disk->owner = size_of(owner);
    close(owner);
    return 0;
}

static int hosts_store_read(void *handle, void *buf, uint64_t offset, uint64_t length)
{
    int store = open_beside(handle, ".store", O_RDONLY);
    ssize_t n = store < 0 ? -1 : pread(store, buf, length, (off_t)offset);

    if (store >= 0)
        close(store);
    return n == (ssize_t)length ? 0 : -EIO;
}

/* All of it, with the pieces, under another name. */
static int write_anew(const struct disk *disk, const struct tidemark_piece *pieces, uint32_t n,
                      uint64_t size, uint32_t flags)
{
    int old = open_beside(disk, ".store", O_RDONLY);
    int store = open_beside(disk, ".new", O_RDWR | O_CREAT | O_TRUNC);
    size_t had = old < 0 || flags & TIDEMARK_STORE_REPLACE ? 0 : (size_t)size_of(old);
    char *bytes = calloc(1, (had > size ? had : size) + 1);
    int ret = bytes && store >= 0 && (!had || pread(old, bytes, had, 0) == (ssize_t)had) ? 0 : -EIO;

    for (uint32_t i = 0; i < n && ret == 0; i++)
        memcpy(bytes + pieces[i].offset, pieces[i].buf, pieces[i].length);
    if (ret == 0 && pwrite(store, bytes, size, 0) != (ssize_t)size)
        ret = -EIO;
    free(bytes);
    if (old >= 0)
        close(old);
    if (store >= 0)
        close(store);
    return ret;
}

static int hosts_store_write(void *handle, const struct tidemark_piece *pieces, uint32_t n,
                             uint64_t size, uint32_t flags)
{
    const struct disk *disk = handle;
    int owner = open_beside(disk, ".owner", O_RDWR),
        broken = open_beside(disk, ".broken", O_RDONLY);
    char path[4200];
    int ret = owner < 0 ? owner : broken < 0 ? 0 : -ENOSPC;

    if (broken >= 0)
        close(broken);
    if (ret == 0) {
        flock(owner, LOCK_EX);
        ret = size_of(owner) == disk->owner ? write_anew(disk, pieces, n, size, flags) : -ESTALE;
    }
    snprintf(path, sizeof(path), "%s.new", disk->path);
    if (ret == 0 && rename(path, disk->name) < 0)
        ret = -errno;
    if (owner >= 0)
        close(owner);
    return ret;
}

static void hosts_store_abandon(void *handle)
{
    struct disk *disk = handle;

    __atomic_store_n(&disk->abandoned, 1, __ATOMIC_RELEASE);
}

static const char *hosts_store_name(void *handle)
{
    return ((struct disk *)handle)->name;
}

static const struct tidemark_option options[] = {
    { .name = "path", .type = TIDEMARK_OPTION_STRING, .required = 1, .help = "the disk" },
    { .name = NULL },
};

static const struct tidemark_driver driver = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "hosts",
    .help = "a disk that several hosts reach",
    .flags = TIDEMARK_DRIVER_SHARED,
    .options = options,
    .open = hosts_open,
    .close = hosts_close,
    .get_info = hosts_get_info,
    .pread = hosts_pread,
    .pwrite = hosts_pwrite,
    .flush = hosts_flush,
    .store_open = hosts_store_open,
    .store_read = hosts_store_read,
    .store_write = hosts_store_write,
    .store_abandon = hosts_store_abandon,
    .store_name = hosts_store_name,
};

const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *h);
const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *h)
{
    host = h;
    return &driver;
}
