/* SPDX-License-Identifier: GPL-2.0-only */
/* Putting a medium into a drive, from the look at its source to the uevent. */
#ifndef SPICEBD_INSERT_H
#define SPICEBD_INSERT_H

#include <stdbool.h>

#include "derr.h"
#include "faropts.h"
#include "source.h"

struct drive;

enum read_only_mode {
	RO_AUTO,
	RO_READ_ONLY,
	RO_READ_WRITE,
};

/**
 * struct insert_args - what is wanted
 * @source: taken over
 * @drive: or NULL: the first empty one that fits, else a new one
 * @personality: enum spicebd_personality, or -1: as the medium is
 * @replace: eject what is in the drive, once the new one is there
 * @force: ... whoever uses it, and whoever still has an older one open
 * @patience: seconds for the old one's user to let go, or -1
 * @open_tray: only lay it into the open tray
 * @timeout: seconds
 * @far: how it is to be made near
 */
struct insert_args {
	struct source *source;
	struct drive *drive;
	int personality;
	enum read_only_mode mode;
	bool replace, force, open_tray;
	int patience, timeout;
	struct faropts far;
};

/**
 * insert_mode() - "auto", "read-only", "read-write" or "retain"
 * @d: whose medium's mode is retained, or NULL
 */
int insert_mode(const char *s, const struct drive *d, enum read_only_mode *mode, struct derr *e);

/* @d: the drive, with @r 0 */
typedef void (*insert_done_fn)(int r, struct drive *d, const struct derr *e, void *arg);

void insert_start(const struct insert_args *a, insert_done_fn done, void *arg);

#endif /* SPICEBD_INSERT_H */
