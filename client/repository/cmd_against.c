/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/cmd_against.c: "tidemark verify REPOSITORY [POINT] --against DISK". */
#include "client/backup/source.h"
#include "client/commands.h"
#include "client/daemon/qmp_client.h"
#include "client/json.h"
#include "client/progress.h"
#include "client/repository/against.h"
#include "client/repository/verify_against.h"
#include "client/text.h"
#include "client/work.h"
#include "util/json.h"
#include "util/log.h"
#include <string.h>
#include <unistd.h>

enum { LINES_MAX = 40 };

typedef struct Job {
    const TcInvocation *inv;
    const char *word; /* the other disk: a URI, a file, or a daemon's */
    char *name;       /* of the disk in the point */
    const TcManifest *point;
    TcAgainst *against;
    TcBackupSource *source; /* of a daemon's */
    GPtrArray *disks;       /* TcBackupDisk: one */
    TcProgress *progress;
    TcPart *part;
    GError *end_error;
} Job;

/* ---- which disks */

/* "NAME=DISK", or DISK: then the point has one disk only, or one of that name. */
static bool choose_disk(Job *job, const char *given, GError **error)
{
    const char *equals = strchr(given, '=');
    g_autofree char *first = equals ? g_strndup(given, (gsize)(equals - given)) : NULL;
    g_autofree char *base = g_path_get_basename(given);
    const GPtrArray *disks = job->point->disks;

    if (first && tc_manifest_disk(job->point, first)) {
        job->word = equals + 1;
        job->name = g_strdup(first);
        return true;
    }
    job->word = given;
    base[strcspn(base, ".?")] = '\0';
    if (disks->len == 1 || tc_manifest_disk(job->point, base)) {
        job->name = g_strdup(disks->len == 1 ? ((TcPointDisk *)disks->pdata[0])->name : base);
        return true;
    }
    return tm_error_set(error,
                        "point '%s' has %u disks: use --against NAME=%s to choose one of them",
                        job->point->point, disks->len, given);
}

static bool is_uri(const char *word)
{
    return strstr(word, "://") != NULL;
}

/* A path with a slash, or that is there. */
static bool is_file(const char *word)
{
    return strchr(word, '/') || g_file_test(word, G_FILE_TEST_EXISTS);
}

/* ---- the daemon's disk, as it is at one instant */

static bool begin_instant(Job *job, GError **error)
{
    g_autofree char *path = tc_qmp_socket(tc_option(job->inv, "socket"));
    g_autofree char *tag = g_strdup_printf("verify-%08x", g_random_int());
    TcBackupBegin begin = { 0 };
    uint64_t instant;

    job->disks = g_ptr_array_new_with_free_func((GDestroyNotify)tc_backup_disk_free);
    g_ptr_array_add(job->disks, tc_backup_disk_new(job->name, job->word));
    job->source = tc_backup_daemon_new(path, tag, error);
    return job->source && job->source->look(job->source, job->disks, error) &&
           job->source->begin(job->source, job->disks, &begin, &instant, error);
}

static bool compare_daemon(Job *job, GError **error)
{
    bool ok = begin_instant(job, error);

    if (ok)
        ok = tc_against_nbd(job->against, ((TcBackupDisk *)job->disks->pdata[0])->uri, error);
    if (job->source)
        job->source->end(job->source, job->disks, false, &job->end_error);
    return ok;
}

/* ---- the work */

static bool compare(void *opaque, GError **error)
{
    Job *job = opaque;

    return is_uri(job->word)    ? tc_against_nbd(job->against, job->word, error)
           : is_file(job->word) ? tc_against_file(job->against, job->word, error)
                                : compare_daemon(job, error);
}

static void tick(void *opaque)
{
    Job *job = opaque;

    tc_part_set(job->part, "comparing", tc_against_done(job->against),
                tc_against_size(job->against));
    tc_progress_draw(job->progress);
}

static void interrupt(void *opaque, int signo, bool again)
{
    Job *job = opaque;

    if (again)
        _exit(128 + signo);
    tc_against_stop(job->against);
}

/* ---- the report */

static void print_range(const Job *job, const TcRun *run, guint i)
{
    if (tc_flag(job->inv, "json")) {
        json_object *o = json_object_new_object();

        tm_json_add_uint(o, "offset", run->offset);
        tm_json_add_uint(o, "length", run->length);
        tm_json_add_bool(o, "readable", run->kind != TC_RUN_NONE);
        tc_progress_event(job->progress, "difference", o);
    } else if (i < LINES_MAX) {
        printf("%" PRIu64 " bytes at %" PRIu64 " %s\n", run->length, run->offset,
               run->kind == TC_RUN_NONE ? "can't be read from the point" : "differ");
    }
}

static void print_sum(const Job *job, uint64_t differ, uint64_t lost, guint ranges, bool more)
{
    g_autofree char *human = tc_human_size(differ), *word = tc_printable(job->word);

    if (tc_flag(job->inv, "json")) {
        json_object *o = json_object_new_object();

        tm_json_add_string(o, "point", job->point->point);
        tm_json_add_string(o, "disk", job->name);
        tm_json_add_string(o, "against", job->word);
        tm_json_add_uint(o, "size", tc_against_size(job->against));
        tm_json_add_uint(o, "different", differ);
        tm_json_add_uint(o, "unreadable", lost);
        tm_json_add_bool(o, "all", !more);
        tc_progress_event(job->progress, "compared", o);
        return;
    }
    if (ranges > LINES_MAX || more)
        printf("... and more, %s%u ranges in all\n", more ? "at least " : "", ranges);
    if (differ)
        printf("Disk %s of point %s and %s differ in %s%s.\n", job->name, job->point->point, word,
               more ? "at least " : "", human);
    else if (!lost)
        printf("Disk %s of point %s equals %s.\n", job->name, job->point->point, word);
}

static int report(const Job *job)
{
    uint64_t bytes[TC_RUN_DATA + 1] = { 0 };
    bool more;
    const GArray *found = tc_against_found(job->against, &more);

    for (guint i = 0; i < found->len; i++) {
        const TcRun *run = &g_array_index(found, TcRun, i);

        bytes[run->kind] += run->length;
        print_range(job, run, i);
    }
    print_sum(job, bytes[TC_RUN_DATA], bytes[TC_RUN_NONE], found->len, more);
    if (job->end_error)
        tm_log(TM_LOG_WARNING, "the backup in the daemon may not have ended: %s",
               job->end_error->message);
    return bytes[TC_RUN_NONE]                     ? TC_EXIT_DAMAGED
           : bytes[TC_RUN_DATA] || job->end_error ? TC_EXIT_PROBLEMS
                                                  : TC_EXIT_OK;
}

/* ---- the command */

static void clear(Job *job)
{
    tc_backup_source_close(job->source);
    g_clear_pointer(&job->disks, g_ptr_array_unref);
    tc_against_free(job->against);
    g_clear_error(&job->end_error);
    g_free(job->name);
}

int tc_run_verify_against(const TcInvocation *inv, TcRepository *repo, const TcManifest *point,
                          TcProgress *progress)
{
    Job job = { .inv = inv, .point = point, .progress = progress };
    TcWork work = { &job, compare, tick, interrupt };
    g_autoptr(GError) error = NULL;
    int status = TC_EXIT_OK, signo = 0;

    if (!choose_disk(&job, tc_option(inv, "against"), &error)) {
        status = tc_fail_usage(inv, g_steal_pointer(&error));
    } else if (!(job.against = tc_against_new(repo, point, job.name, &error))) {
        status = tc_fail(g_steal_pointer(&error));
    } else {
        job.part = tc_progress_part(progress, "");
        if (tc_work_run(&work, &signo, &error)) {
            tc_part_end(job.part, "compared");
            tc_progress_clear(progress);
            status = report(&job);
        } else {
            tc_progress_clear(progress);
            if (!error)
                tm_error_set(&error, "interrupted");
            status = tc_fail(g_steal_pointer(&error));
            status = signo ? 128 + signo : status;
        }
    }
    clear(&job);
    return status;
}
