/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/nbd_internal.h: what the files of server/nbd/ share, and server/ knows of sessions.
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
 *  N4  Requests and held bytes of a session are bounded (NBDS_REQUESTS_MAX, nbds_session_over()):
 *      above them, or while the socket is full, nothing more is received.
 *
 * Locks: server_internal.h has them. */
#pragma once
#include "block/io/request.h"
#include "server/nbd/proto.h"
#include "server/server_internal.h"
#include "util/trace.h"

#include <gnutls/gnutls.h>
#include <stddef.h>
#include <sys/uio.h>

#define NBDS_CHUNK        (512u << 10) /* bytes of a usual chunk */
#define NBDS_CHUNK_LARGE  (2u << 20)   /* of one for large requests; beyond it they fit exactly */
#define NBDS_IOV          512u
#define NBDS_STASH        32u   /* of a beginning that an idle session keeps */
#define NBDS_EFFORT       64u   /* of block status before others have their turn, see status.c */
#define NBDS_REPLY_MAX    192u  /* bytes of a reply without data */
#define NBDS_REQUESTS_MAX 1024u /* a session's, not answered yet */
#define NBDS_COMMANDS     8u    /* those that there are, from 0 on */
#define NBDS_QUERIES_MAX  4096u /* queries of one metadata option */
/* Bytes of a read from which holes are looked for beforehand; from which its data don't pass
 * through here. */
#define NBDS_SPARSE_MIN   (64u << 10)
#define NBDS_SENDFILE_MIN (64u << 10)
#define NBDS_RUNS_MAX     256u /* of a sparse reply; what comes after them is sent as data */

typedef struct NbdsRequest NbdsRequest;
typedef struct NbdsSparse NbdsSparse;
typedef struct NbdsTls NbdsTls;
typedef struct NbdsStatus NbdsStatus;

/* ---- buffer.c: memory of the wire */

/* A page-aligned buffer. Who takes one out of the pool owns it and holds two references, its own
 * and a spare one: a request that uses a part of it takes the spare before it is submitted, at no
 * cost, and only if it does not complete at once the owner replaces the spare. */
struct NbdsChunk {
    NbdsChunk *next; /* in the pool */
    int refs;        /* atomic */
    size_t cap;
    NbdsSession *holder; /* whose held bytes it counts for, once a request holds it */
    uint8_t *data;
};
NbdsChunk *nbds_chunk_get(NbdsServers *servers, size_t min); /* NULL: no memory */
void nbds_chunk_put(NbdsServers *servers, NbdsChunk *chunk); /* the owner's; NULL is fine */
void nbds_chunk_unref(NbdsServers *servers, NbdsChunk *chunk);
/* Each second: frees what was in the pool all the time since the last call, but for a few. */
void nbds_chunks_trim(NbdsServers *servers);
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
struct NbdsBatch {
    NbdsOutput output;
    NbdsBatch *next; /* in the pool */
    NbdsChunk *chunk;
    size_t used;
    struct iovec iov[NBDS_IOV];
};
NbdsBatch *nbds_batch_get(NbdsServers *servers); /* NULL: no memory */
void nbds_batch_put(NbdsServers *servers, NbdsBatch *batch);
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
    NbdsServers *servers; /* borrowed; waits for its sessions */
    NbdsServer *server;   /* that it came by: a reference */
    uint64_t id;          /* never used again */
    char *peer;           /* the other end, for people */
    /* atomic: 2 for the reader (one is a spare, as a chunk's), 1 for each request that is under way
     * or waits to be sent, 1 for the armed writer, 1 for who is sending */
    int refs;
    void (*free)(NbdsSession *s); /* session.c's */
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
    BlkExport *export_; /* also read under servers->lock; set under it */
    BlkUser *disk;      /* the export's */
    uint64_t size;
    bool writable, writethrough, began;
    unsigned effort; /* of block status since others had their turn */
    uint64_t align;  /* of read buffers */
    /* atomic, written by the owner: by command, requests that were accepted, and their bytes */
    uint64_t requests[NBDS_COMMANDS], bytes[NBDS_COMMANDS];
    /* atomic, by command: those of them that the disk failed, and ns that the disk took */
    uint64_t failed[NBDS_COMMANDS], failed_bytes[NBDS_COMMANDS], ns[NBDS_COMMANDS];
    uint64_t failures[NBDS_COMMANDS][BLK_ERRORS], took[NBDS_COMMANDS][BLK_TOOK_BUCKETS];
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
    bool encrypts;  /* what is sent is encrypted here; changes with nothing to be sent */
    char *identity; /* of the client, NULL: unknown; changes under servers->lock */

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
    /* under servers->lock */
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
    NbdsSparse *sparse;
    uint8_t head[NBDS_REPLY_MAX]; /* of the reply */
    struct iovec iov[2];
};

/* A read that is answered in pieces: holes, and runs of data read by a request each. All are sent
 * together when the last one has been read: first what is known, then where it is not. */
struct NbdsSparse {
    int left; /* atomic: parts not read yet, and 1 while they are being submitted */
    unsigned n;
    TmExtent *runs;    /* flags: TM_STATE_ZERO or 0 */
    struct iovec *iov; /* two a run, as the rest has one */
    uint8_t (*heads)[NBDS_REPLY_MAX];
    struct NbdsPart {
        BlkRequest blk;
        NbdsRequest *request;
        int error; /* -errno, once read */
    } * parts;
};

/* session.c */
/* Takes @fd, and a place of @server (nbds_server_enter). */
void nbds_session_new(NbdsServer *server, int fd);

/* session_state.c; any thread */
void nbds_session_unref(NbdsSession *s, int n);
/* Why it is about to end. */
void nbds_session_note(NbdsSession *s, NbdsReason reason);
/* Cuts the connection off: what is queued is dropped, the reader wakes up. */
void nbds_session_cut(NbdsSession *s, NbdsReason reason);
/* Whether bounds or a full socket say to stop. */
bool nbds_session_over(NbdsSession *s);

/* session_output.c; the owner */
/* Sends what has gathered; false if the session should not go on producing output for now. */
bool nbds_session_flush(NbdsSession *s);
/* Appends bytes to the output, at once or by way of further batches. */
void nbds_session_put(NbdsSession *s, const void *data, size_t length);
/* Appends the first @length bytes of @chunk, which is taken. */
void nbds_session_give(NbdsSession *s, NbdsChunk *chunk, size_t length);

static inline bool nbds_command_writes(uint16_t command)
{
    return command == NBD_CMD_WRITE || command == NBD_CMD_TRIM || command == NBD_CMD_WRITE_ZEROES;
}
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
/* What the disk had to do with a request that was accepted. Any thread. */
static inline void nbds_count_disk(NbdsSession *s, const NbdsHead *h, int result, BlkTook took)
{
    if (took.requests) {
        unsigned bucket = blk_took_bucket(took.ns / took.requests);

        __atomic_add_fetch(&s->ns[h->command], took.ns, __ATOMIC_RELAXED);
        __atomic_add_fetch(&s->took[h->command][bucket], took.requests, __ATOMIC_RELAXED);
    }
    if (result >= 0)
        return;
    __atomic_add_fetch(&s->failures[h->command][blk_error_index(-result)], 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&s->failed[h->command], 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&s->failed_bytes[h->command], h->length, __ATOMIC_RELAXED);
}
static inline size_t nbds_session_available(const NbdsSession *s)
{
    return s->end - s->begin;
}
static inline const uint8_t *nbds_session_bytes(const NbdsSession *s)
{
    return s->rx->data + s->begin;
}

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

/* tls_kernel.c; the owner, with nothing to be sent */
/* Has the kernel encrypt what is written to @fd from here on. false: it can't, all is as before. */
bool nbds_tls_kernel_begin(gnutls_session_t handle, int fd);
/* Sends the alert with which TLS ends. */
void nbds_tls_kernel_bye(int fd);

/* handshake.c, options.c, meta.c; option.c: what options have in common */
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

/* transmission.c, request.c, read.c, sparse.c, status.c, reply.c, error.c */
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
/* Zero and other runs of the range; false if that is not known or all of it is data. In what was
 * read to @data, only if it is short and has zeroes in it. */
bool nbds_zeroes_find(NbdsSession *s, const NbdsHead *h, TmExtents *runs);
bool nbds_zeroes_in_data(NbdsSession *s, const NbdsHead *h, const uint8_t *data, TmExtents *runs);
NbdsSparse *nbds_sparse_new(const TmExtents *runs);
/* A whole chunk for a hole; returns its length. */
size_t nbds_hole_format(const NbdsSession *s, uint8_t *to, bool last, const NbdsHead *h,
                        uint64_t offset, uint32_t length);
/* Of a short read that has succeeded: what of it are holes, returned, or NULL. Any thread. */
NbdsSparse *nbds_sparse_find(NbdsRequest *r);
void nbds_sparse_free(NbdsSparse *sparse);
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
/* By the command; NULL: there is none. */
extern const char *const nbds_command_names[NBDS_COMMANDS];
static inline const char *nbds_command_name(uint16_t command)
{
    return command < NBDS_COMMANDS && nbds_command_names[command] ? nbds_command_names[command]
                                                                  : "unknown";
}
/* A request is answered, with @error_ (NBD's) or 0. */
#define NBDS_TRACE_END(s_, h_, error_)                                                             \
    TM_TRACE(request_end, (s_)->id, (h_)->cookie, blk_export_id((s_)->export_),                    \
             nbds_command_name((h_)->command), (h_)->length, error_)
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
