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
    bool psk, verify;
} TmTlsSession;

/* A client's, for a library that reads the files itself; borrowed. */
typedef struct TmTlsFiles {
    const char *dir, *username; /* username: of a pre-shared key; else NULL */
    bool verify;
} TmTlsFiles;
/* Errors: they are not a client's; they have what is not in those files: "passwordid",
 * "priority". */
bool tm_tls_creds_files(const TmObject *creds, TmTlsFiles *files, GError **error);
/* Whether they are a server's. */
bool tm_tls_creds_server(const TmObject *creds, GError **error);
/* A server's side, without a transport yet, as @s. The peer's certificate is verified within the
 * handshake, unless verify-peer is off. */
bool tm_tls_session_init(TmTlsSession *s, TmObject *creds, GError **error);
void tm_tls_session_clear(TmTlsSession *s); /* a zeroed one is fine */
/* After the handshake: the verified distinguished name or the PSK identity; NULL: nobody
 * verified it. Returned. */
char *tm_tls_session_identity(TmTlsSession *s);
