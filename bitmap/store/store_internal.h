/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/store_internal.h: what a store is made of (inside bitmap/ only); store.h is for
 * users.
 *
 * Invariants:
 *  - @super is in force: at least one copy on the medium is equal to it, and no valid one is newer
 *    (else the store has failed);
 *  - nothing within an extent that @super names is written, but for the journal's marks
 *    and entries;
 *  - @fd is locked as long as it is open, but for readers, who keep nobody out.
 *
 * Locks: the set's, which main holds through changes; store->lock guards failing, which may happen
 * on any thread. It ranks below the set's and is held over I/O: who comes meanwhile has to wait for
 * exactly that. */
#pragma once
#include "bitmap/set_internal.h"
#include "bitmap/store/catalogue.h"
#include "bitmap/store/journal.h"
#include "bitmap/store/mirror.h"
#include "bitmap/store/store.h"

typedef struct BmpStore {
    BmpStoreOptions o;
    BmpImage image;     /* o.image points to it, where it is not NULL */
    char *path, *layer; /* owned; o points to them */
    int fd;             /* -1: there is no file */
    BmpMirror *mirror;  /* the file is in memory, and a keeper has it; or NULL */
    int disk_fd;
    BmpSuper super;
    unsigned stale_copy; /* the copy to be written first */
    BmpSuper other;      /* the other copy, as long as it may still count: its extents are kept */
    uint64_t last_epoch; /* no entry of the file has a newer stamp */
    BmpSet *set;         /* the one that has it; borrowed */
    bool catalogue_good; /* what super names is what the bitmaps were after the last commit */
    bool doubted;        /* bitmaps have become inconsistent since (bmp_set_distrust) */
    bool journal_sound;  /* the journal that super names has a table without damage */
    bool full_reported;  /* that the journal has no room (atomic) */
    bool barred;         /* something that isn't ours lies at the path */
    bool replace;        /* a ruin lies at the path, to be replaced */
    bool resting;        /* closed cleanly, to be woken (bmp_set_wake_store) */
    bool marked;         /* the disk carries its uuid, on the medium */
    bool keep_empty;     /* found so: others may have to ask it how a group ended (F9) */

    BmpStoreCounts counts; /* atomic */

    pthread_mutex_t ticking; /* held by a tick, and by commits, which change the journal */
    pthread_mutex_t lock;
    bool failed;      /* atomic; under the lock */
    char *failure;    /* under the lock */
    GByteArray *note; /* under the lock: what a commit has yet to store (note.c); or NULL */
} BmpStore;

/* ---- file.c: the file. All: true or *error */

/* Opens, locks for a writer, and checks that the path still names what was locked. *fd is -1 and
 * the result true if there is no file; on failure *fd is -errno, -EAGAIN for a lock. */
bool bmp_store_file_open(const TmSys *sys, const char *path, bool read_only, int *fd,
                         GError **error);
/* Whether another one has it open for writing. */
bool bmp_store_file_locked(const TmSys *sys, int fd);
/* A new file under PATH.tmp, locked. */
bool bmp_store_file_create(const TmSys *sys, const char *path, int *fd, GError **error);
/* Whether @path names the file that is open as @fd. */
bool bmp_store_file_named(const TmSys *sys, int fd, const char *path);
/* Whether the path is free. */
bool bmp_store_file_absent(const TmSys *sys, const char *path, GError **error);
/* Gives the file its name, for good. */
bool bmp_store_file_publish(const TmSys *sys, const char *path, GError **error);
bool bmp_store_file_remove(const TmSys *sys, const char *path, GError **error);

/* ---- file.c: the same of a store, whether its file has a keeper or not */

/* *fd is -1 and the result true if there is none; for who writes it is locked. */
bool bmp_store_find(const BmpStore *store, int *fd, GError **error);
/* From who reads: whether somebody has it open for writing. */
bool bmp_store_is_written(const BmpStore *store);
bool bmp_store_create(const BmpStore *store, int *fd, GError **error);
/* Whether the file that is open as @fd is the one that the next opening finds, ... */
bool bmp_store_is_named(const BmpStore *store, int fd);
/* ... becomes that, or there is none any more. */
bool bmp_store_publish(const BmpStore *store, int fd, GError **error);
bool bmp_store_remove(const BmpStore *store, GError **error);
/* 0 or -errno */
int bmp_store_write(const BmpStore *store, int fd, const void *data, uint64_t length,
                    uint64_t offset);
int bmp_store_sync(const BmpStore *store, int fd);
int bmp_store_write_super(const BmpStore *store, int fd, unsigned copy, const BmpSuper *super);

/* Reads up to @length; the bytes read. */
uint64_t bmp_store_read(const TmSys *sys, int fd, void *data, uint64_t length, uint64_t offset);

/* ---- identity.c: which disk it is */
/* Reads it, and returns what the rest is to be asked of: disk_fd, or the file of a loop device,
 * which bmp_identity_close() closes. */
int bmp_identity_open(const TmSys *sys, int disk_fd, BmpIdentity *identity);
void bmp_identity_close(const TmSys *sys, int disk_fd, int fd);
/* What a superblock says of the disk. */
void bmp_identity_put(const BmpIdentity *disk, BmpSuper *super);
/* Whether disk and store (@store_ino: the inode of its file) are both copies: the disk has the mark
 * of the store that was open with another file. Such a pair is what a loss of power leaves. */
bool bmp_identity_moved_with(const BmpSuper *super, const BmpIdentity *disk, uint64_t store_ino);
/* Whether the disk is not what the store was left with, and why (g_free); R4, R5. */
char *bmp_identity_differs(const BmpSuper *super, const BmpIdentity *disk, uint64_t disk_size,
                           uint64_t store_ino, const uint8_t boot_id[16]);

/* Whether the store of that uuid is marked on the disk. */
bool bmp_identity_has(const BmpIdentity *disk, const uint8_t uuid[16]);

/* ---- marks.c */
/* Whether the disk carries the uuid, for good: not every disk can. -errno: it could not be synced,
 * and nothing has changed. */
int bmp_identity_mark(const TmSys *sys, int disk_fd, const uint8_t uuid[16], bool *marked);
bool bmp_identity_unmark(const TmSys *sys, int disk_fd, const uint8_t uuid[16]);
char *bmp_uuid_text(const uint8_t uuid[16]); /* 32 hex digits; g_free */

/* ---- device.c: what the kernel knows of a block device */
void bmp_device_read(const TmSys *sys, uint64_t number, BmpIdentity *identity);
/* The file that a loop device is, opened for reading; -1: it is none, or its file can't be had. */
int bmp_device_loop_file(const TmSys *sys, int fd, uint64_t number);

/* ---- recover.c: what a file says; reading only */
typedef struct BmpRecovered {
    enum {
        BMP_FOUND_NOTHING, /* no store, or one of another layer or version: leave it alone */
        BMP_FOUND_DAMAGED, /* it was a store; nothing is known but what is in records */
        BMP_FOUND_STORE,
    } verdict;
    bool other_layer;
    BmpSuper super;      /* FOUND_STORE */
    unsigned stale_copy; /* the one that is not equal to super */
    BmpSuper other;      /* what that says, where it may count until super is written (F9) */
    bool as_stored;      /* the records are what the catalogue on the medium says */
    GArray *records;     /* BmpRecord */
    GPtrArray *reports;  /* Problem */
    GPtrArray *noted;    /* char *: bitmaps that backups had begun and nobody has stored */
} BmpRecovered;

typedef struct BmpProblem {
    char *bitmap; /* or NULL */
    char *reason;
    uint64_t recovered;
    bool inconsistent, unfinished;
} BmpProblem;

typedef struct BmpRecoverOptions {
    const TmSys *sys;
    const char *path;
    int fd;
    const char *layer; /* NULL: any */
    const BmpIdentity *disk;
    uint64_t disk_size;
    bool size_known;
    const uint8_t *boot_id;
    bool shared;
    bool accept_changed;
    bool unsynced; /* some of it may not be on the medium: as after a loss of power */
    bool kept;     /* by a keeper: what it has of an open store is what a loss of power leaves */
} BmpRecoverOptions;

void bmp_recover(const BmpRecoverOptions *options, BmpRecovered *out);
/* Checkpoints of backups that died with the daemon are not brought back, but for those that @set
 * (or NULL) has: its backup goes on. Reported. */
void bmp_recovered_drop_unfinished(BmpRecovered *out, BmpSet *set);
/* Whether the disks of that layer are as large as the file or device that they are in. */
bool bmp_layer_is_whole_file(const char *layer);
void bmp_recovered_init(BmpRecovered *out);
void bmp_recovered_clear(BmpRecovered *out);
void bmp_recovered_problem(BmpRecovered *out, const char *bitmap, uint64_t recovered,
                           bool inconsistent, const char *format, ...) G_GNUC_PRINTF(5, 6);

/* ---- commit.c */

/* Writes the set's persistent bitmaps; within a change. @state: what the superblock is to say. */
bool bmp_store_commit(BmpStore *store, BmpStoreState state, GError **error);
/* The same for records that no set has: a file at @path, which may be there already. */
bool bmp_store_write_new(BmpStore *store, const BmpRecord *records, size_t n, BmpStoreState state,
                         GError **error);

/* ---- note.c */

/* There is one: writes it as of the state in force; whether it could be. The lock is held. */
bool bmp_note_write(BmpStore *store);
void bmp_note_clear(BmpStore *store);
/* What the note says of the state that @super stands for: names; g_ptr_array_unref. */
GPtrArray *bmp_note_read(const TmSys *sys, int fd, const BmpSuper *super);

/* ---- image.c */

/* What the image keeps is what there is; a store that lies there goes. */
bool bmp_store_open_image(BmpStore *store, GError **error);

/* ---- open.c */

/* Brings back what the file says, or nothing if there is none. *present: something was. false: the
 * disk may not be opened. */
bool bmp_store_open_file(BmpStore *store, bool *present, GError **error);
bool bmp_store_has_persistent(const BmpSet *set);
/* Takes the records of bitmaps that the set has out of @records. What has none was taken away by
 * somebody else. */
void bmp_store_confirm(BmpSet *set, GArray *records);

/* ---- failure.c */

bool bmp_store_has_failed(BmpStore *store);
/* It is well again; whether it had failed. */
bool bmp_store_clear_failure(BmpStore *store);
/* Once: distrusts or removes the file, reports, and lets marks pass. Any thread. */
void bmp_store_fail(BmpStore *store, int err, const char *what);
/* Within a change: fails if the file was deleted. */
void bmp_store_check_deleted(BmpStore *store);
/* Once: regions are CROWDED for want of room. Any thread. */
void bmp_store_report_full(BmpStore *store);
void bmp_store_report(BmpStore *store, const BmpReport *report);
/* Within the set's life, nobody marking: what marks go to. Takes the journal and closes the
 * old one. */
void bmp_store_set_journal(BmpStore *store, BmpJournal *journal);

/* ---- store.c */

void bmp_store_free(BmpStore *store);

/* ---- what bitmap_change.c does for the store, with the set's lock held, within a change */
void bmp_bitmap_load(BmpSet *set, BmpRecord *record); /* takes what it holds */
void bmp_bitmap_save(BmpBitmap *bitmap, BmpRecord *record);
/* It is what the set has had all along, and what its store says now is added to it. */
void bmp_bitmap_confirm(BmpBitmap *bitmap, const BmpRecord *record);
