/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* The filter copy-before-write: while several threads write to a disk without a stop, the filter is
 * put in and taken out, and what it keeps is compared with the disk at the instant. */
#include "block/drivers/copy_before_write/cbw.h"
#include "block/drivers/copy_before_write/clusters.h"
#include "block/filters.h"
#include "block/io/request.h"
#include "block/users.h"
#include "drivers_util.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/resource.h>

#define SIZE    (6 * MIB + 5 * KIB) /* the last cluster is a part of one */
#define CLUSTER (64 * KIB)
#define WRITERS 3

/* ---- a guest: threads that write without a stop */

typedef struct Guest {
    BlkUser *user;
    bool stop; /* atomic */
    pthread_t threads[WRITERS];
    unsigned writes; /* atomic: that have succeeded */
    unsigned errors; /* atomic */
} Guest;

typedef struct Waiter {
    BlkRequest request;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool done;
    int result, nice; /* of the thread on which it completed */
} Waiter;

static void waiter_done(BlkRequest *request, int result)
{
    Waiter *w = (Waiter *)request;

    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->result = result;
    w->nice = getpriority(PRIO_PROCESS, (id_t)gettid());
    pthread_cond_signal(&w->ended);
    pthread_mutex_unlock(&w->lock);
}

static int request_nice; /* of the latest one that did not complete at once */

static int do_request(BlkUser *user, BlkOp op, void *buf, uint64_t offset, uint64_t length)
{
    Waiter w = { .request = { .op = op, .offset = offset, .length = length, .buf = buf } };
    int ret;

    w.request.done = waiter_done;
    w.request.flags = op == BLK_OP_WRITE_ZEROES ? TIDEMARK_MAY_UNMAP : 0;
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.ended, NULL);
    ret = blk_user_submit(user, &w.request);
    if (ret != -EINPROGRESS)
        return ret;
    blk_engine_kick(engine);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.ended, &w.lock);
    pthread_mutex_unlock(&w.lock);
    __atomic_store_n(&request_nice, w.nice, __ATOMIC_RELAXED);
    return w.result;
}

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void *write_on(void *opaque)
{
    Guest *guest = opaque;
    uint64_t seed = (uint64_t)(uintptr_t)&seed ^ UINT64_C(0x9e3779b97f4a7c15);
    uint8_t *buf = g_malloc(MIB);

    while (!__atomic_load_n(&guest->stop, __ATOMIC_ACQUIRE)) {
        uint64_t what = next(&seed) % 16;
        uint64_t length = what ? 512 * (1 + next(&seed) % 64) : MIB;
        uint64_t offset = next(&seed) % (SIZE - length);
        BlkOp op = what == 1 ? BLK_OP_DISCARD : what == 2 ? BLK_OP_WRITE_ZEROES : BLK_OP_WRITE;
        int ret;

        memset(buf, (int)(next(&seed) % 255) + 1, length);
        ret = do_request(guest->user, op, buf, offset, length);
        if (ret < 0)
            fprintf(stderr, "# request %d at %ju: %s\n", (int)op, (uintmax_t)offset,
                    tm_strerror(-ret));
        __atomic_add_fetch(ret == 0 ? &guest->writes : &guest->errors, 1, __ATOMIC_RELAXED);
    }
    g_free(buf);
    return NULL;
}

static void guest_start(Guest *guest, BlkNode *node)
{
    *guest = (Guest){ .stop = false };
    guest->user = blk_node_use(node, "a guest", BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                               BLK_PERM_ALL & ~BLK_PERM_RESIZE, NULL);
    ck_assert_ptr_nonnull(guest->user);
    blk_user_follow(guest->user);
    for (unsigned i = 0; i < WRITERS; i++)
        ck_assert_int_eq(pthread_create(&guest->threads[i], NULL, write_on, guest), 0);
}

static void guest_stop(Guest *guest)
{
    __atomic_store_n(&guest->stop, true, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(guest->threads[i], NULL);
    ck_assert_uint_gt(guest->writes, 0);
    blk_node_release(guest->user);
}

/* So many more writes have succeeded. */
static void guest_writes(Guest *guest, unsigned n)
{
    unsigned from = __atomic_load_n(&guest->writes, __ATOMIC_RELAXED);

    while (__atomic_load_n(&guest->writes, __ATOMIC_RELAXED) - from < n)
        g_usleep(100);
}

/* ---- disks */

static BlkNode *disk, *target;

static void fill(BlkNode *node)
{
    g_autofree uint8_t *buf = g_malloc(SIZE);

    for (uint64_t i = 0; i < SIZE; i++)
        buf[i] = (uint8_t)(i / 512 % 251 + 1);
    ck_assert_int_eq(blk_node_pwrite(node, buf, 0, SIZE, 0), 0);
    ck_assert_int_eq(blk_node_write_zeroes(node, MIB, MIB, TIDEMARK_MAY_UNMAP), 0);
}

static void open_disks(void)
{
    engine_options = (BlkEngineOptions){ .io = BLK_IO_AUTO, .loops = 2, .workers = 32 };
    open_on_disk();
    fake_sys.fallocate = tm_sys_kernel.fallocate;
    make_file("disk", SIZE);
    make_file("target", SIZE);
    disk = add("{'driver':'file','node-name':'disk','filename':'%s/disk','discard':'unmap'}", dir);
    target =
        add("{'driver':'file','node-name':'target','filename':'%s/target','discard':'unmap'}", dir);
    fill(disk);
}

static BlkNode *scratch_of(uint64_t max_size)
{
    return add("{'driver':'scratch','node-name':'scratch','directory':'%s','size':%ju,"
               "'max-size':%ju,'discard':'unmap'}",
               dir, (uintmax_t)SIZE, (uintmax_t)max_size);
}

static BlkNode *new_filter(const BlkCbwOptions *options)
{
    g_autoptr(GError) error = NULL;
    BlkCbwOptions o = *options;
    BlkNode *filter;

    o.source = disk;
    o.target = target;
    filter = blk_cbw_new(graph, &o, &error);
    ck_assert_msg(filter != NULL, "%s", error ? error->message : "");
    return filter;
}

static void insert(BlkNode *filter)
{
    g_autoptr(GError) error = NULL;

    ck_assert_msg(blk_filters_insert(&filter, 1, &error), "%s", error ? error->message : "");
}

/* The filter goes in, and what the disk had at that instant is in @model. */
static void begin(BlkNode *filter, uint8_t *model)
{
    BlkHold *hold = blk_hold_begin(&disk, 1);

    ck_assert_int_eq(blk_node_pread(disk, model, 0, SIZE), 0);
    insert(filter);
    blk_hold_end(hold);
}

static void end(BlkNode *filter)
{
    blk_filters_remove(&filter, 1);
    blk_cbw_drop(filter);
}

static void compare(const uint8_t *got, const uint8_t *model, uint64_t offset, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++) {
        if (got[i] != model[offset + i])
            ck_abort_msg("byte %ju is %u, was %u at the instant", (uintmax_t)(offset + i), got[i],
                         model[offset + i]);
    }
}

/* ---- clusters */

START_TEST(runs_of_clusters)
{
    CbwClusters c;
    uint64_t to = 300;

    ck_assert(cbw_clusters_init(&c, 300 * CLUSTER - 1, 16));
    ck_assert_uint_eq(c.n, 300);
    ck_assert_int_eq(cbw_clusters_run(&c, 0, &to), CBW_PENDING);
    ck_assert_uint_eq(to, 300);
    cbw_clusters_settle(&c, 63, 130, true);
    cbw_clusters_settle(&c, 128, 131, false);
    ck_assert_uint_eq(cbw_clusters_pending(&c, 63, 300), 131);
    ck_assert_int_eq(cbw_clusters_run(&c, 0, &to), CBW_PENDING);
    ck_assert_uint_eq(to, 63);
    to = 300;
    ck_assert_int_eq(cbw_clusters_run(&c, 63, &to), CBW_COPIED);
    ck_assert_uint_eq(to, 128);
    to = 300;
    ck_assert_int_eq(cbw_clusters_run(&c, 129, &to), CBW_RELEASED);
    ck_assert_uint_eq(to, 131);
    ck_assert_uint_eq(cbw_clusters_count_pending(&c), 300 - 68);
    ck_assert_uint_eq(cbw_clusters_offset(&c, 300), 300 * CLUSTER - 1);
    cbw_clusters_free(&c);
    ck_assert(!cbw_clusters_init(&c, INT64_MAX, 9));
}
END_TEST

/* ---- races */

static void copy_rest(BlkNode *filter)
{
    BlkCopied copied = { .data = 0 };
    uint64_t at = 0, offset, length;

    while (blk_cbw_next(filter, at, 256 * KIB, &offset, &length)) {
        ck_assert_int_eq(blk_cbw_copy(filter, offset, length, &copied), 0);
        at = offset + length;
    }
    ck_assert_uint_eq(blk_cbw_remaining(filter), 0);
}

/* Reads ranges all over the snapshot. */
static void read_some(BlkNode *snapshot, const uint8_t *model, unsigned n, uint64_t *seed)
{
    g_autofree uint8_t *buf = g_malloc(MIB);

    while (n--) {
        uint64_t length = 1 + next(seed) % (n % 8 ? 64 * KIB : MIB);
        uint64_t offset = next(seed) % (SIZE - length);

        ck_assert_int_eq(blk_node_pread(snapshot, buf, offset, length), 0);
        compare(buf, model, offset, length);
    }
}

static void one_round(Guest *guest, uint8_t *model, uint32_t timeout, uint64_t *seed)
{
    g_autofree uint8_t *got = g_malloc(SIZE);
    BlkNode *filter = new_filter(&(BlkCbwOptions){ .timeout = timeout }), *snapshot;
    g_autofree char *name = g_strdup(blk_node_name(filter));

    begin(filter, model);
    snapshot = add("{'driver':'snapshot-access','node-name':'s','file':'%s'}", name);
    read_some(snapshot, model, 30, seed);
    guest_writes(guest, 5);
    read_some(snapshot, model, 10, seed);
    copy_rest(filter);
    ck_assert_int_eq(blk_node_pread(target, got, 0, SIZE), 0);
    compare(got, model, 0, SIZE);
    read_some(snapshot, model, 10, seed);
    ck_assert(blk_graph_del(graph, "s", NULL));
    end(filter);
    ck_assert_ptr_null(blk_graph_find(graph, name, NULL));
}

static void check_marks(BmpBitmap *bitmap, const uint8_t *before)
{
    g_autofree uint8_t *now = g_malloc(SIZE);

    ck_assert_int_eq(blk_node_pread(disk, now, 0, SIZE), 0);
    for (uint64_t at = 0; at < SIZE; at += 512) {
        TmExtent one;
        TmExtents x = { .list = &one, .max = 1 };

        bmp_bitmap_extents(bitmap, at, 512, &x);
        if (!(one.flags & TM_STATE_DIRTY) && memcmp(before + at, now + at, MIN(512, SIZE - at)))
            ck_abort_msg("a write at %ju is not marked", (uintmax_t)at);
    }
}

START_TEST(the_snapshot_is_the_disk_at_the_instant)
{
    g_autofree uint8_t *model = g_malloc(SIZE), *before = g_malloc(SIZE);
    uint64_t seed = 42 + (uint64_t)_i;
    BmpSet *set;
    BmpBitmap *bitmap;
    Guest guest;

    open_disks();
    if (_i & 2)
        target = scratch_of(0);
    set = blk_node_bitmaps(disk);
    bmp_set_change_begin(&set, 1);
    bitmap = bmp_set_add(set, "b", &(BmpAddOptions){ .granularity = 512 }, NULL);
    bmp_set_change_end(&set, 1);
    ck_assert_int_eq(blk_node_pread(disk, before, 0, SIZE), 0);
    guest_start(&guest, disk);
    for (unsigned i = 0; i < 12; i++)
        one_round(&guest, model, _i & 1 ? 30 : 0, &seed);
    guest_stop(&guest);
    ck_assert_uint_eq(guest.errors, 0);
    check_marks(bitmap, before);
    bmp_bitmap_unref(bitmap);
    close_graph();
}
END_TEST

/* ---- who copies, and how much */

/* A write of a block by a user of the disk; whether it completed at once. */
static bool write_block(BlkUser *user, uint64_t offset)
{
    uint8_t block[512];
    BlkRequest r = { .op = BLK_OP_WRITE, .offset = offset, .length = sizeof(block), .buf = block };

    memset(block, 255, sizeof(block));
    if (fake.not_cached) {
        ck_assert_int_eq(do_request(user, BLK_OP_WRITE, block, offset, sizeof(block)), 0);
        return false;
    }
    return blk_user_submit(user, &r) == 0;
}

static void check_kept(BlkNode *filter, uint64_t before_writes, uint64_t data)
{
    BlkCbwStats stats;

    blk_cbw_stats(filter, &stats);
    ck_assert_uint_eq(stats.before_writes, before_writes);
    ck_assert_uint_eq(stats.copied.data, data);
}

static BlkNode *begin_block_by_block(uint64_t max_size, BlkUser **user)
{
    BlkNode *filter;

    open_disks();
    target = scratch_of(max_size);
    filter = new_filter(&(BlkCbwOptions){ .timeout = 30 });
    ck_assert_uint_eq(blk_cbw_cluster_size(filter), 4 * KIB);
    *user = blk_node_use(disk, "a guest", BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE, BLK_PERM_ALL,
                         NULL);
    ck_assert_ptr_nonnull(*user);
    blk_user_follow(*user);
    insert(filter);
    return filter;
}

static void end_block_by_block(BlkNode *filter, BlkUser *user)
{
    end(filter);
    blk_node_release(user);
    close_graph();
}

START_TEST(a_write_copies_what_it_covers_on_its_own_thread)
{
    uint8_t got[8 * KIB], model[8 * KIB];
    BlkUser *user;
    BlkNode *filter = begin_block_by_block(0, &user);

    ck_assert_int_eq(blk_node_pread(disk, model, 0, sizeof(model)), 0);
    ck_assert(write_block(user, 4 * KIB - 100));
    check_kept(filter, 8 * KIB, 8 * KIB);
    ck_assert_int_eq(blk_node_pread(target, got, 0, sizeof(got)), 0);
    compare(got, model, 0, sizeof(got));
    ck_assert(write_block(user, 4 * KIB)); /* it has been */
    check_kept(filter, 8 * KIB, 8 * KIB);
    ck_assert(write_block(user, MIB + 64 * KIB)); /* a hole */
    check_kept(filter, 12 * KIB, 8 * KIB);
    end_block_by_block(filter, user);
}
END_TEST

static void no_more_cached(off_t offset)
{
    fake.not_cached = offset >= (off_t)(4 * 64 * KIB);
    if (fake.not_cached)
        fake.before_read = NULL;
}

START_TEST(a_copy_that_a_worker_repeats_counts_once)
{
    g_autofree uint8_t *buf = g_malloc0(128 * KIB);
    BlkUser *user;
    BlkNode *filter = begin_block_by_block(0, &user);

    fake.before_read = no_more_cached;
    ck_assert_int_eq(do_request(user, BLK_OP_WRITE, buf, 3 * 64 * KIB, 128 * KIB), 0);
    ck_assert(fake.not_cached);
    check_kept(filter, 128 * KIB, 128 * KIB);
    fake.not_cached = false;
    end_block_by_block(filter, user);
}
END_TEST

START_TEST(a_worker_takes_neighbours_along)
{
    BlkUser *user;
    BlkNode *filter = begin_block_by_block(0, &user);

    fake.not_cached = true;
    write_block(user, 3 * 64 * KIB + 5000);
    check_kept(filter, 64 * KIB, 64 * KIB);
    fake.not_cached = false;
    ck_assert(write_block(user, 3 * 64 * KIB));
    check_kept(filter, 64 * KIB, 64 * KIB);
    end_block_by_block(filter, user);
}
END_TEST

START_TEST(neighbours_are_left_where_there_is_no_room)
{
    BlkUser *user;
    BlkNode *filter = begin_block_by_block(8 * KIB, &user);
    BlkCbwStats stats;

    fake.not_cached = true;
    write_block(user, 3 * 64 * KIB + 5000);
    blk_cbw_stats(filter, &stats);
    ck_assert_uint_eq(stats.before_writes, 4 * KIB);
    end_block_by_block(filter, user);
}
END_TEST

/* ---- what was copied is released */

static unsigned punched;

static int count_punches(int fd, int mode, off_t offset, off_t length)
{
    punched++;
    return tm_sys_kernel.fallocate(fd, mode, offset, length);
}

START_TEST(a_scratch_gives_its_room_back_at_once)
{
    BlkUser *user;
    BlkNode *filter = begin_block_by_block(0, &user);
    uint64_t zeroes = 0;

    for (unsigned i = 0; i < 16; i++)
        write_block(user, i * 8 * KIB);
    fake_sys.fallocate = count_punches;
    punched = 0;
    ck_assert_int_eq(blk_cbw_release(filter, 0, MIB), 0);
    ck_assert_uint_eq(punched, 1);
    ck_assert(blk_node_own_zeroes(target, 0, MIB, &zeroes));
    ck_assert_uint_eq(zeroes, MIB);
    ck_assert_uint_eq(blk_cbw_remaining(filter), SIZE - MIB);
    end_block_by_block(filter, user);
}
END_TEST

START_TEST(a_target_keeps_what_was_not_copied)
{
    uint8_t got[64 * KIB], model[64 * KIB];
    BlkNode *filter;
    BlkCopied copied = { .data = 0 };

    open_disks();
    memset(model, 9, sizeof(model));
    ck_assert_int_eq(blk_node_pwrite(target, model, 64 * KIB, sizeof(model), 0), 0);
    filter = new_filter(&(BlkCbwOptions){ .timeout = 0 });
    insert(filter);
    ck_assert_int_eq(blk_cbw_copy(filter, 0, 64 * KIB, &copied), 0);
    ck_assert_int_eq(blk_cbw_copy(filter, 128 * KIB, 64 * KIB, &copied), 0);
    ck_assert_int_eq(blk_cbw_release(filter, 0, 192 * KIB), 0);
    ck_assert_int_eq(blk_node_pread(target, got, 64 * KIB, sizeof(got)), 0);
    ck_assert_mem_eq(got, model, sizeof(got));
    end(filter);
    close_graph();
}
END_TEST

/* ---- whose requests give way */

START_TEST(who_reads_the_instant_gives_way)
{
    int mine = getpriority(PRIO_PROCESS, (id_t)gettid());
    g_autofree char *name = NULL;
    uint8_t buf[512] = { 0 };
    BlkNode *filter, *snapshot;
    BlkUser *users[2];

    open_disks();
    filter = new_filter(&(BlkCbwOptions){ .timeout = 0 });
    insert(filter);
    name = g_strdup(blk_node_name(filter));
    snapshot = add("{'driver':'snapshot-access','node-name':'s','file':'%s'}", name);
    users[0] = blk_node_use(snapshot, "a backup", BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, NULL);
    users[1] = blk_node_use(filter, "a guest", BLK_PERM_WRITE, BLK_PERM_ALL, NULL);
    ck_assert(users[0] && users[1]);
    ck_assert_int_eq(do_request(users[0], BLK_OP_READ, buf, 0, sizeof(buf)), 0);
    ck_assert_int_eq(request_nice, MIN(mine + 10, 19));
    ck_assert_int_eq(do_request(users[1], BLK_OP_WRITE_ZEROES, NULL, 0, sizeof(buf)), 0);
    ck_assert_int_eq(request_nice, mine);
    for (unsigned i = 0; i < 2; i++)
        blk_node_release(users[i]);
    ck_assert(blk_graph_del(graph, "s", NULL));
    end(filter);
    close_graph();
}
END_TEST

/* ---- a write after a cluster was found pending, and before it is read */

static BlkNode *overtaken;

static void write_first(off_t offset)
{
    uint8_t other[512];

    memset(other, 255, sizeof(other));
    fake.before_read = NULL;
    ck_assert_int_eq(blk_node_pwrite(overtaken, other, (uint64_t)offset, sizeof(other), 0), 0);
}

START_TEST(a_read_that_a_write_overtakes_is_of_the_instant)
{
    g_autofree uint8_t *model = g_malloc(SIZE);
    uint8_t got[4096];
    g_autofree char *name = NULL;
    BlkNode *snapshot;

    open_disks();
    ck_assert_int_eq(blk_node_pread(disk, model, 0, SIZE), 0);
    overtaken = new_filter(&(BlkCbwOptions){ .timeout = 0 });
    insert(overtaken);
    name = g_strdup(blk_node_name(overtaken));
    snapshot = add("{'driver':'snapshot-access','node-name':'s','file':'%s'}", name);
    fake.before_read = write_first;
    ck_assert_int_eq(blk_node_pread(snapshot, got, 2 * CLUSTER, sizeof(got)), 0);
    ck_assert(!fake.before_read); /* the write has been made */
    compare(got, model, 2 * CLUSTER, sizeof(got));
    ck_assert_int_eq(blk_node_pread(disk, got, 2 * CLUSTER, 512), 0);
    ck_assert_uint_eq(got[0], 255);
    ck_assert(blk_graph_del(graph, "s", NULL));
    end(overtaken);
    close_graph();
}
END_TEST

/* ---- several filters */

START_TEST(all_filters_are_put_in_or_none)
{
    g_autoptr(GError) error = NULL;
    BlkNode *disks[2], *filters[2];
    Guest guests[2];
    BlkUser *other;

    open_disks();
    disks[0] = disk;
    make_file("more", SIZE);
    disks[1] = add("{'driver':'file','node-name':'more','filename':'%s/more'}", dir);
    for (unsigned i = 0; i < 2; i++) {
        disk = disks[i];
        guest_start(&guests[i], disk);
        filters[i] = new_filter(&(BlkCbwOptions){ .timeout = 0 });
    }
    /* It stays below its filter, which lets nobody write there. */
    other = blk_node_use(disks[1], "another", BLK_PERM_WRITE, BLK_PERM_ALL, NULL);
    ck_assert_ptr_nonnull(other);
    ck_assert(!blk_filters_insert(filters, 2, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "Permission conflict on node 'more'"));
    for (unsigned i = 0; i < 2; i++) {
        ck_assert_ptr_eq(blk_user_node(guests[i].user), disks[i]);
        ck_assert_uint_eq(blk_node_users(filters[i]), 0);
        guest_writes(&guests[i], 20);
    }
    blk_node_release(other);
    ck_assert(blk_filters_insert(filters, 2, NULL));
    for (unsigned i = 0; i < 2; i++) {
        ck_assert_ptr_eq(blk_user_node(guests[i].user), filters[i]);
        guest_writes(&guests[i], 20);
    }
    blk_filters_remove(filters, 2);
    for (unsigned i = 0; i < 2; i++) {
        ck_assert_ptr_eq(blk_user_node(guests[i].user), disks[i]);
        blk_cbw_drop(filters[i]);
        guest_stop(&guests[i]);
        ck_assert_uint_eq(guests[i].errors, 0);
    }
    close_graph();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cbw");
    TCase *tc = tcase_create("cbw");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, runs_of_clusters);
    tcase_add_test(tc, a_write_copies_what_it_covers_on_its_own_thread);
    tcase_add_test(tc, a_copy_that_a_worker_repeats_counts_once);
    tcase_add_test(tc, a_worker_takes_neighbours_along);
    tcase_add_test(tc, neighbours_are_left_where_there_is_no_room);
    tcase_add_test(tc, a_scratch_gives_its_room_back_at_once);
    tcase_add_test(tc, a_target_keeps_what_was_not_copied);
    tcase_add_test(tc, who_reads_the_instant_gives_way);
    tcase_add_test(tc, all_filters_are_put_in_or_none);
    tcase_add_test(tc, a_read_that_a_write_overtakes_is_of_the_instant);
    tcase_add_loop_test(tc, the_snapshot_is_the_disk_at_the_instant, 0, 4);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
