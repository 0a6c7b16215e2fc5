/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/run_list.h: ranges of a disk as JSON for programs, in pages: "tidemark map --runs".
 *
 *   {"size":1073741824,"runs":[[0,65536],[131072,65536]],"next":262144}
 *
 * Each run is an offset and a length, in bytes, in order and apart from each other. "next" is there
 * if the page was full: from there on there may be more. A disk may have millions of them, so they
 * are printed as they come. Threads: one. */
#pragma once
#include "client/cli.h"
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct TcRunList {
    uint64_t size;        /* bytes of the disk */
    uint64_t from;        /* what is before it is left out */
    uint64_t left;        /* runs that the page still takes */
    uint64_t offset, end; /* the run that may grow; equal: none */
    uint64_t next;        /* where the page ends, once it is full */
    bool any, full;
    GString *text; /* not printed yet */
} TcRunList;

/* A page of a disk of @size bytes on standard output, as --offset and --limit ask for it. Error:
 * it would begin beyond the disk, or a value is none. */
bool tc_run_list_begin(TcRunList *list, const TcInvocation *inv, uint64_t size, GError **error);
/* The next run, which may touch the one before. false: the page is full, and without this one. */
bool tc_run_list_add(TcRunList *list, uint64_t offset, uint64_t length);
/* @whole: else the text ends where it is, as there is an error. */
void tc_run_list_end(TcRunList *list, bool whole);
