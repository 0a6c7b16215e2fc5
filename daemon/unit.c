/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/unit.c: see the header. */
#include "daemon/unit.h"

#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Directories that a unit replaces by empty ones, and the setting that does it. */
static const struct {
    const char *dir, *setting;
} hidden[] = {
    { "/home/", "ProtectHome=" }, { "/root/", "ProtectHome=" },   { "/run/user/", "ProtectHome=" },
    { "/tmp/", "PrivateTmp=" },   { "/var/tmp/", "PrivateTmp=" },
};

static const char *hiding(const char *path)
{
    for (size_t i = 0; i < G_N_ELEMENTS(hidden); i++) {
        if (g_str_has_prefix(path, hidden[i].dir))
            return hidden[i].setting;
    }
    return NULL;
}

static bool is_read_only(const char *dir)
{
    struct statvfs st;

    return statvfs(dir, &st) == 0 && (st.f_flag & ST_RDONLY);
}

char *unit_advice(const char *unit, const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *advice = NULL, *user = NULL;
    const char *setting = hiding(path);
    bool foreign = false;
    struct stat st;

    if (stat(path, &st) < 0) {
        if (setting && access(dir, F_OK) < 0)
            return g_strdup_printf("%s of %s hides it: 'systemctl edit %s', BindPaths=%s", setting,
                                   unit, unit, dir);
    } else if (S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode)) {
        return g_strdup_printf("%s needs DeviceAllow=%s rw, and SupplementaryGroups= with a group "
                               "that may write to it: 'systemctl edit %s'",
                               unit, path, unit);
    }
    if (access(path, W_OK) < 0 || access(dir, W_OK) < 0)
        foreign = errno == EACCES;
    if (is_read_only(dir))
        advice = g_strdup_printf("%s may not write there: 'systemctl edit %s', ReadWritePaths=%s",
                                 unit, unit, dir);
    if (foreign)
        user = g_strdup_printf("%s runs as user '%s', who may not write to it or to its directory",
                               unit, g_get_user_name());
    return advice && user ? g_strdup_printf("%s; %s", advice, user)
           : advice       ? g_steal_pointer(&advice)
                          : g_steal_pointer(&user);
}
