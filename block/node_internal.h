/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/node_internal.h: what a node is made of. Private to block/. */
#pragma once
#include "block/counters.h"
#include "block/engine/gate.h"
#include "block/engine/inflight.h"
#include "block/engine/quiesce.h"
#include "block/engine/worker_quota.h"
#include "block/graph.h"
#include "block/io/long_requests.h"
#include "block/node.h"
#include "block/options.h"
#include "block/permissions.h"
#include "util/trace.h"
#include "util/zeroes.h"

typedef struct BlkBitmaps BlkBitmaps;

typedef struct BlkParentLink BlkParentLink;

/* Of all nodes of a graph; all atomic. */
typedef struct BlkTraffic {
    int throttles; /* throttle nodes */
    int drains;    /* that wait or last: then no request is to be held up */
    int awaited;   /* others who wait for requests to end: canceled jobs, exports that go */
} BlkTraffic;
/* Borrowed. block/graph.c */
BlkTraffic *blk_graph_traffic(BlkGraph *graph);

struct BlkUser {
    int refs;
    BlkGraph *graph; /* borrowed */
    BlkNode *node;   /* as the users of a node */
    BlkNode *parent; /* borrowed; NULL: no node */
    unsigned index;  /* of the parent's children */
    char *what;
    bool allows_inactive;   /* guarded as those below */
    const char *blocker;    /* why others may do nothing much with the node; or NULL */
    unsigned needs, shares; /* BLK_PERM_*; guarded by the graph's lock of permissions */
    /* Of one that follows its node to another one (block/filters.h); closed while node changes. */
    bool follows;
    BlkGate gate;       /* its requests (block/io/request.h) */
    BlkQuiesce quiesce; /* what it asks and waits for */
};

struct tidemark_node {
    int refs;
    BlkGraph *graph;        /* borrowed */
    const TmSys *graph_sys; /* borrowed; the graph's */
    BlkTraffic *traffic;    /* the same */
    const struct tidemark_driver *driver;
    const struct BlkBuiltin *builtin; /* what the block layer has of it besides; never NULL */
    void *handle;                     /* the driver's; valid once open */
    struct BlkThrottle *throttle; /* of a throttle node that is open, else NULL (io/throttle.h) */
    bool open;                    /* else every request fails: it was lost in a reopening */
    char *lost;                   /* why */
    int64_t last_backup;          /* seconds since 1970; 0: none */
    bool flush_failed;            /* atomic: once, with this file or an earlier one (losses.c) */
    char *name;
    uint64_t rank;      /* in the graph's list: what is below has a lower one; 0: not listed */
    bool kept;          /* by code that made it, used or not */
    bool monitor_owned; /* by blockdev-add, not implicitly as a nested definition */
    BlkOptions *options;
    char *error; /* what the driver said through the host, during open and resize; drained */

    uint64_t size; /* atomic; changed with the node drained */
    /* These change with the node quiesced; a thread that is neither in flight nor inside reads
     * them atomically, and again later. */
    uint32_t info_flags, request_alignment;
    uint32_t cluster;   /* bytes of a cluster, a power of two; 1: has none */
    bool sendfile_used; /* atomic: some of it was sent by sendfile(2) once */
    int invalidates;    /* atomic; invalidate.c */
    bool read_only, unmap;
    uint8_t detect; /* BLK_DETECT_*; atomic, as those */

    unsigned n_children;
    BlkUser **children; /* as the driver has them; NULL: none */
    int backing;        /* index of the child "backing", or -1 */

    struct BmpIdentity *seen; /* what the driver had open (disk.c) before a reopening, or was
                               * read-only when a bitmap began; or NULL */
    bool recorded;            /* by a reopening: it was writable when it was last open */
    /* What its data was like when it became inactive: its bitmaps in memory are of that, or dirty
     * (bitmaps.c). NULL: it is active, or nobody knows. */
    struct BmpIdentity *rest;
    BmpSet *bitmaps;
    bool bitmaps_closed;      /* by a reopening, and not renewed since */
    struct BlkBitmaps *store; /* block/bitmaps.c: set while bitmaps may persist */
    GPtrArray *held;          /* block/bitmaps.c: by the change whose first node it is; or NULL */
    BlkCounters counters;
    BlkInflight inflight;
    BlkQuiesce quiesce;
    BlkLongRequests long_requests;
    BlkWorkerQuota quota;
    pthread_mutex_t serial; /* held around callbacks of a TIDEMARK_DRIVER_SERIALIZED driver */

    /* Changes with the node drained (block/parents.c). */
    unsigned n_up;
    BlkParentLink *up;

    /* The graph's lock of permissions guards these (block/permissions.c). */
    GPtrArray *users; /* BlkUser, borrowed */
    bool guards;      /* it has bitmaps */
    bool guarded;     /* or one above it, that shows it, has */
    bool frozen;      /* it is read-only and has bitmaps that record: marks can't be stored */
};

/* ---- node_life.c */

/* Without children, driver and bitmaps yet; takes @options. It has the name in them, else
 * @auto_name. */
BlkNode *blk_node_new(BlkGraph *graph, const struct tidemark_driver *driver, BlkOptions *options,
                      const char *auto_name);
/* A parent as the user of what is, or is to be, its child of that index. */
BlkUser *blk_node_use_child(BlkNode *parent, unsigned index, BlkNode *child, GError **error);
/* What writes must not stand on what can't. */
bool blk_node_check_activity(const BlkNode *parent, unsigned index, const BlkNode *child,
                             GError **error);
bool blk_node_open_driver(BlkNode *node, GError **error);
/* Whether it will be read-only, as far as is known before its driver is open. */
void blk_node_predict(BlkNode *node);
void blk_node_close_driver(BlkNode *node); /* harmless if it is not open */
/* What requests need of its options, which may have changed. */
void blk_node_read_options(BlkNode *node);

/* A nested definition, as @parent's gives it what it inherits; a reference (json_object_put()).
 * block/add.c */
json_object *blk_node_child_options(json_object *parent, json_object *child, bool backing);
/* Opens one: named by the graph, listed in it. A reference. block/add.c */
BlkNode *blk_graph_open_child(BlkGraph *graph, json_object *options, GError **error);

/* After children have changed: puts them before their parents in the list again; settle also closes
 * nested nodes that nobody uses any more. block/remove.c */
void blk_graph_sort(BlkGraph *graph);
void blk_graph_settle(BlkGraph *graph);

/* Guards who uses which node and with what permissions, and the image locks that hang on that; a
 * leaf. block/permissions.c */
pthread_mutex_t *blk_graph_permissions(BlkGraph *graph);

/* Stores by their path, of nodes of which something is there (bitmaps_place.c). block/graph.c */
GHashTable *blk_graph_places(BlkGraph *graph);

/* The place in its list from which on idle stores get their tick next. block/graph.c */
unsigned *blk_graph_idle_tick(BlkGraph *graph);

/* Something that a node had in memory could not be kept when it was closed. block/graph.c */
void blk_graph_set_unsaved(BlkGraph *graph);

/* How many images are being opened one for the other, after adding @change. block/graph.c */
unsigned blk_graph_chain(BlkGraph *graph, int change);

static inline BlkNode *blk_node_child_at(const BlkNode *node, unsigned index)
{
    return index < node->n_children && node->children[index] ? node->children[index]->node : NULL;
}

static inline BlkNode *blk_node_backing(const BlkNode *node)
{
    return node->backing < 0 ? NULL : blk_node_child_at(node, (unsigned)node->backing);
}

/* The driver's answer, made safe: within the range asked, of a known kind. 0 or -errno. */
int blk_node_map(BlkNode *node, uint64_t offset, uint64_t length, uint32_t purpose,
                 struct tidemark_mapping *mapping);
/* A flag of blk_node_write_zeroes(): the space goes, discard=ignore or not. */
#define BLK_INVALIDATE (1u << 31)

/* Where a range of a node lies as a whole: in the descriptor of one node. */
typedef struct BlkPlace {
    BlkNode *node;           /* whose descriptor it is */
    uint64_t offset, length; /* of that node's disk */
    struct tidemark_mapping mapping;
} BlkPlace;

/* reserve.c. Finds it, and keeps the range in flight there until blk_place_leave(), so that the
 * node is not resized: a format lets its file grow whatever requests do. false: it lies in no
 * descriptor, or (without @wait, as loop threads call it) somebody is resizing. */
bool blk_place_enter(BlkPlace *place, BlkNode *node, uint64_t offset, uint64_t length, bool wait);
void blk_place_leave(BlkPlace *place);

/* invalidate.c. Whether data of @node that sockets may still read (blk_send()) could be
 * invalidated, in clusters of that size. Any thread. */
bool blk_node_can_invalidate(BlkNode *node, uint64_t cluster);
/* child_invalidate() of driver.h. Blocking lane. */
int blk_node_invalidate(BlkNode *node, uint64_t offset, uint64_t length, uint32_t flags);
/* Re-reads size and flags from the driver. 0 or -errno. */
int blk_node_refresh(BlkNode *node);
/* That these nodes (BlkNode) are being drained, or no longer. */
static inline void blk_nodes_trace_drain(const GPtrArray *nodes, bool begins)
{
    for (guint i = 0; i < nodes->len; i++) {
        BlkNode *node = nodes->pdata[i];

        if (begins)
            TM_TRACE(drain_begin, node->name);
        else
            TM_TRACE(drain_end, node->name);
    }
}

/* For messages of the log: "node 'NAME'", or the name of its file (blk_graph_set_names_files).
 * Returned. Any thread. */
char *blk_node_said(const BlkNode *node);

/* For the log: something has befallen @node. */
#define BLK_NODE_WARN(node_, ...)                                                                  \
    tm_log_note(                                                                                   \
        blk_graph_log((node_)->graph),                                                             \
        &(TmLogFacts){ .area = TM_LOG_BLOCK, .level = TM_LOG_WARNING, .node = (node_)->name },     \
        __VA_ARGS__)

/* The resize of a drained or idle node, bitmaps and size included; on failure node->error may say
 * why. */
int blk_node_resize(BlkNode *node, uint64_t size);

/* Callbacks of a serialized driver run one at a time. */
static inline void blk_node_serial_begin(BlkNode *node)
{
    if (node->driver->flags & TIDEMARK_DRIVER_SERIALIZED)
        pthread_mutex_lock(&node->serial);
}

static inline void blk_node_serial_end(BlkNode *node)
{
    if (node->driver->flags & TIDEMARK_DRIVER_SERIALIZED)
        pthread_mutex_unlock(&node->serial);
}

/* detect-zeroes: whether writes of nothing but zeroes are done as zeroing, and free the space. */
enum { BLK_DETECT_OFF, BLK_DETECT_ON, BLK_DETECT_UNMAP };

/* @zeroes: the bytes are known to be. */
static inline bool blk_node_detects(const BlkNode *node, const void *buf, uint64_t length,
                                    bool zeroes)
{
    return __atomic_load_n(&node->detect, __ATOMIC_RELAXED) && length &&
           (zeroes || tm_all_zero(buf, length));
}

/* What is written: bytes, or what copy() has the kernel copy to descriptor @fd, from @at of it on;
 * 0 or -errno. */
typedef struct BlkPayload BlkPayload;
struct BlkPayload {
    const char *buf; /* or NULL */
    bool zeroes;     /* buf: all of it is, as somebody has seen */
    int (*copy)(const BlkPayload *payload, uint64_t at, int fd, uint64_t offset, uint64_t length);
};
/* As blk_node_pwrite(). Without a buffer, where a descriptor takes the bytes. -ENOTSUP: it can't be
 * done so, at least not all of it. copy() must not wait for other requests. blocking.c. */
int blk_node_pwrite_payload(BlkNode *node, const BlkPayload *payload, uint64_t offset,
                            uint64_t length, uint32_t flags);

/* Blocking descriptor I/O through the system-call table, complete or -errno; a read beyond the end
 * of the file gives zeroes. block/io/fd.c */
int blk_fd_pread(const TmSys *sys, int fd, void *buf, uint64_t offset, uint64_t length);
int blk_fd_pwrite(const TmSys *sys, int fd, const void *buf, uint64_t offset, uint64_t length);
