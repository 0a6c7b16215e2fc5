/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/again.c: what else has to hold of a state that was recovered. */
#include "tests/crash/run.h"

#include <errno.h>

void again_fail(Run *run, const State *state, const char *what, const char *wrong)
{
    run_fail(run, "--seed %" G_GUINT64_FORMAT " --event %u --state %u: %s, step %u, %s: %s: %s",
             run->seed, run->medium->event, run->state, state->power ? "power loss" : "killed",
             run->step, state->what, what, wrong);
}

void again_durable(Run *run, const State *state, const Found *found, Rng *rng)
{
    g_autofree Found *second = g_new(Found, 1);
    g_autofree char *wrong = NULL;
    unsigned d = rng_below(rng, run->n_disks);
    uint8_t boot = run->boot;
    How how = rng_below(rng, 3);

    run->boot += state->power;
    recover(run, run->scratch, d, false, how, second);
    wrong = check_same(&found[d], second);
    if (wrong) {
        again_fail(run, state, "opened again", wrong);
    } else if (how == THEN_CLOSE) {
        recover(run, run->scratch, d, rng_chance(rng, 2), READ_ONLY, second);
        wrong = check_same(&found[d], second);
        if (wrong)
            again_fail(run, state, "opened again, closed, and opened again", wrong);
    }
    run->boot = boot;
}

void again_read_only(Run *run, const State *state, const Found *found)
{
    g_autofree Found *second = g_new(Found, 1);
    g_autofree char *wrong = NULL;

    medium_cut(run->scratch, run->medium, state->kept);
    for (unsigned d = 0; d < run->n_disks && !wrong; d++) {
        recover(run, run->scratch, d, state->power, READ_ONLY, second);
        wrong = check_same(&found[d], second);
    }
    if (wrong)
        again_fail(run, state, "opened for reading only", wrong);
}

/* Whether @now has all that @before had. */
static const char *check_no_less(const Found *before, const Found *now)
{
    for (unsigned i = 0; i < before->n; i++) {
        const FoundBitmap *a = &before->bitmaps[i], *b = NULL;

        for (unsigned k = 0; k < now->n && !b; k++)
            b = g_str_equal(a->name, now->bitmaps[k].name) ? &now->bitmaps[k] : NULL;
        if (!b && !now->degraded)
            return "a bitmap is missing without a report";
        if (b && !b->inconsistent && !a->inconsistent && !model_subset(&a->bits, &b->bits))
            return "dirty granules are clean";
    }
    return NULL;
}

void again_late(Run *run, const State *state, const Found *found, Rng *rng)
{
    g_autofree Found *second = g_new(Found, 1);
    unsigned first = rng_below(rng, MEDIUM_DISKS);
    const char *wrong;

    if (run->n_disks < 2)
        return;
    medium_cut(run->scratch, run->medium, state->kept);
    recover(run, run->scratch, first, state->power, THEN_ADD, second);
    recover(run, run->scratch, !first, state->power, THEN_DIE, second);
    wrong = check_no_less(&found[!first], second);
    if (wrong)
        again_fail(run, state, "another disk went on first", wrong);
}

/* Whether either of the states before and after is there, more or less. */
static char *check_either(Run *run, unsigned d, const Found *found)
{
    char *wrong = check_damaged(&run->disks[d].model, found, false);

    if (!wrong || !run->in_flight)
        return wrong;
    g_free(wrong);
    return check_damaged(&run->disks[d].after, found, false);
}

void again_unreadable(Run *run, const State *state, const Found *found, Rng *rng)
{
    g_autofree Found *second = g_new(Found, 1);
    unsigned d = rng_below(rng, run->n_disks);
    g_autofree char *wrong = NULL;

    /* While it is being opened, what a crash before has cut short may still end either way. */
    if (run->disks[d].looseness != STRICT || run->n_disks > 1 || !run->disks[d].set)
        return;
    medium_cut(run->scratch, run->medium, state->kept);
    run->scratch->fault = (MediumFault){
        .calls = CALL_READ, .after = rng_below(rng, 6), .times = 1 + rng_below(rng, 3), .error = EIO
    };
    recover(run, run->scratch, d, state->power, rng_below(rng, 3), second);
    run->scratch->fault.times = 0;
    if (second->opened)
        wrong = check_either(run, d, second);
    if (wrong)
        again_fail(run, state, "a read fails", wrong);
}
