/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/session.h: one client of a monitor; internal to qmp/. Main thread. */
#pragma once
#include "qmp/context.h"

typedef struct QmpSession QmpSession;

typedef struct QmpSessionOptions {
    int in, out;
    bool owned; /* the descriptors are closed with the session */
    bool pretty;
    /* The client is gone: the session may be freed within; it is not used afterwards. */
    void (*ended)(void *owner, QmpSession *session);
    void (*log)(void *opaque, const char *message); /* or NULL */
    void *owner, *opaque;                           /* of ended, of log */
} QmpSessionOptions;

/* Greets the client. */
QmpSession *qmp_session_new(QmpContext *ctx, const QmpSessionOptions *options);
void qmp_session_free(QmpSession *session); /* NULL is fine */
/* Sends what waits, until g_get_monotonic_time() is @until at most. */
void qmp_session_flush(QmpSession *session, gint64 until);
