/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/place.c: see place.h. */
#include "client/copy/target.h"
#include "client/image/image.h"
#include "client/restore/place_internal.h"
#include "util/range.h"

#include <string.h>

#define SECTOR 512u

enum { LANES_MIN = 4, LANES_MAX = 16 }; /* some wait for the medium */

/* ---- what is there */

/* What exists is left alone, unless the caller said otherwise. */
static bool check_overwriting(const TcPlace *d, GError **error)
{
    if (!d->exists && d->options.in_place)
        return tm_error_set(
            error, "target '%s' does not exist: --in-place needs an earlier restore", d->name);
    if (!d->exists || d->options.force || d->options.in_place)
        return true;
    return tm_error_set(error,
                        "target '%s' exists: --force overwrites it, --in-place writes only what "
                        "differs in it",
                        d->name);
}

static bool check_size(const TcPlace *d, GError **error)
{
    bool whole = d->kind == &tc_place_qcow2 && d->options.in_place;

    if (d->device ? d->found >= d->size : !whole || d->found == tm_align_up(d->size, SECTOR))
        return true;
    return tm_error_set(error,
                        "target '%s' has %" PRIu64 " bytes, and the disk %" PRIu64 ": expected %s",
                        d->name, d->found, d->size,
                        d->device ? "at least as many" : "the same size (tidemark image resize)");
}

/* An image in place is one of the format that it is said to be. */
static bool examine_format(TcPlace *d, GError **error)
{
    const char *given = d->options.format;
    const char *format = given ? given : g_str_has_suffix(d->name, ".qcow2") ? "qcow2" : "raw";
    const char *is;

    d->kind = !strcmp(format, "qcow2") ? &tc_place_qcow2 : &tc_place_raw;
    if (!d->options.in_place || given)
        return true;
    is = tc_image_probe(d->name, error);
    if (!is)
        return false;
    if (strcmp(is, format))
        return tm_error_set(error,
                            "target '%s' begins as a %s image, but its name does not say so: use "
                            "--format",
                            d->name, is);
    return true;
}

static bool find_image_size(TcPlace *d, GError **error)
{
    TcImageOptions options = {
        .format = "qcow2", .force_share = true, .chain = true, .names = "any"
    };
    g_auto(TcImage) image = { 0 };

    if (d->kind != &tc_place_qcow2 || !d->options.in_place)
        return true;
    if (!tc_image_open(d->name, &options, &image, error))
        return false;
    d->found = blk_node_size(image.node);
    return true;
}

static bool examine_file(TcPlace *d, GError **error)
{
    TcTargetFacts facts;

    if (!tc_target_examine(d->name, &facts, error))
        return false;
    if (d->options.bitmap)
        return tm_error_set(error, "target '%s' is no NBD URI: --trust-bitmap needs one", d->name);
    d->exists = facts.exists;
    d->device = facts.is_block;
    d->found = facts.size;
    return check_overwriting(d, error) && examine_format(d, error) && find_image_size(d, error) &&
           check_size(d, error);
}

static bool is_uri(const char *name)
{
    return g_str_has_prefix(name, "nbd://") || g_str_has_prefix(name, "nbds://") ||
           g_str_has_prefix(name, "nbd+") || g_str_has_prefix(name, "nbds+");
}

static bool examine_export(TcPlace *d, GError **error)
{
    d->kind = &tc_place_nbd;
    d->exists = d->device = true;
    return check_overwriting(d, error) && d->kind->examine(d, error) && check_size(d, error);
}

TcPlace *tc_place_examine(const char *name, uint64_t size, const TcPlaceOptions *options,
                          GError **error)
{
    g_autoptr(TcPlace) d = g_new0(TcPlace, 1);

    pthread_mutex_init(&d->turn, NULL);
    d->kind = &tc_place_raw;
    d->name = g_strdup(name);
    d->path = g_strdup(name);
    d->size = size;
    d->options = *options;
    if (!(is_uri(name) ? examine_export : examine_file)(d, error))
        return NULL;
    return g_steal_pointer(&d);
}

/* ---- its life */

bool tc_place_begin(TcPlace *d, GError **error)
{
    return (d->exists || tc_place_make(d, error)) && d->kind->begin(d, error);
}

bool tc_place_finish(TcPlace *d, GError **error)
{
    return d->kind->finish(d, error) && tc_place_name_made(d, error);
}

char *tc_place_abandon(TcPlace *d, const char *advice)
{
    bool made = d->made;
    bool touched = d->fresh || atomic_load(&d->touched);

    d->kind->close(d);
    tc_place_unmake(d);
    if (made && g_file_test(d->path, G_FILE_TEST_EXISTS))
        return g_strdup_printf("'%s' is incomplete and could not be removed", d->path);
    if (made)
        return g_strdup_printf("'%s' was removed again", d->name);
    if (!d->exists)
        return g_strdup_printf("'%s' was not created", d->name);
    if (!touched)
        return g_strdup_printf("target '%s' was not changed", d->name);
    return g_strdup_printf("target '%s' is incomplete: %s to complete it", d->name, advice);
}

void tc_place_free(TcPlace *d)
{
    if (!d)
        return;
    if (d->own)
        d->kind->close(d);
    tc_place_unmake(d);
    g_free(d->path);
    g_free(d->name);
    pthread_mutex_destroy(&d->turn);
    g_free(d);
}

/* ---- what it is */

const char *tc_place_name(const TcPlace *d)
{
    return d->name;
}

const char *tc_place_path(const TcPlace *d)
{
    return d->path;
}

const char *tc_place_format(const TcPlace *d)
{
    return d->device && d->kind == &tc_place_raw ? "device" : d->kind->format;
}

uint64_t tc_place_size(const TcPlace *d)
{
    return d->device ? d->found : d->size;
}

bool tc_place_fresh(const TcPlace *d)
{
    return d->fresh;
}

bool tc_place_compares(const TcPlace *d)
{
    return d->options.in_place;
}

unsigned tc_place_lanes(const TcPlace *d)
{
    if (d->kind == &tc_place_nbd)
        return d->options.connections;
    return CLAMP(2 * g_get_num_processors(), LANES_MIN, LANES_MAX);
}

bool tc_place_walk(TcPlace *d, TcExtentFn fn, void *opaque, GError **error)
{
    if (!d->options.in_place)
        return !d->size || fn(opaque, 0, d->size, d->fresh, true, error);
    return d->kind->walk(d, fn, opaque, error);
}

void tc_place_counts(TcPlace *d, TcPlaceCounts *counts)
{
    counts->done = atomic_load(&d->done);
    counts->written = atomic_load(&d->written);
    counts->zeroed = atomic_load(&d->zeroed);
    counts->same = atomic_load(&d->same);
}

/* ---- for the kinds */

bool tc_all_zero(const void *buf, uint64_t length)
{
    const char *bytes = buf;

    return !length || (!bytes[0] && !memcmp(bytes, bytes + 1, length - 1));
}

void tc_place_count(TcPlace *d, atomic_uint_fast64_t *what, uint64_t length)
{
    atomic_fetch_add(what, length);
    atomic_fetch_add(&d->done, length);
}

bool tc_place_fail(const TcPlace *d, const char *doing, uint64_t offset, int ret, GError **error)
{
    return tm_error_set_errno(error, -ret, "%s target '%s' at offset %" PRIu64, doing, d->name,
                              offset);
}

/* ---- lanes */

TcLane *tc_lane_new(TcPlace *d, GError **error)
{
    return d->kind->lanes->new (d, error);
}

void *tc_lane_buffer(TcLane *lane, GError **error)
{
    return lane->place->kind->lanes->buffer(lane, error);
}

bool tc_lane_write(TcLane *lane, uint64_t offset, uint64_t length, GError **error)
{
    return lane->place->kind->lanes->write(lane, offset, length, error);
}

bool tc_lane_zero(TcLane *lane, uint64_t offset, uint64_t length, GError **error)
{
    return lane->place->kind->lanes->zero(lane, offset, length, error);
}

bool tc_lane_drain(TcLane *lane, GError **error)
{
    return lane->place->kind->lanes->drain(lane, error);
}

void tc_lane_free(TcLane *lane)
{
    if (lane)
        lane->place->kind->lanes->free(lane);
}
