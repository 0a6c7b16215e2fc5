/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/offers.c: see offers.h. */
#include "client/daemon/offers.h"
#include "client/daemon/export_view.h"

json_object *tc_offer_arguments(json_object *export_, const char *node, const char *bitmap,
                                bool offer)
{
    json_object *arguments = tc_json_new("id", tc_json_string(export_, "id"), NULL);
    json_object *change = json_object_new_array();

    json_object_array_add(change, offer && node ? tc_json_new("node", node, "name", bitmap, NULL)
                                                : json_object_new_string(bitmap));
    json_object_object_add(arguments, offer ? "add" : "remove", change);
    return arguments;
}

bool tc_offer(TcQmp *qmp, json_object *export_, const char *node, const char *bitmap, bool offer,
              GError **error)
{
    return tc_export_offers(export_, node, bitmap) == offer ||
           tc_qmp_run(qmp, "block-export-dirty-bitmap",
                      tc_offer_arguments(export_, node, bitmap, offer), error);
}
