/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/cmd_rotate.c: "tidemark bitmap rotate": one bitmap ends where another begins.
 *
 * Invariant: every write is in one of the two. They change in one transaction, so that a command
 * which fails or dies has done all of it or nothing, but for the offers: a bitmap that is offered
 * is busy, so the exports withdraw it for that moment. */
#include "client/commands.h"
#include "client/daemon/daemon_view.h"
#include "client/daemon/export_view.h"
#include "client/daemon/offers.h"
#include "util/json.h"

static const TcOption options[] = { TC_SOCKET_OPTION, { 0 } };

/* What is rotated, in the words of the user. */
typedef struct Rotation {
    TcQmp *qmp;
    const char *node, *old, *new;
    json_object *exports; /* those that offer the old one */
} Rotation;

static json_object *find_bitmap(const Rotation *r, GError **error)
{
    g_autoptr(json_object) nodes = tc_view_nodes(r->qmp, error);
    g_autoptr(json_object) found = nodes ? tc_view_bitmaps(nodes, r->node, r->old, error) : NULL;

    return found ? json_object_get(json_object_array_get_idx(found, 0)) : NULL;
}

static json_object *action(const char *type, json_object *data)
{
    json_object *action = tc_json_new("type", type, NULL);

    json_object_object_add(action, "data", data);
    return action;
}

/* The new one is as the old one is. */
static bool change(const Rotation *r, json_object *old, GError **error)
{
    json_object *arguments = json_object_new_object(), *actions = json_object_new_array();
    json_object *add = tc_json_new("node", r->node, "name", r->new, NULL);

    tm_json_add_uint(add, "granularity", tc_json_number(old, "granularity"));
    tm_json_add_bool(add, "persistent", tc_json_true(old, "persistent"));
    json_object_array_add(actions, action("block-dirty-bitmap-add", add));
    json_object_array_add(actions, action("block-dirty-bitmap-disable",
                                          tc_json_new("node", r->node, "name", r->old, NULL)));
    json_object_object_add(arguments, "actions", actions);
    return tc_qmp_run(r->qmp, "transaction", arguments, error);
}

/* Of all exports that offered the old one. */
static bool offer(const Rotation *r, bool offered, GError **error)
{
    for (size_t i = 0; i < json_object_array_length(r->exports); i++) {
        json_object *was = json_object_array_get_idx(r->exports, i);
        g_autoptr(json_object) now = tc_export_query(r->qmp, tc_json_string(was, "id"), error);

        if (!now || !tc_offer(r->qmp, now, r->node, r->old, offered, error))
            return false;
    }
    return true;
}

static json_object *offering(const Rotation *r, GError **error)
{
    g_autoptr(json_object) all = tc_view_exports(r->qmp, error);
    json_object *found;

    if (!all)
        return NULL;
    found = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(all); i++) {
        json_object *export_ = json_object_array_get_idx(all, i);

        if (tc_export_offers(export_, r->node, r->old) && !tc_json_true(export_, "shutting-down"))
            json_object_array_add(found, json_object_get(export_));
    }
    return found;
}

static bool rotate(Rotation *r, GError **error)
{
    g_autoptr(json_object) old = find_bitmap(r, error);
    g_autoptr(GError) later = NULL;
    bool changed;

    if (!old)
        return false;
    if (!tc_json_true(old, "recording"))
        return tm_error_set(error,
                            "bitmap '%s' of node '%s' does not record writes: '%s' would miss what "
                            "was written since",
                            r->old, r->node, r->new);
    r->exports = offering(r, error);
    if (!r->exports)
        return false;
    changed = offer(r, false, error) && change(r, old, error);
    if (offer(r, true, &later))
        return changed;
    if (changed)
        return tm_error_set(error, "rotated, but bitmap '%s' is not offered any more: %s", r->old,
                            later->message);
    g_prefix_error(error,
                   "bitmap '%s' is not offered any more, nothing else was changed: ", r->old);
    return false;
}

static int run(const TcInvocation *inv)
{
    g_autofree char *path = tc_qmp_socket(tc_option(inv, "socket"));
    g_autoptr(GError) error = NULL;
    g_autoptr(TcQmp) qmp = tc_qmp_open(path, &error);
    Rotation r = { qmp, tc_arg(inv, 0), tc_arg(inv, 1), tc_arg(inv, 2), NULL };
    bool ok = qmp && rotate(&r, &error);

    json_object_put(r.exports);
    return ok ? TC_EXIT_OK : tc_fail(g_steal_pointer(&error));
}

const TcCommand tc_command_bitmap_rotate = {
    .name = "rotate",
    .args = "NODE OLD NEW",
    .summary = "Ends a bitmap and begins another one at the same instant",
    .details =
        "NEW records writes from then on, OLD does not: it has what was written before, for\n"
        "'tidemark copy --bitmap OLD'. NEW gets the granularity of OLD, and is persistent if\n"
        "OLD is. Exports that offer OLD still do afterwards. Remove OLD when the copy is\n"
        "complete.\n",
    .min_args = 3,
    .max_args = 3,
    .options = options,
    .run = run,
};
