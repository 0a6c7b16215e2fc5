/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/qemu_server.c: see qemu_server.h.
 *
 * QEMU does not report where its server listens. So a foreign one is found through /proc: it is the
 * unix socket of that process which listens, is no character device, and greets as NBD does. */
#include "client/backup/qemu_server.h"
#include "client/backup/qemu_names.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define FD_NAME   "tidemark-backup"
#define GREETING  "NBDMAGIC"
#define LISTENING 0x10000 /* __SO_ACCEPTCON in /proc/net/unix */
enum { GREETING_MS = 2000 };

static bool set_address(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof(address->sun_path))
        return false;
    strcpy(address->sun_path, path);
    return true;
}

/* The lock is on a directory of the process that only its user and root can open. So nobody else
 * can take it, and it is gone with whoever has it. */
int tc_qemu_lock(const TcQmp *qmp, GError **error)
{
    pid_t pid = tc_qmp_pid(qmp);
    /* 0: it is in another namespace, and nothing is known of it */
    g_autofree char *path =
        pid ? g_strdup_printf("/proc/%d/fd", (int)pid) : g_strdup("/proc/self/fd");
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        tm_error_set_errno(error, errno,
                           "QEMU (process %d) can't be locked for a backup: expected its user, or "
                           "root: '%s'",
                           (int)pid, path);
        return -1;
    }
    if (!flock(fd, LOCK_EX | LOCK_NB))
        return fd;
    if (errno == EWOULDBLOCK)
        tm_error_set(error,
                     "another backup of this QEMU (process %d) is running: nothing was "
                     "changed; try again when it has ended",
                     (int)pid);
    else
        tm_error_set_errno(error, errno, "lock of '%s'", path);
    close(fd);
    return -1;
}

static bool is_private(const char *directory)
{
    struct stat st;

    return !lstat(directory, &st) && S_ISDIR(st.st_mode) && st.st_uid == geteuid() &&
           !(st.st_mode & 077);
}

/* A directory that nobody else can enter; returned. It has the same name each time, so that a kill
 * leaves no more than one behind, unless somebody else has made that. */
static char *private_directory(const TcQmp *qmp, GError **error)
{
    const char *runtime = g_getenv("XDG_RUNTIME_DIR");
    g_autofree char *name = g_strdup_printf(TC_QEMU_PREFIX "%d", (int)tc_qmp_pid(qmp));
    g_autofree char *path =
        g_build_filename(runtime && *runtime ? runtime : g_get_tmp_dir(), name, NULL);
    g_autofree char *other = g_strconcat(path, "-XXXXXX", NULL);

    if (!mkdir(path, 0700) || (errno == EEXIST && is_private(path)))
        return g_steal_pointer(&path);
    if (g_mkdtemp(other))
        return g_steal_pointer(&other);
    tm_error_set_errno(error, errno, "directory '%s' for a socket", path);
    return NULL;
}

/* A listening socket in a directory that nobody else can enter: the descriptor, or -1. */
static int listen_privately(TcQemuServer *server, const TcQmp *qmp, GError **error)
{
    struct sockaddr_un address;
    int fd;

    server->directory = private_directory(qmp, error);
    if (!server->directory)
        return -1;
    server->path = g_build_filename(server->directory, "nbd.sock", NULL);
    if (!set_address(&address, server->path)) {
        tm_error_set(error,
                     "socket '%s': the path is too long: set XDG_RUNTIME_DIR to another "
                     "directory",
                     server->path);
        return -1;
    }
    unlink(server->path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address))) {
        tm_error_set_errno(error, errno, "socket '%s'", server->path);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

/* False with an error; or without one if there is a server already. */
static bool start_own(TcQemuServer *server, TcQmp *qmp, GError **error)
{
    int fd = listen_privately(server, qmp, error);
    json_object *arguments = json_object_new_object();
    json_object *address = tc_json_new("type", "fd", NULL);
    g_autoptr(json_object) passed = NULL, name = tc_json_new("fdname", FD_NAME, NULL);
    g_autoptr(GError) refused = NULL;

    json_object_object_add(address, "data", tc_json_new("str", FD_NAME, NULL));
    json_object_object_add(arguments, "addr", address);
    if (fd >= 0)
        passed = tc_qmp_execute_fd(qmp, "getfd", name, fd, error);
    if (fd >= 0)
        close(fd);
    if (!passed ||
        !tc_qmp_run(qmp, "blockdev-add",
                    tc_json_new("driver", "null-co", "node-name", TC_QEMU_SERVER, NULL), error)) {
        json_object_put(arguments);
        return false;
    }
    if (tc_qmp_run(qmp, "nbd-server-start", arguments, &refused))
        return true;
    tc_qmp_run(qmp, "closefd", json_object_get(name), NULL);
    if (!tc_qmp_run(qmp, "blockdev-del", tc_json_new("node-name", TC_QEMU_SERVER, NULL), error))
        return false;
    if (!strstr(refused->message, "already running"))
        g_propagate_prefixed_error(error, g_steal_pointer(&refused),
                                   "QEMU does not start its NBD server: ");
    return false;
}

/* ---- a server that runs already */

/* The inodes of the sockets that the process has: a set of strings. Returned. */
static GHashTable *sockets_of(pid_t pid)
{
    GHashTable *inodes = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", (int)pid);
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *link = g_build_filename(path, name, NULL);
        g_autofree char *target = g_file_read_link(link, NULL);

        if (target && g_str_has_prefix(target, "socket:[")) {
            target[strlen(target) - 1] = 0;
            g_hash_table_add(inodes, g_strdup(target + strlen("socket:[")));
        }
    }
    if (dir)
        g_dir_close(dir);
    return inodes;
}

/* Whether NBD is what greets at the socket. */
static bool greets(const char *path)
{
    struct timeval limit = { .tv_sec = GREETING_MS / 1000, .tv_usec = GREETING_MS % 1000 * 1000 };
    struct sockaddr_un address;
    char text[sizeof(GREETING) - 1];
    int fd = set_address(&address, path) ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
    bool yes;

    if (fd < 0)
        return false;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    yes = !connect(fd, (struct sockaddr *)&address, sizeof(address)) &&
          recv(fd, text, sizeof(text), MSG_WAITALL) == sizeof(text) &&
          !memcmp(text, GREETING, sizeof(text));
    close(fd);
    return yes;
}

/* Whether a character device, such as a monitor or a console, has the socket. To connect to it
 * could disturb somebody. */
static bool is_chardev(json_object *chardevs, const char *path)
{
    for (size_t i = 0; i < json_object_array_length(chardevs); i++) {
        const char *file = tc_json_string(json_object_array_get_idx(chardevs, i), "filename");

        if (file && strstr(file, path))
            return true;
    }
    return false;
}

/* The path in a line of /proc/net/unix, as the process gave it, if it is of a socket that listens
 * and is one of @inodes. Borrowed from the line. */
static const char *listening_path(const char *line, GHashTable *inodes)
{
    unsigned flags, type, state;
    char inode[32];
    int at = 0;

    if (sscanf(line, "%*x: %*x %*x %x %x %x %31s %n", &flags, &type, &state, inode, &at) < 4 ||
        !at || !(flags & LISTENING) || type != SOCK_STREAM || !line[at] || line[at] == '@' ||
        !g_hash_table_contains(inodes, inode))
        return NULL;
    return line + at;
}

static char *find_foreign(TcQmp *qmp)
{
    pid_t pid = tc_qmp_pid(qmp);
    g_autoptr(GHashTable) inodes = sockets_of(pid);
    g_autoptr(json_object) chardevs = tc_qmp_execute(qmp, "query-chardev", NULL, NULL);
    g_autofree char *text = NULL, *file = g_strdup_printf("/proc/%d/net/unix", (int)pid);
    g_auto(GStrv) lines = NULL;

    if (!chardevs || !g_file_get_contents(file, &text, NULL, NULL))
        return NULL;
    lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        const char *given = listening_path(lines[i], inodes);
        g_autofree char *path = NULL;

        if (!given || is_chardev(chardevs, given))
            continue;
        path =
            *given == '/' ? g_strdup(given) : g_strdup_printf("/proc/%d/cwd/%s", (int)pid, given);
        if (greets(path))
            return g_steal_pointer(&path);
    }
    return NULL;
}

bool tc_qemu_server_start(TcQemuServer *server, TcQmp *qmp, GError **error)
{
    GError *failed = NULL;

    if (start_own(server, qmp, &failed))
        return true;
    if (failed) {
        g_propagate_error(error, failed);
        return false;
    }
    tc_qemu_server_clear(server);
    server->path = find_foreign(qmp);
    if (server->path)
        return true;
    return tm_error_set(error, "QEMU runs an NBD server already, which can't be reached from here "
                               "through a unix socket: stop it (nbd-server-stop), then try again");
}

void tc_qemu_server_clear(TcQemuServer *server)
{
    if (server->directory) {
        unlink(server->path);
        rmdir(server->directory);
    }
    g_clear_pointer(&server->path, g_free);
    g_clear_pointer(&server->directory, g_free);
}
