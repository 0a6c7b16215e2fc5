/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/serve/daemon_process.c: see daemon_process.h. */
#include "client/serve/daemon_process.h"
#include "client/daemon/runtime_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOCK_NAME "lock"

enum { START_MS = 10, KEPT_FD = 3 };

static void signals_of_interest(sigset_t *signals)
{
    sigemptyset(signals);
    sigaddset(signals, SIGINT);
    sigaddset(signals, SIGTERM);
    sigaddset(signals, SIGHUP);
    sigaddset(signals, SIGCHLD);
}

void tc_daemon_signals(void)
{
    sigset_t signals;

    signal(SIGCHLD, SIG_DFL); /* whoever ignores it can't wait for children */
    signals_of_interest(&signals);
    sigprocmask(SIG_BLOCK, &signals, NULL);
}

/* The next signal, within @ms milliseconds (-1: whenever it comes); 0: none came. */
static int next_signal(int ms)
{
    struct timespec limit = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };
    sigset_t signals;
    int signo;

    signals_of_interest(&signals);
    do
        signo = ms < 0 ? sigwaitinfo(&signals, NULL) : sigtimedwait(&signals, NULL, &limit);
    while (signo < 0 && errno == EINTR);
    return MAX(signo, 0);
}

/* ---- the program */

/* Beside this program, in the tree that both are built in, where distributions put daemons, else
 * as the shell would find it. Returned. */
static char *find_program(GError **error)
{
    static const char *const places[] = { "tidemarkd", "../daemon/tidemarkd", "../sbin/tidemarkd",
                                          "../libexec/tidemarkd" };
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *dir = self ? g_path_get_dirname(self) : NULL;
    char *found;

    for (unsigned i = 0; dir && i < G_N_ELEMENTS(places); i++) {
        g_autofree char *path = g_build_filename(dir, places[i], NULL);

        if (g_file_test(path, G_FILE_TEST_IS_EXECUTABLE) &&
            g_file_test(path, G_FILE_TEST_IS_REGULAR))
            return g_steal_pointer(&path);
    }
    found = g_find_program_in_path("tidemarkd");
    if (!found)
        tm_error_set(error, "tidemarkd is neither beside this program nor in PATH");
    return found;
}

/* In the tree that both are built in, where the plug-in is; NULL: it is installed. Returned. */
static char *find_modules(const char *plugin)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *dir = self ? g_path_get_dirname(self) : NULL;
    g_autofree char *file = g_strconcat(plugin, ".so", NULL);
    g_autofree char *modules = dir ? g_build_filename(dir, "..", plugin, NULL) : NULL;
    g_autofree char *path = modules ? g_build_filename(modules, file, NULL) : NULL;

    return path && g_file_test(path, G_FILE_TEST_IS_REGULAR) ? g_steal_pointer(&modules) : NULL;
}

static char *with_commas_doubled(const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);

    return g_strjoinv(",,", parts);
}

static GPtrArray *arguments(const TcDaemon *daemon, bool detach, GError **error)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *qmp = with_commas_doubled(daemon->qmp_path);
    g_autofree char *nbd = with_commas_doubled(daemon->nbd_path);
    g_autofree char *modules = daemon->plugin ? find_modules(daemon->plugin) : NULL;
    char *program = find_program(error);

    if (!program)
        return NULL;
    g_ptr_array_add(argv, program);
    g_ptr_array_add(argv, g_strdup("--log-level")); /* serve says itself when it is ready */
    g_ptr_array_add(argv, g_strdup("warning"));
    g_ptr_array_add(argv, g_strdup("--chardev"));
    g_ptr_array_add(argv, g_strconcat("socket,id=qmp,server=on,wait=off,path=", qmp, NULL));
    g_ptr_array_add(argv, g_strdup("--monitor"));
    g_ptr_array_add(argv, g_strdup("chardev=qmp"));
    g_ptr_array_add(argv, g_strdup("--nbd-server"));
    g_ptr_array_add(argv, g_strconcat("addr.type=unix,addr.path=", nbd, NULL));
    if (modules) {
        g_ptr_array_add(argv, g_strdup("--module-dir"));
        g_ptr_array_add(argv, g_steal_pointer(&modules));
    }
    if (detach)
        g_ptr_array_add(argv, g_strdup("--daemonize"));
    g_ptr_array_add(argv, NULL);
    return g_steal_pointer(&argv);
}

/* In the new process. */
static void set_up_child(gpointer parent)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (!parent)
        return;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != GPOINTER_TO_INT(parent))
        raise(SIGTERM); /* it has gone meanwhile */
}

static bool spawn(TcDaemon *daemon, bool detach, int keep_fd, GError **error)
{
    g_autoptr(GPtrArray) argv = arguments(daemon, detach, error);
    int kept = KEPT_FD;

    return argv && g_spawn_async_with_pipes_and_fds(
                       NULL, (const char *const *)argv->pdata, NULL, G_SPAWN_DO_NOT_REAP_CHILD,
                       set_up_child, detach ? NULL : GINT_TO_POINTER(getpid()), -1, -1, -1,
                       &keep_fd, &kept, keep_fd >= 0, &daemon->pid, NULL, NULL, NULL, error);
}

/* ---- its life */

/* Whether it has ended: then with what *status. */
static bool has_ended(TcDaemon *daemon, int *status)
{
    if (waitpid(daemon->pid, status, WNOHANG) != daemon->pid)
        return false;
    daemon->pid = 0;
    return true;
}

/* The program has said why on standard error. */
static bool wait_detached(TcDaemon *daemon, GError **error)
{
    int status;

    while (!has_ended(daemon, &status))
        next_signal(-1);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        return tm_error_set(error, "tidemarkd could not start");
    daemon->qmp = tc_qmp_open(daemon->qmp_path, error);
    return daemon->qmp != NULL;
}

static bool wait_started(TcDaemon *daemon, GError **error)
{
    int status;

    for (;;) {
        int signo = next_signal(START_MS);

        if (has_ended(daemon, &status))
            return tm_error_set(error, "tidemarkd could not start");
        if (signo && signo != SIGCHLD)
            return tm_error_set(error, "interrupted: nothing is served");
        daemon->qmp =
            tc_socket_listens(daemon->qmp_path) ? tc_qmp_open(daemon->qmp_path, NULL) : NULL;
        if (daemon->qmp)
            return true;
    }
}

void tc_daemon_remove_dir(const TcDaemon *daemon)
{
    g_autofree char *lock = g_build_filename(daemon->dir, LOCK_NAME, NULL);

    unlink(lock);
    rmdir(daemon->dir);
}

/* Two that begin at once don't both find that nobody is there. A descriptor, or -1. */
static int lock_directory(const char *dir, GError **error)
{
    g_autofree char *path = g_build_filename(dir, LOCK_NAME, NULL);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0 || flock(fd, LOCK_EX)) {
        tm_error_set_errno(error, errno, "Could not lock '%s'", path);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

static bool start_or_join(TcDaemon *daemon, bool detach, bool alone, int keep_fd, GError **error)
{
    if (tc_socket_listens(daemon->qmp_path)) {
        if (alone)
            return tm_error_set(error,
                                "a daemon serves at '%s' already: use --socket-dir DIR for "
                                "another one",
                                daemon->qmp_path);
        daemon->qmp = tc_qmp_open(daemon->qmp_path, error);
        return daemon->qmp != NULL;
    }
    daemon->started = spawn(daemon, detach, keep_fd, error);
    return daemon->started && (detach ? wait_detached : wait_started)(daemon, error);
}

bool tc_daemon_start(TcDaemon *daemon, const char *dir, bool detach, bool alone, int keep_fd,
                     GError **error)
{
    bool ok;
    int lock;

    *daemon = (TcDaemon){ .dir = g_canonicalize_filename(dir, NULL), .plugin = daemon->plugin };
    daemon->qmp_path = g_build_filename(daemon->dir, TC_QMP_SOCKET_NAME, NULL);
    daemon->nbd_path = g_build_filename(daemon->dir, TC_NBD_SOCKET_NAME, NULL);
    if (!tc_runtime_dir_make(dir, error))
        return false;
    lock = lock_directory(dir, error);
    if (lock < 0)
        return false;
    ok = start_or_join(daemon, detach, alone, keep_fd, error);
    close(lock);
    if (!ok)
        tc_daemon_stop(daemon);
    return ok;
}

bool tc_daemon_wait(TcDaemon *daemon, GError **error)
{
    int status;

    while (!has_ended(daemon, &status)) {
        int signo = next_signal(-1);

        if (signo && signo != SIGCHLD)
            kill(daemon->pid, SIGTERM);
    }
    if (WIFSIGNALED(status))
        return tm_error_set(error,
                            "tidemarkd was killed by signal %d: the bitmaps of its disks are kept; "
                            "run the same command again",
                            WTERMSIG(status));
    if (WEXITSTATUS(status))
        return tm_error_set(error, "tidemarkd ended with status %d: see its messages",
                            WEXITSTATUS(status));
    return true;
}

void tc_daemon_stop(TcDaemon *daemon)
{
    g_autoptr(json_object) answer = NULL;

    if (daemon->qmp && daemon->started && !daemon->pid)
        answer = tc_qmp_execute(daemon->qmp, "quit", NULL, NULL);
    g_clear_pointer(&daemon->qmp, tc_qmp_free);
    if (!daemon->pid)
        return;
    kill(daemon->pid, SIGTERM);
    waitpid(daemon->pid, NULL, 0);
    daemon->pid = 0;
}

void tc_daemon_clear(TcDaemon *daemon)
{
    g_clear_pointer(&daemon->qmp, tc_qmp_free);
    g_clear_pointer(&daemon->dir, g_free);
    g_clear_pointer(&daemon->qmp_path, g_free);
    g_clear_pointer(&daemon->nbd_path, g_free);
}
