/* SPDX-License-Identifier: GPL-2.0-only */
/* Sources with a name (blockdev-add), to be inserted by it. Main thread. */
#ifndef SPICEBD_NODES_H
#define SPICEBD_NODES_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

#include "derr.h"
#include "source.h"

#define NODES_MAX	256

int node_add(const char *name, const char *driver, bool read_only, JsonObject *args,
	     struct derr *e);
int node_del(const char *name, struct derr *e);

/* A source made from it; NULL with @e. */
struct source *node_source(const char *name, bool *read_only, struct derr *e);

#endif /* SPICEBD_NODES_H */
