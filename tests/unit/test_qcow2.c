/* tests/unit/test_qcow2.c: what of qcow2 images takes a moment to be met on purpose: two requests
 * that come in each other's way. */
#include "block/image.h"
#include "tests/unit/drivers_util.h"
#include "util/endian.h"

#include <pthread.h>

#define CLUSTER 512u
#define COVERED ((uint64_t)CLUSTER * CLUSTER / 8) /* by an L2 table */

/* An image of 1 MiB in the file of that name, and a node on it. */
static BlkNode *new_image(const char *name, const char *create, const char *more)
{
    g_autofree char *path = path_of(name);
    g_autofree char *text = NULL;
    json_object *options;
    g_autoptr(GError) error = NULL;
    bool ok;

    make_file(name, 0);
    text = g_strdup_printf("{'driver':'qcow2','file':{'driver':'file','filename':'%s'},"
                           "'size':1048576,'cluster-size':%u%s}",
                           path, CLUSTER, create);
    g_strdelimit(text, "'", '"');
    options = json_tokener_parse(text);
    ok = blk_image_create(graph, options, NULL, NULL, &error);
    json_object_put(options);
    ck_assert_msg(ok, "%s", error ? error->message : "?");
    return add("{'driver':'qcow2','node-name':'q','discard':'unmap','backing':null%s,"
               "'file':{'driver':'file','node-name':'f','filename':'%s'}}",
               more, path);
}

/* ---- a read that takes long */

static struct {
    uint64_t offset; /* in the file; 0: none */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool there, go_on;
} slow = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* The first read at that place has its bytes, and doesn't return before it is told to. */
static void hold_read(off_t offset, size_t length)
{
    pthread_mutex_lock(&slow.lock);
    if (slow.offset && (uint64_t)offset == slow.offset && !slow.there) {
        slow.there = true;
        pthread_cond_broadcast(&slow.changed);
        while (!slow.go_on)
            pthread_cond_wait(&slow.changed, &slow.lock);
    }
    pthread_mutex_unlock(&slow.lock);
}

static void wait_for_read(void)
{
    pthread_mutex_lock(&slow.lock);
    while (!slow.there)
        pthread_cond_wait(&slow.changed, &slow.lock);
    pthread_mutex_unlock(&slow.lock);
}

static void let_read_go_on(void)
{
    pthread_mutex_lock(&slow.lock);
    slow.go_on = true;
    pthread_cond_broadcast(&slow.changed);
    pthread_mutex_unlock(&slow.lock);
}

static void *read_start(void *node)
{
    char buf[CLUSTER];

    return GINT_TO_POINTER(blk_node_pread(node, buf, 0, sizeof(buf)));
}

static uint64_t get64(const char *name, uint64_t at)
{
    g_autofree char *path = path_of(name);
    uint8_t bytes[8];
    int fd = open(path, O_RDONLY);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pread(fd, bytes, sizeof(bytes), (off_t)at), sizeof(bytes));
    close(fd);
    return tm_get_be64(bytes);
}

/* Where the L2 table @index is. */
static uint64_t table_at(const char *name, unsigned index)
{
    return get64(name, get64(name, 40) + index * 8) & UINT64_C(0x00fffffffffffe00);
}

/* While one request reads a table, others read it, too, change it and put it on the medium, and it
 * goes from the cache: what the first has read is not what the table says. */
START_TEST(stale_table)
{
    BlkNode *node = new_image("i", "", ",'l2-cache-size':1");
    pthread_t reader;
    void *ret;

    for (unsigned i = 0; i < 4; i++)
        write_pattern(node, i * COVERED, CLUSTER, i);
    ck_assert_int_eq(blk_node_flush(node), 0);
    fake.after_read = hold_read;
    slow.offset = table_at("i", 0);
    ck_assert_int_eq(pthread_create(&reader, NULL, read_start, node), 0);
    wait_for_read();
    write_pattern(node, CLUSTER, CLUSTER, 7);
    ck_assert_int_eq(blk_node_flush(node), 0);
    for (unsigned i = 1; i < 4; i++)
        ck_assert(reads_pattern(node, i * COVERED, CLUSTER, i));
    let_read_go_on();
    pthread_join(reader, &ret);
    ck_assert_int_eq(GPOINTER_TO_INT(ret), 0);
    ck_assert(reads_pattern(node, CLUSTER, CLUSTER, 7));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2");
    TCase *tests = tcase_create("qcow2");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, open_on_disk, close_graph);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, stale_table);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
