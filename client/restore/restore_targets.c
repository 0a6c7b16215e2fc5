/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/restore_targets.c: see restore_targets.h. */
#include "client/restore/restore_targets.h"
#include "client/image/image.h"

#include <string.h>

static void target_free(void *opaque)
{
    TcRestoreTarget *target = opaque;

    g_free(target->name);
    g_free(target);
}

/* "disk0, disk1". Returned. */
static char *names_of(const GPtrArray *disks)
{
    g_autoptr(GString) names = g_string_new(NULL);

    for (guint i = 0; i < disks->len; i++)
        g_string_append_printf(names, "%s%s", i ? ", " : "",
                               ((const TcPointDisk *)disks->pdata[i])->name);
    return g_string_free(g_steal_pointer(&names), FALSE);
}

static const TcPointDisk *find_disk(const TcManifest *point, const char *name, GError **error)
{
    const TcPointDisk *disk = tc_manifest_disk(point, name);
    g_autofree char *names = names_of(point->disks);

    if (!disk)
        tm_error_set(error, "point '%s' has no disk '%s': it has %s", point->point, name, names);
    return disk;
}

/* Two disks in one place would leave neither. */
static bool add(GPtrArray *targets, const TcPointDisk *disk, char *name, GError **error)
{
    TcRestoreTarget *target = g_new0(TcRestoreTarget, 1);

    target->disk = disk;
    target->name = name;
    for (guint i = 0; i < targets->len; i++) {
        const TcRestoreTarget *other = targets->pdata[i];

        if (other->disk == disk || !strcmp(other->name, name) || tc_image_same(other->name, name)) {
            tm_error_set(error, "disk '%s' to '%s' and disk '%s' to '%s': expected other targets",
                         other->disk->name, other->name, disk->name, name);
            target_free(target);
            return false;
        }
    }
    g_ptr_array_add(targets, target);
    return true;
}

/* The name in NAME=TARGET. Returned; NULL: it is no such word. */
static char *disk_of_word(const TcManifest *point, const char *word)
{
    const char *equals = strchr(word, '=');
    g_autofree char *name = equals ? g_strndup(word, equals - word) : NULL;

    if (!name || strchr(name, '/') || g_file_test(word, G_FILE_TEST_EXISTS))
        return NULL;
    return g_steal_pointer(&name);
}

static bool add_named(GPtrArray *targets, const TcManifest *point, const char *const *words,
                      GError **error)
{
    for (; *words; words++) {
        g_autofree char *name = disk_of_word(point, *words);
        const TcPointDisk *disk = name ? find_disk(point, name, error) : NULL;

        if (!name)
            return tm_error_set(error, "target '%s': expected NAME=TARGET, as in the others",
                                *words);
        if (!disk || !add(targets, disk, g_strdup(strchr(*words, '=') + 1), error))
            return false;
    }
    return true;
}

static bool add_directory(GPtrArray *targets, const GPtrArray *disks, const char *dir,
                          const char *format, GError **error)
{
    const char *ending = !g_strcmp0(format, "qcow2") ? "qcow2" : "img";

    for (guint i = 0; i < disks->len; i++) {
        const TcPointDisk *disk = disks->pdata[i];
        g_autofree char *file = g_strconcat(disk->name, ".", ending, NULL);

        if (!add(targets, disk, g_build_filename(dir, file, NULL), error))
            return false;
    }
    return true;
}

static bool add_in_order(GPtrArray *targets, const GPtrArray *disks, const char *const *words,
                         GError **error)
{
    g_autofree char *names = names_of(disks);

    if (disks->len != g_strv_length((char **)words))
        return tm_error_set(error,
                            "%u target%s for %u disk%s (%s): name one for each, NAME=TARGET, or a "
                            "directory",
                            g_strv_length((char **)words), words[1] ? "s" : "", disks->len,
                            disks->len == 1 ? "" : "s", names);
    for (guint i = 0; i < disks->len; i++)
        if (!add(targets, disks->pdata[i], g_strdup(words[i]), error))
            return false;
    return true;
}

GPtrArray *tc_restore_targets(const TcManifest *point, const char *const *words,
                              const GPtrArray *disks, const char *format, GError **error)
{
    g_autoptr(GPtrArray) targets = g_ptr_array_new_with_free_func(target_free);
    g_autoptr(GPtrArray) chosen = g_ptr_array_new();
    g_autofree char *named = disk_of_word(point, words[0]);
    bool ok;

    for (guint i = 0; i < disks->len; i++) {
        const TcPointDisk *disk = find_disk(point, disks->pdata[i], error);

        if (!disk)
            return NULL;
        g_ptr_array_add(chosen, (gpointer)disk);
    }
    for (guint i = 0; !disks->len && i < point->disks->len; i++)
        g_ptr_array_add(chosen, point->disks->pdata[i]);
    if (named && disks->len)
        ok = tm_error_set(error, "NAME=TARGET and --disk exclude each other");
    else if (named)
        ok = add_named(targets, point, words, error);
    else if (!words[1] && g_file_test(words[0], G_FILE_TEST_IS_DIR))
        ok = add_directory(targets, chosen, words[0], format, error);
    else
        ok = add_in_order(targets, chosen, words, error);
    return ok ? g_steal_pointer(&targets) : NULL;
}
