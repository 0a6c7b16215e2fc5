/* util/sys.c: the kernel's own entries of the table; see the header. */
#include "util/sys.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static int sys_open(const char *path, int flags, mode_t mode)
{
    return open(path, flags, mode);
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
};
