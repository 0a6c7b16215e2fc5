/* bitmap/map.h: the mapped part of a store: what was marked since the last commit, kept so that it
 * survives (inside bitmap/ only).
 *
 * A mark is one atomic change of a word in memory that the kernel keeps when the process dies. With
 * BMP_DURABLE_POWER, a list of intents on the medium (intents.h) covers each mark that is not on
 * the medium itself: to mark a granule, an intent must have been synced. Concurrent first touches
 * share one sync: whoever finds none under way runs it for all that wait. Marks that are there
 * already need nothing.
 *
 * What an intent covers besides what is written counts as dirty after a loss of power. All of that
 * together is at most bmp_map_bound(), whatever was written.
 *
 * Invariants (M names are the tests'):
 *  M1  A bit is only set within an intent that is on the medium, and before the data is written.
 *  M2  An intent leaves the list only after every bit that was set in it was synced.
 *  M3  Words of a region are initialised before its entry gets the map's epoch, and on the medium
 *      before the entry says READY.
 *  M4  A page of the mapping is only touched where the file has been written: never a hole, so that
 *      a full file system is an error of a call, not a signal.
 *  M5  A region whose words can't be written (ENOSPC) becomes CROWDED, which takes an entry only.
 *  M6  At most bmp_map_bound() bytes lie in intents and are neither marked nor asked for.
 *
 * Threads: mark from any; tick from one worker at a time; the rest when nobody marks. */
#pragma once
#include "bitmap/bits.h"
#include "bitmap/format.h"
#include "util/sys.h"

/* M6: an intent ahead of what is written may be as large as this part of the disk, all together. */
#define BMP_MAP_BOUND_PART UINT64_C(200)
#define BMP_MAP_BOUND_MAX  (UINT64_C(1) << 30)

typedef struct BmpMap BmpMap;

typedef struct BmpMapOptions {
    const TmSys *sys; /* borrowed */
    int fd;           /* the store's; borrowed */
    BmpGeometry geometry;
    uint64_t offset; /* of the map in the file */
    uint64_t seed, epoch;
    BmpDurability durability;
} BmpMapOptions;

/* Bytes of a disk of @size that may count as dirty after a loss of power without having been
 * written or being written then. */
uint64_t bmp_map_bound(uint64_t size);

/* Writes empty lists and a new table (all CLEAN, stamp 0) and makes room for the words; syncs
 * nothing. 0 or -errno, and then the file may be longer than before. */
int bmp_map_create(const TmSys *sys, int fd, uint64_t offset, const BmpGeometry *geometry,
                   uint64_t seed);

/* Maps what bmp_map_create() or an earlier session wrote; every region counts as untouched in
 * @epoch, which must be newer than any stamp there. NULL: -errno in *err. */
BmpMap *bmp_map_open(const BmpMapOptions *options, int *err);
void bmp_map_close(BmpMap *map); /* NULL is fine */
/* A new epoch in the same place: everything is clean again. Nobody marks. */
void bmp_map_restart(BmpMap *map, uint64_t epoch);

/* Whether nothing was marked and nothing asked for in this epoch. Nobody marks. */
bool bmp_map_untouched(const BmpMap *map);

/* Marks the granules that [offset, offset + length) touches, cut at the end of the disk. true:
 * done, the data may be written. false: it takes an intent, which is asked for by now; call
 * bmp_map_intend(), begin again. Where it is marked already: loads only, no lock. After
 * bmp_map_give_up() always true. */
bool bmp_map_mark(BmpMap *map, uint64_t offset, uint64_t length);
/* Whether bmp_map_intend() would wait for a sync (else it is quick enough for a loop thread). */
bool bmp_map_intend_waits(const BmpMap *map);
/* Marks the range, and waits for the sync that this takes with BMP_DURABLE_POWER. 0, or -errno: the
 * map has failed, now or before. Not within a reader section of the tracker. */
int bmp_map_intend(BmpMap *map, uint64_t offset, uint64_t length);

/* Syncs what was marked since the last sync, so that an error of it is seen, with
 * BMP_DURABLE_PROCESS now and then; and closes what was opened ahead and has got no marks for three
 * ticks. Syncs only if there is something to sync. 0 or -errno as intend. A worker. */
int bmp_map_tick(BmpMap *map);

/* Why nothing new is recorded any more: -errno of the first sync or access that failed, or 0. Marks
 * that need an intent are held back from then on until somebody gives up. */
int bmp_map_failed(const BmpMap *map);
/* The store has been distrusted, as far as that is possible: marks don't matter any more. */
void bmp_map_give_up(BmpMap *map);
/* Whether regions are CROWDED for want of room (M5). */
bool bmp_map_full(const BmpMap *map);

/* ---- recovery: reading only */
typedef struct BmpMapFound {
    BmpBits marked;    /* granules of the map that are marked, for sure */
    BmpBits uncertain; /* dirty only because of recovery: intents after a power loss, damage;
                        * disjoint from @marked */
    size_t damaged_entries, damaged_words;
    bool damaged_intents;   /* after a power loss: all is dirty */
    size_t intents;         /* after a power loss: taken as dirty */
    size_t crowded_regions; /* there was no room for their marks: the same */
} BmpMapFound;

/* Reads lists, table and words of a file with pread, never through a mapping. What can't be read
 * counts as damaged. @power_lost: words may be older than their marks, which intents tell. */
void bmp_map_recover(const TmSys *sys, int fd, uint64_t offset, const BmpGeometry *geometry,
                     uint64_t seed, uint64_t epoch, bool power_lost, BmpMapFound *found);
void bmp_map_found_clear(BmpMapFound *found);
