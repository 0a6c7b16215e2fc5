/* daemon/pidfile.h: --pidfile: the process id in a file that stays locked while the daemon lives.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>

typedef struct Pidfile Pidfile;

/* Creates and locks @path and writes the id. Errors: not creatable, held by another process. */
Pidfile *pidfile_create(const char *path, GError **error);
/* Removes the file; NULL is fine. */
void pidfile_remove(Pidfile *pidfile);
