/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/top/screen.h: the terminal while a program draws all of it, and its keys.
 *
 * tc_screen_close() and tc_screen_suspend() leave the terminal as it was: its modes, its cursor and
 * what it showed. Threads: main. */
#pragma once
#include "util/error.h"

/* Keys that are no character. */
enum {
    TC_KEY_NONE = 0,
    TC_KEY_UP = 0x110000,
    TC_KEY_DOWN,
    TC_KEY_PAGE_UP,
    TC_KEY_PAGE_DOWN,
    TC_KEY_HOME,
    TC_KEY_END,
    TC_KEY_ESCAPE,
    TC_KEY_OTHER,
    TC_KEY_GONE
};

typedef struct TcScreen TcScreen;

/* Whether standard output is a terminal that a screen can be drawn on. */
bool tc_screen_possible(void);
/* Takes over the terminal of standard output, and standard input if that is one. */
TcScreen *tc_screen_open(GError **error);
void tc_screen_close(TcScreen *screen);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcScreen, tc_screen_close)
/* Gives it back for a while, and takes it over again. */
void tc_screen_suspend(TcScreen *screen);
void tc_screen_resume(TcScreen *screen);
/* Shows @lines (strings), from the first on, with one write; what is too much is left out. False:
 * the terminal is gone. */
bool tc_screen_draw(TcScreen *screen, GPtrArray *lines, unsigned rows);
/* Where keys come from; -1: nowhere. */
int tc_screen_fd(const TcScreen *screen);
/* The next key: a character, a TC_KEY_, TC_KEY_NONE if there is no more. TC_KEY_GONE: there will be
 * none, as the terminal is gone. */
unsigned tc_screen_key(TcScreen *screen);
