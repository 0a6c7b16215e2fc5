/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_catalogue.c: superblocks, entries and catalogues written and read back, and
 * whatever the bytes are: F1, F7 of docs/bitmap-store.md. */
#include "bitmap/store/catalogue.h"
#include "bitmap/store/format.h"
#include "tests/asserts.h"
#include "util/range.h"

#include <stdlib.h>
#include <string.h>

#define MIB UINT64_C(1048576)
#define TIB (MIB * MIB)

static BmpRecord record_new(const char *name, uint64_t size, unsigned shift)
{
    BmpRecord record = { .name = g_strdup(name), .shift = (uint8_t)shift, .enabled = true };

    bmp_bits_init(&record.bits, size, shift);
    return record;
}

/* Whether every bit of @a is in @b. */
static bool covered(const BmpBits *a, const BmpBits *b)
{
    BmpBits both;
    bool same;

    bmp_bits_clone(&both, b);
    bmp_bits_or(&both, a);
    same = bmp_bits_count(&both) == bmp_bits_count(b);
    bmp_bits_clear_all(&both);
    return same;
}

static void scatter(BmpBits *bits, unsigned n, unsigned seed)
{
    GRand *random = g_rand_new_with_seed(seed);

    for (unsigned i = 0; i < n; i++) {
        uint64_t first = ((uint64_t)g_rand_int(random) << 20 | g_rand_int(random)) % bits->nbits;

        bmp_bits_set(bits, first, tm_min(first + g_rand_int_range(random, 0, 4), bits->nbits - 1));
    }
    g_rand_free(random);
}

/* Three bitmaps of a disk with lists, words, full and shared pages, a node or two. */
static void make_three(BmpRecord records[3], uint64_t size)
{
    records[0] = record_new("monday", size, 16);
    scatter(&records[0].bits, 3000, 1);
    bmp_bits_set_bytes(&records[0].bits, size / 2, size / 8);
    records[1] = record_new("t\xc3\xa4glich", size, 16);
    records[1].enabled = false;
    bmp_bits_clone(&records[1].bits, &records[0].bits);
    bmp_bits_set(&records[1].bits, 5, 9);
    records[1].recovered = 4096;
    records[2] = record_new("fine", size, 12);
    records[2].inconsistent = true;
    records[2].reason = g_strdup("because");
    bmp_bits_set(&records[2].bits, 0, 0);
    bmp_bits_set(&records[2].bits, records[2].bits.nbits - 1, records[2].bits.nbits - 1);
}

static void clear(BmpRecord *records, size_t n)
{
    for (size_t i = 0; i < n; i++)
        bmp_record_clear(&records[i]);
}

static void ck_same(const BmpRecord *a, const BmpRecord *b)
{
    ck_assert_str_eq(a->name, b->name);
    ck_assert_uint_eq(a->shift, b->shift);
    ck_assert(a->enabled == b->enabled && a->inconsistent == b->inconsistent);
    ck_assert_pstr_eq(a->reason, b->reason);
    ck_assert_uint_eq(a->recovered, b->recovered);
    ck_assert_uint_eq(bmp_bits_count(&a->bits), bmp_bits_count(&b->bits));
    ck_assert(covered(&a->bits, &b->bits));
}

START_TEST(a_catalogue_reads_back_as_written)
{
    static const uint64_t sizes[] = { 1, 65535, 65536, 100 * MIB + 1, TIB, 1024 * TIB };
    BmpRecord records[3];

    for (size_t k = 0; k < G_N_ELEMENTS(sizes); k++) {
        g_autoptr(GByteArray) bytes = NULL;
        BmpCatalogue found;

        make_three(records, sizes[k]);
        bytes = bmp_catalogue_build(records, 3, k ? "/a/leader" : NULL);
        ck_assert(bmp_catalogue_parse(bytes->data, bytes->len, sizes[k], &found));
        ck_assert_uint_eq(found.n, 3);
        ck_assert(!found.damaged_index && !found.damaged_pages);
        ck_assert_pstr_eq(found.leader, k ? "/a/leader" : NULL);
        for (int i = 0; i < 3; i++)
            ck_same(&records[i], &found.records[i]);
        bmp_catalogue_clear(&found);
        clear(records, 3);
    }
}
END_TEST

START_TEST(an_empty_catalogue_is_valid)
{
    g_autoptr(GByteArray) bytes = bmp_catalogue_build(NULL, 0, NULL);
    BmpCatalogue found;

    ck_assert(bmp_catalogue_parse(bytes->data, bytes->len, 0, &found));
    ck_assert_uint_eq(found.n, 0);
    bmp_catalogue_clear(&found);
}
END_TEST

/* Never less than there was, for every bitmap that is still named. */
static void ck_superset(const BmpRecord *records, size_t n, BmpCatalogue *found)
{
    for (size_t i = 0; i < found->n; i++) {
        size_t k = 0;

        while (k < n && strcmp(records[k].name, found->records[i].name))
            k++;
        ck_assert_uint_lt(k, n);
        ck_assert(covered(&records[k].bits, &found->records[i].bits));
        if (bmp_bits_count(&records[k].bits) < bmp_bits_count(&found->records[i].bits))
            ck_assert_ptr_nonnull(found->records[i].reason);
    }
}

START_TEST(f7_no_damaged_byte_loses_dirtiness)
{
    g_autoptr(GByteArray) bytes = NULL;
    BmpRecord records[3];

    make_three(records, 2048 * MIB);
    bytes = bmp_catalogue_build(records, 3, NULL);
    for (guint at = 0; at < bytes->len; at++) {
        uint8_t was = bytes->data[at];
        BmpCatalogue found;

        bytes->data[at] ^= (uint8_t)(1u << at % 8);
        ck_assert(bmp_catalogue_parse(bytes->data, bytes->len, 2048 * MIB, &found));
        ck_assert_uint_eq(found.n, 3); /* the index is there twice */
        ck_assert(found.damaged_index || found.damaged_pages);
        ck_superset(records, 3, &found);
        bmp_catalogue_clear(&found);
        bytes->data[at] = was;
    }
    clear(records, 3);
}
END_TEST

START_TEST(f7_no_cut_loses_dirtiness)
{
    g_autoptr(GByteArray) bytes = NULL;
    BmpRecord records[3];

    make_three(records, 2048 * MIB);
    bytes = bmp_catalogue_build(records, 3, NULL);
    for (guint length = 0; length < bytes->len; length += length % 7 ? 1 : 13) {
        g_autofree uint8_t *cut = g_memdup2(bytes->data, length); /* its end is the allocation's */
        BmpCatalogue found;

        if (bmp_catalogue_parse(cut, length, 2048 * MIB, &found)) {
            ck_assert_uint_eq(found.n, 3);
            ck_superset(records, 3, &found);
        }
        bmp_catalogue_clear(&found);
    }
    clear(records, 3);
}
END_TEST

START_TEST(f7_garbage_is_refused)
{
    GRand *random = g_rand_new_with_seed(3);

    for (int round = 0; round < 3000; round++) {
        guint length = (guint)g_rand_int_range(random, 0, 400);
        g_autofree uint8_t *bytes = g_malloc(length + 1);
        BmpCatalogue found;

        for (guint i = 0; i < length; i++)
            bytes[i] = (uint8_t)g_rand_int(random);
        ck_assert(!bmp_catalogue_parse(bytes, length, TIB, &found));
        ck_assert_uint_eq(found.n, 0);
    }
    g_rand_free(random);
}
END_TEST

START_TEST(pages_in_common_are_written_once)
{
    g_autofree BmpRecord *records = g_new0(BmpRecord, 1000);
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    g_autoptr(GByteArray) one = NULL, all = NULL;
    BmpCatalogue found;
    size_t memory = 0, alone;

    for (int i = 0; i < 1000; i++) {
        g_autofree char *name = g_strdup_printf("b%d", i);

        records[i] = record_new(name, TIB, 16);
        if (i)
            bmp_bits_clone(&records[i].bits, &records[0].bits);
        else
            scatter(&records[0].bits, 100000, 5);
    }
    one = bmp_catalogue_build(records, 1, NULL);
    all = bmp_catalogue_build(records, 1000, NULL);
    ck_assert_uint_lt(all->len, one->len + 1000 * 100);
    ck_assert(bmp_catalogue_parse(all->data, all->len, TIB, &found));
    for (size_t i = 0; i < found.n; i++)
        memory += bmp_page_tree_memory(found.records[i].bits.root, seen);
    g_hash_table_remove_all(seen);
    alone = bmp_page_tree_memory(found.records[0].bits.root, seen);
    ck_assert_uint_eq(memory, alone);
    bmp_catalogue_clear(&found);
    clear(records, 1000);
}
END_TEST

START_TEST(a_long_or_invalid_reason_is_cut_to_valid_text)
{
    BmpRecord records[2] = { record_new("a", MIB, 16), record_new("b", MIB, 16) };
    g_autoptr(GByteArray) bytes = NULL;
    GString *reason = g_string_new("x");
    BmpCatalogue found;

    while (reason->len < 1500)
        g_string_append(reason, "\xc3\xa9");
    records[0].reason = g_string_free(reason, FALSE);
    records[1].reason = g_strdup("not \xff text");
    bytes = bmp_catalogue_build(records, 2, NULL);
    ck_assert(bmp_catalogue_parse(bytes->data, bytes->len, MIB, &found));
    ck_assert_uint_eq(found.n, 2);
    ck_assert_uint_gt(strlen(found.records[0].reason), 990);
    ck_assert(g_str_has_prefix(found.records[1].reason, "not "));
    bmp_catalogue_clear(&found);
    clear(records, 2);
}
END_TEST

/* ---- format */

START_TEST(f1_entries_read_back_as_written)
{
    for (uint64_t seed = 0; seed < 2000; seed++) {
        for (uint32_t index = 0; index < 64; index++) {
            BmpRegionState state = seed % 4;
            uint64_t entry = bmp_entry_make(seed, index, state ? seed : 0, state), epoch;
            BmpRegionState found;

            ck_assert(entry);
            ck_assert(bmp_entry_read(seed, index, entry, &epoch, &found));
            ck_assert(found == state && epoch == (state ? seed : 0));
        }
    }
    ck_assert(!bmp_entry_read(1, 2, 0, &(uint64_t){ 0 }, &(BmpRegionState){ 0 }));
}
END_TEST

START_TEST(f1_any_damage_to_an_entry_is_detected)
{
    uint64_t entry = bmp_entry_make(7, 3, 1234567, BMP_REGION_READY), epoch;
    BmpRegionState state;

    for (unsigned byte = 0; byte < 8; byte++) {
        for (uint64_t x = 1; x < 256; x++)
            ck_assert(!bmp_entry_read(7, 3, entry ^ x << 8 * byte, &epoch, &state));
    }
    ck_assert(!bmp_entry_read(7, 4, entry, &epoch, &state)); /* of another region, another store */
    ck_assert(!bmp_entry_read(8, 3, entry, &epoch, &state));
}
END_TEST

START_TEST(f6_any_damage_to_a_word_is_detected)
{
    uint64_t word = bmp_word_set(BMP_WORD_CLEAN, 0x80000001);

    ck_assert(bmp_word_valid(BMP_WORD_CLEAN) && bmp_word_valid(word));
    ck_assert_uint_eq((uint32_t)word, 0x80000001);
    ck_assert(!bmp_word_valid(0) && !bmp_word_valid(UINT64_MAX));
    for (unsigned bit = 0; bit < 64; bit++)
        ck_assert(!bmp_word_valid(word ^ UINT64_C(1) << bit));
}
END_TEST

static BmpSuper some_super(void)
{
    BmpGeometry g;
    BmpSuper super = { .uuid = { 1, 2, 3 },
                       .generation = 5,
                       .disk_size = 100 * MIB + 1,
                       .state = BMP_STORE_OPEN,
                       .durability = BMP_DURABLE_PROCESS,
                       .journal_shift = 16,
                       .region_shift = BMP_REGION_SHIFT_MIN,
                       .journal_epoch = 9,
                       .journal_offset = 8192,
                       .disk_mtime_sec = -3,
                       .disk_mtime_nsec = 999999999,
                       .disk_dev = 4,
                       .disk_ino = UINT64_MAX,
                       .boot_id = { 9 },
                       .store_dev = 6,
                       .store_ino = 7,
                       .group = { 8 },
                       .group_pending = 1,
                       .layer = "raw" };

    bmp_geometry_choose(&g, super.disk_size, 16, BMP_REGION_SHIFT_MIN);
    super.journal_length = g.length;
    super.catalogue_offset = 8192 + g.length;
    super.catalogue_length = 333;
    return super;
}

START_TEST(superblocks_read_back_as_written)
{
    BmpSuper super = some_super(), found;
    uint8_t bytes[BMP_SUPER_SIZE];
    uint32_t version = 0;

    bmp_super_encode(&super, bytes);
    ck_assert_int_eq(bmp_super_decode(bytes, &found, &version), BMP_SUPER_OK);
    ck_assert_mem_eq(&found.uuid, &super.uuid, 16);
    ck_assert(found.generation == 5 && found.disk_size == super.disk_size &&
              found.journal_epoch == 9);
    ck_assert(found.disk_mtime_sec == -3 && found.disk_ino == UINT64_MAX && found.group_pending);
    ck_assert_str_eq(found.layer, "raw");
    for (unsigned at = 0; at < BMP_SUPER_SIZE; at++) {
        bytes[at] ^= 0x10;
        ck_assert_int_ne(bmp_super_decode(bytes, &found, &version), BMP_SUPER_OK);
        bytes[at] ^= 0x10;
    }
    memset(bytes, 0, sizeof(bytes));
    ck_assert_int_eq(bmp_super_decode(bytes, &found, &version), BMP_SUPER_EMPTY);
}
END_TEST

START_TEST(superblocks_with_fields_out_of_range_are_refused)
{
    BmpSuper found,
        wrong[] = { some_super(), some_super(), some_super(), some_super(), some_super(),
                    some_super(), some_super(), some_super(), some_super() };
    uint8_t bytes[BMP_SUPER_SIZE];
    uint32_t version;

    wrong[0].journal_shift = 8;
    wrong[1].region_shift = 10;
    wrong[2].journal_length -= 4096;
    wrong[3].catalogue_offset = 8192; /* on the journal */
    wrong[4].catalogue_offset = 4096;
    wrong[5].disk_size = UINT64_MAX;
    wrong[6].journal_epoch = BMP_EPOCH_MAX + 1;
    wrong[7].journal_offset = UINT64_MAX - 4095;
    wrong[8].region_shift = 62; /* one region, whose words are 16 TiB */
    wrong[8].journal_length = UINT64_C(1) << 46;
    wrong[8].catalogue_offset = UINT64_C(1) << 50;
    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        bmp_super_encode(&wrong[i], bytes);
        ck_assert_int_eq(bmp_super_decode(bytes, &found, &version), BMP_SUPER_DAMAGED);
    }
}
END_TEST

START_TEST(geometries_cover_the_disk_within_their_bounds)
{
    static const uint64_t sizes[] = {
        0, 1, 512, 4 * MIB - 1, 4 * MIB, TIB, 1024 * TIB, TM_SIZE_MAX
    };

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        for (unsigned shift = 9; shift <= 31; shift++) {
            BmpGeometry g;
            uint64_t region;

            bmp_geometry_choose(&g, sizes[i], shift, BMP_REGION_SHIFT_MIN);
            region = UINT64_C(1) << g.region_shift;
            ck_assert_uint_le(g.regions, BMP_REGIONS_MAX);
            ck_assert(g.region_shift >= shift && g.region_shift >= BMP_REGION_SHIFT_MIN);
            ck_assert_uint_eq(g.regions, sizes[i] / region + !!(sizes[i] % region));
            ck_assert_uint_ge(g.block / 8 * BMP_WORD_GRANULES, region >> shift);
            ck_assert_uint_ge(g.length, g.words_offset + g.regions * g.block);
            ck_assert(g.words_offset >= g.regions * 8 && !(g.length % 4096));
        }
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("catalogue");
    TCase *catalogue = tcase_create("catalogue"), *format = tcase_create("format");

    tcase_set_timeout(catalogue, 60);
    tcase_set_timeout(format, 60);
    tcase_add_test(catalogue, a_catalogue_reads_back_as_written);
    tcase_add_test(catalogue, an_empty_catalogue_is_valid);
    tcase_add_test(catalogue, f7_no_damaged_byte_loses_dirtiness);
    tcase_add_test(catalogue, f7_no_cut_loses_dirtiness);
    tcase_add_test(catalogue, f7_garbage_is_refused);
    tcase_add_test(catalogue, pages_in_common_are_written_once);
    tcase_add_test(catalogue, a_long_or_invalid_reason_is_cut_to_valid_text);
    tcase_add_test(format, f1_entries_read_back_as_written);
    tcase_add_test(format, f1_any_damage_to_an_entry_is_detected);
    tcase_add_test(format, f6_any_damage_to_a_word_is_detected);
    tcase_add_test(format, superblocks_read_back_as_written);
    tcase_add_test(format, superblocks_with_fields_out_of_range_are_refused);
    tcase_add_test(format, geometries_cover_the_disk_within_their_bounds);
    suite_add_tcase(s, catalogue);
    suite_add_tcase(s, format);
    return s;
}

int main(void)
{
    SRunner *runner = srunner_create(suite());
    int failed;

    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
