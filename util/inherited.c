/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/inherited.c: the sockets that the process was started with; see address.h. */
#include "util/address.h"
#include "util/address_internal.h"
#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIRST 3 /* SD_LISTEN_FDS_START */
#define END   256

typedef struct Entry {
    int fd;
    char *name; /* or NULL */
    bool listens;
    bool taken; /* a connected one */
} Entry;

struct TmInherited {
    GArray *entries;
};

static void entry_clear(void *opaque)
{
    g_free(((Entry *)opaque)->name);
}

static bool is_stream(int fd)
{
    int type = 0;
    socklen_t length = sizeof(type);

    return !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) && type == SOCK_STREAM;
}

static bool listens(int fd)
{
    int on = 0;
    socklen_t length = sizeof(on);

    return !getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &length) && on;
}

/* The names are for this process only if the variables say so. NULL: none. */
static char **names(void)
{
    const char *pid = g_getenv("LISTEN_PID"), *list = g_getenv("LISTEN_FDNAMES");
    guint64 number;

    return pid && list && g_ascii_string_to_unsigned(pid, 10, 1, G_MAXINT, &number, NULL) &&
                   (pid_t)number == getpid()
               ? g_strsplit(list, ":", -1)
               : NULL;
}

TmInherited *tm_inherited_new(void)
{
    TmInherited *inherited = g_new(TmInherited, 1);
    g_auto(GStrv) given = names();
    guint n = given ? g_strv_length(given) : 0;

    inherited->entries = g_array_new(FALSE, FALSE, sizeof(Entry));
    g_array_set_clear_func(inherited->entries, entry_clear);
    for (int fd = FIRST; fd < END; fd++) {
        Entry entry = { .fd = fd };
        guint index = (guint)(fd - FIRST);

        if (!is_stream(fd))
            continue;
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        entry.listens = listens(fd);
        entry.name = index < n ? g_strdup(given[index]) : NULL;
        g_array_append_val(inherited->entries, entry);
    }
    return inherited;
}

void tm_inherited_free(TmInherited *inherited)
{
    if (!inherited)
        return;
    g_array_unref(inherited->entries);
    g_free(inherited);
}

static Entry *find(TmInherited *inherited, const char *which, bool listening, GError **error)
{
    for (guint i = 0; inherited && i < inherited->entries->len; i++) {
        Entry *entry = &g_array_index(inherited->entries, Entry, i);
        g_autofree char *number = g_strdup_printf("%d", entry->fd);

        if (entry->listens == listening && !entry->taken &&
            (g_str_equal(which, number) || !g_strcmp0(which, entry->name)))
            return entry;
    }
    tm_error_set(error,
                 "This process was not started with a %s socket '%s' (expected a descriptor's "
                 "number, or a name of LISTEN_FDNAMES)",
                 listening ? "listening" : "connected", which);
    return NULL;
}

bool tm_inherited_listen(TmInherited *inherited, const char *which, GArray *sockets, GError **error)
{
    const Entry *entry = find(inherited, which, true, error);
    TmSocket s = { .shared = true };

    if (!entry)
        return false;
    s.fd = fcntl(entry->fd, F_DUPFD_CLOEXEC, 0);
    if (s.fd < 0 || fcntl(s.fd, F_SETFL, O_NONBLOCK) < 0) {
        tm_error_set_errno(error, errno, "Failed to use socket '%s'", which);
        if (s.fd >= 0)
            close(s.fd);
        return false;
    }
    g_array_append_val(sockets, s);
    return true;
}

int tm_inherited_take(TmInherited *inherited, const char *which, GError **error)
{
    Entry *entry = find(inherited, which, false, error);

    if (!entry)
        return -1;
    entry->taken = true;
    return entry->fd;
}
