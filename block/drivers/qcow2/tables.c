/* block/drivers/qcow2/tables.c: L1 and L2: from the disk's offsets to the image's.
 *
 * L1 is in memory whole (it is bounded), L2 tables as they are asked for, up to a limit, the least
 * recently used going first. A table in memory is constant.
 *
 * Source: the specification, "Cluster mapping" and "Extended L2 Entries". */
#include "block/drivers/qcow2/qcow2.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define OFFSET_MASK UINT64_C(0x00fffffffffffe00) /* bits 9 to 55 */
#define COMPRESSED  (UINT64_C(1) << 62)
#define READS_ZERO  1u /* of a standard entry, version 3 */

struct Qcow2Table {
    uint32_t index; /* in L1 */
    GList link;     /* in @used */
    uint64_t entries[];
};

static uint64_t table_bytes(const Qcow2 *q)
{
    return q->cluster + sizeof(Qcow2Table);
}

/* ---- L1 */

static int check_entry(Qcow2 *q, uint32_t index)
{
    uint64_t offset = q->l1[index] = tm_get_be64(&q->l1[index]) & OFFSET_MASK;

    if (!(offset & (q->cluster - 1)))
        return 0;
    blk_host.error(q->node, "qcow2: L2 table %u is said to be at %" PRIu64 ", which is no cluster",
                   index, offset);
    return -EINVAL;
}

int qcow2_tables_open(Qcow2 *q)
{
    uint64_t covered = q->cluster << q->l2_bits;
    int ret = 0;

    q->l1_size = (uint32_t)(q->header.size / covered + !!(q->header.size % covered));
    q->l1 = g_try_malloc0((gsize)q->l1_size * 8 + 8);
    q->tables = g_try_malloc0((gsize)q->l1_size * sizeof(*q->tables) + 8);
    if (!q->l1 || !q->tables)
        return -ENOMEM;
    if (q->l1_size)
        ret = blk_host.child_pread(q->node, QCOW2_FILE, q->l1, q->header.l1_offset,
                                   (uint64_t)q->l1_size * 8, 0);
    if (ret < 0)
        blk_host.error(q->node, "Could not read L1 table: %s", tm_strerror(-ret));
    for (uint32_t i = 0; ret == 0 && i < q->l1_size; i++)
        ret = check_entry(q, i);
    return ret;
}

void qcow2_tables_close(Qcow2 *q)
{
    for (uint32_t i = 0; q->tables && i < q->l1_size; i++)
        g_free(q->tables[i]);
    g_free(q->tables);
    g_free(q->l1);
}

/* ---- L2 tables */

/* Under the lock. */
static void make_room(Qcow2 *q)
{
    while (q->tables_bytes + table_bytes(q) > q->tables_max && q->used.tail) {
        Qcow2Table *old = q->used.tail->data;

        g_queue_unlink(&q->used, &old->link);
        q->tables[old->index] = NULL;
        q->tables_bytes -= table_bytes(q);
        g_free(old);
    }
}

static int load_table(Qcow2 *q, uint32_t index)
{
    Qcow2Table *table = g_try_malloc(table_bytes(q));
    int ret =
        table ? qcow2_read_child(q, QCOW2_FILE, table->entries, q->l1[index], q->cluster) : -ENOMEM;

    if (ret < 0) {
        g_free(table);
        return ret;
    }
    for (uint64_t i = 0; i < q->cluster / 8; i++)
        table->entries[i] = tm_get_be64(&table->entries[i]);
    table->index = index;
    table->link = (GList){ .data = table };
    TM_GUARD(&q->tables_lock);
    if (q->tables[index]) { /* somebody else was faster */
        g_free(table);
        return 0;
    }
    make_room(q);
    q->tables[index] = table;
    q->tables_bytes += table_bytes(q);
    g_queue_push_head_link(&q->used, &table->link);
    return 0;
}

/* ---- entries */

typedef struct Entry {
    Qcow2Kind kind;
    uint64_t host;
    bool occupied;
    uint64_t length; /* from the place asked to the end of what is alike in this cluster */
} Entry;

/* Subclusters from number @at on that are alike. false: an invalid combination. */
static bool subclusters(const Qcow2 *q, uint64_t bitmap, uint64_t within, Entry *e)
{
    unsigned at = (unsigned)(within / q->subcluster), end = at;
    uint32_t allocated = (uint32_t)bitmap, zero = (uint32_t)(bitmap >> 32);
    unsigned state = (allocated >> at & 1) | (zero >> at & 1) << 1;

    if (allocated & zero)
        return false;
    while (end < QCOW2_SUBCLUSTERS && ((allocated >> end & 1) | (zero >> end & 1) << 1) == state)
        end++;
    e->kind = state == 0 ? QCOW2_UNALLOCATED : state == 1 ? QCOW2_DATA : QCOW2_ZERO;
    e->length = end * q->subcluster - within;
    return true;
}

/* @within: bytes into the cluster. */
static int decode(const Qcow2 *q, const uint64_t *words, uint64_t within, Entry *e)
{
    uint64_t word = words[0], bitmap = q->header.extended_l2 ? words[1] : 0;

    e->length = q->cluster - within;
    e->host = word & OFFSET_MASK;
    e->occupied = e->host != 0;
    if (word & COMPRESSED) {
        if (bitmap || q->header.external_data)
            return -EIO;
        e->kind = QCOW2_COMPRESSED;
        e->host = word & ~(UINT64_C(3) << 62);
        e->occupied = true;
        return 0;
    }
    if (e->host & (q->cluster - 1))
        return -EIO;
    if (q->header.extended_l2) {
        if (!subclusters(q, bitmap, within, e))
            return -EIO;
    } else if (q->header.version >= 3 && word & READS_ZERO) {
        e->kind = QCOW2_ZERO;
    } else {
        /* In a data file offset 0 is one like others; COPIED says that there is something. */
        bool there = e->host || (q->header.external_data && word >> 63);

        e->kind = there ? QCOW2_DATA : QCOW2_UNALLOCATED;
    }
    if (e->kind == QCOW2_DATA && !e->host && !q->header.external_data)
        return -EIO;
    e->host += within;
    return 0;
}

/* Whether @next goes on where @run ends. */
static bool continues(const Qcow2Run *run, const Entry *next)
{
    if (run->kind != next->kind || run->kind == QCOW2_COMPRESSED || run->occupied != next->occupied)
        return false;
    return run->kind != QCOW2_DATA || next->host == run->host + run->length;
}

/* Within one table. */
static int walk(const Qcow2 *q, const Qcow2Table *table, uint64_t offset, uint64_t length,
                Qcow2Run *run)
{
    uint64_t end = offset + length;

    run->length = 0;
    while (offset < end) {
        uint64_t i = (offset / q->cluster) & ((UINT64_C(1) << q->l2_bits) - 1);
        Entry e;
        int ret =
            decode(q, table->entries + i * (q->entry_bytes / 8), offset & (q->cluster - 1), &e);

        if (ret < 0)
            return run->length ? 0 : ret;
        if (!run->length)
            *run = (Qcow2Run){ .kind = e.kind, .host = e.host, .occupied = e.occupied };
        else if (!continues(run, &e))
            break;
        run->length += tm_min(e.length, end - offset);
        offset += e.length;
    }
    return 0;
}

int qcow2_lookup(Qcow2 *q, uint64_t offset, uint64_t length, bool load, Qcow2Run *run)
{
    uint64_t covered = q->cluster << q->l2_bits;
    uint32_t index = (uint32_t)(offset / covered);

    length = tm_min(length, covered - offset % covered);
    if (q->header.data_raw) { /* the data file is the disk; L2 only says so too */
        *run = (Qcow2Run){ QCOW2_DATA, length, offset, true };
        return 0;
    }
    if (!q->l1[index]) {
        *run = (Qcow2Run){ QCOW2_UNALLOCATED, length, 0, false };
        return 0;
    }
    for (;;) {
        int ret;

        pthread_mutex_lock(&q->tables_lock);
        if (q->tables[index]) {
            Qcow2Table *table = q->tables[index];

            if (q->used.head != &table->link) {
                g_queue_unlink(&q->used, &table->link);
                g_queue_push_head_link(&q->used, &table->link);
            }
            ret = walk(q, table, offset, length, run);
            pthread_mutex_unlock(&q->tables_lock);
            return ret;
        }
        pthread_mutex_unlock(&q->tables_lock);
        if (!load)
            return -EAGAIN;
        ret = load_table(q, index);
        if (ret < 0)
            return ret;
    }
}
