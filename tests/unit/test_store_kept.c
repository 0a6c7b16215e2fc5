/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_store_kept.c: a store that a keeper has (bitmap/store/keeper.h), over lost hosts,
 * hosts that were cut off, and writes that fail.
 *
 * The keeper is memory that several hosts share. It can be stopped at every write: what it has just
 * then, before the write and after it, is what another host would find if this one were lost. A
 * write can also fail, whether it has happened or not. */
#include "store_util.h"

static const uint64_t size = 64 * MIB;

#define GRANULE  UINT64_C(65536)
#define GRANULES (64u * 16u)
#define BITMAPS  2u

static const char *const names[BITMAPS] = { "a", "b" };

/* ---- what was written, which is what must be dirty */

typedef struct Model {
    bool there[BITMAPS];          /* the bitmap is */
    bool changing[BITMAPS];       /* it is being added, cleared or removed */
    bool must[BITMAPS][GRANULES]; /* written since it was added or cleared last */
    bool may[BITMAPS][GRANULES];  /* the same, or being written, or before the last change */
} Model;

static void model_mark(Model *m, uint64_t offset, uint64_t length, bool done)
{
    for (unsigned b = 0; b < BITMAPS; b++) {
        for (uint64_t g = offset / GRANULE; g <= (offset + length - 1) / GRANULE; g++) {
            m->may[b][g] = true;
            m->must[b][g] |= done;
        }
    }
}

/* ---- the keeper */

typedef struct Moment {
    uint8_t *data;
    uint64_t size;
    Model model;
} Moment;

typedef struct Kept {
    uint8_t *data;
    uint64_t size;
    uint64_t owner;
    unsigned writes, fail_at, fail_n; /* as of io_fail() */
    bool happens;                     /* a write that fails does */
    const Model *model;               /* NULL: moments are not kept */
    GArray *moments;                  /* Moment */
} Kept;

typedef struct Host {
    Kept *kept;
    uint64_t owner;
    bool abandoned;
} Host;

static void moment_clear(void *data)
{
    g_free(((Moment *)data)->data);
}

static void keep_moment(Kept *k)
{
    Moment moment = { .size = k->size };

    if (!k->model)
        return;
    moment.data = g_memdup2(k->data, k->size + 1);
    moment.model = *k->model;
    g_array_append_val(k->moments, moment);
}

static int host_open(void *opaque, bool read_only, uint64_t *bytes)
{
    Host *h = opaque;

    if (!read_only)
        h->owner = ++h->kept->owner;
    *bytes = h->kept->size;
    return 0;
}

static int host_read(void *opaque, void *data, uint64_t length, uint64_t offset)
{
    const Kept *k = ((Host *)opaque)->kept;

    ck_assert_uint_le(offset + length, k->size);
    memcpy(data, k->data + offset, length);
    return 0;
}

static void apply(Kept *k, const BmpPiece *pieces, size_t n, uint64_t bytes, bool replace)
{
    uint64_t at = 0;

    if (replace)
        k->size = 0;
    k->data = g_realloc(k->data, bytes + 1);
    if (bytes > k->size)
        memset(k->data + k->size, 0, bytes - k->size);
    for (size_t i = 0; i < n; i++) {
        ck_assert_uint_ge(pieces[i].offset, at);
        at = pieces[i].offset + pieces[i].length;
        ck_assert_uint_le(at, bytes);
        memcpy(k->data + pieces[i].offset, pieces[i].buf, pieces[i].length);
    }
    k->size = bytes;
}

static int host_write(void *opaque, const BmpPiece *pieces, size_t n, uint64_t bytes, bool replace)
{
    Host *h = opaque;
    Kept *k = h->kept;
    bool fails;

    if (h->owner != k->owner)
        return -ECANCELED;
    ++k->writes;
    fails = k->fail_at && k->writes >= k->fail_at && k->writes - k->fail_at < k->fail_n;
    if (!fails || k->happens) {
        keep_moment(k);
        apply(k, pieces, n, bytes, replace);
        keep_moment(k);
    }
    return fails ? -ENOSPC : 0;
}

static void host_abandon(void *opaque)
{
    ((Host *)opaque)->abandoned = true;
}

static void kept_init(Kept *k)
{
    *k = (Kept){ .moments = g_array_new(FALSE, FALSE, sizeof(Moment)) };
    g_array_set_clear_func(k->moments, moment_clear);
    k->data = g_malloc0(1);
}

static void kept_fini(Kept *k)
{
    g_array_unref(k->moments);
    g_free(k->data);
}

/* The disk is opened on a host of its own. */
static void open_on(Disk *d, Host *h, Kept *k)
{
    BmpKeeper keeper = { h, host_open, host_read, host_write, host_abandon };

    *h = (Host){ .kept = k };
    d->o.keeper = &keeper;
    d->o.region_shift_min = 22;
    d->o.boot_id[0]++;
    disk_open(d);
    d->o.keeper = NULL;
}

static void init(Disk *d, Kept *k)
{
    disk_init(d, size);
    close(d->fd); /* what is written to the disk shows nowhere */
    d->fd = -1;
    kept_init(k);
}

static void fini(Disk *d, Kept *k)
{
    kept_fini(k);
    disk_fini(d);
}

/* ---- what another host finds */

static void check_bitmap(Disk *d, const Model *m, unsigned b, bool bounded)
{
    g_autoptr(BmpBitmap) bitmap = bmp_set_find(d->set, names[b], NULL);
    uint64_t more = 0;

    if (bmp_bitmap_inconsistent(bitmap))
        return;
    for (unsigned g = 0; g < GRANULES; g++) {
        bool is = disk_is_dirty(d, names[b], g * GRANULE);

        ck_assert_msg(is || !m->must[b][g], "granule %u of '%s' was written and is clean", g,
                      names[b]);
        more += is && !m->may[b][g];
    }
    if (bounded)
        ck_assert_uint_le(more * GRANULE, size / 200);
}

/* @bounded: and hardly more than was written. */
static void check_found(Disk *d, const Model *m, bool bounded)
{
    for (unsigned b = 0; b < BITMAPS; b++) {
        g_autoptr(BmpBitmap) bitmap = bmp_set_find(d->set, names[b], NULL);

        /* A store that failed may be gone, or be what it was once. */
        ck_assert_msg(!bounded || m->changing[b] || m->there[b] == (bitmap != NULL), "'%s' is %s",
                      names[b], bitmap ? "there" : "missing");
        if (bitmap && m->there[b] && !m->changing[b])
            check_bitmap(d, m, b, bounded);
    }
}

/* ---- what a host does */

/* Nothing is written meanwhile. If it is cleared nothing must be dirty, and else the same as
 * before: until that is known, granules that were written need not be. It never is if the keeper
 * says that a write has failed which has happened, and the host can't say more. */
static void change(Disk *d, const Host *h, Model *m, unsigned b, bool clear)
{
    bool ok;

    m->changing[b] = true;
    if (!m->there[b])
        ok = disk_add(d, names[b], GRANULE, false, NULL);
    else
        ok = disk_change(d, names[b], clear ? bmp_bitmap_clear : bmp_bitmap_remove, NULL);
    m->changing[b] = !ok && h->abandoned && h->kept->happens;
    if (!ok)
        return;
    if (!m->there[b] || !clear)
        m->there[b] = !m->there[b];
    memset(m->must[b], 0, sizeof(m->must[b]));
    memset(m->may[b], 0, sizeof(m->may[b]));
}

/* After abandon() no write reaches the disk. */
static void write_to(Disk *d, const Host *h, Model *m, uint64_t offset, uint64_t length)
{
    model_mark(m, offset, length, false);
    disk_mark(d, offset, length);
    if (!h->abandoned)
        model_mark(m, offset, length, true);
}

static void step(Disk *d, const Host *h, Model *m, GRand *rng)
{
    static const uint64_t lengths[] = { 1, 4096, 70000, 5 * MIB };
    uint64_t at = (uint64_t)g_rand_int_range(rng, 0, 56 * 1024) * KIB;

    switch (g_rand_int_range(rng, 0, 16)) {
    case 0:
        change(d, h, m, 0, true);
        break;
    case 1:
        change(d, h, m, 1, g_rand_boolean(rng));
        break;
    case 2:
    case 3:
        bmp_set_tick(d->set);
        break;
    case 4:
        bmp_set_note_backup(d->set, "c");
        break;
    case 5:
        if (bmp_set_wants_commit(d->set))
            disk_heal(d);
        break;
    default:
        write_to(d, h, m, at, lengths[g_rand_int_range(rng, 0, 4)]);
    }
}

/* The same each time; @n: how many steps. */
static void run(Disk *d, Host *h, Model *m, unsigned seed, unsigned n)
{
    g_autoptr(GRand) rng = g_rand_new_with_seed(seed);

    for (unsigned i = 0; i < n; i++)
        step(d, h, m, rng);
}

/* ---- tests */

START_TEST(another_host_finds_what_was_written)
{
    Host one, two;
    Disk d;
    Kept k;

    init(&d, &k);
    open_on(&d, &one, &k);
    ck_assert(!bmp_set_store_exists(d.set));
    disk_must_add(&d, "a", GRANULE, false);
    disk_must_add(&d, "old", 4096, true);
    disk_mark(&d, 5 * MIB, 1);
    ck_assert(bmp_set_close_store(d.set));
    disk_kill(&d);
    open_on(&d, &two, &k);
    ck_assert_uint_eq(d.degraded, 0);
    assert_dirty(&d, "a", "5120-5184");
    assert_dirty(&d, "old", "");
    disk_mark(&d, 9 * MIB, 1);
    disk_kill(&d);
    open_on(&d, &one, &k);
    ck_assert_uint_ge(d.degraded, 1);
    ck_assert(disk_is_dirty(&d, "a", 9 * MIB));
    assert_says(d.reasons->str, "the daemon ended without closing the store: ");
    disk_must(&d, "a", bmp_bitmap_remove);
    disk_must(&d, "old", bmp_bitmap_remove);
    ck_assert_uint_eq(k.size, 0);
    ck_assert(bmp_set_close_store(d.set));
    fini(&d, &k);
}
END_TEST

START_TEST(a_mark_is_with_the_keeper_before_its_write_and_once)
{
    Host h;
    Disk d;
    Kept k;
    unsigned writes;

    init(&d, &k);
    open_on(&d, &h, &k);
    disk_must_add(&d, "a", GRANULE, false);
    writes = k.writes;
    for (unsigned i = 0; i < 3; i++)
        disk_mark(&d, 20 * MIB + i * 4096, 4096);
    ck_assert_uint_eq(k.writes, writes + 1);
    fini(&d, &k);
}
END_TEST

/* Whenever a host is lost, the next one finds all that was acknowledged. */
START_TEST(a_host_is_lost_at_any_write)
{
    Model m = { .there = { false } };
    Host h, next;
    Disk d;
    Kept k;

    init(&d, &k);
    k.model = &m;
    open_on(&d, &h, &k);
    change(&d, &h, &m, 0, true);
    run(&d, &h, &m, (unsigned)_i, 150);
    k.model = NULL;
    ck_assert(!h.abandoned);
    ck_assert_uint_gt(k.moments->len, 50);
    for (guint i = 0; i < k.moments->len; i++) {
        const Moment *moment = &g_array_index(k.moments, Moment, i);
        Kept then = k;

        then.data = g_memdup2(moment->data, moment->size + 1);
        then.size = moment->size;
        disk_kill(&d);
        open_on(&d, &next, &then);
        check_found(&d, &moment->model, true);
        g_free(then.data);
    }
    fini(&d, &k);
}
END_TEST

/* One write fails, or many do, whether they happen or not. Whoever has the disk next finds all that
 * was acknowledged: also where the host can't say that its store is out of date. */
START_TEST(writes_that_fail)
{
    static const unsigned times[] = { 1, 2, 4, 1000 };
    bool abandoned = false, healed = false;

    for (unsigned at = 2; at < 60; at++) {
        Model m = { .there = { false } };
        Host h, next;
        Disk d;
        Kept k;

        init(&d, &k);
        open_on(&d, &h, &k);
        change(&d, &h, &m, 0, true);
        k.fail_at = at;
        k.fail_n = times[at % 4];
        k.happens = _i % 2;
        run(&d, &h, &m, (unsigned)_i, 60);
        abandoned |= h.abandoned;
        healed |= d.healed > 0;
        k.fail_at = 0;
        disk_kill(&d);
        open_on(&d, &next, &k);
        check_found(&d, &m, false);
        fini(&d, &k);
    }
    ck_assert(abandoned && healed);
}
END_TEST

START_TEST(a_host_that_was_cut_off_writes_nothing)
{
    g_autofree uint8_t *before = NULL;
    Host one, two;
    BmpSet *cut;
    Disk d;
    Kept k;

    init(&d, &k);
    open_on(&d, &one, &k);
    disk_must_add(&d, "a", GRANULE, false);
    disk_mark(&d, 0, 1);
    cut = g_steal_pointer(&d.set);
    open_on(&d, &two, &k);
    disk_mark(&d, 9 * MIB, 1);
    before = g_memdup2(k.data, k.size);
    bmp_set_mark_begin(cut, 20 * MIB, 1);
    ck_assert(one.abandoned);
    bmp_set_tick(cut);
    ck_assert(!bmp_set_close_store(cut));
    bmp_set_free(cut);
    ck_assert_mem_eq(k.data, before, k.size);
    ck_assert(!two.abandoned);
    ck_assert(bmp_set_close_store(d.set));
    disk_kill(&d);
    open_on(&d, &one, &k);
    assert_dirty(&d, "a", "0-64 9216-9280");
    fini(&d, &k);
}
END_TEST

START_TEST(what_is_too_large_is_refused)
{
    g_autoptr(GError) error = NULL;
    Host h;
    Disk d;
    Kept k;

    init(&d, &k);
    d.size = UINT64_C(1) << 40;
    open_on(&d, &h, &k);
    ck_assert(!disk_add(&d, "a", 512, false, &error));
    assert_says(error->message, "File too large");
    disk_must_add(&d, "a", GRANULE, false);
    ck_assert(!h.abandoned);
    fini(&d, &k);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_kept");
    TCase *tc = tcase_create("store_kept");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 100);
    tcase_add_test(tc, another_host_finds_what_was_written);
    tcase_add_test(tc, a_mark_is_with_the_keeper_before_its_write_and_once);
    tcase_add_loop_test(tc, a_host_is_lost_at_any_write, 0, 4);
    tcase_add_loop_test(tc, writes_that_fail, 0, 4);
    tcase_add_test(tc, a_host_that_was_cut_off_writes_nothing);
    tcase_add_test(tc, what_is_too_large_is_refused);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
