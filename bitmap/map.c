/* bitmap/map.c: marking, intents and retiring. What they are for is in map.h.
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
 * has ended (M1). Entries are written by whoever holds @syncing, one at a time, outside the lock;
 * or, when retiring, under the lock for a region that is RETIRING, which nobody has in a batch.
 *  - A region that is FILLING may get marks from who saw OPEN before: they are on words that mean
 *    nothing from then on.
 *
 * Locks: map->lock guards all but what is atomic; a leaf. No I/O under it. */
#include "bitmap/map.h"

#include "util/mapping.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>

enum { NONE, PENDING, OPEN, RETIRING, EXACT, FILLING, FULL };

#define IDLE_TICKS   3u  /* without a new mark before a region is retired */
#define SPREAD_BATCH 8u  /* runs of regions asked for in one batch that make it spread */
#define MARK_WORDS   64u /* more words than this of one region: better FULL */
#define INIT_MAX     (UINT64_C(1) << 20) /* bytes of words initialised by one call */

typedef struct Region {
    uint8_t state;  /* atomic */
    uint8_t marked; /* atomic: a mark was added since the last tick */
    uint8_t idle;   /* ticks without one */
    uint8_t ready;  /* the words are initialised in this epoch */
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
};

/* ---- geometry */

static uint32_t region_of(const BmpMap *map, uint64_t offset)
{
    return (uint32_t)(offset >> map->o.geometry.region_shift);
}

static uint64_t *region_words(const BmpMap *map, uint32_t r)
{
    return map->words + map->o.geometry.block / 8 * r;
}

static uint64_t region_start(const BmpMap *map, uint32_t r)
{
    return (uint64_t)r << map->o.geometry.region_shift;
}

static uint64_t region_end(const BmpMap *map, uint32_t r)
{
    return tm_min(region_start(map, r) + (UINT64_C(1) << map->o.geometry.region_shift),
                  map->o.geometry.size);
}

static unsigned state_get(const BmpMap *map, uint32_t r)
{
    return __atomic_load_n(&map->regions[r].state, __ATOMIC_SEQ_CST);
}

static void state_set(BmpMap *map, uint32_t r, unsigned state)
{
    __atomic_store_n(&map->regions[r].state, (uint8_t)state, __ATOMIC_SEQ_CST);
}

static void entry_set(BmpMap *map, uint32_t r, BmpRegionState state)
{
    __atomic_store_n(&map->table[r],
                     GUINT64_TO_LE(bmp_entry_make(map->o.seed, r, map->o.epoch, state)),
                     __ATOMIC_RELEASE);
}

/* ---- life */

static int write_all(const TmSys *sys, int fd, const void *data, uint64_t length, uint64_t offset)
{
    const char *at = data;

    while (length) {
        struct iovec iov = { (void *)at, length };
        ssize_t n = sys->pwritev2(fd, &iov, 1, (off_t)offset, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENOSPC;
        at += n;
        offset += (uint64_t)n;
        length -= (uint64_t)n;
    }
    return 0;
}

int bmp_map_create(const TmSys *sys, int fd, uint64_t offset, const BmpGeometry *geometry,
                   uint64_t seed)
{
    g_autofree uint64_t *table = g_try_malloc0(MAX(geometry->words_offset, 8));
    struct stat st;
    int ret;

    if (!table)
        return -ENOMEM;
    for (uint32_t r = 0; r < geometry->regions; r++)
        table[r] = GUINT64_TO_LE(bmp_entry_make(seed, r, 0, BMP_REGION_CLEAN));
    ret = write_all(sys, fd, table, geometry->words_offset, offset);
    if (ret < 0)
        return ret;
    if (sys->fstat(fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size < offset + geometry->length &&
        sys->ftruncate(fd, (off_t)(offset + geometry->length)) < 0)
        return -errno;
    return 0;
}

static void map_free(BmpMap *map)
{
    pthread_mutex_destroy(&map->lock);
    pthread_cond_destroy(&map->changed);
    g_array_unref(map->asked);
    g_free(map->regions);
    g_free(map);
}

BmpMap *bmp_map_open(const BmpMapOptions *options, int *err)
{
    const BmpGeometry *g = &options->geometry;
    BmpMap *map = g_new0(BmpMap, 1);

    map->o = *options;
    map->spread = 1;
    map->asked = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    map->regions = g_try_new0(Region, g->regions + 1);
    pthread_mutex_init(&map->lock, NULL);
    pthread_cond_init(&map->changed, NULL);
    if (!map->regions) {
        *err = -ENOMEM;
        map_free(map);
        return NULL;
    }
    *err = g->length ? tm_mapping_open(&map->mapping, options->sys, options->fd, options->offset,
                                       g->length)
                     : 0;
    if (*err < 0) {
        map_free(map);
        return NULL;
    }
    map->table = map->mapping.address;
    map->words = g->length ? (uint64_t *)((char *)map->mapping.address + g->words_offset) : NULL;
    return map;
}

void bmp_map_close(BmpMap *map)
{
    if (!map)
        return;
    tm_mapping_close(&map->mapping);
    map_free(map);
}

void bmp_map_restart(BmpMap *map, uint64_t epoch)
{
    TM_GUARD(&map->lock);

    while (map->syncing) /* a tick's last */
        pthread_cond_wait(&map->changed, &map->lock);
    map->o.epoch = epoch;
    map->entries_newer = false;
    memset(map->regions, 0, sizeof(Region) * map->o.geometry.regions);
    g_array_set_size(map->asked, 0);
    map->spread = 1;
    __atomic_store_n(&map->no_room, false, __ATOMIC_RELAXED);
}

bool bmp_map_untouched(const BmpMap *map)
{
    for (uint32_t r = 0; r < map->o.geometry.regions; r++) {
        if (state_get(map, r) != NONE)
            return false;
    }
    return true;
}

int bmp_map_failed(const BmpMap *map)
{
    if (tm_mapping_broken(&map->mapping))
        return -EIO;
    return -__atomic_load_n(&map->failed, __ATOMIC_ACQUIRE);
}

bool bmp_map_full(const BmpMap *map)
{
    return __atomic_load_n(&map->no_room, __ATOMIC_RELAXED);
}

void bmp_map_give_up(BmpMap *map)
{
    __atomic_store_n(&map->given_up, true, __ATOMIC_RELEASE);
}

static void fail(BmpMap *map, int err)
{
    int none = 0;

    __atomic_compare_exchange_n(&map->failed, &none, err, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_RELAXED);
}

/* ---- marking */

/* Sets bits of one word; false if that takes an intent. */
static bool mark_word(Region *region, unsigned state, uint64_t *word, uint32_t bits)
{
    uint64_t old = __atomic_load_n(word, __ATOMIC_RELAXED), set;

    do {
        set = GUINT64_TO_LE(bmp_word_set(GUINT64_FROM_LE(old), bits));
        if (set == old)
            return true;
        if (state != OPEN)
            return false;
    } while (
        !__atomic_compare_exchange_n(word, &old, set, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
    if (!__atomic_load_n(&region->marked, __ATOMIC_RELAXED))
        __atomic_store_n(&region->marked, 1, __ATOMIC_RELAXED);
    return true;
}

static uint32_t word_bits(uint64_t first, uint64_t last)
{
    return (UINT32_MAX << first) & (UINT32_MAX >> (BMP_WORD_GRANULES - 1 - last));
}

/* Whether the range covers a region whole that has so many words that FULL is cheaper: marking and
 * intending must agree on it. */
static bool fills(const BmpMap *map, uint32_t r, uint64_t offset, uint64_t end)
{
    return map->o.geometry.block > MARK_WORDS * 8 && offset <= region_start(map, r) &&
           end >= region_end(map, r);
}

/* Granules @first to @last of one region, counted from its start. */
static bool mark_region(BmpMap *map, uint32_t r, uint64_t first, uint64_t last, bool better_full)
{
    uint64_t *words = region_words(map, r);
    unsigned state = state_get(map, r);

    if (state == FULL)
        return true;
    if ((state != OPEN && state != EXACT && state != RETIRING) || better_full)
        return false;
    for (uint64_t w = first / BMP_WORD_GRANULES; w <= last / BMP_WORD_GRANULES; w++) {
        uint64_t base = w * BMP_WORD_GRANULES;

        if (!mark_word(&map->regions[r], state, &words[w],
                       word_bits(tm_max(first, base) - base,
                                 tm_min(last, base + BMP_WORD_GRANULES - 1) - base)))
            return false;
    }
    return true;
}

bool bmp_map_mark(BmpMap *map, uint64_t offset, uint64_t length)
{
    uint64_t end = offset + length;

    if (!length || __atomic_load_n(&map->given_up, __ATOMIC_ACQUIRE))
        return true;
    for (uint32_t r = region_of(map, offset); r <= region_of(map, end - 1); r++) {
        uint64_t start = region_start(map, r);
        unsigned shift = map->o.geometry.map_shift;

        if (!mark_region(map, r, (tm_max(offset, start) - start) >> shift,
                         (tm_min(end, region_end(map, r)) - 1 - start) >> shift,
                         fills(map, r, offset, end)))
            return false;
    }
    return !tm_mapping_broken(&map->mapping); /* else the marks went nowhere */
}

/* ---- intents */

bool bmp_map_intend_waits(const BmpMap *map)
{
    return map->o.durability == BMP_DURABLE_POWER;
}

static int sync_file(BmpMap *map)
{
    if (map->o.durability != BMP_DURABLE_POWER)
        return 0;
    while (map->o.sys->fdatasync(map->o.fd) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

/* Under the lock. */
static void ask(BmpMap *map, uint32_t r, unsigned state)
{
    state_set(map, r, state);
    g_array_append_val(map->asked, r);
}

/* Under the lock: asks for what the range lacks; whether there is anything to wait for. */
static bool ask_range(BmpMap *map, uint64_t offset, uint64_t end)
{
    bool wait = false;

    for (uint32_t r = region_of(map, offset); r <= region_of(map, end - 1); r++) {
        bool whole = offset <= region_start(map, r) && end >= region_end(map, r);

        switch (state_get(map, r)) {
        case RETIRING:
            state_set(map, r, OPEN); /* the entry on the medium still says so */
            map->regions[r].idle = 0;
            if (fills(map, r, offset, end))
                ask(map, r, FILLING);
            break;
        case NONE:
        case EXACT:
            ask(map, r, whole ? FILLING : PENDING);
            break;
        case OPEN:
        case PENDING:
            if (fills(map, r, offset, end))
                ask(map, r, FILLING);
            break;
        default:
            break;
        }
        wait |= state_get(map, r) == PENDING || state_get(map, r) == FILLING;
    }
    return wait;
}

static int by_number(gconstpointer a, gconstpointer b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

/* Sorts; how many runs of adjacent regions there are. */
static guint count_runs(GArray *asked)
{
    guint runs = asked->len ? 1 : 0;

    g_array_sort(asked, by_number);
    for (guint i = 1; i < asked->len; i++)
        runs += g_array_index(asked, uint32_t, i) > g_array_index(asked, uint32_t, i - 1) + 1;
    return runs;
}

/* Under the lock: many places at once come from a writer all over the disk, whose next regions are
 * likely any. One that writes in order, however deep, is in one place. */
static void ask_neighbours(BmpMap *map)
{
    guint n = map->asked->len;

    if (count_runs(map->asked) < SPREAD_BATCH) {
        map->spread = MAX(map->spread / 2, 1);
        return;
    }
    map->spread = MAX(MIN(map->spread * 2, map->o.geometry.regions / 8), 1);
    for (guint i = 0; i < n; i++) {
        uint32_t r = g_array_index(map->asked, uint32_t, i);
        uint32_t first = r - r % map->spread;

        for (uint32_t k = first; k < MIN(first + map->spread, map->o.geometry.regions); k++) {
            if (state_get(map, k) == NONE || state_get(map, k) == EXACT)
                ask(map, k, PENDING);
        }
    }
}

/* Initialises the words of @n regions that lie one after the other. */
static int init_words(BmpMap *map, uint32_t r, uint32_t n)
{
    const BmpGeometry *g = &map->o.geometry;
    uint64_t length = g->block * n, chunk = tm_min(length, INIT_MAX);
    g_autofree uint64_t *clean = g_try_malloc(chunk);
    int ret = 0;

    if (!clean)
        return -ENOMEM;
    for (uint64_t i = 0; i < chunk / 8; i++)
        clean[i] = GUINT64_TO_LE(BMP_WORD_CLEAN);
    for (uint64_t done = 0; ret == 0 && done < length; done += chunk)
        ret = write_all(map->o.sys, map->o.fd, clean, tm_min(chunk, length - done),
                        map->o.offset + g->words_offset + g->block * r + done);
    return ret;
}

static bool wants_words(const BmpMap *map, uint32_t r)
{
    return !map->regions[r].ready && state_get(map, r) == PENDING;
}

/* Makes the words of a sorted batch ready; without room for them regions are to be FULL. */
static void make_ready(BmpMap *map, const uint32_t *batch, guint n)
{
    for (guint i = 0; i < n;) {
        guint end = i + 1;
        int ret;

        if (!wants_words(map, batch[i])) {
            i++;
            continue;
        }
        while (end < n && batch[end] <= batch[end - 1] + 1 && wants_words(map, batch[end]))
            end++;
        ret = init_words(map, batch[i], batch[end - 1] - batch[i] + 1);
        if (ret < 0)
            __atomic_store_n(&map->no_room, true, __ATOMIC_RELAXED);
        for (; i < end; i++)
            map->regions[batch[i]].ready = ret == 0;
    }
}

/* Under the lock; @becomes: what each region is after the sync, NONE: not this batch's to say. */
static void write_entries(BmpMap *map, const uint32_t *batch, guint n, uint8_t *becomes)
{
    for (guint i = 0; i < n; i++) {
        unsigned state = state_get(map, batch[i]);

        becomes[i] = NONE;
        if (state != PENDING && state != FILLING)
            continue;
        becomes[i] = state == PENDING && map->regions[batch[i]].ready ? OPEN : FULL;
        entry_set(map, batch[i], becomes[i] == OPEN ? BMP_REGION_OPEN : BMP_REGION_FULL);
    }
}

/* Under the lock: a region that was asked to be FULL during the sync is in the next batch. */
static void finish(BmpMap *map, const uint32_t *batch, guint n, const uint8_t *becomes)
{
    for (guint i = 0; i < n; i++) {
        if (becomes[i] == NONE || (becomes[i] == OPEN && state_get(map, batch[i]) != PENDING))
            continue;
        map->regions[batch[i]].idle = 0;
        state_set(map, batch[i], becomes[i]);
    }
}

/* Under the lock, which is let go of meanwhile: opens what was asked for until now. */
static void lead(BmpMap *map)
{
    g_autofree uint8_t *becomes = NULL;
    g_autoptr(GArray) asked = NULL;
    const uint32_t *batch;
    int ret;

    ask_neighbours(map);
    asked = map->asked;
    map->asked = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    map->syncing = true;
    g_array_sort(asked, by_number);
    batch = (const uint32_t *)asked->data;
    becomes = g_new(uint8_t, asked->len);

    pthread_mutex_unlock(&map->lock);
    make_ready(map, batch, asked->len);
    pthread_mutex_lock(&map->lock);
    write_entries(map, batch, asked->len, becomes);
    map->entries_newer = false;
    pthread_mutex_unlock(&map->lock);
    ret = sync_file(map);
    pthread_mutex_lock(&map->lock);

    if (ret == 0)
        finish(map, batch, asked->len, becomes);
    else
        fail(map, -ret);
    map->syncing = false;
    pthread_cond_broadcast(&map->changed);
}

int bmp_map_intend(BmpMap *map, uint64_t offset, uint64_t length)
{
    TM_GUARD(&map->lock);

    while (length && !bmp_map_failed(map) && ask_range(map, offset, offset + length)) {
        if (map->syncing)
            pthread_cond_wait(&map->changed, &map->lock);
        else
            lead(map);
    }
    return bmp_map_failed(map);
}

/* ---- retiring */

/* Under the lock: the regions to retire now. */
static GArray *take_cold(BmpMap *map)
{
    GArray *cold = g_array_new(FALSE, FALSE, sizeof(uint32_t));

    for (uint32_t r = 0; r < map->o.geometry.regions; r++) {
        Region *region = &map->regions[r];

        if (state_get(map, r) != OPEN)
            continue;
        if (__atomic_exchange_n(&region->marked, 0, __ATOMIC_RELAXED)) {
            region->idle = 0;
        } else if (++region->idle >= IDLE_TICKS) {
            state_set(map, r, RETIRING);
            g_array_append_val(cold, r);
        }
    }
    return cold;
}

/* Under the lock: their words are on the medium. */
static void retire(BmpMap *map, const GArray *cold)
{
    for (guint i = 0; i < cold->len; i++) {
        uint32_t r = g_array_index(cold, uint32_t, i);

        if (state_get(map, r) != RETIRING)
            continue;
        entry_set(map, r, BMP_REGION_EXACT);
        state_set(map, r, EXACT);
        map->entries_newer = true;
    }
}

int bmp_map_tick(BmpMap *map)
{
    g_autoptr(GArray) cold = NULL;
    int ret = 0;

    TM_GUARD(&map->lock);
    while (map->syncing)
        pthread_cond_wait(&map->changed, &map->lock);
    if (bmp_map_failed(map) || !bmp_map_intend_waits(map))
        return bmp_map_failed(map);
    cold = take_cold(map);
    if (!cold->len && !map->entries_newer)
        return 0;
    map->syncing = true;
    map->entries_newer = false;
    pthread_mutex_unlock(&map->lock);
    map->o.quiesce(map->o.opaque);
    ret = sync_file(map);
    pthread_mutex_lock(&map->lock);
    if (ret == 0)
        retire(map, cold);
    else
        fail(map, -ret);
    map->syncing = false;
    pthread_cond_broadcast(&map->changed);
    return bmp_map_failed(map);
}
