/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/journal.c: the live journal's life, and what is marked. How it hangs together is in
 * journal_internal.h. */
#include "bitmap/store/journal_internal.h"

#include "util/sync.h"

#include <errno.h>
#include <string.h>

#define ROOM_MAX   (UINT64_C(16) << 20) /* bytes of words that are written when a journal is made */
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

static void journal_free(BmpJournal *journal)
{
    pthread_mutex_destroy(&journal->lock);
    pthread_cond_destroy(&journal->changed);
    g_array_unref(journal->asked);
    g_array_unref(journal->intents);
    g_free(journal->regions);
    g_free(journal->recent);
    g_free(journal);
}

BmpJournal *bmp_journal_open(const BmpJournalOptions *options, int *err)
{
    const BmpGeometry *g = &options->geometry;
    BmpJournal *journal = g_new0(BmpJournal, 1);

    journal->o = *options;
    journal->granules = g->size ? ((g->size - 1) >> g->journal_shift) + 1 : 0;
    journal->region_shift = g->region_shift - g->journal_shift;
    journal->asked = g_array_new(FALSE, FALSE, sizeof(BmpIntent));
    journal->intents = g_array_new(FALSE, FALSE, sizeof(Intent));
    journal->regions = g_try_new0(uint8_t, g->regions + 1);
    bmp_windows_init(journal);
    pthread_mutex_init(&journal->lock, NULL);
    pthread_cond_init(&journal->changed, NULL);
    if (!journal->regions) {
        *err = -ENOMEM;
        journal_free(journal);
        return NULL;
    }
    *err =
        tm_mapping_open(&journal->mapping, options->sys, options->fd, options->offset, g->length);
    if (*err < 0) {
        journal_free(journal);
        return NULL;
    }
    journal->table = (uint64_t *)((char *)journal->mapping.address + g->table_offset);
    journal->words = (uint64_t *)((char *)journal->mapping.address + g->words_offset);
    return journal;
}

void bmp_journal_close(BmpJournal *journal)
{
    if (!journal)
        return;
    tm_mapping_close(&journal->mapping);
    journal_free(journal);
}

void bmp_journal_restart(BmpJournal *journal, uint64_t epoch)
{
    TM_GUARD(&journal->lock);

    while (journal->syncing) /* a tick's last */
        pthread_cond_wait(&journal->changed, &journal->lock);
    journal->o.epoch = epoch;
    journal->number = 0;
    journal->touched = journal->unsynced = false;
    memset(journal->regions, 0, journal->o.geometry.regions);
    g_clear_pointer(&journal->recent, g_free);
    g_array_set_size(journal->asked, 0);
    g_array_set_size(journal->intents, 0);
    __atomic_store_n(&journal->no_room, false, __ATOMIC_RELAXED);
}

bool bmp_journal_untouched(const BmpJournal *journal)
{
    return !journal->touched;
}

int bmp_journal_failed(const BmpJournal *journal)
{
    if (tm_mapping_broken(&journal->mapping))
        return -EIO;
    return -__atomic_load_n(&journal->failed, __ATOMIC_ACQUIRE);
}

bool bmp_journal_full(const BmpJournal *journal)
{
    return __atomic_load_n(&journal->no_room, __ATOMIC_RELAXED);
}

void bmp_journal_give_up(BmpJournal *journal)
{
    __atomic_store_n(&journal->given_up, true, __ATOMIC_RELEASE);
}

/* ---- what is marked */

BmpIntent bmp_journal_granules(const BmpJournal *journal, uint64_t offset, uint64_t length)
{
    uint64_t size = journal->o.geometry.size, shift = journal->o.geometry.journal_shift;

    if (offset >= size || !length)
        return (BmpIntent){ 0, 0 };
    return (BmpIntent){ offset >> shift,
                        ((offset + tm_min(length, size - offset) - 1) >> shift) + 1 };
}

bool bmp_journal_marked(const BmpJournal *journal, BmpIntent range)
{
    uint64_t next;

    for (uint64_t at = range.first; at < range.end; at = next) {
        uint32_t r = region_of(journal, at), bits;
        unsigned state = region_get(journal, r);
        const uint64_t *word = word_of(journal, at, range.end, &bits, &next);

        if (state == NONE)
            return false;
        if (state == FULL)
            next = region_end(journal, r);
        else if (bits & ~(uint32_t)GUINT64_FROM_LE(__atomic_load_n(word, __ATOMIC_ACQUIRE)))
            return false;
    }
    return true;
}
