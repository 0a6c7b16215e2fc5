/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/qcow2_model.c: what an image may hold, and whether what is found is among
 * that. */
#include "tests/crash/qcow2.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void image_failed(const char *format, ...)
{
    va_list ap;

    if (w.failure)
        return;
    va_start(ap, format);
    w.failure = g_strdup_vprintf(format, ap);
    va_end(ap);
}

/* ---- the model */

void image_allow(uint64_t sector, const uint8_t *content)
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

void image_all_flushed(void)
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
void image_become(bool may_have_failed)
{
    uint8_t content[SECTOR];

    for (uint64_t s = w.from / SECTOR; s * SECTOR < w.to; s++) {
        uint64_t at = s * SECTOR;

        now(content, s);
        if (may_have_failed)
            image_allow(s, content);
        for (uint64_t i = tm_max(at, w.from); i < tm_min(at + SECTOR, w.to); i++)
            content[i - at] = w.next[i - w.from];
        image_allow(s, content);
    }
    w.from = w.to = 0;
}

/* Calls work again. */
void image_no_fault(void)
{
    w.failures += w.medium->fault.hits;
    w.medium->fault = (MediumFault){ 0 };
}

/* What an operation that failed has left, as far as can be seen. */
void image_read_again(uint64_t from, uint64_t to)
{
    uint8_t content[SECTOR];

    image_no_fault();
    for (uint64_t s = from / SECTOR; s * SECTOR < to; s++) {
        uint64_t n = tm_min(SECTOR, w.size - s * SECTOR);

        memset(content, 0, sizeof(content));
        if (blk_node_pread(w.node, content, s * SECTOR, n) < 0)
            image_failed("reading again");
        else if (!may_be(s, content))
            image_failed("sector %" PRIu64 " holds something else after a failure", s);
        image_allow(s, content);
    }
}

bool image_may_fail(int ret)
{
    return ret == -ENOSPC || ret == -EFBIG || (w.faults && ret == -EIO);
}

/* Some call is going to fail. After a sync that failed no flush works any more: that is rare, but
 * for the step that is @doomed to it. */
void image_maybe_fault(bool doomed)
{
    static const MediumCall calls[] = { CALL_WRITE, CALL_WRITE | CALL_ALLOCATE, CALL_ALLOCATE,
                                        CALL_WRITE, CALL_SYNC };

    image_no_fault();
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

BlkNode *image_open(const char *name, bool read_only)
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
        image_failed("the image can't be opened: %s", error->message);
    return node;
}

void image_close(const char *name)
{
    g_autoptr(GError) error = NULL;

    if (!blk_graph_del(w.graph, name, &error))
        image_failed("%s", error->message);
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
            image_failed("the bitmap is %s: %s", bitmap ? "inconsistent" : "gone",
                         reason ? reason : "");
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
        image_failed("sector %" PRIu64 " has changed, and is clean", sector);
    for (uint64_t s = first; s < first + GRANULE / SECTOR && s < SECTORS; s++)
        touched |= w.touched[s];
    if (killed && dirty[sector] && !touched && !w.failures && !w.medium->fault.hits)
        image_failed("sector %" PRIu64 " is dirty, and nobody wrote near it", sector);
}

static bool may_have(uint64_t size)
{
    bool found = size == w.size;

    for (guint i = 0; i < w.sizes->len; i++)
        found |= size == g_array_index(w.sizes, uint64_t, i);
    return found;
}

void image_compare(BlkNode *node, bool killed)
{
    static uint8_t buf[PIECE];
    bool recording = read_bitmap(node);
    uint64_t size = blk_node_size(node);

    if (!may_have(size))
        image_failed("the disk has %" PRIu64 " bytes, not %" PRIu64, size, w.size);
    for (uint64_t at = 0; at < size && !w.failure; at += PIECE) {
        uint64_t n = tm_min(PIECE, size - at);
        int ret = blk_node_pread(node, buf, at, n);

        if (ret < 0)
            image_failed("reading at %" PRIu64 ": %s", at, strerror(-ret));
        for (uint64_t i = 0; ret == 0 && i < n / SECTOR; i++)
            if (!may_be(at / SECTOR + i, buf + i * SECTOR))
                image_failed("sector %" PRIu64
                             " holds %02x %02x..., never flushed or written there",
                             at / SECTOR + i, buf[i * SECTOR], buf[i * SECTOR + 1]);
            else if (recording)
                check_bitmap(at / SECTOR + i, buf + i * SECTOR, killed);
    }
}

/* What our own check finds: anything but leaks, and what the file had lost before, is wrong. */
void image_ask_check(bool leaks)
{
    json_object *options =
        json_tokener_parse("{\"driver\": \"file\", \"node-name\": \"file\", \"locking\": \"off\", "
                           "\"filename\": \"/m/image\", \"read-only\": true}");
    g_autoptr(GError) error = NULL;
    BlkNode *file = blk_graph_add(w.graph, options, &error);
    BlkImageCheck result;

    json_object_put(options);
    if (!file || !blk_image_check(file, NULL, NULL, &result, &error))
        image_failed("check: %s", error->message);
    else if (result.corruptions > w.lost || result.check_errors || (result.leaks && !leaks))
        image_failed("check: %" PRIu64 " leaks, %" PRIu64 " corruptions, %" PRIu64 " errors",
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
        image_failed("'%s' can't be removed: %s", path, strerror(errno));
}

/* What qemu-img finds in the file on @m: anything but leaks is wrong. */
void image_ask_qemu_img(Medium *m, bool leaks)
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
        image_failed("qemu-img check: %s", out);
    remove_directory(dir);
}
