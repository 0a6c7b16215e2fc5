/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/config.c: see the header. */
#include "daemon/config.h"

#include "qmp/context.h"
#include "qmp/json/json.h"
#include "qmp/keyval.h"
#include "util/error.h"
#include "util/file.h"

#include <string.h>

#define BYTE_ORDER_MARK "\xef\xbb\xbf"

struct Config {
    char *path;
    json_object *root;
    QmpPlaces places;
    GPtrArray *strings; /* of options */
};

/* In the order in which they are carried out. */
static const struct {
    const char *member;
    CmdKind kind;
    const char *name; /* of the option */
    enum { VALUE, FLAG, VALUES, ITEMS } shape;
} sections[] = {
    { "log-level", CMD_LOG_LEVEL, "log-level", VALUE },
    { "io-engine", CMD_IO_ENGINE, "io-engine", VALUE },
    { "modules", CMD_MODULE, "module", VALUES },
    { "module-dirs", CMD_MODULE_DIR, "module-dir", VALUES },
    { "sandbox", CMD_SANDBOX, "sandbox", VALUE },
    { "user", CMD_USER, "user", VALUE },
    { "daemonize", CMD_DAEMONIZE, "daemonize", FLAG },
    { "pidfile", CMD_PIDFILE, "pidfile", VALUE },
    { "objects", CMD_OBJECT, "object", ITEMS },
    { "blockdevs", CMD_BLOCKDEV, "blockdev", ITEMS },
    { "bitmaps", CMD_BITMAP, "bitmap", ITEMS },
    { "nbd-servers", CMD_NBD_SERVER, "nbd-server", ITEMS },
    { "metrics", CMD_METRICS, "metrics", ITEMS },
    { "exports", CMD_EXPORT, "export", ITEMS },
    { "chardevs", CMD_CHARDEV, "chardev", ITEMS },
    { "monitors", CMD_MONITOR, "monitor", ITEMS },
};

const char *config_section(CmdKind kind)
{
    for (size_t i = 0; i < G_N_ELEMENTS(sections); i++) {
        if (sections[i].kind == kind && sections[i].shape == ITEMS)
            return sections[i].member;
    }
    return NULL;
}

/* ---- reading */

static bool parse(Config *c, const char *text, size_t length, GError **error)
{
    g_autoptr(GError) cause = NULL;

    if (strlen(text) != length)
        return tm_error_set(error, "%s: not a text: it has a byte that is zero", c->path);
    if (g_str_has_prefix(text, BYTE_ORDER_MARK)) /* of editors that mark UTF-8 so */
        text += strlen(BYTE_ORDER_MARK);
    if (!qmp_json_parse_document(text, &c->root, &c->places, &cause))
        return tm_error_set(error, "%s:%u: %s", c->path, c->places.failed, cause->message);
    return json_object_is_type(c->root, json_type_object) ||
           tm_error_set(error, "%s:1: expected a JSON object", c->path);
}

Config *config_read(const char *path, GError **error)
{
    Config *c = g_new0(Config, 1);
    g_autofree char *text = NULL;
    size_t length;

    c->path = g_canonicalize_filename(path, NULL); /* --daemonize changes the directory */
    c->strings = g_ptr_array_new_with_free_func(g_free);
    if (tm_file_read(c->path, CONFIG_MAX, &text, &length, error) && parse(c, text, length, error))
        return c;
    config_free(c);
    return NULL;
}

void config_free(Config *c)
{
    if (!c)
        return;
    json_object_put(c->root);
    qmp_places_clear(&c->places);
    g_ptr_array_unref(c->strings);
    g_free(c->path);
    g_free(c);
}

const char *config_path(const Config *c)
{
    return c->path;
}

json_object *config_root(const Config *c)
{
    return c->root;
}

char *config_place(const Config *c, const char *path)
{
    return g_strdup_printf("%s:%u%s%s", c->path, qmp_places_line(&c->places, path),
                           *path ? ": " : "", path);
}

/* ---- options */

/* @text: taken. */
static const char *keep(Config *c, char *text)
{
    g_ptr_array_add(c->strings, text);
    return text;
}

static void append(Config *c, GArray *options, size_t section, json_object *value, char *path)
{
    bool items = sections[section].shape == ITEMS,
         object = json_object_is_type(value, json_type_object);
    CmdOption option = { .kind = sections[section].kind,
                         .name = sections[section].name,
                         .file = c,
                         .path = keep(c, path) };

    if (items && object)
        option.args = value;
    else if (object)
        option.value = keep(c, qmp_json_text(value, false));
    else if (json_object_is_type(value, json_type_string) && !items)
        option.value = json_object_get_string(value);
    else if (sections[section].shape != FLAG || !json_object_get_boolean(value))
        return;
    g_array_append_val(options, option);
}

static void append_all(Config *c, GArray *options, size_t section, json_object *list)
{
    for (size_t i = 0; i < json_object_array_length(list); i++)
        append(c, options, section, json_object_array_get_idx(list, i),
               g_strdup_printf("%s[%zu]", sections[section].member, i));
}

void config_options(Config *c, GArray *options)
{
    for (size_t i = 0; i < G_N_ELEMENTS(sections); i++) {
        json_object *value;

        if (!json_object_object_get_ex(c->root, sections[i].member, &value))
            continue;
        if (sections[i].shape == VALUE || sections[i].shape == FLAG)
            append(c, options, i, value, g_strdup(sections[i].member));
        else if (json_object_is_type(value, json_type_array))
            append_all(c, options, i, value);
    }
}

GArray *config_expand(const GArray *options, GPtrArray *configs, GError **error)
{
    g_autoptr(GArray) all = g_array_new(FALSE, TRUE, sizeof(CmdOption));

    for (guint i = 0; i < options->len; i++) {
        const CmdOption *option = &g_array_index(options, CmdOption, i);
        Config *c;

        if (option->kind != CMD_CONFIG) {
            g_array_append_vals(all, option, 1);
            continue;
        }
        c = config_read(option->value, error);
        if (!c)
            return NULL;
        g_ptr_array_add(configs, c);
        config_options(c, all);
    }
    return g_steal_pointer(&all);
}

/* ---- places */

static const char *text_of(json_object *args, const char *name)
{
    json_object *value = qmp_arg(args, name);

    return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

/* Of an object no more than its type and name: what else is there may be a secret, under whatever
 * name somebody mistyped. */
static char *shown_object(const CmdOption *option)
{
    json_object *args =
        *option->value == '{' ? NULL : qmp_keyval_parse(option->value, "qom-type", NULL);
    const char *type = text_of(args, "qom-type"), *id = text_of(args, "id");
    char *text = g_strdup_printf("--%s %s%s%s", option->name,
                                 type                    ? type
                                 : *option->value == '{' ? "{...}"
                                                         : "...",
                                 type && id ? ",id=" : "", type && id ? id : "");

    json_object_put(args);
    return text;
}

/* An option as an error shows it. */
static char *shown(const CmdOption *option)
{
    if (option->kind == CMD_OBJECT)
        return shown_object(option);
    return g_strdup_printf("--%s%s%s", option->name, option->value ? " " : "",
                           option->value ? option->value : "");
}

char *option_place(const CmdOption *option, const char *within)
{
    g_autofree char *path = NULL;

    if (!option->file)
        return shown(option);
    path = *within ? g_strdup_printf("%s.%s", option->path, within) : g_strdup(option->path);
    return config_place(option->file, path);
}
