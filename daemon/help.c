/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/help.c: what --blockdev help and its like print, from the tables of QMP. */
#include "daemon/daemon.h"

#include "qmp/schema/table.h"

#include <stdio.h>
#include <string.h>

static const struct {
    CmdKind kind;
    const QmpType *type;
    const char *title; /* of the list of types; QEMU's, where it has one */
} helps[] = {
    { CMD_BLOCKDEV, &qmp_type_blockdev_options, "Supported block drivers:" },
    { CMD_CHARDEV, &chardev_type, "Available chardev types:" },
    { CMD_EXPORT, &qmp_type_export_options, "Supported export types:" },
    { CMD_METRICS, &qmp_type_metrics_option, NULL },
    { CMD_MONITOR, &qmp_type_monitor, NULL },
    { CMD_NBD_SERVER, &qmp_type_nbd_server_option, NULL },
    { CMD_OBJECT, &qmp_type_object_options, "List of user creatable objects:" },
};

static char *type_name(const QmpTypes *types, const QmpType *type)
{
    const QmpType *t = qmp_types_resolve(types, type);

    switch (t->kind) {
    case QMP_KIND_BOOL:
        return g_strdup("bool");
    case QMP_KIND_STR:
        return g_strdup("str");
    case QMP_KIND_INT:
    case QMP_KIND_UINT:
        return g_strdup(t->suffixes ? "size" : "int");
    case QMP_KIND_ENUM:
        return g_strjoinv("|", (char **)t->values);
    case QMP_KIND_ARRAY:
        return g_strdup("list");
    default:
        return g_strdup(t->name);
    }
}

static void print_members(const QmpTypes *types, const QmpType *type)
{
    for (const QmpMember *m = type->members; m && m->name; m++) {
        g_autofree char *name = type_name(types, m->type);

        if (type->tag && g_str_equal(m->name, type->tag))
            continue;
        printf("  %s=<%s>%s%s%s\n", m->name, name, m->help ? " - " : "", m->help ? m->help : "",
               m->optional ? "" : " (required)");
    }
}

static const QmpType *variant_of(const QmpTypes *types, const QmpType *type, const char *value)
{
    for (const QmpVariant *v = type->variants; v && v->value; v++) {
        if (g_str_equal(v->value, value))
            return qmp_types_resolve(types, v->type);
    }
    return NULL;
}

static void print_types(const QmpTypes *types, const QmpType *type, const char *title)
{
    for (const QmpMember *m = type->members; m->name; m++) {
        if (!g_str_equal(m->name, type->tag))
            continue;
        puts(title);
        for (const char *const *v = qmp_types_resolve(types, m->type)->values; *v; v++)
            printf("  %s\n", *v);
    }
}

/* The type of which "TYPE,...,help" asks, after "driver=" and its like; returned. NULL: of none. */
static char *asked_type(const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);
    const char *equals = parts[1] ? strchr(parts[0], '=') : NULL;

    return parts[1] ? g_strdup(equals ? equals + 1 : parts[0]) : NULL;
}

static bool knows(const QmpTypes *types, const QmpType *type, const char *value)
{
    for (const QmpMember *m = type->members; m->name; m++) {
        if (g_str_equal(m->name, type->tag))
            return g_strv_contains(qmp_types_resolve(types, m->type)->values, value);
    }
    return false;
}

/* false: of a type that does not exist; who carries the option out says so. */
static bool print_help(const QmpTypes *types, size_t which, const char *text)
{
    const QmpType *type = qmp_types_resolve(types, helps[which].type), *variant;
    g_autofree char *asked = asked_type(text);

    if (type->tag && !asked) {
        print_types(types, type, helps[which].title);
        return true;
    }
    if (type->tag && !knows(types, type, asked))
        return false;
    variant = type->tag ? variant_of(types, type, asked) : NULL;
    if (asked && type->tag)
        printf("%s options:\n", asked);
    print_members(types, type);
    if (variant)
        print_members(types, variant);
    return true;
}

static bool asks(const char *text)
{
    const char *last = text ? strrchr(text, ',') : NULL;

    last = last ? last + 1 : text;
    return text && (g_str_equal(last, "help") || g_str_equal(last, "?"));
}

bool daemon_help(Daemon *d, const GArray *options)
{
    bool asked = false;

    for (guint i = 0; i < options->len; i++) {
        const CmdOption *option = &g_array_index(options, CmdOption, i);

        for (size_t k = 0; k < G_N_ELEMENTS(helps) && asks(option->value); k++) {
            if (helps[k].kind != option->kind)
                continue;
            asked = print_help(qmp_context_types(d->qmp), k, option->value) || asked;
        }
        if (option->kind == CMD_TRACE && asks(option->value)) {
            puts("This daemon has no trace events.");
            asked = true;
        }
    }
    return asked;
}
