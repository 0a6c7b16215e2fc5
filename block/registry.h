/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/registry.h: which drivers there are, by name.
 *
 * Filled before the graph is used: the built-in ones by blk_registry_new(), plug-ins by --module
 * and the module directory. Main thread, except blk_registry_find() once it is filled. */
#pragma once
#include "block/engine/engine.h"
#include "block/options.h"
#include "include/tidemark/driver.h"
#include "util/sys.h"
#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>

typedef struct BlkRegistry BlkRegistry;

/* With the built-in drivers. @sys (borrowed) is what the file driver reaches the kernel through. */
BlkRegistry *blk_registry_new(const TmSys *sys);
void blk_registry_free(BlkRegistry *registry); /* after the last node; NULL is fine */

/* The driver that @init describes, which is linked to the program; NULL from it: nothing. */
void blk_registry_add(BlkRegistry *registry, tidemark_driver_init_fn init);
/* Loads one plug-in. Errors: cannot be opened, lacks tidemark_driver_init, refuses, another ABI or
 * struct size, a name that is taken or malformed, a required callback missing; each names the
 * file. */
bool blk_registry_load(BlkRegistry *registry, const char *path, GError **error);
/* Loads every *.so in @dir, in alphabetical order. The reason of each that can't be loaded is added
 * to @refused (strings, owned by it), and the others are loaded all the same: one that lacks its
 * library is no reason to serve no disk. A missing directory is no error. */
bool blk_registry_load_dir(BlkRegistry *registry, const char *dir, GPtrArray *refused,
                           GError **error);

const struct tidemark_driver *blk_registry_find(BlkRegistry *registry,
                                                const char *name); /* or NULL */
/* All, sorted by name: a NULL-terminated array, free it with g_free. */
const struct tidemark_driver **blk_registry_list(BlkRegistry *registry);

typedef struct BlkFormat BlkFormat;
/* What built-in formats report besides what the driver interface has words for. */
struct BlkFormat {
    /* Adds to the ImageInfo of QMP: backing-filename, format-specific and the like. Main thread. */
    void (*describe)(void *handle, json_object *image);
    const struct BlkKeptBitmaps *bitmaps; /* NULL: images have none */
};

/* Bitmaps that images of a format keep themselves (bitmap/store/store.h, BmpImage), as
 * block/bitmaps.c asks for them of an open image. Main thread, drained. */
typedef struct BlkKeptBitmaps {
    /* Whether the image says that the store beside it is its own. */
    bool (*beside)(void *handle);
    /* As BmpImage's. What is of no use any more is dropped if the image is open for writing. */
    bool (*load)(void *handle, GArray *records, GPtrArray *problems, GError **error);
    /* Whether a bitmap can be kept, of a disk of @size bytes; @n and @names as BmpImage's. */
    bool (*may_keep)(void *handle, const char *name, uint64_t granularity, uint64_t size, size_t n,
                     uint64_t names, GError **error);
    /* Says, durably, that the store beside is its own or is not. Not drained, too. */
    bool (*set_beside)(void *handle, bool beside, GError **error);
    /* The same before the first write, and that what the image has is in use. */
    bool (*begin)(void *handle, bool beside, GError **error);
    /* Those names have been removed. */
    bool (*drop)(void *handle, const GPtrArray *names, GError **error);
    /* All there is (BmpRecord), for whoever opens the image next; nothing is beside it. false:
     * whoever opens it next finds what they would after a crash. */
    bool (*store)(void *handle, const GArray *records, GError **error);
} BlkKeptBitmaps;

/* How the content of a child shows in the node that stands on it. */
typedef enum {
    BLK_ROLE_FORMAT,  /* where what is below shows is the driver's secret */
    BLK_ROLE_FILTER,  /* byte by byte the same */
    BLK_ROLE_WINDOW,  /* the same from the option "offset" on, as long as the parent is */
    BLK_ROLE_BACKING, /* the same, where the parent has nothing of its own */
    BLK_ROLE_TARGET,  /* the parent writes to it, and shows nothing of it */
    BLK_ROLE_INSTANT, /* the parent shows what was there at an instant */
} BlkChildRole;

/* A built-in driver, and what the block layer has of it besides. */
typedef struct BlkBuiltin {
    const struct tidemark_driver *driver;
    BlkChildRole role;            /* of its first child */
    const BlkFormat *format;      /* NULL: it is none */
    const struct BlkLocks *locks; /* block/permissions.h; NULL: it takes no image locks */
    BlkChildRole others;          /* of its other children but the backing */
    bool guards;                  /* a filter below which nobody else writes */
    bool grows;                   /* a filter whose child may become longer under it */
    bool stateful;                /* it knows what a new opening would not: no reopening */
    bool fails;                   /* by itself, as a medium does (block/losses.h) */
    struct BlkThrottle *(*throttle)(void *handle); /* block/io/throttle.h; NULL: it is none */
    /* NULL, or changes what it needs and shares on its children (BLK_PERM_*). */
    void (*permit)(const BlkOptions *options, unsigned *needs, unsigned *shares);
    bool background; /* what is asked of it gives way to what others ask of other nodes */
    /* Does what a write to the range needs done before it, as far as that does not wait; then map
     * shows what is left to the blocking callbacks. In flight, on the fast lane. NULL: nothing
     * is. */
    void (*before_write)(void *handle, uint64_t offset, uint64_t length);
    /* Its resize() to a larger size that a format needs (child_grow()). NULL: that itself. */
    int (*grow)(void *handle, uint64_t size);
    /* What is under way, or will be, is to end soon, be it with an error. NULL: it does. Main
     * thread. */
    void (*hurry)(void *handle);
    /* What listings show for its filename; NULL: what there is to say of it. Returned. */
    char *(*filename)(struct tidemark_node *node);
} BlkBuiltin;
/* Ends with a driver that is NULL; block/drivers/builtin.c. */
extern const BlkBuiltin blk_builtins[];
/* Static, never NULL: a plug-in's says nothing, so a plug-in is taken for a format. Any thread. */
const BlkBuiltin *blk_builtin_of(const struct tidemark_driver *driver);

/* The table that nodes hand to drivers; implemented by block/io/host.c. */
extern const struct tidemark_host blk_host;
/* The handle of a node that is open with that driver; else NULL. It lasts as long as something is
 * in flight on a node that stands on it. block/io/host.c. */
void *blk_host_handle(struct tidemark_node *node, const struct tidemark_driver *driver);
/* The TmSys of a node, for built-in drivers. Borrowed. block/io/host.c. */
const TmSys *blk_host_sys(struct tidemark_node *node);
/* Opens, for the child of that index (the backing or what holds the data), the file that an image
 * names. @format: of a backing file, as the image records it. @which: one of blk_names_choices
 * (block/named.h). Within open(); 0 or -errno, and then the host has the reason. block/named.c. */
int blk_host_open_named(struct tidemark_node *node, unsigned child, const char *name,
                        const char *format, const char *which);
/* Within close(): what was written and not flushed could not be put on the medium, @error. The log
 * reports, and blk_graph_free(). block/io/host.c. */
void blk_host_unfinished(struct tidemark_node *node, int error);
/* The driver found that the image can't be what it says and writes no more to it: the log and an
 * event report. Any thread. block/io/host.c. */
void blk_host_corrupted(struct tidemark_node *node, const char *reason);
/* Whether somebody waits for requests to come to their end, so that a server's silence counts: a
 * drain, or blk_graph_await(). Any thread. block/io/host.c. */
bool blk_host_awaited(const struct tidemark_node *node);
/* A line of the log about the node. Any thread. block/io/host.c. */
void blk_host_log(struct tidemark_node *node, const char *format, ...) G_GNUC_PRINTF(2, 3);
