/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/place_internal.h: what the kinds of places implement. */
#pragma once
#include "client/restore/place.h"
#include <pthread.h>
#include <stdatomic.h>

/* How lanes work; the contracts are those of the tc_lane_ functions. */
typedef struct Lanes {
    TcLane *(*new)(TcPlace *place, GError **error);
    void *(*buffer)(TcLane *lane, GError **error);
    bool (*write)(TcLane *lane, uint64_t offset, uint64_t length, GError **error);
    bool (*zero)(TcLane *lane, uint64_t offset, uint64_t length, GError **error);
    bool (*drain)(TcLane *lane, GError **error);
    void (*free)(TcLane *lane);
} Lanes;

/* The functions of a kind; their contracts are those of the tc_place_ functions of the same
 * name. */
typedef struct Kind {
    const char *format;
    const Lanes *lanes;
    bool (*examine)(TcPlace *place, GError **error); /* sets found and own; NULL: it is a file */
    bool (*begin)(TcPlace *place, GError **error);
    bool (*finish)(TcPlace *place, GError **error);
    void (*close)(TcPlace *place); /* nothing, if it is closed */
    bool (*walk)(TcPlace *place, TcExtentFn fn, void *opaque, GError **error);
    /* Of those with plain lanes: 0 or -errno. */
    int (*read)(TcPlace *place, void *buf, uint64_t offset, uint64_t length);
    int (*write)(TcPlace *place, const void *buf, uint64_t offset, uint64_t length);
    int (*zero)(TcPlace *place, uint64_t offset, uint64_t length);
} Kind;

struct TcPlace {
    const Kind *kind;
    char *name;
    char *path; /* of what is written: the name, but for a new file */
    TcPlaceOptions options;
    uint64_t size;  /* of the disk */
    uint64_t found; /* of what exists */
    bool exists, device;
    bool made; /* a new file, which has not got its name yet */
    int made_fd;
    bool fresh;
    atomic_bool touched; /* something may have been written */
    void *own;           /* the kind's */
    /* Held for a write of a file: the file system lets one in at a time, and those who wait for it
     * there would use a processor each. */
    pthread_mutex_t turn;
    atomic_uint_fast64_t done, written, zeroed, same;
};

struct TcLane {
    TcPlace *place;
};

extern const Kind tc_place_raw, tc_place_qcow2, tc_place_nbd;

/* A new file: makes it, empty; gives it its name; removes it, if it has not got that. */
bool tc_place_make(TcPlace *place, GError **error);
bool tc_place_name_made(TcPlace *place, GError **error);
void tc_place_unmake(TcPlace *place);

/* Whether @length bytes are all zero. */
bool tc_all_zero(const void *buf, uint64_t length);
/* A range is as it shall be: it was written, made zero, or was so. */
void tc_place_count(TcPlace *place, atomic_uint_fast64_t *what, uint64_t length);
bool tc_place_fail(const TcPlace *place, const char *doing, uint64_t offset, int ret,
                   GError **error);

/* Lanes with one request at a time. */
extern const Lanes tc_plain_lanes;
