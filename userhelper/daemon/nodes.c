// SPDX-License-Identifier: GPL-2.0-only
#include "nodes.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "drive.h"
#include "export.h"
#include "fdset.h"
#include "snapshot.h"

/**
 * struct node - a source with a name, or what such a one stands on
 * @name: "" within another, unless it was given one
 * @text: URI, file name, or link
 * @below: of a raw node: what it shows; held
 * @refs: the list's, and those of nodes above
 */
struct node {
	char *name;
	const char *driver;
	bool read_only, strict, no_discard;
	enum source_type type;
	char *text;
	char *medium;
	int fd;
	struct node *below;
	unsigned int refs;
};

static GList *nodes;

static struct node *find(const char *name)
{
	for (GList *i = nodes; i; i = i->next) {
		struct node *n = i->data;

		if (!strcmp(n->name, name))
			return n;
	}
	return NULL;
}

static void node_unref(struct node *n)
{
	if (!n || --n->refs)
		return;
	node_unref(n->below);
	if (n->fd >= 0)
		close(n->fd);
	g_free(n->name);
	g_free(n->text);
	g_free(n->medium);
	g_free(n);
}

static const char *str(JsonObject *o, const char *name)
{
	return json_object_get_string_member_with_default(o, name, NULL);
}

static int nbd_node(struct node *n, JsonObject *args, struct derr *e)
{
	JsonObject *server = json_object_get_object_member(args, "server");
	char *x = g_uri_escape_string(str(args, "export") ?: "", NULL, FALSE), *p;

	n->type = SOURCE_NBD;
	if (!strcmp(str(server, "type"), "unix")) {
		p = g_uri_escape_string(str(server, "path"), "/", FALSE);
		n->text = g_strdup_printf("nbd+unix:///%s?socket=%s", x, p);
		g_free(p);
	} else {
		const char *host = str(server, "host");
		bool v6 = strchr(host, ':');

		n->text = g_strdup_printf("nbd://%s%s%s:%s/%s", v6 ? "[" : "", host,
					  v6 ? "]" : "", str(server, "port"), x);
	}
	g_free(x);
	return 0;
}

static int file_node(struct node *n, JsonObject *args, struct derr *e)
{
	const char *name = str(args, "filename");

	n->type = SOURCE_FILE;
	n->text = g_strdup(name);
	if (g_str_has_prefix(name, "/dev/fdset/")) {
		n->fd = fdset_dup(name, e);
	} else {
		n->fd = open(name, (n->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK |
			     O_NOCTTY);
		if (n->fd < 0)
			return derr_set(e, errno, "Could not open '%s': %s", name,
					strerror(errno));
	}
	return n->fd < 0 ? n->fd : 0;
}

static int spice_node(struct node *n, JsonObject *args, struct derr *e)
{
	n->type = SOURCE_SPICE;
	n->text = g_strdup(str(args, "link"));
	n->medium = g_strdup(str(args, "medium"));
	return 0;
}

static bool name_ok(const char *s)
{
	size_t len = strlen(s);

	if (!len || len > 31 || !isalpha(*s))
		return false;
	for (; *s; s++)
		if (!isalnum(*s) && !strchr("-._", *s))
			return false;
	return true;
}

static struct node *node_make(JsonObject *o, struct derr *e);

/* "file" of a raw node: another node's name, or one that is made along with it. */
static int raw_node(struct node *n, JsonObject *args, struct derr *e)
{
	JsonNode *file = json_object_get_member(args, "file");

	if (JSON_NODE_HOLDS_OBJECT(file)) {
		n->below = node_make(json_node_get_object(file), e);
		if (!n->below)
			return -e->code;
	} else {
		n->below = find(json_node_get_string(file));
		if (!n->below)
			return derr_set(e, ENOENT, "Cannot find device='' nor node-name='%s'",
					json_node_get_string(file));
		n->below->refs++;
	}
	n->type = n->below->type;
	n->text = g_strdup(n->below->text);
	return 0;
}

/*
 * What the drivers are, and what makes them. A node of its own that names none
 * ("host_device") is a file to us.
 */
static const struct {
	const char *name;
	int (*make)(struct node *n, JsonObject *args, struct derr *e);
} drivers[] = {
	{ "file", file_node },
	{ "host_cdrom", file_node },
	{ "host_device", file_node },
	{ "nbd", nbd_node },
	{ "raw", raw_node },
	{ "spice", spice_node },
};

static int node_fill(struct node *n, JsonObject *o, struct derr *e)
{
	const char *driver = str(o, "driver"), *discard = str(o, "discard");
	int r = -EINVAL;

	n->read_only = json_object_get_boolean_member_with_default(o, "read-only", FALSE);
	/* As in QEMU where it was said; unsaid, what cannot be written is read. */
	n->strict = !json_object_get_boolean_member_with_default(o, "auto-read-only", TRUE);
	n->no_discard = discard && !strcmp(discard, "ignore");
	for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++) {
		if (strcmp(drivers[i].name, driver))
			continue;
		n->driver = drivers[i].name;
		r = drivers[i].make(n, o, e);
	}
	if (!r && n->below) {
		n->read_only |= n->below->read_only;
		n->no_discard |= n->below->no_discard;
	}
	return r;
}

/* Return: with one reference, the caller's; NULL with @e. */
static struct node *node_make(JsonObject *o, struct derr *e)
{
	const char *name = str(o, "node-name");
	struct node *n;

	if (name && !name_ok(name)) {
		derr_set(e, EINVAL, "Invalid node-name: '%s'", name);
		return NULL;
	}
	if (name && find(name)) {
		derr_set(e, EEXIST, "Duplicate nodes with node-name='%s'", name);
		return NULL;
	}
	if (g_list_length(nodes) >= NODES_MAX) {
		derr_set(e, ENOSPC, "too many nodes: blockdev-del some");
		return NULL;
	}
	n = g_new0(struct node, 1);
	n->name = g_strdup(name ?: "");
	n->fd = -1;
	n->refs = 1;
	if (node_fill(n, o, e) < 0) {
		node_unref(n);
		return NULL;
	}
	return n;
}

/* Each can be named from here on, those within others too. */
static void list(struct node *n)
{
	if (n->below)
		list(n->below);
	if (!*n->name || g_list_find(nodes, n))
		return;
	n->refs++;
	nodes = g_list_append(nodes, n);
}

/* A name that is in none of the listed ones may still be twice in the new ones. */
static bool twice(const struct node *n)
{
	for (const struct node *b = n->below; b; b = b->below)
		if (*n->name && !strcmp(n->name, b->name))
			return true;
	return n->below && twice(n->below);
}

static void unlist(struct node *n)
{
	nodes = g_list_remove(nodes, n);
	node_unref(n);
}

int node_add(JsonObject *args, struct derr *e)
{
	struct node *n;
	int r = 0;

	if (!str(args, "node-name"))
		return derr_set(e, EINVAL, "'node-name' must be specified for the root node");
	n = node_make(args, e);
	if (!n)
		return -e->code;
	if (twice(n))
		r = derr_set(e, EEXIST, "Duplicate nodes with node-name='%s'", n->name);
	else
		list(n);
	node_unref(n);
	return r;
}

static struct drive *drive_of(const struct node *n)
{
	for (struct drive *d = drive_first(); d; d = drive_next(d))
		if (d->medium && d->medium->source->node_name &&
		    !strcmp(d->medium->source->node_name, n->name))
			return d;
	return NULL;
}

int node_del(const char *name, struct derr *e)
{
	struct node *n = find(name);

	if (!n)
		return derr_set(e, ENOENT, "Failed to find node with node-name='%s'", name);
	if (drive_of(n) || exports_use_node(name) || snapshot_by_node(name))
		return derr_set(e, EBUSY, "Node %s is in use", name);
	if (n->refs > 1)
		return derr_set(e, EBUSY, "Block device %s is in use", name);
	unlist(n);
	return 0;
}

static struct source *source_of(const struct node *n, struct derr *e)
{
	int fd;

	if (n->below)
		return source_of(n->below, e);
	switch (n->type) {
	case SOURCE_NBD:
		return source_nbd_new(n->text);
	case SOURCE_SPICE:
		return source_spice_new(n->text, n->medium);
	case SOURCE_FILE:
		fd = fcntl(n->fd, F_DUPFD_CLOEXEC, 3);
		if (fd >= 0)
			return source_file_new(fd, n->text, e);
		derr_set(e, errno, "%s: %s", n->text, strerror(errno));
	}
	return NULL;
}

struct source *node_source(const char *name, enum read_only_mode *mode, struct derr *e)
{
	struct node *n = find(name);
	struct source *s;

	if (!n) {
		derr_set(e, ENOENT, "Node '%s' not found", name);
		return NULL;
	}
	if (drive_of(n) || snapshot_by_node(name)) {
		derr_set(e, EBUSY, "Node '%s' is already in use", name);
		return NULL;
	}
	s = source_of(n, e);
	if (!s)
		return NULL;
	s->node_name = g_strdup(name);
	s->no_discard = n->no_discard;
	*mode = n->read_only ? RO_READ_ONLY : n->strict ? RO_READ_WRITE : RO_AUTO;
	return s;
}

int node_scratch(const char *name, struct derr *e)
{
	const struct node *n = find(name);
	int fd;

	if (!n)
		return derr_set(e, ENOENT, "Cannot find device='' nor node-name='%s'", name);
	if (drive_of(n) || exports_use_node(name) || snapshot_by_node(name))
		return derr_set(e, EBUSY, "Node '%s' is already in use", name);
	while (n->below)
		n = n->below;
	if (n->type != SOURCE_FILE || n->read_only)
		return derr_set(e, EINVAL, "Node '%s' is no file that can be written", name);
	fd = fcntl(n->fd, F_DUPFD_CLOEXEC, 3);
	return fd < 0 ? derr_set(e, errno, "%s: %s", n->text, strerror(errno)) : fd;
}

void nodes_each(void (*fn)(const struct node_info *i, void *arg), void *arg)
{
	for (GList *i = nodes; i; i = i->next) {
		const struct node *n = i->data;
		struct node_info info = {
			.name = n->name, .driver = n->driver, .file = n->text ?: "",
			.read_only = n->read_only, .drive = drive_of(n),
		};

		fn(&info, arg);
	}
}
