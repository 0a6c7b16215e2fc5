/* qmp/describe.c: what people read of the tables: the manual page and completion. */
#include "qmp/table.h"
#include <string.h>

/* ---- manual page: man(7) ---- */

/* Text in which roff must not see a request or a hyphenation. */
static void man_text(GString *out, const char *text)
{
    if (*text == '.' || *text == '\'')
        g_string_append(out, "\\&");
    for (; *text; text++) {
        if (*text == '-')
            g_string_append(out, "\\-");
        else if (*text == '\\')
            g_string_append(out, "\\e");
        else
            g_string_append_c(out, *text);
    }
}

static void type_text(const QmpTypes *types, const QmpType *type, GString *out)
{
    const QmpType *t = qmp_types_resolve(types, type);

    switch (t->kind) {
    case QMP_KIND_ENUM:
        for (const char *const *v = t->values; *v; v++)
            g_string_append_printf(out, "%s%s", v == t->values ? "" : " | ", *v);
        break;
    case QMP_KIND_ARRAY:
        g_string_append(out, "array of ");
        type_text(types, t->element, out);
        break;
    case QMP_KIND_ALTERNATE:
        for (const QmpType *const *a = t->alternatives; *a; a++) {
            g_string_append(out, a == t->alternatives ? "" : " or ");
            type_text(types, *a, out);
        }
        break;
    case QMP_KIND_OBJECT:
        g_string_append(out, !strcmp(t->name, "object") ? "object" : t->name);
        break;
    case QMP_KIND_INT:
    case QMP_KIND_UINT:
        g_string_append(out, t->suffixes ? "size" : "integer");
        break;
    default:
        g_string_append(out, t->name);
    }
}

static void man_members(const QmpTypes *types, const QmpType *type, const char *prefix,
                        GString *out);

static void man_member(const QmpTypes *types, const QmpMember *m, const char *prefix, GString *out)
{
    const QmpType *t = qmp_types_resolve(types, m->type);
    g_autofree char *name = g_strconcat(prefix, m->name, NULL);
    GString *text = g_string_new(NULL);

    type_text(types, m->type, text);
    g_string_append(out, ".IP \"\\fB");
    man_text(out, name);
    g_string_append(out, "\\fR (");
    man_text(out, text->str);
    g_string_append_printf(out, "%s)\"\n", m->optional ? ", optional" : "");
    if (m->help) {
        man_text(out, m->help);
        g_string_append_c(out, '\n');
    }
    g_string_free(text, TRUE);
    if (t->kind == QMP_KIND_OBJECT) {
        g_autofree char *deeper = g_strconcat(name, ".", NULL);

        man_members(types, t, deeper, out);
    }
}

static void man_variant(const QmpTypes *types, const QmpType *t, const QmpVariant *v,
                        const char *prefix, GString *out)
{
    const QmpType *members = qmp_types_resolve(types, v->type);

    if (!members->members || !members->members->name)
        return;
    g_string_append(out, ".IP\nWith ");
    man_text(out, t->tag);
    g_string_append_c(out, ' ');
    man_text(out, v->value);
    g_string_append(out, ":\n.RS\n");
    man_members(types, members, prefix, out);
    g_string_append(out, ".RE\n");
}

static void man_members(const QmpTypes *types, const QmpType *type, const char *prefix,
                        GString *out)
{
    const QmpType *t = qmp_types_resolve(types, type);

    for (const QmpMember *m = t->members; m && m->name; m++)
        man_member(types, m, prefix, out);
    for (const QmpVariant *v = t->tag ? t->variants : NULL; v && v->value; v++)
        man_variant(types, t, v, prefix, out);
}

static void man_entry(const QmpTypes *types, const char *name, const char *help, const char *note,
                      const QmpType *members, GString *out)
{
    g_string_append(out, ".TP\n.B ");
    man_text(out, name);
    g_string_append_c(out, '\n');
    man_text(out, help);
    g_string_append_printf(out, "%s\n.RS\n", note);
    man_members(types, members, "", out);
    g_string_append(out, ".RE\n");
}

static const char *command_note(const QmpCommand *c)
{
    if (c->flags & QMP_COMMAND_DEPRECATED)
        return " (deprecated)";
    return c->flags & QMP_COMMAND_UNSTABLE ? " (unstable)" : "";
}

char *qmp_table_man(const QmpTypes *types)
{
    GString *out = g_string_new(NULL);

    for (const QmpFamily *const *f = qmp_families; *f; f++) {
        g_string_append(out, ".SS ");
        man_text(out, (*f)->title);
        g_string_append_c(out, '\n');
        for (const QmpCommand *c = (*f)->commands; c->name; c++)
            man_entry(types, c->name, c->help, command_note(c), c->args, out);
        for (const QmpEvent *e = (*f)->events; e && e->name; e++)
            man_entry(types, e->name, e->help, " (event)", e->data, out);
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
