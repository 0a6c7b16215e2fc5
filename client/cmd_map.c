/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/cmd_map.c: "tidemark map": the extents of a disk as a table, as JSON or as a picture. */
#include "client/commands.h"
#include "client/copy/source.h"
#include "client/daemon/export_view.h"
#include "client/picture.h"
#include "client/progress.h"
#include "client/run_list.h"
#include "client/text.h"
#include "util/extent.h"
#include <json-c/json.h>
#include <string.h>

#define RUNS_ALIGN (UINT64_C(64) << 10) /* where servers can be asked for a status */

static const TcOption options[] = {
    TC_SOCKET_OPTION,
    { "context", "NAME", "the metadata context to show (default: base:allocation)" },
    { "bitmap", "NAME", "the dirty bitmap to show" },
    { "picture", NULL, "draw the whole disk instead of listing extents" },
    { "width", "N", "columns of the picture (default: the terminal's)" },
    { "no-color", NULL, "draw without colours" },
    TC_DRAWING_OPTIONS,
    { "points", "REPOSITORY", "show how often each part changed between points of a repository" },
    { "disk", "NAME", "the disk in the repository (default: its only one)" },
    { "runs", NULL, "print the ranges that have data, or are dirty, as JSON in pages" },
    { "offset", "BYTES", "with --runs: where the page begins (default: 0)" },
    { "limit", "N", "with --runs: how many ranges a page has at most (default: all)" },
    { "at", "POINT", "with --points and --runs: the ranges that have data at this point" },
    { "since", "POINT", "with --at: those that changed since that earlier point" },
    TC_JSON_OPTION,
    { 0 },
};

/* How extents are shown, while they come. */
typedef struct Map {
    TcSource *source;
    const char *context; /* the one that is shown */
    TcProgress *progress;
    bool json;
    bool first;         /* nothing has been printed */
    int number_width;   /* of the table's numbers */
    TcPicture *picture; /* or NULL */
    bool bitmap;        /* the picture's values are the bitmap and the allocation */
    GTree *totals;      /* description to bytes, uint64_t *: the table's */
    TcRunList *runs;    /* or NULL: what is shown instead: those whose values have, of */
    uint32_t mask;      /* these bits, */
    uint32_t state;     /* these */
} Map;

/* The words that nbdinfo(1) has for a context's values. Returned; NULL if there is none. */
static char *describe(const char *context, uint32_t value)
{
    static const char *const allocation[] = { "data", "hole", "zero", "hole,zero" };
    static const char *const backup[] = { "clean", "dirty", NULL, "dirty,zero" };

    if (!strcmp(context, TC_CONTEXT_ALLOCATION) && value < G_N_ELEMENTS(allocation))
        return g_strdup(allocation[value]);
    if (g_str_has_prefix(context, TC_CONTEXT_BITMAP_PREFIX) && value <= TM_STATE_DIRTY)
        return g_strdup(value ? "dirty" : "clean");
    if (g_str_has_prefix(context, TC_CONTEXT_BACKUP_PREFIX) && value < G_N_ELEMENTS(backup))
        return g_strdup(backup[value]);
    if (!strcmp(context, "qemu:allocation-depth"))
        return value == 0   ? g_strdup("unallocated")
               : value == 1 ? g_strdup("local")
                            : g_strdup_printf("backing depth %" PRIu32, value);
    return NULL;
}

static void print_json(Map *map, uint64_t offset, uint64_t length, uint32_t value,
                       const char *description)
{
    printf("%s{ \"offset\": %" PRIu64 ", \"length\": %" PRIu64 ", \"type\": %" PRIu32,
           map->first ? "[\n" : ",\n", offset, length, value);
    if (description)
        printf(", \"description\": \"%s\"", description);
    fputs(" }", stdout);
}

static void print_row(Map *map, uint64_t offset, uint64_t length, const char *description)
{
    uint64_t *total = g_tree_lookup(map->totals, description);
    g_autofree char *human = tc_human_size(length);

    if (map->first)
        printf("%*s  %*s  %10s  %s\n", map->number_width, "OFFSET", map->number_width, "LENGTH", "",
               "TYPE");
    printf("%*" PRIu64 "  %*" PRIu64 "  %10s  %s\n", map->number_width, offset, map->number_width,
           length, human, description);
    if (!total) {
        total = g_new0(uint64_t, 1);
        g_tree_insert(map->totals, g_strdup(description), total);
    }
    *total += length;
}

static bool show_extent(void *opaque, uint64_t offset, uint64_t length, const uint32_t *values,
                        GError **error)
{
    Map *map = opaque;
    TcState below;

    if (map->runs)
        return (values[0] & map->mask) != map->state || tc_run_list_add(map->runs, offset, length);
    if (map->picture) {
        below = tc_state_of_allocation(values[map->bitmap]);
        tc_picture_add(map->picture, offset, length,
                       map->bitmap && values[0] & TM_STATE_DIRTY ? TC_DIRTY : below, below);
        tc_progress_show(map->progress, "mapping", offset, tc_source_size(map->source));
    } else {
        g_autofree char *description = describe(map->context, values[0]);
        g_autofree char *number = g_strdup_printf("%" PRIu32, values[0]);

        if (map->json)
            print_json(map, offset, length, values[0], description);
        else
            print_row(map, offset, length, description ? description : number);
        map->first = false;
    }
    return true;
}

static gboolean print_total(gpointer key, gpointer value, gpointer opaque)
{
    Map *map = opaque;
    uint64_t bytes = *(uint64_t *)value;
    g_autofree char *human = tc_human_size(bytes);
    g_autofree char *percent = tc_percent(bytes, tc_source_size(map->source));

    printf("%*s  %*" PRIu64 "  %10s  %s (%s)\n", map->number_width, "total", map->number_width,
           bytes, human, (char *)key, percent);
    return FALSE;
}

static bool draw(const TcInvocation *inv, const Map *map, GError **error)
{
    g_autofree char *title = g_strdup_printf("Map of %s", tc_arg(inv, 0));
    const char *bitmap = map->bitmap ? map->context + strlen(TC_CONTEXT_BITMAP_PREFIX) : NULL;
    g_autoptr(TcChart) chart = tc_picture_chart(map->picture, title, bitmap);

    return tc_picture_write(inv, chart, error);
}

static bool finish(const TcInvocation *inv, Map *map, GError **error)
{
    if (map->picture && !tc_flag(inv, "picture"))
        return draw(inv, map, error);
    if (map->picture)
        tc_picture_print(map->picture, stdout,
                         !tc_flag(inv, "no-color") && tc_terminal_colors(stdout),
                         tc_terminal_utf8());
    else if (map->json)
        puts(map->first ? "[]" : "\n]");
    else if (map->first)
        puts("The disk is empty.");
    else {
        putchar('\n');
        g_tree_foreach(map->totals, print_total, map);
    }
    return true;
}

static int compare_text(gconstpointer a, gconstpointer b, gpointer unused)
{
    return strcmp(a, b);
}

static bool start_picture(Map *map, const TcInvocation *inv, GError **error)
{
    unsigned columns, rows;

    if (!tc_picture_size(inv, &columns, &rows, error))
        return false;
    map->picture = tc_picture_new(tc_source_size(map->source), columns, rows, map->bitmap);
    return true;
}

/* What --points leaves no room for. */
static bool check_points(const TcInvocation *inv, GError **error)
{
    static const char *const of_exports[] = { "context", "bitmap", "socket" };

    if (!tc_flag(inv, "points"))
        return tc_flag(inv, "disk")
                   ? tm_error_set(error, "--disk is for --points, which names the repository")
               : tc_arg(inv, 0) ? true
                                : tm_error_set(error, "missing argument: usage is '%s %s'",
                                               inv->path, inv->command->args);
    if (tc_arg(inv, 0))
        return tm_error_set(error, "--points and the export '%s' exclude each other",
                            tc_arg(inv, 0));
    for (unsigned i = 0; i < G_N_ELEMENTS(of_exports); i++)
        if (tc_flag(inv, of_exports[i]))
            return tm_error_set(error, "--points and --%s exclude each other", of_exports[i]);
    return true;
}

/* What --runs needs, and what needs it. */
static bool check_runs(const TcInvocation *inv, GError **error)
{
    static const char *const pages[] = { "offset", "limit", "at", "since" };
    bool runs = tc_flag(inv, "runs"), points = tc_flag(inv, "points");

    for (unsigned i = 0; i < G_N_ELEMENTS(pages) && !runs; i++)
        if (tc_flag(inv, pages[i]))
            return tm_error_set(error, "--%s is for --runs", pages[i]);
    if (runs && tc_picture_wanted(inv))
        return tm_error_set(error, "--runs and a picture exclude each other");
    if (runs && points != tc_flag(inv, "at"))
        return tm_error_set(error, points ? "--points and --runs need --at POINT"
                                          : "--at is for --points, which names the repository");
    return !tc_flag(inv, "since") || points ||
           tm_error_set(error, "--since is for --points, which names the repository");
}

static bool check_options(const TcInvocation *inv, GError **error)
{
    const char *context = tc_option(inv, "context");
    bool picture = tc_picture_wanted(inv);
    uint64_t width;

    if (!check_points(inv, error) || !check_runs(inv, error))
        return false;
    if (tc_flag(inv, "runs") && context && strcmp(context, TC_CONTEXT_ALLOCATION) &&
        !g_str_has_prefix(context, TC_CONTEXT_BITMAP_PREFIX) &&
        !g_str_has_prefix(context, TC_CONTEXT_BACKUP_PREFIX))
        return tm_error_set(error, "--runs can show base:allocation and bitmaps, not '%s'",
                            context);

    if (context && tc_flag(inv, "bitmap"))
        return tm_error_set(error, "--context and --bitmap exclude each other");
    if (!tc_picture_check(inv, tc_flag(inv, "json"), error))
        return false;
    if (picture && context && strcmp(context, TC_CONTEXT_ALLOCATION) &&
        !g_str_has_prefix(context, TC_CONTEXT_BITMAP_PREFIX))
        return tm_error_set(error, "a picture can show base:allocation and bitmaps, not '%s'",
                            context);
    return tc_option_number(inv, "width", 20, 10000, &width, error);
}

static bool show_runs(const TcInvocation *inv, Map *map, GError **error)
{
    g_autoptr(GError) problem = NULL;
    bool allocation;
    TcRunList list;

    if (!tc_run_list_begin(&list, inv, tc_source_size(map->source), error))
        return false;
    allocation = !strcmp(map->context, TC_CONTEXT_ALLOCATION);
    map->mask = allocation ? TM_STATE_ZERO : TM_STATE_DIRTY;
    map->state = allocation ? 0 : TM_STATE_DIRTY;
    map->runs = &list;
    tc_source_walk_from(map->source, list.from / RUNS_ALIGN * RUNS_ALIGN, show_extent, map,
                        &problem);
    tc_run_list_end(&list, !problem);
    if (problem)
        g_propagate_error(error, g_steal_pointer(&problem));
    return !problem;
}

static bool map_source(const TcInvocation *inv, const char *context, GError **error)
{
    bool bitmap = g_str_has_prefix(context, TC_CONTEXT_BITMAP_PREFIX);
    bool picture = tc_picture_wanted(inv);
    const char *contexts[] = { context, bitmap && picture ? TC_CONTEXT_ALLOCATION : NULL, NULL };
    const char *word = tc_arg(inv, 0), *socket = tc_option(inv, "socket");
    g_autofree char *instead = g_strdup_printf("'tidemark image map %s' shows an image file", word);
    g_autofree char *uri = tc_export_uri(word, socket, tc_option(inv, "bitmap"), instead, error);
    g_autoptr(TcSource) source = uri ? tc_source_open(uri, contexts, -1, error) : NULL;
    g_autoptr(TcProgress) progress = tc_progress_on_terminal(true);
    g_autoptr(TcPicture) drawn = NULL;
    g_autoptr(GTree) totals = g_tree_new_full(compare_text, NULL, g_free, g_free);
    Map map = {
        .source = source,
        .context = context,
        .progress = progress,
        .json = tc_flag(inv, "json"),
        .first = true,
        .bitmap = bitmap,
        .totals = totals,
    };

    if (!source || !tc_export_require(source, 0, context, socket, error))
        return false;
    map.number_width = MAX(snprintf(NULL, 0, "%" PRIu64, tc_source_size(source)), 6);
    if (picture && !start_picture(&map, inv, error))
        return false;
    drawn = map.picture;
    if (tc_flag(inv, "runs"))
        return show_runs(inv, &map, error);
    if (!tc_source_walk(source, show_extent, &map, error))
        return false;
    tc_progress_clear(progress);
    return finish(inv, &map, error);
}

static int run(const TcInvocation *inv)
{
    const char *bitmap = tc_option(inv, "bitmap"), *wanted = tc_option(inv, "context");
    g_autofree char *context = bitmap ? g_strconcat(TC_CONTEXT_BITMAP_PREFIX, bitmap, NULL)
                                      : g_strdup(wanted ? wanted : TC_CONTEXT_ALLOCATION);
    g_autoptr(GError) error = NULL;

    if (!check_options(inv, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    if (tc_flag(inv, "points"))
        return tc_run_map_points(inv);
    if (!map_source(inv, context, &error))
        return tc_fail(g_steal_pointer(&error));
    return TC_EXIT_OK;
}

const TcCommand tc_command_map = {
    .name = "map",
    .args = "URI|EXPORT",
    .summary = "Shows which parts of a disk are allocated, dirty in a bitmap, or change often",
    .details =
        "URI names an export of any NBD server, for example nbd://localhost/disk0 or\n"
        "nbd+unix:///disk0?socket=/run/tidemark/nbd.sock. EXPORT is one of the daemon at the QMP\n"
        "socket, by its id, its name or its node.\n"
        "With --points, it shows how often each part of a disk changed, from what the increments\n"
        "of the repository store, as a picture or with --json; no export is named then.\n"
        "With --runs, it prints the ranges to copy as JSON, all or a page of them: those that "
        "don't\n"
        "read as zeroes, or are dirty in the bitmap, or, of a repository, have data at a point or\n"
        "changed between two points.\n",
    .max_args = 1,
    .options = options,
    .run = run,
};
