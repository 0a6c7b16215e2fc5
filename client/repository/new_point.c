/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/new_point.c: points are written.
 *
 * Hashing, the search for zeroes, compressing and writing are done by whoever calls write, with no
 * lock held: as many at once as there are callers. */
#include "client/repository/new_point.h"
#include "client/copy/writeback.h"
#include "client/repository/images.h"
#include "client/repository/last.h"
#include "client/repository/repository_internal.h"
#include "util/file.h"
#include "util/range.h"
#include "util/zeroes.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define ZERO_PIECE (UINT64_C(1) << 30) /* that one request zeroes */
#define BATCH      64u                 /* blocks whose hashes are written at a time */

struct TcNewDisk {
    TcSink sink; /* first */
    TcNewPoint *point;
    TcPointDisk *entry;
    BlkNode *node; /* borrowed */
    TcWriteback writeback;
    TcHashes *hashes;
    uint64_t image_size;
    uint64_t written; /* bytes of runs of data that were written; atomic, as the counts in entry */
};

struct TcNewPoint {
    TcRepository *repo; /* borrowed */
    TcManifest *manifest;
    char *path;
    bool made; /* something is there */
    bool open; /* image is */
    bool copy; /* of a point of another repository */
    TcImage image;
    GPtrArray *disks; /* TcNewDisk */
};

static void disk_free(void *data)
{
    TcNewDisk *d = data;

    tc_hashes_free(d->hashes);
    if (d->writeback.fd >= 0)
        close(d->writeback.fd);
    g_free(d);
}

/* ---- beginning */

TcNewPoint *tc_new_point(TcRepository *repo, const char *name, GError **error)
{
    g_autoptr(TcNewPoint) p = NULL;

    if (!tc_point_check_name("point", name, error))
        return NULL;
    p = g_new0(TcNewPoint, 1);
    p->repo = repo;
    p->manifest = tc_manifest_new(name);
    p->path = g_build_filename(repo->path, name, NULL);
    p->disks = g_ptr_array_new_with_free_func(disk_free);
    if (!repo->place->begin_point(repo, p->path, &p->made, error))
        return NULL;
    p->image.sys = repo->sys;
    p->open = tc_image_begin(&p->image, error);
    if (!p->open)
        return NULL;
    blk_graph_set_log(p->image.graph, NULL); /* what fails is thrown away, and reported */
    return g_steal_pointer(&p);
}

void tc_new_point_like(TcNewPoint *point, const TcManifest *manifest)
{
    g_free(point->manifest->id);
    g_free(point->manifest->tool);
    point->copy = true;
    point->manifest->order = manifest->order;
    point->manifest->id = g_strdup(manifest->id);
    point->manifest->tool = g_strdup(manifest->tool);
}

/* ---- zeroes and data */

static void count(uint64_t *total, uint64_t n)
{
    __atomic_add_fetch(total, n, __ATOMIC_RELAXED);
}

/* To the end of the disk: to that of the image, which may be a little longer. */
static uint64_t image_end(const TcNewDisk *d, uint64_t end)
{
    return end == d->entry->size ? d->image_size : end;
}

/* Records whole blocks as zero. What stands on nothing reads as zeroes anyway. */
static int record_zeroes(TcNewDisk *d, uint64_t offset, uint64_t length)
{
    uint64_t end = image_end(d, offset + length);
    int ret = 0;

    for (uint64_t n; d->entry->parent && ret == 0 && offset < end; offset += n) {
        n = tm_min(end - offset, ZERO_PIECE);
        ret = blk_node_write_zeroes(d->node, offset, n, TIDEMARK_MAY_UNMAP);
    }
    if (ret == 0)
        count(&d->entry->zero, length);
    return ret;
}

static int write_bytes(TcNewDisk *d, uint64_t offset, const void *buf, uint64_t length)
{
    return blk_node_pwrite(d->node, buf, offset, length,
                           d->entry->compression ? TIDEMARK_COMPRESSED : 0);
}

/* The last block of an image that is longer than the disk. */
static int write_last(TcNewDisk *d, uint64_t offset, const void *buf, uint64_t length)
{
    g_autofree uint8_t *block = g_try_malloc0(TC_BLOCK);

    if (!block)
        return -ENOMEM;
    memcpy(block, buf, length);
    return write_bytes(d, offset, block, d->image_size - offset);
}

static int store(TcNewDisk *d, uint64_t offset, const uint8_t *buf, uint64_t length)
{
    uint64_t end = offset + length, last = end;
    int ret = 0;

    if (image_end(d, end) != end)
        last = tm_max(offset, tm_align_down(end, TC_BLOCK));
    if (last > offset)
        ret = write_bytes(d, offset, buf, last - offset);
    if (ret == 0 && last < end)
        ret = write_last(d, last, buf + (last - offset), end - last);
    if (ret < 0)
        return ret;
    count(&d->entry->stored, length);
    tc_writeback(&d->writeback, length);
    return 0;
}

/* The hash of one block, or 32 zero bytes: true, it is zeroes. */
static bool hash_block(const uint8_t *block, uint64_t length, uint8_t hash[TC_HASH_SIZE])
{
    bool zero = tm_all_zero(block, length);

    if (zero)
        memset(hash, 0, TC_HASH_SIZE);
    else
        tc_hash(block, length, hash);
    return zero;
}

/* At most BATCH blocks, in one run. */
static int write_batch(TcNewDisk *d, uint64_t offset, const uint8_t *buf, uint64_t length)
{
    uint8_t hashes[BATCH * TC_HASH_SIZE];
    uint64_t from = 0; /* neighbours of one kind are written together */
    bool zero = false;
    size_t n = 0;
    int ret = 0;

    for (uint64_t at = 0; at < length && ret == 0; at += TC_BLOCK, n++) {
        uint64_t m = tm_min(TC_BLOCK, length - at);
        bool next = hash_block(buf + at, m, hashes + n * TC_HASH_SIZE);

        if (at && next != zero) {
            ret = zero ? record_zeroes(d, offset + from, at - from)
                       : store(d, offset + from, buf + from, at - from);
            from = at;
        }
        zero = next;
    }
    if (ret == 0)
        ret = zero ? record_zeroes(d, offset + from, length - from)
                   : store(d, offset + from, buf + from, length - from);
    return ret == 0 ? tc_hashes_set(d->hashes, offset, hashes, n) : ret;
}

/* Whole blocks that one run of data has. */
static bool check_range(const TcNewDisk *d, uint64_t offset, uint64_t length)
{
    uint64_t end;

    return tm_range_end(offset, length, &end) && end <= d->entry->size && offset % TC_BLOCK == 0 &&
           (end % TC_BLOCK == 0 || end == d->entry->size);
}

int tc_new_disk_write(TcNewDisk *d, uint64_t offset, const void *buf, size_t length)
{
    const uint8_t *at = buf;

    if (!check_range(d, offset, length))
        return -EINVAL;
    while (length) {
        uint64_t run;
        TcRunKind kind = tc_hashes_run(d->hashes, offset, &run);
        uint64_t n = tm_min(tm_min(run, length), BATCH * TC_BLOCK);
        int ret = kind == TC_RUN_DATA ? write_batch(d, offset, at, n) : -EINVAL;

        if (ret < 0)
            return ret;
        count(&d->written, n);
        offset += n;
        at += n;
        length -= n;
    }
    return 0;
}

/* ---- the same as a sink */

static int sink_write(TcSink *sink, uint64_t offset, const void *buf, size_t length)
{
    return tc_new_disk_write((TcNewDisk *)sink, offset, buf, length);
}

/* In runs of data; of others only those of zeroes, which are there already. */
static int sink_zero(TcSink *sink, uint64_t offset, uint64_t length, bool hole)
{
    static const uint8_t zero[BATCH * TC_HASH_SIZE];
    TcNewDisk *d = (TcNewDisk *)sink;

    (void)hole;
    if (!check_range(d, offset, length))
        return -EINVAL;
    while (length) {
        uint64_t run, n;
        TcRunKind kind = tc_hashes_run(d->hashes, offset, &run);
        int ret = kind == TC_RUN_NONE ? -EINVAL : 0;

        n = tm_min(run, length);
        if (kind == TC_RUN_DATA) {
            n = tm_min(n, BATCH * TC_BLOCK);
            ret = record_zeroes(d, offset, n);
            if (ret == 0)
                ret = tc_hashes_set(d->hashes, offset, zero, (n + TC_BLOCK - 1) / TC_BLOCK);
            count(&d->written, ret == 0 ? n : 0);
        }
        if (ret < 0)
            return ret;
        offset += n;
        length -= n;
    }
    return 0;
}

TcSink *tc_new_disk_sink(TcNewDisk *disk)
{
    return &disk->sink;
}

const TcPointDisk *tc_new_disk_entry(const TcNewDisk *disk)
{
    return disk->entry;
}

/* ---- disks */

/* Where it is written. Returned. */
static char *work_file(const TcNewPoint *p, const char *disk, const char *suffix)
{
    g_autofree char *path = tc_repo_file(p->repo, p->manifest->point, disk, suffix);

    return p->repo->place->work_path(p->repo, path);
}

static bool begin_zeroes(TcNewDisk *d, GError **error)
{
    const TcRuns *runs = tc_hashes_runs(d->hashes);

    for (size_t i = 0; i < tc_runs_count(runs); i++) {
        const TcRun *run = tc_runs_get(runs, i);
        int ret = run->kind == TC_RUN_ZERO ? record_zeroes(d, run->offset, run->length) : 0;

        if (ret < 0)
            return tm_error_set_errno(error, -ret, "Could not write '%s/%s.qcow2'", d->point->path,
                                      d->entry->name);
    }
    return true;
}

static bool check_entry(const TcNewPoint *p, const TcPointDisk *entry, GError **error)
{
    TcManifest *parent = entry->parent ? tc_repo_point(p->repo, entry->parent) : NULL;
    const TcPointDisk *below = parent ? tc_manifest_disk(parent, entry->name) : NULL;

    if (!tc_point_check_name("disk", entry->name, error))
        return false;
    if (tc_manifest_disk(p->manifest, entry->name))
        return tm_error_set(error, "point '%s' has two disks '%s'", p->manifest->point,
                            entry->name);
    if (entry->size > TM_SIZE_MAX - TC_BLOCK)
        return tm_error_set(error, "disk '%s' is too large", entry->name);
    return !entry->parent || (below && below->size == entry->size) ||
           tm_error_set(error, "point '%s' has no disk '%s' of %" PRIu64 " bytes to stand on",
                        entry->parent, entry->name, entry->size);
}

/* @runs is left alone on failure. */
static TcNewDisk *make_disk(TcNewPoint *p, TcPointDisk *entry, TcRuns *runs, GError **error)
{
    g_autofree char *path = work_file(p, entry->name, "hashes");
    g_autofree char *file = work_file(p, entry->name, "qcow2");
    TcNewDisk *d;
    TcHashes *hashes;
    BlkNode *node;

    if (!check_entry(p, entry, error))
        return NULL;
    node = tc_repo_image_create(p->repo, &p->image, p->manifest->point, entry, error);
    hashes = node ? tc_hashes_create(p->repo->sys, path, runs, entry->size, error) : NULL;
    if (!hashes)
        return NULL;
    d = g_new0(TcNewDisk, 1);
    d->sink = (TcSink){ .write = sink_write, .zero = sink_zero };
    d->point = p;
    d->entry = entry;
    d->node = node;
    d->hashes = hashes;
    d->writeback.fd = tm_sys_nofollow.open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    d->image_size = tc_repo_image_size(entry->size);
    g_ptr_array_add(p->disks, d);
    return d;
}

TcNewDisk *tc_new_point_add(TcNewPoint *p, TcPointDisk *entry, TcRuns *runs, GError **error)
{
    TcNewDisk *d = make_disk(p, entry, runs, error);

    if (!d) {
        tc_point_disk_free(entry);
        tc_runs_free(runs);
        return NULL;
    }
    g_free(entry->parent_id);
    entry->parent_id = entry->parent ? g_strdup(tc_repo_point(p->repo, entry->parent)->id) : NULL;
    entry->stored = entry->zero = 0;
    g_ptr_array_add(p->manifest->disks, entry);
    return begin_zeroes(d, error) ? d : NULL;
}

/* ---- the end */

static bool is_complete(const TcNewDisk *d, GError **error)
{
    uint64_t all = tc_runs_bytes(tc_hashes_runs(d->hashes), TC_RUN_DATA);

    return d->written == all ||
           tm_error_set(error,
                        "disk '%s' is not complete: %" PRIu64 " of %" PRIu64 " bytes were written",
                        d->entry->name, d->written, all);
}

static void add_file(const TcNewPoint *p, GPtrArray *files, const char *disk, const char *suffix)
{
    g_ptr_array_add(files, tc_repo_file(p->repo, p->manifest->point, disk, suffix));
}

/* All but the manifest. */
static bool make_durable(TcNewPoint *p, GError **error)
{
    g_autoptr(GPtrArray) files = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < p->disks->len; i++) {
        TcNewDisk *d = p->disks->pdata[i];

        add_file(p, files, d->entry->name, "qcow2");
        add_file(p, files, d->entry->name, "hashes");
        if (!is_complete(d, error) || !tc_hashes_finish(d->hashes, d->entry->tree, error))
            return false;
    }
    p->open = false;
    return tc_image_finish(&p->image, error) &&
           p->repo->place->end_point(p->repo, p->path, files, error);
}

/* After all that are there, whatever the clock says. */
static uint64_t next_order(const TcRepository *repo, uint64_t instant)
{
    const TcManifest *newest =
        repo->points->len ? repo->points->pdata[repo->points->len - 1] : NULL;

    return newest && newest->order >= instant ? newest->order + 1 : instant;
}

bool tc_new_point_commit(TcNewPoint *p, uint64_t instant, GError **error)
{
    g_autofree char *path = g_build_filename(p->path, TC_MANIFEST_NAME, NULL);
    g_autofree char *text = NULL;

    if (!p->disks->len)
        return tm_error_set(error, "point '%s' has no disks", p->manifest->point);
    if (!make_durable(p, error))
        return false;
    p->manifest->instant = instant;
    if (!p->copy) {
        p->manifest->order = next_order(p->repo, instant);
        if (!tc_repo_announce_last(p->repo, p->manifest, error))
            return false;
    }
    text = tc_manifest_text(p->manifest);
    if (!p->repo->place->replace(p->repo, path, text, error)) {
        tc_repo_settle_last(p->repo);
        /* if it is there: nobody may take it for durable */
        p->repo->place->withdraw(p->repo, p->manifest->point, NULL);
        return false;
    }
    tc_repo_add_point(p->repo, g_steal_pointer(&p->manifest));
    p->made = false;
    if (!p->copy)
        tc_repo_settle_last(p->repo);
    return true;
}

/* So that closing them does not wait for what is thrown away. */
static void empty_images(const TcNewPoint *p)
{
    for (guint i = 0; i < p->disks->len; i++) {
        const TcNewDisk *d = p->disks->pdata[i];
        g_autofree char *path = work_file(p, d->entry->name, "qcow2");

        if (truncate(path, 0) < 0)
            continue; /* then closing them takes longer */
    }
}

void tc_new_point_free(TcNewPoint *p)
{
    if (!p)
        return;
    if (p->open && p->made)
        empty_images(p);
    if (p->open)
        tc_image_clear(&p->image);
    if (p->made) /* what stays is removed by the next command */
        p->repo->place->remove_point(p->repo, p->path, NULL);
    g_clear_pointer(&p->disks, g_ptr_array_unref);
    tc_manifest_free(p->manifest);
    g_free(p->path);
    g_free(p);
}
