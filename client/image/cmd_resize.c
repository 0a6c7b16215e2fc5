/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/image/cmd_resize.c: "tidemark image resize". */
#include "client/image/cmd_image.h"
#include "client/progress.h"
#include "client/text.h"
#include "util/range.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define CHUNK (UINT64_C(4) << 20)

static const TcOption options[] = {
    TC_FORMAT_OPTION,
    TC_NAMES_OPTION,
    TC_IMAGE_OPTS_OPTION,
    { "shrink", NULL, "allow a smaller disk: data beyond the new end is lost" },
    { "preallocation", "MODE", "for the added part: off (default), metadata, falloc or full" },
    TC_QUIET_OPTION,
    { 0 },
};

typedef struct Resize {
    const TcInvocation *inv;
    char sign; /* of the size given: '+', '-' or 0 */
    uint64_t amount;
    const char *preallocation;
    uint64_t before, after;
} Resize;

static bool parse_size(Resize *r, const char *text, GError **error)
{
    if (*text == '+' || *text == '-')
        r->sign = *text++;
    return tc_image_size(text, &r->amount) ||
           tm_error_set(error, "'%s' is not a size: [+|-]NUMBER with a suffix k, M, G, T, P or E",
                        tc_arg(r->inv, 1));
}

/* What is beyond the old end of the disk, a longer backing file would show. */
static bool check_backing(const Resize *r, const TcImage *image, GError **error)
{
    const TcLayer *layer = tc_image_layer(image);

    if (r->after <= r->before || image->layers->len > 1 || !layer->names.backing)
        return true;
    return tm_error_set(
        error,
        "the backing file '%s' may be longer and must be opened, so that the added part "
        "reads as zeroes: --backing-names does not allow that",
        layer->names.backing);
}

static bool new_size(Resize *r, GError **error)
{
    if (!r->sign && !r->amount)
        return tm_error_set(error, "the new size is 0: it must be positive");
    if (r->sign == '-' && r->amount >= r->before)
        return tm_error_set(error, "the image has %" PRIu64 " bytes and can't shrink by %" PRIu64,
                            r->before, r->amount);
    if (r->sign == '+' && r->amount > TM_SIZE_MAX - tm_min(r->before, TM_SIZE_MAX))
        return tm_error_set(error, "the image has %" PRIu64 " bytes and can't grow by %" PRIu64,
                            r->before, r->amount);
    r->after = r->sign == '-'   ? r->before - r->amount
               : r->sign == '+' ? r->before + r->amount
                                : r->amount;
    if (r->after < r->before && strcmp(r->preallocation, "off"))
        return tm_error_set(error, "--preallocation is for the part that a resize adds: the image "
                                   "would become smaller");
    if (r->after < r->before && !tc_flag(r->inv, "shrink"))
        return tm_error_set(error,
                            "the image would become smaller and lose all data beyond its new end: "
                            "use --shrink to allow that");
    return true;
}

/* Data, not holes: written as such. */
static bool write_zeroes(Resize *r, const TcImage *image, GError **error)
{
    g_autoptr(TcProgress) progress = tc_progress_on_terminal(!tc_flag(r->inv, "quiet"));
    g_autofree char *zeroes = g_malloc0(CHUNK);

    for (uint64_t at = r->before; at < r->after;) {
        uint64_t n = tm_min(CHUNK, r->after - at);
        int ret = blk_node_pwrite(image->node, zeroes, at, n, 0);

        if (ret < 0)
            return tm_error_set_errno(error, -ret, "Could not write '%s' at %" PRIu64,
                                      tc_image_layer(image)->path, at);
        at += n;
        tc_progress_show(progress, "preallocating", at - r->before, r->after - r->before);
    }
    return true;
}

static bool preallocate(Resize *r, const TcImage *image, GError **error)
{
    const TcLayer *layer = tc_image_layer(image);
    int fd, err;

    if (r->after <= r->before || !strcmp(r->preallocation, "off"))
        return true;
    /* What is less than that in a qcow2 image takes its clusters, too. */
    if (!strcmp(r->preallocation, "full") || strcmp(layer->format, "raw") != 0)
        return write_zeroes(r, image, error);
    fd = tm_sys_kernel.open(layer->path, O_RDWR | O_CLOEXEC, 0);
    err = fd < 0 ? errno : posix_fallocate(fd, (off_t)r->before, (off_t)(r->after - r->before));
    if (fd >= 0)
        close(fd);
    return err == 0 || tm_error_set_errno(error, err, "Could not preallocate '%s'", layer->path);
}

static bool resize(Resize *r, const TcImageOptions *o, GError **error)
{
    g_auto(TcImage) image = { 0 };

    if (!tc_image_open(tc_arg(r->inv, 0), o, &image, error))
        return false;
    if (!strcmp(r->preallocation, "metadata") && !strcmp(tc_image_layer(&image)->format, "raw"))
        return tm_error_set(error, "raw images have no metadata to preallocate");
    r->before = blk_node_size(image.node);
    if (!new_size(r, error) || !check_backing(r, &image, error) ||
        (r->after != r->before && !blk_graph_resize(image.graph, image.node, r->after, error)) ||
        !preallocate(r, &image, error))
        return false;
    return tc_image_finish(&image, error);
}

static bool check(Resize *r, TcImageOptions *o, GError **error)
{
    static const char *const modes[] = { "off", "metadata", "falloc", "full", NULL };

    r->preallocation = tc_option(r->inv, "preallocation");
    if (!r->preallocation)
        r->preallocation = "off";
    if (!g_strv_contains(modes, r->preallocation))
        return tm_error_set(error,
                            "option --preallocation: '%s' is none of off, metadata, falloc, full",
                            r->preallocation);
    return tc_image_options(r->inv, o, error) && parse_size(r, tc_arg(r->inv, 1), error);
}

static void report(const Resize *r)
{
    g_autofree char *before = tc_human_size(r->before), *after = tc_human_size(r->after);

    if (tc_flag(r->inv, "quiet"))
        return;
    if (r->before == r->after)
        printf("The disk already has %s (%" PRIu64 " bytes).\n", after, r->after);
    else
        printf("Resized from %s to %s (%" PRIu64 " bytes).\n", before, after, r->after);
}

static int run(const TcInvocation *inv)
{
    Resize r = { .inv = inv };
    TcImageOptions o = { .writable = true, .bitmaps = true, .chain = true };
    g_autoptr(GError) error = NULL;

    if (!check(&r, &o, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    if (!resize(&r, &o, &error))
        return tc_fail(g_steal_pointer(&error));
    report(&r);
    return TC_EXIT_OK;
}

const TcCommand tc_command_image_resize = {
    .name = "resize",
    .args = "FILE [+|-]SIZE",
    .summary = "Changes the size of the disk in an image",
    .details =
        "With a sign, SIZE is added or subtracted. The added part reads as zeroes. Persistent\n"
        "bitmaps are resized, too, and the added part is dirty in them. Shrink file systems and\n"
        "partitions before the disk, and grow them after it.\n",
    .min_args = 2,
    .max_args = 2,
    .options = options,
    .run = run,
    .usage_status = TC_EXIT_FAILED,
};
