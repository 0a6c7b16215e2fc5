/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/qcow2.c: qcow2 images on a medium whose power is cut at every event.
 *
 *     crash-qcow2 [--seed N] [--seeds N] [--seconds N] [--states N] [--steps N] [--keep DIRECTORY]
 *                 [--qemu-img N] [--faults] [--bitmap] [--full] IMAGE [BASE]
 *
 * An image of up to a few hundred KiB is taken onto the simulated medium and written at random
 * through the driver. At every event some states that a loss of power may leave are opened again,
 * and
 *   - each sector of the disk is what it was at the last flush, or what was written there since;
 *   - the metadata has no fault but leaks: by our own check, and for every Nth state by qemu-img's;
 *     a file that had lost its end before is not missing more of it;
 *   - it can go on: some are written again, and are without fault then;
 *   - with --bitmap, a persistent bitmap that began with the workload is there, and whatever
 *     differs from its beginning is dirty; after the process alone has died, nothing else is,
 *     unless calls have failed.
 *
 * With --full the medium is full at times: what was answered can be flushed all the same.
 * With --faults calls fail besides: then what failed may have happened or not, sector by sector,
 * and a later flush that works still keeps its promise. Everything follows from the seed. */
#include "tests/crash/qcow2.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

World w;

/* ---- states */

static void keep(Medium *m)
{
    if (w.keep) {
        g_mkdir_with_parents(w.keep, 0755);
        medium_dump(m, w.keep);
    }
}

/* A few more writes, and nothing but what leaked is wrong afterwards. */
static void go_on(BlkNode *node, Rng *rng)
{
    uint8_t buf[3000];

    for (int i = 0; i < 6 && blk_node_size(node) > sizeof(buf); i++) {
        uint64_t n = 1 + rng_below(rng, sizeof(buf));
        uint64_t at = rng_below(rng, blk_node_size(node) - n + 1);
        int ret;

        memset(buf, (int)rng_next(rng), n);
        ret = rng_chance(rng, 4)   ? blk_node_discard(node, at, n, 0)
              : rng_chance(rng, 4) ? blk_node_write_zeroes(node, at, n, TIDEMARK_MAY_UNMAP)
                                   : blk_node_pwrite(node, buf, at, n, 0);
        if (ret < 0 && ret != -ENOSPC && ret != -EFBIG)
            image_failed("going on: %s", strerror(-ret));
    }
}

static void check_state(const uint8_t *kept, Rng *rng, bool killed)
{
    static const uint8_t boots[2][16] = { { 1 }, { 2 } };
    BlkGraph *graph = w.graph;
    Medium *before;
    BlkNode *node;
    bool on = rng_chance(rng, 3);

    medium_cut(w.cut, w.medium, kept);
    before = medium_use(w.cut);
    w.graph = w.other;
    blk_graph_set_boot_id(w.graph, boots[!killed]);
    if (w.qemu_img && w.states % w.qemu_img == 0)
        image_ask_qemu_img(w.cut, true);
    image_ask_check(true);
    node = w.failure ? NULL : image_open("cut", !on);
    if (node) {
        image_compare(node, killed);
        if (on && !w.failure)
            go_on(node, rng);
        image_close("cut");
        if (on)
            image_ask_check(true);
        if (on && w.qemu_img && w.states % w.qemu_img == 1)
            image_ask_qemu_img(w.cut, true);
    }
    w.graph = graph;
    if (w.failure)
        keep(w.cut);
    medium_close_all(w.cut);
    medium_use(before);
    w.states++;
}

static void on_event(void *opaque, const char *what)
{
    g_autofree uint8_t *kept = g_malloc0(w.medium->changes->len + 1);

    /* After a sync that failed for good the same is tried again and again. */
    if (++w.events > EVENTS_ALL && w.events % 64)
        return;
    for (uint64_t state = 0; state < w.per_event && !w.failure; state++) {
        Rng rng = { w.seed * 1000003 + w.events * 101 + state };

        medium_choose(w.medium, &rng, kept, state);
        check_state(kept, &rng, state == 0);
        if (w.failure) {
            char *more = g_strdup_printf("--seed %" PRIu64 ", step %u, event %" PRIu64
                                         " (%s), state %" PRIu64 ": %s",
                                         w.seed, w.step, w.events, what, state, w.failure);

            g_free(w.failure);
            w.failure = more;
        }
    }
}

/* ---- one seed */

/* What may be wrong with it: it is beyond the end that the file has. */
static void count_lost(void)
{
    json_object *options =
        json_tokener_parse("{\"driver\": \"file\", \"node-name\": \"file\", \"locking\": \"off\", "
                           "\"filename\": \"/m/image\", \"read-only\": true}");
    BlkNode *file = blk_graph_add(w.graph, options, NULL);
    BlkImageCheck result = { 0 };

    json_object_put(options);
    if (!file || !blk_image_check(file, NULL, NULL, &result, NULL))
        image_failed("the image can't be checked");
    w.lost = result.corruptions;
    if (file)
        blk_graph_del(w.graph, "file", NULL);
}

static void learn(void)
{
    static uint8_t buf[DISK_MAX];

    w.size = blk_node_size(w.node);
    g_array_set_size(w.sizes, 0);
    memset(buf, 0, sizeof(buf));
    if (w.size > DISK_MAX || blk_node_pread(w.node, buf, 0, w.size) < 0)
        image_failed("the image can't be read");
    for (uint64_t s = 0; s < SECTORS; s++) {
        w.sectors[s].n = 0;
        w.sectors[s].any = false;
        image_allow(s, buf + s * SECTOR);
    }
    w.initial = buf;
    w.recording = false;
    memset(w.touched, 0, sizeof(w.touched));
}

/* It knows nothing of what went wrong before. */
static void new_graph(void)
{
    if (w.graph)
        blk_graph_free(w.graph);
    w.graph = blk_graph_new(w.registry, w.engine, &medium_sys);
    blk_graph_set_boot_id(w.graph, (const uint8_t[16]){ 1 });
    if (w.verbose)
        blk_graph_set_log(w.graph, w.log);
}

static void run(const char *image, const char *base, unsigned steps)
{
    int fd;

    medium_reset(w.medium);
    medium_use(w.medium);
    new_graph();
    w.medium->on_event = NULL;
    w.medium->full = false;
    w.rng = (Rng){ w.seed };
    w.events = 0;
    w.base = base != NULL;
    if (!medium_take("/m/image", image) || (base && !medium_take("/m/base", base)))
        g_error("the image can't be taken onto the medium");
    fd = medium_sys.open("/m", O_RDONLY, 0);
    medium_sys.fsync(fd);
    medium_sys.close(fd);
    count_lost();
    w.node = image_open("image", false);
    if (!w.node)
        return;
    learn();
    w.medium->on_event = on_event;
    if (w.bitmap)
        image_begin_bitmap();
    for (w.step = 0; w.step < steps && !w.failure; w.step++)
        image_step();
    image_no_fault();
    w.node = NULL;
    image_close("image");
    w.medium->on_event = NULL;
    if (w.failure)
        return;
    image_ask_qemu_img(w.medium, w.faults); /* not even leaks, if nothing failed */
    if (!w.faults)
        image_all_flushed();
    w.node = image_open("image", true);
    if (w.node)
        image_compare(w.node, !w.faults);
    image_close("image");
    medium_close_all(w.medium);
}

int main(int argc, char **argv)
{
    gint64 seed = 1, seeds = 1, seconds = 0, states = 6, steps = 40, qemu_img = 97;
    const GOptionEntry entries[] = {
        { "seed", 0, 0, G_OPTION_ARG_INT64, &seed, "begin with that seed", "N" },
        { "seeds", 0, 0, G_OPTION_ARG_INT64, &seeds, "so many", "N" },
        { "seconds", 0, 0, G_OPTION_ARG_INT64, &seconds, "no longer", "N" },
        { "states", 0, 0, G_OPTION_ARG_INT64, &states, "at each event", "N" },
        { "steps", 0, 0, G_OPTION_ARG_INT64, &steps, "operations", "N" },
        { "qemu-img", 0, 0, G_OPTION_ARG_INT64, &qemu_img, "every Nth state goes there, too", "N" },
        { "bitmap", 0, 0, G_OPTION_ARG_NONE, &w.bitmap, "with a persistent bitmap", NULL },
        { "faults", 0, 0, G_OPTION_ARG_NONE, &w.faults, "calls fail, too", NULL },
        { "full", 0, 0, G_OPTION_ARG_NONE, &w.full, "the medium is full now and then", NULL },
        { "verbose", 'v', 0, G_OPTION_ARG_NONE, &w.verbose, "what is logged", NULL },
        { "keep", 0, 0, G_OPTION_ARG_FILENAME, &w.keep, "where a wrong state is kept",
          "DIRECTORY" },
        { NULL }
    };
    GOptionContext *context = g_option_context_new("IMAGE [BASE] - cut the power of qcow2 images");
    g_autoptr(GError) error = NULL;
    BlkEngineOptions engine = { .io = BLK_IO_THREADS };
    gint64 end;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc < 2)
        g_error("%s", error ? error->message : "which image?");
    g_option_context_free(context);
    w.log = tm_log_new(NULL);
    w.medium = medium_new(true);
    w.cut = medium_new(true);
    w.sizes = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    w.per_event = (uint64_t)states;
    w.qemu_img = (unsigned)qemu_img;
    w.registry = blk_registry_new(&medium_sys);
    w.engine = blk_engine_new(&engine, NULL);
    w.other = blk_graph_new(w.registry, w.engine, &medium_sys);
    end = g_get_monotonic_time() + seconds * 1000000;
    for (gint64 i = 0; (seconds ? g_get_monotonic_time() < end : i < seeds) && !w.failure; i++) {
        w.seed = (uint64_t)(seed + i);
        run(argv[1], argc > 2 ? argv[2] : NULL, (unsigned)steps);
    }
    printf("%" PRIu64 " states, to seed %" PRIu64 ", %" PRIu64 " calls failed\n", w.states, w.seed,
           w.failures);
    if (w.failure)
        printf("%s\n", w.failure);
    return w.failure != NULL;
}
