/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/fd.c: all of a range, from or to a descriptor. */
#include "block/node_internal.h"

#include "util/range.h"

#include <errno.h>
#include <string.h>

int blk_fd_pread(const TmSys *sys, int fd, void *buf, uint64_t offset, uint64_t length)
{
    char *at = buf;

    while (length) {
        struct iovec iov = { at, tm_min(length, 1u << 30) };
        ssize_t n = sys->preadv2(fd, &iov, 1, (off_t)offset, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0) { /* beyond the end of the file, which may have shrunk behind our back */
            memset(at, 0, length);
            return 0;
        }
        at += n;
        offset += (uint64_t)n;
        length -= (uint64_t)n;
    }
    return 0;
}

int blk_fd_pwrite(const TmSys *sys, int fd, const void *buf, uint64_t offset, uint64_t length)
{
    const char *at = buf;

    while (length) {
        struct iovec iov = { (void *)at, tm_min(length, 1u << 30) };
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
