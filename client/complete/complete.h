/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/complete/complete.h: what the shell can offer for a word of a command line.
 *
 * The scripts for bash, zsh and fish (packaging/completion) only ask this and show the answer, so
 * that all of them know what the tables of commands, options and QMP have. Threads: main. */
#pragma once
#include "client/cli.h"

/* "tidemark --complete WORD...": prints what the last of @words (NULL-terminated, without the
 * program's name; "" where a new word begins) may become. The first line is "files" if it may be
 * the name of a file as well, else "words". Each other line is a word, or a word, a tab and what it
 * means. Ends the process, with nothing printed, if a daemon does not answer soon. Returns the exit
 * status. */
int tc_complete(const TcCommand *root, const char *const *words);
