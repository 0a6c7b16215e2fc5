/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/disk.h: what the files of crash-disk share. */
#pragma once
#include "block/bitmap_changes.h"
#include "block/bitmaps.h"
#include "block/graph.h"
#include "tests/crash/medium.h"
#include "tests/crash/run.h"

#define DISKS      2u
#define SECTORS    256u /* of a disk, at most */
#define BITMAPS    5u
#define GRANULE    4u    /* sectors */
#define EVENTS_ALL 1500u /* of a seed that are all tried */

/* A bitmap: what the disk held when it began, and what requests have touched since. */
typedef struct Record {
    char name[8];
    bool enabled;
    uint32_t begun[SECTORS];
    bool touched[SECTORS];
    bool doubt[SECTORS]; /* nobody could know what the medium held when it began */
} Record;

typedef struct Model {
    unsigned n;
    Record records[BITMAPS + 1];
} Model;

typedef struct DataDisk {
    char path[16], name[4];
    const char *image; /* qcow2; NULL: raw */
    BlkNode *node;
    uint32_t sectors;
    GArray *values[SECTORS]; /* uint32_t: as flushed and everything since; the last is now's */
    bool doubt[SECTORS];     /* a sync has failed, and somebody new does not know of it */
    Model model, after;      /* before a change of the bitmaps, and after it */
    uint32_t from, to, next; /* the request under way */
} DataDisk;

/* What an opening shows of a disk. */
typedef struct Shown {
    uint32_t values[SECTORS];
    unsigned n;
    struct {
        char name[8];
        bool enabled, inconsistent, dirty[SECTORS];
    } bitmaps[BITMAPS + 2];
} Shown;

typedef struct World {
    Medium *medium, *cut, *spare;
    BlkEngine *engine;
    BlkRegistry *registry;
    BlkGraph *graph, *other; /* the workload's, and one for what a cut has left */
    DataDisk disks[DISKS];
    Shown found[DISKS];
    uint64_t seed;
    Rng rng;
    unsigned step, names;
    uint32_t value; /* the last that was written */
    uint8_t boot;
    bool changing, loose;
    gboolean faults;
    uint64_t states, per_event, events, failures;
    const char *keep;
    const char *doing;
    char *failure;
} World;

extern World w;

/* ---- disk_model.c */
void disk_failed(const char *format, ...) G_GNUC_PRINTF(1, 2);
void disk_fill(uint8_t *sector, uint32_t value);
uint32_t disk_now(const DataDisk *d, uint32_t sector);
void disk_allow(DataDisk *d, uint32_t sector, uint32_t value);
void disk_only(DataDisk *d, uint32_t sector, uint32_t value);
bool disk_may_be(const DataDisk *d, uint32_t sector, uint32_t value);
bool disk_read_sectors(BlkNode *node, uint32_t sectors, uint32_t *values);
BlkNode *disk_open(const DataDisk *d, bool read_only);
void disk_close(const char *name);
void disk_observe(BlkNode *node, const DataDisk *d, Shown *found);
int disk_find(const Shown *found, const char *name);
int disk_match(bool killed);
void disk_check_values(const DataDisk *d, const Shown *found);

/* ---- disk_work.c */
void disk_write(DataDisk *d, unsigned kind);
void disk_flush(DataDisk *d);
void disk_drop_failures(DataDisk *d);
void disk_checkpoint(void);
