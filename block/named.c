/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/named.c: opening the backing file and the data file that an image names, where the node's
 * options allow it.
 *
 * The format is the one that the image records and is never guessed, and chains are bounded. A path
 * may mean another file from one moment to the next: the file that was allowed is held, and what
 * was opened is compared with it. */
#include "block/named.h"

#include "block/described.h"
#include "block/disk.h"
#include "block/node_internal.h"
#include "block/registry.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *const blk_names_choices[] = { "directory", "none", "any", NULL };

/* ---- what a name means */

/* @name after "@directory/", or NULL. */
static const char *after(const char *name, const char *directory)
{
    size_t length = strlen(directory);

    if (strncmp(name, directory, length) || (directory[length - 1] != '/' && name[length] != '/'))
        return NULL;
    return name + length + strspn(name + length, "/");
}

/* @name relative to @directory, if it begins with it. Borrowed from @name; NULL: it doesn't. */
static const char *relative_to(const char *name, const char *directory)
{
    g_autofree char *full = g_canonicalize_filename(directory, NULL);

    return g_path_is_absolute(name) ? after(name, full) : name;
}

static int find_beneath(const char *image, const char *directory, const char *name, int *fd)
{
    const char *within = relative_to(name, directory);
    struct stat st;

    /* What is beside a device are other devices. */
    if (!within || !*within || (stat(image, &st) == 0 && !S_ISREG(st.st_mode)))
        return -EXDEV;
    *fd = tm_file_find_beneath(directory, within);
    if (*fd < 0)
        return -errno;
    if (fstat(*fd, &st) == 0 && S_ISREG(st.st_mode))
        return 0;
    close(*fd);
    *fd = -1;
    return -EXDEV;
}

int blk_name_resolve(const char *image, const char *name, const char *which, char **path, int *fd)
{
    g_autofree char *directory = image ? g_path_get_dirname(image) : NULL;

    *fd = -1;
    *path = NULL;
    if (!blk_name_is_path(name) || (!image && !g_path_is_absolute(name)))
        return -EPROTONOSUPPORT;
    if (g_path_is_absolute(name) || (!strcmp(directory, ".") && *image != '.'))
        *path = g_strdup(name);
    else
        *path = g_build_filename(directory, name, NULL);
    if (strcmp(which, "directory"))
        return 0;
    return directory ? find_beneath(image, directory, name, fd) : -EXDEV;
}

bool blk_name_is(int fd, int opened)
{
    struct stat a, b;

    return fstat(fd, &a) == 0 && fstat(opened, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

/* ---- opening it for a node */

/* One name being followed. */
typedef struct Named {
    BlkNode *node;
    unsigned child;
    const char *what, *option; /* "backing file", and the child's name */
    const char *name, *format, *which;
    char *path; /* NULL if it is described */
    json_object *described;
    int fd;
} Named;

static void named_clear(Named *n)
{
    g_free(n->path);
    json_object_put(n->described);
    if (n->fd >= 0)
        close(n->fd);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Named, named_clear)

static int refuse_elsewhere(const Named *n)
{
    blk_host.error(n->node,
                   "The image names the %s '%s', which is not a file in the image's own directory "
                   "or below it: specify it with '%s', or allow it with backing-names=any",
                   n->what, n->name, n->option);
    return -EINVAL;
}

static int refuse_format(const Named *n)
{
    blk_host.error(n->node,
                   "The image names the %s '%s' and %s%s%s: specify it with '%s'; formats are "
                   "never guessed",
                   n->what, n->name, n->format ? "its format '" : "not its format",
                   n->format ? n->format : "", n->format ? "'" : "", n->option);
    return -EINVAL;
}

static int refuse_none(const Named *n)
{
    blk_host.error(n->node,
                   "The image names the %s '%s'%s%s%s: specify it with '%s'%s, or allow it with "
                   "backing-names",
                   n->what, n->name, n->format ? " (" : "", n->format ? n->format : "",
                   n->format ? ")" : "", n->option,
                   strcmp(n->option, "backing") ? "" : " (a node, or null for none)");
    return -EINVAL;
}

/* It is no path, but what describes a node. */
static int describe(Named *n)
{
    g_autoptr(GError) error = NULL;

    if ((int)n->child != n->node->backing || blk_name_is_path(n->name))
        blk_host.error(n->node,
                       "The image names the %s '%s', which can't be followed: specify it with '%s'",
                       n->what, n->name, n->option);
    else if (strcmp(n->which, "any"))
        blk_host.error(n->node,
                       "The image names the %s '%s', which is not a path: specify it with '%s', or "
                       "allow it with backing-names=any",
                       n->what, n->name, n->option);
    else if (!(n->described = blk_name_definition(n->name, n->format, &error)))
        blk_host.error(n->node, "The image names the %s '%s': %s: specify it with '%s'", n->what,
                       n->name, error->message, n->option);
    return n->described ? 0 : -EINVAL;
}

static int resolve(Named *n)
{
    int ret = blk_name_resolve(blk_disk_path(blk_node_child_at(n->node, 0)), n->name, n->which,
                               &n->path, &n->fd);

    if (ret == -EXDEV)
        return refuse_elsewhere(n);
    if (ret == -EPROTONOSUPPORT)
        return describe(n);
    if (ret < 0)
        blk_host.error(n->node, "Could not open %s: Could not open '%s': %s", n->what, n->path,
                       tm_strerror(-ret));
    return ret < 0 ? -EINVAL : 0;
}

/* As it was given: what an inactive node makes of it changes with its state. */
static bool given(const BlkNode *node, const char *name)
{
    return blk_options_uint(node->options, name);
}

/* The options of the node that its children inherit, as they are in a definition. A reference. */
static json_object *inheritance(const BlkNode *node)
{
    json_object *o = json_object_new_object(), *cache = json_object_new_object();

    tm_json_add_bool(o, "read-only", given(node, "read-only"));
    tm_json_add_bool(o, "auto-read-only", given(node, "auto-read-only"));
    tm_json_add_bool(o, "force-share", given(node, "force-share"));
    tm_json_add_bool(o, "active", given(node, "active"));
    tm_json_add_string(o, "discard", blk_options_string(node->options, "discard"));
    tm_json_add_bool(cache, "direct", given(node, "cache.direct"));
    tm_json_add_bool(cache, "no-flush", given(node, "cache.no-flush"));
    json_object_object_add(o, "cache", cache);
    return o;
}

/* A file, and the format in it. A reference. */
static json_object *file_definition(const Named *n)
{
    json_object *file = json_object_new_object(), *options;

    tm_json_add_string(file, "driver", "file");
    tm_json_add_string(file, "filename", n->path);
    if (!n->format)
        return file;
    options = json_object_new_object();
    tm_json_add_string(options, "driver", n->format);
    json_object_object_add(options, "file", file);
    return options;
}

/* The definition of the node below. A reference. */
static json_object *definition(const Named *n)
{
    json_object *options = n->described ? json_object_get(n->described) : file_definition(n);
    json_object *parent = inheritance(n->node), *whole;

    if (!strcmp(json_object_get_string(json_object_object_get(options, "driver")), "qcow2"))
        tm_json_add_string(options, "backing-names", n->which);
    whole = blk_node_child_options(parent, options, (int)n->child == n->node->backing);
    json_object_put(options);
    json_object_put(parent);
    return whole;
}

static BlkNode *open_definition(const Named *n, GError **error)
{
    json_object *options = definition(n), *file = json_object_object_get(options, "file");
    BlkNode *below;

    if (file)
        json_object_object_add(options, "file", blk_node_child_options(options, file, false));
    below = blk_graph_open_child(n->node->graph, options, error);
    json_object_put(options);
    return below;
}

/* With that which names it. */
static bool begin_chain(const Named *n)
{
    if (blk_graph_chain(n->node->graph, 1) < BLK_IMAGE_CHAIN_MAX)
        return true;
    blk_graph_chain(n->node->graph, -1);
    blk_host.error(n->node,
                   "The chain of backing files is longer than %u images, or a loop: the last one "
                   "is '%s'",
                   BLK_IMAGE_CHAIN_MAX, n->path ? n->path : n->name);
    return false;
}

/* Whether what is open is the file that was allowed. */
static bool is_allowed(const Named *n, BlkNode *below)
{
    int fd = n->fd < 0 ? -1 : blk_disk_hold(below);
    bool is = n->fd < 0 || (fd >= 0 && blk_name_is(n->fd, fd));

    if (fd >= 0)
        close(fd);
    return is;
}

static int attach(const Named *n)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BlkNode) below = NULL;
    g_autofree char *prefix = NULL;

    if (!begin_chain(n))
        return -ELOOP;
    below = open_definition(n, &error);
    blk_graph_chain(n->node->graph, -1);
    if (below && !is_allowed(n, below))
        return refuse_elsewhere(n);
    if (below)
        n->node->children[n->child] = blk_node_use_child(n->node, n->child, below, &error);
    if (n->node->children[n->child])
        return 0;
    /* Said once for a chain, whose end is what is wrong. */
    prefix = g_strdup_printf("Could not open %s: ", n->what);
    blk_host.error(n->node, "%s%s", g_str_has_prefix(error->message, prefix) ? "" : prefix,
                   error->message);
    return -EINVAL;
}

int blk_host_open_named(struct tidemark_node *node, unsigned child, const char *name,
                        const char *format, const char *which)
{
    bool backing = (int)child == node->backing;
    g_auto(Named) n = { .node = node,
                        .child = child,
                        .what = backing ? "backing file" : "data file",
                        .option = node->driver->children[child].name,
                        .name = name,
                        .format = format,
                        .which = which,
                        .fd = -1 };
    int ret;

    if (node->bitmaps) { /* it is being reopened, and what it shows must not change unsaid */
        blk_host.error(node, "%s is missing for '%s'", n.option, node->name);
        return -EINVAL;
    }
    if (!strcmp(which, "none"))
        return refuse_none(&n);
    if (backing && (format ? strcmp(format, "qcow2") && strcmp(format, "raw")
                           : !g_str_has_prefix(name, "json:"))) /* which can say it, too */
        return refuse_format(&n);
    ret = resolve(&n);
    return ret < 0 ? ret : attach(&n);
}
