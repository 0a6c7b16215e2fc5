/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/recover.c: what the file of a store says about a disk: R1 to R7 of store.h. Reads
 * only; an opening, `tidemark bitmap list` and a repair all see the same. */
#include "bitmap/store/store_internal.h"

#include "util/range.h"

#include <string.h>

#define CATALOGUE_MAX (UINT64_C(4) << 30)
#define SALVAGE_TRIES 16u /* each reads the rest of the file */

typedef struct Reader {
    const BmpRecoverOptions *o;
    BmpRecovered *out;
    uint64_t file_size;
} Reader;

static BmpRecord *nth(GArray *records, guint i)
{
    return &g_array_index(records, BmpRecord, i);
}

/* ---- catalogues */

/* The records of what a superblock names are appended; false: none are known. */
static bool read_catalogue(Reader *r, const BmpSuper *super, GArray *records, char **leader)
{
    uint64_t length = super->catalogue_length, got;
    BmpCatalogue catalogue;
    g_autofree char *data = NULL;

    if (length > CATALOGUE_MAX || super->catalogue_offset > r->file_size)
        return false;
    length = MIN(length, r->file_size - super->catalogue_offset); /* whatever it says */
    data = g_try_malloc0(length);
    if (!data)
        return false;
    got = bmp_store_read(r->o->sys, r->o->fd, data, length, super->catalogue_offset);
    if (!bmp_catalogue_parse(data, length, super->disk_size, &catalogue))
        return false;
    if (got < super->catalogue_length)
        bmp_recovered_problem(r->out, NULL, 0, false, "the store '%s' is cut short", r->o->path);
    if (catalogue.damaged_index || catalogue.damaged_pages) {
        r->out->as_stored = false;
        bmp_recovered_problem(r->out, NULL, 0, false, "the catalogue of the store '%s' is damaged",
                              r->o->path);
    }
    for (size_t i = 0; i < catalogue.n; i++)
        g_array_append_val(records, catalogue.records[i]);
    if (leader)
        *leader = g_steal_pointer(&catalogue.leader);
    catalogue.n = 0; /* the records have moved */
    bmp_catalogue_clear(&catalogue);
    return true;
}

static void degrade(BmpRecord *record, char *reason)
{
    if (record->reason)
        g_free(reason);
    else
        record->reason = reason;
}

/* ---- what the journal adds */

/* Bitmaps of the journal's granularity share what comes out. */
static void add(BmpBits *to, const BmpBits *from, BmpMemo *memo)
{
    if (bmp_bits_same_geometry(to, from))
        bmp_bits_or_memo(to, from, memo);
    else
        bmp_bits_or(to, from);
}

static void add_bits(BmpRecord *record, const BmpBits *marked, const BmpBits *uncertain,
                     BmpMemo *memo_marked, BmpMemo *memo_uncertain, const char *reason)
{
    uint64_t certain, all;

    add(&record->bits, marked, memo_marked);
    if (bmp_bits_empty(uncertain))
        return;
    certain = bmp_bits_count(&record->bits);
    add(&record->bits, uncertain, memo_uncertain);
    all = bmp_bits_count(&record->bits);
    record->recovered += (all - certain) << record->shift;
    if (all > certain)
        degrade(record, g_strdup(reason));
}

static void add_found(Reader *r, GArray *records, const BmpJournalFound *found, const char *reason)
{
    BmpMemo marked = { 0 }, uncertain = { 0 };

    for (guint i = 0; i < records->len; i++) {
        BmpRecord *record = nth(records, i);

        if (record->enabled && !record->inconsistent)
            add_bits(record, &found->marked, &found->uncertain, &marked, &uncertain, reason);
    }
    bmp_memo_clear(&marked);
    bmp_memo_clear(&uncertain);
    (void)r;
}

static void add_everything(Reader *r, GArray *records, const BmpSuper *super, const char *reason)
{
    BmpJournalFound found = { 0 };

    bmp_bits_init(&found.marked, super->disk_size, BMP_REGION_SHIFT_MIN);
    bmp_bits_init(&found.uncertain, super->disk_size, BMP_REGION_SHIFT_MIN);
    bmp_bits_set_bytes(&found.uncertain, 0, super->disk_size);
    add_found(r, records, &found, reason);
    bmp_journal_found_clear(&found);
}

/* @event: after which intents count. */
static char *journal_reason(const BmpJournalFound *found, const char *event)
{
    GString *text = g_string_new(NULL);

    if (found->intents)
        g_string_append_printf(text, "%s: %zu ranges that may have been written count as dirty",
                               event, found->intents);
    if (found->crowded_regions)
        g_string_append_printf(text, "%sthere was no room for marks: %zu regions count as dirty",
                               text->len ? "; " : "", found->crowded_regions);
    if (found->damaged_entries || found->damaged_words)
        g_string_append_printf(
            text, "%sthe store is damaged: %zu regions and %zu words of its journal count as dirty",
            text->len ? "; " : "", found->damaged_entries, found->damaged_words);
    if (found->damaged_intents)
        g_string_append_printf(text,
                               "%sthe store is damaged: its list of writes in flight can't be "
                               "read, and all counts as dirty",
                               text->len ? "; " : "");
    return g_string_free(text, FALSE);
}

static uint64_t store_ino(const Reader *r)
{
    struct stat st;

    return r->o->sys->fstat(r->o->fd, &st) < 0 ? 0 : st.st_ino;
}

static const char *event_of(const BmpRecoverOptions *o)
{
    return o->unsynced ? "the store could not be synced"
           : o->kept   ? "the daemon ended without closing the store"
                       : "power was lost";
}

static void add_journal(Reader *r, GArray *records, const BmpSuper *super)
{
    const BmpRecoverOptions *o = r->o;
    g_autofree char *reason = NULL;
    BmpGeometry geometry;
    BmpJournalFound found;
    uint64_t ino = store_ino(r);
    struct stat st;
    bool power_lost, moved = bmp_identity_moved_with(super, o->disk, ino);

    if (!super->journal_shift || super->state == BMP_STORE_CLOSED || !super->disk_size)
        return;
    r->out->as_stored = false;
    if (super->state == BMP_STORE_DISTRUSTED) {
        add_everything(r, records, super,
                       "the disk was written while its store could not be written");
        return;
    }
    if (o->sys->fstat(o->fd, &st) < 0 || (!o->kept && ino != super->store_ino && !moved)) {
        add_everything(
            r, records, super,
            "the store is a copy of the one that was open, and may be older than the disk");
        return;
    }
    power_lost = o->unsynced || memcmp(super->boot_id, o->boot_id, sizeof(super->boot_id)) ||
                 st.st_dev != super->store_dev || moved || o->kept;
    if (power_lost && super->durability == BMP_DURABLE_PROCESS) {
        add_everything(
            r, records, super,
            o->kept ? "the daemon ended without closing the store, and the durability was "
                      "process-death: all counts as dirty"
                    : "power was lost, and the durability was process-death: all counts as dirty");
        return;
    }
    bmp_geometry_of(&geometry, super); /* the superblock was checked for it */
    bmp_journal_recover(o->sys, o->fd, super->journal_offset, &geometry,
                        bmp_entry_seed(super->uuid), super->journal_epoch, power_lost, &found);
    reason = journal_reason(&found, event_of(o));
    add_found(r, records, &found, reason);
    bmp_journal_found_clear(&found);
}

/* ---- the state that a superblock stands for */

static bool read_state(Reader *r, const BmpSuper *super, GArray *records, char **leader)
{
    if (!read_catalogue(r, super, records, leader))
        return false;
    add_journal(r, records, super);
    return true;
}

/* ---- groups (F9) */

typedef enum { NOT_DECIDED, DECIDED, UNDECIDABLE } Fate;

static bool is_zero(const uint8_t uuid[16])
{
    return !memcmp(uuid, (uint8_t[16]){ 0 }, 16);
}

/* What one copy of the leader's superblock says of the group. One that was never written says
 * no. */
static Fate ask_copy(Reader *r, int fd, unsigned copy, const BmpSuper *pending)
{
    uint8_t bytes[BMP_SUPER_SIZE] = { 0 };
    uint32_t version;
    BmpSuper super;
    BmpSuperVerdict verdict;

    if (bmp_store_read(r->o->sys, fd, bytes, sizeof(bytes), copy * BMP_STORE_ALIGN) < sizeof(bytes))
        return UNDECIDABLE;
    verdict = bmp_super_decode(bytes, &super, &version);
    if (verdict == BMP_SUPER_EMPTY)
        return NOT_DECIDED;
    if (verdict != BMP_SUPER_OK || memcmp(super.uuid, pending->leader, 16))
        return UNDECIDABLE;
    for (unsigned i = 0; i < BMP_GROUPS_MAX; i++) {
        if (!memcmp(super.decided[i], pending->group, 16))
            return DECIDED;
    }
    return super.forgotten ? UNDECIDABLE : NOT_DECIDED;
}

/* A leader that is gone, or another store in its place, is no "no". */
static Fate ask_leader(Reader *r, const BmpSuper *pending, const char *path)
{
    Fate fates[BMP_SUPER_COPIES];
    int fd;

    if (is_zero(pending->leader))
        return NOT_DECIDED; /* it is the leader: its other copy would say so */
    fd = path ? r->o->sys->open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0) : -1;
    if (fd < 0)
        return UNDECIDABLE;
    for (unsigned copy = 0; copy < BMP_SUPER_COPIES; copy++)
        fates[copy] = ask_copy(r, fd, copy, pending);
    r->o->sys->close(fd);
    if (fates[0] == DECIDED || fates[1] == DECIDED)
        return DECIDED;
    return fates[0] == NOT_DECIDED && fates[1] == NOT_DECIDED ? NOT_DECIDED : UNDECIDABLE;
}

static BmpRecord *find_record(GArray *records, const char *name)
{
    for (guint i = 0; i < records->len; i++) {
        if (!strcmp(nth(records, i)->name, name))
            return nth(records, i);
    }
    return NULL;
}

/* What either of two states says: nothing is clean that one of them calls dirty. */
static void unite(GArray *records, GArray *others)
{
    for (guint i = 0; i < others->len; i++) {
        BmpRecord *other = nth(others, i), *record = find_record(records, other->name);

        if (!record) {
            g_array_append_val(records, *other);
            memset(other, 0, sizeof(*other)); /* it has moved */
            continue;
        }
        record->enabled |= other->enabled;
        record->inconsistent |= other->inconsistent;
        record->unfinished &= other->unfinished;
        record->recovered = MAX(record->recovered, other->recovered);
        bmp_bits_or(&record->bits, &other->bits);
    }
    for (guint i = 0; i < records->len; i++)
        degrade(nth(records, i), g_strdup("it is not known whether a change of several disks was "
                                          "made: it has what was dirty before and after"));
}

/* ---- superblocks */

typedef struct Copies {
    BmpSuper super[BMP_SUPER_COPIES];
    BmpSuperVerdict verdict[BMP_SUPER_COPIES];
    uint32_t version;
    unsigned newest; /* of the valid ones */
    bool any;
} Copies;

static void read_copies(Reader *r, Copies *c)
{
    *c = (Copies){ .newest = 0 };
    for (unsigned i = 0; i < BMP_SUPER_COPIES; i++) {
        uint8_t bytes[BMP_SUPER_SIZE] = { 0 };

        bmp_store_read(r->o->sys, r->o->fd, bytes, sizeof(bytes), i * BMP_STORE_ALIGN);
        c->verdict[i] = bmp_super_decode(bytes, &c->super[i], &c->version);
        if (c->verdict[i] != BMP_SUPER_OK)
            continue;
        if (!c->any || c->super[i].generation > c->super[c->newest].generation ||
            (c->super[i].generation == c->super[c->newest].generation &&
             c->super[c->newest].group_pending)) /* the same, and decided */
            c->newest = i;
        c->any = true;
    }
}

/* Names are all that is left: they come back for a management tool to see and remove. */
static void salvage(Reader *r)
{
    BmpRecovered *out = r->out;
    unsigned tries = SALVAGE_TRIES;

    for (uint64_t at = BMP_SUPER_COPIES * BMP_STORE_ALIGN;
         at < r->file_size && r->file_size <= CATALOGUE_MAX && !out->records->len && tries;
         at += BMP_STORE_ALIGN) {
        BmpSuper super = { .disk_size = r->o->disk_size,
                           .catalogue_offset = at,
                           .catalogue_length = r->file_size - at };
        char magic[8];

        if (bmp_store_read(r->o->sys, r->o->fd, magic, 8, at) == 8 &&
            !memcmp(magic, BMP_CATALOGUE_MAGIC, 8)) {
            read_catalogue(r, &super, out->records, NULL);
            tries--;
        }
    }
    for (guint i = 0; i < out->records->len; i++) {
        BmpRecord *record = nth(out->records, i);

        record->inconsistent = true;
        bmp_bits_clear_all(&record->bits);
        degrade(record, g_strdup("both superblocks of its store are damaged"));
    }
}

/* A file of zeroes may be a store that was wiped, which is replaced. Or a disk, where the option
 * that says where the store is names the wrong file. */
static bool wiped(const Reader *r, const Copies *c)
{
    return c->verdict[0] == BMP_SUPER_EMPTY && c->verdict[1] == BMP_SUPER_EMPTY &&
           (!r->file_size || g_str_has_suffix(r->o->path, BMP_STORE_SUFFIX));
}

static void no_copy(Reader *r, const Copies *c)
{
    bool ours = wiped(r, c);

    for (unsigned i = 0; i < BMP_SUPER_COPIES; i++) {
        if (c->verdict[i] == BMP_SUPER_VERSION) {
            bmp_recovered_problem(r->out, NULL, 0, false,
                                  "the store '%s' is of version %u, this program knows version %u",
                                  r->o->path, c->version, BMP_STORE_VERSION);
            return;
        }
        ours |= c->verdict[i] == BMP_SUPER_DAMAGED;
    }
    salvage(r);
    if (!ours && !r->out->records->len) {
        bmp_recovered_problem(r->out, NULL, 0, false, "'%s' is not a bitmap store", r->o->path);
        return;
    }
    r->out->verdict = BMP_FOUND_DAMAGED;
    bmp_recovered_problem(r->out, NULL, 0, false, "both superblocks of the store '%s' are damaged",
                          r->o->path);
}

/* ---- the disk */

static void distrust(Reader *r, const char *why)
{
    GArray *records = r->out->records;

    for (guint i = 0; i < records->len; i++) {
        BmpRecord *record = nth(records, i);

        if (!record->enabled || record->inconsistent)
            continue;
        record->inconsistent = true;
        g_clear_pointer(&record->reason, g_free);
        record->reason = g_strdup(why);
        bmp_recovered_problem(r->out, record->name, 0, true, "%s", why);
        r->out->as_stored = false;
    }
}

bool bmp_layer_is_whole_file(const char *layer)
{
    return g_str_equal(layer, "file") || g_str_equal(layer, "host_device");
}

/* Without a node the disk is what the file is, which other drivers show a part of, or decode. */
static bool size_known(const Reader *r)
{
    return r->o->size_known && (r->o->layer || bmp_layer_is_whole_file(r->out->super.layer));
}

static void fit_size(Reader *r)
{
    uint64_t old = r->out->super.disk_size, size = r->o->disk_size;

    if (!size_known(r) || old == size)
        return;
    r->out->as_stored = false;
    for (guint i = 0; i < r->out->records->len; i++) {
        BmpRecord *record = nth(r->out->records, i);

        bmp_bits_resize(&record->bits, size);
        if (size > old)
            bmp_bits_set_bytes(&record->bits, old, size - old);
    }
    bmp_recovered_problem(r->out, NULL, 0, false,
                          "the disk has %" G_GUINT64_FORMAT
                          " bytes, its store was made for %" G_GUINT64_FORMAT
                          ": the added part counts as dirty",
                          size, old);
}

static void check_disk(Reader *r)
{
    g_autofree char *why = bmp_identity_differs(
        &r->out->super, r->o->disk, size_known(r) ? r->o->disk_size : r->out->super.disk_size,
        store_ino(r), r->o->boot_id);

    if (!why && r->o->shared)
        why = g_strdup("others may have written to the disk while it was not open here, which "
                       "nothing shows: see the option bitmap-accept-changed");
    if (why && !r->o->accept_changed)
        distrust(r, why);
    fit_size(r);
}

static void report_records(Reader *r)
{
    for (guint i = 0; i < r->out->records->len; i++) {
        BmpRecord *record = nth(r->out->records, i);

        if (record->reason && !record->inconsistent && !r->out->as_stored)
            bmp_recovered_problem(r->out, record->name, record->recovered, false, "%s",
                                  record->reason);
    }
}

/* What no commit has stored belongs to the state that it was noted in. */
static void read_note(Reader *r, const BmpSuper *super)
{
    g_ptr_array_unref(r->out->noted);
    r->out->noted = bmp_note_read(r->o->sys, r->o->fd, super);
}

/* The state before the pending one. */
static bool read_old(Reader *r, const Copies *c, GArray *records)
{
    if (c->verdict[!c->newest] == BMP_SUPER_EMPTY) /* the store was being made */
        return true;
    return c->verdict[!c->newest] == BMP_SUPER_OK &&
           read_state(r, &c->super[!c->newest], records, NULL);
}

static bool both_states(Reader *r, GArray *old, bool known, const char *leader)
{
    BmpRecovered *out = r->out;

    bmp_recovered_problem(
        out, NULL, 0, false,
        "it is not known whether a change of several disks was made, since its leader, "
        "the store '%s', can't be read: what was dirty before the change or after it counts as "
        "dirty",
        leader ? leader : "?");
    for (guint i = 0; i < old->len; i++) /* a damaged store may say anything */
        bmp_bits_resize(&nth(old, i)->bits, out->super.disk_size);
    unite(out->records, old);
    for (guint i = 0; i < out->records->len && !known; i++)
        nth(out->records, i)->inconsistent = true; /* one of the states is lost */
    return known;
}

/* Settles which of two states counts, when the newest is one that may not have been decided. */
static bool read_pending(Reader *r, const Copies *c)
{
    const BmpSuper *pending = &c->super[c->newest];
    g_autoptr(GArray) old = bmp_records_new();
    BmpRecovered *out = r->out;
    g_autofree char *leader = NULL;
    bool known = read_state(r, pending, out->records, &leader);
    Fate fate = ask_leader(r, pending, leader);
    bool known_old = fate == DECIDED || read_old(r, c, old);

    out->as_stored = false;
    out->super = *pending;
    out->super.group_pending = 0;
    if (c->verdict[!c->newest] == BMP_SUPER_OK)
        out->other = c->super[!c->newest];
    if (fate == UNDECIDABLE)
        return both_states(r, old, known && known_old, leader);
    if (fate == DECIDED)
        return known;
    if (!known_old) /* what was before is lost */
        return both_states(r, old, false, leader);
    if (c->verdict[!c->newest] == BMP_SUPER_OK) {
        out->super = c->super[!c->newest];
        read_note(r, &out->super);
        out->super.generation = pending->generation; /* the next one is newer than both */
        out->other = *pending;
        out->stale_copy = c->newest;
    }
    g_array_unref(out->records);
    out->records = g_steal_pointer(&old);
    return true;
}

static void read_store(Reader *r, const Copies *c)
{
    BmpRecovered *out = r->out;
    const BmpSuper *super = &c->super[c->newest];
    bool known;

    if (r->o->layer && strcmp(super->layer, r->o->layer)) {
        out->other_layer = true;
        bmp_recovered_problem(out, NULL, 0, false,
                              "the store '%s' has the bitmaps of a node of another driver, '%s'",
                              r->o->path, super->layer);
        return;
    }
    out->verdict = BMP_FOUND_STORE;
    out->as_stored = true;
    out->stale_copy = !c->newest;
    if (c->verdict[!c->newest] != BMP_SUPER_OK) {
        bmp_recovered_problem(out, NULL, 0, false,
                              "a superblock of the store '%s' is damaged; its copy is used",
                              r->o->path);
        out->as_stored = false;
    }
    if (super->group_pending) {
        known = read_pending(r, c);
    } else {
        out->super = *super;
        read_note(r, super);
        known = read_state(r, super, out->records, NULL);
    }
    if (!known) {
        out->as_stored = false;
        bmp_recovered_problem(
            out, NULL, 0, false,
            "the catalogue of the store '%s' is damaged: which bitmaps there were "
            "is not known",
            r->o->path);
    }
    check_disk(r);
    report_records(r);
}

void bmp_recover(const BmpRecoverOptions *options, BmpRecovered *out)
{
    Reader r = { .o = options, .out = out };
    struct stat st;
    Copies copies;

    bmp_recovered_init(out);
    r.file_size = options->sys->fstat(options->fd, &st) < 0 ? 0 : (uint64_t)st.st_size;
    read_copies(&r, &copies);
    if (copies.any)
        read_store(&r, &copies);
    else
        no_copy(&r, &copies);
    if (memcmp(out->super.boot_id, options->boot_id, sizeof(out->super.boot_id)))
        out->super.disk_lossy = 0; /* what is read now is what the medium has */
}
