/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/copy_points.c: see the header. */
#include "client/repository/copy_points.h"
#include "client/repository/images.h"
#include "client/repository/new_point.h"
#include "client/repository/point_reader.h"
#include "util/range.h"
#include "util/sync.h"
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

#define PIECE (UINT64_C(1) << 20)
enum { THREADS = 4, DEPTH_MAX = 256 };

/* ---- which */

TcManifest *tc_copy_find(const TcRepository *repo, const char *id)
{
    for (guint i = 0; repo && i < tc_repo_points(repo)->len; i++) {
        TcManifest *m = tc_repo_points(repo)->pdata[i];

        if (!strcmp(m->id, id))
            return m;
    }
    return NULL;
}

static void copy_free(void *data)
{
    TcCopyPoint *c = data;

    g_free(c->failure);
    g_free(c);
}

static TcCopyPoint *find(const GPtrArray *list, const TcManifest *point)
{
    for (guint i = 0; i < list->len; i++) {
        TcCopyPoint *c = list->pdata[i];

        if (c->point == point)
            return c;
    }
    return NULL;
}

/* Whatever has the name there. */
static bool check_name(const TcRepository *to, const TcManifest *point, GError **error)
{
    g_autofree char *path = to ? g_build_filename(tc_repo_path(to), point->point, NULL) : NULL;

    if (!path || !tc_repo_has(to, path))
        return true;
    return tm_error_set(error,
                        "repository '%s' has another point '%s': nothing was copied; name the "
                        "points to copy, or remove that one with 'tidemark forget'",
                        tc_repo_path(to), point->point);
}

typedef struct Plan {
    TcRepository *from;
    const TcRepository *to;
    GPtrArray *list;
} Plan;

static bool add_point(Plan *plan, const TcManifest *point, bool asked, unsigned depth,
                      GError **error);

/* What its disks stand on; c->failure says why that is not possible. */
static bool add_parents(Plan *plan, TcCopyPoint *c, unsigned depth, GError **error)
{
    for (guint i = 0; i < c->point->disks->len; i++) {
        const TcPointDisk *d = c->point->disks->pdata[i];
        const TcManifest *parent = d->parent ? tc_repo_point(plan->from, d->parent) : NULL;

        c->bytes += d->stored;
        if (parent && !tc_point_disk_stands_on(d, parent))
            parent = NULL;
        if (d->parent && (!parent || depth == DEPTH_MAX)) {
            g_free(c->failure);
            c->failure = g_strdup_printf("it stands on point '%s', which can't be used", d->parent);
            c->damaged = true;
        } else if (parent && !add_point(plan, parent, false, depth + 1, error)) {
            return false;
        }
    }
    return true;
}

static bool add_point(Plan *plan, const TcManifest *point, bool asked, unsigned depth,
                      GError **error)
{
    TcCopyPoint *c = find(plan->list, point);

    if (c || tc_copy_find(plan->to, point->id)) {
        if (c && asked)
            c->asked = true;
        return true;
    }
    if (!check_name(plan->to, point, error))
        return false;
    c = g_new0(TcCopyPoint, 1);
    c->point = point;
    c->asked = asked;
    if (!add_parents(plan, c, depth, error)) {
        copy_free(c);
        return false;
    }
    g_ptr_array_add(plan->list, c);
    return true;
}

GPtrArray *tc_copy_plan(TcRepository *from, const TcRepository *to, const char *const *names,
                        GError **error)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(copy_free);
    const GPtrArray *points = tc_repo_points(from);
    Plan plan = { from, to, list };

    for (guint i = 0; !*names && i < points->len; i++)
        if (!add_point(&plan, points->pdata[i], true, 0, error))
            return NULL;
    for (; *names; names++) {
        const TcManifest *point = tc_repo_find(from, *names, error);

        if (!point || !add_point(&plan, point, true, 0, error))
            return NULL;
    }
    return g_steal_pointer(&list);
}

/* ---- copying */

typedef struct Work {
    TcPointReader *reader;
    TcNewDisk *disk;
    const TcRuns *runs;
    TcCopyWatch *watch;
    const TcManifest *point;
    pthread_mutex_t lock;
    size_t run; /* the next piece; under lock, as what follows */
    uint64_t at;
    int ret; /* the first failure */
    uint64_t where;
    bool reading;
} Work;

/* The next piece of data. */
static bool next_piece(Work *w, uint64_t *offset, uint64_t *length)
{
    TM_GUARD(&w->lock);

    for (; w->run < tc_runs_count(w->runs) && w->ret == 0; w->run++, w->at = 0) {
        const TcRun *run = tc_runs_get(w->runs, w->run);

        if (run->kind != TC_RUN_DATA || w->at == run->length)
            continue;
        *offset = run->offset + w->at;
        *length = tm_min(PIECE, run->length - w->at);
        w->at += *length;
        return true;
    }
    return false;
}

/* false: it is to stop. */
static bool take_time(const Work *w, uint64_t length)
{
    int wait;

    while (!atomic_load(&w->watch->stop) && (wait = tc_rate_take(w->watch->rate, length)) > 0)
        g_usleep((gulong)MIN(wait, 100) * 1000);
    return !atomic_load(&w->watch->stop);
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

static void *copy_thread(void *opaque)
{
    Work *w = opaque;
    g_autofree uint8_t *buf = g_malloc(PIECE);
    uint64_t offset, length;

    while (next_piece(w, &offset, &length) && take_time(w, length)) {
        const TcManifest *where;
        uint64_t bad = offset;
        int ret = tc_point_reader_read(w->reader, buf, offset, length, &bad, &where);

        if (ret < 0) {
            failed(w, bad, ret, true);
            continue;
        }
        ret = tc_new_disk_write(w->disk, offset, buf, length);
        if (ret < 0)
            failed(w, offset, ret, false);
        else
            atomic_fetch_add(&w->watch->done, length);
    }
    return NULL;
}

static bool copy_blocks(Work *w, GError **error)
{
    const char *disk = tc_new_disk_entry(w->disk)->name;
    GThread *threads[THREADS];

    for (unsigned i = 0; i < THREADS; i++)
        threads[i] = g_thread_new("copy", copy_thread, w);
    for (unsigned i = 0; i < THREADS; i++)
        g_thread_join(threads[i]);
    if (w->ret == -EBADMSG)
        return tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED,
                                 "the block at %" PRIu64 " of disk '%s' is damaged", w->where,
                                 disk);
    if (w->ret < 0)
        return tm_error_set_errno(error, -w->ret, "Could not %s disk '%s' at %" PRIu64,
                                  w->reading ? "read" : "write", disk, w->where);
    return !atomic_load(&w->watch->stop);
}

/* The runs of @hashes, once more. */
static TcRuns *copy_runs(const TcHashes *hashes, uint64_t size, GError **error)
{
    const TcRuns *runs = tc_hashes_runs(hashes);
    g_autoptr(TcRuns) copy = tc_runs_new(size);

    for (size_t i = 0; i < tc_runs_count(runs); i++) {
        const TcRun *run = tc_runs_get(runs, i);

        if (!tc_runs_add(copy, run->offset, run->length, run->kind, error))
            return NULL;
    }
    return tc_runs_end(copy, error) ? g_steal_pointer(&copy) : NULL;
}

/* What the disk is there. */
static TcPointDisk *entry_for(TcRepository *from, const TcRepository *to, const TcPointDisk *d,
                              GError **error)
{
    const TcManifest *parent = d->parent ? tc_repo_point(from, d->parent) : NULL;
    const TcManifest *there = parent ? tc_copy_find(to, parent->id) : NULL;
    TcPointDisk *entry;

    if (d->parent && !there) {
        tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED,
                          "it stands on point '%s', which was not copied", d->parent);
        return NULL;
    }
    entry = tc_point_disk_new(d->name, d->size);
    entry->parent = there ? g_strdup(there->point) : NULL;
    entry->why = g_strdup(d->why);
    entry->compression = g_strdup(d->compression);
    entry->source = json_object_get(d->source);
    return entry;
}

static bool copy_disk(TcRepository *from, TcRepository *to, const TcManifest *point,
                      const TcPointDisk *d, TcNewPoint *into, TcCopyWatch *watch, GError **error)
{
    g_autoptr(TcHashes) hashes = tc_repo_open_hashes(from, point->point, d, error);
    g_autoptr(TcPointReader) reader =
        hashes ? tc_point_reader_open(from, point, d->name, true, error) : NULL;
    TcRuns *runs = reader ? copy_runs(hashes, d->size, error) : NULL;
    TcPointDisk *entry = runs ? entry_for(from, to, d, error) : NULL;
    Work w = {
        .reader = reader, .watch = watch, .point = point, .lock = PTHREAD_MUTEX_INITIALIZER
    };
    bool ok;

    if (!entry) {
        tc_runs_free(runs);
        return false;
    }
    w.disk = tc_new_point_add(into, entry, runs, error);
    if (!w.disk)
        return false;
    w.runs = tc_hashes_runs(hashes);
    ok = copy_blocks(&w, error);
    pthread_mutex_destroy(&w.lock);
    return ok;
}

bool tc_copy_point(TcRepository *from, TcRepository *to, const TcManifest *point,
                   TcCopyWatch *watch, GError **error)
{
    g_autoptr(TcNewPoint) into = tc_new_point(to, point->point, error);

    if (!into)
        return false;
    tc_new_point_like(into, point);
    for (guint i = 0; i < point->disks->len; i++)
        if (!copy_disk(from, to, point, point->disks->pdata[i], into, watch, error))
            return false;
    return tc_new_point_commit(into, point->instant, error);
}
