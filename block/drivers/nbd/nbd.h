/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/nbd/nbd.h: a disk that is another NBD server's export.
 *
 *   nbd.c         options, opening, what the disk is
 *   server.c      where the server is, and how a handle of libnbd gets there
 *   facts.c       what a server says of its export, and whether that makes sense
 *   connection.c  one connection: a thread that connects, receives and, when it is lost, connects
 *                 again
 *   state.c       what happens to connections, and what that means for the disk
 *   send.c        which connection a command takes; who waits for one
 *   io.c          the callbacks: commands that are waited for, and those that complete later
 *   status.c      block status
 *
 * Commands are sent by whoever has them and complete on the thread of their connection, which waits
 * for nothing but its socket. A connection that breaks gives its commands back; who wants them done
 * sends them again.
 *
 * Locks, in order: of a disk, of a connection. Neither is held during a wait for the network or
 * while a command completes. libnbd owns the prefix nbd_. */
#pragma once
#include "block/registry.h"
#include "object/tls_creds.h"
#include "util/extent.h"

#include <libnbd.h>
#include <pthread.h>

#define BLK_NBD_CONNECTIONS 4u /* at most, where the server allows several */

typedef struct BlkNbdServer BlkNbdServer;
typedef struct BlkNbdConnection BlkNbdConnection;
typedef struct BlkNbdCommand BlkNbdCommand;

/* What a server says of the export, within sane bounds. */
typedef struct BlkNbdFacts {
    uint64_t size;
    uint32_t min, preferred; /* powers of two; preferred: or 0 */
    uint32_t max;            /* bytes of data in a request, a multiple of min */
    uint64_t max_range;      /* of a request without data */
    uint64_t max_zero;       /* of one that writes zeroes */
    bool read_only, flush, fua, trim, zero, fast_zero, cache, multi, status;
} BlkNbdFacts;

typedef struct BlkNbd {
    struct tidemark_node *node;
    BlkNbdServer *server;
    bool read_only;
    BlkNbdFacts facts; /* of the first connection; constant once open */
    uint64_t reconnect_us;

    pthread_mutex_t lock;   /* guards the rest but what is atomic */
    pthread_cond_t changed; /* a connection is up, or an attempt has failed, or ending */
    unsigned n;             /* connections; atomic */
    BlkNbdConnection *connections[BLK_NBD_CONNECTIONS];
    unsigned up; /* how many are */
    bool known;  /* facts are */
    bool closing;
    uint64_t attempts; /* that have failed */
    char *why;         /* the last one; or NULL */
    char *reported;    /* of why, in the log, since the last success */
    int64_t give_up;   /* when nobody waits for a connection any more; 0: nobody has begun to */
    int64_t end_at;    /* atomic; when all that is under way is broken off; 0: never */
    int64_t silent_at; /* atomic; when the server was found silent: what was up then is closed */
    /* durable.c */
    uint64_t era;                       /* atomic; how often a connection came up */
    uint64_t born[BLK_NBD_CONNECTIONS]; /* atomic; the era that each began; 0: it is down */
    uint64_t acked;                     /* changes that the server has answered */
    uint64_t flushed;                   /* of those, how many are on its medium */
    uint64_t oldest;                    /* the first era that one of the others was sent in */
    bool lost;                          /* atomic; not all of them can be flushed any more */
    uint64_t changes;                   /* atomic: begun and done, through this node */
} BlkNbd;

/* ---- server.c. From the options of the node; within open(). NULL: the host has the reason. */
BlkNbdServer *blk_nbd_server_new(struct tidemark_node *node);
void blk_nbd_server_free(BlkNbdServer *server);              /* NULL is fine */
const char *blk_nbd_server_text(const BlkNbdServer *server); /* for messages; borrowed */
/* A handle that has begun to connect, or NULL. Any thread; may wait for a name to be resolved. */
struct nbd_handle *blk_nbd_server_connect(const BlkNbdServer *server, GError **error);
/* TCP probes connections that are idle. */
bool blk_nbd_server_probed(const BlkNbdServer *server);
/* The context whose extents are block status. */
const char *blk_nbd_server_context(const BlkNbdServer *server);
bool blk_nbd_server_bitmap(const BlkNbdServer *server); /* it is x-dirty-bitmap's, so a must */
bool blk_nbd_server_depth(const BlkNbdServer *server);  /* it is allocation depth */
/* libnbd's last error in this thread, on the way to being ready. */
void blk_nbd_server_failed(const BlkNbdServer *server, GError **error);
/* QEMU's file name of such a node; NULL: there is none. Returned. */
char *blk_nbd_filename(struct tidemark_node *node);

/* ---- facts.c */
bool blk_nbd_facts(struct nbd_handle *nbd, const BlkNbdServer *server, BlkNbdFacts *facts,
                   GError **error);
/* Whether a disk of the facts @old can go on with @now. */
bool blk_nbd_facts_fit(const BlkNbdFacts *old, const BlkNbdFacts *now, bool read_only,
                       GError **error);

/* ---- connection.c */
typedef enum {
    BLK_NBD_READ,
    BLK_NBD_WRITE,
    BLK_NBD_FLUSH,
    BLK_NBD_TRIM,
    BLK_NBD_ZERO,
    BLK_NBD_CACHE,
    BLK_NBD_STATUS,
} BlkNbdOp;

/* The extents of an answer, as far as they are sane. */
typedef struct BlkNbdExtents {
    TmExtents x;     /* not merged */
    uint64_t length; /* of all of them */
    uint64_t most;   /* that were asked for */
    uint32_t min;    /* the server's minimum block */
    bool got;        /* an answer */
    bool end;        /* no more is taken */
    bool bad;        /* the server broke the rules */
} BlkNbdExtents;

struct BlkNbdCommand {
    BlkNbdOp op;
    uint32_t flags; /* LIBNBD_CMD_FLAG_* */
    uint64_t offset, length;
    void *buf;              /* READ, WRITE */
    BlkNbdExtents *extents; /* STATUS */
    /* Once, on the thread of the connection: 0 or -errno; -ENOTCONN: the connection broke, and the
     * command was carried out or not. */
    void (*done)(BlkNbdCommand *command, int result);
    void *opaque; /* whose command it is */

    uint64_t born; /* FLUSH: no younger connection is to take it; 0: any */

    uint64_t era; /* that it was sent in */
    /* the connection's */
    BlkNbdConnection *on;
    int error;
    BlkNbdCommand *next, **link;
};

/* Its thread connects at once. NULL: no thread. */
BlkNbdConnection *blk_nbd_connection_new(BlkNbd *disk, unsigned index);
/* Its thread is to end; no command is under way. */
void blk_nbd_connection_end(BlkNbdConnection *x);
void blk_nbd_connection_free(BlkNbdConnection *x); /* waits for the thread, which is to end */
/* Begins @command; done() is called if and only if that returns 0. -ENOTCONN: it is not up. Doesn't
 * wait. Any thread. */
int blk_nbd_connection_send(BlkNbdConnection *x, BlkNbdCommand *command);
unsigned blk_nbd_connection_load(const BlkNbdConnection *x); /* commands under way */
/* Its thread checks what has changed: ending, or somebody wants it. */
void blk_nbd_connection_wake(BlkNbdConnection *x, bool wanted);

/* ---- state.c. By connections, of what happens to them: */
/* The server has those facts. false: it is not to be used. */
bool blk_nbd_accepts(BlkNbd *disk, const BlkNbdFacts *facts, GError **error);
void blk_nbd_is_up(BlkNbd *disk, unsigned index);
void blk_nbd_is_down(BlkNbd *disk, unsigned index, const char *why);
void blk_nbd_attempt_failed(BlkNbd *disk, const char *why);

/* ---- send.c. By callbacks: begins @command on some connection, as blk_nbd_connection_send(). */
int blk_nbd_send(BlkNbd *disk, BlkNbdCommand *command);
/* Carries out @command, waiting as long as may be; done is its own. 0 or -errno; -ENOTCONN: there
 * is no connection, nor one within that time. */
int blk_nbd_run(BlkNbd *disk, BlkNbdCommand *command);
/* Waits for the first connection, up to the time @until. false: there is none, *error. */
bool blk_nbd_wait_open(BlkNbd *disk, int64_t until, GError **error);

/* ---- durable.c. Connection @index came up, or broke; disk->lock. */
void blk_nbd_durable_up(BlkNbd *disk, unsigned index);
void blk_nbd_durable_down(BlkNbd *disk, unsigned index);
/* The server has answered that it carried out @command, a change. */
void blk_nbd_acked(BlkNbd *disk, const BlkNbdCommand *command);
bool blk_nbd_lost(const BlkNbd *disk); /* no flush can succeed any more */
bool blk_nbd_unflushed(BlkNbd *disk);  /* there is something to flush */
/* Around a flush, @command: returns how many changes it is for; and its result, once it had @ret
 * for one, -ENOTCONN: there was no connection. */
uint64_t blk_nbd_flush_begin(BlkNbd *disk, BlkNbdCommand *command);
int blk_nbd_flush_end(BlkNbd *disk, uint64_t acked, int ret);

/* ---- io.c, status.c: the callbacks */
int blk_nbd_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags);
int blk_nbd_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length, uint32_t flags);
int blk_nbd_flush(void *handle);
int blk_nbd_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags);
int blk_nbd_discard(void *handle, uint64_t offset, uint64_t length);
int blk_nbd_cache(void *handle, uint64_t offset, uint64_t length);
int blk_nbd_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                struct tidemark_mapping *mapping);
void blk_nbd_wrote(void *handle, uint64_t offset, uint64_t length);
int blk_nbd_start(void *handle, struct tidemark_transfer *transfer);
/* For the table of built-in drivers. */
void blk_nbd_hurry(void *handle); /* nbd.c */
