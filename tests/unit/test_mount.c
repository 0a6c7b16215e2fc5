/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_mount.c: "tidemark mount" in a build without libfuse3. */
#include "client/commands.h"
#include "tests/asserts.h"

static char *said;

/* In the place of the client's. */
int tc_fail(GError *error)
{
    ck_assert_ptr_null(said);
    said = g_strdup(error->message);
    g_error_free(error);
    return TC_EXIT_FAILED;
}

START_TEST(without_libfuse3_it_says_so_in_one_line)
{
    static const TcCommand *const commands[] = { &tc_command_mount, NULL };
    static const TcCommand root = { .name = "tidemark", .subcommands = commands };
    char *words[] = { "tidemark", "mount", "/nonexistent", "/" };
    TcInvocation inv = { 0 };

    ck_assert(tc_cli_parse(&root, G_N_ELEMENTS(words), words, &inv, NULL));
    ck_assert_int_eq(tc_command_mount.run(&inv), TC_EXIT_FAILED);
    ck_assert_str_eq(said, "this program was built without libfuse3: 'tidemark serve REPOSITORY "
                           "--at POINT' exports the disks over NBD");
    tc_invocation_clear(&inv);
    g_free(said);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mount");
    TCase *tests = tcase_create("mount");
    SRunner *runner;
    int failed;

    tcase_add_test(tests, without_libfuse3_it_says_so_in_one_line);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
