/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/server_internal.h: what the files of server/ share.
 *
 * A session is one connection. Its input belongs to one thread at a time, the owner: whoever runs
 * the ready handler of its source. Its output is a queue that any thread may append to; one thread
 * at a time sends.
 *
 * How the owner answers: everything that has arrived is received at once into a chunk; each request
 * is tried inline, and the replies gather in a batch, which is sent with one call when the input is
 * used up. A request that completes later becomes an output item of its own.
 *
 * A busy session stays on its thread for a while: instead of arming its source, the owner waits a
 * few milliseconds in recv for what comes next, as long as the engine has loops to spare.  The
 * descriptor is therefore a blocking one, and every other call on it says MSG_DONTWAIT; but that of
 * a session with large reads is not, since sendfile(2) has no flag for it.
 *
 * Invariants:
 *  N1  The source is armed only by its owner, or by who takes it out of the paused state.
 *  N2  The second descriptor (the writer) is armed only while the socket is full; then it holds
 *      a reference and owns the sending. If there is none, the clock runs it (session->retry).
 *  N3  A session is freed when its reader has ended and every request has been answered: refs is 0.
 *  N4  Requests and held bytes of a session are bounded (NBDS_REQUESTS_MAX, nbds_limits_over()):
 *      above them, or while the socket is full, nothing more is received.
 *
 * Locks, all leaves: server->lock (services, sessions, listeners), server->pool_lock (free lists),
 * session->lock (output queue, paused). Nothing is called under them but epoll_ctl and shutdown. */
#pragma once
#include "block/engine/engine.h"
#include "block/export/export.h"
#include "block/io/request.h"
#include "server/nbd/proto.h"
#include "server/server.h"
#include "util/sync.h"
#include "util/unix_socket.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define NBDS_CHUNK        (512u << 10) /* bytes of a usual chunk */
#define NBDS_CHUNK_LARGE  (2u << 20)   /* of one for large requests; beyond it they fit exactly */
#define NBDS_IOV          512u
#define NBDS_STASH        32u   /* of a beginning that an idle session keeps */
#define NBDS_EFFORT       64u   /* of block status before others have their turn, see status.c */
#define NBDS_REPLY_MAX    192u  /* bytes of a reply without data */
#define NBDS_REQUESTS_MAX 1024u /* a session's, not answered yet */
#define NBDS_COMMANDS     8u    /* those that there are, from 0 on */
#define NBDS_EVENTS_MAX   500u  /* clients a second that make events */
#define NBDS_QUERIES_MAX  4096u /* queries of one metadata option */
/* Bytes of a read from which holes are looked for beforehand; from which its data don't pass
 * through here. */
#define NBDS_SPARSE_MIN   (64u << 10)
#define NBDS_SENDFILE_MIN (64u << 10)

typedef struct NbdsSession NbdsSession;
typedef struct NbdsRequest NbdsRequest;
typedef struct NbdsListener NbdsListener;
typedef struct NbdsService NbdsService;
typedef struct NbdsTls NbdsTls;
typedef struct NbdsStatus NbdsStatus;

/* ---- buffer.c: memory of the wire */

/* A page-aligned buffer. Who takes one out of the pool owns it and holds two references, its own
 * and a spare one: a request that uses a part of it takes the spare before it is submitted, at no
 * cost, and only if it does not complete at once the owner replaces the spare. */
typedef struct NbdsChunk NbdsChunk;
struct NbdsChunk {
    NbdsChunk *next; /* in the pool */
    int refs;        /* atomic */
    size_t cap;
    NbdsSession *holder; /* whose held bytes it counts for, once a request holds it */
    uint8_t *data;
};
NbdsChunk *nbds_chunk_get(NbdServer *server, size_t min); /* NULL: no memory */
void nbds_chunk_put(NbdServer *server, NbdsChunk *chunk); /* the owner's; NULL is fine */
void nbds_chunk_unref(NbdServer *server, NbdsChunk *chunk);
/* From now on it counts for @s. */
void nbds_chunk_hold(NbdsChunk *chunk, NbdsSession *s);
/* A request of @s keeps the spare: replaces it. */
void nbds_chunk_replace_spare(NbdsChunk *chunk, NbdsSession *s);
static inline bool nbds_chunk_shared(const NbdsChunk *chunk)
{
    return __atomic_load_n(&chunk->refs, __ATOMIC_ACQUIRE) > 2;
}

/* An item of output. */
typedef struct NbdsOutput NbdsOutput;
struct NbdsOutput {
    NbdsOutput *next;
    struct iovec *iov; /* consumed as it is sent */
    unsigned n;
    /* What follows them straight from the disk, and where; only of a request's. */
    uint64_t sendfile_length, sendfile_offset;
    void (*release)(NbdsSession *s, NbdsOutput *out); /* sent, or dropped with the session */
};

/* The replies of one run over the input. Their bytes are in its chunk, mostly contiguous. */
typedef struct NbdsBatch NbdsBatch;
struct NbdsBatch {
    NbdsOutput output;
    NbdsBatch *next; /* in the pool */
    NbdsChunk *chunk;
    size_t used;
    struct iovec iov[NBDS_IOV];
};
NbdsBatch *nbds_batch_get(NbdServer *server); /* NULL: no memory */
void nbds_batch_put(NbdServer *server, NbdsBatch *batch);
/* Appends the @length bytes at @data, which lie in the chunk at or after what is used. There is an
 * iovec free (nbds_batch_has_room). */
void nbds_batch_add(NbdsBatch *batch, const uint8_t *data, size_t length);
static inline bool nbds_batch_has_room(const NbdsBatch *batch, size_t length)
{
    return batch->chunk->cap - batch->used >= length && batch->output.n < NBDS_IOV;
}

/* ---- the session */

typedef enum { NBDS_FLAGS, NBDS_OPTIONS, NBDS_TRANSMISSION } NbdsPhase;

/* What a run over the input came to. */
typedef enum {
    NBDS_MORE,  /* everything there has been used; more is needed */
    NBDS_PAUSE, /* the output or the bounds must relax first */
    NBDS_WORK,  /* a worker has to go on */
    NBDS_END,   /* no more input wanted: what is under way is finished, then the session ends */
    NBDS_CUT,   /* the connection is to be cut off at once */
} NbdsVerdict;

/* Why a session ended; the first one that is given counts. */
typedef enum {
    NBDS_REASON_CLOSED,    /* by the client */
    NBDS_REASON_LOST,      /* the connection broke */
    NBDS_REASON_ERROR,     /* what the client sent makes no sense, or there is no memory */
    NBDS_REASON_HANDSHAKE, /* it took too long; the session never opens then */
    NBDS_REASON_IDLE,
    NBDS_REASON_STALLED,   /* the client stood still in others' way */
    NBDS_REASON_EXPORT,    /* is removed */
    NBDS_REASON_SERVER,    /* is stopped */
    NBDS_REASON_REQUESTED, /* by the management */
} NbdsReason;

/* What a metadata context describes; meta.c has their names, status.c asks each for its extents. */
typedef enum {
    NBDS_CONTEXT_BASE,   /* base:allocation */
    NBDS_CONTEXT_DEPTH,  /* qemu:allocation-depth */
    NBDS_CONTEXT_BITMAP, /* qemu:dirty-bitmap:NAME */
    NBDS_CONTEXT_BACKUP, /* x-tidemark:backup:NAME */
    NBDS_CONTEXT_USER,   /* x-tidemark:user:NAME */
    NBDS_CONTEXT_KINDS,  /* how many there are */
} NbdsContextKind;

/* A metadata context that was selected. */
typedef struct NbdsContext {
    uint32_t id;
    NbdsContextKind kind;
    BmpBitmap *bitmap; /* BITMAP, BACKUP: borrowed from the selection */
    BlkContext *user;  /* USER: a reference, in use */
} NbdsContext;

/* A set of them and what they belong to. */
typedef struct NbdsMeta {
    BlkExport *export_;
    BlkSelection *selection;
    NbdsContext *contexts;
    unsigned count;
} NbdsMeta;

/* What a request says before its payload, in whichever form. */
typedef struct NbdsHead {
    uint64_t cookie, offset;
    uint64_t length;  /* of the range of the export: the "effect length" */
    uint64_t payload; /* bytes that follow */
    uint16_t command, flags;
} NbdsHead;

struct NbdsSession {
    BlkSource source;
    NbdServer *server;    /* borrowed; waits for its sessions */
    NbdsService *service; /* that it came by: a reference */
    uint64_t id;          /* never used again */
    char *peer;           /* the other end, for people */
    NbdsSession *prev, *next;
    /* atomic: 2 for the reader (one is a spare, as a chunk's), 1 for each request that is under way
     * or waits to be sent, 1 for the armed writer, 1 for who is sending */
    int refs;
    int64_t held; /* atomic: bytes of chunks that requests keep, and of large payloads */
    /* atomic, each written by one thread at a time, the owner, and who is sending: bytes */
    uint64_t received, sent;

    /* the owner's */
    NbdsPhase phase;
    bool no_zeroes, fixed;
    bool structured;          /* replies are chunks, of one kind or the other */
    bool extended;            /* extended headers; structured is true then */
    bool status_2016;         /* block status is the draft of 2016's, and no context is selected */
    uint16_t dirty_flag_2016; /* its STATUS_DIRTY; 0: none */
    BmpBitmap *bitmap_2016;   /* borrowed from the selection, or NULL */
    unsigned options;         /* seen so far */
    uint32_t skip_kind;       /* handshake: the error reply to send after skipping, 0: none */
    NbdsMeta meta;
    BlkExport *export_; /* also read under server->lock; set once, under it */
    BlkNode *node;
    uint64_t size;
    bool writable, writethrough, began;
    unsigned effort; /* of block status since others had their turn */
    uint64_t align;  /* of read buffers */
    /* atomic, written by the owner: by command, requests that were accepted, and their bytes */
    uint64_t requests[NBDS_COMMANDS], bytes[2];
    uint64_t payload_max;
    /* in transmission, as negotiated */
    uint32_t request_magic;
    uint32_t request_head, reply_head, data_head; /* bytes; of a chunk; of a read's reply */

    NbdsChunk *rx;
    size_t begin, end; /* of what is received and not used, in rx */
    size_t need;       /* bytes from begin that the next message takes, as far as known */
    bool large;        /* the client sends large payloads */
    bool grown;        /* the socket's buffer is */
    bool nonblocking;  /* the descriptor is: it waits in poll */
    uint8_t stash[NBDS_STASH];
    unsigned stashed;
    uint64_t skip; /* bytes to throw away before the next message */
    struct {
        NbdsHead head;
        uint32_t option, error; /* error 0: none */
        const char *message;
    } skipped;            /* what the error reply answers once the bytes have passed */
    NbdsBatch *batch;     /* while in ready() */
    NbdsRequest *request; /* a fresh one, not submitted yet */
    NbdsStatus *status;   /* a block status that is being answered, or NULL */
    BlkWork work;         /* the owner goes on as a worker, */
    bool may_wait;        /* and is one: block status may wait for a server below */

    NbdsTls *tls;   /* NULL: the connection is in the clear; set once, under the lock */
    char *identity; /* of the client, NULL: unknown; changes under server->lock */

    pthread_mutex_t lock; /* guards the rest */
    NbdsOutput *queue, **tail;
    bool sending; /* a thread sends, or the writer is armed */
    bool blocked; /* atomic: the writer is armed */
    bool paused;  /* the source is not armed and nobody owns it */
    bool retry;   /* atomic: the writer could not be armed: the clock runs it */
    bool dead;    /* atomic: the connection is lost: output is dropped */
    bool active;  /* atomic: it has an owner, who may be with the disk */
    bool ended;   /* atomic: the reader has */

    uint64_t errors; /* atomic: requests that failed */
    int reason;      /* atomic: NbdsReason */
    int64_t born;    /* monotonic us */
    /* under server->lock */
    bool announced;  /* the management knows of it: it will hear of its end */
    bool multi_conn; /* it may have more connections */
    bool open;       /* the handshake is over: what it agreed on stays as it is */
    uint64_t moved;  /* the clock's: bytes at the last change, and when that was */
    int64_t moved_at;

    BlkSource writer; /* fd -1 until the socket is full for the first time */
};

/* A request that needs an object: it is under way in the block layer, or its reply is queued. */
struct NbdsRequest {
    NbdsOutput output;
    BlkRequest blk;
    NbdsSession *session;
    NbdsChunk *chunk; /* where data are, or NULL */
    NbdsHead h;
    uint8_t *data; /* READ */
    struct NbdsSparse *sparse;
    uint8_t head[NBDS_REPLY_MAX]; /* of the reply */
    struct iovec iov[2];
};

/* session.c */
/* Takes @fd, and a place of @service (nbds_service_enter). */
void nbds_session_new(NbdsService *service, int fd);
void nbds_session_unref(NbdsSession *s, int n);
/* Cuts the connection off: what is queued is dropped, the reader wakes up. Any thread. */
void nbds_session_cut(NbdsSession *s, NbdsReason reason);
/* Sends what has gathered; false if the session should not go on producing output for now. */
bool nbds_session_flush(NbdsSession *s);
/* Appends bytes to the output, at once or by way of further batches. */
void nbds_session_put(NbdsSession *s, const void *data, size_t length);
/* Appends the first @length bytes of @chunk, which is taken. */
void nbds_session_give(NbdsSession *s, NbdsChunk *chunk, size_t length);
/* Adds to a counter that this thread alone writes now and any may read. */
static inline void nbds_count(uint64_t *counter, uint64_t n)
{
    __atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}
/* Any thread. @error 0: nothing. */
static inline void nbds_count_error(NbdsSession *s, uint32_t error)
{
    if (error)
        __atomic_add_fetch(&s->errors, 1, __ATOMIC_RELAXED);
}
static inline size_t nbds_session_available(const NbdsSession *s)
{
    return s->end - s->begin;
}
static inline const uint8_t *nbds_session_bytes(const NbdsSession *s)
{
    return s->rx->data + s->begin;
}
/* Whether bounds or a full socket say to stop. */
bool nbds_session_over(NbdsSession *s);

/* output_queue.c */
void nbds_output_push(NbdsSession *s, NbdsOutput *out); /* the caller holds a reference to @s */
void nbds_output_ready(BlkSource *writer, uint32_t events);

/* tls.c */
/* From here on all goes through TLS, whose handshake is to come. false: what came before is not
 * sent, or there is no memory. */
bool nbds_tls_begin(NbdsSession *s);
void nbds_tls_end(NbdsSession *s);
/* As recv() and sendmsg(), of what is in the clear. */
ssize_t nbds_tls_recv(NbdsSession *s, void *data, size_t length, int flags);
ssize_t nbds_tls_send(NbdsSession *s, const NbdsOutput *list);

/* handshake.c, options.c, meta.c */
void nbds_handshake_greet(NbdsSession *s);
NbdsVerdict nbds_handshake_input(NbdsSession *s);
void nbds_option_reply(NbdsSession *s, uint32_t option, uint32_t type, const void *data,
                       size_t length);
void nbds_option_error(NbdsSession *s, uint32_t option, uint32_t type, const char *format, ...)
    G_GNUC_PRINTF(4, 5);
/* An option's complete data. */
NbdsVerdict nbds_option_run(NbdsSession *s, uint32_t option, const uint8_t *data, uint32_t length);
bool nbds_option_known(uint32_t option);
/* Whether it is refused because there is no TLS yet. */
bool nbds_option_needs_tls(const NbdsSession *s, uint32_t option);
/* A reference to the export that the client means by @name and may know of, or NULL. */
BlkExport *nbds_lookup(NbdsSession *s, uint32_t option, const char *name);
NbdsVerdict nbds_meta_option(NbdsSession *s, uint32_t option, const uint8_t *data, uint32_t length);
void nbds_meta_clear(NbdsSession *s);
char *nbds_context_name(const NbdsContext *context); /* as on the wire; returned */
/* status_2016.c: whether @s would speak the draft of 2016 on @x; and, in transmission, its
 * beginning. */
bool nbds_status_2016_spoken(const NbdsSession *s, const BlkExport *x);
void nbds_status_2016_begin(NbdsSession *s);
/* A string of the client's: NULL if it is none (too long, not UTF-8, contains NUL). Returned. */
char *nbds_option_string(const uint8_t *data, uint32_t length);

/* transmission.c, read.c, status.c, reply.c */
NbdsVerdict nbds_transmission_input(NbdsSession *s);
/* It was submitted, with data in @chunk (or NULL), and may be under way or even done. */
void nbds_request_taken(NbdsSession *s, NbdsChunk *chunk);
/* The session's fresh request object, filled but for buf and flags of blk. */
NbdsRequest *nbds_request_fill(NbdsSession *s, BlkOp op, const NbdsHead *h);
/* Queues the reply of a request that was taken. Any thread. */
void nbds_request_done(NbdsRequest *r, int result);
/* Answers one that failed inline with -errno. */
void nbds_request_failed(NbdsSession *s, const NbdsHead *h, int result);
/* What the block layer failed with (positive), as the client sees it; also sends the event. */
uint32_t nbds_request_error(NbdsSession *s, const NbdsHead *h, int err);
void nbds_read(NbdsSession *s, const NbdsHead *h);
/* Of a short read that has succeeded: what of it are holes, returned, or NULL. Any thread. */
struct NbdsSparse *nbds_sparse_find(NbdsRequest *r);
void nbds_sparse_free(struct NbdsSparse *sparse);
void nbds_sparse_format(NbdsRequest *r);
/* Begins to answer: from then on s->status is to be run. @payload: h->payload bytes, a choice of
 * contexts. */
void nbds_block_status(NbdsSession *s, const NbdsHead *h, const uint8_t *payload);
/* Whether that is for a worker, and the owner is none. */
bool nbds_status_waits(NbdsSession *s);
/* true: it is answered; false: others have their turn, or the output has to wait. */
bool nbds_status_run(NbdsSession *s);
void nbds_status_free(NbdsSession *s);
uint32_t nbds_error(int err, bool fast_zero); /* an errno, positive, as NBD has it */
/* Writes a whole reply without payload into @to (NBDS_REPLY_MAX bytes); returns its length. @error
 * 0: success. */
size_t nbds_reply_format(const NbdsSession *s, uint8_t *to, const NbdsHead *h, uint32_t error,
                         const char *message);
void nbds_reply(NbdsSession *s, const NbdsHead *h, uint32_t error, const char *message);
/* A whole ERROR_OFFSET chunk, as above. @offset: absolute, within the request. */
size_t nbds_error_offset_format(const NbdsSession *s, uint8_t *to, bool last, const NbdsHead *h,
                                uint64_t offset, uint32_t error, const char *message);
/* The head of a chunk of the reply to @h, s->reply_head bytes; @length of the payload. */
void nbds_chunk_format(const NbdsSession *s, uint8_t *to, uint16_t flags, uint16_t type,
                       const NbdsHead *h, uint32_t length);
/* The head of a read's data, s->data_head bytes. */
void nbds_data_format(const NbdsSession *s, uint8_t *to, bool last, const NbdsHead *h,
                      uint64_t offset, uint32_t length);

/* ---- one of the servers that clients see: what nbd-server-start makes and nbd-server-stop ends.
 * It is there until its last session has gone. All of it is constant, or under server->lock. */
struct NbdsService {
    NbdServer *server; /* borrowed */
    NbdsService *next; /* of those that run */
    int refs;          /* the list's and each session's */
    char *id;
    BlkServerLimits limits;
    unsigned n_sessions; /* places taken: sessions not yet freed, and who is being accepted */
    NbdsListener *listeners;
    int64_t held; /* atomic: what its sessions hold */
    bool tls, tls_required;
    TmObject *tls_creds, *tls_authz; /* references, given up when it is stopped; or NULL */
};

/* ---- all of them */

struct NbdServer {
    BlkExports *exports;
    BlkEngine *engine;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a session or a listener is gone */
    NbdsSession *sessions;
    unsigned n_sessions; /* places taken, of all services */
    uint64_t next_id;    /* of a session */
    NbdsService *services;
    GArray *inherited; /* address.c's */
    BlkSource clock;   /* fd -1: it does not go */
    bool clock_stopping;
    bool serving;         /* clients are taken */
    unsigned events_left; /* until the clock's next second */

    pthread_mutex_t pool_lock;
    struct {
        NbdsChunk *first;
        unsigned n;
    } chunks[2]; /* usual, large */
    NbdsBatch *batches;
    unsigned n_batches;
};

/* server.c */
void nbds_server_link(NbdServer *server, NbdsSession *s);
void nbds_server_unlink(NbdServer *server, NbdsSession *s);
/* Cuts off the sessions that came by @service, and with @x those that are on that export or have
 * negotiated contexts of it. NULL: any. */
void nbds_server_cut(NbdServer *server, const NbdsService *service, const BlkExport *x,
                     NbdsReason reason);

/* sessions.c: events of an open session's beginning and end. The owner; who frees it. */
void nbds_sessions_opened(NbdsSession *s);
void nbds_sessions_closed(NbdsSession *s);
json_object *nbds_sessions_query(NbdServer *server);
bool nbds_sessions_disconnect(NbdServer *server, uint64_t id, GError **error);

/* limits.c; main thread, but for over */
bool nbds_limits_check(const BlkServerLimits *limits, GError **error);
/* Whether @s, holding @held > 0 bytes, is to take no more. Any thread. */
bool nbds_limits_over(const NbdsSession *s, int64_t held);
bool nbds_clock_start(NbdServer *server, GError **error);
void nbds_clock_stop(NbdServer *server); /* waits until it has */

/* service.c; main thread, but where it says other */
bool nbds_service_start(NbdServer *server, const BlkServerOptions *options, GError **error);
void nbds_service_stop(NbdServer *server, const char *id); /* @id NULL: all of them */
/* One that runs, borrowed; @id NULL: any. */
NbdsService *nbds_service_find(NbdServer *server, const char *id);
json_object *nbds_service_query(NbdServer *server);
/* A place for one more connection, if there is one. Any thread. */
typedef enum {
    NBDS_PLACE,
    NBDS_FULL,    /* the service has as many as it may, or takes none yet */
    NBDS_CROWDED, /* there are no descriptors to spare */
} NbdsPlace;
NbdsPlace nbds_service_enter(NbdsService *service);
/* Whether @fd, a new one, leaves enough to others. Any thread. */
bool nbds_descriptor_spare(int fd);
/* Gives it back, and if @session, a session's reference: the last touch of that. Any thread. */
void nbds_service_leave(NbdsService *service, bool session);
/* Under server->lock. */
static inline bool nbds_service_full(const NbdsService *service)
{
    return !service->server->serving || (service->limits.max_connections &&
                                         service->n_sessions >= service->limits.max_connections);
}
/* Whether, besides @s, one more client could come now. Under server->lock. */
bool nbds_service_room(const NbdsService *service);

/* listen.c */
bool nbds_listen(NbdsService *service, const BlkServerOptions *options, GError **error);
void nbds_listen_stop(NbdsService *service); /* waits until no listener is left */
/* Under server->lock: there may be room again. */
void nbds_listen_resume(NbdServer *server);
/* Under server->lock: where it listens, an array of SocketAddress. */
json_object *nbds_listen_addresses(const NbdsService *service);

/* address.c: a listening socket. */
typedef struct NbdsSocket {
    int fd;
    bool shared;       /* others have it too: it is not to be shut down */
    TmSocketFile file; /* unix */
} NbdsSocket;
/* Appends those that @options name to @sockets (of NbdsSocket), at least one; or none and fails. */
bool nbds_address_listen(NbdServer *server, const BlkServerOptions *options, GArray *sockets,
                         GError **error);
void nbds_socket_close(NbdsSocket *socket);
/* What a socket is bound to, a SocketAddress; and who is at the other end, returned. */
json_object *nbds_address_bound(int fd);
char *nbds_address_peer(int fd);
/* "uid=N" of the process at the other end of a unix socket, returned, or NULL. */
char *nbds_address_uid(int fd);
/* Of NbdsInherited: the listening sockets that this process was started with. */
GArray *nbds_inherited_new(void);
