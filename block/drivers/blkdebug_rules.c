/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/blkdebug_rules.c: see the header.
 *
 * Invariants: of several rules that could act, the one that is listed first does; a rule that acts
 * once never acts again. One lock for all: this is no path to be fast on. */
#include "block/drivers/blkdebug_internal.h"

#include "block/drivers/drivers.h"
#include "block/registry.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>

#define SECTOR       UINT64_C(512)
#define DELAY_MAX    UINT64_C(60000000000) /* of one request; the end of the daemon waits for it */
#define ERRNO_MAX    4095
#define ANYWHERE     0 /* length of a range */
#define ALL_BUT_LAST ((1u << BLKDEBUG_BLOCK_STATUS) - 1)

/* QEMU's BlkdebugEvent: those that are raised here first. */
enum {
    EVENT_NONE,
    EVENT_READ_AIO,
    EVENT_WRITE_AIO,
    EVENT_PWRITEV,
    EVENT_PWRITEV_ZERO,
    EVENT_PWRITEV_DONE,
    EVENT_FLUSH_TO_OS,
    EVENT_FLUSH_TO_DISK,
    EVENTS,
};

static const char *const event_names[] = {
    "none",
    "read_aio",
    "write_aio",
    "pwritev",
    "pwritev_zero",
    "pwritev_done",
    "flush_to_os",
    "flush_to_disk",
    /* known, never raised */
    "l1_update",
    "l1_grow_alloc_table",
    "l1_grow_write_table",
    "l1_grow_activate_table",
    "l2_load",
    "l2_update",
    "l2_update_compressed",
    "l2_alloc_cow_read",
    "l2_alloc_write",
    "read_backing_aio",
    "read_compressed",
    "write_compressed",
    "vmstate_load",
    "vmstate_save",
    "cow_read",
    "cow_write",
    "reftable_load",
    "reftable_grow",
    "reftable_update",
    "refblock_load",
    "refblock_update",
    "refblock_update_part",
    "refblock_alloc",
    "refblock_alloc_hookup",
    "refblock_alloc_write",
    "refblock_alloc_write_blocks",
    "refblock_alloc_write_table",
    "refblock_alloc_switch_table",
    "cluster_alloc",
    "cluster_alloc_bytes",
    "cluster_free",
    "pwritev_rmw_head",
    "pwritev_rmw_after_head",
    "pwritev_rmw_tail",
    "pwritev_rmw_after_tail",
    "empty_image_prepare",
    "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters",
    "cor_write",
    "cluster_alloc_space",
    NULL,
};

static const char *const io_names[] = { "read",         "write", "write-zeroes", "discard", "flush",
                                        "block-status", NULL };
G_STATIC_ASSERT(G_N_ELEMENTS(io_names) == BLKDEBUG_IOS + 1);

/* What requests raise before they are passed on; EVENT_NONE: nothing more. */
static const unsigned raised[BLKDEBUG_IOS][2] = {
    [BLKDEBUG_READ] = { EVENT_READ_AIO },
    [BLKDEBUG_WRITE] = { EVENT_WRITE_AIO, EVENT_PWRITEV },
    [BLKDEBUG_WRITE_ZEROES] = { EVENT_PWRITEV_ZERO },
    [BLKDEBUG_FLUSH] = { EVENT_FLUSH_TO_OS, EVENT_FLUSH_TO_DISK },
};

typedef enum { INJECT_ERROR, INJECT_DELAY, SET_STATE } RuleKind;

typedef struct Rule {
    RuleKind kind;
    unsigned event;
    uint64_t state; /* 0: any */
    unsigned ios;   /* a bit each */
    uint64_t offset, length;
    bool once;
    uint64_t value; /* errno, nanoseconds, or the new state */

    bool in_force, spent; /* INJECT_* */
} Rule;

struct BlkdebugRules {
    pthread_mutex_t lock; /* guards the rest; a leaf */
    GArray *rules;        /* Rule */
    uint64_t state;
};

/* ---- options */

#define EVENT_FIELD                                                                                \
    {                                                                                              \
        .name = "event", .type = TIDEMARK_OPTION_ENUM, .required = 1, .choices = event_names,      \
        .help = "the event that activates the rule"                                                \
    }
#define STATE_FIELD                                                                                \
    {                                                                                              \
        .name = "state", .type = TIDEMARK_OPTION_UINT, .default_value = "0",                       \
        .help = "the state in which the event activates it (default: any)"                         \
    }
#define INJECT_FIELDS                                                                              \
    EVENT_FIELD, STATE_FIELD,                                                                      \
        { .name = "iotype",                                                                        \
          .type = TIDEMARK_OPTION_ENUM,                                                            \
          .choices = io_names,                                                                     \
          .help = "it affects requests of this kind (default: all but block-status)" },            \
        { .name = "sector",                                                                        \
          .type = TIDEMARK_OPTION_UINT,                                                            \
          .max = TM_SIZE_MAX / SECTOR,                                                             \
          .help = "it affects requests whose range contains this sector of 512 bytes (default: "   \
                  "any)" },                                                                        \
        { .name = "sectors",                                                                       \
          .type = TIDEMARK_OPTION_UINT,                                                            \
          .min = 1,                                                                                \
          .max = TM_SIZE_MAX / SECTOR,                                                             \
          .help = "the number of such sectors, from 'sector' on (default: 1)" },                   \
    {                                                                                              \
        .name = "once", .type = TIDEMARK_OPTION_BOOL, .default_value = "off",                      \
        .help = "affect only the first such request"                                               \
    }

/* clang-format off */
const struct tidemark_option blkdebug_error_fields[] = {
    INJECT_FIELDS,
    { .name = "errno", .type = TIDEMARK_OPTION_UINT, .max = ERRNO_MAX, .default_value = "5",
      .help = "the error, by its number in Linux; 0: none (default: 5, EIO)" },
    { .name = "delay-ns", .type = TIDEMARK_OPTION_UINT, .max = DELAY_MAX, .default_value = "0",
      .help = "the delay in nanoseconds before the error, or without one (default: 0)" },
    { .name = "immediately", .type = TIDEMARK_OPTION_BOOL, .default_value = "off",
      .help = "for compatibility" },
    { 0 },
};

const struct tidemark_option blkdebug_delay_fields[] = {
    INJECT_FIELDS,
    { .name = "delay-ns", .type = TIDEMARK_OPTION_UINT, .required = 1, .max = DELAY_MAX,
      .help = "the delay in nanoseconds" },
    { 0 },
};

const struct tidemark_option blkdebug_state_fields[] = {
    EVENT_FIELD,
    STATE_FIELD,
    { .name = "new_state", .type = TIDEMARK_OPTION_UINT, .required = 1, .help = "the next state" },
    { 0 },
};
/* clang-format on */

static const char *const permission_choices[] = { "consistent-read", "write", "write-unchanged",
                                                  "resize", NULL };
const struct tidemark_option blkdebug_permission[] = {
    { .name = "", .type = TIDEMARK_OPTION_ENUM, .choices = permission_choices },
    { 0 },
};

static unsigned index_of(const char *const *names, const char *name)
{
    unsigned i = 0;

    while (names[i] && !g_str_equal(names[i], name))
        i++;
    return i;
}

/* ---- permissions */

static unsigned listed(const BlkOptions *options, const char *list)
{
    unsigned permissions = 0;

    for (uint64_t i = blk_options_uint(options, list); i-- > 0;) {
        g_autofree char *name = g_strdup_printf("%s.%u", list, (unsigned)i);

        permissions |= 1u << index_of(permission_choices, blk_options_string(options, name));
    }
    return permissions;
}

void blk_blkdebug_permit(const BlkOptions *options, unsigned *needs, unsigned *shares)
{
    *needs |= listed(options, "take-child-perms");
    *shares &= ~listed(options, "unshare-child-perms");
}

/* ---- reading */

static const struct {
    const char *list;
    const struct tidemark_option *fields;
} kinds[] = {
    [INJECT_ERROR] = { "inject-error", blkdebug_error_fields },
    [INJECT_DELAY] = { "inject-delay", blkdebug_delay_fields },
    [SET_STATE] = { "set-state", blkdebug_state_fields },
};
#define KINDS G_N_ELEMENTS(kinds)

/* One element of a list of rules. */
typedef struct Element {
    struct tidemark_node *node;
    const char *list;
    unsigned index;
    RuleKind kind;
    GHashTable *values; /* of one in a file, checked; NULL: an option */
} Element;

static char *full_name(const Element *e, const char *field)
{
    return g_strdup_printf("%s.%u.%s", e->list, e->index, field);
}

static const char *in_file(const Element *e, const char *field)
{
    return g_hash_table_lookup(e->values, field);
}

static uint64_t number_in_file(const Element *e, const char *field)
{
    const struct tidemark_option *f = kinds[e->kind].fields;
    const char *value = in_file(e, field);

    while (!g_str_equal(f->name, field))
        f++;
    if (!value)
        value = f->default_value ? f->default_value : "0";
    return f->type == TIDEMARK_OPTION_BOOL ? g_str_equal(value, "on")
                                           : g_ascii_strtoull(value, NULL, 10);
}

static bool is_set(const Element *e, const char *field)
{
    if (e->values)
        return in_file(e, field) != NULL;
    g_autofree char *name = full_name(e, field);

    return blk_host.option_is_set(e->node, name);
}

static uint64_t number(const Element *e, const char *field)
{
    if (e->values)
        return number_in_file(e, field);
    g_autofree char *name = full_name(e, field);

    return blk_host.option_uint(e->node, name);
}

static const char *text(const Element *e, const char *field)
{
    if (e->values)
        return in_file(e, field);
    g_autofree char *name = full_name(e, field);

    return blk_host.option_string(e->node, name);
}

static bool refuse(const Element *e, const char *field, const char *why)
{
    blk_host.error(e->node, "Parameter '%s.%u.%s' %s", e->list, e->index, field, why);
    return false;
}

static uint64_t delay_of(const Element *e)
{
    return e->kind == SET_STATE ? 0 : number(e, "delay-ns");
}

static bool read_inject(const Element *e, Rule *rule)
{
    const char *io = text(e, "iotype");

    rule->ios = io ? 1u << index_of(io_names, io) : ALL_BUT_LAST;
    if (delay_of(e) && rule->ios == 1u << BLKDEBUG_BLOCK_STATUS)
        return refuse(e, "iotype", "does not accept value 'block-status': it can't be delayed");
    if (is_set(e, "sectors") && !is_set(e, "sector"))
        return refuse(e, "sectors", "needs 'sector'");
    if (is_set(e, "sector")) {
        rule->offset = number(e, "sector") * SECTOR;
        rule->length = (is_set(e, "sectors") ? number(e, "sectors") : 1) * SECTOR;
    }
    rule->once = number(e, "once") != 0;
    return true;
}

static bool read_rule(const Element *e, Rule *rule)
{
    static const char *const values[] = {
        [INJECT_ERROR] = "errno",
        [INJECT_DELAY] = "delay-ns",
        [SET_STATE] = "new_state",
    };
    const char *event = text(e, "event");

    rule->event = index_of(event_names, event);
    rule->state = number(e, "state");
    rule->value = number(e, values[rule->kind]);
    if (rule->event >= EVENTS) {
        g_autofree char *why =
            g_strdup_printf("does not accept value '%s': this event never occurs here", event);

        return refuse(e, "event", why);
    }
    return rule->kind == SET_STATE || read_inject(e, rule);
}

static bool add_rule(BlkdebugRules *rules, const Element *e)
{
    Rule rule = { .kind = e->kind };

    if (!read_rule(e, &rule))
        return false;
    g_array_append_val(rules->rules, rule);
    if (e->kind == INJECT_ERROR && delay_of(e)) {
        rule.kind = INJECT_DELAY;
        rule.value = delay_of(e);
        g_array_append_val(rules->rules, rule);
    }
    return true;
}

/* ---- a file */

static bool fits(const struct tidemark_option *f, const char *value)
{
    guint64 number;

    switch (f->type) {
    case TIDEMARK_OPTION_ENUM:
        return f->choices[index_of(f->choices, value)] != NULL;
    case TIDEMARK_OPTION_BOOL:
        return g_str_equal(value, "on") || g_str_equal(value, "off");
    default:
        return g_ascii_string_to_unsigned(value, 10, f->min, f->max ? f->max : INT64_MAX, &number,
                                          NULL);
    }
}

static bool check_section(const Element *e)
{
    guint known = 0;

    for (const struct tidemark_option *f = kinds[e->kind].fields; f->name; f++) {
        const char *value = in_file(e, f->name);

        if (!value && f->required)
            return refuse(e, f->name, "is missing in the config file");
        if (value && !fits(f, value))
            return refuse(e, f->name, "has a value in the config file that it does not accept");
        known += value != NULL;
    }
    if (known == g_hash_table_size(e->values))
        return true;
    blk_host.error(e->node, "Section %u [%s] of the config file has an unknown parameter", e->index,
                   e->list);
    return false;
}

/* The file's kind by kind, too, as the option's are. */
static bool read_config(BlkdebugRules *rules, struct tidemark_node *node)
{
    const char *path = blk_host.option_string(node, "config");
    g_autoptr(GPtrArray) sections = path ? blkdebug_config_read(node, path) : NULL;

    for (RuleKind kind = 0; sections && kind < KINDS; kind++) {
        for (guint i = 0; i < sections->len; i++) {
            const BlkdebugSection *section = sections->pdata[i];
            Element e = { node, section->list, i, kind, section->values };

            if (g_str_equal(section->list, kinds[kind].list) &&
                (!check_section(&e) || !add_rule(rules, &e)))
                return false;
        }
    }
    return !path || sections;
}

static bool read_options(BlkdebugRules *rules, struct tidemark_node *node)
{
    for (RuleKind kind = 0; kind < KINDS; kind++) {
        uint64_t n = blk_host.option_uint(node, kinds[kind].list);

        for (unsigned i = 0; i < n; i++) {
            Element e = { node, kinds[kind].list, i, kind, NULL };

            if (!add_rule(rules, &e))
                return false;
        }
    }
    return true;
}

static void raise_event(BlkdebugRules *rules, unsigned event);

BlkdebugRules *blkdebug_rules_read(struct tidemark_node *node)
{
    BlkdebugRules *rules = g_new0(BlkdebugRules, 1);

    pthread_mutex_init(&rules->lock, NULL);
    rules->rules = g_array_new(FALSE, FALSE, sizeof(Rule));
    rules->state = 1;
    if (!read_config(rules, node) || !read_options(rules, node)) {
        blkdebug_rules_free(rules);
        return NULL;
    }
    raise_event(rules, EVENT_NONE);
    return rules;
}

void blkdebug_rules_free(BlkdebugRules *rules)
{
    if (!rules)
        return;
    g_array_unref(rules->rules);
    pthread_mutex_destroy(&rules->lock);
    g_free(rules);
}

/* ---- requests; under the lock */

static bool waits_for(const BlkdebugRules *rules, const Rule *r, RuleKind kind, unsigned event)
{
    return r->kind == kind && r->event == event && !r->spent &&
           (!r->state || r->state == rules->state);
}

/* Those of a kind that wait for the event take the place of those in force, if there are any. */
static void put_in_force(BlkdebugRules *rules, RuleKind kind, unsigned event)
{
    bool any = false;

    for (guint i = 0; i < rules->rules->len; i++)
        any = any || waits_for(rules, &g_array_index(rules->rules, Rule, i), kind, event);
    for (guint i = 0; any && i < rules->rules->len; i++) {
        Rule *r = &g_array_index(rules->rules, Rule, i);

        if (r->kind == kind)
            r->in_force = waits_for(rules, r, kind, event);
    }
}

static void raise_event(BlkdebugRules *rules, unsigned event)
{
    put_in_force(rules, INJECT_ERROR, event);
    put_in_force(rules, INJECT_DELAY, event);
    for (guint i = 0; i < rules->rules->len; i++) {
        const Rule *r = &g_array_index(rules->rules, Rule, i);

        if (waits_for(rules, r, SET_STATE, event)) {
            rules->state = r->value;
            return;
        }
    }
}

static bool is_about(const Rule *r, BlkdebugIo io, uint64_t offset, uint64_t length)
{
    return r->ios & 1u << io &&
           (r->length == ANYWHERE ||
            (length && offset < r->offset + r->length && r->offset < offset + length));
}

/* What the rule in force of that kind has for a request, or 0. */
static uint64_t apply(BlkdebugRules *rules, RuleKind kind, BlkdebugIo io, uint64_t offset,
                      uint64_t length)
{
    for (guint i = 0; i < rules->rules->len; i++) {
        Rule *r = &g_array_index(rules->rules, Rule, i);

        if (r->kind != kind || !r->in_force || !is_about(r, io, offset, length))
            continue;
        if (r->once && r->value) {
            r->spent = true;
            r->in_force = false;
        }
        return r->value;
    }
    return 0;
}

BlkdebugVerdict blkdebug_rules_meet(BlkdebugRules *rules, BlkdebugIo io, uint64_t offset,
                                    uint64_t length)
{
    BlkdebugVerdict verdict;
    TM_GUARD(&rules->lock);

    for (unsigned i = 0; i < G_N_ELEMENTS(raised[io]); i++) {
        if (raised[io][i] != EVENT_NONE)
            raise_event(rules, raised[io][i]);
    }
    verdict.delay_ns = apply(rules, INJECT_DELAY, io, offset, length);
    verdict.error = -(int)apply(rules, INJECT_ERROR, io, offset, length);
    return verdict;
}

void blkdebug_rules_written(BlkdebugRules *rules)
{
    TM_GUARD(&rules->lock);

    raise_event(rules, EVENT_PWRITEV_DONE);
}
