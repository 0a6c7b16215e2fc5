/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/hook.c: see hook.h. */
#include "client/backup/hook.h"
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

static char **hook_environment(const TcHook *hook)
{
    char **env = g_get_environ();

    if (hook->repository)
        env = g_environ_setenv(env, "TIDEMARK_REPOSITORY", hook->repository, TRUE);
    if (hook->point)
        env = g_environ_setenv(env, "TIDEMARK_POINT", hook->point, TRUE);
    if (hook->result)
        env = g_environ_setenv(env, "TIDEMARK_RESULT", hook->result, TRUE);
    return env;
}

/* With no signal blocked, and standard error as its output: ours may be read by a program. */
static int spawn(const TcHook *hook, pid_t *pid)
{
    g_auto(GStrv) env = hook_environment(hook);
    char *argv[] = { (char *)"sh", (char *)"-c", (char *)hook->command, NULL };
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, normal;
    int r;

    sigemptyset(&none);
    sigemptyset(&normal);
    sigaddset(&normal, SIGXFSZ);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &normal);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    r = posix_spawn(pid, "/bin/sh", &actions, &attributes, argv, env);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return r;
}

bool tc_hook_run(const TcHook *hook, GError **error)
{
    pid_t pid;
    int status, r;

    if (!hook->command)
        return true;
    r = spawn(hook, &pid);
    if (r)
        return tm_error_set_errno(error, r, "Could not run the command of %s", hook->option);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return tm_error_set_errno(error, errno, "Could not wait for the command of %s",
                                      hook->option);
    if (WIFSIGNALED(status))
        return tm_error_set(error, "the command of %s was ended by signal %d", hook->option,
                            WTERMSIG(status));
    return !WEXITSTATUS(status) || tm_error_set(error, "the command of %s ended with status %d",
                                                hook->option, WEXITSTATUS(status));
}
