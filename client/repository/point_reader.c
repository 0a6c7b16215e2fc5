/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/point_reader.c: reading disks of points.
 *
 * The runs of the whole chain are laid over each other when it is opened: then each piece of the
 * disk is in one image, which is read without those below it. */
#include "client/repository/point_reader.h"
#include "client/repository/images.h"
#include "util/range.h"
#include <errno.h>
#include <string.h>

#define BATCH 64u /* blocks whose hashes are read at a time */

typedef struct Layer {
    const TcManifest *point; /* borrowed */
    TcHashes *hashes;
    BlkNode *node; /* borrowed */
} Layer;

/* A run of a layer, as far as it is seen. */
typedef struct Piece {
    uint64_t offset, length;
    uint32_t layer;
    TcRunKind kind;
} Piece;

struct TcPointReader {
    uint64_t size;
    bool open;
    TcImage image;
    GArray *layers; /* Layer, the topmost first */
    GArray *pieces; /* Piece, in order */
};

static void layer_clear(void *data)
{
    tc_hashes_free(((Layer *)data)->hashes);
}

/* ---- opening */

static bool open_layer(TcPointReader *r, TcRepository *repo, const TcManifest *point,
                       const char *name, GError **error)
{
    const TcPointDisk *disk = tc_manifest_disk(point, name);
    Layer layer = { .point = point };

    layer.node = tc_repo_image_open(repo, &r->image, point->point, disk, error);
    layer.hashes = layer.node ? tc_repo_open_hashes(repo, point->point, disk, error) : NULL;
    if (layer.hashes)
        g_array_append_val(r->layers, layer);
    return layer.hashes != NULL;
}

/* Those of @runs that are within [from, end), from run *next on. */
static void fill_hole(GArray *to, const TcRuns *runs, size_t *next, uint64_t from, uint64_t end,
                      uint32_t layer)
{
    for (; *next < tc_runs_count(runs); ++*next) {
        const TcRun *run = tc_runs_get(runs, *next);
        Piece p = { tm_max(run->offset, from), 0, layer, run->kind };
        uint64_t run_end = run->offset + run->length;

        if (run->offset >= end)
            return;
        if (run_end > p.offset) {
            p.length = tm_min(run_end, end) - p.offset;
            g_array_append_val(to, p);
        }
        if (run_end > end)
            return;
    }
}

/* What @layer has shows where nothing above it has anything. */
static void lay_under(TcPointReader *r, uint32_t layer)
{
    const TcRuns *runs = tc_hashes_runs(g_array_index(r->layers, Layer, layer).hashes);
    GArray *pieces = g_array_new(FALSE, FALSE, sizeof(Piece));
    uint64_t end = 0;
    size_t next = 0;

    for (guint i = 0; i < r->pieces->len; i++) {
        const Piece *p = &g_array_index(r->pieces, Piece, i);

        fill_hole(pieces, runs, &next, end, p->offset, layer);
        g_array_append_val(pieces, *p);
        end = p->offset + p->length;
    }
    fill_hole(pieces, runs, &next, end, r->size, layer);
    g_array_unref(r->pieces);
    r->pieces = pieces;
}

static bool open_chain(TcPointReader *r, TcRepository *repo, const GPtrArray *chain,
                       const char *disk, GError **error)
{
    r->image.sys = tc_repo_sys(repo);
    r->open = tc_image_begin(&r->image, error);
    if (!r->open)
        return false;
    for (guint i = 0; i < chain->len; i++) {
        if (!open_layer(r, repo, chain->pdata[i], disk, error))
            return false;
        lay_under(r, i);
    }
    return true;
}

TcPointReader *tc_point_reader_open(TcRepository *repo, const TcManifest *point, const char *disk,
                                    bool alone, GError **error)
{
    g_autoptr(TcPointReader) r = g_new0(TcPointReader, 1);
    g_autoptr(GPtrArray) chain = tc_repo_chain(repo, point, disk, alone ? NULL : error);

    r->layers = g_array_new(FALSE, FALSE, sizeof(Layer));
    g_array_set_clear_func(r->layers, layer_clear);
    r->pieces = g_array_new(FALSE, FALSE, sizeof(Piece));
    if (alone) {
        g_clear_pointer(&chain, g_ptr_array_unref);
        chain = g_ptr_array_new();
        g_ptr_array_add(chain, (gpointer)point);
        if (!tc_manifest_disk(point, disk)) {
            tm_error_set(error, "point '%s' has no disk '%s'", point->point, disk);
            return NULL;
        }
    }
    if (!chain)
        return NULL;
    r->size = tc_manifest_disk(point, disk)->size;
    return open_chain(r, repo, chain, disk, error) ? g_steal_pointer(&r) : NULL;
}

void tc_point_reader_close(TcPointReader *r)
{
    if (!r)
        return;
    if (r->open)
        tc_image_clear(&r->image);
    g_array_unref(r->layers);
    g_array_unref(r->pieces);
    g_free(r);
}

uint64_t tc_point_reader_size(const TcPointReader *reader)
{
    return reader->size;
}

BlkNode *tc_point_reader_node(const TcPointReader *reader)
{
    return g_array_index(reader->layers, Layer, 0).node;
}

const TcHashes *tc_point_reader_hashes(const TcPointReader *reader)
{
    return g_array_index(reader->layers, Layer, 0).hashes;
}

/* ---- looking */

/* The piece that @offset is in, or NULL; *length is left of it, or of the hole. */
static const Piece *find(const TcPointReader *r, uint64_t offset, uint64_t *length)
{
    guint low = 0, high = r->pieces->len;
    const Piece *p;

    while (low < high) {
        guint middle = low + (high - low) / 2;

        if (g_array_index(r->pieces, Piece, middle).offset <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    p = low ? &g_array_index(r->pieces, Piece, low - 1) : NULL;
    if (p && offset - p->offset < p->length) {
        *length = p->length - (offset - p->offset);
        return p;
    }
    *length =
        (low < r->pieces->len ? g_array_index(r->pieces, Piece, low).offset : r->size) - offset;
    return NULL;
}

TcRunKind tc_point_reader_find(const TcPointReader *r, uint64_t offset, uint64_t *length,
                               const TcManifest **point)
{
    const Piece *p = find(r, offset, length);
    const Layer *layer = p ? &g_array_index(r->layers, Layer, p->layer) : NULL;
    TcRunKind kind = p ? p->kind : TC_RUN_NONE;
    uint64_t same;

    if (point)
        *point = layer ? layer->point : NULL;
    if (kind == TC_RUN_DATA) {
        kind = tc_hashes_find(layer->hashes, offset, &same);
        *length = tm_min(*length, same);
    }
    return kind;
}

/* ---- reading */

/* Block after block, of which @hashes are. The offset of the first one that differs within @buf,
 * or @length. */
static uint64_t compare(const uint8_t *buf, uint64_t length, const uint8_t *hashes)
{
    static const uint8_t zero[TC_HASH_SIZE];
    uint8_t hash[TC_HASH_SIZE];

    for (uint64_t at = 0; at < length; at += TC_BLOCK, hashes += TC_HASH_SIZE) {
        uint64_t n = tm_min(TC_BLOCK, length - at);

        if (!memcmp(hashes, zero, TC_HASH_SIZE)) {
            if (buf[at] || memcmp(buf + at, buf + at + 1, n - 1))
                return at;
            continue;
        }
        tc_hash(buf + at, n, hash);
        if (memcmp(hash, hashes, TC_HASH_SIZE))
            return at;
    }
    return length;
}

/* Data of one layer, BATCH blocks at most. *good bytes are. */
static int read_batch(const Layer *layer, uint8_t *buf, uint64_t offset, uint64_t length,
                      uint64_t *good)
{
    uint8_t hashes[BATCH * TC_HASH_SIZE];
    int ret = tc_hashes_get(layer->hashes, offset, hashes, (length + TC_BLOCK - 1) / TC_BLOCK);

    *good = 0;
    if (ret == 0)
        ret = blk_node_pread(layer->node, buf, offset, length);
    if (ret == 0) {
        *good = compare(buf, length, hashes);
        ret = *good < length ? -EBADMSG : 0;
    }
    return ret;
}

static int read_piece(const Layer *layer, uint8_t *buf, uint64_t offset, uint64_t length,
                      uint64_t *bad)
{
    for (uint64_t at = 0, n, good; at < length; at += n) {
        int ret;

        n = tm_min(length - at, BATCH * TC_BLOCK);
        ret = read_batch(layer, buf + at, offset + at, n, &good);
        if (ret < 0) {
            *bad = offset + at + good;
            return ret;
        }
    }
    return 0;
}

int tc_point_reader_read(TcPointReader *r, void *buf, uint64_t offset, size_t length, uint64_t *bad,
                         const TcManifest **point)
{
    uint8_t *to = buf;

    if (offset % TC_BLOCK || !tm_range_within(offset, length, r->size) ||
        (length % TC_BLOCK && offset + length != r->size))
        return -EINVAL;
    while (length) {
        uint64_t n;
        const Piece *p = find(r, offset, &n);
        const Layer *layer = p ? &g_array_index(r->layers, Layer, p->layer) : NULL;
        int ret = 0;

        n = tm_min(n, length);
        if (p && p->kind == TC_RUN_DATA)
            ret = read_piece(layer, to, offset, n, bad);
        else
            memset(to, 0, n);
        if (ret < 0) {
            *point = layer->point;
            return ret;
        }
        to += n;
        offset += n;
        length -= n;
    }
    return 0;
}
