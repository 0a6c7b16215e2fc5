/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_file.c: the file driver through a real graph on real files: ext4 or whatever
 * /var/tmp is, tmpfs, and loop devices where there are any. What it remembers of extents is
 * test_extents.c's. */
#include "tests/unit/drivers_util.h"

#include "block/bitmap_changes.h"
#include "block/bitmaps.h"

#include <linux/loop.h>
#include <sys/ioctl.h>

/* The tests that loop over it run once on a disk's file system and once on tmpfs. */
static const char *const places[] = { "/var/tmp", "/dev/shm" };

/* ---- file: opening */

START_TEST(unusable_files_are_refused)
{
    open_on_disk();
    make_file("a", MIB);
    g_autofree char *a = path_of("a");

    assert_refused("Could not open '/nonexistent': No such file or directory",
                   "{'driver':'file','node-name':'a','filename':'/nonexistent'}");
    assert_refused("Could not open '/tmp': Is a directory",
                   "{'driver':'file','node-name':'a','filename':'/tmp'}");
    assert_refused("'file' driver requires '/dev/null' to be a regular file or a block device",
                   "{'driver':'file','node-name':'a','filename':'/dev/null'}");
    g_autofree char *text = refusal("{'driver':'host_device','node-name':'a','filename':'%s'}", a);
    ck_assert_ptr_nonnull(strstr(text, "to be a block device"));
    assert_refused("aio=native was specified, but it requires cache.direct=on, which was not "
                   "specified.",
                   "{'driver':'file','node-name':'a','filename':'%s','aio':'native'}", a);
    assert_refused("Parameter 'filename' is missing", "{'driver':'file','node-name':'a'}");
    assert_refused("Parameter 'aio' does not accept value 'x'",
                   "{'driver':'file','node-name':'a','filename':'%s','aio':'x'}", a);
    close_graph();
}
END_TEST

START_TEST(auto_read_only_falls_back_to_reading)
{
    BlkNode *node;
    char byte = 1;

    open_on_disk();
    make_file("a", MIB);
    g_autofree char *a = path_of("a");
    g_autofree char *message = g_strdup_printf("Could not open '%s': Read-only file system", a);

    fake.refuse_write_open = true;
    assert_refused(message, "{'driver':'file','node-name':'a','filename':'%s'}", a);
    node = add_file("a", ",'auto-read-only':true");
    ck_assert(blk_node_read_only(node));
    ck_assert_int_eq(blk_node_pwrite(node, &byte, 0, 1, 0), -EPERM);
    fake.refuse_write_open = false;
    del("a");
    ck_assert(!blk_node_read_only(add_file("a", ",'auto-read-only':true")));
    close_graph();
}
END_TEST

/* ---- file: locks */

static char *lock_message(const char *which, const char *name)
{
    g_autofree char *path = path_of(name);

    return g_strdup_printf("Failed to get %s lock. Is another process using the image [%s]?", which,
                           path);
}

#define READ  BLK_PERM_CONSISTENT_READ
#define WRITE (BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE)

/* As an export uses it. */
static BlkUser *use(BlkNode *node, unsigned needs)
{
    g_autoptr(GError) error = NULL;
    BlkUser *user = blk_node_use(node, "a test", needs, BLK_PERM_ALL & ~BLK_PERM_RESIZE, &error);

    ck_assert_msg(user != NULL, "%s", error ? error->message : "no error set");
    return user;
}

static void assert_unusable(BlkNode *node, unsigned needs, const char *message)
{
    g_autoptr(GError) error = NULL;

    ck_assert_ptr_null(
        blk_node_use(node, "a test", needs, BLK_PERM_ALL & ~BLK_PERM_RESIZE, &error));
    ck_assert_str_eq(error->message, message);
}

/* Nodes on one file are to each other what other processes are. */
START_TEST(nodes_on_one_file_lock_each_other_out)
{
    BlkNode *a, *b, *r, *off;
    BlkUser *writer, *reader, *another;

    open_graph(places[_i]);
    make_file("a", MIB);
    g_autofree char *path = path_of("a");
    g_autofree char *write = lock_message("\"write\"", "a");

    a = add_file("a", "");
    b = add("{'driver':'file','node-name':'b','filename':'%s','locking':'on'}", path);
    r = add("{'driver':'file','node-name':'r','filename':'%s','read-only':true}", path);
    off = add("{'driver':'file','node-name':'off','filename':'%s','locking':'off'}", path);
    writer = use(a, WRITE);
    assert_unusable(b, WRITE, write);
    /* what was refused left no lock behind, and readers may come */
    assert_unusable(b, WRITE, write);
    reader = use(r, READ);
    another = use(off, WRITE);
    blk_node_release(writer);
    writer = use(b, WRITE);
    blk_node_release(writer);
    blk_node_release(reader);
    blk_node_release(another);
    close_graph();
}
END_TEST

/* Its bitmaps would not see what another one writes. */
START_TEST(a_file_with_bitmaps_admits_no_second_writer)
{
    static const BmpAddOptions options = { .granularity = 65536 };
    g_autoptr(BmpBitmap) bitmap = NULL;
    g_autoptr(GError) error = NULL;
    BlkBitmapChanges *changes = blk_bitmap_changes_new();
    BlkNode *a, *b;
    BlkUser *writer;

    open_graph(places[_i]);
    make_file("a", MIB);
    g_autofree char *path = path_of("a");
    g_autofree char *write = lock_message("\"write\"", "a");
    g_autofree char *shared = lock_message("shared \"write\"", "a");

    a = add_file("a", "");
    b = add("{'driver':'file','node-name':'b','filename':'%s'}", path);
    blk_bitmaps_change_begin(&a, 1);
    ck_assert(blk_bitmap_changes_add(changes, a, "m", &options, NULL));
    blk_bitmaps_change_end(&a, 1);
    assert_unusable(b, WRITE, write);
    bitmap = bmp_set_find(blk_node_bitmaps(a), "m", NULL);
    blk_bitmaps_change_begin(&a, 1);
    ck_assert(blk_bitmap_changes_remove(changes, bitmap, NULL));
    blk_bitmaps_change_end(&a, 1);
    writer = use(b, WRITE);
    blk_bitmaps_change_begin(&a, 1);
    ck_assert(!blk_bitmap_changes_add(changes, a, "m", &options, &error));
    blk_bitmaps_change_end(&a, 1);
    ck_assert_str_eq(error->message, shared);
    blk_node_release(writer);
    blk_bitmap_changes_free(changes);
    g_clear_pointer(&bitmap, bmp_bitmap_unref);
    close_graph();
}
END_TEST

/* Who comes late finds what has changed since. */
START_TEST(a_file_of_another_size_than_when_opened_is_refused)
{
    g_autofree char *message = NULL;
    BlkNode *node;
    BlkUser *user;

    open_graph(places[_i]);
    make_file("a", MIB);
    g_autofree char *path = path_of("a");

    node = add_file("a", "");
    ck_assert_int_eq(truncate(path, 2 * MIB), 0);
    message = g_strdup_printf("the size of '%s' has changed since it was opened: 2097152 bytes, "
                              "expected 1048576",
                              path);
    assert_unusable(node, READ, message);
    assert_unusable(node, WRITE, message);
    ck_assert_int_eq(truncate(path, MIB), 0);
    user = use(node, WRITE);
    blk_node_release(user);
    close_graph();
}
END_TEST

/* Another process that behaves as QEMU does: it holds shared locks on @bytes. */
static int hold_bytes(const char *path, const int *bytes, int n)
{
    int fd = open(path, O_RDWR);

    ck_assert_int_ge(fd, 0);
    for (int i = 0; i < n; i++) {
        struct flock lock = {
            .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = bytes[i], .l_len = 1
        };

        ck_assert_int_eq(fcntl(fd, F_OFD_SETLK, &lock), 0);
    }
    return fd;
}

START_TEST(qemus_image_locks_are_respected)
{
    static const int sharing_writer[] = { 100, 101, 203 }; /* an NBD export of QSD */
    static const int sole_user[] = { 100, 101, 201, 203 }; /* a virtual machine */
    static const int lonely[] = { 200 };                   /* doesn't share reading */
    BlkNode *node;
    int fd;

    open_on_disk();
    make_file("a", MIB);
    g_autofree char *a = path_of("a");
    g_autofree char *write = lock_message("\"write\"", "a");
    g_autofree char *shared = lock_message("shared \"write\"", "a");
    g_autofree char *reads = lock_message("\"consistent read\"", "a");

    node = add_file("a", "");
    fd = hold_bytes(a, sharing_writer, G_N_ELEMENTS(sharing_writer));
    assert_unusable(node, WRITE, shared);
    blk_node_release(use(node, READ));
    close(fd);
    fd = hold_bytes(a, sole_user, G_N_ELEMENTS(sole_user));
    assert_unusable(node, WRITE, write);
    close(fd);
    fd = hold_bytes(a, lonely, G_N_ELEMENTS(lonely));
    assert_unusable(node, READ, reads);
    close(fd);
    blk_node_release(use(node, WRITE));
    close_graph();
}
END_TEST

START_TEST(resize_is_refused_while_another_relies_on_the_size)
{
    static const int export_[] = { 100, 203 }; /* a reader that relies on the size */
    g_autoptr(GError) error = NULL;
    BlkNode *node;
    int fd;

    open_on_disk();
    make_file("a", MIB);
    g_autofree char *a = path_of("a");

    node = add_file("a", "");
    fd = hold_bytes(a, export_, G_N_ELEMENTS(export_));
    ck_assert(!blk_graph_resize(graph, node, 2 * MIB, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "Failed to get \"resize\" lock"));
    ck_assert_int_eq(stat_of("a").st_size, MIB);
    close(fd);
    g_clear_error(&error);
    ck_assert(blk_graph_resize(graph, node, 2 * MIB, &error));
    ck_assert_int_eq(stat_of("a").st_size, 2 * MIB);
    /* the permission was given back: such a reader may come */
    blk_node_release(
        use(add("{'driver':'file','node-name':'r','filename':'%s','read-only':true}", a), READ));
    close_graph();
}
END_TEST

/* ---- file: data */

START_TEST(odd_sizes_are_read_and_written_to_the_end)
{
    uint64_t size = MIB + 1;
    BlkNode *node;

    open_graph(places[_i]);
    make_file("a", size);
    node = add_file("a", ",'discard':'unmap'");
    ck_assert_uint_eq(blk_node_size(node), size);
    write_pattern(node, size - 1000, 1000, 1);
    ck_assert(reads_pattern(node, size - 1000, 1000, 1));
    ck_assert(reads_zero(node, 0, size - 1000));
    ck_assert_int_eq(blk_node_discard(node, size - 700, 700, 0), 0);
    ck_assert(reads_pattern(node, size - 1000, 300, 1));
    ck_assert(reads_zero(node, size - 700, 700));
    write_pattern(node, size - 1, 1, 2);
    ck_assert(reads_pattern(node, size - 1, 1, 2));
    ck_assert_int_eq(blk_node_write_zeroes(node, size - 1, 1, 0), 0);
    ck_assert(reads_zero(node, size - 1, 1));
    ck_assert_int_eq(stat_of("a").st_size, size);
    close_graph();
}
END_TEST

START_TEST(offsets_beyond_4_gib_are_right)
{
    uint64_t far = 5 * GIB + 12345;
    BlkNode *node;

    open_graph(places[_i]);
    make_file("a", 6 * GIB + 7);
    node = add_file("a", ",'discard':'unmap'");
    write_pattern(node, far, 100000, 1);
    ck_assert(reads_pattern(node, far, 100000, 1));
    ck_assert(reads_zero(node, far - 4 * GIB, 100000));
    ck_assert_int_eq(blk_node_write_zeroes(node, 4096, 5 * GIB, TIDEMARK_MAY_UNMAP), 0);
    ck_assert(reads_pattern(node, 5 * GIB + 12345, 100000, 1));
    ck_assert_int_eq(blk_node_discard(node, 0, 6 * GIB + 7, 0), 0);
    assert_status(node, "hole,zero 6442450951");
    close_graph();
}
END_TEST

/* Another program shortens the file: what is gone reads as zeroes, and nothing breaks. */
START_TEST(a_file_truncated_by_another_program_reads_as_zeroes)
{
    BlkNode *node;

    open_graph(places[_i]);
    make_file("a", MIB);
    node = add_file("a", "");
    write_pattern(node, 0, MIB, 1);
    g_autofree char *a = path_of("a");
    ck_assert_int_eq(truncate(a, 100), 0);
    ck_assert(reads_pattern(node, 0, 100, 1));
    ck_assert(reads_zero(node, 100, MIB - 100));
    ck_assert(reads_zero(node, 512 * KIB, 4096));
    g_autofree char *status = status_text(node);
    ck_assert_ptr_nonnull(strstr(status, "hole,zero"));
    close_graph();
}
END_TEST

/* Which space zeroing leaves allocated. */
START_TEST(zeroing_deallocates_only_with_may_unmap)
{
    BlkNode *node;

    open_graph(places[_i]);
    make_file("a", MIB);
    node = add_file("a", ",'discard':'unmap'");
    write_pattern(node, 0, MIB, 1);
    ck_assert_int_eq(blk_node_write_zeroes(node, 0, 256 * KIB, TIDEMARK_FAST_ZERO), 0);
    ck_assert(reads_zero(node, 0, 256 * KIB));
    ck_assert_int_ge(stat_of("a").st_blocks * 512, MIB);
    ck_assert_int_eq(blk_node_write_zeroes(node, 0, 512 * KIB, TIDEMARK_MAY_UNMAP), 0);
    ck_assert_int_le(stat_of("a").st_blocks * 512, 512 * KIB + 64 * KIB);
    ck_assert(reads_zero(node, 0, 512 * KIB));
    ck_assert_int_eq(blk_node_write_zeroes(node, 600 * KIB + 1, 100, TIDEMARK_MAY_UNMAP), 0);
    ck_assert(reads_zero(node, 600 * KIB + 1, 100));
    ck_assert(reads_pattern(node, 512 * KIB, 88 * KIB + 1, 1));
    ck_assert(reads_pattern(node, 600 * KIB + 101, 1000, 1));
    assert_status(node, "hole,zero 524288, data 524288");
    close_graph();
}
END_TEST

/* A file system that can neither zero nor punch: fast zeroing says so, plain zeroing writes. */
START_TEST(without_support_fast_zeroing_is_refused)
{
    BlkNode *node;

    open_on_disk();
    make_file("a", MIB);
    node = add_file("a", ",'discard':'unmap'");
    write_pattern(node, 0, MIB, 1);
    fake.zero_error = fake.punch_error = EOPNOTSUPP;
    ck_assert_int_eq(blk_node_write_zeroes(node, 0, 4096, TIDEMARK_FAST_ZERO), -ENOTSUP);
    ck_assert(reads_pattern(node, 0, 4096, 1));
    ck_assert_int_eq(blk_node_write_zeroes(node, 0, 4096, TIDEMARK_MAY_UNMAP), 0);
    ck_assert(reads_zero(node, 0, 4096));
    ck_assert_int_eq(blk_node_discard(node, 0, MIB, 0), 0);
    ck_assert(reads_pattern(node, 4096, 4096, 1));
    close_graph();
}
END_TEST

START_TEST(discard_is_ignored_unless_asked_for)
{
    BlkNode *node;

    open_graph(places[_i]);
    make_file("a", MIB);
    node = add_file("a", "");
    write_pattern(node, 0, MIB, 1);
    ck_assert_int_eq(blk_node_discard(node, 0, MIB, 0), 0);
    ck_assert(reads_pattern(node, 0, MIB, 1));
    ck_assert_int_eq(blk_node_write_zeroes(node, 0, MIB, TIDEMARK_MAY_UNMAP), 0);
    ck_assert(reads_zero(node, 0, MIB));
    ck_assert_int_ge(stat_of("a").st_blocks * 512, MIB); /* unmapping is discarding */
    close_graph();
}
END_TEST

START_TEST(io_errors_reach_the_caller)
{
    BlkNode *node;
    char buf[512] = { 1 };

    open_on_disk();
    make_file("a", MIB);
    node = add_file("a", "");
    fake.write_error = ENOSPC;
    ck_assert_int_eq(blk_node_pwrite(node, buf, 0, 512, 0), -ENOSPC);
    fake.write_error = EIO;
    ck_assert_int_eq(blk_node_pwrite(node, buf, 0, 512, TIDEMARK_FUA), -EIO);
    fake.write_error = 0;
    fake.read_error = EIO;
    ck_assert_int_eq(blk_node_pread(node, buf, 0, 512), -EIO);
    fake.read_error = 0;
    fake.zero_error = ENOSPC;
    ck_assert_int_eq(blk_node_write_zeroes(node, 0, 512, 0), -ENOSPC);
    ck_assert_int_eq(blk_node_pread(node, buf, MIB, 1), -EINVAL);
    ck_assert_int_eq(blk_node_pwrite(node, buf, MIB, 1, 0), -ENOSPC);
    close_graph();
}
END_TEST

START_TEST(fua_and_flush_sync_the_file)
{
    g_autoptr(GError) error = NULL;
    BlkNode *node;
    char buf[512] = { 1 };

    open_on_disk();
    make_file("a", MIB);
    node = add_file("a", "");
    ck_assert_int_eq(blk_node_pwrite(node, buf, 0, 512, TIDEMARK_FUA), 0);
    ck_assert_int_eq(fake.syncs, 1);
    ck_assert_int_eq(blk_node_write_zeroes(node, 0, 512, TIDEMARK_FUA), 0);
    ck_assert_int_eq(fake.syncs, 2);
    ck_assert_int_eq(blk_node_flush(node), 0);
    /* what a failed sync dropped, a later one can't bring back */
    fake.sync_error = EIO;
    ck_assert_int_eq(blk_node_pwrite(node, buf, 0, 512, TIDEMARK_FUA), -EIO);
    fake.sync_error = 0;
    ck_assert_int_eq(blk_node_flush(node), -EIO);
    /* the last flush goes on after it, and names it */
    make_file("b", MIB);
    add_file("b", "");
    make_file("c", MIB);
    add_file("c", "");
    fake.syncs = 0;
    ck_assert(!blk_graph_flush_all(graph, &error));
    ck_assert_str_eq(error->message, "Error flushing node 'a': Input/output error");
    ck_assert_int_eq(fake.syncs, 2);
    del("b");
    del("c");
    del("a");
    node = add_file("a", ",'cache':{'no-flush':true}");
    fake.syncs = 0;
    ck_assert_int_eq(blk_node_flush(node), 0);
    ck_assert_int_eq(fake.syncs, 0);
    close_graph();
}
END_TEST

START_TEST(resize_up_and_down_keeps_data)
{
    BlkNode *node;

    open_graph(places[_i]);
    make_file("a", MIB);
    node = add_file("a", "");
    write_pattern(node, 0, MIB, 1);
    ck_assert(blk_graph_resize(graph, node, 2 * MIB + 5, NULL));
    ck_assert_uint_eq(blk_node_size(node), 2 * MIB + 5);
    assert_status(node, "data 1048576, hole,zero 1048581");
    ck_assert(blk_graph_resize(graph, node, 512 * KIB, NULL));
    assert_status(node, "data 524288");
    ck_assert(blk_graph_resize(graph, node, MIB, NULL));
    ck_assert(reads_pattern(node, 0, 512 * KIB, 1));
    ck_assert(reads_zero(node, 512 * KIB, 512 * KIB));
    assert_status(node, "data 524288, hole,zero 524288");
    close_graph();
}
END_TEST

/* ---- file: O_DIRECT */

START_TEST(o_direct_keeps_unaligned_data)
{
    uint64_t size = MIB + 777;
    struct tidemark_info info;
    BlkNode *node;

    open_on_disk();
    make_file("a", size);
    node = add_file("a", ",'cache':{'direct':true},'discard':'unmap'");
    blk_node_info(node, &info);
    ck_assert_uint_ge(info.request_alignment, 512);
    ck_assert_uint_eq(info.size, size);
    write_pattern(node, 0, size, 1);
    ck_assert(reads_pattern(node, 0, size, 1));
    write_pattern(node, 1001, 5000, 2); /* read-modify-write at both ends */
    ck_assert(reads_pattern(node, 0, 1001, 1));
    ck_assert(reads_pattern(node, 1001, 5000, 2));
    ck_assert(reads_pattern(node, 6001, 10000, 1));
    write_pattern(node, size - 1000, 1000, 3); /* over the last whole block into the tail */
    ck_assert(reads_pattern(node, size - 2000, 1000, 1));
    ck_assert(reads_pattern(node, size - 1000, 1000, 3));
    write_pattern(node, size - 1, 1, 4);
    ck_assert(reads_pattern(node, size - 1, 1, 4));
    ck_assert_int_eq(stat_of("a").st_size, size);
    ck_assert_int_eq(blk_node_write_zeroes(node, size - 900, 900, 0), 0);
    ck_assert(reads_zero(node, size - 900, 900));
    ck_assert(blk_graph_resize(graph, node, MIB, NULL));
    ck_assert(blk_graph_resize(graph, node, MIB + 1, NULL));
    write_pattern(node, MIB, 1, 5);
    ck_assert(reads_pattern(node, MIB, 1, 5));
    ck_assert_int_eq(stat_of("a").st_size, MIB + 1);
    close_graph();
}
END_TEST

/* Neighbours within one block, each read-modify-write: none may put back what another one wrote. */
typedef struct Neighbour {
    BlkNode *node;
    uint64_t offset, length;
} Neighbour;

static void *write_and_observe(void *data)
{
    const Neighbour *n = data;

    for (unsigned i = 0; i < 300; i++) {
        write_pattern(n->node, n->offset, n->length, i);
        if (!reads_pattern(n->node, n->offset, n->length, i))
            return (void *)"a write was lost";
    }
    return NULL;
}

START_TEST(o_direct_keeps_concurrent_writes_to_one_sector)
{
    Neighbour neighbours[] = {
        { .offset = 0, .length = 100 },    { .offset = 100, .length = 311 },
        { .offset = 411, .length = 512 }, /* over the end of the sector */
        { .offset = 923, .length = 3173 }, { .offset = 4096, .length = 4096 },
    };
    GThread *threads[G_N_ELEMENTS(neighbours)];
    BlkNode *node;

    open_on_disk();
    make_file("a", MIB);
    node = add_file("a", ",'cache':{'direct':true}");
    for (size_t i = 0; i < G_N_ELEMENTS(threads); i++) {
        neighbours[i].node = node;
        threads[i] = g_thread_new("neighbour", write_and_observe, &neighbours[i]);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(threads); i++)
        ck_assert_pstr_eq(g_thread_join(threads[i]), NULL);
    close_graph();
}
END_TEST

/* ---- file: block devices */

typedef struct Loop {
    int fd;
    char path[32];
} Loop;

/* A loop device over @file of the directory, or false if there can't be one. */
static bool loop_attach(Loop *loop, const char *file, bool read_only)
{
    g_autofree char *path = path_of(file);
    int control = open("/dev/loop-control", O_RDWR), back, number;

    if (control < 0)
        return false;
    number = ioctl(control, LOOP_CTL_GET_FREE);
    close(control);
    g_snprintf(loop->path, sizeof(loop->path), "/dev/loop%d", number);
    loop->fd = number < 0 ? -1 : open(loop->path, O_RDWR);
    if (loop->fd < 0)
        return false;
    back = open(path, read_only ? O_RDONLY : O_RDWR);
    /* it goes with the last descriptor, however the test ends */
    struct loop_config config = { .fd = (uint32_t)back, .info.lo_flags = LO_FLAGS_AUTOCLEAR };
    int ret = ioctl(loop->fd, LOOP_CONFIGURE, &config);
    close(back);
    if (ret < 0)
        close(loop->fd);
    return ret == 0;
}

static void device_io(const char *path, const char *more)
{
    g_autoptr(GError) error = NULL;
    BlkNode *node = add(
        "{'driver':'host_device','node-name':'d','filename':'%s','discard':'unmap'%s}", path, more);

    ck_assert_uint_eq(blk_node_size(node), 4 * MIB);
    write_pattern(node, 0, 4 * MIB, 1);
    write_pattern(node, 513, 10000, 2);
    ck_assert(reads_pattern(node, 513, 10000, 2));
    ck_assert(reads_pattern(node, 0, 513, 1));
    ck_assert_int_eq(blk_node_write_zeroes(node, MIB - 100, 5000, 0), 0);
    ck_assert(reads_zero(node, MIB - 100, 5000));
    ck_assert(reads_pattern(node, MIB - 1100, 1000, 1));
    ck_assert(reads_pattern(node, MIB + 4900, 1000, 1));
    ck_assert_int_eq(blk_node_write_zeroes(node, MIB + 10, 20, 0), 0);
    ck_assert(reads_zero(node, MIB + 10, 20));
    ck_assert_int_eq(blk_node_write_zeroes(node, 0, MIB, TIDEMARK_MAY_UNMAP), 0);
    ck_assert(reads_zero(node, 0, MIB));
    ck_assert_int_eq(blk_node_discard(node, 2 * MIB + 100, MIB, 0), 0);
    ck_assert(reads_pattern(node, 2 * MIB, 100, 1));
    ck_assert_int_eq(blk_node_flush(node), 0);
    assert_status(node, "data 4194304");
    ck_assert(!blk_graph_resize(graph, node, 8 * MIB, &error));
    ck_assert_str_eq(error->message, "Cannot grow device files");
    ck_assert(blk_graph_resize(graph, node, 2 * MIB, NULL)); /* a device stays as it is */
    ck_assert_uint_eq(blk_node_size(node), 4 * MIB);
    del("d");
}

START_TEST(a_loop_device_is_read_and_written)
{
    Loop loop;

    open_on_disk();
    make_file("back", 4 * MIB);
    if (loop_attach(&loop, "back", false)) {
        device_io(loop.path, "");
        device_io(loop.path, ",'cache':{'direct':true}");
        close(loop.fd);
    }
    if (loop_attach(&loop, "back", true)) {
        g_autofree char *says =
            refusal("{'driver':'file','node-name':'d','filename':'%s'}", loop.path);

        ck_assert_ptr_nonnull(strstr(says, "Permission denied"));
        ck_assert(blk_node_read_only(add(
            "{'driver':'file','node-name':'d','filename':'%s','auto-read-only':true}", loop.path)));
        del("d");
        close(loop.fd);
    }
    close_graph();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("file");
    TCase *cases = tcase_create("file");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(cases, 60);
    tcase_add_test(cases, unusable_files_are_refused);
    tcase_add_test(cases, auto_read_only_falls_back_to_reading);
    tcase_add_loop_test(cases, nodes_on_one_file_lock_each_other_out, 0, 2);
    tcase_add_loop_test(cases, a_file_with_bitmaps_admits_no_second_writer, 0, 2);
    tcase_add_loop_test(cases, a_file_of_another_size_than_when_opened_is_refused, 0, 2);
    tcase_add_test(cases, qemus_image_locks_are_respected);
    tcase_add_test(cases, resize_is_refused_while_another_relies_on_the_size);
    tcase_add_loop_test(cases, odd_sizes_are_read_and_written_to_the_end, 0, 2);
    tcase_add_loop_test(cases, offsets_beyond_4_gib_are_right, 0, 2);
    tcase_add_loop_test(cases, a_file_truncated_by_another_program_reads_as_zeroes, 0, 2);
    tcase_add_loop_test(cases, zeroing_deallocates_only_with_may_unmap, 0, 2);
    tcase_add_test(cases, without_support_fast_zeroing_is_refused);
    tcase_add_loop_test(cases, discard_is_ignored_unless_asked_for, 0, 2);
    tcase_add_test(cases, io_errors_reach_the_caller);
    tcase_add_test(cases, fua_and_flush_sync_the_file);
    tcase_add_loop_test(cases, resize_up_and_down_keeps_data, 0, 2);
    tcase_add_test(cases, o_direct_keeps_unaligned_data);
    tcase_add_test(cases, o_direct_keeps_concurrent_writes_to_one_sector);
    tcase_add_test(cases, a_loop_device_is_read_and_written);
    suite_add_tcase(suite, cases);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
