/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/cli.h: the command line as tables. Parsing, --help and the "did you mean" of a misspelt
 * word all derive from the same const TcCommand.
 *
 * Options are long ones, "--name VALUE" or "--name=VALUE", before the command's name or anywhere
 * among the arguments; "--" ends them. Some have a letter, too: "-n VALUE", "-nVALUE". What begins
 * like a negative number is an argument. Threads: main. */
#pragma once
#include "util/error.h"
#include <inttypes.h>
#include <stdio.h>

/* Exit status of the command, as documented in tidemark(1). */
enum {
    TC_EXIT_OK = 0,
    TC_EXIT_FAILED = 1, /* and nothing was changed */
    TC_EXIT_USAGE = 2,
    TC_EXIT_PROBLEMS = 3, /* done, but something needs a look */
    TC_EXIT_LOCKED = 4,   /* somebody else uses the repository */
    TC_EXIT_DAMAGED = 5,  /* of a repository */
};

typedef struct TcOption {
    const char *name; /* without dashes; NULL ends a table */
    const char *arg;  /* what its value is called, NULL for a flag */
    const char *help; /* one line; NULL: not shown */
    char letter;      /* 0: it has none */
} TcOption;

/* One option as it was given. */
typedef struct TcGiven {
    const TcOption *option;
    const char *value; /* borrowed; "" for a flag */
} TcGiven;

typedef struct TcInvocation TcInvocation;

typedef struct TcCommand {
    const char *name;
    const char *args;    /* synopsis of the arguments, "" if there are none */
    const char *summary; /* one line */
    const char *details; /* paragraphs for --help, may be NULL */
    int min_args;
    int max_args; /* -1: any number */
    const TcOption *options;
    const struct TcCommand *const *subcommands; /* NULL-terminated; then run is NULL */
    int (*run)(const TcInvocation *invocation); /* returns the exit status */
    int usage_status; /* exit status for misuse, if it is not TC_EXIT_USAGE */
    /* Instead of tc_cli_help(); knows the arguments before --help. Returns the exit status. */
    int (*help)(const TcInvocation *invocation);
} TcCommand;

struct TcInvocation {
    const TcCommand *command; /* the innermost, borrowed */
    char *path;               /* "tidemark bitmap add" */
    GPtrArray *values;        /* by index in command->options: const char * or NULL, borrowed */
    GArray *given;            /* TcGiven, in order: those that count when they come again */
    GPtrArray *args;          /* const char *, borrowed, with a NULL after the last */
    bool help;                /* --help was asked; nothing else was checked */
    bool version;             /* --version, at the outermost level only */
};

/* Fills *@invocation, which tc_invocation_clear empties whether this succeeds or not: on failure
 * path and command are those of the innermost command understood. @argv is borrowed for as long as
 * the invocation lives. */
bool tc_cli_parse(const TcCommand *root, int argc, char **argv, TcInvocation *invocation,
                  GError **error);
void tc_invocation_clear(TcInvocation *invocation);
/* The option that @word ("--name", "--name=VALUE", "-n") is of @command or one below it; NULL:
 * none. *@follows: its value is the next word. */
const TcOption *tc_cli_option(const TcCommand *command, const char *word, bool *follows);
void tc_cli_help(const TcInvocation *invocation, FILE *out);

/* The value of an option (borrowed), "" for a flag that is set, NULL if it was not given. */
const char *tc_option(const TcInvocation *invocation, const char *name);
bool tc_flag(const TcInvocation *invocation, const char *name);
/* The @i-th argument (borrowed) or NULL. */
const char *tc_arg(const TcInvocation *invocation, unsigned i);
/* A number within [@min, @max], size suffixes allowed; *value is untouched if it was not given. */
bool tc_option_number(const TcInvocation *invocation, const char *name, uint64_t min, uint64_t max,
                      uint64_t *value, GError **error);
/* "--wait" of a number, or of -1: for ever; 0 if it was not given. */
bool tc_option_wait(const TcInvocation *invocation, int *seconds, GError **error);
