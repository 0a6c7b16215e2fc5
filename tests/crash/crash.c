/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/crash.c: seeds until enough states were recovered, or one was wrong.
 *
 *     crash [--tap] [--states N] [--seconds N] [--seed N [--event K [--state J]]] [--verbose]
 *           [--keep DIRECTORY]
 *
 * --seed: only that one; --event, --state: of it only that state. Exit status 1 if a promise was
 * broken. */
#include "tests/crash/run.h"
#include "tests/rounds.h"

#include <glib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define STEPS        60u
#define HANG_SECONDS 60u

static const Run *running; /* for the handler */

/* Says where it was, then dies of it. */
static void last_words(int number)
{
    char text[160];
    int n = snprintf(text, sizeof(text), "%s at --seed %llu --event %u --state %u (step %u)\n",
                     number == SIGALRM ? "hangs" : "dies", (unsigned long long)running->seed,
                     running->medium->event, running->state, running->step);

    if (write(STDERR_FILENO, text, n) < 0)
        _exit(99);
    signal(number, SIG_DFL);
    raise(number == SIGALRM ? SIGABRT : number);
}

typedef struct Arguments {
    gboolean tap, verbose;
    gint64 states, seconds, seed, event, state, per_event, steps, first;
    char *keep;
    gboolean no_faults, no_damage, alone, go_on;
} Arguments;

static bool parse(int argc, char **argv, Arguments *a)
{
    const GOptionEntry entries[] = {
        { "tap", 0, 0, G_OPTION_ARG_NONE, &a->tap, "results as TAP", NULL },
        { "verbose", 'v', 0, G_OPTION_ARG_NONE, &a->verbose, "say what happens", NULL },
        { "states", 0, 0, G_OPTION_ARG_INT64, &a->states, "recover so many", "N" },
        { "seconds", 0, 0, G_OPTION_ARG_INT64, &a->seconds, "no longer", "N" },
        { "first", 0, 0, G_OPTION_ARG_INT64, &a->first, "begin with that seed", "N" },
        { "seed", 0, 0, G_OPTION_ARG_INT64, &a->seed, "only that one", "N" },
        { "event", 0, 0, G_OPTION_ARG_INT64, &a->event, "only there", "K" },
        { "state", 0, 0, G_OPTION_ARG_INT64, &a->state, "only that state", "J" },
        { "per-event", 0, 0, G_OPTION_ARG_INT64, &a->per_event, "states an event", "N" },
        { "steps", 0, 0, G_OPTION_ARG_INT64, &a->steps, "of a seed", "N" },
        { "keep", 0, 0, G_OPTION_ARG_FILENAME, &a->keep, "files of a wrong state", "DIRECTORY" },
        { "no-faults", 0, 0, G_OPTION_ARG_NONE, &a->no_faults, "no call fails", NULL },
        { "no-damage", 0, 0, G_OPTION_ARG_NONE, &a->no_damage, "no byte is spoiled", NULL },
        { "go-on", 0, 0, G_OPTION_ARG_NONE, &a->go_on, "also after a failure, in short", NULL },
        { "alone", 0, 0, G_OPTION_ARG_NONE, &a->alone, "never two disks", NULL },
        { 0 },
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (g_option_context_parse(context, &argc, &argv, &error))
        return true;
    fprintf(stderr, "crash: %s\n", error->message);
    return false;
}

static void print_progress(const Run *run, uint64_t seeds, gint64 started)
{
    printf("# %llu seeds, %llu events, %llu states formed, %llu recovered (equal ones once), "
           "%llu damaged, %.1f s\n",
           (unsigned long long)seeds, (unsigned long long)run->events,
           (unsigned long long)run->states, (unsigned long long)run->recovered,
           (unsigned long long)run->damaged, (g_get_monotonic_time() - started) / 1e6);
    fflush(stdout);
}

static bool run_all(Run *run, const Arguments *a, uint64_t *seeds)
{
    gint64 started = g_get_monotonic_time(), printed = started;
    uint64_t seed = a->seed >= 0 ? a->seed : a->first;
    bool good = true, kept;

    for (*seeds = 0; good || a->go_on; seed++) {
        gint64 now = g_get_monotonic_time();

        if (a->seed >= 0 ? *seeds > 0
                         : (a->states && run->recovered >= (uint64_t)a->states) ||
                               (a->seconds && now - started > a->seconds * 1000000))
            break;
        if (!a->tap && a->seed < 0 && now - printed > 10 * 1000000) {
            print_progress(run, *seeds, started);
            printed = now;
        }
        alarm(HANG_SECONDS);
        kept = run_seed(run, seed, a->steps);
        alarm(0);
        ++*seeds;
        good &= kept;
        if (!kept && a->go_on)
            printf("seed %llu: %.300s\n", (unsigned long long)seed, run->failure);
        else if (!kept)
            printf("# %s%s\n", g_strchomp(run->failure), a->tap ? "" : "\n");
    }
    print_progress(run, *seeds, started);
    return good;
}

int main(int argc, char **argv)
{
#ifdef SANITIZED
    Arguments a = { .states = 10000, .seconds = 120 };
#else
    Arguments a = { .states = 100000, .seconds = 120 };
#endif
    Options options = { 0 };
    uint64_t seeds;
    Run *run;
    bool good;

    a.seed = a.event = a.state = -1;
    a.per_event = 12;
    a.steps = STEPS;
    a.first = 1;
    if (!parse(argc, argv, &a))
        return 2;
    options.verbose = a.verbose;
    options.one_state = a.event >= 0;
    options.event = a.event;
    options.state = a.state < 0 ? ANY_STATE : a.state;
    options.states = a.per_event;
    options.keep = a.keep;
    options.faults = !a.no_faults;
    options.damage = !a.no_damage;
    options.alone = a.alone;
    run = run_new(&options);
    running = run;
    signal(SIGALRM, last_words);
    signal(SIGSEGV, last_words);
    signal(SIGABRT, last_words);
    if (a.tap)
        puts("1..1");
    good = run_all(run, &a, &seeds);
    if (a.tap)
        printf("%sok 1 - what %llu crashes and %llu damages left kept every promise\n",
               good ? "" : "not ", (unsigned long long)run->recovered,
               (unsigned long long)run->damaged);
    run_free(run);
    g_free(a.keep);
    return good ? 0 : 1;
}
