/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* docs/describe.c: what the documentation says of QMP, from the tables of qmp/schema/table.h. `make
 * docs` keeps its output in docs/qmp-reference.md and in docs/man/tidemarkd.8;
 * tests/unit/check_lists compares.
 *
 *     describe reference | man */
#include "qmp/schema/table.h"
#include <stdio.h>
#include <string.h>

static const char intro[] =
    "# QMP reference\n"
    "\n"
    "Every command and event of tidemarkd. `make docs` writes this page from the tables that\n"
    "check arguments, so it always matches the program. `tidemark qmp COMMAND --help` shows\n"
    "the same for one command, without a daemon.\n"
    "\n"
    "The dialect is QEMU's: the server sends a greeting, the client `qmp_capabilities` and\n"
    "then requests, and the server answers each with `{\"return\": ...}` or `{\"error\":\n"
    "{\"class\": ..., \"desc\": ...}}`. Names of arguments within an object are joined by dots,\n"
    "and N is the index in an array, as `tidemark qmp` takes them. A *size* is a number of\n"
    "bytes in JSON; the command line also takes `64k`, `1G` and the like. \"With driver=raw\"\n"
    "means that an argument exists only if `driver` has that value. Plug-ins add drivers of\n"
    "their own to `blockdev-add`.\n"
    "\n"
    "Any command can fail with these errors. The class is `GenericError` unless another one\n"
    "is named:\n"
    "\n"
    "- `Parameter 'NAME' is missing`\n"
    "- `Parameter 'NAME' is unexpected`\n"
    "- `Invalid parameter type for 'NAME', expected: TYPE`\n"
    "- `Parameter 'NAME' does not accept value 'VALUE'`\n"
    "- `The command NAME has not been found` (class `CommandNotFound`)\n"
    "- `Expecting capabilities negotiation with 'qmp_capabilities'` (class `CommandNotFound`)\n"
    "\n"
    "Further errors are listed with each command; words in capitals stand for what varies.\n"
    "Errors of the operating system, such as a file that can't be opened, have messages of\n"
    "their own.\n";

int main(int argc, char **argv)
{
    BlkRegistry *registry = blk_registry_new(&tm_sys_kernel);
    QmpTypes *types = qmp_types_new(registry);
    const char *what = argc == 2 ? argv[1] : "";
    g_autofree char *text = NULL;

    if (!strcmp(what, "reference")) {
        fputs(intro, stdout);
        text = qmp_table_markdown(types);
    } else if (!strcmp(what, "man")) {
        text = qmp_table_man();
    } else {
        fputs("usage: describe reference | man\n", stderr);
        return 2;
    }
    fputs(text, stdout);
    qmp_types_free(types);
    blk_registry_free(registry);
    return fflush(stdout) ? 1 : 0;
}
