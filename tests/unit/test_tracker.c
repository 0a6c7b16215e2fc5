/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_tracker.c: marks from many threads against changes and queries.
 *
 * The proof that no mark is lost is an incremental backup: writers change an array (the disk)
 * between mark_begin and mark_end, a copier goes round by round: checkpoint, copy what was dirty.
 * Copying races with writing on purpose. When the writers have stopped, one more round must make
 * the copy equal: a granule changed after it was copied, and not dirty, stays different for good.
 *
 * Run it under ThreadSanitizer as well. TM_TEST_SEED, default 1. */
#include "bitmap/bitmap.h"
#include "bitmap/set_internal.h"
#include "tests/asserts.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define GRANULE  UINT64_C(4096)
#define GRANULES 200000u /* three pages at that granularity, more at finer ones */
#define SIZE     (GRANULE * GRANULES)
#define WRITERS  3u

typedef struct Disk {
    BmpSet *set;
    uint32_t content[GRANULES]; /* atomic */
    uint32_t copy[GRANULES];
    uint64_t writes;      /* atomic: done so far */
    uint64_t checkpoints; /* atomic: done so far */
    bool stop;            /* atomic */
} Disk;

typedef struct Writer {
    Disk *disk;
    uint32_t seed;
    unsigned spread; /* granules among which it writes: few makes threads meet */
    bool straddle;   /* let checkpoints happen between begin and end */
    pthread_t thread;
} Writer;

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* Some writes are in flight across a checkpoint and the copying that follows it. */
static void wait_for_checkpoint(Disk *disk)
{
    uint64_t from = __atomic_load_n(&disk->checkpoints, __ATOMIC_RELAXED);

    while (__atomic_load_n(&disk->checkpoints, __ATOMIC_RELAXED) == from &&
           !__atomic_load_n(&disk->stop, __ATOMIC_RELAXED))
        sched_yield();
}

static void *write_on(void *opaque)
{
    Writer *w = opaque;
    Disk *disk = w->disk;

    while (!__atomic_load_n(&disk->stop, __ATOMIC_RELAXED)) {
        unsigned first = next_random(&w->seed) % w->spread * 7919 % GRANULES;
        unsigned n = next_random(&w->seed) % 16 ? 1 : 1 + next_random(&w->seed) % 300;
        uint64_t epoch;

        n = MIN(n, GRANULES - first);
        epoch = bmp_set_mark_begin(disk->set, first * GRANULE, n * GRANULE);
        if (w->straddle && next_random(&w->seed) % 64 == 0)
            wait_for_checkpoint(disk);
        for (unsigned i = first; i < first + n; i++)
            __atomic_fetch_add(&disk->content[i], 1, __ATOMIC_RELAXED);
        bmp_set_mark_end(disk->set, first * GRANULE, n * GRANULE, epoch);
        __atomic_fetch_add(&disk->writes, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static uint64_t writes(Disk *disk)
{
    return __atomic_load_n(&disk->writes, __ATOMIC_RELAXED);
}

static void wait_for_writes(Disk *disk, uint64_t n)
{
    uint64_t from = writes(disk);

    while (writes(disk) < from + n)
        sched_yield();
}

static Disk *disk_new(void)
{
    Disk *disk = g_new0(Disk, 1);

    disk->set = bmp_set_new("n", SIZE);
    return disk;
}

static void writers_start(Writer *writers, Disk *disk, unsigned spread, bool straddle)
{
    const char *seed = g_getenv("TM_TEST_SEED");

    for (unsigned i = 0; i < WRITERS; i++) {
        /* one goes on, so that the rounds can wait for writes */
        writers[i] = (Writer){ .disk = disk, .spread = spread, .straddle = straddle && i };
        writers[i].seed = (seed ? atoi(seed) : 1) * 1000 + i + 1;
        ck_assert_int_eq(pthread_create(&writers[i].thread, NULL, write_on, &writers[i]), 0);
    }
}

static void writers_stop(Writer *writers, Disk *disk)
{
    __atomic_store_n(&disk->stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(writers[i].thread, NULL);
}

static void disk_free(Disk *disk)
{
    bmp_set_free(disk->set);
    g_free(disk);
}

static BmpBitmap *add_within(BmpSet *set, const char *name, uint64_t granularity, bool disabled)
{
    BmpAddOptions options = { .granularity = granularity, .disabled = disabled };
    BmpBitmap *bitmap = bmp_set_add(set, name, &options, NULL);

    ck_assert_ptr_nonnull(bitmap);
    return bitmap;
}

static void copy_granules(Disk *disk, uint64_t offset, uint64_t length)
{
    for (uint64_t i = offset / GRANULE; i < (offset + length + GRANULE - 1) / GRANULE; i++)
        disk->copy[i] = __atomic_load_n(&disk->content[i], __ATOMIC_RELAXED);
}

static void copy_dirty(Disk *disk, BmpBitmap *bitmap)
{
    TmExtent list[64];
    uint64_t at = 0;

    while (at < SIZE) {
        TmExtents out = { .list = list, .max = 64 };

        ck_assert_uint_gt(bmp_bitmap_extents(bitmap, at, SIZE - at, &out), 0);
        for (size_t i = 0; i < out.count; i++) {
            if (list[i].flags)
                copy_granules(disk, at, list[i].length);
            at += list[i].length;
        }
    }
}

/* A checkpoint as a backup takes it: what "live" has goes to "snap", and "live" starts anew. */
static void round_checkpoint(Disk *disk, BmpBitmap *live, uint64_t granularity)
{
    BmpBitmap *snap;

    bmp_set_change_begin(&disk->set, 1);
    snap = add_within(disk->set, "snap", granularity, true);
    ck_assert(bmp_bitmap_merge(snap, live, NULL));
    ck_assert(bmp_bitmap_clear(live, NULL));
    bmp_set_change_end(&disk->set, 1);
    copy_dirty(disk, snap);
    __atomic_fetch_add(&disk->checkpoints, 1, __ATOMIC_RELAXED);
    bmp_set_change_begin(&disk->set, 1);
    ck_assert(bmp_bitmap_remove(snap, NULL));
    bmp_set_change_end(&disk->set, 1);
    bmp_bitmap_unref(snap);
}

/* Bitmaps of all granularities come and go, and queries seal in between. */
static void disturb(Disk *disk, uint32_t *seed)
{
    g_autofree char *name = g_strdup_printf("d%u", next_random(seed) % 8);
    g_autoptr(BmpBitmap) old = bmp_set_find(disk->set, name, NULL);
    BmpBitmap *bitmap = NULL;

    bmp_set_change_begin(&disk->set, 1);
    if (old)
        ck_assert(bmp_bitmap_remove(old, NULL));
    else
        bitmap = add_within(disk->set, name, UINT64_C(512) << (next_random(seed) % 12), false);
    bmp_set_change_end(&disk->set, 1);
    if (bitmap) {
        bmp_bitmap_count(bitmap);
        bmp_bitmap_unref(bitmap);
    } else {
        BmpCounted *counted;
        size_t n = bmp_set_count_all(disk->set, &counted);

        bmp_counted_free(counted, n);
    }
}

static void *query_on(void *opaque)
{
    Disk *disk = opaque;

    while (!__atomic_load_n(&disk->stop, __ATOMIC_RELAXED)) {
        g_autoptr(BmpBitmap) live = bmp_set_find(disk->set, "live", NULL);

        if (live) {
            TmExtent list[16];
            TmExtents out = { .list = list, .max = 16 };

            bmp_bitmap_count(live);
            bmp_bitmap_extents(live, SIZE / 2, SIZE / 4, &out);
        }
        sched_yield();
    }
    return NULL;
}

/* The whole once, with a bitmap that begins before: what a full backup does. */
static BmpBitmap *round_full(Disk *disk, BmpBitmap *old, uint64_t granularity)
{
    BmpBitmap *live;

    if (old) {
        bmp_set_change_begin(&disk->set, 1);
        ck_assert(bmp_bitmap_remove(old, NULL));
        bmp_set_change_end(&disk->set, 1);
        bmp_bitmap_unref(old);
        wait_for_writes(disk, 20); /* with nothing recorded, perhaps */
    }
    bmp_set_change_begin(&disk->set, 1);
    live = add_within(disk->set, "live", granularity, false);
    bmp_set_change_end(&disk->set, 1);
    copy_granules(disk, 0, SIZE);
    return live;
}

static void backup_rounds(unsigned spread, uint64_t granularity, bool disturbed)
{
    Disk *disk = disk_new();
    Writer writers[WRITERS];
    pthread_t query;
    BmpBitmap *live = NULL;
    uint32_t seed = 99;

    writers_start(writers, disk, spread, true);
    if (disturbed)
        ck_assert_int_eq(pthread_create(&query, NULL, query_on, disk), 0);
    for (int round = 0; round < 60; round++) {
        if (round % 20 == 0)
            live = round_full(disk, live, granularity);
        if (disturbed)
            disturb(disk, &seed);
        round_checkpoint(disk, live, granularity);
        wait_for_writes(disk, 50);
    }
    writers_stop(writers, disk);
    if (disturbed)
        pthread_join(query, NULL);
    round_checkpoint(disk, live, granularity);
    ck_assert_mem_eq(disk->copy, disk->content, sizeof(disk->copy));
    ck_assert_uint_eq(bmp_bitmap_count(live), 0);
    bmp_bitmap_unref(live);
    disk_free(disk);
}

static const struct {
    unsigned spread;
    uint64_t granularity;
    bool disturbed;
} RUNS[] = { { 10, 4096, false },      { 10, 512, true },     { 2000, 4096, true },
             { GRANULES, 4096, true }, { 2000, 65536, true }, { GRANULES, 512, false } };

START_TEST(no_mark_is_lost)
{
    backup_rounds(RUNS[_i].spread, RUNS[_i].granularity, RUNS[_i].disturbed);
}
END_TEST

static void hash_put(void *opaque, const void *data, size_t length)
{
    g_checksum_update(opaque, data, length);
}

static char *hash(const BmpBits *bits)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);

    bmp_bits_export(bits, hash_put, sum);
    return g_strdup(g_checksum_get_string(sum));
}

/* I4: what a swap has handed out stays as it is while others go on marking. */
START_TEST(a_sealed_delta_never_changes)
{
    Disk *disk = disk_new();
    Writer writers[WRITERS];
    BmpBitmap *live;

    bmp_set_change_begin(&disk->set, 1);
    live = add_within(disk->set, "live", GRANULE, false);
    bmp_set_change_end(&disk->set, 1);
    writers_start(writers, disk, GRANULES, false);
    for (int round = 0; round < 100; round++) {
        g_autofree char *before = NULL, *after = NULL;
        BmpDelta *delta;

        wait_for_writes(disk, 10 + round);
        bmp_set_lock(disk->set);
        delta = disk->set->tail;
        bmp_chain_seal_marks(disk->set);
        ck_assert_ptr_ne(delta, disk->set->tail);
        before = hash(&delta->bits);
        wait_for_writes(disk, 30);
        after = hash(&delta->bits);
        ck_assert_str_eq(before, after);
        bmp_set_unlock(disk->set);
        bmp_bitmap_count(live);
    }
    writers_stop(writers, disk);
    bmp_bitmap_unref(live);
    disk_free(disk);
}
END_TEST

/* Every thread's marks of one epoch are all there, nothing else is, whatever pages they meet in. */
START_TEST(concurrent_marks_add_up)
{
    Disk *disk = disk_new();
    Writer writers[WRITERS];
    BmpBitmap *live;
    uint64_t touched = 0;

    bmp_set_change_begin(&disk->set, 1);
    live = add_within(disk->set, "live", GRANULE, false);
    bmp_set_change_end(&disk->set, 1);
    writers_start(writers, disk, _i ? GRANULES : 300, false);
    wait_for_writes(disk, 20000);
    writers_stop(writers, disk);
    for (unsigned i = 0; i < GRANULES; i++)
        touched += disk->content[i] != 0;
    ck_assert_uint_eq(bmp_bitmap_count(live), touched * GRANULE);
    bmp_bitmap_unref(live);
    disk_free(disk);
}
END_TEST

typedef struct Neighbour {
    BmpSet *set;
    unsigned nth;
    pthread_barrier_t *barrier;
    pthread_t thread;
} Neighbour;

static void *mark_every_other(void *opaque)
{
    Neighbour *n = opaque;

    /* Page by page together, so that the same words are changed at the same time. */
    for (unsigned i = 0; i < GRANULES; i += 2) {
        uint64_t offset = (i + n->nth) * GRANULE, epoch;

        if (i % 2048 == 0)
            pthread_barrier_wait(n->barrier);
        epoch = bmp_set_mark_begin(n->set, offset, GRANULE);
        bmp_set_mark_end(n->set, offset, GRANULE, epoch);
    }
    return NULL;
}

START_TEST(concurrent_marks_in_one_word_are_all_kept)
{
    for (int round = 0; round < 10; round++) {
        Disk *disk = disk_new();
        Neighbour two[2];
        pthread_barrier_t barrier;
        BmpBitmap *live;

        pthread_barrier_init(&barrier, NULL, 2);
        bmp_set_change_begin(&disk->set, 1);
        live = add_within(disk->set, "live", GRANULE, false);
        bmp_set_change_end(&disk->set, 1);
        for (unsigned i = 0; i < 2; i++) {
            two[i] = (Neighbour){ .set = disk->set, .nth = i, .barrier = &barrier };
            ck_assert_int_eq(pthread_create(&two[i].thread, NULL, mark_every_other, &two[i]), 0);
        }
        for (unsigned i = 0; i < 2; i++)
            pthread_join(two[i].thread, NULL);
        ck_assert_uint_eq(bmp_bitmap_count(live), SIZE);
        pthread_barrier_destroy(&barrier);
        bmp_bitmap_unref(live);
        disk_free(disk);
    }
}
END_TEST

typedef struct Turner {
    BmpTracker tracker;
    bool done; /* atomic */
} Turner;

static void *quiesce(void *opaque)
{
    Turner *t = opaque;

    bmp_tracker_quiesce(&t->tracker);
    __atomic_store_n(&t->done, true, __ATOMIC_RELEASE);
    return NULL;
}

/* A marker may have read either parity when it counts itself in, however old: both are waited for,
 * whichever is the current one. */
START_TEST(sections_of_both_parities_are_waited_for)
{
    Turner t = { .done = false };
    pthread_t thread;
    uint32_t *section;

    bmp_tracker_init(&t.tracker, SIZE, 12);
    section = &t.tracker.readers[3].in[_i];
    __atomic_fetch_add(section, 1, __ATOMIC_SEQ_CST);
    ck_assert_int_eq(pthread_create(&thread, NULL, quiesce, &t), 0);
    for (unsigned i = 0; i < 50 && !__atomic_load_n(&t.done, __ATOMIC_ACQUIRE); i++)
        g_usleep(1000);
    ck_assert(!__atomic_load_n(&t.done, __ATOMIC_ACQUIRE));
    bmp_tracker_leave(section);
    pthread_join(thread, NULL);
    ck_assert(t.done);
    bmp_tracker_destroy(&t.tracker);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tracker");
    TCase *tc = tcase_create("tracker");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, no_mark_is_lost, 0, G_N_ELEMENTS(RUNS));
    tcase_add_test(tc, a_sealed_delta_never_changes);
    tcase_add_loop_test(tc, concurrent_marks_add_up, 0, 2);
    tcase_add_test(tc, concurrent_marks_in_one_word_are_all_kept);
    tcase_add_loop_test(tc, sections_of_both_parities_are_waited_for, 0, 2);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
