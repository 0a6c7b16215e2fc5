/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/export/export.h: exports: what is offered of which node, by whichever type of exports.
 *
 * qmp makes and removes exports, server serves them; neither knows the other. Each type of exports
 * registers its operations here, and so do the NBD servers, which several exports share.
 *
 * An export is referenced by the registry and by every session on it. block-export-del takes it out
 * of sight at once; BLOCK_EXPORT_DELETED follows when the last reference is gone.
 *
 * Several NBD servers may run, distinguished by their ids; QEMU's single one is BLK_SERVER_DEFAULT.
 * An NBD export says which of them show it, by default all. Names are unique on each server. One
 * that no running server shows any more is deleted with the last one that did.
 *
 * Threads: functions that say so from any thread, the rest on the main thread. */
#pragma once
#include "bitmap/bitmap.h"
#include "block/export/contexts.h"
#include "block/graph.h"
#include "block/io/request.h"
#include "block/node.h"
#include "object/objects.h"
#include "util/address.h"

#include <json-c/json.h>

typedef struct BlkExports BlkExports;
typedef struct BlkExport BlkExport;

/* ---- the bitmaps that an export offers: immutable once made, shared by reference. Each bitmap in
 * it is busy as long as the selection lives. A session keeps the selection it negotiated with. */
typedef struct BlkSelection {
    size_t count;
    BmpBitmap **bitmaps; /* in the order given */
    /*< private >*/
    int refs;
} BlkSelection;
BlkSelection *blk_selection_ref(BlkSelection *selection); /* any thread */
void blk_selection_unref(BlkSelection *selection);        /* any thread; NULL is fine */

typedef struct BlkBitmapName {
    const char *node; /* NULL: the export's node, or one below it */
    const char *name;
} BlkBitmapName;

/* What a client may be allowed to do with an export. */
typedef enum { BLK_LIST, BLK_OPEN, BLK_WRITE, BLK_ACCESSES } BlkAccess;

/* Whether other users than the daemon's can reach a mount: if the system allows that. */
typedef enum { BLK_ALLOW_OTHER_OFF, BLK_ALLOW_OTHER_ON, BLK_ALLOW_OTHER_AUTO } BlkAllowOther;

/* Strings are copied. A type ignores the options of others. */
typedef struct BlkExportOptions {
    const char *id;
    const char *type; /* one that is registered: "nbd" */
    const char *node_name;
    bool writable, writethrough;
    bool allow_inactive;  /* the node may be inactive, and become so; else it becomes active */
    const char *iothread; /* id of one, which it uses as a name only; or NULL */
    /* The arguments of block-export-add that these are, copied; NULL: it is none of the user's
     * (a backup's). */
    json_object *given;

    /* nbd */
    const char *name;        /* NULL: the node name */
    const char *description; /* or NULL */
    bool allocation_depth;
    const BlkBitmapName *bitmaps;
    size_t n_bitmaps;
    bool frozen; /* whoever adds it has made sure that the bitmaps stay as they are: busy is fine */
    bool release; /* a read-only one takes discards: of what the client needs no longer */
    const char *const *servers; /* ids of those that show it; NULL: all, also later ones */
    size_t n_servers;
    bool hidden;              /* not shown to clients that list the exports */
    bool is_default;          /* what the name "" means, unless an export has that name */
    uint32_t max_connections; /* clients at a time; 0: no limit but the server's */
    /* Ids of authorisation objects: who may see, open, write it; NULL: everybody. */
    const char *allow[BLK_ACCESSES];
    /* Clients that select no metadata context are given block status in the form of the draft of
     * 2016, which differs from the protocol of today. */
    bool status_2016;
    unsigned
        dirty_flag_2016;     /* the command flag that asks for dirtiness, a power of two; 0: none */
    const char *bitmap_2016; /* which of the bitmaps that is; NULL: the first one */

    /* vhost-user-blk */
    TmAddress address; /* where it listens */
    uint64_t logical_block_size;
    unsigned num_queues;

    /* fuse */
    const char *mountpoint; /* a regular file */
    bool growable;          /* a write beyond the end makes the disk longer */
    BlkAllowOther allow_other;
} BlkExportOptions;

/* ---- what a type of exports implements. Each operation may be NULL. Main thread, unless it says
 * otherwise. */
typedef struct BlkExportType {
    const char *name; /* "nbd" */
    /* The NBD servers show them (BlkServer), so one has to run, and their names differ. The name of
     * another type's export is its id. */
    bool by_servers;
    /* Begins to serve @x, which is complete. Nothing is served, and nothing is left, on failure. */
    bool (*start)(void *opaque, BlkExport *x, const BlkExportOptions *options, GError **error);
    /* Sessions that its clients have ended are to end, before it is judged by their number. Waits
     * for a moment at most. */
    void (*settle)(void *opaque, BlkExport *x);
    /* It is being deleted: no new sessions. Called once for each start, before disconnect. */
    void (*close)(void *opaque, BlkExport *x);
    /* Ends every session on @x, soon. */
    void (*disconnect)(void *opaque, BlkExport *x);
    /* The last reference has gone; the node is still in use. Once for each start; any thread. */
    void (*end)(void *opaque, BlkExport *x);
    /* Time passes, about a second; not when it is being deleted. */
    void (*tick)(void *opaque, BlkExport *x);
    /* Adds what it knows of @x to the answer of query-block-exports: "uris", "clients". */
    void (*describe)(void *opaque, BlkExport *x, json_object *info);
    /* Adds what the sessions of @x did, those that have ended and those there are; NULL: they don't
     * count for themselves (blk_export_count()). */
    void (*counts)(void *opaque, BlkExport *x, BlkCounts *sum);
    void *opaque;
} BlkExportType;

/* ---- what the NBD servers implement */
#define BLK_SERVER_DEFAULT "default" /* the id of the server that has none: QEMU's only one */

/* What clients of one server may take. 0: no limit, but where said otherwise. */
typedef struct BlkServerLimits {
    uint32_t max_connections;   /* more wait in the kernel's queue, not greeted yet */
    uint32_t handshake_seconds; /* from the connection to the export's being open */
    uint32_t idle_seconds;      /* without a byte in either direction nor a request under way */
    uint64_t bytes_in_flight;   /* of one connection, that requests keep: then no more are taken */
    uint64_t bytes_in_flight_total; /* of all: then one request at a time of each */
    uint64_t option_size;           /* bytes of an option's data; never 0 */
    uint64_t option_count;          /* options of a handshake; never 0 */
    uint64_t request_size;          /* bytes of a payload; never 0 */
} BlkServerLimits;
/* The defaults. */
#define BLK_SERVER_LIMITS                                                                          \
    ((BlkServerLimits){ .handshake_seconds = 10,                                                   \
                        .bytes_in_flight = 64u << 20,                                              \
                        .bytes_in_flight_total = 1u << 30,                                         \
                        .option_size = 256u << 10,                                                 \
                        .option_count = 4096,                                                      \
                        .request_size = 32u << 20 })

/* Strings are copied. */
typedef struct BlkServerOptions {
    const char *id;        /* NULL: BLK_SERVER_DEFAULT */
    TmAddress address;     /* where it listens */
    const char *tls_creds; /* the id of an object; NULL: no TLS */
    const char *tls_authz; /* the id of an object that clients must pass; NULL: none */
    bool tls_required;     /* with tls_creds: nothing but STARTTLS is answered in the clear */
    json_object *given;    /* the arguments of nbd-server-start that these are, copied; or NULL */
    BlkServerLimits limits;
} BlkServerOptions;

typedef struct BlkServer {
    bool (*start)(void *opaque, const BlkServerOptions *options, GError **error);
    /* Of the server @options->id, which is running: limits, and those of them in given. */
    bool (*set_limits)(void *opaque, const BlkServerOptions *options, GError **error);
    /* Server @id: no new clients, and those it has are cut off. It is running. */
    void (*stop)(void *opaque, const char *id);
    bool (*running)(void *opaque, const char *id); /* @id NULL: any of them */
    /* query-nbd-servers and query-nbd-sessions: references. */
    json_object *(*query_servers)(void *opaque);
    json_object *(*query_sessions)(void *opaque, uint64_t after, unsigned limit);
    /* What the servers were started with, those that were given it: an array; a reference. */
    json_object *(*definitions)(void *opaque);
    bool (*session_disconnect)(void *opaque, uint64_t id, GError **error);
    void *opaque;
} BlkServer;

/* ---- the registry of exports */
BlkExports *blk_exports_new(BlkGraph *graph);
void blk_exports_free(BlkExports *exports); /* all deleted before; NULL is fine */
/* @type is copied, its name is borrowed. From then on there can be exports of it. */
void blk_exports_add_type(BlkExports *exports, const BlkExportType *type);
/* Whoever served them has gone: exports of that type that there are have no sessions any more. */
void blk_exports_remove_type(BlkExports *exports, const char *name);
void blk_exports_set_server(BlkExports *exports, const BlkServer *server); /* copied */
BlkGraph *blk_exports_graph(BlkExports *exports);
/* What servers and exports name: credentials, lists. Borrowed. */
TmObjects *blk_exports_objects(BlkExports *exports);

/* Borrowed. Before one is set, all of its operations are NULL. */
const BlkServer *blk_exports_server(const BlkExports *exports);

/* nbd-server-start and -stop; @id NULL: BLK_SERVER_DEFAULT. Errors: "NBD server already running",
 * "NBD server not running", of another one "NBD server 'x' ...". */
bool blk_exports_server_start(BlkExports *exports, const BlkServerOptions *options, GError **error);
bool blk_exports_server_stop(BlkExports *exports, const char *id, GError **error);

/* nbd-server-set-limits. Clients keep their places, and the largest payload that they negotiated.
 * Errors: as of -stop; a limit out of range. */
bool blk_exports_server_set_limits(BlkExports *exports, const BlkServerOptions *options,
                                   GError **error);

/* block-export-add. Messages as QEMU's. Borrowed result. */
BlkExport *blk_exports_add(BlkExports *exports, const BlkExportOptions *options, GError **error);
/* Gives the export another node of the same size, between two requests of its clients. If it offers
 * bitmaps, one of the nodes shows the other. Messages as of block-export-add. */
bool blk_exports_move(BlkExports *exports, const char *id, const char *node_name, GError **error);
/* What becomes of the clients of an export that is deleted: it is not deleted if there are any;
 * they are cut off; they may go on until they end, or some seconds are over. */
typedef enum { BLK_DEL_SAFE, BLK_DEL_HARD, BLK_DEL_WAIT } BlkDelMode;
/* block-export-del. @seconds: of WAIT, 0: for ever. WAIT may be followed by another one. */
bool blk_exports_del(BlkExports *exports, const char *id, BlkDelMode mode, uint32_t seconds,
                     GError **error);
/* Deletes those that there are, cuts their clients off, and waits until they are gone. */
void blk_exports_drop(BlkExports *exports, const char *const *ids, size_t n);
/* Deletes all and waits until the last session is gone (bounded by what is in flight). */
void blk_exports_del_all(BlkExports *exports);
/* Lets time pass, about once a second. */
void blk_exports_tick(BlkExports *exports);
/* block-export-dirty-bitmap: what sessions negotiate from now on. All or nothing. */
bool blk_exports_select(BlkExports *exports, const char *id, const BlkBitmapName *bitmaps, size_t n,
                        GError **error);
/* References to all, in order of creation, the ones shutting down too (g_ptr_array_unref). Waits
 * for those whose last reference has gone to have let go of node and bitmaps. Main thread. */
GPtrArray *blk_exports_list(BlkExports *exports);
unsigned blk_exports_count(BlkExports *exports);
BlkExport *blk_exports_find_id(BlkExports *exports, const char *id); /* a reference or NULL */

/* ---- for servers; any thread */
/* A reference to the export (of type @type) that server @server shows under that name, or, if it is
 * "", to its default one; or NULL. */
BlkExport *blk_exports_lookup(BlkExports *exports, const char *type, const char *server,
                              const char *name);
/* References to all that it shows and that are not hidden, in order of creation: array with
 * blk_export_unref as free func. */
GPtrArray *blk_exports_lookup_all(BlkExports *exports, const char *type, const char *server);
BlkExport *blk_export_ref(BlkExport *export_);
void blk_export_unref(BlkExport *export_); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlkExport, blk_export_unref)
/* A session begins and ends on it: what "still in use" means. begin: 0, or -ESHUTDOWN, or -EUSERS
 * if it has its max_connections. */
int blk_export_session_begin(BlkExport *export_);
void blk_export_session_end(BlkExport *export_);
/* What a session did that no query shows any more; and adds what those did. */
void blk_export_remember(BlkExport *export_, const BlkCounts *did);
void blk_export_add_past(BlkExport *export_, BlkCounts *sum);
/* Adds what its type knows of it to the answer of query-block-exports. Main thread. */
void blk_export_describe(BlkExport *export_, json_object *info);
/* What its sessions did, those that have ended and those there are. Main thread. */
void blk_export_counts(BlkExport *export_, BlkCounts *counts);
BlkSelection *blk_export_selection(BlkExport *export_);     /* a reference */
BlkContexts *blk_export_contexts(const BlkExport *export_); /* borrowed */

/* ---- facts, borrowed; any thread */
const char *blk_export_id(const BlkExport *export_);
const char *blk_export_type(const BlkExport *export_);
bool blk_export_by_servers(const BlkExport *export_);
const char *blk_export_name(const BlkExport *export_);
const char *blk_export_description(const BlkExport *export_); /* or NULL */
BlkNode *blk_export_node(const BlkExport *export_);           /* main thread */
/* Follows its node; lives as long as the export. */
BlkUser *blk_export_user(const BlkExport *export_);
bool blk_export_writable(const BlkExport *export_);
bool blk_export_writethrough(const BlkExport *export_);
bool blk_export_allocation_depth(const BlkExport *export_);
bool blk_export_shown_by(const BlkExport *export_, const char *server);
const char *const *blk_export_servers(const BlkExport *export_); /* NULL-terminated, or NULL: all */
bool blk_export_hidden(const BlkExport *export_);
bool blk_export_is_default(const BlkExport *export_);
uint32_t blk_export_max_connections(const BlkExport *export_);
unsigned blk_export_sessions(BlkExport *export_); /* how many there are now */
/* When the last one ended, or the export was made; now, while there is one: monotonic us. */
int64_t blk_export_left_at(BlkExport *export_);
bool blk_export_releases(const BlkExport *export_);
/* Whether its clients give way to others (block/engine/engine.h). */
bool blk_export_background(const BlkExport *export_);
/* Whether a client of that identity (tm_authz_allowed()) may do that with it: see it in a list,
 * open it, write to it. */
bool blk_export_allows(const BlkExport *export_, BlkAccess access, const char *identity);
bool blk_export_status_2016(const BlkExport *export_);
unsigned blk_export_dirty_flag_2016(const BlkExport *export_);
const char *blk_export_bitmap_2016(const BlkExport *export_); /* or NULL */
/* What it was given, or NULL; and a member of that is another one now (@value is taken). Borrowed;
 * main thread. */
json_object *blk_export_given(const BlkExport *export_);
void blk_export_set_given(BlkExport *export_, const char *member, json_object *value);
/* What its type keeps with it: set in start. Any thread after that. */
void blk_export_set_serving(BlkExport *export_, void *serving); /* borrowed */
void *blk_export_serving(const BlkExport *export_);
bool blk_export_shutting_down(const BlkExport *export_);
/* Reports an I/O error of a client's request: event BLOCK_IO_ERROR, at most one
 * a second for an export. @errnum positive. */
void blk_export_io_error(BlkExport *export_, bool write, int errnum);
/* A request of a client is done, of a type whose sessions don't count for themselves: counts it,
 * and reports an error as above. @result: 0 or -errno. Any thread. */
void blk_export_count(BlkExport *export_, const BlkRequest *request, int result);
