/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/cli.c: see cli.h. */
#include "client/cli.h"
#include "client/text.h"
#include "util/text.h"
#include <string.h>

/* Options of every command, not in the tables. */
static const TcOption help_option = { "help", NULL, "show this help", 'h' };
static const TcOption version_option = { "version", NULL, "show the version", 'V' };

static const TcCommand *find_command(const TcCommand *const *commands, const char *name)
{
    for (; *commands; commands++)
        if (!strcmp((*commands)->name, name))
            return *commands;
    return NULL;
}

static bool unknown(const char *what, const char *word, GPtrArray *candidates, const char *path,
                    GError **error)
{
    const char *closest;

    g_ptr_array_add(candidates, NULL);
    closest = tm_text_nearest(word, (const char *const *)candidates->pdata);
    if (closest)
        return tm_error_set(error, "unknown %s '%s': did you mean '%s'?", what, word, closest);
    return tm_error_set(error, "unknown %s '%s': see '%s --help'", what, word, path);
}

static bool unknown_command(const TcInvocation *inv, const char *word, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    for (const TcCommand *const *c = inv->command->subcommands; *c; c++)
        g_ptr_array_add(names, (gpointer)(*c)->name);
    return unknown("command", word, names, inv->path, error);
}

/* The options of @command and of those below it. */
static void collect_options(const TcCommand *command, GPtrArray *names)
{
    for (const TcOption *o = command->options; o && o->name; o++)
        g_ptr_array_add(names, g_strdup_printf("--%s", o->name));
    for (const TcCommand *const *c = command->subcommands; c && *c; c++)
        collect_options(*c, names);
}

static bool unknown_option(const TcInvocation *inv, const char *name, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *dashed = g_strdup_printf("--%s", name);

    collect_options(inv->command, names);
    g_ptr_array_add(names, g_strdup("--help"));
    return unknown("option", dashed, names, inv->path, error);
}

/* @option, with @value or, if that is NULL, what comes next. */
static bool take_value(TcInvocation *inv, unsigned index, const char *value, int argc, char **argv,
                       int *i, GError **error)
{
    const TcOption *option = &inv->command->options[index];
    TcGiven given = { option, "" };

    if (option->arg && !value && *i + 1 >= argc)
        return tm_error_set(error, "option --%s needs a value: %s", option->name, option->arg);
    if (option->arg)
        given.value = value ? value : argv[++*i];
    inv->values->pdata[index] = (gpointer)given.value;
    g_array_append_val(inv->given, given);
    return true;
}

/* argv[*i] is an option of the command: takes it, and its value. */
static bool take_option(TcInvocation *inv, int argc, char **argv, int *i, GError **error)
{
    const char *equals = strchr(argv[*i], '=');
    g_autofree char *name =
        equals ? g_strndup(argv[*i] + 2, equals - argv[*i] - 2) : g_strdup(argv[*i] + 2);
    unsigned index = 0;

    if (!strcmp(name, help_option.name)) {
        inv->help = true;
        return true;
    }
    for (const TcOption *o = inv->command->options; o && o->name; o++, index++) {
        if (strcmp(o->name, name))
            continue;
        if (!o->arg && equals)
            return tm_error_set(error, "option --%s takes no value", name);
        return take_value(inv, index, equals ? equals + 1 : NULL, argc, argv, i, error);
    }
    return unknown_option(inv, name, error);
}

/* argv[*i] is a dash and letters: flags, the last one perhaps with a value. */
static bool take_letters(TcInvocation *inv, int argc, char **argv, int *i, GError **error)
{
    const char *word = argv[*i];

    for (const char *at = word + 1; *at; at++) {
        const TcOption *o = inv->command->options;
        unsigned index = 0;

        for (; o && o->name && o->letter != *at; o++)
            index++;
        if (*at == 'h') {
            inv->help = true;
            return true;
        }
        if (!o || !o->name)
            return tm_error_set(error, "unknown option '%s': see '%s --help'", word, inv->path);
        if (!take_value(inv, index, o->arg && at[1] ? at + 1 : NULL, argc, argv, i, error))
            return false;
        if (o->arg)
            return true;
    }
    return true;
}

static bool check_args(const TcInvocation *inv, unsigned count, GError **error)
{
    const TcCommand *c = inv->command;

    if ((int)count < c->min_args)
        return tm_error_set(error, "missing argument: usage is '%s %s'", inv->path, c->args);
    if (c->max_args >= 0 && (int)count > c->max_args)
        return tm_error_set(error, "unexpected argument '%s': usage is '%s%s%s'",
                            (const char *)inv->args->pdata[c->max_args], inv->path,
                            *c->args ? " " : "", c->args);
    return true;
}

/* The option that @word names in @command or below it. */
static const TcOption *find_below(const TcCommand *command, const char *word)
{
    const char *name = word[1] == '-' ? word + 2 : NULL;
    size_t length = name ? strcspn(name, "=") : 0;
    const TcOption *found = NULL;

    for (const TcOption *o = command->options; o && o->name; o++)
        if (name ? strlen(o->name) == length && !strncmp(o->name, name, length)
                 : o->letter == word[1])
            return o;
    for (const TcCommand *const *c = command->subcommands; c && *c && !found; c++)
        found = find_below(*c, word);
    return found;
}

/* Whether the value of @option is the word after @word. */
static bool value_follows(const TcOption *option, const char *word)
{
    return option->arg && (word[1] == '-' ? !strchr(word, '=') : !word[2]);
}

const TcOption *tc_cli_option(const TcCommand *command, const char *word, bool *follows)
{
    const TcOption *option = find_below(command, word);

    *follows = option && value_follows(option, word);
    return option;
}

/* argv[*i] is an option before the name of the command that it is for: goes to @early, with its
 * value. */
static bool take_early(TcInvocation *inv, int argc, char **argv, int *i, GPtrArray *early,
                       GError **error)
{
    const char *word = argv[*i];
    const TcOption *option = find_below(inv->command, word);

    if (!option && word[1] == '-')
        return unknown_option(inv, word + 2, error);
    if (!option)
        return tm_error_set(error, "unknown option '%s': see '%s --help'", word, inv->path);
    g_ptr_array_add(early, argv[(*i)++]);
    if (value_follows(option, word) && *i < argc)
        g_ptr_array_add(early, argv[(*i)++]);
    return true;
}

static bool is_word(const char *word, const char *long_name, char letter)
{
    return word[0] == '-' &&
           (word[1] == '-' ? !strcmp(word + 2, long_name) : word[1] == letter && !word[2]);
}

static void enter(TcInvocation *inv, const TcCommand *command)
{
    char *path = g_strdup_printf("%s %s", inv->path, command->name);

    g_free(inv->path);
    inv->path = path;
    inv->command = command;
}

/* Walks down the tree of commands; on return argv[*i] is the first word after the last name. */
static bool take_commands(TcInvocation *inv, int argc, char **argv, int *i, GPtrArray *early,
                          GError **error)
{
    const TcCommand *root = inv->command, *next;

    while (inv->command->subcommands) {
        if (*i >= argc)
            return tm_error_set(error, "missing command: see '%s --help'", inv->path);
        inv->help = is_word(argv[*i], help_option.name, help_option.letter);
        inv->version =
            inv->command == root && is_word(argv[*i], version_option.name, version_option.letter);
        if (inv->help || inv->version)
            return true;
        if (argv[*i][0] == '-' && argv[*i][1]) {
            if (!take_early(inv, argc, argv, i, early, error))
                return false;
            continue;
        }
        next = find_command(inv->command->subcommands, argv[*i]);
        if (!next)
            return unknown_command(inv, argv[*i], error);
        enter(inv, next);
        ++*i;
    }
    return true;
}

bool tc_cli_parse(const TcCommand *root, int argc, char **argv, TcInvocation *inv, GError **error)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new(); /* options before the command, what is after */
    bool only_args = false;
    unsigned count;
    int i = 1;

    *inv = (TcInvocation){
        .command = root,
        .path = g_strdup(root->name),
        .values = g_ptr_array_new(),
        .given = g_array_new(FALSE, FALSE, sizeof(TcGiven)),
        .args = g_ptr_array_new(),
    };
    if (!take_commands(inv, argc, argv, &i, words, error))
        return false;
    while (i < argc)
        g_ptr_array_add(words, argv[i++]);
    argc = (int)words->len;
    argv = (char **)words->pdata;
    for (const TcOption *o = inv->command->options; o && o->name; o++)
        g_ptr_array_add(inv->values, NULL);
    for (i = 0; i < argc && !inv->help && !inv->version; i++) {
        if (only_args || argv[i][0] != '-' || !argv[i][1] || g_ascii_isdigit(argv[i][1]))
            g_ptr_array_add(inv->args, argv[i]);
        else if (!strcmp(argv[i], "--"))
            only_args = true;
        else if (!(argv[i][1] == '-' ? take_option : take_letters)(inv, argc, argv, &i, error))
            return false;
    }
    count = inv->args->len;
    g_ptr_array_add(inv->args, NULL);
    return inv->help || inv->version || check_args(inv, count, error);
}

void tc_invocation_clear(TcInvocation *inv)
{
    g_free(inv->path);
    g_clear_pointer(&inv->values, g_ptr_array_unref);
    g_clear_pointer(&inv->given, g_array_unref);
    g_clear_pointer(&inv->args, g_ptr_array_unref);
    inv->path = NULL;
}

/* "-f, --format FMT"; commands without letters have no room for them. Returned. */
static char *option_text(const TcOption *o, bool letters)
{
    g_autofree char *letter = !letters    ? g_strdup("")
                              : o->letter ? g_strdup_printf("-%c, ", o->letter)
                                          : g_strdup("    ");

    return g_strdup_printf("%s--%s%s%s", letter, o->name, o->arg ? " " : "", o->arg ? o->arg : "");
}

static void help_option_line(const TcOption *o, bool letters, int width, FILE *out)
{
    g_autofree char *left = option_text(o, letters);

    fprintf(out, "  %-*s  %s\n", width, left, o->help);
}

static void help_options(const TcCommand *c, bool outermost, FILE *out)
{
    size_t width = strlen("--version");
    bool letters = outermost;

    for (const TcOption *o = c->options; o && o->name; o++)
        letters = letters || o->letter;
    for (const TcOption *o = c->options; o && o->name; o++) {
        g_autofree char *left = option_text(o, letters);

        if (o->help)
            width = MAX(width, strlen(left));
    }
    width = MAX(width, letters ? strlen("-V, --version") : 0);
    fputs("\nOptions:\n", out);
    for (const TcOption *o = c->options; o && o->name; o++) {
        if (o->help)
            help_option_line(o, letters, (int)width, out);
    }
    help_option_line(&help_option, letters, (int)width, out);
    if (outermost)
        help_option_line(&version_option, letters, (int)width, out);
}

void tc_cli_help(const TcInvocation *inv, FILE *out)
{
    const TcCommand *c = inv->command;
    bool outermost = !strchr(inv->path, ' ');
    size_t width = 0;

    if (c->subcommands)
        fprintf(out, "Usage: %s COMMAND [OPTION...] [ARGUMENT...]\n\n%s.\n", inv->path, c->summary);
    else
        fprintf(out, "Usage: %s [OPTION...]%s%s\n\n%s.\n", inv->path, *c->args ? " " : "", c->args,
                c->summary);
    if (c->details)
        fprintf(out, "\n%s", c->details);
    if (c->subcommands) {
        fputs("\nCommands:\n", out);
        for (const TcCommand *const *s = c->subcommands; *s; s++)
            width = MAX(width, strlen((*s)->name));
        for (const TcCommand *const *s = c->subcommands; *s; s++)
            fprintf(out, "  %-*s  %s\n", (int)width, (*s)->name, (*s)->summary);
    }
    help_options(c, outermost, out);
    if (c->subcommands)
        fprintf(out, "\n'%s COMMAND --help' shows the options of a command%s.\n", inv->path,
                outermost ? ", and 'man tidemark-COMMAND' its manual" : "");
}

const char *tc_option(const TcInvocation *inv, const char *name)
{
    unsigned index = 0;

    for (const TcOption *o = inv->command->options; o && o->name; o++, index++)
        if (!strcmp(o->name, name))
            return inv->values->pdata[index];
    g_assert_not_reached();
}

bool tc_flag(const TcInvocation *inv, const char *name)
{
    return tc_option(inv, name) != NULL;
}

const char *tc_arg(const TcInvocation *inv, unsigned i)
{
    return i < inv->args->len ? inv->args->pdata[i] : NULL;
}

bool tc_option_number(const TcInvocation *inv, const char *name, uint64_t min, uint64_t max,
                      uint64_t *value, GError **error)
{
    const char *text = tc_option(inv, name);
    uint64_t number;

    if (!text)
        return true;
    if ((!tc_parse_size(text, &number) || number < min) && max == INT64_MAX)
        return tm_error_set(error, "option --%s: '%s' is not a number of bytes, such as 100M", name,
                            text);
    if (!tc_parse_size(text, &number) || number < min || number > max)
        return tm_error_set(error, "option --%s: '%s' is not a number from %" PRIu64 " to %" PRIu64,
                            name, text, min, max);
    *value = number;
    return true;
}

bool tc_option_wait(const TcInvocation *inv, int *seconds, GError **error)
{
    uint64_t number = 0;

    if (!g_strcmp0(tc_option(inv, "wait"), "-1")) {
        *seconds = -1;
        return true;
    }
    if (!tc_option_number(inv, "wait", 0, INT32_MAX, &number, error))
        return false;
    *seconds = (int)number;
    return true;
}
