/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/bitmaps_store.c: bitmaps into the image: bits, tables and directory in new
 * clusters, then the header, then what was before is let go (B2). */
#include "block/drivers/qcow2/bitmaps.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

typedef struct Piece {
    uint64_t offset, clusters;
} Piece;

typedef struct Writer {
    Qcow2 *q;
    GArray *bitmaps;  /* Qcow2Bitmap: the new directory */
    GArray *written;  /* Piece: clusters that nothing refers to yet */
    uint64_t *words;  /* of a cluster */
    GHashTable *free; /* clusters that only the old directory refers to, by number */
} Writer;

/* ---- new clusters */

static int put(Writer *w, const void *bytes, uint64_t length, uint64_t *offset)
{
    Piece piece = { .clusters = tm_align_up(length, w->q->cluster) / w->q->cluster };
    bool fresh;
    int ret = qcow2_alloc(w->q, piece.clusters, &piece.offset, &fresh);

    if (ret < 0)
        return ret;
    g_array_append_val(w->written, piece);
    *offset = piece.offset;
    return blk_host.child_pwrite(w->q->node, QCOW2_FILE, bytes, piece.offset, length, 0);
}

static void take_back(Writer *w)
{
    for (guint i = 0; i < w->written->len; i++) {
        const Piece *p = &g_array_index(w->written, Piece, i);

        qcow2_unalloc(w->q, p->offset, p->clusters);
    }
}

static int put_bits(Writer *w, const BmpBits *bits, uint64_t first, uint64_t *entry)
{
    uint64_t n = w->q->cluster / 8;

    switch (bmp_bits_kind(bits, first, n * 64)) {
    case BMP_BITS_NONE:
        *entry = 0;
        return 0;
    case BMP_BITS_ALL: /* QEMU would set bits beyond the end, too, if there is one */
        if (first + n * 64 > bits->nbits)
            break;
        *entry = QCOW2_BITMAP_ALL_ONES;
        return 0;
    case BMP_BITS_SOME:
        break;
    }
    bmp_bits_get_words(bits, first, w->words, n);
    for (uint64_t i = 0; i < n; i++)
        tm_put_le64(&w->words[i], w->words[i]);
    return put(w, w->words, w->q->cluster, entry);
}

/* Bits that can't be used are not written. */
static int put_bitmap(Writer *w, const BmpRecord *r, Qcow2Bitmap *b)
{
    uint64_t per_cluster = w->q->cluster * 8;
    g_autofree uint64_t *table = NULL;
    int ret = 0;

    b->table_size = (uint32_t)qcow2_bitmap_table_size(w->q->header.size, r->shift, w->q->cluster);
    table = g_try_new0(uint64_t, (gsize)b->table_size + 1);
    if (!table)
        return -ENOMEM;
    for (uint32_t i = 0; ret == 0 && i < b->table_size && !r->inconsistent; i++) {
        uint64_t entry;

        ret = put_bits(w, &r->bits, i * per_cluster, &entry);
        if (ret == 0)
            tm_put_be64(&table[i], entry);
    }
    return ret == 0 ? put(w, table, (uint64_t)b->table_size * 8, &b->table_offset) : ret;
}

/* ---- old clusters */

static void let_go_of(Writer *w, uint64_t offset, uint64_t bytes)
{
    for (uint64_t at = offset; at < offset + bytes; at += w->q->cluster)
        g_hash_table_add(w->free, GSIZE_TO_POINTER(at / w->q->cluster));
}

static void let_go_of_bitmap(Writer *w, const Qcow2Bitmap *b)
{
    g_autofree uint64_t *table = qcow2_bitmap_table(w->q, b);
    uint64_t size = blk_host.child_size(w->q->node, QCOW2_FILE), offset;

    for (uint32_t i = 0; table && i < b->table_size; i++) {
        if (qcow2_bitmap_entry(table[i], w->q->cluster, size, &offset) && offset)
            let_go_of(w, offset, w->q->cluster);
    }
    let_go_of(w, b->table_offset, (uint64_t)b->table_size * 8);
}

/* Each once, and only what the refcounts know of and nothing else is in. */
static void free_old(Writer *w)
{
    GHashTableIter iter;
    gpointer number;

    g_hash_table_iter_init(&iter, w->free);
    while (g_hash_table_iter_next(&iter, &number, NULL))
        qcow2_free_bitmap(w->q, GPOINTER_TO_SIZE(number) * w->q->cluster);
}

/* ---- the header */

/* While fields change that may lie in several sectors nobody is to go by them. */
static int switch_header(Qcow2 *q, uint32_t n, uint64_t offset, uint64_t size, bool beside,
                         bool *begun)
{
    Qcow2Header *h = &q->header;
    int ret = 0;
    TM_GUARD(&q->commit_lock);

    if (h->autoclear & QCOW2_AUTOCLEAR_BITMAPS && n) {
        h->autoclear &= ~QCOW2_AUTOCLEAR_BITMAPS;
        ret = qcow2_header_write(q);
        if (ret < 0)
            h->autoclear |= QCOW2_AUTOCLEAR_BITMAPS;
    }
    if (ret < 0)
        return ret;
    *begun = true;
    h->has_bitmaps = n != 0;
    h->n_bitmaps = n;
    h->bitmaps_offset = offset;
    h->bitmaps_size = size;
    if (n)
        ret = qcow2_header_write(q);
    if (ret < 0)
        return ret;
    h->autoclear &= ~(QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_STORE);
    h->autoclear |= (n ? QCOW2_AUTOCLEAR_BITMAPS : 0) | (beside ? QCOW2_AUTOCLEAR_STORE : 0);
    return qcow2_header_write(q);
}

static int put_directory(Writer *w, bool beside, bool *begun)
{
    g_autofree uint8_t *directory = NULL;
    uint64_t offset = 0, size = 0;
    int ret = 0;

    if (w->bitmaps->len) {
        directory = qcow2_bitmaps_build(w->bitmaps, &size);
        ret = directory ? put(w, directory, size, &offset) : -ENOMEM;
    }
    if (ret == 0)
        ret = qcow2_commit(w->q);
    return ret == 0 ? switch_header(w->q, w->bitmaps->len, offset, size, beside, begun) : ret;
}

/* ---- all of it */

static bool writer_begin(Writer *w, Qcow2 *q, GArray **old, GError **error)
{
    *w = (Writer){ .q = q };
    if (__atomic_load_n(&q->corrupt, __ATOMIC_RELAXED))
        return tm_error_set(error, "the image is corrupt");
    *old = qcow2_bitmaps_read(q, error);
    if (!*old)
        return false;
    w->words = g_try_malloc(q->cluster);
    if (!w->words) {
        g_array_unref(*old);
        return tm_error_set(error, "Not enough memory to store bitmaps");
    }
    w->bitmaps = qcow2_bitmaps_new();
    w->written = g_array_new(FALSE, FALSE, sizeof(Piece));
    w->free = g_hash_table_new(NULL, NULL);
    if (qcow2_bitmaps_there(q))
        let_go_of(w, q->header.bitmaps_offset, q->header.bitmaps_size);
    return true;
}

static bool writer_end(Writer *w, int ret, bool beside, GError **error)
{
    bool begun = false;

    if (ret == 0)
        ret = put_directory(w, beside, &begun);
    if (ret < 0 && !begun)
        take_back(w);
    if (ret == 0)
        free_old(w);
    for (int i = 0; ret == 0 && i < 2 && w->q->dirty; i++)
        qcow2_commit(
            w->q); /* lets go, and writes that; what it leaves undone leaks after a crash */
    g_array_unref(w->bitmaps);
    g_array_unref(w->written);
    g_hash_table_unref(w->free);
    g_free(w->words);
    return ret == 0 || tm_error_set_errno(error, -ret, "Could not write bitmaps into the image");
}

/* Takes an entry of the old directory as it is. */
static void keep(Writer *w, Qcow2Bitmap *old, uint32_t flags)
{
    Qcow2Bitmap b = *old;

    b.flags |= flags;
    g_array_append_val(w->bitmaps, b);
    old->name = NULL;
    old->bytes = NULL;
    old->extra = NULL;
}

static Qcow2Bitmap *find(const GArray *bitmaps, GHashTable *by_name, const char *name)
{
    gpointer index;

    if (!g_hash_table_lookup_extended(by_name, name, NULL, &index))
        return NULL;
    return &g_array_index(bitmaps, Qcow2Bitmap, GPOINTER_TO_UINT(index));
}

static GHashTable *index_names(const GArray *bitmaps)
{
    GHashTable *by_name = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (guint i = 0; i < bitmaps->len; i++)
        g_hash_table_insert(by_name, g_strdup(g_array_index(bitmaps, Qcow2Bitmap, i).name),
                            GUINT_TO_POINTER(i));
    return by_name;
}

bool qcow2_bitmaps_drop(void *handle, const GPtrArray *names, GError **error)
{
    Qcow2 *q = handle;
    g_autoptr(GArray) old = NULL;
    g_autoptr(GHashTable) by_name = NULL, gone = g_hash_table_new(g_str_hash, g_str_equal);
    bool any = false;
    Writer w;

    if (!qcow2_bitmaps_there(q))
        return true;
    if (!writer_begin(&w, q, &old, error))
        return false;
    by_name = index_names(old);
    for (guint i = 0; i < names->len; i++) {
        any |= find(old, by_name, names->pdata[i]) != NULL;
        g_hash_table_add(gone, names->pdata[i]);
    }
    for (guint i = 0; i < old->len; i++) {
        Qcow2Bitmap *b = &g_array_index(old, Qcow2Bitmap, i);

        if (g_hash_table_contains(gone, b->name))
            let_go_of_bitmap(&w, b);
        else
            keep(&w, b, 0);
    }
    if (!any) { /* they were never in there */
        writer_end(&w, -ENOENT, true, NULL);
        return true;
    }
    return writer_end(&w, 0, q->header.autoclear & QCOW2_AUTOCLEAR_STORE, error);
}

static int put_record(Writer *w, const BmpRecord *r, Qcow2Bitmap *before)
{
    Qcow2Bitmap b = { .granularity_bits = r->shift };
    int ret;

    if (before && r->inconsistent) {
        keep(w, before, QCOW2_BITMAP_IN_USE);
        return 0;
    }
    b.flags = r->enabled ? QCOW2_BITMAP_AUTO : 0;
    if (r->inconsistent)
        b.flags |= QCOW2_BITMAP_IN_USE;
    if (before) {
        b.flags |= before->flags & QCOW2_BITMAP_EXTRA_COMPATIBLE;
        b.extra = g_steal_pointer(&before->extra);
        b.extra_size = before->extra_size;
        b.bytes = g_steal_pointer(&before->bytes);
        b.n_bytes = before->n_bytes;
        let_go_of_bitmap(w, before);
    }
    ret = put_bitmap(w, r, &b);
    b.name = g_strdup(r->name);
    g_array_append_val(w->bitmaps, b);
    return ret;
}

bool qcow2_bitmaps_store(void *handle, const GArray *records, GError **error)
{
    Qcow2 *q = handle;
    g_autoptr(GArray) old = NULL;
    g_autoptr(GHashTable) by_name = NULL;
    int ret = 0;
    Writer w;

    if (!records->len && !q->header.has_bitmaps && !(q->header.autoclear & QCOW2_AUTOCLEAR_STORE))
        return true;
    if (!writer_begin(&w, q, &old, error))
        return false;
    by_name = index_names(old);
    for (guint i = 0; ret == 0 && i < records->len; i++) {
        const BmpRecord *r = &g_array_index(records, BmpRecord, i);

        ret = put_record(&w, r, find(old, by_name, r->name));
        g_hash_table_remove(by_name, r->name);
    }
    for (guint i = 0; ret == 0 && i < old->len; i++) {
        Qcow2Bitmap *b = &g_array_index(old, Qcow2Bitmap, i);

        if (b->name && g_hash_table_contains(by_name, b->name))
            let_go_of_bitmap(&w, b);
    }
    return writer_end(&w, ret, false, error);
}
