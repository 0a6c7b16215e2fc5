/* bitmap/map_intent.c: opening regions before they are marked, and retiring them afterwards. How it
 * hangs together is in map_int.h. */
#include "bitmap/map_int.h"

#include "util/sync.h"

#include <errno.h>

#define IDLE_TICKS    3u /* without a new mark before a region is retired */
#define SYNC_TICKS    5u /* after which the marks of busy regions are synced, too */
#define SPREAD_PLACES 8u /* asked for, one soon after the other: then it spreads more */
#define INIT_MAX      (UINT64_C(1) << 20) /* bytes of words initialised by one call */

static void entry_set(BmpMap *map, uint32_t r, BmpRegionState state)
{
    __atomic_store_n(&map->table[r],
                     GUINT64_TO_LE(bmp_entry_make(map->o.seed, r, map->o.epoch, state)),
                     __ATOMIC_RELEASE);
}

static void fail(BmpMap *map, int err)
{
    int none = 0;

    __atomic_compare_exchange_n(&map->failed, &none, err, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_RELAXED);
}

/* ---- intents */

bool bmp_map_intend_waits(const BmpMap *map)
{
    return map->o.durability == BMP_DURABLE_POWER;
}

static int sync_now(BmpMap *map)
{
    while (map->o.sys->fdatasync(map->o.fd) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

static int sync_file(BmpMap *map)
{
    return map->o.durability == BMP_DURABLE_POWER ? sync_now(map) : 0;
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
        map->regions[r].wanted = 1;
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

/* How many new places the batch is: going on where the one before ended is none. */
static guint count_places(BmpMap *map)
{
    guint runs = count_runs(map->asked);
    uint32_t first = g_array_index(map->asked, uint32_t, 0);
    uint32_t last = g_array_index(map->asked, uint32_t, map->asked->len - 1);
    bool goes_on = first == map->last_asked || first == map->last_asked + 1;

    map->last_asked = last;
    return runs - goes_on;
}

/* Under the lock: many places soon after one another come from a writer all over the disk, however
 * deep its queue, whose next regions are likely any. One that writes in order is in one place. */
static void ask_neighbours(BmpMap *map)
{
    guint n = map->asked->len;

    map->places += count_places(map);
    if (map->places >= SPREAD_PLACES) {
        map->spread *= map->places >= 2 * SPREAD_PLACES ? 4 : 2;
        map->spread = MAX(MIN(map->spread, map->o.geometry.regions / 8), 1);
        map->places = 0;
        map->calm = false;
    }
    if (map->spread == 1)
        return;
    for (guint i = 0; i < n; i++) {
        uint32_t r = g_array_index(map->asked, uint32_t, i);
        uint32_t first = r - r % map->spread;

        for (uint32_t k = first; k < MIN(first + map->spread, map->o.geometry.regions); k++) {
            if (state_get(map, k) != NONE && state_get(map, k) != EXACT)
                continue;
            map->regions[k].wanted = 0;
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
        ret = bmp_map_write_all(map->o.sys, map->o.fd, clean, tm_min(chunk, length - done),
                                map->o.offset + g->words_offset + g->block * r + done);
    return ret;
}

static bool wants_words(const BmpMap *map, uint32_t r)
{
    return !map->regions[r].ready && state_get(map, r) == PENDING;
}

/* Makes the words of a sorted batch ready; without room for them regions are to be FULL, if
 * somebody waits for them. */
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
        if (state == PENDING && !map->regions[batch[i]].ready && !map->regions[batch[i]].wanted) {
            state_set(map, batch[i], NONE);
            continue;
        }
        becomes[i] = state == PENDING && map->regions[batch[i]].ready ? OPEN : FULL;
        entry_set(map, batch[i],
                  becomes[i] == OPEN ? BMP_REGION_OPEN
                  : state == PENDING ? BMP_REGION_CROWDED
                                     : BMP_REGION_FULL);
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
    uint64_t end = cut_end(map, offset, length);

    TM_GUARD(&map->lock);
    while (offset < end && !bmp_map_failed(map) && ask_range(map, offset, end)) {
        if (map->syncing)
            pthread_cond_wait(&map->changed, &map->lock);
        else
            lead(map);
    }
    return bmp_map_failed(map);
}

/* ---- retiring */

/* Under the lock: the regions to retire now; none are where nothing was synced for them. */
static GArray *take_cold(BmpMap *map)
{
    GArray *cold = g_array_new(FALSE, FALSE, sizeof(uint32_t));

    for (uint32_t r = 0; r < map->o.geometry.regions; r++) {
        Region *region = &map->regions[r];

        if (state_get(map, r) != OPEN)
            continue;
        if (__atomic_exchange_n(&region->marked, 0, __ATOMIC_RELAXED)) {
            region->idle = 0;
            map->marks_newer = true;
        } else if (bmp_map_intend_waits(map) && ++region->idle >= IDLE_TICKS) {
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

/* Under the lock: whether to sync for the sake of busy regions: that their marks could not be
 * written back is told to who syncs, before the pages go, or never. */
static bool overdue(BmpMap *map)
{
    map->unsynced = map->marks_newer ? map->unsynced + 1 : 0;
    return map->unsynced >= SYNC_TICKS;
}

int bmp_map_tick(BmpMap *map)
{
    g_autoptr(GArray) cold = NULL;
    int ret = 0;

    TM_GUARD(&map->lock);
    while (map->syncing)
        pthread_cond_wait(&map->changed, &map->lock);
    if (bmp_map_failed(map))
        return bmp_map_failed(map);
    if (map->calm) { /* nobody has been all over the disk since the tick before */
        map->spread = MAX(map->spread / 4, 1);
        map->places = 0;
    }
    map->calm = true;
    cold = take_cold(map);
    if (!overdue(map) && !cold->len && !map->entries_newer)
        return 0;
    map->syncing = true;
    map->entries_newer = map->marks_newer = false;
    map->unsynced = 0;
    pthread_mutex_unlock(&map->lock);
    map->o.quiesce(map->o.opaque);
    ret = sync_now(map);
    pthread_mutex_lock(&map->lock);
    if (ret == 0)
        retire(map, cold);
    else
        fail(map, -ret);
    map->syncing = false;
    pthread_cond_broadcast(&map->changed);
    return bmp_map_failed(map);
}
