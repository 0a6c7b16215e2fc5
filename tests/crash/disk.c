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
#include "block/bitmap_changes.h"
#include "block/bitmaps.h"
#include "block/graph.h"
#include "tests/crash/medium.h"
#include "tests/crash/run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DISKS      2u
#define SECTORS    256u /* of a disk, at most */
#define BITMAPS    5u
#define GRANULE    4u    /* sectors */
#define EVENTS_ALL 1500u /* of a seed that are all tried */

/* A bitmap: what the disk held when it began, and what requests have touched since. */
typedef struct Record {
    char name[8];
    bool enabled;
    uint32_t begun[SECTORS];
    bool touched[SECTORS];
    bool doubt[SECTORS]; /* nobody could know what the medium held when it began */
} Record;

typedef struct Model {
    unsigned n;
    Record records[BITMAPS + 1];
} Model;

typedef struct DataDisk {
    char path[16], name[4];
    const char *image; /* qcow2; NULL: raw */
    BlkNode *node;
    uint32_t sectors;
    GArray *values[SECTORS]; /* uint32_t: as flushed and everything since; the last is now's */
    bool doubt[SECTORS];     /* a sync has failed, and somebody new does not know of it */
    Model model, after;      /* before a change of the bitmaps, and after it */
    uint32_t from, to, next; /* the request under way */
} DataDisk;

/* What an opening shows of a disk. */
typedef struct Shown {
    uint32_t values[SECTORS];
    unsigned n;
    struct {
        char name[8];
        bool enabled, inconsistent, dirty[SECTORS];
    } bitmaps[BITMAPS + 2];
} Shown;

typedef struct World {
    Medium *medium, *cut, *spare;
    BlkEngine *engine;
    BlkRegistry *registry;
    BlkGraph *graph, *other; /* the workload's, and one for what a cut has left */
    DataDisk disks[DISKS];
    Shown found[DISKS];
    uint64_t seed;
    Rng rng;
    unsigned step, names;
    uint32_t value; /* the last that was written */
    uint8_t boot;
    bool changing, loose;
    gboolean faults;
    uint64_t states, per_event, events, failures;
    const char *keep;
    const char *doing;
    char *failure;
} World;

static World w;

static void failed(const char *format, ...) G_GNUC_PRINTF(1, 2);

static void failed(const char *format, ...)
{
    va_list ap;

    if (w.failure)
        return;
    va_start(ap, format);
    w.failure = g_strdup_vprintf(format, ap);
    va_end(ap);
}

/* ---- contents */

static void fill(uint8_t *sector, uint32_t value)
{
    for (unsigned i = 0; i < SECTOR; i += sizeof(value))
        memcpy(sector + i, &value, sizeof(value));
}

static uint32_t value_of(const uint8_t *sector)
{
    uint8_t whole[SECTOR];
    uint32_t value;

    memcpy(&value, sector, sizeof(value));
    fill(whole, value);
    if (memcmp(whole, sector, SECTOR) != 0)
        failed("a sector holds what nobody wrote");
    return value;
}

static uint32_t now(const DataDisk *d, uint32_t sector)
{
    return g_array_index(d->values[sector], uint32_t, d->values[sector]->len - 1);
}

static void allow(DataDisk *d, uint32_t sector, uint32_t value)
{
    g_array_append_val(d->values[sector], value);
}

static void only(DataDisk *d, uint32_t sector, uint32_t value)
{
    g_array_set_size(d->values[sector], 0);
    allow(d, sector, value);
}

static bool may_be(const DataDisk *d, uint32_t sector, uint32_t value)
{
    const GArray *values = d->values[sector];

    for (guint i = 0; i < values->len; i++) {
        if (g_array_index(values, uint32_t, i) == value)
            return true;
    }
    return sector >= d->from && sector < d->to && value == d->next;
}

static bool read_sectors(BlkNode *node, uint32_t sectors, uint32_t *values)
{
    static uint8_t buf[SECTORS * SECTOR];
    int ret = blk_node_pread(node, buf, 0, (uint64_t)sectors * SECTOR);

    if (ret < 0)
        failed("reading: %s", strerror(-ret));
    for (uint32_t s = 0; ret == 0 && s < sectors; s++)
        values[s] = value_of(buf + s * SECTOR);
    return ret == 0;
}

/* ---- opening and closing */

static BlkNode *open_disk(const DataDisk *d, bool read_only)
{
    g_autofree char *file = g_strdup_printf("\"driver\": \"file\", \"locking\": \"off\", "
                                            "\"filename\": \"%s\"",
                                            d->path);
    g_autofree char *text = g_strdup_printf(
        d->image ? "{\"driver\": \"qcow2\", \"file\": {%s}, \"node-name\": \"%s\", "
                   "\"read-only\": %s, \"discard\": \"unmap\"}"
                 : "{%s, \"node-name\": \"%s\", \"read-only\": %s, \"discard\": \"unmap\"}",
        file, d->name, read_only ? "true" : "false");
    json_object *options = json_tokener_parse(text);
    g_autoptr(GError) error = NULL;
    BlkNode *node = blk_graph_add(w.graph, options, &error);

    json_object_put(options);
    if (!node)
        failed("disk %s can't be opened: %s", d->name, error->message);
    return node;
}

static void close_disk(const char *name)
{
    g_autoptr(GError) error = NULL;

    if (!blk_graph_del(w.graph, name, &error))
        failed("%s", error->message);
}

/* ---- what is found */

static void read_bitmap(BmpBitmap *bitmap, uint64_t size, bool *dirty)
{
    TmExtent list[64];

    for (uint64_t at = 0; at < size;) {
        TmExtents x = { .list = list, .max = G_N_ELEMENTS(list) };

        bmp_bitmap_extents(bitmap, at, size - at, &x);
        for (size_t i = 0; i < x.count; at += list[i++].length) {
            for (uint64_t s = at / SECTOR; s * SECTOR < at + list[i].length; s++)
                dirty[s] |= (list[i].flags & TM_STATE_DIRTY) != 0;
        }
    }
}

static void observe(BlkNode *node, const DataDisk *d, Shown *found)
{
    BmpSet *set = blk_node_bitmaps(node);

    memset(found, 0, sizeof(*found));
    if (!read_sectors(node, d->sectors, found->values))
        return;
    for (size_t i = 0; i < bmp_set_length(set) && i < BITMAPS + 2; i++) {
        g_autoptr(BmpBitmap) bitmap = bmp_set_nth(set, i);

        g_strlcpy(found->bitmaps[i].name, bmp_bitmap_name(bitmap), 8);
        found->bitmaps[i].enabled = bmp_bitmap_enabled(bitmap);
        found->bitmaps[i].inconsistent = bmp_bitmap_inconsistent(bitmap);
        if (!bmp_bitmap_inconsistent(bitmap))
            read_bitmap(bitmap, (uint64_t)d->sectors * SECTOR, found->bitmaps[i].dirty);
        found->n++;
    }
}

static int find(const Shown *found, const char *name)
{
    for (unsigned i = 0; i < found->n; i++) {
        if (g_str_equal(found->bitmaps[i].name, name))
            return (int)i;
    }
    return -1;
}

static bool touched_near(const Record *record, uint32_t sector)
{
    uint32_t first = sector / GRANULE * GRANULE;
    bool touched = false;

    for (uint32_t s = first; s < first + GRANULE && s < SECTORS; s++)
        touched |= record->touched[s];
    return touched;
}

/* Whether what has changed since record @k began is dirty in it or in one of those that
 * followed. */
static char *check_since(const DataDisk *d, const Model *model, unsigned k, const Shown *found)
{
    bool dirty[SECTORS] = { false };

    for (unsigned i = k; i < model->n; i++) {
        int at = find(found, model->records[i].name);

        if (at < 0 || found->bitmaps[at].inconsistent)
            return NULL; /* an error says that the chain is broken */
        for (uint32_t s = 0; s < d->sectors; s++)
            dirty[s] |= found->bitmaps[at].dirty[s];
    }
    for (uint32_t s = 0; s < d->sectors; s++) {
        if (!dirty[s] && !model->records[k].doubt[s] &&
            found->values[s] != model->records[k].begun[s])
            return g_strdup_printf("sector %u of %s holds %u, held %u when %s began, and is clean",
                                   s, d->name, found->values[s], model->records[k].begun[s],
                                   model->records[k].name);
    }
    return NULL;
}

/* Why it is not as @model says; NULL: it is. */
static char *misfit(const DataDisk *d, const Model *model, const Shown *found, bool killed)
{
    char *why = NULL;

    if (found->n != model->n && !w.loose)
        return g_strdup_printf("%s has %u bitmaps, not %u", d->name, found->n, model->n);
    for (unsigned i = 0; i < model->n && !why; i++) {
        const Record *record = &model->records[i];
        int at = find(found, record->name);

        if (!w.loose && (at < 0 || found->bitmaps[at].inconsistent ||
                         found->bitmaps[at].enabled != record->enabled))
            return g_strdup_printf("%s of %s is gone, inconsistent or enabled otherwise",
                                   record->name, d->name);
        for (uint32_t s = 0; !w.loose && killed && s < d->sectors && !why; s++) {
            if (found->bitmaps[at].dirty[s] && !touched_near(record, s))
                why = g_strdup_printf("sector %u of %s is dirty in %s, and nobody wrote near it", s,
                                      d->name, record->name);
        }
        why = why ? why : check_since(d, model, i, found);
    }
    return why;
}

/* Which of the states before (0) and after (1) a change it is; -1: neither. */
static int match(bool killed)
{
    g_autoptr(GString) whys = g_string_new(NULL);

    for (int which = w.changing; which >= 0; which--) {
        g_autofree char *why = NULL;

        for (unsigned i = 0; i < DISKS && !why; i++) {
            const DataDisk *d = &w.disks[i];

            why = misfit(d, which ? &d->after : &d->model, &w.found[i], killed);
        }
        if (!why)
            return which;
        g_string_append_printf(whys, "%s%s", whys->len ? "; and " : "", why);
    }
    failed("%s", whys->str);
    return -1;
}

static void check_values(const DataDisk *d, const Shown *found)
{
    for (uint32_t s = 0; s < d->sectors && !w.failure; s++) {
        if (!may_be(d, s, found->values[s]))
            failed("sector %u of %s holds %u, which was never flushed or written since", s, d->name,
                   found->values[s]);
    }
}

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

/* Opens what is on w.cut; which of the states it is, see match(). */
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
        BlkNode *node = open_disk(&w.disks[i], read_only);

        if (node)
            observe(node, &w.disks[i], &w.found[i]);
    }
    for (unsigned i = 0; i < DISKS && !w.failure; i++)
        check_values(&w.disks[i], &w.found[i]);
    if (!w.failure)
        which = match(killed);
    for (unsigned i = 0; i < DISKS; i++) {
        if (blk_graph_find(w.graph, w.disks[i].name, NULL))
            close_disk(w.disks[i].name);
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

/* ---- requests */

static bool may_fail(int ret)
{
    return w.faults && (ret == -EIO || ret == -ENOSPC);
}

static void touch(DataDisk *d)
{
    for (unsigned m = 0; m < 2; m++) {
        Model *model = m ? &d->after : &d->model;

        for (unsigned i = 0; i < model->n; i++) {
            if (model->records[i].enabled)
                memset(model->records[i].touched + d->from, 1, d->to - d->from);
        }
    }
}

/* The request is done, or has failed: then it has happened or not. */
static void become(DataDisk *d, int ret)
{
    uint32_t values[SECTORS];

    if (ret < 0 && !may_fail(ret))
        failed("a request failed: %s", strerror(-ret));
    if (ret < 0) { /* what is there now is the last value */
        w.medium->fault = (MediumFault){ 0 };
        if (!read_sectors(d->node, d->sectors, values))
            return;
    }
    for (uint32_t s = d->from; s < d->to; s++) {
        if (ret < 0 && !may_be(d, s, values[s]))
            failed("sector %u of %s holds %u after a failure", s, d->name, values[s]);
        if (ret < 0)
            allow(d, s, d->next);
        allow(d, s, ret < 0 ? values[s] : d->next);
        d->doubt[s] &= ret < 0;
    }
    d->from = d->to = 0;
}

static void op_write(DataDisk *d, unsigned kind)
{
    static uint8_t buf[SECTORS * SECTOR];
    uint32_t length = 1 + (uint32_t)rng_below(&w.rng, rng_chance(&w.rng, 4) ? 24 : 6);
    uint64_t at, n;
    int ret;

    length = MIN(length, d->sectors);
    d->from = (uint32_t)rng_below(&w.rng, d->sectors - length + 1);
    d->to = d->from + length;
    d->next = kind ? 0 : ++w.value;
    at = (uint64_t)d->from * SECTOR;
    n = (uint64_t)length * SECTOR;
    touch(d);
    for (uint32_t s = 0; s < length; s++)
        fill(buf + s * SECTOR, d->next);
    ret =
        kind ? blk_node_write_zeroes(d->node, at, n, rng_chance(&w.rng, 2) ? TIDEMARK_MAY_UNMAP : 0)
             : blk_node_pwrite(d->node, buf, at, n, 0);
    become(d, ret);
}

static void op_flush(DataDisk *d)
{
    int ret = blk_node_flush(d->node);

    if (ret < 0 && !may_fail(ret))
        failed("flushing: %s", strerror(-ret));
    for (uint32_t s = 0; ret == 0 && s < d->sectors; s++) {
        if (!d->doubt[s])
            only(d, s, now(d, s));
    }
}

/* A descriptor remembers that its sync has failed; with it goes what the kernel knew. */
static void drop_failures(DataDisk *d)
{
    for (uint32_t s = 0; s < d->sectors; s++)
        d->doubt[s] |= w.loose && d->values[s]->len > 1;
}

/* ---- changes of the bitmaps */

static void record_begin(const DataDisk *d, Record *record, const char *name)
{
    memset(record, 0, sizeof(*record));
    g_strlcpy(record->name, name, sizeof(record->name));
    record->enabled = true;
    for (uint32_t s = 0; s < d->sectors; s++)
        record->begun[s] = now(d, s);
    memcpy(record->doubt, d->doubt, sizeof(record->doubt));
}

typedef bool (*ChangeFn)(BmpBitmap *, GError **);

static bool apply(BlkBitmapChanges *changes, DataDisk *d, const char *name, ChangeFn fn,
                  GError **error)
{
    g_autoptr(BmpBitmap) bitmap = bmp_set_find(blk_node_bitmaps(d->node), name, error);

    if (!bitmap)
        return false;
    return fn ? blk_bitmap_changes_apply(changes, bitmap, fn, error)
              : blk_bitmap_changes_remove(changes, bitmap, error);
}

/* The next bitmap of the chain; or the only one is cleared. The oldest goes when there are many. */
static bool checkpoint(BlkBitmapChanges *changes, DataDisk *d, GError **error)
{
    const BmpAddOptions options = { .granularity = GRANULE * SECTOR, .persistent = true };
    Model *after = &d->after;
    Record *last = after->n ? &after->records[after->n - 1] : NULL;
    g_autofree char *name = g_strdup_printf("b%u", ++w.names);

    if (after->n == 1 && rng_chance(&w.rng, 2)) {
        record_begin(d, last, (g_free(name), name = g_strdup(last->name)));
        return apply(changes, d, last->name, bmp_bitmap_clear, error);
    }
    if (last && !apply(changes, d, last->name, bmp_bitmap_disable, error))
        return false;
    if (last)
        last->enabled = false;
    record_begin(d, &after->records[after->n++], name);
    if (!blk_bitmap_changes_add(changes, d->node, name, &options, error))
        return false;
    if (after->n <= BITMAPS)
        return true;
    memmove(name, after->records[0].name, strlen(after->records[0].name) + 1);
    memmove(&after->records[0], &after->records[1], --after->n * sizeof(Record));
    return apply(changes, d, name, NULL, error);
}

static void op_checkpoint(void)
{
    g_autoptr(BlkBitmapChanges) changes = blk_bitmap_changes_new();
    unsigned which = 1 + (unsigned)rng_below(&w.rng, 3);
    g_autoptr(GError) error = NULL;
    BlkNode *nodes[DISKS];
    size_t n = 0;
    bool ok = true;

    for (unsigned i = 0; i < DISKS; i++) {
        w.disks[i].after = w.disks[i].model;
        if (which >> i & 1)
            nodes[n++] = w.disks[i].node;
    }
    blk_bitmaps_change_begin(nodes, n);
    for (unsigned i = 0; i < DISKS && ok; i++)
        ok = !(which >> i & 1) || checkpoint(changes, &w.disks[i], &error);
    w.changing = ok;
    ok = ok && blk_bitmaps_commit(nodes, n, &error);
    if (!ok)
        blk_bitmap_changes_take_back(changes);
    blk_bitmaps_change_end(nodes, n);
    w.changing = false;
    if (!ok && !w.faults)
        failed("a checkpoint: %s", error->message);
    for (unsigned i = 0; i < DISKS && ok; i++)
        w.disks[i].model = w.disks[i].after;
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
            int at = find(&w.found[i], was.records[k].name);
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
        w.disks[i].node = open_disk(&w.disks[i], false);
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
        close_disk(w.disks[i].name);
    medium_close_all(dead);
    take_over(which);
    for (unsigned i = 0; i < DISKS; i++) {
        for (uint32_t s = 0; s < w.disks[i].sectors; s++)
            only(&w.disks[i], s, w.found[i].values[s]);
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
        op_flush(&w.disks[i]); /* as closing does; if it fails there, it does here */
        drop_failures(&w.disks[i]);
        close_disk(w.disks[i].name);
    }
    w.failures += w.medium->fault.hits;
    w.medium->fault = (MediumFault){ 0 };
    new_process();
    open_all();
    for (unsigned i = 0; i < DISKS && !w.failure; i++)
        observe(w.disks[i].node, &w.disks[i], &w.found[i]);
    if (w.failure || match(!full) < 0)
        return;
    for (unsigned i = 0; i < DISKS; i++)
        check_values(&w.disks[i], &w.found[i]);
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
            failed("reopening: %s", error->message);
        json_object_put(list);
        drop_failures(d);
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
        op_write(d, op);
        break;
    case FLUSH:
        op_flush(d);
        break;
    case CHECKPOINT:
        op_checkpoint();
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
            only(d, s, 0);
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
            close_disk(w.disks[i].name);
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
