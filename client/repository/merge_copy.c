/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/merge_copy.c: a child's blocks written into the image that it stands on.
 *
 * Only blocks that the child has are written, so the child reads as before all the time. */
#include "block/node.h"
#include "client/repository/images.h"
#include "client/repository/merge_internal.h"
#include "client/repository/repository_internal.h"
#include "util/range.h"
#include "util/sync.h"
#include <string.h>

#define PIECE (UINT64_C(1) << 20)
enum { THREADS = 4 };

typedef struct Work {
    const TcMergeCopy *copy;
    const TcPointDisk *entry; /* the child's */
    TcImage image;
    BlkNode *from, *to;
    TcHashes *hashes; /* of the child */
    pthread_mutex_t lock;
    uint64_t at; /* the next piece; under lock, as what follows */
    int ret;     /* the first failure */
    uint64_t where;
    bool reading;
} Work;

static bool open_images(Work *w, GError **error)
{
    const TcMergeCopy *copy = w->copy;

    w->entry = tc_manifest_disk(copy->child, copy->disk);
    w->hashes = tc_merge_open_hashes(copy->repo, copy->child, copy->disk, error);
    w->image.sys = &tm_sys_nofollow;
    if (!w->hashes || !tc_image_begin(&w->image, error))
        return false;
    w->to = tc_repo_image_change(copy->repo, &w->image, copy->point->point,
                                 tc_manifest_disk(copy->point, copy->disk), error);
    if (w->to)
        w->from = tc_repo_image_open(copy->repo, &w->image, copy->child->point, w->entry, error);
    return w->from != NULL;
}

static void close_images(Work *w)
{
    tc_image_clear(&w->image);
    tc_hashes_free(w->hashes);
    pthread_mutex_destroy(&w->lock);
}

bool tc_merge_copy_check(const TcMergeCopy *copy, GError **error)
{
    Work w = { .copy = copy, .lock = PTHREAD_MUTEX_INITIALIZER };
    bool ok = open_images(&w, error);

    close_images(&w);
    return ok;
}

/* ---- copying */

static bool stopped(const Work *w)
{
    return w->copy->watch && atomic_load(&w->copy->watch->stop);
}

/* The next piece that the child has. */
static TcRunKind next_piece(Work *w, uint64_t *offset, uint64_t *length)
{
    TcRunKind kind = TC_RUN_NONE;
    TM_GUARD(&w->lock);

    while (kind == TC_RUN_NONE && w->ret == 0 && w->at < w->entry->size && !stopped(w)) {
        *offset = w->at;
        kind = tc_hashes_find(w->hashes, w->at, length);
        if (kind == TC_RUN_DATA)
            *length = tm_min(*length, PIECE);
        w->at += *length;
    }
    return kind;
}

static void failed(Work *w, uint64_t offset, int ret, bool reading)
{
    TM_GUARD(&w->lock);

    if (w->ret == 0) {
        w->ret = ret;
        w->where = offset;
        w->reading = reading;
    }
}

/* What is damaged stays so, and its hash goes on saying that. */
static void check_blocks(const Work *w, const uint8_t *buf, uint64_t offset, uint64_t length)
{
    for (uint64_t at = 0, n; at < length; at += n) {
        uint8_t expected[TC_HASH_SIZE], hash[TC_HASH_SIZE];

        n = tm_min(TC_BLOCK, length - at);
        tc_hash(buf + at, n, hash);
        if (w->copy->watch && (tc_hashes_get(w->hashes, offset + at, expected, 1) < 0 ||
                               memcmp(hash, expected, sizeof(hash)) != 0))
            atomic_fetch_add(&w->copy->watch->wrong, 1);
    }
}

/* @length is of the disk; the image may go on a little. */
static void copy_data(Work *w, uint8_t *buf, uint64_t offset, uint64_t length)
{
    uint64_t all = offset + length == w->entry->size ? blk_node_size(w->from) - offset : length;
    int ret = blk_node_pread(w->from, buf, offset, all);

    if (ret < 0) {
        failed(w, offset, ret, true);
        return;
    }
    check_blocks(w, buf, offset, length);
    ret = blk_node_pwrite(w->to, buf, offset, all, w->entry->compression ? TIDEMARK_COMPRESSED : 0);
    if (ret < 0)
        failed(w, offset, ret, false);
    else if (w->copy->watch)
        atomic_fetch_add(&w->copy->watch->done, length);
}

static void copy_zeroes(Work *w, uint64_t offset, uint64_t length)
{
    uint64_t all = offset + length == w->entry->size ? blk_node_size(w->from) - offset : length;
    int ret = blk_node_write_zeroes(w->to, offset, all, TIDEMARK_MAY_UNMAP);

    if (ret < 0)
        failed(w, offset, ret, false);
}

static void *copy_thread(void *opaque)
{
    Work *w = opaque;
    g_autofree uint8_t *buf = g_malloc(PIECE + TC_BLOCK);
    uint64_t offset, length;
    TcRunKind kind;

    while ((kind = next_piece(w, &offset, &length)) != TC_RUN_NONE) {
        if (kind == TC_RUN_DATA)
            copy_data(w, buf, offset, length);
        else
            copy_zeroes(w, offset, length);
    }
    return NULL;
}

static bool copy_blocks(Work *w, GError **error)
{
    GThread *threads[THREADS];

    for (unsigned i = 0; i < THREADS; i++)
        threads[i] = g_thread_new("merge", copy_thread, w);
    for (unsigned i = 0; i < THREADS; i++)
        g_thread_join(threads[i]);
    if (w->ret == 0)
        return !stopped(w);
    return tm_error_set_errno(error, -w->ret, "Could not %s disk '%s' of point '%s' at %" PRIu64,
                              w->reading ? "read" : "write", w->copy->disk,
                              w->reading ? w->copy->child->point : w->copy->point->point, w->where);
}

bool tc_merge_copy_run(const TcMergeCopy *copy, GError **error)
{
    Work w = { .copy = copy, .lock = PTHREAD_MUTEX_INITIALIZER };
    bool ok = open_images(&w, error) && copy_blocks(&w, error) && tc_image_finish(&w.image, error);

    close_images(&w);
    return ok;
}
