/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/main.c: the tidemark command: finds the subcommand and runs it. */
#include "client/commands.h"
#include "client/complete/complete.h"
#include "client/repository/error.h"
#include "util/log.h"
#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <string.h>
#include <tidemark-version.h>

static const TcCommand *const commands[] = {
    &tc_command_serve,   &tc_command_backup,   &tc_command_list,
    &tc_command_restore, &tc_command_mount,    &tc_command_verify,
    &tc_command_forget,  &tc_command_prune,    &tc_command_copy_points,
    &tc_command_info,    &tc_command_bitmap,   &tc_command_map,
    &tc_command_migrate, &tc_command_copy,     &tc_command_qmp,
    &tc_command_top,     &tc_command_sessions, &tc_command_events,
    &tc_command_image,   &tc_command_report,   NULL,
};

static const TcCommand root = {
    .name = "tidemark",
    .args = "",
    .summary = "Backs up and restores disks, and controls tidemarkd",
    .subcommands = commands,
};

int tc_fail(GError *error)
{
    int status = g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_LOCKED)    ? TC_EXIT_LOCKED
                 : g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED) ? TC_EXIT_DAMAGED
                                                                                : TC_EXIT_FAILED;

    tm_log(TM_LOG_ERROR, "%s", error->message);
    g_error_free(error);
    return status;
}

int tc_fail_usage(const TcInvocation *invocation, GError *error)
{
    if (strstr(error->message, "--help") || strstr(error->message, "usage is"))
        tm_log(TM_LOG_ERROR, "%s", error->message);
    else
        tm_log(TM_LOG_ERROR, "%s (see '%s --help')", error->message, invocation->path);
    g_error_free(error);
    return invocation->command->usage_status ? invocation->command->usage_status : TC_EXIT_USAGE;
}

static int run(const TcInvocation *invocation)
{
    if (invocation->version) {
        printf("tidemark %s\n", TM_VERSION);
        return TC_EXIT_OK;
    }
    if (invocation->help && invocation->command->help)
        return invocation->command->help(invocation);
    if (invocation->help) {
        tc_cli_help(invocation, stdout);
        return TC_EXIT_OK;
    }
    return invocation->command->run(invocation);
}

/* "tidemark help copy" is "tidemark copy --help". */
static void help_as_option(int argc, char **argv)
{
    static char help[] = "--help";

    if (argc < 2 || strcmp(argv[1], "help"))
        return;
    memmove(argv + 1, argv + 2, (size_t)(argc - 2) * sizeof(*argv));
    argv[argc - 1] = help;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    TcInvocation invocation;
    int status;

    setlocale(LC_CTYPE, "");
    g_set_prgname("tidemark");
    signal(SIGXFSZ, SIG_IGN); /* a file over the limit of sizes is EFBIG, and reported */
    help_as_option(argc, argv);
    if (argc > 1 && !strcmp(argv[1], "--complete")) /* of the shells' scripts */
        return tc_complete(&root, (const char *const *)argv + 2);
    if (tc_cli_parse(&root, argc, argv, &invocation, &error))
        status = run(&invocation);
    else
        status = tc_fail_usage(&invocation, g_steal_pointer(&error));
    tc_invocation_clear(&invocation);
    /* Some file systems report errors at the end only; it may have been closed from the
     * beginning. */
    if (fflush(stdout) || ferror(stdout) || (fclose(stdout) && errno != EBADF)) {
        tm_log(TM_LOG_ERROR, "standard output: write failed");
        return TC_EXIT_FAILED;
    }
    return status;
}
