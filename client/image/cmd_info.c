/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/image/cmd_info.c: "tidemark image info": what an image is. The JSON is qemu-img's; for a
 * raw image with a store of bitmaps "bitmaps" and "problems" are added, as "tidemark bitmap list"
 * has them. */
#include "block/image/image.h"
#include "client/image/cmd_image.h"
#include "client/json.h"
#include "client/store/store_view.h"
#include "client/text.h"
#include <string.h>
#include <sys/stat.h>

enum { LABEL = 12 }; /* columns */

static const TcOption options[] = {
    TC_FORMAT_OPTION, { "backing-chain", NULL, "show the images below it, too" },
    TC_NAMES_OPTION,  TC_IMAGE_OPTS_OPTION,
    TC_SHARE_OPTION,  TC_JSON_OPTION,
    TC_OUTPUT_OPTION, { 0 },
};

/* ---- in words */

static void print_line(const char *label, const char *value)
{
    g_autofree char *line = g_strdup_printf("%-*s%s", LABEL, label, value);

    tc_print_wrapped(stdout, 0, LABEL, line);
}

static void print_size(const char *label, uint64_t bytes)
{
    g_autofree char *human = tc_human_size(bytes);
    g_autofree char *value = bytes < 1024 ? g_strdup_printf("%" PRIu64 " bytes", bytes)
                                          : g_strdup_printf("%s (%" PRIu64 " bytes)", human, bytes);

    print_line(label, value);
}

/* The member "a.b.c" of an object, or NULL. */
static json_object *at(json_object *info, const char *path)
{
    g_auto(GStrv) names = g_strsplit(path, ".", -1);

    for (char **name = names; *name && info; name++)
        info = json_object_object_get(info, *name);
    return info;
}

static bool is_true(json_object *info, const char *path)
{
    return json_object_get_boolean(at(info, path));
}

static const char *text(json_object *info, const char *path)
{
    return json_object_get_string(at(info, path));
}

#define DATA "format-specific.data."

static void add_word(GString *words, bool is, const char *word)
{
    if (is)
        g_string_append_printf(words, "%s%s", words->len ? ", " : "", word);
}

static void print_format(json_object *info)
{
    g_autoptr(GString) words = g_string_new(NULL);
    const char *compat = text(info, DATA "compat"), *zip = text(info, DATA "compression-type");
    json_object *refcount = at(info, DATA "refcount-bits");
    g_autofree char *line = NULL;

    if (compat) {
        add_word(words, !strcmp(compat, "0.10"), "version 2 (compat 0.10)");
        add_word(words, strcmp(compat, "0.10"), "version 3 (compat 1.1)");
    }
    add_word(words, zip && strcmp(zip, "zlib"), zip);
    add_word(words, is_true(info, DATA "extended-l2"), "extended L2");
    add_word(words, is_true(info, DATA "lazy-refcounts"), "lazy refcounts");
    if (refcount && json_object_get_int(refcount) != 16)
        g_string_append_printf(words, ", %d-bit refcounts", json_object_get_int(refcount));
    line = g_strdup_printf("%s%s%s", text(info, "format"), words->len ? ": " : "", words->str);
    print_line("format", line);
}

/* A file that is named, and its format; and where that is, if the name does not say. */
static void print_named(const char *label, const char *name, const char *format, const char *where)
{
    g_autofree char *value = NULL;

    if (!name)
        return;
    value = g_strdup_printf("%s (%s)%s%s", name, format,
                            where && strcmp(where, name) ? ", that is " : "",
                            where && strcmp(where, name) ? where : "");
    print_line(label, value);
}

static void print_state(json_object *info)
{
    if (is_true(info, DATA "corrupt"))
        print_line("state",
                   "CORRUPT: read-only until 'tidemark image check -r all' has repaired it");
    else if (is_true(info, "dirty-flag"))
        print_line("state", "in use, or not closed properly: refcounts may be out of date");
}

static bool has_flag(json_object *bitmap, const char *flag)
{
    json_object *flags = json_object_object_get(bitmap, "flags");

    for (size_t i = 0; i < json_object_array_length(flags); i++) {
        if (!strcmp(json_object_get_string(json_object_array_get_idx(flags, i)), flag))
            return true;
    }
    return false;
}

/* As the image itself lists them, if it can't be opened to say more. */
static void print_bitmaps(json_object *info)
{
    json_object *bitmaps = at(info, "bitmaps") ? NULL : at(info, DATA "bitmaps");
    size_t n = bitmaps ? json_object_array_length(bitmaps) : 0;
    g_autoptr(TcTable) table = tc_table_new(NULL, "BITMAP|>GRANULARITY|RECORDING|STATE");

    for (size_t i = 0; i < n; i++) {
        json_object *b = json_object_array_get_idx(bitmaps, i);
        g_autofree char *granularity =
            tc_human_size(json_object_get_uint64(json_object_object_get(b, "granularity")));

        tc_table_add(table, text(b, "name"), granularity,
                     has_flag(b, "auto") ? "enabled" : "disabled",
                     has_flag(b, "in-use") ? "in use, or not closed properly" : "ok");
    }
    if (!n)
        return;
    putchar('\n');
    tc_table_print(table, stdout, tc_terminal_colors(stdout));
}

static char *when(json_object *snapshot)
{
    json_object *seconds = json_object_object_get(snapshot, "date-sec");
    g_autoptr(GDateTime) date =
        g_date_time_new_from_unix_local(seconds ? json_object_get_int64(seconds) : 0);

    return date ? g_date_time_format(date, "%Y-%m-%d %H:%M:%S") : g_strdup("-");
}

static void print_snapshots(json_object *info)
{
    json_object *snapshots = at(info, "snapshots");
    size_t n = snapshots ? json_object_array_length(snapshots) : 0;
    g_autoptr(TcTable) table = tc_table_new(NULL, "SNAPSHOT|NAME|>VM STATE|CREATED");

    for (size_t i = 0; i < n; i++) {
        json_object *s = json_object_array_get_idx(snapshots, i);
        json_object *bytes = json_object_object_get(s, "vm-state-size");
        g_autofree char *state = tc_human_size(bytes ? json_object_get_uint64(bytes) : 0);
        g_autofree char *made = when(s);

        tc_table_add(table, text(s, "id"), text(s, "name"), state, made);
    }
    if (!n)
        return;
    putchar('\n');
    tc_table_print(table, stdout, tc_terminal_colors(stdout));
}

static void print_store(json_object *info)
{
    json_object *bitmaps = at(info, "bitmaps"), *problems = at(info, "problems");
    g_autoptr(TcTable) table = bitmaps ? tc_store_table(info) : NULL;

    if (!table || (!json_object_array_length(bitmaps) && !json_object_array_length(problems)))
        return;
    if (json_object_array_length(bitmaps)) {
        putchar('\n');
        tc_table_print(table, stdout, tc_terminal_colors(stdout));
    }
    if (json_object_array_length(problems))
        puts("\nThere are problems: 'tidemark bitmap check' explains.");
}

static void print_info(json_object *info, bool followed)
{
    json_object *actual = at(info, "actual-size"), *cluster = at(info, "cluster-size");
    const char *backing = text(info, "backing-filename");
    const char *format = text(info, "backing-filename-format");

    print_line("image", text(info, "filename"));
    print_format(info);
    print_size("disk", json_object_get_uint64(at(info, "virtual-size")));
    if (actual)
        print_size("occupies", json_object_get_uint64(actual));
    if (cluster)
        print_size("cluster", json_object_get_uint64(cluster));
    print_named("backing", backing, format ? format : "format not recorded",
                text(info, "full-backing-filename"));
    print_named("data", text(info, DATA "data-file"),
                is_true(info, DATA "data-file-raw") ? "raw" : "clusters", NULL);
    print_state(info);
    print_bitmaps(info);
    print_snapshots(info);
    print_store(info);
    if (backing && !followed)
        puts("\nUse --backing-chain to show the backing files.");
}

/* ---- finding it out */

/* What the store beside the image has; for people, what a closed image has itself, too. */
static void add_store(json_object *info, const TcLayer *layer, bool json)
{
    g_auto(TcStorePlace) place = { 0 };
    g_autoptr(json_object) store = NULL;
    struct stat st;

    if (stat(layer->path, &st) < 0 || !S_ISREG(st.st_mode) ||
        !tc_store_find(&tm_sys_kernel, layer->path, NULL, &place, NULL) || place.guessed)
        return;
    if (!place.exists && !place.lost && (json || strcmp(layer->format, "qcow2")))
        return;
    store = tc_store_describe(&tm_sys_kernel, &place, NULL);
    if (!store)
        return;
    json_object_object_add(info, "bitmaps", json_object_get(at(store, "bitmaps")));
    json_object_object_add(info, "problems", json_object_get(at(store, "problems")));
}

static json_object *describe(TcImage *image, const TcLayer *layer, const TcImageOptions *how,
                             bool json, GError **error)
{
    json_object *info;
    BlkNode *file;

    if (!tc_image_check_written(layer, how, error))
        return NULL;
    file = tc_image_add_bytes(image, layer, how, error);
    info = file ? blk_image_info(file, layer->format, error) : NULL;
    if (info)
        add_store(info, layer, json);
    return info;
}

static json_object *describe_all(GPtrArray *layers, const TcImageOptions *o, bool json,
                                 GError **error)
{
    g_autoptr(json_object) list = json_object_new_array();
    g_auto(TcImage) image = { 0 };

    if (!tc_image_begin(&image, error))
        return NULL;
    for (guint i = 0; i < layers->len; i++) {
        json_object *info = describe(&image, layers->pdata[i], o, json, error);

        if (!info)
            return NULL;
        json_object_array_add(list, info);
    }
    return g_steal_pointer(&list);
}

static void print_all(json_object *list, bool followed)
{
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        if (i)
            putchar('\n');
        print_info(json_object_array_get_idx(list, i), followed);
    }
}

static int run(const TcInvocation *inv)
{
    TcImageOptions o = { 0 };
    g_autoptr(GPtrArray) layers = NULL;
    g_autoptr(json_object) list = NULL;
    g_autoptr(GError) error = NULL;
    bool json, chain;

    if (!tc_image_options(inv, &o, &error) || !tc_image_output(inv, &json, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    chain = tc_flag(inv, "backing-chain");
    layers = tc_image_layers(tc_arg(inv, 0), o.format, chain ? o.names : NULL, &error);
    list = layers ? describe_all(layers, &o, json, &error) : NULL;
    if (!list)
        return tc_fail(g_steal_pointer(&error));
    if (json)
        tc_json_print(chain ? list : json_object_array_get_idx(list, 0), stdout);
    else
        print_all(list, chain);
    return TC_EXIT_OK;
}

const TcCommand tc_command_image_info = {
    .name = "info",
    .args = "FILE",
    .summary = "Shows the format, the sizes and the bitmaps of an image",
    .details = "With --backing-chain it shows each image of the backing chain, and the JSON is a\n"
               "list.\n",
    .min_args = 1,
    .max_args = 1,
    .options = options,
    .run = run,
    .usage_status = TC_EXIT_FAILED,
};
