/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/fuse/mount.c: the process that mounts and unmounts for a daemon.
 *
 * It keeps no descriptor but its socket, /dev/null and one for messages of libfuse and fusermount3,
 * and ignores the signals that end the daemon, whose end it notices by the socket. A mount is
 * unmounted only while it is this one: whoever has mounted at the same path since is left alone. */
#define FUSE_USE_VERSION 34
#include "server/fuse/fuse_internal.h"

#include "util/unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define TYPE     "fuse.tidemark"
#define TRIES    200
#define TRY_USEC 10000

typedef struct Mount {
    struct fuse_session *fuse;
    char *path, *device; /* as mountinfo says */
} Mount;

typedef struct Process {
    GPtrArray *mounts;
    bool sealed;
    int messages; /* a file in memory, which is standard error, too */
} Process;

static void mount_free(void *opaque)
{
    Mount *m = opaque;

    fuse_session_destroy(m->fuse);
    g_free(m->path);
    g_free(m->device);
    g_free(m);
}

/* ---- answers */

static bool fail(FexpAnswer *answer, const char *format, ...) G_GNUC_PRINTF(2, 3);

static bool fail(FexpAnswer *answer, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(answer->text, sizeof(answer->text), format, args);
    va_end(args);
    answer->ok = false;
    return false;
}

static void clear_messages(const Process *p)
{
    if (ftruncate(p->messages, 0) == 0)
        lseek(p->messages, 0, SEEK_SET);
}

/* What libfuse or fusermount3 has said last; @text has room for @size bytes. */
static void last_message(const Process *p, char *text, size_t size)
{
    char all[FEXP_TEXT_MAX];
    ssize_t n = pread(p->messages, all, sizeof(all) - 1, 0);
    char *line;

    all[n > 0 ? n : 0] = '\0';
    g_strchomp(all);
    line = strrchr(all, '\n');
    g_strlcpy(text, *all ? (line ? line + 1 : all) : "no permission", size);
}

/* ---- what is mounted */

/* Undoes the escapes of mountinfo: \040 and the like. */
static void unescape(char *s)
{
    char *to = s;

    for (; *s; s++) {
        if (s[0] == '\\' && s[1] && s[2] && s[3]) {
            *to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
            s += 3;
        } else {
            *to++ = *s;
        }
    }
    *to = '\0';
}

/* Words of a line of mountinfo. */
enum { DEVICE = 2, PATH = 4 };

/* Of the last mount whose word @key is @value, if it is a daemon's FUSE export, the word @wanted:
 * returned; or NULL. */
static char *find_mount(int key, const char *value, int wanted)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    char *line = NULL, *found = NULL;
    size_t size = 0;

    while (f && getline(&line, &size, f) > 0) {
        g_auto(GStrv) words = g_strsplit(line, " ", -1);
        char *type = strstr(line, " - ");

        if (g_strv_length(words) < 7 || !type)
            continue;
        unescape(words[PATH]);
        if (strcmp(words[key], value))
            continue;
        g_clear_pointer(&found, g_free); /* the last one is on top */
        if (g_str_has_prefix(type + 3, TYPE " "))
            found = g_strdup(words[wanted]);
    }
    if (f)
        fclose(f);
    free(line);
    return found;
}

/* The device of the mount that one sees at @path, if it is a daemon's FUSE export: returned; or
 * NULL. */
static char *mounted_at(const char *path)
{
    return find_mount(PATH, path, DEVICE);
}

static bool run_fusermount(const char *path)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        execlp("fusermount3", "fusermount3", "-u", "-z", "--", path, (char *)NULL);
        fprintf(stderr, "fusermount3: %s\n", strerror(errno));
        _exit(127);
    }
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static bool take_away(const char *path)
{
    return umount2(path, MNT_DETACH) == 0 || run_fusermount(path);
}

/* What a daemon left that was killed along with its process. One that another daemon serves
 * stays. */
static bool remove_left(Process *p, const char *path, FexpAnswer *answer)
{
    for (int i = 0; i < TRIES; i++) {
        g_autofree char *before = mounted_at(path), *after = NULL;
        struct stat st;
        int err;

        if (!before)
            return true;
        err = stat(path, &st) < 0 ? errno : 0;
        after = mounted_at(path);
        if (g_strcmp0(before, after)) /* somebody else is about it */
            continue;
        if (err != ENOTCONN && err != ECONNABORTED)
            return fail(answer, "another daemon has mounted an export there");
        if (take_away(path))
            answer->removed = true;
        else
            g_usleep(TRY_USEC);
    }
    return fail(answer, "a killed daemon has left a mount there: 'umount -l %s' removes it", path);
}

/* ---- orders */

static bool send_answer(int socket, const FexpAnswer *answer, int fd)
{
    struct iovec iov = { (void *)answer, sizeof(*answer) };

    return tm_unix_send(socket, &iov, 1, fd, 0) >= 0;
}

static bool is_regular(const char *path, FexpAnswer *answer)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return fail(answer, "Failed to stat '%s': %s", path, strerror(errno));
    return S_ISREG(st.st_mode) || fail(answer, "'%s' is not a regular file", path);
}

struct fuse_session *fexp_fuse_new(const char *id, bool others, const struct fuse_lowlevel_ops *ops,
                                   size_t size, void *userdata)
{
    g_autofree char *options =
        g_strdup_printf("max_read=%u,default_permissions,fsname=%s,subtype=tidemark%s", FEXP_IO_MAX,
                        id, others ? ",allow_other" : "");
    char *argv[] = { "tidemarkd", "-o", options, NULL };
    struct fuse_args args = FUSE_ARGS_INIT(3, argv);
    struct fuse_session *fuse = fuse_session_new(&args, ops, size, userdata);

    fuse_opt_free_args(&args);
    return fuse;
}

/* The new mount, or NULL. */
static Mount *mount_new(Process *p, const FexpAsk *ask, FexpAnswer *answer)
{
    static const struct fuse_lowlevel_ops none = { .init = NULL };
    Mount *m = g_new0(Mount, 1);
    char why[FEXP_TEXT_MAX / 2];

    m->path = g_strdup(ask->path);
    clear_messages(p);
    m->fuse = fexp_fuse_new(ask->id, ask->others, &none, sizeof(none), NULL);
    if (m->fuse && fuse_session_mount(m->fuse, m->path) == 0) {
        m->device = mounted_at(m->path);
        return m;
    }
    last_message(p, why, sizeof(why));
    fail(answer, "%s", why);
    if (m->fuse)
        mount_free(m);
    else
        g_free(m->path), g_free(m);
    return NULL;
}

static bool do_mount(Process *p, int socket, const FexpAsk *ask, FexpAnswer *answer)
{
    Mount *m;

    if (p->sealed)
        return fail(answer, "nothing can be mounted any more");
    if (!remove_left(p, ask->path, answer) || !is_regular(ask->path, answer))
        return false;
    m = mount_new(p, ask, answer);
    if (m)
        g_ptr_array_add(p->mounts, m);
    return m != NULL;
}

/* Where it is mounted now, returned, or NULL. A directory of its path may have been renamed; as
 * long as it is mounted anywhere, no other mount has its device. */
static char *place_of(const Mount *m)
{
    g_autofree char *device = mounted_at(m->path);
    struct pollfd p = { .fd = fuse_session_fd(m->fuse) };

    if (device && !g_strcmp0(device, m->device))
        return g_strdup(m->path);
    return m->device && poll(&p, 1, 0) == 0 ? find_mount(DEVICE, m->device, PATH) : NULL;
}

static bool unmount(Process *p, const Mount *m, FexpAnswer *answer)
{
    g_autofree char *path = place_of(m);

    clear_messages(p);
    if (!path || take_away(path))
        return true;
    last_message(p, answer->text, sizeof(answer->text));
    return false;
}

static bool do_unmount(Process *p, const FexpAsk *ask, FexpAnswer *answer)
{
    for (guint i = 0; i < p->mounts->len; i++) {
        Mount *m = p->mounts->pdata[i];

        if (strcmp(m->path, ask->path))
            continue;
        answer->ok = unmount(p, m, answer);
        g_ptr_array_remove_index(p->mounts, i);
        return answer->ok;
    }
    return fail(answer, "it is not mounted");
}

static bool obey(Process *p, int socket, const FexpAsk *ask)
{
    FexpAnswer answer = { .ok = true };
    int fd = -1;

    switch (ask->order) {
    case FEXP_MOUNT:
        if (do_mount(p, socket, ask, &answer))
            fd = fuse_session_fd(((Mount *)p->mounts->pdata[p->mounts->len - 1])->fuse);
        break;
    case FEXP_UNMOUNT:
        do_unmount(p, ask, &answer);
        break;
    case FEXP_SEAL:
        p->sealed = true;
        break;
    }
    return send_answer(socket, &answer, fd);
}

/* ---- the process */

/* Nobody waits for its end by a descriptor that it has. Returns the socket. */
static int let_go(Process *p, int socket)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int messages = memfd_create("messages", MFD_CLOEXEC);

    socket = fcntl(socket, F_DUPFD_CLOEXEC, 5);
    messages = fcntl(messages, F_DUPFD_CLOEXEC, 5);
    dup2(null, 0);
    dup2(null, 1);
    dup2(messages, 2);
    dup3(socket, 3, O_CLOEXEC);
    dup3(messages, 4, O_CLOEXEC);
    close_range(5, ~0u, 0);
    p->messages = 4;
    return 3;
}

void fexp_mount_serve(int socket)
{
    Process p = { .mounts = g_ptr_array_new_with_free_func(mount_free) };
    FexpAnswer ignored;
    FexpAsk ask;

    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
    prctl(PR_SET_NAME, "tidemarkd-mount", 0, 0, 0);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    socket = let_go(&p, socket);
    while (recv(socket, &ask, sizeof(ask), 0) == sizeof(ask)) {
        ask.id[sizeof(ask.id) - 1] = ask.path[sizeof(ask.path) - 1] = '\0';
        if (!obey(&p, socket, &ask))
            break;
    }
    for (guint i = 0; i < p.mounts->len; i++)
        unmount(&p, p.mounts->pdata[i], &ignored);
    _exit(EXIT_SUCCESS);
}
