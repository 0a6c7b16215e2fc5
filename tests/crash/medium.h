/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/medium.h: the simulated medium: files under a TmSys whose power can be cut.
 *
 * Files live in memory. What a program sees is the page cache: every write and every store through
 * a mapping at once. What survives a loss of power is kept apart: the state at the last completed
 * sync, and each change since, as
 *     one sector (512 bytes) of one file, one change of length, one of the directory (create,
 *     rename, unlink), of an extended attribute, of a modification time.
 * A loss of power keeps any subset of the changes, applied in order: so a sector has its old
 * content or that of any later moment at which it was observed, independently of all others.
 *
 * An "event" is a moment at which the power may be cut: after each change that a call makes (its
 * sectors are then still separate changes, so the call may be cut anywhere), before a sync, after
 * it. Stores through a mapping are noticed at events.
 *
 * A sync that fails leaves what it was to write in doubt for good: kept or dropped, whatever later
 * syncs say, until it is written again. That is what Linux does.
 *
 * Names are "/m/NAME"; "/m" can be opened and synced. The disks are files without content: only
 * size, times and attributes. Their descriptors are real ones (of empty files), as users may dup
 * them.
 *
 * One thread. A TmSys has no context, so medium_use() says which medium its calls go to. */
#pragma once
#include "tests/crash/rng.h"
#include "util/sys.h"
#include <glib.h>
#include <stdbool.h>

#define SECTOR           512u
#define MEDIUM_PAGE      4096u
#define MEDIUM_FILE_MAX  (UINT32_C(1) << 20)
#define MEDIUM_INODES    24u
#define MEDIUM_NAMES     12u
#define MEDIUM_FDS       32u
#define MEDIUM_DISKS     2u
#define MEDIUM_XATTR_MAX 512u

typedef enum {
    CHANGE_SECTOR,
    CHANGE_LENGTH,
    CHANGE_ENTRY,
    CHANGE_XATTR,
    CHANGE_MTIME,
} ChangeKind;

typedef struct Change {
    ChangeKind kind;
    bool lost;       /* its sync has failed */
    bool mapped;     /* made through a mapping, not by a call */
    uint32_t event;  /* when it was made */
    int inode;       /* of what; ENTRY: what the name stands for then, -1 nothing */
    uint32_t sector; /* SECTOR: which; ENTRY: the name */
    int from;        /* ENTRY: a name that is gone at the same instant, or -1 */
    uint64_t value;  /* LENGTH: bytes; MTIME: nanoseconds; XATTR: length + 1, 0 is none */
    uint8_t bytes[SECTOR];
} Change;

/* A file at one moment. */
typedef struct Image {
    uint8_t *data; /* MEDIUM_FILE_MAX; zero beyond the size; NULL: never used or a disk's */
    size_t high;   /* nothing but zeroes from here on */
    uint64_t size;
    uint64_t mtime; /* nanoseconds */
    int xattr;      /* its length, -1: none */
    uint8_t xattr_value[MEDIUM_XATTR_MAX];
    bool allocated[MEDIUM_FILE_MAX / MEDIUM_PAGE];
} Image;

typedef struct Inode {
    bool used, disk;
    bool unwritten; /* writing it back has failed, and no sync has reported it: the next one does */
    unsigned fds;   /* descriptors and mappings */
    uint32_t serial;
    Image now, base;
    uint8_t *seen; /* now.data at the last look */
    size_t seen_high;
} Inode;

typedef struct MediumFd {
    int inode; /* -1: free, -2: the directory */
    bool writable;
    short lock;
} MediumFd;

typedef enum { /* calls that can be made to fail */
               CALL_WRITE = 1,
               CALL_SYNC = 2,     /* of files; of the directory: CALL_DIRECTORY */
               CALL_ALLOCATE = 4, /* fallocate, ftruncate beyond the end */
               CALL_OPEN = 8,
               CALL_DIRECTORY = 16, /* unlink, rename, its sync */
               CALL_READ = 32,
               CALL_MMAP = 64,
} MediumCall;

typedef struct MediumFault {
    unsigned calls; /* MediumCall */
    unsigned after; /* how many of them pass first */
    unsigned times; /* how many fail then; 0: none */
    int error;
    bool partial; /* a write does a part first */
    bool whole;   /* a write does all of it, and fails */
    unsigned hits;
} MediumFault;

typedef struct Medium {
    Inode inodes[MEDIUM_INODES];
    char *names[MEDIUM_NAMES];
    int entry[MEDIUM_NAMES], base_entry[MEDIUM_NAMES]; /* inode or -1 */
    MediumFd fds[MEDIUM_FDS];
    unsigned mappings;
    bool recording; /* changes and events; else only the page cache exists */
    GArray *changes;
    uint32_t event; /* number of the next */
    uint64_t clock;
    uint32_t serials;
    unsigned writes; /* calls that changed something */
    unsigned syncs;
    MediumFault fault;
    bool full;       /* nothing gets space that has none: ENOSPC */
    char *violation; /* the first rule of the medium that was broken */
    /* The power may be cut here; @what names the call. */
    void (*on_event)(void *opaque, const char *what);
    void *opaque;
} Medium;

extern const TmSys medium_sys;

Medium *medium_new(bool recording);
void medium_free(Medium *m);
/* Where the calls of medium_sys go; returns where they went before. */
Medium *medium_use(Medium *m);
Medium *medium_used(void);

/* An empty medium with nothing on it. */
void medium_reset(Medium *m);
/* The disk @n (below MEDIUM_DISKS) as "/m/diskN", durable. */
void medium_make_disk(Medium *m, unsigned n, uint64_t size);
/* The real descriptor of disk @n, the same for all media. */
int medium_disk_fd(unsigned n);
uint64_t medium_disk_size(Medium *m, unsigned n);
/* Whether a sync of the disk has failed, and some of what it was to write is in doubt. */
bool medium_disk_lost(Medium *m, unsigned n);
/* Somebody writes to it: its time moves. */
void medium_disk_written(Medium *m, unsigned n);
void medium_disk_resize(Medium *m, unsigned n, uint64_t size);

/* Notices stores through mappings, then an event. */
void medium_observe(Medium *m, const char *what);

/* *to (not the same) = what is left of @from, when of its changes those with kept[i] != 0 are.
 * NULL: all of them, which is also what the page cache holds. Nothing is open in it. */
void medium_cut(Medium *to, const Medium *from, const uint8_t *kept);
/* Which changes state @state of the last event keeps: all (0), none (1), or some. */
void medium_choose(const Medium *m, Rng *rng, uint8_t *kept, uint64_t state);
/* Over the directory, sizes, attributes and contents. */
uint64_t medium_hash(const Medium *m);
/* The process has died: nothing is open any more. */
void medium_close_all(Medium *m);
/* Descriptors and mappings that are open. */
unsigned medium_open_count(const Medium *m);

/* The file of that name now, or NULL. */
Image *medium_file(Medium *m, const char *name);
/* Takes the real file @path onto the medium in use as @name, durable; false: it can't be. */
bool medium_take(const char *name, const char *path);
/* Writes the files into the directory @path of the real file system. */
void medium_dump(const Medium *m, const char *path);
