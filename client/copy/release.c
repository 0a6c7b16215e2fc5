/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/release.c: see release.h. */
#include "client/copy/release.h"

#define WINDOW (UINT64_C(2) << 20) /* bytes of pieces */

struct TcWindow {
    uint64_t offset, end;
    uint64_t taken, back; /* bytes of pieces */
    GList link;
};

struct TcRelease {
    GQueue windows; /* with pieces that are not back, and the last one */
    uint64_t end;   /* of the last piece */
};

TcRelease *tc_release_new(void)
{
    TcRelease *r = g_new0(TcRelease, 1);

    g_queue_init(&r->windows);
    return r;
}

void tc_release_free(TcRelease *r)
{
    GList *link;

    while (r && (link = g_queue_pop_head_link(&r->windows)))
        g_free(link->data);
    g_free(r);
}

/* It begins where the last one ended: what is between their pieces is free, too. */
static TcWindow *open_window(TcRelease *r)
{
    TcWindow *window = g_new0(TcWindow, 1);

    window->offset = r->end;
    window->link.data = window;
    g_queue_push_tail_link(&r->windows, &window->link);
    return window;
}

TcWindow *tc_release_take(TcRelease *r, uint64_t offset, uint64_t length)
{
    TcWindow *window = g_queue_peek_tail(&r->windows);

    if (!window || window->taken >= WINDOW)
        window = open_window(r);
    window->taken += length;
    window->end = r->end = offset + length;
    return window;
}

bool tc_release_back(TcRelease *r, TcWindow *window, uint64_t length, uint64_t *offset,
                     uint64_t *range)
{
    window->back += length;
    if (window->taken < WINDOW || window->back < window->taken)
        return false;
    *offset = window->offset;
    *range = window->end - window->offset;
    g_queue_unlink(&r->windows, &window->link);
    g_free(window);
    return true;
}
