/* block/export.h: exports: what is offered of which node, to whichever server serves it.
 *
 * qmp makes and removes exports, server serves them; neither knows the other. A server registers
 * itself here with the operations below.
 *
 * An export is referenced by the registry and by every session on it. block-export-del takes it out
 * of sight at once; BLOCK_EXPORT_DELETED follows when the last reference is gone.
 *
 * Threads: functions that say so from any thread, the rest on the main thread. */
#pragma once
#include "bitmap/bitmap.h"
#include "block/graph.h"
#include "block/node.h"

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

/* Strings are copied. */
typedef struct BlkExportOptions {
    const char *id;
    const char *type; /* "nbd" */
    const char *node_name;
    const char *name;        /* NULL: the node name */
    const char *description; /* or NULL */
    bool writable, writethrough, allocation_depth;
    const BlkBitmapName *bitmaps;
    size_t n_bitmaps;
    /* Clients that select no metadata context are given block status in the form of the draft of
     * 2016, which differs from the protocol of today. */
    bool draft_2016;
    unsigned
        draft_dirty_flag; /* the command flag that asks for dirtiness, a power of two; 0: none */
    const char *draft_bitmap; /* which of the bitmaps that is; NULL: the first one */
} BlkExportOptions;

/* ---- what a server implements */
typedef enum { BLK_ADDRESS_UNIX, BLK_ADDRESS_INET } BlkAddressType;
typedef struct BlkServerOptions {
    BlkAddressType type;
    const char *path;        /* unix */
    const char *host, *port; /* inet */
    bool has_ipv4, ipv4, has_ipv6, ipv6;
    uint32_t max_connections; /* 0: no limit */
} BlkServerOptions;

typedef struct BlkServer {
    const char *type; /* the export type that it serves: "nbd" */
    bool (*start)(void *opaque, const BlkServerOptions *options, GError **error);
    void (*stop)(void *opaque); /* no new clients; the exports are deleted by the caller */
    bool (*running)(void *opaque);
    /* Ends every session on @export_, soon, from any thread. */
    void (*disconnect)(void *opaque, BlkExport *export_);
    void *opaque;
} BlkServer;

/* ---- the registry of exports */
BlkExports *blk_exports_new(BlkGraph *graph);
void blk_exports_free(BlkExports *exports); /* all deleted before; NULL is fine */
void blk_exports_set_server(BlkExports *exports, const BlkServer *server); /* copied */
BlkGraph *blk_exports_graph(BlkExports *exports);

/* nbd-server-start and -stop. Errors: "NBD server already running", "NBD server not running". */
bool blk_exports_server_start(BlkExports *exports, const BlkServerOptions *options, GError **error);
bool blk_exports_server_stop(BlkExports *exports, GError **error);
bool blk_exports_server_running(BlkExports *exports);

/* block-export-add. Messages as QEMU's. Borrowed result. */
BlkExport *blk_exports_add(BlkExports *exports, const BlkExportOptions *options, GError **error);
/* block-export-del: @hard cuts the clients off, else an export with clients is refused. */
bool blk_exports_del(BlkExports *exports, const char *id, bool hard, GError **error);
/* Deletes all and waits until the last session is gone (bounded by what is in flight). */
void blk_exports_del_all(BlkExports *exports);
/* block-export-dirty-bitmap: what sessions negotiate from now on. All or nothing. */
bool blk_exports_select(BlkExports *exports, const char *id, const BlkBitmapName *bitmaps, size_t n,
                        GError **error);
/* References to all, in order of creation, the ones shutting down too (g_ptr_array_unref). Waits
 * for those whose last reference has gone to have let go of node and bitmaps. Main thread. */
GPtrArray *blk_exports_list(BlkExports *exports);
BlkExport *blk_exports_find_id(BlkExports *exports, const char *id); /* a reference or NULL */

/* ---- for servers; any thread */
/* A reference to the export of that name (type @type), or NULL. */
BlkExport *blk_exports_lookup(BlkExports *exports, const char *type, const char *name);
/* References to all of that type, in order of creation: array with blk_export_unref as free func.
 */
GPtrArray *blk_exports_lookup_all(BlkExports *exports, const char *type);
BlkExport *blk_export_ref(BlkExport *export_);
void blk_export_unref(BlkExport *export_); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlkExport, blk_export_unref)
/* A session begins and ends on it: what "still in use" means. begin fails if it is shutting down.
 */
bool blk_export_session_begin(BlkExport *export_);
void blk_export_session_end(BlkExport *export_);
BlkSelection *blk_export_selection(BlkExport *export_); /* a reference */

/* ---- facts, borrowed; any thread */
const char *blk_export_id(const BlkExport *export_);
const char *blk_export_type(const BlkExport *export_);
const char *blk_export_name(const BlkExport *export_);
const char *blk_export_description(const BlkExport *export_); /* or NULL */
BlkNode *blk_export_node(const BlkExport *export_);
bool blk_export_writable(const BlkExport *export_);
bool blk_export_writethrough(const BlkExport *export_);
bool blk_export_allocation_depth(const BlkExport *export_);
bool blk_export_draft_2016(const BlkExport *export_);
unsigned blk_export_draft_dirty_flag(const BlkExport *export_);
const char *blk_export_draft_bitmap(const BlkExport *export_); /* or NULL */
bool blk_export_shutting_down(const BlkExport *export_);
/* Tells the management about an I/O error of a client's request: event BLOCK_IO_ERROR, at most one
 * a second for an export. @errnum positive. */
void blk_export_io_error(BlkExport *export_, bool write, int errnum);
