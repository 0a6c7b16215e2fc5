/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/server_internal.h: what the files of server/ share: the servers and the list of sessions.
 * What a session is: server/nbd/nbd_internal.h.
 *
 * Locks, all leaves: servers->lock (servers, sessions, listeners), servers->pool_lock (free lists),
 * session->lock (output queue, paused). Nothing is called under them but epoll_ctl and shutdown. */
#pragma once
#include "block/engine/engine.h"
#include "block/export/export.h"
#include "server/servers.h"
#include "util/address.h"
#include "util/sync.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define NBDS_EVENTS_MAX 500u /* clients a second that make events */
#define NBDS_DESCRIBED  64u  /* sessions that a query describes before others get the lock */

typedef struct NbdsBatch NbdsBatch;
typedef struct NbdsChunk NbdsChunk;
typedef struct NbdsListener NbdsListener;
typedef struct NbdsServer NbdsServer;
typedef struct NbdsSession NbdsSession;

/* Takes @fd, and a place of @server. */
typedef void (*NbdsAcceptedFn)(NbdsServer *server, int fd);

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

/* Why a client is refused, as query-nbd-servers counts it. */
typedef enum {
    NBDS_REFUSED_OPTION,  /* what it asked in the handshake */
    NBDS_REFUSED_EXPORT,  /* it named one that is not there, or not for it */
    NBDS_REFUSED_TLS,     /* its certificate, its key, or an access list */
    NBDS_REFUSED_TIMEOUT, /* it opened no export in time */
    NBDS_REFUSALS
} NbdsRefusal;

/* ---- one server: what nbd-server-start makes and nbd-server-stop ends.
 * It is there until its last session has gone. All of it is constant, or under servers->lock. */
struct NbdsServer {
    NbdsServers *servers; /* borrowed */
    NbdsServer *next;     /* of those that run */
    int refs;             /* the list's and each session's */
    char *id;
    const BlkServerLimits *limits; /* atomic: in force; the last one of: */
    GPtrArray *all_limits; /* BlkServerLimits; sessions may still use earlier ones; main thread */
    unsigned n_sessions;   /* places taken: sessions not yet freed, and who is being accepted */
    NbdsListener *listeners;
    NbdsAcceptedFn accepted;
    int64_t held;                    /* atomic: what its sessions hold */
    uint64_t refused[NBDS_REFUSALS]; /* atomic */
    bool tls, tls_required, keepalive;
    TmObject *tls_creds, *tls_authz; /* references, given up when it is stopped; or NULL */
    json_object *given;              /* what it was started with; or NULL */
};

/* In force now. Any thread. */
static inline const BlkServerLimits *nbds_limits(const NbdsServer *server)
{
    return __atomic_load_n(&server->limits, __ATOMIC_ACQUIRE);
}

/* ---- all of them */

struct NbdsServers {
    BlkExports *exports;
    BlkEngine *engine;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a session or a listener is gone */
    GPtrArray *sessions;    /* NbdsSession, in the order of their ids */
    GHashTable *of_exports; /* BlkExport -> GPtrArray of those that are on it, oldest first */
    unsigned n_sessions;    /* places taken, of all servers */
    uint64_t next_id;       /* of a session */
    NbdsServer *list;       /* those that run */
    TmInherited *inherited; /* borrowed; or NULL */
    BlkSource clock;        /* fd -1: it does not go */
    bool clock_stopping;
    bool serving;         /* clients are taken */
    int64_t crowded_at;   /* atomic: monotonic us of the last note that descriptors lack; or 0 */
    unsigned events_left; /* until the clock's next second */

    pthread_mutex_t pool_lock;
    struct {
        NbdsChunk *first;
        unsigned n, least; /* least: since the clock's last second */
    } chunks[2];           /* usual, large */
    NbdsBatch *batches;
    unsigned n_batches;
};

/* sessions.c: the list; a session takes a reference of its server. */
void nbds_sessions_add(NbdsServers *servers, NbdsSession *s);
void nbds_sessions_remove(NbdsServers *servers, NbdsSession *s);
/* Under servers->lock. It is on @x from now on, or, NULL, no longer on one. */
void nbds_sessions_set_export(NbdsSession *s, BlkExport *x);
/* Under servers->lock: those on @x; NULL: there are none. Borrowed. */
const GPtrArray *nbds_sessions_on(const NbdsServers *servers, const BlkExport *x);
/* Cuts off the sessions that came by @server, and with @x those that are on that export or have
 * negotiated contexts of it. NULL: any. */
void nbds_sessions_cut(NbdsServers *servers, const NbdsServer *server, const BlkExport *x,
                       NbdsReason reason);
/* Events of an open session's beginning and end. The owner; who frees it. */
void nbds_sessions_opened(NbdsSession *s);
void nbds_sessions_closed(NbdsSession *s);
/* Up to @limit of those whose ids are higher than @after. Takes the lock again and again. Main
 * thread. */
json_object *nbds_sessions_query(NbdsServers *servers, uint64_t after, unsigned limit);
/* The clients of an export, an array of NbdClient. */
json_object *nbds_sessions_clients(NbdsServers *servers, const BlkExport *x);
/* Adds what the sessions of an export did, those that have ended and those there are. */
void nbds_sessions_counts(NbdsServers *servers, BlkExport *x, BlkCounts *sum);
bool nbds_sessions_disconnect(NbdsServers *servers, uint64_t id, GError **error);

/* notes.c; any thread, not under a lock */
/* The client is refused: counts it, too. */
void nbds_note_refused(NbdsSession *s, NbdsRefusal why, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
/* It is open, or was. */
void nbds_note_opened(const NbdsSession *s);
void nbds_note_closed(const NbdsSession *s, const char *reason);

/* limits.c; main thread */
bool nbds_limits_check(const BlkServerLimits *limits, GError **error);
bool nbds_clock_start(NbdsServers *servers, GError **error);
void nbds_clock_stop(NbdsServers *servers); /* waits until it has */

/* server.c; main thread, but where it says other */
bool nbds_server_start(NbdsServers *servers, const BlkServerOptions *options, GError **error);
bool nbds_server_set_limits(NbdsServers *servers, const BlkServerOptions *options, GError **error);
void nbds_server_stop(NbdsServers *servers, const char *id); /* @id NULL: all of them */
/* One that runs, borrowed; @id NULL: any. */
NbdsServer *nbds_server_find(NbdsServers *servers, const char *id);
json_object *nbds_server_query(NbdsServers *servers);
json_object *nbds_server_definitions(NbdsServers *servers);
/* The URIs of an export, at all servers that show it: an array. */
json_object *nbds_server_uris(NbdsServers *servers, const BlkExport *x);

/* listen.c: places, and who comes */
/* A place for one more connection, if there is one. Any thread. */
typedef enum {
    NBDS_PLACE,
    NBDS_FULL,    /* the server has as many as it may, or takes none yet */
    NBDS_CROWDED, /* there are no descriptors to spare */
} NbdsPlace;
NbdsPlace nbds_server_enter(NbdsServer *server);
/* Whether @fd, a new one, leaves enough to others. Any thread. */
bool nbds_descriptor_spare(int fd);
/* Gives it back, and if @session, a session's reference: the last touch of that. Any thread. */
void nbds_server_leave(NbdsServer *server, bool session);
/* Under servers->lock. */
static inline bool nbds_server_full(const NbdsServer *server)
{
    return !server->servers->serving ||
           (nbds_limits(server)->max_connections &&
            server->n_sessions >= nbds_limits(server)->max_connections);
}
/* Whether, besides @s, one more client could come now. Under servers->lock. */
bool nbds_server_room(const NbdsServer *server);
void nbds_server_unref(NbdsServer *server); /* under servers->lock */
bool nbds_listen(NbdsServer *server, const BlkServerOptions *options, NbdsAcceptedFn accepted,
                 GError **error);
void nbds_listen_stop(NbdsServer *server); /* waits until no listener is left */
/* Under servers->lock: there may be room again. */
void nbds_listen_resume(NbdsServers *servers);
/* Under servers->lock: where it listens, an array of SocketAddress. */
json_object *nbds_listen_addresses(const NbdsServer *server);
/* Under servers->lock: appends the URIs of that export ("": of the server) to the array @uris. */
void nbds_listen_uris(const NbdsServer *server, const char *export_, json_object *uris);

/* uri.c: the URI of an export at @address, a SocketAddress of type unix, inet or vsock; returned,
 * or NULL if there is none. @path: of a unix socket, absolute; NULL: as in @address. */
char *nbds_uri(json_object *address, const char *path, bool tls, const char *export_);
