/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/check_bitmaps.c: the directory of the bitmaps extension, and what the tables
 * of the bitmaps refer to.
 *
 * Source: the specification, "Bitmaps"; bounds as QEMU's. */
#include "block/drivers/qcow2/check.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"
#include "util/text.h"

#include <errno.h>
#include <inttypes.h>

#define BITMAPS_MAX    65535u
#define DIRECTORY_MAX  (UINT64_C(64) << 20)
#define TABLE_MAX      UINT64_C(0x8000000) /* entries */
#define ENTRY_HEAD     24u
#define NAME_MAX_BYTES 1023u
#define TABLE_RESERVED UINT64_C(0xff000000000001fe)
#define ALL_ONES       UINT64_C(1)
#define CHUNK          (UINT64_C(64) << 10)

static void entry_clear(void *data)
{
    g_free(((Qcow2DirectoryEntry *)data)->name);
}

/* The entry at @at, checked; its whole length, 0: it is invalid, and *expected is what it lacks. */
static uint64_t read_entry(const uint8_t *at, uint64_t left, Qcow2DirectoryEntry *e,
                           const char **expected)
{
    uint64_t name_length, extra, length;

    *expected = "an entry within the directory";
    if (left < ENTRY_HEAD)
        return 0;
    name_length = tm_get_be16(at + 18);
    extra = tm_get_be32(at + 20);
    length = tm_align_up(ENTRY_HEAD + extra + name_length, 8);
    if (length > left)
        return 0;
    *expected = "a name of 1 to 1023 bytes";
    if (!name_length || name_length > NAME_MAX_BYTES)
        return 0;
    e->table_offset = tm_get_be64(at);
    e->table_size = tm_get_be32(at + 8);
    e->flags = tm_get_be32(at + 12);
    e->granularity_bits = at[17];
    *expected = "type 1";
    if (at[16] != 1)
        return 0;
    *expected = "granularity_bits from 9 to 31";
    if (e->granularity_bits < 9 || e->granularity_bits > 31)
        return 0;
    *expected = "a table of at most 134217728 entries, at an offset other than 0";
    if (e->table_size > TABLE_MAX || !e->table_offset || e->table_offset > TM_SIZE_MAX)
        return 0;
    e->name = tm_text_of((const char *)at + ENTRY_HEAD + extra, name_length);
    return length;
}

GArray *qcow2_directory_read(BlkNode *file, const Qcow2Header *h, GError **error)
{
    g_autofree uint8_t *bytes = NULL;
    g_autoptr(GArray) list = g_array_new(FALSE, TRUE, sizeof(Qcow2DirectoryEntry));
    uint64_t at = 0;
    int ret;

    g_array_set_clear_func(list, entry_clear);
    if (h->n_bitmaps > BITMAPS_MAX || h->bitmaps_size > DIRECTORY_MAX ||
        h->bitmaps_offset & ((UINT64_C(1) << h->cluster_bits) - 1) ||
        !tm_range_within(h->bitmaps_offset, h->bitmaps_size, blk_node_size(file))) {
        tm_error_set(error,
                     "bitmaps extension: a directory of %u bitmaps, %" PRIu64 " bytes at %" PRIu64
                     ", is invalid",
                     h->n_bitmaps, h->bitmaps_size, h->bitmaps_offset);
        return NULL;
    }
    bytes = g_try_malloc(h->bitmaps_size + 1);
    ret = bytes ? blk_node_pread(file, bytes, h->bitmaps_offset, h->bitmaps_size) : -ENOMEM;
    if (ret < 0) {
        tm_error_set_errno(error, -ret, "Could not read the bitmap directory");
        return NULL;
    }
    for (uint32_t i = 0; i < h->n_bitmaps; i++) {
        Qcow2DirectoryEntry e = { 0 };
        const char *expected;
        uint64_t length = read_entry(bytes + at, h->bitmaps_size - at, &e, &expected);

        if (!length) {
            tm_error_set(error,
                         "bitmaps extension: entry %u of the directory is invalid, expected %s", i,
                         expected);
            return NULL;
        }
        g_array_append_val(list, e);
        at += length;
    }
    return g_steal_pointer(&list);
}

static void count_entry(Qcow2Check *k, const Qcow2DirectoryEntry *b, uint64_t entry)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;

    if (entry & TABLE_RESERVED || (offset && (entry & ALL_ONES || offset & (k->cluster - 1)))) {
        k->result.corruptions++;
        qcow2_check_found(k, "ERROR bitmap '%s': table entry 0x%" PRIx64 " is invalid", b->name,
                          entry);
        return;
    }
    if (offset)
        qcow2_check_refer(k, offset, k->cluster, QCOW2_HOLDS_OTHER);
}

static bool count_table(Qcow2Check *k, const Qcow2DirectoryEntry *b, GError **error)
{
    uint64_t bytes = (uint64_t)b->table_size * 8;
    g_autofree uint8_t *chunk = g_malloc(CHUNK);

    if (!qcow2_check_fresh(k, b->table_offset, bytes, QCOW2_HOLDS_OTHER))
        return tm_error_set(error, "The image is too corrupt to be checked: bitmaps overlap");
    qcow2_check_refer(k, b->table_offset, bytes, QCOW2_HOLDS_OTHER);
    for (uint64_t done = 0; done < bytes && b->table_offset + done < k->size;) {
        uint64_t n = tm_align_down(qcow2_check_hole(k, b->table_offset + done, bytes - done), 8);

        if (!n) {
            int ret;

            n = tm_min(bytes - done, CHUNK);
            ret = qcow2_check_read(k, chunk, b->table_offset + done, n);
            if (ret < 0)
                return tm_error_set_errno(error, -ret, "Could not read the table of bitmap '%s'",
                                          b->name);
            for (uint64_t i = 0; i < n; i += 8)
                count_entry(k, b, tm_get_be64(chunk + i));
        }
        done += n;
    }
    return true;
}

bool qcow2_check_bitmaps(Qcow2Check *k, GError **error)
{
    const Qcow2Header *h = &k->header;
    g_autoptr(GArray) list = NULL;
    g_autoptr(GError) why = NULL;

    /* Without the bit they are nobody's, and their clusters leaked. */
    if (!h->has_bitmaps || !(h->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
        return true;
    if (h->bitmaps_reserved) { /* QEMU does not open it */
        k->result.unlisted = true;
        k->result.corruptions++;
        qcow2_check_found(k, "ERROR bitmaps extension: its reserved field is %u, expected 0",
                          h->bitmaps_reserved);
    }
    if (!h->n_bitmaps) {
        k->result.unlisted = true;
        k->result.corruptions++;
        qcow2_check_found(k, "ERROR bitmaps extension: it has no bitmaps");
        return true;
    }
    qcow2_check_refer(k, h->bitmaps_offset, h->bitmaps_size, QCOW2_HOLDS_OTHER);
    list = qcow2_directory_read(k->file, h, &why);
    /* What they refer to would look like leaks. */
    if (!list && k->options.fix)
        return tm_error_set(error, "The image can't be repaired: %s", why->message);
    if (!list) {
        k->result.unlisted = true;
        k->result.corruptions++;
        qcow2_check_found(k, "ERROR %s", why->message);
    }
    for (guint i = 0; list && i < list->len; i++)
        if (!count_table(k, &g_array_index(list, Qcow2DirectoryEntry, i), error))
            return false;
    return true;
}
