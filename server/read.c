/* server/read.c: reads: small ones into the batch, large ones into a buffer of their own, and
 * sparse ones, which tell holes instead of sending zeroes.
 *
 * Source: the NBD specification, NBD_CMD_READ. */
#include "server/internal.h"

#include "util/endian.h"
#include "util/range.h"

#include <errno.h>

#define RUNS_MAX 16u /* of a sparse reply; what comes behind them is read as data */

/* A read that is answered in pieces: holes, and runs of data read by a request each. All are sent
 * together when the last one has been read, so that no chunk is sent that an error could follow. */
typedef struct NbdsSparse {
    int left;  /* atomic: parts not read yet, and 1 while they are being submitted */
    int error; /* atomic: -errno of one that failed */
    unsigned n;
    TmExtent runs[RUNS_MAX]; /* flags: TM_STATE_ZERO or 0 */
    struct iovec iov[2 * RUNS_MAX];
    uint8_t heads[RUNS_MAX][NBD_HOLE_SIZE];
    struct Part {
        BlkRequest blk;
        NbdsRequest *request;
    } parts[RUNS_MAX];
} NbdsSparse;

static uint8_t *aligned(const NbdsSession *s, uint8_t *p)
{
    return (uint8_t *)(uintptr_t)tm_align_up((uintptr_t)p, s->align);
}

static void hole_format(uint8_t *to, bool last, uint64_t cookie, uint64_t offset, uint32_t length)
{
    nbds_chunk_format(to, last ? NBD_REPLY_FLAG_DONE : 0, NBD_REPLY_TYPE_OFFSET_HOLE, cookie, 12);
    tm_put_be64(to + 20, offset);
    tm_put_be32(to + 28, length);
}

/* ---- sparse */

void nbds_sparse_free(struct NbdsSparse *sparse)
{
    g_free(sparse);
}

void nbds_sparse_format(NbdsRequest *r)
{
    NbdsSparse *sparse = r->sparse;
    uint64_t at = 0;
    unsigned n = 0;

    for (unsigned i = 0; i < sparse->n; i++) {
        uint32_t length = (uint32_t)sparse->runs[i].length;
        bool last = i == sparse->n - 1;
        uint8_t *head = sparse->heads[i];

        if (sparse->runs[i].flags) {
            hole_format(head, last, r->cookie, r->offset + at, length);
            sparse->iov[n++] = (struct iovec){ head, NBD_HOLE_SIZE };
        } else {
            nbds_data_format(r->session, head, last, r->cookie, r->offset + at, length);
            sparse->iov[n++] = (struct iovec){ head, NBD_DATA_HEAD };
            sparse->iov[n++] = (struct iovec){ r->data + at, length };
        }
        at += length;
    }
    r->out.iov = sparse->iov;
    r->out.n = n;
}

static void part_finish(NbdsRequest *r, int result)
{
    if (result < 0)
        __atomic_store_n(&r->sparse->error, result, __ATOMIC_RELAXED);
    if (__atomic_sub_fetch(&r->sparse->left, 1, __ATOMIC_ACQ_REL) == 0)
        nbds_request_done(r, __atomic_load_n(&r->sparse->error, __ATOMIC_RELAXED));
}

static void part_done(BlkRequest *blk, int result)
{
    part_finish(((struct Part *)((char *)blk - offsetof(struct Part, blk)))->request, result);
}

/* Zero and other runs of the range; false if that is not known or all of it is data. */
static bool look(NbdsSession *s, uint64_t offset, uint32_t length, TmExtents *runs)
{
    TmExtent list[RUNS_MAX - 1];
    TmExtents x = { .list = list, .max = G_N_ELEMENTS(list) };
    uint64_t described = 0;

    if (blk_node_status(s->node, offset, length, &x, &described) < 0)
        return false;
    for (size_t i = 0; i < x.count; i++)
        tm_extents_add(runs, list[i].length, list[i].flags & TM_STATE_ZERO);
    if (described < length)
        tm_extents_add(runs, length - described, 0);
    return runs->count > 1 || list[0].flags & TM_STATE_ZERO;
}

static void submit_parts(NbdsSession *s, NbdsRequest *r)
{
    NbdsSparse *sparse = r->sparse;
    uint64_t at = 0;

    for (unsigned i = 0; i < sparse->n; i++) {
        struct Part *part = &sparse->parts[i];
        uint64_t length = sparse->runs[i].length;

        if (!sparse->runs[i].flags) {
            int ret;

            part->request = r;
            part->blk.op = BLK_OP_READ;
            part->blk.offset = r->offset + at;
            part->blk.length = length;
            part->blk.buf = r->data + at;
            part->blk.done = part_done;
            __atomic_add_fetch(&sparse->left, 1, __ATOMIC_RELAXED);
            ret = blk_submit(s->node, &part->blk);
            if (ret != -EINPROGRESS)
                part_finish(r, ret);
        }
        at += length;
    }
}

/* false: to be read whole. */
static bool read_sparse(NbdsSession *s, uint64_t cookie, uint64_t offset, uint32_t length)
{
    TmExtent list[RUNS_MAX];
    TmExtents runs = { .list = list, .max = G_N_ELEMENTS(list) };
    NbdsChunk *chunk;
    NbdsSparse *sparse;
    NbdsRequest *r;

    if (!look(s, offset, length, &runs))
        return false;
    if (runs.count == 1) {
        uint8_t hole[NBD_HOLE_SIZE];

        hole_format(hole, true, cookie, offset, length);
        nbds_session_put(s, hole, sizeof(hole));
        return true;
    }
    chunk = nbds_chunk_get(s->server, length);
    if (!chunk)
        return false;
    sparse = g_new0(NbdsSparse, 1);
    sparse->left = 1;
    sparse->n = (unsigned)runs.count;
    for (unsigned i = 0; i < sparse->n; i++)
        sparse->runs[i] = list[i];
    r = nbds_request_fill(s, BLK_OP_READ, NBD_CMD_READ, cookie, 0, offset, length);
    r->chunk = chunk;
    r->data = chunk->data;
    r->sparse = sparse;
    submit_parts(s, r);
    nbds_request_taken(s, chunk);
    nbds_chunk_put(s->server, chunk);
    part_finish(r, 0);
    return true;
}

/* ---- whole */

static void read_large(NbdsSession *s, uint64_t cookie, uint16_t flags, uint64_t offset,
                       uint32_t length)
{
    NbdsChunk *chunk = nbds_chunk_get(s->server, length);
    NbdsRequest *r;
    int ret;

    if (!chunk) {
        nbds_reply(s, NBD_CMD_READ, cookie, NBD_ENOMEM, "no memory for the data");
        return;
    }
    r = nbds_request_fill(s, BLK_OP_READ, NBD_CMD_READ, cookie, flags, offset, length);
    r->chunk = chunk;
    r->data = r->blk.buf = chunk->data;
    ret = blk_submit(s->node, &r->blk);
    nbds_request_taken(s, chunk);
    nbds_chunk_put(s->server, chunk);
    if (ret != -EINPROGRESS)
        nbds_request_done(r, ret);
}

static void read_small(NbdsSession *s, uint64_t cookie, uint16_t flags, uint64_t offset,
                       uint32_t length)
{
    NbdsBatch *batch = s->batch;
    size_t head = nbds_data_head(s);
    uint8_t *data = aligned(s, batch->chunk->data + batch->used + head);
    NbdsRequest *r = nbds_request_fill(s, BLK_OP_READ, NBD_CMD_READ, cookie, flags, offset, length);
    int ret;

    r->chunk = batch->chunk;
    r->data = r->blk.buf = data;
    ret = blk_submit(s->node, &r->blk);
    if (ret == -EINPROGRESS) {
        batch->used = (size_t)(data - batch->chunk->data) + length;
        nbds_request_taken(s, batch->chunk);
    } else if (ret < 0) {
        nbds_request_failed(s, NBD_CMD_READ, flags, cookie, ret);
    } else {
        nbds_data_format(s, data - head, true, cookie, offset, length);
        nbds_batch_add(batch, data - head, head + length);
    }
}

void nbds_read(NbdsSession *s, uint64_t cookie, uint16_t flags, uint64_t offset, uint32_t length)
{
    if (!length)
        nbds_reply(s, NBD_CMD_READ, cookie, 0, "");
    else if (s->structured && !(flags & NBD_CMD_FLAG_DF) && length >= NBDS_SPARSE_MIN &&
             read_sparse(s, cookie, offset, length))
        return;
    else if (length <= NBDS_CHUNK / 2)
        read_small(s, cookie, flags, offset, length);
    else
        read_large(s, cookie, flags, offset, length);
}
