/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/cmd_restore.c: "tidemark restore": disks of a point into files, devices and
 * exports.
 *
 * All targets are examined before the first is touched: until then a signal ends the command at
 * once. Then the disks are restored one after another, each with all threads. */
#include "client/commands.h"
#include "client/json.h"
#include "client/progress.h"
#include "client/repository/repository.h"
#include "client/restore/restore_run.h"
#include "client/restore/restore_targets.h"
#include "client/text.h"
#include "client/work.h"
#include "util/log.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { DEFAULT_CONNECTIONS = 4, DEFAULT_REQUESTS = 16 };
enum { CONNECTIONS_MAX = 64, REQUESTS_MAX = 1024 };

static const TcOption options[] = {
    { "at", "POINT", "a point by its name, by time (the newest until then), or latest (default)" },
    { "disk", "NAME", "restore only this disk; may come again" },
    { "format", "FMT", "raw or qcow2 (default: qcow2 if the target's name ends so, else raw)" },
    { "force", NULL, "overwrite what exists" },
    { "in-place", NULL, "write only what differs in a target that exists" },
    { "trust-bitmap", "NAME", "with --in-place: read only what this bitmap of the target has" },
    { "rate", "SIZE", "restore at most so many bytes a second (default: no limit)" },
    { "connections", "N", "connections to an NBD server (default: 4)" },
    { "requests", "N", "requests in flight on each (default: 16)" },
    TC_WAIT_OPTION,
    TC_NO_PROGRESS_OPTION,
    TC_EVENTS_OPTION,
    { 0 },
};

/* One disk on its way. */
typedef struct Disk {
    TcRestoreTarget *target; /* borrowed */
    TcPlace *place;
    TcPointReader *reader, *before; /* before may be reader */
    TcRestore *restore;
    TcPart *part;
    double seconds;
} Disk;

typedef struct Job {
    const TcInvocation *inv;
    TcPlaceOptions options;
    uint64_t rate_bytes;
    int wait_s;
    TcRepository *repo;
    TcManifest *point;
    GPtrArray *targets; /* TcRestoreTarget */
    Disk *disks;
    TcRate *rate;
    TcProgress *progress;
    int signo;
} Job;

/* ---- what is meant */

static bool set_up(Job *job, GError **error)
{
    const TcInvocation *inv = job->inv;
    TcPlaceOptions *o = &job->options;
    uint64_t connections = DEFAULT_CONNECTIONS, requests = DEFAULT_REQUESTS;

    o->format = tc_option(inv, "format");
    o->force = tc_flag(inv, "force");
    o->in_place = tc_flag(inv, "in-place");
    o->bitmap = tc_option(inv, "trust-bitmap");
    if (o->format && strcmp(o->format, "raw") && strcmp(o->format, "qcow2"))
        return tm_error_set(error, "option --format: '%s' is neither raw nor qcow2", o->format);
    if (o->force && o->in_place)
        return tm_error_set(error, "options --force and --in-place exclude each other");
    if (o->bitmap && !o->in_place)
        return tm_error_set(error, "option --trust-bitmap needs --in-place");
    if (!tc_option_number(inv, "connections", 1, CONNECTIONS_MAX, &connections, error) ||
        !tc_option_number(inv, "requests", 1, REQUESTS_MAX, &requests, error) ||
        !tc_option_number(inv, "rate", 1, INT64_MAX, &job->rate_bytes, error) ||
        !tc_option_wait(inv, &job->wait_s, error))
        return false;
    o->stop_fd = eventfd(0, EFD_CLOEXEC); /* without one, a server that hangs is waited for */
    o->connections = (unsigned)connections;
    o->requests = (unsigned)requests;
    return true;
}

static bool find_targets(Job *job, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    const char *at = tc_option(job->inv, "at");

    for (guint i = 0; i < job->inv->given->len; i++) {
        const TcGiven *given = &g_array_index(job->inv->given, TcGiven, i);

        if (!strcmp(given->option->name, "disk"))
            g_ptr_array_add(names, (gpointer)given->value);
    }
    job->point = tc_repo_find(job->repo, at ? at : "latest", error);
    if (!job->point)
        return false;
    job->targets = tc_restore_targets(job->point, (const char *const *)&job->inv->args->pdata[1],
                                      names, job->options.format, error);
    return job->targets != NULL;
}

static bool open_repository(Job *job, GError **error)
{
    TcRepoOptions use = {
        .use = TC_REPO_READ,
        .wait_s = job->wait_s,
        .what = "tidemark restore",
    };

    job->repo = tc_repo_open(tc_arg(job->inv, 0), &use, error);
    return job->repo != NULL;
}

/* ---- before anything is written */

static bool check_outside(const Job *job, const char *target, GError **error)
{
    g_autofree char *dir = g_path_get_dirname(target);
    char *real = realpath(g_file_test(target, G_FILE_TEST_EXISTS) ? target : dir, NULL);
    char *repo = realpath(tc_repo_path(job->repo), NULL);
    bool inside = real && repo && g_str_has_prefix(real, repo) &&
                  (real[strlen(repo)] == '/' || !real[strlen(repo)]);

    free(real);
    free(repo);
    return !inside || tm_error_set(error, "target '%s' is in the repository", target);
}

/* The point whose checkpoint of the disk is called @name, as its manifest has it; or NULL. */
static const TcManifest *point_of_checkpoint(const Job *job, const char *disk, const char *name)
{
    const GPtrArray *points = tc_repo_points(job->repo);

    for (guint i = 0; i < points->len; i++) {
        const TcPointDisk *entry = tc_manifest_disk(points->pdata[i], disk);

        if (entry && !g_strcmp0(tc_json_string(entry->source, "checkpoint"), name))
            return points->pdata[i];
    }
    return NULL;
}

/* What the disk was when the bitmap began: the point whose checkpoint it is. Any other bitmap began
 * at the point that is restored, by the user's word. */
static bool open_before(const Job *job, Disk *disk, GError **error)
{
    const char *bitmap = job->options.bitmap, *name = disk->target->disk->name;
    const TcManifest *point = bitmap ? point_of_checkpoint(job, name, bitmap) : NULL;

    if (!bitmap)
        return true;
    if (!point && strchr(bitmap, '@'))
        return tm_error_set(error,
                            "bitmap '%s' is a checkpoint of disk '%s' of no point in the "
                            "repository: without --trust-bitmap, all of the target is read",
                            bitmap, name);
    if (!point || point == job->point)
        disk->before = disk->reader;
    else
        disk->before = tc_point_reader_open(job->repo, point, name, false, error);
    return disk->before != NULL;
}

static bool prepare(Job *job, Disk *disk, GError **error)
{
    const TcRestoreTarget *target = disk->target;

    if (!check_outside(job, target->name, error))
        return false;
    disk->place = tc_place_examine(target->name, target->disk->size, &job->options, error);
    if (!disk->place)
        return false;
    disk->reader = tc_point_reader_open(job->repo, job->point, target->disk->name, false, error);
    if (!disk->reader || !open_before(job, disk, error))
        return false;
    disk->part = tc_progress_part(job->progress, job->targets->len > 1 ? target->disk->name : "");
    return true;
}

static bool prepare_all(Job *job, GError **error)
{
    job->disks = g_new0(Disk, job->targets->len);
    for (guint i = 0; i < job->targets->len; i++) {
        job->disks[i].target = job->targets->pdata[i];
        if (!prepare(job, &job->disks[i], error))
            return false;
    }
    return true;
}

static bool prepare_job(void *opaque, GError **error)
{
    Job *job = opaque;

    return open_repository(job, error) && find_targets(job, error) && prepare_all(job, error);
}

static void no_tick(void *opaque)
{
}

static void end_unchanged(void *opaque, int signo, bool again)
{
    tm_log(TM_LOG_ERROR, "interrupted: no target was changed");
    _exit(128 + signo);
}

/* ---- one disk */

typedef struct Copying {
    Job *job;
    Disk *disk;
} Copying;

static bool copy(void *opaque, GError **error)
{
    return tc_restore_copy(((Copying *)opaque)->disk->restore, error);
}

static void tick(void *opaque)
{
    Copying *copying = opaque;
    uint64_t done, total;
    const char *what = tc_restore_progress(copying->disk->restore, &done, &total);

    tc_part_set(copying->disk->part, what, done, total);
    tc_progress_draw(copying->job->progress);
}

static void interrupt(void *opaque, int signo, bool again)
{
    Copying *copying = opaque;

    if (!again) {
        tc_restore_cancel(copying->disk->restore);
        eventfd_write(copying->job->options.stop_fd, 1);
        return;
    }
    tc_progress_clear(copying->job->progress);
    tm_log(TM_LOG_ERROR, "interrupted: '%s' is incomplete", tc_place_path(copying->disk->place));
    _exit(128 + signo);
}

/* The error gets what has become of the target, and of the disks before it. */
static void explain(const Job *job, guint i, GError **error)
{
    bool damaged = g_error_matches(*error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED);
    g_autofree char *state = tc_place_abandon(
        job->disks[i].place, damaged ? "restore another point" : "run the same command again");
    g_autoptr(GString) others = g_string_new(NULL);

    for (guint j = 0; j < i; j++)
        g_string_append_printf(others, "%s'%s'",
                               j ? ", " : "; restored: ", job->disks[j].target->name);
    if (!*error)
        tm_error_set(error, "interrupted");
    g_autofree char *message = g_strdup_printf("%s: %s%s", (*error)->message, state, others->str);

    g_free((*error)->message);
    (*error)->message = g_steal_pointer(&message);
}

static bool restore_disk(Job *job, Disk *disk, GError **error)
{
    g_autofree char *what =
        g_strdup_printf("disk '%s' of point '%s'", disk->target->disk->name, job->point->point);
    Copying copying = { job, disk };
    TcWork work = { &copying, copy, tick, interrupt };
    gint64 start = g_get_monotonic_time();

    if (!tc_place_begin(disk->place, error))
        return false;
    disk->restore = tc_restore_new(disk->reader, disk->place, disk->before, job->rate, what);
    if (!tc_work_run(&work, &job->signo, error))
        return false;
    disk->seconds = (double)(g_get_monotonic_time() - start) / 1e6;
    tc_part_end(disk->part, "restored");
    return true;
}

/* ---- what it has done */

static void report_json(const Job *job, const Disk *disk)
{
    TcPlaceCounts counts;
    json_object *event = json_object_new_object();

    tc_place_counts(disk->place, &counts);
    json_object_object_add(event, "disk", json_object_new_string(disk->target->disk->name));
    json_object_object_add(event, "point", json_object_new_string(job->point->point));
    json_object_object_add(event, "target", json_object_new_string(disk->target->name));
    json_object_object_add(event, "format", json_object_new_string(tc_place_format(disk->place)));
    json_object_object_add(event, "size", json_object_new_uint64(disk->target->disk->size));
    json_object_object_add(event, "written", json_object_new_uint64(counts.written));
    json_object_object_add(event, "zeroed", json_object_new_uint64(counts.zeroed));
    json_object_object_add(event, "same", json_object_new_uint64(counts.same));
    json_object_object_add(event, "seconds", json_object_new_double(disk->seconds));
    tc_progress_event(job->progress, "restored", event);
}

static void report_text(const Job *job, const Disk *disk)
{
    TcPlaceCounts counts;
    uint64_t size = disk->target->disk->size, found = tc_place_size(disk->place);
    g_autofree char *human = tc_human_size(size), *target = tc_printable(disk->target->name);
    g_autofree char *written = NULL, *zeroed = NULL;

    tc_place_counts(disk->place, &counts);
    written = tc_human_size(counts.written);
    zeroed = tc_human_size(counts.zeroed);
    printf("Restored '%s' of point '%s' to '%s': %s, %s written, %s made zero, %.2f s.\n",
           disk->target->disk->name, job->point->point, target, human, written, zeroed,
           disk->seconds);
    if (found > size)
        printf("  the target is larger: its last %" PRIu64 " bytes were left as they are\n",
               found - size);
}

/* A signal may come when one disk is done: then there is no next one. */
static bool restore_all(Job *job, GError **error)
{
    for (guint i = 0; i < job->targets->len; i++) {
        Disk *disk = &job->disks[i];

        if (job->signo || !restore_disk(job, disk, error)) {
            explain(job, i, error);
            return false;
        }
        tc_progress_clear(job->progress);
        (tc_flag(job->inv, "json") ? report_json : report_text)(job, disk);
    }
    return true;
}

static bool restore(Job *job, GError **error)
{
    TcWork work = { job, prepare_job, no_tick, end_unchanged };

    return tc_work_run(&work, &job->signo, error) && restore_all(job, error);
}

static void clear(Job *job)
{
    for (guint i = 0; job->disks && i < job->targets->len; i++) {
        Disk *disk = &job->disks[i];

        tc_restore_free(disk->restore);
        tc_place_free(disk->place);
        if (disk->before != disk->reader)
            tc_point_reader_close(disk->before);
        tc_point_reader_close(disk->reader);
    }
    g_free(job->disks);
    if (job->targets)
        g_ptr_array_unref(job->targets);
    tc_repo_close(job->repo);
    tc_rate_free(job->rate);
    if (job->options.stop_fd >= 0)
        close(job->options.stop_fd);
}

static int run(const TcInvocation *inv)
{
    Job job = { .inv = inv };
    g_autoptr(TcProgress) progress = NULL;
    g_autoptr(GError) error = NULL;
    int status = TC_EXIT_OK;

    if (!set_up(&job, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    progress = tc_progress_new(tc_flag(inv, "json")          ? TC_PROGRESS_JSON
                               : tc_flag(inv, "no-progress") ? TC_PROGRESS_NONE
                                                             : TC_PROGRESS_TEXT);
    job.progress = progress;
    job.rate = job.rate_bytes ? tc_rate_new(job.rate_bytes) : NULL;
    if (!restore(&job, &error)) {
        tc_progress_clear(progress);
        status = tc_fail(g_steal_pointer(&error));
        status = job.signo ? 128 + job.signo : status;
    }
    clear(&job);
    return status;
}

const TcCommand tc_command_restore = {
    .name = "restore",
    .args = "REPOSITORY TARGET...",
    .summary = "Restores disks from a repository of backups",
    .details =
        "A TARGET is a raw or qcow2 file, a block device or an NBD URI: one for each disk, in the\n"
        "order of their names, or NAME=TARGET, or one directory. Every block is checked against\n"
        "its hash. What exists is overwritten only with --force or --in-place.\n",
    .min_args = 2,
    .max_args = -1,
    .options = options,
    .run = run,
};
