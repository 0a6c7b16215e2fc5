/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/error.c: what requests fail with, as clients and the management see it.
 *
 * Source: the NBD specification, "Error values". */
#include "server/nbd/nbd_internal.h"

#include <errno.h>

uint32_t nbds_error(int err, bool fast_zero)
{
    switch (err) {
    case 0:
        return 0;
    case EPERM:
    case EROFS:
        return NBD_EPERM;
    case ENOMEM:
        return NBD_ENOMEM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return NBD_ENOSPC;
    case ENOTSUP:
        return fast_zero ? NBD_ENOTSUP : NBD_EINVAL;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

uint32_t nbds_request_error(NbdsSession *s, const NbdsHead *h, int err)
{
    bool fast = h->flags & NBD_CMD_FLAG_FAST_ZERO;

    if (!(err == ENOTSUP && fast) && err != ESHUTDOWN)
        blk_export_io_error(s->export_,
                            nbds_command_writes(h->command) || h->command == NBD_CMD_FLUSH, err);
    return nbds_error(err, fast);
}
