/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/disk_run.c: see disk_run.h. */
#include "client/backup/disk_run.h"
#include "client/json.h"
#include "util/extent.h"
#include "util/json.h"
#include "util/range.h"
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Bits of x-tidemark:backup:NAME. */
enum { BACKUP_DIRTY = 1, BACKUP_ZERO = 2 };

/* Which contexts say what is to be read. */
typedef enum {
    ASK_ALLOCATION, /* a full */
    ASK_OWN,        /* Tidemark's, which says all */
    ASK_BOTH,       /* the bitmap, and what is allocated */
    ASK_BITMAP,
} Asking;

struct TcDiskRun {
    TcBackupDisk *disk;
    TcPart *part;
    TcDecision decision;
    TcSource *nbd;
    Asking asking;
    TcRuns *runs; /* until they are the point's */
    TcPlan *plan;
    TcNewDisk *into;
    char *what; /* for messages */
    atomic_bool cancelled;
    int stop_fd;                       /* readable when cancelled */
    atomic_uint_fast64_t mapped, size; /* bytes of the disk; size 0: it is not being mapped yet */
    _Atomic(TcTransfer *) transfer;
    uint64_t planned;
};

TcDiskRun *tc_disk_run_new(TcBackupDisk *disk, TcProgress *progress)
{
    TcDiskRun *run = g_new0(TcDiskRun, 1);

    run->disk = disk;
    run->stop_fd = eventfd(0, EFD_CLOEXEC); /* without one, a server that hangs is waited for */
    run->part = tc_progress_part(progress, disk->name);
    return run;
}

TcDecision *tc_disk_run_decision(TcDiskRun *run)
{
    return &run->decision;
}

const TcBackupDisk *tc_disk_run_disk(const TcDiskRun *run)
{
    return run->disk;
}

/* ---- what is to be read */

/* Connects, and asks for what one way of asking needs. */
static bool connect_as(TcDiskRun *run, Asking asking, GError **error)
{
    const char *bitmap = run->disk->bitmap;
    g_autofree char *own = g_strconcat(TC_CONTEXT_BACKUP_PREFIX, bitmap, NULL);
    g_autofree char *dirty = g_strconcat(TC_CONTEXT_BITMAP_PREFIX, bitmap, NULL);
    const char *contexts[][3] = {
        [ASK_ALLOCATION] = { TC_CONTEXT_ALLOCATION },
        [ASK_OWN] = { own },
        [ASK_BOTH] = { TC_CONTEXT_ALLOCATION, dirty },
        [ASK_BITMAP] = { dirty },
    };

    run->asking = asking;
    g_clear_pointer(&run->nbd, tc_source_free);
    run->nbd = tc_source_open(run->disk->uri, contexts[asking], run->stop_fd, error);
    if (!run->nbd || asking == ASK_ALLOCATION || asking == ASK_OWN)
        return run->nbd != NULL;
    return tc_source_require(run->nbd, asking == ASK_BOTH, dirty, error);
}

static bool connect_to(TcDiskRun *run, GError **error)
{
    if (!run->disk->bitmap)
        return connect_as(run, ASK_ALLOCATION, error);
    return connect_as(run, ASK_OWN, error) &&
           (tc_source_has(run->nbd, 0) || connect_as(run, ASK_BOTH, error));
}

/* Whether what is clean is to be read all the same; *length is how far that holds. */
static bool is_again(const TcDiskRun *run, uint64_t offset, uint64_t *length)
{
    const GPtrArray *again = run->decision.again;
    bool is = false;

    for (unsigned i = 0; again && i < again->len; i++) {
        uint64_t left;

        is = tc_hashes_run(again->pdata[i], offset, &left) != TC_RUN_NONE || is;
        *length = tm_min(*length, left);
    }
    return is;
}

/* What has no data of its own in a full reads as zeroes already. */
static TcRunKind kind_of(const TcDiskRun *run, const uint32_t *values, uint64_t offset,
                         uint64_t *length)
{
    static const uint32_t zeroes[] = { [ASK_ALLOCATION] = TM_STATE_ZERO,
                                       [ASK_OWN] = BACKUP_ZERO,
                                       [ASK_BOTH] = TM_STATE_ZERO,
                                       [ASK_BITMAP] = 0 };
    bool dirty = run->asking == ASK_ALLOCATION || values[run->asking == ASK_BOTH] & BACKUP_DIRTY;
    bool zero = values[0] & zeroes[run->asking];

    if (!dirty && !is_again(run, offset, length))
        return TC_RUN_NONE;
    if (zero)
        return run->asking == ASK_ALLOCATION ? TC_RUN_NONE : TC_RUN_ZERO;
    return TC_RUN_DATA;
}

static bool map_extent(void *opaque, uint64_t offset, uint64_t length, const uint32_t *values,
                       GError **error)
{
    TcDiskRun *run = opaque;

    atomic_store(&run->mapped, offset);
    if (atomic_load(&run->cancelled))
        return tm_error_set(error, "interrupted");
    for (uint64_t n; length; offset += n, length -= n) {
        TcRunKind kind;

        n = length;
        kind = kind_of(run, values, offset, &n);
        if (!tc_runs_add(run->runs, offset, n, kind, error))
            return false;
    }
    return true;
}

static bool plan_runs(TcDiskRun *run, GError **error)
{
    run->plan = tc_plan_new(false, false);
    tc_plan_set_limit(run->plan, SIZE_MAX); /* what is between the runs must not be read */
    for (size_t i = 0; i < tc_runs_count(run->runs); i++) {
        const TcRun *piece = tc_runs_get(run->runs, i);

        if (piece->kind == TC_RUN_DATA &&
            !tc_plan_add(run->plan, piece->offset, piece->length, 0, 0, error))
            return false;
    }
    run->planned = tc_plan_bytes(run->plan);
    return true;
}

static bool walk(TcDiskRun *run, GError **error)
{
    tc_runs_free(run->runs);
    run->runs = tc_runs_new(run->disk->size);
    return tc_source_walk(run->nbd, map_extent, run, error) && tc_runs_end(run->runs, error);
}

/* QEMU's fleecing with a bitmap refuses to say what is allocated where that is clean. */
static bool walk_bitmap(TcDiskRun *run, GError **error)
{
    g_autoptr(GError) first = NULL;

    if (walk(run, &first))
        return true;
    if (run->asking == ASK_BOTH && !atomic_load(&run->cancelled) &&
        connect_as(run, ASK_BITMAP, NULL) && walk(run, NULL))
        return true;
    g_propagate_error(error, g_steal_pointer(&first));
    return false;
}

bool tc_disk_run_map(TcDiskRun *run, GError **error)
{
    if (!connect_to(run, error))
        return false;
    if (tc_source_size(run->nbd) != run->disk->size)
        return tm_error_set(error, "%s has %" PRIu64 " bytes, expected %" PRIu64, run->disk->uri,
                            tc_source_size(run->nbd), run->disk->size);
    atomic_store(&run->size, run->disk->size);
    return walk_bitmap(run, error) && plan_runs(run, error);
}

uint64_t tc_disk_run_planned(const TcDiskRun *run)
{
    return run->planned;
}

/* ---- the reading */

bool tc_disk_run_add(TcDiskRun *run, TcNewPoint *point, const char *compression, GError **error)
{
    const TcBackupDisk *disk = run->disk;
    TcPointDisk *entry = tc_point_disk_new(disk->name, disk->size);

    if (run->decision.parent)
        entry->parent = g_strdup(run->decision.parent->point);
    else
        entry->why = g_strdup(run->decision.why);
    entry->compression = g_strdup(compression);
    entry->source = disk->source ? json_object_get(disk->source) : json_object_new_object();
    if (disk->checkpoint)
        tm_json_add_string(entry->source, "checkpoint", disk->checkpoint);
    run->into = tc_new_point_add(point, entry, g_steal_pointer(&run->runs), error);
    return run->into != NULL;
}

bool tc_disk_run_copy(TcDiskRun *run, const TcTransferOptions *options, GError **error)
{
    TcTransferOptions own = *options;
    TcTransfer *transfer;

    own.release = run->disk->release;
    run->what = g_strdup_printf("the image of disk '%s'", run->disk->name);
    transfer = tc_transfer_new(run->nbd, run->plan, &own);
    atomic_store(&run->transfer, transfer);
    if (atomic_load(&run->cancelled))
        return false;
    return tc_transfer_run(transfer, tc_new_disk_sink(run->into), run->what, error);
}

void tc_disk_run_cancel(TcDiskRun *run)
{
    TcTransfer *transfer;

    atomic_store(&run->cancelled, true);
    eventfd_write(run->stop_fd, 1);
    transfer = atomic_load(&run->transfer);
    if (transfer)
        tc_transfer_cancel(transfer);
}

void tc_disk_run_counts(TcDiskRun *run, TcTransferCounts *counts)
{
    TcTransfer *transfer = atomic_load(&run->transfer);

    *counts = (TcTransferCounts){ 0 };
    if (transfer)
        tc_transfer_counts(transfer, counts);
}

void tc_disk_run_show(TcDiskRun *run, bool syncing)
{
    TcTransferCounts counts;

    tc_disk_run_counts(run, &counts);
    if (syncing)
        tc_part_set(run->part, "making it durable", 0, 0);
    else if (!atomic_load(&run->transfer))
        tc_part_set(run->part, "mapping", atomic_load(&run->mapped), atomic_load(&run->size));
    else
        tc_part_set(run->part, run->decision.parent ? "incremental" : "full", counts.done,
                    run->planned);
}

const TcPointDisk *tc_disk_run_entry(const TcDiskRun *run)
{
    return run->into ? tc_new_disk_entry(run->into) : NULL;
}

void tc_disk_run_free(TcDiskRun *run)
{
    if (!run)
        return;
    tc_transfer_free(atomic_load(&run->transfer));
    tc_plan_free(run->plan);
    tc_runs_free(run->runs);
    tc_source_free(run->nbd);
    if (run->stop_fd >= 0)
        close(run->stop_fd);
    tc_decision_clear(&run->decision);
    g_free(run->what);
    g_free(run);
}
