/* bitmap/map.h: the mapped part of a store: what was marked since the last commit, kept so that it
 * survives (inside bitmap/ only).
 *
 * The disk is divided into regions (format.h). To mark a granule its region must be OPEN: the entry
 * of the table says so and, with BMP_DURABLE_POWER, that entry has been synced. Opening a region is
 * an intent. Then the mark is one atomic change of a word in memory that the kernel keeps when the
 * process dies. A region without new marks for a while is retired: its words are synced, then its
 * entry says EXACT; whoever wants to add a mark opens it again. Marks that are there already need
 * nothing.
 *
 * Invariants (M names are the tests'):
 *  M1  A bit is only set in a region whose OPEN (or FULL) entry is durable, and before the data is
 *      written. So a set bit is on the medium, or an OPEN entry is.
 *  M2  An entry says EXACT only after every bit of the region was synced, with nobody setting bits.
 *  M3  Words of a region are initialised before its entry gets the map's epoch.
 *  M4  A page of the mapping is only touched where the file has been written: never a hole, so that
 * a full file system is an error of a call, not a signal. M5  A region whose words can't be written
 * (ENOSPC) becomes FULL, which takes an entry only.
 *
 * Concurrent first touches share one sync: whoever finds none under way runs it for all that wait.
 * When regions in many places are opened in one batch, neighbours are opened with them, twice as
 * many each time (at most 1/8 of the disk): a random writer soon waits no more.
 *
 * Threads: mark from any, within a reader section of the set's tracker; tick from one worker at a
 * time; the rest when nobody marks. */
#pragma once
#include "bitmap/bits.h"
#include "bitmap/format.h"
#include "util/sys.h"

typedef struct BmpMap BmpMap;

typedef struct BmpMapOptions {
    const TmSys *sys; /* borrowed */
    int fd;           /* the store's; borrowed */
    BmpGeometry geometry;
    uint64_t offset; /* of the map in the file */
    uint64_t seed, epoch;
    BmpDurability durability;
    /* Returns when every reader section that was under way has been left. */
    void (*quiesce)(void *opaque);
    void *opaque;
} BmpMapOptions;

/* Writes a new table (all CLEAN, stamp 0) and makes room for the words; syncs nothing. 0 or -errno,
 * and then the file may be longer than before. */
int bmp_map_create(const TmSys *sys, int fd, uint64_t offset, const BmpGeometry *geometry,
                   uint64_t seed);

/* Maps what bmp_map_create() or an earlier session wrote; every region counts as untouched in
 * @epoch, which must be newer than any stamp there. NULL: -errno in *err. */
BmpMap *bmp_map_open(const BmpMapOptions *options, int *err);
void bmp_map_close(BmpMap *map); /* NULL is fine */
/* A new epoch in the same place: everything is clean again. Nobody marks. */
void bmp_map_restart(BmpMap *map, uint64_t epoch);

/* Whether nothing was marked and no region asked for in this epoch. Nobody marks. */
bool bmp_map_untouched(const BmpMap *map);

/* Marks the granules that [offset, offset + length) touches, cut at the end of the disk. true:
 * done, the data may be written. false: a region must be opened first; leave the reader section,
 * call bmp_map_intend(), begin again. Lock-free where it is marked already. After bmp_map_give_up()
 * always true. */
bool bmp_map_mark(BmpMap *map, uint64_t offset, uint64_t length);
/* Whether bmp_map_intend() would wait for a sync (else it is quick enough for a loop thread). */
bool bmp_map_intend_waits(const BmpMap *map);
/* Opens the regions of the range; those that it covers whole become FULL. 0, or -errno: the map has
 * failed, now or before. Not within a reader section. Waits for a sync with BMP_DURABLE_POWER. */
int bmp_map_intend(BmpMap *map, uint64_t offset, uint64_t length);

/* Retires regions without new marks for three ticks, and syncs entries retired earlier, and now and
 * then the marks of those with new ones, with either durability. Syncs only if there is something
 * to sync. 0 or -errno as intend. A worker; not in a reader section. */
int bmp_map_tick(BmpMap *map);

/* Why nothing new is recorded any more: -errno of the first sync or access that failed, or 0. Marks
 * that need an intent are held back from then on until somebody gives up. */
int bmp_map_failed(const BmpMap *map);
/* The store has been distrusted, as far as that is possible: marks don't matter any more. */
void bmp_map_give_up(BmpMap *map);
/* Whether regions are FULL for want of room (M5). */
bool bmp_map_full(const BmpMap *map);

/* ---- recovery: reading only */
typedef struct BmpMapFound {
    BmpBits marked;    /* granules of the map that are marked, for sure */
    BmpBits uncertain; /* dirty only because of recovery: OPEN regions after a power loss, damage;
                        * disjoint from @marked */
    size_t damaged_entries, damaged_words;
    size_t open_regions;    /* after a power loss: taken as dirty */
    size_t crowded_regions; /* there was no room for their marks: the same */
} BmpMapFound;

/* Reads table and words of a file with pread, never through a mapping. What can't be read counts as
 * damaged. @power_lost: the words of OPEN regions can't be believed. */
void bmp_map_recover(const TmSys *sys, int fd, uint64_t offset, const BmpGeometry *geometry,
                     uint64_t seed, uint64_t epoch, bool power_lost, BmpMapFound *found);
void bmp_map_found_clear(BmpMapFound *found);
