/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/target.c: see target.h. */
#include "client/copy/target.h"
#include "client/copy/writeback.h"
#include "client/text.h"
#include "util/file.h"
#include "util/range.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { ZEROES = 1 << 20 };

struct TcTarget {
    TcSink sink; /* first */
    const TmSys *sys;
    char *path;
    int fd;
    TcWriteback writeback;
    bool created, is_block;
    void *zeroes;  /* ZEROES bytes, for where fallocate can't help */
    gint no_punch; /* atomic flags: the file system can't */
    gint no_zeroing;
};

bool tc_target_examine(const char *path, TcTargetFacts *facts, GError **error)
{
    TcTargetFacts found = { 0 };
    struct stat st;
    off_t end;
    int fd;

    if (stat(path, &st)) {
        if (errno != ENOENT)
            return tm_error_set_errno(error, errno, "target '%s'", path);
        *facts = found;
        return true;
    }
    found.exists = true;
    found.is_block = S_ISBLK(st.st_mode);
    if (!found.is_block && !S_ISREG(st.st_mode))
        return tm_error_set(error, "target '%s' is %s: expected a regular file or a block device",
                            path, S_ISDIR(st.st_mode) ? "a directory" : "a special file");
    fd = tm_sys_kernel.open(path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return tm_error_set_errno(error, errno, "target '%s'", path);
    found.empty = !found.is_block && lseek(fd, 0, SEEK_DATA) < 0 && errno == ENXIO;
    end = lseek(fd, 0, SEEK_END);
    close(fd);
    if (end < 0)
        return tm_error_set_errno(error, errno, "Could not read the size of target '%s'", path);
    found.size = (uint64_t)end;
    *facts = found;
    return true;
}

bool tc_target_check(const char *path, const TcTargetFacts *facts, uint64_t size,
                     const char *bitmap, GError **error)
{
    if (bitmap && !facts->exists)
        return tm_error_set(error,
                            "target '%s' does not exist: a copy of what is dirty in bitmap '%s' "
                            "needs an earlier, full copy to update",
                            path, bitmap);
    if (bitmap && facts->size != size)
        return tm_error_set(error,
                            "target '%s' has %" PRIu64 " bytes and the source %" PRIu64
                            ": a copy of what is dirty in bitmap '%s' needs equal sizes",
                            path, facts->size, size, bitmap);
    if (facts->is_block && facts->size < size)
        return tm_error_set(error,
                            "target '%s' is a device of %" PRIu64 " bytes, the source has %" PRIu64,
                            path, facts->size, size);
    return true;
}

bool tc_target_fresh(const TcTargetFacts *facts)
{
    return !facts->is_block && !facts->size;
}

/* QEMU's image locking (its block/file-posix.c): who uses a permission holds a shared lock on byte
 * 100 + its number, who does not let others use it one on 200 + its number. A write lock that would
 * not be granted there shows the others. The locks are held as long as the file is open. */
static bool lock_target(TcTarget *target, GError **error)
{
    enum { USED = 100, UNSHARED = 200 };
    static const int permissions[] = { 1 /* write */, 3 /* resize */ };

    for (unsigned i = 0; i < 2 * G_N_ELEMENTS(permissions); i++) {
        struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_len = 1 };

        lock.l_start = (i % 2 ? USED : UNSHARED) + permissions[i / 2];
        if (fcntl(target->fd, F_OFD_SETLK, &lock) && errno != EAGAIN && errno != EACCES)
            return true; /* a file system without locks: nothing is known */
        lock.l_type = F_WRLCK;
        lock.l_pid = 0;
        if (!fcntl(target->fd, F_OFD_GETLK, &lock) && lock.l_type != F_UNLCK)
            return tm_error_set(error, "target '%s' is in use by another program", target->path);
    }
    return true;
}

static int sink_write(TcSink *sink, uint64_t offset, const void *buf, size_t length)
{
    return tc_target_write((TcTarget *)sink, offset, buf, length);
}

static int sink_zero(TcSink *sink, uint64_t offset, uint64_t length, bool hole)
{
    return tc_target_zero((TcTarget *)sink, offset, length, hole);
}

bool tc_target_remember(TcTarget *target, const TcOrigin *origin, GError **error)
{
    return target->is_block ||
           tc_origin_write(target->sys, target->fd, target->path, origin, error);
}

static bool resize(TcTarget *target, uint64_t size, GError **error)
{
    return !target->sys->ftruncate(target->fd, (off_t)size) ||
           tm_error_set_errno(error, errno, "Could not resize target '%s' to %" PRIu64 " bytes",
                              target->path, size);
}

TcTarget *tc_target_open(const TmSys *sys, const char *path, const TcTargetFacts *facts,
                         uint64_t size, const TcOrigin *origin, GError **error)
{
    g_autoptr(TcTarget) target = g_new0(TcTarget, 1);
    int flags = O_RDWR | O_CLOEXEC;

    target->sink = (TcSink){ .write = sink_write, .zero = sink_zero };
    target->sys = sys;
    target->path = g_strdup(path);
    target->created = !facts->exists;
    target->is_block = facts->is_block;
    target->zeroes = g_malloc0(ZEROES);
    if (!facts->exists)
        flags |= O_CREAT | O_EXCL;
    else if (facts->is_block)
        flags |= O_EXCL; /* EBUSY if it is mounted or part of something */
    target->fd = sys->open(path, flags, 0666);
    if (target->fd < 0) {
        if (errno == EBUSY)
            tm_error_set(error, "target '%s' is in use: it is mounted or part of another device",
                         path);
        else
            tm_error_set_errno(error, errno, "target '%s'", path);
        return NULL;
    }
    target->writeback.fd = target->fd;
    if (!lock_target(target, error))
        return NULL;
    if (((origin || facts->exists) && !tc_target_remember(target, origin, error)) ||
        (!facts->is_block && facts->size != size && !resize(target, size, error))) {
        if (target->created)
            sys->unlink(path); /* nothing is in it yet */
        return NULL;
    }
    return g_steal_pointer(&target);
}

int tc_target_write(TcTarget *target, uint64_t offset, const void *buf, size_t length)
{
    int r = tm_write_all(target->sys, target->fd, buf, length, offset);

    if (!r)
        tc_writeback(&target->writeback, length);
    return r;
}

/* One way to zero without writing; *cannot remembers that there is no such way here. -ENOTSUP sends
 * the caller on to the next. */
static int try_fallocate(TcTarget *target, int mode, uint64_t offset, uint64_t length, gint *cannot)
{
    if (g_atomic_int_get(cannot))
        return -ENOTSUP;
    while (target->sys->fallocate(target->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                                  (off_t)length)) {
        switch (errno) {
        case EINTR:
            continue;
        case EINVAL: /* a device: not a multiple of its blocks */
            return -ENOTSUP;
        case EOPNOTSUPP:
        case ENOSYS:
        case ENODEV:
        case EPERM:
            g_atomic_int_set(cannot, 1);
            return -ENOTSUP;
        default:
            return -errno;
        }
    }
    return 0;
}

int tc_target_zero(TcTarget *target, uint64_t offset, uint64_t length, bool hole)
{
    int r = hole ? try_fallocate(target, FALLOC_FL_PUNCH_HOLE, offset, length, &target->no_punch)
                 : -ENOTSUP;

    if (r == -ENOTSUP)
        r = try_fallocate(target, FALLOC_FL_ZERO_RANGE, offset, length, &target->no_zeroing);
    if (r != -ENOTSUP)
        return r;
    for (r = 0; length && !r;) {
        uint64_t piece = tm_min(length, ZEROES);

        r = tc_target_write(target, offset, target->zeroes, piece);
        offset += piece;
        length -= piece;
    }
    return r;
}

bool tc_target_sync(TcTarget *target, GError **error)
{
    int ret = tm_fdatasync(target->sys, target->fd);

    if (ret < 0)
        return tm_error_set_errno(error, -ret, "Could not sync target '%s'", target->path);
    if (target->created) {
        ret = tm_file_sync_name(target->sys, target->path);
        if (ret < 0)
            return tm_error_set_errno(error, -ret, "Could not sync the directory of target '%s'",
                                      target->path);
        target->created = false;
    }
    return true;
}

TcSink *tc_target_sink(TcTarget *target)
{
    return &target->sink;
}

const char *tc_target_path(const TcTarget *target)
{
    return target->path;
}

void tc_target_free(TcTarget *target)
{
    if (!target)
        return;
    if (target->fd >= 0)
        target->sys->close(target->fd);
    g_free(target->zeroes);
    g_free(target->path);
    g_free(target);
}
