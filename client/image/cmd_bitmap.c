/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/image/cmd_bitmap.c: "tidemark image bitmap": changes of the bitmaps that are kept with an
 * image.
 *
 * All that is asked for happens in one change, so that it is done or not done as a whole. */
#include "block/bitmap_changes.h"
#include "block/bitmaps.h"
#include "client/image/cmd_image.h"
#include "client/text.h"
#include "util/text.h"
#include <string.h>

static const TcOption options[] = {
    { "add", NULL, "add the bitmap" },
    { "remove", NULL, "remove the bitmap" },
    { "clear", NULL, "clear all bits of the bitmap" },
    { "enable", NULL, "record writes in it" },
    { "disable", NULL, "stop recording writes in it" },
    { "merge", "SOURCE", "add what is dirty in the bitmap SOURCE" },
    { "granularity", "N", "with --add: bytes that one bit stands for", 'g' },
    { "source-file", "FILE2", "with --merge: SOURCE is in that image", 'b' },
    { "source-format", "FMT", "the format of FILE2", 'F' },
    TC_FORMAT_OPTION,
    TC_NAMES_OPTION,
    TC_IMAGE_OPTS_OPTION,
    { 0 },
};

typedef struct Actions {
    const TcInvocation *inv;
    const char *name; /* as text */
    TcImage image;
    BlkNode *source; /* of merges; the image's own node, or another */
    uint64_t granularity;
    BlkBitmapChanges *changes;
} Actions;

/* ---- the actions */

static bool add(Actions *a, GError **error)
{
    BmpAddOptions o = { .granularity = a->granularity, .persistent = true };

    return blk_bitmap_changes_add(a->changes, a->image.node, a->name, &o, error);
}

static bool merge(Actions *a, BmpBitmap *bitmap, const char *bytes, GError **error)
{
    g_autofree char *name = tm_text_of(bytes, strlen(bytes));
    g_autoptr(BmpBitmap) source = bmp_set_find(blk_node_bitmaps(a->source), name, error);

    return source && blk_bitmap_changes_merge(a->changes, bitmap, source, error);
}

static bool act(Actions *a, const TcGiven *given, GError **error)
{
    const char *what = given->option->name;
    g_autoptr(BmpBitmap) bitmap = NULL;

    if (!strcmp(what, "add"))
        return add(a, error);
    bitmap = bmp_set_find(blk_node_bitmaps(a->image.node), a->name, error);
    if (!bitmap)
        return false;
    if (!strcmp(what, "remove"))
        return blk_bitmap_changes_remove(a->changes, bitmap, error);
    if (!strcmp(what, "clear"))
        return blk_bitmap_changes_apply(a->changes, bitmap, bmp_bitmap_clear, error);
    if (!strcmp(what, "enable"))
        return blk_bitmap_changes_apply(a->changes, bitmap, bmp_bitmap_enable, error);
    if (!strcmp(what, "disable"))
        return blk_bitmap_changes_apply(a->changes, bitmap, bmp_bitmap_disable, error);
    return merge(a, bitmap, given->value, error);
}

/* Whether the option is one. */
static bool is_action(const TcGiven *given)
{
    static const char *const names[] = { "add",     "remove", "clear", "enable",
                                         "disable", "merge",  NULL };

    return g_strv_contains(names, given->option->name);
}

static bool act_all(Actions *a, GError **error)
{
    for (guint i = 0; i < a->inv->given->len; i++) {
        const TcGiven *given = &g_array_index(a->inv->given, TcGiven, i);

        if (is_action(given) && !act(a, given, error))
            return false;
    }
    return true;
}

static bool change(Actions *a, GError **error)
{
    BlkNode *nodes[] = { a->image.node, a->source };
    size_t n = a->source == a->image.node ? 1 : 2;
    bool ok;

    blk_bitmaps_change_begin(nodes, n);
    ok = act_all(a, error) && blk_bitmaps_commit(nodes, n, error);
    if (!ok)
        blk_bitmap_changes_take_back(a->changes);
    blk_bitmaps_change_end(nodes, n);
    return ok;
}

/* ---- the command */

static bool open_source(Actions *a, const TcImageOptions *image, GError **error)
{
    const char *file = tc_option(a->inv, "source-file");
    TcImageOptions o = { .format = tc_option(a->inv, "source-format"),
                         .bitmaps = true,
                         .names = image->names };

    a->source = file && !tc_image_same(file, tc_arg(a->inv, 0))
                    ? tc_image_add(&a->image, file, &o, error)
                    : a->image.node;
    return a->source != NULL;
}

static bool check(Actions *a, TcImageOptions *o, GError **error)
{
    const TcInvocation *inv = a->inv;
    bool any = false;

    for (guint i = 0; i < inv->given->len; i++)
        any = any || is_action(&g_array_index(inv->given, TcGiven, i));
    if (!any)
        return tm_error_set(error,
                            "one of --add, --remove, --clear, --enable, --disable and --merge "
                            "is needed");
    if (tc_flag(inv, "granularity") && !tc_flag(inv, "add"))
        return tm_error_set(error, "--granularity needs --add");
    if (tc_flag(inv, "add") && !tm_is_text(tc_arg(inv, 1), strlen(tc_arg(inv, 1))))
        return tm_error_set(error, "'%s' can't be the name of a new bitmap: it is not UTF-8",
                            a->name);
    if (tc_flag(inv, "source-file") && !tc_flag(inv, "merge"))
        return tm_error_set(error, "--source-file needs --merge");
    if (tc_flag(inv, "source-format") && !tc_flag(inv, "source-file"))
        return tm_error_set(error, "--source-format needs --source-file");
    return tc_image_options(inv, o, error) &&
           tc_option_number(inv, "granularity", BMP_GRANULARITY_MIN, BMP_GRANULARITY_MAX,
                            &a->granularity, error);
}

static int run(const TcInvocation *inv)
{
    /* As images have them that QEMU made: what a shell gave. */
    g_autofree char *name = tm_text_of(tc_arg(inv, 1), strlen(tc_arg(inv, 1)));
    Actions a = { .inv = inv, .name = name };
    TcImageOptions o = { .writable = true, .bitmaps = true };
    g_autoptr(GError) error = NULL;
    bool ok;

    if (!check(&a, &o, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    if (!tc_image_open(tc_arg(inv, 0), &o, &a.image, &error))
        return tc_fail(g_steal_pointer(&error));
    a.changes = blk_bitmap_changes_new();
    ok = open_source(&a, &o, &error) && change(&a, &error);
    blk_bitmap_changes_free(a.changes);
    ok = tc_image_finish(&a.image, ok ? &error : NULL) && ok;
    return ok ? TC_EXIT_OK : tc_fail(g_steal_pointer(&error));
}

const TcCommand tc_command_image_bitmap = {
    .name = "bitmap",
    .args = "FILE NAME",
    .summary = "Changes a persistent bitmap of an image",
    .details =
        "Several changes are made in the order of their options, and all of them or none. A qcow2\n"
        "image contains its bitmaps; those of a raw image are in the store FILE.bitmaps. "
        "'tidemark\n"
        "image info' lists them.\n",
    .min_args = 2,
    .max_args = 2,
    .options = options,
    .run = run,
    .usage_status = TC_EXIT_FAILED,
};
