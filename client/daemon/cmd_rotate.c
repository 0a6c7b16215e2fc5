/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/cmd_rotate.c: "tidemark bitmap rotate": one bitmap ends where another begins.
 *
 * Invariant: every write is in one of the two. They change in one transaction, so that a command
 * which fails or dies has done all of it or nothing. A bitmap that is offered is busy, so the
 * exports withdraw it for that moment: the daemon gets all commands at once, so that it offers the
 * bitmap again whatever becomes of the transaction and of this process. */
#include "client/commands.h"
#include "client/daemon/daemon_view.h"
#include "client/daemon/export_view.h"
#include "client/daemon/offers.h"
#include "util/json.h"
#include <string.h>

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

/* The new one is as the old one is. A reference. */
static json_object *transaction(const Rotation *r, json_object *old)
{
    json_object *arguments = json_object_new_object(), *actions = json_object_new_array();
    json_object *add = tc_json_new("node", r->node, "name", r->new, NULL);

    tm_json_add_uint(add, "granularity", tc_json_number(old, "granularity"));
    tm_json_add_bool(add, "persistent", tc_json_true(old, "persistent"));
    json_object_array_add(actions, action("block-dirty-bitmap-add", add));
    json_object_array_add(actions, action("block-dirty-bitmap-disable",
                                          tc_json_new("node", r->node, "name", r->old, NULL)));
    json_object_object_add(arguments, "actions", actions);
    return arguments;
}

/* For all exports that offered the old one: that they do not, or again. */
static void add_offers(const Rotation *r, GArray *commands, bool offer)
{
    for (size_t i = 0; i < json_object_array_length(r->exports); i++) {
        json_object *was = json_object_array_get_idx(r->exports, i);

        tc_qmp_commands_add(commands, "block-export-dirty-bitmap",
                            tc_offer_arguments(was, r->node, r->old, offer));
    }
}

static const GError *error_of(const GArray *commands, guint i)
{
    return g_array_index(commands, TcQmpCommand, i).error;
}

/* An export that did not withdraw the bitmap, since another client has withdrawn it meanwhile, does
 * not offer it again. The first error of the others, borrowed, or NULL. */
static const GError *check_offers(const Rotation *r, const GArray *commands, guint n)
{
    const GError *first = NULL;

    for (guint i = 0; i < n; i++) {
        json_object *export_ = json_object_array_get_idx(r->exports, i);
        const GError *again = error_of(commands, n + 1 + i);

        if (!error_of(commands, i))
            first = first ? first : again;
        else if (!again)
            tc_qmp_run(r->qmp, "block-export-dirty-bitmap",
                       tc_offer_arguments(export_, r->node, r->old, false), NULL);
    }
    return first;
}

static bool change(const Rotation *r, json_object *old, GError **error)
{
    g_autoptr(GArray) commands = tc_qmp_commands();
    guint n = (guint)json_object_array_length(r->exports);
    const GError *why, *later;

    add_offers(r, commands, false);
    tc_qmp_commands_add(commands, "transaction", transaction(r, old));
    add_offers(r, commands, true);
    if (!tc_qmp_run_all(r->qmp, commands, error))
        return false;
    why = error_of(commands, n);
    later = check_offers(r, commands, n);
    if (why)
        g_propagate_error(error, g_error_copy(why));
    if (why && later)
        g_prefix_error(
            error, "bitmap '%s' is not offered any more (%s), nothing else was changed: ", r->old,
            later->message);
    if (!why && later)
        tm_error_set(error, "rotated, but bitmap '%s' is not offered any more: %s", r->old,
                     later->message);
    return !why && !later;
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

    if (!old)
        return false;
    if (!tc_json_true(old, "recording"))
        return tm_error_set(error,
                            "bitmap '%s' of node '%s' does not record writes: '%s' would miss what "
                            "was written since",
                            r->old, r->node, r->new);
    r->exports = offering(r, error);
    return r->exports && change(r, old, error);
}

static int run(const TcInvocation *inv)
{
    g_autofree char *path = tc_qmp_socket(tc_option(inv, "socket"));
    g_autoptr(GError) error = NULL;
    g_autoptr(TcQmp) qmp = NULL;
    Rotation r = { NULL, tc_arg(inv, 0), tc_arg(inv, 1), tc_arg(inv, 2), NULL };
    bool ok;

    if (!strcmp(r.old, r.new)) {
        tm_error_set(&error, "OLD and NEW are both '%s': NEW is the name of a bitmap that is made",
                     r.old);
        return tc_fail_usage(inv, g_steal_pointer(&error));
    }
    qmp = r.qmp = tc_qmp_open(path, &error);
    ok = qmp && rotate(&r, &error);
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
