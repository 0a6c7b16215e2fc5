/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/bitmaps_load.c: bitmaps as the image has them. What is wrong with one bitmap
 * makes that one inconsistent; what is wrong with the directory makes that the image can't be
 * written, for whoever does must know what bitmaps there are. */
#include "block/drivers/qcow2/bitmaps.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define MIXED_MAX    (UINT64_C(2) << 30) /* bytes of clusters that are neither all 0 nor all 1 */
#define CLUSTERS_MAX (UINT64_C(4) << 20) /* clusters of all bitmaps that are remembered */

typedef struct Loader {
    Qcow2 *q;
    uint64_t file_size;
    uint64_t mixed, clusters; /* so far */
    uint8_t *cluster;         /* bytes of one, 8-aligned */
} Loader;

bool qcow2_bitmaps_there(const Qcow2 *q)
{
    return q->header.has_bitmaps && q->header.autoclear & QCOW2_AUTOCLEAR_BITMAPS;
}

static uint64_t file_size(const Qcow2 *q)
{
    return tm_align_up(blk_host.child_size(q->node, QCOW2_FILE), q->cluster);
}

GArray *qcow2_bitmaps_read(Qcow2 *q, GError **error)
{
    const Qcow2Header *h = &q->header;
    g_autofree uint8_t *bytes = NULL;
    int ret;

    if (!qcow2_bitmaps_there(q))
        return qcow2_bitmaps_new();
    if (!qcow2_bitmaps_check(h, file_size(q), error))
        return NULL;
    bytes = g_try_malloc(h->bitmaps_size);
    ret = bytes ? qcow2_read_child(q, QCOW2_FILE, bytes, h->bitmaps_offset, h->bitmaps_size)
                : -ENOMEM;
    if (ret < 0) {
        tm_error_set_errno(error, -ret, "Could not read the bitmap directory");
        return NULL;
    }
    return qcow2_bitmaps_parse(h, file_size(q), bytes, error);
}

uint64_t *qcow2_bitmap_table(Qcow2 *q, const Qcow2Bitmap *b)
{
    uint64_t *table = g_try_new(uint64_t, b->table_size);

    if (!table ||
        qcow2_read_child(q, QCOW2_FILE, table, b->table_offset, (uint64_t)b->table_size * 8) < 0) {
        g_free(table);
        return NULL;
    }
    for (uint32_t i = 0; i < b->table_size; i++)
        table[i] = tm_get_be64(&table[i]);
    return table;
}

/* ---- the bits */

static char *load_cluster(Loader *l, BmpBits *bits, uint64_t first, uint64_t offset)
{
    uint64_t n = l->q->cluster / 8, *words = (uint64_t *)(void *)l->cluster;
    int ret = qcow2_read_child(l->q, QCOW2_FILE, l->cluster, offset, l->q->cluster);
    bool mixed = false;

    if (ret < 0)
        return g_strdup_printf("its data at %" PRIu64 " can't be read: %s", offset,
                               g_strerror(-ret));
    for (uint64_t i = 0; i < n; i++) {
        words[i] = tm_get_le64(&words[i]);
        mixed |= words[i] != words[0] || (words[0] && words[0] != UINT64_MAX);
    }
    if (mixed && (l->mixed += l->q->cluster) > MIXED_MAX)
        return g_strdup("the bitmaps of this image take too much memory");
    bmp_bits_or_words(bits, first, words, n);
    return NULL;
}

/* Why the bitmap can't be used (g_free), or NULL. */
static char *load_bits(Loader *l, const Qcow2Bitmap *b, const uint64_t *table, BmpBits *bits)
{
    uint64_t wanted =
        qcow2_bitmap_table_size(l->q->header.size, b->granularity_bits, l->q->cluster);
    uint64_t per_cluster = l->q->cluster * 8;

    if (b->table_size != wanted)
        return g_strdup_printf("its table has %u entries, expected %" PRIu64, b->table_size,
                               wanted);
    if (!table)
        return g_strdup_printf("its table at %" PRIu64 " can't be read", b->table_offset);
    for (uint32_t i = 0; i < b->table_size; i++) {
        uint64_t offset, first = i * per_cluster;
        char *why = NULL;

        if (!qcow2_bitmap_entry(table[i], l->q->cluster, l->file_size, &offset))
            return g_strdup_printf("entry %u of its table is 0x%" PRIx64
                                   ", expected a cluster within the file",
                                   i, table[i]);
        if (offset)
            why = load_cluster(l, bits, first, offset);
        else if (table[i] & QCOW2_BITMAP_ALL_ONES)
            bmp_bits_set(bits, first, first + per_cluster - 1);
        if (why)
            return why;
    }
    return NULL;
}

/* What bitmaps are in is not given to anything else, whatever its refcounts are (B1). false: some
 * of it belongs to something else already. */
static bool take_clusters(Loader *l, const Qcow2Bitmap *b, const uint64_t *table)
{
    uint64_t cluster = l->q->cluster, offset;
    bool apart;

    if (!l->q->writable)
        return true;
    apart = qcow2_metadata_add(l->q, b->table_offset,
                               tm_align_up((uint64_t)b->table_size * 8, cluster) / cluster,
                               QCOW2_OF_BITMAPS);
    for (uint32_t i = 0; table && i < b->table_size && l->clusters < CLUSTERS_MAX; i++) {
        if (!qcow2_bitmap_entry(table[i], cluster, l->file_size, &offset) || !offset)
            continue;
        apart &= qcow2_metadata_add(l->q, offset, 1, QCOW2_OF_BITMAPS);
        l->clusters++;
    }
    return apart;
}

static void load_one(Loader *l, const Qcow2Bitmap *b, BmpRecord *record)
{
    g_autofree uint64_t *table = qcow2_bitmap_table(l->q, b);
    bool apart = take_clusters(l, b, table);

    *record = (BmpRecord){ .name = g_strdup(b->name),
                           .shift = b->granularity_bits,
                           .enabled = b->flags & QCOW2_BITMAP_AUTO };
    bmp_bits_init(&record->bits, l->q->header.size, b->granularity_bits);
    if (b->flags & QCOW2_BITMAP_IN_USE)
        record->reason = g_strdup(
            "it was in use, and the program that had the image open did not store it at the end");
    else if (!apart)
        record->reason = g_strdup("some of its clusters are also used by other parts of the image");
    else
        record->reason = load_bits(l, b, table, &record->bits);
    record->inconsistent = record->reason != NULL;
    if (record->inconsistent)
        bmp_bits_clear_all(&record->bits);
}

/* ---- all of them */

/* Somebody wrote to the image who does not know bitmaps. Their clusters may be anything by now, so
 * they stay what they are by the refcounts: a check finds those that leak. */
static bool drop_stale(Qcow2 *q, GError **error)
{
    int ret;

    if (!q->writable || !q->header.has_bitmaps)
        return true;
    pthread_mutex_lock(&q->commit_lock);
    q->header.has_bitmaps = false;
    ret = qcow2_header_write(q);
    pthread_mutex_unlock(&q->commit_lock);
    return ret == 0 || tm_error_set_errno(error, -ret, "Could not update the qcow2 header");
}

bool qcow2_bitmaps_load(void *handle, GArray *records, GPtrArray *problems, GError **error)
{
    Qcow2 *q = handle;
    Loader l = { .q = q, .file_size = file_size(q) };
    g_autoptr(GArray) bitmaps = NULL;

    if (!q->header.has_bitmaps)
        return true;
    if (!qcow2_bitmaps_there(q)) {
        g_ptr_array_add(problems,
                        g_strdup("a program that does not know bitmaps has written to the "
                                 "image: the bitmaps that were in it are lost"));
        return drop_stale(q, error);
    }
    bitmaps = qcow2_bitmaps_read(q, error);
    if (!bitmaps)
        return false;
    l.cluster = g_try_malloc(q->cluster);
    if (!l.cluster)
        return tm_error_set(error, "Not enough memory to read bitmaps");
    if (q->writable)
        qcow2_metadata_add(q, q->header.bitmaps_offset,
                           tm_align_up(q->header.bitmaps_size, q->cluster) / q->cluster,
                           QCOW2_OF_BITMAPS);
    for (guint i = 0; i < bitmaps->len; i++) {
        BmpRecord record;

        load_one(&l, &g_array_index(bitmaps, Qcow2Bitmap, i), &record);
        g_array_append_val(records, record);
    }
    g_free(l.cluster);
    return true;
}
