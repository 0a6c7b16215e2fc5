/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/registry.c: the drivers by name: the built-in ones and plug-ins. See the header.
 *
 * Nothing of a plug-in's description is believed before its ABI and size are right. Invariant:
 * every driver in the table passed check_driver(), so the rest of the block layer needn't ask
 * again. */
#include "block/registry.h"

#include "block/options.h"
#include "block/permissions.h"
#include "util/error.h"

#include <dlfcn.h>
#include <string.h>

#define NAME_MAX_LENGTH 31

struct BlkRegistry {
    const TmSys *sys;    /* borrowed */
    GHashTable *drivers; /* name -> const struct tidemark_driver, both borrowed */
    GPtrArray *modules;  /* dlopen handles */
};

const BlkBuiltin *blk_builtin_of(const struct tidemark_driver *driver)
{
    static const BlkBuiltin plugin = { NULL };
    const BlkBuiltin *b = blk_builtins;

    while (b->driver && b->driver != driver)
        b++;
    return b->driver ? b : &plugin;
}

static void module_close(void *module)
{
    dlclose(module);
}

BlkRegistry *blk_registry_new(const TmSys *sys)
{
    BlkRegistry *registry = g_new0(BlkRegistry, 1);

    registry->sys = sys;
    registry->drivers = g_hash_table_new(g_str_hash, g_str_equal);
    registry->modules = g_ptr_array_new_with_free_func(module_close);
    for (const BlkBuiltin *b = blk_builtins; b->driver; b++)
        g_hash_table_insert(registry->drivers, (char *)b->driver->name, (void *)b->driver);
    return registry;
}

void blk_registry_free(BlkRegistry *registry)
{
    if (!registry)
        return;
    g_hash_table_unref(registry->drivers);
    g_ptr_array_unref(registry->modules);
    g_free(registry);
}

void blk_registry_add(BlkRegistry *registry, tidemark_driver_init_fn init)
{
    const struct tidemark_driver *driver = init(&blk_host);

    if (driver)
        g_hash_table_insert(registry->drivers, (char *)driver->name, (void *)driver);
}

/* ---- checks; each message begins with the module's path */

static bool name_well_formed(const char *name)
{
    size_t length = name ? strlen(name) : 0;

    return length && length <= NAME_MAX_LENGTH && g_ascii_isalpha(name[0]) &&
           strspn(name, G_CSET_a_2_z G_CSET_A_2_Z G_CSET_DIGITS "-_") == length;
}

static bool option_is_common(const char *name)
{
    for (const struct tidemark_option *o = blk_common_options; o->name; o++)
        if (g_str_equal(o->name, name))
            return true;
    return false;
}

static bool fields_make_sense(const struct tidemark_option *fields)
{
    const struct tidemark_option *f = fields;

    while (f && f->name && f->type < TIDEMARK_OPTION_LIST &&
           (f->type != TIDEMARK_OPTION_ENUM || f->choices))
        f++;
    return f && f != fields && !f->name;
}

static bool check_option(const char *path, const struct tidemark_driver *driver,
                         const struct tidemark_option *option, GError **error)
{
    if (option_is_common(option->name))
        return tm_error_set(error,
                            "Module '%s': option '%s' of driver '%s' has the name of an option "
                            "that every driver has",
                            path, option->name, driver->name);
    if (option->type > TIDEMARK_OPTION_LIST)
        return tm_error_set(error, "Module '%s': option '%s' of driver '%s' has unknown type %d",
                            path, option->name, driver->name, (int)option->type);
    if (option->type == TIDEMARK_OPTION_ENUM && !option->choices)
        return tm_error_set(error, "Module '%s': option '%s' of driver '%s' has no choices", path,
                            option->name, driver->name);
    if (option->type == TIDEMARK_OPTION_LIST && !fields_make_sense(option->fields))
        return tm_error_set(error,
                            "Module '%s': option '%s' of driver '%s' is a list without fields, or "
                            "with a list among them",
                            path, option->name, driver->name);
    if (option->type == TIDEMARK_OPTION_ENUM && option->fields &&
        !fields_make_sense(option->fields))
        return tm_error_set(error,
                            "Module '%s': option '%s' of driver '%s' has a list among its fields",
                            path, option->name, driver->name);
    if (option->default_value && !blk_option_accepts(option, option->default_value))
        return tm_error_set(error,
                            "Module '%s': option '%s' of driver '%s' does not accept its own "
                            "default '%s'",
                            path, option->name, driver->name, option->default_value);
    return true;
}

/* The ABI first: of another one, nothing else can be read. */
static bool check_abi(const char *path, const struct tidemark_driver *driver, GError **error)
{
    if (driver->abi != TIDEMARK_ABI)
        return tm_error_set(error, "Module '%s' is built for driver ABI %u, expected %u", path,
                            driver->abi, TIDEMARK_ABI);
    if (driver->struct_size != sizeof(*driver))
        return tm_error_set(error,
                            "Module '%s' describes its driver in %u bytes, expected %zu: it was "
                            "built with another tidemark/driver.h",
                            path, driver->struct_size, sizeof(*driver));
    return true;
}

/* Whether it has some of the callbacks for stores, and not all. */
static bool keeps_part(const struct tidemark_driver *d)
{
    int n =
        !!d->store_open + !!d->store_read + !!d->store_write + !!d->store_abandon + !!d->store_name;

    return n != 0 && n != 5;
}

static bool check_driver(BlkRegistry *registry, const char *path,
                         const struct tidemark_driver *driver, GError **error)
{
    if (!check_abi(path, driver, error))
        return false;
    if (!name_well_formed(driver->name))
        return tm_error_set(error,
                            "Module '%s': malformed driver name '%s', expected 1 to %d letters, "
                            "digits, '-' and '_', a letter first",
                            path, driver->name ? driver->name : "", NAME_MAX_LENGTH);
    if (blk_registry_find(registry, driver->name))
        return tm_error_set(error, "Module '%s': a driver '%s' exists already", path, driver->name);
    if (!driver->open || !driver->close || !driver->get_info)
        return tm_error_set(error, "Module '%s': driver '%s' lacks the required callback '%s'",
                            path, driver->name,
                            !driver->open    ? "open"
                            : !driver->close ? "close"
                                             : "get_info");
    if (keeps_part(driver))
        return tm_error_set(error,
                            "Module '%s': driver '%s' has some of the callbacks 'store_...', "
                            "expected all five or none",
                            path, driver->name);
    if (driver->children && driver->children->name && driver->pwrite && !driver->discard)
        return tm_error_set(error,
                            "Module '%s': driver '%s' has children and a callback 'pwrite', so it "
                            "needs a callback 'discard', which may return -ENOTSUP",
                            path, driver->name);
    for (const struct tidemark_option *o = driver->options; o && o->name; o++)
        if (!check_option(path, driver, o, error))
            return false;
    for (const struct tidemark_child *r = driver->children; r && r->name; r++)
        if (option_is_common(r->name))
            return tm_error_set(error,
                                "Module '%s': child '%s' of driver '%s' has the name of an option "
                                "that every driver has",
                                path, r->name, driver->name);
    return true;
}

/* ---- loading */

/* What the module describes; NULL with the reason. */
static const struct tidemark_driver *module_driver(void *module, const char *path, GError **error)
{
    tidemark_driver_init_fn init = (tidemark_driver_init_fn)dlsym(module, TIDEMARK_DRIVER_INIT);
    const struct tidemark_driver *driver;

    if (!init) {
        tm_error_set(error, "Module '%s' has no function '%s': it is not a driver", path,
                     TIDEMARK_DRIVER_INIT);
        return NULL;
    }
    driver = init(&blk_host);
    if (!driver)
        tm_error_set(error, "Module '%s' refuses to be loaded", path);
    return driver;
}

bool blk_registry_load(BlkRegistry *registry, const char *path, GError **error)
{
    /* without a slash dlopen would search the library directories */
    g_autofree char *file = strchr(path, '/') ? g_strdup(path) : g_strconcat("./", path, NULL);
    const struct tidemark_driver *driver;
    void *module;

    if (g_file_test(file, G_FILE_TEST_EXISTS) && !g_file_test(file, G_FILE_TEST_IS_REGULAR))
        return tm_error_set(error, "Could not load module '%s': it is not a regular file", path);
    module = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!module)
        return tm_error_set(error, "Could not load module '%s': %s", path, dlerror());
    driver = module_driver(module, path, error);
    if (!driver || !check_driver(registry, path, driver, error)) {
        dlclose(module);
        return false;
    }
    g_ptr_array_add(registry->modules, module);
    g_hash_table_insert(registry->drivers, (char *)driver->name, (void *)driver);
    return true;
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

bool blk_registry_load_dir(BlkRegistry *registry, const char *dir, GPtrArray *refused,
                           GError **error)
{
    g_autoptr(GError) cause = NULL;
    g_autoptr(GDir) list = g_dir_open(dir, 0, &cause);
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    const char *name;

    if (!list && g_error_matches(cause, G_FILE_ERROR, G_FILE_ERROR_NOENT))
        return true;
    if (!list)
        return tm_error_set(error, "Could not read the module directory '%s': %s", dir,
                            cause->message);
    while ((name = g_dir_read_name(list)))
        if (g_str_has_suffix(name, ".so"))
            g_ptr_array_add(paths, g_build_filename(dir, name, NULL));
    g_ptr_array_sort(paths, compare_strings);
    for (guint i = 0; i < paths->len; i++) {
        g_autoptr(GError) reason = NULL;

        if (!blk_registry_load(registry, paths->pdata[i], &reason))
            g_ptr_array_add(refused, g_strdup(reason->message));
    }
    return true;
}

/* ---- looking up */

const struct tidemark_driver *blk_registry_find(BlkRegistry *registry, const char *name)
{
    return g_hash_table_lookup(registry->drivers, name);
}

static int compare_drivers(const void *a, const void *b)
{
    const struct tidemark_driver *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

const struct tidemark_driver **blk_registry_list(BlkRegistry *registry)
{
    guint n = g_hash_table_size(registry->drivers), i = 0;
    const struct tidemark_driver **list = g_new0(const struct tidemark_driver *, n + 1);
    GHashTableIter iter;
    void *driver;

    g_hash_table_iter_init(&iter, registry->drivers);
    while (g_hash_table_iter_next(&iter, NULL, &driver))
        list[i++] = driver;
    qsort(list, n, sizeof(list[0]), compare_drivers);
    return list;
}
