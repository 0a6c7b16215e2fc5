/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/cmd_offer.c: "tidemark bitmap offer" and "tidemark bitmap withdraw": the bitmaps
 * that clients of an export can read. */
#include "client/commands.h"
#include "client/daemon/daemon_view.h"
#include "client/daemon/export_view.h"
#include "client/daemon/offers.h"

static const TcOption offer_options[] = {
    TC_SOCKET_OPTION,
    { "node", "NODE", "the node of the bitmap (default: the export's, or one below it)" },
    { 0 },
};
static const TcOption withdraw_options[] = { TC_SOCKET_OPTION, { 0 } };

static bool has_bitmap(TcQmp *qmp, const char *node, const char *bitmap, GError **error)
{
    g_autoptr(json_object) nodes = tc_view_nodes(qmp, error);
    g_autoptr(json_object) found = nodes ? tc_view_bitmaps(nodes, node, bitmap, error) : NULL;

    return found != NULL;
}

/* Adds to the daemon's error which nodes have the bitmap, if the one of the export does not. */
static void name_nodes(TcQmp *qmp, json_object *export_, const char *bitmap, GError **error)
{
    g_autoptr(json_object) nodes = tc_view_nodes(qmp, NULL);
    g_autoptr(json_object) found = nodes ? tc_view_bitmaps(nodes, NULL, bitmap, NULL) : NULL;
    g_autoptr(GString) names = g_string_new(NULL);
    g_autoptr(GError) old = NULL;

    for (size_t i = 0; found && i < json_object_array_length(found); i++) {
        const char *node = tc_json_string(json_object_array_get_idx(found, i), "node");

        if (!g_strcmp0(node, tc_json_string(export_, "node-name")))
            return;
        g_string_append_printf(names, "%s--node %s", names->len ? " or " : "", node);
    }
    if (!names->len || !error || !*error)
        return;
    old = g_steal_pointer(error);
    tm_error_set(error, "%s: use %s, whose bitmap it is", old->message, names->str);
}

static bool offers(json_object *export_, const char *bitmap, GError **error)
{
    g_autofree char *names = tc_view_offered(export_);

    return tc_export_offers(export_, NULL, bitmap) ||
           tm_error_set(error, "export '%s' does not offer bitmap '%s': it offers %s",
                        tc_json_string(export_, "id"), bitmap, names ? names : "none");
}

static int change(const TcInvocation *inv, const char *node, bool offer)
{
    const char *bitmap = tc_arg(inv, 1);
    g_autofree char *path = tc_qmp_socket(tc_option(inv, "socket"));
    g_autoptr(GError) error = NULL;
    g_autoptr(TcQmp) qmp = tc_qmp_open(path, &error);
    g_autoptr(json_object) export_ = qmp ? tc_export_query(qmp, tc_arg(inv, 0), &error) : NULL;

    if (export_ &&
        (offer ? has_bitmap(qmp, node, bitmap, &error) : offers(export_, bitmap, &error)) &&
        tc_offer(qmp, export_, node, bitmap, offer, &error))
        return TC_EXIT_OK;
    if (export_ && offer && !node)
        name_nodes(qmp, export_, bitmap, &error);
    return tc_fail(g_steal_pointer(&error));
}

static int run_offer(const TcInvocation *inv)
{
    return change(inv, tc_option(inv, "node"), true);
}

static int run_withdraw(const TcInvocation *inv)
{
    return change(inv, NULL, false);
}

const TcCommand tc_command_bitmap_offer = {
    .name = "offer",
    .args = "EXPORT BITMAP",
    .summary = "Offers a bitmap to new clients of an export",
    .details = "EXPORT is the id, the name or the node of an export. The bitmaps that it offers\n"
               "already stay.\n",
    .min_args = 2,
    .max_args = 2,
    .options = offer_options,
    .run = run_offer,
};
const TcCommand tc_command_bitmap_withdraw = {
    .name = "withdraw",
    .args = "EXPORT BITMAP",
    .summary = "Stops offering a bitmap to new clients of an export",
    .details = "Clients that selected the bitmap go on to see it until they disconnect.\n",
    .min_args = 2,
    .max_args = 2,
    .options = withdraw_options,
    .run = run_withdraw,
};
