/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/nbd/status.c: block status: the server's base:allocation, or the context that
 * x-dirty-bitmap names, whose values are taken for base:allocation's as QEMU takes them: what is
 * dirty is reported as a hole.
 *
 * What a server answers is cut to what was asked and to whole blocks. A walk over a disk is
 * answered many extents at once and has those for itself (block/io/status.h): an answer is never
 * older than the walk, nor than a change through this node. */
#include "block/io/status.h"
#include "block/drivers/nbd/nbd.h"
#include "util/range.h"

#include <errno.h>

#define DEPTH_MOST 2u /* QEMU's: layers below are as good as the second */

static uint64_t changes(BlkNbd *d)
{
    return __atomic_load_n(&d->changes, __ATOMIC_ACQUIRE);
}

void blk_nbd_wrote(void *handle, uint64_t offset, uint64_t length)
{
    __atomic_add_fetch(&((BlkNbd *)handle)->changes, 1, __ATOMIC_ACQ_REL);
}

/* Asks for extents from @offset on, of as much as @length. */
static int ask(BlkNbd *d, uint64_t offset, uint64_t length, TmExtents x, BlkNbdExtents *e)
{
    uint64_t first = tm_align_down(offset, d->facts.min);
    uint64_t end = tm_align_up(offset + length, d->facts.min);
    BlkNbdCommand c = { .op = BLK_NBD_STATUS,
                        .flags = x.max == 1 ? LIBNBD_CMD_FLAG_REQ_ONE : 0,
                        .offset = first,
                        .length = tm_min(end - first, d->facts.max_range),
                        .extents = e };
    int ret;

    *e = (BlkNbdExtents){ .x = x, .most = c.length, .min = d->facts.min };
    ret = blk_nbd_run(d, &c);
    return ret == -ENOTCONN || (ret == 0 && (e->bad || !e->x.count)) ? -EIO : ret;
}

/* What the walk knows of @offset, found or asked for. */
static int look(BlkNbd *d, BlkStatusWalk *w, uint64_t offset, uint64_t length, TmExtent *found)
{
    TmExtents x = { .list = w->list, .max = w->max };
    uint64_t before = changes(d);
    BlkNbdExtents e;
    int ret;

    if (w->owner == d && w->stamp == before) {
        for (; w->at < w->count && w->offset <= offset; w->at++) {
            uint64_t next = w->offset + w->list[w->at].length;

            if (offset < next) {
                *found = (TmExtent){ next - offset, w->list[w->at].flags };
                return 0;
            }
            w->offset = next;
        }
    }
    w->owner = NULL;
    ret = ask(d, offset, length, x, &e);
    if (ret < 0)
        return ret;
    w->owner = d;
    w->stamp = before;
    w->at = 0;
    w->count = e.x.count;
    w->offset = tm_align_down(offset, d->facts.min);
    *found = (TmExtent){ w->list[0].length - (offset - w->offset), w->list[0].flags };
    return 0;
}

static int status(BlkNbd *d, uint64_t offset, uint64_t length, struct tidemark_mapping *m)
{
    TmExtent one;
    BlkStatusWalk single = { .list = &one, .max = 1 }, *w = blk_status_walk();
    TmExtent found;
    int ret = look(d, w ? w : &single, offset, length, &found);

    if (ret < 0)
        return ret;
    if (blk_nbd_server_depth(d->server))
        found.flags = tm_min(found.flags, DEPTH_MOST);
    m->length = tm_min(length, found.length);
    if (found.flags & TM_STATE_ZERO)
        m->kind = TIDEMARK_MAP_ZERO;
    if (found.flags & TM_STATE_HOLE)
        m->flags = TIDEMARK_MAPPED_HOLE;
    return 0;
}

int blk_nbd_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                struct tidemark_mapping *m)
{
    BlkNbd *d = handle;

    *m = (struct tidemark_mapping){ .kind = TIDEMARK_MAP_SELF, .fd = -1, .length = length };
    return purpose == TIDEMARK_MAP_FOR_STATUS && d->facts.status ? status(d, offset, length, m) : 0;
}
