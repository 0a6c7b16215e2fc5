/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/bitmap/cmd_export.c: "tidemark bitmap export" and "tidemark bitmap import". */
#include "block/bitmap_transfer.h"
#include "client/bitmap/portable.h"
#include "client/commands.h"
#include "client/image/image.h"
#include "util/file.h"
#include "util/json.h"
#include "util/range.h"
#include <errno.h>
#include <string.h>

/* ---- export */

static const TcOption export_options[] = { TC_SOCKET_OPTION, { 0 } };

/* The same as a daemon exports. */
static bool export_of_image(const char *path, const char *name, GString *text, GError **error)
{
    TcImageOptions o = { .bitmaps = true, .force_share = true };
    g_auto(TcImage) image = { 0 };
    g_autoptr(BmpBitmap) bitmap = NULL;
    g_autoptr(BmpCopy) copy = NULL;
    g_autoptr(GString) runs = g_string_new(NULL);
    json_object *head;
    uint64_t at = 0;
    bool more = true;

    if (!tc_image_open(path, &o, &image, error))
        return false;
    bitmap = bmp_set_find(blk_node_bitmaps(image.node), name, error);
    head = bitmap ? blk_bitmap_export(image.node, bitmap, &copy, error) : NULL;
    if (!head)
        return false;
    tm_json_add_string(head, "name", name);
    tc_bitmap_file_begin(text, head);
    while (more) {
        g_string_truncate(runs, 0);
        more = bmp_copy_print(copy, &at, BMP_COPY_RUNS, runs);
        tc_bitmap_file_add(text, runs->str);
    }
    tc_bitmap_file_end(text);
    return true;
}

static bool export_of_node(const TcInvocation *inv, GString *text, GError **error)
{
    g_autofree char *socket = tc_qmp_socket(tc_option(inv, "socket"));
    g_autoptr(TcQmp) qmp = tc_qmp_open(socket, error);

    return qmp && tc_bitmap_export(qmp, tc_arg(inv, 0), tc_arg(inv, 1), text, error);
}

static bool put(const GString *text, const char *path, GError **error)
{
    if (path && strcmp(path, "-"))
        return tm_file_replace(&tm_sys_kernel, path, text->str, 0666, error);
    return fwrite(text->str, 1, text->len, stdout) == text->len ||
           tm_error_set_errno(error, errno, "Could not write standard output");
}

static int run_export(const TcInvocation *inv)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GError) error = NULL;
    bool ok = tc_names_file(inv) ? export_of_image(tc_arg(inv, 0), tc_arg(inv, 1), text, &error)
                                 : export_of_node(inv, text, &error);

    ok = ok && put(text, tc_arg(inv, 2), &error);
    return ok ? TC_EXIT_OK : tc_fail(g_steal_pointer(&error));
}

const TcCommand tc_command_bitmap_export = {
    .name = "export",
    .args = "NODE|IMAGE NAME [FILE]",
    .summary = "Writes a bitmap to a file, or to standard output",
    .details =
        "The file has what is dirty at this instant, and which disk that is of. An argument with\n"
        "a slash or a dot is an IMAGE, unless --socket is given: its persistent bitmap is\n"
        "exported without a daemon.\n",
    .min_args = 2,
    .max_args = 3,
    .options = export_options,
    .run = run_export,
};

/* ---- import */

static const TcOption import_options[] = {
    TC_SOCKET_OPTION,
    { "name", "NAME", "name of the bitmap (default: the name that it had)" },
    { "granularity", "SIZE", "bytes that one bit stands for (default: as it had)" },
    { "persistent", NULL, "store it in a file beside the disk; it survives restarts and crashes" },
    { "disabled", NULL, "don't record writes, even if it did" },
    { "merge", NULL, "add what is dirty to the existing bitmap NAME" },
    { 0 },
};

static json_object *import_arguments(const TcInvocation *inv, const TcBitmapFile *file,
                                     uint64_t granularity)
{
    const char *name = tc_option(inv, "name");
    json_object *arguments = tc_json_new("node", tc_arg(inv, 0), "name",
                                         name ? name : tc_json_string(file->head, "name"), NULL);

    if (tc_flag(inv, "merge")) {
        tm_json_add_bool(arguments, "merge", true);
        return arguments;
    }
    tm_json_add_bool(arguments, "recording",
                     tc_json_true(file->head, "recording") && !tc_flag(inv, "disabled"));
    tm_json_add_bool(arguments, "persistent", tc_flag(inv, "persistent"));
    if (granularity)
        tm_json_add_uint(arguments, "to-granularity", granularity);
    return arguments;
}

static bool check_import(const TcInvocation *inv, uint64_t *granularity, GError **error)
{
    static const char *const of_new[] = { "granularity", "persistent", "disabled" };

    for (size_t i = 0; i < G_N_ELEMENTS(of_new); i++) {
        if (tc_flag(inv, of_new[i]) && tc_flag(inv, "merge"))
            return tm_error_set(error, "--%s and --merge exclude each other", of_new[i]);
    }
    if (!tc_option_number(inv, "granularity", 512, UINT64_C(2) << 30, granularity, error))
        return false;
    return !*granularity || tm_is_pow2(*granularity) ||
           tm_error_set(error, "option --granularity: '%s' is not a power of two from 512 to 2G",
                        tc_option(inv, "granularity"));
}

static int run_import(const TcInvocation *inv)
{
    const char *path = tc_arg(inv, 1);
    g_autofree char *socket = tc_qmp_socket(tc_option(inv, "socket"));
    g_auto(TcBitmapFile) file = { 0 };
    g_autoptr(GError) error = NULL;
    g_autoptr(TcQmp) qmp = NULL;
    uint64_t granularity = 0;
    bool ok;

    if (!check_import(inv, &granularity, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    ok = tc_bitmap_file_read(path && strcmp(path, "-") ? path : NULL, &file, &error) &&
         (qmp = tc_qmp_open(socket, &error)) &&
         tc_bitmap_import(qmp, &file, import_arguments(inv, &file, granularity), &error);
    return ok ? TC_EXIT_OK : tc_fail(g_steal_pointer(&error));
}

const TcCommand tc_command_bitmap_import = {
    .name = "import",
    .args = "NODE [FILE]",
    .summary = "Makes a bitmap from a file that 'export' wrote, or from standard input",
    .details =
        "The disk must be the one that the bitmap is of. A bitmap that recorded writes goes on\n"
        "recording, which is refused unless nobody wrote to the disk since the export. With\n"
        "--disabled, the disk may have been written since; with --merge, it may be any disk of\n"
        "that size.\n",
    .min_args = 1,
    .max_args = 2,
    .options = import_options,
    .run = run_import,
};
