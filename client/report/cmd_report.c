/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/report/cmd_report.c: "tidemark report": what a bug report needs, in one file.
 *
 * The file is JSON with indentation: whoever sends it can read all of it before, and programs can
 * read it, too. All of it passes through the redactor, as the last step. Nothing waits for good: a
 * daemon that hangs is a reason for a report. */
#include "client/commands.h"
#include "client/report/gather.h"
#include "client/text.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <tidemark-version.h>
#include <unistd.h>

enum { FORMAT = 1, SECONDS = 10, SECONDS_MAX = 3600, JOURNAL_LINES = 300 };

static const TcOption options[] = {
    { "output", "FILE", "the file to write, which must not exist (default: a name with the time)" },
    TC_SOCKET_OPTION,
    { "timeout", "SECONDS", "how long to wait for the daemon, and for its disks (default: 10)" },
    { 0 },
};

typedef struct Report {
    json_object *root;
    TcRedactor *redactor;
    GPtrArray *missing; /* lines for people */
    GPtrArray *paths;   /* of disks */
    uint64_t seconds;   /* to wait for the daemon, and again for the disks */
} Report;

static void miss(Report *r, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void miss(Report *r, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    g_ptr_array_add(r->missing, g_strdup_vprintf(format, ap));
    va_end(ap);
}

/* Each member that is only an error. */
static void miss_errors(Report *r, json_object *object, const char *what)
{
    if (!json_object_is_type(object, json_type_object))
        return;
    json_object_object_foreach(object, name, value)
    {
        const char *why = tc_json_string(value, "error");

        if (why)
            miss(r, "%s%s: %s", what, name, why);
    }
}

/* ---- the daemon */

static void no_answers(Report *r, json_object *daemon, const char *why)
{
    json_object_object_add(daemon, "error", json_object_new_string(why));
    miss(r, "the daemon's configuration, log and figures: %s", why);
}

/* Whether its log is there. */
static bool add_daemon(Report *r, const char *socket)
{
    json_object *daemon = tc_json_new("socket", socket, NULL), *process, *answers;
    g_autofree char *cwd_path = NULL, *cwd = NULL;
    g_autoptr(GError) error = NULL;
    pid_t pid = tc_report_listener(socket, &error);

    json_object_object_add(r->root, "daemon", daemon);
    if (error) {
        no_answers(r, daemon, error->message);
        return false;
    }
    process = tc_report_process(pid, r->redactor);
    json_object_object_add(daemon, "process", process);
    miss_errors(r, process, "the process's ");
    answers = tc_report_queries(socket, (unsigned)r->seconds, &error);
    if (!answers) {
        no_answers(r, daemon, error->message);
        return false;
    }
    json_object_object_add(daemon, "answers", answers);
    miss_errors(r, answers, "");
    cwd_path = g_strdup_printf("/proc/%ld/cwd", (long)pid);
    cwd = g_file_read_link(cwd_path, NULL);
    tc_report_paths(answers, cwd, r->paths);
    return json_object_is_type(tc_json_get(answers, "query-log", NULL), json_type_array);
}

/* ---- what a daemon that doesn't answer, or isn't there, has logged */

/* What a program prints, within seconds; or NULL. */
static char *output_of(const char *const *argv)
{
    char *text = NULL;
    int status = 0;

    if (g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDERR_TO_DEV_NULL,
                     NULL, NULL, &text, NULL, &status, NULL) &&
        g_spawn_check_wait_status(status, NULL))
        return text;
    g_free(text);
    return NULL;
}

/* The version that would start. */
static void add_installed(Report *r)
{
    const char *argv[] = { "timeout", "5", "tidemarkd", "--version", NULL };
    g_autofree char *text = output_of(argv);

    if (text)
        json_object_object_add(r->root, "installed", json_object_new_string(g_strchomp(text)));
}

static void add_journal(Report *r)
{
    g_autofree char *count = g_strdup_printf("%d", JOURNAL_LINES);
    const char *argv[] = { "timeout",   "5",  "journalctl", "--quiet", "--no-pager", "-o",
                           "short-iso", "-n", count,        "-t",      "tidemarkd",  NULL };
    g_autofree char *text = output_of(argv);
    g_auto(GStrv) lines = text ? g_strsplit(g_strchomp(text), "\n", -1) : NULL;
    json_object *array;

    if (!text || !*text) {
        miss(r, "the journal has no messages of tidemarkd, or can't be read");
        return;
    }
    array = json_object_new_array();
    for (guint i = 0; lines[i]; i++)
        json_object_array_add(array, json_object_new_string(lines[i]));
    json_object_object_add(r->root, "journal", array);
}

/* ---- the report */

static char *now(const char *format)
{
    g_autoptr(GDateTime) time = g_date_time_new_now_utc();

    return g_date_time_format(time, format);
}

static void add_head(Report *r)
{
    g_autofree char *time = now("%Y-%m-%dT%H:%M:%SZ");
    json_object *head = tc_json_new("tidemark", TM_VERSION, "time", time, NULL);

    json_object_object_add(head, "format", json_object_new_int(FORMAT));
    json_object_object_add(head, "uid", json_object_new_int64(geteuid()));
    json_object_object_add(head, "libraries", tc_report_libraries(getpid()));
    json_object_object_add(r->root, "report", head);
    json_object_object_add(r->root, "system", tc_report_system());
}

static void add_disks(Report *r)
{
    json_object *disks = tc_report_disks(r->paths, (unsigned)r->seconds);

    for (size_t i = 0; i < json_object_array_length(disks); i++) {
        json_object *disk = json_object_array_get_idx(disks, i);
        const char *path = tc_json_string(disk, "path"), *why = tc_json_string(disk, "error");

        if (!why)
            why = tc_json_string(tc_json_get(disk, "bitmap-store", NULL), "error");
        if (why)
            miss(r, "disk '%s': %s", path, why);
    }
    json_object_object_add(r->root, "disks", disks);
}

static void add_missing(Report *r)
{
    json_object *array = json_object_new_array();

    for (guint i = 0; i < r->missing->len; i++)
        json_object_array_add(array, json_object_new_string(r->missing->pdata[i]));
    json_object_object_add(r->root, "missing", array);
}

static void gather(Report *r, const TcInvocation *inv)
{
    g_autofree char *socket = tc_qmp_socket(tc_option(inv, "socket"));

    for (unsigned i = 0; tc_arg(inv, i); i++)
        g_ptr_array_add(r->paths, g_strdup(tc_arg(inv, i)));
    add_head(r);
    add_installed(r);
    if (!add_daemon(r, socket))
        add_journal(r);
    add_disks(r);
    add_missing(r);
}

/* ---- the file */

/* It is for the eyes of its owner alone, and replaces nothing. */
static bool write_file(const char *path, const char *text, GError **error)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    size_t left = strlen(text);

    if (fd < 0)
        return tm_error_set_errno(error, errno, "Could not create '%s'", path);
    while (left) {
        ssize_t n = write(fd, text, left);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            tm_error_set_errno(error, errno, "Could not write '%s'", path);
            close(fd);
            return false;
        }
        text += n;
        left -= (size_t)n;
    }
    return close(fd) == 0 || tm_error_set_errno(error, errno, "Could not write '%s'", path);
}

static void show(const Report *r, const char *path, const char *text, json_object *left)
{
    g_autofree char *size = tc_human_size(strlen(text));
    json_object *answers = tc_json_get(left, "daemon", "answers", NULL);
    json_object *log = tc_json_get(answers, "query-log", NULL);
    bool has_log = json_object_is_type(log, json_type_array);

    printf("%s: %s, readable by you alone\n\n", path, size);
    tc_print_wrapped(stdout, 0, 10,
                     "It has:   versions of the programs, libraries and the kernel; "
                     "limits and memory");
    if (tc_json_get(left, "daemon", "process", NULL))
        tc_print_wrapped(stdout, 10, 10,
                         "the daemon's command line without secrets, its threads and its cgroup");
    if (answers)
        tc_print_wrapped(stdout, 10, 10,
                         "nodes, bitmaps, exports, clients, jobs, backups and figures");
    if (has_log) {
        g_autofree char *line =
            g_strdup_printf("the last %zu messages of its log", json_object_array_length(log));

        tc_print_wrapped(stdout, 10, 10, line);
    }
    if (tc_json_get(left, "journal", NULL))
        tc_print_wrapped(stdout, 10, 10, "the last messages of tidemarkd in the journal");
    if (r->paths->len) {
        g_autofree char *line = g_strdup_printf("file systems and bitmap stores of %u disk%s",
                                                r->paths->len, r->paths->len == 1 ? "" : "s");

        tc_print_wrapped(stdout, 10, 10, line);
    }
    tc_print_wrapped(stdout, 0, 10,
                     "It lacks: contents of disks, passwords, keys and other "
                     "secrets, and the environment");
    for (guint i = 0; i < r->missing->len; i++) {
        g_autofree char *line = tc_redact_text(r->redactor, r->missing->pdata[i]);
        g_autofree char *shown = g_strdup_printf("%s%s", i ? "" : "Missing:  ", line);

        tc_print_wrapped(stdout, i ? 10 : 0, 10, shown);
    }
    printf("\n");
    tc_print_wrapped(stdout, 0, 0,
                     "Read it before you send it: it has names of files, nodes and exports, and "
                     "addresses and names of clients.");
}

static bool make(Report *r, const TcInvocation *inv, GError **error)
{
    g_autofree char *usual = now("tidemark-report-%Y%m%d-%H%M%S.json");
    const char *path = tc_option(inv, "output") ? tc_option(inv, "output") : usual;
    g_autoptr(json_object) left = NULL;
    g_autofree char *text = NULL;

    gather(r, inv);
    left = tc_redact_json(r->redactor, r->root);
    text = g_strconcat(json_object_to_json_string_ext(left, JSON_C_TO_STRING_PRETTY |
                                                                JSON_C_TO_STRING_SPACED |
                                                                JSON_C_TO_STRING_NOSLASHESCAPE),
                       "\n", NULL);
    if (!write_file(path, text, error))
        return false;
    show(r, path, text, left);
    return true;
}

static int run(const TcInvocation *inv)
{
    Report r = { .seconds = SECONDS };
    g_autoptr(GError) error = NULL;
    bool ok;

    if (!tc_option_number(inv, "timeout", 1, SECONDS_MAX, &r.seconds, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    r.root = json_object_new_object();
    r.redactor = tc_redactor_new();
    r.missing = g_ptr_array_new_with_free_func(g_free);
    r.paths = g_ptr_array_new_with_free_func(g_free);
    ok = make(&r, inv, &error);
    json_object_put(r.root);
    tc_redactor_free(r.redactor);
    g_ptr_array_unref(r.missing);
    g_ptr_array_unref(r.paths);
    return ok ? TC_EXIT_OK : tc_fail(g_steal_pointer(&error));
}

const TcCommand tc_command_report = {
    .name = "report",
    .args = "[DISK...]",
    .summary = "Collects what a bug report needs in one file, without secrets",
    .details = "It asks the daemon, and does without one that hangs or does not run. Name the "
               "DISKs whose bitmap stores are to be checked, too.\n",
    .max_args = -1,
    .options = options,
    .run = run,
};
