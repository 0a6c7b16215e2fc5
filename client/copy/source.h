/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/source.h: a disk at an NBD server, read through libnbd.
 *
 * Works with any server: what it does not offer (structured replies, metadata contexts, block
 * sizes) is asked about before it is used. Threads: a source, like a libnbd handle, belongs to one
 * at a time. */
#pragma once
#include "util/error.h"
#include <inttypes.h>
#include <libnbd.h>

#define TC_CONTEXT_ALLOCATION    "base:allocation"
#define TC_CONTEXT_BITMAP_PREFIX "qemu:dirty-bitmap:"
#define TC_CONTEXT_BACKUP_PREFIX "x-tidemark:backup:"
enum { TC_CONTEXTS_MAX = 2 };

typedef struct TcSource TcSource;

/* Connects to @uri and asks for @contexts (NULL-terminated, at most TC_CONTEXTS_MAX, may be NULL).
 * A context that the server does not offer is no error here: see tc_source_has. The error of a
 * missing export names the exports that there are.
 *
 * Once @stop_fd (borrowed, -1: none) is readable, this and all that waits for the server ends, with
 * an error, though the server does not answer. */
TcSource *tc_source_open(const char *uri, const char *const *contexts, int stop_fd, GError **error);
/* Says goodbye to the server. */
void tc_source_free(TcSource *source);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcSource, tc_source_free)

/* One more connection to the same disk, without metadata contexts, whose reads don't clear their
 * buffers first: the caller's to nbd_close. NULL if there is none to be had within @timeout_ms: a
 * server that has all the clients that it takes may just not answer. */
struct nbd_handle *tc_source_another(const TcSource *source, int timeout_ms);

struct nbd_handle *tc_source_handle(TcSource *source); /* borrowed */
const char *tc_source_uri(const TcSource *source);     /* borrowed */
uint64_t tc_source_size(const TcSource *source);
int tc_source_stop_fd(const TcSource *source);
/* Whether the @i-th of the contexts that were asked for was negotiated. */
bool tc_source_has(const TcSource *source, unsigned i);

/* Metadata contexts of the export that begin with @prefix ("": all), in the server's order: char *,
 * NULL-terminated, returned. Empty where the server has no such thing. Another connection. */
GPtrArray *tc_source_list_contexts(const char *uri, const char *prefix, GError **error);
/* Checks that context @i of @source was negotiated; the error lists what is offered instead. */
bool tc_source_require(TcSource *source, unsigned i, const char *context, GError **error);

typedef struct TcExportEntry {
    char *name, *description; /* description may be "" */
} TcExportEntry;
/* The exports that the server lists: TcExportEntry *, returned. */
GPtrArray *tc_source_list_exports(const char *uri, GError **error);

/* Takes one run of the disk: @values by context, 0 for one that was not negotiated. Returns false
 * to stop, with @error set if it is one. */
typedef bool (*TcWalkFn)(void *opaque, uint64_t offset, uint64_t length, const uint32_t *values,
                         GError **error);
/* Calls @fn for the whole disk, in order, without gaps, neighbours with equal values merged. */
bool tc_source_walk(TcSource *source, TcWalkFn fn, void *opaque, GError **error);
/* The same from @offset on, within the disk; a multiple of 64 KiB, which all servers take. */
bool tc_source_walk_from(TcSource *source, uint64_t offset, TcWalkFn fn, void *opaque,
                         GError **error);

/* The current libnbd error of this thread, one line without the C function's name. Returned. */
char *tc_nbd_error(void);
