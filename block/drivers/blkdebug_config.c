/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/blkdebug_config.c: the option "config": rules in a file.
 *
 * The format is QEMU's (util/qemu-config.c): sections [inject-error] and [set-state], with a name
 * in quotes or none; lines key = "value"; comments after #. */
#include "block/drivers/blkdebug_internal.h"

#include "block/registry.h"
#include "util/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SIZE_LIMIT (1u << 20) /* bytes */

static void section_free(void *opaque)
{
    BlkdebugSection *section = opaque;

    g_hash_table_unref(section->values);
    g_free(section);
}

static BlkdebugSection *begin_section(GPtrArray *sections, const char *line)
{
    static const char *const lists[] = { "inject-error", "inject-delay", "set-state" };
    char name[64] = "", id[64] = "";

    if (sscanf(line, "[ %63s \"%63[^\"]\" ]", name, id) != 2 &&
        sscanf(line, "[ %63[^] ] ]", name) != 1)
        return NULL;
    for (size_t i = 0; i < G_N_ELEMENTS(lists); i++) {
        BlkdebugSection *section;

        if (!g_str_equal(name, lists[i]))
            continue;
        section = g_new0(BlkdebugSection, 1);
        section->list = lists[i];
        section->values = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
        g_ptr_array_add(sections, section);
        return section;
    }
    return NULL;
}

static bool add_value(BlkdebugSection *section, const char *line)
{
    char key[64] = "", value[1024] = "";

    if (!section || sscanf(line, "%63s = \"%1023[^\"]\"", key, value) != 2)
        return false;
    g_hash_table_replace(section->values, g_strdup(key), g_strdup(value));
    return true;
}

static bool parse(GPtrArray *sections, char *text, unsigned *line)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", 0);
    BlkdebugSection *section = NULL;

    for (*line = 1; lines[*line - 1]; ++*line) {
        const char *at = g_strstrip(lines[*line - 1]);

        if (!*at || *at == '#')
            continue;
        if (*at == '[' ? !(section = begin_section(sections, at)) : !add_value(section, at))
            return false;
    }
    return true;
}

GPtrArray *blkdebug_config_read(struct tidemark_node *node, const char *path)
{
    g_autoptr(GPtrArray) sections = g_ptr_array_new_with_free_func(section_free);
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    gsize size;
    unsigned line;

    if (!g_file_get_contents(path, &text, &size, &error)) {
        blk_host.error(node, "Could not read blkdebug config file: %s", error->message);
        return NULL;
    }
    if (size > SIZE_LIMIT || strlen(text) != size) {
        blk_host.error(node,
                       "Could not parse blkdebug config file '%s': it is not text, or is "
                       "longer than %u bytes",
                       path, SIZE_LIMIT);
        return NULL;
    }
    if (parse(sections, text, &line))
        return g_steal_pointer(&sections);
    blk_host.error(node,
                   "Could not parse blkdebug config file '%s', line %u: expected [inject-error], "
                   "[inject-delay], [set-state] or key = \"value\"",
                   path, line);
    return NULL;
}
