/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/lock.c: who may work on a directory at the same time.
 *
 * Byte 0 of the file is the writer's; byte 1 keeps points in place. Both are taken in this order,
 * so that nobody waits for each other. OFD locks go with the process, however it ends. */
#include "client/repository/hashes.h"
#include "client/repository/repository_internal.h"
#include "client/text.h"
#include "util/file.h"
#include "util/log.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { WRITER, POINTS };
#define TEXT_MAX 256u
#define POLL_US  (G_USEC_PER_SEC / 10)

/* As the use asks for: F_UNLCK, F_RDLCK or F_WRLCK. */
static short kind_of(TcRepoUse use, int byte)
{
    if (byte == WRITER)
        return use == TC_REPO_ADD || use == TC_REPO_CHANGE ? F_WRLCK : F_UNLCK;
    return use == TC_REPO_CHANGE ? F_WRLCK : F_RDLCK;
}

static int take(const TcRepository *repo, int fd, int byte, short kind)
{
    struct flock lock = { .l_type = kind, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

    return repo->sys->lock(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

/* Whoever wrote last says who he is. Returned. */
static char *who(const TcRepository *repo, int fd)
{
    char text[TEXT_MAX + 1];
    uint64_t done = 0;

    tm_read_all(repo->sys, fd, text, TEXT_MAX, 0, &done);
    text[done] = '\0';
    g_strchomp(text);
    return *text ? tc_printable(text) : g_strdup("another process");
}

/* What stands in the way. */
static char *holder(const TcRepository *repo, int fd, int byte)
{
    g_autofree char *writer = who(repo, fd);

    return byte == WRITER ? g_strdup_printf("is locked by %s", writer)
           : repo->use == TC_REPO_CHANGE
               ? g_strdup("is locked: another process reads points or adds one")
               : g_strdup("is locked: another process changes or removes points");
}

/* Until it is free, or the time has come. */
static bool wait_for(const TcRepository *repo, int fd, int byte, int wait_s, GError **error)
{
    gint64 until = g_get_monotonic_time() + (gint64)wait_s * G_USEC_PER_SEC;
    short kind = kind_of(repo->use, byte);

    for (bool again = false;; again = true) {
        int ret = kind == F_UNLCK ? 0 : take(repo, fd, byte, kind);
        g_autofree char *state = NULL;

        if (ret == 0)
            return true;
        if (ret != -EAGAIN && ret != -EACCES)
            return tm_error_set_errno(error, -ret, "Could not lock repository '%s'", repo->path);
        state = holder(repo, fd, byte);
        if (wait_s >= 0 && g_get_monotonic_time() >= until)
            return tc_repo_error_set(error, TC_REPO_ERROR_LOCKED,
                                     "repository '%s' %s: try again when that has ended, or use "
                                     "--wait",
                                     repo->path, state);
        if (!again)
            tm_log(TM_LOG_INFO, "repository '%s' %s: waiting", repo->path, state);
        g_usleep(POLL_US);
    }
}

/* For whoever finds it locked. That it fails is no reason to do nothing. */
static void sign(const TcRepository *repo, int fd, const char *what)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *time = g_date_time_format(now, "%Y-%m-%dT%H:%M:%SZ");
    g_autofree char *text = g_strdup_printf("%s (process %d on %s, since %s)\n", what, getpid(),
                                            g_get_host_name(), time);

    if (repo->sys->ftruncate(fd, 0) == 0)
        tm_write_all(repo->sys, fd, text, MIN(strlen(text), TEXT_MAX), 0);
}

/* Of a repository that can't be written, nobody changes points: -1, and *error unset. */
static int open_lock(const TcRepository *repo, GError **error)
{
    g_autofree char *path = g_build_filename(repo->path, TC_REPO_LOCK, NULL);
    int flags = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    int fd = repo->sys->open(path, O_RDWR | O_CREAT | flags, 0600), denied = errno;

    if (fd < 0 && repo->use == TC_REPO_READ && (denied == EROFS || denied == EACCES)) {
        fd = repo->sys->open(path, O_RDONLY | flags, 0);
        if (fd < 0 && errno == ENOENT)
            return -1;
    }
    if (fd < 0)
        tm_error_set_errno(error, errno, "Could not open '%s'", path);
    return fd;
}

/* A writer signs before it waits for readers: whoever comes meanwhile reads its name. */
static bool take_both(const TcRepository *repo, int fd, const TcRepoOptions *options,
                      GError **error)
{
    if (!wait_for(repo, fd, WRITER, options->wait_s, error))
        return false;
    if (repo->use != TC_REPO_READ)
        sign(repo, fd, options->what ? options->what : "another process");
    return wait_for(repo, fd, POINTS, options->wait_s, error);
}

bool tc_directory_lock(TcRepository *repo, const TcRepoOptions *options, GError **error)
{
    GError *failure = NULL;
    int fd;

    if (repo->use == TC_REPO_LIST)
        return true;
    fd = open_lock(repo, &failure);
    if (fd < 0 && !failure)
        return true;
    if (fd >= 0 && take_both(repo, fd, options, &failure)) {
        repo->lock_fd = fd;
        return true;
    }
    if (fd >= 0)
        repo->sys->close(fd);
    g_propagate_error(error, failure);
    return false;
}

void tc_directory_unlock(TcRepository *repo)
{
    if (repo->lock_fd >= 0)
        repo->sys->close(repo->lock_fd);
    repo->lock_fd = -1;
}

/* By the file of the lock: whoever has that is the only one at this place. The number of a device
 * may be another after a restart, so it counts only where the time of birth is not known. */
char *tc_directory_tag(const TcRepository *repo)
{
    struct timespec birth = { 0 };
    uint8_t hash[TC_HASH_SIZE];
    char hex[2 * TC_HASH_SIZE + 1];
    struct stat st = { 0 };
    g_autofree char *text = NULL;
    bool known = repo->sys->birth && repo->sys->birth(repo->lock_fd, &birth) == 0;

    repo->sys->fstat(repo->lock_fd, &st);
    text =
        g_strdup_printf("%" PRIu64 " %" PRIu64 " %" PRId64 ".%ld", known ? 0 : (uint64_t)st.st_dev,
                        (uint64_t)st.st_ino, (int64_t)birth.tv_sec, birth.tv_nsec);
    tc_hash(text, strlen(text), hash);
    tc_hash_text(hash, hex);
    return g_strndup(hex, 8);
}

bool tc_directory_relock(TcRepository *repo, TcRepoUse use)
{
    short writer = kind_of(use, WRITER), points = kind_of(use, POINTS);

    if (repo->lock_fd < 0 || take(repo, repo->lock_fd, WRITER, writer) < 0)
        return false;
    if (take(repo, repo->lock_fd, POINTS, points) == 0)
        return true;
    take(repo, repo->lock_fd, WRITER, kind_of(repo->use, WRITER));
    return false;
}

bool tc_directory_is_written(const TcRepository *repo)
{
    g_autofree char *path = g_build_filename(repo->path, TC_REPO_LOCK, NULL);
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = WRITER, .l_len = 1 };
    int fd = repo->sys->open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0);
    bool is = fd >= 0 && repo->sys->lock(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;

    if (fd >= 0)
        repo->sys->close(fd);
    return is;
}
