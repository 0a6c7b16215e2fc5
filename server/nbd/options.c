/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/options.c: the options of the handshake, a table of them.
 *
 * An option's data are complete and bounded when it runs. A mistake in them is answered and the
 * session lives, but for EXPORT_NAME, which has no error reply.
 *
 * Source: the NBD specification, "Option types" and "Option reply types". */
#include "block/users.h"
#include "server/nbd/nbd_internal.h"

#include "util/endian.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>

typedef NbdsVerdict (*OptionFn)(NbdsSession *s, uint32_t option, const uint8_t *data,
                                uint32_t length);

static NbdsVerdict invalid(NbdsSession *s, uint32_t option, const char *what)
{
    nbds_option_error(s, option, NBD_REP_ERR_INVALID, "option %u: %s", option, what);
    return NBDS_MORE;
}

/* The same answer for all of a session, once it is on the export. */
static bool may_write(const NbdsSession *s, const BlkExport *x)
{
    if (s->phase == NBDS_TRANSMISSION)
        return s->writable;
    return blk_export_writable(x) && blk_export_allows(x, BLK_WRITE, s->identity);
}

/* The same process or machine: all but the port is equal. */
static bool same_client(const char *peer, const char *other)
{
    const char *port = g_str_has_prefix(peer, "unix") ? NULL : strrchr(peer, ':');

    return port ? !strncmp(peer, other, (size_t)(port + 1 - peer)) : !strcmp(peer, other);
}

/* Under servers->lock: whether a session was promised that its client may have several. */
static bool was_promised(const NbdsSession *s, const BlkExport *x)
{
    const GPtrArray *on = nbds_sessions_on(s->servers, x);
    bool was = false;

    for (guint i = 0; on && i < on->len && !was; i++) {
        const NbdsSession *other = on->pdata[i];

        was = other != s && other->multi_conn && same_client(s->peer, other->peer);
    }
    return was;
}

/* Whether the client may open further connections: it would wait for ever for one that can't come.
 * To those that do come the same is said, though there may be no place left after them. */
static bool may_multiply(NbdsSession *s, BlkExport *x)
{
    uint32_t max = blk_export_max_connections(x);
    unsigned others = blk_export_sessions(x) - (s->began ? 1 : 0);
    TM_GUARD(&s->servers->lock);

    s->multi_conn =
        (nbds_server_room(s->server) && (!max || others + 1 < max)) || was_promised(s, x);
    return s->multi_conn;
}

/* "Transmission flags" of an export as this session would use it. INFO shows what the session could
 * have, as in QEMU: contexts may be selected later. */
static uint16_t flags_of(NbdsSession *s, uint32_t option, BlkExport *x)
{
    uint16_t flags =
        NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;

    if (may_multiply(s, x))
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    if (may_write(s, x))
        flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    else
        flags |= NBD_FLAG_READ_ONLY | (blk_export_releases(x) ? NBD_FLAG_SEND_TRIM : 0);
    if (s->structured)
        flags |= NBD_FLAG_SEND_DF;
    if (s->extended && (option == NBD_OPT_INFO || (s->meta.count && s->meta.export_ == x)))
        flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
    if (nbds_status_2016_spoken(s, x))
        flags |= NBD_2016_FLAG_SEND_BLOCK_STATUS;
    return flags;
}

/* The size of what the export shows now, and what its driver says. */
static uint64_t disk_facts(const BlkExport *x, struct tidemark_info *info)
{
    BlkUser *disk = blk_export_user(x);
    BlkNode *node = blk_user_enter(disk);
    uint64_t size = blk_node_size(node);

    blk_node_info(node, info);
    blk_user_leave(disk);
    return size;
}

/* Opens @s, unless it was cut off meanwhile: whoever does that reads open, under the lock. */
static bool open_session(NbdsSession *s)
{
    TM_GUARD(&s->servers->lock);

    if (__atomic_load_n(&s->dead, __ATOMIC_ACQUIRE))
        return false;
    s->open = true;
    s->announced = s->servers->events_left > 0;
    s->servers->events_left -= s->announced;
    return true;
}

/* Enters transmission on @x (taken). 0, or as blk_export_session_begin(), or -ECONNABORTED: the
 * session is at its end. */
static int enter(NbdsSession *s, BlkExport *x)
{
    struct tidemark_info info = { .struct_size = sizeof(info) };
    int err;

    /* Visible to disconnect before the session begins, so that none slips through. */
    pthread_mutex_lock(&s->servers->lock);
    nbds_sessions_set_export(s, x);
    pthread_mutex_unlock(&s->servers->lock);
    err = blk_export_session_begin(x);
    s->began = !err;
    if (err) {
        pthread_mutex_lock(&s->servers->lock);
        nbds_sessions_set_export(s, NULL);
        pthread_mutex_unlock(&s->servers->lock);
        blk_export_unref(x);
        return err;
    }
    if (s->meta.export_ != x)
        nbds_meta_clear(s);
    nbds_status_2016_begin(s);
    s->disk = blk_export_user(x);
    s->size = disk_facts(x, &info);
    s->writable = may_write(s, x);
    s->writethrough = blk_export_writethrough(x);
    /* Of memory no medium wants more than a page; a driver's blocks may be larger than a batch. */
    s->align = tm_max(s->align, tm_min(info.request_alignment, 4096));
    s->request_magic = s->extended ? NBD_MAGIC_EXTENDED_REQUEST : NBD_MAGIC_REQUEST;
    s->request_head = s->extended ? NBD_EXTENDED_REQUEST : NBD_REQUEST_HEAD;
    s->reply_head = s->extended ? NBD_EXTENDED_HEAD : NBD_STRUCTURED_HEAD;
    s->data_head = s->structured ? s->reply_head + 8 : NBD_SIMPLE_HEAD;
    s->phase = NBDS_TRANSMISSION;
    if (blk_export_background(x))
        blk_engine_move_to_background(s->servers->engine, &s->source);
    if (!open_session(s))
        return -ECONNABORTED;
    nbds_sessions_opened(s);
    return 0;
}

static NbdsVerdict export_name(NbdsSession *s, uint32_t option, const uint8_t *data,
                               uint32_t length)
{
    g_autofree char *name = nbds_option_string(data, length);
    BlkExport *x = name ? nbds_lookup(s, option, name) : NULL;
    uint8_t reply[8 + 2 + 124] = { 0 };

    /* "a client MUST NOT use" it with extended headers */
    if (!x || s->extended) {
        blk_export_unref(x);
        return NBDS_CUT;
    }
    if (enter(s, x) < 0)
        return NBDS_CUT;
    tm_put_be16(reply + 8, flags_of(s, NBD_OPT_EXPORT_NAME, x));
    tm_put_be64(reply, s->size);
    nbds_session_put(s, reply, s->no_zeroes ? 10 : sizeof(reply));
    return NBDS_MORE;
}

static NbdsVerdict abort_(NbdsSession *s, uint32_t option, const uint8_t *data, uint32_t length)
{
    nbds_option_reply(s, option, NBD_REP_ACK, NULL, 0);
    return NBDS_END;
}

static void list_one(NbdsSession *s, uint32_t option, const BlkExport *x)
{
    const char *name = blk_export_name(x), *description = blk_export_description(x);
    g_autoptr(GByteArray) data = g_byte_array_new();
    uint8_t length[4];

    tm_put_be32(length, (uint32_t)strlen(name));
    g_byte_array_append(data, length, sizeof(length));
    g_byte_array_append(data, (const guint8 *)name, (guint)strlen(name));
    if (description)
        g_byte_array_append(data, (const guint8 *)description, (guint)strlen(description));
    nbds_option_reply(s, option, NBD_REP_SERVER, data->data, data->len);
}

static NbdsVerdict list(NbdsSession *s, uint32_t option, const uint8_t *data, uint32_t length)
{
    g_autoptr(GPtrArray) all = NULL;

    if (length)
        return invalid(s, option, "takes no data");
    all = blk_exports_lookup_all(s->servers->exports, "nbd", s->server->id);
    for (guint i = 0; i < all->len; i++) {
        if (blk_export_allows(all->pdata[i], BLK_LIST, s->identity))
            list_one(s, option, all->pdata[i]);
    }
    nbds_option_reply(s, option, NBD_REP_ACK, NULL, 0);
    return NBDS_MORE;
}

/* ---- INFO and GO */

static void info_text(NbdsSession *s, uint32_t option, uint16_t type, const char *text)
{
    uint8_t data[2 + NBD_STRING_MAX];
    size_t length = MIN(strlen(text), NBD_STRING_MAX);

    tm_put_be16(data, type);
    memcpy(data + 2, text, length);
    nbds_option_reply(s, option, NBD_REP_INFO, data, 2 + length);
}

/* "Size constraints": any request works, aligned ones work best. */
static void info_block_size(NbdsSession *s, uint32_t option, const BlkExport *x)
{
    struct tidemark_info info = { .struct_size = sizeof(info) };
    uint8_t data[14];
    uint64_t preferred;

    disk_facts(x, &info);
    preferred = tm_max(4096, tm_max(info.request_alignment, info.preferred_block));
    tm_put_be16(data, NBD_INFO_BLOCK_SIZE);
    tm_put_be32(data + 2, 1);
    tm_put_be32(data + 6, (uint32_t)tm_min(preferred, s->payload_max));
    tm_put_be32(data + 10, (uint32_t)s->payload_max);
    nbds_option_reply(s, option, NBD_REP_INFO, data, sizeof(data));
}

/* A session that has begun keeps its size; the disk may have grown since. */
static void info_export(NbdsSession *s, uint32_t option, BlkExport *x)
{
    struct tidemark_info info = { .struct_size = sizeof(info) };
    uint8_t data[12];

    tm_put_be16(data, NBD_INFO_EXPORT);
    tm_put_be64(data + 2, s->began ? s->size : disk_facts(x, &info));
    tm_put_be16(data + 10, flags_of(s, option, x));
    nbds_option_reply(s, option, NBD_REP_INFO, data, sizeof(data));
}

static NbdsVerdict info_or_go(NbdsSession *s, uint32_t option, const uint8_t *data, uint32_t length)
{
    g_autofree char *name = NULL;
    g_autoptr(BlkExport) x = NULL;
    bool named = false;
    uint32_t n;
    int err;

    if (length < 6 || tm_get_be32(data) > length - 6)
        return invalid(s, option, "the name is longer than the option");
    n = tm_get_be32(data);
    name = nbds_option_string(data + 4, n);
    if (!name)
        return invalid(s, option, "malformed name");
    data += 4 + n;
    length -= 4 + n + 2;
    if (length != 2u * tm_get_be16(data))
        return invalid(s, option, "the count of information requests does not fit the length");
    for (uint32_t i = 0; i < length; i += 2)
        named = named || tm_get_be16(data + 2 + i) == NBD_INFO_NAME;

    x = nbds_lookup(s, option, name);
    if (!x)
        return NBDS_MORE;
    err = option == NBD_OPT_GO ? enter(s, blk_export_ref(x)) : 0;
    if (err == -ECONNABORTED)
        return NBDS_CUT;
    if (err == -EUSERS)
        nbds_option_error(s, option, NBD_REP_ERR_POLICY,
                          "export '%s' already has its maximum of %u clients", name,
                          blk_export_max_connections(x));
    else if (err)
        nbds_option_error(s, option, NBD_REP_ERR_SHUTDOWN, "export '%s' is shutting down", name);
    if (err)
        return NBDS_MORE;
    if (named)
        info_text(s, option, NBD_INFO_NAME, blk_export_name(x));
    if (blk_export_description(x))
        info_text(s, option, NBD_INFO_DESCRIPTION, blk_export_description(x));
    info_block_size(s, option, x);
    info_export(s, option, x);
    nbds_option_reply(s, option, NBD_REP_ACK, NULL, 0);
    return NBDS_MORE;
}

static NbdsVerdict structured_reply(NbdsSession *s, uint32_t option, const uint8_t *data,
                                    uint32_t length)
{
    if (length)
        return invalid(s, option, "takes no data");
    if (s->extended) {
        nbds_option_error(s, option, NBD_REP_ERR_EXT_HEADER_REQD,
                          "option %u: extended headers are already agreed on", option);
        return NBDS_MORE;
    }
    if (s->structured)
        return invalid(s, option, "structured replies are already agreed on");
    s->structured = true;
    nbds_option_reply(s, option, NBD_REP_ACK, NULL, 0);
    return NBDS_MORE;
}

static NbdsVerdict extended_headers(NbdsSession *s, uint32_t option, const uint8_t *data,
                                    uint32_t length)
{
    if (length)
        return invalid(s, option, "takes no data");
    if (s->extended)
        return invalid(s, option, "extended headers are already agreed on");
    s->structured = s->extended = true;
    nbds_option_reply(s, option, NBD_REP_ACK, NULL, 0);
    return NBDS_MORE;
}

/* What went before was not protected: it is dropped, and what is there already was not sent by
 * somebody who waited for the answer, as they must. */
static NbdsVerdict starttls(NbdsSession *s, uint32_t option, const uint8_t *data, uint32_t length)
{
    if (length)
        return invalid(s, option, "takes no data");
    if (s->tls)
        return invalid(s, option, "TLS is in use already");
    if (!s->server->tls) {
        nbds_option_error(s, option, NBD_REP_ERR_POLICY, "this server has no TLS");
        return NBDS_MORE;
    }
    if (nbds_session_available(s))
        return NBDS_CUT;
    s->structured = s->extended = false;
    nbds_meta_clear(s);
    nbds_option_reply(s, option, NBD_REP_ACK, NULL, 0);
    return nbds_session_flush(s) && nbds_tls_begin(s) ? NBDS_MORE : NBDS_CUT;
}

bool nbds_option_needs_tls(const NbdsSession *s, uint32_t option)
{
    return !s->tls && s->server->tls_required && option != NBD_OPT_STARTTLS &&
           option != NBD_OPT_ABORT;
}

static const struct {
    uint32_t option;
    OptionFn run;
} table[] = {
    { NBD_OPT_EXPORT_NAME, export_name },
    { NBD_OPT_ABORT, abort_ },
    { NBD_OPT_LIST, list },
    { NBD_OPT_STARTTLS, starttls },
    { NBD_OPT_INFO, info_or_go },
    { NBD_OPT_GO, info_or_go },
    { NBD_OPT_STRUCTURED_REPLY, structured_reply },
    { NBD_OPT_LIST_META_CONTEXT, nbds_meta_option },
    { NBD_OPT_SET_META_CONTEXT, nbds_meta_option },
    { NBD_OPT_EXTENDED_HEADERS, extended_headers },
};

static OptionFn find(uint32_t option)
{
    for (size_t i = 0; i < G_N_ELEMENTS(table); i++) {
        if (table[i].option == option)
            return table[i].run;
    }
    return NULL;
}

bool nbds_option_known(uint32_t option)
{
    return find(option) != NULL;
}

NbdsVerdict nbds_option_run(NbdsSession *s, uint32_t option, const uint8_t *data, uint32_t length)
{
    return find(option)(s, option, data, length);
}
