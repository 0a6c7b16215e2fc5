/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/medium_calls.c: the system calls of the simulated medium. */
#include "tests/crash/medium_calls.h"

#include <errno.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#define FD_FIRST     100000
#define DIRECTORY    (-2)
#define DEVICE       7
#define INODE_NUMBER 1000

static int fail(int error)
{
    errno = error;
    return -1;
}

static bool faulty(Medium *m, MediumCall call)
{
    MediumFault *fault = &m->fault;

    if (!(fault->calls & call) || !fault->times)
        return false;
    if (fault->after) {
        fault->after--;
        return false;
    }
    fault->times--;
    fault->hits++;
    return true;
}

/* What a descriptor is of: an inode, DIRECTORY, or -1. */
static int inode_of(Medium *m, int fd)
{
    struct stat mine, st;

    if (fd >= FD_FIRST && fd < FD_FIRST + (int)MEDIUM_FDS)
        return m->fds[fd - FD_FIRST].inode;
    if (fd < 0 || fstat(fd, &mine) < 0)
        return -1;
    for (unsigned n = 0; n < MEDIUM_DISKS; n++) {
        if (!fstat(medium_disk_fd(n), &st) && st.st_ino == mine.st_ino && st.st_dev == mine.st_dev)
            return medium_disk(m, n);
    }
    return -1;
}

static bool writable(const Medium *m, int fd)
{
    return fd < FD_FIRST || m->fds[fd - FD_FIRST].writable;
}

static int med_open(const char *path, int flags, mode_t mode)
{
    Medium *m = medium_used();
    int name = medium_name(m, path, false), fd = 0;

    while (fd < (int)MEDIUM_FDS && m->fds[fd].inode != -1)
        fd++;
    if (fd == (int)MEDIUM_FDS)
        return fail(EMFILE);
    if (!strcmp(path, "/m") || !strcmp(path, "/m/")) {
        m->fds[fd] = (MediumFd){ .inode = DIRECTORY, .lock = F_UNLCK };
        return FD_FIRST + fd;
    }
    if (faulty(m, CALL_OPEN))
        return fail(m->fault.error);
    if (name < 0 || m->entry[name] < 0) {
        if (!(flags & O_CREAT))
            return fail(ENOENT);
        name = medium_name(m, path, true);
        if (name < 0)
            return fail(ENOENT);
        medium_absorb(m, true);
        m->entry[name] = medium_inode(m);
        m->writes++;
        medium_changed_entry(m, name, -1);
        m->inodes[m->entry[name]].fds++; /* nobody takes it while the power is cut */
        medium_event(m, "create");
        m->inodes[m->entry[name]].fds--;
    } else if (flags & O_EXCL) {
        return fail(EEXIST);
    }
    m->fds[fd] = (MediumFd){ .inode = m->entry[name],
                             .writable = (flags & O_ACCMODE) != O_RDONLY,
                             .lock = F_UNLCK };
    m->inodes[m->entry[name]].fds++;
    if (flags & O_TRUNC && m->inodes[m->entry[name]].now.size)
        medium_sys.ftruncate(FD_FIRST + fd, 0);
    return FD_FIRST + fd;
}

static int med_close(int fd)
{
    Medium *m = medium_used();

    if (fd < FD_FIRST)
        return close(fd);
    if (inode_of(m, fd) == -1)
        return fail(EBADF);
    if (inode_of(m, fd) >= 0)
        m->inodes[inode_of(m, fd)].fds--;
    m->fds[fd - FD_FIRST].inode = -1;
    return 0;
}

static int med_fstat(int fd, struct stat *st)
{
    Medium *m = medium_used();
    int n = inode_of(m, fd);
    const Image *image;

    if (n == -1)
        return fail(EBADF);
    memset(st, 0, sizeof(*st));
    st->st_dev = DEVICE;
    st->st_ino = INODE_NUMBER;
    st->st_mode = S_IFDIR | 0755;
    st->st_nlink = 1;
    st->st_blksize = MEDIUM_PAGE;
    if (n == DIRECTORY)
        return 0;
    image = &m->inodes[n].now;
    st->st_mode = S_IFREG | 0600;
    st->st_ino += m->inodes[n].serial;
    st->st_size = image->size;
    st->st_mtim.tv_sec = image->mtime / 1000000000;
    st->st_mtim.tv_nsec = image->mtime % 1000000000;
    st->st_ctim = st->st_mtim;
    return 0;
}

static ssize_t med_preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    Medium *m = medium_used();
    int n = inode_of(m, fd);
    const Image *image;
    size_t done = 0;

    if (n < 0 || m->inodes[n].disk)
        return fail(EBADF);
    if (faulty(m, CALL_READ))
        return fail(m->fault.error);
    image = &m->inodes[n].now;
    for (int i = 0; i < count && (uint64_t)offset < image->size; i++) {
        size_t length = MIN(iov[i].iov_len, image->size - offset);

        if (image->data)
            memcpy(iov[i].iov_base, image->data + offset, length);
        else
            memset(iov[i].iov_base, 0, length);
        done += length;
        offset += length;
    }
    return done;
}

static ssize_t write_at(Medium *m, int n, const struct iovec *iov, int count, uint64_t offset,
                        size_t length)
{
    Image *image = &m->inodes[n].now;
    uint64_t at = offset;

    image_touch(image, offset, offset + length);
    for (int i = 0; i < count && at < offset + length; i++) {
        size_t part = MIN(iov[i].iov_len, offset + length - at);

        memcpy(image->data + at, iov[i].iov_base, part);
        at += part;
    }
    image_allocate(image, offset, offset + length);
    if (offset + length > image->size) {
        image->size = offset + length;
        medium_changed_length(m, n);
    }
    medium_wrote(m, n, offset, offset + length);
    m->writes++;
    medium_event(m, "write");
    return length;
}

/* The medium is full, and some of [from, to) has no space on it. */
static bool lacks_space(const Medium *m, int n, uint64_t from, uint64_t to)
{
    for (uint64_t page = from / MEDIUM_PAGE; m->full && from < to && page <= (to - 1) / MEDIUM_PAGE;
         page++)
        if (!m->inodes[n].now.allocated[page])
            return true;
    return false;
}

static ssize_t med_pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    Medium *m = medium_used();
    int n = inode_of(m, fd);
    size_t length = 0;
    bool bad;

    if (n < 0 || m->inodes[n].disk || !writable(m, fd))
        return fail(EBADF);
    for (int i = 0; i < count; i++)
        length += iov[i].iov_len;
    medium_absorb(m, true);
    bad = faulty(m, CALL_WRITE);
    if (bad && m->fault.partial && !m->fault.whole) { /* to the end of a sector */
        size_t end = ((size_t)offset + length / 2) / SECTOR * SECTOR;

        length = end > (size_t)offset ? end - (size_t)offset : 0;
    }
    if (bad && !m->fault.whole && (!m->fault.partial || !length))
        return fail(m->fault.error);
    if (offset + length > MEDIUM_FILE_MAX || lacks_space(m, n, offset, offset + length))
        return fail(ENOSPC);
    if (bad && m->fault.whole) {
        write_at(m, n, iov, count, offset, length);
        return fail(m->fault.error);
    }
    return length ? write_at(m, n, iov, count, offset, length) : 0;
}

static int sync_file(int fd, bool all)
{
    Medium *m = medium_used();
    int n = inode_of(m, fd);

    if (n == -1)
        return fail(EBADF);
    m->syncs++;
    medium_absorb(m, true);
    medium_event(m, "sync begins");
    if (n >= 0 && m->inodes[n].unwritten) {
        m->inodes[n].unwritten = false;
        return fail(EIO);
    }
    if (faulty(m, n == DIRECTORY ? CALL_DIRECTORY : CALL_SYNC)) {
        medium_sync_failed(m, n, all);
        return fail(m->fault.error);
    }
    if (m->recording) {
        medium_synced(m, n, all);
        medium_event(m, "sync has ended");
    }
    return 0;
}

static int med_fdatasync(int fd)
{
    return sync_file(fd, false);
}

static int med_fsync(int fd)
{
    return sync_file(fd, true);
}

static int med_fallocate(int fd, int mode, off_t offset, off_t length)
{
    Medium *m = medium_used();
    int n = inode_of(m, fd);
    uint64_t end = offset + length;
    Image *image;

    if (n < 0 || m->inodes[n].disk || !writable(m, fd))
        return fail(EBADF);
    image = &m->inodes[n].now;
    medium_absorb(m, true);
    if (faulty(m, CALL_ALLOCATE))
        return fail(m->fault.error);
    if (end > MEDIUM_FILE_MAX)
        return fail(ENOSPC);
    if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE))
        return fail(EOPNOTSUPP);
    if (!(mode & FALLOC_FL_PUNCH_HOLE) && lacks_space(m, n, offset, end))
        return fail(ENOSPC);
    m->writes++;
    if (mode & (FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE) && (uint64_t)offset < image->high)
        memset(image->data + offset, 0, MIN(end, image->high) - offset);
    if (mode & FALLOC_FL_PUNCH_HOLE) {
        for (uint64_t page = (offset + MEDIUM_PAGE - 1) / MEDIUM_PAGE; page < end / MEDIUM_PAGE;
             page++)
            image->allocated[page] = false;
    } else {
        image_allocate(image, offset, end);
    }
    if (!(mode & FALLOC_FL_KEEP_SIZE) && end > image->size) {
        image->size = end;
        medium_changed_length(m, n);
    }
    medium_absorb(m, false);
    medium_event(m, "fallocate");
    return 0;
}

static int med_ftruncate(int fd, off_t length)
{
    Medium *m = medium_used();
    int n = inode_of(m, fd);

    if (n < 0 || !writable(m, fd))
        return fail(EBADF);
    if (m->inodes[n].disk)
        return fail(EPERM);
    medium_absorb(m, true);
    if ((uint64_t)length > m->inodes[n].now.size && faulty(m, CALL_ALLOCATE))
        return fail(m->fault.error);
    if (length > MEDIUM_FILE_MAX)
        return fail(EFBIG);
    m->writes++;
    image_set_size(&m->inodes[n].now, length);
    medium_changed_length(m, n);
    medium_absorb(m, false);
    medium_event(m, "ftruncate");
    return 0;
}

static off_t med_lseek(int fd, off_t offset, int whence)
{
    Medium *m = medium_used();
    int n = inode_of(m, fd);

    if (n < 0)
        return fail(EBADF);
    if (whence == SEEK_END)
        return m->inodes[n].now.size + offset;
    return whence == SEEK_SET ? offset : fail(EINVAL);
}

static int med_rename(const char *from, const char *to)
{
    Medium *m = medium_used();
    int a = medium_name(m, from, false), b;

    if (a < 0 || m->entry[a] < 0)
        return fail(ENOENT);
    if (faulty(m, CALL_DIRECTORY))
        return fail(m->fault.error);
    medium_absorb(m, true);
    b = medium_name(m, to, true);
    m->entry[b] = m->entry[a];
    m->entry[a] = -1;
    m->writes++;
    medium_changed_entry(m, b, a);
    medium_event(m, "rename");
    return 0;
}

static int med_unlink(const char *path)
{
    Medium *m = medium_used();
    int name = medium_name(m, path, false);

    if (name < 0 || m->entry[name] < 0)
        return fail(ENOENT);
    if (faulty(m, CALL_DIRECTORY))
        return fail(m->fault.error);
    medium_absorb(m, true);
    m->entry[name] = -1;
    m->writes++;
    medium_changed_entry(m, name, -1);
    medium_event(m, "unlink");
    return 0;
}

static int med_ioctl(int fd, unsigned long request, void *arg)
{
    return fail(ENOTTY);
}

/* Whole-file locks, between descriptors. */
static int med_lock(int fd, int cmd, struct flock *lock)
{
    Medium *m = medium_used();
    int n = inode_of(m, fd);

    if (n < 0 || fd < FD_FIRST)
        return fail(EBADF);
    for (int i = 0; i < (int)MEDIUM_FDS && lock->l_type != F_UNLCK; i++) {
        const MediumFd *other = &m->fds[i];

        if (other->inode != n || i == fd - FD_FIRST || other->lock == F_UNLCK ||
            (other->lock == F_RDLCK && lock->l_type == F_RDLCK))
            continue;
        if (cmd != F_OFD_GETLK)
            return fail(EAGAIN);
        lock->l_type = other->lock;
        lock->l_pid = -1;
        return 0;
    }
    if (cmd == F_OFD_GETLK)
        lock->l_type = F_UNLCK;
    else
        m->fds[fd - FD_FIRST].lock = lock->l_type;
    return 0;
}

static ssize_t med_readahead(int fd, off_t offset, size_t count)
{
    return 0;
}

static void *med_mmap(int fd, off_t offset, size_t length)
{
    Medium *m = medium_used();
    int n = inode_of(m, fd);

    if (n < 0 || m->inodes[n].disk || !writable(m, fd)) {
        errno = EACCES;
        return NULL;
    }
    if (faulty(m, CALL_MMAP) || offset + length > MEDIUM_FILE_MAX || offset % MEDIUM_PAGE) {
        errno = ENOMEM;
        return NULL;
    }
    m->mappings++;
    m->inodes[n].fds++;
    if (!m->inodes[n].now.data)
        image_touch(&m->inodes[n].now, 0, 0);
    return m->inodes[n].now.data + offset;
}

static int med_munmap(void *address, size_t length)
{
    Medium *m = medium_used();

    for (unsigned n = 0; n < MEDIUM_INODES; n++) {
        Inode *inode = &m->inodes[n];

        if (inode->now.data && (uint8_t *)address >= inode->now.data &&
            (uint8_t *)address < inode->now.data + MEDIUM_FILE_MAX) {
            if (inode->fds)
                inode->fds--;
            m->mappings -= !!m->mappings;
            return 0;
        }
    }
    return fail(EINVAL);
}

static ssize_t med_fgetxattr(int fd, const char *name, void *value, size_t size)
{
    Medium *m = medium_used();
    int n = inode_of(m, fd);

    if (n < 0)
        return fail(EBADF);
    if (m->inodes[n].now.xattr < 0)
        return fail(ENODATA);
    if (size && size < (size_t)m->inodes[n].now.xattr)
        return fail(ERANGE);
    if (size)
        memcpy(value, m->inodes[n].now.xattr_value, m->inodes[n].now.xattr);
    return m->inodes[n].now.xattr;
}

static int med_fsetxattr(int fd, const char *name, const void *value, size_t size)
{
    Medium *m = medium_used();
    int n = inode_of(m, fd);

    if (n < 0)
        return fail(EBADF);
    if (size > MEDIUM_XATTR_MAX)
        return fail(ENOSPC);
    medium_absorb(m, true);
    m->inodes[n].now.xattr = size;
    memcpy(m->inodes[n].now.xattr_value, value, size);
    m->writes++;
    medium_changed_xattr(m, n);
    medium_event(m, "setxattr");
    return 0;
}

static int med_fremovexattr(int fd, const char *name)
{
    Medium *m = medium_used();
    int n = inode_of(m, fd);

    if (n < 0)
        return fail(EBADF);
    if (m->inodes[n].now.xattr < 0)
        return fail(ENODATA);
    medium_absorb(m, true);
    m->inodes[n].now.xattr = -1;
    m->writes++;
    medium_changed_xattr(m, n);
    medium_event(m, "removexattr");
    return 0;
}

const TmSys medium_sys = {
    .open = med_open,
    .close = med_close,
    .fstat = med_fstat,
    .preadv2 = med_preadv2,
    .pwritev2 = med_pwritev2,
    .fdatasync = med_fdatasync,
    .fsync = med_fsync,
    .fallocate = med_fallocate,
    .ftruncate = med_ftruncate,
    .lseek = med_lseek,
    .rename = med_rename,
    .unlink = med_unlink,
    .ioctl = med_ioctl,
    .lock = med_lock,
    .readahead = med_readahead,
    .mmap = med_mmap,
    .munmap = med_munmap,
    .fgetxattr = med_fgetxattr,
    .fsetxattr = med_fsetxattr,
    .fremovexattr = med_fremovexattr,
};
