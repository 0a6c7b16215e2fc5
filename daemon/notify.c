/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/notify.c: see the header. With libsystemd; notify_none.c is without. */
#include "daemon/notify.h"

#include "util/clock.h"
#include "util/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define SIGNS_PER_INTERVAL 4u /* so that one that comes late is no missing one */

void daemon_notify_ready(void)
{
    sd_notify(0, "READY=1");
}

void daemon_notify_reloading(void)
{
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" G_GUINT64_FORMAT, (guint64)(tm_now_ns() / 1000));
}

void daemon_notify_stopping(void)
{
    sd_notify(0, "STOPPING=1\nSTATUS=finishing requests and flushing");
}

void daemon_notify_status(const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_strdelimit(text, "\n", ' '); /* would begin another message */
    sd_notifyf(0, "STATUS=%s", text);
}

/* ---- the watchdog */

struct Watchdog {
    BlkGraph *graph;
    uint64_t interval_ns; /* between two signs of life */
    guint timer;          /* the main loop's */
    int stat_fd;          /* the state of the main thread, see proc(5) */
    pthread_t thread;
    pthread_mutex_t lock; /* guards stopping */
    pthread_cond_t stop;
    bool stopping;
};

static gboolean give_sign(gpointer unused)
{
    sd_notify(0, "WATCHDOG=1");
    return G_SOURCE_CONTINUE;
}

/* 'R' runs, 'S' sleeps, 'D' sleeps in a system call that nothing interrupts; 0: unknown. */
static char main_thread_state(const Watchdog *w)
{
    char text[256], *end;
    ssize_t n = pread(w->stat_fd, text, sizeof(text) - 1, 0);

    if (n <= 0)
        return 0;
    text[n] = '\0';
    end = strrchr(text, ')'); /* of the thread's name */
    return end && end[1] == ' ' ? end[2] : 0;
}

/* A thread that waits for requests sleeps; one that loops for ever does not. */
static bool is_waiting(const Watchdog *w)
{
    char state = main_thread_state(w);

    return state == 'D' || (state == 'S' && blk_graph_awaited(w->graph));
}

static void *watch(void *opaque)
{
    Watchdog *w = opaque;
    uint64_t at = (uint64_t)tm_now_ns();
    TM_GUARD(&w->lock);

    while (!w->stopping) {
        struct timespec until;

        at += w->interval_ns;
        until.tv_sec = (time_t)(at / 1000000000u);
        until.tv_nsec = (long)(at % 1000000000u);
        while (!w->stopping && pthread_cond_timedwait(&w->stop, &w->lock, &until) != ETIMEDOUT)
            continue;
        if (!w->stopping && is_waiting(w))
            give_sign(NULL);
    }
    return NULL;
}

static void init_stop(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

Watchdog *watchdog_start(BlkGraph *graph)
{
    g_autofree char *path = g_strdup_printf("/proc/self/task/%d/stat", (int)gettid());
    uint64_t usec = 0;
    Watchdog *w;

    if (sd_watchdog_enabled(0, &usec) <= 0)
        return NULL;
    w = g_new0(Watchdog, 1);
    w->graph = graph;
    w->interval_ns = MAX(usec / SIGNS_PER_INTERVAL, 1000) * 1000;
    w->stat_fd = open(path, O_RDONLY | O_CLOEXEC);
    pthread_mutex_init(&w->lock, NULL);
    init_stop(&w->stop);
    if (pthread_create(&w->thread, NULL, watch, w))
        w->thread = pthread_self(); /* a long wait will look like a hang */
    w->timer = g_timeout_add((guint)(w->interval_ns / 1000000) + 1, give_sign, NULL);
    return w;
}

void watchdog_stop(Watchdog *w)
{
    if (!w)
        return;
    g_source_remove(w->timer);
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_signal(&w->stop);
    pthread_mutex_unlock(&w->lock);
    if (!pthread_equal(w->thread, pthread_self()))
        pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->stop);
    pthread_mutex_destroy(&w->lock);
    if (w->stat_fd >= 0)
        close(w->stat_fd);
    g_free(w);
}
