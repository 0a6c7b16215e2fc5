/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/schema/describe.c: what people read of the tables: help, reference, manual page and
 * completion.
 *
 * All of it goes over the members of a type in the same walk, which gives a line for each: names
 * are as in "tidemark qmp", dots step into objects, N stands for a number in an array, and what
 * only one value of another member brings says so. */
#include "qmp/json/json.h"
#include "qmp/schema/table.h"
#include <string.h>

typedef struct Line {
    const char *name, *type, *help; /* help may be NULL */
    const char *when;               /* "driver=raw", or NULL: always */
    bool optional;
} Line;

typedef struct Walk {
    const QmpTypes *types;
    GPtrArray *open; /* types within which it is: they can be in themselves */
    GString *out;
    void (*put)(GString *out, const Line *line);
} Walk;

static void type_text(const QmpType *t, GString *out)
{
    switch (t->kind) {
    case QMP_KIND_LATE:
        g_string_append(out, "definition as of blockdev-add");
        break;
    case QMP_KIND_ENUM:
        for (const char *const *v = t->values; *v; v++)
            g_string_append_printf(out, "%s%s", v == t->values ? "" : " | ", *v);
        break;
    case QMP_KIND_ARRAY:
        g_string_append(out, "array of ");
        type_text(t->element, out);
        break;
    case QMP_KIND_ALTERNATE:
        for (const QmpType *const *a = t->alternatives; *a; a++) {
            g_string_append(out, a == t->alternatives ? "" : " or ");
            type_text(*a, out);
        }
        break;
    case QMP_KIND_OBJECT:
        g_string_append(out, "object");
        break;
    case QMP_KIND_INT:
        if (!t->suffixes && t->min > INT64_MIN)
            g_string_append_printf(out, "%" G_GINT64_FORMAT " to %" G_GINT64_FORMAT, t->min,
                                   t->max);
        else
            g_string_append(out, t->suffixes ? "size" : "integer");
        break;
    case QMP_KIND_UINT:
        g_string_append(out, t->suffixes ? "size" : "integer");
        break;
    default:
        g_string_append(out, t->name);
    }
}

static void walk_members(Walk *w, const QmpType *t, const char *prefix, const char *when);

/* What a member called @name has in it. Definitions of nodes are blockdev-add's to describe. */
static void walk_into(Walk *w, const QmpType *t, const char *name, const char *when)
{
    g_autofree char *deeper = g_strconcat(name, t->kind == QMP_KIND_ARRAY ? ".N" : ".", NULL);

    if (t->kind == QMP_KIND_OBJECT)
        walk_members(w, t, deeper, when);
    else if (t->kind == QMP_KIND_ARRAY)
        walk_into(w, t->element, deeper, when);
    else if (t->kind == QMP_KIND_ALTERNATE)
        for (const QmpType *const *a = t->alternatives; *a; a++)
            walk_into(w, *a, name, when);
}

/* Whether two variants bring the same members. Drivers share their options' texts, while the types
 * of choices and sizes are made for each. */
static bool alike(const QmpType *a, const QmpType *b)
{
    const QmpMember *m = a->members, *n = b->members;

    for (; m->name && n->name; m++, n++)
        if (strcmp(m->name, n->name) || g_strcmp0(m->help, n->help) ||
            (m->type != n->type &&
             (m->type->kind != n->type->kind || m->type->kind >= QMP_KIND_ARRAY)))
            return false;
    return !m->name && !n->name && !a->tag && !b->tag;
}

/* The values of variants that are like @v, unless one before it is: then NULL. Returned. */
static char *variant_values(const Walk *w, const QmpType *t, const QmpVariant *v)
{
    const QmpType *type = qmp_types_resolve(w->types, v->type);
    GString *values;

    for (const QmpVariant *before = t->variants; before < v; before++)
        if (alike(qmp_types_resolve(w->types, before->type), type))
            return NULL;
    values = g_string_new(v->value);
    for (const QmpVariant *more = v + 1; more->value; more++)
        if (alike(qmp_types_resolve(w->types, more->type), type))
            g_string_append_printf(values, " | %s", more->value);
    return g_string_free(values, FALSE);
}

static void walk_variants(Walk *w, const QmpType *t, const char *prefix, const char *when)
{
    for (const QmpVariant *v = t->tag ? t->variants : NULL; v && v->value; v++) {
        g_autofree char *values = variant_values(w, t, v);
        g_autofree char *tag = g_strdup_printf("%s%s%s%s=%s", when ? when : "", when ? ", " : "",
                                               prefix, t->tag, values);

        if (values)
            walk_members(w, qmp_types_resolve(w->types, v->type), prefix, tag);
    }
}

static void walk_members(Walk *w, const QmpType *t, const char *prefix, const char *when)
{
    if (g_ptr_array_find(w->open, t, NULL))
        return;
    g_ptr_array_add(w->open, (void *)t);
    for (const QmpMember *m = t->members; m && m->name; m++) {
        g_autofree char *name = g_strconcat(prefix, m->name, NULL);
        GString *type = g_string_new(NULL);

        type_text(m->type, type);
        w->put(w->out, &(Line){ name, type->str, m->help, when, m->optional });
        g_string_free(type, TRUE);
        walk_into(w, m->type, name, when);
    }
    walk_variants(w, t, prefix, when);
    g_ptr_array_set_size(w->open, (int)w->open->len - 1);
}

/* The members of @type, or of an array's elements, below @title; nothing if there are none. */
static void walk(const QmpTypes *types, const QmpType *type, const char *title, GString *out,
                 void (*put)(GString *out, const Line *line))
{
    const QmpType *t = qmp_types_resolve(types, type);
    g_autoptr(GPtrArray) open = g_ptr_array_new();
    Walk w = { types, open, out, put };

    while (t->kind == QMP_KIND_ARRAY)
        t = t->element;
    if (t->kind != QMP_KIND_OBJECT || !t->members->name)
        return;
    g_string_append(out, title);
    walk_members(&w, t, "", NULL);
}

static const char *command_note(const QmpCommand *c)
{
    if (c->flags & QMP_COMMAND_DEPRECATED)
        return " (deprecated)";
    return c->flags & QMP_COMMAND_UNSTABLE ? " (unstable)" : "";
}

static const char *returns(const QmpCommand *c)
{
    return c->result->kind == QMP_KIND_ARRAY ? "an array, of each" : "";
}

/* The example's arguments: a reference, or NULL. */
static json_object *example_arguments(const QmpCommand *c)
{
    g_autofree char *json = g_strdup(c->example);
    json_object *arguments = NULL;

    if (json)
        qmp_json_parse(g_strdelimit(json, "'", '"'), &arguments, NULL);
    return arguments;
}

/* ---- text ---- */

static void text_line(GString *out, const Line *line)
{
    g_string_append_printf(out, "  %s (%s%s%s%s)\n", line->name, line->type,
                           line->optional ? ", optional" : "", line->when ? "; with " : "",
                           line->when ? line->when : "");
    if (line->help)
        g_string_append_printf(out, "      %s\n", line->help);
}

/* As a shell's words for "tidemark qmp". */
static void text_example(const QmpCommand *c, GString *out)
{
    json_object *arguments = example_arguments(c);

    g_string_append_printf(out, "\nExample:\n  tidemark qmp %s", c->name);
    if (arguments) {
        json_object_object_foreach(arguments, key, value)
        {
            bool nested = json_object_is_type(value, json_type_object) ||
                          json_object_is_type(value, json_type_array);
            const char *text =
                nested ? json_object_to_json_string_ext(value, JSON_C_TO_STRING_NOSLASHESCAPE)
                       : json_object_get_string(value);

            g_string_append_printf(out, nested ? " '%s:=%s'" : " %s=%s", key, text);
        }
    }
    g_string_append_c(out, '\n');
    json_object_put(arguments);
}

char *qmp_table_help(const QmpTypes *types, const char *command)
{
    const QmpCommand *c = qmp_table_command(command);
    g_autofree char *title = NULL;
    GString *out;

    if (!c)
        return NULL;
    out = g_string_new(NULL);
    title = g_strdup_printf("\nReturns%s%s:\n", *returns(c) ? " " : "", returns(c));
    g_string_append_printf(out, "%s: %s%s\n", c->name, c->help, command_note(c));
    walk(types, c->args, "\nArguments:\n", out, text_line);
    walk(types, c->result, title, out, text_line);
    if (c->errors)
        g_string_append(out, "\nErrors:\n");
    for (const char *const *e = c->errors; e && *e; e++)
        g_string_append_printf(out, "  %s\n", *e);
    text_example(c, out);
    return g_string_free(out, FALSE);
}

char *qmp_table_list(void)
{
    GString *out = g_string_new(NULL);

    for (const QmpFamily *const *f = qmp_families; *f; f++) {
        g_string_append_printf(out, "\n%s:\n", (*f)->title);
        for (const QmpCommand *c = (*f)->commands; c->name; c++)
            g_string_append_printf(out, "  %-33s  %s%s\n", c->name, c->help, command_note(c));
    }
    return g_string_free(out, FALSE);
}

/* ---- Markdown ---- */

/* A phrase of a table as a sentence. */
static void sentence(const char *phrase, const char *note, GString *out)
{
    g_string_append_printf(out, "%c%s%s.\n", g_ascii_toupper(*phrase), phrase + 1, note);
}

static void cell(GString *out, const char *text)
{
    for (; text && *text; text++)
        g_string_append_printf(out, *text == '|' || *text == '*' ? "\\%c" : "%c", *text);
}

static void markdown_line(GString *out, const Line *line)
{
    g_string_append_printf(out, "| `%s` | ", line->name);
    cell(out, line->type);
    g_string_append(out, line->optional ? ", optional | " : " | ");
    cell(out, line->help);
    if (line->when) {
        g_string_append(out, line->help ? " (with " : "with ");
        cell(out, line->when);
        g_string_append(out, line->help ? ")" : "");
    }
    g_string_append(out, " |\n");
}

static void markdown_command(const QmpTypes *types, const QmpCommand *c, GString *out)
{
    json_object *arguments = example_arguments(c), *request = json_object_new_object();
    g_autofree char *title =
        g_strdup_printf("\nReturns%s%s:\n\n| member | type | |\n|---|---|---|\n",
                        *returns(c) ? " " : "", returns(c));

    g_string_append_printf(out, "\n### %s\n\n", c->name);
    sentence(c->help, command_note(c), out);
    walk(types, c->args, "\n| argument | type | |\n|---|---|---|\n", out, markdown_line);
    walk(types, c->result, title, out, markdown_line);
    if (c->errors)
        g_string_append(out, "\nErrors:\n\n");
    for (const char *const *e = c->errors; e && *e; e++)
        g_string_append_printf(out, "- `%s`\n", *e);
    json_object_object_add(request, "execute", json_object_new_string(c->name));
    if (arguments)
        json_object_object_add(request, "arguments", arguments);
    g_string_append_printf(out, "\n```\n%s\n```\n",
                           json_object_to_json_string_ext(
                               request, JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(request);
}

char *qmp_table_markdown(const QmpTypes *types)
{
    GString *out = g_string_new(NULL);

    for (const QmpFamily *const *f = qmp_families; *f; f++) {
        g_string_append_printf(out, "\n## %s\n", (*f)->title);
        for (const QmpCommand *c = (*f)->commands; c->name; c++)
            markdown_command(types, c, out);
        for (const QmpEvent *e = (*f)->events; e && e->name; e++) {
            g_string_append_printf(out, "\n### %s (event)\n\n", e->name);
            sentence(e->help, "", out);
            walk(types, e->data, "\n| member | type | |\n|---|---|---|\n", out, markdown_line);
        }
    }
    return g_string_free(out, FALSE);
}

/* ---- mdoc(7) ---- */

/* Text in which roff must not see a request or a macro. */
static void man_text(GString *out, const char *text)
{
    if (*text == '.' || *text == '\'')
        g_string_append(out, "\\&");
    for (; *text; text++)
        g_string_append_printf(out, *text == '\\' ? "\\e" : "%c", *text);
}

static void man_entry(const char *name, const char *help, const char *note, GString *out)
{
    g_string_append_printf(out, ".It Cm %s\n", name);
    man_text(out, help);
    g_string_append_printf(out, "%s\n", note);
}

char *qmp_table_man(void)
{
    GString *out = g_string_new(NULL);

    for (const QmpFamily *const *f = qmp_families; *f; f++) {
        g_string_append_printf(out, ".Pp\n%s:\n.Bl -tag -width Ds -compact\n", (*f)->title);
        for (const QmpCommand *c = (*f)->commands; c->name; c++)
            man_entry(c->name, c->help, command_note(c), out);
        for (const QmpEvent *e = (*f)->events; e && e->name; e++)
            man_entry(e->name, e->help, " (event)", out);
        g_string_append(out, ".El\n");
    }
    return g_string_free(out, FALSE);
}

/* ---- completion ---- */

static void complete_members(const QmpTypes *types, const QmpType *type, const char *prefix,
                             GHashTable *seen, GPtrArray *out)
{
    const QmpType *t = qmp_types_resolve(types, type);

    for (const QmpMember *m = t->members; m && m->name; m++) {
        const QmpType *member = qmp_types_resolve(types, m->type);
        bool object = member->kind == QMP_KIND_OBJECT;
        char *name = g_strconcat(prefix, m->name, object ? "." : "=", NULL);

        if (object)
            complete_members(types, member, name, seen, out);
        if (object || g_hash_table_contains(seen, name)) {
            g_free(name);
        } else {
            g_hash_table_add(seen, name);
            g_ptr_array_add(out, name);
        }
    }
    for (const QmpVariant *v = t->tag ? t->variants : NULL; v && v->value; v++)
        complete_members(types, v->type, prefix, seen, out);
}

static void complete_commands(GPtrArray *out)
{
    for (const QmpFamily *const *f = qmp_families; *f; f++)
        for (const QmpCommand *c = (*f)->commands; c->name; c++)
            g_ptr_array_add(out, g_strdup(c->name));
}

char **qmp_table_completion(const QmpTypes *types, const char *command)
{
    GPtrArray *out = g_ptr_array_new();
    const QmpCommand *c = command ? qmp_table_command(command) : NULL;

    if (command && !c) {
        g_ptr_array_free(out, TRUE);
        return NULL;
    }
    if (c) {
        g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);

        complete_members(types, c->args, "", seen, out);
    } else {
        complete_commands(out);
    }
    g_ptr_array_add(out, NULL);
    return (char **)g_ptr_array_free(out, FALSE);
}

char **qmp_table_events(void)
{
    GPtrArray *out = g_ptr_array_new();

    for (const QmpFamily *const *f = qmp_families; *f; f++)
        for (const QmpEvent *e = (*f)->events; e && e->name; e++)
            g_ptr_array_add(out, g_strdup(e->name));
    g_ptr_array_add(out, NULL);
    return (char **)g_ptr_array_free(out, FALSE);
}
