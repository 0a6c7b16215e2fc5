/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/reload.c: see the header.
 *
 * The files are compared with what the last reading of them achieved, not with all that there is:
 * so what was refused is tried again at the next time. */
#include "daemon/reload.h"

#include "daemon/check.h"
#include "daemon/item.h"
#include "util/error.h"

#include <string.h>

struct Reload {
    Daemon *d;
    const GArray *given;
    const GPtrArray *first; /* Config, as at the start */
    GPtrArray *achieved;    /* Item */
    char *levels;           /* of the log, that files have; or NULL */
    unsigned changed, refused;
};

static void note(const Reload *r, TmLogLevel level, const Item *item, const char *format, ...)
    G_GNUC_PRINTF(4, 5);

static void note(const Reload *r, TmLogLevel level, const Item *item, const char *format, ...)
{
    TmLogFacts facts = { .area = TM_LOG_DAEMON, .level = level };
    g_autofree char *text = NULL;
    va_list ap;

    if (item && item->kind == CMD_BLOCKDEV)
        facts.node = item->id;
    if (item && item->kind == CMD_EXPORT)
        facts.export = item->id;
    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    tm_log_note(r->d->log, &facts, "reload: %s", text);
}

static void changed(Reload *r, const Item *item, const char *how)
{
    r->changed++;
    note(r, TM_LOG_INFO, item, "%s '%s' %s", item->what, item->id, how);
}

/* Takes @error. */
static void refused(Reload *r, const Item *item, const char *how, GError *error)
{
    r->refused++;
    note(r, TM_LOG_WARNING, item, "%s '%s' is not %s: %s", item->what, item->id, how,
         error->message);
    g_error_free(error);
}

/* ---- items */

static char *key_of(const Item *item)
{
    return g_strdup_printf("%d/%s", item->kind, item->id);
}

static GPtrArray *items_new(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)item_free);
}

static GPtrArray *items_of(Daemon *d, const GArray *options)
{
    GPtrArray *items = items_new();

    for (guint i = 0; i < options->len; i++) {
        Item *item = item_new(d, &g_array_index(options, CmdOption, i));

        if (item)
            g_ptr_array_add(items, item);
    }
    return items;
}

/* Borrowed items by their keys. */
static GHashTable *index_of(const GPtrArray *items)
{
    GHashTable *index = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (guint i = 0; i < items->len; i++)
        g_hash_table_insert(index, key_of(items->pdata[i]), items->pdata[i]);
    return index;
}

static const Item *lookup(GHashTable *index, const Item *item)
{
    g_autofree char *key = key_of(item);

    return g_hash_table_lookup(index, key);
}

/* Whether it is there as wanted now; of one that is not, what is there instead, or NULL. */
static const Item *provide(Reload *r, const Item *had, const Item *want)
{
    GError *error = NULL;
    bool exists = item_exists(r->d, want), same = had && json_object_equal(had->args, want->args);

    if (had && !same && exists) {
        if (item_change(r->d, had, want, &error)) {
            changed(r, want, "is changed");
            return want;
        }
        refused(r, want, "changed", error);
        return had;
    }
    if (exists && !had && !item_matches(r->d, want, &error)) {
        refused(r, want, "added", error);
        return NULL;
    }
    if (exists)
        return want;
    if (item_add(r->d, want, &error)) {
        changed(r, want, "is added");
        return want;
    }
    refused(r, want, "added", error);
    return NULL;
}

/* Those of that kind that files had and have no more, the last one first. What stays goes to
 * @achieved. */
static void remove_kind(Reload *r, CmdKind kind, GHashTable *wanted, GPtrArray *achieved)
{
    for (guint i = r->achieved->len; i-- > 0;) {
        const Item *item = r->achieved->pdata[i];
        GError *error = NULL;
        bool later = false;

        if (item->kind != kind || lookup(wanted, item))
            continue;
        if (!item_exists(r->d, item))
            continue;
        if (item_remove(r->d, item, &later, &error)) {
            changed(r, item,
                    later ? "takes no new clients, and ends with its last one" : "is removed");
            continue;
        }
        refused(r, item, "removed", error);
        if (kind != CMD_BITMAP) /* said once: it belongs to its node */
            g_ptr_array_insert(achieved, 0, item_copy(item));
    }
}

static void provide_all(Reload *r, const GPtrArray *items, GHashTable *had, GPtrArray *achieved)
{
    for (guint i = 0; i < items->len; i++) {
        const Item *want = items->pdata[i], *is = provide(r, lookup(had, want), want);

        if (is)
            g_ptr_array_add(achieved, item_copy(is));
    }
}

/* What makes room comes first; servers stay until others are there, and objects until nobody uses
 * them. */
static void apply_items(Reload *r, const GPtrArray *items)
{
    static const CmdKind before[] = { CMD_METRICS, CMD_MONITOR,  CMD_CHARDEV,
                                      CMD_EXPORT,  CMD_BLOCKDEV, CMD_BITMAP };
    static const CmdKind after[] = { CMD_NBD_SERVER, CMD_OBJECT };
    g_autoptr(GHashTable) wanted = index_of(items), had = index_of(r->achieved);
    GPtrArray *achieved = items_new();

    for (size_t i = 0; i < G_N_ELEMENTS(before); i++)
        remove_kind(r, before[i], wanted, achieved);
    provide_all(r, items, had, achieved);
    for (size_t i = 0; i < G_N_ELEMENTS(after); i++)
        remove_kind(r, after[i], wanted, achieved);
    g_ptr_array_unref(r->achieved);
    r->achieved = achieved;
}

/* ---- what is no item */

/* The files of all objects: credentials and lists. */
static void reload_objects(Reload *r)
{
    TmObjects *objects = blk_exports_objects(r->d->exports);
    g_autoptr(GPtrArray) list = tm_objects_list(objects);

    for (guint i = 0; i < list->len; i++) {
        const TmObject *object = list->pdata[i];
        g_autoptr(GError) error = NULL;

        if (!tm_object_has_files(object) ||
            tm_objects_reload(objects, tm_object_id(object), &error))
            continue;
        r->refused++;
        note(r, TM_LOG_WARNING, NULL, "object '%s' keeps what its files had: %s",
             tm_object_id(object), error->message);
    }
}

/* All that files say of them, as one text; NULL: nothing. Returned. */
static char *levels_of(const GArray *options)
{
    g_autoptr(GPtrArray) levels = g_ptr_array_new();

    for (guint i = 0; i < options->len; i++) {
        const CmdOption *option = &g_array_index(options, CmdOption, i);

        if (option->kind == CMD_LOG_LEVEL && option->file)
            g_ptr_array_add(levels, (void *)option->value);
    }
    g_ptr_array_add(levels, NULL);
    return levels->len > 1 ? g_strjoinv(",", (char **)levels->pdata) : NULL;
}

/* Those that were set over QMP stay, unless the files say something else now than before. */
static void apply_levels(Reload *r, const GArray *options)
{
    g_autofree char *levels = levels_of(options);
    g_autoptr(GError) error = NULL;

    if (!g_strcmp0(levels, r->levels))
        return;
    if (!tm_log_set_levels(r->d->log, levels ? levels : "info", &error)) {
        r->refused++;
        note(r, TM_LOG_WARNING, NULL, "log-level is not changed: %s", error->message);
        return;
    }
    r->changed++;
    note(r, TM_LOG_INFO, NULL, "log-level is changed");
    g_free(r->levels);
    r->levels = g_steal_pointer(&levels);
}

/* Of the process: what neither is a list of items nor can be changed. */
static void compare_settings(Reload *r, const Config *first, const Config *now)
{
    static const char *const settings[] = { "io-engine", "modules",   "module-dirs", "sandbox",
                                            "user",      "daemonize", "pidfile" };

    for (size_t i = 0; i < G_N_ELEMENTS(settings); i++) {
        json_object *a = json_object_object_get(config_root(first), settings[i]);
        json_object *b = json_object_object_get(config_root(now), settings[i]);

        if (a == b || (a && b && json_object_equal(a, b)))
            continue;
        r->refused++;
        note(r, TM_LOG_WARNING, NULL, "restart needed: '%s'", settings[i]);
    }
}

/* ---- a reload */

static bool check(const Reload *r, const GArray *options, const GPtrArray *configs)
{
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < configs->len; i++)
        check_types(r->d, configs->pdata[i], problems);
    check_names(r->d, options, problems);
    for (guint i = 0; i < problems->len; i++)
        note(r, TM_LOG_ERROR, NULL, "%s", (const char *)problems->pdata[i]);
    return !problems->len;
}

static void apply(Reload *r, const GArray *options, const GPtrArray *configs)
{
    g_autoptr(GPtrArray) items = items_of(r->d, options);

    reload_objects(r);
    apply_levels(r, options);
    for (guint i = 0; i < configs->len; i++)
        compare_settings(r, r->first->pdata[i], configs->pdata[i]);
    apply_items(r, items);
}

void reload_run(Reload *r)
{
    g_autoptr(GPtrArray) configs = g_ptr_array_new_with_free_func((GDestroyNotify)config_free);
    g_autoptr(GArray) options = NULL;
    g_autoptr(GError) error = NULL;

    daemon_notify_reloading();
    r->changed = r->refused = 0;
    options = config_expand(r->given, configs, &error);
    if (error)
        note(r, TM_LOG_ERROR, NULL, "%s", error->message);
    if (options && check(r, options, configs)) {
        apply(r, options, configs);
        note(r, TM_LOG_INFO, NULL, "done: %u changes, %u refused", r->changed, r->refused);
    } else {
        note(r, TM_LOG_ERROR, NULL, "nothing is changed");
    }
    daemon_notify_ready();
}

Reload *reload_new(Daemon *d, const GArray *given, const GArray *options, const GPtrArray *configs)
{
    Reload *r = g_new0(Reload, 1);

    r->d = d;
    r->given = given;
    r->first = configs;
    r->achieved = items_of(d, options);
    r->levels = levels_of(options);
    return r;
}

void reload_free(Reload *r)
{
    if (!r)
        return;
    g_ptr_array_unref(r->achieved);
    g_free(r->levels);
    g_free(r);
}
