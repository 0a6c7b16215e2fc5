/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/backing.c: opening the backing file that an image names, where the user said that such
 * names may be followed.
 *
 * An image may come from anybody, and what it names may be anything: so a name is a path and
 * nothing else (no protocol, no JSON), its format is the one recorded and never guessed, and chains
 * are bounded. Names in the image's own directory lead to files of that directory, by symbolic
 * links too; whether what was opened is one of them is checked when it is open. */
#include "block/node_internal.h"

#include "block/registry.h"
#include "util/error.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINKS_MAX 40u /* symbolic links, one leading to the other */

/* The path in @directory that links from @name lead to, or NULL: it is elsewhere. */
static char *follow(const char *directory, const char *name)
{
    g_autofree char *path = g_build_filename(directory, name, NULL);

    for (unsigned i = 0; i < LINKS_MAX; i++) {
        char target[PATH_MAX];
        ssize_t n = readlink(path, target, sizeof(target));

        if (n < 0)
            return g_steal_pointer(&path); /* no link; opening reports other errors */
        if (n == 0 || n == sizeof(target) || memchr(target, '/', (size_t)n))
            return NULL;
        target[n] = '\0';
        g_free(path);
        path = g_build_filename(directory, target, NULL);
    }
    return NULL;
}

/* Whether the file of @below is what stands at @path, which may have become a link meanwhile. */
static bool is_entry(BlkNode *below, const char *path)
{
    BlkNode *file = blk_node_child_at(below, 0);
    struct tidemark_mapping mapping = { 0 };
    struct stat opened, entry;

    return file->driver->map(file->handle, 0, 1, TIDEMARK_MAP_FOR_READ, &mapping) == 0 &&
           mapping.kind == TIDEMARK_MAP_FD && file->graph_sys->fstat(mapping.fd, &opened) == 0 &&
           lstat(path, &entry) == 0 && opened.st_dev == entry.st_dev &&
           opened.st_ino == entry.st_ino;
}

static void elsewhere(BlkNode *node, const char *name)
{
    blk_host.error(node,
                   "The image names the backing file '%s', which is not in its own directory: "
                   "specify it with 'backing', or use backing-names=any",
                   name);
}

/* Relative to the image's own directory; NULL, and node->error says why. */
static char *resolve(BlkNode *node, const char *image, const char *name, const char *which)
{
    g_autofree char *directory = g_path_get_dirname(image);
    const char *colon = strchr(name, ':'), *slash = strchr(name, '/');

    if (colon && (!slash || colon < slash)) {
        blk_host.error(node,
                       "The image names the backing file '%s', which is not a path: specify it "
                       "with 'backing'",
                       name);
        return NULL;
    }
    if (g_str_equal(which, "directory")) {
        char *path = slash ? NULL : follow(directory, name);

        if (!path)
            elsewhere(node, name);
        return path;
    }
    return g_path_is_absolute(name) ? g_strdup(name) : g_build_filename(directory, name, NULL);
}

/* The definition of the node below. */
static json_object *definition(BlkNode *node, const char *path, const char *format,
                               const char *which)
{
    json_object *options = json_object_new_object(), *file = json_object_new_object();

    json_object_object_add(file, "driver", json_object_new_string("file"));
    json_object_object_add(file, "filename", json_object_new_string(path));
    json_object_object_add(options, "driver", json_object_new_string(format));
    json_object_object_add(options, "read-only", json_object_new_boolean(true));
    json_object_object_add(options, "force-share",
                           json_object_new_boolean(blk_options_bool(node->options, "force-share")));
    if (g_str_equal(format, "qcow2"))
        json_object_object_add(options, "backing-names", json_object_new_string(which));
    json_object_object_add(options, "file", file);
    return options;
}

int blk_host_open_backing(struct tidemark_node *node, const char *name, const char *format,
                          const char *which)
{
    g_autofree char *image = blk_node_filename(blk_node_child_at(node, 0)), *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(BlkNode) below = NULL;
    json_object *options, *nested;

    if (node->children[node->backing])
        return 0; /* it is opened again, and has kept it */
    if (!format || (strcmp(format, "qcow2") && strcmp(format, "raw"))) {
        blk_host.error(node,
                       "The image names the backing file '%s' and %s%s%s: specify it with "
                       "'backing'; formats are never guessed",
                       name, format ? "its format '" : "not its format", format ? format : "",
                       format ? "'" : "");
        return -EINVAL;
    }
    path = resolve(node, image, name, which);
    if (!path)
        return -EINVAL;
    if (blk_graph_chain(node->graph, 1) >= BLK_IMAGE_CHAIN_MAX) { /* with that which names it */
        blk_graph_chain(node->graph, -1);
        blk_host.error(node,
                       "The chain of backing files is longer than %u images, or a loop: the last "
                       "one is '%s'",
                       BLK_IMAGE_CHAIN_MAX, path);
        return -ELOOP;
    }
    options = definition(node, path, format, which);
    nested = blk_node_child_options(options, json_object_object_get(options, "file"), false);
    json_object_object_add(options, "file", nested);
    below = blk_graph_open_child(node->graph, options, &error);
    blk_graph_chain(node->graph, -1);
    json_object_put(options);
    if (!below) {
        blk_host.error(node, "Could not open backing file: %s", error->message);
        return -EINVAL;
    }
    if (g_str_equal(which, "directory") && !is_entry(below, path)) {
        elsewhere(node, name);
        return -EINVAL;
    }
    node->children[node->backing] =
        blk_node_use_child(node, (unsigned)node->backing, below, &error);
    if (!node->children[node->backing]) {
        blk_host.error(node, "Could not open backing file: %s", error->message);
        return -EINVAL;
    }
    return 0;
}
