/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/complete/complete.c: the line is followed down the tables as far as it goes; what is being
 * completed then has a name in them ("NODE", "--bitmap", "leaks|all"), which says what fits.
 *
 * A line that is not right yet is the usual case: what is not understood is passed over. */
#include "client/complete/complete.h"

#include "client/complete/names.h"
#include <string.h>

/* ---- which words fit where */

/* What a name in a synopsis stands for, in that command (by the end of its path) or, NULL, in any
 * one. The first that fits counts; what is in no line is not completed. */
typedef struct Rule {
    const char *command, *name;
    unsigned kinds;
} Rule;

static const Rule rules[] = {
    { "bitmap add", "NAME", 0 },
    { "image bitmap", "NAME", 0 },
    { "image bitmap", "SOURCE", 0 },
    { "backup", "POINT", 0 }, /* that is made */
    { "bitmap merge", "SOURCE", TC_WORD_BITMAP },
    { "bitmap rotate", "OLD", TC_WORD_BITMAP },
    { NULL, "BITMAP", TC_WORD_BITMAP },
    { NULL, "--bitmap", TC_WORD_BITMAP },
    { NULL, "--trust-bitmap", TC_WORD_BITMAP },
    { "serve", "DISK", TC_WORD_FILE },
    { "backup", "DISK", TC_WORD_EXPORT | TC_WORD_FILE },
    { "copy", "SOURCE", TC_WORD_EXPORT | TC_WORD_FILE },
    { "verify", "DISK", TC_WORD_EXPORT | TC_WORD_FILE },
    { "qmp", "COMMAND", TC_WORD_QMP },
    { "qmp", "KEY=VALUE", TC_WORD_KEY },
    { "list", "NAME", TC_WORD_BITMAP },
    { "remove", "NAME", TC_WORD_BITMAP },
    { "clear", "NAME", TC_WORD_BITMAP },
    { "enable", "NAME", TC_WORD_BITMAP },
    { "disable", "NAME", TC_WORD_BITMAP },
    { "merge", "NAME", TC_WORD_BITMAP },
    { "export", "NAME", TC_WORD_BITMAP },
    { "check", "NAME", TC_WORD_BITMAP },
    { "import", "NAME", TC_WORD_BITMAP },
    { NULL, "NODE", TC_WORD_NODE },
    { NULL, "EXPORT", TC_WORD_EXPORT },
    { NULL, "EVENT", TC_WORD_EVENT },
    { NULL, "POINT", TC_WORD_POINT },
    { NULL, "FMT", TC_WORD_FORMAT },
    { NULL, "FILE", TC_WORD_FILE },
    { NULL, "FILE2", TC_WORD_FILE },
    { NULL, "REPOSITORY", TC_WORD_FILE },
    { NULL, "SOURCE", TC_WORD_FILE },
    { NULL, "TARGET", TC_WORD_FILE },
    { NULL, "DIRECTORY", TC_WORD_FILE },
    { NULL, "DIR", TC_WORD_FILE },
    { NULL, "PATH", TC_WORD_FILE },
    { NULL, "IMAGE", TC_WORD_FILE },
    { NULL, "SOCKET", TC_WORD_FILE },
    { NULL, "COMMAND", TC_WORD_FILE },
};

/* One completion. */
typedef struct Completion {
    const TcCommand *command;
    GString *path;           /* "bitmap rotate" */
    const TcOption *pending; /* whose value the word is */
    bool only_args;
    TcWordSources sources;
    const char *prefix; /* before what is completed of the word: "--format=" */
    unsigned kinds;     /* that fit */
    GPtrArray *words;   /* char *, "word" or "word\tmeaning" */
} Completion;

static unsigned kinds_of(const Completion *c, const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(rules); i++) {
        const Rule *r = &rules[i];

        if (!strcmp(r->name, name) && (!r->command || g_str_has_suffix(c->path->str, r->command)))
            return r->kinds;
    }
    return 0;
}

static void add_word(Completion *c, const char *word, const char *meaning)
{
    g_ptr_array_add(c->words, meaning ? g_strdup_printf("%s\t%s", word, meaning) : g_strdup(word));
}

/* "NODE|FILE", "leaks|all", "[NAME=]DISK...": what each stands for, or itself. */
static void add_alternatives(Completion *c, const char *text)
{
    g_auto(GStrv) names = g_strsplit(text, "|", -1);

    for (char **name = names; *name; name++) {
        g_autofree char *bare = g_strdup(*name);
        char *dots = strstr(bare, "..."), *bracket;

        if (dots)
            *dots = '\0';
        g_strdelimit(bare, "[]", ' ');
        bracket = strrchr(bare, ' ');
        bracket = bracket && bracket[1] ? bracket + 1 : g_strstrip(bare);
        if (g_ascii_islower(*bracket))
            add_word(c, bracket, NULL);
        else
            c->kinds |= kinds_of(c, bracket);
    }
}

/* ---- arguments */

/* The synopsis as one word for each argument: "[URI | EXPORT [POINT]]" is "[URI|EXPORT" and
 * "[POINT]]". */
static char **synopsis(const TcCommand *command)
{
    g_auto(GStrv) parts = g_strsplit(command->args, " | ", -1);
    g_autofree char *joined = g_strjoinv("|", parts);

    return g_strsplit(joined, " ", -1);
}

/* An argument that may come again stands for all that follow, and the last one does, too. */
static void complete_argument(Completion *c)
{
    g_auto(GStrv) names = synopsis(c->command);
    guint at = c->sources.args->len, n = g_strv_length(names);

    for (guint i = 0; i < n; i++) {
        bool repeats = strstr(names[i], "...") != NULL;

        if (i == at || (repeats && i < at))
            add_alternatives(c, names[i]);
        if (repeats && i + 1 < n && i + 1 <= at)
            add_alternatives(c, names[++i]);
    }
}

static void complete_option(Completion *c)
{
    for (const TcOption *o = c->command->options; o && o->name; o++) {
        g_autofree char *name = g_strconcat("--", o->name, NULL);

        if (o->help)
            add_word(c, name, o->help);
    }
    add_word(c, "--help", "show this help");
    if (!strcmp(c->path->str, ""))
        add_word(c, "--version", "show the version");
}

static void complete_command(Completion *c)
{
    for (const TcCommand *const *s = c->command->subcommands; *s; s++)
        add_word(c, (*s)->name, (*s)->summary);
}

static void complete_value(Completion *c, const TcOption *option)
{
    g_autofree char *dashed = g_strconcat("--", option->name, NULL);

    c->kinds = kinds_of(c, dashed);
    if (!c->kinds)
        add_alternatives(c, option->arg);
}

/* ---- the line */

static void take_option(Completion *c, const char *word)
{
    const char *equals = strchr(word, '=');
    bool follows;
    const TcOption *option = tc_cli_option(c->command, word, &follows);

    if (option && follows)
        c->pending = option;
    else if (option && equals && !strcmp(option->name, "socket"))
        c->sources.socket = equals + 1;
}

static void take_command(Completion *c, const char *word)
{
    for (const TcCommand *const *s = c->command->subcommands; *s; s++) {
        if (strcmp((*s)->name, word))
            continue;
        g_string_append_printf(c->path, "%s%s", c->path->len ? " " : "", word);
        c->command = *s;
        return;
    }
}

static void take(Completion *c, const char *word)
{
    if (c->pending) {
        if (!strcmp(c->pending->name, "socket"))
            c->sources.socket = word;
        c->pending = NULL;
    } else if (!c->only_args && !strcmp(word, "--")) {
        c->only_args = true;
    } else if (!c->only_args && word[0] == '-' && word[1]) {
        take_option(c, word);
    } else if (c->command->subcommands) {
        take_command(c, word);
    } else {
        g_ptr_array_add(c->sources.args, (gpointer)word);
    }
}

static void complete(Completion *c)
{
    const char *word = c->sources.word, *equals = strchr(word, '=');
    const TcOption *option;
    bool follows;

    if (c->pending) {
        complete_value(c, c->pending);
    } else if (word[0] == '-' && !c->only_args && equals) {
        option = tc_cli_option(c->command, word, &follows);
        c->sources.word = equals + 1;
        c->prefix = word;
        if (option && option->arg)
            complete_value(c, option);
    } else if (word[0] == '-' && !c->only_args) {
        complete_option(c);
    } else if (c->command->subcommands) {
        complete_command(c);
    } else {
        complete_argument(c);
    }
    tc_word_names(&c->sources, c->kinds, c->words);
}

/* Those that begin as the word does, each once. */
static void print(const Completion *c)
{
    int length = (int)(c->prefix ? c->sources.word - c->prefix : 0);
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);

    puts(c->kinds & TC_WORD_FILE ? "files" : "words");
    for (guint i = 0; i < c->words->len; i++) {
        const char *word = c->words->pdata[i];

        if (g_str_has_prefix(word, c->sources.word) && !strpbrk(word, "\n\r") &&
            g_hash_table_add(seen, (gpointer)word))
            printf("%.*s%s\n", length, c->prefix ? c->prefix : "", word);
    }
}

int tc_complete(const TcCommand *root, const char *const *words)
{
    g_autoptr(GPtrArray) args = g_ptr_array_new(), found = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GString) path = g_string_new(NULL);
    Completion c = { .command = root, .path = path, .sources = { .args = args }, .words = found };

    for (; words[0] && words[1]; words++)
        take(&c, *words);
    c.sources.word = *words ? *words : "";
    complete(&c);
    print(&c);
    return TC_EXIT_OK;
}
