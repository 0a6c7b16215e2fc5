/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/vhost/verify.c: a model of blocks. A block has one request at a time. */
#include "tests/vhost/verify.h"

#include <err.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>

#define UNKNOWN UINT32_MAX /* what a block has before it is written, and after a discard */
#define TRIES   64

typedef struct Block {
    uint32_t version; /* 0: zeroes */
    bool busy, changed;
} Block;

struct Verify {
    uint64_t first, n; /* blocks */
    uint64_t read;     /* by the reads of all */
    uint64_t changed;
    uint32_t size, version;
    uint64_t state; /* of the random numbers */
    Block block[];
};

static uint64_t number(Verify *v)
{
    v->state ^= v->state << 13;
    v->state ^= v->state >> 7;
    v->state ^= v->state << 17;
    return v->state;
}

Verify *verify_new(uint64_t first, uint64_t blocks, uint32_t block, uint64_t seed)
{
    Verify *v = calloc(1, sizeof(*v) + blocks * sizeof(Block));

    if (!v)
        err(2, "memory");
    *v = (Verify){ .first = first, .n = blocks, .size = block, .state = seed | 1 };
    for (uint64_t i = 0; i < blocks; i++)
        v->block[i].version = UNKNOWN;
    return v;
}

void verify_free(Verify *v)
{
    free(v);
}

uint64_t verify_changed(const Verify *v)
{
    return v ? v->changed : 0;
}

static uint64_t word_of(uint64_t block, uint32_t version)
{
    return version ? (block << 32 | version) * UINT64_C(0x9e3779b97f4a7c15) : 0;
}

static void fill(const Verify *v, VcRequest *r, uint32_t version)
{
    uint64_t word = word_of(v->first + r->block, version);

    for (uint32_t at = 0; at < v->size; at += sizeof(word))
        memcpy(r->data + at, &word, sizeof(word));
}

static void check(const Verify *v, const VcRequest *r, uint32_t version)
{
    uint64_t word = word_of(v->first + r->block, version), found;

    for (uint32_t at = 0; at < v->size; at += sizeof(word)) {
        memcpy(&found, r->data + at, sizeof(word));
        if (found != word)
            errx(1, "at %" PRIu64 " is %016" PRIx64 ", not %016" PRIx64 " of version %u",
                 r->offset + at, found, word, version);
    }
}

static uint32_t pick_type(Verify *v)
{
    static const uint32_t types[16] = {
        VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_OUT,
        VIRTIO_BLK_T_OUT,   VIRTIO_BLK_T_OUT,     VIRTIO_BLK_T_OUT,          VIRTIO_BLK_T_OUT,
        VIRTIO_BLK_T_OUT, /* the rest are reads: VIRTIO_BLK_T_IN is 0 */
    };

    return types[number(v) % 16];
}

static bool pick_block(Verify *v, VcRequest *r)
{
    for (unsigned i = 0; i < TRIES; i++) {
        r->block = number(v) % v->n;
        if (!v->block[r->block].busy)
            return true;
    }
    return false;
}

static void begin(Verify *v, VcQueue *q, VcRequest *r, uint32_t type)
{
    Block *block = &v->block[r->block];
    uint64_t offset = (v->first + r->block) * v->size;

    block->busy = true;
    v->changed += type != VIRTIO_BLK_T_IN && !block->changed;
    block->changed = block->changed || type != VIRTIO_BLK_T_IN;
    switch (type) {
    case VIRTIO_BLK_T_DISCARD:
        block->version = UNKNOWN;
        vc_submit_range(q, r, type, offset, v->size);
        return;
    case VIRTIO_BLK_T_WRITE_ZEROES:
        block->version = 0;
        vc_submit_range(q, r, type, offset, v->size);
        return;
    case VIRTIO_BLK_T_OUT:
        block->version = ++v->version;
        fill(v, r, block->version);
        break;
    default:
        break;
    }
    vc_submit(q, r, type, offset, v->size);
}

bool verify_submit(Verify *v, VcQueue *q, VcRequest *r, bool reads)
{
    uint32_t type = reads ? VIRTIO_BLK_T_IN : pick_type(v);

    if (type == VIRTIO_BLK_T_FLUSH) {
        vc_submit(q, r, type, 0, 0);
        return true;
    }
    if (!reads && !pick_block(v, r))
        return false;
    if (reads && (v->read == v->n || v->block[v->read].busy))
        return false;
    if (reads)
        r->block = v->read++;
    begin(v, q, r, type);
    return true;
}

void verify_done(Verify *v, const VcRequest *r)
{
    Block *block = &v->block[r->block];

    if (*r->status != VIRTIO_BLK_S_OK)
        errx(1, "request of type %u at %" PRIu64 ": status %u", r->type, r->offset, *r->status);
    if (r->type == VIRTIO_BLK_T_FLUSH)
        return;
    if (r->type == VIRTIO_BLK_T_IN && block->version != UNKNOWN)
        check(v, r, block->version);
    block->busy = false;
}
