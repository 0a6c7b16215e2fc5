/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/nbd/facts.c: what a server says of its export, and whether that makes sense.
 *
 * Nothing of it is believed before it is within bounds. A disk keeps the facts that it was opened
 * with; a server that comes back must still be able to do all of that. */
#include "block/drivers/nbd/nbd.h"
#include "util/error.h"
#include "util/range.h"

#include <inttypes.h>

#define DATA_MAX  (32u << 20) /* of a request, as QEMU's */
#define RANGE_MAX (1u << 30)  /* of one without data */
#define BLOCK_MAX (64u << 10) /* the largest minimum block, by the protocol */
#define SECTOR    512u

static bool set_blocks(struct nbd_handle *nbd, BlkNbdFacts *f, GError **error)
{
    int64_t min = nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM);
    int64_t preferred = nbd_get_block_size(nbd, LIBNBD_SIZE_PREFERRED);
    int64_t max = nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM);

    if (min == 0) /* an old server is better not asked for less than sectors */
        min = f->size % SECTOR || f->status ? 1 : SECTOR;
    if (max == 0)
        max = DATA_MAX;
    if (min < 0 || !tm_is_pow2((uint64_t)min) || min > BLOCK_MAX)
        return tm_error_set(error,
                            "the server's minimum block size is %" PRId64
                            ", expected a power of two up to %u",
                            min, BLOCK_MAX);
    if (max < min)
        return tm_error_set(error,
                            "the server's maximum block size is %" PRId64
                            ", expected at least the minimum, %" PRId64,
                            max, min);
    if (f->size % (uint64_t)min)
        return tm_error_set(
            error, "export size %" PRIu64 " is not multiple of minimum block size %" PRId64,
            f->size, min);
    f->min = (uint32_t)min;
    f->max = (uint32_t)tm_align_down(tm_min((uint64_t)max, DATA_MAX), f->min);
    f->preferred = preferred > 0 && preferred <= DATA_MAX && tm_is_pow2((uint64_t)preferred)
                       ? (uint32_t)preferred
                       : 0;
    f->max_range = RANGE_MAX;
    f->max_zero = f->max;
#if LIBNBD_HAVE_NBD_GET_EXTENDED_HEADERS_NEGOTIATED
    if (nbd_get_extended_headers_negotiated(nbd) == 1)
        f->max_range = f->max_zero = tm_align_down(TM_SIZE_MAX, f->min);
#endif
    return true;
}

bool blk_nbd_facts(struct nbd_handle *nbd, const BlkNbdServer *server, BlkNbdFacts *f,
                   GError **error)
{
    int64_t size = nbd_get_size(nbd);

    *f = (BlkNbdFacts){ 0 };
    if (size < 0)
        return tm_error_set(error, "the server sent no valid size of the export: %s",
                            nbd_get_error());
    f->size = (uint64_t)size;
    f->read_only = nbd_is_read_only(nbd) == 1;
    f->flush = nbd_can_flush(nbd) == 1;
    f->fua = nbd_can_fua(nbd) == 1;
    f->trim = nbd_can_trim(nbd) == 1;
    f->zero = nbd_can_zero(nbd) == 1;
    f->fast_zero = f->zero && nbd_can_fast_zero(nbd) == 1;
    f->cache = nbd_can_cache(nbd) == 1;
    f->multi = nbd_can_multi_conn(nbd) == 1;
    f->status = nbd_can_meta_context(nbd, blk_nbd_server_context(server)) == 1;
    if (blk_nbd_server_bitmap(server) && !f->status)
        return tm_error_set(error, "requested x-dirty-bitmap %s not found",
                            blk_nbd_server_context(server));
    return set_blocks(nbd, f, error);
}

/* A server that can do more is as good. */
bool blk_nbd_facts_fit(const BlkNbdFacts *old, const BlkNbdFacts *now, bool read_only,
                       GError **error)
{
    const struct {
        const char *what;
        bool had, has;
    } abilities[] = {
        { "writing", !read_only, !now->read_only || read_only },
        { "flush", old->flush, now->flush },
        { "FUA", old->fua, now->fua },
        { "trim", old->trim, now->trim },
        { "writing zeroes", old->zero, now->zero },
        { "fast zeroing", old->fast_zero, now->fast_zero },
        { "cache", old->cache, now->cache },
        { "block status", old->status, now->status },
    };

    if (now->size != old->size)
        return tm_error_set(error,
                            "the size of the export is now %" PRIu64 ", expected %" PRIu64
                            " as when the node was opened",
                            now->size, old->size);
    if (now->min > old->min || now->max < old->max || now->max_range < old->max_range ||
        now->max_zero < old->max_zero)
        return tm_error_set(error,
                            "the limits of the server are stricter than when the node was opened: "
                            "blocks of %u to %u bytes, expected %u to %u",
                            now->min, now->max, old->min, old->max);
    for (size_t i = 0; i < G_N_ELEMENTS(abilities); i++) {
        if (abilities[i].had && !abilities[i].has)
            return tm_error_set(error, "the export no longer offers %s", abilities[i].what);
    }
    return true;
}
