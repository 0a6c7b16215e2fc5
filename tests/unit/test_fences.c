/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_fences.c: what a fenced process can't do any more, and what it still can.
 *
 * Each attempt runs in a child of its own, since a fence can't be taken down. Its exit status is
 * the errno of the attempt. */
#include "daemon/fences.h"
#include "daemon/unit.h"
#include "tests/asserts.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char *dir, *inside, *outside;

static int in_child(int (*attempt)(void))
{
    pid_t child = fork();
    int status;

    ck_assert_int_ge(child, 0);
    if (!child)
        _exit(attempt());
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status), "signal %d", WTERMSIG(status));
    return WEXITSTATUS(status);
}

/* ---- calls */

static int exec_it(void)
{
    static char *const argv[] = { "true", NULL };

    if (seccomp_restrict(true))
        return 255;
    execv("/bin/true", argv);
    return errno;
}

static int fork_it(void)
{
    pid_t child;

    if (seccomp_restrict(true))
        return 255;
    child = fork();
    return child < 0 ? errno : 0;
}

static int mount_it(void)
{
    if (seccomp_restrict(true))
        return 255;
    return mount("none", "/tmp", "tmpfs", 0, NULL) < 0 ? errno : 0;
}

static int trace_it(void)
{
    if (seccomp_restrict(true))
        return 255;
    return ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0 ? errno : 0;
}

static int become_it(void)
{
    if (seccomp_restrict(true))
        return 255;
    return setuid(getuid()) < 0 ? errno : 0;
}

static void *thread(void *unused)
{
    return (void *)dir;
}

static int thread_it(void)
{
    pthread_t t;
    void *result = NULL;
    int err;

    if (seccomp_restrict(true))
        return 255;
    err = pthread_create(&t, NULL, thread, NULL);
    return err ? err : pthread_join(t, &result) || result != dir;
}

/* One that was there before is fenced, too. */
static int other_end[2];

static void *old_thread(void *unused)
{
    char go;

    return read(other_end[0], &go, 1) == 1 && fork() < 0 && errno == EPERM ? unused : NULL;
}

static int old_thread_it(void)
{
    pthread_t t;
    void *result = NULL;

    if (pipe(other_end) || pthread_create(&t, NULL, old_thread, dir) || seccomp_restrict(true) ||
        write(other_end[1], "", 1) != 1 || pthread_join(t, &result))
        return 255;
    return result != dir;
}

/* Nobody listens there. */
static int connect_it(bool may)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(to.sun_path, sizeof(to.sun_path), "%s/nobody", dir);
    if (fd < 0 || seccomp_restrict(may))
        return 255;
    return connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0 ? errno : 0;
}

static int connect_forbidden(void)
{
    return connect_it(false);
}

static int connect_allowed(void)
{
    return connect_it(true);
}

START_TEST(forbidden_system_calls_fail)
{
    ck_assert_int_eq(in_child(exec_it), EPERM);
    ck_assert_int_eq(in_child(fork_it), EPERM);
    ck_assert_int_eq(in_child(mount_it), EPERM);
    ck_assert_int_eq(in_child(trace_it), EPERM);
    ck_assert_int_eq(in_child(become_it), EPERM);
    ck_assert_int_eq(in_child(thread_it), 0);
    ck_assert_int_eq(in_child(old_thread_it), 0);
    ck_assert_int_eq(in_child(connect_forbidden), EPERM);
    ck_assert_int_eq(in_child(connect_allowed), ENOENT);
}
END_TEST

/* ---- files */

static int fence(bool given)
{
    char *paths[] = { inside, "/does/not/exist", NULL };

    return landlock_restrict(landlock_version(), given ? paths : NULL);
}

static int open_at(const char *where, const char *name, int flags)
{
    g_autofree char *path = g_build_filename(where, name, NULL);
    int fd = open(path, flags, 0600);

    return fd < 0 ? errno : 0;
}

static int read_inside(void)
{
    return fence(true) ? 255 : open_at(inside, "f", O_RDWR);
}

static int make_inside(void)
{
    return fence(true) ? 255 : open_at(inside, "new", O_RDWR | O_CREAT | O_EXCL);
}

static int rename_inside(void)
{
    g_autofree char *from = g_build_filename(inside, "new", NULL);
    g_autofree char *to = g_build_filename(inside, "newer", NULL);

    return fence(true) ? 255 : rename(from, to) < 0 || unlink(to) < 0 ? errno : 0;
}

static int bind_inside(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    g_snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", inside);
    if (fence(true))
        return 255;
    return bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || unlink(address.sun_path)
               ? errno
               : 0;
}

static int read_outside(void)
{
    return fence(true) ? 255 : open_at(outside, "f", O_RDONLY);
}

static int make_outside(void)
{
    return fence(true) ? 255 : open_at(outside, "new", O_RDWR | O_CREAT);
}

static int read_anywhere(void)
{
    return fence(false) ? 255 : open_at(outside, "f", O_RDWR);
}

static int exec_anywhere(void)
{
    static char *const argv[] = { "true", NULL };

    if (fence(false))
        return 255;
    execv("/bin/true", argv);
    return errno;
}

static int device_anywhere(void)
{
    g_autofree char *path = g_build_filename(outside, "fifo", NULL);

    return fence(false) ? 255 : mkfifo(path, 0600) < 0 ? errno : 0;
}

START_TEST(files_outside_the_sandbox_are_refused)
{
    if (!landlock_version())
        return; /* tests/func/test_sandbox.py says so */
    ck_assert_int_eq(in_child(read_inside), 0);
    ck_assert_int_eq(in_child(make_inside), 0);
    ck_assert_int_eq(in_child(rename_inside), 0);
    ck_assert_int_eq(in_child(bind_inside), 0);
    ck_assert_int_eq(in_child(read_outside), EACCES);
    ck_assert_int_eq(in_child(make_outside), EACCES);
    ck_assert_int_eq(in_child(read_anywhere), 0);
    ck_assert_int_eq(in_child(exec_anywhere), EACCES);
    ck_assert_int_eq(in_child(device_anywhere), EACCES);
}
END_TEST

/* ---- identities */

static int drop(const char *who)
{
    g_autoptr(GError) error = NULL;

    return identity_drop(who, &error) ? 0 : 254;
}

static int drop_to_number(void)
{
    return drop("12345:54321") || getuid() != 12345 || geteuid() != 12345 || getgid() != 54321 ||
           getgroups(0, NULL) != 0 || setuid(0) == 0;
}

static int drop_to_name(void)
{
    return drop("nobody") || getuid() == 0 || setuid(0) == 0;
}

static int drop_to_stranger(void)
{
    return drop("no such user") == 254 && drop("nobody:no such group") == 254 && drop("") == 254 &&
           drop(":") == 254;
}

START_TEST(root_can_drop_to_a_user_by_name_or_number)
{
    ck_assert_int_eq(in_child(drop_to_stranger), 1);
    if (getuid())
        return;
    ck_assert_int_eq(in_child(drop_to_number), 0);
    ck_assert_int_eq(in_child(drop_to_name), 0);
}
END_TEST

START_TEST(advice_names_what_a_unit_does_not_allow)
{
    g_autofree char *device = unit_advice("u.service", "/dev/null");
    g_autofree char *hidden = unit_advice("u.service", "/home/no such directory/disk.img");
    g_autofree char *nothing = unit_advice("u.service", inside);

    ck_assert_str_eq(device, "u.service needs DeviceAllow=/dev/null rw, and SupplementaryGroups= "
                             "with a group that may write to it: 'systemctl edit u.service'");
    ck_assert_str_eq(hidden, "ProtectHome= of u.service hides it: 'systemctl edit u.service', "
                             "BindPaths=/home/no such directory");
    ck_assert_ptr_null(nothing);
}
END_TEST

static void setup(void)
{
    g_autofree char *a = NULL, *b = NULL;

    dir = g_dir_make_tmp("fenceXXXXXX", NULL);
    inside = g_build_filename(dir, "inside", NULL);
    outside = g_build_filename(dir, "outside", NULL);
    ck_assert(!mkdir(inside, 0700) && !mkdir(outside, 0700));
    a = g_build_filename(inside, "f", NULL);
    b = g_build_filename(outside, "f", NULL);
    ck_assert(g_file_set_contents(a, "x", 1, NULL) && g_file_set_contents(b, "x", 1, NULL));
}

static void teardown(void)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", dir);

    ck_assert_int_eq(system(command), 0);
    g_free(dir);
    g_free(inside);
    g_free(outside);
}

int main(void)
{
    Suite *suite = suite_create("fences");
    TCase *tcase = tcase_create("fences");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, forbidden_system_calls_fail);
    tcase_add_test(tcase, files_outside_the_sandbox_are_refused);
    tcase_add_test(tcase, advice_names_what_a_unit_does_not_allow);
    tcase_add_test(tcase, root_can_drop_to_a_user_by_name_or_number);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
