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

struct node {
	char *name;
	bool read_only;
	enum source_type type;
	char *text;		/* uri, file name, or link */
	char *medium;
	int fd;
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

static void node_free(struct node *n)
{
	if (n->fd >= 0)
		close(n->fd);
	g_free(n->name);
	g_free(n->text);
	g_free(n->medium);
	g_free(n);
}

static const char *str(JsonObject *o, const char *name)
{
	JsonNode *n = json_object_get_member(o, name);

	return n && JSON_NODE_HOLDS_VALUE(n) && json_node_get_value_type(n) == G_TYPE_STRING ?
		json_node_get_string(n) : NULL;
}

static int nbd_node(struct node *n, JsonObject *args, struct derr *e)
{
	JsonNode *sn = json_object_get_member(args, "server");
	JsonObject *server = sn && JSON_NODE_HOLDS_OBJECT(sn) ? json_node_get_object(sn) : NULL;
	const char *type = server ? str(server, "type") : NULL;
	const char *export = str(args, "export") ?: "";
	char *x = g_uri_escape_string(export, NULL, FALSE), *p;
	int r = 0;

	n->type = SOURCE_NBD;
	if (type && !strcmp(type, "unix") && str(server, "path")) {
		p = g_uri_escape_string(str(server, "path"), "/", FALSE);
		n->text = g_strdup_printf("nbd+unix:///%s?socket=%s", x, p);
		g_free(p);
	} else if (type && !strcmp(type, "inet") && str(server, "host") && str(server, "port")) {
		const char *host = str(server, "host");
		bool v6 = strchr(host, ':');

		n->text = g_strdup_printf("nbd://%s%s%s:%s/%s", v6 ? "[" : "", host,
					  v6 ? "]" : "", str(server, "port"), x);
	} else {
		r = derr_set(e, EINVAL, "Parameter 'server' needs type 'unix' with path, or "
			     "'inet' with host and port");
	}
	g_free(x);
	return r;
}

static int file_node(struct node *n, JsonObject *args, struct derr *e)
{
	const char *name = str(args, "filename");

	n->type = SOURCE_FILE;
	if (!name)
		return derr_set(e, EINVAL, "Parameter 'filename' is missing");
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

int node_add(const char *name, const char *driver, bool read_only, JsonObject *args,
	     struct derr *e)
{
	struct node *n;
	int r;

	if (!name_ok(name))
		return derr_set(e, EINVAL, "Invalid node-name: '%s'", name);
	if (find(name))
		return derr_set(e, EEXIST, "Duplicate nodes with node-name='%s'", name);
	if (g_list_length(nodes) >= NODES_MAX)
		return derr_set(e, ENOSPC, "too many nodes: blockdev-del some");
	n = g_new0(struct node, 1);
	n->name = g_strdup(name);
	n->read_only = read_only;
	n->fd = -1;
	if (!strcmp(driver, "nbd"))
		r = nbd_node(n, args, e);
	else if (!strcmp(driver, "file") || !strcmp(driver, "host_device") ||
		 !strcmp(driver, "host_cdrom"))
		r = file_node(n, args, e);
	else if (!strcmp(driver, "spice"))
		r = spice_node(n, args, e);
	else
		r = derr_set(e, EINVAL, "Parameter 'driver' does not accept value '%s'", driver);
	if (r < 0) {
		node_free(n);
		return r;
	}
	nodes = g_list_append(nodes, n);
	return 0;
}

int node_del(const char *name, struct derr *e)
{
	struct node *n = find(name);

	if (!n)
		return derr_set(e, ENOENT, "Failed to find node with node-name='%s'", name);
	for (struct drive *d = drive_first(); d; d = drive_next(d))
		if (d->medium && d->medium->source->node_name &&
		    !strcmp(d->medium->source->node_name, name))
			return derr_set(e, EBUSY, "Node %s is in use", name);
	if (exports_use_node(name))
		return derr_set(e, EBUSY, "Node %s is in use", name);
	nodes = g_list_remove(nodes, n);
	node_free(n);
	return 0;
}

struct source *node_source(const char *name, bool *read_only, struct derr *e)
{
	struct node *n = find(name);
	struct source *s = NULL;
	int fd;

	if (!n) {
		derr_set(e, ENOENT, "Cannot find device='%s' nor node-name='%s'", name, name);
		return NULL;
	}
	switch (n->type) {
	case SOURCE_NBD:
		s = source_nbd_new(n->text);
		break;
	case SOURCE_SPICE:
		s = source_spice_new(n->text, n->medium);
		break;
	case SOURCE_FILE:
		fd = fcntl(n->fd, F_DUPFD_CLOEXEC, 3);
		if (fd < 0)
			derr_set(e, errno, "%s: %s", n->text, strerror(errno));
		else
			s = source_file_new(fd, n->text, e);
		break;
	}
	if (s)
		s->node_name = g_strdup(name);
	*read_only = n->read_only;
	return s;
}
