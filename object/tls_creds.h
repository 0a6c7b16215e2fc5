/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* object/tls_creds.h: TLS sessions with the credentials of a tls-creds object (tls-creds-x509,
 * tls-creds-psk). Files are named as QEMU names them: ca-cert.pem, ca-crl.pem, server-cert.pem,
 * server-key.pem; keys.psk.
 *
 * Threads: any; a session by one at a time. */
#pragma once
#include "object/objects.h"
#include <gnutls/gnutls.h>

/* A session and the credentials that it began with: those are kept, whatever is loaded later. */
typedef struct TmTlsSession {
    gnutls_session_t handle;
    struct TmTlsLoaded *loaded;
    bool server, psk, verify;
    bool borrowed; /* the handle is somebody else's */
} TmTlsSession;

/* A client's, for a library that reads the files itself; borrowed. */
typedef struct TmTlsFiles {
    const char *dir, *username; /* username: of a pre-shared key; else NULL */
    bool verify;
} TmTlsFiles;
/* Errors: they are not a client's; they have what is not in those files: "passwordid",
 * "priority". */
bool tm_tls_creds_files(const TmObject *creds, TmTlsFiles *files, GError **error);
/* Whether they are a server's, or a client's. */
bool tm_tls_creds_check(const TmObject *creds, bool server, GError **error);
/* The side that the credentials are for, without a transport yet, as @s. The peer's certificate is
 * verified within the handshake, unless verify-peer is off; @host: what a server's is to be for, or
 * NULL. */
bool tm_tls_session_init(TmTlsSession *s, TmObject *creds, const char *host, GError **error);
/* The same for a session that a library has made, as a server's, and frees: before the handshake it
 * gets these credentials in place of its own. @handle outlives @s. */
bool tm_tls_session_adopt(TmTlsSession *s, TmObject *creds, gnutls_session_t handle,
                          GError **error);
void tm_tls_session_clear(TmTlsSession *s); /* a zeroed one is fine */
/* As much of the handshake as the transport has: 0: it is over, and the client may, if @authz
 * (borrowed, or NULL) says who may; GNUTLS_E_AGAIN; or another error of the library, which the peer
 * has been sent as an alert, and *why is its reason (static). *identity, of a server, once it is
 * over: the verified distinguished name of the client or its PSK identity, returned; NULL: nobody
 * verified it. */
int tm_tls_session_handshake(TmTlsSession *s, TmObject *authz, char **identity, const char **why);
