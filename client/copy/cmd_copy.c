/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/cmd_copy.c: "tidemark copy": a disk, or what is dirty of it, into a file or device.
 *
 * A thread does the work (copy_disk); the main thread waits for it, draws the progress and takes
 * the signals. Invariant: the target is not touched before stage leaves STAGE_PREPARE, and whoever
 * wins the exchange on stage, the thread that begins to write or the signal that ends it all,
 * decides whether it ever is. So every end can say truly what state the target is in. */
#include "client/commands.h"
#include "client/copy/target.h"
#include "client/copy/transfer.h"
#include "client/daemon/export_view.h"
#include "client/progress.h"
#include "client/text.h"
#include "client/work.h"
#include "util/extent.h"
#include "util/log.h"
#include <json-c/json.h>
#include <stdatomic.h>
#include <unistd.h>

enum { DEFAULT_CONNECTIONS = 4, DEFAULT_REQUESTS = 16 };

static const TcOption options[] = {
    TC_SOCKET_OPTION,
    { "bitmap", "NAME", "copy only what is dirty in this bitmap" },
    { "connections", "N", "connections to the server, if it allows several (default: 4)" },
    { "requests", "N", "reads in flight on each connection (default: 16)" },
    { "rate", "SIZE", "read at most so many bytes a second (default: no limit)" },
    TC_NO_PROGRESS_OPTION,
    TC_JSON_OPTION,
    { 0 },
};

typedef enum { STAGE_PREPARE, STAGE_COPY, STAGE_SYNC, STAGE_ABANDONED } Stage;

typedef struct Copy {
    const char *word, *path, *bitmap, *socket;
    char *uri;
    char *context; /* of the bitmap */
    uint64_t connections, requests;
    TcRate *rate;
    TcProgress *progress;
    TcPart *part;
    /* of the thread, until it is joined */
    TcSource *source;
    TcTargetFacts facts;
    TcPlan *plan;
    TcTarget *target;
    /* set by the thread before stage says STAGE_COPY */
    TcTransfer *transfer;
    uint64_t planned; /* bytes to read or zero */
    size_t ranges;
    /* shared */
    atomic_int stage;
    atomic_uint_fast64_t mapped; /* bytes of the disk */
    atomic_uint_fast64_t size;
} Copy;

static bool plan_extent(void *opaque, uint64_t offset, uint64_t length, const uint32_t *values,
                        GError **error)
{
    Copy *copy = opaque;

    atomic_store(&copy->mapped, offset);
    return tc_plan_add(copy->plan, offset, length, values[0], values[1], error);
}

/* Everything that can be found out without touching the target. */
static bool prepare(Copy *copy, GError **error)
{
    const char *contexts[] = { TC_CONTEXT_ALLOCATION, copy->context, NULL };
    bool fresh;

    if (!tc_target_examine(copy->path, &copy->facts, error))
        return false;
    copy->uri = tc_export_uri(copy->word, copy->socket, copy->bitmap, "'cp' copies files", error);
    copy->source = copy->uri ? tc_source_open(copy->uri, contexts, -1, error) : NULL;
    if (!copy->source)
        return false;
    atomic_store(&copy->size, tc_source_size(copy->source));
    if (copy->bitmap && !tc_export_require(copy->source, 1, copy->context, copy->socket, error))
        return false;
    if (!tc_target_check(copy->path, &copy->facts, tc_source_size(copy->source), copy->bitmap,
                         error))
        return false;
    fresh = tc_target_fresh(&copy->facts);
    copy->plan = tc_plan_new(copy->bitmap != NULL, fresh);
    if (!tc_source_walk(copy->source, plan_extent, copy, error))
        return false;
    copy->planned = tc_plan_bytes(copy->plan);
    copy->ranges = tc_plan_ranges(copy->plan);
    return true;
}

static bool copy_disk(void *opaque, GError **error)
{
    Copy *copy = opaque;
    TcTransferOptions how = { .connections = (unsigned)copy->connections,
                              .requests = (unsigned)copy->requests,
                              .rate = copy->rate };
    g_autofree char *name = g_strconcat("target ", copy->path, NULL);
    int expected = STAGE_PREPARE;

    if (!prepare(copy, error))
        return false;
    how.fresh = tc_target_fresh(&copy->facts);
    copy->transfer = tc_transfer_new(copy->source, copy->plan, &how);
    if (!atomic_compare_exchange_strong(&copy->stage, &expected, STAGE_COPY))
        return false;
    copy->target = tc_target_open(&tm_sys_kernel, copy->path, &copy->facts,
                                  tc_source_size(copy->source), error);
    if (!copy->target ||
        !tc_transfer_run(copy->transfer, tc_target_sink(copy->target), name, error))
        return false;
    atomic_store(&copy->stage, STAGE_SYNC);
    return tc_target_sync(copy->target, error);
}

static void show_progress(void *opaque)
{
    Copy *copy = opaque;
    TcTransferCounts counts;

    switch (atomic_load(&copy->stage)) {
    case STAGE_COPY:
        tc_transfer_counts(copy->transfer, &counts);
        tc_part_set(copy->part, "copying", counts.done, copy->planned);
        break;
    case STAGE_SYNC:
        tc_part_set(copy->part, "making it durable", 0, 0);
        break;
    default:
        tc_part_set(copy->part, "mapping", atomic_load(&copy->mapped), atomic_load(&copy->size));
    }
    tc_progress_draw(copy->progress);
}

/* A signal came. In the copy the thread is asked to stop; anywhere else there is nothing to wait
 * for, and this does not return. */
static void interrupt(void *opaque, int signo, bool again)
{
    Copy *copy = opaque;
    int stage = STAGE_PREPARE;

    if (!again && !atomic_compare_exchange_strong(&copy->stage, &stage, STAGE_ABANDONED) &&
        stage == STAGE_COPY) {
        tc_transfer_cancel(copy->transfer);
        return;
    }
    tc_progress_clear(copy->progress);
    if (stage == STAGE_PREPARE && !again)
        tm_log(TM_LOG_ERROR, "interrupted: target '%s' was not changed", copy->path);
    else if (stage == STAGE_SYNC)
        tm_log(TM_LOG_ERROR,
               "interrupted: target '%s' has all bytes, but they may not have reached the disk",
               copy->path);
    else
        tm_log(TM_LOG_ERROR, "interrupted: target '%s' is incomplete; run the same command again",
               copy->path);
    _exit(128 + signo);
}

/* What has become of the target, when the copy has not come to its end. */
static int report_failure(Copy *copy, int signo, const GError *error)
{
    const char *why = error ? error->message : "interrupted";
    TcTransferCounts counts;

    if (!copy->target)
        tm_log(TM_LOG_ERROR, "%s", why);
    else if (atomic_load(&copy->stage) == STAGE_SYNC)
        tm_log(TM_LOG_ERROR,
               "%s: target '%s' has all bytes, but they may not have reached the disk", why,
               copy->path);
    else {
        tc_transfer_counts(copy->transfer, &counts);
        tm_log(TM_LOG_ERROR,
               "%s: target '%s' is incomplete: %" PRIu64 " of %" PRIu64
               " bytes were copied; run the same command again to complete it",
               why, copy->path, counts.done, copy->planned);
    }
    return signo ? 128 + signo : TC_EXIT_FAILED;
}

static void print_json(const Copy *copy, const TcTransferCounts *counts, double seconds)
{
    json_object *object = json_object_new_object();

    json_object_object_add(object, "source", json_object_new_string(copy->uri));
    json_object_object_add(object, "target", json_object_new_string(copy->path));
    json_object_object_add(object, "bitmap",
                           copy->bitmap ? json_object_new_string(copy->bitmap) : NULL);
    json_object_object_add(object, "size", json_object_new_uint64(tc_source_size(copy->source)));
    json_object_object_add(object, "read", json_object_new_uint64(counts->read));
    json_object_object_add(object, "zeroed", json_object_new_uint64(counts->zeroed));
    json_object_object_add(object, "extents", json_object_new_uint64(copy->ranges));
    json_object_object_add(object, "connections",
                           json_object_new_int((int)tc_transfer_connections(copy->transfer)));
    json_object_object_add(object, "seconds", json_object_new_double(seconds));
    printf("%s\n", json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY |
                                                              JSON_C_TO_STRING_SPACED |
                                                              JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(object);
}

static void print_summary(const Copy *copy, const TcTransferCounts *counts, double seconds)
{
    uint64_t size = tc_source_size(copy->source);
    g_autofree char *disk = tc_human_size(size);
    g_autofree char *read = tc_human_size(counts->read);
    g_autofree char *zeroed = tc_human_size(counts->zeroed);
    g_autofree char *read_share = tc_percent(counts->read, size);
    g_autofree char *zero_share = tc_percent(counts->zeroed, size);
    g_autofree char *rate =
        tc_human_size(seconds > 0 ? (uint64_t)((double)counts->read / seconds) : 0);

    if (copy->bitmap)
        printf("Updated '%s' with what is dirty in bitmap '%s'.\n", copy->path, copy->bitmap);
    else
        printf("Copied the disk to '%s'.\n", copy->path);
    printf("  disk    %10s  %zu extent%s to copy\n", disk, copy->ranges,
           copy->ranges == 1 ? "" : "s");
    printf("  read    %10s  %s of the disk\n", read, read_share);
    printf("  zeroed  %10s  %s of the disk\n", zeroed, zero_share);
    printf("  time    %8.2f s  %s/s, %u connection%s\n", seconds, rate,
           tc_transfer_connections(copy->transfer),
           tc_transfer_connections(copy->transfer) == 1 ? "" : "s");
    if (copy->facts.is_block && copy->facts.size > size)
        printf("  the device is larger: its last %" PRIu64 " bytes were left as they are\n",
               copy->facts.size - size);
}

static bool take_options(Copy *copy, const TcInvocation *inv, GError **error)
{
    uint64_t rate = 0;

    if (!tc_option_number(inv, "connections", 1, TC_CONNECTIONS_MAX, &copy->connections, error) ||
        !tc_option_number(inv, "requests", 1, TC_REQUESTS_MAX, &copy->requests, error) ||
        !tc_option_number(inv, "rate", 1, INT64_MAX, &rate, error))
        return false;
    if (rate)
        copy->rate = tc_rate_new(rate);
    if (copy->bitmap)
        copy->context = g_strconcat(TC_CONTEXT_BITMAP_PREFIX, copy->bitmap, NULL);
    return true;
}

static void tear_down(Copy *copy)
{
    tc_transfer_free(copy->transfer);
    tc_plan_free(copy->plan);
    tc_target_free(copy->target);
    tc_source_free(copy->source);
    tc_rate_free(copy->rate);
    g_free(copy->context);
    g_free(copy->uri);
}

static int run(const TcInvocation *inv)
{
    g_autoptr(TcProgress) progress =
        tc_progress_new(tc_flag(inv, "no-progress") ? TC_PROGRESS_NONE : TC_PROGRESS_TEXT);
    Copy copy = {
        .word = tc_arg(inv, 0),
        .socket = tc_option(inv, "socket"),
        .path = tc_arg(inv, 1),
        .bitmap = tc_option(inv, "bitmap"),
        .connections = DEFAULT_CONNECTIONS,
        .requests = DEFAULT_REQUESTS,
        .progress = progress,
        .part = tc_progress_part(progress, ""),
    };
    TcWork work = { &copy, copy_disk, show_progress, interrupt };
    gint64 start = g_get_monotonic_time();
    g_autoptr(GError) error = NULL;
    int signo, status = TC_EXIT_OK;
    TcTransferCounts counts;

    if (!take_options(&copy, inv, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    if (!tc_work_run(&work, &signo, &error)) {
        tc_progress_clear(progress);
        status = report_failure(&copy, signo, error);
    } else {
        double seconds = (double)(g_get_monotonic_time() - start) / 1e6;

        tc_progress_clear(progress);
        tc_transfer_counts(copy.transfer, &counts);
        if (tc_flag(inv, "json"))
            print_json(&copy, &counts, seconds);
        else
            print_summary(&copy, &counts, seconds);
    }
    tear_down(&copy);
    return status;
}

const TcCommand tc_command_copy = {
    .name = "copy",
    .args = "SOURCE TARGET",
    .summary = "Copies a disk, or what is dirty in a bitmap, into a file or device",
    .details =
        "SOURCE is the NBD URI of an export of any server, or an export of the daemon, by its id,\n"
        "its name or its node. TARGET is a block device or a raw file, which is created if it "
        "does\n"
        "not exist. Holes and zeroes are kept. With --bitmap, TARGET must be an earlier copy. The\n"
        "copy is durable when the command ends.\n",
    .min_args = 2,
    .max_args = 2,
    .options = options,
    .run = run,
};
