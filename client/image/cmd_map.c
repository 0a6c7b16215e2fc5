/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/image/cmd_map.c: "tidemark image map": where the data of an image is, as a table, as JSON
 * or as a picture.
 *
 * The JSON is qemu-img's, entry by entry: neighbours that are alike in all but their length are
 * one. */
#include "block/layers.h"
#include "client/image/cmd_image.h"
#include "client/picture.h"
#include "client/progress.h"
#include "client/text.h"
#include "util/range.h"
#include <string.h>

static const TcOption options[] = {
    TC_FORMAT_OPTION,
    TC_NAMES_OPTION,
    TC_IMAGE_OPTS_OPTION,
    TC_SHARE_OPTION,
    { "start-offset", "N", "begin at this offset", 's' },
    { "max-length", "N", "end after this many bytes", 'l' },
    { "picture", NULL, "draw the whole disk instead of listing ranges" },
    { "width", "N", "columns of the picture (default: the terminal's)" },
    { "no-color", NULL, "draw without colours" },
    TC_DRAWING_OPTIONS,
    TC_JSON_OPTION,
    TC_OUTPUT_OPTION,
    { 0 },
};

enum { WHAT_DATA, WHAT_ZERO, WHAT_HOLE, WHAT_BELOW, WHATS };
static const char *const words[] = { "data", "zero", "hole", "in the backing file" };
G_STATIC_ASSERT(G_N_ELEMENTS(words) == WHATS);

typedef struct Map {
    const TcInvocation *inv;
    TcImage *image;
    uint64_t start, end; /* of what is asked for */
    bool json;
    bool open_end; /* what is not present may be in a backing that was not followed */
    TcPicture *picture;
    TcProgress *progress;
    int width;   /* of numbers */
    bool any;    /* something was printed */
    uint64_t at; /* of the entry that is not yet printed */
    BlkLayerRun entry;
    uint64_t totals[WHATS];
} Map;

/* ---- one entry */

/* In raw images zeroes are holes. */
static unsigned what(const Map *map, const BlkLayerRun *r)
{
    const TcLayer *layer =
        r->depth < map->image->layers->len ? map->image->layers->pdata[r->depth] : NULL;

    if (r->data && !r->zero)
        return WHAT_DATA;
    if (!r->zero)
        return WHAT_BELOW;
    return !r->present || (layer && !strcmp(layer->format, "raw")) ? WHAT_HOLE : WHAT_ZERO;
}

static void print_json(Map *map)
{
    static const char *const truth[] = { "false", "true" };
    const BlkLayerRun *r = &map->entry;

    printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %u, \"present\": %s, "
           "\"zero\": %s, \"data\": %s",
           map->any ? ",\n" : "[", map->at, r->length, r->depth, truth[r->present], truth[r->zero],
           truth[r->data]);
    if (r->has_offset)
        printf(", \"offset\": %" PRIu64, r->offset);
    putchar('}');
}

/* Where the data is, or why that is not known. Returned. */
static char *place(const BlkLayerRun *r)
{
    g_autofree char *path = NULL, *clean = NULL;

    if (!r->has_offset)
        return g_strdup(r->data ? "compressed" : "");
    path = r->file ? blk_node_filename(r->file) : g_strdup("");
    clean = tc_printable(path);
    return g_strdup_printf("%*" PRIu64 "  %s", 14, r->offset, clean);
}

static void print_row(Map *map)
{
    const BlkLayerRun *r = &map->entry;
    g_autofree char *human = tc_human_size(r->length), *where = place(r);

    if (!map->any)
        printf("%*s  %*s  %10s  %-4s  %5s  %14s  %s\n", map->width, "OFFSET", map->width, "LENGTH",
               "", "TYPE", "LAYER", "AT", "IN");
    printf("%*" PRIu64 "  %*" PRIu64 "  %10s  %-4s  %5u  %s\n", map->width, map->at, map->width,
           r->length, human, what(map, r) == WHAT_BELOW ? "?" : words[what(map, r)], r->depth,
           where);
}

static void print_entry(Map *map)
{
    const BlkLayerRun *r = &map->entry;

    if (!r->length)
        return;
    map->totals[what(map, r)] += r->length;
    if (map->picture) {
        TcState state = what(map, r) == WHAT_DATA   ? TC_DATA
                        : what(map, r) == WHAT_ZERO ? TC_ZERO
                                                    : TC_HOLE;

        tc_picture_add(map->picture, map->at, r->length, state, state);
    } else if (map->json) {
        print_json(map);
    } else {
        print_row(map);
    }
    map->any = true;
}

/* ---- all of them */

static bool continues(const Map *map, const BlkLayerRun *r)
{
    const BlkLayerRun *e = &map->entry;

    return e->length && e->present == r->present && e->zero == r->zero && e->data == r->data &&
           e->depth == r->depth && e->has_offset == r->has_offset && e->file == r->file &&
           (!r->has_offset || e->offset + e->length == r->offset);
}

static void add(Map *map, uint64_t offset, BlkLayerRun *r)
{
    /* It is not known what is below. */
    if (map->open_end && r->end)
        r->zero = false;
    if (continues(map, r)) {
        map->entry.length += r->length;
        return;
    }
    print_entry(map);
    map->at = offset;
    map->entry = *r;
}

static bool walk(Map *map, GError **error)
{
    BlkNode *node = map->image->node;

    for (uint64_t at = map->start; at < map->end;) {
        BlkLayerRun run;
        int ret = blk_node_layer_run(node, at, map->end - at, &run);

        if (ret < 0)
            return tm_error_set_errno(error, -ret, "Could not map '%s' at %" PRIu64,
                                      tc_image_layer(map->image)->path, at);
        add(map, at, &run);
        at += run.length;
        tc_progress_show(map->progress, "mapping", at - map->start, map->end - map->start);
    }
    print_entry(map);
    return true;
}

static bool start_picture(Map *map, GError **error)
{
    unsigned columns, rows;

    if (!tc_picture_size(map->inv, &columns, &rows, error))
        return false;
    map->picture = tc_picture_new(blk_node_size(map->image->node), columns, rows, false);
    return true;
}

static void print_totals(const Map *map)
{
    uint64_t size = map->end - map->start;

    if (map->any)
        putchar('\n');
    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++) {
        g_autofree char *human = tc_human_size(map->totals[i]);
        g_autofree char *percent = tc_percent(map->totals[i], size);

        if (map->totals[i])
            printf("%*s  %*" PRIu64 "  %10s  %s (%s)\n", map->width, "total", map->width,
                   map->totals[i], human, words[i], percent);
    }
}

static void print_backing(const Map *map)
{
    const TcLayer *layer = tc_image_layer(map->image);
    g_autofree char *name = NULL;

    if (!map->open_end)
        return;
    name = tc_printable(layer->names.backing);
    fprintf(map->json ? stderr : stdout, "%sThe backing file '%s' was not read.\n",
            map->json ? "tidemark: " : "\n", name);
}

/* Of an empty range, too, there is an entry: qemu-img prints one of no length. */
static void finish_json(Map *map)
{
    if (!map->any) {
        map->at = map->start;
        print_json(map);
    }
    puts("]");
}

static bool draw(const Map *map, GError **error)
{
    g_autofree char *name = g_path_get_basename(tc_arg(map->inv, 0));
    g_autofree char *title = g_strdup_printf("Map of %s", name);
    g_autoptr(TcChart) chart = tc_picture_chart(map->picture, title, NULL);

    return tc_picture_write(map->inv, chart, error);
}

static bool finish(Map *map, GError **error)
{
    tc_progress_clear(map->progress);
    if (map->picture && !tc_flag(map->inv, "picture"))
        return draw(map, error);
    if (map->picture)
        tc_picture_print(map->picture, stdout,
                         !tc_flag(map->inv, "no-color") && tc_terminal_colors(stdout),
                         tc_terminal_utf8());
    else if (map->json)
        finish_json(map);
    else if (!map->any)
        puts("The range is empty.");
    else
        print_totals(map);
    print_backing(map);
    return true;
}

/* ---- the command */

static bool check(Map *map, TcImageOptions *o, GError **error)
{
    const TcInvocation *inv = map->inv;
    uint64_t width, length = UINT64_MAX;

    if (!tc_image_options(inv, o, error) || !tc_image_output(inv, &map->json, error))
        return false;
    if (!tc_picture_check(inv, map->json, error))
        return false;
    if (tc_picture_wanted(inv) && (tc_flag(inv, "start-offset") || tc_flag(inv, "max-length")))
        return tm_error_set(
            error, "a picture shows the whole disk: it excludes --start-offset and --max-length");
    map->start = 0;
    if (!tc_option_number(inv, "start-offset", 0, INT64_MAX, &map->start, error) ||
        !tc_option_number(inv, "max-length", 1, INT64_MAX, &length, error))
        return false;
    map->end = length > INT64_MAX - map->start ? INT64_MAX : map->start + length;
    return tc_option_number(inv, "width", 20, 10000, &width, error);
}

static bool show(Map *map, const TcImageOptions *o, GError **error)
{
    g_auto(TcImage) image = { 0 };
    g_autoptr(TcProgress) progress =
        tc_progress_on_terminal(tc_picture_wanted(map->inv) || map->json);
    g_autoptr(TcPicture) picture = NULL;

    if (!tc_image_open(tc_arg(map->inv, 0), o, &image, error))
        return false;
    map->image = &image;
    map->progress = progress;
    map->end = tm_min(map->end, blk_node_size(image.node));
    map->open_end = image.layers->len == 1 && tc_image_layer(&image)->names.backing;
    map->width = MAX(snprintf(NULL, 0, "%" PRIu64, blk_node_size(image.node)), 6);
    if (tc_picture_wanted(map->inv) && !start_picture(map, error))
        return false;
    picture = map->picture;
    if (!walk(map, error))
        return false;
    return finish(map, error);
}

static int run(const TcInvocation *inv)
{
    Map map = { .inv = inv };
    TcImageOptions o = { .chain = true };
    g_autoptr(GError) error = NULL;

    if (!check(&map, &o, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    return show(&map, &o, &error) ? TC_EXIT_OK : tc_fail(g_steal_pointer(&error));
}

const TcCommand tc_command_image_map = {
    .name = "map",
    .args = "FILE",
    .summary = "Shows where the data of an image is stored",
    .details =
        "Lists the ranges of the disk. For each it shows whether it is data, zero or a hole, the\n"
        "layer that decides this (0 is FILE, 1 its backing file, and so on), and the file and the\n"
        "offset of the data.\n",
    .min_args = 1,
    .max_args = 1,
    .options = options,
    .run = run,
    .usage_status = TC_EXIT_FAILED,
};
