/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/permissions.c: see the header.
 *
 * A change of who uses a node is carried downwards, parents first: for each node what its users
 * need and share together, then what it needs of and shares on each child. What was there before is
 * noted and put back if there is a conflict further down, or a lock can't be had. Locks are taken
 * in two steps: more than before, for all; then, when nothing can fail any more, no more than now.
 *
 * Invariant: of two users of a node neither needs what the other doesn't share. */
#include "block/permissions.h"

#include "block/node_internal.h"
#include "block/parents.h"
#include "util/error.h"
#include "util/sync.h"

#define WRITES (BLK_PERM_WRITE | BLK_PERM_WRITE_UNCHANGED)

#define NUMBER(perm) __builtin_ctz(perm)

const char *const blk_perm_names[BLK_PERMS] = {
    [NUMBER(BLK_PERM_CONSISTENT_READ)] = "consistent read",
    [NUMBER(BLK_PERM_WRITE)] = "write",
    [NUMBER(BLK_PERM_WRITE_UNCHANGED)] = "write unchanged",
    [NUMBER(BLK_PERM_RESIZE)] = "resize",
    [NUMBER(BLK_PERM_GROW)] = "resize", /* QEMU has one word for both */
};
G_STATIC_ASSERT(BLK_PERM_ALL == (1u << BLK_PERMS) - 1);

typedef struct Perms {
    unsigned needs, shares;
} Perms;

/* ---- what a parent needs and shares */

/* A format writes its metadata whoever writes to it. Nobody else may, nor where it is not known
 * what of the parent would change with it. */
static Perms of_format(const BlkNode *node, Perms all)
{
    if (node->driver->flags & TIDEMARK_DRIVER_FORMAT && !blk_node_read_only(node))
        all.needs |= BLK_PERM_WRITE | BLK_PERM_RESIZE;
    all.needs |= BLK_PERM_CONSISTENT_READ;
    all.shares &= ~(unsigned)BLK_PERM_WRITE;
    return all;
}

/* Who can do with a disk that changes can do with a backing that does. */
static Perms of_backing(const BlkNode *parent, Perms all)
{
    all.needs &= BLK_PERM_CONSISTENT_READ;
    all.shares = parent->frozen ? 0 : all.shares & BLK_PERM_WRITE;
    all.shares |= BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE_UNCHANGED;
    return all;
}

/* A filter that must see every write: nobody writes below it, as soon as somebody uses it. */
static Perms of_guarded(const BlkNode *parent, Perms all)
{
    if (parent->users->len) {
        all.needs |= BLK_PERM_CONSISTENT_READ;
        all.shares &= ~(unsigned)BLK_PERM_WRITE;
    }
    return all;
}

static Perms of_role(const BlkNode *parent, unsigned index, Perms all)
{
    switch (blk_node_child_role(parent, index)) {
    case BLK_ROLE_FORMAT:
        return of_format(parent, all);
    case BLK_ROLE_BACKING:
        return of_backing(parent, all);
    case BLK_ROLE_FILTER:
        return blk_builtin_of(parent->driver)->guards ? of_guarded(parent, all) : all;
    case BLK_ROLE_TARGET:
        return (Perms){ BLK_PERM_WRITE, BLK_PERM_ALL };
    case BLK_ROLE_INSTANT:
        return (Perms){ 0, BLK_PERM_ALL };
    case BLK_ROLE_WINDOW:
        break;
    }
    return all;
}

/* What would change a size that the parent remembers. */
static unsigned size_kept(const BlkNode *parent, unsigned index)
{
    BlkChildRole role = blk_node_child_role(parent, index);

    if (role == BLK_ROLE_INSTANT)
        return 0;
    if (role == BLK_ROLE_FILTER && blk_builtin_of(parent->driver)->grows)
        return BLK_PERM_RESIZE;
    return BLK_PERM_RESIZE | BLK_PERM_GROW;
}

static Perms of_child(const BlkNode *parent, unsigned index, const BlkNode *child, Perms all)
{
    if (!blk_node_active(parent))
        return (Perms){ all.needs & BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL };
    all = of_role(parent, index, all);
    all.shares &= ~size_kept(parent, index);
    if (blk_builtin_of(parent->driver)->permit)
        blk_builtin_of(parent->driver)->permit(parent->options, &all.needs, &all.shares);
    if (blk_options_bool(child->options, "force-share"))
        all.shares = BLK_PERM_ALL;
    return all;
}

/* ---- what users need and share together */

static Perms cumulative(const BlkNode *node)
{
    Perms all = { 0, BLK_PERM_ALL };

    for (guint i = 0; i < node->users->len; i++) {
        const BlkUser *user = node->users->pdata[i];

        all.needs |= user->needs;
        all.shares &= user->shares;
    }
    if (!blk_node_active(node))
        all = (Perms){ all.needs & BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL };
    return all;
}

static const char *role_of(const BlkUser *user)
{
    return user->parent ? user->parent->driver->children[user->index].name : "root";
}

static char *join(unsigned permissions)
{
    GString *joined = g_string_new(NULL);

    for (unsigned i = 0; i < BLK_PERMS; i++) {
        if (permissions & 1u << i)
            g_string_append_printf(joined, "%s%s", joined->len ? ", " : "", blk_perm_names[i]);
    }
    return g_string_free(joined, FALSE);
}

static bool allows(const BlkUser *a, const BlkUser *b, GError **error)
{
    const char *name = a->node->name;
    g_autofree char *permissions = NULL;

    if (!(b->needs & ~a->shares))
        return true;
    permissions = join(b->needs & ~a->shares);
    return tm_error_set(error,
                        "Permission conflict on node '%s': permissions '%s' are both required by "
                        "%s (uses node '%s' as '%s' child) and unshared by %s (uses node '%s' as "
                        "'%s' child).",
                        name, permissions, b->what, name, role_of(b), a->what, name, role_of(a));
}

/* Who only reads may use a node that is inactive, and who doesn't write as long as it is. */
static bool check_inactive(const BlkNode *node, GError **error)
{
    for (guint i = 0; i < node->users->len && !blk_node_active(node); i++) {
        const BlkUser *user = node->users->pdata[i];
        unsigned more = user->needs & ~(unsigned)BLK_PERM_CONSISTENT_READ;
        g_autofree char *permissions = NULL;

        if (!more || user->allows_inactive)
            continue;
        permissions = join(more);
        return tm_error_set(error,
                            "Permission '%s' unavailable on inactive node '%s', required by %s",
                            permissions, node->name, user->what);
    }
    return true;
}

/* The newest first, as in QEMU. */
static bool check_users(const BlkNode *node, GError **error)
{
    if (!check_inactive(node, error))
        return false;
    for (guint i = node->users->len; i-- > 0;) {
        for (guint k = node->users->len; k-- > 0;) {
            if (i != k && !allows(node->users->pdata[i], node->users->pdata[k], error))
                return false;
        }
    }
    return !(cumulative(node).needs & WRITES && blk_node_read_only(node)) ||
           tm_error_set(error, "Block node is read-only");
}

/* ---- carrying a change downwards */

typedef struct Before {
    BlkUser *user;
    Perms perms;
} Before;

typedef struct Refresh {
    GPtrArray *nodes; /* BlkNode, parents first */
    GArray *before;   /* Before */
} Refresh;

static void list_below(GPtrArray *listed, GHashTable *seen, BlkNode *node)
{
    if (!g_hash_table_add(seen, node))
        return;
    for (unsigned i = node->n_children; i-- > 0;) {
        BlkNode *child = blk_node_child_at(node, i);

        if (child)
            list_below(listed, seen, child);
    }
    g_ptr_array_insert(listed, 0, node);
}

static void refresh_begin(Refresh *r, BlkNode *const *nodes, size_t n)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);

    r->nodes = g_ptr_array_new();
    r->before = g_array_new(FALSE, FALSE, sizeof(Before));
    for (size_t i = 0; i < n; i++)
        list_below(r->nodes, seen, nodes[i]);
}

static void set_child(Refresh *r, BlkNode *node, unsigned index, Perms all)
{
    BlkUser *user = node->children[index];
    Before before = { user, { user->needs, user->shares } };
    Perms perms = of_child(node, index, user->node, all);

    g_array_append_val(r->before, before);
    user->needs = perms.needs;
    user->shares = perms.shares;
}

static bool guarded(const BlkNode *node)
{
    bool is = node->guards;

    for (guint i = 0; !is && i < node->users->len; i++) {
        const BlkUser *user = node->users->pdata[i];

        is = user->parent && user->parent->guarded;
    }
    return is;
}

/* To the end, whether there is a conflict or not: the first one is reported. */
static bool carry(Refresh *r, GError **error)
{
    bool ok = true;

    for (guint n = 0; n < r->nodes->len; n++) {
        BlkNode *node = r->nodes->pdata[n];

        node->guarded = guarded(node);
        ok = ok && check_users(node, error);
        for (unsigned i = 0; i < node->n_children; i++) {
            if (node->children[i])
                set_child(r, node, i, cumulative(node));
        }
    }
    return ok;
}

static void put_back(Refresh *r)
{
    for (guint i = r->before->len; i-- > 0;) {
        Before *b = &g_array_index(r->before, Before, i);

        b->user->needs = b->perms.needs;
        b->user->shares = b->perms.shares;
    }
    for (guint n = 0; n < r->nodes->len; n++)
        ((BlkNode *)r->nodes->pdata[n])->guarded = guarded(r->nodes->pdata[n]);
}

/* ---- locks */

static bool lockable(const BlkNode *node)
{
    return node->open && blk_builtin_of(node->driver)->locks;
}

/* What other programs are to share: they know of one permission for both. */
static unsigned locked(Perms all)
{
    return all.needs & BLK_PERM_GROW ? all.needs | BLK_PERM_RESIZE : all.needs;
}

/* What other programs are not to do. */
static unsigned unshared(const BlkNode *node, Perms all)
{
    unsigned u = BLK_PERM_ALL & ~all.shares;

    if (blk_options_bool(node->options, "force-share"))
        return 0;
    if (all.needs & BLK_PERM_WRITE || (node->guarded && !blk_node_read_only(node)))
        u |= BLK_PERM_WRITE;
    return u;
}

static bool take(BlkNode *node, GError **error)
{
    Perms all = cumulative(node);
    int ret;

    if (!lockable(node))
        return true;
    g_clear_pointer(&node->error, g_free);
    ret = blk_builtin_of(node->driver)->locks->take(node->handle, locked(all), unshared(node, all));
    if (ret == 0)
        return true;
    return node->error ? tm_error_set(error, "%s", node->error)
                       : tm_error_set_errno(error, -ret, "Failed to lock node '%s'", node->name);
}

static bool take_all(const Refresh *r, GError **error)
{
    for (guint n = 0; n < r->nodes->len; n++) {
        if (!take(r->nodes->pdata[n], error))
            return false;
    }
    return true;
}

static void keep_all(const Refresh *r)
{
    for (guint n = 0; n < r->nodes->len; n++) {
        BlkNode *node = r->nodes->pdata[n];
        Perms all = cumulative(node);

        if (lockable(node))
            blk_builtin_of(node->driver)
                ->locks->keep(node->handle, locked(all), unshared(node, all));
    }
}

static void refresh_end(Refresh *r)
{
    keep_all(r);
    g_ptr_array_unref(r->nodes);
    g_array_unref(r->before);
}

/* Under the lock, as the next. */
static bool refresh_nodes(BlkNode *const *nodes, size_t n, GError **error)
{
    Refresh r;
    bool ok;

    refresh_begin(&r, nodes, n);
    ok = carry(&r, error) && take_all(&r, error);
    if (!ok)
        put_back(&r);
    refresh_end(&r);
    return ok;
}

static bool refresh(BlkNode *node, GError **error)
{
    return refresh_nodes(&node, 1, error);
}

/* Less is needed, or more shared. Any thread. */
static void relax_nodes(BlkNode *const *nodes, size_t n)
{
    Refresh r;

    refresh_begin(&r, nodes, n);
    carry(&r, NULL);
    refresh_end(&r);
}

static void relax(BlkNode *node)
{
    relax_nodes(&node, 1);
}

void blk_permissions_lock(BlkNode *node)
{
    pthread_mutex_lock(blk_graph_permissions(node->graph));
}

void blk_permissions_unlock(BlkNode *node)
{
    pthread_mutex_unlock(blk_graph_permissions(node->graph));
}

bool blk_permissions_refresh(BlkNode *const *nodes, size_t n, GError **error)
{
    TM_GUARD(blk_graph_permissions(nodes[0]->graph));

    return refresh_nodes(nodes, n, error);
}

static bool restrict_others(BlkNode *node, bool *flag, bool value, GError **error)
{
    bool before = *flag;
    TM_GUARD(blk_graph_permissions(node->graph));

    *flag = value;
    if (before && !value)
        relax(node);
    if (before || !value || refresh(node, error))
        return true;
    *flag = false;
    relax(node);
    return false;
}

bool blk_permissions_guard(BlkNode *node, bool guard, GError **error)
{
    return restrict_others(node, &node->guards, guard, error);
}

bool blk_permissions_freeze(BlkNode *node, bool frozen, GError **error)
{
    return restrict_others(node, &node->frozen, frozen, error);
}

/* ---- users */

bool blk_permissions_join(BlkUser *user, GError **error)
{
    TM_GUARD(blk_graph_permissions(user->graph));

    if (user->parent) {
        Perms perms = of_child(user->parent, user->index, user->node, cumulative(user->parent));

        user->needs = perms.needs;
        user->shares = perms.shares;
    }
    g_ptr_array_add(user->node->users, user);
    return refresh(user->node, error);
}

void blk_permissions_leave(BlkUser *user)
{
    TM_GUARD(blk_graph_permissions(user->graph));

    g_ptr_array_remove(user->node->users, user);
    relax(user->node);
}

/* *to becomes what it had; NULL: it was released meanwhile. */
static void exchange(BlkUser *user, BlkNode **to)
{
    BlkNode *from = user->node;

    if (!*to || !g_ptr_array_remove(from->users, user)) {
        *to = NULL;
        return;
    }
    user->node = *to;
    g_ptr_array_add(user->node->users, user);
    *to = from;
}

static void add_once(GPtrArray *nodes, BlkNode *node)
{
    if (!g_ptr_array_find(nodes, node, NULL))
        g_ptr_array_add(nodes, node);
}

bool blk_permissions_exchange(GPtrArray *users, BlkNode **others, GError **error)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    TM_GUARD(blk_graph_permissions(((BlkUser *)users->pdata[0])->graph));

    for (guint i = 0; i < users->len; i++) {
        add_once(nodes, others[i]);
        add_once(nodes, ((BlkUser *)users->pdata[i])->node);
        exchange(users->pdata[i], &others[i]);
    }
    if (refresh_nodes((BlkNode *const *)nodes->pdata, nodes->len, error))
        return true;
    for (guint i = users->len; i-- > 0;)
        exchange(users->pdata[i], &others[i]);
    relax_nodes((BlkNode *const *)nodes->pdata, nodes->len);
    return false;
}

bool blk_user_set(BlkUser *user, unsigned needs, unsigned shares, GError **error)
{
    Perms before = { user->needs, user->shares };
    TM_GUARD(blk_graph_permissions(user->graph));

    user->needs = needs;
    user->shares = shares;
    if (refresh(user->node, error))
        return true;
    user->needs = before.needs;
    user->shares = before.shares;
    relax(user->node);
    return false;
}

BlkNode *blk_user_node(const BlkUser *user)
{
    return user->node;
}

char *blk_user_node_name(BlkGraph *graph, const BlkUser *user)
{
    TM_GUARD(blk_graph_permissions(graph));

    return g_strdup(user->node->name);
}

unsigned blk_node_users(BlkNode *node)
{
    TM_GUARD(blk_graph_permissions(node->graph));

    return node->users->len;
}

const char *blk_permissions_unshared(BlkNode *node, unsigned needs)
{
    TM_GUARD(blk_graph_permissions(node->graph));

    for (guint i = node->users->len; i-- > 0;) {
        const BlkUser *user = node->users->pdata[i];

        if (needs & ~user->shares)
            return user->what;
    }
    return NULL;
}

bool blk_permissions_written_beside(BlkNode *node, const GPtrArray *nodes)
{
    TM_GUARD(blk_graph_permissions(node->graph));

    for (guint i = 0; i < node->users->len; i++) {
        const BlkUser *user = node->users->pdata[i];
        bool among = user->parent && g_ptr_array_find((GPtrArray *)nodes, user->parent, NULL);

        if (!among && user->needs & WRITES)
            return true;
    }
    return false;
}

bool blk_permissions_written(BlkNode *node)
{
    TM_GUARD(blk_graph_permissions(node->graph));

    for (guint i = 0; i < node->users->len; i++) {
        const BlkUser *user = node->users->pdata[i];

        if (!user->parent && user->needs & WRITES && blk_node_active(node))
            return true;
    }
    return false;
}
