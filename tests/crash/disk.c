/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/disk.c: disks with chains of bitmaps, the disks' own data included, on a medium whose
 * power is cut at every event.
 *
 *     crash-disk [--seed N] [--seeds N] [--seconds N] [--states N] [--steps N] [--keep DIRECTORY]
 *                [--faults] [IMAGE...]
 *
 * Two disks, raw ones unless qcow2 images are named, are written, flushed and reopened; checkpoints
 * of one or of both go in between, as incremental backups make them: the next bitmap is added and
 * the last disabled at one instant. At every event some states that a loss of power, or the end of
 * the process alone, may leave are opened again, and
 *   - each sector holds what it was at the last flush, or what was written there since;
 *   - the bitmaps of both disks are those before the change under way, or of both those after it;
 *   - a sector that is not what it was when a bitmap began, be it older, is dirty in that bitmap or
 *     in one that followed it;
 *   - if only the process has died, nothing is dirty that no request touched.
 * The workload goes on from some of the states.
 *
 * With --faults calls fail besides. Then bitmaps may be gone or inconsistent, but not wrong. */
#include "tests/crash/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

World w;

/* ---- states */

static void set_boot(BlkGraph *graph, uint8_t boot)
{
    blk_graph_set_boot_id(graph, (const uint8_t[16]){ boot });
}

/* A process knows nothing of what another one has met. */
static void new_process(void)
{
    if (w.graph)
        blk_graph_free(w.graph);
    w.graph = blk_graph_new(w.registry, w.engine, &medium_sys);
    set_boot(w.graph, w.boot);
}

/* Opens what is on w.cut; which of the states it is, see disk_match(). */
static int check_state(Rng *rng, bool killed)
{
    BlkGraph *graph = w.graph;
    Medium *before = medium_use(w.cut);
    bool backwards = rng_chance(rng, 2), read_only = rng_chance(rng, 4);
    int which = -1;

    w.graph = w.other;
    set_boot(w.graph, killed ? w.boot : w.boot + 1);
    for (unsigned k = 0; k < DISKS && !w.failure; k++) {
        unsigned i = backwards ? DISKS - 1 - k : k;
        BlkNode *node = disk_open(&w.disks[i], read_only);

        if (node)
            disk_observe(node, &w.disks[i], &w.found[i]);
    }
    for (unsigned i = 0; i < DISKS && !w.failure; i++)
        disk_check_values(&w.disks[i], &w.found[i]);
    if (!w.failure)
        which = disk_match(killed);
    for (unsigned i = 0; i < DISKS; i++) {
        if (blk_graph_find(w.graph, w.disks[i].name, NULL))
            disk_close(w.disks[i].name);
    }
    w.graph = graph;
    medium_close_all(w.cut);
    medium_use(before);
    w.states++;
    return which;
}

static void on_event(void *opaque, const char *what)
{
    g_autofree uint8_t *kept = g_malloc0(w.medium->changes->len + 1);

    (void)opaque;
    if (++w.events > EVENTS_ALL && w.events % 64)
        return;
    for (uint64_t state = 0; state < w.per_event && !w.failure; state++) {
        Rng rng = { w.seed * 1000003 + w.events * 101 + state };

        medium_choose(w.medium, &rng, kept, state);
        medium_cut(w.cut, w.medium, kept);
        check_state(&rng, state == 0);
        if (w.failure) {
            char *more = g_strdup_printf("--seed %" G_GUINT64_FORMAT
                                         ", step %u (%s), event %" G_GUINT64_FORMAT
                                         " (%s), state %" G_GUINT64_FORMAT ": %s",
                                         w.seed, w.step, w.doing, w.events, what, state, w.failure);

            g_free(w.failure);
            w.failure = more;
            medium_cut(w.cut, w.medium, kept);
            if (w.keep && g_mkdir_with_parents(w.keep, 0755) == 0)
                medium_dump(w.cut, w.keep);
        }
    }
}

/* ---- ends and beginnings */

/* After an opening the bitmaps are as found, and what they hold, they may. */
static void take_over(bool after)
{
    for (unsigned i = 0; i < DISKS; i++) {
        DataDisk *d = &w.disks[i];
        Model was = after ? d->after : d->model;

        d->model.n = 0;
        for (unsigned k = 0; k < was.n; k++) {
            int at = disk_find(&w.found[i], was.records[k].name);
            Record *record = &d->model.records[d->model.n];

            if (at < 0 || w.found[i].bitmaps[at].inconsistent)
                continue;
            *record = was.records[k];
            memcpy(record->touched, w.found[i].bitmaps[at].dirty, sizeof(record->touched));
            record->enabled = w.found[i].bitmaps[at].enabled;
            d->model.n++;
        }
        d->from = d->to = 0;
    }
}

static void open_all(void)
{
    for (unsigned i = 0; i < DISKS && !w.failure; i++)
        w.disks[i].node = disk_open(&w.disks[i], false);
}

/* The process dies here, maybe for lack of power, and another goes on. */
static void op_crash(void)
{
    g_autofree uint8_t *kept = g_malloc0(w.medium->changes->len + 1);
    bool killed = rng_chance(&w.rng, 2);
    Medium *dead = w.medium;
    int which;

    medium_choose(w.medium, &w.rng, kept, killed ? 0 : 1 + rng_below(&w.rng, 8));
    medium_cut(w.cut, dead, kept);
    which = check_state(&w.rng, killed);
    if (which < 0)
        return;
    medium_cut(w.spare, dead, kept);
    dead->on_event = NULL;
    dead->fault = (MediumFault){ 0 };
    for (unsigned i = 0; i < DISKS; i++)
        disk_close(w.disks[i].name);
    medium_close_all(dead);
    take_over(which);
    for (unsigned i = 0; i < DISKS; i++) {
        for (uint32_t s = 0; s < w.disks[i].sectors; s++)
            disk_only(&w.disks[i], s, w.found[i].values[s]);
        memset(w.disks[i].doubt, 0, sizeof(w.disks[i].doubt));
    }
    w.medium = w.spare;
    w.spare = dead;
    w.medium->event = dead->event;
    w.medium->on_event = on_event;
    medium_use(w.medium);
    w.boot += !killed;
    new_process();
    open_all();
}

/* A clean end, and another beginning; for a while there is no room. */
static void op_restart(void)
{
    bool full = w.faults && rng_chance(&w.rng, 2);

    w.loose |= full;
    if (full)
        w.medium->fault =
            (MediumFault){ .calls = CALL_ALLOCATE | CALL_WRITE, .times = 1000, .error = ENOSPC };
    for (unsigned i = 0; i < DISKS && !w.failure; i++) {
        disk_flush(&w.disks[i]); /* as closing does; if it fails there, it does here */
        disk_drop_failures(&w.disks[i]);
        disk_close(w.disks[i].name);
    }
    w.failures += w.medium->fault.hits;
    w.medium->fault = (MediumFault){ 0 };
    new_process();
    open_all();
    for (unsigned i = 0; i < DISKS && !w.failure; i++)
        disk_observe(w.disks[i].node, &w.disks[i], &w.found[i]);
    if (w.failure || disk_match(!full) < 0)
        return;
    for (unsigned i = 0; i < DISKS; i++)
        disk_check_values(&w.disks[i], &w.found[i]);
    if (w.loose && !w.failure)
        take_over(false);
}

/* Read-only for a moment, and writable again. */
static void op_reopen(DataDisk *d)
{
    for (int read_only = 1; read_only >= 0 && !w.failure; read_only--) {
        g_autofree char *text = g_strdup_printf(
            d->image ? "[{\"driver\": \"qcow2\", \"node-name\": \"%s\", \"read-only\": %s, "
                       "\"discard\": \"unmap\", \"file\": {\"driver\": \"file\", "
                       "\"locking\": \"off\", \"filename\": \"%s\"}}]"
                     : "[{\"driver\": \"file\", \"node-name\": \"%s\", \"read-only\": %s, "
                       "\"discard\": \"unmap\", \"locking\": \"off\", \"filename\": \"%s\"}]",
            d->name, read_only ? "true" : "false", d->path);
        json_object *list = json_tokener_parse(text);
        g_autoptr(GError) error = NULL;

        if (!blk_graph_reopen(w.graph, list, &error) && !w.faults)
            disk_failed("reopening: %s", error->message);
        json_object_put(list);
        disk_drop_failures(d);
        w.medium->fault = (MediumFault){ 0 };
    }
}

/* Some call is going to fail. */
static void maybe_fault(void)
{
    static const MediumCall calls[] = { CALL_WRITE, CALL_WRITE | CALL_ALLOCATE, CALL_ALLOCATE,
                                        CALL_SYNC, CALL_SYNC };

    w.failures += w.medium->fault.hits;
    w.medium->fault = (MediumFault){ 0 };
    if (!w.faults || !rng_chance(&w.rng, 6))
        return;
    w.loose = true;
    w.medium->fault = (MediumFault){ .calls = calls[rng_below(&w.rng, G_N_ELEMENTS(calls))],
                                     .after = (unsigned)rng_below(&w.rng, 6),
                                     .times = 1 + (unsigned)rng_below(&w.rng, 3),
                                     .error = rng_chance(&w.rng, 2) ? EIO : ENOSPC,
                                     .partial = rng_chance(&w.rng, 2),
                                     .whole = rng_chance(&w.rng, 3) };
}

typedef enum { WRITE, ZERO, FLUSH, CHECKPOINT, TICK, REOPEN, RESTART, CRASH } Op;

static void step(void)
{
    static const uint8_t often[] = { 45, 10, 10, 19, 6, 3, 3, 4 };
    static const char *const names[] = { "write", "zero",   "flush",   "checkpoint",
                                         "tick",  "reopen", "restart", "crash" };
    DataDisk *d = &w.disks[rng_below(&w.rng, DISKS)];
    unsigned what = (unsigned)rng_below(&w.rng, 100), op = 0;

    while (what >= often[op])
        what -= often[op++];
    w.doing = names[op];
    maybe_fault();
    switch ((Op)op) {
    case WRITE:
    case ZERO:
        disk_write(d, op);
        break;
    case FLUSH:
        disk_flush(d);
        break;
    case CHECKPOINT:
        disk_checkpoint();
        break;
    case TICK:
        bmp_set_tick(blk_node_bitmaps(d->node));
        break;
    case REOPEN:
        op_reopen(d);
        break;
    case RESTART:
        op_restart();
        break;
    case CRASH:
        op_crash();
        break;
    }
}

/* ---- a seed */

static void put(const char *path, const char *image, uint64_t size)
{
    int fd;

    if (image) {
        if (!medium_take(path, image))
            g_error("image '%s' can't be taken onto the medium", image);
        return;
    }
    fd = medium_sys.open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || medium_sys.ftruncate(fd, (off_t)size) < 0 || medium_sys.fsync(fd) < 0)
        g_error("no disk on the medium");
    medium_sys.close(fd);
}

static void start(char **images, int n)
{
    int fd;

    medium_reset(w.medium);
    medium_reset(w.spare);
    medium_use(w.medium);
    w.medium->on_event = NULL;
    w.rng = (Rng){ w.seed };
    w.events = w.names = w.value = 0;
    w.loose = w.changing = false;
    w.boot = 1;
    new_process();
    for (unsigned i = 0; i < DISKS; i++) {
        DataDisk *d = &w.disks[i];

        g_snprintf(d->path, sizeof(d->path), "/m/image%u", i);
        g_snprintf(d->name, sizeof(d->name), "d%u", i);
        d->image = (int)i < n ? images[i] : NULL;
        d->model.n = d->after.n = 0;
        d->from = d->to = 0;
        put(d->path, d->image, SECTOR * (GRANULE + rng_below(&w.rng, SECTORS - GRANULE + 1)));
    }
    fd = medium_sys.open("/m", O_RDONLY, 0);
    medium_sys.fsync(fd);
    medium_sys.close(fd);
    open_all();
    for (unsigned i = 0; i < DISKS && !w.failure; i++) {
        DataDisk *d = &w.disks[i];
        uint64_t size = blk_node_size(d->node);

        if (size > SECTORS * SECTOR)
            g_error("image '%s' is too big: at most %u bytes", d->image, SECTORS * SECTOR);
        d->sectors = (uint32_t)(size / SECTOR);
        for (uint32_t s = 0; s < d->sectors; s++)
            disk_only(d, s, 0);
    }
    w.medium->on_event = on_event;
}

static void run(char **images, int n, unsigned steps)
{
    start(images, n);
    for (w.step = 0; w.step < steps && !w.failure; w.step++)
        step();
    w.medium->fault = (MediumFault){ 0 };
    w.medium->on_event = NULL;
    for (unsigned i = 0; i < DISKS; i++) {
        if (blk_graph_find(w.graph, w.disks[i].name, NULL))
            disk_close(w.disks[i].name);
    }
    medium_close_all(w.medium);
}

int main(int argc, char **argv)
{
    gint64 seed = 1, seeds = 1, seconds = 0, states = 6, steps = 60;
    const GOptionEntry entries[] = {
        { "seed", 0, 0, G_OPTION_ARG_INT64, &seed, "begin with that seed", "N" },
        { "seeds", 0, 0, G_OPTION_ARG_INT64, &seeds, "so many", "N" },
        { "seconds", 0, 0, G_OPTION_ARG_INT64, &seconds, "no longer", "N" },
        { "states", 0, 0, G_OPTION_ARG_INT64, &states, "at each event", "N" },
        { "steps", 0, 0, G_OPTION_ARG_INT64, &steps, "operations", "N" },
        { "faults", 0, 0, G_OPTION_ARG_NONE, &w.faults, "calls fail, too", NULL },
        { "keep", 0, 0, G_OPTION_ARG_FILENAME, &w.keep, "where a wrong state is kept",
          "DIRECTORY" },
        { NULL }
    };
    GOptionContext *context = g_option_context_new("[IMAGE...] - cut the power of disks");
    g_autoptr(GError) error = NULL;
    BlkEngineOptions engine = { .io = BLK_IO_THREADS };
    gint64 end;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error))
        g_error("%s", error->message);
    g_option_context_free(context);
    w.medium = medium_new(true);
    w.spare = medium_new(true);
    w.cut = medium_new(true);
    w.per_event = (uint64_t)states;
    w.registry = blk_registry_new(&medium_sys);
    w.engine = blk_engine_new(&engine, NULL);
    w.other = blk_graph_new(w.registry, w.engine, &medium_sys);
    for (unsigned i = 0; i < DISKS; i++) {
        for (unsigned s = 0; s < SECTORS; s++)
            w.disks[i].values[s] = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    }
    end = g_get_monotonic_time() + seconds * 1000000;
    for (gint64 i = 0; (seconds ? g_get_monotonic_time() < end : i < seeds) && !w.failure; i++) {
        w.seed = (uint64_t)(seed + i);
        run(argv + 1, argc - 1, (unsigned)steps);
    }
    printf("%" G_GUINT64_FORMAT " states, to seed %" G_GUINT64_FORMAT ", %" G_GUINT64_FORMAT
           " calls failed\n",
           w.states, w.seed, w.failures);
    if (w.failure)
        printf("%s\n", w.failure);
    return w.failure != NULL;
}
