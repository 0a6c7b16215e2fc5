/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/cmd_copy_points.c: "tidemark copy-points": brings a repository the points of
 * another one that it lacks. */
#include "client/commands.h"
#include "client/json.h"
#include "client/progress.h"
#include "client/repository/copy_points.h"
#include "client/table.h"
#include "client/text.h"
#include "client/work.h"
#include "util/json.h"
#include "util/log.h"
#include <string.h>
#include <unistd.h>

static const TcOption options[] = {
    { "dry-run", NULL, "only show what would be copied" },
    { "rate", "SIZE", "copy at most so many bytes a second (default: no limit)" },
    TC_WAIT_OPTION,
    TC_NO_PROGRESS_OPTION,
    TC_EVENTS_OPTION,
    { 0 },
};

typedef struct Copy {
    const TcInvocation *inv;
    int wait_s;
    bool json, dry_run;
    TcRepository *from, *to; /* to: NULL if it is not there, and nothing is to be changed */
    GPtrArray *list;         /* TcCopyPoint */
    TcCopyWatch watch;
    uint64_t bytes;
    TcProgress *progress;
    TcPart *part;
    int signo;
} Copy;

static bool set_up(Copy *c, GError **error)
{
    uint64_t rate = 0;

    c->json = tc_flag(c->inv, "json");
    c->dry_run = tc_flag(c->inv, "dry-run");
    if (!tc_option_number(c->inv, "rate", 1, INT64_MAX, &rate, error) ||
        !tc_option_wait(c->inv, &c->wait_s, error))
        return false;
    c->watch.rate = rate ? tc_rate_new(rate) : NULL;
    return true;
}

static bool open_both(Copy *c, GError **error)
{
    TcRepoOptions use = { .use = TC_REPO_READ, .wait_s = c->wait_s, .what = c->inv->path };
    const char *to = tc_arg(c->inv, 1);

    c->from = tc_repo_open(tc_arg(c->inv, 0), &use, error);
    if (!c->from)
        return false;
    use.use = c->dry_run ? TC_REPO_LIST : TC_REPO_ADD;
    use.create = !c->dry_run;
    if (!c->dry_run || tc_repo_is(to))
        c->to = tc_repo_open(to, &use, error);
    return c->to || (c->dry_run && !tc_repo_is(to));
}

static bool make_plan(Copy *c, GError **error)
{
    c->list = tc_copy_plan(c->from, c->to, (const char *const *)&c->inv->args->pdata[2], error);
    for (guint i = 0; c->list && i < c->list->len; i++)
        c->bytes += ((TcCopyPoint *)c->list->pdata[i])->bytes;
    return c->list != NULL;
}

/* ---- saying it */

static void print_plan(const Copy *c)
{
    g_autoptr(TcTable) table = tc_table_new(NULL, "Point||>Copies");
    g_autofree char *all = tc_human_size(c->bytes);

    for (guint i = 0; i < c->list->len; i++) {
        const TcCopyPoint *p = c->list->pdata[i];
        g_autofree char *bytes = tc_human_size(p->bytes);

        tc_table_add(table, p->point->point, p->asked ? "" : "another one stands on it", bytes);
    }
    if (c->list->len) {
        tc_table_print(table, stdout, tc_terminal_colors(stdout));
        printf("%u point%s to copy: %s, before compression.\n", c->list->len,
               c->list->len == 1 ? "" : "s", all);
    } else {
        printf("Nothing to copy: '%s' has these points already.\n", tc_arg(c->inv, 1));
    }
    fflush(stdout);
}

static json_object *plan_json(const Copy *c)
{
    json_object *o = json_object_new_object(), *points = json_object_new_array();

    tm_json_add_string(o, "source", tc_repo_path(c->from));
    tm_json_add_string(o, "target", tc_arg(c->inv, 1));
    for (guint i = 0; i < c->list->len; i++) {
        const TcCopyPoint *p = c->list->pdata[i];
        json_object *point = json_object_new_object();

        tm_json_add_string(point, "point", p->point->point);
        tm_json_add_bool(point, "asked", p->asked);
        tm_json_add_uint(point, "bytes", p->bytes);
        json_object_array_add(points, point);
    }
    json_object_object_add(o, "points", points);
    tm_json_add_uint(o, "bytes", c->bytes);
    return o;
}

/* ---- doing it */

static void say_copied(Copy *c, const TcCopyPoint *p)
{
    json_object *o = json_object_new_object();

    tm_json_add_string(o, "point", p->point->point);
    if (p->failure)
        tm_json_add_string(o, "reason", p->failure);
    tc_progress_event(c->progress, p->copied ? "copied" : "failed", o);
}

/* Damage of one point leaves the others; any other failure would come again. */
static bool copy_points(void *opaque, GError **error)
{
    Copy *c = opaque;

    for (guint i = 0; i < c->list->len; i++) {
        TcCopyPoint *p = c->list->pdata[i];
        GError *failure = NULL;

        if (!p->failure)
            p->copied = tc_copy_point(c->from, c->to, p->point, &c->watch, &failure);
        if (failure) {
            p->damaged = g_error_matches(failure, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED);
            p->failure = g_strdup(failure->message);
        } else if (!p->failure && !p->copied) {
            return false; /* interrupted */
        }
        say_copied(c, p);
        g_clear_error(&failure);
        if (p->failure && !p->damaged)
            return tm_error_set(error, "point '%s' was not copied: %s", p->point->point,
                                p->failure);
    }
    return true;
}

static void tick(void *opaque)
{
    Copy *c = opaque;
    uint64_t sent, to_send;

    tc_repo_sent(c->to, &sent, &to_send);
    if (sent < to_send)
        tc_part_set(c->part, "sending", sent, to_send);
    else
        tc_part_set(c->part, "copying", atomic_load(&c->watch.done), c->bytes);
    tc_progress_draw(c->progress);
}

static void interrupt(void *opaque, int signo, bool again)
{
    Copy *c = opaque;

    atomic_store(&c->watch.stop, true);
    if (!again)
        return;
    tc_progress_clear(c->progress);
    tm_log(TM_LOG_ERROR, "interrupted: the points that were copied are whole; run the same command "
                         "again to go on");
    _exit(128 + signo);
}

static guint count_copied(const Copy *c)
{
    guint n = 0;

    for (guint i = 0; i < c->list->len; i++)
        n += ((TcCopyPoint *)c->list->pdata[i])->copied;
    return n;
}

static int report_failure(const Copy *c, GError *error)
{
    guint copied = count_copied(c);
    int status;

    if (!error) {
        tm_log(TM_LOG_ERROR,
               "interrupted: %u of %u points were copied, each of them whole; run the same command "
               "again to go on",
               copied, c->list->len);
        return 128 + c->signo;
    }
    if (copied)
        g_prefix_error(&error, "%u of %u points were copied, each of them whole: ", copied,
                       c->list->len);
    status = tc_fail(error);
    return copied && status == TC_EXIT_FAILED ? TC_EXIT_PROBLEMS : status;
}

static int report(Copy *c, double seconds)
{
    guint copied = count_copied(c);
    g_autofree char *bytes = tc_human_size(atomic_load(&c->watch.done));
    json_object *o = json_object_new_object();
    int status = TC_EXIT_OK;

    tm_json_add_uint(o, "copied", copied);
    tm_json_add_uint(o, "bytes", atomic_load(&c->watch.done));
    json_object_object_add(o, "seconds", json_object_new_double(seconds));
    tc_progress_event(c->progress, "end", o);
    if (!c->json)
        printf("Copied %u point%s, %s in %.1f s.\n", copied, copied == 1 ? "" : "s", bytes,
               seconds);
    for (guint i = 0; i < c->list->len; i++) {
        const TcCopyPoint *p = c->list->pdata[i];

        if (p->copied)
            continue;
        tm_log(TM_LOG_ERROR, "point '%s' was not copied: %s", p->point->point, p->failure);
        status = TC_EXIT_DAMAGED;
    }
    return status;
}

/* Those whose manifest is damaged are not even in the plan. */
static int report_damaged(const Copy *c, int status)
{
    const GPtrArray *damaged = tc_repo_damaged(c->from);

    for (guint i = 0; i < damaged->len; i++) {
        const TcDamaged *d = damaged->pdata[i];

        tm_log(TM_LOG_ERROR, "point '%s' was not copied: %s", d->point, d->why);
    }
    return damaged->len && status == TC_EXIT_OK ? TC_EXIT_DAMAGED : status;
}

static int carry_out(Copy *c)
{
    TcWork work = { .opaque = c, .run = copy_points, .tick = tick, .interrupt = interrupt };
    gint64 start = g_get_monotonic_time();
    GError *error = NULL;
    bool ok;

    c->part = tc_progress_part(c->progress, "");
    ok = tc_work_run(&work, &c->signo, &error);
    tc_progress_clear(c->progress);
    return ok ? report(c, (double)(g_get_monotonic_time() - start) / 1e6)
              : report_failure(c, error);
}

static int copy(Copy *c)
{
    g_autoptr(GError) error = NULL;
    int status = TC_EXIT_OK;

    if (!open_both(c, &error) || !make_plan(c, &error))
        return tc_fail(g_steal_pointer(&error));
    if (c->json)
        tc_progress_event(c->progress, "plan", plan_json(c));
    else
        print_plan(c);
    if (!c->dry_run && c->list->len)
        status = carry_out(c);
    if (c->dry_run && !c->json)
        printf("Nothing was changed: --dry-run.\n");
    return report_damaged(c, status);
}

static int run(const TcInvocation *inv)
{
    Copy c = { .inv = inv };
    g_autoptr(GError) error = NULL;
    int status;

    if (!set_up(&c, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    c.progress = tc_progress_new(c.json                        ? TC_PROGRESS_JSON
                                 : tc_flag(inv, "no-progress") ? TC_PROGRESS_NONE
                                                               : TC_PROGRESS_TERMINAL);
    status = copy(&c);
    tc_progress_free(c.progress);
    tc_rate_free(c.watch.rate);
    g_clear_pointer(&c.list, g_ptr_array_unref);
    tc_repo_close(c.to);
    tc_repo_close(c.from);
    return status;
}

const TcCommand tc_command_copy_points = {
    .name = "copy-points",
    .args = "SOURCE TARGET [POINT...]",
    .summary = "Copies the points of a repository that another one lacks",
    .details =
        "TARGET is created if it does not exist. Points are copied with those that\n"
        "they stand on, the oldest first, each of them whole or not at all, and every block is\n"
        "checked against its hash. A point that is there already, by its id, is left alone.\n",
    .min_args = 2,
    .max_args = -1,
    .options = options,
    .run = run,
};
