/* bitmap/map_int.h: what the files of the live map share: map.c (life and marking), map_intent.c
 * (intents and retiring). What they are for is in map.h.
 *
 * Every region has a state in memory:
 *
 *     NONE       untouched in this epoch; its words are not initialised
 *     PENDING    to be OPEN; entry and words may not be on the medium yet
 *     OPEN       marks may be set
 *     RETIRING   was OPEN, no mark may be added; its words are being synced
 *     EXACT      every mark is on the medium; to add one it must be opened again
 *     FILLING    to be FULL
 *     FULL       all of it is marked
 *
 * States change under the lock; marking only loads them. Why that is enough:
 *  - A marker that sees OPEN is in a reader section. Retiring sets RETIRING, then waits for all
 *    sections, then syncs: the bits of whoever saw OPEN are in that sync (M2). Entering a section,
 *    loading a state, storing one and waiting for sections are sequentially consistent, so a marker
 *    is waited for or sees RETIRING. Who comes later and lacks a bit sees RETIRING and asks for an
 *    intent, which sets OPEN again without a sync, because the OPEN entry is still what is on the
 *    medium; the retiring then finds the region no more RETIRING and lets it be. It can't be
 *    RETIRING anew by then: ticks are one at a time.
 *  - Bits found set in OPEN, RETIRING or EXACT need nothing: whoever set them saw OPEN, so they are
 *    covered by the entry, or were by the sync that ended RETIRING.
 *  - PENDING and FILLING become OPEN and FULL when a sync that began after the entry was written
 *    has ended (M1). Entries are written under the lock, by whoever holds @syncing: one batch at a
 *    time, and retiring only writes those of regions that are still RETIRING.
 *  - A region that is FILLING may get marks from who saw OPEN before: they are on words that mean
 *    nothing from then on.
 *
 * Locks: map->lock guards all but what is atomic; a leaf. No calls for I/O under it. */
#pragma once
#include "bitmap/map.h"
#include "util/mapping.h"
#include "util/range.h"
#include <pthread.h>

enum { NONE, PENDING, OPEN, RETIRING, EXACT, FILLING, FULL };

#define MARK_WORDS 64u /* more words than this of one region: better FULL */

typedef struct Region {
    uint8_t state;  /* atomic */
    uint8_t marked; /* atomic: a mark was added since the last tick */
    uint8_t idle;   /* ticks without one */
    uint8_t ready;  /* the words are initialised in this epoch */
    uint8_t wanted; /* somebody waits for it; else a neighbour does */
} Region;

struct BmpMap {
    BmpMapOptions o;
    TmMapping mapping;
    uint64_t *table, *words; /* in the mapping */
    Region *regions;
    int failed;    /* atomic: errno */
    bool given_up; /* atomic: marks don't matter any more */
    bool no_room;  /* atomic: M5 has happened */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* @syncing has ended */
    bool syncing;           /* somebody writes entries and syncs */
    bool entries_newer;     /* entries were written after the last sync */
    GArray *asked;          /* uint32_t: regions that became PENDING or FILLING since */
    uint32_t spread;        /* how many neighbours are opened together; a power of two */
    uint32_t places;        /* new ones asked for since it grew */
    uint32_t last_asked;    /* the last region of the batch before */
    bool calm;              /* it has not grown since the tick */
    bool marks_newer;       /* marks were added after the last sync that a tick made */
    uint8_t unsynced;       /* ticks since then */
};

static inline uint32_t region_of(const BmpMap *map, uint64_t offset)
{
    return (uint32_t)(offset >> map->o.geometry.region_shift);
}

static inline uint64_t *region_words(const BmpMap *map, uint32_t r)
{
    return map->words + map->o.geometry.block / 8 * r;
}

static inline uint64_t region_start(const BmpMap *map, uint32_t r)
{
    return (uint64_t)r << map->o.geometry.region_shift;
}

static inline uint64_t region_end(const BmpMap *map, uint32_t r)
{
    return tm_min(region_start(map, r) + (UINT64_C(1) << map->o.geometry.region_shift),
                  map->o.geometry.size);
}

/* Where a range ends within the disk; not behind @offset if there is nothing of it. */
static inline uint64_t cut_end(const BmpMap *map, uint64_t offset, uint64_t length)
{
    uint64_t size = map->o.geometry.size;

    return offset >= size ? offset : offset + tm_min(length, size - offset);
}

static inline unsigned state_get(const BmpMap *map, uint32_t r)
{
    return __atomic_load_n(&map->regions[r].state, __ATOMIC_SEQ_CST);
}

static inline void state_set(BmpMap *map, uint32_t r, unsigned state)
{
    __atomic_store_n(&map->regions[r].state, (uint8_t)state, __ATOMIC_SEQ_CST);
}

/* Whether the range covers a region whole that has so many words that FULL is cheaper: marking and
 * intending must agree on it. */
static inline bool fills(const BmpMap *map, uint32_t r, uint64_t offset, uint64_t end)
{
    return map->o.geometry.block > MARK_WORDS * 8 && offset <= region_start(map, r) &&
           end >= region_end(map, r);
}

/* 0 or -errno; all of it. */
int bmp_map_write_all(const TmSys *sys, int fd, const void *data, uint64_t length, uint64_t offset);
