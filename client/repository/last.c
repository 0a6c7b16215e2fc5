/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/last.c: see last.h. */
#include "client/repository/last.h"
#include "client/json.h"
#include "client/repository/repository_internal.h"
#include "util/json.h"
#include <string.h>

#define FORMAT   "tidemark-last"
#define FILE_MAX (UINT64_C(16) << 20)

enum { TEXT_FLAGS = JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED };

static char *file_of(const TcRepository *repo)
{
    return g_build_filename(repo->path, TC_REPO_LAST, NULL);
}

/* By the names of disks: {id, before}; a new reference; empty if the file is missing or damaged. */
static json_object *read_disks(const TcRepository *repo)
{
    g_autofree char *path = file_of(repo), *text = NULL;
    g_autoptr(json_object) o = NULL;
    json_object *disks;
    size_t length;

    if (repo->place->read(repo, path, FILE_MAX, &text, &length, NULL))
        o = tc_repo_parse(text, length, path, NULL);
    disks = !g_strcmp0(tc_json_string(o, "format"), FORMAT) && tc_json_number(o, "version") == 1
                ? tc_json_get(o, "disks", NULL)
                : NULL;
    return json_object_is_type(disks, json_type_object) ? json_object_get(disks)
                                                        : json_object_new_object();
}

/* @disks is taken. */
static bool write_disks(const TcRepository *repo, json_object *disks, GError **error)
{
    g_autofree char *path = file_of(repo), *text = NULL;
    g_autoptr(json_object) o = json_object_new_object();

    tm_json_add_string(o, "format", FORMAT);
    tm_json_add_uint(o, "version", 1);
    json_object_object_add(o, "disks", disks);
    text = g_strconcat(json_object_to_json_string_ext(o, TEXT_FLAGS), "\n", NULL);
    return repo->place->replace(repo, path, text, error);
}

/* @before NULL: it is settled. */
static void add_entry(json_object *disks, const char *disk, const char *id, const char *before)
{
    json_object *entry = json_object_new_object();

    tm_json_add_string(entry, "id", id);
    if (before)
        tm_json_add_string(entry, "before", before);
    json_object_object_add(disks, disk, entry);
}

char *tc_repo_last(const TcRepository *repo, const char *disk)
{
    g_autoptr(json_object) disks = read_disks(repo);
    json_object *entry = tc_json_get(disks, disk, NULL);

    return tc_json_string(entry, "before") ? NULL : g_strdup(tc_json_string(entry, "id"));
}

bool tc_repo_announce_last(TcRepository *repo, const TcManifest *point, GError **error)
{
    json_object *disks = read_disks(repo);

    for (guint i = 0; i < point->disks->len; i++) {
        const TcPointDisk *disk = point->disks->pdata[i];
        g_autofree char *before = tc_repo_last(repo, disk->name);

        add_entry(disks, disk->name, point->id, before ? before : "");
    }
    return write_disks(repo, disks, error);
}

static bool is_there(const TcRepository *repo, const char *id)
{
    for (guint i = 0; i < repo->points->len; i++)
        if (!g_strcmp0(((TcManifest *)repo->points->pdata[i])->id, id))
            return true;
    return false;
}

void tc_repo_settle_last(TcRepository *repo)
{
    g_autoptr(json_object) disks = read_disks(repo);
    json_object *settled = json_object_new_object();
    bool changed = false;

    json_object_object_foreach(disks, disk, entry)
    {
        const char *before = tc_json_string(entry, "before"), *id = tc_json_string(entry, "id");

        changed = changed || before;
        if (before && !is_there(repo, id))
            id = before;
        if (id && *id)
            add_entry(settled, disk, id, NULL);
    }
    if (changed && !repo->damaged->len)
        write_disks(repo, settled, NULL);
    else
        json_object_put(settled);
}
