/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/backup.c: see backup.h. */
#include "client/backup/backup_internal.h"
#include "client/backup/hook.h"
#include "util/log.h"
#include <unistd.h>

static void run_free(gpointer p)
{
    tc_disk_run_free(p);
}

TcBackup *tc_backup_new(const TcBackupOptions *options, GPtrArray *disks)
{
    TcBackup *b = g_new0(TcBackup, 1);

    b->options = options;
    b->disks = disks;
    b->started = g_get_monotonic_time();
    b->progress = tc_progress_new(options->style);
    b->rate = options->rate ? tc_rate_new(options->rate) : NULL;
    b->runs = g_ptr_array_new_with_free_func(run_free);
    for (unsigned i = 0; i < disks->len; i++)
        g_ptr_array_add(b->runs, tc_disk_run_new(disks->pdata[i], b->progress));
    return b;
}

static bool interrupted(TcBackup *b, GError **error)
{
    return atomic_load(&b->cancelled) && !tm_error_set(error, "interrupted");
}

/* ---- what there is, and what to do with it */

static bool open_repository(TcBackup *b, GError **error)
{
    TcRepoOptions options = { .use = TC_REPO_ADD,
                              .create = b->options->mode != TC_BACKUP_INCREMENTAL,
                              .wait_s = b->options->wait_s,
                              .what = "tidemark backup" };

    b->repo = tc_repo_open(b->options->repository, &options, error);
    return b->repo != NULL;
}

static bool open_source(TcBackup *b, GError **error)
{
    const TcBackupOptions *o = b->options;
    g_autofree char *tag = tc_repo_place(b->repo);
    g_autofree char *socket = o->qmp || o->nbd ? NULL : tc_qmp_socket(o->socket);

    if (o->nbd)
        b->source = tc_backup_nbd_new(o->bitmap);
    else if (o->qmp)
        b->source = tc_backup_qemu_new(o->qmp, error);
    else
        b->source = tc_backup_daemon_new(socket, tag, error);
    return b->source && b->source->look(b->source, b->disks, error) &&
           tc_backup_disks_distinct(b->disks, error);
}

static bool decide(TcBackup *b, GError **error)
{
    for (unsigned i = 0; i < b->runs->len; i++)
        if (!tc_backup_decide(b->repo, b->source, b->options->mode, b->disks->pdata[i],
                              tc_disk_run_decision(b->runs->pdata[i]), error))
            return false;
    return true;
}

static bool point_exists(const TcBackup *b, const char *name)
{
    g_autofree char *path = g_build_filename(tc_repo_path(b->repo), name, NULL);

    return tc_repo_has(b->repo, path);
}

static bool name_point(TcBackup *b, GError **error)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *time = g_date_time_format(now, "%Y-%m-%dT%H-%M-%SZ");

    b->point = g_strdup(b->options->point ? b->options->point : time);
    for (unsigned i = 2; !b->options->point && point_exists(b, b->point); i++) {
        g_free(b->point);
        b->point = g_strdup_printf("%s-%u", time, i);
    }
    for (unsigned i = 0; b->source->own_checkpoints && i < b->disks->len; i++) {
        TcBackupDisk *disk = b->disks->pdata[i];

        disk->checkpoint = tc_backup_checkpoint(b->repo, b->point);
    }
    b->into = tc_new_point(b->repo, b->point, error);
    return b->into != NULL;
}

/* ---- the instant */

static bool run_hook(TcBackup *b, const char *option, const char *command, const char *result,
                     GError **error)
{
    TcHook hook = { option, command, tc_repo_path(b->repo), b->point, result };

    return tc_hook_run(&hook, error);
}

static bool begin_source(TcBackup *b, GError **error)
{
    TcBackupBegin begin = { b->options->scratch, b->options->scratch_max };

    b->begun = true; /* also if it fails: to end it takes down what there is of it */
    return b->source->begin(b->source, b->disks, &begin, &b->instant, error);
}

/* Between freeze and thaw nothing else is done. */
static bool begin_frozen(TcBackup *b, GError **error)
{
    TcFreeze *freeze = b->options->freeze;
    g_autoptr(GError) late = NULL;
    uint64_t count;
    bool ok;

    if (!freeze)
        return begin_source(b, error);
    if (!tc_freeze_begin(freeze, &count, error)) {
        g_prefix_error(error, "Could not freeze the guest: ");
        return false;
    }
    ok = begin_source(b, error);
    if (tc_freeze_end(freeze, &late))
        return ok;
    if (!ok)
        tc_backup_say(b, TM_LOG_WARNING, "%s", late->message);
    else
        g_propagate_error(error, g_steal_pointer(&late));
    return false;
}

static bool begin(TcBackup *b, GError **error)
{
    b->hooked = true;
    if (!run_hook(b, "--before", b->options->before, NULL, error) || interrupted(b, error) ||
        !begin_frozen(b, error))
        return false;
    for (unsigned i = 0; i < b->runs->len; i++)
        tc_backup_check_size(b->disks->pdata[i], tc_disk_run_decision(b->runs->pdata[i]));
    return true;
}

/* ---- all disks at once */

typedef struct Job {
    TcBackup *backup;
    TcDiskRun *run;
    bool (*work)(TcBackup *b, TcDiskRun *run, GError **error);
    GThread *thread;
    GError *error;
    bool ok;
} Job;

static void cancel_runs(TcBackup *b)
{
    for (unsigned i = 0; i < b->runs->len; i++)
        tc_disk_run_cancel(b->runs->pdata[i]);
}

static void *job_thread(void *opaque)
{
    Job *job = opaque;

    job->ok = job->work(job->backup, job->run, &job->error);
    if (!job->ok)
        cancel_runs(job->backup); /* one is enough to fail; that of the first is reported */
    return NULL;
}

/* The first error; those who were stopped because of it have none. */
static void take_error(Job *job, GError **error)
{
    const char *name = tc_disk_run_disk(job->run)->name;

    if (job->error && !*error)
        g_propagate_prefixed_error(error, g_steal_pointer(&job->error), "disk '%s': ", name);
    g_clear_error(&job->error);
}

static bool for_all(TcBackup *b, bool (*work)(TcBackup *b, TcDiskRun *run, GError **error),
                    GError **error)
{
    g_autofree Job *jobs = g_new0(Job, b->runs->len);
    GError *first = NULL;
    bool ok = true;

    for (unsigned i = 0; i < b->runs->len; i++) {
        jobs[i] = (Job){ .backup = b, .run = b->runs->pdata[i], .work = work };
        jobs[i].thread = g_thread_new("disk", job_thread, &jobs[i]);
    }
    for (unsigned i = 0; i < b->runs->len; i++) {
        g_thread_join(jobs[i].thread);
        ok = ok && jobs[i].ok;
    }
    for (unsigned i = 0; i < b->runs->len; i++)
        take_error(&jobs[i], &first);
    if (ok)
        return true;
    if (interrupted(b, error))
        g_clear_error(&first);
    else if (first)
        g_propagate_error(error, first);
    return false;
}

static bool map_disk(TcBackup *b, TcDiskRun *run, GError **error)
{
    (void)b;
    return tc_disk_run_map(run, error);
}

static bool copy_disk(TcBackup *b, TcDiskRun *run, GError **error)
{
    TcTransferOptions options = { .connections = (unsigned)b->options->connections,
                                  .requests = (unsigned)b->options->requests,
                                  .writers = g_get_num_processors(),
                                  .rate = b->rate };

    return tc_disk_run_copy(run, &options, error);
}

/* ---- the run */

static bool copy(TcBackup *b, GError **error)
{
    if (!for_all(b, map_disk, error))
        return false;
    tc_backup_announce(b);
    for (unsigned i = 0; i < b->runs->len; i++)
        if (!tc_disk_run_add(b->runs->pdata[i], b->into, b->options->compression, error))
            return false;
    return for_all(b, copy_disk, error);
}

/* Who asks to cancel from now on is too late. */
static bool commit(TcBackup *b, GError **error)
{
    if (interrupted(b, error))
        return false;
    atomic_store(&b->stage, STAGE_COMMIT);
    return tc_new_point_commit(b->into, b->instant, error);
}

static void remove_stale(TcBackup *b)
{
    for (unsigned i = 0; b->source->own_checkpoints && i < b->disks->len; i++) {
        const TcBackupDisk *disk = b->disks->pdata[i];

        for (unsigned j = 0; j < disk->checkpoints->len; j++) {
            const TcCheckpoint *checkpoint = disk->checkpoints->pdata[j];
            g_autoptr(GError) error = NULL;

            /* the source has removed the one that the increment was based on */
            if (!g_strcmp0(checkpoint->name, disk->from) ||
                !tc_backup_is_stale(b->repo, checkpoint->name))
                continue;
            if (!b->source->remove(b->source, disk, checkpoint->name, &error))
                tc_backup_say(
                    b, TM_LOG_WARNING,
                    "checkpoint '%s' of disk '%s' is not needed any more, and could not be "
                    "removed: %s",
                    checkpoint->name, disk->name, error->message);
        }
    }
}

/* The point is there. */
static bool end(TcBackup *b, GError **error)
{
    bool ok;

    b->begun = false;
    ok = b->source->end(b->source, b->disks, true, error);
    if (ok)
        remove_stale(b);
    else
        g_prefix_error(error,
                       "point '%s' is complete, but %s did not learn of it, so that the next one "
                       "may be larger: ",
                       b->point, b->source->what);
    return ok;
}

static bool prepare(TcBackup *b, GError **error)
{
    int expected = STAGE_PREPARE;

    if (!open_repository(b, error) || !open_source(b, error) || !decide(b, error))
        return false;
    if (!atomic_compare_exchange_strong(&b->stage, &expected, STAGE_RUN))
        return tm_error_set(error, "interrupted");
    return name_point(b, error);
}

/* Takes everything down again. The source may know better why it failed. */
static void undo(TcBackup *b, GError **error)
{
    g_autoptr(GError) more = NULL;

    tc_new_point_free(g_steal_pointer(&b->into));
    if (b->begun && !b->source->end(b->source, b->disks, false, &more) &&
        !strstr((*error)->message, more->message)) {
        g_autofree char *text =
            g_strdup_printf("%s (%s: %s)", (*error)->message, b->source->what, more->message);

        g_free((*error)->message);
        (*error)->message = g_steal_pointer(&text);
    }
    b->begun = false;
}

static void add_state(TcBackup *b, GError **error)
{
    g_autofree char *text =
        g_strdup_printf("%s; no point was added to '%s'%s: run the same command again",
                        (*error)->message, b->options->repository,
                        b->source->own_checkpoints ? ", and checkpoints are as before" : "");

    g_free((*error)->message);
    (*error)->message = g_steal_pointer(&text);
}

/* --after runs on every way out, once --before has been tried. */
static bool run_after(TcBackup *b, GError **error)
{
    static const char *const results[] = { "failed", "failed", "problems", "done" };

    return !b->hooked || run_hook(b, "--after", b->options->after, results[b->outcome], error);
}

bool tc_backup_run(TcBackup *b, GError **error)
{
    g_autoptr(GError) why = NULL, after = NULL;

    if (!prepare(b, error)) {
        tc_new_point_free(g_steal_pointer(&b->into));
        return false;
    }
    if (begin(b, &why) && copy(b, &why) && commit(b, &why)) {
        b->outcome = end(b, &why) ? TC_BACKUP_DONE : TC_BACKUP_PROBLEMS;
    } else {
        b->outcome = TC_BACKUP_UNDONE;
        if (!why)
            tm_error_set(&why, "interrupted");
        undo(b, &why);
        add_state(b, &why);
    }
    if (!run_after(b, &after)) {
        if (b->outcome == TC_BACKUP_DONE) {
            b->outcome = TC_BACKUP_PROBLEMS;
            g_propagate_prefixed_error(&why, g_steal_pointer(&after),
                                       "point '%s' is complete, but ", b->point);
        } else {
            tc_backup_say(b, TM_LOG_WARNING, "%s", after->message);
        }
    }
    if (why)
        g_propagate_error(error, g_steal_pointer(&why));
    return b->outcome == TC_BACKUP_DONE;
}

bool tc_backup_cancel(TcBackup *b)
{
    int expected = STAGE_PREPARE;

    atomic_store(&b->cancelled, true);
    if (atomic_compare_exchange_strong(&b->stage, &expected, STAGE_ABANDONED) ||
        expected == STAGE_ABANDONED)
        return false;
    if (expected == STAGE_RUN)
        cancel_runs(b);
    return true;
}

static void show_sending(TcBackup *b)
{
    uint64_t done, total;

    tc_repo_sent(b->repo, &done, &total);
    if (!total)
        return;
    if (!b->sending)
        b->sending = tc_progress_part(b->progress, "");
    tc_part_set(b->sending, "sending", done, total);
}

void tc_backup_draw(TcBackup *b)
{
    int stage = atomic_load(&b->stage);

    if (stage < STAGE_RUN)
        return;
    for (unsigned i = 0; i < b->runs->len; i++)
        tc_disk_run_show(b->runs->pdata[i], stage == STAGE_COMMIT);
    show_sending(b);
    tc_progress_draw(b->progress);
}

TcBackupOutcome tc_backup_outcome(const TcBackup *b)
{
    return b->outcome;
}

void tc_backup_free(TcBackup *b)
{
    if (!b)
        return;
    g_ptr_array_unref(b->runs);
    tc_new_point_free(b->into);
    tc_backup_source_close(b->source);
    tc_repo_close(b->repo);
    tc_progress_free(b->progress);
    tc_rate_free(b->rate);
    g_free(b->point);
    g_free(b);
}
