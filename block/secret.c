/* block/secret.c: a password or key, given in place or in a file, maybe encrypted with another one
 * (AES-256-CBC with PKCS#7 padding). Source: QEMU docs/system/secrets. */
#include "block/objects_int.h"

#include "util/error.h"

#include <gnutls/crypto.h>
#include <string.h>

#define KEY_SIZE   32u
#define BLOCK      16u
#define SECRET_MAX (1u << 20) /* bytes of a secret's file */

typedef struct Secret {
    BlkObject object;
    guint8 *data;
    gsize length;
} Secret;

static void wipe(void *data, size_t length)
{
    if (data)
        gnutls_memset(data, 0, length);
    g_free(data);
}

const guint8 *blk_secret_data(const BlkObject *object, size_t *length)
{
    const Secret *secret = (const Secret *)object;

    *length = secret->length;
    return secret->data;
}

static void clear(BlkObject *object)
{
    Secret *secret = (Secret *)object;

    wipe(secret->data, secret->length);
}

/* Reads what the properties give; @data is NUL-terminated behind its end. */
static bool read_given(Secret *secret, json_object *props, GError **error)
{
    const char *data = blk_object_string(props, "data"), *file = blk_object_string(props, "file");
    g_autoptr(GError) problem = NULL;
    json_object *value;

    if (data && file)
        return tm_error_set(error, "'file' and 'data' are mutually exclusive");
    if (!data && !file)
        return tm_error_set(error, "Either 'file' or 'data' must be provided");
    if (data) {
        json_object_object_get_ex(props, "data", &value);
        secret->length = (gsize)json_object_get_string_len(value);
        secret->data = g_malloc(secret->length + 1);
        memcpy(secret->data, data, secret->length + 1);
        return true;
    }
    if (!g_file_get_contents(file, (char **)&secret->data, &secret->length, &problem))
        return tm_error_set(error, "Unable to read %s: %s", file, problem->message);
    if (secret->length > SECRET_MAX)
        return tm_error_set(error, "'%s' is too large for a secret: %zu bytes, at most %u", file,
                            secret->length, SECRET_MAX);
    return true;
}

/* g_base64_decode() passes over what is none. */
static guint8 *decode(const char *text, size_t text_length, gsize *length)
{
    guint8 *data;

    if (strlen(text) != text_length ||
        strspn(text, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "+/=\r\n") != text_length)
        return NULL;
    data = g_base64_decode(text, length);
    if (!*length && text_length)
        g_clear_pointer(&data, g_free);
    return data;
}

static bool from_base64(Secret *secret, GError **error)
{
    gsize length = 0;
    guint8 *data = decode((const char *)secret->data, secret->length, &length);

    if (!data)
        return tm_error_set(error, "Secret '%s' is not valid base64", secret->object.id);
    wipe(secret->data, secret->length);
    secret->data = data;
    secret->length = length;
    return true;
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

static bool decrypt_with(Secret *secret, BlkObject *key, const char *iv_text, GError **error)
{
    gsize iv_length = 0;
    g_autofree guint8 *iv = iv_text ? decode(iv_text, strlen(iv_text), &iv_length) : NULL;
    size_t key_length;
    const guint8 *bytes = blk_secret_data(key, &key_length);
    gnutls_datum_t key_datum = { (unsigned char *)bytes, (unsigned)key_length };
    gnutls_datum_t iv_datum = { iv, (unsigned)iv_length };
    gnutls_cipher_hd_t cipher;
    gssize length;
    int ret;

    if (!iv || iv_length != BLOCK)
        return tm_error_set(error,
                            "'iv' must be the base64 form of %u bytes to decrypt secret '%s'",
                            BLOCK, secret->object.id);
    if (key_length != KEY_SIZE)
        return tm_error_set(error, "Key '%s' has %zu bytes, decrypting takes %u", key->id,
                            key_length, KEY_SIZE);
    if (!secret->length || secret->length % BLOCK)
        return tm_error_set(error, "Secret '%s' has %zu bytes, which is not encrypted data",
                            secret->object.id, secret->length);
    ret = gnutls_cipher_init(&cipher, GNUTLS_CIPHER_AES_256_CBC, &key_datum, &iv_datum);
    if (ret == 0) {
        ret = gnutls_cipher_decrypt(cipher, secret->data, secret->length);
        gnutls_cipher_deinit(cipher);
    }
    length = ret == 0 ? unpadded(secret->data, secret->length) : -1;
    if (length < 0)
        return tm_error_set(error, "Secret '%s' can't be decrypted with key '%s'",
                            secret->object.id, key->id);
    secret->length = (gsize)length;
    return true;
}

static bool init(BlkObject *object, BlkObjects *objects, json_object *props, GError **error)
{
    Secret *secret = (Secret *)object;
    const char *format = blk_object_string(props, "format");
    const char *keyid = blk_object_string(props, "keyid");
    bool base64 = format && g_str_equal(format, "base64");
    g_autoptr(BlkObject) key = NULL;

    if (!read_given(secret, props, error))
        return false;
    if (base64 && !from_base64(secret, error))
        return false;
    if (!keyid)
        return true;
    key = blk_objects_get(objects, keyid, BLK_OBJECT_SECRET, error);
    return key && decrypt_with(secret, key, blk_object_string(props, "iv"), error);
}

const BlkObjectClass blk_secret_class = { "secret", BLK_OBJECT_SECRET, sizeof(Secret), init, clear,
                                          NULL };
