/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/cmd_backup.c: "tidemark backup": disks, as they are at one instant, into a new
 * point of a repository. The work is done by backup.c, in a thread. */
#include "client/backup/backup.h"
#include "client/commands.h"
#include "client/copy/transfer.h"
#include "client/daemon/export_view.h"
#include "client/text.h"
#include "client/work.h"
#include "util/log.h"
#include <libnbd.h>
#include <string.h>
#include <unistd.h>

enum { DEFAULT_CONNECTIONS = 4, DEFAULT_REQUESTS = 4, DEFAULT_FREEZE_S = 10 };

static const TcOption options[] = {
    TC_SOCKET_OPTION,
    { "qmp", "PATH", "the disks are those of the QEMU process at this QMP socket" },
    { "bitmap", "NAME", "of NBD servers: the bitmap that has what changed since the last backup" },
    { "auto", NULL, "incremental if that is possible, else full (default)" },
    { "full", NULL, "full" },
    { "incremental", NULL, "incremental, or an error if that is not possible" },
    { "name", "POINT", "the name of the point (default: the time in UTC)" },
    { "compress", "TYPE", "compress the data: zstd or zlib" },
    { "qga", "SOCKET", "freeze the guest's file systems for the instant, through its agent" },
    { "freeze-max", "SECONDS", "thaw the guest after this time at the latest (default: 10)" },
    { "before", "COMMAND", "run this in a shell before the backup begins" },
    { "after", "COMMAND", "run this in a shell at the end, also if the backup failed" },
    { "scratch", "DIRECTORY", "where the daemon or QEMU keeps what is overwritten meanwhile" },
    { "scratch-max", "SIZE", "bytes that this may take (default: no limit)" },
    { "connections", "N", "connections for each disk, if the server allows several (default: 4)" },
    { "requests", "N", "reads in flight on each connection (default: 4)" },
    { "rate", "SIZE", "read at most so many bytes a second (default: no limit)" },
    TC_WAIT_OPTION,
    TC_NO_PROGRESS_OPTION,
    TC_EVENTS_OPTION,
    { 0 },
};

typedef struct Command {
    TcBackupOptions options;
    GPtrArray *disks;
    TcBackup *backup;
} Command;

static void disk_free(gpointer p)
{
    tc_backup_disk_free(p);
}

static bool is_uri(const char *word)
{
    return strstr(word, "://") != NULL;
}

/* The name of the export that a URI names, "disk" where that is the unnamed one. Returned; NULL: it
 * is none that libnbd understands. */
static char *export_name(const char *uri, GError **error)
{
    const char *authority = strstr(uri, "://") + 3;
    const char *slash = strchr(authority, '/');
    size_t length = slash ? strcspn(slash + 1, "?#") : 0;
    g_autofree char *name =
        slash ? g_uri_unescape_segment(slash + 1, slash + 1 + length, NULL) : g_strdup("");

    if (!name) {
        tm_error_set(error, "'%s' is not an NBD URI", uri);
        return NULL;
    }
    return *name ? g_steal_pointer(&name) : g_strdup("disk");
}

/* "DISK" or "NAME=DISK". */
static bool add_disk(Command *c, const char *word, GError **error)
{
    size_t before = strcspn(word, "=:/?");
    bool named = word[before] == '=';
    const char *disk = named ? word + before + 1 : word;
    g_autofree char *name = named          ? g_strndup(word, before)
                            : is_uri(disk) ? export_name(disk, error)
                                           : g_strdup(disk);

    if (!name)
        return false;
    if (!is_uri(disk) && strchr(disk, '/') && tc_is_file(disk))
        return tm_error_set(error,
                            "'%s' is a file, not a disk of a daemon or an NBD URI: 'tidemark serve "
                            "%s' makes it one",
                            disk, disk);
    if (!tc_point_check_name("disk", name, error)) {
        g_prefix_error(error, "%s", named ? "" : "use NAME=DISK to name it in the repository: ");
        return false;
    }
    if (is_uri(disk) != c->options.nbd)
        return tm_error_set(error,
                            "'%s' and '%s' can't have one instant: the disks are either NBD URIs, "
                            "or those of one daemon",
                            ((TcBackupDisk *)c->disks->pdata[0])->word, disk);
    g_ptr_array_add(c->disks, tc_backup_disk_new(name, disk));
    return true;
}

static bool add_disks(Command *c, const TcInvocation *inv, GError **error)
{
    unsigned n = inv->args->len - 2; /* with a NULL, and the repository */
    const char *first = tc_arg(inv, 0);
    const char *equals = strchr(first, '=');

    c->options.nbd = is_uri(equals && !is_uri(first) ? equals + 1 : first);
    for (unsigned i = 0; i < n; i++)
        if (!add_disk(c, tc_arg(inv, i), error))
            return false;
    c->options.repository = tc_arg(inv, n);
    return tc_backup_disks_distinct(c->disks, error);
}

static bool take_mode(TcBackupOptions *o, const TcInvocation *inv, GError **error)
{
    bool full = tc_flag(inv, "full"), incremental = tc_flag(inv, "incremental");

    if (full + incremental + tc_flag(inv, "auto") > 1)
        return tm_error_set(error, "only one of --auto, --full and --incremental can be given");
    o->mode = full ? TC_BACKUP_FULL : incremental ? TC_BACKUP_INCREMENTAL : TC_BACKUP_AUTO;
    if (o->nbd && (o->qmp || tc_option(inv, "socket")))
        return tm_error_set(error, "--socket and --qmp don't go with NBD URIs");
    if (o->qmp && tc_option(inv, "socket"))
        return tm_error_set(error, "--socket doesn't go with --qmp");
    if (o->bitmap && !o->nbd)
        return tm_error_set(error, "--bitmap is for NBD URIs only: %s has checkpoints",
                            o->qmp ? "QEMU" : "the daemon");
    if (o->compression && strcmp(o->compression, "zstd") && strcmp(o->compression, "zlib"))
        return tm_error_set(error, "option --compress: '%s' is neither zstd nor zlib",
                            o->compression);
    if (tc_flag(inv, "freeze-max") && !tc_flag(inv, "qga"))
        return tm_error_set(error, "option --freeze-max needs --qga");
    if (o->point && !strcmp(o->point, "latest"))
        return tm_error_set(error, "'latest' is not the name of a point: it means the newest one");
    return !o->point || tc_point_check_name("point", o->point, error);
}

static bool take_options(Command *c, const TcInvocation *inv, uint64_t *freeze_s, GError **error)
{
    TcBackupOptions *o = &c->options;

    o->socket = tc_option(inv, "socket");
    o->qmp = tc_option(inv, "qmp");
    o->bitmap = tc_option(inv, "bitmap");
    o->point = tc_option(inv, "name");
    o->compression = tc_option(inv, "compress");
    o->scratch = tc_option(inv, "scratch");
    o->before = tc_option(inv, "before");
    o->after = tc_option(inv, "after");
    o->connections = DEFAULT_CONNECTIONS;
    o->requests = DEFAULT_REQUESTS;
    o->style = tc_flag(inv, "json")          ? TC_PROGRESS_JSON
               : tc_flag(inv, "no-progress") ? TC_PROGRESS_NONE
                                             : TC_PROGRESS_TEXT;
    return tc_option_number(inv, "connections", 1, TC_CONNECTIONS_MAX, &o->connections, error) &&
           tc_option_number(inv, "requests", 1, TC_REQUESTS_MAX, &o->requests, error) &&
           tc_option_number(inv, "rate", 1, INT64_MAX, &o->rate, error) &&
           tc_option_number(inv, "scratch-max", 1, INT64_MAX, &o->scratch_max, error) &&
           tc_option_number(inv, "freeze-max", 1, 3600, freeze_s, error) &&
           tc_option_wait(inv, &o->wait_s, error) && add_disks(c, inv, error) &&
           take_mode(o, inv, error);
}

static bool work(void *opaque, GError **error)
{
    Command *c = opaque;

    return tc_backup_run(c->backup, error);
}

static void tick(void *opaque)
{
    Command *c = opaque;

    tc_backup_draw(c->backup);
}

static void interrupt(void *opaque, int signo, bool again)
{
    Command *c = opaque;

    if (tc_backup_cancel(c->backup) && !again)
        return;
    tm_log(TM_LOG_ERROR, again ? "interrupted again: the next command removes what is left"
                               : "interrupted: nothing was changed");
    _exit(128 + signo);
}

static int finish(Command *c, bool ok, int signo, GError *error)
{
    TcBackupOutcome outcome = tc_backup_outcome(c->backup);
    int status;

    tc_backup_report(c->backup, error);
    if (ok)
        return TC_EXIT_OK;
    status = tc_fail(error);
    if (outcome == TC_BACKUP_PROBLEMS)
        return TC_EXIT_PROBLEMS;
    return signo ? 128 + signo : status;
}

static int run(const TcInvocation *inv)
{
    g_autoptr(GPtrArray) disks = g_ptr_array_new_with_free_func(disk_free);
    Command c = { .disks = disks };
    TcWork job = { &c, work, tick, interrupt };
    g_autoptr(TcFreeze) freeze = NULL;
    uint64_t freeze_s = DEFAULT_FREEZE_S;
    const char *agent = tc_option(inv, "qga");
    GError *error = NULL;
    int signo, status;
    bool ok;

    if (!take_options(&c, inv, &freeze_s, &error))
        return tc_fail_usage(inv, error);
    if (agent) {
        freeze = tc_freeze_new(agent, (unsigned)freeze_s, &error);
        if (!freeze)
            return tc_fail(error);
    }
    c.options.freeze = freeze;
    c.backup = tc_backup_new(&c.options, c.disks);
    ok = tc_work_run(&job, &signo, &error);
    status = finish(&c, ok, signo, error);
    tc_backup_free(c.backup);
    return status;
}

const TcCommand tc_command_backup = {
    .name = "backup",
    .args = "DISK... REPOSITORY",
    .summary = "Backs up running disks, as they are at one instant, into a repository",
    .details =
        "DISK is a node or an export of the daemon, with --qmp a device of a QEMU process, or an\n"
        "NBD URI. NAME=DISK sets its name in the repository. REPOSITORY is a directory, which is\n"
        "created if it does not exist, or s3://BUCKET/PREFIX. Each disk of the new point is a\n"
        "qcow2 image that has what changed since an earlier point, or all of the disk.\n",
    .min_args = 2,
    .max_args = -1,
    .options = options,
    .run = run,
};
