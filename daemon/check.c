/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/check.c: see the header.
 *
 * Types are those of the tables of QMP, and so are the places of names and files in them: what this
 * file knows is which members name what. */
#include "daemon/check.h"

#include "qmp/context.h"
#include "util/error.h"
#include "util/text.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void add(GPtrArray *problems, const char *place, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

static void add(GPtrArray *problems, const char *place, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list ap;

    va_start(ap, format);
    what = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_ptr_array_add(problems, g_strdup_printf("%s: %s", place, what));
}

/* ---- types */

typedef struct Types {
    const QmpTypes *types;
    const Config *config;
    GPtrArray *problems;
    const char *path; /* of the item */
} Types;

static void add_type(void *opaque, const char *within, const char *message)
{
    const Types *t = opaque;
    g_autofree char *path =
        g_strdup_printf("%s%s%s", t->path, *t->path && *within ? "." : "", within);
    g_autofree char *place = config_place(t->config, path);

    add(t->problems, place, "%s", message);
}

static void check_item(const Types *types, const QmpType *type, json_object *value,
                       const char *path)
{
    Types t = *types;

    t.path = path;
    qmp_check_all(t.types, type, value, add_type, &t);
}

/* A member that is no list, as the only one. */
static void check_alone(const Types *t, const char *name, json_object *value)
{
    json_object *object = json_object_new_object();

    json_object_object_add(object, name, json_object_get(value));
    check_item(t, &qmp_type_configuration, object, "");
    json_object_put(object);
}

static const QmpMember *find_member(const QmpType *type, const char *name)
{
    for (const QmpMember *m = type->members; m->name; m++) {
        if (g_str_equal(m->name, name))
            return m;
    }
    return NULL;
}

static void check_unknown(const Types *t, const char *name)
{
    g_autofree char *place = config_place(t->config, name);
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    const char *near;

    for (const QmpMember *m = qmp_type_configuration.members; m->name; m++)
        g_ptr_array_add(names, (void *)m->name);
    g_ptr_array_add(names, NULL);
    near = tm_text_nearest(name, (const char *const *)names->pdata);
    add(t->problems, place, "there is no such member%s%s%s", near ? ": did you mean '" : "",
        near ? near : "", near ? "'?" : "");
}

void check_types(Daemon *d, const Config *config, GPtrArray *problems)
{
    Types t = { qmp_context_types(d->qmp), config, problems, "" };

    json_object_object_foreach(config_root(config), name, value)
    {
        const QmpMember *m = find_member(&qmp_type_configuration, name);
        bool list = m && m->type->kind == QMP_KIND_ARRAY;

        if (!m)
            check_unknown(&t, name);
        else if (!list || !json_object_is_type(value, json_type_array))
            check_alone(&t, name, value);
        for (size_t i = 0; list && json_object_is_type(value, json_type_array) &&
                           i < json_object_array_length(value);
             i++) {
            g_autofree char *path = g_strdup_printf("%s[%zu]", name, i);

            check_item(&t, m->type->element, json_object_array_get_idx(value, i), path);
        }
    }
}

/* ---- names */

/* What there is, and what to call it. */
static const struct {
    CmdKind kind;
    const char *what;
} named[] = {
    { CMD_OBJECT, "object" }, { CMD_BLOCKDEV, "node" },   { CMD_NBD_SERVER, "NBD server" },
    { CMD_EXPORT, "export" }, { CMD_CHARDEV, "chardev" },
};

/* Members that refer to such; those that refer to nodes as children have a type of their own. */
static const struct {
    const char *member;
    CmdKind kind; /* what it refers to */
    bool exports; /* only as an export's: it defines one elsewhere */
} references[] = {
    { "node-name", CMD_BLOCKDEV, true },     { "node", CMD_BLOCKDEV, false },
    { "bottom", CMD_BLOCKDEV, false },       { "servers", CMD_NBD_SERVER, false },
    { "tls-creds", CMD_OBJECT, false },      { "tls-authz", CMD_OBJECT, false },
    { "allow-list", CMD_OBJECT, false },     { "allow-open", CMD_OBJECT, false },
    { "allow-write", CMD_OBJECT, false },    { "iothread", CMD_OBJECT, false },
    { "passwordid", CMD_OBJECT, false },     { "keyid", CMD_OBJECT, false },
    { "throttle-group", CMD_OBJECT, false }, { "chardev", CMD_CHARDEV, false },
};

typedef struct Names {
    GHashTable *of[CMD_KINDS];    /* name -> where it is defined, both owned */
    bool defining;                /* the names are being collected; else the references looked up */
    GHashTable *ahead[CMD_KINDS]; /* the same of all options, when references are looked up */
    const CmdOption *option;
    GPtrArray *problems;
} Names;

static const char *what_of(CmdKind kind)
{
    size_t i = 0;

    while (named[i].kind != kind)
        i++;
    return named[i].what;
}

static void define(Names *n, const char *name, const char *within)
{
    CmdKind kind = n->option->kind;
    g_autofree char *place = option_place(n->option, within);
    const char *before = g_hash_table_lookup(n->of[kind], name);

    if (before && n->defining)
        add(n->problems, place, "there is another %s called '%s': %s", what_of(kind), name, before);
    else if (!before)
        g_hash_table_insert(n->of[kind], g_strdup(name), g_steal_pointer(&place));
}

static void refer(Names *n, CmdKind kind, const char *name, const char *within)
{
    g_autofree char *place = NULL;
    const char *later;

    if (g_hash_table_lookup(n->of[kind], name))
        return;
    place = option_place(n->option, within);
    later = g_hash_table_lookup(n->ahead[kind], name);
    if (later)
        add(n->problems, place, "%s '%s' comes later, and must be before: %s", what_of(kind), name,
            later);
    else
        add(n->problems, place, "there is no %s '%s'", what_of(kind), name);
}

static bool is_child(const QmpType *type)
{
    return type == &qmp_type_blockdev_ref || type == &qmp_type_blockdev_ref_null;
}

static void see_name(void *opaque, const QmpVisited *v)
{
    Names *n = opaque;
    CmdKind kind = n->option->kind;
    const char *text = json_object_get_string(v->value);
    bool defines = g_str_equal(v->name, kind == CMD_BLOCKDEV ? "node-name" : "id");

    if (!json_object_is_type(v->value, json_type_string))
        return;
    if (defines && n->of[kind] && (kind == CMD_BLOCKDEV || !strchr(v->path, '.'))) {
        define(n, text, v->path);
        return;
    }
    if (n->defining)
        return;
    if (is_child(v->type))
        refer(n, CMD_BLOCKDEV, text, v->path);
    for (size_t i = 0; i < G_N_ELEMENTS(references); i++) {
        if (g_str_equal(references[i].member, v->name) &&
            (!references[i].exports || kind == CMD_EXPORT))
            refer(n, references[i].kind, text, v->path);
    }
}

/* What the options of the command line have wrong was said already, or is said when they run. */
static void see_option(Daemon *d, Names *n, const CmdOption *option)
{
    const QmpType *type = option_type(option->kind);
    json_object *args = type ? option_arguments(d, option, NULL) : NULL;

    n->option = option;
    if (!args)
        return;
    qmp_visit(qmp_context_types(d->qmp), type, args, see_name, n);
    if (option->kind == CMD_NBD_SERVER && !qmp_arg(args, "id"))
        define(n, option_id(option, args), "");
    if (option->kind == CMD_EXPORT && !g_strcmp0(qmp_arg_str(args, "type"), "nbd") &&
        !n->defining && !g_hash_table_size(n->of[CMD_NBD_SERVER])) {
        g_autofree char *place = option_place(option, "");

        add(n->problems, place, "there is no NBD server before it");
    }
    json_object_put(args);
}

void check_names(Daemon *d, const GArray *options, GPtrArray *problems)
{
    Names all = { .defining = true, .problems = problems }, so_far = { .problems = problems };

    for (size_t i = 0; i < G_N_ELEMENTS(named); i++) {
        CmdKind kind = named[i].kind;

        all.of[kind] = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
        so_far.of[kind] = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
        so_far.ahead[kind] = all.of[kind];
    }
    for (guint i = 0; i < options->len; i++)
        see_option(d, &all, &g_array_index(options, CmdOption, i));
    for (guint i = 0; i < options->len; i++)
        see_option(d, &so_far, &g_array_index(options, CmdOption, i));
    for (size_t i = 0; i < G_N_ELEMENTS(named); i++) {
        g_hash_table_unref(all.of[named[i].kind]);
        g_hash_table_unref(so_far.of[named[i].kind]);
    }
}

/* ---- files */

typedef enum {
    TO_OPEN,   /* is there, and may be opened as the node wants to */
    TO_READ,   /* is there, and may be read */
    BESIDE,    /* may be made: its directory is there */
    TO_LISTEN, /* the same of a socket, and nothing else is in its place */
    DIRECTORY, /* is there, and takes files */
} Need;

static const struct {
    CmdKind kind;
    const char *member;
    Need need;
} files[] = {
    { CMD_BLOCKDEV, "filename", TO_OPEN }, { CMD_BLOCKDEV, "bitmap-store", BESIDE },
    { CMD_BLOCKDEV, "config", TO_READ },   { CMD_BLOCKDEV, "directory", DIRECTORY },
    { CMD_NBD_SERVER, "path", TO_LISTEN }, { CMD_CHARDEV, "path", TO_LISTEN },
    { CMD_CHARDEV, "logfile", BESIDE },    { CMD_CHARDEV, "out", BESIDE },
    { CMD_CHARDEV, "in", TO_READ },
};

typedef struct Files {
    const CmdOption *option;
    json_object *args;
    GPtrArray *problems;
} Files;

/* 0 or errno. */
static int try_read(const char *path)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (fd < 0)
        return errno;
    close(fd);
    return 0;
}

static int try_directory(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return errno;
    if (!S_ISDIR(st.st_mode))
        return ENOTDIR;
    return faccessat(AT_FDCWD, path, W_OK | X_OK, AT_EACCESS) < 0 ? errno : 0;
}

static int try_beside(const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path);

    return try_directory(dir);
}

static int try_listen(const char *path)
{
    struct stat st;

    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode))
        return EEXIST;
    return try_beside(path);
}

static int try_open(const char *path, bool writes)
{
    int err = try_read(path);

    if (err || !writes)
        return err;
    return faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) < 0 ? errno : 0;
}

/* As the daemon would open the file at @v in @root, a node: a node inherits what it does not say,
 * and a backing is read-only if it does not say otherwise. */
static bool opened_to_write(json_object *root, const QmpVisited *v)
{
    g_auto(GStrv) names = g_strsplit(v->path, ".", -1);
    bool read_only = false, auto_read_only = false;
    json_object *node = root;

    for (char **name = names; node && *name; name++) {
        read_only = qmp_arg_bool(node, "read-only", read_only) || g_str_equal(*name, "backing");
        auto_read_only = qmp_arg_bool(node, "auto-read-only", auto_read_only);
        node = json_object_object_get(node, *name);
    }
    return !qmp_arg_bool(v->parent, "read-only", read_only) &&
           !qmp_arg_bool(v->parent, "auto-read-only", auto_read_only);
}

static int try_need(const Files *f, Need need, const QmpVisited *v)
{
    const char *path = json_object_get_string(v->value);

    switch (need) {
    case TO_OPEN:
        return try_open(path, opened_to_write(f->args, v));
    case TO_READ:
        return try_read(path);
    case BESIDE:
        return try_beside(path);
    case TO_LISTEN:
        return qmp_arg_bool(v->parent, "abstract", false) ? 0 : try_listen(path);
    default:
        return try_directory(path);
    }
}

static void see_file(void *opaque, const QmpVisited *v)
{
    Files *f = opaque;

    if (!json_object_is_type(v->value, json_type_string))
        return;
    for (size_t i = 0; i < G_N_ELEMENTS(files); i++) {
        int err = files[i].kind == f->option->kind && g_str_equal(files[i].member, v->name)
                      ? try_need(f, files[i].need, v)
                      : 0;
        g_autofree char *place = err ? option_place(f->option, v->path) : NULL;

        if (err)
            add(f->problems, place, "'%s': %s", json_object_get_string(v->value),
                err == EEXIST ? "is there, and is no socket" : tm_strerror(err));
    }
}

static void check_object(Daemon *d, const CmdOption *option, json_object *args, GPtrArray *problems)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *place = NULL;

    /* What is of the wrong type, or there twice, was said already. */
    if (!qmp_check(qmp_context_types(d->qmp), &qmp_type_object_options, args, NULL) ||
        tm_objects_find(blk_exports_objects(d->exports), qmp_arg_str(args, "id")) ||
        qmp_dispatch(d->qmp, "object-add", args, NULL, &error))
        return;
    place = option_place(option, "");
    add(problems, place, "%s", error->message);
}

void check_files(Daemon *d, const GArray *options, GPtrArray *problems)
{
    for (guint i = 0; i < options->len; i++) {
        const CmdOption *option = &g_array_index(options, CmdOption, i);
        const QmpType *type = option_type(option->kind);
        g_autoptr(GError) error = NULL;
        g_autofree char *place = NULL;
        Files f = { option, NULL, problems };
        int err = option->kind == CMD_PIDFILE ? try_beside(option->value) : 0;

        f.args = type ? option_arguments(d, option, &error) : NULL;
        if (err || error)
            place = option_place(option, "");
        if (err)
            add(problems, place, "'%s': %s", option->value, tm_strerror(err));
        if (error)
            add(problems, place, "%s", error->message);
        if (f.args && option->kind == CMD_OBJECT)
            check_object(d, option, f.args, problems);
        else if (f.args)
            qmp_visit(qmp_context_types(d->qmp), type, f.args, see_file, &f);
        json_object_put(f.args);
    }
}
