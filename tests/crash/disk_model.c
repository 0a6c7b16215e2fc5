/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/disk_model.c: what two disks and their chains of bitmaps may hold,
 * and whether what is found is among that. */
#include "tests/crash/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void disk_failed(const char *format, ...)
{
    va_list ap;

    if (w.failure)
        return;
    va_start(ap, format);
    w.failure = g_strdup_vprintf(format, ap);
    va_end(ap);
}

/* ---- contents */

void disk_fill(uint8_t *sector, uint32_t value)
{
    for (unsigned i = 0; i < SECTOR; i += sizeof(value))
        memcpy(sector + i, &value, sizeof(value));
}

static uint32_t value_of(const uint8_t *sector)
{
    uint8_t whole[SECTOR];
    uint32_t value;

    memcpy(&value, sector, sizeof(value));
    disk_fill(whole, value);
    if (memcmp(whole, sector, SECTOR) != 0)
        disk_failed("a sector holds what nobody wrote");
    return value;
}

uint32_t disk_now(const DataDisk *d, uint32_t sector)
{
    return g_array_index(d->values[sector], uint32_t, d->values[sector]->len - 1);
}

void disk_allow(DataDisk *d, uint32_t sector, uint32_t value)
{
    g_array_append_val(d->values[sector], value);
}

void disk_only(DataDisk *d, uint32_t sector, uint32_t value)
{
    g_array_set_size(d->values[sector], 0);
    disk_allow(d, sector, value);
}

bool disk_may_be(const DataDisk *d, uint32_t sector, uint32_t value)
{
    const GArray *values = d->values[sector];

    for (guint i = 0; i < values->len; i++) {
        if (g_array_index(values, uint32_t, i) == value)
            return true;
    }
    return sector >= d->from && sector < d->to && value == d->next;
}

bool disk_read_sectors(BlkNode *node, uint32_t sectors, uint32_t *values)
{
    static uint8_t buf[SECTORS * SECTOR];
    int ret = blk_node_pread(node, buf, 0, (uint64_t)sectors * SECTOR);

    if (ret < 0)
        disk_failed("reading: %s", strerror(-ret));
    for (uint32_t s = 0; ret == 0 && s < sectors; s++)
        values[s] = value_of(buf + s * SECTOR);
    return ret == 0;
}

/* ---- opening and closing */

BlkNode *disk_open(const DataDisk *d, bool read_only)
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
        disk_failed("disk %s can't be opened: %s", d->name, error->message);
    return node;
}

void disk_close(const char *name)
{
    g_autoptr(GError) error = NULL;

    if (!blk_graph_del(w.graph, name, &error))
        disk_failed("%s", error->message);
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

void disk_observe(BlkNode *node, const DataDisk *d, Shown *found)
{
    BmpSet *set = blk_node_bitmaps(node);

    memset(found, 0, sizeof(*found));
    if (!disk_read_sectors(node, d->sectors, found->values))
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

int disk_find(const Shown *found, const char *name)
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
        int at = disk_find(found, model->records[i].name);

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
        int at = disk_find(found, record->name);

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
int disk_match(bool killed)
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
    disk_failed("%s", whys->str);
    return -1;
}

void disk_check_values(const DataDisk *d, const Shown *found)
{
    for (uint32_t s = 0; s < d->sectors && !w.failure; s++) {
        if (!disk_may_be(d, s, found->values[s]))
            disk_failed("sector %u of %s holds %u, which was never flushed or written since", s,
                        d->name, found->values[s]);
    }
}
