/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/journal.c: the live journal's life, and marking. How it hangs together is in
 * journal_internal.h. */
#include "bitmap/store/journal_internal.h"

#include "util/sync.h"

#include <errno.h>
#include <string.h>

#define ROOM_MAX   (UINT64_C(16) << 20) /* bytes of words that are written when a map is made */
#define ROOM_CHUNK (UINT64_C(1) << 20)

/* ---- life */

/* Words that take little are given their room at once, so that an intent overwrites blocks and need
 * not allocate any, which on most file systems takes several times as long. Without room for them
 * that is as it was. */
static void make_room(const TmSys *sys, int fd, uint64_t offset, const BmpGeometry *geometry)
{
    uint64_t length = geometry->length - geometry->words_offset, chunk = tm_min(length, ROOM_CHUNK);
    g_autofree char *zeroes = length <= ROOM_MAX ? g_try_malloc0(MAX(chunk, 1)) : NULL;
    int ret = zeroes ? 0 : -ENOMEM;

    for (uint64_t done = 0; ret == 0 && done < length; done += chunk)
        ret = tm_write_all(sys, fd, zeroes, tm_min(chunk, length - done),
                           offset + geometry->words_offset + done);
}

int bmp_journal_create(const TmSys *sys, int fd, uint64_t offset, const BmpGeometry *geometry,
                       uint64_t seed)
{
    g_autofree char *head = g_try_malloc0(geometry->words_offset);
    uint64_t *table = (uint64_t *)(void *)(head + geometry->table_offset);
    struct stat st;
    int ret;

    if (!head)
        return -ENOMEM;
    bmp_intents_init((uint8_t *)head, seed);
    for (uint32_t r = 0; r < geometry->regions; r++)
        table[r] = GUINT64_TO_LE(bmp_entry_make(seed, r, 0, BMP_REGION_CLEAN));
    ret = tm_write_all(sys, fd, head, geometry->words_offset, offset);
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

static void map_free(BmpJournal *map)
{
    pthread_mutex_destroy(&map->lock);
    pthread_cond_destroy(&map->changed);
    g_array_unref(map->asked);
    g_array_unref(map->intents);
    g_free(map->regions);
    g_free(map);
}

BmpJournal *bmp_journal_open(const BmpJournalOptions *options, int *err)
{
    const BmpGeometry *g = &options->geometry;
    BmpJournal *map = g_new0(BmpJournal, 1);

    map->o = *options;
    map->granules = g->size ? ((g->size - 1) >> g->map_shift) + 1 : 0;
    map->region_shift = g->region_shift - g->map_shift;
    map->asked = g_array_new(FALSE, FALSE, sizeof(BmpIntent));
    map->intents = g_array_new(FALSE, FALSE, sizeof(Intent));
    map->regions = g_try_new0(uint8_t, g->regions + 1);
    bmp_windows_init(map);
    pthread_mutex_init(&map->lock, NULL);
    pthread_cond_init(&map->changed, NULL);
    if (!map->regions) {
        *err = -ENOMEM;
        map_free(map);
        return NULL;
    }
    *err = tm_mapping_open(&map->mapping, options->sys, options->fd, options->offset, g->length);
    if (*err < 0) {
        map_free(map);
        return NULL;
    }
    map->table = (uint64_t *)((char *)map->mapping.address + g->table_offset);
    map->words = (uint64_t *)((char *)map->mapping.address + g->words_offset);
    return map;
}

void bmp_journal_close(BmpJournal *map)
{
    if (!map)
        return;
    tm_mapping_close(&map->mapping);
    map_free(map);
}

void bmp_journal_restart(BmpJournal *map, uint64_t epoch)
{
    TM_GUARD(&map->lock);

    while (map->syncing) /* a tick's last */
        pthread_cond_wait(&map->changed, &map->lock);
    map->o.epoch = epoch;
    map->number = 0;
    map->touched = map->unsynced = false;
    memset(map->regions, 0, map->o.geometry.regions);
    memset(map->recent, 0, sizeof(map->recent));
    g_array_set_size(map->asked, 0);
    g_array_set_size(map->intents, 0);
    __atomic_store_n(&map->no_room, false, __ATOMIC_RELAXED);
}

bool bmp_journal_untouched(const BmpJournal *map)
{
    return !map->touched;
}

int bmp_journal_failed(const BmpJournal *map)
{
    if (tm_mapping_broken(&map->mapping))
        return -EIO;
    return -__atomic_load_n(&map->failed, __ATOMIC_ACQUIRE);
}

bool bmp_journal_full(const BmpJournal *map)
{
    return __atomic_load_n(&map->no_room, __ATOMIC_RELAXED);
}

void bmp_journal_give_up(BmpJournal *map)
{
    __atomic_store_n(&map->given_up, true, __ATOMIC_RELEASE);
}

/* ---- marking */

BmpIntent bmp_journal_granules(const BmpJournal *map, uint64_t offset, uint64_t length)
{
    uint64_t size = map->o.geometry.size, shift = map->o.geometry.map_shift;

    if (offset >= size || !length)
        return (BmpIntent){ 0, 0 };
    return (BmpIntent){ offset >> shift,
                        ((offset + tm_min(length, size - offset) - 1) >> shift) + 1 };
}

bool bmp_journal_marked(const BmpJournal *map, BmpIntent range)
{
    uint64_t next;

    for (uint64_t at = range.first; at < range.end; at = next) {
        uint32_t r = region_of(map, at), bits;
        unsigned state = region_get(map, r);
        const uint64_t *word = word_of(map, at, range.end, &bits, &next);

        if (state == NONE)
            return false;
        if (state == FULL)
            next = region_end(map, r);
        else if (bits & ~(uint32_t)GUINT64_FROM_LE(__atomic_load_n(word, __ATOMIC_ACQUIRE)))
            return false;
    }
    return true;
}

bool bmp_journal_mark(BmpJournal *map, uint64_t offset, uint64_t length)
{
    BmpIntent range = bmp_journal_granules(map, offset, length);

    if (range.first == range.end || __atomic_load_n(&map->given_up, __ATOMIC_ACQUIRE))
        return true;
    if (!bmp_journal_marked(map, range)) {
        TM_GUARD(&map->lock);

        if (!bmp_journal_put(map, range))
            return false;
    }
    return !tm_mapping_broken(&map->mapping); /* else the marks went nowhere */
}
