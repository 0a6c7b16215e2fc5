/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_quiesce.c: gates, and drains that let through who is inside of one. */
#include "block/engine/inflight.h"
#include "block/engine/quiesce.h"
#include "tests/asserts.h"

#include <glib.h>

#define MIB     (UINT64_C(1) << 20)
#define PATIENT 50000 /* us in which what should not happen would have happened */

typedef struct Scene {
    BlkQuiesce quiesce;
    BlkInflight inflight;
    bool exclusive;
    int step; /* atomic: how far the other thread is */
    int go;   /* atomic: how far it may go */
} Scene;

static void scene_init(Scene *s)
{
    *s = (Scene){ 0 };
    blk_quiesce_init(&s->quiesce);
    blk_inflight_init(&s->inflight, NULL);
}

static void scene_clear(Scene *s)
{
    blk_inflight_destroy(&s->inflight);
    blk_quiesce_destroy(&s->quiesce);
}

static void set(int *value, int to)
{
    __atomic_store_n(value, to, __ATOMIC_SEQ_CST);
}

static int get(const int *value)
{
    return __atomic_load_n(value, __ATOMIC_SEQ_CST);
}

static void wait_for(const int *value, int at_least)
{
    while (get(value) < at_least)
        g_usleep(1000);
}

/* ---- gates */

static gpointer come_in(gpointer opaque)
{
    Scene *s = opaque;

    blk_quiesce_enter(&s->quiesce);
    set(&s->step, 1);
    wait_for(&s->go, 1);
    set(&s->step, 2);
    blk_quiesce_leave(&s->quiesce);
    return NULL;
}

static gpointer close_it(gpointer opaque)
{
    Scene *s = opaque;

    blk_quiesce_close(&s->quiesce);
    set(&s->step, 3);
    wait_for(&s->go, 2);
    blk_quiesce_open(&s->quiesce);
    return NULL;
}

START_TEST(closing_waits_for_those_inside)
{
    Scene s;
    GThread *guest, *closer;

    scene_init(&s);
    guest = g_thread_new("guest", come_in, &s);
    wait_for(&s.step, 1);
    closer = g_thread_new("closer", close_it, &s);
    g_usleep(PATIENT);
    ck_assert_int_eq(get(&s.step), 1); /* not closed while somebody is inside */
    set(&s.go, 1);
    g_thread_join(guest);
    wait_for(&s.step, 3);
    set(&s.go, 2);
    g_thread_join(closer);
    scene_clear(&s);
}
END_TEST

START_TEST(a_closed_node_admits_nobody)
{
    Scene s;
    GThread *guest;

    scene_init(&s);
    blk_quiesce_close(&s.quiesce);
    guest = g_thread_new("guest", come_in, &s);
    g_usleep(PATIENT);
    ck_assert_int_eq(get(&s.step), 0);
    ck_assert(!blk_quiesce_inside());
    blk_quiesce_enter(&s.quiesce); /* who closed it */
    blk_quiesce_enter(&s.quiesce);
    ck_assert(blk_quiesce_inside());
    blk_quiesce_leave(&s.quiesce);
    ck_assert(blk_quiesce_inside());
    blk_quiesce_leave(&s.quiesce);
    ck_assert(!blk_quiesce_inside());
    ck_assert_int_eq(get(&s.step), 0);
    blk_quiesce_open(&s.quiesce);
    wait_for(&s.step, 1);
    set(&s.go, 1);
    g_thread_join(guest);
    scene_clear(&s);
}
END_TEST

/* ---- drains */

/* Asks for a range, inside the node or not (go < 0), shared or exclusively. */
static gpointer ask(gpointer opaque)
{
    Scene *s = opaque;
    bool inside = get(&s->go) >= 0;

    if (inside)
        blk_quiesce_enter(&s->quiesce);
    if (s->exclusive) {
        blk_inflight_exclusive(&s->inflight, MIB, 2 * MIB);
        set(&s->step, 1);
        blk_inflight_exclusive_end(&s->inflight, MIB, 2 * MIB);
    } else {
        blk_inflight_shared(&s->inflight, MIB, 2 * MIB);
        set(&s->step, 1);
        blk_inflight_shared_end(&s->inflight, MIB, 2 * MIB);
    }
    if (inside)
        blk_quiesce_leave(&s->quiesce);
    return NULL;
}

static void check_drain(bool quiesces, bool inside, bool exclusive, bool passes)
{
    Scene s;
    GThread *thread;

    scene_init(&s);
    s.exclusive = exclusive;
    s.go = inside ? 0 : -1;
    if (quiesces)
        blk_inflight_drain_to_quiesce(&s.inflight);
    else
        blk_inflight_drain(&s.inflight);
    thread = g_thread_new("asks", ask, &s);
    if (passes) {
        g_thread_join(thread); /* at once, or never */
    } else {
        g_usleep(PATIENT);
        ck_assert_int_eq(get(&s.step), 0);
    }
    blk_inflight_drain_end(&s.inflight);
    if (!passes)
        g_thread_join(thread);
    ck_assert_int_eq(get(&s.step), 1);
    ck_assert(blk_inflight_try_shared(&s.inflight, 0, 64 * MIB)); /* nothing is left held */
    blk_inflight_shared_end(&s.inflight, 0, 64 * MIB);
    blk_inflight_drain(&s.inflight);
    blk_inflight_drain_end(&s.inflight);
    scene_clear(&s);
}

START_TEST(a_drain_lets_through_only_who_is_inside)
{
    for (int exclusive = 0; exclusive < 2; exclusive++) {
        check_drain(true, true, exclusive, true);
        check_drain(true, false, exclusive, false);
        check_drain(false, true, exclusive, false);
        check_drain(false, false, exclusive, false);
    }
}
END_TEST

/* Who waits inside when the drain begins, as somebody else holds a part, is let through once it is
 * complete. */
START_TEST(a_waiter_from_before_the_drain_is_let_through)
{
    for (int exclusive = 0; exclusive < 2; exclusive++) {
        Scene s;
        GThread *thread;

        scene_init(&s);
        s.exclusive = exclusive;
        blk_inflight_drain(&s.inflight); /* in the way of the thread */
        thread = g_thread_new("asks", ask, &s);
        g_usleep(PATIENT);
        ck_assert_int_eq(get(&s.step), 0);
        blk_inflight_drain_end(&s.inflight);
        blk_inflight_drain_to_quiesce(&s.inflight); /* it may come first, or pass */
        g_thread_join(thread);
        blk_inflight_drain_end(&s.inflight);
        scene_clear(&s);
    }
}
END_TEST

START_TEST(the_drainer_is_not_blocked_by_its_drain)
{
    BlkInflight x;

    blk_inflight_init(&x, NULL);
    blk_inflight_drain(&x);
    blk_inflight_shared(&x, 0, MIB);
    blk_inflight_exclusive(&x, MIB, MIB);
    blk_inflight_drain(&x);
    blk_inflight_drain_end(&x);
    blk_inflight_exclusive_end(&x, MIB, MIB);
    blk_inflight_shared_end(&x, 0, MIB);
    ck_assert(!blk_inflight_try_shared(&x, 0, MIB)); /* still drained */
    blk_inflight_drain_end(&x);
    ck_assert(blk_inflight_try_shared(&x, 0, MIB));
    blk_inflight_shared_end(&x, 0, MIB);
    blk_inflight_destroy(&x);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("quiesce");
    TCase *c = tcase_create("all");
    SRunner *runner;
    int failed;

    tcase_add_test(c, closing_waits_for_those_inside);
    tcase_add_test(c, a_closed_node_admits_nobody);
    tcase_add_test(c, a_drain_lets_through_only_who_is_inside);
    tcase_add_test(c, a_waiter_from_before_the_drain_is_let_through);
    tcase_add_test(c, the_drainer_is_not_blocked_by_its_drain);
    suite_add_tcase(suite, c);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
