/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/disk_run.h: one disk of a backup: what of it is to be read, and the reading.
 *
 * Threads: tc_disk_run_map() and tc_disk_run_copy() by one of its own; cancel and show by any
 * meanwhile; the others by one. */
#pragma once
#include "client/backup/decide.h"
#include "client/copy/transfer.h"
#include "client/progress.h"
#include "client/repository/new_point.h"

typedef struct TcDiskRun TcDiskRun;

/* @disk and @progress are borrowed. */
TcDiskRun *tc_disk_run_new(TcBackupDisk *disk, TcProgress *progress);
TcDecision *tc_disk_run_decision(TcDiskRun *run); /* borrowed; cleared by free */
const TcBackupDisk *tc_disk_run_disk(const TcDiskRun *run);

/* Connects, and asks which ranges are to be read. */
bool tc_disk_run_map(TcDiskRun *run, GError **error);
/* Bytes that will be read, once it is mapped. */
uint64_t tc_disk_run_planned(const TcDiskRun *run);
/* Adds the disk to the point. */
bool tc_disk_run_add(TcDiskRun *run, TcNewPoint *point, const char *compression, GError **error);
/* Reads and writes it. The connection stays until the run is freed, so that the source knows that
 * somebody is there. False without an error: it was cancelled. */
bool tc_disk_run_copy(TcDiskRun *run, const TcTransferOptions *options, GError **error);
void tc_disk_run_cancel(TcDiskRun *run);
/* Says to the progress how far it is. @syncing: all is read, and it is being made durable. */
void tc_disk_run_show(TcDiskRun *run, bool syncing);
/* What was done: counts, NULL before it was added. */
const TcPointDisk *tc_disk_run_entry(const TcDiskRun *run);
void tc_disk_run_counts(TcDiskRun *run, TcTransferCounts *counts);
/* Disconnects. */
void tc_disk_run_free(TcDiskRun *run);
