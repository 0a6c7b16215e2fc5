/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_fuse_none.c: exports of the type "fuse" in a build without libfuse3. */
#include "server/fuse/fuse.h"
#include "tests/asserts.h"

#include "block/graph.h"

START_TEST(without_libfuse3_the_error_says_so)
{
    BlkEngineOptions options = { .io = BLK_IO_THREADS, .loops = 1 };
    BlkRegistry *registry = blk_registry_new(&tm_sys_kernel);
    BlkEngine *engine = blk_engine_new(&options, NULL);
    BlkGraph *graph = blk_graph_new(registry, engine, &tm_sys_kernel);
    BlkExports *exports = blk_exports_new(graph);
    json_object *node = json_tokener_parse("{\"driver\":\"null-co\",\"node-name\":\"n\"}");
    BlkExportOptions o = { .id = "f", .type = "fuse", .node_name = "n", .mountpoint = "/" };
    GError *error = NULL;

    ck_assert_ptr_null(fexp_mounter_new());
    fexp_register(exports, NULL);
    ck_assert_ptr_nonnull(blk_graph_add(graph, node, NULL));
    ck_assert_ptr_null(blk_exports_add(exports, &o, &error));
    ck_assert_str_eq(error->message, "Export 'f' of type 'fuse' is not possible: this program was "
                                     "built without libfuse3");
    g_error_free(error);
    json_object_put(node);
    blk_exports_free(exports);
    blk_graph_free(graph);
    blk_engine_free(engine);
    blk_registry_free(registry);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fuse");
    TCase *tests = tcase_create("fuse");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, without_libfuse3_the_error_says_so);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
