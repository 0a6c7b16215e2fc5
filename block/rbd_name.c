/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/rbd_name.c: see the header.
 *
 * Source: QEMU docs/system/qemu-block-drivers.rst.inc, and what QEMU 7.2 does with such names. */
#include "block/rbd_name.h"

#include "util/json.h"

#include <glib.h>
#include <string.h>

static const struct {
    const char *name, *option;
} options_known[] = { { "conf", "conf" }, { "id", "user" } };

bool blk_is_rbd_name(const char *name)
{
    return g_str_has_prefix(name, BLK_RBD_PREFIX);
}

/* What is before the first of the characters @ends, where *@at is then, without backslashes.
 * Returned. */
static char *part(const char **at, const char *ends)
{
    GString *text = g_string_new(NULL);

    for (; **at && !strchr(ends, **at); (*at)++) {
        if (**at == '\\' && (*at)[1])
            (*at)++;
        g_string_append_c(text, **at);
    }
    return g_string_free(text, FALSE);
}

/* The part that begins after *@at, as the member @key. false: it is empty. */
static bool add_part(json_object *object, const char *key, const char **at, const char *ends)
{
    g_autofree char *text = NULL;

    (*at)++;
    text = part(at, ends);
    tm_json_add_string(object, key, text);
    return *text;
}

/* *@at is at the colon. */
static bool add_option(json_object *object, const char *name, const char **at, GError **error)
{
    g_autofree char *key = NULL;

    (*at)++;
    key = part(at, "=:");
    for (size_t i = 0; i < G_N_ELEMENTS(options_known); i++)
        if (!strcmp(key, options_known[i].name))
            return (**at == '=' && add_part(object, options_known[i].option, at, ":")) ||
                   tm_error_set(error, "'%s': its option '%s' has no value", name, key);
    return tm_error_set(error, "'%s': its option '%s' is none of conf, id", name, key);
}

static bool add_place(json_object *object, const char **at)
{
    const char *image = *at;
    g_autofree char *space = NULL;
    bool ok = add_part(object, "pool", at, "/") && **at == '/';

    if (!ok)
        return false;
    image = *at + 1;
    space = part(&image, "/@:");
    if (*image == '/' && !add_part(object, "namespace", at, "/"))
        return false;
    return add_part(object, "image", at, "@:") &&
           (**at != '@' || add_part(object, "snapshot", at, ":"));
}

json_object *blk_rbd_definition(const char *name, bool options, GError **error)
{
    const char *at = name + strlen(BLK_RBD_PREFIX) - 1;
    json_object *object = json_object_new_object();
    bool ok;

    tm_json_add_string(object, "driver", "rbd");
    ok = add_place(object, &at);
    if (!ok || (*at && !options))
        ok = tm_error_set(error, "'%s' is not rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT]%s", name,
                          options ? "[:conf=FILE][:id=USER]" : "");
    while (ok && *at)
        ok = add_option(object, name, &at, error);
    if (!ok)
        json_object_put(object);
    return ok ? object : NULL;
}
