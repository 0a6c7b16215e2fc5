/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/migrate/move.c: the steps of a move; see the header. Going back is the same move with the
 * ends exchanged. */
#include "client/migrate/move.h"
#include "client/bitmap/portable.h"
#include "client/daemon/daemon_view.h"
#include "util/json.h"
#include "util/log.h"

#include <string.h>

#define LOOK_US 2000 /* between looks whether an export has ended */
#define ENDS_S  30   /* seconds, at most, where there is no other way */

/* A run of it. */
typedef struct Run {
    TcMove *m;
    TcQmp *from, *to; /* borrowed; from: NULL if it does not answer */
    bool back;
} Run;

static json_object *kept(const Run *r, const char *key)
{
    return tc_json_get(r->m->kept, key, NULL);
}

static double elapsed(const Run *r)
{
    return (double)(g_get_monotonic_time() - r->m->began) / 1e6;
}

static json_object *about_node(const Run *r, const char *key)
{
    return tc_json_new(key, r->m->node, NULL);
}

static json_object *about_bitmap(const Run *r, const char *name)
{
    return tc_json_new("node", r->m->node, "name", name, NULL);
}

/* ---- exports */

/* Whether the daemon has the export of that id, of the node: another node's is none of ours. */
static bool has_export(const Run *r, json_object *exports, const char *id)
{
    for (size_t i = 0; i < tc_json_length(exports); i++) {
        json_object *export_ = json_object_array_get_idx(exports, i);

        if (!g_strcmp0(tc_json_string(export_, "id"), id) &&
            !g_strcmp0(tc_json_string(export_, "node-name"), r->m->node))
            return true;
    }
    return false;
}

static bool end_export(const Run *r, json_object *there, const char *id, GError **error)
{
    json_object *arguments;

    if (!has_export(r, there, id))
        return true;
    arguments = tc_json_new("id", id, "mode", "hard", NULL);
    return tc_qmp_run(r->from, "block-export-del", arguments, error);
}

/* Whether all exports of the disk have ended; false without *error: not yet. */
static bool have_ended(const Run *r, GError **error)
{
    g_autoptr(json_object) there = tc_view_exports(r->from, error);
    json_object *exports = kept(r, "exports");

    for (size_t i = 0; there && i < tc_json_length(exports); i++) {
        if (has_export(r, there, tc_json_string(json_object_array_get_idx(exports, i), "id")))
            return false;
    }
    return there != NULL;
}

static bool wait_for_end(const Run *r, GError **error)
{
    GError *problem = NULL;

    while (!have_ended(r, &problem)) {
        if (problem) {
            g_propagate_error(error, problem);
            return false;
        }
        if (elapsed(r) > r->m->max_pause)
            return tm_error_set(error, "the clients of node '%s' have requests that don't end",
                                r->m->node);
        g_usleep(LOOK_US);
    }
    return true;
}

static bool disconnect(const Run *r, GError **error)
{
    json_object *exports = kept(r, "exports");
    g_autoptr(json_object) there = NULL;

    if (!r->from)
        return true;
    there = tc_view_exports(r->from, error);
    for (size_t i = 0; there && i < tc_json_length(exports); i++) {
        const char *id = tc_json_string(json_object_array_get_idx(exports, i), "id");

        if (!end_export(r, there, id, error))
            return false;
    }
    return there && wait_for_end(r, error);
}

/* What a run before has begun to end must be gone before it can be added again. */
static bool wait_for_old(const Run *r, GError **error)
{
    json_object *exports = kept(r, "exports");
    bool ending = true;

    while (ending) {
        g_autoptr(json_object) there = tc_view_exports(r->to, error);

        if (!there)
            return false;
        ending = false;
        for (size_t i = 0; i < tc_json_length(there); i++) {
            json_object *export_ = json_object_array_get_idx(there, i);

            ending = ending || (tc_json_true(export_, "shutting-down") &&
                                has_export(r, exports, tc_json_string(export_, "id")));
        }
        if (ending && elapsed(r) > ENDS_S)
            return tm_error_set(error, "the clients of node '%s' have requests that don't end",
                                r->m->node);
        if (ending)
            g_usleep(LOOK_US);
    }
    return true;
}

/* From here on the bitmaps that are kept lack what clients write. */
static bool note_live(const Run *r, GError **error)
{
    tm_json_add_bool(r->m->kept, "live", !r->back);
    return tc_move_save(r->m, error);
}

/* Whether an item of an export's bitmaps is one of the node that @node does not have. */
static bool is_missing(const Run *r, json_object *node, json_object *item)
{
    bool object = json_object_is_type(item, json_type_object);
    const char *name = object ? tc_json_string(item, "name") : json_object_get_string(item);

    if ((object && g_strcmp0(tc_json_string(item, "node"), r->m->node)) ||
        tc_move_bitmap(node, name))
        return false;
    tm_log(TM_LOG_WARNING, "bitmap '%s' of node '%s' is lost, and not offered any more", name,
           r->m->node);
    return true;
}

/* The export's definition, without bitmaps that did not survive: clients come first. Returned. */
static json_object *definition_at(const Run *r, json_object *node, json_object *definition)
{
    json_object *copy = json_object_new_object(), *bitmaps;

    json_object_object_foreach(definition, key, value)
    {
        json_object_object_add(copy, key, json_object_get(value));
    }
    if (!json_object_object_get_ex(definition, "bitmaps", &bitmaps))
        return copy;
    json_object_object_add(copy, "bitmaps", json_object_new_array());
    for (size_t i = 0; i < tc_json_length(bitmaps); i++) {
        json_object *item = json_object_array_get_idx(bitmaps, i);

        if (!is_missing(r, node, item))
            json_object_array_add(tc_json_get(copy, "bitmaps", NULL), json_object_get(item));
    }
    return copy;
}

static bool connect_clients(const Run *r, GError **error)
{
    json_object *exports = kept(r, "exports");
    g_autoptr(json_object) there = NULL, node = NULL;

    if (!wait_for_old(r, error) || !note_live(r, error))
        return false;
    there = tc_view_exports(r->to, error);
    node = there ? tc_move_node(r->to, r->m->node, error) : NULL;
    if (!node)
        return false;
    for (size_t i = 0; i < tc_json_length(exports); i++) {
        json_object *definition = json_object_array_get_idx(exports, i);

        if (!has_export(r, there, tc_json_string(definition, "id")) &&
            !tc_qmp_run(r->to, "block-export-add", definition_at(r, node, definition), error))
            return false;
    }
    return r->back || tc_hook_run(&r->m->hook, error);
}

/* ---- bitmaps */

/* On the way back a bitmap that can't be taken along is lost, and holds nothing up. */
static bool lost(const Run *r, const char *name, GError *problem, GError **error)
{
    if (!r->back) {
        g_propagate_error(error, problem);
        return false;
    }
    tm_log(TM_LOG_WARNING, "bitmap '%s' of node '%s' is lost: %s", name, r->m->node,
           problem->message);
    g_error_free(problem);
    return true;
}

/* Of those that the move is to take along, those that can be used. */
static bool is_taken(const Run *r, json_object *bitmap, bool stored)
{
    const char *name = tc_json_string(bitmap, "name");

    return tc_json_true(bitmap, "persistent") == stored && !tc_json_true(bitmap, "inconsistent") &&
           (!r->back || tc_json_get(kept(r, "bitmaps"), name, NULL));
}

static bool fetch(const Run *r, const char *name, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    GError *problem = NULL;

    if (tc_bitmap_export(r->from, r->m->node, name, text, &problem)) {
        tm_json_add_string(kept(r, "bitmaps"), name, text->str);
        return true;
    }
    json_object_object_del(kept(r, "bitmaps"), name);
    return lost(r, name, problem, error);
}

static bool fetch_all(const Run *r, json_object *node, bool stored, GError **error)
{
    json_object *bitmaps = tc_json_get(node, "dirty-bitmaps", NULL);

    for (size_t i = 0; i < tc_json_length(bitmaps); i++) {
        json_object *bitmap = json_object_array_get_idx(bitmaps, i);

        if (is_taken(r, bitmap, stored) && !fetch(r, tc_json_string(bitmap, "name"), error))
            return false;
    }
    return tc_move_save(r->m, error);
}

/* The node at the end that is left, or NULL; *ok: false with an error. */
static json_object *left_node(const Run *r, bool *ok, GError **error)
{
    GError *problem = NULL;
    json_object *node = r->from ? tc_move_node(r->from, r->m->node, &problem) : NULL;

    *ok = !problem;
    if (problem)
        g_propagate_error(error, problem);
    return node;
}

/* Whoever had the disk active may have written since the bitmaps were kept: of these only the names
 * stay, of those that are to come back. */
static bool drop_old(const Run *r, GError **error)
{
    bool ok;
    g_autoptr(json_object) node = left_node(r, &ok, error), names = json_object_new_object();
    bool old = r->back ? tc_json_true(r->m->kept, "live") : tc_json_true(node, "active");

    json_object_object_foreach(kept(r, "bitmaps"), name, text)
    {
        (void)text;
        if (r->back)
            tm_json_add_string(names, name, "");
    }
    if (ok && old)
        json_object_object_add(r->m->kept, "bitmaps", json_object_get(names));
    return ok;
}

/* That a bitmap can be imported, there or here again: the disk's file shows that nobody wrote to
 * it, or, for those that are stored, the user says so. */
static bool check_bitmap(const Run *r, const char *name, bool stored, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_auto(TcBitmapFile) file = { 0 };
    size_t length;

    if (stored && tc_json_true(kept(r, "definition"), "bitmap-accept-changed"))
        return true;
    if (!tc_bitmap_export(r->from, r->m->node, name, text, error))
        return false;
    length = text->len;
    if (!tc_bitmap_file_parse(g_string_free(g_steal_pointer(&text), FALSE), length, name, &file,
                              error))
        return false;
    return tc_json_get(file.head, "disk", "inode", NULL) ||
           tm_error_set(error,
                        "bitmap '%s' can't be moved: nothing shows who writes to the disk of node "
                        "'%s' meanwhile (%s)",
                        name, r->m->node,
                        stored ? "see its option bitmap-accept-changed" : "remove the bitmap");
}

/* Before anything is taken down. */
static bool check_bitmaps(const Run *r, GError **error)
{
    bool ok;
    g_autoptr(json_object) node = left_node(r, &ok, error);
    json_object *bitmaps = tc_json_get(node, "dirty-bitmaps", NULL);

    if (r->back || !tc_json_true(node, "active"))
        return ok;
    for (size_t i = 0; i < tc_json_length(bitmaps); i++) {
        json_object *bitmap = json_object_array_get_idx(bitmaps, i);
        bool stored = tc_json_true(bitmap, "persistent");

        if ((!stored || tc_json_true(r->m->kept, "stored")) && is_taken(r, bitmap, stored) &&
            !check_bitmap(r, tc_json_string(bitmap, "name"), stored, error))
            return false;
    }
    return true;
}

/* A store of its own is not found by another daemon, and would be out of date later: it must not be
 * believed when the disk comes back. */
static bool take_stored(const Run *r, GError **error)
{
    bool ok;
    g_autoptr(json_object) node = left_node(r, &ok, error);
    json_object *bitmaps = tc_json_get(node, "dirty-bitmaps", NULL);

    if (!node || !tc_json_true(r->m->kept, "stored") || !tc_json_true(node, "active"))
        return ok;
    if (!fetch_all(r, node, true, error))
        return false;
    for (size_t i = 0; i < tc_json_length(bitmaps); i++) {
        json_object *bitmap = json_object_array_get_idx(bitmaps, i);

        if (is_taken(r, bitmap, true) &&
            !tc_qmp_run(r->from, "block-dirty-bitmap-remove",
                        about_bitmap(r, tc_json_string(bitmap, "name")), error))
            return false;
    }
    return true;
}

/* Nobody can write now: these are exact. */
static bool take_others(const Run *r, GError **error)
{
    bool ok;
    g_autoptr(json_object) node = left_node(r, &ok, error);

    if (!ok || (node && !fetch_all(r, node, false, error)))
        return false;
    if (r->back) /* what was taken back is up to date */
        tm_json_add_bool(r->m->kept, "live", false);
    return tc_move_save(r->m, error);
}

static bool put(const Run *r, const char *name, const TcBitmapFile *file, GError **error)
{
    json_object *arguments = about_bitmap(r, name);
    GError *problem = NULL;

    tm_json_add_bool(arguments, "recording", tc_json_true(file->head, "recording"));
    tm_json_add_bool(arguments, "persistent", tc_json_true(file->head, "persistent"));
    return tc_bitmap_import(r->to, file, arguments, &problem) || lost(r, name, problem, error);
}

static bool put_one(const Run *r, const char *name, const char *text, bool stored, GError **error)
{
    g_auto(TcBitmapFile) file = { 0 };

    return tc_bitmap_file_parse(g_strdup(text), strlen(text), name, &file, error) &&
           (tc_json_true(file.head, "persistent") != stored || put(r, name, &file, error));
}

/* Those that are @stored, or that are not, and are not there yet. */
static bool put_all(const Run *r, bool stored, GError **error)
{
    g_autoptr(json_object) node = tc_move_node(r->to, r->m->node, error);

    if (!node)
        return false;
    json_object_object_foreach(kept(r, "bitmaps"), name, text)
    {
        if (json_object_get_string_len(text) > 0 && !tc_move_bitmap(node, name) &&
            !put_one(r, name, json_object_get_string(text), stored, error))
            return false;
    }
    return true;
}

static bool put_others(const Run *r, GError **error)
{
    return tc_move_provide(r->m, !r->back, error) && put_all(r, false, error);
}

static bool put_stored(const Run *r, GError **error)
{
    return put_all(r, true, error);
}

/* ---- the node */

static bool set_active(TcQmp *qmp, const Run *r, bool active, GError **error)
{
    json_object *arguments = about_node(r, "node-name");

    tm_json_add_bool(arguments, "active", active);
    return tc_qmp_run(qmp, "blockdev-set-active", arguments, error);
}

static bool let_go(const Run *r, GError **error)
{
    bool ok;
    g_autoptr(json_object) node = left_node(r, &ok, error);

    return node ? set_active(r->from, r, false, error) : ok;
}

static bool check_time(const Run *r, GError **error)
{
    return r->back || elapsed(r) <= r->m->max_pause ||
           tm_error_set(error, "it has taken %.2f s, longer than --max-pause allows", elapsed(r));
}

static bool take_over(const Run *r, GError **error)
{
    return check_time(r, error) && set_active(r->to, r, true, error);
}

static void remove_bitmaps(const Run *r)
{
    json_object_object_foreach(kept(r, "bitmaps"), name, text)
    {
        (void)text;
        tc_qmp_run(r->from, "block-dirty-bitmap-remove", about_bitmap(r, name), NULL);
    }
}

/* The end that does not have the disk any more is left without it, if it can be. */
static bool clean_up(const Run *r, GError **error)
{
    bool ok;
    g_autoptr(json_object) node = left_node(r, &ok, NULL);
    g_autoptr(GError) problem = NULL;

    r->m->pause = elapsed(r);
    if (!node)
        return true;
    if (r->back && !tc_json_true(r->m->kept, "made"))
        remove_bitmaps(r);
    else
        tc_qmp_run(r->from, "blockdev-del", about_node(r, "node-name"), &problem);
    if (problem)
        tm_log(TM_LOG_WARNING, "node '%s' stays, inactive, where it was: %s", r->m->node,
               problem->message);
    return true;
}

/* ---- all of it */

static bool (*const steps[])(const Run *r, GError **error) = {
    drop_old,   check_bitmaps, disconnect, take_stored,     let_go,   take_others,
    put_others, take_over,     put_stored, connect_clients, clean_up,
};

bool tc_move_run(TcMove *move, bool back, GError **error)
{
    Run r = { move, move->ends[back], move->ends[!back], back };

    move->began = g_get_monotonic_time();
    for (size_t i = 0; i < G_N_ELEMENTS(steps); i++) {
        if (!steps[i](&r, error))
            return false;
    }
    return true;
}
