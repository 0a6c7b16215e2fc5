/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/fuzz/fuzz_store.c: an opening of a store that is not what a daemon has left.
 *
 * Input: a byte of flags, a byte that chooses a good store, then either a whole file (FLAG_WHOLE)
 * or edits of the good store, 14 bytes each. Damage is what media and file systems do: bytes
 * changed, blocks zeroed or filled, the end cut off. After damage the promise is kept: no granule
 * is clean that was dirty, unless its bitmap is inconsistent or, with a report, gone. Forgeries
 * (FLAG_FORGED) are what no medium does, with every check right: superblocks, entries and words
 * with hostile values, blocks moved about, catalogues sealed again. They may make any content, and
 * nothing else: no crash, no leak, no huge allocation, no descriptor or mapping left; and whatever
 * was found is kept through a commit and a clean end. */
#include "tests/fuzz/fuzz_store.h"
#include "bitmap/store/catalogue.h"
#include "bitmap/store/format.h"
#include "bitmap/store/store.h"
#include "util/endian.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FLAG_WHOLE    1u
#define FLAG_FORGED   2u
#define FLAG_POWER    4u /* the machine was down meanwhile */
#define FLAG_ACCEPT   8u
#define FLAG_READONLY 16u
#define FLAG_REPAIR   32u /* first */
#define FLAG_PROCESS  64u /* the durability of who opens */

/* abort(), which a fuzzer notices; g_error() ends in a trap, which it doesn't. */
#define BUG(...) (g_printerr(__VA_ARGS__), g_printerr("\n"), abort())

#define EDIT_SIZE  14u
#define EDITS_MAX  64u
#define VARIANTS   4u
#define BITMAPS    3u
#define EXTENTS    65536u
#define SIZE_BOUND (UINT64_C(1) << 30)
#define STORE      "disk.bitmaps"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[BITMAPS] = { "a", "frozen", "fine" };
static const uint8_t boots[2][16] = { "one boot", "the next one" };

/* A store as a daemon left it, and what its bitmaps said then. */
typedef struct Good {
    GByteArray *bytes;
    uint64_t size;
    uint8_t xattr[512];
    size_t xattr_size;
    TmExtents dirty[BITMAPS];
} Good;

/* ---- sets */

static void on_report(void *opaque, const BmpReport *report)
{
    if (!report->reason && !report->healed)
        BUG("a report without a reason");
    if (getenv("FUZZ_STORE_VERBOSE"))
        g_message("%s: %s", report->bitmap ? report->bitmap : "all", report->reason);
    *(unsigned *)opaque += !report->healed;
}

static BmpSet *open_set(uint64_t size, unsigned flags, unsigned *reports, bool *opened)
{
    BmpSet *set = bmp_set_new("disk", size);
    int fd = memory_sys.open("disk", O_RDWR, 0);
    BmpStoreOptions options = {
        .sys = &memory_sys,
        .path = STORE,
        .disk_fd = fd,
        .layer = "file",
        .durability = flags & FLAG_PROCESS ? BMP_DURABLE_PROCESS : BMP_DURABLE_POWER,
        .read_only = flags & FLAG_READONLY,
        .accept_changed = flags & FLAG_ACCEPT,
        .region_shift_min = 18,
        .report = on_report,
        .opaque = reports,
    };
    g_autoptr(GError) error = NULL;

    memcpy(options.boot_id, boots[!!(flags & FLAG_POWER)], sizeof(options.boot_id));
    *opened = bmp_set_open_store(set, &options, &error);
    if (*opened != !error)
        BUG("an error without a failure, or a failure without");
    memory_sys.close(fd);
    return set;
}

static void write_disk(BmpSet *set, uint64_t offset, uint64_t length)
{
    bmp_set_mark_end(set, offset, length, bmp_set_mark_begin(set, offset, length));
}

static TmExtents extents_of(BmpBitmap *bitmap, uint64_t size)
{
    TmExtents x = { .list = g_new(TmExtent, EXTENTS), .max = EXTENTS };

    /* What doesn't fit is left out, in the model and in the comparison. */
    if (size)
        bmp_bitmap_extents(bitmap, 0, size, &x);
    return x;
}

/* Whether all that is dirty in @a is dirty in @b, as far as both go. */
static bool covered(const TmExtents *a, const TmExtents *b)
{
    uint64_t at_a = 0, at_b = 0;

    for (size_t i = 0, j = 0; i < a->count && j < b->count;) {
        uint64_t end_a = at_a + a->list[i].length, end_b = at_b + b->list[j].length;

        if ((a->list[i].flags & ~b->list[j].flags & TM_STATE_DIRTY))
            return false;
        if (end_a <= end_b) {
            at_a = end_a;
            i++;
        }
        if (end_b <= end_a) {
            at_b = end_b;
            j++;
        }
    }
    return true;
}

static void commit(BmpSet *set)
{
    g_autoptr(GError) error = NULL;

    if (!bmp_set_commit(&set, 1, &error))
        BUG("commit: %s", error->message);
}

static void add(BmpSet *set, const char *name, uint64_t granularity)
{
    BmpAddOptions options = { .granularity = granularity, .persistent = true };
    g_autoptr(GError) error = NULL;
    g_autoptr(BmpBitmap) bitmap = bmp_set_add(set, name, &options, &error);

    if (!bitmap)
        BUG("add: %s", error->message);
}

/* ---- the good stores */

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void random_writes(BmpSet *set, uint64_t size, unsigned n, uint64_t *seed)
{
    for (unsigned i = 0; size && i < n; i++) {
        uint64_t offset = random_next(seed) % size;

        write_disk(set, offset, MIN(1 + random_next(seed) % 30000, size - offset));
    }
}

/* Variants: closed well or not, and two sizes with other granularities. */
static Good *make_good(unsigned variant)
{
    uint64_t seed = 88172645463325252u + variant;
    Good *good = g_new0(Good, 1);
    unsigned reports = 0;
    bool opened;
    BmpSet *set;

    good->size = variant & 2 ? (UINT64_C(3) << 20) + 12345 : UINT64_C(24) << 20;
    memory_sys_put("disk", NULL, 0, good->size);
    set = open_set(good->size, 0, &reports, &opened);
    bmp_set_change_begin(&set, 1);
    for (unsigned i = 0; i < BITMAPS; i++)
        add(set, names[i], i < 2 ? 65536 : variant & 2 ? 512 : 4096);
    commit(set);
    bmp_set_change_end(&set, 1);
    random_writes(set, good->size, 40, &seed);
    bmp_set_change_begin(&set, 1);
    {
        g_autoptr(BmpBitmap) frozen = bmp_set_find(set, names[1], NULL);

        bmp_bitmap_disable(frozen, NULL);
    }
    commit(set);
    bmp_set_change_end(&set, 1);
    random_writes(set, good->size, 40, &seed);
    for (unsigned i = 0; i < BITMAPS; i++) {
        g_autoptr(BmpBitmap) bitmap = bmp_set_find(set, names[i], NULL);

        good->dirty[i] = extents_of(bitmap, good->size);
    }
    if (variant & 1)
        bmp_set_close_store(set);
    bmp_set_free(set);
    good->bytes = memory_sys_get(STORE);
    good->xattr_size = memory_sys_get_xattr(good->xattr, sizeof(good->xattr));
    if (!opened || reports || !good->bytes)
        BUG("no good store");
    memory_sys_reset();
    return good;
}

static const Good *good_store(unsigned variant)
{
    static Good *made[VARIANTS];

    if (!made[variant])
        made[variant] = make_good(variant);
    return made[variant];
}

/* ---- damage */

/* Words are changed whole, or one byte once: two changes of one word could be a valid one. */
static void damage(GByteArray *file, GHashTable *touched, const uint8_t *edit)
{
    uint64_t offset = tm_get_le32(edit + 2), value = tm_get_le64(edit + 6);
    uint64_t length;

    if (!file->len)
        return;
    offset %= file->len;
    length = MIN((1 + value % 1024) * 8, file->len - (offset & ~UINT64_C(7)));
    switch (edit[0] % 4) {
    case 0:
        if (g_hash_table_add(touched, GSIZE_TO_POINTER(offset / 8 + 1)))
            file->data[offset] ^= edit[1] ? edit[1] : 1;
        break;
    case 1:
        memset(file->data + (offset & ~UINT64_C(7)), 0, length);
        break;
    case 2:
        memset(file->data + (offset & ~UINT64_C(7)), 0xff, length);
        break;
    default:
        g_byte_array_set_size(file, (guint)offset);
    }
}

static void forge(GByteArray *file, const uint8_t *edit)
{
    uint32_t offset = tm_get_le32(edit + 2);
    uint64_t value = tm_get_le64(edit + 6);

    switch (edit[0] % 6) {
    case 0:
        seal_super_field(file, edit[1] & 1, edit[1] >> 1, value);
        break;
    case 1:
        seal_entry(file, offset, value, edit[1]);
        break;
    case 2:
        seal_word(file, offset, (uint32_t)value);
        break;
    case 3:
        seal_catalogue_byte(file, offset, edit[1]);
        break;
    case 4: /* a block from elsewhere */
        if (file->len >= 8) {
            uint64_t to = offset % file->len & ~7u, from = value % file->len & ~7u;
            uint64_t length = MIN((uint64_t)edit[1] * 8, file->len - MAX(to, from));

            memmove(file->data + to, file->data + from, length);
        }
        break;
    default: {
        g_autoptr(GHashTable) touched = g_hash_table_new(NULL, NULL);

        damage(file, touched, edit);
        seal_all(file);
    }
    }
}

static GByteArray *edited(const Good *good, bool forged, const uint8_t *data, size_t size)
{
    GByteArray *file = g_byte_array_new();
    g_autoptr(GHashTable) touched = g_hash_table_new(NULL, NULL);

    g_byte_array_append(file, good->bytes->data, good->bytes->len);
    for (unsigned i = 0; i < EDITS_MAX && size >= EDIT_SIZE; i++) {
        if (forged)
            forge(file, data);
        else
            damage(file, touched, data);
        data += EDIT_SIZE;
        size -= EDIT_SIZE;
    }
    return file;
}

/* ---- promises */

static void check_damaged(BmpSet *set, const Good *good, unsigned reports, bool exact)
{
    for (unsigned i = 0; i < BITMAPS; i++) {
        g_autoptr(BmpBitmap) bitmap = bmp_set_find(set, names[i], NULL);
        g_autofree char *reason = bitmap ? bmp_bitmap_reason(bitmap) : NULL;
        TmExtents found;

        if (exact && (!bitmap || reason || reports))
            BUG("%s: a good store was not believed", names[i]);
        if (!bitmap) {
            if (!reports)
                BUG("%s is gone without a report", names[i]);
            continue;
        }
        if (bmp_bitmap_inconsistent(bitmap)) {
            if (!reason || !reports)
                BUG("%s is inconsistent without a reason or a report", names[i]);
            continue;
        }
        if (bmp_bitmap_enabled(bitmap) != (i != 1))
            BUG("%s is not enabled as it was", names[i]);
        found = extents_of(bitmap, good->size);
        if (!covered(&good->dirty[i], &found))
            BUG("%s: a wrong clean", names[i]);
        if (exact && !covered(&found, &good->dirty[i]))
            BUG("%s: a wrong dirty", names[i]);
        g_free(found.list);
    }
}

/* A bitmap as it was when its set was closed. */
typedef struct Was {
    char *name;
    bool inconsistent, enabled;
    TmExtents dirty;
} Was;

static void was_clear(void *opaque)
{
    Was *was = opaque;

    g_free(was->name);
    g_free(was->dirty.list);
}

static GArray *remember(BmpSet *set, uint64_t size)
{
    GArray *all = g_array_new(FALSE, FALSE, sizeof(Was));

    g_array_set_clear_func(all, was_clear);
    for (size_t i = 0; i < bmp_set_length(set); i++) {
        g_autoptr(BmpBitmap) bitmap = bmp_set_nth(set, i);
        Was was = { .name = g_strdup(bmp_bitmap_name(bitmap)),
                    .inconsistent = bmp_bitmap_inconsistent(bitmap),
                    .enabled = bmp_bitmap_enabled(bitmap),
                    .dirty = extents_of(bitmap, size) };

        g_array_append_val(all, was);
    }
    return all;
}

static void check_same(BmpSet *set, uint64_t size, const GArray *all, bool forged)
{
    if (bmp_set_length(set) != all->len)
        BUG("%zu bitmaps instead of %u", bmp_set_length(set), all->len);
    for (guint i = 0; i < all->len; i++) {
        const Was *was = &g_array_index(all, Was, i);
        g_autoptr(BmpBitmap) bitmap = bmp_set_find(set, was->name, NULL);
        TmExtents now;

        if (!bitmap)
            BUG("%s is gone", was->name);
        if (bmp_bitmap_inconsistent(bitmap)) {
            if (!was->inconsistent && !forged) /* that is what another disk's store stays */
                BUG("%s is inconsistent", was->name);
            continue;
        }
        if (was->inconsistent || bmp_bitmap_enabled(bitmap) != was->enabled)
            BUG("%s: not what was closed", was->name);
        now = extents_of(bitmap, size);
        if (!covered(&was->dirty, &now) || !covered(&now, &was->dirty))
            BUG("%s: other content than what was closed", was->name);
        g_free(now.list);
    }
}

/* What was found is used: written to, changed, ended, and found again. */
static void live_on(BmpSet *set, uint64_t size, unsigned flags)
{
    g_autoptr(BmpBitmap) there = bmp_set_find(set, "new", NULL);
    g_autoptr(GError) error = NULL;
    uint64_t seed = 1234567;
    unsigned reports = 0;
    GArray *all;
    bool opened;

    random_writes(set, size, 10, &seed);
    bmp_set_change_begin(&set, 1);
    if (!there)
        add(set, "new", 65536);
    if (!bmp_set_commit(&set, 1, &error)) {
        /* What has no trait of a store is left alone, and then nothing was found. */
        if (bmp_set_length(set) > 1)
            BUG("commit: %s", error->message);
        bmp_set_change_end(&set, 1);
        bmp_set_free(set);
        return;
    }
    bmp_set_change_end(&set, 1);
    g_clear_pointer(&there, bmp_bitmap_unref);
    random_writes(set, size, 10, &seed);
    bmp_set_tick(set);
    all = remember(set, size);
    if (!(flags & FLAG_POWER)) /* else the second opening is after a crash */
        bmp_set_close_store(set);
    bmp_set_free(set);

    set = open_set(size, flags & ~(FLAG_READONLY | FLAG_ACCEPT), &reports, &opened);
    if (!opened)
        BUG("a store that was just written can't be opened");
    check_same(set, size, all, flags & (FLAG_FORGED | FLAG_WHOLE));
    bmp_set_close_store(set);
    bmp_set_free(set);
    g_array_unref(all);
}

static void offline(unsigned flags)
{
    g_autoptr(GError) error = NULL;
    BmpStoreInfo info = { 0 };

    if (bmp_store_inspect(&memory_sys, STORE, "disk", boots[0], &info, NULL))
        bmp_store_info_clear(&info);
    if (flags & FLAG_REPAIR)
        bmp_store_repair(&memory_sys, STORE, "disk", boots[0], &error);
}

static void try(const Good *good, GByteArray *file, unsigned flags, bool damaged, bool unchanged)
{
    uint64_t size = damaged ? good->size : MIN(seal_disk_size(file, good->size), SIZE_BOUND);
    unsigned reports = 0;
    bool opened;
    BmpSet *set;

    memory_sys_put("disk", NULL, 0, size);
    memory_sys_put(STORE, file->data, file->len, 0);
    memory_sys_set_xattr(good->xattr, good->xattr_size);
    offline(flags);
    set = open_set(size, flags, &reports, &opened);
    if (damaged && !opened)
        BUG("the disk does not open");
    /* A repair may have reported already what is gone. */
    if (opened && damaged)
        check_damaged(set, good, reports + !!(flags & FLAG_REPAIR),
                      unchanged && !(flags & (FLAG_POWER | FLAG_REPAIR)));
    if (opened && !(flags & FLAG_READONLY)) {
        live_on(set, size, flags);
    } else {
        bmp_set_free(set);
    }
    if (flags & FLAG_READONLY && !(flags & FLAG_REPAIR)) {
        g_autoptr(GByteArray) after = memory_sys_get(STORE);

        if (!after || after->len != file->len ||
            (file->len && memcmp(after->data, file->data, file->len)))
            BUG("a read-only disk's store was written");
    }
    memory_sys_reset();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned flags, variant;
    const Good *good;
    GByteArray *file;
    int first_free, last_free;

    if (size < 2)
        return 0;
    flags = data[0];
    variant = data[1] % VARIANTS;
    good = good_store(variant);
    close(first_free = dup(0));
    if (flags & FLAG_WHOLE) {
        file = g_byte_array_append(g_byte_array_new(), data + 2, (guint)size - 2);
        if (flags & FLAG_FORGED)
            seal_all(file);
    } else {
        file = edited(good, flags & FLAG_FORGED, data + 2, size - 2);
    }
    try(good, file, flags, !(flags & (FLAG_WHOLE | FLAG_FORGED)), size < 2 + EDIT_SIZE);
    g_byte_array_unref(file);
    close(last_free = dup(0));
    if (first_free != last_free)
        BUG("a descriptor was left");
    return 0;
}
