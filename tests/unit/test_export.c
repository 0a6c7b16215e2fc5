/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_export.c: the registry of exports with a server that the test plays: which
 * servers show what, what names mean, how many clients, and how an export ends. */
#include "block/engine/engine.h"
#include "block/export/export.h"
#include "tests/asserts.h"
#include "util/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static BlkRegistry *registry;
static BlkEngine *engine;
static BlkGraph *graph;
static BlkExports *exports;

/* ---- the server: ids that run, and one session */

static GPtrArray *ids;
static BlkExport *held; /* by the session: a reference, begun */
static unsigned cuts;

static void end_session(void)
{
    if (!held)
        return;
    blk_export_session_end(held);
    blk_export_unref(g_steal_pointer(&held));
}

static bool find_id(const char *id, guint *at)
{
    return g_ptr_array_find_with_equal_func(ids, id, g_str_equal, at);
}

static bool start(void *opaque, const BlkServerOptions *options, GError **error)
{
    ck_assert_ptr_eq(opaque, ids);
    g_ptr_array_add(ids, g_strdup(options->id));
    return true;
}

static void stop(void *opaque, const char *id)
{
    guint at;

    ck_assert(find_id(id, &at));
    g_ptr_array_remove_index(ids, at);
}

static bool running(void *opaque, const char *id)
{
    return id ? find_id(id, NULL) : ids->len > 0;
}

static void disconnect(void *opaque, BlkExport *x)
{
    cuts++;
    if (x == held)
        end_session();
}

/* ---- a type whose exports need no server */

static bool fails;
static GString *log_; /* a letter for each call */

static bool plain_start(void *opaque, BlkExport *x, const BlkExportOptions *options, GError **error)
{
    if (fails)
        return tm_error_set(error, "no way");
    g_string_append_c(log_, 's');
    blk_export_set_serving(x, &fails);
    return true;
}

static void plain_log(BlkExport *x, char letter)
{
    ck_assert_ptr_eq(blk_export_serving(x), &fails);
    g_string_append_c(log_, letter);
}

static void plain_close(void *opaque, BlkExport *x)
{
    plain_log(x, 'c');
}

static void plain_disconnect(void *opaque, BlkExport *x)
{
    plain_log(x, 'd');
    if (x == held)
        end_session();
}

static void plain_end(void *opaque, BlkExport *x)
{
    plain_log(x, 'e');
}

static const BlkExportType plain = {
    .name = "plain",
    .start = plain_start,
    .close = plain_close,
    .disconnect = plain_disconnect,
    .end = plain_end,
};

static void setup(void)
{
    BlkEngineOptions options = { .io = BLK_IO_THREADS, .loops = 1, .workers = 1 };
    BlkServer server = { .start = start, .stop = stop, .running = running };
    BlkExportType nbd = { .name = "nbd", .by_servers = true, .disconnect = disconnect };
    json_object *node = json_tokener_parse("{\"driver\": \"null-co\", \"node-name\": \"n\"}");

    registry = blk_registry_new(&tm_sys_kernel);
    engine = blk_engine_new(&options, NULL);
    graph = blk_graph_new(registry, engine, &tm_sys_kernel);
    ck_assert_ptr_nonnull(blk_graph_add(graph, node, NULL));
    json_object_put(node);
    exports = blk_exports_new(graph);
    server.opaque = ids = g_ptr_array_new_with_free_func(g_free);
    blk_exports_set_server(exports, &server);
    blk_exports_add_type(exports, &nbd);
    blk_exports_add_type(exports, &plain);
    log_ = g_string_new(NULL);
    fails = false;
    cuts = 0;
}

static void teardown(void)
{
    blk_exports_del_all(exports);
    blk_exports_free(exports);
    blk_graph_free(graph);
    blk_engine_free(engine);
    blk_registry_free(registry);
    g_ptr_array_unref(ids);
    g_string_free(log_, TRUE);
}

/* ---- short forms */

static void start_server(const char *id)
{
    BlkServerOptions options = { .id = id, .limits = BLK_SERVER_LIMITS };

    ck_assert(blk_exports_server_start(exports, &options, NULL));
}

/* @servers: "" for all, else their one-letter ids. */
static bool add_export(const char *id, const char *name, const char *servers, BlkExportOptions more,
                       GError **error)
{
    char letters[8][2] = { 0 };
    const char *list[8];

    more.id = id;
    more.type = more.type ? more.type : "nbd";
    more.node_name = "n";
    more.name = name;
    for (size_t i = 0; servers[i]; i++) {
        letters[i][0] = servers[i];
        list[i] = letters[i];
    }
    more.servers = *servers ? list : NULL;
    more.n_servers = strlen(servers);
    return blk_exports_add(exports, &more, error);
}

static void add(const char *id, const char *name, const char *servers)
{
    ck_assert(add_export(id, name, servers, (BlkExportOptions){ 0 }, NULL));
}

static void refuse(const char *id, const char *name, const char *servers, BlkExportOptions more,
                   const char *message)
{
    g_autoptr(GError) error = NULL;

    ck_assert(!add_export(id, name, servers, more, &error));
    ck_assert_ptr_nonnull(strstr(error->message, message));
}

/* The id of what a client of @server gets by that name; "" if nothing. */
static const char *shown(const char *server, const char *name)
{
    g_autoptr(BlkExport) x = blk_exports_lookup(exports, "nbd", server, name);

    return x ? blk_export_id(x) : "";
}

static guint n_listed(const char *server)
{
    g_autoptr(GPtrArray) all = blk_exports_lookup_all(exports, "nbd", server);

    return all->len;
}

static guint n_exports(void)
{
    g_autoptr(GPtrArray) all = blk_exports_list(exports);

    return all->len;
}

static bool del(const char *id, BlkDelMode mode, uint32_t seconds, const char *message)
{
    g_autoptr(GError) error = NULL;
    bool ok = blk_exports_del(exports, id, mode, seconds, &error);

    ck_assert_int_eq(ok, message == NULL);
    if (!ok)
        ck_assert_ptr_nonnull(strstr(error->message, message));
    return ok;
}

static void begin_session(const char *id)
{
    held = blk_exports_find_id(exports, id);
    ck_assert_int_eq(blk_export_session_begin(held), 0);
}

/* ---- the cases */

START_TEST(a_server_shows_the_exports_chosen_for_it)
{
    refuse("x", "x", "", (BlkExportOptions){ 0 }, "NBD server not running");
    start_server("a");
    start_server("b");
    add("all", "n1", "");
    add("xa", "n2", "a");
    add("xb", "n2", "b");
    refuse("y", "n2", "", (BlkExportOptions){ 0 }, "already has export named 'n2'");
    refuse("y", "n2", "ab", (BlkExportOptions){ 0 }, "already has export named 'n2'");
    refuse("y", "n1", "a", (BlkExportOptions){ 0 }, "already has export named 'n1'");
    refuse("y", "y", "ac", (BlkExportOptions){ 0 }, "NBD server 'c' not running");
    refuse("y", "y", "aa", (BlkExportOptions){ 0 }, "twice");
    ck_assert_str_eq(shown("a", "n2"), "xa");
    ck_assert_str_eq(shown("b", "n2"), "xb");
    ck_assert_str_eq(shown("b", "n1"), "all");
    ck_assert_str_eq(shown("c", "n2"), "");
    ck_assert_int_eq(n_listed("a"), 2);
}
END_TEST

START_TEST(a_stopped_server_ends_its_exports_and_sessions)
{
    g_autoptr(GError) error = NULL;

    start_server("a");
    start_server("b");
    add("all", "n1", "");
    add("xa", "n2", "a");
    add("both", "n3", "ab");
    begin_session("xa");
    ck_assert(!blk_exports_server_stop(exports, NULL, &error));
    ck_assert_str_eq(error->message, "NBD server not running");
    ck_assert(blk_exports_server_stop(exports, "a", NULL));
    ck_assert_ptr_null(held);
    ck_assert_int_eq(n_exports(), 2);
    ck_assert(blk_exports_server_stop(exports, "b", NULL));
    ck_assert_int_eq(n_exports(), 0);
}
END_TEST

START_TEST(default_and_hidden_exports_are_found_by_name)
{
    start_server("a");
    add("x", "x", "");
    ck_assert_str_eq(shown("a", ""), "");
    ck_assert(
        add_export("h", "h", "", (BlkExportOptions){ .hidden = true, .is_default = true }, NULL));
    ck_assert_str_eq(shown("a", ""), "h");
    ck_assert_int_eq(n_listed("a"), 1);
    refuse("y", "y", "", (BlkExportOptions){ .is_default = true }, "default export: 'h'");
    add("e", "", "");
    ck_assert_str_eq(shown("a", ""), "e");
    del("e", BLK_DEL_SAFE, 0, NULL);
    ck_assert_str_eq(shown("a", ""), "h");
}
END_TEST

START_TEST(max_connections_limits_sessions)
{
    g_autoptr(BlkExport) x = NULL;

    start_server("a");
    ck_assert(add_export("x", "x", "", (BlkExportOptions){ .max_connections = 2 }, NULL));
    x = blk_exports_find_id(exports, "x");
    ck_assert_int_eq(blk_export_session_begin(x), 0);
    ck_assert_int_eq(blk_export_session_begin(x), 0);
    ck_assert_int_eq(blk_export_session_begin(x), -EUSERS);
    ck_assert_int_eq(blk_export_sessions(x), 2);
    blk_export_session_end(x);
    ck_assert_int_eq(blk_export_session_begin(x), 0);
    del("x", BLK_DEL_SAFE, 0, "still in use");
    del("x", BLK_DEL_HARD, 0, NULL);
    ck_assert_int_eq(blk_export_session_begin(x), -ESHUTDOWN);
    blk_export_session_end(x);
    blk_export_session_end(x);
}
END_TEST

START_TEST(deletion_in_mode_wait_waits_for_sessions)
{
    start_server("a");
    add("x", "x", "");
    begin_session("x");
    del("x", BLK_DEL_WAIT, 0, NULL);
    ck_assert_int_eq(cuts, 0);
    ck_assert_str_eq(shown("a", "x"), "");
    add("y", "x", ""); /* the name is free */
    blk_exports_tick(exports);
    ck_assert_int_eq(cuts, 0);
    del("x", BLK_DEL_SAFE, 0, "already shutting down");
    ck_assert_int_eq(n_exports(), 2);
    end_session();
    ck_assert_int_eq(n_exports(), 1);
    del("x", BLK_DEL_WAIT, 0, "not found");
}
END_TEST

START_TEST(deletion_in_mode_wait_cuts_after_its_seconds)
{
    start_server("a");
    add("x", "x", "");
    begin_session("x");
    del("x", BLK_DEL_WAIT, 1, NULL);
    blk_exports_tick(exports);
    ck_assert_int_eq(cuts, 0);
    g_usleep(G_USEC_PER_SEC + 1000);
    blk_exports_tick(exports);
    ck_assert_int_eq(cuts, 1);
    ck_assert_int_eq(n_exports(), 0);
    add("y", "y", "");
    begin_session("y");
    del("y", BLK_DEL_WAIT, 0, NULL);
    del("y", BLK_DEL_WAIT, UINT32_MAX, NULL);
    del("y", BLK_DEL_HARD, 0, NULL);
    ck_assert_int_eq(cuts, 2);
    ck_assert_int_eq(n_exports(), 0);
}
END_TEST

START_TEST(a_type_without_servers_has_exports_of_its_own)
{
    BlkExportOptions of_plain = { .type = "plain" };

    refuse("x", NULL, "", (BlkExportOptions){ .type = "other" }, "does not accept value 'other'");
    fails = true;
    refuse("x", NULL, "", of_plain, "no way");
    fails = false;
    ck_assert_int_eq(n_exports(), 0);
    ck_assert(add_export("x", NULL, "", of_plain, NULL));
    start_server("a");
    add("y", "x", ""); /* names are the servers' */
    ck_assert_int_eq(n_listed("a"), 1);
    ck_assert(blk_exports_server_stop(exports, "a", NULL));
    ck_assert_int_eq(n_exports(), 1);
    begin_session("x");
    del("x", BLK_DEL_SAFE, 0, "still in use");
    ck_assert_str_eq(log_->str, "s");
    del("x", BLK_DEL_WAIT, 0, NULL);
    ck_assert_str_eq(log_->str, "sc");
    del("x", BLK_DEL_HARD, 0, NULL);
    ck_assert_int_eq(n_exports(), 0);
    ck_assert_str_eq(log_->str, "scde");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("export");
    TCase *cases = tcase_create("registry");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, a_server_shows_the_exports_chosen_for_it);
    tcase_add_test(cases, a_stopped_server_ends_its_exports_and_sessions);
    tcase_add_test(cases, default_and_hidden_exports_are_found_by_name);
    tcase_add_test(cases, a_type_without_servers_has_exports_of_its_own);
    tcase_add_test(cases, max_connections_limits_sessions);
    tcase_add_test(cases, deletion_in_mode_wait_waits_for_sessions);
    tcase_add_test(cases, deletion_in_mode_wait_cuts_after_its_seconds);
    suite_add_tcase(suite, cases);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
