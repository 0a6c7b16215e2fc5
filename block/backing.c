/* block/backing.c: opening the backing file that an image names, where the user said that such
 * names may be followed.
 *
 * An image may come from anybody, and what it names may be anything: so a name is a path and
 * nothing else (no protocol, no JSON), its format is the one recorded and never guessed, and chains
 * are bounded. */
#include "block/node_int.h"

#include "block/registry.h"
#include "util/error.h"

#include <errno.h>
#include <string.h>

#define CHAIN_MAX 100u /* images, one opened for the other */

/* Relative to the image's own directory; NULL, and node->error says why. */
static char *resolve(BlkNode *node, const char *image, const char *name, const char *which)
{
    g_autofree char *directory = g_path_get_dirname(image);
    const char *colon = strchr(name, ':'), *slash = strchr(name, '/');

    if (colon && (!slash || colon < slash)) {
        blk_host.error(node,
                       "The image names the backing file '%s', which is no path: say what it is "
                       "with 'backing'",
                       name);
        return NULL;
    }
    if (g_str_equal(which, "directory") && slash) {
        blk_host.error(node,
                       "The image names the backing file '%s', which is not in its own "
                       "directory: say what it is with 'backing', or backing-names=any",
                       name);
        return NULL;
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
    g_autofree char *what = g_strdup_printf("node '%s'", node->name);
    g_autoptr(GError) error = NULL;
    g_autoptr(BlkNode) below = NULL;
    json_object *options, *nested;

    if (node->children[node->backing])
        return 0; /* it is opened again, and has kept it */
    if (!format || (strcmp(format, "qcow2") && strcmp(format, "raw"))) {
        blk_host.error(node,
                       "The image names the backing file '%s' and %s%s%s: say what it is with "
                       "'backing'; formats are not guessed",
                       name, format ? "its format '" : "not its format", format ? format : "",
                       format ? "'" : "");
        return -EINVAL;
    }
    path = resolve(node, image, name, which);
    if (!path)
        return -EINVAL;
    if (blk_graph_chain(node->graph, 1) > CHAIN_MAX) {
        blk_graph_chain(node->graph, -1);
        blk_host.error(node,
                       "The chain of backing files is longer than %u images, or a ring: the last "
                       "one is '%s'",
                       CHAIN_MAX, path);
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
    node->children[node->backing] = blk_node_use(below, what, false);
    return 0;
}
