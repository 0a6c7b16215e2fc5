/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/migrate/cmd_migrate.c: "tidemark migrate": a disk goes to another daemon; see move.h. */
#include "client/commands.h"
#include "client/daemon/runtime_dir.h"
#include "client/migrate/move.h"
#include "util/json.h"
#include "util/log.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

static const TcOption options[] = {
    TC_SOCKET_OPTION,
    { "to", "SOCKET", "the QMP socket of the daemon that is to have the disk" },
    { "switch", "COMMAND", "shell command that makes clients connect to the target" },
    { "max-pause", "SECONDS",
      "stay where it is if clients would have to wait longer (default: 2)" },
    { "back", NULL, "take back a move that was interrupted" },
    { "state", "PATH",
      "file for what an interrupted move needs (default: in the runtime directory)" },
    TC_JSON_OPTION,
    { 0 },
};

static void report(const TcInvocation *inv, const TcMove *move, bool back)
{
    const char *where = move->paths[!back];

    if (tc_flag(inv, "json")) {
        g_autoptr(json_object) result = tc_json_new("node", move->node, "at", where, NULL);

        tm_json_add_bool(result, "back", back);
        json_object_object_add(result, "pause", json_object_new_double(move->pause));
        tm_json_add_uint(result, "exports",
                         tc_json_length(tc_json_get(move->kept, "exports", NULL)));
        tc_json_print(result, stdout);
        return;
    }
    printf("node '%s' is %s '%s': clients had to wait %.3f s\n", move->node,
           back ? "back at" : "now at", where, move->pause);
}

/* 1: nothing has changed; 3: the move is neither complete nor taken back. */
static int take_back(TcMove *move, GError *why)
{
    g_autoptr(GError) problem = NULL;

    if (tc_move_connect(move, true, &problem) && tc_move_run(move, true, &problem)) {
        tc_move_drop(move);
        g_prefix_error(&why, "node '%s' stays at '%s': ", move->node, move->paths[0]);
        return tc_fail(why);
    }
    g_prefix_error(&why,
                   "the move of node '%s' has stopped half way (back: %s; run it again, or "
                   "with --back): ",
                   move->node, problem->message);
    tc_fail(why);
    return TC_EXIT_PROBLEMS;
}

static int move_disk(const TcInvocation *inv, TcMove *move, bool back)
{
    GError *error = NULL;

    if (tc_move_run(move, back, &error)) {
        tc_move_drop(move);
        report(inv, move, back);
        return TC_EXIT_OK;
    }
    if (!back)
        return take_back(move, error);
    g_prefix_error(&error, "node '%s' could not go back (run it again): ", move->node);
    tc_fail(error);
    return TC_EXIT_PROBLEMS;
}

static bool begin(TcMove *move, GError **error)
{
    for (unsigned i = 0; i < 2; i++) {
        move->ends[i] = tc_qmp_open(move->paths[i], error);
        if (!move->ends[i])
            return false;
    }
    return tc_move_plan(move, error);
}

/* What another process has begun, and the state file of. */
static bool go_on(TcMove *move, bool back, GError **error)
{
    tm_log(TM_LOG_INFO, "%s the move of node '%s' that was interrupted",
           back ? "taking back" : "completing", move->node);
    return tc_move_connect(move, back, error);
}

static bool prepare(const TcInvocation *inv, TcMove *move, GError **error)
{
    bool back = tc_flag(inv, "back"), there;
    g_autofree char *dir = tc_runtime_dir();

    move->file =
        tc_option(inv, "state") ? g_strdup(tc_option(inv, "state")) : tc_move_file(move->node);
    if (!tc_option(inv, "state") && !tc_runtime_dir_make(dir, error))
        return false;
    if (!tc_move_load(move, &there, error))
        return false;
    if (!there && back)
        return tm_error_set(error, "no move of node '%s' was interrupted ('%s' does not exist)",
                            move->node, move->file);
    return there ? go_on(move, back, error) : begin(move, error);
}

static bool read_seconds(const TcInvocation *inv, double *seconds, GError **error)
{
    const char *text = tc_option(inv, "max-pause");
    char *end = NULL;
    double value = text ? g_ascii_strtod(text, &end) : 2;

    if (text && (end == text || *end || !(value > 0 && value <= 3600)))
        return tm_error_set(error, "option --max-pause: '%s' is not a number of seconds up to 3600",
                            text);
    *seconds = value;
    return true;
}

static int run(const TcInvocation *inv)
{
    g_autofree char *socket = tc_qmp_socket(tc_option(inv, "socket"));
    g_auto(TcMove) move = { .node = tc_arg(inv, 0),
                            .paths = { socket, tc_option(inv, "to") },
                            .hook = { .option = "--switch", .command = tc_option(inv, "switch") } };
    GError *error = NULL;

    if (!move.paths[1])
        tm_error_set(&error, "--to SOCKET is missing: the QMP socket of the target");
    else if (!strcmp(socket, move.paths[1]))
        tm_error_set(&error, "both daemons have the QMP socket '%s'", socket);
    if (error || !read_seconds(inv, &move.max_pause, &error))
        return tc_fail_usage(inv, error);
    signal(SIGPIPE, SIG_IGN);
    if (!prepare(inv, &move, &error))
        return tc_fail(error);
    return move_disk(inv, &move, tc_flag(inv, "back"));
}

const TcCommand tc_command_migrate = {
    .name = "migrate",
    .args = "NODE",
    .summary = "Moves a disk to another daemon, with its exports and bitmaps",
    .details =
        "Both daemons reach the disk, by the same definition. The clients are disconnected, and\n"
        "connect again to the exports of the other daemon. If a step fails, the disk stays where\n"
        "it is. If the command or a daemon is killed, the same command completes the move, and\n"
        "with --back takes it back.\n"
        "\n"
        "Exit status:\n"
        "  0  the disk is at the other daemon, or with --back at the first one\n"
        "  1  the disk is where it was\n"
        "  2  the command line is wrong\n"
        "  3  the move is neither complete nor taken back\n",
    .min_args = 1,
    .max_args = 1,
    .options = options,
    .run = run,
};
