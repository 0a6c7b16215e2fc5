/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/qcow2_work.c: what happens to the image. */
#include "tests/crash/qcow2.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the bitmap */

void image_begin_bitmap(void)
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
        image_failed("adding a bitmap: %s", error->message);
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
    if (ret < 0 && !image_may_fail(ret))
        image_failed("writing: %s", strerror(-ret));
    image_become(ret < 0);
    if (ret < 0)
        image_read_again(offset, offset + length);
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
    if (ret < 0 && !image_may_fail(ret))
        image_failed("zeroing: %s", strerror(-ret));
    image_become(ret < 0);
    if (ret < 0)
        image_read_again(offset, offset + length);
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
    image_no_fault();
    if ((ret < 0 && !image_may_fail(ret)) || blk_node_pread(w.node, buf, offset, length) < 0)
        image_failed("discarding: %s", strerror(-ret));
    w.discarding = false;
    w.next = buf;
    image_become(false);
}

static void op_flush(void)
{
    int ret = blk_node_flush(w.node);

    if (ret < 0 && !w.faults)
        image_failed("flushing: %s", strerror(-ret));
    else if (ret == 0)
        image_all_flushed();
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
        image_failed("growing: %s", error->message);
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
        image_failed("shrinking: %s", error->message);
    if (!ok) {
        image_read_again(size, w.size);
        return;
    }
    for (uint64_t s = size / SECTOR; s < SECTORS; s++) {
        w.sectors[s].n = 0;
        w.sectors[s].any = false;
        image_allow(s, zeroes); /* when it grows again */
    }
    w.size = size;
    g_array_set_size(w.sizes, 0);
}

void image_step(void)
{
    bool doomed = w.faults && w.seed % 2 && w.step == 2 + w.seed / 2 % 24;
    unsigned what = doomed ? (w.seed / 2 % 3 ? 30 : 31 + (unsigned)(w.seed / 6 % 2))
                           : (unsigned)rng_below(&w.rng, 33);

    image_maybe_fault(doomed);
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
