/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/workload.c: what happens to the disks: writes, changes, sessions, failures, crashes
 * that the next session goes on from. */
#include "tests/crash/workload.h"

#include <string.h>

/* ---- operations in flight ------------------------------------------------------------------- */

void flight_begin(Run *run)
{
    for (unsigned d = 0; d < run->n_disks; d++)
        run->disks[d].after = run->disks[d].model;
    run->in_flight = true;
    run->version++;
}

void flight_end(Run *run, bool done)
{
    run->in_flight = false;
    run->version++;
    if (run->adopted)
        return; /* after is what the next session begins with */
    for (unsigned d = 0; done && d < run->n_disks; d++)
        run->disks[d].model = run->disks[d].after;
    medium_observe(run->medium, done ? "done" : "taken back");
}

/* ---- sessions ------------------------------------------------------------------------------- */

static void heard(void *opaque, const BmpReport *report)
{
    Disk *disk = opaque;

    if (report->healed)
        disk->healed++;
    else
        disk->degraded++;
}

/* What was recovered is the truth from now on. */
static void take_over(Run *run, Disk *disk)
{
    g_autofree Found *found = g_new0(Found, 1);
    char *wrong;

    found->opened = true;
    found->size = disk->model.size;
    recover_read(disk->set, found);
    wrong = check_found(&disk->model, found, true, NULL, disk->looseness);
    if (wrong)
        run_fail(run, "step %u: opened: %s", run->step, wrong);
    g_free(wrong);
    model_drop_unfinished(&disk->model);
    if (disk->looseness >= LOOSE_STATES)
        disk->model.n = 0;
    for (unsigned i = 0; i < found->n; i++) {
        const FoundBitmap *f = &found->bitmaps[i];
        ModelBitmap *b = model_find(&disk->model, f->name);

        if (!b)
            b = model_add(&disk->model, f->name, f->shift, true, f->enabled);
        b->must = b->may = f->bits;
        b->exact &= !f->recovered;
        b->inconsistent = f->inconsistent;
        b->frozen = false;
    }
    run->version++;
}

static void drop_loss(Disk *disk)
{
    memset(&disk->lost, 0, sizeof(disk->lost));
    disk->loss_noted = false;
    model_flushed(&disk->model, &disk->lost);
}

/* What the store says of a disk that has lost data is all that an opening knows of it. */
static void take_over_loss(Run *run, Disk *disk)
{
    unsigned persistent = 0;

    /* An unfinished one is left out by an opening: whether it had begun before the crash, and a
     * store with it, can't be seen from what is found. */
    for (unsigned i = 0; i < disk->model.n; i++)
        persistent += disk->model.bitmaps[i].persistent && !disk->model.bitmaps[i].unfinished;
    disk->flush_failed = false;
    if (bmp_set_lossy(disk->set))
        return;
    if (disk->loss_noted && persistent && disk->looseness == STRICT)
        run_fail(run, "step %u: the store has forgotten that its disk has lost data", run->step);
    drop_loss(disk);
}

bool session_open(Run *run, Disk *disk)
{
    /* The models differ in flight only while others write; nobody does. */
    disk->durability = rng_chance(&run->rng, 4) ? BMP_DURABLE_PROCESS : BMP_DURABLE_POWER;
    disk->region_shift = 12 + rng_below(&run->rng, 9);
    disk->degraded = disk->healed = 0;
    disk->set = recover_open(run, run->medium, disk->index, run->boot, false, heard, disk);
    if (!disk->set) {
        if (!run->medium->fault.hits)
            run_fail(run, "step %u: the store can't be opened", run->step);
        return false;
    }
    if (!run->adopted) {
        take_over_loss(run, disk);
        take_over(run, disk);
        medium_observe(run->medium, "opened");
    }
    return true;
}

void session_close(Run *run, Disk *disk)
{
    if (!recover_flush(disk))
        workload_lose(run, disk);
    if (run->adopted)
        return;
    flight_begin(run);
    model_drop_transient(&disk->after);
    run->version++;
    bmp_set_close_store(disk->set);
    bmp_set_free(g_steal_pointer(&disk->set));
    flight_end(run, true);
}

void session_check(Run *run, Disk *disk)
{
    ModelBits bits;

    if (bmp_set_length(disk->set) != disk->model.n)
        run_fail(run, "step %u: %zu bitmaps in memory, expected %u", run->step,
                 bmp_set_length(disk->set), disk->model.n);
    for (unsigned i = 0; i < disk->model.n && !run->failure; i++) {
        const ModelBitmap *b = &disk->model.bitmaps[i];
        g_autoptr(BmpBitmap) bitmap = bmp_set_find(disk->set, b->name, NULL);

        if (!bitmap || (!b->inconsistent && bmp_bitmap_enabled(bitmap) != b->enabled)) {
            run_fail(run, "step %u: %s in memory is not as expected", run->step, b->name);
            return;
        }
        model_read(bitmap, disk->model.size, &bits);
        if (!b->inconsistent && memcmp(&bits, b->frozen ? &b->shown : &b->must, sizeof(bits)))
            run_fail(run, "step %u: %s in memory has another content", run->step, b->name);
    }
}

/* ---- writing -------------------------------------------------------------------------------- */

static void choose_range(Run *run, const Disk *disk, uint64_t *offset, uint64_t *length)
{
    static const uint32_t most[] = { 512, 512, 4096, 4096, 65536, 300000, 2000000 };
    uint64_t size = disk->model.size;

    /* Often where it is warm already. */
    *offset = rng_chance(&run->rng, 3) ? rng_below(&run->rng, size)
                                       : rng_below(&run->rng, MIN(size, 200000));
    if (!rng_chance(&run->rng, 6))
        *offset = *offset / 512 * 512;
    *length = 1 + rng_below(&run->rng, most[rng_below(&run->rng, G_N_ELEMENTS(most))]);
    *length = MIN(*length, size - *offset);
}

/* What is marked costs nothing, and who may not wait does not. */
static void check_cost(Run *run, Disk *disk, uint64_t offset, uint64_t length)
{
    unsigned syncs = run->medium->syncs, writes = run->medium->writes;
    uint64_t epoch;

    if (run->adopted || run->faulted)
        return;
    if (!bmp_set_mark_try_begin(disk->set, offset, length, &epoch))
        run_fail(run, "step %u: what is marked has to wait", run->step);
    else
        bmp_set_mark_end(disk->set, offset, length, epoch);
    if (run->medium->syncs != syncs || run->medium->writes != writes)
        run_fail(run, "step %u: marking what is marked calls the system", run->step);
}

static void write_some(Run *run, Disk *disk)
{
    uint64_t offset, length, epoch;
    unsigned syncs = run->medium->syncs;
    bool marked;

    choose_range(run, disk, &offset, &length);
    model_marking(&disk->model, offset, length);
    run->version++;
    marked = !rng_chance(&run->rng, 4) && bmp_set_mark_try_begin(disk->set, offset, length, &epoch);
    if (run->medium->syncs != syncs)
        run_fail(run, "step %u: who must not wait has waited for a sync", run->step);
    if (!marked)
        epoch = bmp_set_mark_begin(disk->set, offset, length);
    if (disk->durability == BMP_DURABLE_PROCESS && run->medium->syncs != syncs && !run->faulted)
        run_fail(run, "step %u: a write has waited for a sync", run->step);
    model_written(&disk->model, offset, length);
    model_set(&disk->unflushed, 9, offset, length);
    run->version++;
    if (!run->adopted) {
        medium_disk_written(run->medium, disk->index);
        medium_observe(run->medium, "a write is issued");
    }
    check_cost(run, disk, offset, length);
    bmp_set_mark_end(disk->set, offset, length, epoch);
}

static void tick(Run *run, Disk *disk)
{
    bmp_set_tick(disk->set);
    if (!run->adopted)
        medium_observe(run->medium, "a tick");
}

/* Nobody writes for a while: then nothing is in doubt. */
static void cold(Run *run, Disk *disk)
{
    g_autofree Doubt *doubt = g_new(Doubt, 1);
    g_autofree uint8_t *kept = NULL;

    for (int i = 0; i < 12; i++)
        tick(run, disk);
    if (run->adopted || run->faulted || disk->durability != BMP_DURABLE_POWER)
        return;
    kept = g_malloc0(run->medium->changes->len + 1);
    medium_cut(run->scratch2, run->medium, kept);
    doubt_read(run, run->scratch2, disk->index, doubt);
    if (doubt->open)
        run_fail(run, "step %u: %u intents are still there though nobody writes", run->step,
                 doubt->open);
}

/* ---- failures ------------------------------------------------------------------------------- */

static bool all_is_well(const Run *run)
{
    for (unsigned d = 0; d < run->n_disks; d++) {
        if (run->disks[d].looseness != STRICT)
            return false;
    }
    return true;
}

static void fail_begin(Run *run)
{
    static const unsigned calls[] = { CALL_SYNC,
                                      CALL_WRITE,
                                      CALL_WRITE | CALL_ALLOCATE,
                                      CALL_ALLOCATE,
                                      CALL_WRITE | CALL_ALLOCATE | CALL_SYNC | CALL_OPEN,
                                      CALL_WRITE | CALL_ALLOCATE | CALL_SYNC | CALL_MMAP,
                                      CALL_WRITE | CALL_SYNC | CALL_DIRECTORY };
    MediumFault *fault = &run->medium->fault;
    bool once = rng_chance(&run->rng, 2);

    fault->calls = calls[rng_below(&run->rng, G_N_ELEMENTS(calls))];
    fault->after = rng_below(&run->rng, 8);
    fault->times = once ? 1 : 2 + rng_below(&run->rng, 30);
    fault->error = fault->calls & CALL_SYNC || rng_chance(&run->rng, 3) ? EIO : ENOSPC;
    fault->partial = rng_chance(&run->rng, 2);
    fault->hits = 0;
    run->faulted = true;
    for (unsigned d = 0; d < run->n_disks; d++)
        run->disks[d].looseness = fault->calls & CALL_DIRECTORY ? LOOSE_ALL
                                  : once                        ? LOOSE_BITS
                                                                : LOOSE_STATES;
    run->version++;
    if (run->options->verbose)
        g_printerr("step %u: from now calls %#x fail, after %u, %u times, error %d\n", run->step,
                   fault->calls, fault->after, fault->times, fault->error);
}

static void fail_end(Run *run)
{
    run->medium->fault.times = 0;
    for (unsigned d = 0; d < run->n_disks; d++) {
        Disk *disk = &run->disks[d];

        workload_heal(run, disk);
        if (run->adopted || run->failure)
            return;
        disk->looseness = STRICT;
        disk->loss_noted = bmp_set_lossy(disk->set);
    }
    run->medium->fault.hits = 0;
    run->version++;
    medium_observe(run->medium, "healed");
}

/* ---- the end of a process, and what comes then ---------------------------------------------- */

static void die(Run *run)
{
    for (unsigned d = 0; d < run->n_disks; d++)
        bmp_set_free(g_steal_pointer(&run->disks[d].set));
    medium_close_all(run->medium);
}

static void open_all(Run *run)
{
    for (unsigned d = 0; d < run->n_disks && !run->failure && !run->adopted; d++) {
        if (!run->disks[d].set && !session_open(run, &run->disks[d])) {
            run->medium->fault.times = 0;
            run->medium->fault.hits = 1;
            if (!session_open(run, &run->disks[d]))
                run_fail(run, "step %u: the store can't be opened after a failure", run->step);
        }
    }
}

/* Goes on from a state that a crash left. */
static void go_on(Run *run)
{
    while (run->adopted && !run->failure) {
        Medium *dead = run->medium;
        MediumFault fault = dead->fault;

        die(run);
        run->medium = run->spare;
        run->spare = dead;
        run->medium->event = dead->event;
        run->medium->fault = fault;
        run->medium->on_event = states_event;
        run->medium->opaque = run;
        dead->on_event = NULL;
        medium_use(run->medium);
        run->adopted = false;
        run->in_flight = false;
        run->boot += run->adopted_power;
        run->adopt_in = -1;
        for (unsigned d = 0; d < run->n_disks; d++) {
            run->disks[d].model = run->disks[d].after;
            if (run->adopted_power) { /* what there is now is on the medium */
                memset(&run->disks[d].unflushed, 0, sizeof(ModelBits));
                drop_loss(&run->disks[d]);
            }
        }
        run->version++;
        if (run->options->verbose)
            g_printerr("step %u: goes on from event %u after a %s\n", run->step, dead->event,
                       run->adopted_power ? "power loss" : "kill");
        open_all(run);
    }
}

/* Another program writes to the closed disk (R4). */
static void change_unseen(Run *run, Disk *disk)
{
    flight_begin(run);
    for (unsigned i = 0; i < disk->after.n && !disk->accept_changed; i++)
        disk->after.bitmaps[i].inconsistent |= disk->after.bitmaps[i].enabled;
    medium_disk_written(run->medium, disk->index);
    medium_sys.fsync(medium_disk_fd(disk->index));
    flight_end(run, true);
}

/* The disks are closed, and somebody may write to one. */
static void reopen(Run *run)
{
    for (unsigned d = 0; d < run->n_disks; d++) {
        session_close(run, &run->disks[d]);
        if (run->adopted || run->failure)
            return;
        run->disks[d].accept_changed = rng_chance(&run->rng, 2);
        if (run->disks[d].looseness == STRICT && rng_chance(&run->rng, 6))
            change_unseen(run, &run->disks[d]);
        if (run->adopted || run->failure)
            return;
    }
    if (run->options->damage)
        damage_at_rest(run);
    open_all(run);
}

static void kill_process(Run *run)
{
    die(run);
    for (unsigned d = 0; d < run->n_disks; d++)
        model_drop_transient(&run->disks[d].model);
    run->version++;
    open_all(run);
}

/* ---- a seed --------------------------------------------------------------------------------- */

static void step(Run *run)
{
    Disk *disk = &run->disks[rng_below(&run->rng, run->n_disks)];
    unsigned what = rng_below(&run->rng, 100);

    if (run->options->faults && run->seed % 3 == 0 && all_is_well(run) && rng_chance(&run->rng, 12))
        fail_begin(run);
    if (what < 57)
        write_some(run, disk);
    else if (what < 67)
        tick(run, disk);
    else if (what < 70)
        cold(run, disk);
    else if (what < 85)
        workload_change(run);
    else if (what < 88)
        workload_begin(run, disk);
    else if (what < 91)
        workload_resize(run, disk);
    else if (what < 94)
        reopen(run);
    else if (what < 95)
        kill_process(run);
    else if (what < 98)
        run->adopt_in = run->adopt_in < 0 ? (int)rng_below(&run->rng, 30) : run->adopt_in;
    else if (run->options->damage)
        damage_at_rest(run);
}

static void start(Run *run, uint64_t seed)
{
    static const uint8_t shifts[] = { 9, 9, 10, 12, 12, 13, 14, 16, 16, 18, 21 };

    run->seed = seed;
    run->rng.state = seed;
    medium_reset(run->medium);
    medium_reset(run->spare);
    g_clear_pointer(&run->failure, g_free);
    g_hash_table_remove_all(run->seen);
    run->n_disks = rng_chance(&run->rng, 4) && !run->options->alone ? 2 : 1;
    run->in_flight = run->adopted = run->faulted = false;
    run->adopt_in = -1;
    run->boot = 1;
    run->version++;
    for (unsigned i = 0; i < G_N_ELEMENTS(run->shifts); i++)
        run->shifts[i] = shifts[rng_below(&run->rng, G_N_ELEMENTS(shifts))];
    for (unsigned d = 0; d < run->n_disks; d++) {
        Disk *disk = &run->disks[d];

        memset(disk, 0, sizeof(*disk));
        disk->index = d;
        g_snprintf(disk->path, sizeof(disk->path), "/m/disk%u.bitmaps", d);
        disk->model.size = 512 * (1 + rng_below(&run->rng, MODEL_SIZE_MAX / 512));
        medium_make_disk(run->medium, d, disk->model.size);
    }
    run->medium->on_event = states_event;
    run->medium->opaque = run;
    run->spare->on_event = NULL;
}

bool run_seed(Run *run, uint64_t seed, unsigned steps)
{
    unsigned failing = 0;

    start(run, seed);
    medium_use(run->medium);
    open_all(run);
    for (run->step = 0; run->step < steps && !run->failure; run->step++) {
        step(run);
        for (unsigned d = 0; d < run->n_disks; d++)
            workload_lose(run, &run->disks[d]);
        go_on(run);
        if (run->failure)
            break;
        if (run->medium->fault.hits && ++failing > 5 + seed % 20) {
            fail_end(run);
            failing = 0;
            go_on(run);
        }
        for (unsigned d = 0; d < run->n_disks && !run->failure; d++)
            session_check(run, &run->disks[d]);
    }
    die(run);
    medium_use(NULL);
    return !run->failure;
}

Run *run_new(const Options *options)
{
    Run *run = g_new0(Run, 1);

    run->options = options;
    run->medium = medium_new(true);
    run->spare = medium_new(true);
    run->scratch = medium_new(false);
    run->scratch2 = medium_new(false);
    run->seen = g_hash_table_new(NULL, NULL);
    return run;
}

void run_free(Run *run)
{
    medium_free(run->medium);
    medium_free(run->spare);
    medium_free(run->scratch);
    medium_free(run->scratch2);
    g_hash_table_unref(run->seen);
    g_free(run->failure);
    g_free(run);
}

void run_fail(Run *run, const char *format, ...)
{
    va_list args;

    if (run->failure)
        return;
    va_start(args, format);
    run->failure = g_strdup_vprintf(format, args);
    va_end(args);
}
