/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/migrate/plan.c: what is to be moved, and what is kept of that. */
#include "client/daemon/daemon_view.h"
#include "client/daemon/runtime_dir.h"
#include "client/migrate/move.h"
#include "util/file.h"
#include "util/json.h"
#include "util/sys.h"

#include <string.h>
#include <unistd.h>

#define FORMAT   "tidemark-move"
#define KEPT_MAX ((size_t)1 << 30)

/* ---- what is kept */

char *tc_move_file(const char *node)
{
    g_autofree char *dir = tc_runtime_dir(), *name = g_strdup_printf("move-%s.json", node);

    return g_build_filename(dir, name, NULL);
}

bool tc_move_save(const TcMove *move, GError **error)
{
    return tm_file_replace(
        &tm_sys_kernel, move->file,
        json_object_to_json_string_ext(move->kept, JSON_C_TO_STRING_NOSLASHESCAPE), 0600, error);
}

void tc_move_drop(const TcMove *move)
{
    unlink(move->file);
}

static bool is_this(const TcMove *move, json_object *kept)
{
    return !g_strcmp0(tc_json_string(kept, "node"), move->node) &&
           !g_strcmp0(tc_json_string(kept, "from"), move->paths[0]) &&
           !g_strcmp0(tc_json_string(kept, "to"), move->paths[1]);
}

bool tc_move_load(TcMove *move, bool *there, GError **error)
{
    g_autofree char *text = NULL;

    *there = access(move->file, F_OK) == 0;
    if (!*there)
        return true;
    if (!tm_file_read(move->file, KEPT_MAX, &text, NULL, error))
        return false;
    move->kept = json_tokener_parse(text);
    if (g_strcmp0(tc_json_string(move->kept, "format"), FORMAT))
        return tm_error_set(error, "'%s' is not what a move has left", move->file);
    return is_this(move, move->kept) ||
           tm_error_set(error,
                        "'%s' is of another move that is not complete, of node '%s' from '%s' to "
                        "'%s': complete it, or name another file with --state",
                        move->file, tc_json_string(move->kept, "node"),
                        tc_json_string(move->kept, "from"), tc_json_string(move->kept, "to"));
}

void tc_move_clear(TcMove *move)
{
    for (unsigned i = 0; i < 2; i++)
        tc_qmp_free(move->ends[i]);
    g_free(move->file);
    json_object_put(move->kept);
}

/* ---- what is there */

json_object *tc_move_node(TcQmp *qmp, const char *node, GError **error)
{
    g_autoptr(json_object) nodes = tc_view_nodes(qmp, error);

    for (size_t i = 0; i < tc_json_length(nodes); i++) {
        json_object *found = json_object_array_get_idx(nodes, i);

        if (!g_strcmp0(tc_json_string(found, "node-name"), node))
            return json_object_get(found);
    }
    return NULL;
}

json_object *tc_move_bitmap(json_object *node, const char *name)
{
    json_object *bitmaps = tc_json_get(node, "dirty-bitmaps", NULL);

    for (size_t i = 0; i < tc_json_length(bitmaps); i++) {
        json_object *bitmap = json_object_array_get_idx(bitmaps, i);

        if (!g_strcmp0(tc_json_string(bitmap, "name"), name))
            return bitmap;
    }
    return NULL;
}

bool tc_move_connect(TcMove *move, bool back, GError **error)
{
    for (unsigned i = 0; i < 2; i++) {
        bool needed = i == (back ? 0 : 1);

        tc_qmp_free(move->ends[i]);
        move->ends[i] = tc_qmp_open(move->paths[i], needed ? error : NULL);
        if (!move->ends[i] && needed)
            return false;
    }
    return true;
}

/* ---- the plan */

/* Those of @list whose @key is the node's name. Returned. */
static json_object *of_node(json_object *list, const char *key, const char *node)
{
    json_object *found = json_object_new_array();

    for (size_t i = 0; i < tc_json_length(list); i++) {
        json_object *item = json_object_array_get_idx(list, i);

        if (!g_strcmp0(tc_json_string(item, key), node))
            json_object_array_add(found, json_object_get(item));
    }
    return found;
}

static bool read_source(TcMove *move, GError **error)
{
    g_autoptr(json_object) all = tc_qmp_execute(move->ends[0], "query-configuration", NULL, error);
    g_autoptr(json_object) nodes = NULL;
    json_object *definition;

    if (!all)
        return false;
    nodes = of_node(tc_json_get(all, "blockdevs", NULL), "node-name", move->node);
    definition = json_object_array_get_idx(nodes, 0);
    if (!definition)
        return tm_error_set(error,
                            "the daemon at '%s' has no node '%s' that can be moved: expected one "
                            "with a name, made by --blockdev or blockdev-add",
                            move->paths[0], move->node);
    move->kept = tc_json_new("format", FORMAT, "node", move->node, "from", move->paths[0], "to",
                             move->paths[1], NULL);
    json_object_object_add(move->kept, "definition", json_object_get(definition));
    /* A store beside the disk goes with it; another one may be out of the other's reach. */
    tm_json_add_bool(move->kept, "stored", tc_json_get(definition, "bitmap-store", NULL) != NULL);
    json_object_object_add(move->kept, "exports",
                           of_node(tc_json_get(all, "exports", NULL), "node-name", move->node));
    json_object_object_add(move->kept, "bitmaps", json_object_new_object());
    return true;
}

static json_object *inactive(json_object *definition)
{
    json_object *copy = json_object_new_object();

    json_object_object_foreach(definition, key, value)
    {
        json_object_object_add(copy, key, json_object_get(value));
    }
    tm_json_add_bool(copy, "active", false);
    return copy;
}

bool tc_move_provide(const TcMove *move, unsigned end, GError **error)
{
    GError *problem = NULL;
    g_autoptr(json_object) there = tc_move_node(move->ends[end], move->node, &problem);

    if (!there && !problem)
        tc_qmp_run(move->ends[end], "blockdev-add",
                   inactive(tc_json_get(move->kept, "definition", NULL)), &problem);
    if (!problem)
        return true;
    g_propagate_prefixed_error(error, problem, "'%s' can't open node '%s': ", move->paths[end],
                               move->node);
    return false;
}

/* That the node of the target can take over from the source's. */
static bool check_node(const TcMove *move, json_object *there, GError **error)
{
    g_autoptr(json_object) here = tc_move_node(move->ends[0], move->node, error);
    json_object *bitmaps = tc_json_get(here, "dirty-bitmaps", NULL);
    uint64_t size = tc_json_number(tc_json_get(here, "image", NULL), "virtual-size"),
             other = tc_json_number(tc_json_get(there, "image", NULL), "virtual-size");

    if (!here)
        return false;
    if (tc_json_true(there, "active"))
        return tm_error_set(error, "node '%s' of the target is active: open it with active=off",
                            move->node);
    if (size != other)
        return tm_error_set(error, "node '%s' has %" PRIu64 " bytes, that of the target %" PRIu64,
                            move->node, size, other);
    for (size_t i = 0; i < tc_json_length(bitmaps); i++) {
        const char *name = tc_json_string(json_object_array_get_idx(bitmaps, i), "name");

        if (tc_move_bitmap(there, name))
            return tm_error_set(error, "node '%s' of the target has a bitmap '%s': remove it",
                                move->node, name);
    }
    return true;
}

static bool check_servers(const TcMove *move, GError **error)
{
    json_object *exports = tc_json_get(move->kept, "exports", NULL);
    g_autoptr(json_object) nbd = of_node(exports, "type", "nbd"), servers = NULL;

    if (!tc_json_length(nbd))
        return true;
    servers = tc_qmp_execute(move->ends[1], "query-nbd-servers", NULL, error);
    return servers && (tc_json_length(servers) > 0 ||
                       tm_error_set(error,
                                    "the target has no NBD server for the exports of "
                                    "node '%s'",
                                    move->node));
}

bool tc_move_plan(TcMove *move, GError **error)
{
    g_autoptr(json_object) there = NULL;
    GError *problem = NULL;

    if (!read_source(move, error) || !check_servers(move, error))
        return false;
    there = tc_move_node(move->ends[1], move->node, &problem);
    if (problem) {
        g_propagate_error(error, problem);
        return false;
    }
    tm_json_add_bool(move->kept, "made", !there);
    if (there && !check_node(move, there, error))
        return false;
    if (!tc_move_save(move, error))
        return false;
    if (there || tc_move_provide(move, 1, error))
        return true;
    tc_move_drop(move);
    return false;
}
