/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/copy_points.h: points of one repository that another one lacks.
 *
 * A point is the same by its id, whatever it stands on. Invariant: a point is copied after those
 * that it stands on, whole or not at all, and each of its blocks was as its hash says. Threads:
 * one, but for what is said to be otherwise. */
#pragma once
#include "client/copy/rate.h"
#include "client/repository/repository.h"
#include <stdatomic.h>

typedef struct TcCopyPoint {
    const TcManifest *point; /* borrowed from its repository */
    bool asked;              /* by its name, or all are; else another one stands on it */
    bool copied;
    uint64_t bytes; /* that are read and written, before compression */
    char *failure;  /* why it can't be copied, or NULL */
    bool damaged;   /* and that is because something is */
} TcCopyPoint;

/* What @to, or NULL for one that is empty, lacks of @names (NULL-terminated; empty: of everything)
 * in @from: TcCopyPoint, returned, in the order in which they are copied. Errors: there is no such
 * point; a name is taken by another one. */
GPtrArray *tc_copy_plan(TcRepository *from, const TcRepository *to, const char *const *names,
                        GError **error);

/* For whoever watches; any thread reads and sets it meanwhile. */
typedef struct TcCopyWatch {
    atomic_bool stop;
    atomic_uint_fast64_t done; /* bytes of blocks with data */
    TcRate *rate;              /* borrowed; NULL: no limit */
} TcCopyWatch;

/* Copies it; @to is open to ADD. false and no error: by @watch->stop. */
bool tc_copy_point(TcRepository *from, TcRepository *to, const TcManifest *point,
                   TcCopyWatch *watch, GError **error);
/* The point of @repo with that id, or NULL. Borrowed. */
TcManifest *tc_copy_find(const TcRepository *repo, const char *id);
