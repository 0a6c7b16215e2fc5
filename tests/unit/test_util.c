/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_util.c: checked ranges, byte order, extents, errors and the system-call table.
 *
 * The edges are where these are wrong when they are wrong: 0, the last byte, and 2^64 - 1. */
#include "tests/asserts.h"
#include "util/boot.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/extent.h"
#include "util/file.h"
#include "util/log.h"
#include "util/log_internal.h"
#include "util/range.h"
#include "util/secret.h"
#include "util/sys.h"
#include "util/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

START_TEST(range_end_refuses_overflow)
{
    uint64_t end = 42;

    ck_assert(tm_range_end(0, 0, &end));
    ck_assert_uint_eq(end, 0);
    ck_assert(tm_range_end(UINT64_MAX - 5, 5, &end));
    ck_assert_uint_eq(end, UINT64_MAX);
    end = 42;
    ck_assert(!tm_range_end(UINT64_MAX - 5, 6, &end));
    ck_assert(!tm_range_end(1, UINT64_MAX, &end));
    ck_assert_uint_eq(end, 42);
}
END_TEST

START_TEST(range_within_is_right_at_the_edges)
{
    ck_assert(tm_range_within(0, 0, 0));
    ck_assert(tm_range_within(10, 0, 10));
    ck_assert(tm_range_within(9, 1, 10));
    ck_assert(tm_range_within(0, 10, 10));
    ck_assert(!tm_range_within(9, 2, 10));
    ck_assert(!tm_range_within(11, 0, 10));
    ck_assert(!tm_range_within(1, UINT64_MAX, 10));
    ck_assert(!tm_range_within(UINT64_MAX, 1, 10));
    ck_assert(tm_range_within(1, UINT64_MAX - 1, UINT64_MAX));
}
END_TEST

/* Against the definition, byte by byte, on every pair of small ranges. */
START_TEST(range_overlaps_as_defined)
{
    for (uint64_t a = 0; a < 6; a++)
        for (uint64_t alen = 0; alen < 6; alen++)
            for (uint64_t b = 0; b < 6; b++)
                for (uint64_t blen = 0; blen < 6; blen++) {
                    bool shared = false;

                    for (uint64_t x = a; x < a + alen; x++)
                        shared |= x >= b && x < b + blen;
                    ck_assert_msg(tm_range_overlaps(a, alen, b, blen) == shared,
                                  "%d+%d and %d+%d: expected %d", (int)a, (int)alen, (int)b,
                                  (int)blen, shared);
                }
    ck_assert(tm_range_overlaps(UINT64_MAX - 1, 1, 0, UINT64_MAX));
    ck_assert(!tm_range_overlaps(UINT64_MAX, 1, 0, UINT64_MAX));
}
END_TEST

START_TEST(alignment_rounds_both_ways)
{
    ck_assert_uint_eq(tm_align_down(4095, 4096), 0);
    ck_assert_uint_eq(tm_align_down(4096, 4096), 4096);
    ck_assert_uint_eq(tm_align_up(0, 4096), 0);
    ck_assert_uint_eq(tm_align_up(1, 4096), 4096);
    ck_assert_uint_eq(tm_align_up(4096, 4096), 4096);
    ck_assert_uint_eq(tm_align_up(7, 1), 7);
    ck_assert_uint_eq(tm_align_up(UINT64_MAX - 4095, 4096), UINT64_MAX - 4095);
    ck_assert_uint_eq(tm_align_up(UINT64_MAX, 4096), UINT64_MAX - 4095);
    ck_assert(!tm_is_pow2(0));
    ck_assert(tm_is_pow2(1));
    ck_assert(!tm_is_pow2(3));
    ck_assert(tm_is_pow2((uint64_t)1 << 63));
    ck_assert_uint_eq(tm_min(3, 4), 3);
    ck_assert_uint_eq(tm_max(3, 4), 4);
}
END_TEST

START_TEST(byte_order_works_at_any_alignment)
{
    uint8_t raw[12] = { 0 };

    tm_put_be64(raw + 1, 0x0102030405060708u);
    for (int i = 1; i <= 8; i++)
        ck_assert_uint_eq(raw[i], i);
    ck_assert_uint_eq(raw[0] | raw[9], 0);
    ck_assert_uint_eq(tm_get_be64(raw + 1), 0x0102030405060708u);
    ck_assert_uint_eq(tm_get_le64(raw + 1), 0x0807060504030201u);
    ck_assert_uint_eq(tm_get_be32(raw + 3), 0x03040506u);
    ck_assert_uint_eq(tm_get_le16(raw + 3), 0x0403u);
    tm_put_le32(raw + 3, 0xa1b2c3d4u);
    ck_assert_uint_eq(raw[3], 0xd4);
    ck_assert_uint_eq(tm_get_be32(raw + 3), 0xd4c3b2a1u);
    tm_put_be16(raw, 0xfffe);
    ck_assert_uint_eq(tm_get_be16(raw), 0xfffe);
}
END_TEST

START_TEST(extents_merge_and_fill)
{
    TmExtent list[2];
    TmExtents x = { list, G_N_ELEMENTS(list), 0 };

    ck_assert(tm_extents_add(&x, 10, 0));
    ck_assert(tm_extents_add(&x, 5, 0));
    ck_assert(tm_extents_add(&x, 1, TM_STATE_DIRTY));
    ck_assert(!tm_extents_add(&x, 1, 0));
    ck_assert(tm_extents_add(&x, (uint64_t)1 << 40, TM_STATE_DIRTY));
    ck_assert_uint_eq(x.count, 2);
    ck_assert_uint_eq(list[0].length, 15);
    ck_assert_uint_eq(list[0].flags, 0);
    ck_assert_uint_eq(list[1].length, ((uint64_t)1 << 40) + 1);
    ck_assert_uint_eq(list[1].flags, TM_STATE_DIRTY);
}
END_TEST

START_TEST(a_slip_is_near_to_its_word)
{
    static const char *const words[] = { "file",  "host_device", "nbd", "null-co",
                                         "qcow2", "b1",          NULL };
    static const char *const slips[][2] = {
        { "fiel", "file" },
        { "File", "file" },
        { "files", "file" },
        { "fle", "file" },
        { "nbb", "nbd" },
        { "host-device", "host_device" },
        { "hostdevice", "host_device" },
        { "qcow", "qcow2" },
        { "nullco", "null-co" },
        { "hos", "host_device" }, /* the end is missing */
        { "b2", "b1" },
    };
    static const char *const far[] = { "", "x", "zork", "raw", "nb-server-start", "2" };
    g_autofree char *huge = g_strnfill(1 << 20, 'f');

    for (size_t i = 0; i < G_N_ELEMENTS(slips); i++)
        ck_assert_str_eq(tm_text_nearest(slips[i][0], words), slips[i][1]);
    for (size_t i = 0; i < G_N_ELEMENTS(far); i++)
        ck_assert_ptr_null(tm_text_nearest(far[i], words));
    ck_assert_ptr_null(tm_text_nearest(huge, words));
}
END_TEST

START_TEST(errors_have_a_class)
{
    g_autoptr(GError) plain = NULL;
    g_autoptr(GError) errnum = NULL;
    g_autoptr(GError) missing = NULL;
    g_autoptr(GError) foreign = g_error_new(G_FILE_ERROR, G_FILE_ERROR_NOENT, "elsewhere");

    ck_assert(!tm_error_set(NULL, "nobody asks"));
    ck_assert(!tm_error_set(&plain, "node '%s' has %d children", "a", 2));
    ck_assert_str_eq(plain->message, "node 'a' has 2 children");
    ck_assert_str_eq(tm_error_class_name(plain), "GenericError");
    ck_assert(!tm_error_set_errno(&errnum, ENOENT, "can't open '%s'", "x%sy"));
    ck_assert_str_eq(errnum->message, "can't open 'x%sy': No such file or directory");
    ck_assert(!tm_error_set_class(&missing, TM_ERROR_COMMAND_NOT_FOUND, "none"));
    ck_assert_str_eq(tm_error_class_name(missing), "CommandNotFound");
    /* A code of another domain must not be read as one of our classes. */
    foreign->code = TM_ERROR_DEVICE_NOT_FOUND;
    ck_assert_str_eq(tm_error_class_name(foreign), "GenericError");
    ck_assert_str_eq(tm_error_class_name(NULL), "GenericError");
}
END_TEST

START_TEST(kernel_table_does_io)
{
    const TmSys *sys = &tm_sys_kernel;
    g_autofree char *dir = g_dir_make_tmp("tm-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "a", NULL);
    g_autofree char *other = g_build_filename(dir, "b", NULL);
    char out[] = "tide", back[4];
    struct iovec w = { out, 4 }, r = { back, 4 };
    struct stat st;
    int fd = sys->open(path, O_RDWR | O_CREAT | O_EXCL, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(sys->pwritev2(fd, &w, 1, 4096, 0), 4);
    ck_assert_int_eq(sys->fdatasync(fd), 0);
    ck_assert_int_eq(sys->preadv2(fd, &r, 1, 4096, 0), 4);
    ck_assert_mem_eq(back, "tide", 4);
    ck_assert_int_eq(sys->ftruncate(fd, 8192), 0);
    ck_assert_int_eq(sys->fsync(fd), 0);
    ck_assert_int_eq(sys->fstat(fd, &st), 0);
    ck_assert_int_eq(st.st_size, 8192);
    ck_assert_int_eq(sys->lseek(fd, 0, SEEK_END), 8192);
    ck_assert_int_eq(sys->rename(path, other), 0);
    ck_assert_int_eq(sys->open(path, O_RDONLY, 0), -1);
    ck_assert_int_eq(errno, ENOENT);
    ck_assert_int_eq(sys->unlink(other), 0);
    ck_assert_int_eq(sys->close(fd), 0);
    ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

typedef struct Shared {
    GMutex lock;
    unsigned count; /* guarded by lock */
} Shared;

static gpointer count_to_1000(gpointer opaque)
{
    Shared *shared = opaque;

    for (int i = 0; i < 1000; i++) {
        g_mutex_lock(&shared->lock);
        shared->count++;
        g_mutex_unlock(&shared->lock);
    }
    return NULL;
}

/* Says nothing unless built with the thread sanitizer, which must see GLib's locks
 * (util/tsan.c). */
START_TEST(the_thread_sanitizer_sees_glib_locks)
{
    Shared shared = { .count = 0 };
    GThread *a, *b;

    g_mutex_init(&shared.lock);
    a = g_thread_new("a", count_to_1000, &shared);
    b = g_thread_new("b", count_to_1000, &shared);
    g_thread_join(a);
    g_thread_join(b);
    g_mutex_clear(&shared.lock);
    ck_assert_uint_eq(shared.count, 2000);
}
END_TEST

START_TEST(one_boot_has_one_identity)
{
    uint8_t a[16] = { 0 }, b[16] = { 0 }, zero[16] = { 0 };

    tm_boot_id(a);
    tm_boot_id(b);
    ck_assert_mem_ne(a, zero, sizeof(a));
    if (!access("/proc/sys/kernel/random/boot_id", R_OK))
        ck_assert_mem_eq(a, b, sizeof(a));
}
END_TEST

START_TEST(a_log_line_is_one_line)
{
    char line[100] = "";
    int pipe_fds[2], old = dup(STDERR_FILENO);

    ck_assert_int_eq(pipe(pipe_fds), 0);
    dup2(pipe_fds[1], STDERR_FILENO);
    tm_log(TM_LOG_ERROR, "bitmap '%s'", "a\nb\033[2J\xc3\xa4");
    dup2(old, STDERR_FILENO);
    ck_assert_int_gt(read(pipe_fds[0], line, sizeof(line) - 1), 0);
    ck_assert_ptr_nonnull(strstr(line, ": bitmap 'a\\x0ab\\x1b[2J\xc3\xa4'\n"));
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    close(old);
}
END_TEST

START_TEST(a_long_text_is_cut_at_a_character)
{
    g_autofree char *dots = NULL, *kept = NULL, *bytes = NULL, *cut = NULL;

    dots = tm_text_line("12345678901", 10);
    ck_assert_str_eq(dots, "1234567...");
    kept = tm_text_line("1234567890", 10);
    ck_assert_str_eq(kept, "1234567890");
    bytes = tm_text_line("\xff\t|\xc2\x85|\xe2\x80\xae", 100);
    ck_assert_str_eq(bytes, "\\xff\\x09|\\x85|\\x202e");
    cut = tm_text_line("123456\xc3\xa4\xc3\xa4\xc3\xa4", 10);
    ck_assert_str_eq(cut, "123456...");
}
END_TEST

static const TmLogFacts about_e = { .area = TM_LOG_NBD, .level = TM_LOG_WARNING, .export = "e" };

static const char *last_message(TmLog *log, GPtrArray **last)
{
    *last = tm_log_last(log, 1);
    ck_assert_int_eq((*last)->len, 1);
    return ((const TmLogEntry *)(*last)->pdata[0])->text;
}

/* Each kind has a limit of its own, and what is left out is counted. */
START_TEST(a_flood_of_messages_is_limited)
{
    TmLogFacts about_f = about_e;
    TmLog *log = tm_log_new(NULL);
    g_autoptr(GPtrArray) last = NULL;
    uint64_t logged, dropped;

    about_f.export = "f";
    for (int i = 0; i < 1000; i++)
        tm_log_note(log, &about_e, "refused %d", i);
    tm_log_note(log, &about_f, "refused %d", 1000);
    tm_log_note(log, &about_e, "another");
    tm_log_counts(log, TM_LOG_NBD, &logged, &dropped);
    ck_assert_uint_eq(logged, 12);
    ck_assert_uint_eq(dropped, 990);
    ck_assert_str_eq(last_message(log, &last), "another");
    tm_log_free(log);
}
END_TEST

START_TEST(levels_are_those_of_areas)
{
    TmLog *log = tm_log_new(NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) last = NULL;

    ck_assert(tm_log_set_levels(log, "error,nbd=debug,store=warning", NULL));
    ck_assert_int_eq(tm_log_level(log, TM_LOG_BLOCK), TM_LOG_ERROR);
    ck_assert_int_eq(tm_log_level(log, TM_LOG_NBD), TM_LOG_DEBUG);
    ck_assert_int_eq(tm_log_level(log, TM_LOG_STORE), TM_LOG_WARNING);
    ck_assert(!tm_log_set_levels(log, "debug,nbs=info", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "no area 'nbs', expected one of daemon"));
    g_clear_error(&error);
    ck_assert(!tm_log_set_levels(log, "debug,", &error));
    ck_assert_int_eq(tm_log_level(log, TM_LOG_BLOCK), TM_LOG_ERROR);
    tm_log_note(log, &about_e, "shown");
    tm_log_note(log, &(TmLogFacts){ .area = TM_LOG_BLOCK, .level = TM_LOG_WARNING }, "hidden");
    ck_assert_str_eq(last_message(log, &last), "shown");
    tm_log_free(log);
}
END_TEST

/* The newest ones are kept, and no more than that. */
START_TEST(the_last_messages_are_kept)
{
    TmLog *log = tm_log_new(NULL);
    g_autoptr(GPtrArray) last = NULL, two = NULL;
    g_autofree char *long_text = g_strnfill(10000, 'x');

    for (unsigned i = 0; i < TM_LOG_LAST_MAX + 10; i++) {
        g_autofree char *export = g_strdup_printf("e%u", i);

        tm_log_note(log, &(TmLogFacts){ .area = TM_LOG_NBD, .export = export }, "%u %s", i,
                    i == 10 ? long_text : "");
    }
    last = tm_log_last(log, UINT_MAX);
    ck_assert_uint_eq(last->len, TM_LOG_LAST_MAX);
    ck_assert_int_eq(strncmp(((TmLogEntry *)last->pdata[0])->text, "10 xx", 5), 0);
    ck_assert_str_eq(((TmLogEntry *)last->pdata[0])->facts.export, "e10");
    ck_assert_uint_eq(strlen(((TmLogEntry *)last->pdata[0])->text), TM_LOG_TEXT_MAX);
    two = tm_log_last(log, 2);
    ck_assert_uint_eq(two->len, 2);
    tm_log_free(log);
}
END_TEST

/* Too many kinds share one, but not with other areas. */
START_TEST(what_is_left_out_of_many_kinds_keeps_its_area)
{
    GHashTable *kinds = tm_log_kinds_new();
    g_autoptr(GPtrArray) cut = NULL;
    unsigned nbd = 0, store = 0;

    for (unsigned i = 0; i < 5000; i++) {
        g_autofree char *export = g_strdup_printf("e%u", i);
        TmLogFacts facts = { .area = TM_LOG_NBD, .level = TM_LOG_ERROR, .export = export };

        tm_log_kinds_admit(kinds, &facts, "x", "x", 0);
    }
    for (unsigned i = 0; i < 30; i++)
        tm_log_kinds_admit(kinds, &(TmLogFacts){ .area = TM_LOG_STORE, .level = TM_LOG_WARNING },
                           "y", "y", 0);
    cut = tm_log_kinds_expire(kinds, 0, true);
    for (guint i = 0; i < cut->len; i++) {
        const TmLogKind *kind = cut->pdata[i];

        ck_assert_int_eq(kind->level, kind->area == TM_LOG_STORE ? TM_LOG_WARNING : TM_LOG_ERROR);
        *(kind->area == TM_LOG_STORE ? &store : &nbd) += kind->dropped;
    }
    ck_assert_uint_gt(nbd, 800);
    ck_assert_uint_eq(store, 10);
    g_hash_table_unref(kinds);
}
END_TEST

/* A socket at @path, as the journal's. */
static int journal_socket(const char *path, struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

    *address = (struct sockaddr_un){ .sun_family = AF_UNIX };
    g_strlcpy(address->sun_path, path, sizeof(address->sun_path));
    ck_assert_int_eq(bind(fd, (struct sockaddr *)address, sizeof(*address)), 0);
    return fd;
}

/* The number of the log's "more of these" if the level becomes @level before. */
static unsigned reports_of_left_out(const char *level)
{
    g_autofree char *path = g_strdup_printf("%s/util-%d-left-out", g_get_tmp_dir(), getpid());
    struct sockaddr_un address;
    int fd = journal_socket(path, &address);
    TmLog *log = tm_log_new(path);
    char entry[1000] = "";
    unsigned n = 0;

    for (unsigned i = 0; i < 20; i++) {
        tm_log_note(log, &(TmLogFacts){ .area = TM_LOG_NBD, .level = TM_LOG_WARNING }, "refused");
        recv(fd, entry, sizeof(entry) - 1, MSG_DONTWAIT);
    }
    ck_assert(tm_log_set_levels(log, level, NULL));
    tm_log_free(log);
    while (recv(fd, entry, sizeof(entry) - 1, MSG_DONTWAIT) > 0)
        n += strstr(entry, "10 more of these") != NULL;
    unlink(path);
    close(fd);
    return n;
}

START_TEST(what_is_left_out_keeps_to_the_level)
{
    ck_assert_uint_eq(reports_of_left_out("nbd=warning"), 1);
    ck_assert_uint_eq(reports_of_left_out("nbd=error"), 0);
}
END_TEST

/* A datagram of fields; without the journal's socket, a line on standard error. */
START_TEST(the_journal_gets_fields)
{
    g_autofree char *path = g_strdup_printf("%s/util-%d-journal", g_get_tmp_dir(), getpid());
    struct sockaddr_un address;
    char entry[1000] = "";
    int fd = journal_socket(path, &address);
    TmLog *log = tm_log_new(path);

    tm_log_note(log,
                &(TmLogFacts){ .area = TM_LOG_TLS,
                               .level = TM_LOG_WARNING,
                               .node = "disk0",
                               .export = "e\nPRIORITY=0",
                               .client = "unix:pid=7",
                               .session = 12 },
                "a\nb");
    ck_assert_int_gt(recv(fd, entry, sizeof(entry) - 1, MSG_DONTWAIT), 0);
    ck_assert_ptr_nonnull(strstr(entry, "MESSAGE=a\\x0ab\nPRIORITY=4\nSYSLOG_IDENTIFIER="));
    ck_assert_ptr_nonnull(strstr(entry, "\nTIDEMARK_AREA=tls\nTIDEMARK_NODE=disk0\n"
                                        "TIDEMARK_EXPORT=e\\x0aPRIORITY=0\n"
                                        "TIDEMARK_CLIENT=unix:pid=7\nTIDEMARK_SESSION=12\n"));
    unlink(path);
    tm_log_note(log, &about_e, "the journal is gone");
    ck_assert_int_lt(recv(fd, entry, sizeof(entry) - 1, MSG_DONTWAIT), 0);
    tm_log_free(log);
    close(fd);
}
END_TEST

/* What a journal does not take in time is kept in the log alone. */
START_TEST(a_journal_that_stands_still_is_not_waited_for)
{
    g_autofree char *path = g_strdup_printf("%s/util-%d-stuck", g_get_tmp_dir(), getpid());
    struct sockaddr_un address;
    int fd = journal_socket(path, &address), other = socket(AF_UNIX, SOCK_DGRAM, 0);
    g_autoptr(GPtrArray) last = NULL;
    TmLog *log;

    while (sendto(other, "x", 1, MSG_DONTWAIT, (struct sockaddr *)&address, sizeof(address)) > 0)
        continue; /* until its queue is full */
    log = tm_log_new(path);
    tm_log_note(log, &about_e, "kept");
    ck_assert_str_eq(last_message(log, &last), "kept");
    close(other);
    tm_log_free(log);
    unlink(path);
    close(fd);
}
END_TEST

/* Only if standard error is what the variable names. */
START_TEST(the_journal_is_where_standard_error_goes)
{
    g_autofree char *stream = NULL;
    struct stat st;

    ck_assert_int_eq(fstat(STDERR_FILENO, &st), 0);
    stream =
        g_strdup_printf("%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    g_unsetenv("JOURNAL_STREAM");
    ck_assert_ptr_null(tm_log_journal());
    g_setenv("JOURNAL_STREAM", stream, TRUE);
    ck_assert_str_eq(tm_log_journal(), "/run/systemd/journal/socket");
    g_setenv("JOURNAL_STREAM", "1:1", TRUE);
    ck_assert_ptr_null(tm_log_journal());
    g_setenv("JOURNAL_STREAM", "x", TRUE);
    ck_assert_ptr_null(tm_log_journal());
    g_unsetenv("JOURNAL_STREAM");
}
END_TEST

/* ---- files and secrets */

static char *make_path(const char *name, bool fifo)
{
    char *path = g_strdup_printf("%s/util-%d-%s", g_get_tmp_dir(), getpid(), name);
    unlink(path);
    ck_assert(fifo ? !mkfifo(path, 0600) : g_file_set_contents(path, "content", -1, NULL));
    return path;
}

START_TEST(opening_a_fifo_does_not_wait)
{
    g_autofree char *fifo = make_path("fifo", true), *link = make_path("link", false);
    g_autofree char *file = make_path("file", false);
    int fd = tm_sys_kernel.open(fifo, O_RDONLY, 0);

    ck_assert_int_ge(fd, 0);
    close(fd);
    unlink(fifo);
    ck_assert_int_lt(tm_sys_kernel.open(fifo, O_RDONLY, 0), 0);
    ck_assert_int_eq(errno, ENOENT);
    /* a link that leads to nothing yet; neither way of opening leaves the descriptor impatient */
    unlink(link);
    ck_assert_int_eq(symlink(fifo, link), 0);
    for (int i = 0; i < 2; i++) {
        fd = tm_sys_kernel.open(link, O_RDWR | O_CREAT, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(fcntl(fd, F_GETFL) & (O_NONBLOCK | O_ACCMODE), O_RDWR);
        close(fd);
    }
    ck_assert_int_lt(tm_sys_kernel.open(link, O_RDWR | O_NOFOLLOW, 0), 0);
    ck_assert_int_eq(errno, ELOOP);
    ck_assert_int_lt(tm_sys_kernel.open(file, O_RDWR | O_CREAT | O_EXCL, 0600), 0);
    ck_assert_int_eq(errno, EEXIST);
    fd = tm_sys_kernel.open(file, O_RDWR | O_NOFOLLOW | O_CREAT, 0600);
    ck_assert_int_ge(fd, 0);
    close(fd);
    unlink(fifo);
    unlink(link);
    unlink(file);
}
END_TEST

START_TEST(a_file_without_a_name_has_its_mode)
{
    int fd = tm_sys_kernel.open(g_get_tmp_dir(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    struct stat st;

    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR))
        return; /* this file system has none */
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0600);
    close(fd);
}
END_TEST

START_TEST(files_are_read_within_bounds)
{
    g_autofree char *fifo = make_path("fifo", true), *file = make_path("file", false);
    g_autofree char *text = NULL;
    size_t length = 0;

    ck_assert(tm_file_read(file, 7, &text, &length, NULL));
    ck_assert_str_eq(text, "content");
    ck_assert_uint_eq(length, 7);
    ck_assert(!tm_file_read(file, 6, &text, NULL, NULL));
    ck_assert(!tm_file_read(fifo, 6, &text, NULL, NULL));
    ck_assert(!tm_file_read("/", 6, &text, NULL, NULL));
    ck_assert(!tm_file_read("/dev/zero", 6, &text, NULL, NULL));
    unlink(fifo);
    unlink(file);
}
END_TEST

/* Whether the kernel says of the mapping at @address that it has the flag. */
static bool has_flag(const void *address, const char *flag)
{
    g_autofree char *text = NULL, *begin = g_strdup_printf("%lx-", (unsigned long)address);
    const char *at, *end;
    g_autofree char *flags = NULL;

    ck_assert(g_file_get_contents("/proc/self/smaps", &text, NULL, NULL));
    at = strstr(text, begin);
    ck_assert_ptr_nonnull(at);
    at = strstr(at, "VmFlags:");
    end = strchr(at, '\n');
    flags = g_strndup(at, (size_t)(end - at));
    return strstr(flags, flag) != NULL;
}

static int rename_fails(const char *from, const char *to)
{
    (void)from, (void)to;
    errno = EROFS;
    return -1;
}

static int sync_fails(int fd)
{
    (void)fd;
    errno = EIO;
    return -1;
}

static ssize_t no_space(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags)
{
    (void)fd, (void)iov, (void)iovcnt, (void)offset, (void)flags;
    errno = ENOSPC;
    return -1;
}

/* Of a replacement that fails nothing is left, and the old file is whole. */
START_TEST(a_file_is_replaced_as_a_whole)
{
    TmSys bad[] = { tm_sys_kernel, tm_sys_kernel, tm_sys_kernel };
    g_autofree char *dir = g_dir_make_tmp("tm-replace-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "file", NULL);
    g_autofree char *partial = g_strconcat(path, TM_FILE_PARTIAL, NULL);
    g_autofree char *text = NULL;

    ck_assert(tm_file_replace(&tm_sys_kernel, path, "old", 0600, NULL));
    bad[0].pwritev2 = no_space;
    bad[1].fsync = sync_fails;
    bad[2].rename = rename_fails;
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *kept = NULL;

        ck_assert(!tm_file_replace(&bad[i], path, "new", 0600, &error));
        ck_assert_ptr_nonnull(strstr(error->message, path));
        ck_assert(tm_file_read(path, 100, &kept, NULL, NULL));
        ck_assert_str_eq(kept, "old");
        ck_assert(!g_file_test(partial, G_FILE_TEST_EXISTS));
    }
    /* what a crash left, even a link, is in nobody's way or is refused */
    ck_assert_int_eq(symlink(path, partial), 0);
    ck_assert(!tm_file_replace(&tm_sys_kernel, path, "new", 0600, NULL));
    ck_assert_int_eq(unlink(partial), 0);
    ck_assert(g_file_set_contents(partial, "a longer text", -1, NULL));
    ck_assert(tm_file_replace(&tm_sys_kernel, path, "new", 0600, NULL));
    ck_assert(tm_file_read(path, 100, &text, NULL, NULL));
    ck_assert_str_eq(text, "new");
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

START_TEST(secrets_are_locked_and_wiped)
{
    g_autofree char *fifo = make_path("fifo", true), *file = make_path("file", false);
    TmSecret secret = { 0 };
    int writer;

    ck_assert(tm_secret_read(&secret, file, 7, NULL));
    ck_assert_str_eq((char *)secret.data, "content");
    ck_assert_uint_eq(secret.length, 7);
    ck_assert(has_flag(secret.data, " dd"));
    tm_secret_clear(&secret);
    ck_assert_ptr_null(secret.data);
    tm_secret_clear(&secret);
    ck_assert(!tm_secret_read(&secret, file, 6, NULL));
    ck_assert(!tm_secret_read(&secret, fifo, 6, NULL)); /* nobody writes */
    writer = open(fifo, O_RDWR);
    ck_assert_int_eq(write(writer, "letmein", 7), 7);
    ck_assert(!tm_secret_read(&secret, fifo, 6, NULL));
    ck_assert_ptr_null(secret.data);
    close(writer);
    unlink(fifo);
    unlink(file);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("util");
    TCase *tc = tcase_create("util");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_test(tc, range_end_refuses_overflow);
    tcase_add_test(tc, range_within_is_right_at_the_edges);
    tcase_add_test(tc, range_overlaps_as_defined);
    tcase_add_test(tc, alignment_rounds_both_ways);
    tcase_add_test(tc, byte_order_works_at_any_alignment);
    tcase_add_test(tc, extents_merge_and_fill);
    tcase_add_test(tc, a_slip_is_near_to_its_word);
    tcase_add_test(tc, errors_have_a_class);
    tcase_add_test(tc, kernel_table_does_io);
    tcase_add_test(tc, the_thread_sanitizer_sees_glib_locks);
    tcase_add_test(tc, one_boot_has_one_identity);
    tcase_add_test(tc, a_log_line_is_one_line);
    tcase_add_test(tc, a_long_text_is_cut_at_a_character);
    tcase_add_test(tc, a_flood_of_messages_is_limited);
    tcase_add_test(tc, levels_are_those_of_areas);
    tcase_add_test(tc, the_last_messages_are_kept);
    tcase_add_test(tc, what_is_left_out_of_many_kinds_keeps_its_area);
    tcase_add_test(tc, what_is_left_out_keeps_to_the_level);
    tcase_add_test(tc, the_journal_gets_fields);
    tcase_add_test(tc, a_journal_that_stands_still_is_not_waited_for);
    tcase_add_test(tc, the_journal_is_where_standard_error_goes);
    tcase_add_test(tc, opening_a_fifo_does_not_wait);
    tcase_add_test(tc, a_file_without_a_name_has_its_mode);
    tcase_add_test(tc, files_are_read_within_bounds);
    tcase_add_test(tc, a_file_is_replaced_as_a_whole);
    tcase_add_test(tc, secrets_are_locked_and_wiped);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
