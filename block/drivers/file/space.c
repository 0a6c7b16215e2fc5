/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/file/space.c: zeroing, discarding, caching and resizing.
 *
 * Each tries what the medium does best and remembers what it lacks. Nothing here writes zeroes from
 * memory but the odd bytes around a device's sectors: where only writing would do, the answer is
 * -ENOTSUP and the core writes.
 *
 * Invariant: what was remembered of extents is dropped before a range is zeroed or freed and again
 * after, so that a look-up in between is not kept. */
#include "block/drivers/file/file.h"
#include "block/registry.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>

static bool lacks(const FileDisk *file, unsigned what)
{
    return __atomic_load_n(&file->lacks, __ATOMIC_RELAXED) & what;
}

/* fallocate(2), with "not supported" distinguished from errors: -ENOTSUP. */
static int allocate(FileDisk *file, int mode, uint64_t offset, uint64_t length, unsigned what)
{
    if (lacks(file, what))
        return -ENOTSUP;
    while (file->sys->fallocate(file->fd, mode, (off_t)offset, (off_t)length) < 0) {
        if (errno == EINTR)
            continue;
        if (errno != EOPNOTSUPP && errno != ENOSYS && errno != ENODEV)
            return -errno;
        __atomic_fetch_or(&file->lacks, what, __ATOMIC_RELAXED);
        return -ENOTSUP;
    }
    return 0;
}

static int punch(FileDisk *file, uint64_t offset, uint64_t length)
{
    return allocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length,
                    FILE_LACKS_PUNCH);
}

static int zero_range(FileDisk *file, uint64_t offset, uint64_t length)
{
    return allocate(file, FALLOC_FL_ZERO_RANGE, offset, length, FILE_LACKS_ZERO_RANGE);
}

/* ---- zeroing */

static int zero_file(FileDisk *file, uint64_t offset, uint64_t length, uint32_t flags)
{
    int ret = -ENOTSUP;

    if (flags & TIDEMARK_MAY_UNMAP)
        ret = punch(file, offset, length);
    if (ret == -ENOTSUP)
        ret = zero_range(file, offset, length);
    if (ret == -ENOTSUP) {
        /* tmpfs can't zero in place: free the range, then reserve it again */
        ret = punch(file, offset, length);
        if (ret == 0)
            ret = allocate(file, 0, offset, length, 0);
    }
    return ret;
}

/* Writes zeroes over part of a sector. */
static int zero_odd(FileDisk *file, uint64_t offset, uint64_t length)
{
    static const char zeroes[4096] = { 0 };

    while (length) {
        uint64_t n = tm_min(length, sizeof(zeroes));
        int ret = blk_file_pwrite(file, zeroes, offset, n, 0);

        if (ret < 0)
            return ret;
        offset += n;
        length -= n;
    }
    return 0;
}

/* Whole sectors of a device. Whether the kernel would write the zeroes itself is not known for
 * ZERO_RANGE; a PUNCH_HOLE never does. */
static int zero_sectors(FileDisk *file, uint64_t offset, uint64_t length, uint32_t flags)
{
    int ret = -ENOTSUP;

    if (flags & TIDEMARK_MAY_UNMAP)
        ret = punch(file, offset, length);
    if (ret == -ENOTSUP && !(flags & TIDEMARK_FAST_ZERO))
        ret = zero_range(file, offset, length);
    return ret;
}

static int zero_device(FileDisk *file, uint64_t offset, uint64_t length, uint32_t flags)
{
    uint64_t end = offset + length;
    uint64_t first = tm_align_up(offset, file->sector);
    uint64_t last = tm_align_down(end, file->sector);
    int ret;

    if (first >= last)
        return zero_odd(file, offset, length);
    /* the sectors first: that is what may turn out not to be supported */
    ret = zero_sectors(file, first, last - first, flags);
    if (ret == 0 && first > offset)
        ret = zero_odd(file, offset, first - offset);
    if (ret == 0 && end > last)
        ret = zero_odd(file, last, end - last);
    return ret;
}

int blk_file_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
    FileDisk *file = handle;
    int ret;

    blk_file_extents_invalidate(&file->extents, offset, length);
    ret = file->device ? zero_device(file, offset, length, flags)
                       : zero_file(file, offset, length, flags);
    blk_file_extents_invalidate(&file->extents, offset, length);
    return ret;
}

/* ---- discarding, caching */

static int discard_sectors(FileDisk *file, uint64_t offset, uint64_t length)
{
    uint64_t first = tm_align_up(offset, file->sector);
    uint64_t last = tm_align_down(offset + length, file->sector);
    uint64_t range[2] = { first, last - first };

    if (first >= last)
        return 0;
    if (file->sys->ioctl(file->fd, BLKDISCARD, range) == 0)
        return 0;
    return errno == EOPNOTSUPP || errno == ENOTTY ? -ENOTSUP : -errno;
}

int blk_file_discard(void *handle, uint64_t offset, uint64_t length)
{
    FileDisk *file = handle;
    int ret;

    if (!file->unmap)
        return 0;
    blk_file_extents_invalidate(&file->extents, offset, length);
    ret = file->device ? discard_sectors(file, offset, length) : punch(file, offset, length);
    blk_file_extents_invalidate(&file->extents, offset, length);
    return ret == -ENOTSUP ? 0 : ret; /* advice that can't be taken */
}

int blk_file_cache(void *handle, uint64_t offset, uint64_t length)
{
    FileDisk *file = handle;

    /* Advice too: what has no readahead is in memory already, or never is. */
    if (!file->direct)
        file->sys->readahead(file->fd, (off_t)offset, length);
    return 0;
}

/* ---- resizing */

/* A device has the size that it has. Asking for less changes nothing, as in QEMU; either way a size
 * that changed outside is noticed. */
static int resize_device(FileDisk *file, uint64_t size)
{
    uint64_t actual;

    if (file->sys->ioctl(file->fd, BLKGETSIZE64, &actual) < 0)
        return -errno;
    if (size > actual) {
        blk_host.error(file->node, "Cannot grow device files");
        return -EINVAL;
    }
    file->size = actual;
    return 0;
}

static int resize_file(FileDisk *file, uint64_t size)
{
    int ret = 0;

    if (file->sys->ftruncate(file->fd, (off_t)size) < 0) {
        ret = -errno;
        blk_host.error(file->node, "Failed to resize the file '%s' to %" PRIu64 " bytes: %s",
                       file->path, size, tm_strerror(-ret));
    }
    if (ret == 0)
        __atomic_store_n(&file->size, size, __ATOMIC_RELAXED); /* listings look any time */
    return ret;
}

int blk_file_resize(void *handle, uint64_t size)
{
    FileDisk *file = handle;
    uint64_t before = file->size;
    int ret = file->device ? resize_device(file, size) : resize_file(file, size);

    if (ret == 0) {
        ret = blk_file_open_tail(file);
        if (ret < 0) {
            blk_host.error(file->node, "Could not open '%s': %s", file->path, tm_strerror(-ret));
            if (!file->device && file->sys->ftruncate(file->fd, (off_t)before) == 0)
                file->size = before;
        }
    }
    blk_file_extents_resize(&file->extents, file->size);
    return ret;
}
