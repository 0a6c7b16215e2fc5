/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/against.c: see the header.
 *
 * What is read of the other disk comes into a sink, from several threads, which reads the same of
 * the point. Its zeroes are not read. */
#include "client/repository/against.h"
#include "client/copy/transfer.h"
#include "client/image/image.h"
#include "util/extent.h"
#include "util/range.h"
#include "util/sync.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define UNIT      UINT64_C(4096) /* in which differences are named */
#define FOUND_MAX 100000u
#define PIECE     (UINT64_C(1) << 20) /* of a file, or of the point, at a time */

enum { CONNECTIONS = 4, REQUESTS = 16 };

struct TcAgainst {
    TcSink sink; /* first */
    TcPointReader *reader;
    uint64_t size;
    bool stop;            /* atomic, as the next two */
    uint64_t done;        /* bytes */
    TcTransfer *transfer; /* NULL: none runs */
    int stop_fd;          /* readable when stop is set; -1: none */
    pthread_mutex_t lock; /* guards the next */
    GArray *found;        /* TcRun */
    bool more;
};

/* ---- what is found */

static void add(TcAgainst *a, uint64_t offset, uint64_t length, TcRunKind kind)
{
    TcRun run = { offset, length, kind };
    TcRun *last;
    TM_GUARD(&a->lock);

    last = a->found->len ? &g_array_index(a->found, TcRun, a->found->len - 1) : NULL;
    if (last && last->kind == kind && last->offset + last->length == offset)
        last->length += length;
    else if (a->found->len < FOUND_MAX)
        g_array_append_val(a->found, run);
    else
        a->more = true;
}

/* @buf NULL: zeroes. */
static bool same(const uint8_t *ours, const uint8_t *buf, uint64_t length)
{
    return buf ? !memcmp(ours, buf, length) : !ours[0] && !memcmp(ours, ours + 1, length - 1);
}

static void compare(TcAgainst *a, const uint8_t *ours, const uint8_t *buf, uint64_t offset,
                    uint64_t length)
{
    if (same(ours, buf, length))
        return;
    for (uint64_t at = 0, n; at < length; at += n) {
        n = tm_min(length - at, UNIT - ((offset + at) & (UNIT - 1)));
        if (!same(ours + at, buf ? buf + at : NULL, n))
            add(a, offset + at, n, TC_RUN_DATA);
    }
}

/* Of one or more blocks: what the point has there. */
static void compare_blocks(TcAgainst *a, uint64_t offset, const uint8_t *buf, uint64_t length,
                           uint8_t *ours)
{
    uint64_t first = tm_align_down(offset, TC_BLOCK), bad;
    uint64_t end = tm_min(tm_align_up(offset + length, TC_BLOCK), a->size);
    const TcManifest *point;

    if (tc_point_reader_read(a->reader, ours, first, end - first, &bad, &point) == 0) {
        compare(a, ours + (offset - first), buf, offset, length);
        return;
    }
    for (uint64_t at = first, n; at < end; at += n) {
        n = tm_min(TC_BLOCK, end - at);
        if (tc_point_reader_read(a->reader, ours, at, n, &bad, &point) < 0) {
            add(a, at, n, TC_RUN_NONE);
        } else {
            uint64_t from = tm_max(at, offset), to = tm_min(at + n, offset + length);

            compare(a, ours + (from - at), buf ? buf + (from - offset) : NULL, from, to - from);
        }
    }
}

/* ---- the sink */

static int sink_write(TcSink *sink, uint64_t offset, const void *buf, size_t length)
{
    TcAgainst *a = (TcAgainst *)sink;
    g_autofree uint8_t *ours = g_try_malloc(length + 2 * TC_BLOCK);

    if (!ours)
        return -ENOMEM;
    compare_blocks(a, offset, buf, length, ours);
    __atomic_add_fetch(&a->done, length, __ATOMIC_RELAXED);
    return 0;
}

/* Where the point has data, these have to be zeroes. */
static int sink_zero(TcSink *sink, uint64_t offset, uint64_t length, bool hole)
{
    TcAgainst *a = (TcAgainst *)sink;
    g_autofree uint8_t *ours = g_try_malloc(PIECE + 2 * TC_BLOCK);

    (void)hole;
    if (!ours)
        return -ENOMEM;
    for (uint64_t n; length; offset += n, length -= n) {
        TcRunKind kind = tc_point_reader_find(a->reader, offset, &n, NULL);

        n = tm_min(n, length);
        if (kind == TC_RUN_DATA) {
            n = tm_min(n, PIECE);
            compare_blocks(a, offset, NULL, n, ours);
        }
        __atomic_add_fetch(&a->done, n, __ATOMIC_RELAXED);
        if (__atomic_load_n(&a->stop, __ATOMIC_RELAXED))
            return -ECANCELED;
    }
    return 0;
}

TcAgainst *tc_against_new(TcRepository *repo, const TcManifest *point, const char *disk,
                          GError **error)
{
    TcPointReader *reader = tc_point_reader_open(repo, point, disk, false, error);
    TcAgainst *a;

    if (!reader)
        return NULL;
    a = g_new0(TcAgainst, 1);
    a->sink = (TcSink){ .write = sink_write, .zero = sink_zero };
    a->reader = reader;
    a->size = tc_point_reader_size(reader);
    a->stop_fd = eventfd(0, EFD_CLOEXEC); /* without one, a server that hangs is waited for */
    a->found = g_array_new(FALSE, FALSE, sizeof(TcRun));
    pthread_mutex_init(&a->lock, NULL);
    return a;
}

void tc_against_free(TcAgainst *a)
{
    if (!a)
        return;
    tc_point_reader_close(a->reader);
    g_array_unref(a->found);
    pthread_mutex_destroy(&a->lock);
    tc_transfer_free(a->transfer);
    if (a->stop_fd >= 0)
        close(a->stop_fd);
    g_free(a);
}

void tc_against_stop(TcAgainst *a)
{
    TcTransfer *transfer = __atomic_load_n(&a->transfer, __ATOMIC_ACQUIRE);

    __atomic_store_n(&a->stop, true, __ATOMIC_RELAXED);
    eventfd_write(a->stop_fd, 1);
    if (transfer)
        tc_transfer_cancel(transfer);
}

static bool stopped(const TcAgainst *a)
{
    return __atomic_load_n(&a->stop, __ATOMIC_RELAXED);
}

uint64_t tc_against_done(const TcAgainst *a)
{
    return __atomic_load_n(&a->done, __ATOMIC_RELAXED);
}

uint64_t tc_against_size(const TcAgainst *a)
{
    return a->size;
}

static bool check_size(const TcAgainst *a, const char *what, uint64_t size, GError **error)
{
    return size == a->size ||
           tm_error_set(error, "%s has %" PRIu64 " bytes, and the disk of the point %" PRIu64, what,
                        size, a->size);
}

/* ---- an NBD server */

static bool plan_extent(void *opaque, uint64_t offset, uint64_t length, const uint32_t *values,
                        GError **error)
{
    return tc_plan_add(opaque, offset, length, values[0], 0, error);
}

bool tc_against_nbd(TcAgainst *a, const char *uri, GError **error)
{
    const char *contexts[] = { TC_CONTEXT_ALLOCATION, NULL };
    TcTransferOptions options = { .connections = CONNECTIONS, .requests = REQUESTS };
    g_autoptr(TcSource) source = tc_source_open(uri, contexts, a->stop_fd, error);
    g_autoptr(TcPlan) plan = tc_plan_new(false, false);
    TcTransfer *transfer;
    bool ok;

    if (!source || !check_size(a, uri, tc_source_size(source), error) ||
        !tc_source_walk(source, plan_extent, plan, error)) {
        if (stopped(a))
            g_clear_error(error);
        return false;
    }
    transfer = tc_transfer_new(source, plan, &options);
    __atomic_store_n(&a->transfer, transfer, __ATOMIC_RELEASE);
    ok = !stopped(a) && tc_transfer_run(transfer, &a->sink, "the point", error);
    if (!ok && stopped(a))
        g_clear_error(error);
    return ok;
}

/* ---- a file */

/* The next piece, whether it is zeroes or not. */
static int compare_piece(TcAgainst *a, BlkNode *node, uint64_t offset, uint64_t end, uint8_t *buf,
                         uint64_t *n)
{
    uint32_t flags = 0;
    int ret = blk_node_status_at(node, offset, end - offset, n, &flags);

    if (ret == 0 && *n && flags & TM_STATE_ZERO)
        return sink_zero(&a->sink, offset, *n, false);
    *n = tm_min(ret == 0 && *n ? *n : end - offset, PIECE);
    ret = blk_node_pread(node, buf, offset, *n);
    return ret == 0 ? sink_write(&a->sink, offset, buf, *n) : ret;
}

typedef struct FileWork {
    TcAgainst *against;
    BlkNode *node;
    uint64_t next; /* atomic: where nobody is at work yet */
    int error;     /* atomic */
} FileWork;

#define SHARE (UINT64_C(16) << 20)

static void *compare_shares(void *opaque)
{
    FileWork *w = opaque;
    TcAgainst *a = w->against;
    g_autofree uint8_t *buf = g_malloc(PIECE);
    uint64_t offset;

    while (!stopped(a) && !__atomic_load_n(&w->error, __ATOMIC_RELAXED) &&
           (offset = __atomic_fetch_add(&w->next, SHARE, __ATOMIC_RELAXED)) < a->size) {
        uint64_t end = tm_min(offset + SHARE, a->size);

        for (uint64_t n; offset < end && !stopped(a); offset += n) {
            int ret = compare_piece(a, w->node, offset, end, buf, &n);

            if (ret < 0) {
                __atomic_store_n(&w->error, ret, __ATOMIC_RELAXED);
                return NULL;
            }
        }
    }
    return NULL;
}

static void compare_all(FileWork *w)
{
    pthread_t threads[CONNECTIONS];
    unsigned n = 0;

    while (n + 1 < CONNECTIONS && !pthread_create(&threads[n], NULL, compare_shares, w))
        n++;
    compare_shares(w);
    while (n--)
        pthread_join(threads[n], NULL);
}

bool tc_against_file(TcAgainst *a, const char *path, GError **error)
{
    TcImageOptions options = { .chain = true, .names = "any" };
    g_auto(TcImage) image = { 0 };
    FileWork w = { .against = a };
    uint64_t size;

    if (!tc_image_open(path, &options, &image, error))
        return false;
    w.node = image.node;
    size = blk_node_size(image.node);
    if (!check_size(a, path, size, error))
        return false;
    compare_all(&w);
    if (w.error && !stopped(a))
        return tm_error_set_errno(error, -w.error, "Could not read '%s'", path);
    return !stopped(a);
}

/* ---- the result */

static int by_offset(gconstpointer x, gconstpointer y)
{
    const TcRun *a = x, *b = y;

    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

const GArray *tc_against_found(TcAgainst *a, bool *more)
{
    guint n = 0;

    g_array_sort(a->found, by_offset);
    for (guint i = 0; i < a->found->len; i++) {
        TcRun run = g_array_index(a->found, TcRun, i);
        TcRun *last = n ? &g_array_index(a->found, TcRun, n - 1) : NULL;

        if (last && last->kind == run.kind && run.offset <= last->offset + last->length)
            last->length = tm_max(last->length, run.offset + run.length - last->offset);
        else
            g_array_index(a->found, TcRun, n++) = run;
    }
    g_array_set_size(a->found, n);
    *more = a->more;
    return a->found;
}
