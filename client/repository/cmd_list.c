/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/cmd_list.c: "tidemark list REPOSITORY". */
#include "client/commands.h"
#include "client/json.h"
#include "client/repository/view.h"
#include "client/table.h"
#include "client/text.h"
#include "util/json.h"
#include <string.h>

static const TcOption options[] = {
    { "tree", NULL, "show for each disk which point stands on which" },
    TC_JSON_OPTION,
    { 0 },
};

/* ---- the table */

static char *occupied_text(const TcRepository *repo, const char *point, const TcPointDisk *d)
{
    uint64_t occupied = tc_repo_occupied(repo, point, d);

    return occupied == UINT64_MAX ? g_strdup("missing") : tc_human_size(occupied);
}

/* "2026-11-28 13:00": a list is to fit in 80 columns. Returned. */
static char *minute_text(uint64_t instant)
{
    g_autofree char *text = tc_repo_time_text(instant);

    return g_strndup(text, strlen("YYYY-MM-DD HH:MM"));
}

static void add_point(TcTable *table, const TcRepository *repo, const TcManifest *m, bool with_time)
{
    g_autofree char *time = minute_text(m->instant);
    g_autofree char *verified = tc_repo_verified_text(repo, m);

    for (guint i = 0; i < m->disks->len; i++) {
        const TcPointDisk *d = m->disks->pdata[i];
        g_autofree char *size = tc_human_size(d->size);
        g_autofree char *stored = occupied_text(repo, m->point, d);

        if (with_time)
            tc_table_add(table, i ? "" : m->point, i ? "" : time, d->name, size,
                         d->parent ? "incremental" : "full", stored, i ? "" : verified);
        else
            tc_table_add(table, i ? "" : m->point, d->name, size,
                         d->parent ? "incremental" : "full", stored, i ? "" : verified);
    }
}

/* Whether each point has the name that it gets by itself, which is its time in UTC: no other column
 * needs to have it then. */
static bool named_by_time(const GPtrArray *points)
{
    for (guint i = 0; i < points->len; i++)
        if (!g_pattern_match_simple("20*-*-*T*-*-*Z*", ((TcManifest *)points->pdata[i])->point))
            return false;
    return true;
}

static void print_points(const TcRepository *repo)
{
    const GPtrArray *points = tc_repo_points(repo);
    bool with_time = !named_by_time(points);
    g_autoptr(TcTable) table =
        tc_table_new(NULL, with_time ? "Point|Time|Disk|>Size|Kind|>Stored|Verified"
                                     : "Point|Disk|>Size|Kind|>Stored|Verified");

    if (!points->len) {
        printf("Repository %s has no points.\n", tc_repo_path(repo));
        return;
    }
    for (guint i = 0; i < points->len; i++)
        add_point(table, repo, points->pdata[i], with_time);
    tc_table_print(table, stdout, tc_terminal_colors(stdout));
}

/* ---- the tree */

static GPtrArray *disk_names(const TcRepository *repo)
{
    GPtrArray *names = g_ptr_array_new();
    const GPtrArray *points = tc_repo_points(repo);

    for (guint i = 0; i < points->len; i++) {
        const TcManifest *m = points->pdata[i];

        for (guint k = 0; k < m->disks->len; k++) {
            char *name = ((TcPointDisk *)m->disks->pdata[k])->name;

            if (!g_ptr_array_find_with_equal_func(names, name, g_str_equal, NULL))
                g_ptr_array_add(names, name);
        }
    }
    return names;
}

typedef struct Line {
    const TcManifest *point;
    unsigned depth; /* of branches, not of the chain */
} Line;

/* A chain is straight down; what branches off comes before the rest, further right. */
static void print_chains(const TcRepository *repo, const TcManifest *root, const char *disk,
                         TcTable *table)
{
    g_autoptr(GArray) left = g_array_new(FALSE, FALSE, sizeof(Line));
    Line line = { root, 0 };
    guint limit = tc_repo_points(repo)->len;

    g_array_append_val(left, line);
    while (left->len && limit--) {
        Line at = g_array_index(left, Line, left->len - 1);
        const TcPointDisk *d = tc_manifest_disk(at.point, disk);
        g_autoptr(GPtrArray) children = tc_repo_children(repo, at.point, disk);
        g_autofree char *time = tc_repo_time_text(at.point->instant);
        g_autofree char *stored = occupied_text(repo, at.point->point, d);
        g_autofree char *name = g_strdup_printf("%*s%s%s", (int)(2 * at.depth), "",
                                                at.point == root     ? ""
                                                : tc_terminal_utf8() ? "└ "
                                                                     : "` ",
                                                at.point->point);

        tc_table_add(table, name, time, d->parent ? "incremental" : "full", stored);
        g_array_set_size(left, left->len - 1);
        for (guint i = 0; i < children->len; i++) {
            Line next = { children->pdata[i], at.depth + (i ? 1 : 0) };

            g_array_append_val(left, next);
        }
    }
}

/* On a point that is there. */
static bool stands(const TcRepository *repo, const TcPointDisk *disk)
{
    const TcManifest *parent = disk->parent ? tc_repo_point(repo, disk->parent) : NULL;

    return parent && tc_point_disk_stands_on(disk, parent);
}

static void print_tree(const TcRepository *repo)
{
    g_autoptr(GPtrArray) names = disk_names(repo);
    const GPtrArray *points = tc_repo_points(repo);

    for (guint i = 0; i < names->len; i++) {
        g_autoptr(TcTable) table = tc_table_new(names->pdata[i], "Point|Time|Kind|>Stored");

        for (guint k = 0; k < points->len; k++) {
            const TcPointDisk *d = tc_manifest_disk(points->pdata[k], names->pdata[i]);

            if (d && !stands(repo, d))
                print_chains(repo, points->pdata[k], names->pdata[i], table);
        }
        if (i)
            putchar('\n');
        tc_table_print(table, stdout, tc_terminal_colors(stdout));
    }
    if (!names->len)
        printf("Repository %s has no points.\n", tc_repo_path(repo));
}

/* ---- the command */

static void print_json(const TcRepository *repo)
{
    g_autoptr(json_object) o = json_object_new_object();
    json_object *points = json_object_new_array();

    for (guint i = 0; i < tc_repo_points(repo)->len; i++)
        json_object_array_add(points, tc_repo_point_json(repo, tc_repo_points(repo)->pdata[i]));
    tm_json_add_string(o, "repository", tc_repo_path(repo));
    tm_json_add_string(o, "id", tc_repo_id(repo));
    json_object_object_add(o, "points", points);
    tc_repo_state_json(repo, o);
    tc_json_print(o, stdout);
}

static int run(const TcInvocation *inv)
{
    TcRepoOptions o = { .use = TC_REPO_LIST, .what = inv->path };
    g_autoptr(GError) error = NULL;
    g_autoptr(TcRepository) repo = NULL;

    if (tc_flag(inv, "tree") && tc_flag(inv, "json")) {
        tm_error_set(&error, "--tree and --json exclude each other");
        return tc_fail_usage(inv, g_steal_pointer(&error));
    }
    repo = tc_repo_open(tc_arg(inv, 0), &o, &error);
    if (!repo)
        return tc_fail(g_steal_pointer(&error));
    if (tc_flag(inv, "json")) {
        print_json(repo);
    } else {
        (tc_flag(inv, "tree") ? print_tree : print_points)(repo);
        tc_repo_print_state(repo, stdout);
    }
    return tc_repo_has_damage(repo) ? TC_EXIT_DAMAGED : TC_EXIT_OK;
}

const TcCommand tc_command_list = {
    .name = "list",
    .args = "REPOSITORY",
    .summary = "Lists the points of a repository",
    .details =
        "It reads manifests, and no images: see 'tidemark verify'. What is stored of a disk is\n"
        "what its file occupies. Exit status 5: a point is damaged.\n",
    .min_args = 1,
    .max_args = 1,
    .options = options,
    .run = run,
};
