/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/read.c: where the data of a range is, and reading what is not in place. */
#include "block/drivers/qcow2/qcow2.h"
#include "util/range.h"

#include <errno.h>
#include <string.h>

#define SECTOR 512u /* what a write leaves whole, or as it was */

/* As much of a run of data as the file has; its last cluster may be cut short. A sector is not cut
 * in two: a kill between two writes would leave half of it. */
static void map_data(Qcow2 *q, const Qcow2Run *run, struct tidemark_mapping *m)
{
    uint64_t size = tm_align_down(blk_host.child_size(q->node, q->data_child), SECTOR);

    if (run->host >= size)
        return; /* SELF: zeroes, or the error */
    m->kind = TIDEMARK_MAP_CHILD;
    m->flags = q->writable && q->data_child == QCOW2_FILE ? TIDEMARK_MAPPED_MOVES : 0;
    m->child = q->data_child;
    m->offset = run->host;
    m->length = tm_min(run->length, size - run->host);
}

/* Of what is no data: where its cluster is, if it has one. */
static void map_place(const Qcow2 *q, const Qcow2Run *run, struct tidemark_mapping *m)
{
    m->flags = run->occupied ? 0 : TIDEMARK_MAPPED_HOLE;
    m->child = q->data_child;
    m->offset = run->occupied ? run->host : 0;
}

/* A place where, by the refcounts, nothing is: pwrite takes note that there is now. */
static bool untouched(const Qcow2 *q, const Qcow2Run *run)
{
    return q->data_child == QCOW2_FILE &&
           run->host + run->length > __atomic_load_n(&q->touched, __ATOMIC_RELAXED);
}

int qcow2_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
              struct tidemark_mapping *m)
{
    Qcow2 *q = handle;
    unsigned flags = purpose == TIDEMARK_MAP_FOR_STATUS  ? QCOW2_LOAD
                     : purpose == TIDEMARK_MAP_FOR_WRITE ? QCOW2_FOR_WRITE
                                                         : 0;
    Qcow2Run run;
    int ret = qcow2_lookup(q, offset, length, flags, &run);

    memset(m, 0, sizeof(*m));
    m->kind = TIDEMARK_MAP_SELF;
    m->length = length;
    if (ret == -EAGAIN)
        return 0;
    if (ret < 0)
        return ret;
    if (purpose == TIDEMARK_MAP_FOR_WRITE &&
        (run.kind != QCOW2_DATA || !run.own || untouched(q, &run) ||
         __atomic_load_n(&q->corrupt, __ATOMIC_RELAXED)))
        return 0; /* the whole length: pwrite goes run by run itself */
    m->length = run.length;
    switch (run.kind) {
    case QCOW2_UNALLOCATED:
        m->kind = TIDEMARK_MAP_BACKING;
        map_place(q, &run, m);
        break;
    case QCOW2_ZERO:
        m->kind = TIDEMARK_MAP_ZERO;
        map_place(q, &run, m);
        break;
    case QCOW2_DATA:
        map_data(q, &run, m);
        break;
    case QCOW2_COMPRESSED:
        break;
    }
    return 0;
}

static int read_run(Qcow2 *q, const Qcow2Run *run, void *buf, uint64_t offset)
{
    switch (run->kind) {
    case QCOW2_UNALLOCATED:
        return qcow2_read_child(q, QCOW2_BACKING, buf, offset, run->length);
    case QCOW2_ZERO:
        memset(buf, 0, run->length);
        return 0;
    case QCOW2_DATA:
        return qcow2_read_child(q, q->data_child, buf, run->host, run->length);
    default:
        return qcow2_inflate(q, run->host, buf, offset & (q->cluster - 1), run->length);
    }
}

int qcow2_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    char *at = buf;
    int ret = 0;

    while (ret == 0 && length) {
        Qcow2Run run;

        ret = qcow2_lookup(handle, offset, length, QCOW2_LOAD, &run);
        if (ret == 0)
            ret = read_run(handle, &run, at, offset);
        if (ret < 0)
            return ret;
        at += run.length;
        offset += run.length;
        length -= run.length;
    }
    return ret;
}
