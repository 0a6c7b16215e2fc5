/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/args.c: see the header. */
#include "qmp/context.h"
#include "qmp/qmp_internal.h"
#include "util/error.h"
#include "util/identity.h"

#include <string.h>

BlkBitmapName *qmp_arg_bitmaps(json_object *args, const char *name, size_t *n)
{
    return qmp_bitmap_names(qmp_arg(args, name), n);
}

BlkBitmapName *qmp_bitmap_names(json_object *array, size_t *n)
{
    BlkBitmapName *names;

    *n = array ? json_object_array_length(array) : 0;
    names = g_new0(BlkBitmapName, *n);
    for (size_t i = 0; i < *n; i++) {
        json_object *e = json_object_array_get_idx(array, i);

        if (json_object_is_type(e, json_type_string))
            names[i].name = json_object_get_string(e);
        else
            names[i] = (BlkBitmapName){ qmp_arg_str(e, "node"), qmp_arg_str(e, "name") };
    }
    return names;
}

const char **qmp_arg_strings(json_object *args, const char *name, size_t *n)
{
    json_object *array = qmp_arg(args, name);
    const char **strings;

    *n = array ? json_object_array_length(array) : 0;
    strings = array ? g_new0(const char *, *n + 1) : NULL;
    for (size_t i = 0; i < *n; i++)
        strings[i] = json_object_get_string(json_object_array_get_idx(array, i));
    return strings;
}

/* ---- pages */

typedef struct Named {
    const char *name;
    void *item;
} Named;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const Named *)a)->name, ((const Named *)b)->name);
}

uint32_t qmp_arg_limit(json_object *args)
{
    return (uint32_t)qmp_arg_uint(args, "limit", UINT32_MAX);
}

static GPtrArray *whole(const GPtrArray *items, bool newest_first)
{
    GPtrArray *list = g_ptr_array_sized_new(items->len);

    for (guint i = 0; i < items->len; i++)
        g_ptr_array_add(list, items->pdata[newest_first ? items->len - 1 - i : i]);
    return list;
}

GPtrArray *qmp_arg_page(json_object *args, const GPtrArray *items, bool newest_first,
                        const char *(*name)(const void *item))
{
    const char *after = qmp_arg_str(args, "after");
    uint32_t limit = qmp_arg_limit(args);
    g_autoptr(GArray) named = NULL;
    GPtrArray *page;

    if (!after && limit == UINT32_MAX)
        return whole(items, newest_first);
    named = g_array_new(FALSE, FALSE, sizeof(Named));
    page = g_ptr_array_new();
    for (guint i = 0; i < items->len; i++) {
        Named one = { name(items->pdata[i]), items->pdata[i] };

        if (!after || strcmp(one.name, after) > 0)
            g_array_append_val(named, one);
    }
    g_array_sort(named, by_name);
    for (guint i = 0; i < named->len && i < limit; i++)
        g_ptr_array_add(page, g_array_index(named, Named, i).item);
    return page;
}

/* ---- addresses */

static TmAddressType address_type(const char *type)
{
    static const struct {
        const char *name;
        TmAddressType type;
    } table[] = {
        { "unix", TM_ADDRESS_UNIX },
        { "inet", TM_ADDRESS_INET },
        { "vsock", TM_ADDRESS_VSOCK },
        { "fd", TM_ADDRESS_FD },
    };
    size_t i = 0;

    while (!g_str_equal(table[i].name, type)) /* one of them: it has been checked */
        i++;
    return table[i].type;
}

static bool parse_mode(const char *text, mode_t *mode, GError **error)
{
    guint64 number;

    if (!g_ascii_string_to_unsigned(text, 8, 1, 0777, &number, NULL))
        return tm_error_set(error, "Parameter 'mode' is '%s', expected 0001 to 0777 (octal)", text);
    *mode = (mode_t)number;
    return true;
}

/* What is not given is as the daemon has it: with --user, that user's. */
static bool take_rights(QmpContext *ctx, json_object *data, TmSocketRights *rights, GError **error)
{
    const char *mode = qmp_arg_str(data, "mode"), *owner = qmp_arg_str(data, "owner"),
               *group = qmp_arg_str(data, "group");
    gid_t unused;

    *rights = qmp_context_socket_rights(ctx);
    if ((mode && !parse_mode(mode, &rights->mode, error)) ||
        (owner && !tm_user_find(owner, &rights->owner, &unused, error)) ||
        (group && !tm_group_find(group, &rights->group, error)))
        return false;
    rights->has_owner |= owner != NULL;
    rights->has_group |= group != NULL;
    return true;
}

bool qmp_arg_address(QmpContext *ctx, json_object *addr, TmAddress *address, GError **error)
{
    json_object *data = qmp_arg(addr, "data") ? qmp_arg(addr, "data") : addr;

    *address = (TmAddress){
        .type = address_type(qmp_arg_str(addr, "type")),
        .path = qmp_arg_str(data, "path"),
        .abstract = qmp_arg_bool(data, "abstract", false),
        .padded = !qmp_arg_bool(data, "tight", true),
        .host = qmp_arg_str(data, "host"),
        .port = qmp_arg_str(data, "port"),
        .has_ipv4 = qmp_arg(data, "ipv4") != NULL,
        .ipv4 = qmp_arg_bool(data, "ipv4", false),
        .has_ipv6 = qmp_arg(data, "ipv6") != NULL,
        .ipv6 = qmp_arg_bool(data, "ipv6", false),
        .numeric = qmp_arg_bool(data, "numeric", false),
        .has_to = qmp_arg(data, "to") != NULL,
        .to = (uint16_t)qmp_arg_uint(data, "to", 0),
        .no_keepalive = !qmp_arg_bool(data, "keep-alive", true),
        .cid = qmp_arg_str(data, "cid"),
        .fd = qmp_arg_str(data, "str"),
    };
    if (address->abstract &&
        (qmp_arg(data, "mode") || qmp_arg(data, "owner") || qmp_arg(data, "group")))
        return tm_error_set(error, "An abstract address has no 'mode', 'owner' and 'group'");
    return take_rights(ctx, data, &address->rights, error);
}
