/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/cmd_copy.c: "tidemark copy": a disk into a file, a device or standard output, and
 * back. copy_job.h says how; here are the command line, the signals and the reports. */
#include "client/commands.h"
#include "client/copy/copy_job.h"
#include "client/daemon/export_view.h"
#include "client/progress.h"
#include "client/text.h"
#include "client/work.h"
#include "util/json.h"
#include "util/log.h"
#include <string.h>
#include <unistd.h>

enum { DEFAULT_CONNECTIONS = 4, DEFAULT_REQUESTS = 16 };

static const TcOption options[] = {
    TC_SOCKET_OPTION,
    { "bitmap", "NAME", "copy only what is dirty in this bitmap" },
    { "force", NULL, "overwrite what is not an earlier copy of this disk" },
    { "connections", "N", "connections to the server, if it allows several (default: 4)" },
    { "requests", "N", "requests in flight on each connection (default: 16)" },
    { "rate", "SIZE", "read at most so many bytes a second (default: no limit)" },
    TC_NO_PROGRESS_OPTION,
    TC_EVENTS_OPTION,
    { 0 },
};

/* What the main thread has of a run. */
typedef struct Run {
    TcCopyJob job;
    TcProgress *progress;
    TcPart *part;
    bool json;
} Run;

static bool copy_disk(void *opaque, GError **error)
{
    Run *run = opaque;

    return run->job.kind->run(&run->job, error);
}

static void show_progress(void *opaque)
{
    Run *run = opaque;
    TcCopyJob *job = &run->job;
    TcTransferCounts counts;

    switch (atomic_load(&job->stage)) {
    case TC_STAGE_COPY:
        job->kind->counts(job, &counts);
        tc_part_set(run->part, "copying", counts.done, atomic_load(&job->planned));
        break;
    case TC_STAGE_SYNC:
        tc_part_set(run->part, "making it durable", 0, 0);
        break;
    default:
        tc_part_set(run->part, "mapping", atomic_load(&job->mapped), atomic_load(&job->size));
    }
    tc_progress_draw(run->progress);
}

/* A signal came. In the copy the thread is asked to stop, if there is something to leave in order;
 * anywhere else there is nothing to wait for, and this does not return. */
static void interrupt(void *opaque, int signo, bool again)
{
    Run *run = opaque;
    TcCopyJob *job = &run->job;
    int stage = TC_STAGE_PREPARE;

    if (!again && !atomic_compare_exchange_strong(&job->stage, &stage, TC_STAGE_ABANDONED) &&
        stage == TC_STAGE_COPY && job->kind->cancel) {
        job->kind->cancel(job);
        return;
    }
    tc_progress_clear(run->progress);
    if (stage == TC_STAGE_PREPARE && !again)
        tm_log(TM_LOG_ERROR, "interrupted: target '%s' was not changed", job->to);
    else if (stage == TC_STAGE_SYNC)
        tm_log(TM_LOG_ERROR,
               "interrupted: target '%s' has all bytes, but they may not have reached the disk",
               job->to);
    else
        tm_log(TM_LOG_ERROR, "interrupted: target '%s' is incomplete; run the same command again",
               job->to);
    _exit(128 + signo);
}

/* What has become of the target, when the copy has not come to its end. */
static int report_failure(Run *run, int signo, const GError *error)
{
    const char *why = error ? error->message : "interrupted";
    g_autofree char *state = run->job.own ? run->job.kind->state(&run->job) : NULL;
    g_autofree char *text = state ? g_strdup_printf("%s: %s", why, state) : g_strdup(why);
    json_object *event = json_object_new_object();

    tm_log(TM_LOG_ERROR, "%s", text);
    tm_json_add_string(event, "error", text);
    tc_progress_event(run->progress, "failed", event);
    return signo ? 128 + signo : TC_EXIT_FAILED;
}

static json_object *describe(const TcCopyJob *job, const TcTransferCounts *counts, double seconds)
{
    json_object *object = json_object_new_object();

    tm_json_add_string(object, "source", job->source ? job->uri : job->from);
    tm_json_add_string(object, "target", job->source ? job->to : job->uri);
    json_object_object_add(object, "bitmap",
                           job->bitmap ? json_object_new_string(job->bitmap) : NULL);
    tm_json_add_uint(object, "size", atomic_load(&job->size));
    tm_json_add_uint(object, "read", counts->read);
    tm_json_add_uint(object, "zeroed", counts->zeroed);
    tm_json_add_uint(object, "extents", atomic_load(&job->ranges));
    tm_json_add_uint(object, "connections", job->used_connections);
    json_object_object_add(object, "seconds", json_object_new_double(seconds));
    return object;
}

static void print_summary(const TcCopyJob *job, const TcTransferCounts *counts, double seconds,
                          FILE *out)
{
    uint64_t size = atomic_load(&job->size), ranges = atomic_load(&job->ranges);
    g_autofree char *disk = tc_human_size(size);
    g_autofree char *read = tc_human_size(counts->read);
    g_autofree char *zeroed = tc_human_size(counts->zeroed);
    g_autofree char *read_share = tc_percent(counts->read, size);
    g_autofree char *zero_share = tc_percent(counts->zeroed, size);
    g_autofree char *rate =
        tc_human_size(seconds > 0 ? (uint64_t)((double)counts->read / seconds) : 0);

    if (job->bitmap)
        fprintf(out, "Updated '%s' with what is dirty in bitmap '%s'.\n", job->to, job->bitmap);
    else if (job->kind == &tc_copy_to_nbd)
        fprintf(out, "Copied '%s' to the disk '%s'.\n", job->from, job->to);
    else
        fprintf(out, "Copied the disk to '%s'.\n", job->to);
    fprintf(out, "  disk    %10s  %" PRIu64 " extent%s to copy\n", disk, ranges,
            ranges == 1 ? "" : "s");
    fprintf(out, "  read    %10s  %s of the disk\n", read, read_share);
    fprintf(out, "  zeroed  %10s  %s of the disk\n", zeroed, zero_share);
    fprintf(out, "  time    %8.2f s  %s/s, %u connection%s\n", seconds, rate, job->used_connections,
            job->used_connections == 1 ? "" : "s");
    if (job->left_alone)
        fprintf(out, "  the target is larger: its last %" PRIu64 " bytes were left as they are\n",
                job->left_alone);
}

static void report_success(Run *run, double seconds)
{
    TcTransferCounts counts = { 0 };
    bool to_stdout = run->job.kind == &tc_copy_to_stdout;

    run->job.kind->counts(&run->job, &counts);
    if (run->json)
        tc_progress_event(run->progress, "done", describe(&run->job, &counts, seconds));
    else
        print_summary(&run->job, &counts, seconds, to_stdout ? stderr : stdout);
}

/* An argument with a slash or a dot is a file, if there is one. */
static bool means_file(const char *word)
{
    return !strstr(word, "://") && strpbrk(word, "/.") && tc_is_file(word);
}

static bool choose_kind(TcCopyJob *job, bool json, GError **error)
{
    if (!strcmp(job->from, "-"))
        return tm_error_set(error, "source '-': standard input can't be copied, use a file");
    job->kind = means_file(job->from)   ? &tc_copy_to_nbd
                : !strcmp(job->to, "-") ? &tc_copy_to_stdout
                                        : &tc_copy_to_file;
    if (job->kind != &tc_copy_to_file && job->bitmap)
        return tm_error_set(error, "--bitmap needs a file or device as the target");
    if (job->kind == &tc_copy_to_file && strstr(job->to, "://"))
        return tm_error_set(error,
                            "source '%s' is not a file, and only files are copied to an NBD URI "
                            "(nbdcopy copies from one server to another)",
                            job->from);
    if (job->kind != &tc_copy_to_stdout)
        return true;
    if (json)
        return tm_error_set(error, "--json and standard output as the target exclude each other");
    return !isatty(STDOUT_FILENO) ||
           tm_error_set(error, "target '-': standard output is a terminal");
}

static bool take_options(TcCopyJob *job, const TcInvocation *inv, GError **error)
{
    uint64_t rate = 0;

    if (!tc_option_number(inv, "connections", 1, TC_CONNECTIONS_MAX, &job->connections, error) ||
        !tc_option_number(inv, "requests", 1, TC_REQUESTS_MAX, &job->requests, error) ||
        !tc_option_number(inv, "rate", 1, INT64_MAX, &rate, error) ||
        !choose_kind(job, tc_flag(inv, "json"), error))
        return false;
    if (rate)
        job->rate = tc_rate_new(rate);
    return true;
}

static void tear_down(TcCopyJob *job)
{
    if (job->own)
        job->kind->free(job);
    tc_plan_free(job->plan);
    tc_source_free(job->source);
    tc_rate_free(job->rate);
    g_free(job->uri);
}

static int carry_out(Run *run)
{
    TcWork work = { run, copy_disk, show_progress, interrupt };
    gint64 start = g_get_monotonic_time();
    g_autoptr(GError) error = NULL;
    bool ok;
    int signo;

    run->part = tc_progress_part(run->progress, "");
    ok = tc_work_run(&work, &signo, &error);
    tc_progress_clear(run->progress);
    if (!ok)
        return report_failure(run, signo, error);
    report_success(run, (double)(g_get_monotonic_time() - start) / 1e6);
    return TC_EXIT_OK;
}

static int run(const TcInvocation *inv)
{
    bool json = tc_flag(inv, "json");
    g_autoptr(TcProgress) progress =
        tc_progress_new(json                          ? TC_PROGRESS_JSON
                        : tc_flag(inv, "no-progress") ? TC_PROGRESS_NONE
                                                      : TC_PROGRESS_TEXT);
    Run run = {
        .job = {
            .from = tc_arg(inv, 0),
            .to = tc_arg(inv, 1),
            .bitmap = tc_option(inv, "bitmap"),
            .socket = tc_option(inv, "socket"),
            .force = tc_flag(inv, "force"),
            .connections = DEFAULT_CONNECTIONS,
            .requests = DEFAULT_REQUESTS,
        },
        .progress = progress,
        .json = json,
    };
    GError *error = NULL;
    int status;

    if (!take_options(&run.job, inv, &error))
        return tc_fail_usage(inv, error);
    status = carry_out(&run);
    tear_down(&run.job);
    return status;
}

const TcCommand tc_command_copy = {
    .name = "copy",
    .args = "SOURCE TARGET",
    .summary = "Copies a disk, or what is dirty in a bitmap, into a file, and back",
    .details =
        "SOURCE is the NBD URI of an export of any server, or an export of the daemon, by its id,\n"
        "its name or its node. TARGET is a block device or a raw file, which is created if it "
        "does\n"
        "not exist, or '-', standard output. Holes and zeroes are kept. With --bitmap, TARGET "
        "must\n"
        "be an earlier copy. What is not an earlier copy of this disk is overwritten only with\n"
        "--force. If SOURCE is a file or device (with a slash or a dot in its name), TARGET is an\n"
        "NBD URI or an export. The copy is durable when the command ends.\n",
    .min_args = 2,
    .max_args = 2,
    .options = options,
    .run = run,
};
