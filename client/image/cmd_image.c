/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/image/cmd_image.c: "tidemark image": image files without a daemon; a file for each
 * subcommand. */
#include "client/image/cmd_image.h"

#include "block/named.h"
#include "client/text.h"
#include "util/text.h"
#include <string.h>

static bool has_option(const TcInvocation *inv, const char *name)
{
    for (const TcOption *o = inv->command->options; o && o->name; o++) {
        if (!strcmp(o->name, name))
            return true;
    }
    return false;
}

static bool check_format(const char *format, GError **error)
{
    static const char *const formats[] = { "raw", "qcow2", NULL };
    const char *closest;

    if (!format || g_strv_contains(formats, format))
        return true;
    closest = tm_text_nearest(format, formats);
    if (closest)
        return tm_error_set(error, "unknown format '%s': did you mean '%s'?", format, closest);
    return tm_error_set(error, "unknown format '%s': raw and qcow2 are known", format);
}

static bool check_names(const char *names, GError **error)
{
    return g_strv_contains(blk_names_choices, names) ||
           tm_error_set(error, "option --backing-names: '%s' is none of directory, none, any",
                        names);
}

bool tc_image_options(const TcInvocation *inv, TcImageOptions *options, GError **error)
{
    if (has_option(inv, "image-opts") && tc_flag(inv, "image-opts"))
        return tm_error_set(error,
                            "option --image-opts: '%s' describes nodes, and FILE is the path of an "
                            "image: use its path, with --format",
                            tc_arg(inv, 0));
    if (has_option(inv, "format"))
        options->format = tc_option(inv, "format");
    if (has_option(inv, "force-share"))
        options->force_share = tc_flag(inv, "force-share");
    if (has_option(inv, "backing-names"))
        options->names = tc_option(inv, "backing-names");
    if (!options->names)
        options->names = BLK_NAMES_DEFAULT;
    return check_format(options->format, error) && check_names(options->names, error);
}

bool tc_image_output(const TcInvocation *inv, bool *json, GError **error)
{
    const char *output = tc_option(inv, "output");

    *json = tc_flag(inv, "json") || !g_strcmp0(output, "json");
    if (!output || !strcmp(output, "json") || !strcmp(output, "human"))
        return true;
    return tm_error_set(error, "option --output: '%s' is neither json nor human", output);
}

bool tc_image_size(const char *text, uint64_t *bytes)
{
    size_t whole = strspn(text, "0123456789"), part = text[whole] == '.' ? whole + 1 : whole;
    size_t digits = strspn(text + part, "0123456789");
    g_autofree char *fraction = g_strdup_printf("0.%.*s", (int)digits, text + part);
    g_autofree char *rest = g_strdup_printf("%.*s%s", (int)whole, text, text + part + digits);
    g_autofree char *unit = g_strconcat("1", text + part + digits, NULL);
    uint64_t scale, more;

    if (!whole || part == whole)
        return tc_parse_size(text, bytes);
    if (!tc_parse_size(unit, &scale) || !tc_parse_size(rest, bytes))
        return false;
    more = (uint64_t)(g_ascii_strtod(fraction, NULL) * (double)scale);
    /* There are no parts of bytes. */
    if ((scale == 1 && strspn(fraction, "0.") < strlen(fraction)) || more > UINT64_MAX - *bytes)
        return false;
    *bytes += more;
    return true;
}

static const TcCommand *const subcommands[] = {
    &tc_command_image_create,
    &tc_command_image_info,
    &tc_command_image_check,
    &tc_command_image_map,
    &tc_command_image_resize,
    &tc_command_image_bitmap,
    NULL,
};

const TcCommand tc_command_image = {
    .name = "image",
    .args = "",
    .summary = "Creates, inspects, changes and repairs image files, without a daemon",
    .subcommands = subcommands,
    .usage_status = TC_EXIT_FAILED,
};
