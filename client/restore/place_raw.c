/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/place_raw.c: a raw file or a block device. */
#include "client/copy/target.h"
#include "client/restore/place_internal.h"
#include "util/range.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

typedef struct Raw {
    TcTarget *target;
    int read_fd; /* with in_place */
} Raw;

static void raw_close(TcPlace *d)
{
    Raw *raw = g_steal_pointer(&d->own);

    if (!raw)
        return;
    if (raw->read_fd >= 0)
        close(raw->read_fd);
    tc_target_free(raw->target);
    g_free(raw);
}

/* A file is emptied at once: then its zeroes need no work. */
static bool empty_file(TcPlace *d, GError **error)
{
    Raw *raw = d->own;
    int r = d->found ? tc_target_zero(raw->target, 0, d->size, true) : 0;

    if (r)
        return tc_place_fail(d, "emptying", 0, r, error);
    d->fresh = true;
    return true;
}

static bool raw_begin(TcPlace *d, GError **error)
{
    TcTargetFacts facts = { .exists = true, .is_block = d->device, .size = d->found };
    Raw *raw = g_new0(Raw, 1);

    d->own = raw;
    raw->read_fd = -1;
    raw->target = tc_target_open(&tm_sys_kernel, d->path, &facts, d->size, NULL, error);
    if (!raw->target)
        return false;
    if (d->exists && !d->device && d->found != d->size)
        atomic_store(&d->touched, true); /* it has the size of the disk now */
    if (!d->options.in_place)
        return d->device || empty_file(d, error);
    raw->read_fd = open(d->name, O_RDONLY | O_CLOEXEC);
    return raw->read_fd >= 0 || tm_error_set_errno(error, errno, "target '%s'", d->name);
}

static bool raw_finish(TcPlace *d, GError **error)
{
    Raw *raw = d->own;

    if (!tc_target_sync(raw->target, error))
        return false;
    raw_close(d);
    return true;
}

/* Holes are zeroes; devices have none, as far as can be seen. */
static bool raw_walk(TcPlace *d, TcExtentFn fn, void *opaque, GError **error)
{
    Raw *raw = d->own;
    uint64_t offset = 0;

    while (offset < d->size) {
        off_t data = d->device ? (off_t)offset : lseek(raw->read_fd, (off_t)offset, SEEK_DATA);
        off_t hole = d->device || data < 0 ? -1 : lseek(raw->read_fd, data, SEEK_HOLE);
        uint64_t from =
            data < 0 ? (errno == ENXIO ? d->size : offset) : tm_min((uint64_t)data, d->size);
        uint64_t to = hole < 0 ? d->size : tm_min((uint64_t)hole, d->size);

        if (from > offset && !fn(opaque, offset, from - offset, true, true, error))
            return false;
        if (to > from && !fn(opaque, from, to - from, false, true, error))
            return false;
        offset = to;
    }
    return true;
}

static int raw_read(TcPlace *d, void *buf, uint64_t offset, uint64_t length)
{
    Raw *raw = d->own;

    while (length) {
        ssize_t n = pread(raw->read_fd, buf, length, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO; /* it became shorter meanwhile */
        buf = (char *)buf + n;
        offset += (uint64_t)n;
        length -= (uint64_t)n;
    }
    return 0;
}

static int raw_write(TcPlace *d, const void *buf, uint64_t offset, uint64_t length)
{
    return tc_target_write(((Raw *)d->own)->target, offset, buf, length);
}

static int raw_zero(TcPlace *d, uint64_t offset, uint64_t length)
{
    return tc_target_zero(((Raw *)d->own)->target, offset, length, true);
}

const Kind tc_place_raw = {
    .format = "raw",
    .lanes = &tc_plain_lanes,
    .begin = raw_begin,
    .finish = raw_finish,
    .close = raw_close,
    .walk = raw_walk,
    .read = raw_read,
    .write = raw_write,
    .zero = raw_zero,
};
