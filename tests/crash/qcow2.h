/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/qcow2.h: what the files of crash-qcow2 share. */
#pragma once
#include "block/bitmap_changes.h"
#include "block/bitmaps.h"
#include "block/graph.h"
#include "block/image/image.h"
#include "block/registry.h"
#include "tests/crash/medium.h"
#include "tests/crash/run.h"
#include "util/range.h"
#include "util/sys.h"

#define DISK_MAX (UINT64_C(2) << 20)
#define SECTORS  (DISK_MAX / SECTOR)
#define PIECE    (UINT64_C(64) << 10)
#define GRANULE  4096u
/* Events of a workload that are all tried. */
#define EVENTS_ALL 1500u

/* What a sector may hold: as flushed, and everything since; the last is what it is now. */
typedef struct Allowed {
    unsigned n, max;
    bool any; /* it was being cut off: something else, too */
    uint8_t (*content)[SECTOR];
} Allowed;

typedef struct World {
    Medium *medium, *cut;
    BlkEngine *engine;
    BlkRegistry *registry;
    BlkGraph *graph; /* over medium_sys, whichever medium is in use */
    BlkGraph *other; /* for what is left after a cut */
    BlkNode *node;
    bool base;
    uint64_t seed;
    Rng rng;
    unsigned step;
    uint64_t size; /* of the disk */
    GArray *sizes; /* uint64_t: it may have these, too: resizes under way, or failed */
    Allowed sectors[SECTORS];
    uint8_t *next; /* what the operation under way makes of [from, to) */
    uint64_t from, to;
    bool discarding; /* it makes zeroes of clusters, or leaves them */
    gboolean faults, bitmap, full, verbose;
    TmLog *log;
    bool recording;        /* the bitmap has begun */
    uint8_t *initial;      /* the disk when it did */
    bool touched[SECTORS]; /* since then, by a request */
    uint64_t failures;
    uint64_t lost; /* faults of the image as it was given: references beyond its end */
    uint64_t states, per_event, events;
    unsigned qemu_img;
    const char *keep;
    char *failure;
} World;

extern World w;

/* ---- qcow2_model.c */
void image_failed(const char *format, ...) G_GNUC_PRINTF(1, 2);
void image_allow(uint64_t sector, const uint8_t *content);
void image_all_flushed(void);
void image_become(bool may_have_failed);
void image_no_fault(void);
void image_read_again(uint64_t from, uint64_t to);
bool image_may_fail(int ret);
void image_maybe_fault(bool doomed);
BlkNode *image_open(const char *name, bool read_only);
void image_close(const char *name);
void image_compare(BlkNode *node, bool killed);
void image_ask_check(bool leaks);
void image_ask_qemu_img(Medium *m, bool leaks);

/* ---- qcow2_work.c */
void image_begin_bitmap(void);
void image_step(void);
