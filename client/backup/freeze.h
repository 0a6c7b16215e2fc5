/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/freeze.h: the guest's file systems frozen for a moment, through QEMU's guest agent.
 *
 * A process of its own speaks with the agent. It thaws when it is asked to, when the time is over,
 * and when this process is gone, by SIGKILL too: no guest stays frozen because a backup died. If it
 * is gone itself, this process thaws at once. What both leave, killed at the same time, is thawed
 * by the next backup of the guest (freeze_record.h).
 * Threads: one at a time; tc_freeze_new() before there are others, since it forks. */
#pragma once
#include "util/error.h"
#include <inttypes.h>

typedef struct TcFreeze TcFreeze;

/* @socket is the agent's, as QEMU's chardev has it. Nothing is frozen for longer than @max_s
 * seconds. Nothing is said to the agent yet. */
TcFreeze *tc_freeze_new(const char *socket, unsigned max_s, GError **error);
/* Freezes all file systems; *count is how many. On failure they are thawed, unless the guest was
 * frozen already: it is left so. */
bool tc_freeze_begin(TcFreeze *freeze, uint64_t *count, GError **error);
/* Thaws. Fails if they had not been frozen all the time since begin, or may be frozen still. */
bool tc_freeze_end(TcFreeze *freeze, GError **error);
/* Thaws, if they are frozen. */
void tc_freeze_free(TcFreeze *freeze);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcFreeze, tc_freeze_free)
