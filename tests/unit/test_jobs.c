/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_jobs.c: the life of jobs, with jobs that the test plays: what each state takes,
 * which states follow, transactions, errors, speed. */
#include "block/jobs/job.h"
#include "tests/asserts.h"
#include "util/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static BlkRegistry *registry;
static BlkEngine *engine;
static BlkGraph *graph;
static BlkJobs *jobs;
static GMainContext *context;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards said */
static GString *said; /* of each event: its name or the new state, and the job */

/* ---- jobs that the test plays */

typedef enum { WAIT, SUCCEED, FAIL, BE_READY } Play;

typedef struct Part {
    Play play; /* atomic */
    bool unprepared, ended, success;
    unsigned prepared; /* how many together */
    BlkJob *job;
} Part;

static Play play_of(Part *part)
{
    return __atomic_load_n(&part->play, __ATOMIC_ACQUIRE);
}

static bool part_run(void *opaque, BlkJob *job, GError **error)
{
    Part *part = opaque;

    if (play_of(part) == BE_READY)
        blk_job_ready(job);
    while (play_of(part) == WAIT || play_of(part) == BE_READY) {
        if (!blk_job_pause_point(job))
            return false;
        blk_job_wait(job, BLK_JOB_FOREVER);
    }
    return play_of(part) == SUCCEED || tm_error_set(error, "no luck");
}

static void part_complete(void *opaque)
{
    Part *part = opaque;

    __atomic_store_n(&part->play, SUCCEED, __ATOMIC_RELEASE);
}

static bool part_prepare(void *const *opaques, size_t n, GError **error)
{
    for (size_t i = 0; i < n; i++) {
        Part *part = opaques[i];

        part->prepared += (unsigned)n;
        if (part->unprepared)
            return tm_error_set(error, "unprepared");
    }
    return true;
}

static void part_end(void *opaque, bool success)
{
    Part *part = opaque;

    part->ended = true;
    part->success = success;
}

static const BlkJobKind kind = { .type = "backup",
                                 .block = true,
                                 .run = part_run,
                                 .complete = part_complete,
                                 .prepare = part_prepare,
                                 .end = part_end };

static BlkJob *make(const char *id, Part *part, BlkJobTxn *txn, bool manual)
{
    BlkJobOptions o = { .id = id,
                        .kind = &kind,
                        .opaque = part,
                        .txn = txn,
                        .manual_finalize = manual,
                        .manual_dismiss = manual };

    part->job = blk_job_new(jobs, &o, NULL);
    ck_assert_ptr_nonnull(part->job);
    return part->job;
}

static void play(Part *part, Play next)
{
    __atomic_store_n(&part->play, next, __ATOMIC_RELEASE);
    blk_job_kick(part->job);
}

/* ---- what is said */

static void emit(void *opaque, const char *name, json_object *data)
{
    json_object *value;

    pthread_mutex_lock(&lock);
    if (json_object_object_get_ex(data, "status", &value) ||
        json_object_object_get_ex(data, "action", &value))
        name = json_object_get_string(value);
    g_string_append_printf(said, "%s ", name);
    if (!json_object_object_get_ex(data, "id", &value))
        json_object_object_get_ex(data, "device", &value);
    g_string_append_printf(said, "%s, ", json_object_get_string(value));
    pthread_mutex_unlock(&lock);
    json_object_put(data);
}

static bool was_said(const char *text)
{
    bool was;

    pthread_mutex_lock(&lock);
    was = strstr(said->str, text) != NULL;
    pthread_mutex_unlock(&lock);
    return was;
}

static void await(const char *text)
{
    gint64 end = g_get_monotonic_time() + 20 * G_USEC_PER_SEC;

    while (!was_said(text)) {
        g_main_context_iteration(context, FALSE);
        g_usleep(500);
        if (g_get_monotonic_time() > end)
            ck_abort_msg("waited in vain for '%s' after '%s'", text, said->str);
    }
}

/* All of it, and from the beginning. */
static void expect(const char *text)
{
    pthread_mutex_lock(&lock);
    ck_assert_str_eq(said->str, text);
    g_string_truncate(said, 0);
    pthread_mutex_unlock(&lock);
}

static void clear_said(void)
{
    pthread_mutex_lock(&lock);
    g_string_truncate(said, 0);
    pthread_mutex_unlock(&lock);
}

static void setup(void)
{
    said = g_string_new(NULL);
    registry = blk_registry_new(&tm_sys_kernel);
    engine = blk_engine_new(&(BlkEngineOptions){ .io = BLK_IO_THREADS, .loops = 1 }, NULL);
    graph = blk_graph_new(registry, engine, &tm_sys_kernel);
    blk_graph_set_events(graph, emit, NULL);
    context = g_main_context_new();
    jobs = blk_jobs_new(graph, context);
}

static void teardown(void)
{
    blk_jobs_free(jobs);
    g_main_context_unref(context);
    blk_graph_free(graph);
    blk_engine_free(engine);
    blk_registry_free(registry);
    g_string_free(said, TRUE);
}

/* ---- what each state takes */

static char *verb(BlkJob *job, BlkJobVerb v)
{
    GError *error = NULL;
    bool ok =
        v == BLK_JOB_SET_SPEED ? blk_job_set_speed(job, 1, &error) : blk_job_act(job, v, &error);
    char *answer = ok ? g_strdup("ok") : g_strdup(error->message);

    g_clear_error(&error);
    return answer;
}

static void refused(BlkJob *job, const char *state, const BlkJobVerb *vs, size_t n)
{
    static const char *const names[] = { "cancel",   "pause",    "resume",  "set-speed",
                                         "complete", "finalize", "dismiss", "change" };

    for (size_t i = 0; i < n; i++) {
        g_autofree char *answer = verb(job, vs[i]);
        g_autofree char *wanted =
            vs[i] == BLK_JOB_RESUME
                ? g_strdup("Can't resume a job that was not paused")
                : g_strdup_printf("Job 'j' in state '%s' cannot accept command verb '%s'", state,
                                  names[vs[i]]);

        ck_assert_str_eq(answer, wanted);
    }
}

static void taken(BlkJob *job, BlkJobVerb v, const char *answer)
{
    g_autofree char *got = verb(job, v);

    ck_assert_str_eq(got, answer);
}

#define REFUSED(job, state, ...)                                                                   \
    refused(job, state, (BlkJobVerb[]){ __VA_ARGS__ },                                             \
            sizeof((BlkJobVerb[]){ __VA_ARGS__ }) / sizeof(BlkJobVerb))
#define NO_CHANGE "Job type does not support change"

START_TEST(each_state_takes_its_verbs)
{
    Part part = { WAIT };
    BlkJob *job = make("j", &part, NULL, true);

    blk_job_start(job);
    REFUSED(job, "running", BLK_JOB_RESUME, BLK_JOB_COMPLETE, BLK_JOB_FINALIZE, BLK_JOB_DISMISS);
    taken(job, BLK_JOB_SET_SPEED, "ok");
    taken(job, BLK_JOB_CHANGE, NO_CHANGE);
    taken(job, BLK_JOB_PAUSE, "ok");
    taken(job, BLK_JOB_PAUSE, "Job is already paused");
    await("paused j");
    REFUSED(job, "paused", BLK_JOB_COMPLETE, BLK_JOB_FINALIZE, BLK_JOB_DISMISS);
    taken(job, BLK_JOB_RESUME, "ok");
    await("paused j, running j");
    play(&part, SUCCEED);
    await("pending");
    REFUSED(job, "pending", BLK_JOB_PAUSE, BLK_JOB_RESUME, BLK_JOB_SET_SPEED, BLK_JOB_COMPLETE,
            BLK_JOB_DISMISS, BLK_JOB_CHANGE);
    ck_assert(!part.ended);
    taken(job, BLK_JOB_FINALIZE, "ok");
    ck_assert(part.success);
    REFUSED(job, "concluded", BLK_JOB_CANCEL, BLK_JOB_PAUSE, BLK_JOB_RESUME, BLK_JOB_SET_SPEED,
            BLK_JOB_COMPLETE, BLK_JOB_FINALIZE, BLK_JOB_CHANGE);
    taken(job, BLK_JOB_DISMISS, "ok");
    expect("created j, running j, paused j, running j, waiting j, pending j, BLOCK_JOB_PENDING j, "
           "BLOCK_JOB_COMPLETED j, concluded j, null j, ");
}
END_TEST

START_TEST(ready_job_can_be_completed)
{
    Part part = { BE_READY };
    BlkJob *job = make("j", &part, NULL, false);

    blk_job_start(job);
    await("BLOCK_JOB_READY");
    taken(job, BLK_JOB_PAUSE, "ok");
    await("standby");
    REFUSED(job, "standby", BLK_JOB_COMPLETE);
    taken(job, BLK_JOB_RESUME, "ok");
    await("standby j, ready");
    taken(job, BLK_JOB_COMPLETE, "ok");
    await("null");
    ck_assert(part.success);
}
END_TEST

/* ---- ends */

START_TEST(canceled_wherever_it_is)
{
    Part running = { WAIT }, paused = { WAIT }, pending = { SUCCEED };

    blk_job_start(make("r", &running, NULL, false));
    taken(running.job, BLK_JOB_CANCEL, "ok");
    await("null");
    expect("created r, running r, aborting r, BLOCK_JOB_CANCELLED r, concluded r, null r, ");
    blk_job_start(make("p", &paused, NULL, false));
    taken(paused.job, BLK_JOB_PAUSE, "ok");
    await("paused");
    taken(paused.job, BLK_JOB_CANCEL, "ok");
    await("null");
    expect("created p, running p, paused p, running p, aborting p, BLOCK_JOB_CANCELLED p, "
           "concluded p, null p, ");
    blk_job_start(make("q", &pending, NULL, true));
    await("BLOCK_JOB_PENDING");
    taken(pending.job, BLK_JOB_CANCEL, "ok");
    ck_assert(pending.ended && !pending.success);
    taken(pending.job, BLK_JOB_DISMISS, "ok");
    expect("created q, running q, waiting q, pending q, BLOCK_JOB_PENDING q, aborting q, "
           "BLOCK_JOB_CANCELLED q, concluded q, null q, ");
}
END_TEST

START_TEST(failure_keeps_its_message)
{
    Part part = { FAIL };
    BlkJob *job = make("j", &part, NULL, true);
    json_object *list, *error;

    blk_job_start(job);
    await("concluded");
    list = blk_jobs_query_block(jobs);
    ck_assert(json_object_object_get_ex(json_object_array_get_idx(list, 0), "error", &error));
    ck_assert_str_eq(json_object_get_string(error), "no luck");
    json_object_put(list);
    taken(job, BLK_JOB_DISMISS, "ok");
    expect("created j, running j, aborting j, BLOCK_JOB_COMPLETED j, concluded j, null j, ");
}
END_TEST

START_TEST(not_started_is_dropped)
{
    Part part = { SUCCEED };

    blk_job_drop(make("j", &part, NULL, true));
    ck_assert(part.ended && !part.success);
    expect("created j, aborting j, concluded j, null j, ");
}
END_TEST

/* ---- transactions */

START_TEST(transaction_waits_for_the_last)
{
    Part a = { SUCCEED }, b = { WAIT };
    BlkJobTxn *txn = blk_job_txn_new();

    make("a", &a, txn, false);
    make("b", &b, txn, false);
    blk_job_txn_unref(txn);
    blk_job_start(a.job);
    blk_job_start(b.job);
    await("waiting a");
    taken(a.job, BLK_JOB_PAUSE, "Job 'a' in state 'waiting' cannot accept command verb 'pause'");
    ck_assert(!was_said("pending"));
    play(&b, SUCCEED);
    await("null a");
    ck_assert(a.success && b.success);
    ck_assert_uint_eq(a.prepared, 2);
    ck_assert_uint_eq(b.prepared, 2);
    expect("created a, created b, running a, running b, waiting a, waiting b, pending b, "
           "pending a, BLOCK_JOB_COMPLETED b, concluded b, null b, BLOCK_JOB_COMPLETED a, "
           "concluded a, null a, ");
}
END_TEST

START_TEST(transaction_fails_as_one)
{
    Part a = { SUCCEED }, b = { WAIT }, c = { WAIT };
    BlkJobTxn *txn = blk_job_txn_new();

    make("a", &a, txn, false);
    make("b", &b, txn, false);
    make("c", &c, txn, false);
    blk_job_txn_unref(txn);
    blk_job_start(a.job);
    blk_job_start(b.job);
    blk_job_start(c.job);
    await("waiting a");
    clear_said();
    play(&b, FAIL);
    await("null a");
    ck_assert(a.ended && b.ended && c.ended);
    ck_assert(!a.success && !b.success && !c.success);
    expect("aborting b, aborting c, BLOCK_JOB_CANCELLED c, concluded c, null c, "
           "BLOCK_JOB_COMPLETED b, concluded b, null b, aborting a, BLOCK_JOB_CANCELLED a, "
           "concluded a, null a, ");
}
END_TEST

START_TEST(transaction_is_finalized_by_one)
{
    Part a = { SUCCEED }, b = { SUCCEED };
    BlkJobTxn *txn = blk_job_txn_new();

    make("a", &a, txn, true);
    make("b", &b, txn, false);
    blk_job_txn_unref(txn);
    blk_job_start(a.job);
    blk_job_start(b.job);
    await("BLOCK_JOB_PENDING a");
    ck_assert(!b.ended);
    taken(a.job, BLK_JOB_FINALIZE, "ok");
    ck_assert(a.success && b.success);
    taken(a.job, BLK_JOB_DISMISS, "ok");
}
END_TEST

START_TEST(transaction_that_cannot_be_prepared_fails)
{
    Part a = { SUCCEED }, b = { SUCCEED };
    BlkJobTxn *txn = blk_job_txn_new();

    a.unprepared = true;
    make("a", &a, txn, false);
    make("b", &b, txn, false);
    blk_job_txn_unref(txn);
    blk_job_start(a.job);
    blk_job_start(b.job);
    await("null a");
    ck_assert(a.ended && b.ended && !a.success && !b.success);
}
END_TEST

START_TEST(end_takes_all)
{
    Part a = { WAIT }, b = { SUCCEED }, c = { WAIT }, d = { SUCCEED };
    BlkJobTxn *txn = blk_job_txn_new();

    make("a", &a, txn, true);
    make("b", &b, txn, true);
    blk_job_txn_unref(txn);
    for (Part *part = &a; part; part = part == &a ? &b : NULL)
        blk_job_start(part->job);
    blk_job_start(make("c", &c, NULL, false));
    blk_job_act(c.job, BLK_JOB_PAUSE, NULL);
    blk_job_start(make("d", &d, NULL, true));
    await("BLOCK_JOB_PENDING d");
    await("waiting b");
    blk_jobs_end(jobs);
    ck_assert(a.ended && b.ended && c.ended && d.ended);
    ck_assert(!a.success && !b.success && !c.success && !d.success);
}
END_TEST

/* ---- errors of I/O, and speed */

static void io_status(const char *wanted)
{
    json_object *list = blk_jobs_query_block(jobs), *status;

    ck_assert(json_object_object_get_ex(json_object_array_get_idx(list, 0), "io-status", &status));
    ck_assert_str_eq(json_object_get_string(status), wanted);
    json_object_put(list);
}

START_TEST(error_follows_its_policy)
{
    Part part = { WAIT };
    BlkJob *job = make("j", &part, NULL, false);

    blk_job_start(job);
    ck_assert_int_eq(blk_job_error(job, BLK_ON_ERROR_REPORT, true, EIO), BLK_ON_ERROR_REPORT);
    ck_assert_int_eq(blk_job_error(job, BLK_ON_ERROR_IGNORE, true, EIO), BLK_ON_ERROR_IGNORE);
    ck_assert_int_eq(blk_job_error(job, BLK_ON_ERROR_ENOSPC, false, EIO), BLK_ON_ERROR_REPORT);
    io_status("ok");
    ck_assert_int_eq(blk_job_error(job, BLK_ON_ERROR_ENOSPC, false, ENOSPC), BLK_ON_ERROR_STOP);
    io_status("nospace");
    ck_assert(blk_job_paused(job));
    taken(job, BLK_JOB_RESUME, "ok");
    io_status("ok");
    ck_assert_int_eq(blk_job_error(job, BLK_ON_ERROR_STOP, true, EIO), BLK_ON_ERROR_STOP);
    io_status("failed");
    taken(job, BLK_JOB_CANCEL, "ok");
    await("null");
}
END_TEST

START_TEST(speed_is_kept)
{
    Part part = { WAIT };
    BlkJob *job = make("j", &part, NULL, false);
    uint64_t delay;

    blk_job_spend(job, UINT64_C(1) << 40);
    ck_assert_uint_eq(blk_job_delay(job), 0);
    ck_assert(!blk_job_set_speed(job, -1, NULL));
    ck_assert(blk_job_set_speed(job, 10 << 20, NULL));
    ck_assert_uint_eq(blk_job_delay(job), 0);
    blk_job_spend(job, 1 << 19); /* half of a slice */
    ck_assert_uint_eq(blk_job_delay(job), 0);
    blk_job_spend(job, 20 << 20); /* two seconds */
    delay = blk_job_delay(job);
    ck_assert_uint_gt(delay, UINT64_C(1800000000));
    ck_assert_uint_lt(delay, UINT64_C(2100000000));
    ck_assert(blk_job_set_speed(job, 0, NULL));
    ck_assert_uint_eq(blk_job_delay(job), 0);
    blk_job_drop(job);
}
END_TEST

static char *no_job(const char *id, int64_t speed)
{
    Part part = { WAIT };
    BlkJobOptions o = { .id = id, .kind = &kind, .opaque = &part, .speed = speed };
    GError *error = NULL;
    char *message;

    ck_assert_ptr_null(blk_job_new(jobs, &o, &error));
    ck_assert(!part.ended);
    message = g_strdup(error->message);
    g_error_free(error);
    return message;
}

START_TEST(ids_are_unique_identifiers)
{
    Part part = { WAIT };
    BlkJob *job = make("j", &part, NULL, false);
    g_autofree char *invalid = no_job("1 x", 0), *taken_id = no_job("j", 0),
                    *speed = no_job("k", -1);

    ck_assert_str_eq(invalid, "Invalid job ID '1 x'");
    ck_assert_str_eq(taken_id, "Job ID 'j' already in use");
    ck_assert_str_eq(speed, "Parameter 'speed' expects a non-negative value");
    blk_job_drop(job);
    expect("created j, created k, null k, aborting j, concluded j, null j, ");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("jobs");
    TCase *cases = tcase_create("life");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, each_state_takes_its_verbs);
    tcase_add_test(cases, ready_job_can_be_completed);
    tcase_add_test(cases, canceled_wherever_it_is);
    tcase_add_test(cases, failure_keeps_its_message);
    tcase_add_test(cases, not_started_is_dropped);
    tcase_add_test(cases, transaction_waits_for_the_last);
    tcase_add_test(cases, transaction_fails_as_one);
    tcase_add_test(cases, transaction_is_finalized_by_one);
    tcase_add_test(cases, transaction_that_cannot_be_prepared_fails);
    tcase_add_test(cases, end_takes_all);
    tcase_add_test(cases, error_follows_its_policy);
    tcase_add_test(cases, speed_is_kept);
    tcase_add_test(cases, ids_are_unique_identifiers);
    suite_add_tcase(suite, cases);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
