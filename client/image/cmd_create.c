/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/image/cmd_create.c: "tidemark image create".
 *
 * Options are spelt as qemu-img spells them ("-o cluster_size=64k,compat=0.10"), and given to the
 * block layer as QEMU's BlockdevCreateOptions. */
#include "block/described.h"
#include "block/image/image.h"
#include "client/image/cmd_image.h"
#include "client/json.h"
#include "client/progress.h"
#include "client/text.h"
#include "util/log.h"
#include "util/range.h"
#include "util/text.h"
#include <string.h>
#include <unistd.h>

#define SECTOR 512u

static const TcOption options[] = {
    { "format", "FMT", "raw (default) or qcow2", 'f' },
    { "options", "K=V,...", "options of the format; 'help' lists them", 'o' },
    { "backing", "FILE2", "the backing file, which is read where FILE has no data", 'b' },
    { "backing-format", "FMT", "the format of FILE2", 'F' },
    { "unsafe", NULL, "don't open FILE2; SIZE is required", 'u' },
    { "preallocation", "MODE", "the same as -o preallocation=MODE" },
    TC_QUIET_OPTION,
    { 0 },
};

/* An option of a format: how it is spelt here, and in QMP. */
typedef struct CreateOption {
    const char *name, *member;
    enum { TEXT, SIZE, NUMBER, FLAG, COMPAT, TYPES } type;
    const char *help;
    bool of_file; /* not of the image, but of the files that are created for it */
} CreateOption;

/* Those of files, whatever the format. */
#define HINT_OPTION                                                                                \
    {                                                                                              \
        "extent_size_hint", "extent-size-hint", SIZE,                                              \
            "bytes that the file system allocates at a time, 1M by default; 0: its own choice",    \
            true                                                                                   \
    }
#define NOCOW_OPTION                                                                               \
    {                                                                                              \
        "nocow", "nocow", FLAG, "no copy-on-write by the file system", true                        \
    }

static const CreateOption raw_options[] = {
    HINT_OPTION,
    NOCOW_OPTION,
    { "preallocation", "preallocation", TEXT, "off, falloc or full" },
    { "size", "size", SIZE, "bytes of the disk" },
    { 0 },
};

static const CreateOption qcow2_options[] = {
    { "backing_file", "backing-file", TEXT, "the name of a backing file" },
    { "backing_fmt", "backing-fmt", TEXT, "its format" },
    { "cluster_size", "cluster-size", SIZE, "512 to 2M, 64k by default" },
    { "compat", "version", COMPAT, "v3 (1.1), the default, or v2 (0.10)" },
    { "compression_type", "compression-type", TEXT, "zlib or zstd" },
    { "data_file", "data-file", TEXT, "the name of a file for the data" },
    { "data_file_raw", "data-file-raw", FLAG, "the data file can be read as a raw image" },
    { "extended_l2", "extended-l2", FLAG, "clusters are allocated in 32 parts" },
    HINT_OPTION,
    { "lazy_refcounts", "lazy-refcounts", FLAG, "refcounts may be updated late" },
    NOCOW_OPTION,
    { "preallocation", "preallocation", TEXT, "off, metadata, falloc or full" },
    { "refcount_bits", "refcount-bits", NUMBER, "1, 2, 4, ... 64; 16 by default" },
    { "size", "size", SIZE, "bytes of the disk" },
    { 0 },
};

typedef struct Create {
    const TcInvocation *inv;
    const char *path, *format;
    const CreateOption *known;
    json_object *create; /* BlockdevCreateOptions */
    json_object *file;   /* members of BlockdevCreateOptionsFile; the same object for raw */
    bool sized;
    uint64_t size;
    char *data_file;
    GPtrArray *made; /* paths of files that were not there before, borrowed */
    TcProgress *progress;
} Create;

/* ---- options */

static const CreateOption *find_known(const Create *c, const char *name, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    g_autofree char *spelt = g_strdelimit(g_strdup(name), "-", '_');
    const char *closest;

    for (const CreateOption *o = c->known; o->name; o++) {
        if (!strcmp(o->name, spelt))
            return o;
        g_ptr_array_add(names, (gpointer)o->name);
    }
    g_ptr_array_add(names, NULL);
    closest = tm_text_nearest(spelt, (const char *const *)names->pdata);
    if (closest)
        tm_error_set(error, "%s images have no option '%s': did you mean '%s'?", c->format, name,
                     closest);
    else
        tm_error_set(error, "%s images have no option '%s': '-o help' lists them", c->format, name);
    return NULL;
}

static bool parse_flag(const char *text, json_object **value)
{
    static const char *const yes[] = { "on", "yes", "true", "y", NULL };
    static const char *const no[] = { "off", "no", "false", "n", NULL };
    bool is = g_strv_contains(yes, text);

    if (!is && !g_strv_contains(no, text))
        return false;
    *value = json_object_new_boolean(is);
    return true;
}

static bool parse_compat(const char *text, json_object **value)
{
    static const char *const v2[] = { "v2", "0.10", NULL }, *const v3[] = { "v3", "1.1", NULL };
    bool old = g_strv_contains(v2, text);

    if (!old && !g_strv_contains(v3, text))
        return false;
    *value = json_object_new_string(old ? "v2" : "v3");
    return true;
}

static bool parse_value(const CreateOption *o, const char *text, json_object **value,
                        GError **error)
{
    static const char *const expected[] = { "", "a size", "a number", "on or off",
                                            "a version: v2 (0.10) or v3 (1.1)" };
    G_STATIC_ASSERT(G_N_ELEMENTS(expected) == TYPES);
    uint64_t number;
    bool ok = true;

    if (o->type == TEXT)
        *value = json_object_new_string(text);
    else if (o->type == FLAG)
        ok = parse_flag(text, value);
    else if (o->type == COMPAT)
        ok = parse_compat(text, value);
    else if ((ok = tc_image_size(text, &number) && number <= INT64_MAX))
        *value = json_object_new_uint64(number);
    return ok || tm_error_set(error, "option %s: '%s' is not %s", o->name, text, expected[o->type]);
}

static bool set_option(Create *c, const char *name, const char *text, GError **error)
{
    const CreateOption *o = find_known(c, name, error);
    json_object *value = NULL;

    if (!o || !parse_value(o, text, &value, error))
        return false;
    if (!strcmp(o->name, "size")) {
        c->sized = true;
        c->size = json_object_get_uint64(value);
        json_object_put(value);
    } else if (!strcmp(o->name, "data_file")) {
        g_free(c->data_file);
        c->data_file = g_strdup(text);
        json_object_put(value);
    } else {
        json_object_object_add(o->of_file ? c->file : c->create, o->member, value);
    }
    return true;
}

/* The words of "k=v,k=v"; a comma in a value is written twice. */
static GStrv split_options(const char *text)
{
    g_autoptr(GString) word = g_string_new(NULL);
    GPtrArray *words = g_ptr_array_new();

    for (const char *at = text;; at++) {
        if (*at == ',' && at[1] == ',') {
            g_string_append_c(word, *++at);
        } else if (*at && *at != ',') {
            g_string_append_c(word, *at);
        } else {
            g_ptr_array_add(words, g_strdup(word->str));
            g_string_set_size(word, 0);
        }
        if (!*at)
            break;
    }
    g_ptr_array_add(words, NULL);
    return (GStrv)g_ptr_array_free(words, FALSE);
}

static bool set_options(Create *c, const char *text, GError **error)
{
    g_auto(GStrv) words = split_options(text);

    for (char **word = words; *word; word++) {
        char *equals = strchr(*word, '=');

        if (!equals)
            return tm_error_set(error, "option --options: '%s' is not of the form NAME=VALUE",
                                *word);
        *equals = '\0';
        if (!set_option(c, *word, equals + 1, error))
            return false;
    }
    return true;
}

/* Whether one of the -o has the word "help" or "?", as with qemu-img. */
static bool asks_help(const TcInvocation *inv)
{
    for (guint i = 0; i < inv->given->len; i++) {
        const TcGiven *given = &g_array_index(inv->given, TcGiven, i);
        g_auto(GStrv) words = split_options(given->value);

        if (!strcmp(given->option->name, "options") &&
            (g_strv_contains((const char *const *)words, "help") ||
             g_strv_contains((const char *const *)words, "?")))
            return true;
    }
    return false;
}

static bool take_options(Create *c, GError **error)
{
    const TcInvocation *inv = c->inv;
    const char *preallocation = tc_option(inv, "preallocation");
    const char *backing = tc_option(inv, "backing"), *format = tc_option(inv, "backing-format");

    for (guint i = 0; i < inv->given->len; i++) {
        const TcGiven *given = &g_array_index(inv->given, TcGiven, i);

        if (!strcmp(given->option->name, "options") && !set_options(c, given->value, error))
            return false;
    }
    if (backing && c->known == raw_options)
        return tm_error_set(error, "raw images can't have a backing file");
    if (format && c->known == raw_options)
        return tm_error_set(error, "--backing-format needs --backing");
    return (!preallocation || set_option(c, "preallocation", preallocation, error)) &&
           (!backing || set_option(c, "backing_file", backing, error)) &&
           (!format || set_option(c, "backing_fmt", format, error));
}

static bool check(Create *c, GError **error)
{
    const char *size = tc_arg(c->inv, 1);
    TcImageOptions o = { 0 };

    if (!tc_image_options(c->inv, &o, error))
        return false;
    c->format = o.format ? o.format : "raw";
    c->known = !strcmp(c->format, "raw") ? raw_options : qcow2_options;
    if (c->known == raw_options)
        c->file = c->create;
    if (asks_help(c->inv))
        return true;
    if (!take_options(c, error))
        return false;
    if (size) {
        if (!tc_image_size(size, &c->size) || c->size > TM_SIZE_MAX)
            return tm_error_set(
                error, "'%s' is not a size: NUMBER with a suffix k, M, G, T, P or E", size);
        if (c->sized)
            return tm_error_set(error, "the size is given twice: as SIZE and as -o size");
        c->sized = true;
    }
    return true;
}

/* ---- the backing file */

static const char *text_of(const Create *c, const char *member)
{
    return json_object_get_string(json_object_object_get(c->create, member));
}

/* Opened as @o says; borrowed. */
static BlkNode *open_backing(const Create *c, TcImage *image, const char *name,
                             const TcImageOptions *o, GError **error)
{
    g_autofree char *path = NULL;

    if (!blk_name_is_path(name))
        image->layers = tc_image_layers_described(name, o->format, error);
    else if ((path = tc_image_path(c->path, name, "any", error)))
        image->layers = tc_image_layers(path, o->format, NULL, error);
    return image->layers && tc_image_begin(image, error) &&
                   tc_image_add_layers(image, image->layers, o, &image->node, error)
               ? image->node
               : NULL;
}

static bool is_its_own(const Create *c, const char *name)
{
    g_autofree char *path = tc_image_path(c->path, name, "any", NULL);

    return path && (!strcmp(path, c->path) || tc_image_same(path, c->path));
}

/* It is what it is said to be, and as large as the new image, if that has no size given. */
static bool check_backing(Create *c, GError **error)
{
    const char *backing = text_of(c, "backing-file"), *format = text_of(c, "backing-fmt");
    TcImageOptions o = { .format = format, .names = "any" };
    g_auto(TcImage) image = { 0 };

    if (!backing)
        return true;
    if (!*backing)
        return tm_error_set(error, "the name of the backing file is empty");
    if (!format)
        return tm_error_set(error, "use --backing-format to set the format of '%s'", backing);
    if (is_its_own(c, backing))
        return tm_error_set(error, "'%s' can't be its own backing file", c->path);
    if (tc_flag(c->inv, "unsafe"))
        return true;
    if (!open_backing(c, &image, backing, &o, error)) {
        if (error && *error)
            g_prefix_error(error, "the backing file can't be used: ");
        return false;
    }
    if (!c->sized)
        c->size = blk_node_size(image.node);
    c->sized = true;
    return true;
}

/* ---- making it */

static bool show_progress(void *opaque, uint64_t done, uint64_t total)
{
    Create *c = opaque;

    tc_progress_show(c->progress, "creating", done, total);
    return true;
}

/* A new reference. */
static json_object *file_node(const char *path)
{
    json_object *file = json_object_new_object();

    json_object_object_add(file, "driver", json_object_new_string("file"));
    json_object_object_add(file, "filename", json_object_new_string(path));
    return file;
}

/* A file of no bytes, if there is none. */
static bool make_file(Create *c, TcImage *image, const char *path, GError **error)
{
    json_object *create;
    bool ok;

    if (g_file_test(path, G_FILE_TEST_EXISTS))
        return true; /* what is in it goes when all options have been found good */
    create = file_node(path);
    json_object_object_foreach(c->file, member, value)
        json_object_object_add(create, member, json_object_get(value));
    json_object_object_add(create, "size", json_object_new_int(0));
    ok = blk_image_create(image->graph, create, NULL, NULL, error);
    json_object_put(create);
    if (ok)
        g_ptr_array_add(c->made, (char *)path);
    return ok;
}

static bool make_image(Create *c, TcImage *image, GError **error)
{
    json_object *create = c->create;
    bool raw = c->known == raw_options;

    json_object_object_add(create, "driver", json_object_new_string(raw ? "file" : c->format));
    json_object_object_add(create, "size", json_object_new_uint64(c->size));
    if (raw) {
        json_object_object_add(create, "filename", json_object_new_string(c->path));
    } else {
        if (!make_file(c, image, c->path, error))
            return false;
        json_object_object_add(create, "file", file_node(c->path));
    }
    if (c->data_file) {
        if (!make_file(c, image, c->data_file, error))
            return false;
        json_object_object_add(create, "data-file", file_node(c->data_file));
    }
    return blk_image_create(image->graph, create, show_progress, c, error);
}

static bool make(Create *c, GError **error)
{
    g_autoptr(GPtrArray) made = g_ptr_array_new();
    g_autoptr(TcProgress) progress = tc_progress_on_terminal(!tc_flag(c->inv, "quiet"));
    g_auto(TcImage) image = { 0 };

    if (!tc_image_check_path(c->path, error) || !check_backing(c, error))
        return false;
    if (!c->sized)
        return tm_error_set(error, "the size of the image is missing: add SIZE%s",
                            c->known == raw_options ? "" : ", or a backing file");
    c->size = tm_align_up(c->size, SECTOR);
    c->progress = progress;
    c->made = made;
    if (!tc_image_begin(&image, error))
        return false;
    if (make_image(c, &image, error))
        return true;
    for (guint i = 0; i < made->len; i++)
        unlink(made->pdata[i]);
    return false;
}

/* ---- the command */

/* qemu-img's default, and a trap. */
static void warn_of_name(const Create *c)
{
    if (c->known == raw_options && !tc_flag(c->inv, "format") &&
        g_str_has_suffix(c->path, ".qcow2"))
        tm_log(TM_LOG_WARNING,
               "'%s' is created as a raw image, despite its name: use --format qcow2 for a qcow2 "
               "image",
               c->path);
}

static void report(const Create *c)
{
    g_autofree char *human = tc_human_size(c->size), *name = tc_printable(c->path);
    const char *backing = text_of(c, "backing-file");
    g_autofree char *below = backing ? tc_printable(backing) : NULL;

    warn_of_name(c);
    if (tc_flag(c->inv, "quiet"))
        return;
    printf("Created '%s': %s, %s (%" PRIu64 " bytes)%s%s%s.\n", name, c->format, human, c->size,
           below ? ", backed by '" : "", below ? below : "", below ? "'" : "");
}

static void list_options(const Create *c)
{
    static const char *const types[] = { "str", "size", "num", "bool (on/off)", "str" };
    G_STATIC_ASSERT(G_N_ELEMENTS(types) == TYPES);

    printf("Supported %s options:\n", c->format);
    for (const CreateOption *o = c->known; o->name; o++) {
        g_autofree char *left = g_strdup_printf("%s=<%s>", o->name, types[o->type]);

        printf("  %-30s - %s\n", left, o->help);
    }
}

/* 'create -o help' needs none. */
static int no_file(const TcInvocation *inv)
{
    GError *error = NULL;

    tm_error_set(&error, "missing argument: usage is '%s %s'", inv->path, inv->command->args);
    return tc_fail_usage(inv, error);
}

static int run(const TcInvocation *inv)
{
    Create c = { .inv = inv, .path = tc_arg(inv, 0) };
    g_autoptr(json_object) create = json_object_new_object();
    g_autoptr(json_object) file = json_object_new_object();
    g_autoptr(GError) error = NULL;
    int status = TC_EXIT_OK;

    c.create = create;
    c.file = file;
    if (!check(&c, &error))
        status = tc_fail_usage(inv, g_steal_pointer(&error));
    else if (asks_help(inv))
        list_options(&c);
    else if (!c.path)
        status = no_file(inv);
    else if (!make(&c, &error))
        status = tc_fail(g_steal_pointer(&error));
    else
        report(&c);
    g_free(c.data_file);
    return status;
}

const TcCommand tc_command_image_create = {
    .name = "create",
    .args = "FILE [SIZE]",
    .summary = "Creates an image",
    .details =
        "If FILE exists, its content is lost. SIZE is a number of bytes, or has a suffix k, M, G,\n"
        "T, P or E. With a backing file, the default is the size of its disk. FILE2 is relative\n"
        "to the directory of FILE, and its format is never guessed. '-f FMT -o help' lists the\n"
        "options of a format.\n",
    .min_args = 0,
    .max_args = 2,
    .options = options,
    .run = run,
    .usage_status = TC_EXIT_FAILED,
};
