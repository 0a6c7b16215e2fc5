/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/image/cmd_check.c: "tidemark image check": what is wrong with an image, and mending it. */
#include "block/image/image.h"
#include "client/image/cmd_image.h"
#include "client/json.h"
#include "client/progress.h"
#include "client/text.h"
#include <string.h>

/* qemu-img's. */
enum { CHECK_OK = 0, CHECK_FAILED = 1, CHECK_CORRUPT = 2, CHECK_LEAKS = 3, CHECK_UNSUPPORTED = 63 };

enum { LINES_MAX = 100 }; /* reported one by one */

static const TcOption options[] = {
    TC_FORMAT_OPTION,
    TC_NAMES_OPTION,
    TC_IMAGE_OPTS_OPTION,
    { "repair", "leaks|all", "free leaked clusters, or repair all errors", 'r' },
    TC_SHARE_OPTION,
    TC_JSON_OPTION,
    TC_OUTPUT_OPTION,
    TC_QUIET_OPTION,
    { 0 },
};

typedef struct Check {
    const TcInvocation *inv;
    TcImageOptions image;
    bool json, quiet;
    bool unusable; /* its tables are sound, but it can't be opened */
    unsigned fix;
    const TcLayer *layer;
    TcProgress *progress;
    uint64_t lines;
} Check;

static bool show_progress(void *opaque, uint64_t done, uint64_t total)
{
    Check *c = opaque;

    tc_progress_show(c->progress, "checking", done, total);
    return true;
}

static void show_line(void *opaque, const char *line)
{
    Check *c = opaque;
    g_autofree char *clean = NULL;

    if (c->json || c->quiet || c->lines++ >= LINES_MAX)
        return;
    clean = tc_printable(line);
    tc_progress_clear(c->progress);
    puts(clean);
}

/* ---- the verdict */

static int status_of(const BlkImageCheck *r)
{
    return r->check_errors  ? CHECK_FAILED
           : r->corruptions ? CHECK_CORRUPT
           : r->leaks       ? CHECK_LEAKS
                            : CHECK_OK;
}

static void print_count(uint64_t n, const char *one, const char *many, const char *meaning)
{
    g_autofree char *line = g_strdup_printf("%" PRIu64 " %s: %s", n, n == 1 ? one : many, meaning);

    if (n)
        tc_print_wrapped(stdout, 2, 4, line);
}

static void print_verdict(const Check *c, const BlkImageCheck *r)
{
    bool colors = tc_terminal_colors(stdout);
    const char *green = colors ? "\033[1;32m" : "", *red = colors ? "\033[1;31m" : "";
    const char *plain = colors ? "\033[0m" : "";

    if (c->lines > LINES_MAX)
        printf("... and %" PRIu64 " more\n", c->lines - LINES_MAX);
    if (c->lines)
        putchar('\n');
    if (r->leaks_fixed || r->corruptions_fixed) {
        printf("%sRepaired%s\n", green, plain);
        print_count(r->corruptions_fixed, "error", "errors", "repaired");
        print_count(r->leaks_fixed, "leaked cluster", "leaked clusters", "freed");
    }
    if (status_of(r) == CHECK_OK) {
        if (!c->unusable)
            printf("%sNo errors%s\n", green, plain);
        return;
    }
    printf("%sProblems%s\n", red, plain);
    print_count(
        r->corruptions, "error", "errors",
        "data may be lost, and writing to the image may lose more. --repair all repairs what "
        "it can: make a copy first");
    print_count(r->leaks, "leaked cluster", "leaked clusters",
                "space is wasted, and no data is affected. --repair leaks frees it");
    print_count(r->check_errors, "part of the image", "parts of the image", "not checked");
}

static void print_figures(const Check *c, const BlkImageCheck *r)
{
    g_autofree char *path = tc_printable(c->layer->path), *end = tc_human_size(r->image_end);
    g_autofree char *allocated = tc_percent(r->allocated_clusters, r->total_clusters);
    g_autofree char *fragmented = tc_percent(r->fragmented_clusters, r->allocated_clusters);
    g_autofree char *compressed = tc_percent(r->compressed_clusters, r->allocated_clusters);

    printf("\nimage       %s (%s)\n", path, c->layer->format);
    printf("clusters    %" PRIu64 " of %" PRIu64 " allocated (%s)\n", r->allocated_clusters,
           r->total_clusters, allocated);
    if (r->allocated_clusters)
        printf("            %s fragmented, %s compressed\n", fragmented, compressed);
    printf("end         %s (%" PRIu64 " bytes)\n", end, r->image_end);
}

static void report(const Check *c, const BlkImageCheck *r)
{
    if (c->json) {
        g_autoptr(json_object) json = blk_image_check_json(r);

        json_object_object_add(json, "filename", json_object_new_string(c->layer->path));
        json_object_object_add(json, "format", json_object_new_string(c->layer->format));
        tc_json_print(json, stdout);
    } else if (!c->quiet) {
        print_verdict(c, r);
        print_figures(c, r);
    }
}

/* ---- checking */

static bool open_file(const Check *c, TcImage *image, const char *path, BlkNode **file,
                      GError **error)
{
    TcImageOptions o = c->image;

    o.format = "raw";
    o.writable = c->fix != 0;
    *file = tc_image_add(image, path, &o, error);
    return *file != NULL;
}

static bool check_image(Check *c, BlkImageCheck *result, GError **error)
{
    BlkImageCheckOptions o = {
        .fix = c->fix, .progress = show_progress, .found = show_line, .opaque = c
    };
    g_autoptr(TcProgress) progress = tc_progress_on_terminal(!c->quiet);
    g_auto(TcImage) image = { 0 };
    BlkNode *file;
    bool ok;

    c->progress = progress;
    if (!tc_image_begin(&image, error))
        return false;
    ok = (c->fix || tc_image_check_written(c->layer, &c->image, error)) &&
         open_file(c, &image, c->layer->path, &file, error) &&
         blk_image_check(file, NULL, &o, result, error);
    tc_progress_clear(progress);
    return ok;
}

/* That an image whose tables are sound can be opened, with what it names. */
static bool check_opening(const Check *c, const BlkImageCheck *r, GError **error)
{
    TcImageOptions o = c->image;
    g_auto(TcImage) image = { 0 };

    o.force_share = o.chain = true;
    return r->check_errors || r->corruptions || tc_image_open(c->layer->path, &o, &image, error);
}

static bool parse(Check *c, GError **error)
{
    const char *repair = tc_option(c->inv, "repair");

    c->quiet = tc_flag(c->inv, "quiet");
    if (repair && strcmp(repair, "leaks") && strcmp(repair, "all"))
        return tm_error_set(error, "option --repair: '%s' is neither leaks nor all", repair);
    c->fix = !repair ? 0 : !strcmp(repair, "leaks") ? BLK_IMAGE_FIX_LEAKS : BLK_IMAGE_FIX_ALL;
    if (repair && tc_flag(c->inv, "force-share"))
        return tm_error_set(error, "--repair and --force-share exclude each other");
    return tc_image_options(c->inv, &c->image, error) && tc_image_output(c->inv, &c->json, error);
}

static int run(const TcInvocation *inv)
{
    Check c = { .inv = inv };
    BlkImageCheck result = { 0 };
    g_autoptr(GPtrArray) layers = NULL;
    g_autoptr(GError) error = NULL;

    if (!parse(&c, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    layers = tc_image_layers(tc_arg(inv, 0), c.image.format, NULL, &error);
    if (!layers)
        return tc_fail(g_steal_pointer(&error));
    c.layer = layers->pdata[0];
    if (!strcmp(c.layer->format, "raw")) {
        tm_error_set(&error, "'%s' is a raw image, which has no metadata to check", c.layer->path);
        tc_fail(g_steal_pointer(&error));
        return CHECK_UNSUPPORTED;
    }
    if (!check_image(&c, &result, &error))
        return tc_fail(g_steal_pointer(&error));
    c.unusable = !check_opening(&c, &result, &error);
    if (!c.unusable || c.fix)
        report(&c, &result);
    return c.unusable ? tc_fail(g_steal_pointer(&error)) : status_of(&result);
}

const TcCommand tc_command_image_check = {
    .name = "check",
    .args = "FILE",
    .summary = "Checks the metadata of a qcow2 image, and repairs it",
    .details =
        "No other program may use the image during the check. An image that can't be opened,\n"
        "with the files that it names, fails the check.\n"
        "\n"
        "Exit status, as qemu-img's:\n"
        "   0  there are no errors, or all were repaired\n"
        "   1  the check failed\n"
        "   2  there are errors\n"
        "   3  clusters are leaked, and there are no errors\n"
        "  63  images of that format can't be checked\n",
    .min_args = 1,
    .max_args = 1,
    .options = options,
    .run = run,
    .usage_status = CHECK_FAILED,
};
