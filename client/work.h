/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/work.h: a long command: a thread does the work; the main thread meanwhile draws the
 * progress and takes the signals that end a command (SIGINT, SIGTERM, SIGHUP).
 *
 * Threads: main. */
#pragma once
#include "util/error.h"

typedef struct TcWork {
    void *opaque;
    bool (*run)(void *opaque, GError **error); /* in its thread */
    void (*tick)(void *opaque);                /* main thread, several times a second */
    /* A signal came (main thread): asks the work to end early, or does not return. @again: it is
     * not the first. */
    void (*interrupt)(void *opaque, int signo, bool again);
} TcWork;

/* Runs it to its end. *signo is the last signal that came, or 0. The signals stay blocked, and
 * come in the next run: a child process has to unblock them. */
bool tc_work_run(const TcWork *work, int *signo, GError **error);
