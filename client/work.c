/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/work.c: see work.h. */
#include "client/work.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { TICK_MS = 100 };

typedef struct Running {
    const TcWork *work;
    GError *error;
    bool ok;
    int done_fd;   /* readable when the thread is at its end */
    int signal_fd; /* readable when a signal came */
} Running;

static void *work_thread(void *opaque)
{
    Running *running = opaque;

    running->ok = running->work->run(running->work->opaque, &running->error);
    eventfd_write(running->done_fd, 1);
    return NULL;
}

static int supervise(Running *running)
{
    const TcWork *work = running->work;
    struct pollfd fds[] = { { .fd = running->done_fd, .events = POLLIN },
                            { .fd = running->signal_fd, .events = POLLIN } };
    struct signalfd_siginfo info;
    int signo = 0;

    for (;;) {
        if (poll(fds, G_N_ELEMENTS(fds), TICK_MS) > 0 && fds[0].revents)
            return signo;
        if (read(running->signal_fd, &info, sizeof(info)) == sizeof(info)) {
            work->interrupt(work->opaque, (int)info.ssi_signo, signo != 0);
            signo = (int)info.ssi_signo;
        }
        work->tick(work->opaque);
    }
}

static void block_signals(sigset_t *signals)
{
    sigemptyset(signals);
    sigaddset(signals, SIGINT);
    sigaddset(signals, SIGTERM);
    sigaddset(signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, signals, NULL);
}

bool tc_work_run(const TcWork *work, int *signo, GError **error)
{
    Running running = { .work = work };
    sigset_t signals;
    GThread *thread;

    *signo = 0;
    block_signals(&signals); /* before the thread is there, which is not to take them */
    running.signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    running.done_fd = eventfd(0, EFD_CLOEXEC);
    if (running.signal_fd < 0 || running.done_fd < 0) {
        tm_error_set_errno(error, errno, "Could not make a descriptor for signals");
    } else {
        thread = g_thread_new("work", work_thread, &running);
        *signo = supervise(&running);
        g_thread_join(thread);
        if (running.error)
            g_propagate_error(error, running.error);
    }
    if (running.signal_fd >= 0)
        close(running.signal_fd);
    if (running.done_fd >= 0)
        close(running.done_fd);
    return running.ok;
}
