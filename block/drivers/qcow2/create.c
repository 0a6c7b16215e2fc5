/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/create.c: a new image, laid out at once and written from its end to its
 * start.
 *
 * The file is header | refcount table | refcount blocks | L1 | L2 tables | data, the last two only
 * if they are preallocated: all clusters from the first to the last have refcount 1. No table is in
 * memory as a whole. The header is written when the rest is on the medium, so that a file whose
 * making was cut short is no image.
 *
 * Source: the specification; options and messages as QEMU's (BlockdevCreateOptionsQcow2). */
#include "block/drivers/qcow2/image.h"
#include "block/drivers/qcow2/qcow2.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define HEADER_2    72u
#define HEADER_3    112u
#define BACKING_MAX 1023u
#define FORMAT_MAX  15u
#define CHUNK       (UINT64_C(2) << 20) /* bytes of a table that are in memory; whole clusters */

static const char *const versions[] = { "v2", "v3", NULL };
static const char *const preallocations[] = { "off", "metadata", "falloc", "full", NULL };
static const char *const compressions[] = { "zlib", "zstd", NULL };

const struct tidemark_option qcow2_create_options[] = {
    { .name = "size", .type = TIDEMARK_OPTION_SIZE, .required = 1 },
    { .name = "data-file-raw", .type = TIDEMARK_OPTION_BOOL, .default_value = "off" },
    { .name = "extended-l2", .type = TIDEMARK_OPTION_BOOL, .default_value = "off" },
    { .name = "version", .type = TIDEMARK_OPTION_ENUM, .choices = versions, .default_value = "v3" },
    { .name = "backing-file", .type = TIDEMARK_OPTION_STRING },
    { .name = "backing-fmt", .type = TIDEMARK_OPTION_STRING },
    { .name = "cluster-size", .type = TIDEMARK_OPTION_SIZE, .default_value = "65536" },
    { .name = "preallocation",
      .type = TIDEMARK_OPTION_ENUM,
      .choices = preallocations,
      .default_value = "off" },
    { .name = "lazy-refcounts", .type = TIDEMARK_OPTION_BOOL, .default_value = "off" },
    { .name = "refcount-bits", .type = TIDEMARK_OPTION_UINT, .default_value = "16" },
    { .name = "compression-type",
      .type = TIDEMARK_OPTION_ENUM,
      .choices = compressions,
      .default_value = "zlib" },
    { 0 },
};

/* ---- options */

static bool is_v2(const BlkOptions *o)
{
    return g_str_equal(blk_options_string(o, "version"), "v2");
}

static bool is_zstd(const BlkOptions *o)
{
    return g_str_equal(blk_options_string(o, "compression-type"), "zstd");
}

static bool is_preallocated(const BlkOptions *o)
{
    return !g_str_equal(blk_options_string(o, "preallocation"), "off") ||
           blk_options_bool(o, "data-file-raw");
}

/* NULL: none; QEMU takes an empty name for none, too. */
static const char *backing_of(const BlkOptions *o)
{
    const char *name =
        blk_options_is_set(o, "backing-file") ? blk_options_string(o, "backing-file") : NULL;

    return name && *name ? name : NULL;
}

/* What version 2 has no place for. */
static bool check_version(const BlkOptions *o, bool data_file, GError **error)
{
    const char *what = NULL;

    if (!is_v2(o))
        return true;
    if (data_file)
        what = "External data files are only supported";
    else if (blk_options_bool(o, "extended-l2"))
        what = "Extended L2 entries are only supported";
    else if (blk_options_bool(o, "lazy-refcounts"))
        what = "Lazy refcounts only supported";
    else if (is_zstd(o))
        what = "Non-zlib compression type is only supported";
    else if (blk_options_uint(o, "refcount-bits") != 16)
        return tm_error_set(error, "Different refcount widths than 16 bits require compatibility "
                                   "level 1.1 or above (use version=v3 or greater)");
    return !what || tm_error_set(error,
                                 "%s with compatibility level 1.1 and above (use version=v3 "
                                 "or greater)",
                                 what);
}

static bool check_files(const BlkOptions *o, bool data_file, GError **error)
{
    const char *backing = backing_of(o);

    if (blk_options_bool(o, "data-file-raw") && !data_file)
        return tm_error_set(error, "data-file-raw requires data-file");
    if (backing && blk_options_bool(o, "data-file-raw"))
        return tm_error_set(error,
                            "Backing file and data-file-raw cannot be used at the same time");
    if (blk_options_is_set(o, "backing-fmt") && !blk_options_is_set(o, "backing-file"))
        return tm_error_set(error, "Backing format cannot be used without backing file");
    if (backing && is_preallocated(o) && !blk_options_bool(o, "extended-l2"))
        return tm_error_set(error, "Backing file and preallocation can only be used at the same "
                                   "time if extended_l2 is on");
    if (blk_options_is_set(o, "backing-fmt") &&
        strlen(blk_options_string(o, "backing-fmt")) > FORMAT_MAX)
        return tm_error_set(error, "Unknown backing file format '%s'",
                            blk_options_string(o, "backing-fmt"));
    if (backing && strlen(backing) > BACKING_MAX)
        return tm_error_set(error,
                            "Could not assign backing file: its name has %zu bytes, expected "
                            "at most %u",
                            strlen(backing), BACKING_MAX);
    return true;
}

bool qcow2_create_check(const BlkOptions *o, bool data_file, GError **error)
{
    uint64_t cluster = blk_options_uint(o, "cluster-size");
    uint64_t bits = blk_options_uint(o, "refcount-bits");

    if (blk_options_uint(o, "size") % 512)
        return tm_error_set(error, "Image size must be a multiple of 512 bytes");
    if (!tm_is_pow2(cluster) || cluster < (1u << QCOW2_CLUSTER_BITS_MIN) ||
        cluster > (1u << QCOW2_CLUSTER_BITS_MAX))
        return tm_error_set(error, "Cluster size must be a power of two between 512 and 2048k");
    if (!tm_is_pow2(bits) || bits > 64)
        return tm_error_set(error,
                            "Refcount width must be a power of two and may not exceed 64 bits");
    if (!check_version(o, data_file, error))
        return false;
    if (blk_options_bool(o, "extended-l2") && cluster < 16384)
        return tm_error_set(error, "Extended L2 entries are only supported with cluster sizes of "
                                   "at least 16384 bytes");
    return check_files(o, data_file, error);
}

/* ---- the layout */

/* Where everything is to be, in clusters. */
typedef struct Layout {
    const BlkOptions *options;
    BlkNode *file, *data_file;
    uint64_t cluster, size;     /* bytes */
    uint64_t reftable, blocks;  /* clusters; the table begins at 1 */
    uint64_t l1, l1_entries;    /* clusters, entries */
    uint64_t l2, data;          /* clusters, 0 if not preallocated */
    uint64_t end;               /* clusters, all of them */
    unsigned bits, entry_bytes; /* of a refcount; of an L2 entry */
    bool stale;                 /* the file could not be emptied: nothing in it is zero by itself */
    BlkProgress *work;
} Layout;

static uint64_t ceil_div(uint64_t n, uint64_t by)
{
    return n / by + !!(n % by);
}

/* What has to hold the refcounts of itself, too. */
static void lay_refcounts(Layout *l)
{
    uint64_t per_block = l->cluster * 8 / l->bits, before;

    l->reftable = l->blocks = 1;
    do {
        before = l->reftable + l->blocks;
        l->end = 1 + before + l->l1 + l->l2 + l->data;
        l->blocks = ceil_div(l->end, per_block);
        l->reftable = ceil_div(l->blocks * 8, l->cluster);
    } while (l->reftable + l->blocks != before);
}

static bool lay_out(Layout *l, GError **error)
{
    uint64_t clusters = ceil_div(l->size, l->cluster), per_table = l->cluster / l->entry_bytes;

    l->l1_entries = ceil_div(clusters, per_table);
    l->l1 = ceil_div(l->l1_entries, l->cluster / 8);
    if (l->l1_entries * 8 > QCOW2_L1_MAX)
        return tm_error_set(error, "Could not resize image: Failed to grow the L1 table: File too "
                                   "large");
    if (is_preallocated(l->options)) {
        l->l2 = l->l1_entries;
        l->data = l->data_file ? 0 : clusters;
    }
    lay_refcounts(l);
    if (l->reftable * l->cluster > QCOW2_REFTABLE_MAX)
        return tm_error_set(error,
                            "Could not resize image: the refcount table would have %" PRIu64
                            " bytes, expected at most %" PRIu64,
                            l->reftable * l->cluster, QCOW2_REFTABLE_MAX);
    if (l->end > (UINT64_C(1) << 55) / l->cluster)
        return tm_error_set(error, "Could not resize image: File too large");
    return true;
}

static uint64_t blocks_at(const Layout *l)
{
    return 1 + l->reftable;
}

static uint64_t l1_at(const Layout *l)
{
    return blocks_at(l) + l->blocks;
}

static uint64_t l2_at(const Layout *l)
{
    return l1_at(l) + l->l1;
}

static uint64_t data_at(const Layout *l)
{
    return l2_at(l) + l->l2;
}

/* ---- tables */

/* Word number @index of a table, host-endian. */
typedef uint64_t (*WordFn)(const Layout *l, uint64_t index);

static uint64_t reftable_word(const Layout *l, uint64_t i)
{
    return i < l->blocks ? (blocks_at(l) + i) * l->cluster : 0;
}

/* The refcounts that 64 bits of the blocks hold: 1 for each cluster that there is. */
static uint64_t block_word(const Layout *l, uint64_t i)
{
    unsigned per_word = 64 / l->bits;
    uint64_t word = 0, first = i * per_word;

    for (unsigned k = 0; k < per_word && first + k < l->end; k++) {
        /* Below a byte the first count is in the lowest bits; from a byte on it is big-endian. */
        unsigned bit = k * l->bits;

        if (l->bits >= 8)
            word |= UINT64_C(1) << (64 - bit - l->bits);
        else
            word |= UINT64_C(1) << (56 - bit / 8 * 8 + bit % 8);
    }
    return word;
}

static uint64_t l1_word(const Layout *l, uint64_t i)
{
    return i < l->l2 ? ((l2_at(l) + i) * l->cluster) | QCOW2_COPIED : 0;
}

/* Entries with subclusters have none of these allocated: they read as what is below. */
static uint64_t l2_word(const Layout *l, uint64_t i)
{
    uint64_t guest = i * 8 / l->entry_bytes;

    if ((l->entry_bytes == 16 && i % 2) || guest * l->cluster >= l->size)
        return 0;
    if (l->data_file)
        return guest * l->cluster | QCOW2_COPIED;
    /* What is in a device is not to be read. */
    return ((data_at(l) + guest) * l->cluster) | QCOW2_COPIED |
           (l->stale && !is_v2(l->options) && l->entry_bytes == 8 ? QCOW2_READS_ZERO : 0);
}

static bool fails(int ret, const char *what, GError **error)
{
    return ret == 0 || tm_error_set_errno(error, -ret, "Could not write the %s", what);
}

static bool write_table(Layout *l, const char *what, uint64_t at, uint64_t clusters, WordFn word,
                        GError **error)
{
    uint64_t bytes = clusters * l->cluster;
    g_autofree uint8_t *chunk = g_try_malloc(tm_min(bytes, CHUNK) + 8);

    if (!chunk)
        return tm_error_set_errno(error, ENOMEM, "Could not write the %s", what);
    for (uint64_t done = 0; done < bytes;) {
        uint64_t n = tm_min(bytes - done, CHUNK);
        bool any = l->stale;

        for (uint64_t i = 0; i < n / 8; i++) {
            uint64_t value = word(l, done / 8 + i);

            any |= value != 0;
            tm_put_be64(chunk + i * 8, value);
        }
        if (any &&
            !fails(blk_node_pwrite(l->file, chunk, at * l->cluster + done, n, 0), what, error))
            return false;
        if (!blk_progress_add(l->work, n, error))
            return false;
        done += n;
    }
    return true;
}

static bool write_tables(Layout *l, GError **error)
{
    return write_table(l, "refcount blocks", blocks_at(l), l->blocks, block_word, error) &&
           write_table(l, "refcount table", 1, l->reftable, reftable_word, error) &&
           write_table(l, "L1 table", l1_at(l), l->l1, l1_word, error) &&
           write_table(l, "L2 tables", l2_at(l), l->l2, l2_word, error);
}

/* ---- data */

static bool grow(BlkNode *node, uint64_t size, GError **error)
{
    int ret = blk_node_grow(node, size);

    return ret == 0 || tm_error_set_errno(error, -ret, "Could not resize image: node '%s'",
                                          blk_node_name(node));
}

/* What is there already stays. */
static bool reserve_data_file(Layout *l, bool written, bool reserved, GError **error)
{
    uint64_t had = blk_node_size(l->data_file);

    if (had >= l->size)
        return true;
    if (!grow(l->data_file, l->size, error))
        return false;
    if (reserved && !blk_preallocate(l->data_file, had, l->size - had, written, l->work, error))
        return false;
    return fails(blk_node_flush(l->data_file), "data file", error);
}

static bool reserves(const Layout *l)
{
    const char *mode = blk_options_string(l->options, "preallocation");

    /* Version 2 has no entries that read as zeroes whatever is there. */
    return g_str_equal(mode, "full") || g_str_equal(mode, "falloc") ||
           (is_preallocated(l->options) && l->stale && is_v2(l->options));
}

static bool reserve(Layout *l, GError **error)
{
    bool written = g_str_equal(blk_options_string(l->options, "preallocation"), "full");

    if (!is_preallocated(l->options))
        return true;
    if (l->data_file)
        return reserve_data_file(l, written, reserves(l), error);
    return !reserves(l) || blk_preallocate(l->file, data_at(l) * l->cluster, l->data * l->cluster,
                                           written, l->work, error);
}

/* ---- the header */

typedef struct FeatureName {
    uint8_t type, bit;
    const char *name;
} FeatureName;

static const FeatureName feature_names[] = {
    { 0, 0, "dirty bit" },        { 0, 1, "corrupt bit" },         { 0, 2, "external data file" },
    { 0, 3, "compression type" }, { 0, 4, "extended L2 entries" }, { 1, 0, "lazy refcounts" },
    { 2, 0, "bitmaps" },          { 2, 1, "raw external data" },
};

#define FEATURE_BYTES 48u

static void put_fields(const Layout *l, uint8_t *h)
{
    tm_put_be32(h, 0x514649fb);
    tm_put_be32(h + 4, is_v2(l->options) ? 2 : 3);
    tm_put_be32(h + 20, (uint32_t)__builtin_ctzll(l->cluster));
    tm_put_be64(h + 24, l->size);
    tm_put_be32(h + 36, (uint32_t)l->l1_entries);
    tm_put_be64(h + 40, l->l1 ? l1_at(l) * l->cluster : 0);
    tm_put_be64(h + 48, l->cluster);
    tm_put_be32(h + 56, (uint32_t)l->reftable);
    if (is_v2(l->options))
        return;
    tm_put_be64(h + 72, (l->data_file ? QCOW2_INCOMPATIBLE_DATA_FILE : 0) |
                            (is_zstd(l->options) ? QCOW2_INCOMPATIBLE_COMPRESSION : 0) |
                            (l->entry_bytes == 16 ? QCOW2_INCOMPATIBLE_EXTENDED_L2 : 0));
    tm_put_be64(h + 80, blk_options_bool(l->options, "lazy-refcounts") ? QCOW2_COMPATIBLE_LAZY : 0);
    tm_put_be64(h + 88,
                blk_options_bool(l->options, "data-file-raw") ? QCOW2_AUTOCLEAR_DATA_RAW : 0);
    tm_put_be32(h + 96, (uint32_t)__builtin_ctz(l->bits));
    tm_put_be32(h + 100, HEADER_3);
    h[104] = is_zstd(l->options) ? QCOW2_ZSTD : QCOW2_ZLIB;
}

/* Appends an extension, and moves *at past it; false: there is no room. */
static bool put_extension(const Layout *l, uint8_t *h, uint64_t *at, uint32_t type,
                          const void *body, uint64_t length)
{
    uint64_t padded = tm_align_up(length, 8);

    if (!tm_range_within(*at, 8 + padded, l->cluster))
        return false;
    tm_put_be32(h + *at, type);
    tm_put_be32(h + *at + 4, (uint32_t)length);
    memcpy(h + *at + 8, body, length);
    *at += 8 + padded;
    return true;
}

static void put_feature_names(const Layout *l, uint8_t *h, uint64_t *at, uint64_t tail)
{
    uint8_t table[G_N_ELEMENTS(feature_names) * FEATURE_BYTES] = { 0 };

    /* For people who meet an image that their program does not know: it can be done without. */
    if (is_v2(l->options) || *at + 8 + sizeof(table) + tail > l->cluster)
        return;
    for (size_t i = 0; i < G_N_ELEMENTS(feature_names); i++) {
        uint8_t *e = table + i * FEATURE_BYTES;

        e[0] = feature_names[i].type;
        e[1] = feature_names[i].bit;
        memcpy(e + 2, feature_names[i].name, strlen(feature_names[i].name));
    }
    put_extension(l, h, at, QCOW2_EXTENSION_FEATURES, table, sizeof(table));
}

static bool put_names(const Layout *l, uint8_t *h, GError **error)
{
    const char *backing = backing_of(l->options), *format = NULL;
    uint64_t at = is_v2(l->options) ? HEADER_2 : HEADER_3, length = backing ? strlen(backing) : 0;
    bool fits = true;

    if (backing && blk_options_is_set(l->options, "backing-fmt"))
        format = blk_options_string(l->options, "backing-fmt");
    if (format)
        fits = put_extension(l, h, &at, QCOW2_EXTENSION_BACKING_FORMAT, format, strlen(format));
    if (fits && l->data_file) {
        g_autofree char *name = blk_node_filename(l->data_file);

        fits = put_extension(l, h, &at, QCOW2_EXTENSION_DATA_FILE, name, strlen(name));
    }
    put_feature_names(l, h, &at, 8 + length);
    fits = fits && put_extension(l, h, &at, QCOW2_EXTENSION_END, "", 0) &&
           tm_range_within(at, length, l->cluster);
    if (!fits)
        return tm_error_set(error,
                            "The names of the backing file and the data file do not fit "
                            "into a cluster of %" PRIu64 " bytes",
                            l->cluster);
    if (backing) {
        memcpy(h + at, backing, length);
        tm_put_be64(h + 8, at);
        tm_put_be32(h + 16, (uint32_t)length);
    }
    return true;
}

/* ---- all of it */

static bool write_image(Layout *l, uint8_t *header, GError **error)
{
    /* A device's old header is not one any more. */
    if (l->stale && (!fails(blk_node_write_zeroes(l->file, 0, l->cluster, 0), "header", error) ||
                     !fails(blk_node_flush(l->file), "header", error)))
        return false;
    return grow(l->file, l->end * l->cluster, error) && write_tables(l, error) &&
           reserve(l, error) && fails(blk_node_flush(l->file), "tables", error) &&
           fails(blk_node_pwrite(l->file, header, 0, l->cluster, 0), "header", error) &&
           fails(blk_node_flush(l->file), "header", error);
}

bool qcow2_create(BlkNode *file, BlkNode *data_file, const BlkOptions *o, BlkProgress *work,
                  GError **error)
{
    Layout l = { .options = o,
                 .file = file,
                 .data_file = data_file,
                 .cluster = blk_options_uint(o, "cluster-size"),
                 .size = blk_options_uint(o, "size"),
                 .bits = (unsigned)blk_options_uint(o, "refcount-bits"),
                 .entry_bytes = blk_options_bool(o, "extended-l2") ? 16 : 8,
                 .stale = blk_node_size(file) > 0,
                 .work = work };
    g_autofree uint8_t *header = NULL;

    if (!lay_out(&l, error))
        return false;
    header = g_try_malloc0(l.cluster);
    if (!header)
        return tm_error_set_errno(error, ENOMEM, "Could not write the header");
    put_fields(&l, header);
    work->total = (data_at(&l) - 1) * l.cluster + (reserves(&l) ? l.size : 0);
    return put_names(&l, header, error) && write_image(&l, header, error);
}
