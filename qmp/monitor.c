/* qmp/monitor.c: listens, and keeps the list of sessions. The sessions are in session.c. */
#include "qmp/monitor.h"
#include "qmp/session.h"
#include "util/error.h"
#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 16

/* How long the end of a monitor may wait for its clients, in microseconds. */
#define FAREWELL G_USEC_PER_SEC

struct QmpMonitor {
    QmpContext *ctx;
    QmpMonitorOptions options;
    GPtrArray *sessions; /* QmpSession, owned */
    int fd;              /* listening, or -1 */
    GSource *watch;      /* on fd */
    char *path;          /* of the socket, or NULL */
    struct stat identity;
};

static void session_ended(void *opaque, QmpSession *session)
{
    QmpMonitor *m = opaque;

    g_ptr_array_remove(m->sessions, session);
}

static void add_session(QmpMonitor *m, int in, int out, bool owned)
{
    QmpSessionOptions o = {
        in, out, owned, m->options.pretty, session_ended, m->options.log, m, m->options.opaque
    };

    g_ptr_array_add(m->sessions, qmp_session_new(m->ctx, &o));
}

static QmpMonitor *monitor_new(QmpContext *ctx, const QmpMonitorOptions *options)
{
    QmpMonitor *m = g_new0(QmpMonitor, 1);

    m->ctx = ctx;
    if (options)
        m->options = *options;
    m->sessions = g_ptr_array_new_with_free_func((GDestroyNotify)qmp_session_free);
    m->fd = -1;
    return m;
}

static gboolean accept_client(int fd, GIOCondition condition, void *opaque)
{
    QmpMonitor *m = opaque;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

    if (client >= 0)
        add_session(m, client, client, true);
    else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED && m->options.log)
        m->options.log(m->options.opaque, "cannot accept a QMP client");
    return G_SOURCE_CONTINUE;
}

/* A socket that an earlier daemon left is in the way of bind; anything else at @path is not ours.
 */
static bool remove_stale(const char *path, GError **error)
{
    struct stat st;

    if (lstat(path, &st) || !S_ISSOCK(st.st_mode) || !unlink(path) || errno == ENOENT)
        return true;
    return tm_error_set_errno(error, errno, "Failed to unlink socket %s", path);
}

static bool listen_unix(QmpMonitor *m, const char *path, GError **error)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    if (strlen(path) >= sizeof(address.sun_path))
        return tm_error_set(error,
                            "UNIX socket path '%s' is too long, it must be less than %zu bytes",
                            path, sizeof(address.sun_path));
    strcpy(address.sun_path, path);
    m->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (m->fd < 0)
        return tm_error_set_errno(error, errno, "Failed to create a socket");
    if (!remove_stale(path, error))
        return false;
    /* The file that bind makes has the mode of the socket: never a moment when others may connect.
     */
    if (fchmod(m->fd, 0600) || bind(m->fd, (struct sockaddr *)&address, sizeof(address)))
        return tm_error_set_errno(error, errno, "Failed to bind socket to %s", path);
    m->path = g_canonicalize_filename(path, NULL); /* --daemonize changes directory */
    if (lstat(path, &m->identity) || listen(m->fd, BACKLOG))
        return tm_error_set_errno(error, errno, "Failed to listen on socket %s", path);
    return true;
}

QmpMonitor *qmp_monitor_new_unix(QmpContext *ctx, const char *path,
                                 const QmpMonitorOptions *options, GError **error)
{
    QmpMonitor *m = monitor_new(ctx, options);

    if (!listen_unix(m, path, error)) {
        qmp_monitor_free(m);
        return NULL;
    }
    m->watch = g_unix_fd_source_new(m->fd, G_IO_IN);
    g_source_set_callback(m->watch, G_SOURCE_FUNC(accept_client), m, NULL);
    g_source_attach(m->watch, qmp_context_main(ctx));
    return m;
}

QmpMonitor *qmp_monitor_new_stdio(QmpContext *ctx, int in, int out,
                                  const QmpMonitorOptions *options)
{
    QmpMonitor *m = monitor_new(ctx, options);

    add_session(m, in, out, false);
    return m;
}

/* Another daemon may have taken our path over meanwhile. */
static void remove_socket(QmpMonitor *m)
{
    struct stat st;

    if (m->path && !lstat(m->path, &st) && st.st_ino == m->identity.st_ino &&
        st.st_dev == m->identity.st_dev)
        unlink(m->path);
}

void qmp_monitor_free(QmpMonitor *m)
{
    gint64 until = g_get_monotonic_time() + FAREWELL;

    if (!m)
        return;
    if (m->watch) {
        g_source_destroy(m->watch);
        g_source_unref(m->watch);
    }
    for (guint i = 0; i < m->sessions->len; i++)
        qmp_session_flush(g_ptr_array_index(m->sessions, i), until);
    g_ptr_array_unref(m->sessions);
    if (m->fd >= 0)
        close(m->fd);
    remove_socket(m);
    g_free(m->path);
    g_free(m);
}

unsigned qmp_monitor_sessions(const QmpMonitor *m)
{
    return m->sessions->len;
}
