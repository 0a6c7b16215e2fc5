/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_journal.c: the live journal of a store: marks, intents, recovery, failure.
 *
 * M1 to M5 are the invariants of bitmap/store/journal.h; test_journal_power.c has more of M2, and
 * M6. */
#include "tests/unit/journal_util.h"
#include "util/mapping.h"

#include <sched.h>
#include <signal.h>

START_TEST(marks_are_recovered)
{
    static const uint64_t ranges[][2] = {
        { 0, 1 },
        { 65535, 2 },
        { 31 * 65536, 65536 },
        { 32 * 65536 - 1, 2 },
        { 63 * 65536, 131072 },       /* over two regions */
        { 3 * REGION - 5, REGION },   /* over two regions, neither whole */
        { 6 * REGION + 512, REGION }, /* all granules of one, not its first bytes */
        { 12 * REGION, 3 * REGION },  /* whole ones */
        { 20 * REGION + 100, 1 },     /* the last, which is partial */
    };
    Fix f;
    BmpBits model;

    fix_open(&f, 20 * REGION + 1000, SHIFT, BMP_DURABLE_POWER);
    bmp_bits_init(&model, f.g.size, SHIFT);
    expect_found(&f, false, &model, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(ranges); i++) {
        ck_assert_int_eq(mark(&f, ranges[i][0], ranges[i][1]), 0);
        ck_assert(try_mark(&f, ranges[i][0], ranges[i][1]));
        bmp_bits_set_bytes(&model, ranges[i][0], ranges[i][1]);
        expect_found(&f, false, &model, 0);
    }
    ck_assert_int_eq(mark(&f, f.g.size, MIB), 0); /* nothing of it is in the disk */
    ck_assert_int_eq(mark(&f, 90 * REGION, 50 * REGION), 0);
    ck_assert_int_eq(mark(&f, f.g.size - 1, 50 * REGION), 0);
    expect_found(&f, false, &model, 0);
    ticks(&f, 5);
    expect_found(&f, true, &model, 0); /* all retired: exact after a power loss, too */

    /* A new epoch: all clean, and words of before are not believed. */
    f.epoch++;
    ck_assert(!bmp_journal_untouched(f.journal));
    bmp_journal_restart(f.journal, f.epoch);
    ck_assert(bmp_journal_untouched(f.journal));
    bmp_bits_clear_all(&model);
    expect_found(&f, false, &model, 0);
    ck_assert(!try_mark(&f, 0, 1)); /* that asks for it, too */
    ck_assert_int_eq(mark(&f, 40 * 65536, 1), 0);
    bmp_bits_set(&model, 0, 0);
    bmp_bits_set(&model, 40, 40);
    expect_found(&f, false, &model, 0);
    bmp_bits_clear_all(&model);
    fix_close(&f);
}
END_TEST

/* All granules of a region, though not all bytes, make it FULL, which needs no words. */
START_TEST(a_region_with_all_granules_marked_is_full)
{
    Fix f;
    BmpBits model;
    BmpRegionState state;

    fix_open(&f, 8 * REGION, 9, BMP_DURABLE_POWER);
    bmp_bits_init(&model, f.g.size, 9);
    ck_assert_int_eq(mark(&f, 0, 1), 0);
    bmp_bits_set_bytes(&model, 0, 1);
    expect_found(&f, false, &model, 0);
    entry_of(f.fd, 0, &state);
    ck_assert_int_eq(state, BMP_REGION_READY);
    ck_assert_int_eq(mark(&f, 1, REGION - 2), 0);
    bmp_bits_set_bytes(&model, 0, REGION);
    entry_of(f.fd, 0, &state);
    ck_assert_int_eq(state, BMP_REGION_FULL);
    expect_found(&f, true, &model, 0);
    bmp_bits_clear_all(&model);
    fix_close(&f);
}
END_TEST

static void *mark_random(void *opaque)
{
    Marker *m = opaque;

    for (unsigned i = 0; i < m->n; i++) {
        uint64_t offset = next_random(&m->seed) % (m->f->g.size / 4096) * 4096;
        uint64_t length = next_random(&m->seed) % 64 ? 4096 : 2 * REGION;

        length = MIN(length, m->f->g.size - offset);
        ck_assert_int_eq(mark(m->f, offset, length), 0);
        bmp_bits_set_bytes(&m->model, offset, length);
    }
    __atomic_store_n(&m->done, true, __ATOMIC_RELEASE);
    return NULL;
}

/* Many markers, and a ticker that syncs and closes what it can: nothing more and nothing less is
 * found. */
START_TEST(marks_of_many_threads_are_all_recovered)
{
    enum { THREADS = 6 };
    Marker m[THREADS];
    Fix f;
    BmpBits model;
    bool busy = true;

    fix_open(&f, 200 * REGION, SHIFT, BMP_DURABLE_POWER);
    bmp_bits_init(&model, f.g.size, SHIFT);
    for (unsigned i = 0; i < THREADS; i++) {
        m[i] = (Marker){ .f = &f, .seed = 77 + i, .n = 1500 };
        bmp_bits_init(&m[i].model, f.g.size, SHIFT);
        ck_assert_int_eq(pthread_create(&m[i].thread, NULL, mark_random, &m[i]), 0);
    }
    while (busy) {
        ck_assert_int_eq(bmp_journal_tick(f.journal), 0);
        busy = false;
        for (unsigned i = 0; i < THREADS; i++)
            busy |= !__atomic_load_n(&m[i].done, __ATOMIC_ACQUIRE);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(m[i].thread, NULL);
        bmp_bits_or(&model, &m[i].model);
        bmp_bits_clear_all(&m[i].model);
    }
    expect_found(&f, false, &model, 0);
    ticks(&f, 5);
    expect_found(&f, true, &model, 0);
    bmp_bits_clear_all(&model);
    fix_close(&f);
}
END_TEST

/* M1: while the sync of the entry runs, no bit is set and nobody has returned. M3: the words were
 * clean when the entry was stamped. */
START_TEST(m1_no_bit_is_set_before_the_sync_returns)
{
    Fix f;
    Marker m = { .f = &f, .offset = 5 * 65536, .length = 4096 };
    BmpJournalFound found;
    BmpRegionState state;

    fix_open(&f, 64 * REGION, SHIFT, BMP_DURABLE_POWER);
    ck_assert(bmp_journal_intend_waits(f.journal));
    block_syncs(true);
    ck_assert_int_eq(pthread_create(&m.thread, NULL, mark_once, &m), 0);
    wait_for_sync();
    ck_assert_uint_eq(entry_of(f.fd, 0, &state), f.epoch); /* part of what is being synced */
    ck_assert_int_eq(state, BMP_REGION_NEW);
    ck_assert(!try_mark(&f, m.offset, 1));
    recover_fd(&f, f.fd, false, &found);
    ck_assert(bmp_bits_empty(&found.marked) && bmp_bits_empty(&found.uncertain));
    bmp_journal_found_clear(&found);
    ck_assert(!__atomic_load_n(&m.done, __ATOMIC_ACQUIRE));
    block_syncs(false);
    pthread_join(m.thread, NULL);
    ck_assert_int_eq(m.ret, 0);
    ck_assert(try_mark(&f, m.offset, 1));
    ck_assert_uint_eq(syncs_now(), 1);
    entry_of(f.fd, 0, &state);
    ck_assert_int_eq(state, BMP_REGION_READY);
    fix_close(&f);
}
END_TEST

START_TEST(concurrent_marks_share_a_sync)
{
    enum { THREADS = 32 };
    Marker m[THREADS];
    Fix f;
    BmpBits model;

    fix_open(&f, 640 * REGION, SHIFT, BMP_DURABLE_POWER);
    bmp_bits_init(&model, f.g.size, SHIFT);
    block_syncs(true);
    for (unsigned i = 0; i < THREADS; i++) {
        m[i] = (Marker){ .f = &f, .offset = 20 * i * REGION, .length = 4096 };
        bmp_bits_set_bytes(&model, m[i].offset, m[i].length);
        ck_assert_int_eq(pthread_create(&m[i].thread, NULL, mark_once, &m[i]), 0);
    }
    wait_for_sync();
    block_syncs(false);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(m[i].thread, NULL);
    /* Not all need to have come in time for the second; but nobody needs one of his own. */
    ck_assert_uint_lt(syncs_now(), THREADS);
    expect_found(&f, false, &model, 0);
    bmp_bits_clear_all(&model);
    fix_close(&f);
}
END_TEST

/* ---- M2: copies at the end of every sync, checked against what had been marked by then */

static struct {
    Fix *f;
    BmpBits acknowledged; /* marks that had returned when the sync ended */
    pthread_mutex_t lock;
    unsigned copies;
} crash = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void check_crash(int fd)
{
    BmpJournalFound found;
    int copy;

    pthread_mutex_lock(&crash.lock);
    copy = copy_file(fd);
    recover_fd(crash.f, copy, true, &found);
    for (uint64_t at = 0, first, end; at < crash.acknowledged.nbits; at = end) {
        BmpBitsIter iter = bmp_bits_iter(&crash.acknowledged);

        if (!bmp_bits_next(&iter, at, crash.acknowledged.nbits, &first, &end))
            break;
        for (uint64_t bit = first; bit < end; bit++)
            ck_assert_msg(bmp_bits_test(&found.marked, bit) || bmp_bits_test(&found.uncertain, bit),
                          "granule %" G_GUINT64_FORMAT " is lost", bit);
    }
    crash.copies++;
    pthread_mutex_unlock(&crash.lock);
    close(copy);
    bmp_journal_found_clear(&found);
}

static void *mark_acknowledged(void *opaque)
{
    Marker *m = opaque;

    for (unsigned i = 0; i < m->n; i++) {
        uint64_t offset = next_random(&m->seed) % (m->f->g.size >> SHIFT) << SHIFT;

        ck_assert_int_eq(mark(m->f, offset, 4096), 0);
        pthread_mutex_lock(&crash.lock);
        bmp_bits_set_bytes(&crash.acknowledged, offset, 4096);
        pthread_mutex_unlock(&crash.lock);
        if (i % 8 == 0)
            sched_yield();
    }
    __atomic_store_n(&m->done, true, __ATOMIC_RELEASE);
    return NULL;
}

START_TEST(m2_a_crash_at_any_sync_loses_no_mark)
{
    Fix f;
    Marker m[2];

    fix_open(&f, 40 * REGION, SHIFT, BMP_DURABLE_POWER);
    crash.f = &f;
    bmp_bits_init(&crash.acknowledged, f.g.size, SHIFT);
    io.after_sync = check_crash;
    for (unsigned i = 0; i < 2; i++) {
        m[i] = (Marker){ .f = &f, .seed = 5 + i, .n = 400 };
        ck_assert_int_eq(pthread_create(&m[i].thread, NULL, mark_acknowledged, &m[i]), 0);
    }
    while (!__atomic_load_n(&m[0].done, __ATOMIC_ACQUIRE) ||
           !__atomic_load_n(&m[1].done, __ATOMIC_ACQUIRE))
        ck_assert_int_eq(bmp_journal_tick(f.journal), 0);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(m[i].thread, NULL);
    ticks(&f, 5);
    ck_assert_uint_gt(crash.copies, 2);
    expect_found(&f, true, &crash.acknowledged, 0);
    bmp_bits_clear_all(&crash.acknowledged);
    fix_close(&f);
}
END_TEST

START_TEST(ticks_sync_only_if_there_is_something)
{
    Fix f;
    unsigned n;

    fix_open(&f, 8 * REGION, SHIFT, BMP_DURABLE_POWER);
    ticks(&f, 4);
    ck_assert_uint_eq(syncs_now(), 0);
    ck_assert_int_eq(mark(&f, 0, 1), 0);
    ticks(&f, 12);
    n = syncs_now();
    ck_assert_uint_eq(n, 3); /* the intent, the words, the list without it */
    ticks(&f, 12);
    ck_assert_uint_eq(syncs_now(), n);
    ck_assert(try_mark(&f, 0, 1));
    ck_assert(!try_mark(&f, 65536, 1));
    fix_close(&f);
}
END_TEST

/* M4, M5. */
START_TEST(m5_without_room_a_region_is_crowded)
{
    Fix f;
    BmpBits model;

    fix_open(&f, 64 * REGION, SHIFT, BMP_DURABLE_POWER);
    bmp_bits_init(&model, f.g.size, SHIFT);
    ck_assert_int_eq(mark(&f, 0, 1), 0);
    bmp_bits_set(&model, 0, 0);
    io.write_error = ENOSPC;
    io.errors_from = (off_t)(AT + f.g.words_offset);
    ck_assert_int_eq(mark(&f, 9 * REGION + 5, 1), 0);
    ck_assert(try_mark(&f, 10 * REGION - 1, 1));
    ck_assert(bmp_journal_full(f.journal));
    ck_assert_int_eq(bmp_journal_failed(f.journal), 0);
    io.write_error = 0;
    expect_found(&f, false, &model, 64); /* region 9 */
    expect_found(&f, true, &model, 64);
    bmp_bits_clear_all(&model);
    fix_close(&f);
}
END_TEST

START_TEST(a_failed_sync_is_never_taken_back)
{
    Fix f;

    fix_open(&f, 64 * REGION, SHIFT, BMP_DURABLE_POWER);
    ck_assert_int_eq(mark(&f, 0, 1), 0);
    io.sync_error = EIO;
    ck_assert_int_eq(bmp_journal_failed(f.journal), 0);
    ck_assert_int_eq(mark(&f, REGION, 1), -EIO);
    io.sync_error = 0;
    ck_assert_int_eq(bmp_journal_failed(f.journal), -EIO);
    ck_assert_int_eq(bmp_journal_intend(f.journal, REGION, 1), -EIO);
    ck_assert_int_eq(bmp_journal_tick(f.journal), -EIO);
    ck_assert(!try_mark(&f, REGION, 1)); /* held back until somebody gives up */
    bmp_journal_give_up(f.journal);
    ck_assert(try_mark(&f, REGION, 1));
    ck_assert(try_mark(&f, 5 * REGION, 9 * REGION));
    fix_close(&f);
}
END_TEST

START_TEST(a_failed_sync_fails_all_that_wait_for_it)
{
    enum { THREADS = 8 };
    Marker m[THREADS];
    Fix f;

    fix_open(&f, 64 * REGION, SHIFT, BMP_DURABLE_POWER);
    block_syncs(true);
    for (unsigned i = 0; i < THREADS; i++) {
        m[i] = (Marker){ .f = &f, .offset = i * REGION, .length = 1 };
        ck_assert_int_eq(pthread_create(&m[i].thread, NULL, mark_once, &m[i]), 0);
    }
    wait_for_sync();
    io.sync_error = EIO;
    block_syncs(false);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(m[i].thread, NULL);
        ck_assert_int_eq(m[i].ret, -EIO);
    }
    fix_close(&f);
}
END_TEST

/* But for what a tick does once in a while. */
START_TEST(with_process_durability_writes_never_sync)
{
    Fix f;
    BmpBits model;

    fix_open(&f, 64 * REGION, SHIFT, BMP_DURABLE_PROCESS);
    bmp_bits_init(&model, f.g.size, SHIFT);
    ck_assert(!bmp_journal_intend_waits(f.journal));
    for (uint64_t at = 0; at < f.g.size; at += 3 * REGION) {
        ck_assert_int_eq(mark(&f, at, 70000), 0);
        bmp_bits_set_bytes(&model, at, 70000);
    }
    ck_assert_int_eq(mark(&f, REGION, REGION), 0);
    bmp_bits_set_bytes(&model, REGION, REGION);
    ck_assert_uint_eq(syncs_now(), 0);
    ticks(&f, 6);
    ck_assert_uint_eq(syncs_now(), 1);
    ticks(&f, 20);
    ck_assert_uint_eq(syncs_now(), 1);
    expect_found(&f, false, &model, 0);
    bmp_bits_clear_all(&model);
    fix_close(&f);
}
END_TEST

/* While a round gives a region its words somebody marks all of it. */
static Fix *whole;

static ssize_t whole_pwritev2(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags)
{
    whole->sys.pwritev2 = test_pwritev2;
    ck_assert(try_mark(whole, 0, REGION));
    return pwritev2(fd, iov, iovcnt, offset, flags);
}

START_TEST(a_region_filled_while_its_words_are_written_stays_full)
{
    BmpBits model;
    Fix f;

    fix_open(&f, 16 * REGION, SHIFT, BMP_DURABLE_PROCESS);
    bmp_bits_init(&model, f.g.size, SHIFT);
    whole = &f;
    f.sys.pwritev2 = whole_pwritev2;
    ck_assert_int_eq(mark(&f, 5 << SHIFT, 1), 0);
    bmp_bits_set_bytes(&model, 0, REGION);
    expect_found(&f, false, &model, 0);
    bmp_bits_clear_all(&model);
    fix_close(&f);
}
END_TEST

/* Or it would never be heard of that marks could not be written, though nobody waits for a sync. */
START_TEST(a_tick_syncs_what_is_written_all_the_time)
{
    Fix f;

    fix_open(&f, _i ? 64 * REGION : 16384 * REGION, SHIFT,
             _i ? BMP_DURABLE_PROCESS : BMP_DURABLE_POWER);
    ck_assert_int_eq(mark(&f, 0, 1), 0);
    ck_assert_int_eq(mark(&f, UINT64_C(1) << SHIFT, 1), 0);
    io.sync_error = EIO;
    for (unsigned i = 2; i < 9 && !bmp_journal_failed(f.journal); i++) {
        ck_assert_int_eq(mark(&f, (uint64_t)i << SHIFT, 1), 0); /* opened ahead */
        bmp_journal_tick(f.journal);
    }
    ck_assert_int_eq(bmp_journal_failed(f.journal), -EIO);
    fix_close(&f);
}
END_TEST

/* ---- damage */

static void put(int fd, uint64_t value, uint64_t offset)
{
    ck_assert_int_eq(pwrite(fd, &value, 8, (off_t)offset), 8);
}

START_TEST(damage_makes_dirty_only_what_it_hits)
{
    Fix f;
    BmpJournalFound found;

    fix_open(&f, 16 * REGION, SHIFT, BMP_DURABLE_POWER);
    for (unsigned r = 0; r < 16; r++)
        ck_assert_int_eq(mark(&f, r * REGION, 1), 0);
    ticks(&f, 5);
    put(f.fd, 42, AT + f.g.table_offset + 8 * 3);                          /* an entry */
    put(f.fd, GUINT64_TO_LE(UINT64_C(1)), AT + f.g.words_offset + 8 * 10); /* region 5's first */
    recover_fd(&f, f.fd, false, &found);
    ck_assert_uint_eq(found.damaged_entries, 1);
    ck_assert_uint_eq(found.damaged_words, 1);
    ck_assert_uint_eq(bmp_bits_count(&found.marked), 14);
    ck_assert_uint_eq(bmp_bits_count(&found.uncertain), 64 + 32);
    ck_assert(bmp_bits_test(&found.uncertain, 3 * 64) &&
              bmp_bits_test(&found.uncertain, 4 * 64 - 1));
    ck_assert(bmp_bits_test(&found.uncertain, 5 * 64 + 31));
    ck_assert(!bmp_bits_test(&found.uncertain, 5 * 64 + 32));
    bmp_journal_found_clear(&found);

    /* Cut within the words: what is there is believed. */
    ck_assert_int_eq(ftruncate(f.fd, (off_t)(AT + f.g.words_offset + 8 * 2 * 15)), 0);
    recover_fd(&f, f.fd, false, &found);
    ck_assert_uint_eq(found.damaged_words, 1 + 2);
    ck_assert(bmp_bits_test(&found.marked, 14 * 64));
    ck_assert(bmp_bits_test(&found.uncertain, 15 * 64 + 63));
    bmp_journal_found_clear(&found);

    /* Nothing there. */
    ck_assert_int_eq(ftruncate(f.fd, 0), 0);
    recover_fd(&f, f.fd, false, &found);
    ck_assert_uint_eq(found.damaged_entries, 16);
    ck_assert_uint_eq(bmp_bits_count(&found.uncertain), 16 * 64);
    bmp_journal_found_clear(&found);
    fix_close(&f);
}
END_TEST

/* Which intents there were is not known any more: after a loss of power any granule may be
 * written. */
START_TEST(a_damaged_list_of_intents_makes_all_dirty_after_a_power_loss)
{
    Fix f;
    BmpJournalFound found;
    BmpBits model;

    fix_open(&f, 16 * REGION, SHIFT, BMP_DURABLE_POWER);
    bmp_bits_init(&model, f.g.size, SHIFT);
    for (unsigned r = 0; r < 3; r++) {
        ck_assert_int_eq(mark(&f, r * REGION, 1), 0);
        bmp_bits_set_bytes(&model, r * REGION, 1);
    }
    expect_found(&f, true, &model, 0);
    for (unsigned list = 0; list < 2; list++) {
        put(f.fd, 42, AT + list * BMP_INTENTS_LIST + 8);
        expect_found(&f, false, &model, 0);
        recover_fd(&f, f.fd, true, &found);
        ck_assert(found.damaged_intents);
        ck_assert_uint_eq(bmp_bits_count(&found.uncertain), 16 * 64 - 3);
        bmp_journal_found_clear(&found);
        put(f.fd, GUINT64_TO_LE(list ? 3 : 2), AT + list * BMP_INTENTS_LIST + 8);
    }
    bmp_bits_clear_all(&model);
    fix_close(&f);
}
END_TEST

/* A word that is mostly unused does not reach into the next regions. */
START_TEST(damage_to_a_tiny_region_stays_in_it)
{
    Fix f;
    BmpJournalFound found;

    fix_open(&f, 16 * REGION, 21, BMP_DURABLE_POWER);
    ck_assert_uint_eq(f.g.block, 8);
    ck_assert_int_eq(mark(&f, 3 * REGION, 1), 0);
    ck_assert_int_eq(mark(&f, 5 * REGION + 9, 1), 0);
    put(f.fd, 0, AT + f.g.words_offset + 8 * 3);
    recover_fd(&f, f.fd, false, &found);
    ck_assert_uint_eq(found.damaged_words, 1);
    ck_assert_uint_eq(bmp_bits_count(&found.uncertain), 2);
    ck_assert(bmp_bits_test(&found.uncertain, 6) && bmp_bits_test(&found.uncertain, 7));
    ck_assert_uint_eq(bmp_bits_count(&found.marked), 1);
    ck_assert(bmp_bits_test(&found.marked, 10));
    bmp_journal_found_clear(&found);
    fix_close(&f);
}
END_TEST

static ssize_t bad_page(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags)
{
    off_t bad = AT + BMP_INTENTS_SIZE + 4096 + 4096; /* the second of words, if the table has one */

    if (offset < bad + 4096 && offset + (off_t)iov->iov_len > bad) {
        struct iovec before = { iov->iov_base, (size_t)(bad - offset) };

        if (offset < bad)
            return preadv2(fd, &before, 1, offset, flags);
        errno = EIO;
        return -1;
    }
    return preadv2(fd, iov, iovcnt, offset, flags);
}

START_TEST(an_unreadable_page_makes_dirty_only_its_regions)
{
    Fix f;
    BmpJournalFound found;
    TmSys sys = tm_sys_kernel;

    sys.preadv2 = bad_page;
    fix_open(&f, 512 * REGION, 12,
             BMP_DURABLE_PROCESS); /* 256 bytes of words a region: 16 a page */
    ck_assert_uint_eq(f.g.words_offset, BMP_INTENTS_SIZE + 4096);
    for (unsigned r = 0; r < 64; r++)
        ck_assert_int_eq(mark(&f, r * REGION, 1), 0);
    bmp_journal_recover(&sys, f.fd, AT, &f.g, SEED, f.epoch, false, &found);
    ck_assert_uint_eq(found.damaged_words, 512);
    ck_assert_uint_eq(bmp_bits_count(&found.marked), 48);
    ck_assert_uint_eq(bmp_bits_count(&found.uncertain), 16 * 1024);
    bmp_journal_found_clear(&found);
    fix_close(&f);
}
END_TEST

/* ---- a file that somebody cuts */

START_TEST(a_cut_file_fails_the_store_and_not_the_process)
{
    Fix f;

    tm_mapping_guard_install();
    fix_open(&f, 64 * REGION, SHIFT, BMP_DURABLE_POWER);
    ck_assert_int_eq(mark(&f, 0, 1), 0);
    ck_assert_int_eq(ftruncate(f.fd, 0), 0);
    ck_assert_int_eq(bmp_journal_failed(f.journal), 0);
    ck_assert(!try_mark(&f, 65536, 1)); /* it went nowhere */
    ck_assert_int_eq(bmp_journal_failed(f.journal), -EIO);
    ck_assert_int_eq(mark(&f, 65536, 1), -EIO);
    ck_assert_int_eq(mark(&f, REGION, 1), -EIO);
    ck_assert_int_eq(bmp_journal_tick(f.journal), -EIO);
    bmp_journal_give_up(f.journal);
    ck_assert(try_mark(&f, 65536, 1));
    fix_close(&f);
}
END_TEST

/* The same while the entry is stamped, and another journal is not concerned. */
START_TEST(a_file_cut_during_an_intent_fails_the_store)
{
    Fix f, other;

    tm_mapping_guard_install();
    fix_open(&f, 64 * REGION, SHIFT, BMP_DURABLE_POWER);
    fix_open(&other, 64 * REGION, SHIFT, BMP_DURABLE_POWER);
    io.write_error = ENOSPC; /* else initialising makes the file longer again */
    ck_assert_int_eq(ftruncate(f.fd, 0), 0);
    ck_assert_int_lt(mark(&f, 3 * REGION, 1), 0);
    io.write_error = 0;
    ck_assert_int_eq(mark(&other, 3 * REGION, 1), 0);
    ck_assert_int_eq(bmp_journal_failed(other.journal), 0);
    fix_close(&f);
    fix_close(&other);
}
END_TEST

START_TEST(each_of_many_mappings_is_guarded)
{
    g_autofree TmMapping *mappings = g_new0(TmMapping, 3000);
    TmSys sys = tm_sys_kernel;
    int fd = temp_file();

    tm_mapping_guard_install();
    ck_assert_int_eq(ftruncate(fd, 4096), 0);
    for (int i = 0; i < 3000; i++)
        ck_assert_int_eq(tm_mapping_open(&mappings[i], &sys, fd, 0, 4096), 0);
    ck_assert_int_eq(ftruncate(fd, 0), 0);
    *(volatile char *)mappings[2999].address = 1;
    ck_assert(tm_mapping_broken(&mappings[2999]));
    ck_assert(!tm_mapping_broken(&mappings[0]));
    for (int i = 0; i < 3000; i++)
        tm_mapping_close(&mappings[i]);
    close(fd);
}
END_TEST

START_TEST(other_bus_errors_end_the_process)
{
    TmSys sys = tm_sys_kernel;
    int fd = temp_file();
    volatile char *at;

    tm_mapping_guard_install();
    ck_assert_int_eq(ftruncate(fd, 4096), 0);
    at = sys.mmap(fd, 0, 4096);
    ck_assert(at != NULL);
    ck_assert_int_eq(ftruncate(fd, 0), 0);
    at[0] = 1;
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("journal");
    TCase *tc = tcase_create("journal");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, each_of_many_mappings_is_guarded);
    tcase_add_test(tc, marks_are_recovered);
    tcase_add_test(tc, a_region_with_all_granules_marked_is_full);
    tcase_add_test(tc, marks_of_many_threads_are_all_recovered);
    tcase_add_test(tc, m1_no_bit_is_set_before_the_sync_returns);
    tcase_add_test(tc, concurrent_marks_share_a_sync);
    tcase_add_test(tc, m2_a_crash_at_any_sync_loses_no_mark);
    tcase_add_test(tc, ticks_sync_only_if_there_is_something);
    tcase_add_test(tc, m5_without_room_a_region_is_crowded);
    tcase_add_test(tc, a_failed_sync_is_never_taken_back);
    tcase_add_test(tc, a_failed_sync_fails_all_that_wait_for_it);
    tcase_add_test(tc, with_process_durability_writes_never_sync);
    tcase_add_test(tc, a_region_filled_while_its_words_are_written_stays_full);
    tcase_add_loop_test(tc, a_tick_syncs_what_is_written_all_the_time, 0, 2);
    tcase_add_test(tc, damage_makes_dirty_only_what_it_hits);
    tcase_add_test(tc, a_damaged_list_of_intents_makes_all_dirty_after_a_power_loss);
    tcase_add_test(tc, damage_to_a_tiny_region_stays_in_it);
    tcase_add_test(tc, an_unreadable_page_makes_dirty_only_its_regions);
    tcase_add_test(tc, a_cut_file_fails_the_store_and_not_the_process);
    tcase_add_test(tc, a_file_cut_during_an_intent_fails_the_store);
    tcase_add_test_raise_signal(tc, other_bus_errors_end_the_process, SIGBUS);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
