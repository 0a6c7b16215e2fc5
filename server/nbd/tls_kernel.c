/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/tls_kernel.c: TLS that the kernel does (kTLS), for what a session sends.
 *
 * After the handshake the kernel gets the keys of the sending direction. From then on the plaintext
 * goes into the socket as it does without TLS, also by sendfile(2), and the library sends nothing
 * more. Receiving stays with the library: alerts, tickets and new keys of the client come between
 * the data, and there it knows what to do with them.
 *
 * The keys of the sending direction stay as they are, as those of TLS 1.2 do: few kernels can
 * change them. A client that asks for new ones (no NBD client is known to) is disconnected.
 *
 * Source: the kernel's Documentation/networking/tls.rst. */
#include "server/nbd/nbd_internal.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#define SOL_TLS_LEVEL 282 /* SOL_TLS, which libc does not have */
#define RECORD_ALERT  21
#define SALT          TLS_CIPHER_AES_GCM_128_SALT_SIZE
#define IV            TLS_CIPHER_AES_GCM_128_IV_SIZE
#define SEQUENCE      TLS_CIPHER_AES_GCM_128_REC_SEQ_SIZE

G_STATIC_ASSERT(SALT == TLS_CIPHER_AES_GCM_256_SALT_SIZE && IV == TLS_CIPHER_AES_GCM_256_IV_SIZE);

/* The kernel's form of the keys: the members have the same order with both lengths of a key. */
typedef union {
    struct tls_crypto_info info;
    struct tls12_crypto_info_aes_gcm_128 aes128;
    struct tls12_crypto_info_aes_gcm_256 aes256;
} Keys;

/* @nonce of TLS 1.3: salt and IV; of 1.2: the salt, and each record has the number as its IV. */
static bool fill(uint8_t *iv, uint8_t *key, size_t key_size, uint8_t *salt, bool tls13,
                 const gnutls_datum_t *nonce, const gnutls_datum_t *from, const uint8_t *sequence)
{
    if (from->size != key_size || nonce->size < (tls13 ? SALT + IV : SALT))
        return false;
    memcpy(salt, nonce->data, SALT);
    memcpy(iv, tls13 ? nonce->data + SALT : sequence, IV);
    memcpy(key, from->data, key_size);
    return true;
}

/* Returns the length of *keys; 0: the kernel has no such cipher or version. */
static socklen_t get_keys(gnutls_session_t handle, Keys *keys)
{
    gnutls_protocol_t version = gnutls_protocol_get_version(handle);
    bool tls13 = version == GNUTLS_TLS1_3;
    gnutls_datum_t mac, nonce, key;
    uint8_t sequence[SEQUENCE];

    if ((!tls13 && version != GNUTLS_TLS1_2) ||
        gnutls_record_get_state(handle, 0, &mac, &nonce, &key, sequence) < 0)
        return 0;
    keys->info.version = tls13 ? TLS_1_3_VERSION : TLS_1_2_VERSION;
    switch (gnutls_cipher_get(handle)) {
    case GNUTLS_CIPHER_AES_128_GCM:
        keys->info.cipher_type = TLS_CIPHER_AES_GCM_128;
        memcpy(keys->aes128.rec_seq, sequence, SEQUENCE);
        return fill(keys->aes128.iv, keys->aes128.key, sizeof(keys->aes128.key), keys->aes128.salt,
                    tls13, &nonce, &key, sequence)
                   ? sizeof(keys->aes128)
                   : 0;
    case GNUTLS_CIPHER_AES_256_GCM:
        keys->info.cipher_type = TLS_CIPHER_AES_GCM_256;
        memcpy(keys->aes256.rec_seq, sequence, SEQUENCE);
        return fill(keys->aes256.iv, keys->aes256.key, sizeof(keys->aes256.key), keys->aes256.salt,
                    tls13, &nonce, &key, sequence)
                   ? sizeof(keys->aes256)
                   : 0;
    default:
        return 0;
    }
}

bool nbds_tls_kernel_begin(gnutls_session_t handle, int fd)
{
    Keys keys = { 0 };
    socklen_t length = get_keys(handle, &keys);
    /* A unix socket refuses the first, as does a kernel without the module. With the first alone
     * the socket does what it did before. */
    bool done = length && setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == 0 &&
                setsockopt(fd, SOL_TLS_LEVEL, TLS_TX, &keys, length) == 0;

    explicit_bzero(&keys, sizeof(keys));
    return done;
}

void nbds_tls_kernel_bye(int fd)
{
    uint8_t close_notify[2] = { GNUTLS_AL_WARNING, GNUTLS_A_CLOSE_NOTIFY };
    union {
        struct cmsghdr head; /* for its alignment */
        uint8_t room[CMSG_SPACE(1)];
    } control = { 0 };
    struct iovec iov = { close_notify, sizeof(close_notify) };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_LEN(1)
    };
    struct cmsghdr *type = CMSG_FIRSTHDR(&msg);

    type->cmsg_level = SOL_TLS_LEVEL;
    type->cmsg_type = TLS_SET_RECORD_TYPE;
    type->cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(type) = RECORD_ALERT;
    sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT); /* as much as can be done for it */
}
