/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/options.c: one node's options, parsed from JSON against tables. See the header.
 *
 * Names and messages are QEMU's (qapi/block-core.json, BlockdevOptions). As there, what is known is
 * checked first, the common options before the driver's, and members nobody knows are found last.
 * Immutable once parsed. */
#include "block/options.h"

#include "util/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const discard_choices[] = { "ignore", "unmap", NULL };
static const char *const place_choices[] = { "file", "disk", NULL };
static const char *const durability_choices[] = { "power-loss", "process-death", NULL };
static const char *const detect_choices[] = { "off", "on", "unmap", NULL };

const struct tidemark_option blk_common_options[] = {
    { .name = "driver",
      .type = TIDEMARK_OPTION_STRING,
      .required = 1,
      .help = "block driver name" },
    { .name = "node-name", .type = TIDEMARK_OPTION_STRING, .help = "the name of the node" },
    { .name = "discard",
      .type = TIDEMARK_OPTION_ENUM,
      .choices = discard_choices,
      .default_value = "ignore",
      .help = "whether discards free space (unmap) or do nothing (ignore)" },
    { .name = "cache.direct",
      .type = TIDEMARK_OPTION_BOOL,
      .default_value = "off",
      .help = "bypass the page cache" },
    { .name = "cache.no-flush",
      .type = TIDEMARK_OPTION_BOOL,
      .default_value = "off",
      .help = "ignore flushes" },
    { .name = "active",
      .type = TIDEMARK_OPTION_BOOL,
      .default_value = "on",
      .help = "whether the node can write; off: another process may have the image open" },
    { .name = "read-only",
      .type = TIDEMARK_OPTION_BOOL,
      .default_value = "off",
      .help = "refuse writes" },
    { .name = "auto-read-only",
      .type = TIDEMARK_OPTION_BOOL,
      .default_value = "off",
      .help = "open read-only if the image can't be written" },
    { .name = "force-share",
      .type = TIDEMARK_OPTION_BOOL,
      .default_value = "off",
      .help = "allow all other users of the image; needs read-only=on" },
    { .name = "detect-zeroes",
      .type = TIDEMARK_OPTION_ENUM,
      .choices = detect_choices,
      .default_value = "off",
      .help = "write data that are all zeroes as zeroes (on), and free their space (unmap); unmap "
              "needs discard=unmap" },
    { .name = "bitmap-store",
      .type = TIDEMARK_OPTION_STRING,
      .help = "the file that stores persistent bitmaps (default: the image's name with .bitmaps)" },
    { .name = "bitmap-place",
      .type = TIDEMARK_OPTION_ENUM,
      .choices = place_choices,
      .default_value = "file",
      .help = "where persistent bitmaps are stored: in a local file (see bitmap-store), or beside "
              "the disk, by its driver, where every host that opens the disk finds them" },
    { .name = "bitmap-durability",
      .type = TIDEMARK_OPTION_ENUM,
      .choices = durability_choices,
      .default_value = "power-loss",
      .help = "what persistent bitmaps survive: power-loss, or only process-death" },
    { .name = "bitmap-accept-changed",
      .type = TIDEMARK_OPTION_BOOL,
      .default_value = "off",
      .help = "trust persistent bitmaps even if another program changed the disk" },
    { 0 },
};

typedef struct Value {
    const struct tidemark_option *option; /* borrowed, static */
    char *name;                           /* in full: of an element of a list it has its index */
    bool set, given;
    char *text;      /* STRING, ENUM */
    uint64_t number; /* UINT, SIZE; BOOL: 0 or 1; LIST: how many */
} Value;

typedef struct Child {
    const char *name;   /* borrowed, static */
    json_object *value; /* reference; JSON null is NULL */
    bool given;
} Child;

struct BlkOptions {
    GArray *values;   /* Value */
    GArray *children; /* Child */
};

static void value_clear(void *data)
{
    g_free(((Value *)data)->text);
    g_free(((Value *)data)->name);
}

static void child_clear(void *data)
{
    json_object_put(((Child *)data)->value);
}

static BlkOptions *options_new(void)
{
    BlkOptions *options = g_new0(BlkOptions, 1);

    options->values = g_array_new(FALSE, TRUE, sizeof(Value));
    g_array_set_clear_func(options->values, value_clear);
    options->children = g_array_new(FALSE, TRUE, sizeof(Child));
    g_array_set_clear_func(options->children, child_clear);
    return options;
}

BlkOptions *blk_options_with(const BlkOptions *options, const char *name, bool value)
{
    BlkOptions *copy = options_new();

    for (guint i = 0; i < options->values->len; i++) {
        Value v = g_array_index(options->values, Value, i);

        if (g_str_equal(v.name, name)) {
            v.set = v.given = true;
            v.number = value;
        }
        v.name = g_strdup(v.name);
        v.text = g_strdup(v.text);
        g_array_append_val(copy->values, v);
    }
    for (guint i = 0; i < options->children->len; i++) {
        Child child = g_array_index(options->children, Child, i);

        json_object_get(child.value);
        g_array_append_val(copy->children, child);
    }
    return copy;
}

void blk_options_free(BlkOptions *options)
{
    if (!options)
        return;
    g_array_unref(options->values);
    g_array_unref(options->children);
    g_free(options);
}

/* ---- values */

/* What a parse knows: where the object stands ("file." for a nested one), for the messages. */
typedef struct Context {
    json_object *object;
    const char *prefix;
    const char *list; /* "LIST.0." within an element, else "" */
    GError **error;
} Context;

static bool mistyped(const Context *c, const char *name, const char *expected)
{
    return tm_error_set(c->error, "Invalid parameter type for '%s%s', expected: %s", c->prefix,
                        name, expected);
}

static bool is_choice(const struct tidemark_option *option, const char *text)
{
    return g_strv_contains(option->choices, text);
}

static bool in_range(const struct tidemark_option *option, uint64_t number)
{
    return number >= option->min && (!option->max || number <= option->max);
}

static bool parse_number(const Context *c, Value *v, json_object *json)
{
    const struct tidemark_option *o = v->option;
    uint64_t number = json_object_get_uint64(json);

    if (!json_object_is_type(json, json_type_int))
        return mistyped(c, v->name, "integer");
    if (json_object_get_int64(json) < 0)
        return tm_error_set(c->error, "Parameter '%s%s' expects a non-negative number below 2^64",
                            c->prefix, v->name);
    if (number > INT64_MAX)
        return mistyped(c, v->name, "integer");
    if (!in_range(o, number) && o->max)
        return tm_error_set(c->error,
                            "Parameter '%s%s' expects a value from %" PRIu64 " to %" PRIu64
                            ", not %" PRIu64,
                            c->prefix, v->name, o->min, o->max, number);
    if (!in_range(o, number))
        return tm_error_set(
            c->error, "Parameter '%s%s' expects a value of at least %" PRIu64 ", not %" PRIu64,
            c->prefix, v->name, o->min, number);
    v->number = number;
    return true;
}

static bool parse_text(const Context *c, Value *v, json_object *json)
{
    const struct tidemark_option *o = v->option;
    const char *text = json_object_get_string(json);

    if (!json_object_is_type(json, json_type_string))
        return mistyped(c, v->name, "string");
    if (o->type == TIDEMARK_OPTION_ENUM && !is_choice(o, text))
        return tm_error_set(c->error, "Parameter '%s%s' does not accept value '%s'", c->prefix,
                            v->name, text);
    if (strlen(text) != (size_t)json_object_get_string_len(json))
        return tm_error_set(c->error, "Parameter '%s%s' must not contain a zero byte", c->prefix,
                            v->name);
    v->text = g_strdup(text);
    return true;
}

static bool parse_value(const Context *c, Value *v, json_object *json)
{
    v->set = v->given = true;
    switch (v->option->type) {
    case TIDEMARK_OPTION_BOOL:
        if (!json_object_is_type(json, json_type_boolean))
            return mistyped(c, v->name, "boolean");
        v->number = (uint64_t)json_object_get_boolean(json);
        return true;
    case TIDEMARK_OPTION_UINT:
    case TIDEMARK_OPTION_SIZE:
        return parse_number(c, v, json);
    case TIDEMARK_OPTION_STRING:
    case TIDEMARK_OPTION_ENUM:
        return parse_text(c, v, json);
    case TIDEMARK_OPTION_LIST:
        if (!json_object_is_type(json, json_type_array))
            return mistyped(c, v->name, "array");
        v->number = json_object_array_length(json);
        return true;
    }
    return false;
}

/* Reads a table's own text; false if it isn't of the option's type. */
static bool read_default(const struct tidemark_option *option, const char *text, uint64_t *number)
{
    static const char *const on[] = { "on", "yes", "true", "y", NULL };
    static const char *const off[] = { "off", "no", "false", "n", NULL };

    *number = 0;
    switch (option->type) {
    case TIDEMARK_OPTION_BOOL:
        *number = g_strv_contains(on, text);
        return *number || g_strv_contains(off, text);
    case TIDEMARK_OPTION_UINT:
    case TIDEMARK_OPTION_SIZE:
        return g_ascii_string_to_unsigned(text, 10, 0, INT64_MAX, number, NULL) &&
               in_range(option, *number);
    case TIDEMARK_OPTION_ENUM:
        return is_choice(option, text);
    case TIDEMARK_OPTION_STRING:
        return true;
    case TIDEMARK_OPTION_LIST:
        break;
    }
    return false;
}

bool blk_option_accepts(const struct tidemark_option *option, const char *text)
{
    uint64_t number;

    return read_default(option, text, &number);
}

static void set_default(Value *v)
{
    const char *text = v->option->default_value;

    if (!text)
        return;
    v->set = true;
    read_default(v->option, text, &v->number); /* checked when the driver was registered */
    if (v->option->type == TIDEMARK_OPTION_STRING || v->option->type == TIDEMARK_OPTION_ENUM)
        v->text = g_strdup(text);
}

/* ---- the object */

/* Finds the member @name, "a.b" being member b of object a. *found may be NULL (JSON null) with
 * true in *present. */
static bool find_member(const Context *c, const char *name, bool *present, json_object **found)
{
    g_auto(GStrv) parts = g_strsplit(name, ".", -1);
    g_autoptr(GString) path = g_string_new(NULL);
    json_object *at = c->object;

    *present = false;
    for (size_t i = 0; parts[i]; i++) {
        if (i && !json_object_is_type(at, json_type_object))
            return mistyped(c, path->str, "object");
        if (!json_object_object_get_ex(at, parts[i], &at))
            return true;
        g_string_append_printf(path, "%s%s", i ? "." : "", parts[i]);
    }
    *present = true;
    *found = at;
    return true;
}

static Value *append(GArray *values, const struct tidemark_option *option, char *name)
{
    g_array_append_vals(values, &(Value){ .option = option, .name = name }, 1);
    return &g_array_index(values, Value, values->len - 1);
}

static bool parse_list(const Context *c, const struct tidemark_option *list, json_object *json,
                       GArray *values);
static bool parse_fields(const Context *c, const struct tidemark_option *fields, const char *name,
                         json_object *json, GArray *values);

/* What is there for an option: a value, or an object instead of one. */
static bool parse_given(const Context *c, Value *v, json_object *json, GArray *values)
{
    const struct tidemark_option *o = v->option;

    if (o->type == TIDEMARK_OPTION_ENUM && o->fields &&
        json_object_is_type(json, json_type_object)) {
        v->given = true;
        return parse_fields(c, o->fields, v->name, json, values);
    }
    return parse_value(c, v, json) &&
           (o->type != TIDEMARK_OPTION_LIST || parse_list(c, o, json, values));
}

static bool parse_table(const Context *c, const struct tidemark_option *table, GArray *values)
{
    for (const struct tidemark_option *o = table; o && o->name; o++) {
        Value *v = append(values, o, g_strconcat(c->list, o->name, NULL));
        json_object *json = NULL;
        bool present;

        if (!find_member(c, o->name, &present, &json))
            return false;
        if (!present && o->required)
            return tm_error_set(c->error, "Parameter '%s%s' is missing", c->prefix, v->name);
        if (!present)
            set_default(v);
        else if (!parse_given(c, v, json, values))
            return false;
    }
    return true;
}

static bool parse_children(const Context *c, const struct tidemark_child *kinds, GArray *children)
{
    for (const struct tidemark_child *r = kinds; r && r->name; r++) {
        Child child = { .name = r->name };

        child.given = json_object_object_get_ex(c->object, r->name, &child.value);
        if (!child.given && r->required)
            return tm_error_set(c->error, "Parameter '%s%s' is missing", c->prefix, r->name);
        if (child.given && !(child.value == NULL && !r->required) &&
            !json_object_is_type(child.value, json_type_string) &&
            !json_object_is_type(child.value, json_type_object))
            return mistyped(c, r->name, r->required ? "BlockdevRef" : "BlockdevRefOrNull");
        json_object_get(child.value);
        g_array_append_val(children, child);
    }
    return true;
}

static bool has_field(const struct tidemark_option *table, const char *name)
{
    while (table->name && !g_str_equal(table->name, name))
        table++;
    return table->name != NULL;
}

/* An object called @name, whose members are options that are named after it. */
static bool parse_fields(const Context *c, const struct tidemark_option *fields, const char *name,
                         json_object *json, GArray *values)
{
    g_autofree char *within = g_strconcat(name, ".", NULL);
    Context inside = { json, c->prefix, within, c->error };

    if (!json_object_is_type(json, json_type_object))
        return mistyped(c, name, "object");
    json_object_object_foreach(json, member, value)
    {
        (void)value;
        if (!has_field(fields, member))
            return tm_error_set(c->error, "Parameter '%s%s%s' is unexpected", c->prefix, within,
                                member);
    }
    return parse_table(&inside, fields, values);
}

static bool parse_element(const Context *c, const struct tidemark_option *list, size_t i,
                          json_object *json, GArray *values)
{
    g_autofree char *name = g_strdup_printf("%s.%zu", list->name, i);

    if (!*list->fields->name)
        return parse_value(c, append(values, list->fields, g_steal_pointer(&name)), json);
    return parse_fields(c, list->fields, name, json, values);
}

static bool parse_list(const Context *c, const struct tidemark_option *list, json_object *json,
                       GArray *values)
{
    for (size_t i = 0; i < json_object_array_length(json); i++) {
        if (!parse_element(c, list, i, json_object_array_get_idx(json, i), values))
            return false;
    }
    return true;
}

static bool known(const BlkOptions *options, const char *path, bool *group)
{
    size_t length = strlen(path);

    *group = false;
    for (guint i = 0; i < options->values->len; i++) {
        const char *name = g_array_index(options->values, Value, i).name;

        if (g_str_equal(name, path))
            return true;
        if (g_str_has_prefix(name, path) && name[length] == '.')
            *group = true;
    }
    for (guint i = 0; i < options->children->len; i++)
        if (g_str_equal(g_array_index(options->children, Child, i).name, path))
            return true;
    return *group;
}

/* Members of @object, which stands at @path, that nobody asked for. */
static bool check_unexpected(const Context *c, const BlkOptions *options, json_object *object,
                             const char *path)
{
    json_object_object_foreach(object, name, value)
    {
        g_autofree char *member = g_strconcat(path, name, NULL);
        g_autofree char *inside = g_strconcat(member, ".", NULL);
        bool group;

        if (strchr(name, '.') || !known(options, member, &group))
            return tm_error_set(c->error, "Parameter '%s%s' is unexpected", c->prefix, member);
        if (group && !json_object_is_type(value, json_type_object))
            return mistyped(c, member, "object");
        if (group && !check_unexpected(c, options, value, inside))
            return false;
    }
    return true;
}

/* What single options can't say. */
static bool check_together(const Context *c, const BlkOptions *options)
{
    if (blk_options_uint(options, "force-share") && !blk_options_bool(options, "read-only"))
        return tm_error_set(c->error, "force-share=on can only be used with read-only images");
    if (g_str_equal(blk_options_string(options, "detect-zeroes"), "unmap") &&
        !g_str_equal(blk_options_string(options, "discard"), "unmap"))
        return tm_error_set(c->error, "setting detect-zeroes to unmap is not allowed without "
                                      "setting discard operation to unmap");
    return true;
}

BlkOptions *blk_options_parse_at(const struct tidemark_driver *driver, json_object *object,
                                 const char *prefix, GError **error)
{
    Context c = { object, prefix, "", error };
    g_autoptr(BlkOptions) options = options_new();

    if (!json_object_is_type(object, json_type_object)) {
        tm_error_set(error, "Invalid parameter type for '%s', expected: object",
                     *prefix ? prefix : "options");
        return NULL;
    }
    if (!parse_table(&c, blk_common_options, options->values) ||
        !parse_table(&c, driver->options, options->values) ||
        !parse_children(&c, driver->children, options->children) ||
        !check_unexpected(&c, options, object, "") || !check_together(&c, options))
        return NULL;
    return g_steal_pointer(&options);
}

BlkOptions *blk_options_parse(const struct tidemark_driver *driver, json_object *object,
                              GError **error)
{
    return blk_options_parse_at(driver, object, "", error);
}

/* ---- getters */

static const Value *find_value(const BlkOptions *options, const char *name)
{
    for (guint i = 0; i < options->values->len; i++) {
        const Value *v = &g_array_index(options->values, Value, i);

        if (g_str_equal(v->name, name))
            return v;
    }
    g_assert_not_reached();
}

bool blk_options_is_set(const BlkOptions *options, const char *name)
{
    return find_value(options, name)->set;
}

bool blk_options_is_given(const BlkOptions *options, const char *name)
{
    return find_value(options, name)->given;
}

const char *blk_options_string(const BlkOptions *options, const char *name)
{
    return find_value(options, name)->text;
}

uint64_t blk_options_uint(const BlkOptions *options, const char *name)
{
    return find_value(options, name)->number;
}

bool blk_options_bool(const BlkOptions *options, const char *name)
{
    if (find_value(options, name)->number)
        return true;
    return (g_str_equal(name, "read-only") || g_str_equal(name, "force-share")) &&
           !find_value(options, "active")->number;
}

bool blk_options_child(const BlkOptions *options, const char *name, json_object **value)
{
    for (guint i = 0; i < options->children->len; i++) {
        const Child *child = &g_array_index(options->children, Child, i);

        if (g_str_equal(child->name, name)) {
            *value = child->value;
            return child->given;
        }
    }
    g_assert_not_reached();
}

/* ---- as an object again */

static bool is_index(const char *part)
{
    return g_ascii_isdigit(*part);
}

/* What is at @part of @at, an object or an array: made, if it is not there. */
static json_object *go_in(json_object *at, const char *part, bool array)
{
    bool in_array = json_object_is_type(at, json_type_array);
    size_t index = in_array ? (size_t)g_ascii_strtoull(part, NULL, 10) : 0;
    json_object *there =
        in_array ? json_object_array_get_idx(at, index) : json_object_object_get(at, part);

    if (there)
        return there;
    there = array ? json_object_new_array() : json_object_new_object();
    if (in_array)
        json_object_array_put_idx(at, index, there);
    else
        json_object_object_add(at, part, there);
    return there;
}

/* Puts @value (taken) where the dotted @name says; a part that is a number is an index. */
static void put(json_object *object, const char *name, json_object *value)
{
    g_auto(GStrv) parts = g_strsplit(name, ".", -1);
    json_object *at = object;
    unsigned i = 0;

    for (; parts[i + 1]; i++)
        at = go_in(at, parts[i], is_index(parts[i + 1]));
    if (json_object_is_type(at, json_type_array))
        json_object_array_put_idx(at, (size_t)g_ascii_strtoull(parts[i], NULL, 10), value);
    else
        json_object_object_add(at, parts[i], value);
}

json_object *blk_options_given(const BlkOptions *options)
{
    json_object *object = json_object_new_object();

    for (guint i = 0; i < options->values->len; i++) {
        const Value *v = &g_array_index(options->values, Value, i);
        enum tidemark_option_type type = v->option->type;

        if (!v->given || type == TIDEMARK_OPTION_LIST)
            continue;
        if (v->text)
            put(object, v->name, json_object_new_string(v->text));
        else if (type == TIDEMARK_OPTION_BOOL)
            put(object, v->name, json_object_new_boolean(v->number != 0));
        else if (type == TIDEMARK_OPTION_UINT || type == TIDEMARK_OPTION_SIZE)
            put(object, v->name, json_object_new_uint64(v->number));
    }
    return object;
}
