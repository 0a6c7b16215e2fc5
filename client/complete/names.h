/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/complete/names.h: the names that the shell offers, from the tables, a running daemon or a
 * repository.
 *
 * What can't be had is left out, without a message. A daemon that hangs ends the process, with
 * status 0. Threads: main. */
#pragma once
#include <glib.h>

/* Kinds of words; several may fit. */
enum {
    TC_WORD_FILE = 1,
    TC_WORD_FORMAT = 2,
    TC_WORD_EXPORT = 4,
    TC_WORD_NODE = 8,
    TC_WORD_BITMAP = 16, /* of the node or the export that is the first argument, else any */
    TC_WORD_EVENT = 32,
    TC_WORD_POINT = 64, /* of the repository among the arguments */
    TC_WORD_QMP = 128,
    TC_WORD_KEY = 256, /* "KEY=" of the QMP command that is the first argument, else a node */
};

/* Where they come from; all borrowed. */
typedef struct TcWordSources {
    const char *socket; /* of --socket, or NULL */
    GPtrArray *args;    /* const char *, those before the word */
    const char *word;   /* that is being completed */
} TcWordSources;

/* Adds all names of @kinds to @names (char *, to be freed), whatever they begin with. */
void tc_word_names(const TcWordSources *sources, unsigned kinds, GPtrArray *names);
