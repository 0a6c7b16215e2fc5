/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* object/authz.c: who may: one identity, a list of rules, or a file with such a list.
 *
 * The first rule that matches decides, or else the list's policy. A file is read again when it has
 * changed; while it makes no sense nobody is allowed. Source: QEMU qapi/authz.json. */
#include "object/objects_internal.h"

#include "util/error.h"
#include "util/file.h"
#include "util/sync.h"

#include <string.h>
#include <sys/stat.h>

#define FILE_MAX (1u << 20) /* bytes of a list's file */

typedef struct Rule {
    char *match;
    bool glob, allow;
} Rule;

typedef struct List {
    GArray *rules; /* Rule */
    bool allow;    /* otherwise */
} List;

typedef struct Authz {
    TmObject object;
    char *filename;
    bool refresh;
    pthread_mutex_t lock; /* guards the rest; a leaf */
    struct stat seen;     /* of the file, when the list was read */
    List *list;           /* NULL: nobody may */
} Authz;

/* ---- lists */

static void rule_clear(void *rule)
{
    g_free(((Rule *)rule)->match);
}

static void list_free(List *list)
{
    if (!list)
        return;
    g_array_unref(list->rules);
    g_free(list);
}

static List *list_new(void)
{
    List *list = g_new0(List, 1);

    list->rules = g_array_new(FALSE, FALSE, sizeof(Rule));
    g_array_set_clear_func(list->rules, rule_clear);
    return list;
}

static void list_add(List *list, const char *match, bool glob, bool allow)
{
    g_array_append_vals(list->rules, &(Rule){ g_strdup(match), glob, allow }, 1);
}

/* One of two words; @otherwise if it is absent. */
static bool word(json_object *object, const char *name, const char *yes, const char *no, bool *is,
                 GError **error)
{
    const char *value = tm_object_string(object, name);

    if (!value)
        return true;
    *is = g_str_equal(value, yes);
    return *is || g_str_equal(value, no) ||
           tm_error_set(error, "Parameter '%s' does not accept value '%s', only '%s' or '%s'", name,
                        value, yes, no);
}

static bool add_rule(List *list, json_object *rule, GError **error)
{
    bool glob = false, allow = false;
    const char *match;

    if (!json_object_is_type(rule, json_type_object))
        return tm_error_set(error, "Parameter 'rules' expects objects with 'match' and 'policy'");
    match = tm_object_string(rule, "match");
    if (!match || !tm_object_string(rule, "policy"))
        return tm_error_set(error, "Parameter '%s' of a rule is missing",
                            match ? "policy" : "match");
    if (!word(rule, "policy", "allow", "deny", &allow, error) ||
        !word(rule, "format", "glob", "exact", &glob, error))
        return false;
    list_add(list, match, glob, allow);
    return true;
}

static List *list_parse(json_object *props, GError **error)
{
    List *list = list_new();
    json_object *rules = NULL;
    bool ok = word(props, "policy", "allow", "deny", &list->allow, error);

    if (json_object_object_get_ex(props, "rules", &rules) &&
        !json_object_is_type(rules, json_type_array))
        ok = ok && tm_error_set(error, "Parameter 'rules' expects an array");
    for (size_t i = 0; ok && rules && i < json_object_array_length(rules); i++)
        ok = add_rule(list, json_object_array_get_idx(rules, i), error);
    if (!ok)
        g_clear_pointer(&list, list_free);
    return list;
}

/* Of one client. */
static List *list_of_one(json_object *props, GError **error)
{
    List *list = list_new();

    list_add(list, tm_object_string(props, "identity"), false, true);
    return list;
}

static bool list_allows(const List *list, const char *identity)
{
    for (guint i = 0; i < list->rules->len; i++) {
        const Rule *rule = &g_array_index(list->rules, Rule, i);

        if (rule->glob ? g_pattern_match_simple(rule->match, identity)
                       : g_str_equal(rule->match, identity))
            return rule->allow;
    }
    return list->allow;
}

/* ---- files */

static List *list_read(const char *filename, GError **error)
{
    g_autofree char *text = NULL;
    json_object *props;
    List *list = NULL;

    if (!tm_file_read(filename, FILE_MAX, &text, NULL, error))
        return NULL;
    props = json_tokener_parse(text);
    if (json_object_is_type(props, json_type_object))
        list = list_parse(props, error);
    else
        tm_error_set(error, "'%s' is not a JSON object", filename);
    if (!list)
        g_prefix_error(error, "%s: ", filename);
    json_object_put(props);
    return list;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* Under the lock. */
static void refresh(Authz *authz)
{
    struct stat now = { 0 };

    if (stat(authz->filename, &now) == 0 && same_file(&now, &authz->seen))
        return;
    authz->seen = now;
    list_free(authz->list);
    authz->list = list_read(authz->filename, NULL);
}

static bool reload(TmObject *object, GError **error)
{
    Authz *authz = (Authz *)object;
    struct stat now = { 0 };
    List *list;

    stat(authz->filename, &now); /* before it is read: what changes meanwhile is seen later */
    list = list_read(authz->filename, error);
    if (!list)
        return false;
    TM_GUARD(&authz->lock);
    list_free(authz->list);
    authz->list = list;
    authz->seen = now;
    return true;
}

/* ---- objects */

bool tm_authz_allowed(TmObject *object, const char *identity)
{
    Authz *authz = (Authz *)object;
    TM_GUARD(&authz->lock);

    if (authz->filename && authz->refresh)
        refresh(authz);
    return authz->list && list_allows(authz->list, identity ? identity : "");
}

static void clear(TmObject *object)
{
    Authz *authz = (Authz *)object;

    pthread_mutex_destroy(&authz->lock);
    list_free(authz->list);
    g_free(authz->filename);
}

static bool init_list(TmObject *object, TmObjects *objects, json_object *props, GError **error)
{
    Authz *authz = (Authz *)object;

    pthread_mutex_init(&authz->lock, NULL);
    authz->list = list_parse(props, error);
    return authz->list != NULL;
}

static bool init_list_file(TmObject *object, TmObjects *objects, json_object *props, GError **error)
{
    Authz *authz = (Authz *)object;

    pthread_mutex_init(&authz->lock, NULL);
    authz->filename = tm_object_path(props, "filename");
    authz->refresh = tm_object_bool(props, "refresh", true);
    return reload(object, error);
}

static bool init_simple(TmObject *object, TmObjects *objects, json_object *props, GError **error)
{
    Authz *authz = (Authz *)object;

    pthread_mutex_init(&authz->lock, NULL);
    authz->list = list_of_one(props, error);
    return true;
}

/* ---- properties */

static bool set(TmObject *object, List *(*parse)(json_object *props, GError **error),
                const char *name, json_object *value, GError **error)
{
    Authz *authz = (Authz *)object;
    json_object *given = tm_object_given_with(object, name, value);
    List *list = parse(given, error);

    if (!list) {
        json_object_put(given);
        return false;
    }
    tm_object_set_given(object, given);
    TM_GUARD(&authz->lock);
    list_free(authz->list);
    authz->list = list;
    return true;
}

static bool set_of_list(TmObject *object, const char *name, json_object *value, GError **error)
{
    return set(object, list_parse, name, value, error);
}

static bool set_identity(TmObject *object, const char *name, json_object *value, GError **error)
{
    return set(object, list_of_one, name, value, error);
}

static const TmProperty list_properties[] = {
    { "policy", "QAuthZListPolicy", .set = set_of_list, .otherwise = "\"deny\"" },
    { "rules", "QAuthZListRule", .set = set_of_list, .otherwise = "[]" },
    { NULL },
};
static const TmProperty list_file_properties[] = {
    { "filename", "string", .otherwise = "\"\"" },
    { "refresh", "bool", .otherwise = "true" },
    { NULL },
};
static const TmProperty simple_properties[] = {
    { "identity", "string", .set = set_identity, .otherwise = "\"\"" },
    { NULL },
};

const TmObjectClass tm_authz_list_class = { "authz-list",   TM_OBJECT_AUTHZ, sizeof(Authz),
                                            init_list,      clear,           NULL,
                                            list_properties };
const TmObjectClass tm_authz_list_file_class = {
    "authz-list-file",   TM_OBJECT_AUTHZ, sizeof(Authz), init_list_file, clear, reload,
    list_file_properties
};
const TmObjectClass tm_authz_simple_class = { "authz-simple",   TM_OBJECT_AUTHZ, sizeof(Authz),
                                              init_simple,      clear,           NULL,
                                              simple_properties };
