/* block/drivers/file_lock.c: who else may have the image open: QEMU's byte locks.
 *
 * QEMU (block/file-posix.c) gives each permission two bytes of the file: a process that uses a
 * permission holds a shared lock on byte 100 + permission, one that won't share it with others
 * holds a shared lock on byte 200 + permission. Whoever wants to use a permission checks that
 * nobody else holds its 200 byte, whoever won't share it that nobody holds its 100 byte. Locks
 * belong to the open file description, so two nodes of one process exclude each other too.
 *
 * What we take, when the node is opened:
 *   reader  uses consistent-read; doesn't share resize
 *   writer  uses consistent-read and write; doesn't share write and resize
 *   force-share (readers only)  uses consistent-read, shares everything
 * So there is one writer, ours or QEMU's, and any number of readers that put up with a writer.
 * Unlike QEMU, where an NBD export shares its disk with other writers, nobody else can change a
 * disk under us: bitmaps and remembered extents rest on that. resize() is used for the length of
 * one call. */
#include "block/drivers/file.h"
#include "block/registry.h"
#include "util/error.h"

#include <errno.h>
#include <unistd.h>

enum { PERM_CONSISTENT_READ, PERM_WRITE, PERM_WRITE_UNCHANGED, PERM_RESIZE, PERM_COUNT };

#define BIT(perm)     (1u << (perm))
#define USED_BASE     100
#define UNSHARED_BASE 200

static const char *const perm_name[PERM_COUNT] = {
    "consistent read",
    "write",
    "write unchanged",
    "resize",
};

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

static int take(FileDisk *file, unsigned perms, int base)
{
    for (int i = 0; i < PERM_COUNT; i++) {
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
    for (int i = 0; i < PERM_COUNT; i++) {
        int held = perms & BIT(i) ? byte_held(file, base + i) : 0;

        if (held == 0)
            continue;
        blk_host.error(file->node,
                       "Failed to get %s\"%s\" lock. Is another process using the image [%s]?",
                       base == USED_BASE ? "shared " : "", perm_name[i], file->path);
        return held < 0 ? held : -EAGAIN;
    }
    return 0;
}

int blk_file_lock(FileDisk *file, bool force_share)
{
    unsigned used = BIT(PERM_CONSISTENT_READ);
    unsigned unshared = force_share ? 0 : BIT(PERM_RESIZE);
    int ret;

    if (!file->read_only) {
        used |= BIT(PERM_WRITE);
        unshared |= BIT(PERM_WRITE);
    }
    /* Taken first and checked after: of two that come at once, at least one sees the other. */
    ret = take(file, used, USED_BASE);
    if (ret == 0)
        ret = take(file, unshared, UNSHARED_BASE);
    if (ret == 0)
        ret = check(file, used, UNSHARED_BASE);
    if (ret == 0)
        ret = check(file, unshared, USED_BASE);
    file->locked = ret == 0;
    return ret; /* on failure the caller closes the descriptor, and the locks go with it */
}

int blk_file_lock_resize(FileDisk *file)
{
    int ret;

    if (!file->locked)
        return 0;
    ret = take(file, BIT(PERM_RESIZE), USED_BASE);
    if (ret == 0)
        ret = check(file, BIT(PERM_RESIZE), UNSHARED_BASE);
    if (ret < 0)
        blk_file_unlock_resize(file);
    return ret;
}

void blk_file_unlock_resize(FileDisk *file)
{
    if (file->locked)
        byte_lock(file, F_UNLCK, USED_BASE + PERM_RESIZE);
}
