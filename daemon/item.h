/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/item.h: one item of a configuration file, and what happens to it while the daemon runs: it
 * is added, changed or removed as a whole, or not at all. Main thread. */
#pragma once
#include "daemon/option.h"

typedef struct Item {
    CmdKind kind;
    const char *what;  /* "blockdev"; static */
    char *id;          /* unique among those of its kind */
    json_object *args; /* a reference; of the type of its kind */
} Item;

/* Of an option that a file has, of the right types; NULL: it is no item. Returned: item_free. */
Item *item_new(Daemon *daemon, const CmdOption *option);
Item *item_copy(const Item *item);
void item_free(Item *item); /* NULL is fine */

/* Whether there is something of that name; it may have been made in another way. */
bool item_exists(Daemon *daemon, const Item *item);
/* Whether what there is was made from the same, as query-configuration shows it; of a bitmap,
 * whether it is such a one. */
bool item_matches(Daemon *daemon, const Item *item, GError **error);

/* Each either does it, or changes nothing and fails: the error says what to do. */
bool item_add(Daemon *daemon, const Item *item, GError **error);
bool item_change(Daemon *daemon, const Item *from, const Item *to, GError **error);
/* *later: clients have an export still; it ends with the last one. */
bool item_remove(Daemon *daemon, const Item *item, bool *later, GError **error);
