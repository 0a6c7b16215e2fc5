/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/blkdebug.c: a filter that fails or delays requests on purpose.
 *
 * Rules wait for an event. A request raises events before it is passed on: then the rules of that
 * event which hold in the present state become the ones in force, in place of those before, and the
 * state may change (block/drivers/blkdebug_rules.c). Then the rules in force that are about such a
 * request and its range act. Everything is done by the callbacks, since all has to pass by here;
 * block status alone comes from the child.
 *
 * Options and what they do are QEMU's (qapi BlockdevOptionsBlkdebug, block/blkdebug.c), but for
 * these: events are raised by the filter itself, whatever stands on it; 'sectors', 'inject-delay'
 * and that a reopening brings other rules are ours. */
#include "block/drivers/blkdebug_internal.h"

#include "block/drivers/drivers.h"
#include "block/registry.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <time.h>

/* Limits of requests that are passed on; 0: none. */
typedef enum { ALIGN, MAX_TRANSFER, OPT_ZERO, MAX_ZERO, OPT_DISCARD, MAX_DISCARD, LIMITS } Limit;

static const char *const limit_names[LIMITS] = {
    [ALIGN] = "align",
    [MAX_TRANSFER] = "max-transfer",
    [OPT_ZERO] = "opt-write-zero",
    [MAX_ZERO] = "max-write-zero",
    [OPT_DISCARD] = "opt-discard",
    [MAX_DISCARD] = "max-discard",
};

typedef struct Blkdebug {
    struct tidemark_node *node; /* the host's */
    uint64_t limits[LIMITS];
    BlkdebugRules *rules;
} Blkdebug;

/* ---- opening */

static bool limit_fits(Limit which, uint64_t limit, uint64_t align)
{
    if (!limit)
        return true;
    if (limit >= INT_MAX)
        return false;
    return which == ALIGN ? tm_is_pow2(limit) : limit % align == 0;
}

static int read_limits(Blkdebug *b)
{
    struct tidemark_info info = { .struct_size = sizeof(info) };
    uint64_t align = 1;
    int ret = blk_host.child_info(b->node, BLK_BELOW, &info);

    if (ret < 0) {
        blk_host.error(b->node, "Could not get image size: %s", tm_strerror(-ret));
        return ret;
    }
    for (unsigned i = 0; i < LIMITS; i++) {
        b->limits[i] = blk_host.option_uint(b->node, limit_names[i]);
        if (i == ALIGN)
            align = tm_max(b->limits[ALIGN], info.request_alignment);
        if (!limit_fits(i, b->limits[i], align)) {
            blk_host.error(b->node, "Cannot meet constraints with %s %" PRIu64, limit_names[i],
                           b->limits[i]);
            return -EINVAL;
        }
    }
    return 0;
}

static void blkdebug_close(void *handle)
{
    Blkdebug *b = handle;

    blkdebug_rules_free(b->rules);
    g_free(b);
}

static int blkdebug_open(struct tidemark_node *node, void **handle)
{
    Blkdebug *b = g_new0(Blkdebug, 1);
    int ret;

    b->node = node;
    b->rules = blkdebug_rules_read(node);
    ret = b->rules ? read_limits(b) : -EINVAL;
    if (ret < 0)
        blkdebug_close(b);
    else
        *handle = b;
    return ret;
}

static int blkdebug_get_info(void *handle, struct tidemark_info *info)
{
    const Blkdebug *b = handle;
    int ret = blk_host.child_info(b->node, BLK_BELOW, info);

    if (b->limits[ALIGN])
        info->request_alignment =
            (uint32_t)tm_max(b->limits[ALIGN], (uint64_t)info->request_alignment);
    /* A write that is to be durable is to meet the rules about flushes. */
    info->flags &= TIDEMARK_INFO_READ_ONLY | TIDEMARK_INFO_FAST_ZERO | TIDEMARK_INFO_DISCARD;
    return ret;
}

/* ---- requests */

static void sleep_ns(uint64_t ns)
{
    struct timespec left = {
        .tv_sec = (time_t)(ns / 1000000000u),
        .tv_nsec = (long)(ns % 1000000000u),
    };

    while (ns && clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR)
        ;
}

/* What the rules have for a request, after their delay. 0 or -errno. */
static int meet(const Blkdebug *b, BlkdebugIo io, uint64_t offset, uint64_t length)
{
    BlkdebugVerdict verdict = blkdebug_rules_meet(b->rules, io, offset, length);

    sleep_ns(verdict.delay_ns);
    return verdict.error;
}

/* The length of the next piece of a request. */
static uint64_t piece(const Blkdebug *b, Limit most, uint64_t length)
{
    return b->limits[most] ? tm_min(length, b->limits[most]) : length;
}

static int blkdebug_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                        struct tidemark_mapping *m)
{
    const Blkdebug *b = handle;

    blk_filter_map(handle, offset, length, purpose, m);
    if (purpose == TIDEMARK_MAP_FOR_STATUS)
        return blkdebug_rules_meet(b->rules, BLKDEBUG_BLOCK_STATUS, offset, length).error;
    m->kind = TIDEMARK_MAP_SELF;
    return 0;
}

static int blkdebug_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    const Blkdebug *b = handle;
    char *at = buf;

    while (length) {
        uint64_t n = piece(b, MAX_TRANSFER, length);
        int ret = meet(b, BLKDEBUG_READ, offset, n);

        if (ret == 0)
            ret = blk_host.child_pread(b->node, BLK_BELOW, at, offset, n, 0);
        if (ret < 0)
            return ret;
        at += n;
        offset += n;
        length -= n;
    }
    return 0;
}

static int write_piece(const Blkdebug *b, const void *buf, uint64_t offset, uint64_t length)
{
    int ret = meet(b, BLKDEBUG_WRITE, offset, length);

    if (ret == 0)
        ret = blk_host.child_pwrite(b->node, BLK_BELOW, buf, offset, length, 0);
    blkdebug_rules_written(b->rules);
    return ret;
}

static int blkdebug_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length,
                           uint32_t flags)
{
    const Blkdebug *b = handle;
    const char *at = buf;

    while (length) {
        uint64_t n = piece(b, MAX_TRANSFER, length);
        int ret = write_piece(b, at, offset, n);

        if (ret < 0)
            return ret;
        at += n;
        offset += n;
        length -= n;
    }
    return 0;
}

/* What is smaller than the size that is preferred is written as data. */
static int blkdebug_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
    const Blkdebug *b = handle;
    uint64_t preferred = b->limits[OPT_ZERO];

    if (preferred && (offset % preferred || length % preferred))
        return -ENOTSUP;
    while (length) {
        uint64_t n = piece(b, MAX_ZERO, length);
        int ret = meet(b, BLKDEBUG_WRITE_ZEROES, offset, n);

        if (ret == 0)
            ret = blk_host.child_write_zeroes(b->node, BLK_BELOW, offset, n, flags);
        blkdebug_rules_written(b->rules);
        if (ret < 0)
            return ret;
        offset += n;
        length -= n;
    }
    return 0;
}

/* What is smaller than the size that is preferred is not discarded. */
static int blkdebug_discard(void *handle, uint64_t offset, uint64_t length)
{
    const Blkdebug *b = handle;
    uint64_t preferred = b->limits[OPT_DISCARD] ? b->limits[OPT_DISCARD] : 1;
    uint64_t at = (offset + preferred - 1) / preferred * preferred;
    uint64_t end = (offset + length) / preferred * preferred;

    while (at < end) {
        uint64_t n = piece(b, MAX_DISCARD, end - at);
        int ret = meet(b, BLKDEBUG_DISCARD, at, n);

        if (ret == 0)
            ret = blk_host.child_discard(b->node, BLK_BELOW, at, n);
        if (ret < 0)
            return ret;
        at += n;
    }
    return 0;
}

static int blkdebug_flush(void *handle)
{
    const Blkdebug *b = handle;
    int ret = meet(b, BLKDEBUG_FLUSH, 0, 0);

    return ret < 0 ? ret : blk_host.child_flush(b->node, BLK_BELOW);
}

static int blkdebug_cache(void *handle, uint64_t offset, uint64_t length)
{
    const Blkdebug *b = handle;
    int ret = meet(b, BLKDEBUG_READ, offset, length);

    return ret < 0 ? ret : blk_host.child_cache(b->node, BLK_BELOW, offset, length);
}

static int blkdebug_resize(void *handle, uint64_t size)
{
    const Blkdebug *b = handle;

    return blk_host.child_resize(b->node, BLK_BELOW, size);
}

/* ---- the description */

#define LIMIT(which, text)                                                                         \
    {                                                                                              \
        .name = which, .type = TIDEMARK_OPTION_SIZE, .help = text                                  \
    }

static const struct tidemark_option blkdebug_options[] = {
    { .name = "config",
      .type = TIDEMARK_OPTION_STRING,
      .help = "file with rules: [inject-error], [inject-delay] and [set-state], each with lines "
              "key = \"value\"" },
    LIMIT("align", "alignment of requests, a power of two"),
    LIMIT("max-transfer", "the most bytes that are read or written at once"),
    LIMIT("opt-write-zero", "unit of zeroing; what is not aligned to it is written as data"),
    LIMIT("max-write-zero", "the most bytes that are zeroed at once"),
    LIMIT("opt-discard", "unit of discarding; what is not aligned to it is ignored"),
    LIMIT("max-discard", "the most bytes that are discarded at once"),
    { .name = "inject-error",
      .type = TIDEMARK_OPTION_LIST,
      .fields = blkdebug_error_fields,
      .help = "requests that fail" },
    { .name = "inject-delay",
      .type = TIDEMARK_OPTION_LIST,
      .fields = blkdebug_delay_fields,
      .help = "requests that take longer" },
    { .name = "set-state",
      .type = TIDEMARK_OPTION_LIST,
      .fields = blkdebug_state_fields,
      .help = "changes of the state; the first state is 1" },
    { .name = "take-child-perms",
      .type = TIDEMARK_OPTION_LIST,
      .fields = blkdebug_permission,
      .help = "additional permissions on 'image' to take" },
    { .name = "unshare-child-perms",
      .type = TIDEMARK_OPTION_LIST,
      .fields = blkdebug_permission,
      .help = "permissions on 'image' to deny to other users" },
    { 0 },
};

static const struct tidemark_child blkdebug_children[] = { { "image", 1 }, { 0 } };

const struct tidemark_driver blk_driver_blkdebug = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "blkdebug",
    .help = "a filter that fails or delays requests on purpose",
    .options = blkdebug_options,
    .children = blkdebug_children,
    .open = blkdebug_open,
    .close = blkdebug_close,
    .get_info = blkdebug_get_info,
    .map = blkdebug_map,
    .pread = blkdebug_pread,
    .pwrite = blkdebug_pwrite,
    .flush = blkdebug_flush,
    .write_zeroes = blkdebug_write_zeroes,
    .discard = blkdebug_discard,
    .cache = blkdebug_cache,
    .resize = blkdebug_resize,
};
