/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/freeze.c: see freeze.h.
 *
 * The guard is a child that is connected by a pair of sockets. It is asked with one byte, and
 * answers with a line: "ok COUNT" or "no MESSAGE". The end of the file, or a time, is a wish to
 * thaw. As long as the guest is frozen, a thread here watches the guard, and thaws if it is
 * gone. If both are killed, the record says to the next backup that it is to thaw the guest. */
#include "client/backup/freeze.h"
#include "client/backup/agent.h"
#include "client/backup/freeze_record.h"
#include "util/log.h"
#include "util/range.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ASK_FREEZE = 'F', ASK_THAW = 'T', LINE_MAX_BYTES = 2048 };
/* As long as an agent that doesn't answer, or can't be reached, is asked to thaw. */
enum { THAW_SECONDS = 60, TRY_SECONDS = 5 };

struct TcFreeze {
    char *socket;
    int fd, stop_fd;
    pid_t pid;
    GThread *watch; /* from the wish to freeze to the end of the one to thaw */
    GError *failed; /* the watch's: how thawing failed */
};

typedef struct Guard {
    const char *socket;
    int fd;
    unsigned max_s;
    int record;      /* that it is frozen; -1: there is none */
    gint64 deadline; /* to thaw; 0: nothing is frozen */
    bool expired;    /* it was thawed by then */
    GString *failed; /* how thawing failed */
} Guard;

static gint64 in_seconds(unsigned seconds)
{
    return g_get_monotonic_time() + (gint64)seconds * G_USEC_PER_SEC;
}

/* Until the agent has said that it is done: it may be busy, or be started anew meanwhile. */
static bool thaw(const char *socket, GError **error)
{
    gint64 end = in_seconds(THAW_SECONDS);
    g_autoptr(GError) why = NULL;

    for (;;) {
        gint64 deadline = in_seconds(TRY_SECONDS);
        g_autoptr(TcAgent) agent = NULL;
        g_autoptr(json_object) result = NULL;

        g_clear_error(&why);
        agent = tc_agent_open(socket, deadline, &why);
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

/* ---- the guard */

static void answer(const Guard *g, const char *word, const char *text)
{
    g_autofree char *line = g_strdup_printf("%s %.*s\n", word, LINE_MAX_BYTES - 16, text);

    /* who asked may be gone */
    if (send(g->fd, line, strlen(line), MSG_NOSIGNAL) < 0)
        return;
}

static void drop_record(Guard *g, bool thawed)
{
    if (thawed)
        tc_freeze_record_remove(g->socket, g->record);
    else
        tc_freeze_record_leave(g->record);
    g->record = -1;
}

static bool end_frozen(Guard *g, GError **error)
{
    bool ok = thaw(g->socket, error);

    g->deadline = 0;
    drop_record(g, ok);
    return ok;
}

/* Of a backup that is gone, with the process that would have thawed the guest. */
static bool thaw_left(const Guard *g, TcAgent *agent, GError **error)
{
    g_autoptr(json_object) result =
        tc_agent_execute(agent, "guest-fsfreeze-thaw", g->deadline, error);

    if (result)
        tm_log(
            TM_LOG_WARNING,
            "an earlier backup was killed and left the guest of agent '%s' frozen: it was thawed",
            g->socket);
    return result != NULL;
}

/* A guest that somebody else has frozen is theirs to thaw. @left: it was a backup. */
static bool is_thawed(const Guard *g, TcAgent *agent, bool left, GError **error)
{
    g_autoptr(json_object) status =
        tc_agent_execute(agent, "guest-fsfreeze-status", g->deadline, error);

    if (!status || !strcmp(json_object_get_string(status), "thawed"))
        return status != NULL;
    if (left)
        return thaw_left(g, agent, error);
    return tm_error_set(error,
                        "guest agent '%s': the guest's state is '%s', expected 'thawed': somebody "
                        "else has frozen it, and it was left so",
                        g->socket, json_object_get_string(status));
}

static void do_freeze(Guard *g)
{
    g_autoptr(GError) error = NULL, second = NULL;
    g_autoptr(TcAgent) agent = NULL;
    g_autoptr(json_object) result = NULL;
    g_autofree char *count = NULL;
    bool left = false;

    g->expired = false;
    g->deadline = in_seconds(g->max_s);
    if (tc_freeze_record_take(g->socket, &g->record, &left, &error))
        agent = tc_agent_open(g->socket, tm_min(g->deadline, in_seconds(TRY_SECONDS)), &error);
    if (!agent || !is_thawed(g, agent, left, &error)) {
        g->deadline = 0; /* nothing was asked for */
        drop_record(g, !left);
        answer(g, "no", error->message);
        return;
    }
    result = tc_agent_execute(agent, "guest-fsfreeze-freeze", g->deadline, &error);
    if (!result) {
        /* it may have frozen some, or be about to */
        g_clear_pointer(&agent, tc_agent_free);
        if (!end_frozen(g, &second))
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
        end_frozen(g, &error);
    else if (g->expired)
        tm_error_set(&error, "the guest was thawed after %u seconds (--freeze-max), too early%s%s",
                     g->max_s, g->failed->len ? "; " : "", g->failed->str);
    answer(g, error ? "no" : "ok", error ? error->message : "0");
}

static void expire(Guard *g)
{
    g_autoptr(GError) error = NULL;

    g->expired = true;
    if (!end_frozen(g, &error))
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
    if (g->deadline && !end_frozen(g, NULL))
        tm_log(TM_LOG_ERROR, "the guest of agent '%s' may be frozen still", g->socket);
}

/* ---- who asks */

static void live_as_guard(const char *socket, int fd, unsigned max_s)
{
    Guard g = { .socket = socket, .fd = fd, .max_s = max_s, .record = -1 };

    setsid(); /* what ends the command at its terminal does not end this */
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    g.failed = g_string_new(NULL);
    guard(&g);
    _exit(0);
}

TcFreeze *tc_freeze_new(const char *socket, unsigned max_s, GError **error)
{
    int fds[2] = { -1, -1 }, stop_fd = eventfd(0, EFD_CLOEXEC);
    TcFreeze *freeze;
    pid_t pid;

    if (stop_fd < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds)) {
        tm_error_set_errno(error, errno, "Could not make a pair of sockets");
        if (stop_fd >= 0)
            close(stop_fd);
        return NULL;
    }
    pid = fork();
    if (!pid) {
        close(fds[0]);
        live_as_guard(socket, fds[1], max_s);
    }
    freeze = g_new0(TcFreeze, 1);
    *freeze = (TcFreeze){ g_strdup(socket), fds[0], stop_fd, pid, NULL, NULL };
    if (pid < 0) {
        tm_error_set_errno(error, errno, "Could not fork");
        g_clear_pointer(&freeze, tc_freeze_free);
    }
    close(fds[1]);
    return freeze;
}

/* The guard's, which is unlocked when its end is complete. */
static void remove_record(const TcFreeze *freeze)
{
    siginfo_t info;
    bool left;
    int fd;

    while (waitid(P_PID, (id_t)freeze->pid, &info, WEXITED | WNOWAIT) < 0 && errno == EINTR)
        continue;
    if (tc_freeze_record_take(freeze->socket, &fd, &left, NULL))
        tc_freeze_record_remove(freeze->socket, fd);
}

/* The watch's thread. The guard closes its end of the sockets only by its death. */
static void *watch(void *opaque)
{
    TcFreeze *freeze = opaque;
    struct pollfd fds[] = { { .fd = freeze->stop_fd, .events = POLLIN }, { .fd = freeze->fd } };

    while (!(fds[0].revents | fds[1].revents))
        if (poll(fds, G_N_ELEMENTS(fds), -1) < 0)
            fds[0].revents = fds[1].revents = 0;
    if (!fds[0].revents && thaw(freeze->socket, &freeze->failed))
        remove_record(freeze);
    return NULL;
}

/* @answered: nothing is left to do for it. */
static void end_watch(TcFreeze *freeze, bool answered)
{
    eventfd_t written;

    if (!freeze->watch)
        return;
    if (answered)
        eventfd_write(freeze->stop_fd, 1);
    g_thread_join(g_steal_pointer(&freeze->watch));
    if (answered)
        eventfd_read(freeze->stop_fd, &written);
}

static bool send_wish(TcFreeze *freeze, char what)
{
    return send(freeze->fd, &what, 1, MSG_NOSIGNAL) == 1;
}

/* The guard's answer after the word is returned. Without one the watch has thawed. It goes on
 * watching if @frozen is what the answer means. */
static char *receive_answer(TcFreeze *freeze, bool frozen, GError **error)
{
    g_autoptr(GString) line = g_string_new(NULL);
    ssize_t got;
    char byte;
    bool ok;

    while ((got = recv(freeze->fd, &byte, 1, 0)) > 0 || (got < 0 && errno == EINTR)) {
        if (got > 0 && byte == '\n')
            break;
        if (got > 0)
            g_string_append_c(line, byte);
    }
    ok = got > 0 && g_str_has_prefix(line->str, "ok ");
    if (!ok || !frozen)
        end_watch(freeze, got > 0);
    if (ok)
        return g_strdup(line->str + 3);
    if (got > 0)
        tm_error_set(error, "%s", line->len > 3 ? line->str + 3 : "unknown error");
    else
        tm_error_set(error, "the process that keeps the guest frozen is gone; %s",
                     freeze->failed ? freeze->failed->message : "the guest was thawed");
    g_clear_error(&freeze->failed);
    return NULL;
}

bool tc_freeze_begin(TcFreeze *freeze, uint64_t *count, GError **error)
{
    g_autofree char *text = NULL;

    if (!send_wish(freeze, ASK_FREEZE))
        return tm_error_set(error, "the process that was to do so is gone");
    freeze->watch = g_thread_new("freeze", watch, freeze);
    text = receive_answer(freeze, true, error);
    if (!text)
        return false;
    *count = g_ascii_strtoull(text, NULL, 10);
    return true;
}

bool tc_freeze_end(TcFreeze *freeze, GError **error)
{
    g_autofree char *text = NULL;

    send_wish(freeze, ASK_THAW); /* if it can't be heard, there is no answer */
    text = receive_answer(freeze, false, error);
    return text != NULL;
}

void tc_freeze_free(TcFreeze *freeze)
{
    if (!freeze)
        return;
    if (freeze->watch)
        tc_freeze_end(freeze, NULL);
    close(freeze->fd);
    close(freeze->stop_fd);
    while (freeze->pid > 0 && waitpid(freeze->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    g_free(freeze->socket);
    g_free(freeze);
}
