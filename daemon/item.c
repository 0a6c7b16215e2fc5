/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/item.c: see the header. What can't be changed while the daemon runs without harm to
 * clients or bitmaps is left to a restart. */
#include "daemon/item.h"

#include "util/error.h"
#include "util/json.h"

#include <string.h>

Item *item_new(Daemon *d, const CmdOption *option)
{
    const char *id =
        option->args && option->kind != CMD_BITMAP ? option_id(option, option->args) : NULL;
    Item *item;

    if (!option->args)
        return NULL;
    item = g_new0(Item, 1);
    item->kind = option->kind;
    item->what = option->name;
    item->args = json_object_get(option->args);
    item->id = id ? g_strdup(id)
                  : g_strdup_printf("%s/%s", qmp_arg_str(option->args, "node"),
                                    qmp_arg_str(option->args, "name"));
    return item;
}

Item *item_copy(const Item *item)
{
    Item *copy = g_new(Item, 1);

    *copy = *item;
    copy->id = g_strdup(item->id);
    json_object_get(copy->args);
    return copy;
}

void item_free(Item *item)
{
    if (!item)
        return;
    g_free(item->id);
    json_object_put(item->args);
    g_free(item);
}

/* ---- what there is */

static bool export_exists(Daemon *d, const char *id)
{
    g_autoptr(BlkExport) export_ = blk_exports_find_id(d->exports, id);

    return export_ && !blk_export_shutting_down(export_);
}

/* The element of an array of objects whose @member is @id; or NULL. Borrowed. */
static json_object *find_element(json_object *array, const char *member, const char *id)
{
    for (size_t i = 0; array && i < json_object_array_length(array); i++) {
        json_object *element = json_object_array_get_idx(array, i);
        const char *name = qmp_arg_str(element, member);

        if (name && g_str_equal(name, id))
            return element;
    }
    return NULL;
}

static bool bitmap_exists(Daemon *d, json_object *args)
{
    g_autoptr(BmpBitmap) bitmap =
        blk_graph_find_bitmap(d->graph, qmp_arg_str(args, "node"), qmp_arg_str(args, "name"), NULL);

    return bitmap != NULL;
}

bool item_exists(Daemon *d, const Item *item)
{
    const BlkServer *server = blk_exports_server(d->exports);

    switch (item->kind) {
    case CMD_OBJECT:
        return tm_objects_find(blk_exports_objects(d->exports), item->id);
    case CMD_BLOCKDEV:
        return blk_graph_find(d->graph, item->id, NULL);
    case CMD_NBD_SERVER:
        return server->running(server->opaque, item->id);
    case CMD_METRICS:
        return d->metrics != NULL;
    case CMD_EXPORT:
        return export_exists(d, item->id);
    case CMD_CHARDEV:
        return qmp_chardevs_find(qmp_context_chardevs(d->qmp), item->id);
    case CMD_MONITOR:
        return find_element(d->monitors_given, "chardev", item->id);
    default:
        return bitmap_exists(d, item->args);
    }
}

static bool another(GError **error)
{
    return tm_error_set(error, "there is another one, made over QMP or by the command line");
}

static bool bitmap_matches(Daemon *d, const Item *item, GError **error)
{
    g_autofree char *difference = bitmap_difference(d, item->args);

    return !difference || tm_error_set(error, "it stays as it is: %s", difference);
}

bool item_matches(Daemon *d, const Item *item, GError **error)
{
    static const char *const members[] = { "id", "node-name", "chardev" };
    json_object *all = NULL, *found = NULL;
    bool matches;

    if (item->kind == CMD_BITMAP)
        return bitmap_matches(d, item, error);
    if (item->kind == CMD_METRICS)
        return json_object_equal(d->metrics_given, item->args) || another(error);
    if (!qmp_dispatch(d->qmp, "query-configuration", NULL, &all, error))
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(members) && !found; i++)
        found = find_element(qmp_arg(all, config_section(item->kind)), members[i], item->id);
    matches = found && json_object_equal(found, item->args);
    json_object_put(all);
    return matches || another(error);
}

/* ---- commands */

/* Takes @args. */
static bool run(Daemon *d, const char *command, json_object *args, GError **error)
{
    bool ok = qmp_dispatch(d->qmp, command, args, NULL, error);

    json_object_put(args);
    return ok;
}

static json_object *with_id(const Item *item, const char *member)
{
    json_object *args = json_object_new_object();

    tm_json_add_string(args, member, item->id);
    return args;
}

bool item_add(Daemon *d, const Item *item, GError **error)
{
    json_object *args =
        item->kind == CMD_CHARDEV ? chardev_without_wait(item->args) : json_object_get(item->args);
    bool ok = option_run_arguments(d, item->kind, args, error);

    json_object_put(args);
    return ok;
}

/* ---- removing */

static bool remove_export(Daemon *d, const Item *item, bool *later, GError **error)
{
    json_object *args = with_id(item, "id");
    g_autoptr(BlkExport) export_ = blk_exports_find_id(d->exports, item->id);

    *later = export_ && blk_export_sessions(export_);
    tm_json_add_string(args, "mode", "wait");
    return run(d, "block-export-del", args, error);
}

/* Its end would cut off clients, or take exports with it. */
static bool check_server_unused(Daemon *d, const Item *item, GError **error)
{
    json_object *servers = NULL, *server;
    unsigned clients = 0;
    bool needed = false;

    if (!qmp_dispatch(d->qmp, "query-nbd-servers", NULL, &servers, error))
        return false;
    server = find_element(servers, "id", item->id);
    if (server)
        clients = (unsigned)qmp_arg_uint(server, "connections", 0);
    needed = server && json_object_array_length(servers) == 1 &&
             json_object_array_length(qmp_arg(server, "exports"));
    json_object_put(servers);
    if (clients)
        return tm_error_set(error, "it has %u %s: use nbd-server-stop, or restart", clients,
                            clients == 1 ? "client" : "clients");
    return !needed || tm_error_set(error, "it is the only one that shows exports: use "
                                          "nbd-server-stop, or restart");
}

bool item_remove(Daemon *d, const Item *item, bool *later, GError **error)
{
    *later = false;
    switch (item->kind) {
    case CMD_OBJECT:
        return run(d, "object-del", with_id(item, "id"), error);
    case CMD_BLOCKDEV:
        return run(d, "blockdev-del", with_id(item, "node-name"), error);
    case CMD_NBD_SERVER:
        return check_server_unused(d, item, error) &&
               run(d, "nbd-server-stop", with_id(item, "id"), error);
    case CMD_METRICS:
        return run(d, "metrics-server-stop", json_object_new_object(), error);
    case CMD_EXPORT:
        return remove_export(d, item, later, error);
    case CMD_BITMAP:
        return tm_error_set(error, "it stays: use block-dirty-bitmap-remove");
    case CMD_CHARDEV:
        if (!qmp_chardev_used(qmp_chardevs_find(qmp_context_chardevs(d->qmp), item->id)))
            return run(d, "chardev-remove", with_id(item, "id"), error);
        return tm_error_set(error, "restart needed: it has a monitor");
    default:
        return tm_error_set(error, "restart needed");
    }
}

/* ---- changing */

/* The members in which they differ, with @prefix; and, in objects that both have, theirs, if
 * @deep. */
static void differences(GPtrArray *names, const char *prefix, json_object *a, json_object *b,
                        bool deep)
{
    json_object *other;

    json_object_object_foreach(a, name, value)
    {
        g_autofree char *path = g_strconcat(prefix, name, NULL);
        bool there = json_object_object_get_ex(b, name, &other);

        if (there && json_object_equal(value, other))
            continue;
        if (deep && there && json_object_is_type(value, json_type_object) &&
            json_object_is_type(other, json_type_object)) {
            g_autofree char *inside = g_strconcat(path, ".", NULL);

            differences(names, inside, value, other, deep);
        } else {
            g_ptr_array_add(names, g_steal_pointer(&path));
        }
    }
    json_object_object_foreach(b, name2, value2)
    {
        (void)value2;
        if (!json_object_object_get_ex(a, name2, &other))
            g_ptr_array_add(names, g_strconcat(prefix, name2, NULL));
    }
}

static GPtrArray *differing(const Item *from, const Item *to, bool deep)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);

    differences(names, "", from->args, to->args, deep);
    return names;
}

static bool restart_needed(const Item *from, const Item *to, GError **error)
{
    g_autoptr(GPtrArray) names = differing(from, to, true);
    g_autofree char *list = NULL;

    g_ptr_array_add(names, NULL);
    list = g_strjoinv("', '", (char **)names->pdata);
    return tm_error_set(error, "restart needed: %s '%s' option '%s'", from->what, from->id, list);
}

/* Removes it and adds the other one; if that fails, adds it again. Nobody uses it. */
static bool replace(Daemon *d, const Item *from, const Item *to, json_object *remove_args,
                    const char *remove, GError **error)
{
    g_autoptr(GError) again = NULL;

    if (!run(d, remove, remove_args, error))
        return false;
    if (item_add(d, to, error))
        return true;
    if (!item_add(d, from, &again))
        g_prefix_error(error, "it is gone, as it can't be made again (%s): ", again->message);
    return false;
}

/* What sets a property to what a file has: limits that it does not name are none, and what it
 * leaves out has its default. A reference; NULL: such a default is not known here. */
static json_object *property_value(const Item *from, const Item *to, const char *name)
{
    json_object *now = json_object_object_get(from->args, name);
    json_object *value = json_object_object_get(to->args, name), *all = NULL;

    if (!value && g_str_equal(name, "policy"))
        return json_object_new_string("deny");
    if (!value && g_str_equal(name, "rules"))
        return json_object_new_array();
    if (!g_str_equal(name, "limits"))
        return json_object_get(value);
    if (!value || json_object_deep_copy(value, &all, NULL) < 0)
        all = json_object_new_object();
    if (now) {
        json_object_object_foreach(now, limit, unused)
        {
            (void)unused;
            if (!json_object_object_get_ex(all, limit, NULL))
                json_object_object_add(all, limit,
                                       json_object_new_int(g_str_has_suffix(limit, "-max-length")));
        }
    }
    return all;
}

static bool set_property(Daemon *d, const Item *from, const Item *to, const char *name,
                         GError **error)
{
    json_object *value = property_value(from, to, name), *args = json_object_new_object();
    g_autofree char *path = g_strconcat("/objects/", to->id, NULL);

    if (!value) {
        json_object_put(args);
        return restart_needed(from, to, error);
    }
    tm_json_add_string(args, "path", path);
    tm_json_add_string(args, "property", name);
    json_object_object_add(args, "value", value);
    return run(d, "qom-set", args, error);
}

static bool change_object(Daemon *d, const Item *from, const Item *to, GError **error)
{
    g_autoptr(GPtrArray) names = differing(from, to, false);
    TmObject *object = tm_objects_find(blk_exports_objects(d->exports), from->id);
    guint done = 0;

    if (object && !tm_object_in_use(object))
        return replace(d, from, to, with_id(from, "id"), "object-del", error);
    while (done < names->len && set_property(d, from, to, names->pdata[done], error))
        done++;
    if (done == names->len)
        return true;
    while (done-- > 0)
        set_property(d, to, from, names->pdata[done], NULL);
    if (error && *error && !strstr((*error)->message, "not writable") &&
        !strstr((*error)->message, "cannot be set"))
        return false;
    g_clear_error(error);
    return restart_needed(from, to, error);
}

static bool change_export(Daemon *d, const Item *from, const Item *to, GError **error)
{
    g_autoptr(GPtrArray) names = differing(from, to, false);
    g_autoptr(BlkExport) export_ = blk_exports_find_id(d->exports, from->id);
    unsigned clients = export_ ? blk_export_sessions(export_) : 0;
    json_object *args = with_id(from, "id"), *bitmaps = qmp_arg(to->args, "bitmaps");

    if (names->len == 1 && g_str_equal(names->pdata[0], "bitmaps")) {
        json_object_object_add(args, "bitmaps",
                               bitmaps ? json_object_get(bitmaps) : json_object_new_array());
        return run(d, "block-export-dirty-bitmap", args, error);
    }
    g_clear_pointer(&export_, blk_export_unref); /* its id is free once it is gone */
    if (!clients)
        return replace(d, from, to, args, "block-export-del", error);
    json_object_put(args);
    restart_needed(from, to, error);
    g_prefix_error(error, "%u %s connected, reload when they have gone: ", clients,
                   clients == 1 ? "client is" : "clients are");
    return false;
}

static bool is_limit(const char *name)
{
    const QmpMember *m = qmp_type_nbd_server_limits.members;

    while (m->name && !g_str_equal(m->name, name))
        m++;
    return m->name != NULL;
}

/* Limits are set; the rest needs a restart, and then they wait for that, too. */
static bool change_server(Daemon *d, const Item *from, const Item *to, GError **error)
{
    g_autoptr(GPtrArray) names = differing(from, to, false);
    const QmpMember *limits = qmp_type_nbd_server_limits.members;
    json_object *args;

    for (guint i = 0; i < names->len; i++) {
        if (!is_limit(names->pdata[i]))
            return restart_needed(from, to, error);
    }
    args = json_object_new_object();
    for (; limits->name; limits++) {
        json_object *value = json_object_object_get(to->args, limits->name);

        if (value)
            json_object_object_add(args, limits->name, json_object_get(value));
    }
    return run(d, "nbd-server-set-limits", args, error);
}

bool item_change(Daemon *d, const Item *from, const Item *to, GError **error)
{
    switch (from->kind) {
    case CMD_OBJECT:
        return change_object(d, from, to, error);
    case CMD_METRICS:
        return replace(d, from, to, json_object_new_object(), "metrics-server-stop", error);
    case CMD_EXPORT:
        return change_export(d, from, to, error);
    case CMD_NBD_SERVER:
        return change_server(d, from, to, error);
    case CMD_BITMAP:
        return tm_error_set(error, "it stays as it is");
    default:
        return restart_needed(from, to, error);
    }
}
