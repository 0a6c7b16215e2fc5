/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/sandbox.h: what a daemon that has been taken over can't do: --sandbox and --user.
 *
 * A hostile client or image that finds a way to run code in this process still has only what the
 * kernel lets the process do. Three fences, each of which stands alone:
 *  - files (Landlock): a daemon without a monitor reaches the files and directories that its
 *    command line names, what is beside those files (but for the root directory), and what the C
 *    library reads. With a monitor, whose client may name any
 *    file, every file can be reached unless the option says `files=given`; in either case no
 *    program can be executed and no device, directory or symbolic link be made.
 *  - calls (seccomp): no new processes and programs, no tracing, mounting, namespaces, kernel
 *    modules, keys, clocks, other identities; and no connections to others, unless a node of the
 *    command line or the client of a monitor may want some.
 *  - identity: --user gives up root's once everything that the command line names is open.
 *
 * Threads: the main one. */
#pragma once
#include "daemon/cmdline.h"
#include "util/log.h"

#include <json-c/json.h>

typedef struct Sandbox Sandbox;

/* Reads --sandbox among @options and collects what the others name. NULL: an error in it.
 * @log is borrowed, and outlives it. Returned: sandbox_free. */
Sandbox *sandbox_new(const GArray *options, TmLog *log, GError **error);
void sandbox_free(Sandbox *sandbox); /* NULL is fine */
/* Whether there may be exports of type fuse: the options have one, or a client of a monitor may. */
bool sandbox_mounts(const Sandbox *sandbox);
/* Why nothing may be mounted once the options are carried out: a constant, or NULL. */
const char *sandbox_no_mounts(const Sandbox *sandbox, const GArray *options);
/* Restricts files. Before the first thread is started: the kernel restricts the calling thread and
 * those that it starts. Errors: `on` was asked for and the kernel has no Landlock. */
bool sandbox_files(Sandbox *sandbox, GError **error);
/* Gives up the identity that --user says, and then restricts calls, of all threads. Once everything
 * is up. Errors: no such user, not root; `on` and no seccomp. */
bool sandbox_calls(Sandbox *sandbox, const GArray *options, GError **error);
/* What to add to the error @message, that something is not permitted or not there, of a command
 * with @args: which fence is in the way of a file that they name, or what in the unit of this
 * process is. Returned (g_free), or NULL. */
char *sandbox_blame(const Sandbox *sandbox, const char *message, json_object *args);
