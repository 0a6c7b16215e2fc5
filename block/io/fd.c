/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/fd.c: all of a range, from or to a descriptor. */
#include "block/node_internal.h"

#include <string.h>

int blk_fd_pread(const TmSys *sys, int fd, void *buf, uint64_t offset, uint64_t length)
{
    uint64_t done;
    int ret = tm_read_all(sys, fd, buf, length, offset, &done);

    if (ret == 0) /* beyond the end of the file, which others may have cut off */
        memset((char *)buf + done, 0, length - done);
    return ret;
}

int blk_fd_pwrite(const TmSys *sys, int fd, const void *buf, uint64_t offset, uint64_t length)
{
    return tm_write_all(sys, fd, buf, length, offset);
}
