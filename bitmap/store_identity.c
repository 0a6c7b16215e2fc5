/* bitmap/store_identity.c: whether a disk is the one that a store was left with.
 *
 * What tells: the store's uuid in an extended attribute of the disk's file, its device and inode
 * numbers, and at a clean close its size and the time of its last modification. The change time is
 * not asked: a rename, a chown or a chmod changes it. A block device has but its size. */
#include "bitmap/store_int.h"

#include <string.h>

static int hex_digit(char c)
{
    return g_ascii_xdigit_value(c);
}

static bool uuid_parse(const char *text, uint8_t uuid[16])
{
    for (unsigned i = 0; i < 16; i++) {
        int high = hex_digit(text[2 * i]), low = high < 0 ? -1 : hex_digit(text[2 * i + 1]);

        if (low < 0)
            return false;
        uuid[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

char *bmp_uuid_text(const uint8_t uuid[16])
{
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < 16; i++)
        g_string_append_printf(text, "%02x", uuid[i]);
    return g_string_free(text, FALSE);
}

void bmp_identity_read(const TmSys *sys, int disk_fd, BmpIdentity *identity)
{
    char text[33] = "";
    struct stat st;

    *identity = (BmpIdentity){ .known = false };
    if (disk_fd < 0 || sys->fstat(disk_fd, &st) < 0)
        return;
    identity->known = true;
    identity->device = !S_ISREG(st.st_mode);
    identity->dev = st.st_dev;
    identity->ino = st.st_ino;
    identity->size = (uint64_t)st.st_size;
    identity->mtime_sec = st.st_mtim.tv_sec;
    identity->mtime_nsec = (uint32_t)st.st_mtim.tv_nsec;
    if (!identity->device && sys->fgetxattr(disk_fd, BMP_STORE_XATTR, text, 32) == 32)
        identity->marked = uuid_parse(text, identity->uuid);
}

/* The attribute is synced where it changes: an old one that came back would make the store that of
 * another disk. */
void bmp_identity_mark(const TmSys *sys, int disk_fd, const uint8_t uuid[16])
{
    g_autofree char *text = bmp_uuid_text(uuid);
    BmpIdentity disk;

    bmp_identity_read(sys, disk_fd, &disk);
    if (!disk.known || disk.device || (disk.marked && !memcmp(disk.uuid, uuid, 16)))
        return;
    if (sys->fsetxattr(disk_fd, BMP_STORE_XATTR, text, 32) == 0)
        sys->fsync(disk_fd);
}

void bmp_identity_unmark(const TmSys *sys, int disk_fd)
{
    if (disk_fd >= 0 && sys->fremovexattr(disk_fd, BMP_STORE_XATTR) == 0)
        sys->fsync(disk_fd);
}

static bool same_file(const BmpSuper *s, const BmpIdentity *disk)
{
    return s->disk_dev == disk->dev && s->disk_ino == disk->ino;
}

char *bmp_identity_differs(const BmpSuper *s, const BmpIdentity *disk, uint64_t disk_size)
{
    bool mine = disk->marked && !memcmp(disk->uuid, s->uuid, 16);

    if (disk->marked && !mine)
        return g_strdup("the disk has another bitmap store, this one is of another disk");
    if (s->state != BMP_STORE_CLOSED) {
        if (disk->known && !disk->device && !mine && !same_file(s, disk))
            return g_strdup("it was not closed, and this is not the file that it was open with");
        return NULL;
    }
    if (s->disk_size != disk_size)
        return g_strdup_printf("the disk was changed by somebody else: it had %" G_GUINT64_FORMAT
                               " bytes and has %" G_GUINT64_FORMAT,
                               s->disk_size, disk_size);
    if (disk->known && !disk->device &&
        (s->disk_mtime_sec != disk->mtime_sec || s->disk_mtime_nsec != disk->mtime_nsec))
        return g_strdup("the disk was changed by somebody else: its modification time is another");
    return NULL;
}
