/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_merge.c: points are removed by merging, and all others read as before: when it is
 * done, and wherever it is cut, by the hashes and by the images alone. */
#include "client/image/image.h"
#include "client/repository/merge.h"
#include "client/repository/merge_internal.h"
#include "client/repository/point_reader.h"
#include "client/repository/view.h"
#include "repository_util.h"
#include "tests/rounds.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (8 * B - 700) /* of all disks: the image is a little longer */

/* A disk of a point: a letter a block, 'z' or '0' for zeroes, '.' for nothing. */
typedef struct Disk {
    const char *name, *parent, *blocks, *compression;
    char *seen; /* all of it, by the chain */
} Disk;

typedef struct Point {
    const char *name;
    Disk disks[4]; /* those with a name */
} Point;

static char *original;   /* a copy of the repository */
static GPtrArray *texts; /* what the disks have: char * */
static Point *points;    /* those that the repository has, or had */
static size_t n_points;

static void run_command(const char *format, ...) G_GNUC_PRINTF(1, 2);
static void run_command(const char *format, ...)
{
    g_autofree char *command = NULL;
    va_list ap;

    va_start(ap, format);
    command = g_strdup_vprintf(format, ap);
    va_end(ap);
    ck_assert_msg(system(command) == 0, "%s", command);
}

static void begin(void)
{
    make_dir();
    original = g_build_filename(dir, "original", NULL);
    texts = g_ptr_array_new_with_free_func(g_free);
}

static void end(void)
{
    remove_dir();
    g_free(original);
    g_ptr_array_unref(texts);
}

/* ---- making points */

static void add_disk(TcNewPoint *point, const Disk *disk)
{
    TcPointDisk *entry = tc_point_disk_new(disk->name, SIZE);
    g_autoptr(GError) error = NULL;
    TcNewDisk *to;

    entry->parent = g_strdup(disk->parent);
    entry->compression = g_strdup(disk->compression);
    to = tc_new_point_add(point, entry, runs_of(disk->blocks, SIZE), &error);
    no_error(error);
    ck_assert_int_eq(write_blocks(to, disk->blocks, SIZE), 0);
}

static Disk *find_disk(const char *point, const char *name)
{
    for (size_t i = 0; i < n_points; i++)
        for (Disk *d = points[i].disks; !strcmp(points[i].name, point) && d->name; d++)
            if (!strcmp(d->name, name))
                return d;
    return NULL;
}

static void see(Disk *d)
{
    const Disk *parent = d->parent ? find_disk(d->parent, d->name) : NULL;

    d->seen = g_strdup(d->blocks);
    g_ptr_array_add(texts, d->seen);
    for (char *c = d->seen; *c; c++)
        *c = *c == 'z' ? '0' : *c != '.' ? *c : parent ? parent->seen[c - d->seen] : '0';
}

/* A repository with these. */
static void make(Point *list, size_t n)
{
    g_autoptr(TcRepository) repo = repo_for(TC_REPO_ADD);
    g_autoptr(GError) error = NULL;

    points = list;
    n_points = n;
    for (size_t i = 0; i < n; i++) {
        g_autoptr(TcNewPoint) point = tc_new_point(repo, list[i].name, &error);

        no_error(error);
        for (Disk *d = list[i].disks; d->name; d++) {
            see(d);
            add_disk(point, d);
        }
        ck_assert_msg(tc_new_point_commit(point, (i + 1) * 1000, &error), "%s", error->message);
    }
    tc_repo_close(g_steal_pointer(&repo));
    run_command("cp -a --sparse=always '%s' '%s'", path, original);
}

static void start_anew(void)
{
    run_command("rm -rf '%s' && cp -a --sparse=always '%s' '%s'", path, original, path);
}

/* ---- comparing */

static void compare(const uint8_t *buf, const Disk *d, const char *point, const char *how)
{
    g_autofree uint8_t *expected = g_malloc(B);

    for (uint64_t i = 0; d->seen[i]; i++) {
        uint64_t n = tm_min(B, SIZE - i * B);

        fill(expected, d->seen[i], i, n);
        ck_assert_msg(!memcmp(buf + i * B, expected, n), "block %" PRIu64 " of %s of %s, read %s",
                      i, d->name, point, how);
    }
}

/* As qemu-img would, and any program that follows the names in images. */
static void expect_by_images(const char *point, const Disk *d)
{
    g_autofree char *file = g_strdup_printf("%s/%s/%s.qcow2", path, point, d->name);
    TcImageOptions options = { .format = "qcow2", .chain = true, .names = "any" };
    g_autofree uint8_t *buf = g_malloc(8 * B);
    g_auto(TcImage) image = { 0 };
    g_autoptr(GError) error = NULL;

    tc_image_open(file, &options, &image, &error);
    no_error(error);
    ck_assert_int_eq(blk_node_pread(image.node, buf, 0, blk_node_size(image.node)), 0);
    compare(buf, d, point, "by its images");
}

static void expect_by_reader(TcRepository *repo, const char *point, const Disk *d)
{
    g_autoptr(TcPointReader) reader = NULL;
    g_autofree uint8_t *buf = g_malloc(8 * B);
    g_autoptr(GError) error = NULL;
    const TcManifest *where;
    uint64_t bad;

    reader = tc_point_reader_open(repo, tc_repo_point(repo, point), d->name, false, &error);
    no_error(error);
    ck_assert_msg(tc_point_reader_read(reader, buf, 0, SIZE, &bad, &where) == 0,
                  "disk %s of %s can't be read", d->name, point);
    compare(buf, d, point, "by its hashes");
}

/* Every point of the repository is as it was; those @names are there, apart from @maybe. */
static void expect(TcRepoUse use, const char *names, const char *maybe)
{
    g_autoptr(TcRepository) repo = repo_for(use);
    g_autoptr(GString) found = g_string_new(NULL);

    for (guint i = 0; i < tc_repo_points(repo)->len; i++) {
        const TcManifest *m = tc_repo_points(repo)->pdata[i];

        if (!g_strcmp0(m->point, maybe))
            continue;
        g_string_append_printf(found, "%s%s", found->len ? " " : "", m->point);
        for (guint j = 0; j < m->disks->len; j++) {
            const TcPointDisk *entry = m->disks->pdata[j];
            const Disk *d = find_disk(m->point, entry->name);

            expect_by_images(m->point, d);
            expect_by_reader(repo, m->point, d);
        }
    }
    ck_assert_str_eq(found->str, names);
    ck_assert_uint_eq(tc_repo_damaged(repo)->len, 0);
    ck_assert_uint_eq(tc_repo_foreign(repo)->len, 0);
}

/* For whoever takes no lock, nothing is damaged: all files of all chains are there. */
static void expect_list(const char *names, const char *maybe)
{
    g_autoptr(TcRepository) repo = repo_for(TC_REPO_LIST);

    for (guint i = 0; i < tc_repo_points(repo)->len; i++) {
        const TcManifest *m = tc_repo_points(repo)->pdata[i];
        g_autofree char *why = tc_repo_damage(repo, m);

        ck_assert_msg(!why, "%s: %s", m->point, why);
        ck_assert_msg(strstr(names, m->point) || !strcmp(m->point, maybe), "%s", m->point);
    }
}

/* Nothing is left of a merge. */
static void expect_nothing_left(void)
{
    run_command("cd '%s' && ! find . -name '*merge*' -o -name '*.partial' | grep .", path);
}

/* Nor in the images. */
static void expect_clean(void)
{
    expect_nothing_left();
    run_command("for i in $(find '%s' -name '*.qcow2'); do qemu-img check -q $i || exit 1; done",
                path);
}

static void remove_point(const char *name)
{
    g_autoptr(TcRepository) repo = repo_for(TC_REPO_CHANGE);
    TcMergeWatch watch = { 0 };
    g_autoptr(GError) error = NULL;

    ck_assert_msg(tc_merge_run(repo, name, &watch, &error), "%s",
                  error ? error->message : "stopped");
    ck_assert_uint_eq(watch.wrong, 0);
    ck_assert_ptr_null(tc_repo_point(repo, name));
}

/* ---- chains */

static Point chain[] = {
    { "p0", { { "a", NULL, "aaaa000a" } } },
    { "p1", { { "a", "p0", "bb.zb0.b" } } },
    { "p2", { { "a", "p1", ".cz.c..." } } },
    { "p3", { { "a", "p2", "d...dz.0" } } },
};

static const TcPointDisk *entry_of(TcRepository *repo, const char *point, const char *disk)
{
    return tc_manifest_disk(tc_repo_point(repo, point), disk);
}

START_TEST(a_point_in_the_middle_is_merged_with_its_child)
{
    g_autoptr(TcRepository) repo = NULL;

    make(chain, G_N_ELEMENTS(chain));
    remove_point("p1");
    expect(TC_REPO_READ, "p0 p2 p3", NULL);
    expect_clean();
    repo = repo_for(TC_REPO_READ);
    ck_assert_str_eq(entry_of(repo, "p2", "a")->parent, "p0");
    ck_assert_str_eq(entry_of(repo, "p2", "a")->parent_id, tc_repo_point(repo, "p0")->id);
    ck_assert_uint_eq(entry_of(repo, "p2", "a")->stored, 4 * B - 700);
    ck_assert_uint_eq(entry_of(repo, "p2", "a")->zero, 3 * B);
}
END_TEST

START_TEST(the_oldest_point_makes_its_child_a_full)
{
    g_autoptr(TcRepository) repo = NULL;

    make(chain, G_N_ELEMENTS(chain));
    remove_point("p0");
    expect(TC_REPO_READ, "p1 p2 p3", NULL);
    remove_point("p1");
    expect(TC_REPO_READ, "p2 p3", NULL);
    expect_clean();
    repo = repo_for(TC_REPO_READ);
    ck_assert_ptr_null(entry_of(repo, "p2", "a")->parent);
    ck_assert_ptr_null(entry_of(repo, "p2", "a")->parent_id);
    ck_assert_uint_eq(entry_of(repo, "p2", "a")->zero, 0);
}
END_TEST

START_TEST(the_newest_point_goes_without_a_merge)
{
    make(chain, G_N_ELEMENTS(chain));
    remove_point("p3");
    expect(TC_REPO_READ, "p0 p1 p2", NULL);
    remove_point("p2");
    remove_point("p1");
    remove_point("p0");
    expect(TC_REPO_READ, "", NULL);
    expect_clean();
}
END_TEST

START_TEST(compressed_images_are_merged)
{
    static const char *const ways[][3] = { { "zlib", "zlib", "zlib" },
                                           { "zstd", "zlib", "zstd" },
                                           { NULL, "zstd", "zlib" },
                                           { "zstd", NULL, "zstd" } };

    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
        Point list[] = {
            { "p0", { { "a", NULL, "aaaa000a", ways[i][0] } } },
            { "p1", { { "a", "p0", "bb.zb0.b", ways[i][0] } } },
            { "p2", { { "a", "p1", ".cz.c..c", ways[i][1] } } },
        };
        g_autoptr(TcRepository) repo = NULL;

        make(list, G_N_ELEMENTS(list));
        remove_point("p1");
        remove_point("p0");
        expect(TC_REPO_READ, "p2", NULL);
        expect_clean();
        repo = repo_for(TC_REPO_READ);
        ck_assert_str_eq(entry_of(repo, "p2", "a")->compression, ways[i][2]);
        tc_repo_close(g_steal_pointer(&repo));
        run_command("rm -rf '%s' '%s'", path, original);
    }
}
END_TEST

/* Of p1, disk a has a child p2, b has p3, and c none; b is not in p2. */
static Point several[] = {
    { "p0", { { "a", NULL, "aaaaaaaa" }, { "b", NULL, "0a0a0a0a" } } },
    { "p1", { { "a", "p0", "bb..zz.b" }, { "b", "p0", "....bbzz" }, { "c", NULL, "bb......" } } },
    { "p2", { { "a", "p1", "c.c.c.c." }, { "c", NULL, "cccccc.." } } },
    { "p3", { { "a", NULL, "dddd...." }, { "b", "p1", "d.z...dd" }, { "c", "p2", ".z..d..d" } } },
};

START_TEST(disks_of_one_point_have_children_of_their_own)
{
    make(several, G_N_ELEMENTS(several));
    remove_point("p1");
    expect(TC_REPO_READ, "p0 p2 p3", NULL);
    remove_point("p2");
    expect(TC_REPO_READ, "p0 p3", NULL);
    remove_point("p0");
    expect(TC_REPO_READ, "p3", NULL);
    expect_clean();
}
END_TEST

START_TEST(a_point_with_two_children_stays)
{
    Point list[] = {
        { "p0", { { "a", NULL, "aaaa" } } },
        { "p1", { { "a", "p0", "b..." } } },
        { "p2", { { "a", "p0", "c..." } } },
    };
    g_autoptr(TcRepository) repo = NULL;
    g_autoptr(TcMergePlan) plan = NULL;
    g_autofree char *kept = NULL;
    g_autoptr(GError) error = NULL;
    TcMergeCost cost = { 0 };

    make(list, G_N_ELEMENTS(list));
    repo = repo_for(TC_REPO_CHANGE);
    plan = tc_merge_plan(repo);
    ck_assert(tc_merge_plan_remove(plan, "p0", &cost, &kept, NULL));
    ck_assert_str_eq(kept, "points 'p1' and 'p2' both stand on its disk 'a'");
    ck_assert_uint_eq(cost.written + cost.freed, 0);
    ck_assert(!tc_merge_run(repo, "p0", NULL, &error));
    ck_assert_str_eq(error->message, "point 'p0' can't be removed: points 'p1' and 'p2' both stand "
                                     "on its disk 'a'");
    tc_repo_close(g_steal_pointer(&repo));
    expect(TC_REPO_READ, "p0 p1 p2", NULL);
    remove_point("p2");
    remove_point("p0");
    expect(TC_REPO_READ, "p1", NULL);
}
END_TEST

static void plan_one(TcMergePlan *plan, const char *point, uint64_t written, uint64_t freed)
{
    g_autofree char *kept = NULL;
    TcMergeCost cost = { 0 };

    ck_assert(tc_merge_plan_remove(plan, point, &cost, &kept, NULL));
    ck_assert_ptr_null(kept);
    ck_assert_uint_eq(cost.written, written);
    ck_assert_uint_eq(cost.freed, freed);
}

START_TEST(a_plan_says_what_is_written_and_freed)
{
    g_autoptr(TcRepository) repo = NULL;
    g_autoptr(TcMergePlan) plan = NULL;

    make(chain, G_N_ELEMENTS(chain));
    repo = repo_for(TC_REPO_READ);
    plan = tc_merge_plan(repo);
    plan_one(plan, "p1", 2 * B, 2 * B);       /* ".cz.c" over "bb.zb0.b": blocks 1 and 4 */
    plan_one(plan, "p2", 2 * B, 3 * B - 700); /* "d...dz.0" over "bczzc0.b": 0, 4 and 7 */
    plan_one(plan, "p0", 3 * B, 5 * B - 700); /* "dczzdz.0" over "aaaa000a" */
    plan_one(plan, "p3", 0, 3 * B);           /* what is left: "dc..d..." */
}
END_TEST

/* ---- cuts */

static TmSys cutting;
static int steps_left; /* in a child process */

/* Whoever begins a step when there is none left is dead. */
static void step(void)
{
    if (__atomic_fetch_sub(&steps_left, 1, __ATOMIC_RELAXED) <= 0)
        _exit(9);
}

static ssize_t cut_pwritev2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
    step();
    return tm_sys_kernel.pwritev2(fd, iov, n, offset, flags);
}

static int cut_fsync(int fd)
{
    step();
    return 0;
}

static int cut_rename(const char *from, const char *to)
{
    step();
    return tm_sys_kernel.rename(from, to);
}

static int cut_unlink(const char *name)
{
    step();
    return tm_sys_kernel.unlink(name);
}

static int cut_ftruncate(int fd, off_t length)
{
    step();
    return tm_sys_kernel.ftruncate(fd, length);
}

static int cut_fallocate(int fd, int mode, off_t offset, off_t length)
{
    step();
    return tm_sys_kernel.fallocate(fd, mode, offset, length);
}

static int cut_open(const char *name, int flags, mode_t mode)
{
    if (flags & O_CREAT)
        step();
    return tm_sys_kernel.open(name, flags, mode);
}

/* In a process of its own that dies before step @steps: removes @point, unless that is NULL, after
 * what was interrupted. Whether it came to its end. */
static bool cut_at(const char *point, int steps)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        g_autoptr(TcRepository) repo = NULL;

        cutting = tm_sys_kernel;
        cutting.open = cut_open;
        cutting.pwritev2 = cut_pwritev2;
        cutting.fsync = cutting.fdatasync = cut_fsync;
        cutting.rename = cut_rename;
        cutting.unlink = cut_unlink;
        cutting.ftruncate = cut_ftruncate;
        cutting.fallocate = cut_fallocate;
        cutting.copy = NULL;
        steps_left = steps;
        repo = open_repo(TC_REPO_CHANGE, &cutting, NULL);
        if (!repo)
            _exit(1);
        if (point && tc_repo_point(repo, point) && !tc_merge_run(repo, point, NULL, NULL))
            _exit(1);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 9));
    return WEXITSTATUS(status) == 0;
}

/* Cut everywhere, and then once more on the way to its end. */
static void cut_everywhere(const char *point, const char *left, int stride)
{
    bool done = false;
    int steps;

    for (steps = 0; !done; steps += stride * (int)STRIDE) {
        start_anew();
        done = cut_at(point, steps);
        expect_list(left, point);
        expect(TC_REPO_READ, left, point);
        if (!done)
            cut_at(point, steps * 7 % 40);
        expect(TC_REPO_ADD, left, point);
        while (!cut_at(point, 1000000))
            ;
        expect(TC_REPO_READ, left, NULL);
        if (steps % 8)
            expect_nothing_left();
        else
            expect_clean();
    }
    ck_assert_int_gt(steps, 30);
}

START_TEST(a_merge_is_cut_everywhere)
{
    make(chain, G_N_ELEMENTS(chain));
    cut_everywhere("p1", "p0 p2 p3", 3);
}
END_TEST

START_TEST(a_merge_of_several_disks_is_cut)
{
    make(several, G_N_ELEMENTS(several));
    cut_everywhere("p1", "p0 p2 p3", 7);
}
END_TEST

START_TEST(a_compressed_merge_is_cut)
{
    Point list[] = {
        { "p0", { { "a", NULL, "aaaa000a", "zstd" } } },
        { "p1", { { "a", "p0", "bb.zb0.b", "zstd" } } },
        { "p2", { { "a", "p1", ".cz.c..c", "zstd" } } },
    };

    make(list, G_N_ELEMENTS(list));
    cut_everywhere("p0", "p1 p2", 7);
}
END_TEST

/* ---- what was interrupted */

/* Leaves a merge in the middle. */
static void interrupt(const char *point)
{
    int steps = 0;

    for (;; steps++) {
        g_autoptr(TcRepository) repo = NULL;

        start_anew();
        ck_assert(!cut_at(point, steps));
        repo = repo_for(TC_REPO_LIST);
        if (tc_merge_state(repo) == TC_MERGE_COPYING)
            break;
    }
    cut_at(NULL, steps % 7);
}

START_TEST(a_backup_goes_on_while_a_point_is_going)
{
    g_autoptr(TcRepository) reader = NULL, writer = NULL;
    g_autoptr(TcNewPoint) point = NULL;
    g_autoptr(GError) error = NULL;
    Disk next = { "a", "p3", "eeee....", NULL, NULL };

    make(chain, G_N_ELEMENTS(chain));
    interrupt("p1");
    reader = repo_for(TC_REPO_READ); /* keeps points in place */
    ck_assert_ptr_null(tc_repo_point(reader, "p1"));
    ck_assert_ptr_null(tc_repo_find(reader, "p1", NULL));
    ck_assert_ptr_null(open_repo(TC_REPO_CHANGE, NULL, &error));
    ck_assert(g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_LOCKED));
    writer = repo_for(TC_REPO_ADD);
    point = tc_new_point(writer, "p4", NULL);
    add_disk(point, &next);
    ck_assert(tc_new_point_commit(point, 9000, NULL));
    tc_repo_close(g_steal_pointer(&writer));
    expect_by_reader(reader, "p3", find_disk("p3", "a"));
    tc_repo_close(g_steal_pointer(&reader));
    tc_repo_close(repo_for(TC_REPO_ADD)); /* alone now: it is completed */
    expect_clean();
    writer = repo_for(TC_REPO_CHANGE);
    ck_assert(tc_repo_remove(writer, "p4", NULL));
    tc_repo_close(g_steal_pointer(&writer));
    expect(TC_REPO_READ, "p0 p2 p3", NULL);
}
END_TEST

static void replace_id(const char *point)
{
    g_autofree char *file = g_build_filename(path, point, TC_MANIFEST_NAME, NULL), *text = NULL;
    g_autofree char *changed = NULL;
    g_autoptr(TcManifest) m = NULL;
    size_t length;

    ck_assert(g_file_get_contents(file, &text, &length, NULL));
    m = tc_manifest_parse(text, length, file, point, NULL);
    ck_assert_ptr_nonnull(m);
    g_free(m->id);
    m->id = g_uuid_string_random();
    changed = tc_manifest_text(m);
    ck_assert(g_file_set_contents(file, changed, -1, NULL));
}

START_TEST(points_that_were_replaced_are_not_merged)
{
    static const char *const replaced[] = { "p1", "p2" }; /* what goes, and its child */

    make(chain, G_N_ELEMENTS(chain));
    for (size_t i = 0; i < G_N_ELEMENTS(replaced); i++) {
        g_autofree char *image = g_build_filename(path, "p1", "a.qcow2", NULL);
        g_autofree char *before = NULL, *after = NULL;
        g_autoptr(GError) error = NULL;
        size_t n, m;

        interrupt("p1");
        replace_id(replaced[i]);
        ck_assert(g_file_get_contents(image, &before, &n, NULL));
        ck_assert_ptr_null(open_repo(TC_REPO_CHANGE, NULL, &error));
        ck_assert_msg(strstr(error->message, "is about another point") != NULL, "%s",
                      error->message);
        ck_assert(g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED));
        ck_assert(g_file_get_contents(image, &after, &m, NULL));
        ck_assert(n == m && !memcmp(before, after, n));
    }
}
END_TEST

START_TEST(a_damaged_note_of_a_merge_is_damage)
{
    g_autofree char *note = g_build_filename(path, "merge.json", NULL);
    g_autoptr(TcRepository) repo = NULL;
    g_autoptr(GError) error = NULL;

    make(chain, G_N_ELEMENTS(chain));
    ck_assert(g_file_set_contents(note, "{ \"format\": \"tidemark-merge\" }", -1, NULL));
    ck_assert_ptr_null(open_repo(TC_REPO_CHANGE, NULL, &error));
    ck_assert(g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED));
    repo = repo_for(TC_REPO_READ);
    ck_assert_uint_eq(tc_repo_damaged(repo)->len, 1);
    expect_by_reader(repo, "p3", find_disk("p3", "a"));
}
END_TEST

/* No command may go on with the merge, and what is outside stays. */
static void expect_refused(const char *message)
{
    g_autoptr(GError) error = NULL;

    ck_assert_ptr_null(open_repo(TC_REPO_CHANGE, NULL, &error));
    ck_assert(g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED));
    ck_assert_msg(strstr(error->message, message) != NULL, "%s", error->message);
    run_command("test -f '%s/victim/other.qcow2'", dir);
}

START_TEST(a_merge_follows_no_link_to_a_directory)
{
    make(chain, G_N_ELEMENTS(chain));
    interrupt("p1");
    run_command(
        "cd '%s' && mkdir victim && touch victim/other.qcow2 && ln -s ../victim repo/evil &&"
        " sed -i.p1 '0,/\"p1\"/s//\"evil\"/' repo/merge.json && mv repo/merge.json.p1 .",
        dir);
    expect_refused("does not stand on point 'evil'");
    run_command("cd '%s' && mv merge.json.p1 repo/merge.json && rm repo/evil && mv repo/p1 . &&"
                " ln -s ../victim repo/p1",
                dir);
    expect_refused("is not a directory");
    run_command("cd '%s' && rm repo/p1 && mv p1 repo", dir);
    tc_repo_close(repo_for(TC_REPO_CHANGE));
    expect(TC_REPO_READ, "p0 p2 p3", NULL);
}
END_TEST

START_TEST(images_are_regular_files)
{
    static const char *const instead[] = { "ln -s ../../a.qcow2", "ln -s /dev/null", "mkfifo" };

    make(chain, G_N_ELEMENTS(chain));
    run_command("cd '%s' && mv repo/p1/a.qcow2 . && cp a.qcow2 copy", dir);
    for (size_t i = 0; i < G_N_ELEMENTS(instead); i++) {
        g_autoptr(TcRepository) repo = NULL;
        g_autoptr(GError) error = NULL;

        run_command("cd '%s/p1' && %s a.qcow2", path, instead[i]);
        repo = repo_for(TC_REPO_CHANGE);
        ck_assert(!tc_merge_run(repo, "p1", NULL, &error));
        ck_assert_msg(strstr(error->message, "is not a regular file") != NULL, "%s",
                      error->message);
        g_clear_error(&error);
        ck_assert_ptr_null(
            tc_point_reader_open(repo, tc_repo_point(repo, "p1"), "a", false, &error));
        ck_assert(g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED));
        run_command("cd '%s' && cmp a.qcow2 copy && rm repo/p1/a.qcow2", dir);
    }
}
END_TEST

START_TEST(a_merge_stops_when_asked_and_goes_on)
{
    g_autoptr(TcRepository) repo = NULL;
    TcMergeWatch watch = { .stop = true };
    g_autoptr(GError) error = NULL;

    make(chain, G_N_ELEMENTS(chain));
    repo = repo_for(TC_REPO_CHANGE);
    ck_assert(!tc_merge_run(repo, "p1", &watch, &error));
    no_error(error);
    tc_repo_close(g_steal_pointer(&repo));
    expect(TC_REPO_READ, "p0 p2 p3", NULL);
    tc_repo_close(repo_for(TC_REPO_CHANGE));
    expect(TC_REPO_READ, "p0 p2 p3", NULL);
    expect_clean();
}
END_TEST

/* Where the bytes of a block are in the image, found by what they are. */
static void spoil(const char *point, const char *disk, char letter, uint64_t block)
{
    g_autofree char *file = g_strdup_printf("%s/%s/%s.qcow2", path, point, disk), *data = NULL;
    g_autofree uint8_t *bytes = g_malloc(B);
    gsize length;
    char *found;

    fill(bytes, letter, block, B);
    ck_assert(g_file_get_contents(file, &data, &length, NULL));
    found = memmem(data, length, bytes, B);
    ck_assert_ptr_nonnull(found);
    found[100] ^= 1;
    ck_assert(g_file_set_contents(file, data, (gssize)length, NULL));
}

START_TEST(damage_stays_known)
{
    g_autoptr(TcRepository) repo = NULL;
    g_autoptr(TcPointReader) reader = NULL;
    g_autofree uint8_t *buf = g_malloc(8 * B);
    TcMergeWatch watch = { 0 };
    const TcManifest *where;
    uint64_t bad;

    make(chain, G_N_ELEMENTS(chain));
    spoil("p2", "a", 'c', 4);
    repo = repo_for(TC_REPO_CHANGE);
    ck_assert(tc_merge_run(repo, "p1", &watch, NULL));
    ck_assert_uint_eq(watch.wrong, 1);
    reader = tc_point_reader_open(repo, tc_repo_point(repo, "p2"), "a", false, NULL);
    ck_assert_int_eq(tc_point_reader_read(reader, buf, 0, SIZE, &bad, &where), -EBADMSG);
    ck_assert_uint_eq(bad, 4 * B);
    ck_assert_str_eq(where->point, "p2");
}
END_TEST

START_TEST(an_image_in_use_is_left_alone)
{
    g_autofree char *file = g_build_filename(path, "p1", "a.qcow2", NULL);
    TcImageOptions options = { .format = "qcow2" };
    g_auto(TcImage) image = { 0 };
    g_autoptr(TcRepository) repo = NULL;
    g_autoptr(GError) error = NULL;

    make(chain, G_N_ELEMENTS(chain));
    ck_assert(tc_image_open(file, &options, &image, NULL));
    blk_user_set(image.users->pdata[0], BLK_PERM_CONSISTENT_READ, BLK_PERM_CONSISTENT_READ, NULL);
    repo = repo_for(TC_REPO_CHANGE);
    ck_assert(!tc_merge_run(repo, "p1", NULL, &error));
    ck_assert_msg(strstr(error->message, "lock"), "%s", error->message);
    tc_repo_close(g_steal_pointer(&repo));
    tc_image_clear(&image);
    expect(TC_REPO_READ, "p0 p1 p2 p3", NULL);
    expect_clean();
}
END_TEST

/* ---- any order */

enum { POINTS = 6, ROUNDS = 2 };

static void make_randomly(GRand *rand, Point *list, char (*text)[2][16])
{
    static const char *const names[POINTS] = { "p0", "p1", "p2", "p3", "p4", "p5" };
    static const char letters[] = "....z0abcdef", *const ways[] = { NULL, NULL, "zlib", "zstd" };
    const char *newest[2] = { NULL, NULL };

    for (int i = 0; i < POINTS; i++) {
        Disk *to = list[i].disks;

        list[i] = (Point){ .name = names[i] };
        for (int d = 0; d < 2; d++) {
            bool last = d == 1 && to == list[i].disks; /* a point has one disk at least */

            if (!last && g_rand_int_range(rand, 0, 6) == 0)
                continue;
            for (int b = 0; b < 8; b++)
                text[i][d][b] = letters[g_rand_int_range(rand, 0, (int)strlen(letters))];
            text[i][d][8] = '\0';
            *to++ = (Disk){ .name = d ? "b" : "a",
                            .parent = g_rand_int_range(rand, 0, 5) ? newest[d] : NULL,
                            .blocks = text[i][d],
                            .compression = ways[g_rand_int_range(rand, 0, 4)] };
            newest[d] = names[i];
        }
    }
}

START_TEST(points_go_in_any_order_with_kills)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed((guint32)_i + 100);
    char text[POINTS][2][16];
    Point list[POINTS];
    g_autoptr(GPtrArray) left = g_ptr_array_new();

    make_randomly(rand, list, text);
    make(list, POINTS);
    for (int i = 0; i < POINTS; i++)
        g_ptr_array_add(left, (char *)list[i].name);
    while (left->len > 1) {
        guint i = (guint)g_rand_int_range(rand, 0, (int)left->len);
        const char *point = g_ptr_array_remove_index(left, i);
        g_autofree char *names = NULL;

        g_ptr_array_add(left, NULL);
        names = g_strjoinv(" ", (char **)left->pdata);
        g_ptr_array_remove_index(left, left->len - 1);
        while (!cut_at(point, g_rand_int_range(rand, 20, 250)))
            expect(TC_REPO_READ, names, point);
        expect(TC_REPO_READ, names, NULL);
    }
    expect_clean();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("merge");
    TCase *tests = tcase_create("merge");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, begin, end);
    tcase_set_timeout(tests, 600);
    tcase_add_test(tests, a_point_in_the_middle_is_merged_with_its_child);
    tcase_add_test(tests, the_oldest_point_makes_its_child_a_full);
    tcase_add_test(tests, the_newest_point_goes_without_a_merge);
    tcase_add_test(tests, compressed_images_are_merged);
    tcase_add_test(tests, disks_of_one_point_have_children_of_their_own);
    tcase_add_test(tests, a_point_with_two_children_stays);
    tcase_add_test(tests, a_plan_says_what_is_written_and_freed);
    tcase_add_test(tests, a_merge_is_cut_everywhere);
    tcase_add_test(tests, a_merge_of_several_disks_is_cut);
    tcase_add_test(tests, a_compressed_merge_is_cut);
    tcase_add_test(tests, a_backup_goes_on_while_a_point_is_going);
    tcase_add_test(tests, points_that_were_replaced_are_not_merged);
    tcase_add_test(tests, a_damaged_note_of_a_merge_is_damage);
    tcase_add_test(tests, a_merge_follows_no_link_to_a_directory);
    tcase_add_test(tests, images_are_regular_files);
    tcase_add_test(tests, a_merge_stops_when_asked_and_goes_on);
    tcase_add_test(tests, damage_stays_known);
    tcase_add_test(tests, an_image_in_use_is_left_alone);
    tcase_add_loop_test(tests, points_go_in_any_order_with_kills, 0, ROUNDS);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
