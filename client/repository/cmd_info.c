/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/cmd_info.c: "tidemark info REPOSITORY [POINT]". */
#include "client/commands.h"
#include "client/json.h"
#include "client/repository/verified.h"
#include "client/repository/view.h"
#include "client/text.h"
#include <string.h>

static void print_sized(const char *what, uint64_t bytes, const char *more)
{
    g_autofree char *human = tc_human_size(bytes);

    printf("  %-11s %s (%" PRIu64 " bytes)%s\n", what, human, bytes, more);
}

static void print_text(const char *what, const char *text)
{
    g_autofree char *clean = text ? tc_printable(text) : NULL;

    if (text)
        printf("  %-11s %s\n", what, clean);
}

/* "a disk of a daemon, node disk0, file disk0.img". Returned. */
static char *source_text(json_object *source)
{
    static const struct {
        const char *type, *words;
    } types[] = {
        { "daemon", "a disk of a daemon" },
        { "qemu", "a disk of a QEMU process" },
        { "nbd", "an NBD export" },
    };
    const char *type = tc_json_string(source, "type");
    g_autoptr(GString) text = g_string_new(type ? type : "unknown");

    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++)
        if (!g_strcmp0(type, types[i].type))
            g_string_assign(text, types[i].words);
    json_object_object_foreach(source, key, value)
    {
        if (strcmp(key, "type"))
            g_string_append_printf(text, ", %s %s", key, json_object_get_string(value));
    }
    return g_string_free(g_steal_pointer(&text), FALSE);
}

static void print_disk(const TcRepository *repo, const TcManifest *m, const TcPointDisk *d)
{
    g_autofree char *path = tc_repo_file(repo, m->point, d->name, "qcow2");
    g_autofree char *kind = d->parent ? g_strdup_printf("incremental, on point %s", d->parent)
                            : d->why  ? g_strdup_printf("full: %s", d->why)
                                      : g_strdup("full");
    g_autoptr(GPtrArray) chain = tc_repo_chain(repo, m, d->name, NULL);
    g_autofree char *source = d->source ? source_text(d->source) : NULL;
    uint64_t occupied = tc_repo_occupied(repo, m->point, d);

    printf("\nDisk %s\n", d->name);
    print_sized("size", d->size, "");
    print_text("kind", kind);
    if (chain)
        printf("  %-11s %u image%s\n", "chain", chain->len, chain->len == 1 ? "" : "s");
    print_sized("data", d->stored, d->compression ? ", before compression" : "");
    print_text("compression", d->compression);
    print_sized("zeroes", d->zero, "");
    if (occupied != UINT64_MAX)
        print_sized("occupied", occupied, "");
    print_text("file", path);
    print_text("source", source);
}

static void print_point(const TcRepository *repo, const TcManifest *m)
{
    g_autofree char *time = tc_repo_time_text(m->instant);
    g_autofree char *tool = tc_printable(m->tool), *damage = tc_repo_damage_seen(repo, m);
    g_auto(TcVerified) v = { 0 };

    printf("Point %s of %s\n", m->point, tc_repo_path(repo));
    printf("  %-11s %s\n", "time", time);
    printf("  %-11s %s\n", "id", m->id);
    printf("  %-11s %s\n", "tool", tool);
    if (!tc_verified_read(repo, m, &v)) {
        print_text("verified", "never");
    } else {
        g_autofree char *when = tc_repo_time_text(v.time);

        printf("  %-11s %s: %s\n", "verified", when, v.whole ? "whole" : "DAMAGED");
    }
    print_text("DAMAGED", damage);
    for (guint i = 0; v.found && i < v.found->len; i++)
        print_text("found", v.found->pdata[i]);
    for (guint i = 0; i < m->disks->len; i++)
        print_disk(repo, m, m->disks->pdata[i]);
}

static bool check_options(const TcInvocation *inv, GError **error)
{
    const char *given = tc_flag(inv, "socket") ? "socket" : tc_flag(inv, "list") ? "list" : NULL;

    return !given || tm_error_set(error, "REPOSITORY and --%s exclude each other", given);
}

int tc_run_info_repository(const TcInvocation *inv)
{
    g_autofree char *damage = NULL;
    TcRepoOptions options = { .use = TC_REPO_LIST, .what = inv->path };
    const char *at = tc_arg(inv, 1) ? tc_arg(inv, 1) : "latest";
    g_autoptr(TcRepository) repo = NULL;
    g_autoptr(GError) error = NULL;
    const TcManifest *m;

    if (!check_options(inv, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    repo = tc_repo_open(tc_arg(inv, 0), &options, &error);
    m = repo ? tc_repo_find(repo, at, &error) : NULL;
    if (!m)
        return tc_fail(g_steal_pointer(&error));
    if (tc_flag(inv, "json")) {
        g_autoptr(json_object) o = tc_repo_point_json(repo, m);

        tc_json_print(o, stdout);
    } else {
        print_point(repo, m);
    }
    damage = tc_repo_damage(repo, m);
    return damage ? TC_EXIT_DAMAGED : TC_EXIT_OK;
}
