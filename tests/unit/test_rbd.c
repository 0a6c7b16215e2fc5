/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The plug-in for Ceph on a librbd and a librados that fail when they are asked to. tests/rbd/ has
 * what needs a cluster. */
#include "tests/asserts.h"

#include "block/drivers/rbd/rbd.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE (UINT64_C(8) << 30)

const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *host);

/* ---- a cluster. What is an int or a bool is atomic: the watcher calls, too. */

static struct {
    int calls, fail_at, error; /* of the calls that can fail, which one does, and how */
    int open;                  /* clusters, pools, images, locks, watches and completions */
    int result;                /* of the next request */
    int owner;                 /* of the lock: 1: we */
    int checks;                /* whether we are it */
    int requests;
    rados_watchcb2_t notified;
    void *notified_arg;
    uint64_t largest; /* discard */
} ceph;

static int token;

static int step(void)
{
    return __atomic_add_fetch(&ceph.calls, 1, __ATOMIC_SEQ_CST) == ceph.fail_at ? ceph.error : 0;
}

static int opens(void **handle)
{
    int ret = step();

    if (ret == 0) {
        __atomic_add_fetch(&ceph.open, 1, __ATOMIC_SEQ_CST);
        if (handle)
            *handle = &token;
    }
    return ret;
}

static void closes(void)
{
    __atomic_sub_fetch(&ceph.open, 1, __ATOMIC_SEQ_CST);
}

static int request(void)
{
    ceph.requests++;
    return ceph.result;
}

int rados_create(rados_t *cluster, const char *id)
{
    return opens(cluster);
}
void rados_shutdown(rados_t cluster)
{
    closes();
}
int rados_conf_read_file(rados_t cluster, const char *path)
{
    return 0;
}
int rados_conf_set(rados_t cluster, const char *option, const char *value)
{
    return step();
}
int rados_connect(rados_t cluster)
{
    return step();
}
int rados_ioctx_create(rados_t cluster, const char *name, rados_ioctx_t *pool)
{
    return opens(pool);
}
void rados_ioctx_destroy(rados_ioctx_t pool)
{
    closes();
}
void rados_ioctx_set_namespace(rados_ioctx_t pool, const char *space)
{
}
void rados_set_pool_full_try(rados_ioctx_t pool)
{
}
int rados_watch3(rados_ioctx_t pool, const char *object, uint64_t *cookie, rados_watchcb2_t cb,
                 rados_watcherrcb_t error, uint32_t timeout, void *arg)
{
    ck_assert_str_eq(object, "rbd_header.1234");
    ceph.notified_arg = arg;
    __atomic_store_n(&ceph.notified, cb, __ATOMIC_SEQ_CST);
    *cookie = 1;
    return opens(NULL);
}
int rados_unwatch2(rados_ioctx_t pool, uint64_t cookie)
{
    closes();
    return 0;
}
int rados_watch_flush(rados_t cluster)
{
    return 0;
}
int rados_notify_ack(rados_ioctx_t pool, const char *object, uint64_t id, uint64_t cookie,
                     const char *buf, int length)
{
    return 0;
}

/* ---- an object: at most one write and one comparison in an operation */

static struct {
    bool there, locked;
    char owner[RBD_OWNER], bytes[64];
    size_t size;
    int errors, error; /* so many operations fail, and how */
} object;

static struct {
    bool create;
    const char *compared, *owner, *bytes;
    size_t compared_length, length;
    uint64_t offset, sizes[2];
    int truncates;
} operation;

rados_write_op_t rados_create_write_op(void)
{
    memset(&operation, 0, sizeof(operation));
    return &operation;
}
void rados_release_write_op(rados_write_op_t op)
{
}
void rados_write_op_create(rados_write_op_t op, int exclusive, const char *category)
{
    operation.create = true;
}
void rados_write_op_cmpxattr(rados_write_op_t op, const char *name, uint8_t comparison,
                             const char *value, size_t length)
{
    ck_assert_uint_eq(comparison, LIBRADOS_CMPXATTR_OP_EQ);
    operation.compared = value;
    operation.compared_length = length;
}
void rados_write_op_setxattr(rados_write_op_t op, const char *name, const char *value,
                             size_t length)
{
    ck_assert_uint_eq(length, RBD_OWNER);
    operation.owner = value;
}
void rados_write_op_truncate(rados_write_op_t op, uint64_t size)
{
    operation.sizes[operation.truncates++] = size;
}
void rados_write_op_write(rados_write_op_t op, const char *bytes, size_t length, uint64_t offset)
{
    operation.bytes = bytes;
    operation.length = length;
    operation.offset = offset;
}
int rados_write_op_operate(rados_write_op_t op, rados_ioctx_t pool, const char *name, time_t *time,
                           int flags)
{
    ck_assert_str_eq(name, "rbd_tidemark.1234.bitmaps");
    if (object.errors && object.errors--)
        return object.error;
    if (operation.create && object.there)
        return -EEXIST;
    if (!operation.create && (!object.there || memcmp(operation.compared, object.owner, RBD_OWNER)))
        return -ECANCELED;
    object.there = true;
    if (operation.owner)
        memcpy(object.owner, operation.owner, RBD_OWNER);
    for (int i = 0; i < operation.truncates; i++)
        object.size = operation.sizes[i];
    if (operation.bytes)
        memcpy(object.bytes + operation.offset, operation.bytes, operation.length);
    return 0;
}
int rados_getxattr(rados_ioctx_t pool, const char *name, const char *attr, char *value, size_t size)
{
    if (!object.there)
        return -ENOENT;
    memcpy(value, object.owner, RBD_OWNER);
    return RBD_OWNER;
}
int rados_stat(rados_ioctx_t pool, const char *name, uint64_t *size, time_t *time)
{
    *size = object.size;
    return object.there ? 0 : -ENOENT;
}
int rados_read(rados_ioctx_t pool, const char *name, char *buf, size_t length, uint64_t offset)
{
    memcpy(buf, object.bytes + offset, length);
    return (int)length;
}
ssize_t rados_list_lockers(rados_ioctx_t pool, const char *name, const char *lock, int *exclusive,
                           char *tag, size_t *tag_size, char *clients, size_t *clients_size,
                           char *cookies, size_t *cookies_size, char *addresses,
                           size_t *addresses_size)
{
    ck_assert_str_eq(name, "rbd_header.1234");
    return object.locked;
}

int rbd_open(rados_ioctx_t pool, const char *name, rbd_image_t *image, const char *snapshot)
{
    return opens(image);
}
int rbd_open_read_only(rados_ioctx_t pool, const char *name, rbd_image_t *image,
                       const char *snapshot)
{
    return opens(image);
}
int rbd_close(rbd_image_t image)
{
    closes();
    return 0;
}
int rbd_get_size(rbd_image_t image, uint64_t *size)
{
    *size = SIZE;
    return step();
}
int rbd_get_id(rbd_image_t image, char *id, size_t length)
{
    snprintf(id, length, "1234");
    return step();
}
int rbd_get_features(rbd_image_t image, uint64_t *features)
{
    *features = RBD_FEATURE_EXCLUSIVE_LOCK;
    return step();
}
int rbd_get_flags(rbd_image_t image, uint64_t *flags)
{
    return -EIO;
}
int rbd_get_overlap(rbd_image_t image, uint64_t *overlap)
{
    return -EIO;
}
int rbd_get_stripe_count(rbd_image_t image, uint64_t *count)
{
    *count = 1;
    return 0;
}
int rbd_stat(rbd_image_t image, rbd_image_info_t *info, size_t size)
{
    info->obj_size = 4 << 20;
    return 0;
}
int rbd_diff_iterate2(rbd_image_t image, const char *from, uint64_t offset, uint64_t length,
                      uint8_t parent, uint8_t whole, int (*cb)(uint64_t, size_t, int, void *),
                      void *arg)
{
    return -EIO;
}

int rbd_lock_acquire(rbd_image_t image, rbd_lock_mode_t mode)
{
    return opens(NULL);
}
int rbd_lock_release(rbd_image_t image)
{
    closes();
    return 0;
}
int rbd_lock_get_owners(rbd_image_t image, rbd_lock_mode_t *mode, char **owners, size_t *n)
{
    *n = 0;
    return -ENOENT;
}
void rbd_lock_get_owners_cleanup(char **owners, size_t n)
{
}
int rbd_is_exclusive_lock_owner(rbd_image_t image, int *owner)
{
    *owner = __atomic_load_n(&ceph.owner, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&ceph.checks, 1, __ATOMIC_SEQ_CST);
    return 0;
}

ssize_t rbd_read(rbd_image_t image, uint64_t offset, size_t length, char *buf)
{
    int ret = request();

    return ret == 0 ? (ssize_t)length : ret;
}
ssize_t rbd_write2(rbd_image_t image, uint64_t offset, size_t length, const char *buf, int flags)
{
    return rbd_read(image, offset, length, NULL);
}
int rbd_flush(rbd_image_t image)
{
    return request();
}
int rbd_discard(rbd_image_t image, uint64_t offset, uint64_t length)
{
    ceph.largest = length > ceph.largest ? length : ceph.largest;
    return request();
}
ssize_t rbd_write_zeroes(rbd_image_t image, uint64_t offset, size_t length, int zero_flags,
                         int flags)
{
    return rbd_discard(image, offset, length);
}
int rbd_resize(rbd_image_t image, uint64_t size)
{
    return request();
}

typedef struct Completion {
    rbd_callback_t cb;
    void *arg;
    ssize_t ret;
} Completion;

int rbd_aio_create_completion(void *arg, rbd_callback_t cb, rbd_completion_t *out)
{
    Completion *c = malloc(sizeof(*c));
    void *handle;
    int ret = opens(&handle);

    ck_assert_ptr_nonnull(c);
    *c = (Completion){ cb, arg, 0 };
    *out = c;
    if (ret < 0)
        free(c);
    return ret;
}
void rbd_aio_release(rbd_completion_t completion)
{
    closes();
    free(completion);
}
ssize_t rbd_aio_get_return_value(rbd_completion_t completion)
{
    return ((Completion *)completion)->ret;
}
int rbd_aio_read(rbd_image_t image, uint64_t offset, size_t length, char *buf, rbd_completion_t c)
{
    Completion *completion = c;
    int ret = step();

    if (ret < 0)
        return ret;
    completion->ret = rbd_read(image, offset, length, buf);
    completion->cb(c, completion->arg);
    return 0;
}
int rbd_aio_write2(rbd_image_t image, uint64_t offset, size_t length, const char *buf,
                   rbd_completion_t c, int flags)
{
    return rbd_aio_read(image, offset, length, NULL, c);
}

/* ---- a host */

static struct {
    char error[512], log[512];
    int logged; /* atomic */
    int completed, result;
    int read_only;
} node;

static void host_error(struct tidemark_node *n, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vsnprintf(node.error, sizeof(node.error), format, ap);
    va_end(ap);
}
static void host_log(struct tidemark_node *n, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vsnprintf(node.log, sizeof(node.log), format, ap);
    va_end(ap);
    __atomic_add_fetch(&node.logged, 1, __ATOMIC_SEQ_CST);
}
static const char *host_string(struct tidemark_node *n, const char *name)
{
    if (strcmp(name, "pool") == 0 || strcmp(name, "image") == 0)
        return name;
    return NULL;
}
static uint64_t host_uint(struct tidemark_node *n, const char *name)
{
    return 0;
}
static int host_bool(struct tidemark_node *n, const char *name)
{
    return strcmp(name, "read-only") == 0 && node.read_only;
}
static void host_complete(struct tidemark_transfer *t, int result)
{
    node.completed++;
    node.result = result;
}

static const struct tidemark_host host = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_host),
    .error = host_error,
    .option_string = host_string,
    .option_uint = host_uint,
    .option_bool = host_bool,
    .complete = host_complete,
    .log = host_log,
};

static const struct tidemark_driver *driver;
static void *disk;

static void open_disk(void)
{
    memset(&ceph, 0, sizeof(ceph));
    memset(&node, 0, sizeof(node));
    ceph.owner = 1;
    driver = tidemark_driver_init(&host);
    ck_assert_int_eq(driver->open(NULL, &disk), 0);
    while (!__atomic_load_n(&ceph.checks, __ATOMIC_SEQ_CST)) /* the watcher has begun */
        sched_yield();
}

static void close_disk(void)
{
    driver->close(disk);
    ck_assert_int_eq(ceph.open, 0);
}

static void all_requests_fail(void)
{
    struct tidemark_transfer t = { .buf = &token, .length = 1 };
    int before = ceph.requests;

    ck_assert_int_eq(driver->pread(disk, &token, 0, 1, 0), -EIO);
    ck_assert_int_eq(driver->pwrite(disk, &token, 0, 1, 0), -EIO);
    ck_assert_int_eq(driver->flush(disk), -EIO);
    ck_assert_int_eq(driver->discard(disk, 0, 1), -EIO);
    ck_assert_int_eq(driver->write_zeroes(disk, 0, 1, 0), -EIO);
    ck_assert_int_eq(driver->resize(disk, SIZE * 2), -EIO);
    ck_assert_int_eq(driver->start(disk, &t), -EIO);
    ck_assert_int_eq(ceph.requests, before); /* librbd saw none of them */
}

/* ---- cases */

START_TEST(an_opening_that_fails_leaves_nothing_but_a_reason)
{
    int failed = 0;

    driver = tidemark_driver_init(&host);
    for (int at = 1, ret = -1; ret < 0; at++) {
        memset(&ceph, 0, sizeof(ceph));
        memset(&node, 0, sizeof(node));
        node.read_only = _i;
        ceph = (typeof(ceph)){ .owner = 1, .fail_at = at, .error = -EPERM };
        ret = driver->open(NULL, &disk);
        if (ret < 0) {
            failed++;
            ck_assert_int_eq(ret, -EPERM);
            ck_assert_int_eq(ceph.open, 0);
            ck_assert_str_ne(node.error, "");
        }
    }
    ck_assert_int_ge(failed, 7);
    close_disk();
}
END_TEST

START_TEST(full_is_the_same_for_pools_and_quotas)
{
    static const int errors[] = { -ENOSPC, -EDQUOT };
    struct tidemark_transfer t = { .buf = &token, .length = 1, .write = 1 };

    open_disk();
    for (int i = 0; i < 2; i++) {
        ceph.result = errors[i];
        ck_assert_int_eq(driver->start(disk, &t), 0);
        ck_assert_int_eq(node.result, -ENOSPC);
        ck_assert_int_eq(driver->pwrite(disk, &token, 0, 1, 0), -ENOSPC);
        ck_assert_int_eq(driver->write_zeroes(disk, 0, 1, 0), -ENOSPC);
    }
    ceph.result = 0;
    ck_assert_int_eq(driver->start(disk, &t), 0);
    ck_assert_int_eq(node.result, 0);
    ck_assert_int_eq(node.completed, 3);
    ck_assert_int_eq(node.logged, 0);
    close_disk();
}
END_TEST

START_TEST(a_request_that_is_not_begun_is_not_completed)
{
    struct tidemark_transfer t = { .buf = &token, .length = 1, .write = (uint32_t)_i };

    open_disk();
    for (int at = 1; at <= 2; at++) { /* the completion; the request */
        ceph.fail_at = ceph.calls + at;
        ceph.error = -ENOMEM;
        ck_assert_int_eq(driver->start(disk, &t), -ENOMEM);
    }
    ck_assert_int_eq(node.completed, 0);
    close_disk();
}
END_TEST

START_TEST(a_flush_that_fails_says_so)
{
    open_disk();
    ceph.result = -EIO;
    ck_assert_int_eq(driver->flush(disk), -EIO);
    ceph.result = 0;
    ck_assert_int_eq(driver->flush(disk), 0);
    ck_assert_int_eq(node.logged, 0);
    close_disk();
}
END_TEST

START_TEST(a_blocklisted_client_serves_no_more)
{
    struct tidemark_transfer t = { .buf = &token, .length = 1, .write = (uint32_t)_i };

    open_disk();
    ceph.result = -ESHUTDOWN;
    ck_assert_int_eq(driver->start(disk, &t), 0);
    ck_assert_int_eq(node.result, -EIO);
    ceph.result = 0;
    all_requests_fail();
    ck_assert_ptr_nonnull(strstr(node.log, "the cluster has blocklisted this client"));
    ck_assert_int_eq(node.logged, 1);
    ceph.open--; /* a lock that is not ours is not released */
    close_disk();
}
END_TEST

START_TEST(a_write_that_timed_out_is_the_last)
{
    open_disk();
    ceph.result = -ETIMEDOUT;
    ck_assert_int_eq(driver->pread(disk, &token, 0, 1, 0), -ETIMEDOUT);
    ck_assert_int_eq(node.logged, 0);
    ck_assert_int_eq(driver->pwrite(disk, &token, 0, 1, 0), -EIO);
    ceph.result = 0;
    all_requests_fail();
    ck_assert_ptr_nonnull(strstr(node.log, "a write has timed out and may still happen"));
    ceph.open--;
    close_disk();
}
END_TEST

START_TEST(the_word_of_a_new_owner_is_checked)
{
    int checks;

    open_disk();
    checks = __atomic_load_n(&ceph.checks, __ATOMIC_SEQ_CST);
    ceph.notified(ceph.notified_arg, 1, 1, 1, NULL, 0);
    while (__atomic_load_n(&ceph.checks, __ATOMIC_SEQ_CST) == checks)
        sched_yield();
    ck_assert_int_eq(driver->pread(disk, &token, 0, 1, 0), 0);
    __atomic_store_n(&ceph.owner, 0, __ATOMIC_SEQ_CST);
    ceph.notified(ceph.notified_arg, 1, 1, 1, NULL, 0);
    while (!__atomic_load_n(&node.logged, __ATOMIC_SEQ_CST))
        sched_yield();
    all_requests_fail();
    ceph.open--;
    close_disk();
}
END_TEST

START_TEST(long_ranges_go_in_pieces)
{
    open_disk();
    ck_assert_int_eq(driver->discard(disk, 0, SIZE), 0);
    ck_assert_int_eq(driver->write_zeroes(disk, 0, SIZE, TIDEMARK_MAY_UNMAP), 0);
    ck_assert_uint_lt(ceph.largest, UINT64_C(1) << 31); /* what librbd refuses */
    close_disk();
}
END_TEST

/* ---- the store of the bitmaps */

static int store_write(const char *text, uint64_t size, uint32_t flags)
{
    struct tidemark_piece piece = { .buf = text, .length = strlen(text) };

    return driver->store_write(disk, &piece, 1, size, flags);
}

static void open_store(uint64_t expected)
{
    uint64_t size = 99;

    open_disk();
    ck_assert_int_eq(driver->store_open(disk, &size), 0);
    ck_assert_uint_eq(size, expected);
}

START_TEST(a_store_belongs_to_who_took_it_over_last)
{
    char before[RBD_OWNER], buf[4] = "";

    memset(&object, 0, sizeof(object));
    open_store(0);
    memcpy(before, object.owner, RBD_OWNER);
    ck_assert_str_eq(driver->store_name(disk), "rbd:pool/rbd_tidemark.1234.bitmaps");
    ck_assert_int_eq(store_write("abc", 3, TIDEMARK_STORE_REPLACE), 0);
    close_disk();
    open_store(3);
    ck_assert_int_eq(object.owner[7], before[7] + 1);
    ck_assert_mem_ne(object.owner + 8, before + 8, RBD_OWNER - 8);
    ck_assert_int_eq(driver->store_read(disk, buf, 0, 3), 0);
    ck_assert_str_eq(buf, "abc");
    memcpy(object.owner, before, RBD_OWNER);
    ck_assert_int_eq(store_write("def", 3, 0), -EIO);
    ck_assert_mem_eq(object.bytes, "abc", 3);
    all_requests_fail();
    ck_assert_ptr_nonnull(strstr(node.log, "another host has taken over the store"));
    ceph.open--;
    close_disk();
}
END_TEST

START_TEST(a_store_waits_for_time_limits_and_not_for_space)
{
    memset(&object, 0, sizeof(object));
    open_store(0);
    object.errors = 3;
    object.error = -ETIMEDOUT;
    ck_assert_int_eq(store_write("abc", 3, 0), 0);
    ck_assert_int_eq(object.errors, 0);
    object.errors = 1;
    object.error = -EDQUOT;
    ck_assert_int_eq(store_write("abc", 3, 0), -ENOSPC);
    ck_assert_int_eq(node.logged, 0);
    object.there =
        false; /* deleted: what was there says nothing any more, and it can be made anew */
    ck_assert_int_eq(store_write("abc", 3, 0), -ENOENT);
    ck_assert_int_eq(store_write("abc", 3, TIDEMARK_STORE_REPLACE), 0);
    ck_assert_int_eq(store_write("abc", 3, 0), 0);
    driver->store_abandon(disk);
    ck_assert_int_eq(store_write("abc", 3, 0), -EIO);
    all_requests_fail();
    ceph.open--;
    close_disk();
}
END_TEST

START_TEST(a_reader_takes_nothing_over)
{
    uint64_t size = 0;

    object = (typeof(object)){ .there = true, .size = 5, .locked = true };
    memset(&ceph, 0, sizeof(ceph));
    memset(&node, 0, sizeof(node));
    node.read_only = 1;
    driver = tidemark_driver_init(&host);
    ck_assert_int_eq(driver->open(NULL, &disk), 0);
    ck_assert_int_eq(driver->store_open(disk, &size), -EBUSY);
    object.locked = false;
    ck_assert_int_eq(driver->store_open(disk, &size), 0);
    ck_assert_uint_eq(size, 5);
    ck_assert_int_eq(object.owner[7], 0);
    close_disk();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rbd");
    TCase *tcase = tcase_create("errors");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tcase, an_opening_that_fails_leaves_nothing_but_a_reason, 0, 2);
    tcase_add_test(tcase, full_is_the_same_for_pools_and_quotas);
    tcase_add_loop_test(tcase, a_request_that_is_not_begun_is_not_completed, 0, 2);
    tcase_add_test(tcase, a_flush_that_fails_says_so);
    tcase_add_loop_test(tcase, a_blocklisted_client_serves_no_more, 0, 2);
    tcase_add_test(tcase, a_write_that_timed_out_is_the_last);
    tcase_add_test(tcase, the_word_of_a_new_owner_is_checked);
    tcase_add_test(tcase, long_ranges_go_in_pieces);
    tcase_add_test(tcase, a_store_belongs_to_who_took_it_over_last);
    tcase_add_test(tcase, a_store_waits_for_time_limits_and_not_for_space);
    tcase_add_test(tcase, a_reader_takes_nothing_over);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
