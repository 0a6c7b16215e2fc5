/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/removal.c: see removal.h. */
#include "client/repository/removal.h"
#include "client/commands.h"
#include "client/progress.h"
#include "client/table.h"
#include "client/text.h"
#include "client/work.h"
#include "util/json.h"
#include "util/log.h"
#include <string.h>
#include <unistd.h>

struct TcRemoval {
    const TcInvocation *inv;
    bool json, dry_run;
    TcRepository *repo;
    GArray *fates; /* TcFate, the oldest first */
    TcMergeCost cost;
    guint going; /* how many are to be removed */
    TcProgress *progress;
    TcPart *part;
    TcMergeWatch watch;
    atomic_uint removed;
    int signo;
};

static void fate_clear(void *data)
{
    TcFate *f = data;

    g_free(f->point);
    g_free(f->why);
}

static TcFate *fate(const TcRemoval *r, guint i)
{
    return &g_array_index(r->fates, TcFate, i);
}

TcFate *tc_removal_fate(const TcRemoval *r, guint i)
{
    return fate(r, tc_merge_order(r->repo, i, r->fates->len));
}

/* ---- opening */

static bool open_repository(TcRemoval *r, int wait_s, GError **error)
{
    TcRepoOptions use = {
        .use = r->dry_run ? TC_REPO_READ : TC_REPO_CHANGE,
        .wait_s = wait_s,
        .what = r->inv->path,
    };
    const GPtrArray *damaged;
    const TcDamaged *first;

    r->repo = tc_repo_open(tc_arg(r->inv, 0), &use, error);
    if (!r->repo)
        return false;
    damaged = tc_repo_damaged(r->repo);
    if (!damaged->len)
        return true;
    first = damaged->pdata[0];
    return tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED,
                             "nothing was removed, because point '%s' is damaged and nobody knows "
                             "what it stands on: %s; restore its files, or move it out of the "
                             "repository",
                             first->point, first->why);
}

static void list_points(TcRemoval *r)
{
    const GPtrArray *points = tc_repo_points(r->repo);

    r->fates = g_array_new(FALSE, FALSE, sizeof(TcFate));
    g_array_set_clear_func(r->fates, fate_clear);
    for (guint i = 0; i < points->len; i++) {
        const TcManifest *m = points->pdata[i];
        TcFate f = {
            .point = g_strdup(m->point), .instant = m->instant, .why = g_strdup(""), .wanted = true
        };

        g_array_append_val(r->fates, f);
    }
}

TcRemoval *tc_removal_new(const TcInvocation *inv, int *status)
{
    g_autoptr(TcRemoval) r = g_new0(TcRemoval, 1);
    g_autoptr(GError) error = NULL;
    int wait_s = 0;

    r->inv = inv;
    r->json = tc_flag(inv, "json");
    r->dry_run = tc_flag(inv, "dry-run");
    r->progress = tc_progress_new(r->json                       ? TC_PROGRESS_JSON
                                  : tc_flag(inv, "no-progress") ? TC_PROGRESS_NONE
                                                                : TC_PROGRESS_TERMINAL);
    if (!tc_option_wait(inv, &wait_s, &error))
        *status = tc_fail_usage(inv, g_steal_pointer(&error));
    else if (!open_repository(r, wait_s, &error))
        *status = tc_fail(g_steal_pointer(&error));
    else {
        list_points(r);
        return g_steal_pointer(&r);
    }
    return NULL;
}

TcRepository *tc_removal_repo(TcRemoval *r)
{
    return r->repo;
}

GArray *tc_removal_fates(TcRemoval *r)
{
    return r->fates;
}

void tc_removal_free(TcRemoval *r)
{
    if (!r)
        return;
    tc_progress_free(r->progress);
    tc_repo_close(r->repo);
    g_clear_pointer(&r->fates, g_array_unref);
    g_free(r);
}

/* ---- what it costs */

static bool make_plan(TcRemoval *r, GError **error)
{
    g_autoptr(TcMergePlan) plan = tc_merge_plan(r->repo);

    for (guint i = 0; i < r->fates->len; i++) {
        TcFate *f = tc_removal_fate(r, i);

        if (f->why)
            continue;
        f->wanted = false;
        if (!tc_merge_plan_remove(plan, f->point, &f->cost, &f->why, error))
            return false;
        r->cost.written += f->cost.written;
        r->cost.freed += f->cost.freed;
        r->going += f->why == NULL;
    }
    return true;
}

/* ---- saying it */

static char *time_text(uint64_t instant)
{
    g_autoptr(GDateTime) time =
        g_date_time_new_from_unix_local((gint64)(instant / (G_USEC_PER_SEC * 1000)));

    return time ? g_date_time_format(time, "%Y-%m-%d %H:%M:%S") : g_strdup("?");
}

static void print_plan(const TcRemoval *r)
{
    g_autoptr(TcTable) table = tc_table_new(NULL, "Point|Time||>Writes|>Frees");
    g_autofree char *written = tc_human_size(r->cost.written),
                    *freed = tc_human_size(r->cost.freed);

    for (guint i = 0; i < r->fates->len; i++) {
        const TcFate *f = fate(r, i);
        g_autofree char *time = time_text(f->instant), *what = NULL;
        g_autofree char *writes = f->why ? NULL : tc_human_size(f->cost.written);
        g_autofree char *frees = f->why ? NULL : tc_human_size(f->cost.freed);

        if (f->why && !*f->why)
            continue;
        what = f->why ? g_strdup_printf("%s (%s)", f->wanted ? "keep" : "can't be removed", f->why)
                      : g_strdup("remove");
        tc_table_add(table, f->point, time, what, writes ? writes : "", frees ? frees : "");
    }
    if (r->fates->len)
        tc_table_print(table, stdout, tc_terminal_colors(stdout));
    if (r->going)
        printf("%u of %u points to remove: writes %s and frees %s, before compression.\n", r->going,
               r->fates->len, written, freed);
    else
        printf("No point to remove.\n");
    fflush(stdout);
}

static json_object *plan_json(const TcRemoval *r)
{
    json_object *o = json_object_new_object(), *points = json_object_new_array();

    tm_json_add_string(o, "repository", tc_repo_path(r->repo));
    for (guint i = 0; i < r->fates->len; i++) {
        const TcFate *f = fate(r, i);
        json_object *point = json_object_new_object();

        tm_json_add_string(point, "point", f->point);
        tm_json_add_bool(point, "stays", f->why != NULL);
        if (f->why && *f->why)
            tm_json_add_string(point, "reason", f->why);
        if (!f->why)
            tm_json_add_uint(point, "written", f->cost.written);
        if (!f->why)
            tm_json_add_uint(point, "freed", f->cost.freed);
        json_object_array_add(points, point);
    }
    json_object_object_add(o, "points", points);
    tm_json_add_uint(o, "written", r->cost.written);
    tm_json_add_uint(o, "freed", r->cost.freed);
    return o;
}

/* ---- doing it */

static void say_removed(TcRemoval *r, const char *point)
{
    json_object *o = json_object_new_object();

    tm_json_add_string(o, "point", point);
    tc_progress_event(r->progress, "removed", o);
}

static bool remove_points(void *opaque, GError **error)
{
    TcRemoval *r = opaque;

    for (guint i = 0; i < r->fates->len; i++) {
        const TcFate *f = tc_removal_fate(r, i);

        if (f->why)
            continue;
        if (atomic_load(&r->watch.stop) || !tc_merge_run(r->repo, f->point, &r->watch, error))
            return false;
        atomic_fetch_add(&r->removed, 1);
        say_removed(r, f->point);
    }
    return true;
}

static void tick(void *opaque)
{
    TcRemoval *r = opaque;

    tc_part_set(r->part, "merging", atomic_load(&r->watch.done), r->cost.written);
    tc_progress_draw(r->progress);
}

/* What is under way can be left at any moment: the next command goes on. */
static void interrupt(void *opaque, int signo, bool again)
{
    TcRemoval *r = opaque;

    atomic_store(&r->watch.stop, true);
    if (!again)
        return;
    tc_progress_clear(r->progress);
    tm_log(TM_LOG_ERROR, "interrupted: all points that stay are as before, and the next command "
                         "that changes the repository goes on");
    _exit(128 + signo);
}

static int report_failure(const TcRemoval *r, GError *error)
{
    guint removed = atomic_load(&r->removed);
    int status;

    if (!error) {
        tm_log(TM_LOG_ERROR,
               "interrupted: %u of %u points were removed, all that stay are as before; run the "
               "same command again to go on",
               removed, r->going);
        return 128 + r->signo;
    }
    if (removed)
        g_prefix_error(&error, "%u of %u points were removed: ", removed, r->going);
    status = tc_fail(error);
    return removed && status == TC_EXIT_FAILED ? TC_EXIT_PROBLEMS : status;
}

static int report(TcRemoval *r, double seconds)
{
    uint64_t wrong = atomic_load(&r->watch.wrong);
    json_object *o = json_object_new_object();

    tm_json_add_uint(o, "removed", r->going);
    tm_json_add_uint(o, "written", atomic_load(&r->watch.done));
    tm_json_add_uint(o, "damaged", wrong);
    json_object_object_add(o, "seconds", json_object_new_double(seconds));
    tc_progress_event(r->progress, "end", o);
    if (!r->json)
        printf("Removed %u point%s in %.1f s.\n", r->going, r->going == 1 ? "" : "s", seconds);
    if (!wrong)
        return TC_EXIT_OK;
    tm_log(TM_LOG_ERROR,
           "%" PRIu64 " block%s of points that stay %s damaged before already: 'tidemark verify "
           "%s' names them",
           wrong, wrong == 1 ? "" : "s", wrong == 1 ? "was" : "were", tc_repo_path(r->repo));
    return TC_EXIT_DAMAGED;
}

static int carry_out(TcRemoval *r)
{
    TcWork work = { .opaque = r, .run = remove_points, .tick = tick, .interrupt = interrupt };
    gint64 start = g_get_monotonic_time();
    GError *error = NULL;
    bool ok;

    r->part = tc_progress_part(r->progress, "");
    ok = tc_work_run(&work, &r->signo, &error);
    tc_progress_clear(r->progress);
    return ok ? report(r, (double)(g_get_monotonic_time() - start) / 1e6)
              : report_failure(r, error);
}

int tc_removal_run(TcRemoval *r)
{
    g_autoptr(GError) error = NULL;

    if (!make_plan(r, &error))
        return tc_fail(g_steal_pointer(&error));
    if (r->json)
        tc_progress_event(r->progress, "plan", plan_json(r));
    else
        print_plan(r);
    if (!r->dry_run && r->going)
        return carry_out(r);
    if (r->dry_run && !r->json)
        printf("Nothing was changed: --dry-run.\n");
    return TC_EXIT_OK;
}
