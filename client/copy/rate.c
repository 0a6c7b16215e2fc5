/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/rate.c: see rate.h. */
#include "client/copy/rate.h"

/* What was not used up is still there as long afterwards. */
enum { SLACK_US = 100000 };

struct TcRate {
    double bytes_per_us;
    GMutex lock;
    gint64 next; /* when what was taken is paid for */
};

TcRate *tc_rate_new(uint64_t bytes)
{
    TcRate *rate = g_new0(TcRate, 1);

    rate->bytes_per_us = (double)bytes / 1e6;
    g_mutex_init(&rate->lock);
    return rate;
}

int tc_rate_take(TcRate *rate, uint64_t length)
{
    gint64 now, wait;

    if (!rate)
        return 0;
    now = g_get_monotonic_time();
    g_mutex_lock(&rate->lock);
    wait = rate->next - now;
    if (wait <= 0) {
        /* whole seconds of a long wait at most: a limit of a few bytes overflows nothing */
        double cost = MIN((double)length / rate->bytes_per_us, 1e15);

        rate->next = MAX(rate->next, now - SLACK_US) + (gint64)cost;
    }
    g_mutex_unlock(&rate->lock);
    return wait <= 0 ? 0 : (int)MIN(wait / 1000 + 1, 1000);
}

void tc_rate_free(TcRate *rate)
{
    if (!rate)
        return;
    g_mutex_clear(&rate->lock);
    g_free(rate);
}
