/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/cmd_verify.c: "tidemark verify REPOSITORY [POINT...]". */
#include "client/commands.h"
#include "client/json.h"
#include "client/progress.h"
#include "client/repository/merge.h"
#include "client/repository/verified.h"
#include "client/repository/verify.h"
#include "client/repository/verify_against.h"
#include "client/repository/view.h"
#include "client/table.h"
#include "client/text.h"
#include "client/work.h"
#include "util/json.h"
#include "util/log.h"
#include <string.h>
#include <unistd.h>

static const TcOption options[] = {
    { "against", "DISK", "compare the point with this disk: a daemon's, an NBD URI, or a file" },
    TC_SOCKET_OPTION,
    TC_WAIT_OPTION,
    TC_NO_PROGRESS_OPTION,
    TC_EVENTS_OPTION,
    { 0 },
};

/* What was found of a point. */
typedef struct Result {
    const TcManifest *point; /* borrowed */
    TcVerified verified;
} Result;

typedef struct Job {
    const TcInvocation *inv;
    bool json;
    TcRepository *repo;
    GPtrArray *points; /* TcManifest, borrowed */
    TcVerify verify;
    TcProgress *progress;
    TcPart *part;
    GArray *results; /* Result */
} Job;

static void result_clear(void *data)
{
    tc_verified_clear(&((Result *)data)->verified);
}

/* ---- opening */

/* What a merge that was interrupted left can't be verified: it is completed first. */
static bool complete_merge(const char *path, const TcRepoOptions *o, GError **error)
{
    TcRepoOptions change = *o;
    g_autoptr(TcRepository) repo = NULL;

    change.use = TC_REPO_CHANGE;
    repo = tc_repo_open(path, &change, error);
    return repo && (tc_merge_state(repo) == TC_MERGE_NONE ||
                    tm_error_set(error,
                                 "repository '%s' has a removal of a point that was interrupted "
                                 "and can't be completed: 'tidemark list' has more",
                                 path));
}

static TcRepository *open_repository(Job *job, GError **error)
{
    TcRepoOptions o = { .use = TC_REPO_READ, .what = job->inv->path };
    const char *path = tc_arg(job->inv, 0);
    g_autoptr(TcRepository) repo = NULL;

    if (!tc_option_wait(job->inv, &o.wait_s, error))
        return NULL;
    repo = tc_repo_open(path, &o, error);
    if (!repo || tc_merge_state(repo) == TC_MERGE_NONE)
        return g_steal_pointer(&repo);
    g_clear_pointer(&repo, tc_repo_close);
    return complete_merge(path, &o, error) ? tc_repo_open(path, &o, error) : NULL;
}

/* Those that are named, or all; to compare with a disk only one. */
static bool choose_points(Job *job, GError **error)
{
    const char *latest = tc_option(job->inv, "against") && !tc_arg(job->inv, 1) ? "latest" : NULL;
    TcManifest *only = latest ? tc_repo_find(job->repo, latest, error) : NULL;

    job->points = g_ptr_array_new();
    if (latest) {
        g_ptr_array_add(job->points, only);
        return only != NULL;
    }
    for (guint i = 1; tc_arg(job->inv, i); i++) {
        TcManifest *m = tc_repo_find(job->repo, tc_arg(job->inv, i), error);

        if (!m)
            return false;
        if (!g_ptr_array_find(job->points, m, NULL))
            g_ptr_array_add(job->points, m);
    }
    for (guint i = 0; !tc_arg(job->inv, 1) && i < tc_repo_points(job->repo)->len; i++)
        g_ptr_array_add(job->points, tc_repo_points(job->repo)->pdata[i]);
    return true;
}

/* ---- the work */

static bool verify(void *opaque, GError **error)
{
    Job *job = opaque;

    return tc_verify_run(&job->verify, error);
}

static void tick(void *opaque)
{
    Job *job = opaque;

    tc_part_set(job->part, "verifying", MIN(job->verify.done, job->verify.total),
                job->verify.total);
    tc_progress_draw(job->progress);
}

static void interrupt(void *opaque, int signo, bool again)
{
    Job *job = opaque;

    if (again)
        _exit(128 + signo);
    job->verify.stop = true;
}

/* Remembers it for list and info. That it can't, on a medium that is read-only, is no damage. */
static void record(Job *job, const Result *r)
{
    g_autoptr(GError) error = NULL;

    if (!tc_verified_write(job->repo, r->point, &r->verified, &error))
        tm_log(TM_LOG_WARNING, "the result is not recorded: %s", error->message);
}

static void find_results(Job *job)
{
    job->results = g_array_new(FALSE, TRUE, sizeof(Result));
    g_array_set_clear_func(job->results, result_clear);
    for (guint i = 0; i < job->points->len; i++) {
        Result r = { .point = job->points->pdata[i] };

        r.verified.time = (uint64_t)g_get_real_time() * 1000;
        r.verified.found = tc_verify_point(&job->verify, r.point, &r.verified.whole);
        record(job, &r);
        g_array_append_val(job->results, r);
    }
}

/* ---- the report */

static void print_event(Job *job, const Result *r)
{
    json_object *o = json_object_new_object(), *found = json_object_new_array();

    for (guint i = 0; i < r->verified.found->len; i++)
        json_object_array_add(found, json_object_new_string(r->verified.found->pdata[i]));
    tm_json_add_string(o, "point", r->point->point);
    tm_json_add_bool(o, "whole", r->verified.whole);
    json_object_object_add(o, "found", found);
    tc_progress_event(job->progress, "point", o);
}

static void print_point(TcTable *table, const Result *r)
{
    g_autofree char *time = tc_repo_time_text(r->point->instant);

    tc_table_add(table, r->point->point, time,
                 !r->verified.whole       ? "DAMAGED"
                 : r->verified.found->len ? "whole, but see below"
                                          : "whole");
}

static void print_found(const Result *r)
{
    for (guint i = 0; i < r->verified.found->len; i++) {
        g_autofree char *line =
            g_strdup_printf("%s: %s", r->point->point, (char *)r->verified.found->pdata[i]);

        tc_print_wrapped(stdout, 0, 2, line);
    }
}

typedef struct Sum {
    guint whole, damaged, noted;
} Sum;

static Sum sum_up(const Job *job)
{
    Sum sum = { .damaged = tc_arg(job->inv, 1) ? 0 : tc_repo_damaged(job->repo)->len };

    for (guint i = 0; i < job->results->len; i++) {
        const Result *r = &g_array_index(job->results, Result, i);

        *(r->verified.whole ? &sum.whole : &sum.damaged) += 1;
        sum.noted += r->verified.found->len != 0;
    }
    return sum;
}

/* Of the repository as a whole: only where that was asked about. */
static void print_rest(const Job *job)
{
    if (tc_arg(job->inv, 1))
        return;
    for (guint i = 0; i < tc_repo_damaged(job->repo)->len; i++) {
        const TcDamaged *d = tc_repo_damaged(job->repo)->pdata[i];

        printf("%s: DAMAGED: %s\n", d->point, d->why);
    }
    for (guint i = 0; i < tc_repo_foreign(job->repo)->len; i++) {
        g_autofree char *name = tc_printable(tc_repo_foreign(job->repo)->pdata[i]);

        printf("'%s' is no file of the repository\n", name);
    }
}

static void print_summary(const Job *job, const Sum *sum, double seconds)
{
    g_autofree char *read = tc_human_size(job->verify.done);
    g_autofree char *rate =
        tc_human_size(seconds > 0 ? (uint64_t)((double)job->verify.done / seconds) : 0);

    printf("Read %s in %u image%s, %s/s: %u point%s whole, %u damaged.\n", read,
           job->verify.images->len, job->verify.images->len == 1 ? "" : "s", rate, sum->whole,
           sum->whole == 1 ? " is" : "s are", sum->damaged);
}

static void report_json(Job *job, const Sum *sum, double seconds)
{
    json_object *o = json_object_new_object();

    for (guint i = 0; i < job->results->len; i++)
        print_event(job, &g_array_index(job->results, Result, i));
    tc_repo_state_json(job->repo, o);
    tm_json_add_uint(o, "read", job->verify.done);
    tm_json_add_uint(o, "images", job->verify.images->len);
    tm_json_add_uint(o, "whole", sum->whole);
    json_object_object_add(o, "seconds", json_object_new_double(seconds));
    tc_progress_event(job->progress, "verified", o);
}

static void report_text(Job *job, const Sum *sum, double seconds)
{
    g_autoptr(TcTable) table = tc_table_new(NULL, "Point|Time|Result");

    for (guint i = 0; i < job->results->len; i++)
        print_point(table, &g_array_index(job->results, Result, i));
    if (job->results->len)
        tc_table_print(table, stdout, tc_terminal_colors(stdout));
    for (guint i = 0; i < job->results->len; i++)
        print_found(&g_array_index(job->results, Result, i));
    print_rest(job);
    print_summary(job, sum, seconds);
}

static int report(Job *job, double seconds)
{
    Sum sum = sum_up(job);
    bool foreign = !tc_arg(job->inv, 1) && tc_repo_foreign(job->repo)->len;

    (job->json ? report_json : report_text)(job, &sum, seconds);
    return sum.damaged ? TC_EXIT_DAMAGED : sum.noted || foreign ? TC_EXIT_PROBLEMS : TC_EXIT_OK;
}

/* ---- the command */

static int run_job(Job *job)
{
    TcWork work = { job, verify, tick, interrupt };
    gint64 start = g_get_monotonic_time();
    g_autoptr(GError) error = NULL;
    int signo;

    tc_verify_init(&job->verify, job->repo, job->points);
    job->part = tc_progress_part(job->progress, "");
    if (!tc_work_run(&work, &signo, &error)) {
        tc_progress_clear(job->progress);
        if (error) {
            g_prefix_error(&error, "not all could be verified, and nothing was recorded: ");
            return tc_fail(g_steal_pointer(&error));
        }
        tm_log(TM_LOG_ERROR, "interrupted: nothing was recorded");
        return 128 + signo;
    }
    tc_part_end(job->part, "verified");
    tc_progress_clear(job->progress);
    find_results(job);
    return report(job, (double)(g_get_monotonic_time() - start) / 1e6);
}

static void clear(Job *job)
{
    g_clear_pointer(&job->results, g_array_unref);
    tc_verify_clear(&job->verify);
    g_clear_pointer(&job->points, g_ptr_array_unref);
    tc_progress_free(job->progress);
    tc_repo_close(job->repo);
}

static bool check_options(const TcInvocation *inv, GError **error)
{
    if (tc_option(inv, "against") && tc_arg(inv, 2))
        return tm_error_set(error, "--against takes one point, and 'tidemark verify' has '%s', too",
                            tc_arg(inv, 2));
    return !tc_option(inv, "socket") || tc_option(inv, "against") ||
           tm_error_set(error, "--socket is of use with --against only");
}

static int run(const TcInvocation *inv)
{
    Job job = { .inv = inv, .json = tc_flag(inv, "json") };
    g_autoptr(GError) error = NULL;
    int status;

    if (!check_options(inv, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    job.progress = tc_progress_new(job.json                      ? TC_PROGRESS_JSON
                                   : tc_flag(inv, "no-progress") ? TC_PROGRESS_NONE
                                                                 : TC_PROGRESS_TEXT);
    job.repo = open_repository(&job, &error);
    if (!job.repo || !choose_points(&job, &error))
        status = tc_fail(g_steal_pointer(&error));
    else if (tc_option(inv, "against"))
        status = tc_run_verify_against(inv, job.repo, job.points->pdata[0], job.progress);
    else
        status = run_job(&job);
    clear(&job);
    return status;
}

const TcCommand tc_command_verify = {
    .name = "verify",
    .args = "REPOSITORY [POINT...]",
    .summary = "Reads the points of a repository, and compares each block with its hash",
    .details =
        "It names the points that damage touches, and what of them is lost. 'tidemark list' shows\n"
        "the result. With --against it compares one point, the latest by default, with DISK as it\n"
        "is now; of several disks NAME=DISK chooses one. Exit status 5: a point is damaged; 3:\n"
        "something else needs a look, or the disks differ.\n",
    .min_args = 1,
    .max_args = -1,
    .options = options,
    .run = run,
};
