/* util/sys.c: the kernel's own entries of the table; see the header. */
#include "util/sys.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <unistd.h>

static int sys_open(const char *path, int flags, mode_t mode)
{
    return open(path, flags, mode);
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

static int sys_fsetxattr(int fd, const char *name, const void *value, size_t size)
{
    return fsetxattr(fd, name, value, size, 0);
}

const TmSys tm_sys_kernel = {
    .open = sys_open,
    .close = close,
    .fstat = fstat,
    .preadv2 = preadv2,
    .pwritev2 = pwritev2,
    .fdatasync = fdatasync,
    .fsync = fsync,
    .fallocate = fallocate,
    .ftruncate = ftruncate,
    .lseek = lseek,
    .rename = rename,
    .unlink = unlink,
    .ioctl = sys_ioctl,
    .lock = sys_lock,
    .readahead = readahead,
    .mmap = sys_mmap,
    .munmap = munmap,
    .fgetxattr = fgetxattr,
    .fsetxattr = sys_fsetxattr,
    .fremovexattr = fremovexattr,
};
