/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/schema/blockdev_type.c: BlockdevOptions, assembled from the block layer's registry of
 * drivers.
 *
 * A union over "driver": the options that every driver has, then the driver's own and its children.
 * A dotted option ("cache.direct") is a member of an object of its first part. All that is made
 * here lives in one pool and refers into the drivers' static tables. */
#include "block/options.h"
#include "qmp/schema/table.h"
#include <string.h>

struct QmpTypes {
    GPtrArray *pool; /* everything allocated */
    const QmpType *blockdev_options;
};

static void *pool_add(QmpTypes *types, void *memory)
{
    g_ptr_array_add(types->pool, memory);
    return memory;
}

static QmpType *new_type(QmpTypes *types, QmpKind kind, const char *name)
{
    QmpType *t = pool_add(types, g_new0(QmpType, 1));

    t->kind = kind;
    t->name = name;
    return t;
}

/* Ends the list with a NULL name and moves it to the pool. */
static const QmpMember *finish_members(QmpTypes *types, GArray *members)
{
    return pool_add(types, g_array_free(members, FALSE));
}

static GArray *begin_members(void)
{
    return g_array_new(TRUE, TRUE, sizeof(QmpMember));
}

static const QmpType *list_type(QmpTypes *types, const struct tidemark_option *list);
static const QmpType *enum_type(QmpTypes *types, const struct tidemark_option *o);

static const QmpType *option_type(QmpTypes *types, const struct tidemark_option *o)
{
    QmpType *t;

    switch (o->type) {
    case TIDEMARK_OPTION_BOOL:
        return &qmp_type_bool;
    case TIDEMARK_OPTION_UINT:
        return &qmp_type_int;
    case TIDEMARK_OPTION_SIZE:
        t = new_type(types, QMP_KIND_INT, "integer");
        t->min = INT64_MIN;
        t->max = INT64_MAX;
        t->suffixes = true;
        return t;
    case TIDEMARK_OPTION_ENUM:
        return enum_type(types, o);
    case TIDEMARK_OPTION_LIST:
        return list_type(types, o);
    default:
        return &qmp_type_str;
    }
}

static void add_options(QmpTypes *types, const struct tidemark_option *options, const char *prefix,
                        GArray *members);

/* The object that gathers the options whose names begin with @prefix, "cache." for example. */
static const QmpType *group_type(QmpTypes *types, const struct tidemark_option *options,
                                 const char *prefix)
{
    GArray *members = begin_members();
    QmpType *t = new_type(types, QMP_KIND_OBJECT, "object");

    add_options(types, options, prefix, members);
    t->members = finish_members(types, members);
    return t;
}

/* A choice, or an object instead. */
static const QmpType *enum_type(QmpTypes *types, const struct tidemark_option *o)
{
    QmpType *choice = new_type(types, QMP_KIND_ENUM, "enum"), *t;
    const QmpType **both;

    choice->values = o->choices;
    if (!o->fields)
        return choice;
    t = new_type(types, QMP_KIND_ALTERNATE, "string or object");
    t->alternatives = both = pool_add(types, g_new0(const QmpType *, 3));
    both[0] = choice;
    both[1] = group_type(types, o->fields, "");
    return t;
}

/* Of objects with those fields, or of values. */
static const QmpType *list_type(QmpTypes *types, const struct tidemark_option *list)
{
    QmpType *t = new_type(types, QMP_KIND_ARRAY, "array");

    t->element = *list->fields->name ? group_type(types, list->fields, "")
                                     : option_type(types, list->fields);
    return t;
}

/* A group that is a type of its own with its "type" for a tag. NULL: it is none. */
static const QmpType *known_group(const struct tidemark_option *options, const char *name)
{
    static const struct {
        const char *group, *tag;
        const QmpType *type;
    } known[] = { { "server", "server.type", &qmp_type_peer_address } };

    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        if (g_str_equal(known[i].group, name) && g_str_equal(options->name, known[i].tag))
            return known[i].type;
    }
    return NULL;
}

static bool has_member(const GArray *members, const char *name)
{
    for (guint i = 0; i < members->len; i++)
        if (!strcmp(g_array_index(members, QmpMember, i).name, name))
            return true;
    return false;
}

static void add_group(QmpTypes *types, const struct tidemark_option *options,
                      const struct tidemark_option *o, size_t prefix_length, size_t name_length,
                      GArray *members)
{
    QmpMember m = { .optional = !o->required, .help = "options of this group" };
    g_autofree char *deeper = g_strndup(o->name, prefix_length + name_length + 1);

    m.name = pool_add(types, g_strndup(o->name + prefix_length, name_length));
    if (has_member(members, m.name))
        return;
    m.type = known_group(o, m.name);
    if (!m.type)
        m.type = group_type(types, options, deeper);
    g_array_append_val(members, m);
}

static void add_options(QmpTypes *types, const struct tidemark_option *options, const char *prefix,
                        GArray *members)
{
    size_t skip = strlen(prefix);

    for (const struct tidemark_option *o = options; o && o->name; o++) {
        const char *dot;

        if (strncmp(o->name, prefix, skip))
            continue;
        dot = strchr(o->name + skip, '.');
        if (dot) {
            add_group(types, options, o, skip, (size_t)(dot - o->name) - skip, members);
        } else {
            QmpMember m = { o->name + skip, option_type(types, o), !o->required, o->help };

            g_array_append_val(members, m);
        }
    }
}

static const QmpType *driver_type(QmpTypes *types, const struct tidemark_driver *driver)
{
    QmpType *t = new_type(types, QMP_KIND_OBJECT, driver->name);
    GArray *members = begin_members();

    for (const struct tidemark_child *c = driver->children; c && c->name; c++) {
        QmpMember m = {
            c->name, c->required ? &qmp_type_blockdev_ref : &qmp_type_blockdev_ref_null,
            !c->required,
            "the child of this name: the name of a node, or the definition of a new one"
        };

        g_array_append_val(members, m);
    }
    add_options(types, driver->options, "", members);
    t->members = finish_members(types, members);
    return t;
}

/* The type of "driver": the names of all drivers. */
static const QmpType *driver_enum(QmpTypes *types, const struct tidemark_driver *const *drivers)
{
    QmpType *t = new_type(types, QMP_KIND_ENUM, "BlockdevDriver");
    GPtrArray *names = g_ptr_array_new();

    for (; *drivers; drivers++)
        g_ptr_array_add(names, (void *)(*drivers)->name);
    g_ptr_array_add(names, NULL);
    t->values = pool_add(types, g_ptr_array_free(names, FALSE));
    return t;
}

static const QmpVariant *driver_variants(QmpTypes *types,
                                         const struct tidemark_driver *const *drivers)
{
    GArray *variants = g_array_new(TRUE, TRUE, sizeof(QmpVariant));

    for (; *drivers; drivers++) {
        QmpVariant v = { (*drivers)->name, driver_type(types, *drivers) };

        g_array_append_val(variants, v);
    }
    return pool_add(types, g_array_free(variants, FALSE));
}

static const QmpMember *common_members(QmpTypes *types, const QmpType *driver)
{
    GArray *members = begin_members();

    add_options(types, blk_common_options, "", members);
    for (guint i = 0; i < members->len; i++) {
        QmpMember *m = &g_array_index(members, QmpMember, i);

        if (!strcmp(m->name, "driver"))
            m->type = driver;
    }
    return finish_members(types, members);
}

QmpTypes *qmp_types_new(BlkRegistry *registry)
{
    QmpTypes *types = g_new0(QmpTypes, 1);
    g_autofree const struct tidemark_driver **drivers = blk_registry_list(registry);
    QmpType *t;

    types->pool = g_ptr_array_new_with_free_func(g_free);
    t = new_type(types, QMP_KIND_OBJECT, qmp_type_blockdev_options.name);
    t->members = common_members(types, driver_enum(types, drivers));
    t->tag = "driver";
    t->variants = driver_variants(types, drivers);
    types->blockdev_options = t;
    return types;
}

void qmp_types_free(QmpTypes *types)
{
    if (!types)
        return;
    g_ptr_array_unref(types->pool);
    g_free(types);
}

const QmpType *qmp_types_resolve(const QmpTypes *types, const QmpType *type)
{
    return type->kind == QMP_KIND_LATE ? types->blockdev_options : type;
}
