/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/status_2016.c: who is answered in the form that block status had in the draft of 2016.
 *
 * An export may offer it (block-status-2016). It is spoken with a client that agreed on structured
 * replies and on nothing newer: no extended headers, no metadata contexts of this export. Such a
 * client sees bit 9 of the transmission flags, which today stands for something else, and is
 * answered without context ids, about provisioning or, by a command flag that the draft gave no
 * number, about dirtiness, with the opposite polarity of today. With everybody else only the
 * protocol of today is spoken: a session never mixes the two.
 *
 * Source: the NBD specification at commit cfa8ebf, "BLOCK_STATUS extension". */
#include "server/nbd/nbd_internal.h"

bool nbds_status_2016_spoken(const NbdsSession *s, const BlkExport *x)
{
    return blk_export_status_2016(x) && s->structured && !s->extended &&
           !(s->meta.count && s->meta.export_ == x);
}

/* The bitmap whose dirtiness is reported: the one named, else the first one. */
static BmpBitmap *find(const BlkSelection *selection, const char *name)
{
    for (size_t i = 0; i < selection->count; i++) {
        if (!name || g_str_equal(bmp_bitmap_name(selection->bitmaps[i]), name))
            return selection->bitmaps[i];
    }
    return NULL;
}

void nbds_status_2016_begin(NbdsSession *s)
{
    NbdsMeta meta;

    s->status_2016 = nbds_status_2016_spoken(s, s->export_);
    if (!s->status_2016)
        return;
    s->dirty_flag_2016 = (uint16_t)blk_export_dirty_flag_2016(s->export_);
    meta = (NbdsMeta){ .export_ = blk_export_ref(s->export_),
                       .selection = blk_export_selection(s->export_) };
    s->bitmap_2016 = find(meta.selection, blk_export_bitmap_2016(s->export_));
    /* Kept with the session as a selection of contexts is, though it selects none. */
    pthread_mutex_lock(&s->servers->lock);
    s->meta = meta;
    pthread_mutex_unlock(&s->servers->lock);
}
