/* bitmap/map.c: a live map's life, and marking. How it hangs together is in map_int.h. */
#include "bitmap/map_int.h"

#include "util/sync.h"

#include <errno.h>
#include <string.h>

#define ROOM_MAX   (UINT64_C(16) << 20) /* bytes of words that are written when a map is made */
#define ROOM_CHUNK (UINT64_C(1) << 20)

/* ---- life */

int bmp_map_write_all(const TmSys *sys, int fd, const void *data, uint64_t length, uint64_t offset)
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

/* Words that take little are given their room at once, so that an intent overwrites blocks and need
 * not allocate any, which on most file systems takes several times as long. Without room for them
 * that is as it was. */
static void make_room(const TmSys *sys, int fd, uint64_t offset, const BmpGeometry *geometry)
{
    uint64_t length = geometry->length - geometry->words_offset, chunk = tm_min(length, ROOM_CHUNK);
    g_autofree char *zeroes = length <= ROOM_MAX ? g_try_malloc0(MAX(chunk, 1)) : NULL;
    int ret = zeroes ? 0 : -ENOMEM;

    for (uint64_t done = 0; ret == 0 && done < length; done += chunk)
        ret = bmp_map_write_all(sys, fd, zeroes, tm_min(chunk, length - done),
                                offset + geometry->words_offset + done);
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
    ret = bmp_map_write_all(sys, fd, table, geometry->words_offset, offset);
    if (ret < 0)
        return ret;
    if (sys->fstat(fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size < offset + geometry->length &&
        sys->ftruncate(fd, (off_t)(offset + geometry->length)) < 0)
        return -errno;
    make_room(sys, fd, offset, geometry);
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
    map->entries_newer = map->marks_newer = false;
    memset(map->regions, 0, sizeof(Region) * map->o.geometry.regions);
    g_array_set_size(map->asked, 0);
    map->spread = 1;
    map->places = 0;
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
    uint64_t end = cut_end(map, offset, length);

    if (offset >= end || __atomic_load_n(&map->given_up, __ATOMIC_ACQUIRE))
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
