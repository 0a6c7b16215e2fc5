/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/cmd_heat.c: "tidemark map --points REPOSITORY". */
#include "client/commands.h"
#include "client/json.h"
#include "client/picture.h"
#include "client/repository/changed.h"
#include "client/repository/heat.h"
#include "client/run_list.h"
#include "client/text.h"
#include "util/json.h"
#include "util/range.h"
#include <string.h>

/* The names of all disks, the first time that each is seen: borrowed. Returned. */
static GPtrArray *disk_names(const TcRepository *repo)
{
    const GPtrArray *points = tc_repo_points(repo);
    GPtrArray *names = g_ptr_array_new();

    for (guint i = 0; i < points->len; i++) {
        const TcManifest *point = points->pdata[i];

        for (guint k = 0; k < point->disks->len; k++) {
            const TcPointDisk *disk = point->disks->pdata[k];

            if (!g_ptr_array_find_with_equal_func(names, disk->name, g_str_equal, NULL))
                g_ptr_array_add(names, disk->name);
        }
    }
    return names;
}

/* The disk that is meant: borrowed. */
static const char *choose_disk(const TcRepository *repo, const char *wanted, GError **error)
{
    g_autoptr(GPtrArray) names = disk_names(repo);
    g_autofree char *all = NULL;

    if (!names->len) {
        tm_error_set(error, "repository '%s' has no points", tc_repo_path(repo));
        return NULL;
    }
    for (guint i = 0; i < names->len; i++)
        if (wanted ? !strcmp(names->pdata[i], wanted) : names->len == 1)
            return names->pdata[i];
    g_ptr_array_add(names, NULL);
    all = g_strjoinv(", ", (char **)names->pdata);
    if (wanted)
        tm_error_set(error, "no disk '%s' in '%s': it has %s", wanted, tc_repo_path(repo), all);
    else
        tm_error_set(error, "option --disk is needed, as '%s' has several: %s", tc_repo_path(repo),
                     all);
    return NULL;
}

static void print_json(const TcHeat *heat, const char *disk)
{
    g_autoptr(json_object) o = json_object_new_object();
    json_object *points = json_object_new_array(), *extents = json_object_new_array();

    tm_json_add_string(o, "disk", disk);
    tm_json_add_uint(o, "size", heat->size);
    for (guint i = 0; i < heat->points->len; i++) {
        const TcHeatPoint *p = &g_array_index(heat->points, TcHeatPoint, i);
        json_object *point = json_object_new_object();

        tm_json_add_string(point, "point", p->point->point);
        tm_json_add_uint(point, "instant", p->point->instant);
        tm_json_add_uint(point, "changed", p->changed);
        json_object_array_add(points, point);
    }
    for (guint i = 0; i < heat->extents->len; i++) {
        const TcHeatExtent *e = &g_array_index(heat->extents, TcHeatExtent, i);
        json_object *extent = json_object_new_object();

        tm_json_add_uint(extent, "offset", e->offset);
        tm_json_add_uint(extent, "length", e->length);
        tm_json_add_uint(extent, "changes", e->changes);
        json_object_array_add(extents, extent);
    }
    json_object_object_add(o, "points", points);
    tm_json_add_uint(o, "fulls", heat->fulls);
    json_object_object_add(o, "extents", extents);
    tc_json_print(o, stdout);
}

static void print_picture(const TcInvocation *inv, const TcHeat *heat, const TcChart *chart)
{
    tc_chart_print(chart, stdout, !tc_flag(inv, "no-color") && tc_terminal_colors(stdout),
                   tc_terminal_utf8());
    printf("%*s%s\n", TC_CHART_LABEL, "", chart->subtitle);
    if (heat->fulls)
        printf("%*s%u full backup%s not counted\n", TC_CHART_LABEL, "", heat->fulls,
               heat->fulls == 1 ? " is" : "s are");
}

static bool show(const TcInvocation *inv, const TcHeat *heat, const char *disk, GError **error)
{
    g_autofree char *title = g_strdup_printf("Changes of %s", disk);
    g_autoptr(TcChart) chart = NULL;
    unsigned columns, rows;

    if (tc_flag(inv, "json")) {
        print_json(heat, disk);
        return true;
    }
    if (!tc_picture_size(inv, &columns, &rows, error))
        return false;
    chart = tc_heat_chart(heat, title, tc_chart_columns(columns), rows);
    if (tc_flag(inv, "svg") || tc_flag(inv, "png"))
        return tc_picture_write(inv, chart, error);
    print_picture(inv, heat, chart);
    return true;
}

/* What has data at --at, or changed between --since and that. */
static int show_runs(const TcInvocation *inv, const TcRepository *repo, const char *disk)
{
    g_autoptr(GError) error = NULL;
    const char *from = tc_option(inv, "since");
    const TcManifest *point = tc_repo_find(repo, tc_option(inv, "at"), &error);
    const TcManifest *since = point && from ? tc_repo_find(repo, from, &error) : NULL;
    g_autoptr(TcChanged) changed =
        point && (since || !from) ? tc_changed_new(repo, point, since, disk, &error) : NULL;
    TcRunList list;

    if (!changed || !tc_run_list_begin(&list, inv, changed->size, &error)) {
        bool damaged = g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED);

        tc_fail(g_steal_pointer(&error));
        return damaged ? TC_EXIT_DAMAGED : TC_EXIT_FAILED;
    }
    for (guint i = 0; i < changed->runs->len; i++) {
        const TcChangedRun *run = &g_array_index(changed->runs, TcChangedRun, i);
        uint64_t length = tm_min(run->length, changed->size - run->offset);

        if (!tc_run_list_add(&list, run->offset, length))
            break;
    }
    tc_run_list_end(&list, true);
    return TC_EXIT_OK;
}

int tc_run_map_points(const TcInvocation *inv)
{
    bool runs = tc_flag(inv, "runs");
    TcRepoOptions o = { .use = runs ? TC_REPO_READ : TC_REPO_LIST, .what = inv->path };
    g_autoptr(GError) error = NULL;
    g_autoptr(TcRepository) repo = tc_repo_open(tc_option(inv, "points"), &o, &error);
    const char *disk = repo ? choose_disk(repo, tc_option(inv, "disk"), &error) : NULL;
    g_autoptr(TcHeat) heat = NULL;

    if (disk && runs)
        return show_runs(inv, repo, disk);
    heat = disk ? tc_heat_new(repo, disk, &error) : NULL;
    if (!heat || !show(inv, heat, disk, &error))
        return tc_fail(g_steal_pointer(&error));
    return heat->damaged ? TC_EXIT_DAMAGED : TC_EXIT_OK;
}
