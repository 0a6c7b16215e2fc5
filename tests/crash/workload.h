/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/workload.h: the workload, between its files. */
#pragma once
#include "tests/crash/run.h"

/* The operation that is in flight now leads from model to after, on all disks. */
void flight_begin(Run *run);
void flight_end(Run *run, bool done);

/* Commits a change of these disks; the result of bmp_set_commit(). */
bool workload_commit(Run *run, Disk *const *disks, unsigned n);

/* changes.c: a change or a transaction of one to four operations; a resize; an empty one. */
void workload_change(Run *run);
/* A backup begins, of which the store has a note only. */
void workload_begin(Run *run, Disk *disk);
void workload_resize(Run *run, Disk *disk);
/* Passes a failed flush to the set. */
void workload_lose(Run *run, Disk *disk);
void workload_heal(Run *run, Disk *disk);

/* Opens, closes, and checks what is in memory. */
bool session_open(Run *run, Disk *disk);
void session_close(Run *run, Disk *disk);
void session_check(Run *run, Disk *disk);
