/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/report/redact.c: see the header. */
#include "client/report/redact.h"

#include <string.h>

#define SECRET_MIN 4u /* bytes; a shorter one is taken out at its place alone */

struct TcRedactor {
    GRegex *uri, *password;
    GPtrArray *secrets; /* strings, the longest first */
};

/* What has a user, and perhaps a password, before its host: an authority up to its last @. A
 * password may have a slash, against the rules; a port is none. */
#define URI "([a-z][a-z0-9+.-]*://)(?:[^/\\s\"']*|[^/\\s\"'@]*:(?!\\d+/)[^\\s\"'@]*)@"
/* KEY=VALUE and "KEY": "VALUE" that is still there, where the key ends in one of these. In VALUE a
 * comma is doubled. */
#define PASSWORD                                                                                   \
    "((?:\\bdata|pass|password|passphrase|passwd|secret|token|credentials?|private[-_]?key)"       \
    "\\\\?[\"']?\\s*[:=]\\s*)(?!\\\\?[\"']?\\(removed\\))"                                         \
    "(\\\\\"(?:[^\"\\\\]|\\\\[^\"])*\\\\\"|\"(?:[^\"\\\\]|\\\\.)*\"|'[^']*'"                       \
    "|(?:[^,\\s&\"'}{\\[\\\\]|,,)(?:[^,\\s&\"'}]|,,)*)"

static gint longest_first(gconstpointer a, gconstpointer b)
{
    size_t x = strlen(*(char *const *)a), y = strlen(*(char *const *)b);

    return x < y ? 1 : x > y ? -1 : 0;
}

TcRedactor *tc_redactor_new(void)
{
    TcRedactor *r = g_new0(TcRedactor, 1);

    r->uri = g_regex_new(URI, G_REGEX_CASELESS | G_REGEX_OPTIMIZE, 0, NULL);
    r->password = g_regex_new(PASSWORD, G_REGEX_CASELESS | G_REGEX_OPTIMIZE, 0, NULL);
    g_assert(r->uri && r->password);
    r->secrets = g_ptr_array_new_with_free_func(g_free);
    return r;
}

void tc_redactor_free(TcRedactor *r)
{
    if (!r)
        return;
    g_regex_unref(r->uri);
    g_regex_unref(r->password);
    g_ptr_array_unref(r->secrets);
    g_free(r);
}

/* ---- text */

/* What can't be searched has to go as a whole. */
static char *without(const GRegex *what, const char *instead, char *text)
{
    char *left = g_regex_replace(what, text, -1, 0, instead, 0, NULL);

    g_free(text);
    return left ? left : g_strdup(TC_REDACTED);
}

char *tc_redact_text(const TcRedactor *r, const char *text)
{
    char *left = g_utf8_make_valid(text, -1);

    for (guint i = 0; i < r->secrets->len; i++) {
        g_auto(GStrv) parts = g_strsplit(left, r->secrets->pdata[i], -1);

        g_free(left);
        left = g_strjoinv(TC_REDACTED, parts);
    }
    left = without(r->uri, "\\1" TC_REDACTED "@", left);
    return without(r->password, "\\1" TC_REDACTED, left);
}

/* ---- JSON */

/* Names of members whose value is a secret, if it is no object or array. */
static bool names_secret(const char *key)
{
    static const char *const names[] = { "data",   "pass",  "password",   "passphrase", "passwd",
                                         "secret", "token", "credential", "private-key" };

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        if (!g_ascii_strcasecmp(key, names[i]))
            return true;
    }
    return false;
}

static bool is_whole(json_object *value)
{
    return json_object_is_type(value, json_type_object) ||
           json_object_is_type(value, json_type_array);
}

json_object *tc_redact_json(const TcRedactor *r, json_object *value)
{
    json_object *copy;

    if (json_object_is_type(value, json_type_string)) {
        g_autofree char *text = tc_redact_text(r, json_object_get_string(value));

        return json_object_new_string(text);
    }
    if (json_object_is_type(value, json_type_array)) {
        copy = json_object_new_array();
        for (size_t i = 0; i < json_object_array_length(value); i++)
            json_object_array_add(copy, tc_redact_json(r, json_object_array_get_idx(value, i)));
        return copy;
    }
    if (!json_object_is_type(value, json_type_object))
        return json_object_get(value);
    copy = json_object_new_object();
    json_object_object_foreach(value, key, member)
    {
        g_autofree char *name = tc_redact_text(r, key);

        json_object_object_add(copy, name,
                               names_secret(key) && !is_whole(member)
                                   ? json_object_new_string(TC_REDACTED)
                                   : tc_redact_json(r, member));
    }
    return copy;
}

/* ---- the command line */

/* Options of objects that show no secret. */
static bool is_harmless(const char *key)
{
    static const char *const keys[] = { "qom-type", "id",          "file",     "format",
                                        "keyid",    "dir",         "endpoint", "verify-peer",
                                        "priority", "passwordid",  "identity", "policy",
                                        "filename", "refresh",     "rules",    "limits",
                                        "poll-max", "sanity-check" };

    for (unsigned i = 0; i < G_N_ELEMENTS(keys); i++) {
        size_t length = strlen(keys[i]);

        if (!strncmp(key, keys[i], length) && strchr(".=", key[length]))
            return true; /* "rules.0.match", or all of it */
    }
    return false;
}

static void learn(TcRedactor *r, const char *secret)
{
    if (!secret || strlen(secret) < SECRET_MIN)
        return;
    g_ptr_array_add(r->secrets, g_utf8_make_valid(secret, -1));
    g_ptr_array_sort(r->secrets, longest_first);
}

static char *object_of_json(TcRedactor *r, const char *text)
{
    g_autoptr(json_object) value = json_tokener_parse(text), kept = NULL;

    if (!json_object_is_type(value, json_type_object))
        return g_strdup(TC_REDACTED);
    kept = json_object_new_object();
    json_object_object_foreach(value, key, member)
    {
        bool harmless = is_harmless(key);

        if (!harmless && json_object_is_type(member, json_type_string))
            learn(r, json_object_get_string(member));
        json_object_object_add(
            kept, key, harmless ? tc_redact_json(r, member) : json_object_new_string(TC_REDACTED));
    }
    return g_strdup(json_object_to_json_string_ext(kept, JSON_C_TO_STRING_PLAIN));
}

/* The end of "KEY=VALUE" at @at: a comma that is not doubled, or the end. */
static const char *end_of_pair(const char *at)
{
    while (*at && !(at[0] == ',' && at[1] != ','))
        at += at[0] == ',' ? 2 : 1;
    return at;
}

static char *pair_without(TcRedactor *r, const char *pair, bool first)
{
    const char *equals = strchr(pair, '=');
    g_auto(GStrv) parts = NULL;
    g_autofree char *value = NULL;

    if (!equals && !first)
        return g_strdup(TC_REDACTED);
    if (!equals || is_harmless(pair)) /* the type comes first, without its key */
        return tc_redact_text(r, pair);
    parts = g_strsplit(equals + 1, ",,", -1);
    value = g_strjoinv(",", parts); /* as the daemon has it */
    learn(r, value);
    learn(r, equals + 1);
    return g_strdup_printf("%.*s=" TC_REDACTED, (int)(equals - pair), pair);
}

/* The value of --object. */
static char *object_without(TcRedactor *r, const char *text)
{
    g_autoptr(GString) kept = g_string_new(NULL);

    if (*text == '{')
        return object_of_json(r, text);
    for (const char *at = text, *end; *at; at = *end ? end + 1 : end) {
        g_autofree char *pair = NULL, *left = NULL;

        end = end_of_pair(at);
        pair = g_strndup(at, (size_t)(end - at));
        left = pair_without(r, pair, at == text);
        g_string_append_printf(kept, "%s%s", kept->len ? "," : "", left);
    }
    return g_string_free(g_steal_pointer(&kept), FALSE);
}

/* Where the value of --object begins in @arg; an empty string: it is the next one; NULL: it is
 * another option. It may be abbreviated, and have one dash. */
static const char *object_value(const char *arg)
{
    const char *name = arg + strspn(arg, "-");
    size_t length = strcspn(name, "=");

    if (name == arg || !length || length > strlen("object") || strncmp(name, "object", length))
        return NULL;
    return name[length] ? name + length + 1 : "";
}

json_object *tc_redact_arguments(TcRedactor *r, const char *const *argv)
{
    g_autoptr(json_object) found = json_object_new_array();
    bool is_object = false;

    for (; *argv; argv++) {
        const char *value = is_object ? *argv : object_value(*argv);
        g_autofree char *left = value && *value ? object_without(r, value) : NULL;
        g_autofree char *whole =
            left ? g_strdup_printf("%.*s%s", (int)(value - *argv), *argv, left) : NULL;

        is_object = value && !*value;
        json_object_array_add(found, json_object_new_string(whole ? whole : *argv));
    }
    return tc_redact_json(r, found); /* of the others, with all that was learned */
}
