/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/check.c: checking and mending an image: what is done when.
 *
 * The passes of a repair: count; entries that are nothing become zero, and count again; compare; if
 * the refcounts can't be repaired one by one, all of them anew, else one by one; the COPIED flags;
 * the header's bits. Then another check says what is left. A cut between any two writes leaves an
 * image that is no worse. */
#include "block/drivers/qcow2/check.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define CLUSTERS_MAX ((uint64_t)INT32_MAX) /* as QEMU */
#define SLOTS_BYTES  (UINT64_C(16) << 20)
#define SLOTS_MAX    1024u

/* ---- life */

/* A check reports a table that can't be read, or not to its end. What it refers to would look like
 * leaks then, so that nothing may be repaired. */
static bool read_snapshots(Qcow2Check *k, GError **error)
{
    g_autoptr(GError) why = NULL;

    k->snapshots = qcow2_snapshots_read(k->file, &k->header, &k->snapshots_bytes,
                                        k->options.fix ? NULL : &k->cut_snapshots, &why);
    if (!k->snapshots && k->options.fix)
        return tm_error_set(error, "The image can't be repaired: %s", why->message);
    if (k->snapshots)
        return true;
    k->no_snapshots = g_strdup(why->message);
    k->snapshots = g_array_new(FALSE, TRUE, sizeof(Qcow2Snapshot));
    return true;
}

static bool start(Qcow2Check *k, BlkNode *data_file, GError **error)
{
    struct tidemark_info info = { .struct_size = sizeof(info) };
    g_autofree char *why = NULL;
    int ret = qcow2_header_load_to_check(k->file, &k->header, &why);

    if (ret == 0 && k->options.fix && (why = qcow2_header_cut(&k->header, blk_node_size(k->file))))
        return tm_error_set(error, "The image can't be repaired: %s", why);
    if (ret < 0)
        return why ? tm_error_set(error, "%s", why)
                   : tm_error_set_errno(error, -ret, "Could not read qcow2 header");
    k->external_data = k->header.external_data;
    if (!k->external_data && data_file)
        return tm_error_set(error,
                            "'data-file' can only be set for images with an external data file");
    blk_node_info(k->file, &info);
    k->size = blk_node_size(k->file);
    k->cluster = UINT64_C(1) << k->header.cluster_bits;
    k->clusters = k->size / k->cluster + !!(k->size % k->cluster);
    if (k->clusters > CLUSTERS_MAX)
        return tm_error_set(error,
                            "The image is too large to be checked: %" PRIu64
                            " clusters, expected at most %" PRIu64,
                            k->clusters, CLUSTERS_MAX);
    k->allocated = tm_min(info.allocated / k->cluster + 1, k->clusters);
    k->entry_bytes = k->header.extended_l2 ? 16 : 8;
    k->bits = 1u << k->header.refcount_order;
    k->max = UINT64_MAX >> (64 - k->bits);
    k->n_slots = (unsigned)tm_min(SLOTS_BYTES / k->cluster, SLOTS_MAX);
    k->slots = g_try_malloc(k->n_slots * k->cluster);
    k->slot_of = g_new0(uint64_t, k->n_slots);
    k->pages = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    if (!k->slots)
        return tm_error_set_errno(error, ENOMEM, "Could not check the image");
    return read_snapshots(k, error) && qcow2_check_load_reftable(k, error);
}

static void finish(Qcow2Check *k)
{
    qcow2_header_clear(&k->header);
    if (k->snapshots)
        g_array_unref(k->snapshots);
    if (k->pages)
        g_hash_table_unref(k->pages);
    g_free(k->no_snapshots);
    g_free(k->slots);
    g_free(k->slot_of);
    g_free(k->reftable);
}

/* ---- passes */

/* Entries gone through, and blocks compared. */
static void plan(Qcow2Check *k)
{
    uint64_t l1 = k->header.l1_size;

    for (guint i = 0; i < k->snapshots->len; i++)
        l1 += g_array_index(k->snapshots, Qcow2Snapshot, i).l1_size;
    k->work.done = 0;
    k->work.total = (l1 + k->header.l1_size + k->reftable_entries) * (k->options.fix ? 2 : 1);
}

static bool check_only(Qcow2Check *k, GError **error)
{
    return qcow2_check_count(k, true, error) && qcow2_check_compare(k, 0, error) &&
           qcow2_check_copied(k, false, error);
}

/* Another pass counts from nothing, but what was repaired stays repaired. */
static bool count_again(Qcow2Check *k, GError **error)
{
    uint64_t fixed = k->result.corruptions_fixed, errors = k->result.check_errors;
    bool quiet = k->quiet, ok;

    k->quiet = true;
    ok = qcow2_check_count(k, true, error);
    k->quiet = quiet;
    k->result.corruptions_fixed = fixed;
    k->result.check_errors += errors;
    return ok;
}

/* What the file lost of its end is there again as a hole, as whoever wrote to it would make it. */
static bool repair_end(Qcow2Check *k, GError **error)
{
    uint64_t before = k->result.corruptions;

    if (!(k->options.fix & BLK_IMAGE_FIX_ERRORS) || !k->cut_end ||
        qcow2_check_grow(k, tm_align_up(k->cut_end, k->cluster)) < 0)
        return true;
    qcow2_check_found(k, "Repairing the end of the file");
    if (!count_again(k, error))
        return false;
    k->result.corruptions_fixed += before - tm_min(before, k->result.corruptions);
    return true;
}

static bool rebuild(Qcow2Check *k, GError **error)
{
    BlkImageCheck before = k->result;
    bool quiet = k->quiet, ok;

    qcow2_check_found(k, "Rebuilding refcount structure");
    k->quiet = true;
    ok = qcow2_check_rebuild(k, error) && qcow2_check_count(k, true, error) &&
         qcow2_check_compare(k, 0, error);
    k->quiet = quiet;
    if (!ok)
        return false;
    k->result.corruptions_fixed = before.corruptions_fixed;
    k->result.check_errors += before.check_errors;
    if (before.corruptions > k->result.corruptions)
        k->result.corruptions_fixed += before.corruptions - k->result.corruptions;
    if (before.leaks > k->result.leaks)
        k->result.leaks_fixed = before.leaks - k->result.leaks;
    return true;
}

/* One by one: what was found is found again, and then repaired. */
static bool repair_counts(Qcow2Check *k, const BlkImageCheck *counted, GError **error)
{
    if (k->rebuild) {
        qcow2_check_found(k, "ERROR need to rebuild refcount structures");
        return true;
    }
    if (!k->result.leaks && k->result.corruptions == counted->corruptions)
        return true;
    k->result = *counted;
    return qcow2_check_compare(k, k->options.fix, error);
}

static bool repair_pass(Qcow2Check *k, GError **error)
{
    unsigned fix = k->options.fix;
    BlkImageCheck counted;
    bool quiet = k->quiet, ok;

    if (!qcow2_check_count(k, true, error) || !repair_end(k, error))
        return false;
    if (fix & BLK_IMAGE_FIX_ERRORS && k->fixable &&
        (!qcow2_check_zero_entries(k, error) || !count_again(k, error)))
        return false;
    counted = k->result;
    k->quiet = true; /* what is found is reported when it is repaired */
    ok = qcow2_check_compare(k, 0, error);
    k->quiet = quiet;
    if (!ok || !(k->rebuild && fix & BLK_IMAGE_FIX_ERRORS ? rebuild(k, error)
                                                          : repair_counts(k, &counted, error)))
        return false;
    /* With refcounts that are not right, flags can't be set right. */
    ok = fix & BLK_IMAGE_FIX_ERRORS ||
         !(k->result.check_errors || k->result.corruptions || k->result.leaks || k->rebuild);
    return qcow2_check_copied(k, ok, error);
}

/* All is well: who opens it need not check. */
static bool clear_bits(Qcow2Check *k, GError **error)
{
    uint64_t bits = QCOW2_INCOMPATIBLE_DIRTY | QCOW2_INCOMPATIBLE_CORRUPT;
    uint8_t bytes[8];
    int ret = blk_node_flush(k->file);

    if (ret == 0 && k->header.version >= 3 && k->header.incompatible & bits) {
        tm_put_be64(bytes, k->header.incompatible & ~bits);
        ret = qcow2_check_write(k, bytes, 72, sizeof(bytes));
        if (ret == 0)
            ret = blk_node_flush(k->file);
    }
    return ret == 0 || tm_error_set_errno(error, -ret, "Could not update the qcow2 header");
}

/* Nothing that was in memory counts for the check of what was repaired: tables may lie over
 * others. */
static bool start_again(Qcow2Check *k, BlkNode *data_file, GError **error)
{
    Qcow2Check fresh = { .file = k->file, .options = k->options, .work = k->work, .quiet = true };

    finish(k);
    *k = fresh;
    return start(k, data_file, error);
}

static bool repair(Qcow2Check *k, BlkNode *data_file, GError **error)
{
    BlkImageCheck repaired;
    int ret;

    if (!repair_pass(k, error))
        return false;
    repaired = k->result;
    ret = blk_node_flush(k->file);
    if (ret < 0)
        return tm_error_set_errno(error, -ret, "Could not write the image");
    if (!start_again(k, data_file, error) || !check_only(k, error))
        return false;
    k->result.leaks_fixed = repaired.leaks_fixed;
    k->result.corruptions_fixed = repaired.corruptions_fixed;
    return k->result.corruptions || k->result.check_errors || clear_bits(k, error);
}

bool blk_image_check(BlkNode *file, BlkNode *data_file, const BlkImageCheckOptions *options,
                     BlkImageCheck *result, GError **error)
{
    Qcow2Check k = { .file = file };
    bool ok;

    if (options)
        k.options = *options;
    k.work = (BlkProgress){ .fn = k.options.progress, .opaque = k.options.opaque };
    if (k.options.fix && blk_node_read_only(file))
        return tm_error_set(error, "Block node is read-only");
    ok = start(&k, data_file, error);
    if (ok) {
        plan(&k);
        ok = k.options.fix ? repair(&k, data_file, error) : check_only(&k, error);
    }
    if (ok)
        *result = k.result;
    finish(&k);
    return ok;
}
