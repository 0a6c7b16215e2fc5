/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/store/store_view.c: see store_view.h; how it is shown is in store_text.c. */
#include "client/store/store_view.h"
#include "bitmap/store/catalogue.h"
#include "bitmap/store/store.h"
#include "block/named.h"
#include "client/image/image.h"
#include "client/text.h"
#include "util/boot.h"
#include "util/json.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- finding it */

typedef enum { NOTHING, A_FILE, A_DEVICE, SOMETHING } Kind;

static bool kind_of(const char *path, Kind *kind, GError **error)
{
    struct stat st;

    if (stat(path, &st)) {
        *kind = NOTHING;
        return errno == ENOENT || errno == ENOTDIR ||
               tm_error_set_errno(error, errno, "'%s'", path);
    }
    *kind = S_ISREG(st.st_mode) ? A_FILE : S_ISBLK(st.st_mode) ? A_DEVICE : SOMETHING;
    return true;
}

/* Whether it begins as a store does. */
static bool has_store_magic(const TmSys *sys, const char *path)
{
    char start[BMP_SUPER_COPIES][8] = { "" };
    int fd = sys->open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);

    if (fd < 0)
        return false;
    for (unsigned i = 0; i < BMP_SUPER_COPIES; i++) {
        struct iovec iov = { start[i], sizeof(start[i]) };

        if (sys->preadv2(fd, &iov, 1, (off_t)(i * BMP_STORE_ALIGN), 0) < 0)
            start[i][0] = '\0';
    }
    sys->close(fd);
    return !memcmp(start[0], BMP_STORE_MAGIC, 8) || !memcmp(start[1], BMP_STORE_MAGIC, 8);
}

/* Whether the disk is marked as having a store. */
static bool is_marked(const TmSys *sys, const char *disk)
{
    int fd = sys->open(disk, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    char uuid[64];
    bool marked;

    if (fd < 0)
        return false;
    marked = sys->fgetxattr(fd, BMP_STORE_XATTR, uuid, sizeof(uuid)) > 0;
    sys->close(fd);
    return marked;
}

static TcStorePlace place_of(const char *store, const char *disk)
{
    return (TcStorePlace){ .store = g_strdup(store), .disk = g_strdup(disk), .exists = true };
}

/* @file is called as a store is: its disk is that without the suffix, if there is one. */
static TcStorePlace place_by_name(const char *file)
{
    g_autofree char *disk = g_strndup(file, strlen(file) - strlen(BMP_STORE_SUFFIX));
    Kind kind;

    return place_of(file, kind_of(disk, &kind, NULL) && kind == A_FILE ? disk : NULL);
}

/* The path of the store that the daemon would give the disk @file: links are followed. Returned. */
static char *store_beside(const char *file)
{
    struct stat st;
    char *real = lstat(file, &st) == 0 && S_ISLNK(st.st_mode) ? realpath(file, NULL) : NULL;
    char *store = g_strconcat(real ? real : file, BMP_STORE_SUFFIX, NULL);

    free(real);
    return store;
}

bool tc_store_find(const TmSys *sys, const char *file, const char *disk, TcStorePlace *place,
                   GError **error)
{
    g_autofree char *beside = store_beside(file);
    Kind file_kind, beside_kind, disk_kind = A_FILE;

    if (!kind_of(file, &file_kind, error) || !kind_of(beside, &beside_kind, error) ||
        (disk && !kind_of(disk, &disk_kind, error)))
        return false;
    if (disk_kind == NOTHING || (file_kind == NOTHING && (disk || beside_kind == NOTHING)))
        return tm_error_set_errno(error, ENOENT, "'%s'", disk_kind == NOTHING ? disk : file);
    if (file_kind == SOMETHING || beside_kind == SOMETHING || disk_kind == SOMETHING)
        return tm_error_set(error, "'%s' is neither a file nor a block device",
                            file_kind == SOMETHING     ? file
                            : beside_kind == SOMETHING ? beside
                                                       : disk);
    if (disk) {
        *place = place_of(file, disk);
    } else if (beside_kind == A_FILE) {
        *place = place_of(beside, file_kind == A_FILE ? file : NULL);
    } else if (file_kind == A_DEVICE) {
        return tm_error_set(
            error,
            "the store of block device '%s' is the file of its node's option bitmap-store: "
            "name that file, and add --disk %s",
            file, file);
    } else if (g_str_has_suffix(file, BMP_STORE_SUFFIX)) {
        *place = place_by_name(file);
    } else if (has_store_magic(sys, file)) {
        *place = place_of(file, NULL);
        place->guessed = true;
    } else {
        *place = place_of(beside, file);
        place->exists = false;
        place->lost = is_marked(sys, file);
    }
    return true;
}

void tc_store_place_clear(TcStorePlace *place)
{
    g_clear_pointer(&place->store, g_free);
    g_clear_pointer(&place->disk, g_free);
}

/* ---- describing it */

/* Paths and names are bytes, JSON wants UTF-8. NULL stays NULL. */
static json_object *new_string(const char *value)
{
    g_autofree char *valid = value ? g_utf8_make_valid(value, -1) : NULL;

    return valid ? json_object_new_string(valid) : NULL;
}

static void add_string(json_object *object, const char *key, const char *value)
{
    json_object_object_add(object, key, new_string(value));
}

static json_object *describe_record(const BmpRecord *record, uint64_t size)
{
    json_object *bitmap = json_object_new_object();
    uint64_t granules = bmp_bits_count(&record->bits);

    add_string(bitmap, "name", record->name);
    tm_json_add_uint(bitmap, "granularity", UINT64_C(1) << record->shift);
    tm_json_add_uint(bitmap, "count", granules << record->shift);
    tm_json_add_bool(bitmap, "recording", record->enabled);
    tm_json_add_bool(bitmap, "persistent", true);
    if (record->inconsistent)
        tm_json_add_bool(bitmap, "inconsistent", true);
    if (record->recovered)
        tm_json_add_uint(bitmap, "recovered", record->recovered);
    if (record->reason)
        add_string(bitmap, "reason", record->reason);
    tm_json_add_uint(bitmap, "size", size);
    return bitmap;
}

/* Whether the page cache that the store was written through is still there. */
static bool same_boot(const TcStorePlace *place, const BmpSuper *super, const uint8_t boot_id[16])
{
    struct stat st;

    return !memcmp(super->boot_id, boot_id, sizeof(super->boot_id)) && !stat(place->store, &st) &&
           st.st_dev == super->store_dev && st.st_ino == super->store_ino;
}

static const char *state_of(const TcStorePlace *place, const BmpStoreInfo *info,
                            const uint8_t boot_id[16])
{
    if (!info->usable)
        return "damaged";
    if (info->in_use)
        return "in-use";
    if (info->super.state == BMP_STORE_CLOSED)
        return "closed";
    if (info->super.state == BMP_STORE_DISTRUSTED)
        return "distrusted";
    return same_boot(place, &info->super, boot_id) ? "killed" : "crashed";
}

/* ---- those of an image that keeps bitmaps itself */

static json_object *describe_bitmap(BmpBitmap *bitmap, uint64_t size)
{
    json_object *object = json_object_new_object();
    g_autofree char *reason = bmp_bitmap_reason(bitmap);

    add_string(object, "name", bmp_bitmap_name(bitmap));
    tm_json_add_uint(object, "granularity", bmp_bitmap_granularity(bitmap));
    tm_json_add_uint(object, "count", bmp_bitmap_count(bitmap));
    tm_json_add_bool(object, "recording", bmp_bitmap_enabled(bitmap));
    tm_json_add_bool(object, "persistent", true);
    if (bmp_bitmap_inconsistent(bitmap))
        tm_json_add_bool(object, "inconsistent", true);
    if (bmp_bitmap_recovered(bitmap))
        tm_json_add_uint(object, "recovered", bmp_bitmap_recovered(bitmap));
    if (reason)
        add_string(object, "reason", reason);
    tm_json_add_uint(object, "size", size);
    return object;
}

static bool is_qcow2(const char *path)
{
    return !g_strcmp0(tc_image_probe(path, NULL), "qcow2");
}

static void describe_unusable(json_object *store, const TcStorePlace *place, const GError *why)
{
    g_autofree char *line = g_strdup_printf("the image can't be opened: %s", why->message);

    json_object_array_add(json_object_object_get(store, "problems"), new_string(line));
    if (!place->exists)
        add_string(store, "state", "unreadable");
}

/* Whether the store counts is for the image to say, and so what there is is what an opening
 * finds. */
static void describe_image(json_object *store, const TcStorePlace *place)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);
    TcImageOptions options = { .format = "qcow2",
                               .names = BLK_NAMES_DEFAULT,
                               .force_share = true,
                               .bitmaps = true,
                               .reports = problems };
    json_object *bitmaps, *lines;
    g_auto(TcImage) image = { 0 };
    BmpBitmap *next;
    BmpSet *set;

    if (!tc_image_open(place->disk, &options, &image, &error)) {
        describe_unusable(store, place, error);
        return;
    }
    bitmaps = json_object_new_array();
    lines = json_object_new_array();
    set = blk_node_bitmaps(image.node);
    for (size_t i = 0; (next = bmp_set_nth(set, i)); i++) {
        g_autoptr(BmpBitmap) bitmap = next;

        json_object_array_add(bitmaps, describe_bitmap(bitmap, blk_node_size(image.node)));
    }
    for (guint i = 0; i < problems->len; i++)
        json_object_array_add(lines, new_string(problems->pdata[i]));
    json_object_object_add(store, "bitmaps", bitmaps);
    json_object_object_add(store, "problems", lines);
    if (!bmp_set_store_exists(set))
        add_string(store, "state", place->exists ? "of-the-past" : "in-image");
}

static void describe_info(json_object *store, const TcStorePlace *place, const BmpStoreInfo *info,
                          const uint8_t boot_id[16])
{
    json_object *bitmaps = json_object_new_array(), *problems = json_object_new_array();

    add_string(store, "state", state_of(place, info, boot_id));
    if (info->usable) {
        add_string(store, "durability",
                   info->super.durability == BMP_DURABLE_PROCESS ? "process-death" : "power-loss");
        tm_json_add_uint(store, "generation", info->super.generation);
        tm_json_add_uint(store, "size", info->super.disk_size);
    }
    tm_json_add_uint(store, "store-size", info->file_size);
    for (unsigned i = 0; info->records && i < info->records->len; i++)
        json_object_array_add(bitmaps,
                              describe_record(info->records->pdata[i], info->super.disk_size));
    for (unsigned i = 0; info->problems && i < info->problems->len; i++)
        json_object_array_add(problems, new_string(info->problems->pdata[i]));
    json_object_object_add(store, "bitmaps", bitmaps);
    json_object_object_add(store, "problems", problems);
}

/* What isn't there has neither bitmaps nor problems, but for being lost. */
static void describe_nothing(json_object *store, const TcStorePlace *place)
{
    json_object *problems = json_object_new_array();

    add_string(store, "state", place->lost ? "missing" : "none");
    if (place->lost) {
        g_autofree char *text = g_strdup_printf(
            "'%s' is marked as having a store, but there is no '%s'", place->disk, place->store);

        json_object_array_add(problems, new_string(text));
    }
    json_object_object_add(store, "bitmaps", json_object_new_array());
    json_object_object_add(store, "problems", problems);
}

/* Inspects. What looks wrong in a store that a daemon is writing is inspected again, for it may
 * just have been changing, until it stands still. */
static bool inspect(const TmSys *sys, const TcStorePlace *place, const uint8_t boot_id[16],
                    BmpStoreInfo *info, GError **error)
{
    uint64_t generation = 0; /* which no store has */

    for (unsigned tries = 20;; tries--) {
        if (!bmp_store_inspect(sys, place->store, place->disk, boot_id, info, error))
            return false;
        if (!info->in_use || !info->problems->len || !tries ||
            (info->usable && info->super.generation == generation))
            return true;
        generation = info->super.generation;
        bmp_store_info_clear(info);
        g_usleep(20000);
    }
}

json_object *tc_store_describe(const TmSys *sys, const TcStorePlace *place, GError **error)
{
    g_autoptr(json_object) store = json_object_new_object();
    BmpStoreInfo info = { 0 };
    uint8_t boot_id[16];

    add_string(store, "store", place->store);
    add_string(store, "disk", place->disk);
    if (!place->exists) {
        describe_nothing(store, place);
        if (!place->lost && place->disk && is_qcow2(place->disk))
            describe_image(store, place);
        return g_steal_pointer(&store);
    }
    tm_boot_id(boot_id);
    if (!inspect(sys, place, boot_id, &info, error))
        return NULL;
    describe_info(store, place, &info, boot_id);
    if (info.usable && !info.in_use && place->disk && !strcmp(info.super.layer, "qcow2"))
        describe_image(store, place);
    bmp_store_info_clear(&info);
    return g_steal_pointer(&store);
}

bool tc_store_repair(const TmSys *sys, TcStorePlace *place, GError **error)
{
    uint8_t boot_id[16];
    Kind kind;

    tm_boot_id(boot_id);
    if (!bmp_store_repair(sys, place->store, place->disk, boot_id, error) ||
        !kind_of(place->store, &kind, error))
        return false;
    place->exists = kind != NOTHING;
    place->lost = !place->exists && place->disk && is_marked(sys, place->disk);
    return true;
}
