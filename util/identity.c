/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/identity.c: see the header. */
#include "util/identity.h"

#include "util/error.h"

#include <grp.h>
#include <pwd.h>

static bool is_number(const char *text, guint64 *number)
{
    return g_ascii_string_to_unsigned(text, 10, 0, G_MAXUINT32 - 1, number, NULL);
}

bool tm_user_find(const char *name, uid_t *uid, gid_t *gid, GError **error)
{
    guint64 number;
    bool numeric = is_number(name, &number);
    const struct passwd *user = numeric ? getpwuid((uid_t)number) : getpwnam(name);

    if (!user && !numeric)
        return tm_error_set(error, "user '%s' does not exist", name);
    *uid = user ? user->pw_uid : (uid_t)number;
    *gid = user ? user->pw_gid : (gid_t)number;
    return true;
}

bool tm_group_find(const char *name, gid_t *gid, GError **error)
{
    guint64 number;
    const struct group *group;

    if (is_number(name, &number)) {
        *gid = (gid_t)number;
        return true;
    }
    group = getgrnam(name);
    if (!group)
        return tm_error_set(error, "group '%s' does not exist", name);
    *gid = group->gr_gid;
    return true;
}

bool tm_identity_find(const char *who, uid_t *uid, gid_t *gid, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(who, ":", 2);
    uid_t user = 0;
    gid_t group = 0;

    if (!parts[0] || !*parts[0])
        return tm_error_set(error, "expected USER or USER:GROUP");
    if (!tm_user_find(parts[0], &user, &group, error) ||
        (parts[1] && !tm_group_find(parts[1], &group, error)))
        return false;
    *uid = user;
    *gid = group;
    return true;
}
