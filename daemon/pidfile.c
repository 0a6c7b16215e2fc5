/* daemon/pidfile.c: see the header. The lock is what tells a live daemon from a file left by a
 * killed one. */
#include "daemon/pidfile.h"

#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct Pidfile {
    char *path;
    int fd;
};

static bool fill(int fd, const char *path, GError **error)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    char text[32];
    int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());

    if (fcntl(fd, F_SETLK, &lock) < 0)
        return tm_error_set(error, "cannot create PID file: '%s' is locked by another process",
                            path);
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n)
        return tm_error_set_errno(error, errno, "cannot create PID file: Could not write '%s'",
                                  path);
    return true;
}

Pidfile *pidfile_create(const char *path, GError **error)
{
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    Pidfile *pidfile;

    if (fd < 0) {
        tm_error_set_errno(error, errno, "cannot create PID file: Could not create '%s'", path);
        return NULL;
    }
    if (!fill(fd, path, error)) {
        close(fd);
        return NULL;
    }
    pidfile = g_new0(Pidfile, 1);
    pidfile->fd = fd;
    pidfile->path = g_canonicalize_filename(path, NULL); /* --daemonize changes directory */
    return pidfile;
}

void pidfile_remove(Pidfile *pidfile)
{
    if (!pidfile)
        return;
    unlink(pidfile->path);
    close(pidfile->fd);
    g_free(pidfile->path);
    g_free(pidfile);
}
