/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/run.h: one seeded workload on a simulated medium, and what is known of it.
 *
 * Everything that happens follows from the seed: the workload from its generator, the states of an
 * event from one made of seed, event and state, so that a single one can be had again. */
#pragma once
#include "bitmap/store/store.h"
#include "tests/crash/medium.h"
#include "tests/crash/model.h"
#include "tests/crash/rng.h"

/* ---- what an opening found */
typedef struct FoundBitmap {
    char name[24];
    uint8_t shift;
    bool persistent, enabled, inconsistent, reason;
    uint64_t recovered;
    ModelBits bits;
} FoundBitmap;

typedef struct Found {
    bool opened;
    bool disk_lost; /* a sync of the disk had failed: it need not be what its store knows */
    uint64_t size;  /* of the disk */
    unsigned n, degraded;
    FoundBitmap bitmaps[MODEL_BITMAPS + 2];
    char report[160]; /* the last */
} Found;

/* How far a state may be from what the model says. */
typedef enum {
    STRICT,
    LOOSE_BITS,   /* a failure: more may be dirty in enabled bitmaps, nothing may be missing */
    LOOSE_STATES, /* many: bitmaps may be gone, too, but not wrong */
    LOOSE_ALL,    /* nothing can be written or removed: only that it goes on */
} Looseness;

typedef struct Disk {
    unsigned index;
    char path[24];          /* of its store */
    BmpSet *set;            /* NULL: not open */
    ModelDisk model, after; /* before the operation in flight, and after it */
    BmpDurability durability;
    unsigned region_shift;
    bool accept_changed, changed;
    ModelBits unflushed; /* granules of 512 bytes that a loss of power may take back */
    ModelBits lost;      /* that were so when a flush failed, whatever later ones say */
    bool flush_failed;   /* and the set does not know it yet */
    bool loss_noted;     /* its store should know by now */
    Looseness looseness;
    unsigned degraded, healed; /* reports */
} Disk;

#define ANY_STATE UINT32_MAX

typedef struct Options {
    bool verbose;
    bool one_state; /* only that one, or those of an event: */
    uint32_t event, state;
    unsigned states; /* at most, an event */
    const char *keep;
    bool faults, damage;
    bool alone; /* one disk only */
} Options;

typedef struct Run {
    const Options *options;
    uint64_t seed;
    Rng rng;
    Medium *medium, *spare; /* the spare takes what is adopted */
    Medium *scratch, *scratch2;
    Disk disks[MEDIUM_DISKS];
    unsigned n_disks;
    bool in_flight;
    uint8_t boot;
    uint64_t version; /* of the models */
    GHashTable *seen; /* states that were recovered with these models */
    uint64_t seen_version;
    unsigned shifts[3]; /* granularities in use */
    unsigned step;
    uint32_t state; /* being recovered now */
    /* A crash that the workload goes on from. */
    int adopt_in; /* events until then, -1: no */
    bool adopted;
    bool adopted_power;
    bool faulted; /* something has been made to fail */
    Found found[MEDIUM_DISKS];
    uint8_t old_super[MEDIUM_DISKS][SECTOR]; /* as it was some time ago */
    /* Counted. */
    uint64_t events, states, recovered, damaged;
    char *failure;
} Run;

Run *run_new(const Options *options);
void run_free(Run *run);
/* Goes through the workload of a seed; false: run->failure says what is wrong. */
bool run_seed(Run *run, uint64_t seed, unsigned steps);
void run_fail(Run *run, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* ---- recover.c */
typedef enum { THEN_DIE, THEN_CLOSE, READ_ONLY, THEN_ADD } How;
/* Opens what is on @m, in a boot of its own if @power, and reads it. */
void recover(Run *run, Medium *m, unsigned disk, bool power, How how, Found *found);
/* The set of a disk, opened; NULL: refused. */
BmpSet *recover_open(Run *run, Medium *m, unsigned disk, uint8_t boot, bool read_only,
                     BmpReportFn report, void *opaque);
void recover_read(BmpSet *set, Found *found);
/* As a node is: false: that failed. */
bool recover_flush(Disk *disk);

/* What a store's live journal says is in doubt after a power loss. */
typedef struct Doubt {
    bool everything;
    unsigned open;  /* intents, and regions that are dirty as a whole */
    ModelBits bits; /* granules of 512 bytes */
} Doubt;
void doubt_read(Run *run, Medium *m, unsigned disk, Doubt *doubt);

/* Why @found is not what @model says; NULL: it is. @power, and then @doubt: what may be dirty
 * besides. Returned (g_free). */
char *check_found(const ModelDisk *model, const Found *found, bool power, const Doubt *doubt,
                  Looseness looseness);
/* P5: why the data that a loss of power took is clean in a bitmap that began before. */
char *check_data_kept(const ModelDisk *model, const Found *found);
/* Where two openings differ; NULL: nowhere. Returned (g_free). */
char *check_same(const Found *a, const Found *b);
/* The same of damage. @mild: nothing may be missing. */
char *check_damaged(const ModelDisk *model, const Found *found, bool mild);

/* ---- states.c */
/* The power may be cut: forms states and recovers them. */
void states_event(void *run, const char *what);

/* ---- again.c: what else has to hold of a state; each of the functions may do nothing */
typedef struct State {
    const char *what;
    const uint8_t *kept;
    bool power;
} State;
/* Fails with the state's name. */
void again_fail(Run *run, const State *state, const char *what, const char *wrong);
/* The scratch medium has been recovered: it is found again, whatever happens next. */
void again_durable(Run *run, const State *state, const Found *found, Rng *rng);
/* An opening that may only read finds the same. */
void again_read_only(Run *run, const State *state, const Found *found);
/* One disk of two goes on before the other is opened, which then reports no less. */
void again_late(Run *run, const State *state, const Found *found, Rng *rng);
/* A read that fails is no wrong answer. */
void again_unreadable(Run *run, const State *state, const Found *found, Rng *rng);

/* ---- damage.c: at rest */
void damage_at_rest(Run *run);
