/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/file/lock.c: who else may have the image open: QEMU's byte locks.
 *
 * QEMU (block/file-posix.c) gives each permission two bytes of the file: a process that uses a
 * permission holds a shared lock on byte 100 + permission, one that won't share it with others
 * holds a shared lock on byte 200 + permission. Whoever wants to use a permission checks that
 * nobody else holds its 200 byte, whoever won't share it that nobody holds its 100 byte. Locks
 * belong to the open file description, so two nodes of one process exclude each other too.
 *
 * What is used and what is not shared follows from who uses the node and for what
 * (block/permissions.h): nothing for a node that nobody uses, all that it takes for an image whose
 * format may write its metadata any time. With force-share nothing is unshared.
 *
 * Who comes late finds what others have done since the node was opened. A size that has changed is
 * refused, as those above remember it; what was remembered of extents is dropped as soon as
 * nobody else writes. */
#include "block/drivers/file/file.h"
#include "block/permissions.h"
#include "block/registry.h"
#include "util/error.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

#define BIT(perm)     (1u << (perm)) /* as BLK_PERM_* */
#define USED_BASE     100
#define UNSHARED_BASE 200

static int byte_lock(const FileDisk *file, short type, int byte)
{
    struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

    return file->sys->lock(file->fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

/* Whether another one holds @byte: 1 yes, 0 no, or -errno. */
static int byte_held(const FileDisk *file, int byte)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

    if (file->sys->lock(file->fd, F_OFD_GETLK, &lock) < 0)
        return -errno;
    return lock.l_type != F_UNLCK;
}

static void give_back(FileDisk *file, unsigned perms, int base)
{
    for (int i = 0; i < BLK_PERMS_LOCKED; i++) {
        if (perms & BIT(i))
            byte_lock(file, F_UNLCK, base + i);
    }
}

static int take(FileDisk *file, unsigned perms, int base)
{
    for (int i = 0; i < BLK_PERMS_LOCKED; i++) {
        int ret = perms & BIT(i) ? byte_lock(file, F_RDLCK, base + i) : 0;

        if (ret == 0)
            continue;
        if (ret == -EAGAIN || ret == -EACCES)
            blk_host.error(file->node, "Failed to lock byte %d of '%s'", base + i, file->path);
        else
            blk_host.error(file->node, "Failed to lock byte %d of '%s': %s", base + i, file->path,
                           tm_strerror(-ret));
        return ret == -EINVAL || ret == -ENOLCK || ret == -EOPNOTSUPP ? -ENOTSUP : ret;
    }
    return 0;
}

/* Fails if another one holds a byte of @perms. */
static int check(FileDisk *file, unsigned perms, int base)
{
    for (int i = 0; i < BLK_PERMS_LOCKED; i++) {
        int held = perms & BIT(i) ? byte_held(file, base + i) : 0;

        if (held == 0)
            continue;
        blk_host.error(file->node,
                       "Failed to get %s\"%s\" lock. Is another process using the image [%s]?",
                       base == USED_BASE ? "shared " : "", blk_perm_names[i], file->path);
        return held < 0 ? held : -EAGAIN;
    }
    return 0;
}

static int check_size(FileDisk *file)
{
    struct stat st;

    if (file->device)
        return 0;
    if (file->sys->fstat(file->fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size == file->size)
        return 0;
    blk_host.error(file->node,
                   "the size of '%s' has changed since it was opened: %" PRIu64
                   " bytes, expected %" PRIu64,
                   file->path, (uint64_t)st.st_size, file->size);
    return -ESTALE;
}

static int take_and_check(FileDisk *file, unsigned used, unsigned unshared)
{
    bool first = !file->used && !file->unshared;
    /* Taken first and checked after: of two that come at once, at least one sees the other. */
    int ret = take(file, used, USED_BASE);

    if (ret == 0)
        ret = take(file, unshared, UNSHARED_BASE);
    if (ret == 0)
        ret = check(file, used, UNSHARED_BASE);
    if (ret == 0)
        ret = check(file, unshared, USED_BASE);
    return ret == 0 && first ? check_size(file) : ret;
}

int blk_file_locks_take(void *handle, unsigned needs, unsigned not_shared)
{
    FileDisk *file = handle;
    unsigned used = needs & ~file->used, unshared = not_shared & ~file->unshared;
    int ret;

    if (!file->locking || !(used | unshared))
        return 0;
    ret = take_and_check(file, used, unshared);
    if (ret < 0) {
        give_back(file, used, USED_BASE);
        give_back(file, unshared, UNSHARED_BASE);
        return ret;
    }
    file->used |= used;
    file->unshared |= unshared;
    if (unshared & BLK_PERM_WRITE)
        blk_file_extents_invalidate(&file->extents, 0, file->size);
    return 0;
}

void blk_file_locks_keep(void *handle, unsigned needs, unsigned not_shared)
{
    FileDisk *file = handle;

    give_back(file, file->used & ~needs, USED_BASE);
    give_back(file, file->unshared & ~not_shared, UNSHARED_BASE);
    file->used &= needs;
    file->unshared &= not_shared;
}

int blk_file_locks_probe(FileDisk *file)
{
    int ret = take(file, BLK_PERM_CONSISTENT_READ, USED_BASE);

    give_back(file, ret == 0 ? BLK_PERM_CONSISTENT_READ : 0, USED_BASE);
    return ret;
}
