/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/verify_image.c: one image is verified, its blocks on several threads. */
#include "block/image/image.h"
#include "client/repository/images.h"
#include "client/repository/point_reader.h"
#include "client/repository/verify.h"
#include "util/range.h"
#include "util/sync.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>

#define PIECE   (16 * TC_BLOCK) /* that a thread reads at a time */
#define BAD_MAX 10000u          /* ranges that are named one by one */
#define EXTENTS 1024u           /* of block status at a time */

/* One image, open. */
typedef struct Reading {
    TcVerify *verify;
    TcVerifyImage *image;
    TcPointReader *reader;
    const TcHashes *hashes; /* borrowed, as the node */
    BlkNode *node;
    pthread_mutex_t lock; /* guards the next, and what is found */
    size_t run;           /* the run that is being read, and where the next piece of it is */
    uint64_t at;
} Reading;

static void note(TcVerifyImage *image, const char *format, ...) G_GNUC_PRINTF(2, 3);
static void note(TcVerifyImage *image, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    g_ptr_array_add(image->notes, g_strdup_vprintf(format, ap));
    va_end(ap);
}

/* Nobody knows what the image is like. Takes @error. */
static void fail(TcVerify *verify, GError *error)
{
    if (verify->failure)
        g_error_free(error);
    else
        verify->failure = error;
}

static void add_bad(Reading *r, uint64_t offset, uint64_t length)
{
    TcRun run = { offset, length, TC_RUN_DATA };
    TM_GUARD(&r->lock);

    if (r->image->bad->len < BAD_MAX)
        g_array_append_val(r->image->bad, run);
    else if (!r->image->lost)
        r->image->lost = g_strdup_printf("more than %u ranges of it are damaged", BAD_MAX);
}

/* ---- what the manifest and the tables say */

/* Against the counts of the manifest. */
static void check_counts(Reading *r)
{
    const TcPointDisk *disk = r->image->disk;
    uint64_t bytes[TC_RUN_ZERO + 1] = { 0 }, n;

    for (uint64_t at = 0; at < disk->size; at += n) {
        TcRunKind kind = tc_hashes_find(r->hashes, at, &n); /* before n is read */

        bytes[kind] += n;
    }
    if (bytes[TC_RUN_DATA] != disk->stored || bytes[TC_RUN_ZERO] != disk->zero)
        note(r->image,
             "it has %" PRIu64 " bytes of data and %" PRIu64
             " of zeroes, and the manifest says %" PRIu64 " and %" PRIu64,
             bytes[TC_RUN_DATA], bytes[TC_RUN_ZERO], disk->stored, disk->zero);
}

/* The tables against each other. Whether the data can be read is found out by reading them. */
static void check_tables(Reading *r)
{
    TcVerifyImage *v = r->image;
    g_auto(TcImage) image = { .sys = tc_repo_sys(r->verify->repo) };
    g_autoptr(GError) error = NULL;
    BlkImageCheck result = { 0 };
    BlkNode *file;

    file = tc_image_begin(&image, &error)
               ? tc_repo_image_bytes(r->verify->repo, &image, v->point->point, v->disk, &error)
               : NULL;
    if (!file) {
        fail(r->verify, g_steal_pointer(&error)); /* it was open just now */
        return;
    }
    if (!blk_image_check(file, NULL, NULL, &result, &error))
        v->lost = v->lost ? v->lost : g_strdup(error->message); /* others can't open it either */
    else if (result.unlisted && !v->lost)
        v->lost = g_strdup("its list of snapshots or of bitmaps is invalid: 'tidemark image check' "
                           "shows why, and QEMU may not open it");
    else if (result.corruptions || result.check_errors)
        note(v, "errors in its tables: %" PRIu64 "; 'tidemark image check' shows them",
             result.corruptions + result.check_errors);
    else if (result.leaks)
        note(v, "leaked clusters: %" PRIu64 ", which waste space only", result.leaks);
}

/* ---- what is allocated */

/* How much of [offset, offset + length) from its start on is allocated in this image, or isn't;
 * an error is an answer, too: reading meets it. */
static bool allocated(Reading *r, uint64_t offset, uint64_t length, uint64_t *n)
{
    TmExtent extents[EXTENTS];
    TmExtents out = { .list = extents, .max = EXTENTS };
    uint64_t described;

    if (blk_node_depth(r->node, offset, length, &out, &described) < 0 || !out.count) {
        *n = length;
        return true;
    }
    *n = tm_min(extents[0].length, length);
    return extents[0].flags == 1;
}

/* Of an increment: data where it should have none hide those of its parent, and the other way. */
static void check_allocation(Reading *r, uint64_t offset, uint64_t length, bool expected)
{
    for (uint64_t end = offset + length, n; offset < end; offset += n)
        if (allocated(r, offset, end - offset, &n) != expected)
            add_bad(r, offset, n);
}

/* Zeroes that the tables don't call so are read. */
static bool read_zeroes(Reading *r, uint64_t offset, uint64_t length, uint8_t *buf)
{
    if (blk_node_pread(r->node, buf, offset, length) < 0)
        return false;
    return !buf[0] && !memcmp(buf, buf + 1, length - 1);
}

static void check_zeroes(Reading *r, uint64_t offset, uint64_t length)
{
    g_autofree uint8_t *buf = g_malloc(TC_BLOCK);

    for (uint64_t end = offset + length, n; offset < end; offset += n) {
        uint32_t flags = 0;

        if (blk_node_status_at(r->node, offset, end - offset, &n, &flags) == 0 && n &&
            flags & TM_STATE_ZERO)
            continue;
        n = tm_min(end, tm_align_down(offset, TC_BLOCK) + TC_BLOCK) - offset;
        if (!read_zeroes(r, offset, n, buf))
            add_bad(r, offset, n);
    }
}

static void check_places(Reading *r)
{
    const TcPointDisk *disk = r->image->disk;

    for (uint64_t at = 0, n; at < disk->size && !r->verify->stop; at += n) {
        TcRunKind kind = tc_hashes_run(r->hashes, at, &n);

        if (disk->parent)
            check_allocation(r, at, n, kind != TC_RUN_NONE);
        if (kind == TC_RUN_ZERO || (kind == TC_RUN_NONE && !disk->parent))
            check_zeroes(r, at, n);
    }
}

/* ---- blocks */

/* The next piece to be read. */
static bool next_piece(Reading *r, uint64_t *offset, uint64_t *length)
{
    const TcRuns *runs = tc_hashes_runs(r->hashes);
    TM_GUARD(&r->lock);

    for (; r->run < tc_runs_count(runs); r->run++, r->at = 0) {
        const TcRun *run = tc_runs_get(runs, r->run);

        if (run->kind != TC_RUN_DATA || r->at >= run->length)
            continue;
        *offset = run->offset + r->at;
        *length = tm_min(PIECE, run->length - r->at);
        r->at += *length;
        return true;
    }
    return false;
}

static int read_blocks(Reading *r, uint8_t *buf, uint64_t offset, uint64_t length)
{
    const TcManifest *point;
    uint64_t bad;

    return tc_point_reader_read(r->reader, buf, offset, length, &bad, &point);
}

static void *read_pieces(void *opaque)
{
    Reading *r = opaque;
    g_autofree uint8_t *buf = g_malloc(PIECE);
    uint64_t offset, length;

    while (!r->verify->stop && next_piece(r, &offset, &length)) {
        bool good = read_blocks(r, buf, offset, length) == 0;

        for (uint64_t at = 0, n; !good && at < length; at += n) {
            n = tm_min(TC_BLOCK, length - at);
            if (read_blocks(r, buf, offset + at, n) < 0)
                add_bad(r, offset + at, n);
        }
        r->verify->done += length;
    }
    return NULL;
}

static void read_all(Reading *r)
{
    g_autofree pthread_t *threads = g_new(pthread_t, r->verify->threads);
    unsigned n = 0;

    while (n + 1 < r->verify->threads && !pthread_create(&threads[n], NULL, read_pieces, r))
        n++;
    read_pieces(r);
    while (n--)
        pthread_join(threads[n], NULL);
}

/* ---- the image */

static int by_offset(gconstpointer a, gconstpointer b)
{
    const TcRun *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* In order and apart. */
static void sort_bad(GArray *bad)
{
    guint n = 0;

    g_array_sort(bad, by_offset);
    for (guint i = 0; i < bad->len; i++) {
        TcRun run = g_array_index(bad, TcRun, i), *last = &g_array_index(bad, TcRun, n - 1);

        if (n && run.offset <= last->offset + last->length)
            last->length = tm_max(last->length, run.offset + run.length - last->offset);
        else
            g_array_index(bad, TcRun, n++) = run;
    }
    g_array_set_size(bad, n);
}

void tc_verify_image(TcVerify *verify, TcVerifyImage *image)
{
    Reading r = { .verify = verify, .image = image };
    g_autoptr(GError) error = NULL;

    r.reader = tc_point_reader_open(verify->repo, image->point, image->disk->name, true, &error);
    if (!r.reader) {
        if (g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED))
            image->lost = g_strdup(error->message);
        else
            fail(verify, g_steal_pointer(&error));
        return;
    }
    pthread_mutex_init(&r.lock, NULL);
    r.node = tc_point_reader_node(r.reader);
    r.hashes = tc_point_reader_hashes(r.reader);
    check_counts(&r);
    check_places(&r);
    read_all(&r);
    tc_point_reader_close(r.reader);
    check_tables(&r);
    sort_bad(image->bad);
    pthread_mutex_destroy(&r.lock);
}
