/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/disk_work.c: what happens to the disks: requests, and checkpoints of
 * their bitmaps. */
#include "tests/crash/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
        disk_failed("a request failed: %s", strerror(-ret));
    if (ret < 0) { /* what is there now is the last value */
        w.medium->fault = (MediumFault){ 0 };
        if (!disk_read_sectors(d->node, d->sectors, values))
            return;
    }
    for (uint32_t s = d->from; s < d->to; s++) {
        if (ret < 0 && !disk_may_be(d, s, values[s]))
            disk_failed("sector %u of %s holds %u after a failure", s, d->name, values[s]);
        if (ret < 0)
            disk_allow(d, s, d->next);
        disk_allow(d, s, ret < 0 ? values[s] : d->next);
        d->doubt[s] &= ret < 0;
    }
    d->from = d->to = 0;
}

void disk_write(DataDisk *d, unsigned kind)
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
        disk_fill(buf + s * SECTOR, d->next);
    ret =
        kind ? blk_node_write_zeroes(d->node, at, n, rng_chance(&w.rng, 2) ? TIDEMARK_MAY_UNMAP : 0)
             : blk_node_pwrite(d->node, buf, at, n, 0);
    become(d, ret);
}

void disk_flush(DataDisk *d)
{
    int ret = blk_node_flush(d->node);

    if (ret < 0 && !may_fail(ret))
        disk_failed("flushing: %s", strerror(-ret));
    for (uint32_t s = 0; ret == 0 && s < d->sectors; s++) {
        if (!d->doubt[s])
            disk_only(d, s, disk_now(d, s));
    }
}

/* A descriptor remembers that its sync has failed; with it goes what the kernel knew. */
void disk_drop_failures(DataDisk *d)
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
        record->begun[s] = disk_now(d, s);
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

void disk_checkpoint(void)
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
        disk_failed("a checkpoint: %s", error->message);
    for (unsigned i = 0; i < DISKS && ok; i++)
        w.disks[i].model = w.disks[i].after;
}
