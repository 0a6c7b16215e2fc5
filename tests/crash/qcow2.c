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
#include "block/bitmap_changes.h"
#include "block/bitmaps.h"
#include "block/graph.h"
#include "block/image/image.h"
#include "block/node.h"
#include "block/registry.h"
#include "tests/crash/medium.h"
#include "tests/crash/run.h"
#include "util/range.h"
#include "util/sys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DISK_MAX (UINT64_C(2) << 20)
#define SECTORS  (DISK_MAX / SECTOR)
#define PIECE    (UINT64_C(64) << 10)
#define GRANULE  4096u
/* Events of a workload that are all tried. */
#define EVENTS_ALL 1500u

/* What a sector may hold: as flushed, and everything since; the last is what it is now. */
typedef struct Allowed {
    unsigned n, max;
    bool any; /* it was being cut off: something else, too */
    uint8_t (*content)[SECTOR];
} Allowed;

typedef struct World {
    Medium *medium, *cut;
    BlkEngine *engine;
    BlkRegistry *registry;
    BlkGraph *graph; /* over medium_sys, whichever medium is in use */
    BlkGraph *other; /* for what is left after a cut */
    BlkNode *node;
    bool base;
    uint64_t seed;
    Rng rng;
    unsigned step;
    uint64_t size; /* of the disk */
    GArray *sizes; /* uint64_t: it may have these, too: resizes under way, or failed */
    Allowed sectors[SECTORS];
    uint8_t *next; /* what the operation under way makes of [from, to) */
    uint64_t from, to;
    bool discarding; /* it makes zeroes of clusters, or leaves them */
    gboolean faults, bitmap, full, verbose;
    bool recording;        /* the bitmap has begun */
    uint8_t *initial;      /* the disk when it did */
    bool touched[SECTORS]; /* since then, by a request */
    uint64_t failures;
    uint64_t lost; /* faults of the image as it was given: references beyond its end */
    uint64_t states, per_event, events;
    unsigned qemu_img;
    const char *keep;
    char *failure;
} World;

static World w;

static void failed(const char *format, ...)
{
    va_list ap;

    if (w.failure)
        return;
    va_start(ap, format);
    w.failure = g_strdup_vprintf(format, ap);
    va_end(ap);
}

/* ---- the model */

static void allow(uint64_t sector, const uint8_t *content)
{
    Allowed *a = &w.sectors[sector];

    if (a->n == a->max) {
        a->max = a->max * 2 + 2;
        a->content = g_realloc(a->content, a->max * SECTOR);
    }
    memcpy(a->content[a->n++], content, SECTOR);
}

static void now(uint8_t *to, uint64_t sector)
{
    const Allowed *a = &w.sectors[sector];

    memcpy(to, a->content[a->n - 1], SECTOR);
}

static void all_flushed(void)
{
    for (uint64_t s = 0; s < SECTORS; s++) {
        Allowed *a = &w.sectors[s];

        if (a->n > 1) {
            memcpy(a->content[0], a->content[a->n - 1], SECTOR);
            a->n = 1;
        }
        a->any = false;
    }
}

static bool is_zero(const uint8_t *p)
{
    return !p[0] && !memcmp(p, p + 1, SECTOR - 1);
}

/* Whether @content may be in @sector, after everything or with the operation under way. */
static bool may_be(uint64_t sector, const uint8_t *content)
{
    const Allowed *a = &w.sectors[sector];
    uint64_t at = sector * SECTOR;
    uint8_t wanted[SECTOR];

    if (a->any)
        return true;
    for (unsigned i = a->n; i-- > 0;)
        if (!memcmp(a->content[i], content, SECTOR))
            return true;
    if (at + SECTOR <= w.from || at >= w.to)
        return false;
    if (w.discarding)
        return is_zero(content);
    now(wanted, sector);
    for (uint64_t i = tm_max(at, w.from); i < tm_min(at + SECTOR, w.to); i++)
        wanted[i - at] = w.next[i - w.from];
    return !memcmp(wanted, content, SECTOR);
}

/* The operation under way has worked (or may have: @failed). */
static void become(bool may_have_failed)
{
    uint8_t content[SECTOR];

    for (uint64_t s = w.from / SECTOR; s * SECTOR < w.to; s++) {
        uint64_t at = s * SECTOR;

        now(content, s);
        if (may_have_failed)
            allow(s, content);
        for (uint64_t i = tm_max(at, w.from); i < tm_min(at + SECTOR, w.to); i++)
            content[i - at] = w.next[i - w.from];
        allow(s, content);
    }
    w.from = w.to = 0;
}

/* Calls work again. */
static void no_fault(void)
{
    w.failures += w.medium->fault.hits;
    w.medium->fault = (MediumFault){ 0 };
}

/* What an operation that failed has left, as far as can be seen. */
static void read_again(uint64_t from, uint64_t to)
{
    uint8_t content[SECTOR];

    no_fault();
    for (uint64_t s = from / SECTOR; s * SECTOR < to; s++) {
        uint64_t n = tm_min(SECTOR, w.size - s * SECTOR);

        memset(content, 0, sizeof(content));
        if (blk_node_pread(w.node, content, s * SECTOR, n) < 0)
            failed("reading again");
        else if (!may_be(s, content))
            failed("sector %" PRIu64 " holds something else after a failure", s);
        allow(s, content);
    }
}

static bool may_fail(int ret)
{
    return ret == -ENOSPC || ret == -EFBIG || (w.faults && ret == -EIO);
}

/* Some call is going to fail. After a sync that failed no flush works any more: that is rare, but
 * for the step that is @doomed to it. */
static void maybe_fault(bool doomed)
{
    static const MediumCall calls[] = { CALL_WRITE, CALL_WRITE | CALL_ALLOCATE, CALL_ALLOCATE,
                                        CALL_WRITE, CALL_SYNC };

    no_fault();
    if (doomed)
        w.medium->fault = (MediumFault){
            .calls = CALL_SYNC, .after = (unsigned)rng_below(&w.rng, 10), .times = 1, .error = EIO
        };
    else if (w.faults && rng_chance(&w.rng, 4))
        w.medium->fault =
            (MediumFault){ .calls = calls[rng_below(&w.rng, rng_chance(&w.rng, 8) ? 5 : 4)],
                           .after = (unsigned)rng_below(&w.rng, 4),
                           .times = 1 + (unsigned)rng_below(&w.rng, 2),
                           .error = rng_chance(&w.rng, 2) ? EIO : ENOSPC,
                           .partial = rng_chance(&w.rng, 2),
                           .whole = rng_chance(&w.rng, 3) };
}

/* ---- opening what is on the medium in use */

static BlkNode *open_image(const char *name, bool read_only)
{
    g_autofree char *text = g_strdup_printf(
        "{\"driver\": \"qcow2\", \"node-name\": \"%s\", \"read-only\": %s, \"discard\": \"unmap\", "
        "\"l2-cache-size\": 1, \"refcount-cache-size\": 1, \"backing\": %s, "
        "\"file\": {\"driver\": \"file\", \"locking\": \"off\", \"filename\": \"/m/image\"}}",
        name, read_only ? "true" : "false",
        w.base ? "{\"driver\": \"file\", \"locking\": \"off\", \"filename\": \"/m/base\", "
                 "\"read-only\": true}"
               : "null");
    json_object *options = json_tokener_parse(text);
    g_autoptr(GError) error = NULL;
    BlkNode *node = blk_graph_add(w.graph, options, &error);

    json_object_put(options);
    if (!node)
        failed("the image can't be opened: %s", error->message);
    return node;
}

static void close_image(const char *name)
{
    g_autoptr(GError) error = NULL;

    if (!blk_graph_del(w.graph, name, &error))
        failed("%s", error->message);
}

static bool dirty[SECTORS]; /* of the image that is compared */

/* What the bitmap of an image says. false: nothing is to be asked of it. */
static bool read_bitmap(BlkNode *node)
{
    TmExtent list[64];
    uint64_t size = blk_node_size(node), at = 0;
    g_autoptr(BmpBitmap) bitmap = NULL;

    memset(dirty, 0, sizeof(dirty));
    if (!w.recording)
        return false;
    bitmap = bmp_set_find(blk_node_bitmaps(node), "b", NULL);
    if (!bitmap || bmp_bitmap_inconsistent(bitmap)) {
        g_autofree char *reason = bitmap ? bmp_bitmap_reason(bitmap) : NULL;

        if (!w.faults)
            failed("the bitmap is %s: %s", bitmap ? "inconsistent" : "gone", reason ? reason : "");
        return false;
    }
    while (at < size) {
        TmExtents x = { .list = list, .max = G_N_ELEMENTS(list) };

        bmp_bitmap_extents(bitmap, at, size - at, &x);
        for (size_t i = 0; i < x.count; at += list[i++].length)
            for (uint64_t s = at / SECTOR; s * SECTOR < at + list[i].length; s++)
                dirty[s] |= list[i].flags & TM_STATE_DIRTY;
    }
    return true;
}

/* @killed: only the process has died. */
static void check_bitmap(uint64_t sector, const uint8_t *content, bool killed)
{
    uint64_t first = sector / (GRANULE / SECTOR) * (GRANULE / SECTOR);
    bool touched = false;

    if (!dirty[sector] && memcmp(content, w.initial + sector * SECTOR, SECTOR) != 0)
        failed("sector %" PRIu64 " has changed, and is clean", sector);
    for (uint64_t s = first; s < first + GRANULE / SECTOR && s < SECTORS; s++)
        touched |= w.touched[s];
    if (killed && dirty[sector] && !touched && !w.failures && !w.medium->fault.hits)
        failed("sector %" PRIu64 " is dirty, and nobody wrote near it", sector);
}

static bool may_have(uint64_t size)
{
    bool found = size == w.size;

    for (guint i = 0; i < w.sizes->len; i++)
        found |= size == g_array_index(w.sizes, uint64_t, i);
    return found;
}

static void compare(BlkNode *node, bool killed)
{
    static uint8_t buf[PIECE];
    bool recording = read_bitmap(node);
    uint64_t size = blk_node_size(node);

    if (!may_have(size))
        failed("the disk has %" PRIu64 " bytes, not %" PRIu64, size, w.size);
    for (uint64_t at = 0; at < size && !w.failure; at += PIECE) {
        uint64_t n = tm_min(PIECE, size - at);
        int ret = blk_node_pread(node, buf, at, n);

        if (ret < 0)
            failed("reading at %" PRIu64 ": %s", at, strerror(-ret));
        for (uint64_t i = 0; ret == 0 && i < n / SECTOR; i++)
            if (!may_be(at / SECTOR + i, buf + i * SECTOR))
                failed("sector %" PRIu64 " holds %02x %02x..., never flushed or written there",
                       at / SECTOR + i, buf[i * SECTOR], buf[i * SECTOR + 1]);
            else if (recording)
                check_bitmap(at / SECTOR + i, buf + i * SECTOR, killed);
    }
}

/* What our own check finds: anything but leaks, and what the file had lost before, is wrong. */
static void ask_check(bool leaks)
{
    json_object *options =
        json_tokener_parse("{\"driver\": \"file\", \"node-name\": \"file\", \"locking\": \"off\", "
                           "\"filename\": \"/m/image\", \"read-only\": true}");
    g_autoptr(GError) error = NULL;
    BlkNode *file = blk_graph_add(w.graph, options, &error);
    BlkImageCheck result;

    json_object_put(options);
    if (!file || !blk_image_check(file, NULL, NULL, &result, &error))
        failed("check: %s", error->message);
    else if (result.corruptions > w.lost || result.check_errors || (result.leaks && !leaks))
        failed("check: %" PRIu64 " leaks, %" PRIu64 " corruptions, %" PRIu64 " errors",
               result.leaks, result.corruptions, result.check_errors);
    if (file)
        blk_graph_del(w.graph, "file", NULL);
}

/* With the files in it, whichever there were on the medium. */
static void remove_directory(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);

        unlink(file);
    }
    if (dir)
        g_dir_close(dir);
    if (rmdir(path) < 0)
        failed("'%s' can't be removed: %s", path, strerror(errno));
}

/* What qemu-img finds in the file on @m: anything but leaks is wrong. */
static void ask_qemu_img(Medium *m, bool leaks)
{
    g_autofree char *dir = g_strdup("/dev/shm/tm-qcow2-XXXXXX"), *path = NULL, *out = NULL;
    char *argv[] = {
        (char *)"qemu-img", (char *)"check", (char *)"-f", (char *)"qcow2", NULL, NULL
    };
    int status = 0;

    if (!g_mkdtemp(dir))
        return;
    medium_dump(m, dir);
    path = argv[4] = g_build_filename(dir, "image", NULL);
    if (g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL,
                     &out, NULL, &status, NULL) &&
        WIFEXITED(status) && WEXITSTATUS(status) != 0 && (!leaks || WEXITSTATUS(status) != 3) &&
        (!w.lost || WEXITSTATUS(status) != 2))
        failed("qemu-img check: %s", out);
    remove_directory(dir);
}

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
            failed("going on: %s", strerror(-ret));
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
        ask_qemu_img(w.cut, true);
    ask_check(true);
    node = w.failure ? NULL : open_image("cut", !on);
    if (node) {
        compare(node, killed);
        if (on && !w.failure)
            go_on(node, rng);
        close_image("cut");
        if (on)
            ask_check(true);
        if (on && w.qemu_img && w.states % w.qemu_img == 1)
            ask_qemu_img(w.cut, true);
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

/* ---- the bitmap */

static void begin_bitmap(void)
{
    g_autoptr(BlkBitmapChanges) changes = blk_bitmap_changes_new();
    BmpAddOptions options = { .granularity = GRANULE, .persistent = true };
    g_autoptr(GError) error = NULL;
    bool ok;

    blk_bitmaps_change_begin(&w.node, 1);
    ok = blk_bitmap_changes_add(changes, w.node, "b", &options, &error) &&
         blk_bitmaps_commit(&w.node, 1, &error);
    if (!ok)
        blk_bitmap_changes_take_back(changes);
    blk_bitmaps_change_end(&w.node, 1);
    if (!ok)
        failed("adding a bitmap: %s", error->message);
    w.recording = ok;
}

static void touch(uint64_t from, uint64_t to)
{
    for (uint64_t s = from / SECTOR; s < SECTORS && s * SECTOR < to; s++)
        w.touched[s] = true;
}

/* ---- operations */

static void random_range(uint64_t *offset, uint64_t *length)
{
    uint64_t most = rng_chance(&w.rng, 6) ? 40000 : rng_chance(&w.rng, 2) ? 4096 : 600;

    *length = 1 + rng_below(&w.rng, tm_min(most, w.size));
    *offset = rng_below(&w.rng, w.size - *length + 1);
    if (rng_chance(&w.rng, 2)) {
        *offset = *offset / SECTOR * SECTOR;
        *length = tm_min(tm_align_up(*length, SECTOR), w.size - *offset);
    }
}

static void op_write(bool compressed)
{
    static uint8_t buf[DISK_MAX];
    struct tidemark_info info = { .struct_size = sizeof(info) };
    uint64_t offset, length, n = 1 + rng_below(&w.rng, 200);
    int ret;

    random_range(&offset, &length);
    blk_node_info(w.node, &info);
    if (compressed) {
        offset = tm_align_down(offset, info.cluster_size);
        length = tm_min(tm_align_up(length, info.cluster_size), w.size - offset);
    }
    for (uint64_t i = 0; i < length; i++)
        buf[i] = i < n || !compressed ? (uint8_t)rng_next(&w.rng) : 0;
    w.next = buf;
    w.from = offset;
    w.to = offset + length;
    touch(w.from, w.to);
    ret = blk_node_pwrite(w.node, buf, offset, length, compressed ? TIDEMARK_COMPRESSED : 0);
    if (ret < 0 && !may_fail(ret))
        failed("writing: %s", strerror(-ret));
    become(ret < 0);
    if (ret < 0)
        read_again(offset, offset + length);
}

static void op_zero(void)
{
    static uint8_t zeroes[DISK_MAX];
    uint64_t offset, length;
    int ret;

    random_range(&offset, &length);
    w.next = zeroes;
    w.from = offset;
    w.to = offset + length;
    touch(w.from, w.to);
    ret = blk_node_write_zeroes(w.node, offset, length,
                                rng_chance(&w.rng, 2) ? TIDEMARK_MAY_UNMAP : 0);
    if (ret < 0 && !may_fail(ret))
        failed("zeroing: %s", strerror(-ret));
    become(ret < 0);
    if (ret < 0)
        read_again(offset, offset + length);
}

static void op_discard(void)
{
    static uint8_t buf[DISK_MAX];
    uint64_t offset, length;
    int ret;

    random_range(&offset, &length);
    w.discarding = true;
    w.from = offset;
    w.to = offset + length;
    touch(w.from, w.to);
    ret = blk_node_discard(w.node, offset, length, 0);
    no_fault();
    if ((ret < 0 && !may_fail(ret)) || blk_node_pread(w.node, buf, offset, length) < 0)
        failed("discarding: %s", strerror(-ret));
    w.discarding = false;
    w.next = buf;
    become(false);
}

static void op_flush(void)
{
    int ret = blk_node_flush(w.node);

    if (ret < 0 && !w.faults)
        failed("flushing: %s", strerror(-ret));
    else if (ret == 0)
        all_flushed();
}

/* Grows; what is new reads as zeroes. Its success is durable. */
static void op_grow(void)
{
    uint64_t size = tm_min(w.size + SECTOR * (1 + rng_below(&w.rng, 200)), DISK_MAX);
    g_autoptr(GError) error = NULL;

    g_array_append_val(w.sizes, size);
    touch(w.size, size);
    if (blk_graph_resize(w.graph, w.node, size, &error)) {
        w.size = size;
        g_array_set_size(w.sizes, 0);
    } else if (!w.faults && !strstr(error->message, "space") && !strstr(error->message, "large"))
        failed("growing: %s", error->message);
}

/* What is to be cut off may go, piece by piece, before the size says so. */
static void op_shrink(void)
{
    static const uint8_t zeroes[SECTOR];
    uint64_t size = tm_max(w.size - tm_min(SECTOR * (1 + rng_below(&w.rng, 200)), w.size), SECTOR);
    g_autoptr(GError) error = NULL;
    bool ok;

    g_array_append_val(w.sizes, size);
    touch(size, w.size);
    for (uint64_t s = size / SECTOR; s < SECTORS; s++)
        w.sectors[s].any = true;
    ok = blk_graph_resize(w.graph, w.node, size, &error);
    if (!ok && !w.faults && !strstr(error->message, "snapshots") &&
        !strstr(error->message, "space"))
        failed("shrinking: %s", error->message);
    if (!ok) {
        read_again(size, w.size);
        return;
    }
    for (uint64_t s = size / SECTOR; s < SECTORS; s++) {
        w.sectors[s].n = 0;
        w.sectors[s].any = false;
        allow(s, zeroes); /* when it grows again */
    }
    w.size = size;
    g_array_set_size(w.sizes, 0);
}

static void step(void)
{
    bool doomed = w.faults && w.seed % 2 && w.step == 2 + w.seed / 2 % 24;
    unsigned what = doomed ? (w.seed / 2 % 3 ? 30 : 31 + (unsigned)(w.seed / 6 % 2))
                           : (unsigned)rng_below(&w.rng, 33);

    maybe_fault(doomed);
    if (w.full && rng_chance(&w.rng, 5))
        w.medium->full = !w.medium->full;
    if (what < 15)
        op_write(false);
    else if (what < 18)
        op_write(true);
    else if (what < 22)
        op_zero();
    else if (what < 26)
        op_discard();
    else if (what < 31)
        op_flush();
    else if (what < 32)
        op_grow();
    else
        op_shrink();
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
        failed("the image can't be checked");
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
        failed("the image can't be read");
    for (uint64_t s = 0; s < SECTORS; s++) {
        w.sectors[s].n = 0;
        w.sectors[s].any = false;
        allow(s, buf + s * SECTOR);
    }
    w.initial = buf;
    w.recording = false;
    memset(w.touched, 0, sizeof(w.touched));
}

static void say(void *opaque, const char *line)
{
    fprintf(stderr, "%s\n", line);
}

/* It knows nothing of what went wrong before. */
static void new_graph(void)
{
    if (w.graph)
        blk_graph_free(w.graph);
    w.graph = blk_graph_new(w.registry, w.engine, &medium_sys);
    blk_graph_set_boot_id(w.graph, (const uint8_t[16]){ 1 });
    if (w.verbose)
        blk_graph_set_log(w.graph, say, NULL);
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
    w.node = open_image("image", false);
    if (!w.node)
        return;
    learn();
    w.medium->on_event = on_event;
    if (w.bitmap)
        begin_bitmap();
    for (w.step = 0; w.step < steps && !w.failure; w.step++)
        step();
    no_fault();
    w.node = NULL;
    close_image("image");
    w.medium->on_event = NULL;
    if (w.failure)
        return;
    ask_qemu_img(w.medium, w.faults); /* not even leaks, if nothing failed */
    if (!w.faults)
        all_flushed();
    w.node = open_image("image", true);
    if (w.node)
        compare(w.node, !w.faults);
    close_image("image");
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
