/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/scratch.c: an empty disk in a file that has no name: whatever ends the process, the
 * file is gone with it.
 *
 * Room is counted in granules, from the first write to one until it is discarded, so that it can be
 * bounded over several disks. The count is taken when map says where to write: who asks that is
 * about to. */
#include "block/drivers/scratch.h"

#include "block/drivers/drivers.h"
#include "block/node_internal.h"
#include "util/error.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>

#define GRANULE      12u                 /* bytes, as a shift, */
#define GRANULES_MAX (UINT64_C(1) << 32) /* unless there were more of them than that */

struct BlkScratchBudget {
    int refs;       /* atomic */
    uint64_t limit; /* 0: none */
    uint64_t used;  /* atomic */
};

typedef struct Scratch {
    const TmSys *sys;
    int fd;
    uint64_t size;
    unsigned shift;           /* a granule is 1 << shift bytes */
    BlkScratchBudget *budget; /* a reference; changes before the first write only */
    pthread_mutex_t lock;     /* guards the rest; a leaf */
    uint8_t *taken;           /* a bit for each granule; untouched ones cost no memory */
    uint64_t count;           /* of them that are taken */
} Scratch;

/* ---- the budget */

BlkScratchBudget *blk_scratch_budget_new(uint64_t limit)
{
    BlkScratchBudget *budget = g_new0(BlkScratchBudget, 1);

    budget->refs = 1;
    budget->limit = limit;
    return budget;
}

void blk_scratch_budget_unref(BlkScratchBudget *budget)
{
    if (budget && tm_unref(&budget->refs))
        g_free(budget);
}

uint64_t blk_scratch_budget_used(const BlkScratchBudget *budget)
{
    return __atomic_load_n(&budget->used, __ATOMIC_RELAXED);
}

static bool spend(BlkScratchBudget *budget, uint64_t bytes)
{
    uint64_t used = blk_scratch_budget_used(budget);

    do {
        if (budget->limit && (used > budget->limit || bytes > budget->limit - used))
            return false;
    } while (!__atomic_compare_exchange_n(&budget->used, &used, used + bytes, false,
                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return true;
}

static void give_back(BlkScratchBudget *budget, uint64_t bytes)
{
    __atomic_fetch_sub(&budget->used, bytes, __ATOMIC_RELAXED);
}

void blk_scratch_share(BlkNode *node, BlkScratchBudget *budget)
{
    Scratch *s = blk_host_handle(node, &blk_driver_scratch);

    tm_ref(&budget->refs);
    blk_scratch_budget_unref(s->budget);
    s->budget = budget;
}

/* ---- granules; under the lock */

static uint64_t bytes_of(const Scratch *s, uint64_t granules)
{
    return granules << s->shift;
}

/* One past the last granule that [.., @end) touches. */
static uint64_t granules_up(const Scratch *s, uint64_t end)
{
    return end ? ((end - 1) >> s->shift) + 1 : 0;
}

static bool is_taken(const Scratch *s, uint64_t granule)
{
    return s->taken[granule / 8] >> (granule % 8) & 1;
}

static void set_taken(Scratch *s, uint64_t granule, bool taken)
{
    s->taken[granule / 8] ^= (uint8_t)(1u << (granule % 8));
    s->count += taken ? 1 : UINT64_MAX;
}

/* ---- life */

/* File systems that have no files without a name get one for a moment. */
static int open_file(const TmSys *sys, const char *directory)
{
    g_autofree char *path = NULL;
    int ret, fd = sys->open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
        return fd < 0 ? -errno : fd;
    path = g_strdup_printf("%s/.tidemark-%08x%08x", directory, g_random_int(), g_random_int());
    fd = sys->open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    if (sys->unlink(path) == 0)
        return fd;
    ret = -errno;
    sys->close(fd);
    return ret;
}

static unsigned shift_for(uint64_t size)
{
    unsigned shift = GRANULE;

    while (size >> shift >= GRANULES_MAX)
        shift++;
    return shift;
}

static int scratch_open(struct tidemark_node *node, void **handle)
{
    const char *directory = blk_host.option_string(node, "directory");
    uint64_t size = blk_host.option_uint(node, "size");
    const TmSys *sys = blk_host_sys(node);
    unsigned shift = shift_for(size);
    uint8_t *taken = g_try_malloc0((size >> shift) / 8 + 1);
    int fd = taken ? open_file(sys, directory) : -ENOMEM;
    Scratch *s;

    if (fd >= 0 && sys->ftruncate(fd, (off_t)size) < 0) {
        int ret = -errno;

        sys->close(fd);
        fd = ret;
    }
    if (fd < 0) {
        blk_host.error(node, "Could not create a scratch file in '%s': %s", directory,
                       g_strerror(-fd));
        g_free(taken);
        return fd;
    }
    s = g_new0(Scratch, 1);
    *s = (Scratch){ .sys = sys, .fd = fd, .size = size, .shift = shift, .taken = taken };
    s->budget = blk_scratch_budget_new(blk_host.option_uint(node, "max-size"));
    pthread_mutex_init(&s->lock, NULL);
    *handle = s;
    return 0;
}

static void scratch_close(void *handle)
{
    Scratch *s = handle;

    give_back(s->budget, bytes_of(s, s->count));
    s->sys->close(s->fd);
    blk_scratch_budget_unref(s->budget);
    pthread_mutex_destroy(&s->lock);
    g_free(s->taken);
    g_free(s);
}

static int scratch_get_info(void *handle, struct tidemark_info *info)
{
    const Scratch *s = handle;

    info->flags = TIDEMARK_INFO_DISCARD | TIDEMARK_INFO_FAST_ZERO;
    info->size = s->size;
    info->request_alignment = 1;
    info->preferred_block = 0;
    info->allocated = UINT64_MAX;
    info->cluster_size = UINT32_C(1) << s->shift;
    return 0;
}

/* ---- where things are */

static int take(Scratch *s, uint64_t offset, uint64_t length)
{
    uint64_t first = offset >> s->shift, end = granules_up(s, offset + length), n = 0;
    TM_GUARD(&s->lock);

    for (uint64_t i = first; i < end; i++)
        n += !is_taken(s, i);
    if (!n)
        return 0;
    if (!spend(s->budget, bytes_of(s, n)))
        return -ENOSPC;
    for (uint64_t i = first; i < end; i++) {
        if (!is_taken(s, i))
            set_taken(s, i, true);
    }
    return 0;
}

/* How far from @offset on all is taken, or nothing. */
static uint64_t run(Scratch *s, uint64_t offset, uint64_t length, bool *taken)
{
    uint64_t granule = offset >> s->shift, end = offset + length;
    TM_GUARD(&s->lock);

    *taken = is_taken(s, granule++);
    while (bytes_of(s, granule) < end) {
        if (granule % 8 == 0 && s->taken[granule / 8] == (*taken ? 0xff : 0))
            granule += 8;
        else if (is_taken(s, granule) == *taken)
            granule++;
        else
            break;
    }
    return tm_min(bytes_of(s, granule), end) - offset;
}

static int scratch_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                       struct tidemark_mapping *mapping)
{
    Scratch *s = handle;
    bool taken = true;

    *mapping = (struct tidemark_mapping){
        .kind = TIDEMARK_MAP_FD, .fd = s->fd, .offset = offset, .length = length
    };
    if (purpose == TIDEMARK_MAP_FOR_WRITE)
        return take(s, offset, length);
    mapping->length = run(s, offset, length, &taken);
    if (!taken) {
        mapping->kind = TIDEMARK_MAP_ZERO;
        mapping->flags = TIDEMARK_MAPPED_HOLE;
    }
    return 0;
}

/* ---- I/O that map does not say */

static int scratch_flush(void *handle)
{
    return 0; /* nobody reads it after a crash */
}

static int punch(Scratch *s, uint64_t offset, uint64_t length)
{
    return s->sys->fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                             (off_t)length) < 0
               ? -errno
               : 0;
}

/* Whole granules are given back. */
static int scratch_discard(void *handle, uint64_t offset, uint64_t length)
{
    Scratch *s = handle;
    uint64_t end = offset + length;
    uint64_t last = end == s->size ? granules_up(s, end) : end >> s->shift;
    int ret = punch(s, offset, length);

    if (ret < 0)
        return ret == -EOPNOTSUPP ? -ENOTSUP : ret;
    TM_GUARD(&s->lock);
    for (uint64_t i = granules_up(s, offset); i < last; i++) {
        if (!is_taken(s, i))
            continue;
        set_taken(s, i, false);
        give_back(s->budget, bytes_of(s, 1));
    }
    return 0;
}

static int scratch_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
    Scratch *s = handle;
    uint64_t n;
    int ret = 0;

    for (uint64_t done = 0; ret == 0 && done < length; done += n) {
        bool taken;

        n = run(s, offset + done, length - done, &taken);
        if (taken)
            ret = punch(s, offset + done, n);
    }
    return ret == -EOPNOTSUPP ? -ENOTSUP : ret;
}

static const struct tidemark_option scratch_options[] = {
    { .name = "directory",
      .type = TIDEMARK_OPTION_STRING,
      .required = 1,
      .help = "directory in which the unnamed file is created" },
    { .name = "size",
      .type = TIDEMARK_OPTION_SIZE,
      .required = 1,
      .max = INT64_MAX,
      .help = "size of the disk in bytes" },
    { .name = "max-size",
      .type = TIDEMARK_OPTION_SIZE,
      .default_value = "0",
      .help = "bytes that the file may occupy; writes beyond that fail with ENOSPC (0: no limit)" },
    { 0 },
};

const struct tidemark_driver blk_driver_scratch = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "scratch",
    .help = "a disk, empty at first, in an unnamed file that is removed when the node is closed",
    .options = scratch_options,
    .open = scratch_open,
    .close = scratch_close,
    .get_info = scratch_get_info,
    .map = scratch_map,
    .flush = scratch_flush,
    .write_zeroes = scratch_write_zeroes,
    .discard = scratch_discard,
};
