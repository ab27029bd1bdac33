/* SPDX-License-Identifier: GPL-2.0-only */
/* Sources with a name (blockdev-add), to be inserted by it. Main thread. */
#ifndef SPICEBD_NODES_H
#define SPICEBD_NODES_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

#include "derr.h"
#include "insert.h"
#include "source.h"

struct drive;

#define NODES_MAX	256

/* @args: BlockdevOptions */
int node_add(JsonObject *args, struct derr *e);
int node_del(const char *name, struct derr *e);

/* A source made from it; NULL with @e. */
struct source *node_source(const char *name, enum read_only_mode *mode, struct derr *e);

/**
 * node_scratch() - a file node's file, to be written by a snapshot
 * Return: descriptor, or -errno with @e
 */
int node_scratch(const char *name, struct derr *e);

/**
 * struct node_info - a node, for query-named-block-nodes
 * @file: where its bytes are
 * @drive: that it is in, or NULL
 */
struct node_info {
	const char *name, *driver, *file;
	bool read_only;
	struct drive *drive;
};

void nodes_each(void (*fn)(const struct node_info *i, void *arg), void *arg);

#endif /* SPICEBD_NODES_H */
