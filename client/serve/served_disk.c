/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/serve/served_disk.c: see served_disk.h. */
#include "client/serve/served_disk.h"
#include "block/rbd_name.h"
#include "client/image/image.h"
#include "client/json.h"
#include "util/identifier.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAME_MAX_BYTES = 31 }; /* of a node */

static const char *const endings[] = { ".img", ".qcow2", ".raw" };

static void disk_free(void *disk)
{
    tc_served_disk_free(disk);
}

void tc_served_disk_release(TcServedDisk *disk)
{
    if (disk->scratch)
        unlink(disk->scratch);
    g_clear_pointer(&disk->scratch, g_free);
}

void tc_served_disk_free(TcServedDisk *disk)
{
    if (!disk)
        return;
    tc_served_disk_release(disk);
    g_clear_pointer(&disk->chain, g_ptr_array_unref);
    g_clear_pointer(&disk->files, g_ptr_array_unref);
    g_free(disk->name);
    g_free(disk->node);
    g_free(disk->path);
    json_object_put(disk->rbd);
    g_free(disk);
}

/* ---- formats */

static bool names_others(const char *path, bool *names, GError **error)
{
    g_auto(TcImageNames) found = { 0 };

    if (!tc_image_names(path, "qcow2", &found, error))
        return false;
    *names = found.backing || found.data_file;
    return true;
}

static bool find_format(TcServedDisk *disk, GError **error)
{
    bool named_raw = g_str_has_suffix(disk->path, ".raw");
    bool maybe_raw = named_raw || g_str_has_suffix(disk->path, ".img") || disk->is_block;
    bool others = false;

    disk->format = tc_image_probe(disk->path, error);
    if (!disk->format)
        return false;
    if (!strcmp(disk->format, "raw")) {
        if (maybe_raw)
            return true;
        return tm_error_set(error,
                            "'%s' is no qcow2 image, and its name does not say that it is raw "
                            "(.img, .raw): use --format raw if it is",
                            disk->path);
    }
    if (maybe_raw && !named_raw && !names_others(disk->path, &others, error))
        return false;
    if (named_raw || others)
        return tm_error_set(error,
                            "'%s' begins as a qcow2 image%s, but its name does not say so, and a "
                            "guest can write that into a raw disk: use --format qcow2 or raw",
                            disk->path, others ? " that names other files" : "");
    return true;
}

/* ---- names */

/* The file's name without the ending. Returned. */
static char *name_of(const char *path, bool is_block)
{
    g_autofree char *base = g_path_get_basename(path);
    char *dot = strrchr(base, '.');

    if (dot && dot != base && !is_block)
        *dot = 0;
    return g_steal_pointer(&base);
}

static bool check_name(const TcServedDisk *disk, GError **error)
{
    if (tm_identifier(disk->name) && strlen(disk->name) <= NAME_MAX_BYTES)
        return true;
    return tm_error_set(error,
                        "'%s' can't be the name of a disk (a letter, then at most %d letters, "
                        "digits, '-', '.' and '_'): give it one with NAME=%s",
                        disk->name, NAME_MAX_BYTES - 1, disk->path);
}

static bool check_others(const GPtrArray *disks, const TcServedDisk *disk, GError **error)
{
    for (guint i = 0; i < disks->len; i++) {
        const TcServedDisk *other = disks->pdata[i];

        if (!strcmp(other->path, disk->path) || tc_image_same(other->path, disk->path))
            return tm_error_set(error, "'%s' and '%s' are the same disk", other->path, disk->path);
        if (!strcmp(other->name, disk->name))
            return tm_error_set(error,
                                "'%s' and '%s' would both have the name '%s': give one of them "
                                "another with NAME=%s",
                                other->path, disk->path, disk->name, disk->path);
    }
    return true;
}

/* ---- what was asked for */

static bool check_access(const TcServedDisk *disk, GError **error)
{
    if (disk->read_only || disk->rbd || !access(disk->path, W_OK))
        return true;
    return tm_error_set_errno(error, errno, "Could not write to '%s' (--read-only only reads it)",
                              disk->path);
}

/* Takes @disk, whose path and kind are known, and @name, which was given or is its own. */
static bool add_disk(GPtrArray *disks, TcServedDisk *disk, char *name, const TcServedOptions *asked,
                     GError **error)
{
    disk->name = name;
    disk->node = g_strdup(name);
    disk->format = asked->format;
    disk->backing_names = asked->backing_names;
    disk->read_only = asked->read_only;
    if (!check_name(disk, error) || !check_others(disks, disk, error) ||
        (!disk->format && !find_format(disk, error)) || !check_access(disk, error)) {
        tc_served_disk_free(disk);
        return false;
    }
    g_ptr_array_add(disks, disk);
    return true;
}

static bool add_file(GPtrArray *disks, const char *name, const char *path,
                     const TcServedOptions *asked, GError **error)
{
    TcServedDisk *disk;
    struct stat st;

    if (stat(path, &st)) {
        if (errno == ENOENT)
            return tm_error_set(error,
                                "disk '%s' does not exist ('tidemark image create %s SIZE' "
                                "makes one)",
                                path, path);
        return tm_error_set_errno(error, errno, "disk '%s'", path);
    }
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return tm_error_set(error, "'%s' is neither a file nor a block device", path);
    disk = g_new0(TcServedDisk, 1);
    disk->is_block = S_ISBLK(st.st_mode);
    disk->path = g_canonicalize_filename(path, NULL);
    return add_disk(disks, disk, name ? g_strdup(name) : name_of(path, disk->is_block), asked,
                    error);
}

/* The daemon is in another directory. */
static void make_absolute(json_object *rbd)
{
    const char *conf = tc_json_string(rbd, "conf");
    g_autofree char *path = conf ? g_canonicalize_filename(conf, NULL) : NULL;

    if (path)
        json_object_object_add(rbd, "conf", json_object_new_string(path));
}

/* A snapshot is read-only, whatever was asked for. */
static bool add_rbd(GPtrArray *disks, const char *name, const char *path,
                    const TcServedOptions *asked, GError **error)
{
    json_object *rbd = blk_rbd_definition(path, true, error);
    TcServedOptions options = *asked;
    TcServedDisk *disk;

    if (!rbd)
        return false;
    make_absolute(rbd);
    disk = g_new0(TcServedDisk, 1);
    disk->rbd = rbd;
    disk->path = g_strdup(path);
    if (!options.format) /* what is in it is not read here */
        options.format = "raw";
    options.read_only |= json_object_object_get_ex(rbd, "snapshot", NULL);
    return add_disk(disks, disk, g_strdup(name ? name : tc_json_string(rbd, "image")), &options,
                    error);
}

static bool is_image_name(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(endings); i++)
        if (name[0] != '.' && g_str_has_suffix(name, endings[i]))
            return true;
    return false;
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool add_directory(GPtrArray *disks, const char *path, const TcServedOptions *asked,
                          GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GDir) dir = g_dir_open(path, 0, error);
    const char *name;

    while (dir && (name = g_dir_read_name(dir)))
        if (is_image_name(name))
            g_ptr_array_add(names, g_strdup(name));
    if (dir && !names->len)
        return tm_error_set(error, "directory '%s' has no images (.img, .qcow2, .raw)", path);
    g_ptr_array_sort(names, compare_strings);
    for (guint i = 0; i < names->len; i++) {
        g_autofree char *file = g_build_filename(path, names->pdata[i], NULL);

        if (g_file_test(file, G_FILE_TEST_IS_REGULAR) && !add_file(disks, NULL, file, asked, error))
            return false;
    }
    return dir != NULL;
}

static bool add_word(GPtrArray *disks, const char *word, const TcServedOptions *asked,
                     GError **error)
{
    const char *equals = strchr(word, '=');
    g_autofree char *name = NULL;

    if (blk_is_rbd_name(word))
        return add_rbd(disks, NULL, word, asked, error);
    if (equals && equals != word && !g_file_test(word, G_FILE_TEST_EXISTS)) {
        name = g_strndup(word, equals - word);
        return (blk_is_rbd_name(equals + 1) ? add_rbd : add_file)(disks, name, equals + 1, asked,
                                                                  error);
    }
    if (g_file_test(word, G_FILE_TEST_IS_DIR))
        return add_directory(disks, word, asked, error);
    return add_file(disks, NULL, word, asked, error);
}

GPtrArray *tc_served_disks(const char *const *words, const TcServedOptions *options, GError **error)
{
    g_autoptr(GPtrArray) disks = g_ptr_array_new_with_free_func(disk_free);

    for (; *words; words++)
        if (!add_word(disks, *words, options, error))
            return NULL;
    return g_steal_pointer(&disks);
}
