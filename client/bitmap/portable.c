/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/bitmap/portable.c: see the header. */
#include "client/bitmap/portable.h"

#include "util/json.h"
#include "util/range.h"

/* ---- out */

/* The first answer without what is not of the file, with the names. Returned. */
static json_object *head_of(json_object *answer, const char *node, const char *name)
{
    json_object *head = tc_json_new("name", name, "node", node, NULL);

    json_object_object_foreach(answer, key, value)
    {
        if (!g_str_equal(key, "runs") && !g_str_equal(key, "cursor"))
            json_object_object_add(head, key, json_object_get(value));
    }
    return head;
}

bool tc_bitmap_export(TcQmp *qmp, const char *node, const char *name, GString *text, GError **error)
{
    g_autoptr(json_object) arguments = tc_json_new("node", node, "name", name, NULL);
    bool first = true, more = true;

    while (more) {
        g_autoptr(json_object) answer =
            tc_qmp_execute(qmp, "block-dirty-bitmap-export", arguments, error);
        const char *runs = answer ? tc_json_string(answer, "runs") : NULL;

        if (!answer)
            return false;
        if (first)
            tc_bitmap_file_begin(text, head_of(answer, node, name));
        tc_bitmap_file_add(text, runs ? runs : "");
        more = tc_json_get(answer, "cursor", NULL) != NULL;
        if (more)
            tm_json_add_uint(arguments, "cursor", tc_json_number(answer, "cursor"));
        first = false;
    }
    tc_bitmap_file_end(text);
    return true;
}

/* ---- in */

static void copy_member(json_object *to, json_object *from, const char *key)
{
    json_object *value = tc_json_get(from, key, NULL);

    if (value)
        json_object_object_add(to, key, json_object_get(value));
}

bool tc_bitmap_import(TcQmp *qmp, const TcBitmapFile *file, json_object *options, GError **error)
{
    g_autoptr(json_object) arguments = options;

    copy_member(arguments, file->head, "size");
    copy_member(arguments, file->head, "granularity");
    copy_member(arguments, file->head, "disk");
    for (guint i = 0; i < tm_max(file->runs->len, 1); i++) {
        bool none = !file->runs->len, more = i + 1 < file->runs->len;
        g_autoptr(json_object) answer = NULL;

        tm_json_add_string(arguments, "runs", none ? "" : file->runs->pdata[i]);
        tm_json_add_bool(arguments, "more", more);
        answer = tc_qmp_execute(qmp, "block-dirty-bitmap-import", arguments, error);
        if (!answer)
            return false;
        if (more)
            tm_json_add_uint(arguments, "cursor", tc_json_number(answer, "cursor"));
    }
    return true;
}
