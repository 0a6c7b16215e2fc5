/* tests/unit/test_drivers.c: the built-in drivers and the example plug-ins, through a real graph on
 * real files: ext4 or whatever /var/tmp is, tmpfs, and loop devices where there are any. */
#include "tests/unit/drivers_util.h"

#include <linux/loop.h>
#include <sys/ioctl.h>

/* The tests that loop over it run once on a disk's file system and once on tmpfs. */
static const char *const places[] = { "/var/tmp", "/dev/shm" };

/* ---- file: opening */

START_TEST(file_refusals)
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

START_TEST(auto_read_only)
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

START_TEST(locks_between_nodes)
{
    open_graph(places[_i]);
    make_file("a", MIB);
    g_autofree char *a = path_of("a");
    g_autofree char *write = lock_message("\"write\"", "a");

    add_file("a", "");
    assert_refused(write, "{'driver':'file','node-name':'b','filename':'%s'}", a);
    /* what was refused left no lock behind, and readers may come */
    assert_refused(write, "{'driver':'file','node-name':'b','filename':'%s'}", a);
    add("{'driver':'file','node-name':'r','filename':'%s','read-only':true}", a);
    add("{'driver':'file','node-name':'f','filename':'%s','read-only':true,'force-share':true}", a);
    add("{'driver':'file','node-name':'off','filename':'%s','locking':'off'}", a);
    del("a");
    add("{'driver':'file','node-name':'b','filename':'%s','locking':'on'}", a);
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

START_TEST(locks_against_qemu)
{
    static const int sharing_writer[] = { 100, 101, 203 }; /* an NBD export of QSD */
    static const int sole_user[] = { 100, 101, 201, 203 }; /* a virtual machine */
    static const int lonely[] = { 200 };                   /* doesn't share reading */
    int fd;

    open_on_disk();
    make_file("a", MIB);
    g_autofree char *a = path_of("a");
    g_autofree char *write = lock_message("\"write\"", "a");
    g_autofree char *shared = lock_message("shared \"write\"", "a");
    g_autofree char *reads = lock_message("\"consistent read\"", "a");

    fd = hold_bytes(a, sharing_writer, G_N_ELEMENTS(sharing_writer));
    assert_refused(shared, "{'driver':'file','node-name':'a','filename':'%s'}", a);
    add_file("a", ",'read-only':true");
    del("a");
    close(fd);
    fd = hold_bytes(a, sole_user, G_N_ELEMENTS(sole_user));
    assert_refused(write, "{'driver':'file','node-name':'a','filename':'%s'}", a);
    close(fd);
    fd = hold_bytes(a, lonely, G_N_ELEMENTS(lonely));
    assert_refused(reads, "{'driver':'file','node-name':'a','filename':'%s','read-only':true}", a);
    close(fd);
    add_file("a", "");
    close_graph();
}
END_TEST

START_TEST(lock_of_resize)
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
    add("{'driver':'file','node-name':'r','filename':'%s','read-only':true}", a);
    close_graph();
}
END_TEST

/* ---- file: data */

START_TEST(file_odd_sizes)
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

START_TEST(file_beyond_4_gib)
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
START_TEST(file_truncated_outside)
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
START_TEST(file_write_zeroes)
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
START_TEST(file_zeroes_unsupported)
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

START_TEST(file_discard_ignored)
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

START_TEST(file_errors)
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

START_TEST(file_durability)
{
    BlkNode *node;
    char buf[512] = { 1 };

    open_on_disk();
    make_file("a", MIB);
    node = add_file("a", "");
    ck_assert_int_eq(blk_node_pwrite(node, buf, 0, 512, TIDEMARK_FUA), 0);
    ck_assert_int_eq(fake.dsync_writes, 1);
    ck_assert_int_eq(blk_node_write_zeroes(node, 0, 512, TIDEMARK_FUA), 0);
    ck_assert_int_ge(fake.syncs, 1);
    ck_assert_int_eq(blk_node_flush(node), 0);
    /* what a failed sync dropped, a later one can't bring back */
    fake.sync_error = EIO;
    ck_assert_int_eq(blk_node_flush(node), -EIO);
    fake.sync_error = 0;
    ck_assert_int_eq(blk_node_flush(node), -EIO);
    del("a");
    node = add_file("a", ",'cache':{'no-flush':true}");
    fake.syncs = 0;
    ck_assert_int_eq(blk_node_flush(node), 0);
    ck_assert_int_eq(fake.syncs, 0);
    close_graph();
}
END_TEST

START_TEST(file_resize)
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

START_TEST(direct)
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
    if (ioctl(loop->fd, LOOP_SET_FD, back) < 0) {
        close(back);
        close(loop->fd);
        return false;
    }
    close(back);
    return true;
}

static void loop_detach(Loop *loop)
{
    ioctl(loop->fd, LOOP_CLR_FD);
    close(loop->fd);
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

START_TEST(loop_device)
{
    Loop loop;

    open_on_disk();
    make_file("back", 4 * MIB);
    if (loop_attach(&loop, "back", false)) {
        device_io(loop.path, "");
        device_io(loop.path, ",'cache':{'direct':true}");
        loop_detach(&loop);
    }
    if (loop_attach(&loop, "back", true)) {
        g_autofree char *says =
            refusal("{'driver':'file','node-name':'d','filename':'%s'}", loop.path);

        ck_assert_ptr_nonnull(strstr(says, "Permission denied"));
        ck_assert(blk_node_read_only(add(
            "{'driver':'file','node-name':'d','filename':'%s','auto-read-only':true}", loop.path)));
        del("d");
        loop_detach(&loop);
    }
    close_graph();
}
END_TEST

/* ---- raw */

START_TEST(raw_window)
{
    BlkNode *file, *raw;

    open_graph(places[_i]);
    make_file("f", MIB);
    file = add_file("f", ",'discard':'unmap'");
    write_pattern(file, 0, MIB, 1);
    raw = add("{'driver':'raw','node-name':'r','file':'f','offset':1000,'size':65536,"
              "'discard':'unmap'}");
    ck_assert_uint_eq(blk_node_size(raw), 65536);
    g_autofree char *got = g_malloc(65536);
    g_autofree char *want = g_malloc(65536);
    pattern(want, 1000, 65536, 1);
    ck_assert_int_eq(blk_node_pread(raw, got, 0, 65536), 0);
    ck_assert_mem_eq(got, want, 65536);
    write_pattern(raw, 0, 65536, 2);
    ck_assert(reads_pattern(file, 0, 1000, 1));
    ck_assert(reads_pattern(file, 66536, 1000, 1));
    ck_assert_int_eq(blk_node_write_zeroes(raw, 0, 65536, TIDEMARK_MAY_UNMAP), 0);
    ck_assert(reads_zero(file, 1000, 65536));
    ck_assert(reads_pattern(file, 66536, 1000, 1));
    ck_assert_int_eq(blk_node_discard(raw, 0, 65536, 0), 0);
    assert_status(raw, "data 3096, hole,zero 61440, data 1000");
    ck_assert_int_eq(blk_node_pread(raw, got, 65536, 1), -EINVAL);
    ck_assert_int_eq(blk_node_flush(raw), 0);
    ck_assert_int_eq(blk_node_cache(raw, 0, 65536), 0);
    close_graph();
}
END_TEST

START_TEST(raw_refusals)
{
    open_on_disk();
    make_file("f", MIB);
    add_file("f", "");
    assert_refused("Parameter 'file' is missing", "{'driver':'raw','node-name':'r'}");
    assert_refused("Offset (2097152) cannot be greater than size of the containing file (1048576)",
                   "{'driver':'raw','node-name':'r','file':'f','offset':2097152,'size':512}");
    assert_refused("The sum of offset (512) and size (1048576) has to be smaller or equal to the  "
                   "actual size of the containing file (1048576)",
                   "{'driver':'raw','node-name':'r','file':'f','offset':512,'size':1048576}");
    assert_refused("Specified size is not multiple of 512",
                   "{'driver':'raw','node-name':'r','file':'f','size':513}");
    ck_assert_uint_eq(
        blk_node_size(add("{'driver':'raw','node-name':'r','file':'f','offset':1048576}")), 0);
    close_graph();
}
END_TEST

START_TEST(raw_resize)
{
    g_autoptr(GError) error = NULL;
    BlkNode *raw;

    open_on_disk();
    make_file("f", MIB);
    g_autofree char *f = path_of("f");
    raw = add("{'driver':'raw','node-name':'r','offset':512,'file':{'driver':'file',"
              "'filename':'%s'}}",
              f);
    ck_assert_uint_eq(blk_node_size(raw), MIB - 512);
    ck_assert_msg(blk_graph_resize(graph, raw, 2 * MIB, &error), "%s", error ? error->message : "");
    ck_assert_uint_eq(blk_node_size(raw), 2 * MIB);
    ck_assert_int_eq(stat_of("f").st_size, 2 * MIB + 512);
    ck_assert(!blk_graph_resize(graph, raw, INT64_MAX, &error));
    ck_assert_str_eq(error->message, "Disk size too large for the chosen offset");
    g_clear_error(&error);
    del("r");
    raw = add("{'driver':'raw','node-name':'r','size':512,'file':{'driver':'file',"
              "'filename':'%s'}}",
              f);
    ck_assert(!blk_graph_resize(graph, raw, 1024, &error));
    ck_assert_str_eq(error->message, "Cannot resize fixed-size raw disks");
    close_graph();
}
END_TEST

/* ---- null-co */

START_TEST(null_disk)
{
    BlkNode *node;
    gint64 began;

    open_on_disk();
    node = add("{'driver':'null-co','node-name':'n'}");
    ck_assert_uint_eq(blk_node_size(node), GIB);
    write_pattern(node, 0, 4096, 1);
    ck_assert(reads_zero(node, 0, 4096)); /* whatever the option says, no stray memory */
    assert_status(node, "hole 1073741824");
    ck_assert_int_eq(blk_node_write_zeroes(node, 0, GIB, TIDEMARK_FAST_ZERO), 0);
    assert_status(add("{'driver':'null-co','node-name':'z','size':4097,'read-zeroes':true}"),
                  "hole,zero 4097");
    node = add("{'driver':'null-co','node-name':'slow','latency-ns':20000000}");
    began = g_get_monotonic_time();
    ck_assert_int_eq(blk_node_flush(node), 0);
    ck_assert_int_ge(g_get_monotonic_time() - began, 20000);
    assert_refused("Could not refresh total sector count: File too large",
                   "{'driver':'null-co','node-name':'x','size':9223372036854775807}");
    close_graph();
}
END_TEST

/* ---- the example plug-ins, by the way a plug-in is loaded */

static void load_plugins(void)
{
    g_autoptr(GError) error = NULL;

    ck_assert_msg(blk_registry_load_dir(registry, TEST_PLUGIN_DIR "/modules", &error), "%s",
                  error ? error->message : "");
}

START_TEST(plugin_ramdisk)
{
    BlkNode *node;

    open_on_disk();
    load_plugins();
    node = add("{'driver':'ramdisk','node-name':'m','size':1000001}");
    ck_assert_uint_eq(blk_node_size(node), 1000001);
    ck_assert(reads_zero(node, 0, 1000001));
    write_pattern(node, 777, 500000, 1);
    ck_assert(reads_pattern(node, 777, 500000, 1));
    ck_assert_int_eq(blk_node_write_zeroes(node, 1000, 1000, TIDEMARK_FUA), 0);
    ck_assert(reads_zero(node, 1000, 1000));
    ck_assert_int_eq(blk_node_discard(node, 0, 4096, 0), 0);
    assert_status(node, "data 1000001");
    ck_assert(blk_graph_resize(graph, node, 2 * MIB, NULL));
    ck_assert(reads_pattern(node, 2000, 400000, 1));
    ck_assert(reads_zero(node, 1000001, 2 * MIB - 1000001));
    assert_refused("Parameter 'size' expects a value from 0 to 1073741824, not 1073741825",
                   "{'driver':'ramdisk','node-name':'x','size':1073741825}");
    close_graph();
}
END_TEST

START_TEST(plugin_reverse)
{
    BlkNode *node, *file;

    open_on_disk();
    load_plugins();
    make_file("f", MIB);
    file = add_file("f", ",'discard':'unmap'");
    node = add("{'driver':'reverse','node-name':'r','file':'f','block':4096,'discard':'unmap'}");
    write_pattern(node, 4000, 10000, 1);
    ck_assert(reads_pattern(node, 4000, 10000, 1));
    ck_assert(reads_zero(node, 0, 4000));
    /* byte 4000 is in the first block, which is the child's last */
    g_autofree char *want = g_malloc(96);
    g_autofree char *got = g_malloc(96);
    pattern(want, 4000, 96, 1);
    ck_assert_int_eq(blk_node_pread(file, got, MIB - 96, 96), 0);
    ck_assert_mem_eq(want, got, 96);
    assert_status(node, "data 16384, hole,zero 1032192");
    ck_assert_int_eq(blk_node_write_zeroes(node, 0, 16384, TIDEMARK_MAY_UNMAP), 0);
    assert_status(file, "hole,zero 1048576");
    assert_refused("Parameter 'block' expects a power of two, not 5000",
                   "{'driver':'reverse','node-name':'x','file':'f','block':5000}");
    close_graph();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("drivers");
    TCase *file = tcase_create("file");
    TCase *rest = tcase_create("raw, null and plug-ins");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(file, 60);
    tcase_add_test(file, file_refusals);
    tcase_add_test(file, auto_read_only);
    tcase_add_loop_test(file, locks_between_nodes, 0, 2);
    tcase_add_test(file, locks_against_qemu);
    tcase_add_test(file, lock_of_resize);
    tcase_add_loop_test(file, file_odd_sizes, 0, 2);
    tcase_add_loop_test(file, file_beyond_4_gib, 0, 2);
    tcase_add_loop_test(file, file_truncated_outside, 0, 2);
    tcase_add_loop_test(file, file_write_zeroes, 0, 2);
    tcase_add_test(file, file_zeroes_unsupported);
    tcase_add_loop_test(file, file_discard_ignored, 0, 2);
    tcase_add_test(file, file_errors);
    tcase_add_test(file, file_durability);
    tcase_add_loop_test(file, file_resize, 0, 2);
    tcase_add_test(file, direct);
    tcase_add_test(file, loop_device);
    suite_add_tcase(suite, file);
    tcase_add_loop_test(rest, raw_window, 0, 2);
    tcase_add_test(rest, raw_refusals);
    tcase_add_test(rest, raw_resize);
    tcase_add_test(rest, null_disk);
    tcase_add_test(rest, plugin_ramdisk);
    tcase_add_test(rest, plugin_reverse);
    suite_add_tcase(suite, rest);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
