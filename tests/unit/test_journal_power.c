/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_journal_power.c: what the live journal of a store says after a loss of power:
 * never too little (M1 to M3), and not more than the bound (M6).
 *
 * The power is cut around each sync, several times over: of each sector of the file that has
 * changed since the last sync began, the medium has what it was then, or what it is now. */
#include "tests/rounds.h"
#include "tests/unit/journal_util.h"
#include "util/range.h"

#define TIB    (UINT64_C(1) << 40)
#define GIB    (UINT64_C(1) << 30)
#define SECTOR 512u

/* What the medium is known to hold, and what the bitmap may say. */
static struct {
    pthread_mutex_t lock; /* what was acknowledged, and asked for */
    Fix *f;
    BmpBits acknowledged, asked;
    uint8_t *synced, *begun; /* the file as of the last sync's, and this one's begin */
    uint8_t *now, *mixed;
    size_t size;
    uint32_t seed;
    unsigned cuts, rounds; /* states formed; at each sync */
    uint64_t most;         /* bytes that were dirty beyond the marks, at most */
} power = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void read_file(uint8_t *to)
{
    ck_assert_int_eq(pread(power.f->fd, to, power.size, 0), (ssize_t)power.size);
}

static uint64_t beyond(const BmpBits *bits, const BmpBits *known)
{
    BmpBitsIter iter = bmp_bits_iter(bits), other = bmp_bits_iter(known);
    uint64_t n = 0, first, end, from, to;

    for (uint64_t at = 0; bmp_bits_next(&iter, at, bits->nbits, &first, &end); at = end) {
        n += end - first;
        for (uint64_t k = first; k < end && bmp_bits_next(&other, k, end, &from, &to); k = to)
            n -= to - from;
    }
    return n;
}

/* As bmp_journal_recover(), out of memory. */
static ssize_t read_mixed(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags)
{
    size_t n = (size_t)offset >= power.size ? 0 : tm_min(iov->iov_len, power.size - (size_t)offset);

    memcpy(iov->iov_base, power.mixed + offset, n);
    (void)fd;
    (void)iovcnt;
    (void)flags;
    return (ssize_t)n;
}

static void check_state(const BmpBits *acknowledged)
{
    TmSys sys = tm_sys_kernel;
    BmpJournalFound found;
    uint64_t more;

    sys.preadv2 = read_mixed;
    bmp_journal_recover(&sys, -1, AT, &power.f->g, SEED, power.f->epoch, true, &found);
    ck_assert(!found.damaged_intents && !found.damaged_entries && !found.damaged_words);
    bmp_bits_or(&found.marked, &found.uncertain);
    ck_assert_msg(!beyond(acknowledged, &found.marked), "%" G_GUINT64_FORMAT " granules are lost",
                  beyond(acknowledged, &found.marked));
    pthread_mutex_lock(&power.lock);
    more = beyond(&found.marked, &power.asked) << power.f->g.journal_shift;
    pthread_mutex_unlock(&power.lock);
    power.most = tm_max(power.most, more);
    ck_assert_msg(more <= bmp_journal_bound(power.f->g.size),
                  "%" G_GUINT64_FORMAT " bytes are dirty that nobody has written", more);
    bmp_journal_found_clear(&found);
    power.cuts++;
}

static void cut(void)
{
    BmpBits acknowledged;

    /* What is acknowledged before the file is read must be in it. */
    pthread_mutex_lock(&power.lock);
    bmp_bits_clone(&acknowledged, &power.acknowledged);
    pthread_mutex_unlock(&power.lock);
    read_file(power.now);
    for (unsigned i = 0; i < power.rounds; i++) {
        unsigned few = next_random(&power.seed) % 8;

        for (size_t at = 0; at < power.size; at += SECTOR) {
            bool new = i == 0 ? false : i == 1 ? true : next_random(&power.seed) % 8 < few;

            memcpy(power.mixed + at, (new ? power.now : power.synced) + at, SECTOR);
        }
        check_state(&acknowledged);
    }
    bmp_bits_clear_all(&acknowledged);
}

static void sync_begins(int fd)
{
    (void)fd;
    read_file(power.begun);
    cut();
}

static void sync_ends(int fd)
{
    uint8_t *t = power.synced;

    (void)fd;
    cut();
    power.synced = power.begun;
    power.begun = t;
    cut();
}

static void power_on(Fix *f, uint64_t size, unsigned shift, unsigned rounds)
{
    struct stat st;

    fix_open(f, size, shift, BMP_DURABLE_POWER);
    ck_assert_int_eq(fstat(f->fd, &st), 0);
    power.f = f;
    power.size = (size_t)st.st_size;
    power.synced = g_malloc(power.size);
    power.begun = g_malloc(power.size);
    power.now = g_malloc(power.size);
    power.mixed = g_malloc(power.size);
    power.seed = 4711;
    power.rounds = MAX(ROUNDS(rounds), 1);
    bmp_bits_init(&power.acknowledged, size, shift);
    bmp_bits_init(&power.asked, size, shift);
    read_file(power.synced);
    io.before_sync = sync_begins;
    io.after_sync = sync_ends;
}

static void power_off(Fix *f)
{
    io.before_sync = io.after_sync = NULL;
    bmp_bits_clear_all(&power.acknowledged);
    bmp_bits_clear_all(&power.asked);
    g_free(power.synced);
    g_free(power.begun);
    g_free(power.now);
    g_free(power.mixed);
    fix_close(f);
}

static void write_at(Fix *f, uint64_t offset, uint64_t length)
{
    length = tm_min(length, f->g.size - offset);
    pthread_mutex_lock(&power.lock);
    bmp_bits_set_bytes(&power.asked, offset, length);
    pthread_mutex_unlock(&power.lock);
    ck_assert_int_eq(mark(f, offset, length), 0);
    pthread_mutex_lock(&power.lock);
    bmp_bits_set_bytes(&power.acknowledged, offset, length);
    pthread_mutex_unlock(&power.lock);
}

/* What the medium holds for sure is exact when nobody has written for a while. */
static void expect_exact(Fix *f)
{
    ticks(f, 6);
    memcpy(power.mixed, power.synced, power.size);
    power.most = 0;
    check_state(&power.acknowledged);
    ck_assert_uint_eq(power.most, 0);
}

typedef enum { RANDOM, LOCAL, ORDERED, MIXED } Pattern;

typedef struct Writer {
    Fix *f;
    Pattern pattern;
    uint32_t seed;
    unsigned n;
    uint64_t at;
    pthread_t thread;
} Writer;

static void *write_pattern(void *opaque)
{
    Writer *w = opaque;
    uint64_t size = w->f->g.size, granule = UINT64_C(1) << w->f->g.journal_shift;

    for (unsigned i = 0; i < w->n; i++) {
        Pattern pattern = w->pattern == MIXED ? next_random(&w->seed) % MIXED : w->pattern;
        uint64_t random = (uint64_t)next_random(&w->seed) << 21 ^ next_random(&w->seed);
        uint64_t length = next_random(&w->seed) % 32 ? 4096 : granule * 40;

        if (pattern == ORDERED) {
            write_at(w->f, w->at % size, granule);
            w->at += granule;
        } else {
            write_at(w->f,
                     random % (pattern == LOCAL ? tm_min(size, 64 * granule) : size) / 512 * 512,
                     length);
        }
        if (w->pattern == MIXED && next_random(&w->seed) % 64 == 0)
            ticks(w->f, 1 + next_random(&w->seed) % 5);
    }
    return NULL;
}

static void many_writers(Fix *f, Writer *w, unsigned writers)
{
    for (unsigned i = 0; i < writers; i++)
        ck_assert_int_eq(pthread_create(&w[i].thread, NULL, write_pattern, &w[i]), 0);
    for (unsigned i = 0; i < writers; i++)
        pthread_join(w[i].thread, NULL);
    expect_exact(f);
}

/* Sizes of which the bound is nothing, a few granules, and many. */
static const struct {
    uint64_t size;
    unsigned shift;
} disks[] = { { 20 * MIB + 777, 9 }, { 64 * MIB, 16 }, { 2 * GIB + 4096, 16 }, { 300 * MIB, 12 } };

START_TEST(m6_one_writer_stays_within_the_bound)
{
    Fix f;
    Writer w = { .f = &f, .pattern = _i % 4, .seed = 99 + _i, .n = ROUNDS(250) };

    power_on(&f, disks[_i / 4].size, disks[_i / 4].shift, 8);
    w.at = f.g.size / 3;
    write_pattern(&w);
    expect_exact(&f);
    ck_assert_uint_gt(power.cuts, ROUNDS(ROUNDS(50)));
    power_off(&f);
}
END_TEST

START_TEST(m6_many_writers_stay_within_the_bound)
{
    enum { THREADS = 12 };
    Writer w[THREADS];
    Fix f;

    power_on(&f, disks[_i].size, disks[_i].shift, 4);
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (Writer){ .f = &f, .pattern = i % 4, .seed = 1 + i, .n = ROUNDS(60) };
        w[i].at = f.g.size / THREADS * i;
    }
    many_writers(&f, w, THREADS);
    ck_assert_uint_gt(power.cuts, ROUNDS(ROUNDS(50)));
    power_off(&f);
}
END_TEST

/* M6: each of several who write in order would like half the bound. */
START_TEST(m6_windows_of_several_writers_stay_within_the_bound)
{
    enum { STREAMS = 7, EACH = 400 };
    Fix f;

    power_on(&f, 2 * GIB, SHIFT, 3);
    for (uint64_t i = 0; i < EACH; i++) {
        for (uint64_t k = 0; k < STREAMS; k++)
            write_at(&f, k * 256 * MIB + i * 65536, 65536);
    }
    ck_assert_uint_gt(power.most, bmp_journal_bound(f.g.size) / 2); /* it is made use of */
    expect_exact(&f);
    power_off(&f);
}
END_TEST

/* M6: many who go on at a time, and each of whom would get a window of twice the length. */
START_TEST(m6_windows_of_one_round_stay_within_the_bound)
{
    enum { PLACES = 30 };
    Fix f;
    Marker m = { .f = &f, .offset = GIB, .length = 1 };

    power_on(&f, 2 * GIB, SHIFT, 3);
    for (uint64_t i = 0; i < 4 * PLACES; i++)
        write_at(&f, i / 4 * MIB + i % 4 * 65536, 1);
    for (uint64_t i = 0; i < PLACES; i++)
        bmp_bits_set_bytes(&power.asked, i * MIB + 4 * 65536, 1);
    bmp_bits_set_bytes(&power.asked, GIB, 1);
    block_syncs(true);
    ck_assert_int_eq(pthread_create(&m.thread, NULL, mark_once, &m), 0);
    wait_for_sync();
    for (uint64_t i = 0; i < PLACES; i++)
        ck_assert(!try_mark(&f, i * MIB + 4 * 65536, 1));
    block_syncs(false);
    pthread_join(m.thread, NULL);
    write_at(&f, MIB + 4 * 65536, 1);
    ck_assert(try_mark(&f, 10 * MIB + 4 * 65536, 1)); /* in the same round */
    ck_assert_uint_gt(power.most, bmp_journal_bound(f.g.size) / 2);
    power_off(&f);
}
END_TEST

/* M5: a region without words is dirty as a whole before anybody relies on it. */
START_TEST(m5_without_room_for_words_no_mark_is_lost)
{
    Fix f;
    uint32_t seed = 5;
    uint64_t at;

    power_on(&f, 300 * MIB, 12, 8);
    io.errors_from = (off_t)(AT + f.g.words_offset);
    bmp_bits_set_bytes(&power.asked, 0, f.g.size); /* crowded regions are beyond the bound */
    for (unsigned i = 0; i < ROUNDS(200); i++) {
        io.write_error = next_random(&seed) % 2 ? ENOSPC : 0;
        at = next_random(&seed) % (f.g.size / REGION) * REGION;
        write_at(&f, at + 4096 * (i % 128), i % 16 ? 4096 : 2 * REGION);
        write_at(&f, at + MIB, 4096); /* which finds the region crowded, or waits */
    }
    io.write_error = 0;
    ticks(&f, 6);
    power_off(&f);
}
END_TEST

/* A new epoch begins between two rounds: lists of the one before say nothing. */
START_TEST(intents_of_past_epochs_do_not_count)
{
    Fix f;

    power_on(&f, 2 * GIB, 16, 8);
    for (unsigned epoch = 0; epoch < 12; epoch++) {
        for (unsigned i = 0; i < 3 + epoch % 2; i++)
            write_at(&f, ((uint64_t)epoch * 7 + i) * 65536, 1);
        bmp_journal_restart(f.journal, ++f.epoch);
        bmp_bits_clear_all(&power.acknowledged);
        bmp_bits_clear_all(&power.asked);
        cut();
    }
    power_off(&f);
}
END_TEST

/* ---- what it costs */

static struct {
    uint64_t bytes; /* written by calls */
} cost;

static ssize_t count_bytes(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags)
{
    ssize_t n = pwritev2(fd, iov, iovcnt, offset, flags);

    if (n > 0)
        __atomic_fetch_add(&cost.bytes, (uint64_t)n, __ATOMIC_RELAXED);
    return n;
}

/* Writes all over a disk initialise the words of where they are, and nothing else. */
START_TEST(random_writes_write_little)
{
    Fix f;
    uint32_t seed = 12;
    BmpJournalFound found;
    enum { WRITES = 400 };

    fix_open(&f, TIB, 12, BMP_DURABLE_POWER);
    f.sys.pwritev2 = count_bytes;
    for (unsigned i = 0; i < WRITES; i++)
        ck_assert_int_eq(mark(&f, (uint64_t)next_random(&seed) * 233 * 512 % TIB, 1), 0);
    ck_assert_uint_le(cost.bytes, WRITES * (f.g.block + 3 * BMP_INTENTS_SECTOR));
    ck_assert_uint_le(stamped(&f), WRITES + 5 * (bmp_journal_bound(TIB) >> f.g.region_shift));
    recover_fd(&f, f.fd, true, &found);
    ck_assert_uint_le(bmp_bits_count(&found.marked), WRITES);
    ck_assert_uint_le(bmp_bits_count(&found.uncertain) << 12, GIB);
    bmp_journal_found_clear(&found);
    fix_close(&f);
}
END_TEST

/* Who asks while a round is under way is in the next one, whoever waits for it. */
START_TEST(waiters_share_one_sync)
{
    enum { ASKING = 100 };
    Fix f;
    Marker m = { .f = &f, .length = 1 };

    fix_open(&f, TIB, SHIFT, BMP_DURABLE_POWER);
    block_syncs(true);
    ck_assert_int_eq(pthread_create(&m.thread, NULL, mark_once, &m), 0);
    wait_for_sync();
    for (unsigned i = 1; i <= ASKING; i++) {
        ck_assert(!try_mark(&f, i * 10 * GIB, 1));
        ck_assert(!try_mark(&f, i * 10 * GIB, 1)); /* in vain, and no second time */
    }
    block_syncs(false);
    pthread_join(m.thread, NULL);
    ck_assert_int_eq(bmp_journal_intend(f.journal, 10 * GIB, 1), 0);
    for (unsigned i = 1; i <= ASKING; i++)
        ck_assert(try_mark(&f, i * 10 * GIB, 1));
    ck_assert_uint_eq(syncs_now(), 2);
    fix_close(&f);
}
END_TEST

/* Who writes in order soon waits for few syncs only; so do several at once. */
START_TEST(ordered_writes_rarely_wait)
{
    enum { STREAMS = 3, EACH = 8192 };
    Fix f;

    fix_open(&f, TIB, SHIFT, BMP_DURABLE_POWER);
    for (uint64_t i = 0; i < EACH; i++) {
        for (uint64_t k = 0; k < STREAMS; k++)
            ck_assert_int_eq(mark(&f, k * 100 * GIB + i * 65536, 65536), 0);
    }
    ck_assert_uint_lt(syncs_now(), STREAMS * 16);
    fix_close(&f);
}
END_TEST

/* M2: a window that is closed takes no more marks, and is in one more list. */
START_TEST(m2_a_closing_window_takes_no_more_marks)
{
    Fix f;
    BmpJournalFound found;
    unsigned syncs;

    fix_open(&f, 2 * GIB, SHIFT, BMP_DURABLE_POWER);
    ck_assert_int_eq(mark(&f, 0, 1), 0);
    ck_assert_int_eq(mark(&f, 65536, 1), 0);
    syncs = syncs_now();
    ck_assert_int_eq(mark(&f, 2 * 65536, 1), 0); /* opened ahead */
    ck_assert_uint_eq(syncs_now(), syncs);
    ticks(&f, 3);
    ck_assert(!try_mark(&f, 3 * 65536, 1));
    recover_fd(&f, f.fd, true, &found);
    ck_assert_uint_eq(found.intents, 2); /* and what was asked for with it */
    ck_assert_uint_eq(bmp_bits_count(&found.uncertain), 1);
    bmp_journal_found_clear(&found);
    fix_close(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("journal_power");
    TCase *tc = tcase_create("journal_power");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, m6_one_writer_stays_within_the_bound, 0, 4 * G_N_ELEMENTS(disks));
    tcase_add_loop_test(tc, m6_many_writers_stay_within_the_bound, 0, G_N_ELEMENTS(disks));
    tcase_add_test(tc, m6_windows_of_several_writers_stay_within_the_bound);
    tcase_add_test(tc, m6_windows_of_one_round_stay_within_the_bound);
    tcase_add_test(tc, m5_without_room_for_words_no_mark_is_lost);
    tcase_add_test(tc, intents_of_past_epochs_do_not_count);
    tcase_add_test(tc, random_writes_write_little);
    tcase_add_test(tc, waiters_share_one_sync);
    tcase_add_test(tc, ordered_writes_rarely_wait);
    tcase_add_test(tc, m2_a_closing_window_takes_no_more_marks);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
