/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/schema/types.c: the types that several families share. Names and members are QEMU's (its qapi
 * directory). */
#include "qmp/schema/table.h"

const QmpType qmp_type_any = { .kind = QMP_KIND_ANY, .name = "any" };
const QmpType qmp_type_bool = { .kind = QMP_KIND_BOOL, .name = "boolean" };
const QmpType qmp_type_str = { .kind = QMP_KIND_STR, .name = "string" };
const QmpType qmp_type_int = {
    .kind = QMP_KIND_INT, .name = "integer", .min = INT64_MIN, .max = INT64_MAX
};
static const QmpType type_uint16 = { .kind = QMP_KIND_UINT,
                                     .name = "uint16_t",
                                     .umax = UINT16_MAX };
const QmpType qmp_type_uint32 = { .kind = QMP_KIND_UINT, .name = "uint32_t", .umax = UINT32_MAX };
const QmpType qmp_type_uint64 = { .kind = QMP_KIND_UINT, .name = "uint64", .umax = UINT64_MAX };
const QmpType qmp_type_size = {
    .kind = QMP_KIND_UINT, .name = "size", .umax = UINT64_MAX, .suffixes = true
};
const QmpType qmp_type_str_array = { .kind = QMP_KIND_ARRAY,
                                     .name = "array",
                                     .element = &qmp_type_str };

static const QmpMember no_members[] = { { NULL } };
const QmpType qmp_type_empty = { .kind = QMP_KIND_OBJECT,
                                 .name = "q_empty",
                                 .members = no_members };

/* ---- nodes ---- */

const QmpType qmp_type_blockdev_options = { .kind = QMP_KIND_LATE, .name = "BlockdevOptions" };

static const QmpType null_type = { .kind = QMP_KIND_NULL, .name = "null" };
static const QmpType *const ref_alternatives[] = { &qmp_type_blockdev_options, &qmp_type_str,
                                                   NULL };
static const QmpType *const ref_null_alternatives[] = { &qmp_type_blockdev_options, &qmp_type_str,
                                                        &null_type, NULL };
const QmpType qmp_type_blockdev_ref = { .kind = QMP_KIND_ALTERNATE,
                                        .name = "BlockdevRef",
                                        .alternatives = ref_alternatives };
const QmpType qmp_type_blockdev_ref_null = { .kind = QMP_KIND_ALTERNATE,
                                             .name = "BlockdevRefOrNull",
                                             .alternatives = ref_null_alternatives };

/* ---- bitmaps ---- */

static const QmpMember bitmap_members[] = {
    { "node", &qmp_type_str, false, "name of the node that the bitmap belongs to" },
    { "name", &qmp_type_str, false, "name of the bitmap" },
    { NULL },
};
const QmpType qmp_type_bitmap = { .kind = QMP_KIND_OBJECT,
                                  .name = "BlockDirtyBitmap",
                                  .members = bitmap_members };

static const QmpType *const bitmap_alternatives[] = { &qmp_type_str, &qmp_type_bitmap, NULL };
const QmpType qmp_type_bitmap_or_str = { .kind = QMP_KIND_ALTERNATE,
                                         .name = "BlockDirtyBitmapOrStr",
                                         .alternatives = bitmap_alternatives };
const QmpType qmp_type_bitmaps = { .kind = QMP_KIND_ARRAY,
                                   .name = "array",
                                   .element = &qmp_type_bitmap_or_str };

/* ---- exports ---- */

static const char *const export_types[] = { "nbd", "vhost-user-blk", "fuse", NULL };
const QmpType qmp_type_export_type = { .kind = QMP_KIND_ENUM,
                                       .name = "BlockExportType",
                                       .values = export_types };

static const QmpType flag_bit = { .kind = QMP_KIND_INT, .name = "int", .min = 1, .max = 15 };
static const QmpMember block_status_2016_members[] = {
    { "dirty-flag", &flag_bit, true,
      "number of the command flag that requests dirty status (default: none)" },
    { "bitmap", &qmp_type_str, true,
      "the dirty bitmap whose status the flag requests (default: the first one)" },
    { NULL },
};
static const QmpType block_status_2016 = { .kind = QMP_KIND_OBJECT,
                                           .name = "NbdBlockStatus2016",
                                           .members = block_status_2016_members };

static const QmpMember nbd_export_members[] = {
    { "name", &qmp_type_str, true, "export name (default: the node name)" },
    { "description", &qmp_type_str, true, "free text, shown to clients that list the exports" },
    { "bitmaps", &qmp_type_bitmaps, true, "dirty bitmaps to offer as qemu:dirty-bitmap:NAME" },
    { "allocation-depth", &qmp_type_bool, true, "offer the context qemu:allocation-depth" },
    { "servers", &qmp_type_str_array, true,
      "the NBD servers that offer it (default: all, including later ones)" },
    { "hidden", &qmp_type_bool, true, "hide it from clients that list the exports (default: off)" },
    { "default", &qmp_type_bool, true, "also offer it under the empty name (default: off)" },
    { "max-connections", &qmp_type_uint32, true,
      "maximum number of clients at a time, 0 for no limit (default: 0)" },
    { "allow-list", &qmp_type_str, true,
      "access list: clients that see it in the list of exports (default: all)" },
    { "allow-open", &qmp_type_str, true, "access list: clients that may open it (default: all)" },
    { "allow-write", &qmp_type_str, true,
      "access list: clients that may write, with writable=on (default: all)" },
    { "block-status-2016", &block_status_2016, true,
      "offer block status as drafted in 2016 to clients that select no contexts" },
    { NULL },
};
static const QmpType nbd_export = { .kind = QMP_KIND_OBJECT,
                                    .name = "BlockExportOptionsNbd",
                                    .members = nbd_export_members };

static const QmpMember vhost_export_members[] = {
    { "addr", &qmp_type_socket_address, false, "the socket on which it listens: unix or fd" },
    { "logical-block-size", &qmp_type_size, true, "bytes of a block of the guest (default: 512)" },
    { "num-queues", &type_uint16, true, "number of queues that a guest can use (default: 1)" },
    { NULL },
};
static const QmpType vhost_export = { .kind = QMP_KIND_OBJECT,
                                      .name = "BlockExportOptionsVhostUserBlk",
                                      .members = vhost_export_members };

static const char *const allow_other_values[] = { "off", "on", "auto", NULL };
static const QmpType allow_other_type = { .kind = QMP_KIND_ENUM,
                                          .name = "FuseExportAllowOther",
                                          .values = allow_other_values };
static const QmpMember fuse_export_members[] = {
    { "mountpoint", &qmp_type_str, false, "an existing regular file, over which it is mounted" },
    { "growable", &qmp_type_bool, true,
      "writes beyond the end make the disk longer (default: off)" },
    { "allow-other", &allow_other_type, true,
      "let other users reach the file: off, on, or auto for on if the system allows it (default: "
      "auto)" },
    { NULL },
};
static const QmpType fuse_export = { .kind = QMP_KIND_OBJECT,
                                     .name = "BlockExportOptionsFuse",
                                     .members = fuse_export_members };

static const QmpMember export_members[] = {
    { "type", &qmp_type_export_type, false, "the protocol" },
    { "id", &qmp_type_str, false, "the id of the export" },
    { "node-name", &qmp_type_str, false, "the node to export" },
    { "writable", &qmp_type_bool, true, "allow clients to write (default: off)" },
    { "writethrough", &qmp_type_bool, true, "flush after every write (default: off)" },
    { "iothread", &qmp_type_str, true,
      "id of an iothread; for compatibility, as all threads serve all exports" },
    { "fixed-iothread", &qmp_type_bool, true,
      "for compatibility, as all threads serve all exports" },
    { "allow-inactive", &qmp_type_bool, true,
      "the node may be inactive, and become so; writes then fail (default: off, and an inactive "
      "node becomes active)" },
    { NULL },
};
static const QmpVariant export_variants[] = {
    { "nbd", &nbd_export }, { "vhost-user-blk", &vhost_export }, { "fuse", &fuse_export }, { NULL }
};
const QmpType qmp_type_export_options = {
    .kind = QMP_KIND_OBJECT,
    .name = "BlockExportOptions",
    .members = export_members,
    .tag = "type",
    .variants = export_variants,
};

/* ---- where the NBD server listens: on the wire the variants are under "data", on the command line
 * they are not ---- */

static const char *const address_types[] = { "inet", "unix", "vsock", "fd", NULL };
static const QmpType address_type = { .kind = QMP_KIND_ENUM,
                                      .name = "SocketAddressType",
                                      .values = address_types };

static const QmpMember inet_members[] = {
    { "host", &qmp_type_str, false, "host name or address" },
    { "port", &qmp_type_str, false, "port number or service name" },
    { "to", &type_uint16, true, "last port to try; the first free one is taken" },
    { "ipv4", &qmp_type_bool, true, "use IPv4 addresses" },
    { "ipv6", &qmp_type_bool, true, "use IPv6 addresses" },
    { "numeric", &qmp_type_bool, true,
      "host and port are numbers: resolve no names (default: off)" },
    { "keep-alive", &qmp_type_bool, true, "probe idle connections (default: on)" },
    { NULL },
};
static const QmpMember unix_members[] = {
    { "path", &qmp_type_str, false, "path of the socket, or its abstract name" },
    { "abstract", &qmp_type_bool, true,
      "use Linux's abstract name space, where sockets are no files (default: off)" },
    { "tight", &qmp_type_bool, true,
      "abstract: the name ends with its last byte, without padding (default: on)" },
    { "mode", &qmp_type_str, true,
      "permissions of the socket's file, in octal (default: 0600); connecting needs w" },
    { "owner", &qmp_type_str, true,
      "user that owns the socket's file, by name or number (default: the daemon's)" },
    { "group", &qmp_type_str, true,
      "group that owns the socket's file, by name or number (default: the daemon's)" },
    { NULL },
};
static const QmpMember vsock_members[] = {
    { "cid", &qmp_type_str, false, "context id, 4294967295 for any" },
    { "port", &qmp_type_str, false, "port number" },
    { NULL },
};
static const QmpMember fd_members[] = {
    { "str", &qmp_type_str, false, "number of an inherited descriptor, or its name from systemd" },
    { NULL },
};
static const QmpType inet_address = { .kind = QMP_KIND_OBJECT,
                                      .name = "InetSocketAddress",
                                      .members = inet_members };
static const QmpType unix_address = { .kind = QMP_KIND_OBJECT,
                                      .name = "UnixSocketAddress",
                                      .members = unix_members };
static const QmpType vsock_address = { .kind = QMP_KIND_OBJECT,
                                       .name = "VsockSocketAddress",
                                       .members = vsock_members };
static const QmpType fd_address = { .kind = QMP_KIND_OBJECT,
                                    .name = "FdSocketAddress",
                                    .members = fd_members };

static const QmpMember inet_wrapper_members[] = {
    { "data", &inet_address, false, "the address itself" }, { NULL }
};
static const QmpMember unix_wrapper_members[] = {
    { "data", &unix_address, false, "the address itself" }, { NULL }
};
static const QmpMember vsock_wrapper_members[] = {
    { "data", &vsock_address, false, "the address itself" }, { NULL }
};
static const QmpMember fd_wrapper_members[] = {
    { "data", &fd_address, false, "the address itself" }, { NULL }
};
static const QmpType inet_wrapper = { .kind = QMP_KIND_OBJECT,
                                      .name = "InetSocketAddressWrapper",
                                      .members = inet_wrapper_members };
static const QmpType unix_wrapper = { .kind = QMP_KIND_OBJECT,
                                      .name = "UnixSocketAddressWrapper",
                                      .members = unix_wrapper_members };
static const QmpType vsock_wrapper = { .kind = QMP_KIND_OBJECT,
                                       .name = "VsockSocketAddressWrapper",
                                       .members = vsock_wrapper_members };
static const QmpType fd_wrapper = { .kind = QMP_KIND_OBJECT,
                                    .name = "FdSocketAddressWrapper",
                                    .members = fd_wrapper_members };

static const QmpMember address_members[] = {
    { "type", &address_type, false, "kind of address" },
    { NULL },
};
static const QmpVariant address_variants[] = { { "inet", &inet_address },
                                               { "unix", &unix_address },
                                               { "vsock", &vsock_address },
                                               { "fd", &fd_address },
                                               { NULL } };
static const QmpVariant legacy_variants[] = { { "inet", &inet_wrapper },
                                              { "unix", &unix_wrapper },
                                              { "vsock", &vsock_wrapper },
                                              { "fd", &fd_wrapper },
                                              { NULL } };
const QmpType qmp_type_socket_address = {
    .kind = QMP_KIND_OBJECT,
    .name = "SocketAddress",
    .members = address_members,
    .tag = "type",
    .variants = address_variants,
};

/* ---- where a server is that a node connects to */

static const char *const peer_types[] = { "inet", "unix", "vsock", NULL };
static const QmpType peer_type = { .kind = QMP_KIND_ENUM,
                                   .name = "SocketAddressType",
                                   .values = peer_types };
static const QmpMember peer_inet_members[] = {
    { "host", &qmp_type_str, false, "inet: host name or address" },
    { "port", &qmp_type_str, false, "inet: port number or service name" },
    { "ipv4", &qmp_type_bool, true, "inet: use IPv4 addresses" },
    { "ipv6", &qmp_type_bool, true, "inet: use IPv6 addresses" },
    { "numeric", &qmp_type_bool, true,
      "inet: host and port are numbers: resolve no names (default: off)" },
    { "keep-alive", &qmp_type_bool, true,
      "inet: probe the connections while they are idle (default: on)" },
    { NULL },
};
static const QmpType peer_inet = { .kind = QMP_KIND_OBJECT,
                                   .name = "InetSocketAddress",
                                   .members = peer_inet_members };
static const QmpMember peer_vsock_members[] = {
    { "cid", &qmp_type_str, false, "vsock: context id" },
    { "port", &qmp_type_str, false, "vsock: port number" },
    { NULL },
};
static const QmpType peer_vsock = { .kind = QMP_KIND_OBJECT,
                                    .name = "VsockSocketAddress",
                                    .members = peer_vsock_members };
static const QmpMember peer_members[] = {
    { "type", &peer_type, false, "kind of address" },
    { NULL },
};
static const QmpMember peer_unix_members[] = {
    { "path", &qmp_type_str, false, "unix: path of the socket" },
    { "abstract", &qmp_type_bool, true,
      "unix: the path is a name in Linux's abstract name space (default: off)" },
    { "tight", &qmp_type_bool, true,
      "unix, abstract: the name ends with its last byte, without padding (default: on)" },
    { NULL },
};
static const QmpType peer_unix = { .kind = QMP_KIND_OBJECT,
                                   .name = "UnixSocketAddress",
                                   .members = peer_unix_members };
static const QmpVariant peer_variants[] = {
    { "inet", &peer_inet }, { "unix", &peer_unix }, { "vsock", &peer_vsock }, { NULL }
};
const QmpType qmp_type_peer_address = {
    .kind = QMP_KIND_OBJECT,
    .name = "SocketAddress",
    .members = peer_members,
    .tag = "type",
    .variants = peer_variants,
};

const QmpType qmp_type_socket_address_legacy = {
    .kind = QMP_KIND_OBJECT,
    .name = "SocketAddressLegacy",
    .members = address_members,
    .tag = "type",
    .variants = legacy_variants,
};

/* clang-format off */
#define LIMIT_MEMBERS                                                                              \
    { "max-connections", &qmp_type_uint32, true,                                                   \
      "maximum number of clients at a time, 0 for no limit (default: 0)" },                        \
    { "handshake-max-seconds", &qmp_type_uint32, true,                                             \
      "seconds that a client has to open an export, 0 for no limit (default: 10)" },               \
    { "idle-max-seconds", &qmp_type_uint32, true,                                                  \
      "seconds without data after which a client is disconnected, 0 for never (default: 0)" },     \
    { "max-bytes-in-flight", &qmp_type_size, true,                                                 \
      "bytes of one client's requests in flight, 0 for no limit (default: 64M)" },                 \
    { "max-bytes-in-flight-total", &qmp_type_size, true,                                           \
      "bytes of all clients' requests in flight, 0 for no limit (default: 1G)" },                  \
    { "max-request-size", &qmp_type_size, true,                                                    \
      "largest payload of a read or write, 64k to 64M (default: 32M)" },                           \
    { "max-option-size", &qmp_type_size, true,                                                     \
      "largest option of a handshake, 16k to 64M (default: 256k)" },                               \
    { "max-options", &qmp_type_uint32, true,                                                       \
      "options that a client may send in a handshake, 16 to 1048576 (default: 4096)" }

#define SERVER_MEMBERS                                                                             \
    { "id", &qmp_type_str, true, "name of the server (default: 'default')" },                      \
    { "tls-creds", &qmp_type_str, true, "id of the object with the TLS credentials" },             \
    { "tls-authz", &qmp_type_str, true, "id of the access list of clients that may connect" },     \
    { "tls-required", &qmp_type_bool, true,                                                        \
      "with tls-creds: refuse clients that don't start TLS (default: on)" },                       \
    LIMIT_MEMBERS
/* clang-format on */

static const QmpMember limits_members[] = {
    { "id", &qmp_type_str, true, "name of the server (default: 'default')" },
    LIMIT_MEMBERS,
    { NULL },
};
const QmpType qmp_type_nbd_server_limits = { .kind = QMP_KIND_OBJECT,
                                             .name = "q_obj_nbd-server-set-limits-arg",
                                             .members = limits_members };

static const QmpMember server_members[] = {
    { "addr", &qmp_type_socket_address_legacy, false, "address to listen on" },
    SERVER_MEMBERS,
    { NULL },
};
const QmpType qmp_type_nbd_server_args = { .kind = QMP_KIND_OBJECT,
                                           .name = "NbdServerOptionsLegacy",
                                           .members = server_members };

static const QmpMember server_option_members[] = {
    { "addr", &qmp_type_socket_address, false, "address to listen on" },
    SERVER_MEMBERS,
    { NULL },
};
const QmpType qmp_type_nbd_server_option = { .kind = QMP_KIND_OBJECT,
                                             .name = "NbdServerOptions",
                                             .members = server_option_members };

#define METRICS_MEMBERS                                                                            \
    { "tls-creds", &qmp_type_str, true, "id of the object with the TLS credentials" },             \
    {                                                                                              \
        "token-secret", &qmp_type_str, true,                                                       \
            "id of the secret that clients must send, as a bearer token or as a password"          \
    }

static const QmpMember metrics_members[] = {
    { "addr", &qmp_type_socket_address_legacy, false, "address to listen on" },
    METRICS_MEMBERS,
    { NULL },
};
const QmpType qmp_type_metrics_args = { .kind = QMP_KIND_OBJECT,
                                        .name = "MetricsServerOptionsLegacy",
                                        .members = metrics_members };

static const QmpMember metrics_option_members[] = {
    { "addr", &qmp_type_socket_address, false, "address to listen on" },
    METRICS_MEMBERS,
    { NULL },
};
const QmpType qmp_type_metrics_option = { .kind = QMP_KIND_OBJECT,
                                          .name = "MetricsServerOptions",
                                          .members = metrics_option_members };
