/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/agent.h: the client's end of a guest agent's socket (QEMU
 * docs/interop/qemu-ga-ref). The agent may not answer at all: everything has its time.
 *
 * Threads: an agent belongs to one. */
#pragma once
#include "client/json.h"
#include "util/error.h"

typedef struct TcAgent TcAgent;

/* Connects and makes sure that answers are those to our commands (guest-sync-delimited), by
 * @deadline, a g_get_monotonic_time(). */
TcAgent *tc_agent_open(const char *path, gint64 deadline, GError **error);
/* A command without arguments. The result, a new reference; NULL is an error. */
json_object *tc_agent_execute(TcAgent *agent, const char *command, gint64 deadline, GError **error);
void tc_agent_free(TcAgent *agent);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcAgent, tc_agent_free)
