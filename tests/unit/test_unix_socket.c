/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_unix_socket.c: whose a socket's file is, and that none is taken from who
 * listens. */
#include "tests/asserts.h"
#include "util/unix_socket.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define STARTERS 8
#define ROUNDS   50

static char *dir, *path;

static struct sockaddr_un address(void)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };

    g_strlcpy(a.sun_path, path, sizeof(a.sun_path));
    return a;
}

static bool answers(void)
{
    struct sockaddr_un a = address();
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    bool up = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;

    close(fd);
    return up;
}

/* What a killed server leaves. */
static void leave_stale(void)
{
    struct sockaddr_un a = address();
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    unlink(path);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    close(fd);
}

START_TEST(a_socket_with_a_listener_is_kept)
{
    TmSocketFile file = { 0 }, other = { 0 };
    g_autoptr(GError) error = NULL;
    int fd = tm_unix_listen(path, NULL, 4, &file, NULL);
    struct stat st;

    ck_assert_int_ge(fd, 0);
    ck_assert(!lstat(path, &st) && S_ISSOCK(st.st_mode) && (st.st_mode & 07777) == 0600);
    ck_assert_int_lt(tm_unix_listen(path, NULL, 4, &other, &error), 0);
    ck_assert_ptr_nonnull(strstr(error->message, "another process listens there"));
    ck_assert_ptr_null(other.path);
    ck_assert(answers());
    tm_socket_file_remove(&file);
    close(fd);
    ck_assert_int_ne(lstat(path, &st), 0);
}
END_TEST

/* Also one whose queue is full. */
START_TEST(a_socket_with_a_full_queue_is_kept)
{
    TmSocketFile file = { 0 }, other = { 0 };
    int fd = tm_unix_listen(path, NULL, 0, &file, NULL), clients[4];
    struct sockaddr_un a = address();

    for (int i = 0; i < 4; i++) {
        clients[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect(clients[i], (struct sockaddr *)&a, sizeof(a)) < 0)
            ck_assert_int_gt(i, 0);
    }
    ck_assert_int_lt(tm_unix_listen(path, NULL, 4, &other, NULL), 0);
    for (int i = 0; i < 4; i++)
        close(clients[i]);
    tm_socket_file_remove(&file);
    close(fd);
}
END_TEST

START_TEST(a_stale_socket_is_replaced)
{
    TmSocketFile file = { 0 };
    int fd;

    leave_stale();
    fd = tm_unix_listen(path, NULL, 4, &file, NULL);
    ck_assert_int_ge(fd, 0);
    ck_assert(answers());
    tm_socket_file_remove(&file);
    tm_socket_file_remove(&file); /* nothing is left to do */
    close(fd);
}
END_TEST

START_TEST(only_our_own_socket_is_removed)
{
    TmSocketFile file = { 0 };
    int fd = tm_unix_listen(path, NULL, 4, &file, NULL);

    leave_stale(); /* of somebody else */
    tm_socket_file_remove(&file);
    close(fd);
    ck_assert_int_eq(access(path, F_OK), 0);
    ck_assert_int_eq(unlink(path), 0);
}
END_TEST

START_TEST(unusable_paths_are_refused)
{
    g_autofree char *outside = g_strdup_printf("%s/%0200d", dir, 0);
    TmSocketFile file = { 0 };
    g_autoptr(GError) error = NULL;

    ck_assert_int_lt(tm_unix_listen("", NULL, 4, &file, NULL), 0);
    ck_assert_int_lt(tm_unix_listen(outside, NULL, 4, &file, &error), 0);
    ck_assert_ptr_nonnull(strstr(error->message, "too long"));
    ck_assert_int_lt(tm_unix_listen("/no/such/directory/s", NULL, 4, &file, NULL), 0);
    ck_assert(g_file_set_contents(path, "precious", -1, NULL));
    ck_assert_int_lt(tm_unix_listen(path, NULL, 4, &file, NULL), 0);
    ck_assert_int_eq(unlink(path), 0);
}
END_TEST

/* Who sits on the directory's lock keeps nobody from beginning. */
START_TEST(a_foreign_lock_of_the_directory_does_not_block)
{
    TmSocketFile file = { 0 };
    int lock = open(dir, O_RDONLY), fd;

    ck_assert_int_eq(flock(lock, LOCK_SH), 0);
    fd = tm_unix_listen(path, NULL, 4, &file, NULL);
    ck_assert_int_ge(fd, 0);
    tm_socket_file_remove(&file);
    close(fd);
    close(lock);
}
END_TEST

typedef struct Starter {
    pthread_t thread;
    pthread_barrier_t *begin;
    TmSocketFile file;
    int fd;
} Starter;

static void *start_one(void *opaque)
{
    Starter *s = opaque;

    pthread_barrier_wait(s->begin);
    s->fd = tm_unix_listen(path, NULL, 4, &s->file, NULL);
    return NULL;
}

/* Looking, removing and binding are one step. */
START_TEST(the_directory_is_locked_while_a_socket_is_replaced)
{
    Starter s = { .fd = -1 };
    pthread_barrier_t begin;
    struct stat before, after;
    int lock = open(dir, O_RDONLY);

    leave_stale();
    ck_assert_int_eq(lstat(path, &before), 0);
    ck_assert_int_eq(flock(lock, LOCK_EX), 0);
    pthread_barrier_init(&begin, NULL, 2);
    s.begin = &begin;
    pthread_create(&s.thread, NULL, start_one, &s);
    pthread_barrier_wait(&begin);
    g_usleep(G_USEC_PER_SEC / 10);
    ck_assert(!lstat(path, &after) && after.st_ino == before.st_ino);
    ck_assert(!answers());
    close(lock);
    pthread_join(s.thread, NULL);
    pthread_barrier_destroy(&begin);
    ck_assert_int_ge(s.fd, 0);
    ck_assert(answers());
    tm_socket_file_remove(&s.file);
    close(s.fd);
}
END_TEST

/* Exactly one wins, and it is the one that answers. */
START_TEST(of_two_that_race_one_listens)
{
    for (int round = 0; round < ROUNDS; round++) {
        Starter starters[STARTERS] = { 0 };
        pthread_barrier_t begin;
        int winners = 0;
        struct stat st;

        leave_stale();
        pthread_barrier_init(&begin, NULL, STARTERS);
        for (int i = 0; i < STARTERS; i++) {
            starters[i].begin = &begin;
            pthread_create(&starters[i].thread, NULL, start_one, &starters[i]);
        }
        for (int i = 0; i < STARTERS; i++)
            pthread_join(starters[i].thread, NULL);
        pthread_barrier_destroy(&begin);
        for (int i = 0; i < STARTERS; i++) {
            if (starters[i].fd < 0)
                continue;
            winners++;
            ck_assert(!lstat(path, &st) && st.st_ino == starters[i].file.ino);
            tm_socket_file_remove(&starters[i].file);
            close(starters[i].fd);
        }
        ck_assert_int_eq(winners, 1);
    }
}
END_TEST

static void setup(void)
{
    dir = g_dir_make_tmp("socketXXXXXX", NULL);
    path = g_build_filename(dir, "s", NULL);
}

static void teardown(void)
{
    unlink(path);
    ck_assert_int_eq(rmdir(dir), 0);
    g_free(path);
    g_free(dir);
}

int main(void)
{
    Suite *suite = suite_create("unix_socket");
    TCase *tc = tcase_create("unix_socket");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_socket_with_a_listener_is_kept);
    tcase_add_test(tc, a_socket_with_a_full_queue_is_kept);
    tcase_add_test(tc, a_stale_socket_is_replaced);
    tcase_add_test(tc, only_our_own_socket_is_removed);
    tcase_add_test(tc, unusable_paths_are_refused);
    tcase_add_test(tc, a_foreign_lock_of_the_directory_does_not_block);
    tcase_add_test(tc, the_directory_is_locked_while_a_socket_is_replaced);
    tcase_add_test(tc, of_two_that_race_one_listens);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
