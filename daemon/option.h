/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/option.h: options, of the command line or of a configuration file, that are commands of
 * QMP in another form. Main thread. */
#pragma once
#include "daemon/config.h"
#include "daemon/daemon.h"

/* Carries out one option, in the order of the command line; those that daemon_init() and main()
 * know are passed over. */
bool option_run(Daemon *daemon, const CmdOption *option, GError **error);

/* The same of a kind with a type, given the arguments. */
bool option_run_arguments(Daemon *daemon, CmdKind kind, json_object *args, GError **error);

/* The type of the arguments of the command; NULL: it is none. */
const QmpType *option_type(CmdKind kind);
/* The arguments: a reference, or NULL. Those of the command line are checked, those of a file not.
 * The option has a type. */
json_object *option_arguments(Daemon *daemon, const CmdOption *option, GError **error);
/* The name of what it makes, in @args; NULL: it has none. Borrowed. */
const char *option_id(const CmdOption *option, json_object *args);
/* How the bitmap that is there differs from @args, block-dirty-bitmap-add's, checked: for people
 * (g_free); NULL: it doesn't, or is not there. */
char *bitmap_difference(Daemon *daemon, json_object *args);
