/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/freeze.c: see freeze.h.
 *
 * The guard is a child that is connected by a pair of sockets. It is asked with one byte, and
 * answers with a line: "ok COUNT" or "no MESSAGE". The end of the file, or a time, is a wish to
 * thaw. */
#include "client/backup/freeze.h"
#include "client/backup/agent.h"
#include "util/log.h"
#include "util/range.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ASK_FREEZE = 'F', ASK_THAW = 'T', LINE_MAX_BYTES = 2048 };
/* As long as an agent that doesn't answer, or can't be reached, is asked to thaw. */
enum { THAW_SECONDS = 60, TRY_SECONDS = 5 };

struct TcFreeze {
    int fd;
    pid_t pid;
};

typedef struct Guard {
    const char *socket;
    int fd;
    unsigned max_s;
    gint64 deadline; /* to thaw; 0: nothing is frozen */
    bool expired;    /* it was thawed by then */
    GString *failed; /* how thawing failed */
} Guard;

static gint64 in_seconds(unsigned seconds)
{
    return g_get_monotonic_time() + (gint64)seconds * G_USEC_PER_SEC;
}

/* ---- the guard */

static void answer(const Guard *g, const char *word, const char *text)
{
    g_autofree char *line = g_strdup_printf("%s %.*s\n", word, LINE_MAX_BYTES - 16, text);

    /* who asked may be gone */
    if (send(g->fd, line, strlen(line), MSG_NOSIGNAL) < 0)
        return;
}

/* Until the agent has said that it is done: it may be busy, or be started anew meanwhile. */
static bool thaw(Guard *g, GError **error)
{
    gint64 end = in_seconds(THAW_SECONDS);
    g_autoptr(GError) why = NULL;

    g->deadline = 0;
    for (;;) {
        gint64 deadline = in_seconds(TRY_SECONDS);
        g_autoptr(TcAgent) agent = NULL;
        g_autoptr(json_object) result = NULL;

        g_clear_error(&why);
        agent = tc_agent_open(g->socket, deadline, &why);
        result = agent ? tc_agent_execute(agent, "guest-fsfreeze-thaw", deadline, &why) : NULL;
        if (result)
            return true;
        if (g_get_monotonic_time() >= end)
            return tm_error_set(error,
                                "the guest may be frozen still: guest-fsfreeze-thaw did not "
                                "succeed within %d seconds: %s",
                                THAW_SECONDS, why->message);
        g_usleep(G_USEC_PER_SEC / 5);
    }
}

static void do_freeze(Guard *g)
{
    g_autoptr(GError) error = NULL, second = NULL;
    g_autoptr(TcAgent) agent = NULL;
    g_autoptr(json_object) result = NULL;
    g_autofree char *count = NULL;

    g->expired = false;
    g->deadline = in_seconds(g->max_s);
    agent = tc_agent_open(g->socket, tm_min(g->deadline, in_seconds(TRY_SECONDS)), &error);
    if (!agent) {
        g->deadline = 0; /* nothing was asked for */
        answer(g, "no", error->message);
        return;
    }
    result = tc_agent_execute(agent, "guest-fsfreeze-freeze", g->deadline, &error);
    if (!result) {
        /* it may have frozen some, or be about to */
        g_clear_pointer(&agent, tc_agent_free);
        if (!thaw(g, &second))
            g_prefix_error(&error, "%s; ", second->message);
        answer(g, "no", error->message);
        return;
    }
    count = g_strdup_printf("%" PRIu64, json_object_get_uint64(result));
    answer(g, "ok", count);
}

static void do_thaw(Guard *g)
{
    g_autoptr(GError) error = NULL;

    if (g->deadline)
        thaw(g, &error);
    else if (g->expired)
        tm_error_set(&error, "the guest was thawed after %u seconds (--freeze-max), too early%s%s",
                     g->max_s, g->failed->len ? "; " : "", g->failed->str);
    answer(g, error ? "no" : "ok", error ? error->message : "0");
}

static void expire(Guard *g)
{
    g_autoptr(GError) error = NULL;

    g->expired = true;
    if (!thaw(g, &error))
        g_string_assign(g->failed, error->message);
}

/* The child's life. */
static void guard(Guard *g)
{
    for (;;) {
        struct pollfd fd = { .fd = g->fd, .events = POLLIN };
        gint64 left = g->deadline - g_get_monotonic_time();
        char byte;
        int r;

        if (g->deadline && left <= 0) {
            expire(g);
            continue;
        }
        r = poll(&fd, 1, g->deadline ? (int)(left / 1000 + 1) : -1);
        if (r <= 0)
            continue;
        if (recv(g->fd, &byte, 1, 0) <= 0)
            break;
        if (byte == ASK_FREEZE)
            do_freeze(g);
        else
            do_thaw(g);
    }
    if (g->deadline && !thaw(g, NULL))
        tm_log(TM_LOG_ERROR, "the guest of agent '%s' may be frozen still", g->socket);
}

/* ---- who asks */

TcFreeze *tc_freeze_new(const char *socket, unsigned max_s, GError **error)
{
    TcFreeze *freeze;
    int fds[2];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds)) {
        tm_error_set_errno(error, errno, "Could not make a pair of sockets");
        return NULL;
    }
    pid = fork();
    if (pid < 0) {
        tm_error_set_errno(error, errno, "Could not fork");
        close(fds[0]);
        close(fds[1]);
        return NULL;
    }
    if (!pid) {
        Guard g = { .socket = socket, .fd = fds[1], .max_s = max_s };

        close(fds[0]);
        setsid(); /* what ends the command at its terminal does not end this */
        signal(SIGINT, SIG_IGN);
        signal(SIGTERM, SIG_IGN);
        signal(SIGHUP, SIG_IGN);
        g.failed = g_string_new(NULL);
        guard(&g);
        _exit(0);
    }
    close(fds[1]);
    freeze = g_new0(TcFreeze, 1);
    freeze->fd = fds[0];
    freeze->pid = pid;
    return freeze;
}

/* Asks the guard; its answer after the word is returned. */
static char *ask(TcFreeze *freeze, char what, GError **error)
{
    g_autoptr(GString) line = g_string_new(NULL);
    char byte = what;
    ssize_t got = send(freeze->fd, &byte, 1, MSG_NOSIGNAL);

    while (got > 0 || (got < 0 && errno == EINTR)) {
        got = recv(freeze->fd, &byte, 1, 0);
        if (got > 0 && byte == '\n')
            break;
        if (got > 0)
            g_string_append_c(line, byte);
    }
    if (got <= 0) {
        tm_error_set(error, "the process that keeps the guest frozen is gone");
        return NULL;
    }
    if (g_str_has_prefix(line->str, "ok "))
        return g_strdup(line->str + 3);
    tm_error_set(error, "%s", line->len > 3 ? line->str + 3 : "unknown error");
    return NULL;
}

bool tc_freeze_begin(TcFreeze *freeze, uint64_t *count, GError **error)
{
    g_autofree char *text = ask(freeze, ASK_FREEZE, error);

    if (!text)
        return false;
    *count = g_ascii_strtoull(text, NULL, 10);
    return true;
}

bool tc_freeze_end(TcFreeze *freeze, GError **error)
{
    g_autofree char *text = ask(freeze, ASK_THAW, error);

    return text != NULL;
}

void tc_freeze_free(TcFreeze *freeze)
{
    if (!freeze)
        return;
    close(freeze->fd);
    while (waitpid(freeze->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    g_free(freeze);
}
