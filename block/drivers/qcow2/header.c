/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/header.c: the header and its extensions, checked field by field.
 *
 * Source: the specification, "Header" and "Header extensions". */
#include "block/drivers/qcow2/qcow2.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define MAGIC        0x514649fbu /* "QFI" 0xfb */
#define HEADER_2     72u         /* bytes of version 2 */
#define HEADER_3     104u        /* of version 3 at least */
#define BACKING_MAX  1023u
#define FORMAT_MAX   15u
#define FEATURE_NAME 48u /* bytes of an entry of the feature name table */

#define BITMAPS_LENGTH 24u /* bytes of the bitmaps extension */

/* The first cluster, as far as it is there: the header and what belongs to it. */
typedef struct Start {
    char **why; /* what is wrong with it; returned */
    const uint8_t *bytes;
    uint64_t length;    /* of them */
    uint64_t file_size; /* of the image */
} Start;

#define refuse(start, err, ...)                                                                    \
    (g_free(*(start)->why), *(start)->why = g_strdup_printf(__VA_ARGS__), -(err))

/* The image's table of names of features; as in QEMU, the last one. *length: of it, 0: none. */
static const uint8_t *feature_names(const Start *s, uint64_t header_length, uint64_t *length)
{
    const uint8_t *table = NULL;

    *length = 0;
    for (uint64_t at = header_length; at + 8 <= s->length;) {
        uint32_t type = tm_get_be32(s->bytes + at), bytes = tm_get_be32(s->bytes + at + 4);

        if (type == QCOW2_EXTENSION_END || bytes > s->length - at - 8)
            break;
        if (type == QCOW2_EXTENSION_FEATURES) {
            table = s->bytes + at + 8;
            *length = bytes;
        }
        at += 8 + tm_align_up(bytes, 8);
    }
    return table;
}

/* Those that have a name by it, the others by their bits. */
static char *list_features(const Start *s, uint64_t header_length, uint64_t features)
{
    GString *list = g_string_new(NULL);
    uint64_t length;
    const uint8_t *table = feature_names(s, header_length, &length);

    for (uint64_t e = 0; e + FEATURE_NAME <= length; e += FEATURE_NAME) {
        g_autofree char *name = g_strndup((const char *)table + e + 2, FEATURE_NAME - 2);

        if (table[e] != 0 || table[e + 1] > 63 || !(features & UINT64_C(1) << table[e + 1]))
            continue;
        for (char *c = name; *c; c++)
            *c = g_ascii_isprint(*c) ? *c : '?';
        g_string_append_printf(list, "%s%s", list->len ? ", " : "", name);
        features &= ~(UINT64_C(1) << table[e + 1]);
    }
    if (features)
        g_string_append_printf(list, "%sUnknown incompatible feature: %" PRIx64,
                               list->len ? ", " : "", features);
    return g_string_free(list, FALSE);
}

static int check_features(const Start *s, Qcow2Header *h, uint64_t header_length)
{
    uint64_t unknown = h->incompatible & ~QCOW2_INCOMPATIBLE_KNOWN;
    g_autofree char *list = unknown ? list_features(s, header_length, unknown) : NULL;

    return list ? refuse(s, ENOTSUP, "Unsupported qcow2 feature(s): %s", list) : 0;
}

/* What only version 3 has. */
static int read_version_3(const Start *s, Qcow2Header *h)
{
    uint32_t *length = &h->length;

    if (s->length < HEADER_3)
        return refuse(s, EINVAL, "qcow2 header is cut short: %" PRIu64 " bytes", s->length);
    h->incompatible = tm_get_be64(s->bytes + 72);
    h->compatible = tm_get_be64(s->bytes + 80);
    h->autoclear = tm_get_be64(s->bytes + 88);
    h->data_raw = h->autoclear & QCOW2_AUTOCLEAR_DATA_RAW;
    h->refcount_order = tm_get_be32(s->bytes + 96);
    *length = tm_get_be32(s->bytes + 100);
    if (*length < HEADER_3 || *length % 8 || *length > h->size + s->length ||
        *length > UINT64_C(1) << h->cluster_bits || *length > s->length)
        return refuse(s, EINVAL, "qcow2 header length %u is not valid", *length);
    if (h->refcount_order > 6)
        return refuse(s, EINVAL, "Reference count entry width too large; may not exceed 64 bits");
    if (*length > HEADER_3)
        h->compression = s->bytes[HEADER_3];
    h->external_data = h->incompatible & QCOW2_INCOMPATIBLE_DATA_FILE;
    h->extended_l2 = h->incompatible & QCOW2_INCOMPATIBLE_EXTENDED_L2;
    if (!(h->incompatible & QCOW2_INCOMPATIBLE_COMPRESSION) != (h->compression == QCOW2_ZLIB))
        return refuse(s, EINVAL, "qcow2: compression type %u does not fit the feature bit",
                      h->compression);
    if (h->compression > QCOW2_ZSTD)
        return refuse(s, ENOTSUP, "qcow2: unknown compression type: %u", h->compression);
    if (h->extended_l2 && h->cluster_bits < 14)
        return refuse(s, EINVAL, "qcow2: extended L2 entries need clusters of at least 16 KiB");
    if (h->data_raw && !h->external_data)
        h->data_raw = false; /* an autoclear bit that somebody left */
    return check_features(s, h, *length);
}

/* A string of the image, which may end early, and may not be UTF-8. An empty one is none. */
static void take_string(const Start *s, uint64_t at, uint64_t length, char **text)
{
    g_free(*text);
    *text = g_strndup((const char *)s->bytes + at, length);
    if (!**text)
        g_clear_pointer(text, g_free);
}

static int read_backing(const Start *s, Qcow2Header *h)
{
    uint64_t offset = tm_get_be64(s->bytes + 8), length = tm_get_be32(s->bytes + 16);

    if (!offset)
        return 0;
    if (length > BACKING_MAX || length > (UINT64_C(1) << h->cluster_bits) ||
        !tm_range_within(offset, length, tm_min(s->length, UINT64_C(1) << h->cluster_bits)))
        return refuse(s, EINVAL, "qcow2: invalid backing file name: %" PRIu64 " bytes at %" PRIu64,
                      length, offset);
    take_string(s, offset, length, &h->backing);
    return 0;
}

static int read_bitmaps(const Start *s, Qcow2Header *h, const uint8_t *at, uint32_t length)
{
    if (length != BITMAPS_LENGTH)
        return refuse(s, EINVAL, "qcow2: bitmaps extension: %u bytes, expected %u", length,
                      BITMAPS_LENGTH);
    if (h->has_bitmaps) /* which one is written would be another matter */
        return refuse(s, EINVAL, "qcow2: the header has two bitmaps extensions");
    h->has_bitmaps = true;
    h->n_bitmaps = tm_get_be32(at);
    h->bitmaps_reserved = tm_get_be32(at + 4);
    h->bitmaps_size = tm_get_be64(at + 8);
    h->bitmaps_offset = tm_get_be64(at + 16);
    return 0;
}

/* Of several of a type the last one counts, as in QEMU; there can't be several of bitmaps. */
static int read_extension(const Start *s, Qcow2Header *h, uint32_t type, uint64_t at,
                          uint32_t length)
{
    if (type == QCOW2_EXTENSION_BACKING_FORMAT && length > FORMAT_MAX)
        return refuse(s, EINVAL, "qcow2: backing format: %u bytes, expected at most %u", length,
                      FORMAT_MAX);
    if (type == QCOW2_EXTENSION_BACKING_FORMAT)
        take_string(s, at, length, &h->backing_format);
    if (type == QCOW2_EXTENSION_DATA_FILE && length <= BACKING_MAX)
        take_string(s, at, length, &h->data_file);
    return type == QCOW2_EXTENSION_BITMAPS ? read_bitmaps(s, h, s->bytes + at, length) : 0;
}

static int read_extensions(const Start *s, Qcow2Header *h, uint64_t at)
{
    uint64_t end = tm_min(s->length, UINT64_C(1) << h->cluster_bits);

    if (h->backing)
        end = tm_min(end, tm_get_be64(s->bytes + 8));
    while (at + 8 <= end) {
        uint32_t type = tm_get_be32(s->bytes + at), length = tm_get_be32(s->bytes + at + 4);

        at += 8;
        if (length > end - at)
            return refuse(s, EINVAL, "qcow2: header extension %08x is too large: %u bytes", type,
                          length);
        if (type == QCOW2_EXTENSION_END)
            break;
        if (read_extension(s, h, type, at, length) < 0)
            return -EINVAL;
        at += tm_align_up(length, 8);
    }
    return 0;
}

static int check_l1(const Start *s, const Qcow2Header *h)
{
    uint64_t entries = UINT64_C(1) << (h->cluster_bits - (h->extended_l2 ? 4 : 3));
    uint64_t covered = entries << h->cluster_bits; /* by one L2 table */
    uint64_t wanted = h->size / covered + !!(h->size % covered);
    uint64_t bytes = (uint64_t)h->l1_size * 8;

    if (bytes > QCOW2_L1_MAX)
        return refuse(s, EFBIG, "Active L1 table too large: %" PRIu64 " bytes", bytes);
    if (wanted > h->l1_size)
        return refuse(s, EINVAL,
                      "L1 table is too small: %u entries for a disk of %" PRIu64
                      " bytes, which needs %" PRIu64,
                      h->l1_size, h->size, wanted);
    if (bytes && (h->l1_offset & ((UINT64_C(1) << h->cluster_bits) - 1) ||
                  !tm_range_within(h->l1_offset, bytes, TM_SIZE_MAX)))
        return refuse(s, EINVAL, "Active L1 table offset invalid: %" PRIu64, h->l1_offset);
    return 0;
}

/* It may have lost its end, as QEMU writes no more of its last cluster than there is in it. */
char *qcow2_header_cut(const Qcow2Header *h, uint64_t file_size)
{
    uint64_t bytes = (uint64_t)h->l1_size * 8;

    if (!bytes ||
        (h->l1_offset < file_size && tm_range_within(h->l1_offset, bytes, qcow2_reach(file_size))))
        return NULL;
    return g_strdup_printf("Active L1 table offset invalid: %" PRIu64 " bytes at %" PRIu64
                           " of an image of %" PRIu64,
                           bytes, h->l1_offset, file_size);
}

static int check_reftable(const Start *s, const Qcow2Header *h)
{
    uint64_t bytes = (uint64_t)h->reftable_clusters << h->cluster_bits;

    if (bytes > QCOW2_REFTABLE_MAX)
        return refuse(s, EINVAL, "Image refcount table too large: %" PRIu64 " bytes", bytes);
    if (h->reftable_offset & ((UINT64_C(1) << h->cluster_bits) - 1) ||
        !tm_range_within(h->reftable_offset, bytes, TM_SIZE_MAX))
        return refuse(s, EINVAL, "Reference count table offset invalid: %" PRIu64,
                      h->reftable_offset);
    return 0;
}

static int parse(const Start *s, Qcow2Header *h)
{
    uint32_t crypt = tm_get_be32(s->bytes + 32);
    int ret = 0;

    h->version = tm_get_be32(s->bytes + 4);
    h->cluster_bits = tm_get_be32(s->bytes + 20);
    h->size = tm_get_be64(s->bytes + 24);
    h->l1_size = tm_get_be32(s->bytes + 36);
    h->l1_offset = tm_get_be64(s->bytes + 40);
    h->reftable_offset = tm_get_be64(s->bytes + 48);
    h->reftable_clusters = tm_get_be32(s->bytes + 56);
    h->n_snapshots = tm_get_be32(s->bytes + 60);
    h->snapshots_offset = tm_get_be64(s->bytes + 64);
    h->length = HEADER_2;
    h->refcount_order = 4;
    if (tm_get_be32(s->bytes) != MAGIC)
        return refuse(s, EINVAL, "Image is not in qcow2 format");
    if (h->version != 2 && h->version != 3)
        return refuse(s, ENOTSUP, "Unsupported qcow2 version %u", h->version);
    if (h->cluster_bits < QCOW2_CLUSTER_BITS_MIN || h->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
        return refuse(s, EINVAL, "Unsupported cluster size: 2^%u", h->cluster_bits);
    if (h->size > TM_SIZE_MAX)
        return refuse(s, EFBIG, "qcow2: a disk of %" PRIu64 " bytes is too large", h->size);
    if (crypt)
        return refuse(s, ENOTSUP, "qcow2: encrypted images are not supported: method %u%s", crypt,
                      crypt == 1   ? " (AES)"
                      : crypt == 2 ? " (LUKS)"
                                   : "");
    if (h->version == 3)
        ret = read_version_3(s, h);
    if (ret == 0)
        ret = check_reftable(s, h);
    if (ret == 0)
        ret = check_l1(s, h);
    if (ret == 0)
        ret = read_backing(s, h);
    return ret == 0 ? read_extensions(s, h, h->length) : ret;
}

/* The bytes there are of the first cluster, whatever its size; *bytes is returned. */
static int read_start(BlkNode *file, Start *s, uint8_t **bytes)
{
    int ret;

    s->file_size = blk_node_size(file);
    s->length = tm_min(s->file_size, UINT64_C(1) << QCOW2_CLUSTER_BITS_MAX);
    if (s->length < HEADER_2)
        return refuse(s, EINVAL, "Image is not in qcow2 format: it has %" PRIu64 " bytes",
                      s->file_size);
    s->bytes = *bytes = g_try_malloc(s->length);
    if (!*bytes)
        return -ENOMEM;
    ret = blk_node_pread(file, *bytes, 0, s->length);
    return ret < 0 ? refuse(s, -ret, "Could not read qcow2 header: %s", tm_strerror(-ret)) : 0;
}

int qcow2_header_load_to_check(BlkNode *file, Qcow2Header *header, char **why)
{
    Start s = { .why = why };
    g_autofree uint8_t *bytes = NULL;
    int ret;

    *why = NULL;
    *header = (Qcow2Header){ 0 };
    ret = read_start(file, &s, &bytes);
    if (ret == 0)
        ret = parse(&s, header);
    if (ret < 0)
        qcow2_header_clear(header);
    return ret;
}

int qcow2_header_load(BlkNode *file, Qcow2Header *header, char **why)
{
    int ret = qcow2_header_load_to_check(file, header, why);

    if (ret == 0 && !header->reftable_clusters) {
        *why = g_strdup("Image does not contain a reference count table");
        qcow2_header_clear(header);
        ret = -EINVAL;
    }
    return ret;
}

int qcow2_header_read(struct tidemark_node *node, Qcow2Header *header)
{
    g_autofree char *why = NULL;
    BlkNode *file = blk_node_child(node, QCOW2_FILE);
    int ret = qcow2_header_load(file, header, &why);

    if (ret == 0 && (why = qcow2_header_cut(header, blk_node_size(file)))) {
        qcow2_header_clear(header);
        ret = -EINVAL;
    }
    if (why)
        blk_host.error(node, "%s", why);
    return ret;
}

void qcow2_header_clear(Qcow2Header *header)
{
    g_clear_pointer(&header->backing, g_free);
    g_clear_pointer(&header->backing_format, g_free);
    g_clear_pointer(&header->data_file, g_free);
}
