/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/sandbox.c: what the command line names, and which fences stand; see the header. */
#include "daemon/sandbox.h"

#include "block/registry.h"
#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/fences.h"
#include "daemon/unit.h"
#include "qmp/context.h"
#include "qmp/keyval.h"
#include "util/error.h"
#include "util/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef enum { MODE_OFF, MODE_AUTO, MODE_ON } Mode;

struct Sandbox {
    TmLog *log; /* borrowed */
    Mode mode;
    bool given;       /* only the files given */
    GPtrArray *paths; /* strings; "r:": for reading only */
    char *in_root;    /* a file in the root directory, which stays closed; or NULL */
    bool stands;      /* the fence of files does */
    bool connects;    /* to servers, for nodes */
    bool mounts;      /* exports, or may do so */
};

/* What the C library and the libraries that it loads read: resolving names, plug-ins, time, TLS. */
static const char *const system_paths[] = { "r:/usr",
                                            "r:/lib",
                                            "r:/lib64",
                                            "r:/proc",
                                            "r:/sys",
                                            "r:/etc/ld.so.cache",
                                            "r:/etc/hosts",
                                            "r:/etc/host.conf",
                                            "r:/etc/resolv.conf",
                                            "r:/etc/nsswitch.conf",
                                            "r:/etc/gai.conf",
                                            "r:/etc/services",
                                            "r:/etc/protocols",
                                            "r:/etc/passwd",
                                            "r:/etc/group",
                                            "r:/etc/localtime",
                                            "r:/etc/ceph",
                                            "r:/etc/gnutls",
                                            "r:/etc/ssl",
                                            "r:/etc/pkcs11",
                                            "r:/etc/crypto-policies",
                                            "r:/run/systemd",
                                            ("r:" TM_MODULE_DIR),
                                            "/dev/null",
                                            "r:/dev/urandom" };

/* Members of options, at any depth, that name files. */
static const char *const path_members[] = { "filename",   "bitmap-store", "path", "dir", "logfile",
                                            "input-path", "in",           "out",  "conf" };

/* ---- what is given */

static void add(Sandbox *x, const char *prefix, const char *path)
{
    g_autofree char *absolute = g_canonicalize_filename(path, NULL); /* --daemonize changes it */

    g_ptr_array_add(x->paths, g_strconcat(prefix, absolute, NULL));
}

/* Directories that hold more than what stands beside a file. */
static bool is_too_wide(const char *dir)
{
    return g_str_equal(dir, "/") || g_str_equal(dir, "/dev");
}

/* A file, and, for what is made and renamed beside it, its directory; but a device's directory
 * holds other devices, and below the root is everything. Directories that are named hold
 * certificates. */
static void add_file(void *opaque, const char *path)
{
    Sandbox *x = opaque;
    char *resolved = realpath(path, NULL);
    g_autofree char *real = resolved ? g_strdup(resolved) : g_canonicalize_filename(path, NULL);
    g_autofree char *dir = g_path_get_dirname(real);
    struct stat st = { 0 };

    if (resolved && stat(real, &st) == 0 && S_ISDIR(st.st_mode)) {
        add(x, "r:", real);
    } else {
        add(x, "", real);
        if (!is_too_wide(dir) && !S_ISBLK(st.st_mode) && !S_ISCHR(st.st_mode))
            add(x, "", dir);
        if (g_str_equal(dir, "/") && !x->in_root)
            x->in_root = g_strdup(real);
    }
    free(resolved);
}

/* A secret's "file" is one; a node's is another node. */
static bool names_path(bool object, const char *member)
{
    for (size_t i = 0; i < G_N_ELEMENTS(path_members); i++) {
        if (!strcmp(path_members[i], member))
            return true;
    }
    return object && !strcmp(member, "file");
}

/* Calls @fn with each path in @value, which an @object has or else a node or server. */
static void each_path(json_object *value, bool object, void (*fn)(void *, const char *),
                      void *opaque)
{
    if (json_object_is_type(value, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(value); i++)
            each_path(json_object_array_get_idx(value, i), object, fn, opaque);
    }
    if (!json_object_is_type(value, json_type_object))
        return;
    json_object_object_foreach(value, member, child)
    {
        if (json_object_is_type(child, json_type_string) && names_path(object, member))
            fn(opaque, json_object_get_string(child));
        if (strcmp(member, "server")) /* a peer's socket needs no access to files */
            each_path(child, object, fn, opaque);
    }
}

static bool is_local(const char *driver)
{
    for (const BlkBuiltin *b = blk_builtins; b->driver; b++) {
        if (g_str_equal(b->driver->name, driver))
            return !(b->driver->flags & TIDEMARK_DRIVER_REMOTE);
    }
    return false; /* a plug-in may do what it likes */
}

/* Whether a node in @value connects to servers. */
static bool connects(json_object *value)
{
    if (json_object_is_type(value, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(value); i++) {
            if (connects(json_object_array_get_idx(value, i)))
                return true;
        }
    }
    if (!json_object_is_type(value, json_type_object))
        return false;
    json_object_object_foreach(value, member, child)
    {
        if (connects(child) ||
            (json_object_is_type(child, json_type_string) && !strcmp(member, "driver") &&
             !is_local(json_object_get_string(child))))
            return true;
    }
    return false;
}

/* Mistakes in the text are reported when the option is carried out. */
static void collect_option(Sandbox *x, const CmdOption *option)
{
    CmdKind kind = option->kind;
    const char *implied = kind == CMD_BLOCKDEV ? "driver" : "type", *text = option->value;
    json_object *value = option->args          ? json_object_get(option->args)
                         : kind == CMD_CHARDEV ? chardev_parse(text, NULL)
                         : *text == '{'        ? json_tokener_parse(text)
                                               : qmp_keyval_parse(text, implied, NULL);

    each_path(value, kind == CMD_OBJECT, add_file, x);
    x->connects |= kind == CMD_BLOCKDEV && connects(value);
    x->mounts |= kind == CMD_EXPORT && !g_strcmp0(qmp_arg_str(value, "type"), "fuse");
    json_object_put(value);
}

/* It is read again: perhaps another file of that name. */
static void add_config(Sandbox *x, const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *rule = g_strconcat("r:", is_too_wide(dir) ? path : dir, NULL);

    if (!g_ptr_array_find_with_equal_func(x->paths, rule, g_str_equal, NULL))
        g_ptr_array_add(x->paths, g_steal_pointer(&rule));
}

static void collect_all(Sandbox *x, const GArray *options)
{
    for (size_t i = 0; i < G_N_ELEMENTS(system_paths); i++)
        g_ptr_array_add(x->paths, g_strdup(system_paths[i]));
    for (guint i = 0; i < options->len; i++) {
        const CmdOption *option = &g_array_index(options, CmdOption, i);

        if (option->kind == CMD_PIDFILE)
            add_file(x, option->value);
        else if (option->kind == CMD_MODULE || option->kind == CMD_MODULE_DIR)
            add(x, "r:", option->value);
        else if (option->value || option->args)
            collect_option(x, option);
        if (option->file)
            add_config(x, config_path(option->file));
    }
}

/* ---- --sandbox */

/* As in Mode. */
static const char *const mode_values[] = { "off", "auto", "on", NULL };

static int index_of(const char *const *values, const char *value)
{
    int i = 0;

    while (strcmp(values[i], value))
        i++;
    return i;
}

static bool parse_paths(Sandbox *x, json_object *paths, GError **error)
{
    for (size_t i = 0; paths && i < json_object_array_length(paths); i++) {
        const char *path = json_object_get_string(json_object_array_get_idx(paths, i));

        if (!g_file_test(path, G_FILE_TEST_EXISTS))
            return tm_error_set(error, "Parameter 'paths': '%s' does not exist", path);
        add(x, "", path);
    }
    return true;
}

static bool parse(Sandbox *x, const char *text, GError **error)
{
    json_object *args = qmp_option_parse(NULL, &qmp_type_sandbox, text, "mode", error);
    const char *files = args ? qmp_arg_str(args, "files") : NULL;
    json_object *paths = args ? qmp_arg(args, "paths") : NULL;
    bool ok = args && parse_paths(x, paths, error);

    if (ok) {
        x->mode = (Mode)index_of(mode_values, qmp_arg_str(args, "mode"));
        x->given = files ? g_str_equal(files, "given") : x->given || paths;
    }
    json_object_put(args);
    return ok;
}

Sandbox *sandbox_new(const GArray *options, TmLog *log, GError **error)
{
    Sandbox *x = g_new0(Sandbox, 1);

    x->log = log;
    x->mode = MODE_AUTO;
    x->given = true;
    x->paths = g_ptr_array_new_with_free_func(g_free);
    collect_all(x, options);
    for (guint i = 0; i < options->len; i++) {
        if (g_array_index(options, CmdOption, i).kind == CMD_MONITOR) {
            x->given = false;
            x->connects = x->mounts = true;
        }
    }
    for (guint i = 0; i < options->len; i++) {
        const CmdOption *option = &g_array_index(options, CmdOption, i);

        if (option->kind == CMD_SANDBOX && !parse(x, option->value, error)) {
            g_autofree char *place = option_place(option, "");

            g_prefix_error(error, "%s: ", place);
            sandbox_free(x);
            return NULL;
        }
    }
    g_ptr_array_add(x->paths, NULL);
    return x;
}

void sandbox_free(Sandbox *x)
{
    if (!x)
        return;
    g_ptr_array_unref(x->paths);
    g_free(x->in_root);
    g_free(x);
}

bool sandbox_mounts(const Sandbox *x)
{
    return x->mounts;
}

const char *sandbox_no_mounts(const Sandbox *x, const GArray *options)
{
    for (guint i = 0; i < options->len; i++) {
        if (g_array_index(options, CmdOption, i).kind == CMD_USER)
            return "with --user only what the command line names is mounted";
    }
    return x->given && x->mode != MODE_OFF
               ? "--sandbox files=given allows only what the command line names to be mounted"
               : NULL;
}

/* ---- the fences */

/* A fence that does not stand: an error where it was demanded, else logged. */
static bool missing(const Sandbox *x, const char *what, int err, GError **error)
{
    if (x->mode == MODE_ON)
        return tm_error_set_errno(error, err, "--sandbox on: %s", what);
    tm_log_note(x->log, &(TmLogFacts){ .area = TM_LOG_DAEMON, .level = TM_LOG_DEBUG },
                "sandbox: %s: %s", what, tm_strerror(err));
    return true;
}

bool sandbox_files(Sandbox *x, GError **error)
{
    int version = x->mode == MODE_OFF ? 0 : landlock_version(), err;

    if (x->mode == MODE_OFF)
        return true;
    if (!version)
        return missing(x, "this kernel has no Landlock: files are not restricted", ENOSYS, error);
    err = landlock_restrict(version, x->given ? (char **)x->paths->pdata : NULL);
    if (err)
        return missing(x, "files can't be restricted", -err, error);
    x->stands = x->given;
    if (x->given && x->in_root)
        tm_log_note(x->log, &(TmLogFacts){ .area = TM_LOG_DAEMON, .level = TM_LOG_WARNING },
                    "sandbox: files can't be created beside '%s', in the root directory; "
                    "--sandbox paths.0=/ allows that, and access to all other files",
                    x->in_root);
    return true;
}

bool sandbox_calls(Sandbox *x, const GArray *options, GError **error)
{
    int err;

    for (guint i = options->len; i-- > 0;) {
        const CmdOption *option = &g_array_index(options, CmdOption, i);

        if (option->kind != CMD_USER)
            continue;
        if (!identity_drop(option->value, error)) {
            g_autofree char *place = option_place(option, "");

            g_prefix_error(error, "%s: ", place);
            return false;
        }
        break;
    }
#if defined(__SANITIZE_ADDRESS__)
    return true; /* the leak checker is a process of its own that traces this one */
#endif
    if (x->mode == MODE_OFF)
        return true;
    err = seccomp_restrict(x->connects);
    return !err || missing(x, "system calls can't be restricted", -err, error);
}

/* ---- blame */

typedef struct Blame {
    const Sandbox *x;
    const char *unit; /* borrowed; or NULL */
    bool guilty;
    char *advice; /* or NULL */
} Blame;

/* With links followed, also those that lead to what is not there yet. */
static char *real_path(const char *path)
{
    char *real = realpath(path, NULL), *result;
    g_autofree char *dir = NULL, *name = NULL;

    if (real) {
        result = g_strdup(real);
    } else {
        dir = g_path_get_dirname(path);
        name = g_path_get_basename(path);
        real = realpath(dir, NULL);
        result = g_build_filename(real ? real : dir, name, NULL);
    }
    free(real);
    return result;
}

/* Whether @path is @top or below it. */
static bool is_below(const char *path, const char *top)
{
    size_t n = strlen(top);

    return g_str_equal(top, "/") || (!strncmp(path, top, n) && (!path[n] || path[n] == '/'));
}

/* For reading alone, it is the fence that is in the way of a file's owner only. */
static void judge(void *opaque, const char *path)
{
    Blame *blame = opaque;
    g_autofree char *real = real_path(path);
    bool readable = false;

    for (guint i = 0; i + 1 < blame->x->paths->len; i++) {
        const char *rule = blame->x->paths->pdata[i];
        bool reading = g_str_has_prefix(rule, "r:");
        g_autofree char *top = real_path(reading ? rule + 2 : rule);

        if (!is_below(real, top))
            continue;
        if (!reading)
            return;
        readable = true;
    }
    if (!readable || access(real, W_OK) == 0)
        blame->guilty = true;
}

/* Of the first path that the unit is in the way of. */
static void advise(void *opaque, const char *path)
{
    Blame *blame = opaque;

    if (!blame->advice)
        blame->advice = unit_advice(blame->unit, path);
}

/* The paths that a command with @args names, and its error @message. */
static void each_named(const char *message, json_object *args, void (*fn)(void *, const char *),
                       void *opaque)
{
    g_auto(GStrv) quoted = g_strsplit(message, "'", -1);

    each_path(args, json_object_object_get_ex(args, "qom-type", NULL), fn, opaque);
    for (guint i = 1; quoted[0] && quoted[i] && quoted[i + 1]; i += 2) {
        if (strchr(quoted[i], '/'))
            fn(opaque, quoted[i]);
    }
}

char *sandbox_blame(const Sandbox *x, const char *message, json_object *args)
{
    const char *unit = g_getenv("TIDEMARKD_UNIT");
    Blame blame = { x, unit };

    if (x && x->stands && g_str_has_suffix(message, tm_strerror(EACCES)))
        each_named(message, args, judge, &blame);
    if (blame.guilty)
        return g_strdup("the sandbox allows only what was named at the start; --sandbox "
                        "paths.0=DIR adds to it, --sandbox off ends it");
    if (unit)
        each_named(message, args, advise, &blame);
    return blame.advice;
}
