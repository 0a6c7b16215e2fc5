/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/inflate.c: reading clusters that are compressed, by zlib or zstd. The last
 * one inflated is kept, as whoever reads a part of one likely reads the next.
 *
 * Source: the specification, "Compressed Clusters Descriptor". */
#include "block/drivers/qcow2/qcow2.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

static int inflate_zlib(void *to, size_t size, const void *from, size_t length)
{
    z_stream z = {
        .next_in = (Bytef *)from, .avail_in = (uInt)length, .next_out = to, .avail_out = (uInt)size
    };
    int ret = inflateInit2(&z, -15);

    if (ret != Z_OK)
        return -ENOMEM;
    ret = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    /* The length is only known up to a sector: what is beyond the end does not matter. */
    return z.avail_out == 0 && (ret == Z_STREAM_END || ret == Z_BUF_ERROR || ret == Z_OK) ? 0
                                                                                          : -EIO;
}

static int inflate_zstd(void *to, size_t size, const void *from, size_t length)
{
    ZSTD_DStream *z = ZSTD_createDStream();
    ZSTD_inBuffer in = { from, length, 0 };
    ZSTD_outBuffer out = { to, size, 0 };
    int ret = z ? 0 : -ENOMEM;

    while (ret == 0 && out.pos < out.size) {
        size_t before = in.pos + out.pos, n = ZSTD_decompressStream(z, &out, &in);

        if (ZSTD_isError(n) || in.pos + out.pos == before)
            ret = -EIO;
    }
    ZSTD_freeDStream(z);
    return ret;
}

/* Fills @cluster. */
static int inflate_cluster(Qcow2 *q, uint64_t descriptor, uint8_t *cluster)
{
    g_autofree uint8_t *from = NULL;
    uint64_t offset, length;
    int ret;

    qcow2_compressed_place(q, descriptor, &offset, &length);
    from = g_try_malloc(length);
    ret = from ? qcow2_read_child(q, QCOW2_FILE, from, offset, length) : -ENOMEM;
    if (ret < 0)
        return ret;
    return (q->header.compression == QCOW2_ZSTD ? inflate_zstd : inflate_zlib)(cluster, q->cluster,
                                                                               from, length);
}

int qcow2_inflate(Qcow2 *q, uint64_t descriptor, void *buf, uint64_t within, uint64_t length)
{
    uint8_t *cluster;
    int ret;

    pthread_mutex_lock(&q->inflated_lock);
    if (q->inflated && q->inflated_at == descriptor) {
        memcpy(buf, q->inflated + within, length);
        pthread_mutex_unlock(&q->inflated_lock);
        return 0;
    }
    pthread_mutex_unlock(&q->inflated_lock);
    cluster = g_try_malloc(q->cluster);
    ret = cluster ? inflate_cluster(q, descriptor, cluster) : -ENOMEM;
    if (ret == 0) {
        memcpy(buf, cluster + within, length);
        TM_GUARD(&q->inflated_lock);
        uint8_t *old = q->inflated;
        q->inflated = cluster;
        q->inflated_at = descriptor;
        cluster = old;
    }
    g_free(cluster);
    return ret;
}

void qcow2_inflate_close(Qcow2 *q)
{
    g_free(q->inflated);
}
