/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/qmp_client.h: the client's end of a QMP socket, tidemarkd's or any QEMU program's.
 *
 * One command at a time; events in between are passed over. Threads: a client belongs to one. */
#pragma once
#include "client/json.h"
#include "util/error.h"
#include <sys/types.h>

typedef struct TcQmp TcQmp;

/* Where the socket is: @option if it is not NULL, else TIDEMARK_SOCKET, else the first at which a
 * program listens of tidemark.sock in XDG_RUNTIME_DIR and that of 'tidemark serve' (qmp.sock in
 * tc_runtime_dir()), else /run/tidemark/qmp.sock. Returned. */
char *tc_qmp_socket(const char *option);
/* Connects and negotiates. */
TcQmp *tc_qmp_open(const char *path, GError **error);
/* Waits for @fd to be readable, while it does something else; false: the command is to fail, and
 * the connection is of no use any more. */
typedef bool (*TcQmpWait)(int fd, void *opaque, GError **error);
/* tc_qmp_open(); whatever waits for the server waits in @wait. */
TcQmp *tc_qmp_open_waiting(const char *path, TcQmpWait wait, void *opaque, GError **error);
/* tc_qmp_open() of the monitor of a QEMU process, which the errors are about. */
TcQmp *tc_qmp_open_qemu(const char *path, GError **error);
/* Executes a command; @arguments is borrowed and may be NULL. The result, a new reference, or NULL
 * and the server's error: its message, the class as the TM_ERROR code where that has one, else
 * the class's name goes before the message. */
json_object *tc_qmp_execute(TcQmp *qmp, const char *command, json_object *arguments,
                            GError **error);
/* The same with file descriptor @fd (borrowed) beside it, for commands such as add-fd. */
json_object *tc_qmp_execute_fd(TcQmp *qmp, const char *command, json_object *arguments, int fd,
                               GError **error);
/* The same, without the result: @arguments is taken. */
bool tc_qmp_run(TcQmp *qmp, const char *command, json_object *arguments, GError **error);
/* One of several commands that are sent together. */
typedef struct TcQmpCommand {
    const char *name;       /* borrowed */
    json_object *arguments; /* a reference */
    GError *error;          /* the server's, or NULL */
} TcQmpCommand;
/* Sends all @commands (TcQmpCommand) at once, and waits for the replies. So tidemarkd carries out
 * all of them even if this process is killed meanwhile; and each one, even if one before it fails.
 * false: the connection ended, and nothing is known of those that have no reply. */
bool tc_qmp_run_all(TcQmp *qmp, GArray *commands, GError **error);
/* An array of them, which frees what is in it. Returned. */
GArray *tc_qmp_commands(void);
/* @arguments is taken. */
void tc_qmp_commands_add(GArray *commands, const char *name, json_object *arguments);
/* Waits for the next event and returns it, a new reference. Those that came while a command was
 * executed are lost. Errors: the connection ends. */
json_object *tc_qmp_event(TcQmp *qmp, GError **error);
/* The process at the other end, 0 if it can't be seen from here. */
pid_t tc_qmp_pid(const TcQmp *qmp);
/* The greeting: borrowed. */
json_object *tc_qmp_greeting(const TcQmp *qmp);
void tc_qmp_free(TcQmp *qmp);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcQmp, tc_qmp_free)
