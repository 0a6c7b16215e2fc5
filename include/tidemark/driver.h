/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: 0BSD */
/* tidemark/driver.h: the block driver interface, for built-in drivers and for plug-ins alike.
 *
 * Licence: Tidemark is GPL-2.0-or-later. This header may be used, copied, changed and given away
 * without condition, and a plug-in that reaches Tidemark only through it may have any licence
 * (docs/writing-a-driver.md).
 *
 * A driver presents a disk. Its callback map() answers where the bytes of a range are: in a file
 * descriptor, in a child, or nowhere (zeroes). The host then does the I/O itself. For a range that
 * map() cannot answer, the host calls the driver's blocking callbacks, such as pread(). A simple
 * driver leaves map NULL and implements pread() alone.
 *
 * A plug-in is a shared object that exports
 *
 *     const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *host);
 *
 * and includes this header alone. It returns a static description, or NULL to refuse. The host
 * table is valid for the life of the process. See docs/writing-a-driver.md.
 *
 * All offsets and lengths are bytes. Every range that a callback receives lies within the size that
 * the driver reported and is not empty. Callbacks that return int return 0 or a negative errno.
 * Threads: open, close and resize run one at a time with no I/O in flight, open and close on the
 * main thread; every other callback may be called from several threads at once, unless the driver
 * sets TIDEMARK_DRIVER_SERIALIZED. */
#ifndef TIDEMARK_DRIVER_H
#define TIDEMARK_DRIVER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when the meaning or layout of anything here changes. A driver of another ABI is
 * refused. */
#define TIDEMARK_ABI 6

struct tidemark_node; /* one opened node, known to the host; handed to open() */

/* ---- options --------------------------------------------------------------------------------- */

enum tidemark_option_type {
    TIDEMARK_OPTION_STRING,
    TIDEMARK_OPTION_BOOL,
    TIDEMARK_OPTION_UINT, /* 0 to 2^63-1, or within min..max */
    TIDEMARK_OPTION_SIZE, /* bytes; on the command line with the suffixes k M G T P E */
    TIDEMARK_OPTION_ENUM, /* one of choices */
    TIDEMARK_OPTION_LIST, /* any number of elements, as fields describes them */
};

struct tidemark_option {
    const char *name; /* as on the command line, "cache.direct" for a member of a group */
    enum tidemark_option_type type;
    uint32_t required;          /* 1: must be given */
    const char *default_value;  /* as text; NULL: unset unless given */
    const char *const *choices; /* ENUM: NULL-terminated */
    uint64_t min, max;          /* UINT and SIZE: inclusive; max 0 means no upper bound */
    const char *help;           /* one line */
    /* LIST: the options that an element, an object, has, none of them a list; ends with a NULL
     * name. One whose name is "" stands for elements that are such values themselves. ENUM: NULL,
     * or the options of an object that may be given instead of a value. They are options
     * themselves then, "NAME.FIELD", and the option itself is not set. */
    const struct tidemark_option *fields;
};

/* A child: a node that this one uses. The option of its name takes a node name or a
 * nested definition. */
struct tidemark_child {
    const char *name; /* "file", "backing", ... */
    uint32_t required;
};

/* ---- map ------------------------------------------------------------------------------------- */

enum tidemark_map_kind {
    TIDEMARK_MAP_SELF,    /* the driver must do it: its blocking callbacks are called */
    TIDEMARK_MAP_FD,      /* the bytes are in descriptor fd at offset */
    TIDEMARK_MAP_CHILD,   /* the bytes are in child number child at offset */
    TIDEMARK_MAP_ZERO,    /* reads as zeroes */
    TIDEMARK_MAP_BACKING, /* not allocated here: ask the child "backing" */
};

/* What the answer will be used for; one of these. */
#define TIDEMARK_MAP_FOR_READ   1u
#define TIDEMARK_MAP_FOR_WRITE  2u /* an answer other than FD, CHILD is taken as SELF */
#define TIDEMARK_MAP_FOR_STATUS 4u /* data, zero and hole are wanted exactly */

/* Flags of an answer. */
#define TIDEMARK_MAPPED_HOLE   1u /* occupies no space on the medium (FOR_STATUS, any kind) */
#define TIDEMARK_MAPPED_DIRECT 2u /* FD: O_DIRECT, I/O must be aligned to request_alignment */
#define TIDEMARK_MAPPED_INLINE 4u /* SELF: the callbacks do not block for this range */
/* CHILD: the place may be given to other data once the range is discarded or moved,
 * child_invalidate() having been called */
#define TIDEMARK_MAPPED_MOVES 8u

struct tidemark_mapping {
    uint32_t kind;
    uint32_t flags;
    uint32_t child; /* CHILD: index into the driver's children */
    int32_t fd;     /* FD: stays valid until close() */
    /* FD, CHILD: where the first byte is; ZERO, BACKING, FOR_STATUS, without HOLE: the place in
     * child that is kept for it */
    uint64_t offset;
    uint64_t length; /* how far the answer holds: 1 .. the length asked */
};

/* ---- the driver ------------------------------------------------------------------------------ */

/* Flags of tidemark_info */
#define TIDEMARK_INFO_READ_ONLY   1u  /* opened read-only */
#define TIDEMARK_INFO_FAST_ZERO   2u  /* write_zeroes honours TIDEMARK_FAST_ZERO */
#define TIDEMARK_INFO_WOULD_BLOCK 4u  /* FD: preadv2(RWF_NOWAIT) works on it */
#define TIDEMARK_INFO_IO_URING    8u  /* FD: what would block is to go to io_uring */
#define TIDEMARK_INFO_DISCARD     16u /* discard frees space */
#define TIDEMARK_INFO_FUA         32u /* pwrite and write_zeroes honour TIDEMARK_FUA themselves */
#define TIDEMARK_INFO_COMPRESS    64u /* pwrite honours TIDEMARK_COMPRESSED */

struct tidemark_info {
    uint32_t struct_size; /* set by the host */
    uint32_t flags;
    uint64_t size;              /* bytes of the disk presented */
    uint32_t request_alignment; /* I/O below it is read-modify-write; power of two, 1: none */
    uint32_t preferred_block;   /* a good I/O size, power of two; 0: no opinion */
    uint64_t allocated;         /* bytes occupied on the medium; UINT64_MAX: unknown */
    /* Allocation unit of a format, a power of two; 0: none. Queries show it, and it
     * is the default granularity of bitmaps (from 4 KiB to 64 KiB). EXCLUSIVE ranges are widened
     * to it.      * In a format with a cluster_size a range that map finds in a child is
     * allocated, even if the child has a hole there. */
    uint32_t cluster_size;
};

/* Flags of the I/O callbacks */
#define TIDEMARK_FUA       1u /* on stable storage before the call returns */
#define TIDEMARK_MAY_UNMAP 2u /* write_zeroes: may free the space */
#define TIDEMARK_FAST_ZERO 4u /* write_zeroes: fail with -ENOTSUP rather than write data */
/* pwrite: store whole clusters compressed, held exclusively. -ENOTSUP where nothing can
 * compress. */
#define TIDEMARK_COMPRESSED 8u
/* pwrite: nobody else has a request in the range, widened to whole clusters (cluster_size). Without
 * this flag pwrite may do nothing and return -EBUSY; the host then repeats the call with the flag.
 * A driver needs it before it frees or moves bytes that a concurrent read may still use. */
#define TIDEMARK_EXCLUSIVE 16u

/* Flags of a driver */
/* The host calls one callback of a node at a time. */
#define TIDEMARK_DRIVER_SERIALIZED 1u
/* The driver is a format: it interprets the bytes of its child and keeps metadata there. Hence
 *   - a writable node may write to its child at any time, and nobody else may write there;
 *   - a zero range counts as a hole, since the format stores no data for it;
 *   - cluster_size has a further meaning (see there).
 * Filters, protocols and drivers that keep their data elsewhere do not set this flag. */
#define TIDEMARK_DRIVER_FORMAT 2u
/* map FOR_STATUS may wait for a server. The host calls it where waiting delays nobody else. */
#define TIDEMARK_DRIVER_REMOTE 4u
/* Others may write to the disk while no node has it open for writing, and nothing shows that they
 * did. Bitmaps that were kept are not believed when the node is opened again, unless the user says
 * that nobody wrote (bitmap-accept-changed); and the node can't be reopened. */
#define TIDEMARK_DRIVER_SHARED 8u

/* A read or write that start() begins. The driver may use it until host->complete(). */
struct tidemark_transfer {
    void *buf; /* read from, or written to, by the driver */
    uint64_t offset;
    uint64_t length;
    uint32_t write; /* 1: a write, 0: a read */
};

/* A piece of a store of bitmaps. */
struct tidemark_piece {
    const void *buf; /* the host's, during the call */
    uint64_t offset;
    uint64_t length;
};

/* A store of bitmaps is at most so large; one store_write() has at most so many bytes. */
#define TIDEMARK_STORE_MAX       (UINT64_C(128) << 20)
#define TIDEMARK_STORE_WRITE_MAX (UINT64_C(80) << 20)

/* Flags of store_write */
#define TIDEMARK_STORE_REPLACE 1u /* of what was there before nothing stays */

struct tidemark_driver {
    uint32_t abi;         /* TIDEMARK_ABI */
    uint32_t struct_size; /* sizeof(struct tidemark_driver) */
    const char *name;     /* what driver= says: letters, digits, '-', '_'; a letter first */
    const char *help;     /* one line */
    uint32_t flags;
    const struct tidemark_option *options; /* ends with a NULL name; NULL: none */
    const struct tidemark_child *children; /* ends with a NULL name; NULL: none */

    /* Opens a node; the options and children are read through the host. *handle is passed to the
     * other callbacks. On failure describe why with host->error() and return -errno. Required. */
    int (*open)(struct tidemark_node *node, void **handle);
    void (*close)(void *handle);                               /* required */
    int (*get_info)(void *handle, struct tidemark_info *info); /* cheap, non-blocking; required */

    /* Answers where the range is. Must not block or copy data; the only I/O allowed is a look-up
     * of metadata FOR_STATUS. NULL: every range is SELF, and the whole disk is data. */
    int (*map)(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
               struct tidemark_mapping *mapping);

    /* The blocking callbacks. The host calls pread and pwrite for ranges that map answers with
     * SELF, and the others for every request of their kind. If one is NULL, the host does this:
     *   pread, pwrite   fails with -EIO
     *   write_zeroes    passes it to the child where map FOR_WRITE says CHILD, else writes zeroes
     *   discard         passes it to the child where map FOR_WRITE says CHILD, else does nothing.
     *                   A driver with both children and pwrite must have a discard callback, since
     *                   only the driver knows where it writes a range. -ENOTSUP: discard nothing
     *   cache           passes it to the child where map FOR_READ says CHILD, else does nothing
     *   flush           flushes all writable children
     *   resize          fails
     * A driver without TIDEMARK_INFO_FUA never gets TIDEMARK_FUA: the host flushes instead. */
    int (*pread)(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags);
    int (*pwrite)(void *handle, const void *buf, uint64_t offset, uint64_t length, uint32_t flags);
    int (*flush)(void *handle);
    int (*write_zeroes)(void *handle, uint64_t offset, uint64_t length, uint32_t flags);
    int (*discard)(void *handle, uint64_t offset, uint64_t length);
    int (*cache)(void *handle, uint64_t offset, uint64_t length);
    int (*resize)(void *handle, uint64_t size);

    /* Begins a transfer of a range that map answers with SELF, and returns without waiting. 0: it
     * has begun, and the driver calls host->complete() once, on a thread of its own, perhaps before
     * this function has returned. Anything else: it has not, and the host calls pread or pwrite for
     * it on a thread that may wait. Never called for writes with flags. Any thread. NULL: the host
     * always calls pread and pwrite. */
    int (*start)(void *handle, struct tidemark_transfer *transfer);

    /* The host is changing the range through the descriptor that map returned: drop what is
     * cached about its content. Called before the I/O and again after it. Must be fast. May be
     * NULL. */
    void (*wrote)(void *handle, uint64_t offset, uint64_t length);

    /* The store of the node's bitmaps, kept beside the disk instead of in a local file
     * (bitmap-place=disk): bytes under a name, which the driver neither reads nor changes by
     * itself. All five or none. They may block, for as long as the medium takes; the host calls one
     * of them at a time, from any thread, but store_abandon() at any time.
     *
     * store_open: *size is the number of bytes that are there, 0: no store. A node that is open for
     * writing takes the store over: when the call returns, nobody who had it before can write to
     * it, not even a write that is on its way happens any more. From a node that is read-only:
     * -EBUSY while somebody has the disk open for writing. May be called again.
     * store_read: all of the range.
     * store_write: the pieces, ascending, and then the store has @size bytes; what no piece covers
     * stays, or is zeroes where it was beyond the end. As a whole or not at all, after all earlier
     * ones, and durable when it returns 0. If it returns an error, nobody knows whether it has
     * happened; it must not happen later.
     * store_abandon: the host can't write what it must: every later write to the disk fails.
     * store_name: for messages and queries; borrowed, until close(). */
    int (*store_open)(void *handle, uint64_t *size);
    int (*store_read)(void *handle, void *buf, uint64_t offset, uint64_t length);
    int (*store_write)(void *handle, const struct tidemark_piece *pieces, uint32_t n, uint64_t size,
                       uint32_t flags);
    void (*store_abandon)(void *handle);
    const char *(*store_name)(void *handle);
};

/* ---- the host -------------------------------------------------------------------------------- */

struct tidemark_host {
    uint32_t abi;
    uint32_t struct_size;

    /* Why open() or resize() fails: one line, printf-like. Valid during open() and resize()
     * only. */
    void (*error)(struct tidemark_node *node, const char *format, ...)
        __attribute__((format(printf, 2, 3)));
    const char *(*node_name)(struct tidemark_node *node); /* borrowed */

    /* The options by name, with defaults applied: the driver's own, and the common ones
     * "read-only", "auto-read-only", "force-share", "cache.direct", "cache.no-flush" (bool) and
     * "discard" ("ignore", "unmap"). Only during open(). option_is_set: given or defaulted; for a
     * child: given, including null. The option_uint of a list is its number of elements; those are
     * options themselves, "LIST.0.FIELD", or "LIST.0" if fields has no names. */
    int (*option_is_set)(struct tidemark_node *node, const char *name);
    const char *(*option_string)(struct tidemark_node *node,
                                 const char *name);                        /* borrowed; or NULL */
    uint64_t (*option_uint)(struct tidemark_node *node, const char *name); /* unset: 0 */
    int (*option_bool)(struct tidemark_node *node, const char *name);      /* unset: 0 */

    /* Blocking I/O on child number @child (index into the driver's children). -ENOMEDIUM if there
     * is none. The flags of the callbacks can be handed on; EXCLUSIVE has no meaning for a
     * child and is dropped. */
    int (*child_info)(struct tidemark_node *node, uint32_t child, struct tidemark_info *info);
    int (*child_pread)(struct tidemark_node *node, uint32_t child, void *buf, uint64_t offset,
                       uint64_t length, uint32_t flags);
    int (*child_pwrite)(struct tidemark_node *node, uint32_t child, const void *buf,
                        uint64_t offset, uint64_t length, uint32_t flags);
    int (*child_flush)(struct tidemark_node *node, uint32_t child);
    int (*child_write_zeroes)(struct tidemark_node *node, uint32_t child, uint64_t offset,
                              uint64_t length, uint32_t flags);
    int (*child_discard)(struct tidemark_node *node, uint32_t child, uint64_t offset,
                         uint64_t length);
    /* Call this before a place that was mapped with MAPPED_MOVES is used for other data. The host
     * may have given pages of it to a client's socket; it detaches them from the file, so that the
     * client still gets the old data. On success the range reads as zeroes. flags:
     * TIDEMARK_MAY_UNMAP. -ENODATA: no page was given away, so nothing was changed, and the place
     * may be used. Any other error: the place must not be used again. Only from callbacks that may
     * block. */
    int (*child_invalidate)(struct tidemark_node *node, uint32_t child, uint64_t offset,
                            uint64_t length, uint32_t flags);
    int (*child_cache)(struct tidemark_node *node, uint32_t child, uint64_t offset,
                       uint64_t length);
    int (*child_resize)(struct tidemark_node *node, uint32_t child, uint64_t size);
    /* Grows the child to at least this size; concurrent calls are safe. Also from callbacks that
     * may block. */
    int (*child_grow)(struct tidemark_node *node, uint32_t child, uint64_t size);
    /* Bytes of the child; 0 if there is none. Costs nothing. */
    uint64_t (*child_size)(struct tidemark_node *node, uint32_t child);
    /* The child's block status from @offset on. status->kind is ZERO or SELF (data), flags may
     * have HOLE, and length is how far that holds. Meant for the map() of a filter that changes
     * bytes: it can pass on what is allocated, though what reads as zeroes in the child may not do
     * so in the filter. The only I/O is look-ups of metadata. -EINVAL: @offset is beyond the child.
     * From map() and the callbacks that may block. */
    int (*child_status)(struct tidemark_node *node, uint32_t child, uint64_t offset,
                        uint64_t length, struct tidemark_mapping *status);

    /* The transfer that start() began has ended: 0 (all of it) or -errno. -EAGAIN: the host
     * repeats it with pread or pwrite. The transfer and its buffer are the host's again. Any
     * thread that is not inside of a callback of a node. */
    void (*complete)(struct tidemark_transfer *transfer, int result);
    /* Copies the secret object @id to @buf, of @size bytes, and returns its length, which may be
     * larger than @size; no terminator is added. -ENOENT: there is none of that id, and the host
     * has the reason, as after error(). Only during open(). */
    int64_t (*secret)(struct tidemark_node *node, const char *id, void *buf, uint64_t size);
    /* A line of the log about the node, as a warning; printf-like. Any thread. */
    void (*log)(struct tidemark_node *node, const char *format, ...)
        __attribute__((format(printf, 2, 3)));
    /* Data that were written and not flushed could not be put on the medium: -errno. The log
     * reports it, and so does the exit status of the daemon. Only during close(). */
    void (*unfinished)(struct tidemark_node *node, int error);
};

/* What a plug-in exports; see the top. */
#define TIDEMARK_DRIVER_INIT "tidemark_driver_init"
typedef const struct tidemark_driver *(*tidemark_driver_init_fn)(const struct tidemark_host *host);

#ifdef __cplusplus
}
#endif
#endif
