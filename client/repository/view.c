/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/view.c: see the header. */
#include "client/repository/view.h"
#include "client/json.h"
#include "client/repository/repository_internal.h"
#include "client/repository/verified.h"
#include "client/text.h"
#include "util/json.h"
#include <string.h>

char *tc_repo_time_text(uint64_t instant)
{
    g_autoptr(GDateTime) time = g_date_time_new_from_unix_local((gint64)(instant / 1000000000));

    return time ? g_date_time_format(time, "%Y-%m-%d %H:%M:%S") : g_strdup("?");
}

uint64_t tc_repo_occupied(const TcRepository *repo, const char *point, const TcPointDisk *disk)
{
    g_autofree char *path = tc_repo_file(repo, point, disk->name, "qcow2");

    return repo->place->occupied(repo, path);
}

/* Of @disk; returned, NULL: both files are there. */
static char *missing(const TcRepository *repo, const char *point, const TcPointDisk *disk)
{
    static const char *const suffixes[] = { "qcow2", "hashes" };

    for (size_t i = 0; i < G_N_ELEMENTS(suffixes); i++) {
        g_autofree char *path = tc_repo_file(repo, point, disk->name, suffixes[i]);

        if (repo->place->occupied(repo, path) == UINT64_MAX)
            return g_strdup_printf("%s.%s is missing", disk->name, suffixes[i]);
    }
    return NULL;
}

char *tc_repo_damage_seen(const TcRepository *repo, const TcManifest *point)
{
    for (guint i = 0; i < point->disks->len; i++) {
        const TcPointDisk *d = point->disks->pdata[i];
        g_autoptr(GError) error = NULL;
        g_autoptr(GPtrArray) chain = tc_repo_chain(repo, point, d->name, &error);

        if (!chain)
            return g_strdup(error->message);
        for (guint k = 0; k < chain->len; k++) {
            const TcManifest *m = chain->pdata[k];
            char *why = missing(repo, m->point, tc_manifest_disk(m, d->name));

            if (why && k) {
                g_autofree char *there = why;

                return g_strdup_printf("it stands on point %s, where %s", m->point, there);
            }
            if (why)
                return why;
        }
    }
    return NULL;
}

char *tc_repo_damage(const TcRepository *repo, const TcManifest *point)
{
    g_auto(TcVerified) v = { 0 };
    char *seen = tc_repo_damage_seen(repo, point);

    return !seen && tc_verified_read(repo, point, &v) && !v.whole
               ? g_strdup("'tidemark verify' found damage, which 'tidemark info' shows")
               : seen;
}

char *tc_repo_verified_text(const TcRepository *repo, const TcManifest *point)
{
    g_autofree char *time = NULL;
    g_auto(TcVerified) v = { 0 };

    if (!tc_verified_read(repo, point, &v))
        return g_strdup("never");
    time = tc_repo_time_text(v.time);
    return g_strndup(v.whole ? time : "DAMAGED", strlen("YYYY-MM-DD"));
}

/* ---- for programs */

static void add_disks(const TcRepository *repo, const TcManifest *point, json_object *o)
{
    json_object *disks = json_object_object_get(o, "disks");

    for (size_t i = 0; i < json_object_array_length(disks); i++) {
        json_object *disk = json_object_array_get_idx(disks, i);
        const TcPointDisk *d = tc_manifest_disk(point, tc_json_string(disk, "name"));
        uint64_t occupied = tc_repo_occupied(repo, point->point, d);

        json_object_object_add(disk, "occupied",
                               occupied == UINT64_MAX ? NULL : json_object_new_uint64(occupied));
    }
}

json_object *tc_repo_point_json(const TcRepository *repo, const TcManifest *point)
{
    g_autofree char *text = tc_manifest_text(point), *damage = tc_repo_damage(repo, point);
    json_object *o = json_tokener_parse(text), *verified = NULL;
    g_auto(TcVerified) v = { 0 };

    add_disks(repo, point, o);
    if (tc_verified_read(repo, point, &v)) {
        verified = json_object_new_object();
        tm_json_add_uint(verified, "time", v.time);
        tm_json_add_bool(verified, "whole", v.whole);
    }
    json_object_object_add(o, "verified", verified);
    json_object_object_add(o, "damage", damage ? json_object_new_string(damage) : NULL);
    return o;
}

static json_object *names(const GPtrArray *array)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; i < array->len; i++)
        json_object_array_add(list, json_object_new_string(array->pdata[i]));
    return list;
}

void tc_repo_state_json(const TcRepository *repo, json_object *object)
{
    json_object *damaged = json_object_new_array();

    for (guint i = 0; i < tc_repo_damaged(repo)->len; i++) {
        const TcDamaged *d = tc_repo_damaged(repo)->pdata[i];
        json_object *o = json_object_new_object();

        tm_json_add_string(o, "point", d->point);
        tm_json_add_string(o, "reason", d->why);
        json_object_array_add(damaged, o);
    }
    json_object_object_add(object, "damaged", damaged);
    json_object_object_add(object, "incomplete", names(tc_repo_debris(repo)));
    json_object_object_add(object, "foreign", names(tc_repo_foreign(repo)));
    tm_json_add_bool(object, "written", tc_repo_is_written(repo));
}

/* ---- for people */

static void print_line(FILE *out, const char *format, ...) G_GNUC_PRINTF(2, 3);
static void print_line(FILE *out, const char *format, ...)
{
    g_autofree char *line = NULL;
    va_list ap;

    va_start(ap, format);
    line = g_strdup_vprintf(format, ap);
    va_end(ap);
    tc_print_wrapped(out, 0, 2, line);
}

void tc_repo_print_state(const TcRepository *repo, FILE *out)
{
    bool written = tc_repo_is_written(repo);

    for (guint i = 0; i < tc_repo_damaged(repo)->len; i++) {
        const TcDamaged *d = tc_repo_damaged(repo)->pdata[i];

        print_line(out, "Point %s is damaged: %s", d->point, d->why);
    }
    for (guint i = 0; i < tc_repo_points(repo)->len; i++) {
        const TcManifest *m = tc_repo_points(repo)->pdata[i];
        g_autofree char *why = tc_repo_damage(repo, m);

        if (why)
            print_line(out, "Point %s is damaged: %s", m->point, why);
    }
    for (guint i = 0; i < tc_repo_debris(repo)->len; i++) {
        const char *name = tc_repo_debris(repo)->pdata[i];

        if (written)
            print_line(out, "%s is not complete: a command works on the repository", name);
        else
            print_line(out,
                       "%s was never completed: the next command that writes to the repository "
                       "removes it",
                       name);
    }
}

bool tc_repo_has_damage(const TcRepository *repo)
{
    if (tc_repo_damaged(repo)->len)
        return true;
    for (guint i = 0; i < tc_repo_points(repo)->len; i++) {
        g_autofree char *why = tc_repo_damage(repo, tc_repo_points(repo)->pdata[i]);

        if (why)
            return true;
    }
    return false;
}
