/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/snapshots.c: the table of an image's internal snapshots, entry by entry.
 *
 * Source: the specification, "Snapshots"; bounds and messages as QEMU's. */
#include "block/drivers/qcow2/snapshots.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"

#include <inttypes.h>
#include <string.h>

#define SNAPSHOTS_MAX 65536u
#define TABLE_MAX     (UINT64_C(64) << 20) /* bytes */
#define EXTRA_MAX     1024u
#define ENTRY_HEAD    40u
#define WINDOW        (UINT64_C(256) << 10) /* more than the longest entry */

/* The table, a window of it in memory. */
typedef struct Reader {
    BlkNode *file;
    uint64_t start; /* of the table */
    uint64_t at;    /* from its start */
    uint8_t *window;
    uint64_t window_at, window_length;
    bool *cut; /* NULL, or what is beyond the end of the image reads as zeroes and sets it */
} Reader;

/* The window from the present place, which is @offset of a file of @size bytes. */
static int read_window(Reader *r, uint64_t offset, uint64_t size)
{
    uint64_t there = offset < size ? tm_min(WINDOW, size - offset) : 0;

    r->window_at = r->at;
    r->window_length = WINDOW;
    memset(r->window + there, 0, WINDOW - there);
    return there ? blk_node_pread(r->file, r->window, offset, there) : 0;
}

/* @length bytes at the present place: borrowed until the next call. */
static const uint8_t *take(Reader *r, uint64_t length, GError **error)
{
    uint64_t size = blk_node_size(r->file), offset = 0;
    bool within = tm_range_end(r->start, r->at, &offset) && tm_range_within(offset, length, size);
    int ret;

    if (!within && !r->cut) {
        tm_error_set(error,
                     "Failed to read snapshot table: it extends beyond the end of the image");
        return NULL;
    }
    if (!within)
        *r->cut = true;
    if (r->at < r->window_at || r->at + length > r->window_at + r->window_length) {
        ret = read_window(r, offset, size);
        if (ret < 0) {
            r->window_length = 0;
            tm_error_set_errno(error, -ret, "Failed to read snapshot table");
            return NULL;
        }
    }
    r->at += length;
    return r->window + (r->at - length - r->window_at);
}

static char *take_text(Reader *r, uint64_t length, GError **error)
{
    const uint8_t *bytes = take(r, length, error);
    g_autofree char *text = bytes ? g_strndup((const char *)bytes, length) : NULL;

    return text ? g_utf8_make_valid(text, -1) : NULL;
}

static bool read_extra(Reader *r, Qcow2Snapshot *s, unsigned index, GError **error)
{
    const uint8_t *extra;

    if (s->extra_size > EXTRA_MAX)
        return tm_error_set(error, "Too much extra metadata in snapshot table entry %u", index);
    extra = take(r, s->extra_size, error);
    if (!extra)
        return false;
    if (s->extra_size >= 8)
        s->vm_state_size = tm_get_be64(extra);
    if (s->extra_size >= QCOW2_SNAPSHOT_DISK_SIZE_END)
        s->disk_size = tm_get_be64(extra + 8);
    if (s->extra_size >= 24)
        s->icount = tm_get_be64(extra + 16);
    return true;
}

static bool read_entry(Reader *r, Qcow2Snapshot *s, unsigned index, GError **error)
{
    const uint8_t *head;
    uint32_t id_length, name_length;

    r->at = tm_align_up(r->at, 8);
    head = take(r, ENTRY_HEAD, error);
    if (!head)
        return false;
    s->l1_offset = tm_get_be64(head);
    s->l1_size = tm_get_be32(head + 8);
    id_length = tm_get_be16(head + 12);
    name_length = tm_get_be16(head + 14);
    s->date_seconds = tm_get_be32(head + 16);
    s->date_nanoseconds = tm_get_be32(head + 20);
    s->vm_clock_nanoseconds = tm_get_be64(head + 24);
    s->vm_state_size = tm_get_be32(head + 32);
    s->extra_size = tm_get_be32(head + 36);
    if (!read_extra(r, s, index, error))
        return false;
    s->id = take_text(r, id_length, error);
    s->name = s->id ? take_text(r, name_length, error) : NULL;
    if (s->name && r->at > TABLE_MAX)
        return tm_error_set(error, "Snapshot table is too big");
    return s->name != NULL;
}

static void snapshot_clear(void *data)
{
    Qcow2Snapshot *s = data;

    g_free(s->id);
    g_free(s->name);
}

static bool check_place(const Qcow2Header *h, GError **error)
{
    if (h->n_snapshots > SNAPSHOTS_MAX)
        return tm_error_set(error, "Snapshot table too large: %u snapshots, expected at most %u",
                            h->n_snapshots, SNAPSHOTS_MAX);
    if (h->snapshots_offset & ((UINT64_C(1) << h->cluster_bits) - 1) ||
        h->snapshots_offset > TM_SIZE_MAX - TABLE_MAX)
        return tm_error_set(error, "Snapshot table offset invalid: %" PRIu64, h->snapshots_offset);
    return true;
}

GArray *qcow2_snapshots_read(BlkNode *file, const Qcow2Header *h, uint64_t *bytes, bool *cut,
                             GError **error)
{
    GArray *list = g_array_new(FALSE, TRUE, sizeof(Qcow2Snapshot));
    g_autofree uint8_t *window = NULL;
    Reader r = { .file = file, .start = h->snapshots_offset, .cut = cut };
    bool ok = true;

    g_array_set_clear_func(list, snapshot_clear);
    *bytes = 0;
    if (cut)
        *cut = false;
    if (!h->n_snapshots)
        return list;
    if (check_place(h, error)) {
        r.window = window = g_malloc(WINDOW);
        for (unsigned i = 0; ok && i < h->n_snapshots; i++) {
            Qcow2Snapshot s = { .disk_size = h->size, .icount = UINT64_MAX };

            ok = read_entry(&r, &s, i, error);
            g_array_append_val(list, s);
        }
        if (ok) {
            *bytes = r.at;
            return list;
        }
    }
    g_array_unref(list);
    return NULL;
}

const Qcow2Snapshot *qcow2_snapshots_find(const GArray *list, const char *id_or_name,
                                          GError **error)
{
    for (unsigned by_name = 0; by_name < 2; by_name++) {
        for (guint i = 0; i < list->len; i++) {
            const Qcow2Snapshot *s = &g_array_index(list, Qcow2Snapshot, i);

            if (g_str_equal(by_name ? s->name : s->id, id_or_name))
                return s;
        }
    }
    tm_error_set(error, "Can't find snapshot '%s'", id_or_name);
    return NULL;
}

bool qcow2_snapshot_check(const Qcow2Header *h, const Qcow2Snapshot *s, uint64_t file_size,
                          GError **error)
{
    uint64_t bytes = (uint64_t)s->l1_size * 8;
    uint64_t entries = UINT64_C(1) << (h->cluster_bits - (h->extended_l2 ? 4 : 3));
    uint64_t covered = entries << h->cluster_bits;

    if (bytes > QCOW2_L1_MAX)
        return tm_error_set(error, "Snapshot L1 table too large: %" PRIu64 " bytes", bytes);
    if (s->l1_offset & ((UINT64_C(1) << h->cluster_bits) - 1) ||
        !tm_range_within(s->l1_offset, bytes, file_size))
        return tm_error_set(error,
                            "Snapshot L1 table offset invalid: %" PRIu64 " bytes at %" PRIu64
                            " of an image of %" PRIu64,
                            bytes, s->l1_offset, file_size);
    if (s->disk_size > TM_SIZE_MAX ||
        s->disk_size / covered + !!(s->disk_size % covered) > s->l1_size)
        return tm_error_set(
            error, "Snapshot L1 table too small: %u entries for a disk of %" PRIu64 " bytes",
            s->l1_size, s->disk_size);
    return true;
}

bool qcow2_snapshot_use(BlkNode *file, Qcow2Header *h, const char *id_or_name, GError **error)
{
    uint64_t bytes;
    g_autoptr(GArray) list = qcow2_snapshots_read(file, h, &bytes, NULL, error);
    const Qcow2Snapshot *s = list ? qcow2_snapshots_find(list, id_or_name, error) : NULL;

    if (!s || !qcow2_snapshot_check(h, s, blk_node_size(file), error))
        return false;
    if (h->external_data)
        return tm_error_set(error, "An image with an external data file can't have snapshots");
    h->l1_offset = s->l1_offset;
    h->l1_size = s->l1_size;
    h->size = s->disk_size;
    h->has_bitmaps = false;
    h->n_bitmaps = 0;
    return true;
}
