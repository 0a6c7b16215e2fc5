/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/status.c: block status and allocation depth, both from map, and what a backup asks. */
#include "block/io/status.h"
#include "block/node_internal.h"
#include "block/parents.h"
#include "block/registry.h"

#include "bitmap/bitmap.h"
#include "util/range.h"

#include <errno.h>

#define DEPTH_MAX  256  /* layers of a graph that status looks through */
#define STEPS_MAX  1024 /* look-ups in the graph for one answer, however few runs they make */
#define DIRTY_RUNS 256  /* of a bitmap, asked for at a time */
#define WALK_RUNS  512  /* that a server may send at once */

typedef struct Run {
    uint64_t length;
    uint32_t flags; /* TM_STATE_* */
    uint32_t depth; /* 0: allocated nowhere */
    bool below;     /* a backing says so, of this node or of one that it shows */
} Run;

static int first_run(BlkNode *node, uint64_t offset, uint64_t length, unsigned level, Run *run);

/* ---- walks */

static _Thread_local BlkStatusWalk *current;

BlkStatusWalk *blk_status_walk(void)
{
    return current;
}

static void walk_end(BlkStatusWalk *walk)
{
    current = NULL;
}

/* Until the end of the enclosing block. */
#define WALK                                                                                       \
    TmExtent walk_runs[WALK_RUNS];                                                                 \
    __attribute__((cleanup(walk_end))) BlkStatusWalk walk = { .list = walk_runs, .max = WALK_RUNS }

bool blk_node_status_waits(BlkNode *node)
{
    bool waits;

    blk_quiesce_enter(&node->quiesce);
    waits = node->driver->flags & TIDEMARK_DRIVER_REMOTE;
    for (unsigned i = 0; i < node->n_children && !waits; i++) {
        BlkNode *child = blk_node_child_at(node, i);

        waits = child && blk_node_status_waits(child);
    }
    blk_quiesce_leave(&node->quiesce);
    return waits;
}

/* ---- runs */

/* Whether what is in that child is allocated in clusters of the node's own. A filter shows those of
 * its child. */
static bool allocates(const BlkNode *node, unsigned child)
{
    return __atomic_load_n(&node->cluster, __ATOMIC_RELAXED) > 1 &&
           node->driver->flags & TIDEMARK_DRIVER_FORMAT &&
           blk_node_child_role(node, child) == BLK_ROLE_FORMAT;
}

/* The depth, as QEMU counts it, of what is at @depth of a child. A node that shows its child has no
 * layer of its own, and shows the topmost one of its child as that. */
static uint32_t depth_through(const BlkNode *node, unsigned child, uint32_t depth)
{
    BlkChildRole role = blk_node_child_role(node, child);

    if (role != BLK_ROLE_FILTER && role != BLK_ROLE_WINDOW)
        return 1;
    return depth <= 1 ? depth : depth + 1;
}

/* Inside of the node (block/engine/quiesce.h). */
static int run_of_node(BlkNode *node, uint64_t offset, uint64_t length, unsigned level, Run *run)
{
    struct tidemark_mapping m;
    uint64_t size = blk_node_size(node);
    int ret;

    if (offset >= size) { /* beyond the end of a shorter backing, which hides what is below */
        *run = (Run){ length, TM_STATE_ZERO | TM_STATE_HOLE, 1 };
        return 0;
    }
    length = tm_min(length, size - offset);
    ret = blk_node_map(node, offset, length, TIDEMARK_MAP_FOR_STATUS, &m);
    if (ret < 0)
        return ret;
    switch (m.kind) {
    case TIDEMARK_MAP_CHILD:
        ret = first_run(blk_node_child_at(node, m.child), m.offset, m.length, level + 1, run);
        if (ret == 0)
            run->depth = depth_through(node, m.child, run->depth);
        if (ret == 0 && allocates(node, m.child)) /* whatever the file makes of it */
            run->flags &= ~(uint32_t)TM_STATE_HOLE;
        return ret;
    case TIDEMARK_MAP_ZERO:
        *run = (Run){ m.length, TM_STATE_ZERO, 1 };
        /* What a format says is zero needs no data: QEMU calls that a hole, preallocated or not. */
        if (m.flags & TIDEMARK_MAPPED_HOLE || node->driver->flags & TIDEMARK_DRIVER_FORMAT)
            run->flags |= TM_STATE_HOLE;
        return 0;
    case TIDEMARK_MAP_BACKING: {
        BlkNode *backing = blk_node_backing(node);

        if (!backing) {
            *run = (Run){ m.length, TM_STATE_ZERO | TM_STATE_HOLE, 0 };
            return 0;
        }
        ret = first_run(backing, offset, m.length, level + 1, run);
        if (ret == 0 && run->depth)
            run->depth++;
        run->below = true;
        return ret;
    }
    default:
        *run = (Run){ m.length, m.flags & TIDEMARK_MAPPED_HOLE ? TM_STATE_HOLE : 0, 1 };
        return 0;
    }
}

/* The first run of [offset, offset + length) of @node, @level layers down. */
static int first_run(BlkNode *node, uint64_t offset, uint64_t length, unsigned level, Run *run)
{
    int ret;

    if (level > DEPTH_MAX)
        return -ELOOP;
    blk_quiesce_enter(&node->quiesce);
    ret = run_of_node(node, offset, length, level, run);
    blk_quiesce_leave(&node->quiesce);
    return ret;
}

int blk_node_status_at(BlkNode *node, uint64_t offset, uint64_t length, uint64_t *described,
                       uint32_t *flags)
{
    Run run;
    int ret = -EINVAL;

    if (length && tm_range_within(offset, length, blk_node_size(node)))
        ret = first_run(node, offset, length, 0, &run);
    if (ret < 0)
        return ret;
    *described = run.length;
    *flags = run.flags;
    return 0;
}

bool blk_node_own_zeroes(BlkNode *node, uint64_t offset, uint64_t length, uint64_t *described)
{
    Run run;

    if (first_run(node, offset, length, 0, &run) < 0)
        run = (Run){ .length = length };
    *described = run.length;
    return run.flags & TM_STATE_ZERO && !run.below;
}

static int describe(BlkNode *node, uint64_t offset, uint64_t length, bool depth, TmExtents *out,
                    uint64_t *described)
{
    uint64_t done = 0;
    WALK;

    if (!length || !tm_range_within(offset, length, blk_node_size(node)))
        return -EINVAL;
    current = &walk;
    for (unsigned steps = 0; done < length && steps < STEPS_MAX; steps++) {
        Run run;
        int ret = first_run(node, offset + done, length - done, 0, &run);

        if (ret < 0) {
            if (done)
                break; /* return what is known; the next query meets the error */
            return ret;
        }
        if (!tm_extents_add(out, run.length, depth ? run.depth : run.flags))
            break;
        done += run.length;
    }
    *described = done;
    return done ? 0 : -EINVAL;
}

int blk_node_status(BlkNode *node, uint64_t offset, uint64_t length, TmExtents *out,
                    uint64_t *described)
{
    return describe(node, offset, length, false, out, described);
}

int blk_node_depth(BlkNode *node, uint64_t offset, uint64_t length, TmExtents *out,
                   uint64_t *described)
{
    return describe(node, offset, length, true, out, described);
}

/* ---- dirty, and what of it */

typedef struct Backup {
    BlkNode *node;
    TmExtents *out;
    uint64_t end;     /* of the range asked about */
    uint64_t known;   /* up to here zero says what there is, if it is beyond where we are */
    uint32_t zero;    /* TM_BACKUP_ZERO or 0 */
    unsigned lookups; /* look-ups in the graph */
} Backup;

/* Finds what is at @offset of a dirty run that ends at @stop. What the graph doesn't know is to be
 * read: then its error is met. */
static void next_status(Backup *b, uint64_t offset, uint64_t stop)
{
    Run run;

    b->lookups++;
    if (first_run(b->node, offset, b->end - offset, 0, &run) < 0)
        run = (Run){ stop - offset, 0, 0 };
    b->known = offset + run.length;
    b->zero = run.flags & TM_STATE_ZERO ? TM_BACKUP_ZERO : 0;
}

/* Appends the dirty run [offset, stop). Returns where that ended. */
static uint64_t add_dirty(Backup *b, uint64_t offset, uint64_t stop)
{
    while (offset < stop) {
        uint64_t end;

        if (offset >= b->known && b->lookups == STEPS_MAX)
            break;
        if (offset >= b->known)
            next_status(b, offset, stop);
        end = tm_min(b->known, stop);
        if (!tm_extents_add(b->out, end - offset, TM_BACKUP_DIRTY | b->zero))
            break;
        offset = end;
    }
    return offset;
}

/* Every look is later than the answer of the bitmap that it is for, so that an extent was both
 * dirty and zero when its look was made. Many dirty runs in one stretch of data need one look. */
int blk_node_backup(BlkNode *node, BmpBitmap *bitmap, uint64_t offset, uint64_t length,
                    TmExtents *out, uint64_t *described, unsigned *lookups)
{
    Backup b = { .node = node, .out = out, .end = offset + length };
    TmExtent runs[DIRTY_RUNS];
    uint64_t at = offset, stop = offset;
    WALK;

    if (!length || !tm_range_within(offset, length, blk_node_size(node)))
        return -EINVAL;
    current = &walk;
    while (at == stop && at < b.end) {
        TmExtents dirty = { .list = runs, .max = DIRTY_RUNS };

        bmp_bitmap_extents(bitmap, at, b.end - at, &dirty);
        b.known = 0;
        for (size_t i = 0; at == stop && i < dirty.count; i++) {
            stop = at + runs[i].length;
            if (runs[i].flags & TM_STATE_DIRTY)
                at = add_dirty(&b, at, stop);
            else if (tm_extents_add(out, stop - at, 0))
                at = stop;
        }
        if (!dirty.count)
            break;
    }
    *lookups = b.lookups;
    *described = at - offset;
    return at > offset ? 0 : -EIO;
}
