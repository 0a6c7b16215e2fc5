/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/note.c: the note that backups have begun: the names of their checkpoints, which no
 * commit has stored yet.
 *
 * A checkpoint counts for nothing until its backup has succeeded, so that it begins needs nothing
 * on the medium. The note is for who finds the store after a crash, and wants to know. So it is
 * written and not synced, in the block of one superblock, of which the other one is left alone. */
#include "bitmap/store/store_internal.h"

#include "util/endian.h"
#include "util/sync.h"

#include <string.h>

#define MAGIC    "TMBACKUP"
#define HEADER   24u /* magic, generation, length of the names, how many */
#define CHECKSUM 8u
#define PLACE    (BMP_STORE_ALIGN + BMP_SUPER_SIZE)
#define ROOM     ((unsigned)BMP_STORE_ALIGN - BMP_SUPER_SIZE)

/* ---- reading */

static bool take_names(const uint8_t *at, const uint8_t *end, unsigned n, GPtrArray *names)
{
    for (; n > 0; n--) {
        size_t length = end - at >= 2 ? tm_get_le16(at) : 0;

        if (!length || length > BMP_NAME_MAX || length > (size_t)(end - at) - 2 ||
            !g_utf8_validate((const char *)at + 2, (gssize)length, NULL))
            return false;
        g_ptr_array_add(names, g_strndup((const char *)at + 2, length));
        at += 2 + length;
    }
    return at == end;
}

GPtrArray *bmp_note_read(const TmSys *sys, int fd, const BmpSuper *super)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    uint8_t bytes[ROOM];
    uint32_t length;

    if (bmp_store_read(sys, fd, bytes, ROOM, PLACE) < ROOM || memcmp(bytes, MAGIC, 8) ||
        tm_get_le64(bytes + 8) != super->generation)
        return g_ptr_array_new_with_free_func(g_free);
    length = tm_get_le32(bytes + 16);
    if (length > ROOM - HEADER - CHECKSUM ||
        tm_get_le64(bytes + HEADER + length) !=
            bmp_checksum(bytes, HEADER + length, bmp_entry_seed(super->uuid)) ||
        !take_names(bytes + HEADER, bytes + HEADER + length, tm_get_le32(bytes + 20), names))
        return g_ptr_array_new_with_free_func(g_free);
    return g_steal_pointer(&names);
}

/* ---- writing */

static void put_name(GByteArray *note, const char *name)
{
    uint8_t length[2];

    tm_put_le16(length, (uint16_t)strlen(name));
    g_byte_array_append(note, length, 2);
    g_byte_array_append(note, (const uint8_t *)name, (guint)strlen(name));
}

/* All but the generation and the checksum. */
static GByteArray *encode(BmpSet *set, const char *more)
{
    const uint8_t header[HEADER] = MAGIC;
    GByteArray *note = g_byte_array_new();
    uint32_t n = more != NULL;

    g_byte_array_append(note, header, HEADER);
    for (guint i = 0; i < set->bitmaps->len; i++) {
        const BmpBitmap *bitmap = set->bitmaps->pdata[i];

        if (!bitmap->persistent || !bitmap->unfinished)
            continue;
        put_name(note, bitmap->name);
        n++;
    }
    if (more)
        put_name(note, more);
    tm_put_le32(note->data + 16, note->len - HEADER);
    tm_put_le32(note->data + 20, n);
    g_byte_array_set_size(note, note->len + CHECKSUM);
    return note;
}

bool bmp_note_write(BmpStore *store)
{
    GByteArray *note = store->note;
    guint length = note->len - CHECKSUM;

    tm_put_le64(note->data + 8, store->super.generation);
    tm_put_le64(note->data + length,
                bmp_checksum(note->data, length, bmp_entry_seed(store->super.uuid)));
    return bmp_store_write(store, store->fd, note->data, note->len, PLACE) == 0;
}

void bmp_note_clear(BmpStore *store)
{
    TM_GUARD(&store->lock);

    g_clear_pointer(&store->note, g_byte_array_unref);
}

/* Commits are the main thread's, too; a store may fail on any. */
static bool take_note(BmpStore *store, const char *more)
{
    GByteArray *note = encode(store->set, more);

    TM_GUARD(&store->lock);
    if (store->failed || note->len > ROOM) {
        g_byte_array_unref(note);
        return false;
    }
    if (store->note)
        g_byte_array_unref(store->note);
    store->note = note;
    return bmp_note_write(store);
}

bool bmp_set_note_backup(BmpSet *set, const char *checkpoint)
{
    BmpStore *store = set->store;
    BmpJournal *journal;
    bool ok;

    bmp_set_lock(set);
    ok = store && store->fd >= 0 && !store->o.read_only && !store->resting &&
         (checkpoint || store->note) && take_note(store, checkpoint);
    journal = __atomic_load_n(&set->journal, __ATOMIC_RELAXED);
    if (ok && journal)
        bmp_journal_unsettle(journal);
    bmp_set_unlock(set);
    return ok;
}
