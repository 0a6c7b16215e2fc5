/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/states.c: the states that a loss of power, or a killed process, may leave at an
 * event. */
#include "tests/crash/run.h"

#include <string.h>

#define SMALL 3u /* that many changes: all subsets */

typedef enum {
    CUT_ALL,
    CUT_NONE,
    CUT_KILLED,      /* the process only: everything is kept */
    CUT_KILLED_TORN, /* and the call in flight did some of its pages */
    CUT_WITHOUT_CALL,
    CUT_CALL_ONLY,
    CUT_CALL_TORN,
    CUT_PREFIX,
    CUT_SUFFIX,
    CUT_ONE,
    CUT_ALL_BUT_ONE,
    CUT_HALF,
    CUT_FEW,
    CUT_MOST,
    CUT_DATA,      /* contents without lengths and names */
    CUT_UNWRITTEN, /* killed, and some of a file could not be written back and was dropped */
    CUT_KINDS
} Cut;

static uint32_t small_states(const Run *run)
{
    return 3 + (1u << run->medium->changes->len);
}

/* Which changes state @j keeps; false: that state is none of its own. *file: an inode that could
 * not be written back, of which nobody has heard; or -1. */
static bool choose(const Run *run, uint32_t j, Rng *rng, uint8_t *kept, bool *power, int *file)
{
    const Medium *m = run->medium;
    guint n = m->changes->len, pick = n ? rng_below(rng, n) : 0;
    const Change *changes = (const Change *)(void *)m->changes->data;
    Cut cut = j < 4 ? (Cut)j : (Cut)(4 + rng_below(rng, CUT_KINDS - 4));
    bool calls = n && changes[n - 1].event == m->event && !changes[n - 1].mapped;

    *power = cut != CUT_KILLED && cut != CUT_KILLED_TORN;
    *file = -1;
    if ((cut == CUT_NONE && !n) || (cut == CUT_KILLED_TORN && !calls))
        return false;
    if (cut >= CUT_WITHOUT_CALL && n <= SMALL) {
        for (guint i = 0; i < n; i++)
            kept[i] = (j - 4) >> i & 1;
        return j < 4 + (1u << n);
    }
    if (cut == CUT_UNWRITTEN && changes[pick].kind == CHANGE_SECTOR)
        *file = changes[pick].inode;
    if (cut == CUT_UNWRITTEN)
        *power = false;
    for (guint i = 0; i < n; i++) {
        bool call = changes[i].event == m->event && !changes[i].mapped;
        bool torn = cut == CUT_KILLED_TORN ? changes[i].sector / 8 < changes[pick].sector / 8
                                           : rng_chance(rng, 2);

        switch (cut) {
        case CUT_ALL:
        case CUT_KILLED:
            kept[i] = true;
            break;
        case CUT_NONE:
            kept[i] = false;
            break;
        case CUT_KILLED_TORN:
        case CUT_CALL_TORN:
            kept[i] = !call || torn || changes[i].kind != CHANGE_SECTOR;
            break;
        case CUT_WITHOUT_CALL:
            kept[i] = !call;
            break;
        case CUT_CALL_ONLY:
            kept[i] = call;
            break;
        case CUT_PREFIX:
            kept[i] = i < pick;
            break;
        case CUT_SUFFIX:
            kept[i] = i > pick;
            break;
        case CUT_ONE:
            kept[i] = i == pick;
            break;
        case CUT_ALL_BUT_ONE:
            kept[i] = i != pick;
            break;
        case CUT_HALF:
            kept[i] = torn;
            break;
        case CUT_FEW:
            kept[i] = rng_chance(rng, 6);
            break;
        case CUT_MOST:
            kept[i] = !rng_chance(rng, 6);
            break;
        case CUT_UNWRITTEN:
            kept[i] = changes[i].kind != CHANGE_SECTOR || changes[i].inode != *file || torn;
            break;
        case CUT_DATA:
            kept[i] = changes[i].kind == CHANGE_SECTOR || torn;
            break;
        default:
            g_assert_not_reached();
        }
    }
    return true;
}

/* ---- recovering one ------------------------------------------------------------------------- */

static void explain_bits(GString *text, const char *what, const ModelBits *bits)
{
    bool last = false;

    g_string_append_printf(text, "    %s:", what);
    for (uint64_t i = 0; i <= MODEL_WORDS * 64; i++) {
        bool set = i < MODEL_WORDS * 64 && model_test(bits, i);

        if (set && !last)
            g_string_append_printf(text, " %" G_GUINT64_FORMAT, i);
        else if (!set && last)
            g_string_append_printf(text, "-%" G_GUINT64_FORMAT, i - 1);
        last = set;
    }
    g_string_append_c(text, '\n');
}

static void explain_found(const Run *run, GString *text)
{
    for (unsigned d = 0; d < run->n_disks; d++) {
        const Found *found = &run->found[d];
        const ModelDisk *model = &run->disks[d].model;

        if (found->degraded)
            g_string_append_printf(text, "  disk %u: %s\n", d, found->report);
        for (unsigned i = 0; i < model->n; i++) {
            const ModelBitmap *b = &model->bitmaps[i];

            g_string_append_printf(text, "  disk %u model %s shift %u%s%s\n", d, b->name, b->shift,
                                   b->persistent ? " persistent" : "",
                                   b->enabled ? " enabled" : "");
            explain_bits(text, "must", &b->must);
            explain_bits(text, "may", &b->may);
        }
        for (unsigned i = 0; i < found->n; i++) {
            const FoundBitmap *f = &found->bitmaps[i];

            g_string_append_printf(
                text, "  disk %u found %s shift %u%s%s recovered %" G_GUINT64_FORMAT "\n", d,
                f->name, f->shift, f->persistent ? " persistent" : "", f->enabled ? " enabled" : "",
                f->recovered);
            explain_bits(text, "bits", &f->bits);
        }
    }
}

static void explain(Run *run, const char *what, const uint8_t *kept, bool power, char *const *wrong)
{
    GString *text = g_string_new(NULL);
    const GArray *changes = run->medium->changes;

    g_string_append_printf(text,
                           "--seed %" G_GUINT64_FORMAT " --event %u --state %u: %s, step %u, "
                           "%s:\n",
                           run->seed, run->medium->event, run->state,
                           power ? "power loss" : "killed", run->step, what);
    g_string_append_printf(text, "  is not the state before: %s\n", wrong[0]);
    if (wrong[1])
        g_string_append_printf(text, "  nor the one after: %s\n", wrong[1]);
    for (guint i = 0; i < changes->len && i < 200; i++) {
        const Change *c = &g_array_index(changes, Change, i);
        static const char *const kinds[] = { "sector", "length", "entry", "xattr", "mtime" };

        g_string_append_printf(text, "  %s event %u: %s of %d: %u %" G_GUINT64_FORMAT "%s\n",
                               kept[i] ? "kept   " : "dropped", c->event, kinds[c->kind], c->inode,
                               c->sector, c->value, c->lost ? " (lost)" : "");
    }
    explain_found(run, text);
    run_fail(run, "%s", text->str);
    g_string_free(text, true);
}

static const ModelDisk *candidate(const Run *run, unsigned disk, int which)
{
    return which ? &run->disks[disk].after : &run->disks[disk].model;
}

/* Which of the states before and after it is: 0, 1, -1 neither. */
static int match(Run *run, const Found *found, const uint8_t *kept, bool power, int file,
                 const char *what)
{
    bool doubted = power || file >= 0; /* what was not synced may be gone */
    g_autofree Doubt *doubt = NULL;
    char *wrong[2] = { NULL, NULL };
    int matched = -1;

    for (int which = run->in_flight; which >= 0 && matched < 0; which--) {
        for (unsigned d = 0; d < run->n_disks && !wrong[which]; d++) {
            wrong[which] = check_found(candidate(run, d, which), &found[d], doubted, NULL,
                                       run->disks[d].looseness);
            if (!wrong[which] && power)
                wrong[which] = check_data_kept(candidate(run, d, which), &found[d]);
            if (!wrong[which] || !found[d].opened || (!doubted && !run->faulted))
                continue;
            /* Look again what was open there, before it was recovered. */
            if (!doubt)
                doubt = g_new(Doubt, 1);
            medium_cut(run->scratch2, run->medium, kept);
            doubt_read(run, run->scratch2, d, doubt);
            g_free(wrong[which]);
            wrong[which] = check_found(candidate(run, d, which), &found[d], doubted, doubt,
                                       run->disks[d].looseness);
            if (!wrong[which] && power)
                wrong[which] = check_data_kept(candidate(run, d, which), &found[d]);
        }
        if (!wrong[which])
            matched = which;
    }
    if (matched < 0)
        explain(run, what, kept, power, wrong);
    g_free(wrong[0]);
    g_free(wrong[1]);
    return matched;
}

static void keep_files(const Run *run, const Medium *state)
{
    g_autofree char *path = NULL;

    if (!run->options->keep)
        return;
    path = g_strdup_printf("%s/seed-%" G_GUINT64_FORMAT "-event-%u-state-%u", run->options->keep,
                           run->seed, run->medium->event, run->state);
    if (g_mkdir_with_parents(path, 0755) < 0)
        return;
    medium_dump(state, path);
    g_printerr("the state's files are in %s\n", path);
}

/* The workload goes on from here. */
static void adopt(Run *run, const uint8_t *kept, bool power, int which, const Found *found)
{
    medium_cut(run->spare, run->medium, kept);
    run->adopted = true;
    run->adopted_power = power;
    run->adopt_in = -1;
    for (unsigned d = 0; d < run->n_disks; d++) {
        ModelDisk *model = &run->disks[d].after;

        *model = *candidate(run, d, which);
        model_drop_transient(model);
        model_found_with_size(model, found[d].size, run->disks[d].looseness != STRICT);
        /* After a failure what is found may be another of the states there were. */
        if (run->disks[d].looseness >= LOOSE_STATES)
            model->n = 0;
        for (unsigned i = 0; i < found[d].n; i++) {
            const FoundBitmap *f = &found[d].bitmaps[i];
            ModelBitmap *b = model_find(model, f->name);

            if (!b)
                b = model_add(model, f->name, f->shift, true, f->enabled);
            if (run->disks[d].looseness >= LOOSE_STATES)
                b->must = f->bits;
            b->inconsistent = f->inconsistent;
            b->may = f->bits;
            b->exact &= !f->recovered;
        }
    }
}

static void recover_state(Run *run, const char *what, const uint8_t *kept, bool power, int file,
                          Rng *rng)
{
    Found *found = run->found;
    bool backwards = rng_chance(rng, 2), adopting;
    uint64_t hash;
    int which;
    const State state = { what, kept, power };

    adopting = !run->adopted && run->adopt_in == 0 && rng_chance(rng, 3) && file < 0;
    medium_cut(run->scratch, run->medium, kept);
    hash = medium_hash(run->scratch) + power + 2 * (file >= 0);
    if (file >= 0)
        run->scratch->inodes[file].unwritten = true;
    if (!adopting && !run->options->one_state &&
        !g_hash_table_add(run->seen, GSIZE_TO_POINTER(hash)))
        return;
    for (unsigned i = 0; i < run->n_disks; i++)
        recover(run, run->scratch, backwards ? run->n_disks - 1 - i : i, power, THEN_DIE,
                &found[backwards ? run->n_disks - 1 - i : i]);
    for (unsigned d = 0; d < run->n_disks; d++)
        found[d].disk_lost = medium_disk_lost(run->medium, d);
    run->recovered++;
    which = run->failure ? 0 : match(run, found, kept, power, file, what);
    if (!run->failure && file >= 0)
        return; /* the error was reported, and is not again */
    if (!run->failure && rng_chance(rng, 8))
        again_durable(run, &state, found, rng);
    if (!run->failure && rng_chance(rng, 16))
        again_read_only(run, &state, found);
    if (!run->failure && rng_chance(rng, 6))
        again_late(run, &state, found, rng);
    if (!run->failure && rng_chance(rng, 32))
        again_unreadable(run, &state, found, rng);
    if (run->failure) {
        medium_cut(run->scratch, run->medium, kept);
        keep_files(run, run->scratch);
        return;
    }
    if (adopting)
        adopt(run, kept, power, which, found);
}

/* ---- all of an event ------------------------------------------------------------------------ */

void states_event(void *opaque, const char *what)
{
    Run *run = opaque;
    uint32_t event = run->medium->event, n = run->options->states;
    g_autofree uint8_t *kept = NULL;

    run->events++;
    if (run->failure || run->adopted)
        return;
    if (run->medium->violation) {
        run_fail(run, "--seed %" G_GUINT64_FORMAT " --event %u: %s", run->seed, event,
                 run->medium->violation);
        return;
    }
    if (run->options->one_state && run->options->event != event && run->adopt_in != 0) {
        run->adopt_in -= run->adopt_in > 0;
        return;
    }
    if (run->seen_version != run->version)
        g_hash_table_remove_all(run->seen);
    run->seen_version = run->version;
    kept = g_malloc(run->medium->changes->len + 1);
    if (run->medium->changes->len <= SMALL)
        n = MIN(n, small_states(run) + 1);
    for (run->state = 0; run->state < n && !run->failure && !run->adopted; run->state++) {
        Rng rng = { run->seed * 1000003 + event * UINT64_C(7919) + run->state };
        bool power;
        int file;

        if (run->options->one_state && run->options->state != run->state &&
            run->options->state != ANY_STATE && run->adopt_in != 0)
            continue;
        if (!choose(run, run->state, &rng, kept, &power, &file))
            continue;
        run->states++;
        recover_state(run, what, kept, power, file, &rng);
    }
    run->adopt_in -= run->adopt_in > 0;
}
