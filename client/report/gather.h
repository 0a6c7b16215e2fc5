/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/report/gather.h: the parts of a report. Each is a new reference to an object; what can't
 * be read is a member "error", or is left out. Nothing is changed, and no data of disks are read.
 *
 * Threads: main, except where it says otherwise. */
#pragma once
#include "client/daemon/qmp_client.h"
#include "client/report/redact.h"

#include <sys/types.h>

/* {"error": @message} */
json_object *tc_report_error(const char *message);

/* ---- system.c */

/* Kernel, distribution, machine, and what of the kernel's settings matters. */
json_object *tc_report_system(void);
/* A daemon's process: command line, libraries, limits, memory, threads, cgroup. @redactor learns
 * the secrets of the command line. */
json_object *tc_report_process(pid_t pid, TcRedactor *redactor);
/* The libraries of a process with their versions, as the names of their files: an array. */
json_object *tc_report_libraries(pid_t pid);

/* ---- disks.c */

/* Of each file at @paths: its file system, its size, and a check of its bitmap store. Reading them
 * may hang with the disk, so it is given up after @seconds. */
json_object *tc_report_disks(const GPtrArray *paths, unsigned seconds);

/* ---- daemon.c */

/* The process that listens at a socket, also if it does not answer. 0: nobody, or too many wait
 * there. */
pid_t tc_report_listener(const char *socket, GError **error);

/* The answers of the daemon at @socket to all queries that say what it has, by command; what is not
 * answered within @seconds in all is an error. NULL: it can't be asked. */
json_object *tc_report_queries(const char *socket, unsigned seconds, GError **error);
/* Adds the files (g_free) that nodes have open, as query-named-block-nodes says, as seen from @cwd
 * (or NULL). */
void tc_report_paths(json_object *queries, const char *cwd, GPtrArray *paths);
