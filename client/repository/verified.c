/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/verified.c: see the header. */
#include "client/repository/verified.h"
#include "client/json.h"
#include "client/repository/repository_internal.h"
#include "util/json.h"
#include <string.h>

#define FORMAT   "tidemark-verified"
#define VERSION  1u
#define FILE_MAX (1u << 20)

void tc_verified_clear(TcVerified *v)
{
    g_clear_pointer(&v->found, g_ptr_array_unref);
}

/* What it is about: the point and its hashes. */
static json_object *subject(const TcManifest *point)
{
    json_object *o = json_object_new_object(), *trees = json_object_new_object();

    tm_json_add_string(o, "format", FORMAT);
    tm_json_add_uint(o, "version", VERSION);
    tm_json_add_string(o, "point", point->point);
    tm_json_add_string(o, "id", point->id);
    for (guint i = 0; i < point->disks->len; i++) {
        const TcPointDisk *d = point->disks->pdata[i];

        tm_json_add_string(trees, d->name, d->tree);
    }
    json_object_object_add(o, "trees", trees);
    return o;
}

static bool is_about(json_object *o, const TcManifest *point)
{
    g_autoptr(json_object) expected = subject(point);

    json_object_object_foreach(expected, key, value)
    {
        if (!json_object_equal(json_object_object_get(o, key), value))
            return false;
    }
    return true;
}

bool tc_verified_read(const TcRepository *repo, const TcManifest *point, TcVerified *v)
{
    g_autofree char *path = tc_repo_file(repo, point->point, NULL, TC_REPO_VERIFIED);
    g_autofree char *text = NULL;
    g_autoptr(json_object) o = NULL;
    json_object *found;
    size_t length;

    *v = (TcVerified){ 0 };
    if (!repo->place->read(repo, path, FILE_MAX, &text, &length, NULL))
        return false;
    o = tc_repo_parse(text, length, path, NULL);
    if (!o || !is_about(o, point))
        return false;
    v->time = tc_json_number(o, "time");
    v->whole = tc_json_true(o, "whole");
    found = json_object_object_get(o, "found");
    if (!json_object_is_type(found, json_type_array) || !json_object_array_length(found))
        return true;
    v->found = g_ptr_array_new_with_free_func(g_free);
    for (size_t i = 0; i < json_object_array_length(found); i++)
        g_ptr_array_add(v->found,
                        g_strdup(json_object_get_string(json_object_array_get_idx(found, i))));
    return true;
}

bool tc_verified_write(const TcRepository *repo, const TcManifest *point, const TcVerified *v,
                       GError **error)
{
    g_autofree char *path = tc_repo_file(repo, point->point, NULL, TC_REPO_VERIFIED);
    g_autoptr(json_object) o = subject(point);
    json_object *found = json_object_new_array();
    g_autofree char *text = NULL;

    for (guint i = 0; v->found && i < v->found->len; i++)
        json_object_array_add(found, json_object_new_string(v->found->pdata[i]));
    tm_json_add_uint(o, "time", v->time);
    tm_json_add_bool(o, "whole", v->whole);
    json_object_object_add(o, "found", found);
    text = g_strconcat(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY |
                                                             JSON_C_TO_STRING_SPACED |
                                                             JSON_C_TO_STRING_NOSLASHESCAPE),
                       "\n", NULL);
    return repo->place->replace(repo, path, text, error);
}
