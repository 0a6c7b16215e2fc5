/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_client.c: what the client works out by itself: sizes and words, the cells of a
 * picture, the plan of a copy, the command line, arguments typed by a schema, and a target on a
 * file system that can't do everything. */
#include "client/cli.h"
#include "client/copy/plan.h"
#include "client/copy/rate.h"
#include "client/copy/release.h"
#include "client/copy/target.h"
#include "client/daemon/arguments.h"
#include "client/picture.h"
#include "client/progress.h"
#include "client/text.h"
#include "tests/asserts.h"
#include "util/extent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

/* Takes pieces of 256 KiB, each 1 GiB after the one before. */
static void take_pieces(TcRelease *r, TcWindow **windows, unsigned from, unsigned n)
{
    for (unsigned i = from; i < from + n; i++)
        windows[i] = tc_release_take(r, i * 1024 * MIB, MIB / 4);
}

static void same_text(char *got, const char *expected)
{
    ck_assert_str_eq(got, expected);
    g_free(got);
}

START_TEST(sizes_are_shown_in_binary_units)
{
    same_text(tc_human_size(0), "0 B");
    same_text(tc_human_size(1023), "1023 B");
    same_text(tc_human_size(1024), "1 KiB");
    same_text(tc_human_size(1536), "1.5 KiB");
    same_text(tc_human_size(1025), "1.0 KiB");
    same_text(tc_human_size(MIB - 1), "1.0 MiB");
    same_text(tc_human_size(MIB), "1 MiB");
    same_text(tc_human_size(UINT64_MAX), "16.0 EiB");
    same_text(tc_human_size(UINT64_C(1) << 63), "8 EiB");
    same_text(tc_percent(0, 0), "0 %");
    same_text(tc_percent(1, MIB), "<0.1 %");
    same_text(tc_percent(MIB - 1, MIB), "99.9 %");
    same_text(tc_percent(MIB, MIB), "100 %");
    same_text(tc_clock(59.9), "0:59");
    same_text(tc_clock(3723), "1:02:03");
}
END_TEST

START_TEST(short_figures_fit_five_columns)
{
    same_text(tc_short_size(0), "0");
    same_text(tc_short_size(1023), "1023");
    same_text(tc_short_size(1536), "1.5K");
    same_text(tc_short_size(102350), "100K");
    same_text(tc_short_size(MIB - 1), "1.0M");
    same_text(tc_short_size(1023.9 * MIB), "1024M");
    same_text(tc_short_count(0.01), "<0.1");
    same_text(tc_short_count(0.5), "0.5");
    same_text(tc_short_count(12345), "12.3k");
    same_text(tc_short_count(999960), "1.0M");
    same_text(tc_short_time(999), "999ns");
    same_text(tc_short_time(12345), "12us");
    same_text(tc_short_time(1234567), "1.2ms");
    same_text(tc_short_time(3.4e9), "3.4s");
}
END_TEST

START_TEST(wide_characters_take_two_columns)
{
    ck_assert_uint_eq(tc_text_width("a\u6708e\u0301"), 4);
    ck_assert_uint_eq(tc_text_fit("a\u6708b", 2), 1);
    ck_assert_uint_eq(tc_text_fit("a\u6708b", 3), 4);
    ck_assert_uint_eq(tc_text_fit("abc", 9), 3);
}
END_TEST

START_TEST(lines_wrap_at_words)
{
    same_text(tc_wrapped(0, 2, "a line", 0), "a line\n");
    same_text(tc_wrapped(2, 4, "ab cd ef gh", 9), "  ab cd\n    ef\n    gh\n");
    same_text(tc_wrapped(0, 2, "ab cd ef", 9), "ab cd ef\n");
    same_text(tc_wrapped(0, 2, "ab cd ef", 8), "ab cd\n  ef\n");
    /* characters, not bytes */
    same_text(tc_wrapped(0, 2, "\xc3\xa4\xc3\xa4 cd ef", 9), "\xc3\xa4\xc3\xa4 cd ef\n");
    /* what is too long stays whole */
    same_text(tc_wrapped(0, 2, "abcdefghijkl mn", 8), "abcdefghijkl\n  mn\n");
    same_text(tc_wrapped(0, 2, "\033[2J", 0), "?[2J\n");
}
END_TEST

START_TEST(sizes_with_suffixes_are_parsed)
{
    static const struct {
        const char *text;
        uint64_t value;
    } good[] = {
        { "0", 0 },
        { "512", 512 },
        { "64k", 65536 },
        { "64K", 65536 },
        { "64KiB", 65536 },
        { "64kB", 65536 },
        { "2G", UINT64_C(2) << 30 },
        { "7b", 7 },
        { "0x10", 16 },
        { "15E", UINT64_C(15) << 60 },
        { "18446744073709551615", UINT64_MAX },
    };
    static const char *const bad[] = {
        "", "k", "-1", " 1", "1 k", "1.5k", "1ki", "1x", "1kk", "16E", "18446744073709551616", "0x"
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
        uint64_t value = 42;

        ck_assert_msg(tc_parse_size(good[i].text, &value), "%s", good[i].text);
        ck_assert_uint_eq(value, good[i].value);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        uint64_t value = 42;

        ck_assert_msg(!tc_parse_size(bad[i], &value), "%s", bad[i]);
        ck_assert_uint_eq(value, 42);
    }
}
END_TEST

START_TEST(control_characters_do_not_reach_the_terminal)
{
    same_text(tc_printable("a\033[2Jb\x7f\xc2\x9b\n"), "a?[2Jb????");
}
END_TEST

START_TEST(picture_shows_the_most_important_state_of_a_cell)
{
    /* 64 cells of 512 bytes in 4 rows of 16 */
    g_autoptr(TcPicture) p = tc_picture_new(64 * 512, 26, 4, true);

    ck_assert_uint_eq(tc_picture_cell_size(p), 512);
    ck_assert_uint_eq(tc_picture_columns(p), 16);
    ck_assert_uint_eq(tc_picture_cells(p), 64);
    tc_picture_add(p, 0, 100, TC_HOLE, TC_HOLE);
    tc_picture_add(p, 100, 1, TC_DIRTY, TC_DATA);
    tc_picture_add(p, 101, 512 * 3 - 101, TC_ZERO, TC_ZERO);
    tc_picture_add(p, 512 * 3, 512, TC_DATA, TC_DATA);
    tc_picture_add(p, 512 * 4, 512 * 60, TC_HOLE, TC_HOLE);
    ck_assert_int_eq(tc_picture_cell(p, 0), TC_DIRTY);
    ck_assert_int_eq(tc_picture_cell(p, 1), TC_ZERO);
    ck_assert_int_eq(tc_picture_cell(p, 2), TC_ZERO);
    ck_assert_int_eq(tc_picture_cell(p, 3), TC_DATA);
    ck_assert_int_eq(tc_picture_cell(p, 4), TC_HOLE);
    ck_assert_int_eq(tc_picture_cell(p, 63), TC_HOLE);
    ck_assert_uint_eq(tc_picture_total(p, TC_DIRTY), 1);
    ck_assert_uint_eq(tc_picture_total(p, TC_HOLE), 100 + 512 * 60);
    /* what a server could make up does no harm */
    tc_picture_add(p, 512 * 63, 1024, TC_DIRTY, TC_DATA);
    tc_picture_add(p, UINT64_MAX, 2, TC_DIRTY, TC_DATA);
    ck_assert_int_eq(tc_picture_cell(p, 63), TC_HOLE);
}
END_TEST

START_TEST(picture_fits_any_size_and_width)
{
    static const uint64_t sizes[] = { 0,        1,       511,          512,
                                      513,      5 * MIB, 64 * MIB + 1, UINT64_C(3) << 40,
                                      INT64_MAX };
    static const unsigned widths[] = { 1, 11, 20, 80, 213 };

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        for (unsigned j = 0; j < G_N_ELEMENTS(widths); j++) {
            g_autoptr(TcPicture) p = tc_picture_new(sizes[i], widths[j], 16, false);
            uint64_t cells = tc_picture_cells(p), cell = tc_picture_cell_size(p);

            ck_assert_uint_le(cells, 16 * (uint64_t)tc_picture_columns(p));
            ck_assert_uint_eq(cell & (cell - 1), 0);
            ck_assert(cells * cell >= sizes[i]);
            /* no coarser than it has to be */
            if (cell > 512)
                ck_assert_uint_gt(sizes[i] / (cell / 2) + 1, 16 * tc_picture_columns(p));
            tc_picture_add(p, 0, sizes[i], TC_DATA, TC_DATA);
            if (cells)
                ck_assert_int_eq(tc_picture_cell(p, cells - 1), TC_DATA);
        }
    }
}
END_TEST

static void add(TcPlan *plan, uint64_t offset, uint64_t length, uint32_t allocation, uint32_t dirty)
{
    ck_assert(tc_plan_add(plan, offset, length, allocation, dirty, NULL));
}

static void next_is(TcPlan *plan, uint64_t offset, uint64_t length, TcAction action)
{
    TcStep step;

    ck_assert(tc_plan_next(plan, 65536, MIB, &step));
    ck_assert_uint_eq(step.offset, offset);
    ck_assert_uint_eq(step.length, length);
    ck_assert_int_eq(step.action, action);
}

START_TEST(plan_of_a_bitmap_reads_what_is_dirty_and_not_zero)
{
    g_autoptr(TcPlan) plan = tc_plan_new(true, false);
    TcStep step;

    add(plan, 0, 1000, 0, 0);
    add(plan, 1000, 1000, 0, TM_STATE_DIRTY);
    add(plan, 2000, 100000, TM_STATE_HOLE, TM_STATE_DIRTY); /* may read as anything */
    add(plan, 102000, 3 * MIB, TM_STATE_HOLE | TM_STATE_ZERO, TM_STATE_DIRTY);
    add(plan, 102000 + 3 * MIB, 10, TM_STATE_ZERO, TM_STATE_DIRTY);
    add(plan, 102010 + 3 * MIB, 10, TM_STATE_ZERO, 0);
    ck_assert_uint_eq(tc_plan_bytes(plan), 101010 + 3 * MIB);
    ck_assert_uint_eq(tc_plan_ranges(plan), 3);
    next_is(plan, 1000, 64536, TC_DO_READ); /* up to a multiple */
    next_is(plan, 65536, 102000 - 65536, TC_DO_READ);
    next_is(plan, 102000, MIB, TC_DO_HOLE);
    next_is(plan, 102000 + MIB, MIB, TC_DO_HOLE);
    next_is(plan, 102000 + 2 * MIB, MIB, TC_DO_HOLE);
    next_is(plan, 102000 + 3 * MIB, 10, TC_DO_ZERO);
    ck_assert(!tc_plan_next(plan, 65536, MIB, &step));
}
END_TEST

START_TEST(plan_of_a_fresh_copy_skips_zeroes)
{
    g_autoptr(TcPlan) plan = tc_plan_new(false, true);

    add(plan, 0, 512, TM_STATE_ZERO, 0);
    add(plan, 512, 512, 0, 0);
    add(plan, 1024, 512, TM_STATE_HOLE | TM_STATE_ZERO, 0);
    ck_assert_uint_eq(tc_plan_bytes(plan), 512);
    next_is(plan, 512, 512, TC_DO_READ);
}
END_TEST

START_TEST(plan_stops_at_its_limit)
{
    g_autoptr(TcPlan) plan = tc_plan_new(true, false);

    tc_plan_set_limit(plan, 2);
    add(plan, 0, 512, TM_STATE_ZERO | TM_STATE_HOLE, 1);
    add(plan, 1024, 512, TM_STATE_ZERO | TM_STATE_HOLE, 1);
    add(plan, 4096, 512, TM_STATE_ZERO | TM_STATE_HOLE, 1);
    add(plan, 8192, 512, 0, 1);
    ck_assert_uint_eq(tc_plan_ranges(plan), 2);
    ck_assert_uint_eq(tc_plan_bytes(plan), 512 + 8704 - 1024);
    next_is(plan, 0, 512, TC_DO_HOLE);
    next_is(plan, 1024, 8704 - 1024, TC_DO_READ);
}
END_TEST

static const TcOption leaf_options[] = { { "size", "SIZE", "a size" },
                                         { "flag", NULL, "" },
                                         { 0 } };
static const TcCommand leaf = {
    .name = "leaf", .args = "ARG...", .min_args = 1, .max_args = 3, .options = leaf_options
};
static const TcCommand *const children[] = { &leaf, NULL };
static const TcCommand branch = { .name = "branch", .args = "", .subcommands = children };
static const TcCommand *const branches[] = { &branch, NULL };
static const TcCommand root = { .name = "tidemark", .args = "", .subcommands = branches };

/* Parses up to 8 words. */
static bool parse(TcInvocation *inv, GError **error, const char *words)
{
    static char *argv[16];
    g_auto(GStrv) split = g_strsplit(words, " ", 8);
    int argc = 1;

    argv[0] = (char *)"tidemark";
    for (char **word = split; *word && **word; word++)
        argv[argc++] = (char *)g_intern_string(*word);
    return tc_cli_parse(&root, argc, argv, inv, error);
}

/* Never before all pieces in a range are stored, and with what is between them. */
START_TEST(stored_ranges_are_released_whole)
{
    TcRelease *r = tc_release_new();
    TcWindow *windows[24] = { NULL };
    uint64_t offset = 1, length = 1;

    take_pieces(r, windows, 0, 20);
    for (unsigned i = 19; i > 0; i--) {
        bool whole = i == 8;

        ck_assert(tc_release_back(r, windows[i], MIB / 4, &offset, &length) == whole);
        if (whole) {
            ck_assert_uint_eq(offset, 7 * 1024 * MIB + MIB / 4);
            ck_assert_uint_eq(offset + length, 15 * 1024 * MIB + MIB / 4);
        }
    }
    take_pieces(r, windows, 20, 4); /* the last window goes on */
    for (unsigned i = 20; i < 23; i++)
        ck_assert(!tc_release_back(r, windows[i], MIB / 4, &offset, &length));
    ck_assert(tc_release_back(r, windows[0], MIB / 4, &offset, &length));
    ck_assert_uint_eq(offset, 0);
    ck_assert_uint_eq(length, 7 * 1024 * MIB + MIB / 4);
    ck_assert(tc_release_back(r, windows[23], MIB / 4, &offset, &length));
    ck_assert_uint_eq(offset + length, 23 * 1024 * MIB + MIB / 4);
    take_pieces(r, windows, 23, 1);
    tc_release_free(r);
}
END_TEST

START_TEST(valid_command_lines_are_parsed)
{
    TcInvocation inv;
    uint64_t size = 7;

    ck_assert(parse(&inv, NULL, "branch leaf a --size=2k --flag - -- --b"));
    ck_assert_str_eq(inv.path, "tidemark branch leaf");
    ck_assert(tc_flag(&inv, "flag"));
    ck_assert(tc_option_number(&inv, "size", 1, 2048, &size, NULL));
    ck_assert_uint_eq(size, 2048);
    ck_assert(!tc_option_number(&inv, "size", 1, 2047, &size, NULL));
    ck_assert_str_eq(tc_arg(&inv, 1), "-");
    ck_assert_str_eq(tc_arg(&inv, 2), "--b");
    ck_assert_ptr_null(tc_arg(&inv, 3));
    tc_invocation_clear(&inv);
    ck_assert(parse(&inv, NULL, "branch leaf --help"));
    ck_assert(inv.help);
    tc_invocation_clear(&inv);
    ck_assert(parse(&inv, NULL, "--version"));
    ck_assert(inv.version);
    tc_invocation_clear(&inv);
}
END_TEST

START_TEST(invalid_command_lines_get_a_message)
{
    static const char *const cases[][2] = {
        { "", "missing command: see 'tidemark --help'" },
        { "brnch", "unknown command 'brnch': did you mean 'branch'?" },
        { "branch xyz", "unknown command 'xyz': see 'tidemark branch --help'" },
        { "branch leaf", "missing argument: usage is 'tidemark branch leaf ARG...'" },
        { "branch leaf a b c d", "unexpected argument 'd'" },
        { "branch leaf a --siez 3", "unknown option '--siez': did you mean '--size'?" },
        { "branch leaf a --size", "option --size needs a value: SIZE" },
        { "branch leaf a --flag=1", "option --flag takes no value" },
        { "branch leaf a -x", "unknown option '-x'" },
        { "--nope", "unknown option '--nope'" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        TcInvocation inv;

        ck_assert(!parse(&inv, &error, cases[i][0]));
        ck_assert_msg(g_str_has_prefix(error->message, cases[i][1]), "%s", error->message);
        tc_invocation_clear(&inv);
    }
}
END_TEST

/* A schema as servers write it, with types by number. */
static const char schema_text[] =
    "[{'name':'add','meta-type':'command','arg-type':'1','ret-type':'0'},"
    "{'name':'0','meta-type':'object','members':[]},"
    "{'name':'1','meta-type':'object','members':[{'name':'driver','type':'2'},"
    "{'name':'size','type':'int'},{'name':'on','type':'bool'},{'name':'name','type':'str'},"
    "{'name':'list','type':'[str]'},{'name':'any','type':'any'},{'name':'ref','type':'3'}],"
    "'tag':'driver','variants':[{'case':'a','type':'4'},{'case':'b','type':'5'}]},"
    "{'name':'2','meta-type':'enum','values':['a','b']},"
    "{'name':'3','meta-type':'alternate','members':[{'type':'str'},{'type':'1'}]},"
    "{'name':'4','meta-type':'object','members':[{'name':'x','type':'int'}]},"
    "{'name':'5','meta-type':'object','members':[{'name':'x','type':'str'}]},"
    "{'name':'[str]','meta-type':'array','element-type':'str'},"
    "{'name':'int','meta-type':'builtin','json-type':'int'},"
    "{'name':'bool','meta-type':'builtin','json-type':'boolean'},"
    "{'name':'any','meta-type':'builtin','json-type':'value'},"
    "{'name':'str','meta-type':'builtin','json-type':'string'}]";

static TcSchema *make_schema(void)
{
    g_autofree char *text = g_strdelimit(g_strdup(schema_text), "'", '"');
    g_autoptr(json_object) array = json_tokener_parse(text);

    ck_assert_ptr_nonnull(array);
    return tc_schema_new(array);
}

/* Builds from words separated by spaces. */
static char *build(const TcSchema *schema, const char *words)
{
    g_auto(GStrv) split = g_strsplit(words, " ", -1);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_object) object =
        tc_arguments_build(schema, "add", (const char *const *)split, &error);

    return g_strdup(object ? json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN)
                           : error->message);
}

START_TEST(arguments_follow_the_schema)
{
    g_autoptr(TcSchema) schema = make_schema();

    same_text(build(schema, "name=12 size=12 on=on"), "{\"name\":\"12\",\"size\":12,\"on\":true}");
    same_text(build(schema, "size=64k any=64k"), "{\"size\":65536,\"any\":\"64k\"}");
    same_text(build(schema, "size=-3"), "{\"size\":-3}");
    same_text(build(schema, "list=a list=b list.2=c"), "{\"list\":[\"a\",\"b\",\"c\"]}");
    same_text(build(schema, "list=[\"x\"]"), "{\"list\":[\"x\"]}");
    same_text(build(schema, "driver=a x=1"), "{\"driver\":\"a\",\"x\":1}");
    same_text(build(schema, "driver=b x=1"), "{\"driver\":\"b\",\"x\":\"1\"}");
    same_text(build(schema, "ref=5 name:=null"), "{\"ref\":\"5\",\"name\":null}");
    same_text(build(schema, "ref.driver=b ref.x=7 ref.ref.size=1"),
              "{\"ref\":{\"driver\":\"b\",\"x\":\"7\",\"ref\":{\"size\":1}}}");
    same_text(build(schema, "any=true new=\"q\" new2=1.5 other=x"),
              "{\"any\":true,\"new\":\"q\",\"new2\":1.5,\"other\":\"x\"}");
    same_text(build(NULL, "a.0.b=1 a.0.c=x a.1=2"), "{\"a\":[{\"b\":1,\"c\":\"x\"},2]}");
    same_text(build(NULL, "a=b=c"), "{\"a\":\"b=c\"}");
}
END_TEST

START_TEST(arguments_against_the_schema_are_refused)
{
    g_autoptr(TcSchema) schema = make_schema();

    same_text(build(schema, "size=x"), "argument 'size': 'x' is not a number");
    same_text(build(schema, "on=x"), "argument 'on': 'x' is not on or off");
    same_text(build(schema, "name=a name=b"), "argument 'name' is given twice");
    same_text(build(schema, "list.1=a"), "argument 'list.1': element 0 has to come first");
    same_text(build(schema, "ref=a ref.size=1"), "argument 'ref.size' contradicts an earlier one");
    same_text(build(schema, "=a"), "'=a' is not of the form KEY=VALUE or KEY:=JSON");
    same_text(build(schema, "a"), "'a' is not of the form KEY=VALUE or KEY:=JSON");
    same_text(build(schema, ":=1"), "':=1' is not of the form KEY=VALUE or KEY:=JSON");
    same_text(build(schema, "a..b=1"), "argument 'a..b': a part of the key is empty");
    same_text(build(schema, "a:=[1"), "argument 'a': '[1' is not JSON");
    ck_assert_str_eq(tc_schema_closest(schema, "command", "ad"), "add");
}
END_TEST

START_TEST(progress_fits_the_terminal)
{
    for (unsigned columns = 1; columns < 200; columns++) {
        g_autofree char *line =
            tc_progress_line("copying", 3 * MIB, 8 * MIB, 1e6, columns, columns % 2);

        ck_assert_int_lt(g_utf8_strlen(line, -1), MAX(columns, 1));
        ck_assert(columns < 50 || strstr(line, "3 MiB of 8 MiB"));
    }
    same_text(tc_progress_line("copying", 4 * MIB, 8 * MIB, (double)MIB, 74, false),
              "copying  50 % [###########...........] 4 MiB of 8 MiB  1 MiB/s  0:04 left");
}
END_TEST

START_TEST(rate_is_shared)
{
    g_autoptr(TcRate) rate = tc_rate_new(10 * MIB);
    gint64 start = g_get_monotonic_time();
    uint64_t taken = 0;
    int wait;

    ck_assert_int_eq(tc_rate_take(NULL, UINT64_MAX), 0);
    while (taken < 4 * MIB) {
        while ((wait = tc_rate_take(rate, MIB / 4)))
            g_usleep((gulong)wait * 1000);
        taken += MIB / 4;
    }
    /* the first piece waits for nothing, and a tenth of a second is in hand */
    ck_assert_int_gt(g_get_monotonic_time() - start, 250000);
    ck_assert_int_eq(tc_rate_take(rate, UINT64_MAX) > 0 || tc_rate_take(rate, 1) > 0, true);
}
END_TEST

/* A file system that can punch but not zero ranges, and writes in short pieces. */
static int fallocate_punch_only(int fd, int mode, off_t offset, off_t length)
{
    if (!(mode & FALLOC_FL_PUNCH_HOLE)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return fallocate(fd, mode, offset, length);
}

static int fallocate_none(int fd, int mode, off_t offset, off_t length)
{
    errno = EOPNOTSUPP;
    return -1;
}

static ssize_t pwritev2_short(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    return pwrite(fd, iov->iov_base, MIN(iov->iov_len, 1000), offset);
}

static ssize_t pwritev2_full(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    errno = ENOSPC;
    return -1;
}

static TcTarget *open_target(const TmSys *sys, const char *path, uint64_t size)
{
    g_autoptr(GError) error = NULL;
    TcTargetFacts facts;
    TcTarget *target;

    ck_assert(tc_target_examine(path, &facts, NULL));
    target = tc_target_open(sys, path, &facts, size, NULL, &error);
    ck_assert_msg(target != NULL, "%s", error ? error->message : "");
    return target;
}

START_TEST(target_zeroes_whatever_the_file_system_can)
{
    g_autofree char *path = g_strdup("/tmp/tm-target-XXXXXX");
    g_autofree char *ones = g_malloc(3 * MIB), *back = g_malloc(3 * MIB);
    g_autofree char *expected = g_malloc(3 * MIB);
    int fd = g_mkstemp(path);
    TmSys sys = tm_sys_kernel;

    memset(ones, 1, 3 * MIB);
    memset(expected, 1, 3 * MIB);
    memset(expected + 5, 0, 7);
    memset(expected + MIB + 1, 0, MIB + 77777);
    sys.pwritev2 = pwritev2_short;
    for (unsigned i = 0; i < 3; i++) {
        TcTarget *target;

        sys.fallocate = i == 0   ? tm_sys_kernel.fallocate
                        : i == 1 ? fallocate_punch_only
                                 : fallocate_none;
        target = open_target(&sys, path, 3 * MIB);
        ck_assert_int_eq(tc_target_write(target, 0, ones, 3 * MIB), 0);
        ck_assert_int_eq(tc_target_zero(target, 5, 7, false), 0);
        ck_assert_int_eq(tc_target_zero(target, MIB + 1, MIB + 77777, true), 0);
        ck_assert(tc_target_sync(target, NULL));
        tc_target_free(target);
        ck_assert_int_eq(pread(fd, back, 3 * MIB, 0), 3 * MIB);
        ck_assert_int_eq(memcmp(back, expected, 3 * MIB), 0);
    }
    close(fd);
    unlink(path);
}
END_TEST

START_TEST(target_errors_reach_the_caller)
{
    g_autofree char *path = g_strdup("/tmp/tm-target-XXXXXX");
    g_autoptr(GError) error = NULL;
    TmSys sys = tm_sys_kernel;
    TcTargetFacts facts;
    TcTarget *first;

    close(g_mkstemp(path));
    sys.pwritev2 = pwritev2_full;
    sys.fallocate = fallocate_none;
    first = open_target(&sys, path, 4096);
    ck_assert_int_eq(tc_target_write(first, 0, "x", 1), -ENOSPC);
    ck_assert_int_eq(tc_target_zero(first, 0, 512, true), -ENOSPC);
    /* the second to open it gets an error about the first */
    ck_assert(tc_target_examine(path, &facts, NULL));
    ck_assert_ptr_null(tc_target_open(&sys, path, &facts, 4096, NULL, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "in use by another program"));
    tc_target_free(first);
    tc_target_free(open_target(&sys, path, 4096));
    unlink(path);
}
END_TEST

static int sync_fails(int fd)
{
    errno = EIO;
    return -1;
}

/* What is new has a name, too, that has to survive. */
START_TEST(target_is_not_done_until_file_and_name_are_synced)
{
    g_autofree char *path = g_strdup("/tmp/tm-target-XXXXXX");
    TmSys sys = tm_sys_kernel;

    for (int i = 0; i < 4; i++) {
        bool fresh = i % 2 == 0, data = i < 2;
        TcTarget *target;

        close(g_mkstemp(path));
        if (fresh)
            unlink(path);
        sys.fdatasync = data ? sync_fails : tm_sys_kernel.fdatasync;
        sys.fsync = data ? tm_sys_kernel.fsync : sync_fails;
        target = open_target(&sys, path, 4096);
        ck_assert_int_eq(tc_target_sync(target, NULL), !data && !fresh);
        tc_target_free(target);
        unlink(path);
        strcpy(path + strlen(path) - 6, "XXXXXX");
    }
}
END_TEST

static ssize_t no_attributes(int fd, const char *name, void *value, size_t size)
{
    errno = ENOTSUP;
    return -1;
}

static int no_attribute_set(int fd, const char *name, const void *value, size_t size)
{
    errno = ENOTSUP;
    return -1;
}

static int no_attribute_removed(int fd, const char *name)
{
    errno = ENOTSUP;
    return -1;
}

/* One attribute, of all files: what 'cp -a' makes of it. */
static char attribute[4096];

static ssize_t shared_attribute(int fd, const char *name, void *value, size_t size)
{
    size_t length = strlen(attribute);

    ck_assert_uint_le(length, size);
    memcpy(value, attribute, length);
    return (ssize_t)length;
}

static int shared_attribute_set(int fd, const char *name, const void *value, size_t size)
{
    ck_assert_uint_lt(size, sizeof(attribute));
    memcpy(attribute, value, size);
    attribute[size] = '\0';
    return 0;
}

static void expect_origin(const TmSys *sys, const char *path, TcOriginState state,
                          const char *source)
{
    g_auto(TcOrigin) origin = { 0 };

    ck_assert(tc_origin_read(sys, path, &origin, NULL));
    ck_assert_int_eq(origin.state, state);
    ck_assert_int_eq(g_strcmp0(origin.source, source), 0);
}

/* In an attribute, where there is such a thing, or in a file beside it, which means that file. */
START_TEST(a_file_remembers_what_it_is_a_copy_of)
{
    char source[] = "nbd://host:10809/disk \"0\"";
    TcOrigin origin = { TC_ORIGIN_COMPLETE, source, NULL, false };
    TmSys without = tm_sys_kernel;

    without.fgetxattr = no_attributes;
    without.fsetxattr = no_attribute_set;
    without.fremovexattr = no_attribute_removed;
    for (int i = 0; i < 2; i++) {
        const TmSys *sys = i ? &without : &tm_sys_kernel;
        g_autofree char *path = g_strdup("/tmp/tm-origin-XXXXXX"), *beside = NULL, *new = NULL;
        int fd = g_mkstemp(path);

        beside = g_strconcat(path, ".tidemark-copy", NULL);
        new = g_strconcat(path, ".new", NULL);
        expect_origin(sys, path, TC_ORIGIN_NONE, NULL);
        ck_assert(tc_origin_write(sys, fd, path, &origin, NULL));
        expect_origin(sys, path, TC_ORIGIN_COMPLETE, source);
        ck_assert(!i || g_file_test(beside, G_FILE_TEST_EXISTS));
        /* another file that has its path is no copy */
        close(fd);
        fd = open(new, O_RDWR | O_CREAT | O_EXCL, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(rename(new, path), 0);
        expect_origin(sys, path, TC_ORIGIN_NONE, NULL);
        /* nor is one that something else was put into */
        ck_assert(tc_origin_write(sys, fd, path, &origin, NULL));
        close(fd);
        tc_target_free(open_target(sys, path, 4096));
        expect_origin(sys, path, TC_ORIGIN_NONE, NULL);
        ck_assert(!g_file_test(beside, G_FILE_TEST_EXISTS));
        unlink(path);
    }
}
END_TEST

static void expect_moved(const TmSys *sys, const char *path, bool moved)
{
    g_auto(TcOrigin) found = { 0 };

    ck_assert(tc_origin_read(sys, path, &found, NULL));
    ck_assert_int_eq(found.state, TC_ORIGIN_COMPLETE);
    ck_assert_int_eq(found.moved, moved);
}

/* A file with the record of another one is its duplicate; a new name makes it none. */
START_TEST(a_duplicate_of_a_copy_is_known)
{
    char source[] = "nbd://host:10809/disk";
    TcOrigin origin = { TC_ORIGIN_COMPLETE, source, NULL, false };
    g_autofree char *path = g_strdup("/tmp/tm-origin-XXXXXX"), *other = NULL;
    TmSys sys = tm_sys_kernel;
    int fd = g_mkstemp(path);

    other = g_strconcat(path, ".duplicate", NULL);
    ck_assert(g_file_set_contents(other, "", 0, NULL));
    sys.fgetxattr = shared_attribute;
    sys.fsetxattr = shared_attribute_set;
    ck_assert(tc_origin_write(&sys, fd, path, &origin, NULL));
    close(fd);
    expect_moved(&sys, path, false);
    expect_moved(&sys, other, true);
    ck_assert_int_eq(rename(path, other), 0);
    expect_moved(&sys, other, false);
    unlink(other);
}
END_TEST

/* A record that could not be synced is not believed, and nothing of it is left. */
START_TEST(a_record_that_is_not_durable_is_none)
{
    char source[] = "nbd://host:10809/disk";
    TcOrigin origin = { TC_ORIGIN_COMPLETE, source, NULL, false };
    g_autofree char *path = g_strdup("/tmp/tm-origin-XXXXXX"), *partial = NULL;
    TmSys sys = tm_sys_kernel;
    GError *error = NULL;
    int fd = g_mkstemp(path);

    sys.fgetxattr = no_attributes;
    sys.fsetxattr = no_attribute_set;
    sys.fremovexattr = no_attribute_removed;
    sys.fsync = sync_fails;
    partial = g_strconcat(path, ".tidemark-copy.partial", NULL);
    ck_assert(!tc_origin_write(&sys, fd, path, &origin, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "Could not record what"));
    g_clear_error(&error);
    expect_origin(&sys, path, TC_ORIGIN_NONE, NULL);
    ck_assert(!g_file_test(partial, G_FILE_TEST_EXISTS));
    close(fd);
    unlink(path);
}
END_TEST

START_TEST(a_disk_has_one_name_however_its_uri_is_spelt)
{
    static const char *const pairs[][2] = {
        { "nbd://h/d", "nbds://h:10809/d?tls-certificates=dir" },
        { "nbd://[::1]:1/%64", "nbd://[::1]:1/d" },
        { "nbd+unix:///d?socket=/a/b", "nbds+unix:///%64?tls-psk-file=k&socket=/a/./b" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(pairs); i++) {
        g_autofree char *a = tc_origin_source(pairs[i][0]), *b = tc_origin_source(pairs[i][1]);

        ck_assert_str_eq(a, b);
        for (unsigned j = 0; j < i; j++) {
            g_autofree char *other = tc_origin_source(pairs[j][0]);

            ck_assert_str_ne(a, other);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client");
    TCase *tcase = tcase_create("client");
    SRunner *runner;
    int failed;

    tcase_add_test(tcase, a_file_remembers_what_it_is_a_copy_of);
    tcase_add_test(tcase, a_record_that_is_not_durable_is_none);
    tcase_add_test(tcase, a_duplicate_of_a_copy_is_known);
    tcase_add_test(tcase, a_disk_has_one_name_however_its_uri_is_spelt);
    tcase_add_test(tcase, sizes_are_shown_in_binary_units);
    tcase_add_test(tcase, short_figures_fit_five_columns);
    tcase_add_test(tcase, wide_characters_take_two_columns);
    tcase_add_test(tcase, lines_wrap_at_words);
    tcase_add_test(tcase, sizes_with_suffixes_are_parsed);
    tcase_add_test(tcase, control_characters_do_not_reach_the_terminal);
    tcase_add_test(tcase, picture_shows_the_most_important_state_of_a_cell);
    tcase_add_test(tcase, picture_fits_any_size_and_width);
    tcase_add_test(tcase, plan_of_a_bitmap_reads_what_is_dirty_and_not_zero);
    tcase_add_test(tcase, plan_of_a_fresh_copy_skips_zeroes);
    tcase_add_test(tcase, plan_stops_at_its_limit);
    tcase_add_test(tcase, stored_ranges_are_released_whole);
    tcase_add_test(tcase, valid_command_lines_are_parsed);
    tcase_add_test(tcase, invalid_command_lines_get_a_message);
    tcase_add_test(tcase, arguments_follow_the_schema);
    tcase_add_test(tcase, arguments_against_the_schema_are_refused);
    tcase_add_test(tcase, progress_fits_the_terminal);
    tcase_add_test(tcase, rate_is_shared);
    tcase_add_test(tcase, target_zeroes_whatever_the_file_system_can);
    tcase_add_test(tcase, target_errors_reach_the_caller);
    tcase_add_test(tcase, target_is_not_done_until_file_and_name_are_synced);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
