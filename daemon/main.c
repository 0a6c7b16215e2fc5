/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/main.c: tidemarkd: start, run until asked to stop, end in order. */
#include "daemon/check.h"
#include "daemon/cmdline.h"
#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/dump.h"
#include "daemon/option.h"
#include "daemon/reload.h"
#include "daemon/sandbox.h"
#include "util/error.h"
#include "util/log.h"
#include "util/text.h"

#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <tidemark-version.h>
#include <unistd.h>

static gboolean on_signal(gpointer loop)
{
    g_main_loop_quit(loop);
    return G_SOURCE_CONTINUE;
}

/* Without a file that could be read again, it asks for the end, too. */
static gboolean on_hangup(gpointer opaque)
{
    Daemon *daemon = opaque;

    if (daemon->reload)
        reload_run(daemon->reload);
    else
        g_main_loop_quit(daemon->loop);
    return G_SOURCE_CONTINUE;
}

/* The last option of a kind, or NULL. */
static const CmdOption *last_of(const GArray *options, CmdKind kind)
{
    for (guint i = options->len; i-- > 0;) {
        if (g_array_index(options, CmdOption, i).kind == kind)
            return &g_array_index(options, CmdOption, i);
    }
    return NULL;
}

/* A connection is a descriptor: take as many as the system lets us have. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static bool set_log_level(TmLog *log, const CmdOption *option, GError **error)
{
    g_autofree char *place = NULL;

    if (option->kind != CMD_LOG_LEVEL || tm_log_set_levels(log, option->value, error))
        return true;
    place = option_place(option, "");
    g_prefix_error(error, "%s: ", place);
    return false;
}

static bool set_log_levels(TmLog *log, const GArray *options, GError **error)
{
    for (guint i = 0; i < options->len; i++) {
        if (!set_log_level(log, &g_array_index(options, CmdOption, i), error))
            return false;
    }
    return true;
}

/* All but the last one are logged, and that is the error. */
static bool no_problems(TmLog *log, const GPtrArray *problems, GError **error)
{
    for (guint i = 0; i + 1 < problems->len; i++)
        tm_log_note(log, &(TmLogFacts){ .area = TM_LOG_DAEMON, .level = TM_LOG_ERROR }, "%s",
                    (const char *)problems->pdata[i]);
    return !problems->len ||
           tm_error_set(error, "%s", (const char *)problems->pdata[problems->len - 1]);
}

/* ---- --check */

/* Takes the error, if there is one. */
static void add_problem(GPtrArray *problems, GError **error)
{
    if (*error)
        g_ptr_array_add(problems, g_strdup((*error)->message));
    g_clear_error(error);
}

static void find_problems(const GArray *options, const GPtrArray *configs, TmLog *log,
                          GPtrArray *problems)
{
    g_autoptr(GError) error = NULL;
    Sandbox *sandbox = sandbox_new(options, log, &error);
    Daemon daemon = { .log = log };

    add_problem(problems, &error);
    for (guint i = 0; i < options->len; i++) {
        set_log_level(log, &g_array_index(options, CmdOption, i), &error);
        add_problem(problems, &error);
    }
    if (daemon_init(&daemon, options, sandbox, problems, &error)) {
        for (guint i = 0; i < configs->len; i++)
            check_types(&daemon, configs->pdata[i], problems);
        check_names(&daemon, options, problems);
        check_files(&daemon, options, problems);
    }
    add_problem(problems, &error);
    daemon_finish(&daemon, NULL);
    sandbox_free(sandbox);
}

static int check(const GArray *options, const GPtrArray *configs, TmLog *log)
{
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);

    find_problems(options, configs, log, problems);
    for (guint i = 0; i < problems->len; i++) {
        g_autofree char *line = tm_text_line(problems->pdata[i], TM_LOG_TEXT_MAX);

        fprintf(stderr, "%s\n", line);
    }
    return problems->len ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ---- starting */

/* *helped: an option asked for help, and nothing is carried out. */
static bool start(Daemon *daemon, Sandbox *sandbox, const GArray *options, const GPtrArray *configs,
                  bool *helped, GError **error)
{
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);

    if (!sandbox_files(sandbox, error) || !daemon_init(daemon, options, sandbox, NULL, error))
        return false;
    *helped = daemon_help(daemon, options);
    if (*helped)
        return true;
    for (guint i = 0; i < configs->len; i++)
        check_types(daemon, configs->pdata[i], problems);
    if (!no_problems(daemon->log, problems, error))
        return false;
    g_unix_signal_add(SIGTERM, on_signal, daemon->loop);
    g_unix_signal_add(SIGINT, on_signal, daemon->loop);
    g_unix_signal_add(SIGHUP, on_hangup, daemon);
    for (guint i = 0; i < options->len; i++) {
        if (!option_run(daemon, &g_array_index(options, CmdOption, i), error))
            return false;
    }
    return true;
}

/* Until it is asked to stop. */
static void serve(Daemon *daemon, const GArray *given, const GArray *options,
                  const GPtrArray *configs)
{
    daemon->reload = configs->len ? reload_new(daemon, given, options, configs) : NULL;
    daemon_serve(daemon);
    g_main_loop_run(daemon->loop);
    g_clear_pointer(&daemon->reload, reload_free);
}

static int run(const GArray *given, const GArray *options, const GPtrArray *configs, TmLog *log,
               GError **error)
{
    const CmdOption *pidfile_option = last_of(options, CMD_PIDFILE);
    Sandbox *sandbox = sandbox_new(options, log, error);
    Daemon daemon = { .log = log };
    Pidfile *pidfile = NULL;
    int background = -1;
    bool helped = false, ok;

    if (!sandbox ||
        (last_of(options, CMD_DAEMONIZE) && (background = background_start(error)) < 0)) {
        sandbox_free(sandbox);
        return EXIT_FAILURE;
    }
    daemon.mounter = sandbox_mounts(sandbox) ? fexp_mounter_new() : NULL;
    ok = start(&daemon, sandbox, options, configs, &helped, error);
    if (ok && pidfile_option && !helped)
        ok = (pidfile = pidfile_create(pidfile_option->value, error)) != NULL;
    ok = ok && (helped || sandbox_calls(sandbox, options, error));
    if (sandbox_no_mounts(sandbox, options))
        fexp_mounter_seal(daemon.mounter, sandbox_no_mounts(sandbox, options));
    if (ok && !helped && background < 0) /* else the exit status says it */
        tm_log_note(log, &(TmLogFacts){ .area = TM_LOG_DAEMON, .level = TM_LOG_INFO },
                    "ready: process %ld, version %s", (long)getpid(), TM_VERSION);
    if (ok && background >= 0)
        ok = background_ready(background, error);
    if (ok && !helped)
        serve(&daemon, given, options, configs);
    ok = daemon_finish(&daemon, ok ? error : NULL) && ok;
    fexp_mounter_free(daemon.mounter);
    pidfile_remove(pidfile);
    sandbox_free(sandbox);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

#ifdef __has_feature
#if __has_feature(thread_sanitizer) && !defined(__SANITIZE_THREAD__)
#define __SANITIZE_THREAD__ 1
#endif
#endif

/* GLib's slices hand memory from thread to thread out of the thread sanitizer's sight, and what
 * switches them off is read before main(). */
static void without_slices(char **argv)
{
#ifdef __SANITIZE_THREAD__
    if (!g_getenv("G_SLICE") && g_setenv("G_SLICE", "always-malloc", false))
        execv("/proc/self/exe", argv);
#else
    (void)argv;
#endif
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) configs = g_ptr_array_new_with_free_func((GDestroyNotify)config_free);
    g_autoptr(GArray) given = NULL, options = NULL;
    TmLog *log = NULL;
    int status = EXIT_FAILURE;

    without_slices(argv);
    g_set_prgname("tidemarkd");
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* EFBIG is an error of one write */
    given = cmd_parse(argc, argv, &error);
    if (given && last_of(given, CMD_HELP)) {
        cmd_print_help();
        return EXIT_SUCCESS;
    }
    if (given && last_of(given, CMD_VERSION)) {
        printf("tidemarkd version %s\n", TM_VERSION);
        return EXIT_SUCCESS;
    }
    if (given && !given->len) {
        cmd_print_usage();
        return EXIT_FAILURE;
    }
    log = tm_log_new(tm_log_journal());
    options = given ? config_expand(given, configs, &error) : NULL;
    if (options && last_of(options, CMD_DUMP_CONFIG)) {
        status = dump_config(last_of(options, CMD_DUMP_CONFIG)->value, &error) ? EXIT_SUCCESS
                                                                               : EXIT_FAILURE;
    } else if (options && last_of(options, CMD_CHECK)) {
        status = check(options, configs, log);
    } else if (options && set_log_levels(log, options, &error)) {
        raise_descriptor_limit();
        status = run(given, options, configs, log, &error);
    }
    if (error) {
        /* On standard error, which the journal knows to be the unit's when this process is gone. */
        tm_log(TM_LOG_ERROR, "%s", error->message);
        daemon_notify_status("%s", error->message);
    }
    tm_log_free(log);
    return status;
}
