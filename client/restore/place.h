/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/place.h: where a disk is restored to: a raw or qcow2 file, a block device, or
 * an export of an NBD server.
 *
 * Invariants: tc_place_examine() changes nothing. What exists is opened only with force or
 * in_place. A file that did not exist gets its name in tc_place_finish(), and is gone after
 * tc_place_abandon().
 * Threads: one at a time, but for lanes, each of which belongs to one thread, and counts. */
#pragma once
#include "util/error.h"
#include <inttypes.h>

typedef struct TcPlaceOptions {
    const char *format; /* of a file: "raw", "qcow2"; NULL: by its name */
    bool force;         /* may overwrite what exists */
    bool in_place;      /* the same, and writes only what differs */
    const char *bitmap; /* what of it changed is in this bitmap, of an NBD export; or NULL */
    unsigned connections, requests; /* to an NBD server; requests on each */
    int stop_fd; /* once it is readable, nothing waits for an NBD server any more; borrowed */
} TcPlaceOptions;

typedef struct TcPlace TcPlace;

/* What is at @name and whether a disk of @size can go there. @options is copied, its strings are
 * borrowed and outlive the place. */
TcPlace *tc_place_examine(const char *name, uint64_t size, const TcPlaceOptions *options,
                          GError **error);
/* Makes or opens it for writing. */
bool tc_place_begin(TcPlace *place, GError **error);
/* Makes it durable and closes it. */
bool tc_place_finish(TcPlace *place, GError **error);
/* After a failure: closes it, and removes what begin made. What state it is in, and if that is
 * incomplete, what to do (@advice) to complete it: a phrase, returned. */
char *tc_place_abandon(TcPlace *place, const char *advice);
void tc_place_free(TcPlace *place);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcPlace, tc_place_free)

const char *tc_place_name(const TcPlace *place);   /* borrowed */
const char *tc_place_path(const TcPlace *place);   /* of what is written; borrowed */
const char *tc_place_format(const TcPlace *place); /* or "nbd", "device" */
uint64_t tc_place_size(const TcPlace *place);      /* may be larger than asked for */
/* Whether all of it reads as zeroes once it has begun. */
bool tc_place_fresh(const TcPlace *place);
/* Whether what is there is compared first. */
bool tc_place_compares(const TcPlace *place);
/* How many threads with a lane each are of use. */
unsigned tc_place_lanes(const TcPlace *place);

/* Takes a run of the disk: whether it is known to read as zeroes, whether it is dirty in the bitmap
 * (true without one). */
typedef bool (*TcExtentFn)(void *opaque, uint64_t offset, uint64_t length, bool zero, bool dirty,
                           GError **error);
/* Calls @fn for all of the disk, in order. One thread. */
bool tc_place_walk(TcPlace *place, TcExtentFn fn, void *opaque, GError **error);

typedef struct TcPlaceCounts {
    uint64_t done;    /* bytes that are as they shall be */
    uint64_t written; /* of these, bytes that were written */
    uint64_t zeroed;  /* or made zero */
    uint64_t same;    /* or found to be so already */
} TcPlaceCounts;
/* Threads: any. */
void tc_place_counts(TcPlace *place, TcPlaceCounts *counts);

/* ---- a lane: what one thread writes through. Several requests of it may be in flight. */
typedef struct TcLane TcLane;
#define TC_PIECE (UINT64_C(256) << 10) /* the most that a buffer holds */

TcLane *tc_lane_new(TcPlace *place, GError **error);
/* A free buffer, for the next tc_lane_write(). NULL: an earlier request failed. */
void *tc_lane_buffer(TcLane *lane, GError **error);
/* Writes @length bytes of the buffer that tc_lane_buffer() returned; with in_place only if they
 * differ. */
bool tc_lane_write(TcLane *lane, uint64_t offset, uint64_t length, GError **error);
/* Makes the range read as zeroes; at most TC_PIECE bytes with in_place. */
bool tc_lane_zero(TcLane *lane, uint64_t offset, uint64_t length, GError **error);
/* Waits for what is in flight. */
bool tc_lane_drain(TcLane *lane, GError **error);
void tc_lane_free(TcLane *lane);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcLane, tc_lane_free)
