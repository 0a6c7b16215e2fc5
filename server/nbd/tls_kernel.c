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
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#define SOL_TLS_LEVEL 282 /* SOL_TLS, which libc does not have */
#define RECORD_ALERT  21
#define SALT          TLS_CIPHER_AES_GCM_128_SALT_SIZE
#define IV            TLS_CIPHER_AES_GCM_128_IV_SIZE
#define SEQUENCE      TLS_CIPHER_AES_GCM_128_REC_SEQ_SIZE
#define KEY_MAX       TLS_CIPHER_AES_GCM_256_KEY_SIZE

/* The kernel's form of the keys: the members of its struct for each cipher, one after the other. */
typedef struct Keys {
    struct tls_crypto_info info;
    uint8_t members[IV + KEY_MAX + SALT + SEQUENCE];
} Keys;

#define SAME_MEMBERS(s)                                                                            \
    G_STATIC_ASSERT(offsetof(s, iv) == sizeof(struct tls_crypto_info) &&                           \
                    offsetof(s, key) == offsetof(s, iv) + IV &&                                    \
                    offsetof(s, salt) == offsetof(s, key) + sizeof(((s *)NULL)->key) &&            \
                    offsetof(s, rec_seq) == offsetof(s, salt) + SALT &&                            \
                    sizeof(s) == offsetof(s, rec_seq) + SEQUENCE)
SAME_MEMBERS(struct tls12_crypto_info_aes_gcm_128);
SAME_MEMBERS(struct tls12_crypto_info_aes_gcm_256);

static const struct {
    gnutls_cipher_algorithm_t cipher;
    unsigned short type;
    unsigned key; /* bytes */
} ciphers[] = {
    { GNUTLS_CIPHER_AES_128_GCM, TLS_CIPHER_AES_GCM_128, TLS_CIPHER_AES_GCM_128_KEY_SIZE },
    { GNUTLS_CIPHER_AES_256_GCM, TLS_CIPHER_AES_GCM_256, TLS_CIPHER_AES_GCM_256_KEY_SIZE },
};

static void *append(void *to, const void *from, size_t n)
{
    return (uint8_t *)memcpy(to, from, n) + n;
}

/* Returns the length of *keys; 0: the kernel has no such cipher or version. */
static socklen_t get_keys(gnutls_session_t handle, Keys *keys)
{
    gnutls_protocol_t version = gnutls_protocol_get_version(handle);
    bool tls13 = version == GNUTLS_TLS1_3;
    gnutls_datum_t mac, nonce, key;
    uint8_t sequence[SEQUENCE], *end = keys->members;
    unsigned i = 0;

    while (i < G_N_ELEMENTS(ciphers) && ciphers[i].cipher != gnutls_cipher_get(handle))
        i++;
    if (i == G_N_ELEMENTS(ciphers) || (!tls13 && version != GNUTLS_TLS1_2) ||
        gnutls_record_get_state(handle, 0, &mac, &nonce, &key, sequence) < 0 ||
        key.size != ciphers[i].key || nonce.size < (tls13 ? SALT + IV : SALT))
        return 0;
    keys->info.version = tls13 ? TLS_1_3_VERSION : TLS_1_2_VERSION;
    keys->info.cipher_type = ciphers[i].type;
    /* The nonce of TLS 1.3 is salt and IV; that of 1.2 the salt, and the number of each record is
     * its IV. */
    end = append(end, tls13 ? nonce.data + SALT : sequence, IV);
    end = append(end, key.data, key.size);
    end = append(end, nonce.data, SALT);
    end = append(end, sequence, SEQUENCE);
    return (socklen_t)(end - (uint8_t *)keys);
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
