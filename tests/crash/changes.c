/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/changes.c: changes of bitmaps, alone and in transactions, and taking them back. */
#include "tests/crash/workload.h"

#include <string.h>

#define OPERATIONS 4u

typedef enum {
    DO_ADD,
    DO_REMOVE,
    DO_CLEAR,
    DO_ENABLE,
    DO_DISABLE,
    DO_MERGE,
    DO_FREEZE,
    DO_FINISH
} What;

typedef struct Undo {
    What what;
    BmpBitmap *bitmap; /* a reference */
    BmpBackup *backup;
    Disk *thawed; /* it was frozen */
} Undo;

static BmpBitmap *find(Disk *disk, const ModelBitmap *b)
{
    return bmp_set_find(disk->set, b->name, NULL);
}

static void begins(Disk *disk, ModelBitmap *b)
{
    model_begins(b, &disk->unflushed, &disk->lost);
    if (b->enabled && bmp_set_lossy(disk->set))
        model_fill(&disk->after, b);
}

static bool add(Run *run, Disk *disk, Undo *undo)
{
    ModelDisk *model = &disk->after;
    unsigned shift = run->shifts[rng_below(&run->rng, G_N_ELEMENTS(run->shifts))];
    BmpAddOptions options = { .granularity = UINT64_C(1) << shift,
                              .persistent = !rng_chance(&run->rng, 5),
                              .disabled = rng_chance(&run->rng, 4) };
    ModelBitmap *added;
    g_autofree char *name = g_strdup_printf("b%u", (unsigned)rng_below(&run->rng, 12));
    g_autoptr(GError) error = NULL;

    if (model->n == MODEL_BITMAPS || model_find(model, name))
        return false;
    options.unfinished = options.persistent && rng_chance(&run->rng, 3);
    undo->bitmap = bmp_set_add(disk->set, name, &options, &error);
    if (!undo->bitmap) {
        run_fail(run, "add %s: %s", name, error->message);
        return false;
    }
    added = model_add(model, name, shift, options.persistent, !options.disabled);
    added->unfinished = options.unfinished;
    begins(disk, added);
    return true;
}

/* As a job does when it begins, and when it ends. */
static bool freeze(Run *run, Disk *disk, ModelBitmap *b, Undo *undo)
{
    bool whole = rng_chance(&run->rng, 2);

    if (b->inconsistent)
        return false;
    undo->bitmap = find(disk, b);
    undo->thawed = b->frozen ? disk : NULL;
    if (!b->frozen) {
        model_freeze(b, &disk->unflushed, &disk->lost);
        if (!bmp_bitmap_freeze(undo->bitmap, true, NULL))
            run_fail(run, "%s can't be frozen", b->name);
        return true;
    }
    undo->backup = bmp_bitmap_backup(undo->bitmap);
    bmp_bitmap_thaw(undo->bitmap, whole);
    model_thaw(b, whole);
    if (!whole && b->enabled && bmp_set_lossy(disk->set))
        model_fill(&disk->after, b);
    return true;
}

static bool alter(Run *run, Disk *disk, ModelBitmap *b, Undo *undo)
{
    ModelDisk *model = &disk->after;
    ModelBitmap *source = &model->bitmaps[rng_below(&run->rng, model->n)];
    g_autoptr(BmpBitmap) from = NULL;
    bool ok;

    if (undo->what != DO_REMOVE && (b->inconsistent || source->inconsistent))
        return false;
    if (b->frozen || source->frozen)
        return false;
    undo->bitmap = find(disk, b);
    from = find(disk, source);
    if (!undo->bitmap || !from) {
        run_fail(run, "%s is not there", b->name);
        return false;
    }
    if (undo->what != DO_REMOVE)
        undo->backup = bmp_bitmap_backup(undo->bitmap);
    switch (undo->what) {
    case DO_REMOVE:
        ok = bmp_bitmap_remove(undo->bitmap, NULL);
        model_remove(model, b);
        break;
    case DO_CLEAR:
        ok = bmp_bitmap_clear(undo->bitmap, NULL);
        model_clear(b);
        begins(disk, b);
        break;
    case DO_ENABLE:
        ok = bmp_bitmap_enable(undo->bitmap, NULL);
        if (!b->enabled) {
            b->enabled = true;
            begins(disk, b);
        }
        break;
    case DO_FINISH:
        bmp_bitmap_finish(undo->bitmap);
        b->unfinished = false;
        ok = true;
        break;
    case DO_DISABLE:
        ok = bmp_bitmap_disable(undo->bitmap, NULL);
        b->enabled = false;
        break;
    default:
        ok = bmp_bitmap_merge(undo->bitmap, from, NULL);
        model_merge(model, b, source);
        break;
    }
    if (!ok)
        run_fail(run, "operation %u on a bitmap was refused", undo->what);
    return ok;
}

static bool operation(Run *run, Disk *disk, Undo *undo)
{
    static const What whats[] = { DO_ADD,    DO_ADD,    DO_ADD,    DO_REMOVE,  DO_CLEAR,
                                  DO_CLEAR,  DO_ENABLE, DO_ENABLE, DO_DISABLE, DO_MERGE,
                                  DO_FREEZE, DO_FREEZE, DO_FREEZE, DO_FINISH };
    ModelDisk *model = &disk->after;

    memset(undo, 0, sizeof(*undo));
    undo->what = whats[rng_below(&run->rng, G_N_ELEMENTS(whats))];
    if (!model->n)
        undo->what = DO_ADD;
    if (undo->what == DO_ADD)
        return add(run, disk, undo);
    if (undo->what == DO_FREEZE)
        return freeze(run, disk, &model->bitmaps[rng_below(&run->rng, model->n)], undo);
    return alter(run, disk, &model->bitmaps[rng_below(&run->rng, model->n)], undo);
}

static void unfreeze(BmpBitmap *bitmap)
{
    if (bmp_bitmap_busy(bitmap))
        bmp_bitmap_thaw(bitmap, true);
}

/* It stays thawed, and is whole. */
static void note_thawed(const Undo *undo)
{
    ModelBitmap *b =
        undo->thawed ? model_find(&undo->thawed->model, bmp_bitmap_name(undo->bitmap)) : NULL;

    if (b)
        b->frozen = false;
}

static void take_back(Undo *undo)
{
    if (undo->what == DO_ADD)
        bmp_bitmap_remove(undo->bitmap, NULL);
    else if (undo->what == DO_REMOVE)
        bmp_bitmap_unremove(undo->bitmap);
    else if (undo->what == DO_FREEZE && !undo->thawed)
        unfreeze(undo->bitmap);
    else
        bmp_bitmap_restore(undo->bitmap, g_steal_pointer(&undo->backup));
}

bool workload_commit(Run *run, Disk *const *disks, unsigned n)
{
    g_autoptr(GError) error = NULL;
    BmpSet *sets[MEDIUM_DISKS];
    bool ok;

    for (unsigned i = 0; i < n; i++)
        sets[i] = disks[i]->set;
    ok = bmp_set_commit(sets, n, &error);
    if (!ok && !error)
        run_fail(run, "a commit failed without an error");
    else if (!ok && !run->medium->fault.hits)
        run_fail(run, "a commit failed: %s", error->message);
    if (!ok && run->options->verbose)
        g_printerr("step %u: commit: %s\n", run->step, error ? error->message : "?");
    return ok;
}

static void begin(Disk *const *disks, unsigned n, bool end)
{
    BmpSet *sets[MEDIUM_DISKS];

    for (unsigned i = 0; i < n; i++)
        sets[i] = disks[i]->set;
    if (end)
        bmp_set_change_end(sets, n);
    else
        bmp_set_change_begin(sets, n);
}

void workload_change(Run *run)
{
    Disk *disks[MEDIUM_DISKS];
    Undo undos[OPERATIONS];
    unsigned n = 0, count = 0, wanted = 1 + rng_below(&run->rng, OPERATIONS);
    unsigned first = rng_below(&run->rng, run->n_disks);
    bool done;

    disks[n++] = &run->disks[first];
    if (run->n_disks > 1 && rng_chance(&run->rng, 2))
        disks[n++] = &run->disks[!first];
    flight_begin(run);
    begin(disks, n, false);
    for (unsigned i = 0; i < wanted; i++)
        count += operation(run, disks[rng_below(&run->rng, n)], &undos[count]);
    run->version++;
    done = !run->failure && workload_commit(run, disks, n);
    for (unsigned i = count; i-- > 0;) {
        if (!done)
            take_back(&undos[i]);
        if (!done)
            note_thawed(&undos[i]);
        bmp_backup_free(undos[i].backup);
        bmp_bitmap_unref(undos[i].bitmap);
    }
    begin(disks, n, true);
    flight_end(run, done);
}

void workload_begin(Run *run, Disk *disk)
{
    BmpAddOptions options = { .granularity = 65536, .persistent = true, .unfinished = true };
    g_autofree char *name = g_strdup_printf("b%u", (unsigned)rng_below(&run->rng, 12));
    ModelBitmap *added, *from;
    g_autoptr(BmpBitmap) frozen = NULL;

    if (disk->model.n == MODEL_BITMAPS || model_find(&disk->model, name) ||
        !bmp_set_note_backup(disk->set, name) || run->adopted)
        return;
    flight_begin(run);
    begin(&disk, 1, false);
    bmp_bitmap_unref(bmp_set_add(disk->set, name, &options, NULL));
    added = model_add(&disk->after, name, 16, true, true);
    added->unfinished = true;
    begins(disk, added);
    from = &disk->after.bitmaps[rng_below(&run->rng, disk->after.n)];
    if (from != added && !from->frozen && !from->inconsistent) {
        frozen = find(disk, from);
        model_freeze(from, &disk->unflushed, &disk->lost);
        if (!bmp_bitmap_freeze(frozen, false, NULL))
            run_fail(run, "%s can't be frozen", from->name);
    }
    begin(&disk, 1, true);
    flight_end(run, true);
}

void workload_resize(Run *run, Disk *disk)
{
    uint64_t size = 512 * (1 + rng_below(&run->rng, MODEL_SIZE_MAX / 512));

    if (rng_chance(&run->rng, 4))
        size -= rng_below(&run->rng, 512);
    flight_begin(run);
    model_resize(&disk->after, size);
    run->version++;
    medium_disk_resize(run->medium, disk->index, size);
    begin(&disk, 1, false);
    bmp_set_resize(disk->set, size);
    /* The disk is what it is, also if the store could not be notified. */
    if (!workload_commit(run, &disk, 1)) {
        disk->looseness = MAX(disk->looseness, LOOSE_BITS);
        bmp_set_distrust_store(disk->set, "a resize");
    }
    begin(&disk, 1, true);
    flight_end(run, true);
}

void workload_heal(Run *run, Disk *disk)
{
    bool done;

    if (!disk->set || !bmp_set_wants_commit(disk->set))
        return;
    flight_begin(run);
    begin(&disk, 1, false);
    done = workload_commit(run, &disk, 1);
    begin(&disk, 1, true);
    flight_end(run, done);
    if (done && bmp_set_wants_commit(disk->set) && !run->medium->fault.times)
        run_fail(run, "healed, and still not well");
}

void workload_lose(Run *run, Disk *disk)
{
    if (!disk->set || !disk->flush_failed || run->adopted)
        return;
    disk->flush_failed = false;
    for (unsigned i = 0; i < disk->model.n && !bmp_set_lossy(disk->set); i++) {
        ModelBitmap *b = &disk->model.bitmaps[i];

        if (b->enabled && (!b->persistent || b->unfinished))
            model_fill(&disk->model, b);
    }
    run->version++;
    bmp_set_lose(disk->set);
}
