/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/backup_report.c: what a backup says while it runs and at its end, to people or, as
 * JSON, to programs. */
#include "client/backup/backup_internal.h"
#include "client/text.h"
#include "util/json.h"
#include <stdarg.h>
#include <string.h>

void tc_backup_say(TcBackup *b, TmLogLevel level, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    if (level == TM_LOG_WARNING) {
        json_object *event = json_object_new_object();

        tm_json_add_string(event, "message", text);
        tc_progress_event(b->progress, "warning", event);
    }
    tc_progress_hold(b->progress);
    if (level == TM_LOG_WARNING) {
        tm_log(level, "%s", text);
    } else if (b->options->style != TC_PROGRESS_JSON) {
        printf("%s\n", text);
        fflush(stdout);
    }
    tc_progress_release(b->progress);
}

static json_object *disk_event(TcDiskRun *run)
{
    const TcBackupDisk *disk = tc_disk_run_disk(run);
    const TcDecision *decision = tc_disk_run_decision(run);
    const TcPointDisk *entry = tc_disk_run_entry(run);
    json_object *o = json_object_new_object();
    TcTransferCounts counts;

    tc_disk_run_counts(run, &counts);
    tm_json_add_string(o, "name", disk->name);
    tm_json_add_uint(o, "size", disk->size);
    tm_json_add_string(o, "kind", decision->parent ? "incremental" : "full");
    if (decision->parent)
        tm_json_add_string(o, "parent", decision->parent->point);
    else
        tm_json_add_string(o, "reason", decision->why);
    tm_json_add_uint(o, "to-read", tc_disk_run_planned(run));
    if (entry) {
        tm_json_add_uint(o, "read", counts.read);
        tm_json_add_uint(o, "stored", entry->stored);
        tm_json_add_uint(o, "zero", entry->zero);
    }
    return o;
}

static json_object *point_event(TcBackup *b)
{
    json_object *o = json_object_new_object(), *disks = json_object_new_array();

    tm_json_add_string(o, "repository", tc_repo_path(b->repo));
    tm_json_add_string(o, "point", b->point);
    tm_json_add_uint(o, "instant", b->instant);
    for (unsigned i = 0; i < b->runs->len; i++)
        json_object_array_add(disks, disk_event(b->runs->pdata[i]));
    json_object_object_add(o, "disks", disks);
    return o;
}

void tc_backup_announce(TcBackup *b)
{
    for (unsigned i = 0; i < b->runs->len; i++) {
        TcDiskRun *run = b->runs->pdata[i];
        const TcDecision *decision = tc_disk_run_decision(run);
        const char *name = tc_disk_run_disk(run)->name;
        g_autofree char *size = tc_human_size(tc_disk_run_planned(run));

        if (decision->parent)
            tc_backup_say(b, TM_LOG_INFO, "%s: incremental since point '%s', %s to read", name,
                          decision->parent->point, size);
        else if (decision->ordinary)
            tc_backup_say(b, TM_LOG_INFO, "%s: full, %s, %s to read", name, decision->why, size);
        else
            tc_backup_say(b, TM_LOG_WARNING, "%s: full, because %s", name, decision->why);
    }
    tc_progress_event(b->progress, "begin", point_event(b));
}

static void report_event(TcBackup *b, const GError *error, double seconds)
{
    bool there = b->outcome >= TC_BACKUP_PROBLEMS;
    char text[32];
    json_object *event = there ? point_event(b) : json_object_new_object();

    g_snprintf(text, sizeof(text), "%.3f", seconds);
    json_object_object_add(event, "seconds", json_object_new_double_s(seconds, text));
    if (error)
        tm_json_add_string(event, "message", error->message);
    tc_progress_event(b->progress, there ? "done" : "failed", event);
}

static void report_disk(TcDiskRun *run, int width)
{
    const TcPointDisk *entry = tc_disk_run_entry(run);
    TcTransferCounts counts;
    g_autofree char *read = NULL, *stored = NULL, *zero = tc_human_size(entry->zero);

    tc_disk_run_counts(run, &counts);
    read = tc_human_size(counts.read);
    stored = tc_human_size(entry->stored);
    printf("  %-*s  %-11s  %10s read  %10s stored  %10s zero\n", width, entry->name,
           entry->parent ? "incremental" : "full", read, stored, zero);
}

void tc_backup_report(TcBackup *b, const GError *error)
{
    double seconds = (double)(g_get_monotonic_time() - b->started) / 1e6;
    int width = 0;

    tc_progress_clear(b->progress);
    if (b->options->style == TC_PROGRESS_JSON) {
        report_event(b, error, seconds);
        return;
    }
    if (b->outcome < TC_BACKUP_PROBLEMS)
        return;
    for (unsigned i = 0; i < b->disks->len; i++)
        width = MAX(width, (int)strlen(((TcBackupDisk *)b->disks->pdata[i])->name));
    printf("Point '%s' is complete in '%s' after %.1f s:\n", b->point, b->options->repository,
           seconds);
    for (unsigned i = 0; i < b->runs->len; i++)
        report_disk(b->runs->pdata[i], width);
}
