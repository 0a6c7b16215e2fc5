/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/export/contexts.c: see contexts.h.
 *
 * Invariants:
 *  - a map's ranges are in order, don't overlap, are not empty and not 0; touching ones differ;
 *  - held is at least the number of ranges of all maps there are, and only the main thread adds to
 *    it: what it has found free stays so.
 *
 * Locks: contexts->lock guards the list and which map a context has; a leaf. */
#include "block/export/contexts.h"

#include "util/error.h"
#include "util/range.h"
#include "util/sync.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct BlkContexts {
    pthread_mutex_t lock;
    GPtrArray *list; /* BlkContext */
    size_t held;     /* atomic: ranges */
};

struct BlkContext {
    int refs;              /* atomic */
    BlkContexts *contexts; /* borrowed */
    char *name;
    bool wide;
    BlkContextMap *map;
};

struct BlkContextMap {
    int refs;              /* atomic */
    BlkContexts *contexts; /* borrowed */
    size_t count, room;
    uint64_t bytes; /* in all ranges */
    BlkContextRange *ranges;
};

/* ---- maps: making one. Ranges come in order; equal ones that touch are merged. */

static BlkContextMap *map_new(BlkContexts *contexts, size_t room, GError **error)
{
    BlkContextMap *map = g_new0(BlkContextMap, 1);

    map->refs = 1;
    map->contexts = contexts;
    map->room = room;
    map->ranges = g_try_new(BlkContextRange, MAX(room, 1));
    if (map->ranges)
        return map;
    tm_error_set(error, "out of memory for %zu ranges", room);
    g_free(map);
    return NULL;
}

static void map_free(BlkContextMap *map)
{
    g_free(map->ranges);
    g_free(map);
}

/* A finished map: its ranges count from now on. */
static bool map_seal(BlkContextMap *map, GError **error)
{
    size_t *held = &map->contexts->held, others = __atomic_load_n(held, __ATOMIC_ACQUIRE);
    void *less;

    if (map->count > BLK_CONTEXT_RANGES_ALL - others)
        return tm_error_set(
            error,
            "%zu ranges are too many: the export and its sessions have %zu already, "
            "of at most %zu",
            map->count, others, BLK_CONTEXT_RANGES_ALL);
    __atomic_add_fetch(held, map->count, __ATOMIC_RELAXED);
    less = g_try_realloc_n(map->ranges, MAX(map->count, 1), sizeof(*map->ranges));
    if (less)
        map->ranges = less;
    return true;
}

void blk_context_map_unref(BlkContextMap *map)
{
    if (!map || !tm_unref(&map->refs))
        return;
    __atomic_sub_fetch(&map->contexts->held, map->count, __ATOMIC_RELEASE);
    map_free(map);
}

/* false: there is no more room. */
static bool map_add(BlkContextMap *map, uint64_t offset, uint64_t end, uint64_t value)
{
    BlkContextRange *last = map->count ? &map->ranges[map->count - 1] : NULL;

    if (offset == end || !value)
        return true;
    if (last && last->value == value && last->offset + last->length == offset) {
        last->length += end - offset;
    } else {
        if (map->count == map->room)
            return false;
        map->ranges[map->count++] = (BlkContextRange){ offset, end - offset, value };
    }
    map->bytes += end - offset;
    return true;
}

/* Adds what is left of @old, of which range *i is next, up to @limit, beginning at *at. */
static bool map_add_old(BlkContextMap *map, const BlkContextMap *old, size_t *i, uint64_t *at,
                        uint64_t limit)
{
    for (; *i < old->count; ++*i) {
        const BlkContextRange *r = &old->ranges[*i];
        uint64_t begin = tm_max(*at, r->offset), end = r->offset + r->length;

        if (begin >= limit)
            return true;
        if (begin < end && !map_add(map, begin, tm_min(end, limit), r->value))
            return false;
        if (end > limit)
            return true;
    }
    return true;
}

/* @old (or NULL) with the @n sorted @ranges laid over it. */
static BlkContextMap *overlay(BlkContexts *contexts, const BlkContextMap *old,
                              const BlkContextRange *ranges, size_t n, GError **error)
{
    static const BlkContextMap empty;
    BlkContextMap *map;
    uint64_t at = 0;
    size_t i = 0;
    bool fits = true;

    if (!old)
        old = &empty;
    map = map_new(contexts, MIN(old->count + 2 * n, BLK_CONTEXT_RANGES_MAX), error);
    if (!map)
        return NULL;
    for (size_t k = 0; k < n && fits; k++) {
        uint64_t end = ranges[k].offset + ranges[k].length;

        fits = map_add_old(map, old, &i, &at, ranges[k].offset) &&
               map_add(map, ranges[k].offset, end, ranges[k].value);
        at = end;
    }
    if (!fits || !map_add_old(map, old, &i, &at, UINT64_MAX))
        tm_error_set(error, "more than %zu ranges", BLK_CONTEXT_RANGES_MAX);
    else if (map_seal(map, error))
        return map;
    map_free(map);
    return NULL;
}

/* ---- maps: asking one */

size_t blk_context_map_count(const BlkContextMap *map)
{
    return map->count;
}

uint64_t blk_context_map_bytes(const BlkContextMap *map)
{
    return map->bytes;
}

/* The first range that ends after @offset. */
static size_t find(const BlkContextMap *map, uint64_t offset)
{
    size_t low = 0, high = map->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (map->ranges[middle].offset + map->ranges[middle].length > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

uint64_t blk_context_map_extents(const BlkContextMap *map, uint64_t offset, uint64_t length,
                                 TmExtents *out)
{
    uint64_t at = offset, end = offset + length;

    for (size_t i = find(map, offset); at < end && i < map->count; i++) {
        const BlkContextRange *r = &map->ranges[i];
        uint64_t begin = tm_min(r->offset, end), stop = tm_min(r->offset + r->length, end);

        if (at < begin && !tm_extents_add(out, begin - at, 0))
            return at - offset;
        at = tm_max(at, begin);
        if (at < stop && !tm_extents_add(out, stop - at, r->value))
            return at - offset;
        at = stop;
    }
    if (at < end && tm_extents_add(out, end - at, 0))
        at = end;
    return at - offset;
}

/* ---- one context */

static BlkContext *context_new(BlkContexts *contexts, const char *name, bool wide)
{
    BlkContext *context = g_new0(BlkContext, 1);

    context->refs = 1;
    context->contexts = contexts;
    context->name = g_strdup(name);
    context->wide = wide;
    return context;
}

BlkContext *blk_context_ref(BlkContext *context)
{
    tm_ref(&context->refs);
    return context;
}

void blk_context_unref(BlkContext *context)
{
    if (!context || !tm_unref(&context->refs))
        return;
    blk_context_map_unref(context->map);
    g_free(context->name);
    g_free(context);
}

const char *blk_context_name(const BlkContext *context)
{
    return context->name;
}

bool blk_context_wide(const BlkContext *context)
{
    return context->wide;
}

BlkContextMap *blk_context_map(BlkContext *context)
{
    TM_GUARD(&context->contexts->lock);

    tm_ref(&context->map->refs);
    return context->map;
}

/* ---- the contexts of an export */

BlkContexts *blk_contexts_new(void)
{
    BlkContexts *contexts = g_new0(BlkContexts, 1);

    pthread_mutex_init(&contexts->lock, NULL);
    contexts->list = g_ptr_array_new_with_free_func((GDestroyNotify)blk_context_unref);
    return contexts;
}

void blk_contexts_free(BlkContexts *contexts)
{
    if (!contexts)
        return;
    g_ptr_array_unref(contexts->list);
    pthread_mutex_destroy(&contexts->lock);
    g_free(contexts);
}

/* Borrowed, and where in the list it is. Main thread: nobody else changes that. */
static BlkContext *find_name(BlkContexts *contexts, const char *name, guint *at)
{
    for (*at = 0; *at < contexts->list->len; ++*at) {
        BlkContext *context = contexts->list->pdata[*at];

        if (g_str_equal(context->name, name))
            return context;
    }
    return NULL;
}

static bool check_name(const char *name, GError **error)
{
    if (!*name)
        return tm_error_set(error, "Metadata context name cannot be empty");
    if (strlen(name) > BLK_CONTEXT_NAME_MAX)
        return tm_error_set(error, "Metadata context name has %zu bytes, expected at most %d",
                            strlen(name), BLK_CONTEXT_NAME_MAX);
    if (!g_utf8_validate(name, -1, NULL))
        return tm_error_set(error, "Metadata context name is not UTF-8");
    return true;
}

static int by_offset(const void *a, const void *b)
{
    uint64_t x = ((const BlkContextRange *)a)->offset, y = ((const BlkContextRange *)b)->offset;

    return x < y ? -1 : x > y;
}

static bool check_range(const BlkContextRange *r, uint64_t size, bool wide, GError **error)
{
    if (!r->length)
        return tm_error_set(error, "the range at offset %" PRIu64 " is empty", r->offset);
    if (!tm_range_within(r->offset, r->length, size))
        return tm_error_set(error,
                            "the range of %" PRIu64 " bytes at offset %" PRIu64
                            " is not within the disk of %" PRIu64 " bytes",
                            r->length, r->offset, size);
    if (!wide && r->value > UINT32_MAX)
        return tm_error_set(
            error, "the value %" PRIu64 " at offset %" PRIu64 " does not fit the width of 32 bits",
            r->value, r->offset);
    return true;
}

/* The ranges of @change, sorted and checked. Returned. */
static BlkContextRange *take_ranges(const BlkContextChange *change, uint64_t size, bool wide,
                                    GError **error)
{
    g_autofree BlkContextRange *ranges = g_try_new(BlkContextRange, MAX(change->n, 1));
    bool sorted = true;

    if (!ranges) {
        tm_error_set(error, "out of memory for %zu ranges", change->n);
        return NULL;
    }
    for (size_t i = 0; i < change->n; i++) {
        ranges[i] = change->ranges[i];
        if (!check_range(&ranges[i], size, wide, error))
            return NULL;
        sorted = sorted && (!i || ranges[i - 1].offset <= ranges[i].offset);
    }
    if (!sorted)
        qsort(ranges, change->n, sizeof(*ranges), by_offset);
    for (size_t i = 1; i < change->n; i++) {
        if (ranges[i - 1].offset + ranges[i - 1].length > ranges[i].offset) {
            tm_error_set(error, "the ranges at offsets %" PRIu64 " and %" PRIu64 " overlap",
                         ranges[i - 1].offset, ranges[i].offset);
            return NULL;
        }
    }
    return g_steal_pointer(&ranges);
}

/* Whether @change can be made to @old (or NULL: there is none of that name), and the width. */
static bool check_change(const BlkContexts *contexts, const BlkContextChange *change,
                         const BlkContext *old, bool *wide, GError **error)
{
    const unsigned width = change->width, was = old && old->wide ? 64 : 32;

    *wide = width == 64;
    if (width && width != 32 && width != 64)
        return tm_error_set(error, "Metadata context '%s': the width is 32 or 64, not %u",
                            change->name, width);
    if (!old && contexts->list->len >= BLK_CONTEXTS_MAX)
        return tm_error_set(
            error, "Metadata context '%s': the export already has the maximum of %u contexts",
            change->name, contexts->list->len);
    if (!change->append)
        return true;
    if (!old)
        return tm_error_set(error, "Metadata context '%s' not found", change->name);
    if (width && width != was)
        return tm_error_set(error, "Metadata context '%s' has values of %u bits, not of %u",
                            change->name, was, width);
    *wide = old->wide;
    return true;
}

bool blk_contexts_set(BlkContexts *contexts, uint64_t size, const BlkContextChange *change,
                      GError **error)
{
    guint at;
    BlkContext *old = find_name(contexts, change->name, &at), *context;
    g_autoptr(BlkContextMap) map = NULL;
    g_autofree BlkContextRange *ranges = NULL;
    bool wide;

    if (!check_name(change->name, error) || !check_change(contexts, change, old, &wide, error))
        return false;
    ranges = take_ranges(change, size, wide, error);
    if (ranges)
        map = overlay(contexts, change->append ? old->map : NULL, ranges, change->n, error);
    if (!map) {
        g_prefix_error(error, "Metadata context '%s': ", change->name);
        return false;
    }
    /* Who has selected the old one must not see wider values: another takes its place. */
    context = old && old->wide == wide ? NULL : context_new(contexts, change->name, wide);
    pthread_mutex_lock(&contexts->lock);
    if (context) {
        context->map = g_steal_pointer(&map);
        if (old)
            contexts->list->pdata[at] = context;
        else
            g_ptr_array_add(contexts->list, context);
    } else {
        BlkContextMap *new = map;

        map = old->map; /* goes when the lock is free */
        old->map = new;
    }
    pthread_mutex_unlock(&contexts->lock);
    if (context)
        blk_context_unref(old);
    return true;
}

bool blk_contexts_remove(BlkContexts *contexts, const char *name, GError **error)
{
    guint at;
    g_autoptr(BlkContext) context = find_name(contexts, name, &at);

    if (!context)
        return tm_error_set(error, "Metadata context '%s' not found", name);
    TM_GUARD(&contexts->lock);
    g_ptr_array_steal_index(contexts->list, at);
    return true;
}

GPtrArray *blk_contexts_list(BlkContexts *contexts)
{
    GPtrArray *all = g_ptr_array_new_with_free_func((GDestroyNotify)blk_context_unref);
    TM_GUARD(&contexts->lock);

    for (guint i = 0; i < contexts->list->len; i++)
        g_ptr_array_add(all, blk_context_ref(contexts->list->pdata[i]));
    return all;
}
