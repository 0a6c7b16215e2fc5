/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/store/store_text.c: a store of bitmaps in words, from the object that store_view.h
 * describes. */
#include "client/store/store_view.h"
#include "client/text.h"
#include "util/text.h"
#include <string.h>

enum { LABEL = 10 }; /* columns */

bool tc_store_bad(json_object *store)
{
    json_object *bitmaps = tc_json_get(store, "bitmaps", NULL);

    for (size_t i = 0; i < json_object_array_length(bitmaps); i++)
        if (tc_json_true(json_object_array_get_idx(bitmaps, i), "inconsistent"))
            return true;
    return json_object_array_length(tc_json_get(store, "problems", NULL)) > 0;
}

bool tc_store_only(json_object *store, const char *name, GError **error)
{
    g_autoptr(GPtrArray) known = g_ptr_array_new();
    json_object *bitmaps = tc_json_get(store, "bitmaps", NULL), *found = json_object_new_array();
    const char *closest;

    for (size_t i = 0; i < json_object_array_length(bitmaps); i++) {
        json_object *bitmap = json_object_array_get_idx(bitmaps, i);
        const char *its_name = tc_json_string(bitmap, "name");

        if (!strcmp(its_name, name))
            json_object_array_add(found, json_object_get(bitmap));
        g_ptr_array_add(known, (gpointer)its_name);
    }
    if (json_object_array_length(found)) {
        json_object_object_add(store, "bitmaps", found);
        return true;
    }
    json_object_put(found);
    g_ptr_array_add(known, NULL);
    closest = tm_text_nearest(name, (const char *const *)known->pdata);
    return tm_error_set(error, "no bitmap '%s' in '%s'%s%s%s", name, tc_json_string(store, "store"),
                        closest ? ": did you mean '" : "", closest ? closest : "",
                        closest ? "'?" : "");
}

static const struct {
    const char *state, *words;
} states[] = {
    { "none", "there is no store: the disk has no persistent bitmaps" },
    { "in-image", "there is no store: the image contains its bitmaps" },
    { "unreadable", "there is no store, and the image can't be opened" },
    { "missing", "the store is lost, and its bitmaps with it" },
    { "closed", "closed cleanly" },
    { "in-use", "in use by a daemon" },
    { "killed", "left by a daemon that was killed: the bitmaps have every write" },
    { "crashed",
      "left by a crash of the machine: ranges that may have been written count as dirty" },
    { "distrusted", "given up by a daemon that could no longer write it: enabled bitmaps are "
                    "all dirty" },
    { "of-the-past",
      "obsolete: the image was written without it, so only the bitmaps in the image are valid" },
    { "damaged", "damaged: it is not known what was dirty" },
};

static const char *state_words(const char *state, const char *durability)
{
    if (!g_strcmp0(state, "crashed") && !g_strcmp0(durability, "process-death"))
        return "left by a crash of the machine, with bitmap-durability=process-death: enabled "
               "bitmaps are all dirty";
    for (unsigned i = 0; i < G_N_ELEMENTS(states); i++)
        if (!g_strcmp0(states[i].state, state))
            return states[i].words;
    return state;
}

static void print_line(FILE *out, const char *label, const char *value)
{
    g_autofree char *line = g_strdup_printf("%-*s  %s", LABEL, label, value);

    tc_print_wrapped(out, 0, LABEL + 2, line);
}

void tc_store_print_head(json_object *store, FILE *out)
{
    const char *disk = tc_json_string(store, "disk");
    const char *durability = tc_json_string(store, "durability");
    const char *of = disk ? disk : "not known";
    g_autofree char *size = tc_human_size(tc_json_number(store, "size"));
    g_autofree char *sized = durability ? g_strdup_printf("%s (%s)", of, size) : NULL;
    g_autofree char *generation = g_strdup_printf("%" PRIu64, tc_json_number(store, "generation"));

    print_line(out, "store", tc_json_string(store, "store"));
    print_line(out, "disk", sized ? sized : of);
    print_line(out, "state", state_words(tc_json_string(store, "state"), durability));
    if (!durability)
        return;
    print_line(out, "durability",
               strcmp(durability, "process-death") ? "survives power loss"
                                                   : "survives the daemon, not power loss");
    print_line(out, "generation", generation);
}

/* "ok", "recovered 4 MiB", "INCONSISTENT". Returned. */
static char *bitmap_state(json_object *bitmap)
{
    uint64_t recovered = tc_json_number(bitmap, "recovered");
    g_autofree char *size = tc_human_size(recovered);

    if (tc_json_true(bitmap, "inconsistent"))
        return g_strdup("INCONSISTENT");
    if (recovered)
        return g_strdup_printf("recovered %s", size);
    return g_strdup(tc_json_string(bitmap, "reason") ? "degraded" : "ok");
}

TcTable *tc_store_table(json_object *store)
{
    json_object *bitmaps = tc_json_get(store, "bitmaps", NULL);
    TcTable *table = tc_table_new(NULL, "BITMAP|>GRANULARITY|>DIRTY|>OF DISK|RECORDING|STATE");

    for (size_t i = 0; i < json_object_array_length(bitmaps); i++) {
        json_object *bitmap = json_object_array_get_idx(bitmaps, i);
        uint64_t dirty = tc_json_number(bitmap, "count");
        g_autofree char *granularity = tc_human_size(tc_json_number(bitmap, "granularity"));
        g_autofree char *bytes = tc_human_size(dirty);
        g_autofree char *percent = tc_percent(dirty, tc_json_number(bitmap, "size"));
        g_autofree char *state = bitmap_state(bitmap);

        tc_table_add(table, tc_json_string(bitmap, "name"), granularity, bytes, percent,
                     tc_json_true(bitmap, "recording") ? "enabled" : "disabled", state);
    }
    return table;
}

void tc_store_print_reasons(json_object *store, FILE *out)
{
    json_object *bitmaps = tc_json_get(store, "bitmaps", NULL);
    bool any = false;

    for (size_t i = 0; i < json_object_array_length(bitmaps); i++) {
        json_object *bitmap = json_object_array_get_idx(bitmaps, i);
        const char *reason = tc_json_string(bitmap, "reason");
        g_autofree char *line =
            g_strdup_printf("%s: %s", tc_json_string(bitmap, "name"), reason ? reason : "");

        if (!reason)
            continue;
        fputs(any ? "" : "\n", out);
        tc_print_wrapped(out, 0, 2, line);
        any = true;
    }
}

static void print_title(FILE *out, bool colors, const char *color, const char *title)
{
    fprintf(out, "\n%s%s%s%s\n", colors ? "\033[1;" : "", colors ? color : "", title,
            colors ? "\033[0m" : "");
}

/* What has become of a bitmap, for who makes copies with it. Returned; NULL: nothing. */
static char *meaning(json_object *bitmap)
{
    uint64_t recovered = tc_json_number(bitmap, "recovered");
    g_autofree char *size = tc_human_size(recovered);

    if (tc_json_true(bitmap, "inconsistent"))
        return g_strdup("can't be used: remove it and start again with a full copy; a repair makes "
                        "all of it dirty");
    if (recovered)
        return g_strdup_printf("usable; up to %s more than was written will be copied, nothing is "
                               "missed",
                               size);
    if (tc_json_string(bitmap, "reason"))
        return g_strdup("usable; it may contain more than was written, never less");
    return NULL;
}

/* Whether one of @problems says so already. */
static bool is_listed(json_object *problems, const char *reason)
{
    for (size_t i = 0; i < json_object_array_length(problems); i++)
        if (strstr(json_object_get_string(json_object_array_get_idx(problems, i)), reason))
            return true;
    return false;
}

static void print_meanings(json_object *bitmaps, json_object *problems, FILE *out, bool colors)
{
    size_t touched = 0, n = json_object_array_length(bitmaps);

    for (size_t i = 0; i < n; i++) {
        json_object *bitmap = json_object_array_get_idx(bitmaps, i);
        const char *reason = tc_json_string(bitmap, "reason");
        g_autofree char *what = meaning(bitmap), *line = NULL;

        if (!what)
            continue;
        if (!touched++)
            print_title(out, colors, "39m", "What that means");
        if (reason && is_listed(problems, reason))
            reason = NULL;
        line = g_strdup_printf("%s: %s%s%s%s", tc_json_string(bitmap, "name"), what,
                               reason ? " (" : "", reason ? reason : "", reason ? ")" : "");
        tc_print_wrapped(out, 2, 4, line);
    }
    if (touched && touched < n)
        fprintf(out, "  %zu other%s: as %s\n", n - touched, n - touched > 1 ? "s" : "",
                n - touched > 1 ? "they were" : "it was");
}

void tc_store_print_verdict(json_object *store, FILE *out, bool colors)
{
    json_object *problems = tc_json_get(store, "problems", NULL);
    json_object *bitmaps = tc_json_get(store, "bitmaps", NULL);
    bool bad = tc_store_bad(store);
    size_t n = json_object_array_length(problems);
    g_autofree char *title =
        n ? g_strdup_printf("%zu problem%s", n, n > 1 ? "s" : "")
          : g_strdup(bad ? "The store is sound, but not all of its bitmaps are" : "No problems");

    print_title(out, colors, bad ? "31m" : "32m", title);
    for (size_t i = 0; i < n; i++)
        tc_print_wrapped(out, 2, 4, json_object_get_string(json_object_array_get_idx(problems, i)));
    print_meanings(bitmaps, problems, out, colors);
    if (n && !json_object_array_length(bitmaps) &&
        g_strcmp0(tc_json_string(store, "state"), "unreadable")) {
        print_title(out, colors, "39m", "What that means");
        tc_print_wrapped(out, 2, 4,
                         "No bitmap is left. The disk itself is not affected: start again with a "
                         "full copy.");
    }
}
