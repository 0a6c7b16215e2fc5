/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* object/secret.c: a password or key, given in place or in a file, maybe encrypted with another one
 * (AES-256-CBC with PKCS#7 padding). Source: QEMU docs/system/secrets. */
#include "object/objects_internal.h"

#include "util/error.h"
#include "util/secret.h"

#include <gnutls/crypto.h>
#include <string.h>

#define KEY_SIZE   32u
#define BLOCK      16u
#define SECRET_MAX (1u << 20) /* bytes of a secret's file */

typedef struct Secret {
    TmObject object;
    TmSecret text;
} Secret;

const guint8 *tm_secret_data(const TmObject *object, size_t *length)
{
    const Secret *secret = (const Secret *)object;

    *length = secret->text.length;
    return secret->text.data;
}

static void clear(TmObject *object)
{
    Secret *secret = (Secret *)object;

    tm_secret_clear(&secret->text);
}

/* Reads what the properties give. */
static bool read_given(Secret *secret, json_object *props, GError **error)
{
    const char *data = tm_object_string(props, "data"), *file = tm_object_string(props, "file");
    json_object *value;

    if (data && file)
        return tm_error_set(error, "'file' and 'data' are mutually exclusive");
    if (!data && !file)
        return tm_error_set(error, "Either 'file' or 'data' must be provided");
    if (data && g_str_equal(data, TM_OBJECT_LEFT_OUT))
        return tm_error_set(
            error,
            "the data of secret '%s' are not in this configuration: put them in, or "
            "use 'file'",
            secret->object.id);
    if (!data)
        return tm_secret_read(&secret->text, file, SECRET_MAX, error);
    json_object_object_get_ex(props, "data", &value);
    if (!tm_secret_new(&secret->text, (size_t)json_object_get_string_len(value), error))
        return false;
    memcpy(secret->text.data, data, secret->text.length);
    return true;
}

/* In place, which takes a NUL after the end. g_base64_decode() passes over what is none. */
static bool decode(void *text, size_t *length)
{
    size_t before = *length;

    if (strlen(text) != before ||
        strspn(text, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "+/=\r\n") != before)
        return false;
    if (before)
        g_base64_decode_inplace(text, length);
    return *length || !before;
}

static bool from_base64(Secret *secret, GError **error)
{
    return decode(secret->text.data, &secret->text.length) ||
           tm_error_set(error, "Secret '%s' is not valid base64", secret->object.id);
}

/* The length of what the last block's padding leaves, or -1. */
static gssize unpadded(const guint8 *data, gsize length)
{
    guint8 pad = length ? data[length - 1] : 0;

    if (!pad || pad > BLOCK || pad > length)
        return -1;
    for (gsize i = length - pad; i < length; i++) {
        if (data[i] != pad)
            return -1;
    }
    return (gssize)(length - pad);
}

static bool decrypt_with(Secret *secret, TmObject *key, const char *iv_text, GError **error)
{
    g_autofree char *iv = g_strdup(iv_text);
    size_t key_length, iv_length = iv ? strlen(iv) : 0;
    bool iv_known = iv && decode(iv, &iv_length) && iv_length == BLOCK;
    const guint8 *bytes = tm_secret_data(key, &key_length);
    gnutls_datum_t key_datum = { (unsigned char *)bytes, (unsigned)key_length };
    gnutls_datum_t iv_datum = { (unsigned char *)iv, (unsigned)iv_length };
    gnutls_cipher_hd_t cipher;
    gssize length;
    int ret;

    if (!iv_known)
        return tm_error_set(error,
                            "'iv' must be the base64 form of %u bytes to decrypt secret '%s'",
                            BLOCK, secret->object.id);
    if (key_length != KEY_SIZE)
        return tm_error_set(error, "Key '%s' has %zu bytes, expected %u", key->id, key_length,
                            KEY_SIZE);
    if (!secret->text.length || secret->text.length % BLOCK)
        return tm_error_set(error, "Secret '%s' has %zu bytes, which is not encrypted data",
                            secret->object.id, secret->text.length);
    ret = gnutls_cipher_init(&cipher, GNUTLS_CIPHER_AES_256_CBC, &key_datum, &iv_datum);
    if (ret == 0) {
        ret = gnutls_cipher_decrypt(cipher, secret->text.data, secret->text.length);
        gnutls_cipher_deinit(cipher);
    }
    length = ret == 0 ? unpadded(secret->text.data, secret->text.length) : -1;
    if (length < 0)
        return tm_error_set(error, "Secret '%s' can't be decrypted with key '%s'",
                            secret->object.id, key->id);
    secret->text.length = (gsize)length;
    return true;
}

static bool init(TmObject *object, TmObjects *objects, json_object *props, GError **error)
{
    Secret *secret = (Secret *)object;
    const char *format = tm_object_string(props, "format");
    const char *keyid = tm_object_string(props, "keyid");
    bool base64 = format && g_str_equal(format, "base64");
    g_autoptr(TmObject) key = NULL;

    tm_secret_no_dumps();
    if (!read_given(secret, props, error))
        return false;
    if (base64 && !from_base64(secret, error))
        return false;
    if (!keyid)
        return true;
    key = tm_objects_get(objects, keyid, TM_OBJECT_SECRET, error);
    return key && decrypt_with(secret, key, tm_object_string(props, "iv"), error);
}

static const TmProperty properties[] = {
    { "data", "string" },
    { "file", "string", .otherwise = "\"\"" },
    { "format", "QCryptoSecretFormat", .otherwise = "\"raw\"" },
    { "keyid", "string", .otherwise = "\"\"" },
    { "iv", "string", .otherwise = "\"\"" },
    { NULL },
};

const TmObjectClass tm_secret_class = {
    .type = "secret",
    .kind = TM_OBJECT_SECRET,
    .size = sizeof(Secret),
    .init = init,
    .clear = clear,
    .properties = properties,
};
