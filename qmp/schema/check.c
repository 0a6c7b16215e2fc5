/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/schema/check.c: is a JSON value of a type of the tables?
 *
 * One walk over type and value together, for JSON and for the command line, where scalars are
 * strings to be converted. Members are visited in the order of the table and left-over ones
 * complained of at the end, so that of several mistakes the same one is reported as by QEMU. Of the
 * messages some name the whole path of the argument and some its last part: which does what is
 * QEMU's. */
#include "qmp/schema/table.h"
#include "util/error.h"
#include "util/text.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Of one value: each costs a check of the rest of it. */
#define PROBLEMS_MAX 16

/* Where the walk is: a chain on the stack, from the leaf up. */
typedef struct Place {
    const struct Place *up;
    const char *name; /* NULL: the element at index */
    size_t index;
    json_object *in; /* the container */
} Place;

/* What is wrong, or missing. A path can't be followed: names in it may have dots and brackets. */
typedef struct Wrong {
    char *path;      /* "a.b[0]"; "": all of it */
    json_object *in; /* the container, borrowed; NULL: all of it */
    char *name;      /* of the member; NULL: it is an element */
} Wrong;

typedef struct Walk {
    const QmpTypes *types;
    bool keyval;
    Wrong *wrong; /* or NULL: nobody wants to know */
    GError **error;
} Walk;

static void append_path(const Walk *w, const Place *p, GString *out)
{
    if (!p)
        return;
    append_path(w, p->up, out);
    if (p->name)
        g_string_append_printf(out, "%s%s", out->len ? "." : "", p->name);
    else
        g_string_append_printf(out, w->keyval ? ".%zu" : "[%zu]", p->index);
}

static char *path(const Walk *w, const Place *p)
{
    GString *out = g_string_new(NULL);

    append_path(w, p, out);
    return g_string_free(out, FALSE);
}

/* The value there is wrong, or missing; who calls it says how. */
static void blame(const Walk *w, const Place *p)
{
    if (!w->wrong)
        return;
    w->wrong->path = path(w, p);
    w->wrong->in = p ? p->in : NULL;
    w->wrong->name = p ? g_strdup(p->name) : NULL;
}

static const char *leaf(const Place *p)
{
    return p && p->name ? p->name : "null";
}

static bool wrong_type(const Walk *w, const Place *p, const char *expected)
{
    g_autofree char *name = path(w, p);

    blame(w, p);
    return tm_error_set(w->error, "Invalid parameter type for '%s', expected: %s",
                        *name ? name : "<anonymous>", expected);
}

static bool expects(const Walk *w, const Place *p, const char *expected)
{
    g_autofree char *name = path(w, p);

    blame(w, p);
    return tm_error_set(w->error, "Parameter '%s' expects %s", name, expected);
}

/* The command line's scalar as text; false if it is a container instead. */
static bool keyval_text(const Walk *w, const Place *p, json_object *value, const char **text)
{
    if (!json_object_is_type(value, json_type_string)) {
        g_autofree char *name = path(w, p);

        blame(w, p);
        return tm_error_set(w->error, "Parameters '%s.*' are unexpected", name);
    }
    *text = json_object_get_string(value);
    return true;
}

/* ---- scalars: *out is the converted value, if the command line's needs one ---- */

static bool check_bool(const Walk *w, const Place *p, json_object *value, json_object **out)
{
    static const char *const yes[] = { "on", "yes", "true", "y", NULL };
    static const char *const no[] = { "off", "no", "false", "n", NULL };
    const char *text;

    if (!w->keyval)
        return json_object_is_type(value, json_type_boolean) || wrong_type(w, p, "boolean");
    if (!keyval_text(w, p, value, &text))
        return false;
    if (!g_strv_contains(yes, text) && !g_strv_contains(no, text))
        return expects(w, p, "'on' or 'off'");
    *out = json_object_new_boolean(g_strv_contains(yes, text));
    return true;
}

static bool check_str(const Walk *w, const Place *p, json_object *value)
{
    const char *text;

    if (w->keyval)
        return keyval_text(w, p, value, &text);
    if (!json_object_is_type(value, json_type_string))
        return wrong_type(w, p, "string");
    /* Strings go on as C strings: a name must not mean another one by ending early. */
    if (strlen(json_object_get_string(value)) != (size_t)json_object_get_string_len(value))
        return expects(w, p, "a string without NUL characters");
    return true;
}

/* Digits, in base 10, 8 or 16, and a binary suffix: "4096", "0x1000", "4k". */
static bool text_to_number(const char *text, bool suffixes, bool *negative, uint64_t *magnitude)
{
    static const char letters[] = "bkmgtpe";
    char *end;
    const char *at;

    while (g_ascii_isspace(*text))
        text++;
    *negative = *text == '-';
    if (*text == '-' || *text == '+')
        text++;
    if (!g_ascii_isdigit(*text))
        return false;
    errno = 0;
    *magnitude = strtoull(text, &end, 0);
    if (errno)
        return false;
    if (*end && suffixes && (at = strchr(letters, g_ascii_tolower(*end))) && *at) {
        unsigned shift = 10 * (unsigned)(at - letters);

        if (*magnitude > UINT64_MAX >> shift)
            return false;
        *magnitude <<= shift;
        end++;
    }
    return !*end;
}

static bool json_to_number(json_object *value, bool *negative, uint64_t *magnitude)
{
    if (!json_object_is_type(value, json_type_int))
        return false;
    *negative = json_object_get_int64(value) < 0;
    *magnitude =
        *negative ? -(uint64_t)json_object_get_int64(value) : json_object_get_uint64(value);
    return true;
}

/* One step beyond int64_t's range on the negative side still fits. */
static bool int_in_range(const QmpType *t, bool negative, uint64_t magnitude)
{
    int64_t n = (int64_t)(negative ? -magnitude : magnitude);

    if (magnitude > (uint64_t)INT64_MAX + negative)
        return false;
    return n >= t->min && n <= t->max;
}

static bool check_number(const Walk *w, const Place *p, const QmpType *t, json_object *value,
                         json_object **out)
{
    bool is_uint = t->kind == QMP_KIND_UINT, negative, number;
    uint64_t magnitude = 0;
    const char *text;

    if (w->keyval) {
        if (!keyval_text(w, p, value, &text))
            return false;
        number = text_to_number(text, t->suffixes, &negative, &magnitude);
        if (!number)
            return expects(
                w, p, t->suffixes ? "a size value representable as a 64-bit integer" : "integer");
    } else {
        number = json_to_number(value, &negative, &magnitude);
        if (!number && is_uint)
            return expects(w, p, "uint64");
    }
    if (!number || (!is_uint && magnitude > (uint64_t)INT64_MAX + negative))
        return wrong_type(w, p, "integer");
    if (is_uint ? (negative && magnitude) || magnitude > t->umax
                : !int_in_range(t, negative, magnitude)) {
        blame(w, p);
        return tm_error_set(w->error, "Parameter '%s' expects %s", leaf(p), t->name);
    }
    if (w->keyval)
        *out = is_uint ? json_object_new_uint64(magnitude)
                       : json_object_new_int64((int64_t)(negative ? -magnitude : magnitude));
    return true;
}

/* What to say of a value before those that there are; returned. */
static char *guess(const char *word, const char *const *words)
{
    const char *near = tm_text_nearest(word, words);

    return near ? g_strdup_printf("did you mean '%s'? Expected", near) : g_strdup("expected");
}

static bool check_enum(const Walk *w, const Place *p, const QmpType *t, json_object *value)
{
    g_autofree char *known = NULL, *meant = NULL;

    if (!check_str(w, p, value))
        return false;
    if (g_strv_contains(t->values, json_object_get_string(value)))
        return true;
    blame(w, p);
    known = g_strjoinv(", ", (char **)t->values);
    meant = guess(json_object_get_string(value), t->values);
    return tm_error_set(w->error, "Parameter '%s' does not accept value '%s': %s %s%s", leaf(p),
                        json_object_get_string(value), meant, t->values[1] ? "one of " : "", known);
}

/* ---- containers ---- */

static bool check(const Walk *w, const Place *p, const QmpType *type, json_object *value,
                  json_object **out);

static bool check_array(const Walk *w, const Place *p, const QmpType *t, json_object *value)
{
    size_t n;

    if (!json_object_is_type(value, json_type_array))
        return wrong_type(w, p, "array");
    n = json_object_array_length(value);
    for (size_t i = 0; i < n; i++) {
        Place here = { p, NULL, i, value };
        json_object *new = NULL;

        if (!check(w, &here, t->element, json_object_array_get_idx(value, i), &new))
            return false;
        if (new)
            json_object_array_put_idx(value, i, new);
    }
    return true;
}

static const QmpType *variant_type(const QmpType *t, json_object *value)
{
    const char *tag = json_object_get_string(json_object_object_get(value, t->tag));

    for (const QmpVariant *v = t->variants; v && v->value; v++)
        if (!strcmp(v->value, tag))
            return v->type;
    return NULL;
}

/* The members that @t lists, and its variant's; *known counts those present. */
static bool check_members(const Walk *w, const Place *p, const QmpType *t, json_object *value,
                          GHashTable *known)
{
    const QmpType *variant;

    for (const QmpMember *m = t->members; m && m->name; m++) {
        Place here = { p, m->name, 0, value };
        json_object *member, *new = NULL;

        if (!json_object_object_get_ex(value, m->name, &member)) {
            g_autofree char *name = NULL;

            if (m->optional)
                continue;
            name = path(w, &here);
            blame(w, &here);
            return tm_error_set(w->error, "Parameter '%s' is missing", name);
        }
        g_hash_table_add(known, (void *)m->name);
        if (!check(w, &here, m->type, member, &new))
            return false;
        if (new)
            json_object_object_add(value, m->name, new);
    }
    variant = t->tag ? variant_type(t, value) : NULL;
    return !variant || check_members(w, p, qmp_types_resolve(w->types, variant), value, known);
}

/* Of @t, and of the variant that @value selects. */
static void append_names(const Walk *w, const QmpType *t, json_object *value, GPtrArray *names)
{
    const QmpType *variant = t->tag ? variant_type(t, value) : NULL;

    for (const QmpMember *m = t->members; m && m->name; m++)
        g_ptr_array_add(names, (void *)m->name);
    if (variant)
        append_names(w, qmp_types_resolve(w->types, variant), value, names);
}

static bool unexpected(const Walk *w, const Place *p, const QmpType *t, json_object *value)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    g_autofree char *name = path(w, p);
    const char *near;

    append_names(w, t, value, names);
    g_ptr_array_add(names, NULL);
    near = tm_text_nearest(p->name, (const char *const *)names->pdata);
    blame(w, p);
    return near ? tm_error_set(w->error, "Parameter '%s' is unexpected: did you mean '%s'?", name,
                               near)
                : tm_error_set(w->error, "Parameter '%s' is unexpected", name);
}

static bool check_object(const Walk *w, const Place *p, const QmpType *t, json_object *value)
{
    g_autoptr(GHashTable) known = NULL;

    if (!json_object_is_type(value, json_type_object))
        return wrong_type(w, p, "object");
    known = g_hash_table_new(g_str_hash, g_str_equal);
    if (!check_members(w, p, t, value, known))
        return false;
    json_object_object_foreach(value, key, member)
    {
        Place here = { p, key, 0, value };

        (void)member;
        if (!g_hash_table_contains(known, key))
            return unexpected(w, &here, t, value);
    }
    return true;
}

/* Whether the JSON type of a value is that of @t. */
static bool may_be(const QmpType *t, json_object *value)
{
    switch (json_object_get_type(value)) {
    case json_type_null:
        return t->kind == QMP_KIND_NULL;
    case json_type_boolean:
        return t->kind == QMP_KIND_BOOL;
    case json_type_int:
        return t->kind == QMP_KIND_INT || t->kind == QMP_KIND_UINT;
    case json_type_string:
        return t->kind == QMP_KIND_STR || t->kind == QMP_KIND_ENUM;
    case json_type_array:
        return t->kind == QMP_KIND_ARRAY;
    case json_type_object:
        return t->kind == QMP_KIND_OBJECT;
    default:
        return false;
    }
}

static bool check_alternate(const Walk *w, const Place *p, const QmpType *t, json_object *value,
                            json_object **out)
{
    for (const QmpType *const *a = t->alternatives; *a; a++) {
        const QmpType *type = qmp_types_resolve(w->types, *a);

        if (may_be(type, value))
            return check(w, p, type, value, out);
    }
    blame(w, p);
    return tm_error_set(w->error, "Invalid parameter type for '%s', expected: %s", leaf(p),
                        t->name);
}

static bool check(const Walk *w, const Place *p, const QmpType *type, json_object *value,
                  json_object **out)
{
    const QmpType *t = qmp_types_resolve(w->types, type);

    switch (t->kind) {
    case QMP_KIND_NULL:
        return !value || wrong_type(w, p, "null");
    case QMP_KIND_BOOL:
        return check_bool(w, p, value, out);
    case QMP_KIND_STR:
        return check_str(w, p, value);
    case QMP_KIND_INT:
    case QMP_KIND_UINT:
        return check_number(w, p, t, value, out);
    case QMP_KIND_ENUM:
        return check_enum(w, p, t, value);
    case QMP_KIND_ARRAY:
        return check_array(w, p, t, value);
    case QMP_KIND_OBJECT:
        return check_object(w, p, t, value);
    case QMP_KIND_ALTERNATE:
        return check_alternate(w, p, t, value, out);
    default:
        return true;
    }
}

bool qmp_check(const QmpTypes *types, const QmpType *type, json_object *value, GError **error)
{
    Walk w = { types, false, NULL, error };
    json_object *unused = NULL;

    return check(&w, NULL, type, value, &unused);
}

bool qmp_check_keyval(const QmpTypes *types, const QmpType *type, json_object *value,
                      GError **error)
{
    Walk w = { types, true, NULL, error };
    json_object *unused = NULL;

    /* The command line's values are objects, which are changed in place. */
    g_return_val_if_fail(json_object_is_type(value, json_type_object), false);
    return check(&w, NULL, type, value, &unused);
}

/* ---- all that is wrong */

static void wrong_clear(Wrong *wrong)
{
    g_free(wrong->path);
    g_free(wrong->name);
}

/* Takes it out of its object. false: that can't be, or makes places wrong: it is missing, or an
 * element, whose successors would get other places. */
static bool take_out(const Wrong *wrong)
{
    if (!wrong->name || !json_object_object_get_ex(wrong->in, wrong->name, NULL))
        return false;
    json_object_object_del(wrong->in, wrong->name);
    return true;
}

/* One problem of @value, of which *before was taken out, and now *before is. false: the last. */
static bool check_next(const QmpTypes *types, const QmpType *type, json_object *value,
                       Wrong *before, QmpProblemFn fn, void *opaque)
{
    g_autoptr(GError) error = NULL;
    Wrong wrong = { NULL };
    Walk w = { types, false, &wrong, &error };
    json_object *unused = NULL;
    bool again, ok = check(&w, NULL, type, value, &unused);

    again = !ok && wrong.name && wrong.in == before->in && !g_strcmp0(wrong.name, before->name);
    if (!ok && !again) /* else it is missing now */
        fn(opaque, wrong.path, error->message);
    wrong_clear(before);
    *before = wrong;
    return !ok && !again && take_out(before);
}

void qmp_check_all(const QmpTypes *types, const QmpType *type, json_object *value, QmpProblemFn fn,
                   void *opaque)
{
    json_object *copy = NULL;
    Wrong before = { NULL };

    if (!value || json_object_deep_copy(value, &copy, NULL) < 0)
        copy = json_object_get(value);
    for (unsigned i = 0; i < PROBLEMS_MAX; i++) {
        if (!check_next(types, type, copy, &before, fn, opaque))
            break;
    }
    wrong_clear(&before);
    json_object_put(copy);
}
