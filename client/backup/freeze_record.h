/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/freeze_record.h: the note that a backup has frozen a guest, so that the next one
 * can thaw what was left frozen when everything of the first was killed at once.
 *
 * It is an empty file beside the agent's socket, there before the guest is asked to freeze and
 * until it has thawed. Whoever has it has it locked: without a lock, he is gone.
 * Threads: one at a time. */
#pragma once
#include "util/error.h"

#define TC_FREEZE_RECORD ".tidemark-frozen"

/* Has the record of the agent at @socket: *fd is it, or -1 where it can't be made; *left: it was
 * there, of a backup that is gone. Fails if another one has it. */
bool tc_freeze_record_take(const char *socket, int *fd, bool *left, GError **error);
/* The guest has thawed. @fd is what take gave, and closed. */
void tc_freeze_record_remove(const char *socket, int fd);
/* Nobody knows: it stays. */
void tc_freeze_record_leave(int fd);
