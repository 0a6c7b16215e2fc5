/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/sessions.c: the sessions of a server: their list, what the management sees of them and
 * does with them.
 *
 * A session counts for itself, each counter written by one thread. What it negotiated is constant
 * once it is open, so that others may read it then, under servers->lock.
 *
 * Clients must not fill the monitors with events: those that have not opened an export make none,
 * and of those that have, so many a second (NBDS_EVENTS_MAX). If its beginning was announced, its
 * end is. */
#include "server/nbd/nbd_internal.h"

#include "util/error.h"
#include "util/json.h"

/* ---- what sessions of an export did */

static uint64_t read_counter(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void add_counts(const NbdsSession *s, BlkCounts *sum)
{
    static const struct {
        uint16_t command;
        BlkCount what;
    } table[] = {
        { NBD_CMD_READ, BLK_COUNT_READ },          { NBD_CMD_WRITE, BLK_COUNT_WRITE },
        { NBD_CMD_WRITE_ZEROES, BLK_COUNT_WRITE }, { NBD_CMD_FLUSH, BLK_COUNT_FLUSH },
        { NBD_CMD_TRIM, BLK_COUNT_UNMAP },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(table); i++) {
        uint16_t c = table[i].command;
        BlkCounts one = { 0 };

        one.failed[table[i].what] = read_counter(&s->failed[c]);
        one.ns[table[i].what] = read_counter(&s->ns[c]);
        one.bytes[table[i].what] = read_counter(&s->bytes[c]) - read_counter(&s->failed_bytes[c]);
        one.operations[table[i].what] = read_counter(&s->requests[c]) - one.failed[table[i].what];
        for (unsigned k = 0; k < BLK_ERRORS; k++)
            one.errors[table[i].what][k] = read_counter(&s->failures[c][k]);
        for (unsigned k = 0; k < BLK_TOOK_BUCKETS; k++)
            one.took[table[i].what][k] = read_counter(&s->took[c][k]);
        blk_counts_add(sum, &one);
    }
}

void nbds_sessions_counts(NbdsServers *servers, BlkExport *x, BlkCounts *sum)
{
    TM_GUARD(&servers->lock);

    const GPtrArray *on = nbds_sessions_on(servers, x);

    blk_export_add_past(x, sum);
    for (guint i = 0; on && i < on->len; i++) {
        const NbdsSession *s = on->pdata[i];

        if (s->open)
            add_counts(s, sum);
    }
}

/* ---- the list */

void nbds_sessions_add(NbdsServers *servers, NbdsSession *s)
{
    pthread_mutex_lock(&servers->lock);
    s->server->refs++;
    s->id = ++servers->next_id;
    g_ptr_array_add(servers->sessions, s);
    pthread_mutex_unlock(&servers->lock);
}

/* Under the lock: the place of the first one whose id is @id or higher. */
static guint place_of(const NbdsServers *servers, uint64_t id)
{
    guint low = 0, high = servers->sessions->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;
        const NbdsSession *s = servers->sessions->pdata[middle];

        if (s->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const GPtrArray *nbds_sessions_on(const NbdsServers *servers, const BlkExport *x)
{
    return g_hash_table_lookup(servers->of_exports, x);
}

/* Under the lock. */
static void leave_export(const NbdsSession *s)
{
    GHashTable *all = s->servers->of_exports;
    GPtrArray *on = s->export_ ? g_hash_table_lookup(all, s->export_) : NULL;

    if (on && g_ptr_array_remove(on, (gpointer)s) && !on->len)
        g_hash_table_remove(all, s->export_);
}

void nbds_sessions_set_export(NbdsSession *s, BlkExport *x)
{
    GHashTable *all = s->servers->of_exports;
    GPtrArray *on;

    leave_export(s);
    s->export_ = x;
    if (!x)
        return;
    on = g_hash_table_lookup(all, x);
    if (!on) {
        on = g_ptr_array_new();
        g_hash_table_insert(all, x, on);
    }
    g_ptr_array_add(on, s);
}

/* From then on the export knows what it did. */
void nbds_sessions_remove(NbdsServers *servers, NbdsSession *s)
{
    BlkCounts counts = { 0 };

    pthread_mutex_lock(&servers->lock);
    if (s->open) {
        add_counts(s, &counts);
        blk_export_remember(s->export_, &counts);
    }
    leave_export(s);
    g_ptr_array_remove_index(servers->sessions, place_of(servers, s->id));
    pthread_mutex_unlock(&servers->lock);
}

/* Their sockets are open as long as they are in the list. */
void nbds_sessions_cut(NbdsServers *servers, const NbdsServer *server, const BlkExport *x,
                       NbdsReason reason)
{
    pthread_mutex_lock(&servers->lock);
    for (guint i = 0; i < servers->sessions->len; i++) {
        NbdsSession *s = servers->sessions->pdata[i];

        if ((!server || s->server == server) && (!x || s->export_ == x || s->meta.export_ == x))
            nbds_session_cut(s, reason);
    }
    pthread_mutex_unlock(&servers->lock);
}

/* ---- events */

static json_object *describe_peer(const NbdsSession *s)
{
    json_object *data = json_object_new_object();

    tm_json_add_uint(data, "id", s->id);
    tm_json_add_string(data, "server", s->server->id);
    tm_json_add_string(data, "peer", s->peer);
    return data;
}

/* Of one that is open. */
static void add_rights(const NbdsSession *s, json_object *data)
{
    tm_json_add_bool(data, "tls", s->tls != NULL);
    if (s->identity)
        tm_json_add_string(data, "identity", s->identity);
    tm_json_add_bool(data, "writable", s->writable);
}

/* What both have. */
static json_object *event(const NbdsSession *s)
{
    json_object *data = describe_peer(s);

    tm_json_add_string(data, "export", blk_export_id(s->export_));
    return data;
}

static void emit(const NbdsSession *s, const char *name, json_object *data)
{
    blk_graph_emit(blk_exports_graph(s->servers->exports), name, data);
}

void nbds_sessions_opened(NbdsSession *s)
{
    json_object *data;

    TM_TRACE(session_begin, s->id, blk_export_id(s->export_), s->peer);
    nbds_note_opened(s);
    if (!s->announced)
        return;
    data = event(s);
    add_rights(s, data);
    emit(s, "NBD_CLIENT_CONNECTED", data);
}

/* The compiler warns if one is left out. */
static const char *reason_name(NbdsReason reason)
{
    switch (reason) {
    case NBDS_REASON_CLOSED:
        return "closed";
    case NBDS_REASON_LOST:
        return "lost";
    case NBDS_REASON_HANDSHAKE: /* never announced: it ends sessions that are not open */
    case NBDS_REASON_ERROR:
        return "error";
    case NBDS_REASON_IDLE:
        return "idle";
    case NBDS_REASON_STALLED:
        return "stalled";
    case NBDS_REASON_EXPORT:
        return "export-removed";
    case NBDS_REASON_SERVER:
        return "server-stopped";
    case NBDS_REASON_REQUESTED:
        return "requested";
    }
    return "error";
}

void nbds_sessions_closed(NbdsSession *s)
{
    NbdsReason reason = (NbdsReason)__atomic_load_n(&s->reason, __ATOMIC_RELAXED);
    json_object *data;

    if (!s->open && reason == NBDS_REASON_HANDSHAKE)
        nbds_note_refused(s, NBDS_REFUSED_TIMEOUT, "it did not open an export within %u seconds",
                          nbds_limits(s->server)->handshake_seconds);
    if (s->open) {
        TM_TRACE(session_end, s->id, blk_export_id(s->export_), reason_name(reason));
        nbds_note_closed(s, reason_name(reason));
    }
    if (!s->announced)
        return;
    data = event(s);
    tm_json_add_string(data, "reason", reason_name(reason));
    emit(s, "NBD_CLIENT_DISCONNECTED", data);
}

/* ---- query-nbd-sessions; under the lock */

const char *const nbds_command_names[NBDS_COMMANDS] = {
    [NBD_CMD_READ] = "read",
    [NBD_CMD_WRITE] = "write",
    [NBD_CMD_FLUSH] = "flush",
    [NBD_CMD_TRIM] = "trim",
    [NBD_CMD_CACHE] = "cache",
    [NBD_CMD_WRITE_ZEROES] = "write-zeroes",
    [NBD_CMD_BLOCK_STATUS] = "block-status",
};

static json_object *describe_requests(const NbdsSession *s)
{
    json_object *requests = json_object_new_object();

    for (size_t i = 0; i < NBDS_COMMANDS; i++) {
        if (nbds_command_names[i])
            tm_json_add_uint(requests, nbds_command_names[i], read_counter(&s->requests[i]));
    }
    return requests;
}

static json_object *describe_contexts(const NbdsSession *s)
{
    json_object *names = json_object_new_array();

    for (unsigned i = 0; s->open && i < s->meta.count; i++) {
        g_autofree char *name = nbds_context_name(&s->meta.contexts[i]);

        json_object_array_add(names, json_object_new_string(name));
    }
    return names;
}

static json_object *describe(const NbdsSession *s, int64_t now)
{
    json_object *info = describe_peer(s);
    bool moved = read_counter(&s->received) + read_counter(&s->sent) != s->moved;

    tm_json_add_bool(info, "tls", s->open && s->tls);
    if (s->identity)
        tm_json_add_string(info, "identity", s->identity);
    if (s->open) {
        tm_json_add_string(info, "export", blk_export_id(s->export_));
        tm_json_add_string(info, "replies",
                           s->extended     ? "extended"
                           : s->structured ? "structured"
                                           : "simple");
    }
    tm_json_add_bool(info, "writable", s->open && s->writable);
    json_object_object_add(info, "contexts", describe_contexts(s));
    json_object_object_add(info, "requests", describe_requests(s));
    tm_json_add_uint(info, "bytes-read", read_counter(&s->bytes[NBD_CMD_READ]));
    tm_json_add_uint(info, "bytes-written", read_counter(&s->bytes[NBD_CMD_WRITE]));
    tm_json_add_uint(info, "errors", read_counter(&s->errors));
    tm_json_add_uint(info, "age", (uint64_t)(now - s->born) / G_USEC_PER_SEC);
    tm_json_add_uint(info, "idle", moved ? 0 : (uint64_t)(now - s->moved_at) / G_USEC_PER_SEC);
    return info;
}

/* Describes up to @n of those after @after, which then is the last of them; whether there were so
 * many. The lock is what clients wait for who come and go. */
static bool describe_some(NbdsServers *servers, uint64_t *after, unsigned n, json_object *all)
{
    int64_t now = g_get_monotonic_time();
    TM_GUARD(&servers->lock);

    for (guint i = place_of(servers, *after + 1); n && i < servers->sessions->len; i++, n--) {
        const NbdsSession *s = servers->sessions->pdata[i];

        json_object_array_add(all, describe(s, now));
        *after = s->id;
    }
    return n == 0;
}

json_object *nbds_sessions_query(NbdsServers *servers, uint64_t after, unsigned limit)
{
    json_object *all = json_object_new_array();
    bool more = true;

    for (unsigned n; more && limit; limit -= n) {
        n = MIN(limit, NBDS_DESCRIBED);
        more = describe_some(servers, &after, n, all);
    }
    return all;
}

json_object *nbds_sessions_clients(NbdsServers *servers, const BlkExport *x)
{
    json_object *all = json_object_new_array();
    TM_GUARD(&servers->lock);
    const GPtrArray *on = nbds_sessions_on(servers, x);

    for (guint i = on ? on->len : 0; i-- > 0;) {
        const NbdsSession *s = on->pdata[i];
        json_object *client;

        if (!s->open)
            continue;
        client = describe_peer(s);
        add_rights(s, client);
        json_object_array_add(all, client);
    }
    return all;
}

bool nbds_sessions_disconnect(NbdsServers *servers, uint64_t id, GError **error)
{
    TM_GUARD(&servers->lock);
    guint i = place_of(servers, id);
    NbdsSession *s = i < servers->sessions->len ? servers->sessions->pdata[i] : NULL;

    if (!s || s->id != id)
        return tm_error_set(error, "NBD session %" G_GUINT64_FORMAT " is not found", id);
    nbds_session_cut(s, NBDS_REASON_REQUESTED);
    return true;
}
