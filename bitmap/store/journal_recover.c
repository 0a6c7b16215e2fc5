/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/journal_recover.c: what the journal says of a store that nobody has open: it only
 * reads. */
#include "bitmap/store/intents.h"
#include "bitmap/store/journal.h"

#include "util/range.h"

#include <errno.h>
#include <string.h>

#define CHUNK (UINT64_C(1) << 20)
#define PAGE  UINT64_C(4096)

typedef struct Reader {
    const TmSys *sys;
    int fd;
    uint64_t offset; /* of the journal */
    const BmpGeometry *g;
    BmpJournalFound *found;
    uint64_t from, length; /* of the journal: what @buffer holds */
    uint64_t buffer[CHUNK / 8];
} Reader;

/* What can't be read is zeroes, which are not valid anywhere; after a bad page the next is
 * tried. */
static void read_or_zero(Reader *r, void *data, uint64_t length, uint64_t offset)
{
    char *at = data;

    while (length) {
        struct iovec iov = { at, length };
        ssize_t n = r->sys->preadv2(r->fd, &iov, 1, (off_t)offset, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            n = (ssize_t)tm_min(length, PAGE - offset % PAGE);
            memset(at, 0, (size_t)n);
        }
        if (n == 0)
            break;
        at += n;
        offset += (uint64_t)n;
        length -= (uint64_t)n;
    }
    memset(at, 0, length);
}

static void set_region(BmpBits *bits, const BmpGeometry *g, uint32_t region)
{
    uint64_t start = (uint64_t)region << g->region_shift;

    bmp_bits_set_bytes(bits, start, tm_min(UINT64_C(1) << g->region_shift, g->size - start));
}

/* The runs of set bits of one word, whose first granule is @base. */
static void set_word(BmpBits *bits, uint64_t base, uint32_t word)
{
    while (word) {
        unsigned first = __builtin_ctz(word);
        uint32_t rest = ~(word >> first);
        unsigned n = MIN(rest ? (unsigned)__builtin_ctz(rest) : 32, 32 - first);

        bmp_bits_set(bits, base + first, base + first + n - 1);
        word &= ~(((n == 32 ? 0 : UINT32_C(1) << n) - 1) << first);
    }
}

static void add_words(Reader *r, uint64_t first_granule, uint64_t granules, const uint64_t *words,
                      uint64_t n)
{
    BmpJournalFound *found = r->found;

    for (uint64_t i = 0; i < n && i * BMP_WORD_GRANULES < granules; i++) {
        uint64_t word = GUINT64_FROM_LE(words[i]), base = first_granule + i * BMP_WORD_GRANULES;

        if (word == BMP_WORD_CLEAN)
            continue;
        if (bmp_word_valid(word)) {
            set_word(&found->marked, base, (uint32_t)word);
        } else {
            found->damaged_words++;
            bmp_bits_set(&found->uncertain, base,
                         base + tm_min(BMP_WORD_GRANULES, granules - i * BMP_WORD_GRANULES) - 1);
        }
    }
}

/* @n bytes of the journal, at most CHUNK; what follows them is likely wanted next. */
static const uint64_t *words_at(Reader *r, uint64_t at, uint64_t n)
{
    if (at < r->from || at + n > r->from + r->length) {
        r->from = at;
        r->length = tm_min(CHUNK, r->g->length - at);
        read_or_zero(r, r->buffer, r->length, r->offset + at);
    }
    return r->buffer + (at - r->from) / 8;
}

static void read_words(Reader *r, uint32_t region)
{
    const BmpGeometry *g = r->g;
    uint64_t at = g->words_offset + g->block * region;
    uint64_t granules = UINT64_C(1) << (g->region_shift - g->journal_shift);

    for (uint64_t done = 0; done < g->block; done += CHUNK) {
        uint64_t n = tm_min(CHUNK, g->block - done), skip = done / 8 * BMP_WORD_GRANULES;

        add_words(r, region * granules + skip, granules - skip, words_at(r, at + done, n), n / 8);
    }
}

/* @marked and @uncertain must be disjoint: certain is certain. */
static void subtract(BmpBits *bits, const BmpBits *what)
{
    BmpBitsIter iter = bmp_bits_iter(what);
    uint64_t from = 0, first, end;

    while (bmp_bits_next(&iter, from, what->nbits, &first, &end)) {
        bmp_bits_clear(bits, first, end - 1);
        from = end;
    }
}

static void read_region(Reader *r, uint32_t region, BmpRegionState state, bool power_lost)
{
    if (state == BMP_REGION_FULL) {
        set_region(&r->found->marked, r->g, region);
    } else if (state == BMP_REGION_CROWDED) {
        r->found->crowded_regions++;
        set_region(&r->found->uncertain, r->g, region);
    } else if (state == BMP_REGION_READY || !power_lost) {
        read_words(r, region);
    }
}

static void add_intent(Reader *r, BmpIntent intent)
{
    uint64_t granules = r->found->uncertain.nbits;

    if (intent.first >= intent.end || intent.end > granules)
        r->found->damaged_intents = true;
    else
        bmp_bits_set(&r->found->uncertain, intent.first, intent.end - 1);
}

/* Marks that are not in the words, if they did not survive. */
static void read_intents(Reader *r, uint64_t seed, uint64_t epoch)
{
    g_autoptr(GArray) intents = g_array_new(FALSE, FALSE, sizeof(BmpIntent));
    g_autofree uint8_t *bytes = g_malloc(BMP_INTENTS_SIZE);

    read_or_zero(r, bytes, BMP_INTENTS_SIZE, r->offset);
    r->found->damaged_intents = !bmp_intents_decode(bytes, seed, epoch, intents);
    r->found->intents = intents->len;
    for (guint i = 0; i < intents->len; i++)
        add_intent(r, g_array_index(intents, BmpIntent, i));
    if (r->found->damaged_intents)
        bmp_bits_set_bytes(&r->found->uncertain, 0, r->g->size);
}

void bmp_journal_recover(const TmSys *sys, int fd, uint64_t offset, const BmpGeometry *geometry,
                         uint64_t seed, uint64_t epoch, bool power_lost, BmpJournalFound *found)
{
    uint64_t n = (uint64_t)geometry->regions * 8;
    g_autofree Reader *r = g_new(Reader, 1);
    g_autofree uint64_t *table = g_malloc(n + 8);

    r->sys = sys;
    r->fd = fd;
    r->offset = offset;
    r->g = geometry;
    r->found = found;
    r->from = r->length = 0;
    *found = (BmpJournalFound){ 0 };
    bmp_bits_init(&found->marked, geometry->size, geometry->journal_shift);
    bmp_bits_init(&found->uncertain, geometry->size, geometry->journal_shift);
    if (power_lost)
        read_intents(r, seed, epoch);
    read_or_zero(r, table, n, offset + geometry->table_offset);
    for (uint32_t i = 0; i < geometry->regions; i++) {
        BmpRegionState state;
        uint64_t stamp;

        if (!bmp_entry_read(seed, i, GUINT64_FROM_LE(table[i]), &stamp, &state) || stamp > epoch) {
            found->damaged_entries++;
            set_region(&found->uncertain, geometry, i);
        } else if (stamp == epoch) {
            read_region(r, i, state, power_lost);
        }
    }
    subtract(&found->uncertain, &found->marked);
}

void bmp_journal_found_clear(BmpJournalFound *found)
{
    bmp_bits_clear_all(&found->marked);
    bmp_bits_clear_all(&found->uncertain);
}
