/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A drive's medium goes to a drive of another host, whose spicebdd we speak to.
 * Documentation/migration.rst has the states and what each lost message means.
 * Main thread.
 */
#ifndef SPICEBD_MIGRATE_H
#define SPICEBD_MIGRATE_H

#include <json-glib/json-glib.h>

#include "derr.h"

struct drive;

/* What an earlier spicebdd left, after the drives are known and before media are. */
void migrate_load(void);
/* Listen for others, go on with what was loaded. */
int migrate_start(struct derr *e);

/* The array for the state file, the caller's; NULL: nothing is under way. */
JsonArray *migrate_save(void);

/* upcalls: a drive's event; its end; its medium is out; a share's list changed */
void migrate_drive_event(struct drive *d);
void migrate_drive_gone(struct drive *d);
void migrate_medium_out(struct drive *d);
void migrate_links_changed(const char *link);

#endif /* SPICEBD_MIGRATE_H */
