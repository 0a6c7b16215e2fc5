/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/nbd_wait.h: waits for an NBD server, which may never answer, until somebody wants to
 * stop.
 *
 * Once @stop_fd is readable, all of these return without the answer; -1: there is none. Threads: a
 * libnbd handle belongs to one at a time. */
#pragma once
#include <libnbd.h>
#include <stdbool.h>

/* Waits at most @timeout_ms (-1: no limit) until the server wants something, and moves the handle
 * on. What that fails with is seen in the handle's state. False: to stop. */
bool tc_nbd_turn(struct nbd_handle *nbd, int stop_fd, int timeout_ms);
/* Until the handle is connected, has its option answered, or has failed. False: to stop. */
bool tc_nbd_settle(struct nbd_handle *nbd, int stop_fd);
/* Until the command has been answered: 1, -1 with libnbd's error, 0: to stop. @cookie -1: it failed
 * to be issued. */
int tc_nbd_complete(struct nbd_handle *nbd, int64_t cookie, int stop_fd);
/* Says goodbye, if nothing is in flight, and closes the handle. NULL is allowed. */
void tc_nbd_close(struct nbd_handle *nbd, int stop_fd);
