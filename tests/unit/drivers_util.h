/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/drivers_util.h: a graph over a temporary directory and a system-call table that counts
 * and fails on demand, for the tests of drivers. Included once by each of them. */
#pragma once
#include "block/graph.h"
#include "tests/asserts.h"
#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

/* ---- the table: what the next calls do. Reset by open_graph(). */
static struct {
    int lseeks, syncs;                                                /* atomic counts */
    int read_error, write_error, sync_error, zero_error, punch_error; /* errno, 0: none */
    bool refuse_write_open;
    bool not_cached; /* what would have to wait for the medium does */
    void (*before_fallocate)(void);
    void (*before_lseek)(void);
    void (*after_lseek)(void);
    void (*before_read)(off_t offset);
    void (*after_read)(off_t offset, size_t length);
    int (*after_write)(off_t offset); /* errno: it fails, and has been written all the same */
} fake;

static int fake_open(const char *path, int flags, mode_t mode)
{
    if (fake.refuse_write_open && (flags & O_ACCMODE) == O_RDWR) {
        errno = EROFS;
        return -1;
    }
    return tm_sys_kernel.open(path, flags, mode);
}

static bool fails(int errnum)
{
    errno = errnum;
    return errnum != 0;
}

static ssize_t fake_preadv2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
    ssize_t got;

    if (fake.before_read)
        fake.before_read(offset);
    if (fake.not_cached && flags & RWF_NOWAIT && fails(EAGAIN))
        return -1;
    got = fails(fake.read_error) ? -1 : tm_sys_kernel.preadv2(fd, iov, n, offset, flags);
    if (fake.after_read && got > 0)
        fake.after_read(offset, (size_t)got);
    return got;
}

static ssize_t fake_pwritev2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
    ssize_t put = fails(fake.write_error) ? -1 : tm_sys_kernel.pwritev2(fd, iov, n, offset, flags);

    return put >= 0 && fake.after_write && fails(fake.after_write(offset)) ? -1 : put;
}

static int fake_fdatasync(int fd)
{
    __atomic_add_fetch(&fake.syncs, 1, __ATOMIC_RELAXED);
    return fails(fake.sync_error) ? -1 : tm_sys_kernel.fdatasync(fd);
}

static int fake_fallocate(int fd, int mode, off_t offset, off_t length)
{
    if (fake.before_fallocate)
        fake.before_fallocate();
    if (fails(mode & FALLOC_FL_PUNCH_HOLE ? fake.punch_error : fake.zero_error))
        return -1;
    return tm_sys_kernel.fallocate(fd, mode, offset, length);
}

static off_t fake_lseek(int fd, off_t offset, int whence)
{
    off_t result;

    __atomic_add_fetch(&fake.lseeks, 1, __ATOMIC_RELAXED);
    if (fake.before_lseek)
        fake.before_lseek();
    result = tm_sys_kernel.lseek(fd, offset, whence);
    if (fake.after_lseek)
        fake.after_lseek();
    return result;
}

static TmSys fake_sys;

/* ---- the graph */

static char *dir;
static BlkRegistry *registry;
static BlkEngine *engine;
static BlkGraph *graph;

/* Of the next graph. */
static BlkEngineOptions engine_options = { .io = BLK_IO_THREADS, .loops = 1, .workers = 1 };

static void open_graph(const char *parent)
{
    memset(&fake, 0, sizeof(fake));
    fake_sys = tm_sys_kernel;
    fake_sys.open = fake_open;
    fake_sys.preadv2 = fake_preadv2;
    fake_sys.pwritev2 = fake_pwritev2;
    fake_sys.fdatasync = fake_fdatasync;
    fake_sys.fallocate = fake_fallocate;
    fake_sys.lseek = fake_lseek;
    dir = g_build_filename(parent, "tm-drivers-XXXXXX", NULL);
    ck_assert_ptr_nonnull(g_mkdtemp(dir));
    registry = blk_registry_new(&fake_sys);
    engine = blk_engine_new(&engine_options, NULL);
    ck_assert_ptr_nonnull(engine);
    graph = blk_graph_new(registry, engine, &fake_sys);
}

static void close_graph(void)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", dir);

    blk_graph_free(graph);
    blk_engine_free(engine);
    blk_registry_free(registry);
    ck_assert_int_eq(system(command), 0);
    g_clear_pointer(&dir, g_free);
}

G_GNUC_UNUSED static void open_on_disk(void)
{
    open_graph("/var/tmp");
}

static char *path_of(const char *name)
{
    return name[0] == '/' ? g_strdup(name) : g_build_filename(dir, name, NULL);
}

G_GNUC_UNUSED static void make_file(const char *name, uint64_t size)
{
    g_autofree char *path = path_of(name);
    int fd = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)size), 0);
    close(fd);
}

G_GNUC_UNUSED static struct stat stat_of(const char *name)
{
    g_autofree char *path = path_of(name);
    struct stat st;

    ck_assert_int_eq(stat(path, &st), 0);
    return st;
}

/* Tries to add a node from JSON with ' for ". Nothing but that is printf's. */
G_GNUC_PRINTF(2, 0) static BlkNode *try_add_v(GError **error, const char *format, va_list ap)
{
    g_autofree char *text = g_strdup_vprintf(format, ap);
    json_object *options;
    BlkNode *node;

    g_strdelimit(text, "'", '"');
    options = json_tokener_parse(text);
    ck_assert_msg(options != NULL, "test's own JSON: %s", text);
    node = blk_graph_add(graph, options, error);
    json_object_put(options);
    return node;
}

G_GNUC_UNUSED G_GNUC_PRINTF(1, 2) static BlkNode *add(const char *format, ...)
{
    g_autoptr(GError) error = NULL;
    BlkNode *node;
    va_list ap;

    va_start(ap, format);
    node = try_add_v(&error, format, ap);
    va_end(ap);
    ck_assert_msg(node != NULL, "%s", error ? error->message : "no error set");
    return node;
}

/* The message of a node that must not open: returned (g_free). */
G_GNUC_UNUSED G_GNUC_PRINTF(1, 2) static char *refusal(const char *format, ...)
{
    g_autoptr(GError) error = NULL;
    BlkNode *node;
    va_list ap;

    va_start(ap, format);
    node = try_add_v(&error, format, ap);
    va_end(ap);
    ck_assert_msg(node == NULL, "opened: %s", format);
    ck_assert_ptr_nonnull(error);
    return g_strdup(error->message);
}

#define assert_refused(message, ...)                                                               \
    do {                                                                                           \
        g_autofree char *says_ = refusal(__VA_ARGS__);                                             \
        ck_assert_str_eq(says_, message);                                                          \
    } while (0)

G_GNUC_UNUSED static void del(const char *name)
{
    g_autoptr(GError) error = NULL;

    ck_assert_msg(blk_graph_del(graph, name, &error), "%s", error ? error->message : "?");
}

/* A file node named @name on the file of that name in the directory; @more options begin with
 * ','. */
G_GNUC_UNUSED static BlkNode *add_file(const char *name, const char *more)
{
    g_autofree char *path = path_of(name);

    return add("{'driver':'file','node-name':'%s','filename':'%s'%s}", name, path, more);
}

/* Fills with bytes that depend on their place. */
static void pattern(char *buf, uint64_t offset, uint64_t length, unsigned seed)
{
    for (uint64_t i = 0; i < length; i++)
        buf[i] = (char)(((offset + i) * 131 + seed * 29 + ((offset + i) >> 9)) | 1);
}

static bool all_zero(const char *buf, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        if (buf[i])
            return false;
    return true;
}

G_GNUC_UNUSED static void write_pattern(BlkNode *node, uint64_t offset, uint64_t length,
                                        unsigned seed)
{
    g_autofree char *buf = g_malloc(length);

    pattern(buf, offset, length, seed);
    ck_assert_int_eq(blk_node_pwrite(node, buf, offset, length, 0), 0);
}

G_GNUC_UNUSED static bool reads_pattern(BlkNode *node, uint64_t offset, uint64_t length,
                                        unsigned seed)
{
    g_autofree char *want = g_malloc(length);
    g_autofree char *got = g_malloc(length);

    pattern(want, offset, length, seed);
    ck_assert_int_eq(blk_node_pread(node, got, offset, length), 0);
    return !memcmp(want, got, length);
}

G_GNUC_UNUSED static bool reads_zero(BlkNode *node, uint64_t offset, uint64_t length)
{
    g_autofree char *got = g_malloc(length);

    memset(got, 7, length);
    ck_assert_int_eq(blk_node_pread(node, got, offset, length), 0);
    return all_zero(got, length);
}

/* The node's whole status as text: "data 4096, hole,zero 8192". */
G_GNUC_UNUSED static char *status_text(BlkNode *node)
{
    static const char *const words[] = { "data", "hole", "zero", "hole,zero" };
    static TmExtent list[300000];
    GString *text = g_string_new(NULL);
    uint64_t size = blk_node_size(node), done = 0;

    while (done < size) {
        TmExtents out = { list, G_N_ELEMENTS(list), 0 };
        uint64_t described;

        ck_assert_int_eq(blk_node_status(node, done, size - done, &out, &described), 0);
        ck_assert_uint_gt(described, 0);
        for (size_t i = 0; i < out.count; i++)
            g_string_append_printf(text, "%s%s %" G_GUINT64_FORMAT, text->len ? ", " : "",
                                   words[list[i].flags & 3], (guint64)list[i].length);
        done += described;
    }
    return g_string_free(text, FALSE);
}

#define assert_status(node, want)                                                                  \
    do {                                                                                           \
        g_autofree char *status_ = status_text(node);                                              \
        ck_assert_str_eq(status_, want);                                                           \
    } while (0)
