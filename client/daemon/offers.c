/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/offers.c: see offers.h. */
#include "client/daemon/offers.h"
#include "client/daemon/export_view.h"

json_object *tc_offer_arguments(json_object *export_, const char *node, const char *bitmap,
                                bool offer, GError **error)
{
    json_object *now = tc_json_get(export_, "bitmaps", NULL), *bitmaps, *arguments;

    if (!now) {
        tm_error_set(error, "the daemon does not say which bitmaps export '%s' offers",
                     tc_json_string(export_, "id"));
        return NULL;
    }
    bitmaps = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(now); i++) {
        json_object *one = json_object_array_get_idx(now, i);

        if (offer || g_strcmp0(tc_json_string(one, "name"), bitmap))
            json_object_array_add(bitmaps, json_object_get(one));
    }
    if (offer && !tc_export_offers(export_, node, bitmap))
        json_object_array_add(bitmaps, node ? tc_json_new("node", node, "name", bitmap, NULL)
                                            : json_object_new_string(bitmap));
    arguments = tc_json_new("id", tc_json_string(export_, "id"), NULL);
    json_object_object_add(arguments, "bitmaps", bitmaps);
    return arguments;
}

bool tc_offer(TcQmp *qmp, json_object *export_, const char *node, const char *bitmap, bool offer,
              GError **error)
{
    json_object *arguments = tc_offer_arguments(export_, node, bitmap, offer, error);

    if (!arguments)
        return false;
    if (tc_export_offers(export_, node, bitmap) != offer)
        return tc_qmp_run(qmp, "block-export-dirty-bitmap", arguments, error);
    json_object_put(arguments);
    return true;
}
