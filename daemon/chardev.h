/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/chardev.h: --chardev: the channels that monitors speak on. Main thread. */
#pragma once
#include <glib.h>
#include <stdbool.h>

typedef struct Chardev {
    char *id;
    char *path;  /* of a unix socket; NULL: standard input and output */
    bool in_use; /* a monitor has it */
} Chardev;

/* Parses "socket,id=ID,path=PATH,server=on,wait=off" or "stdio,id=ID". Returned (chardev_free). */
Chardev *chardev_parse(const char *text, GError **error);
void chardev_free(Chardev *chardev); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Chardev, chardev_free)
