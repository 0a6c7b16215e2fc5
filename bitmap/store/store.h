/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/store.h: where the persistent bitmaps of a disk live: one file (format.h) beside a
 * raw disk, for one BmpSet.
 *
 * A set with a store behaves as before, and besides:
 *  - bitmaps with persistent=true are in the store, which is created with the first and removed
 *    with the last;
 *  - bmp_set_mark_begin() marks the store's journal, too;
 *  - a change that touches persistent bitmaps ends with bmp_set_commit(), which writes the new
 *    state so that a crash leaves the state before it or after it.
 *
 * RAM is the truth while the set lives; the store is what an opening starts from. When the store
 * fails, writes go on, the persistent bitmaps are "degraded", the store is marked distrusted if
 * that can still be written and removed if not, and bmp_set_wants_commit() asks for a change with a
 * commit, which writes everything anew and heals.
 *
 * What an opening finds (R names are the tests'):
 *  R1  closed cleanly, disk unchanged since: the bitmaps as they were.
 *  R2  not closed, the page cache has survived (same boot, same file): catalogue and journal:
 *      exact.
 *  R3  not closed, power lost: the same, and intents dirty; with BMP_DURABLE_PROCESS everything
 *      dirty in enabled bitmaps.
 *  R4  closed cleanly, but size or modification time of the disk (regular files) differ, or the
 *      disk has another store's mark: enabled bitmaps inconsistent, unless accepted; disabled ones
 *      are a record of the past and stay.
 *  R5  not closed, and the disk's size differs: a resize was cut short: grown part dirty, or cut.
 *      Not closed, and it is not the same disk: as R4.
 *  R6  damage: what can't be believed is dirty, or, where nothing can, the bitmap is inconsistent
 *      or, with its name lost, gone; each is reported. The disk opens all the same.
 *  R7  distrusted: enabled bitmaps all dirty.
 *
 * The disk carries the store's uuid in the extended attribute BMP_STORE_XATTR, where its file
 * system has such: so a store that is missing or another disk's is noticed.
 *
 * Images that keep bitmaps themselves (BmpImage) have them in a store only while they are open for
 * writing. The image says then that the store beside it is its own ("beside"), which anybody else
 * who writes to it takes back. So:
 *  I1  beside, and the store is there: the store says what there is.
 *  I2  else the image does, and a store that lies there is of the past, and is removed.
 * At the end everything goes into the image, and then the store goes.
 *
 * Exclusive: a writable set holds an OFD write lock on the store's file. A read-only one has what
 * was there when it was opened, and of a store that somebody writes nothing.
 *
 * Threads: main, with the disk's requests drained, but for what says otherwise. bmp_set_commit()
 * and opening do blocking I/O, under the set's lock. */
#pragma once
#include "bitmap/bitmap.h"
#include "bitmap/store/counts.h"
#include "bitmap/store/format.h"
#include "bitmap/store/keeper.h"
#include "bitmap/store/record.h"
#include "util/sys.h"

#define BMP_STORE_SUFFIX ".bitmaps"
#define BMP_STORE_XATTR  "user.tidemark.bitmaps" /* uuids, 32 hex digits each, spaces between */
#define BMP_MARKS_MAX    15u                     /* they fit in 512 bytes */

/* What happened to persistent bitmaps. @bitmap: its name, NULL: all of the node. Called on the
 * thread that noticed, possibly under the set's lock: must not call into the set. */
typedef struct BmpReport {
    bool healed;        /* all is well again; else degraded */
    const char *bitmap; /* borrowed */
    const char *reason; /* borrowed; one line */
    uint64_t recovered; /* bytes dirty only because of it, if known; 0 else */
    bool inconsistent;  /* the bitmap can't be used */
    bool unfinished;    /* it was a checkpoint of a backup that has not ended, and is gone */
} BmpReport;
typedef void (*BmpReportFn)(void *opaque, const BmpReport *report);

/* What an image keeps. Called with the set's lock held; must not call into the set. */
typedef struct BmpImage {
    bool beside;
    /* Appends a BmpRecord for each, and a line (g_free) for each thing that is wrong and of no one
     * bitmap. false: what there is is unknown; it may be opened for reading only. */
    bool (*load)(void *opaque, GArray *records, GPtrArray *problems, GError **error);
    /* Whether there is room for another: there are @n, whose names take @names bytes, each rounded
     * up to 8. */
    bool (*may_add)(void *opaque, const char *name, uint64_t granularity, size_t n, uint64_t names,
                    GError **error);
} BmpImage;

typedef struct BmpStoreOptions {
    const TmSys *sys; /* borrowed */
    const char *path; /* of the store's file; copied; NULL: there is only the image */
    /* Who has the store, which then is no file, and @path its name for messages; copied; NULL: it
     * is one. */
    const BmpKeeper *keeper;
    int disk_fd;         /* of the disk, for identity and xattr; dup'ed; -1: unknown */
    const char *layer;   /* name of the node's driver; a store of another layer is left alone */
    uint8_t boot_id[16]; /* of this boot */
    BmpDurability durability;
    bool read_only;            /* the node is: nothing is written */
    bool shared;               /* others may have written to the disk, which nothing shows */
    bool accept_changed;       /* R4: trust the bitmaps although the disk has changed */
    unsigned region_shift_min; /* 0: BMP_REGION_SHIFT_MIN; tests use smaller ones */
    const BmpImage *image;     /* borrowed, static but for beside; or NULL */
    /* Makes durable what was written to the disk until now; or NULL. Called before each commit,
     * within the change and with the set's lock held; must not call into the set. */
    bool (*flush)(void *opaque, GError **error);
    BmpReportFn report;
    void *opaque; /* for the report, the flush and the image */
} BmpStoreOptions;

/* Gives a set without bitmaps a place for persistent ones, and brings back those that are there.
 * false only if the set may not go on without: the store is locked by somebody else, or lies where
 * nothing can be opened though the disk is marked as having one there and is opened for writing
 * (any error but ENOENT). Everything else is reported and survived. Without this call
 * persistent=true is refused. */
bool bmp_set_open_store(BmpSet *set, const BmpStoreOptions *options, GError **error);
/* Writes the clean end: after the last write has completed, and the disk's driver has closed; call
 * before bmp_set_free() (which without it leaves the store as a crash would). false: it could not
 * be written, which was reported, and the store is distrusted. */
bool bmp_set_close_store(BmpSet *set);
/* The same where the disk goes on being written, and later nobody could know: the store says that
 * it is out of date, and the next opening finds all dirty. */
bool bmp_set_leave_store(BmpSet *set);

/* The node is opened anew, for reading only or for writing. Rest: as the close above, or where
 * @left is true as the leaving, before the disk can be changed by others; bitmaps stay; false: as
 * there, and others must be kept out. Wake: after it, whether it has rested or not. A store that
 * was read-only so far is compared with the disk as by an opening (R4, R5), and false says that
 * it can't be had for writing: then it still is read-only. Both harmless without a store. */
bool bmp_set_rest_store(BmpSet *set, bool left);
bool bmp_set_wake_store(BmpSet *set, bool read_only, bool accept_changed, GError **error);

/* ---- a disk that has lost data */

#define BMP_LOSS                                                                                   \
    "a flush of the disk has failed: what was written before may be lost, so all is dirty"

/* A flush has failed, and the kernel has dropped what it could not write: what is read may not be
 * on the medium, and what was read before may go. Whatever begins from now on is dirty everywhere,
 * and so is what is in memory only. (Persistent ones began after a flush, and have recorded all
 * that may be lost.) The store says so to openings, until the machine is started again. Main, not
 * within a change. Once is enough. */
void bmp_set_lose(BmpSet *set);
bool bmp_set_lossy(BmpSet *set); /* any thread */

/* ---- sets of images */

/* The persistent bitmaps as they are now: BmpRecord (g_array_unref). */
GArray *bmp_set_records(BmpSet *set);
/* Within a change: names of persistent ones that it has removed; g_ptr_array_unref. */
GPtrArray *bmp_set_removed_names(BmpSet *set);
/* All of it is in the image: the store goes. */
void bmp_set_drop_store(BmpSet *set);
/* Whether the store is what to believe after a crash: it is there and has not failed. */
bool bmp_set_store_sound(BmpSet *set);
/* The image is open anew; as bmp_set_wake_store(). @dropped: the store went before. */
bool bmp_set_wake_image(BmpSet *set, const BmpImage *image, bool read_only, bool dropped,
                        GError **error);
/* Something that the image says goes to the set's report. */
void bmp_set_report(BmpSet *set, const BmpReport *report);

/* Path of the store, borrowed, or NULL; whether it holds bitmaps now. */
const char *bmp_set_store_path(BmpSet *set);
bool bmp_set_store_exists(BmpSet *set);
bool bmp_set_has_persistent(BmpSet *set);
/* Whether bmp_set_tick() has more to do than to see whether the store was deleted. */
bool bmp_set_tick_due(BmpSet *set);

/* Within a change of these sets, after all is done and before bmp_set_change_end(): makes it
 * durable, if persistent bitmaps were touched (else returns at once). The disks are flushed first:
 * what a record calls clean is on the medium before the record is. For several sets all or none,
 * also after a crash. false: nothing has changed in any store; take the change back. */
bool bmp_set_commit(BmpSet *const *sets, size_t n, GError **error);
/* A backup is about to begin a bitmap of that name, persistent and unfinished, in a change that is
 * not committed. Should the daemon die, the next opening reports it, as it does those that were
 * committed; after a loss of power only if the note has reached the medium, as this waits for
 * nothing. NULL: those alone that the set has. Not within a change. false: there is no store that
 * can note it, so it is to be committed. */
bool bmp_set_note_backup(BmpSet *set, const char *checkpoint);
/* Within a change: what enabled bitmaps say is not to be believed any more: they are
 * inconsistent; with @stored the persistent ones, too. */
void bmp_set_distrust(BmpSet *set, bool stored, const char *why);
/* Why there is no place for persistent bitmaps, where there is none; copied. */
void bmp_set_refuse_store(BmpSet *set, const char *why);
/* The disk is opened anew: that is its descriptor now (dup'ed). */
void bmp_set_change_disk(BmpSet *set, int disk_fd);
/* Within a change that can't be taken back and could not be committed: the store is out of date. */
void bmp_set_distrust_store(BmpSet *set, const char *why);
/* Whether an empty change with a commit should be made (healing; any thread). */
bool bmp_set_wants_commit(BmpSet *set);
/* Time passes: syncs what was marked. A worker, about once a second; harmless without a store. */
void bmp_set_tick(BmpSet *set);

/* What the store has written since it was opened. */
typedef struct BmpStoreFigures {
    BmpStoreCounts counts;
    unsigned open; /* intents in force: their ranges count as dirty after a loss of power */
} BmpStoreFigures;
/* false: the set has no store. Any thread. */
bool bmp_set_store_figures(BmpSet *set, BmpStoreFigures *figures);

/* ---- which disk it is */

typedef struct BmpIdentity {
    bool known;       /* there is a descriptor */
    bool device;      /* a block device */
    unsigned n_marks; /* stores that the disk is marked with */
    uint8_t marks[BMP_MARKS_MAX][16];
    uint64_t dev, ino, size; /* of a device: its own number, 0, 0 */
    int64_t mtime_sec, birth_sec;
    uint32_t mtime_nsec, birth_nsec;    /* birth 0, 0: unknown */
    uint64_t serial, instance, written; /* of a device; as in BmpSuper */
} BmpIdentity;

/* Of a loop device: that of its file, if that can be opened. Any thread. */
void bmp_identity_read(const TmSys *sys, int disk_fd, BmpIdentity *identity);
/* Before it is read: what was written to a block device is counted only when it gets there. 0 or
 * -errno. */
int bmp_identity_sync(const TmSys *sys, int disk_fd);
/* Waits until whoever writes to the disk from now on gives it a time of modification that it does
 * not have yet: two seconds at most, where its file system has coarse ones. */
void bmp_identity_settle(const TmSys *sys, int disk_fd);
/* Why a disk that nobody should have had open meanwhile is not what it was @before (g_free), or
 * NULL. */
char *bmp_identity_changed(const BmpIdentity *before, const BmpIdentity *now);
/* For files that more than one machine may reach: whether it is known that nobody has written to
 * the disk since it was as @before; and whether it is the same disk, whatever was written to it. A
 * copy with the time of the original is as good. false: no, or it can't be known, as of devices. */
bool bmp_identity_unchanged(const BmpIdentity *before, const BmpIdentity *now);
bool bmp_identity_same(const BmpIdentity *before, const BmpIdentity *now);
/* Whether the set has that store open for writing. */
bool bmp_set_follows(const BmpSet *set, const uint8_t uuid[16]);
/* Before somebody writes to the disk: of the stores that it is marked with those stay that are
 * @open for writing, by whatever set; the others will find out. Durable; false: it can't be said,
 * and the disk must not be written. */
bool bmp_disk_claim(const TmSys *sys, int disk_fd,
                    bool (*open)(void *opaque, const uint8_t uuid[16]), void *opaque,
                    GError **error);

/* ---- without a daemon: what a store's file holds */
typedef struct BmpStoreInfo {
    BmpSuper super;
    bool usable;         /* super and at least a catalogue that says what bitmaps there are */
    bool in_use;         /* locked by a writer */
    GPtrArray *records;  /* BmpRecord, as an opening would find them */
    GPtrArray *problems; /* char *: one line each, as an opening would report them */
    uint64_t file_size;
} BmpStoreInfo;

/* Reads the store at @path as an opening would, changing nothing. @disk: the image, to compare
 * with, or NULL. false: the file can't be read at all or is no store. */
bool bmp_store_inspect(const TmSys *sys, const char *path, const char *disk,
                       const uint8_t boot_id[16], BmpStoreInfo *info, GError **error);
/* Makes the safest usable state of it, closed and with the disk's identity as it is now: the file
 * is replaced as a whole. Errors: in use; nothing is known of its content. */
bool bmp_store_repair(const TmSys *sys, const char *path, const char *disk,
                      const uint8_t boot_id[16], GError **error);
void bmp_store_info_clear(BmpStoreInfo *info);
