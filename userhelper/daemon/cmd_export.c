// SPDX-License-Identifier: GPL-2.0-only
/* QEMU's NBD server and block exports, with QEMU's names, arguments and words. */
#include <errno.h>
#include <string.h>

#include "control.h"
#include "export.h"

#define CONNECTIONS_DEFAULT	100	/* QEMU's */

static void done(int r, const struct derr *e, void *arg)
{
	cmd_end(arg, r, e);
}

/* A string of a nested object, in the words for one that is missing. */
static int nested(JsonObject *o, const char *where, const char *name, bool needed, const char **out,
		  struct derr *e)
{
	JsonNode *n = json_object_get_member(o, name);

	*out = "";
	if (!n && !needed)
		return 0;
	if (!n)
		return derr_set(e, EINVAL, "Parameter '%s.%s' is missing", where, name);
	if (!JSON_NODE_HOLDS_VALUE(n) || json_node_get_value_type(n) != G_TYPE_STRING)
		return derr_set(e, EINVAL, "Invalid parameter type for '%s.%s', expected: string",
				where, name);
	*out = json_node_get_string(n);
	return 0;
}

static int unknown_members(JsonObject *o, const char *where, const char *known, struct derr *e)
{
	GList *names = json_object_get_members(o);
	int r = 0;

	for (GList *i = names; i && !r; i = i->next) {
		char *key = g_strdup_printf(" %s ", (char *)i->data);

		if (strchr(i->data, ' ') || !strstr(known, key))
			r = derr_set(e, EINVAL, "Parameter '%s.%.100s' is unexpected", where,
				     (char *)i->data);
		g_free(key);
	}
	g_list_free(names);
	return r;
}

static int take(char *to, size_t size, const char *from, const char *what, struct derr *e)
{
	if (g_strlcpy(to, from, size) >= size)
		return derr_set(e, EINVAL, "Parameter '%s' is too long: at most %zu bytes", what,
				size - 1);
	return 0;
}

static int unix_addr(JsonObject *data, struct export_job *job, struct derr *e)
{
	const char *path;
	int r = unknown_members(data, "addr.data", " path abstract tight ", e);

	if (!r)
		r = nested(data, "addr.data", "path", true, &path, e);
	if (r < 0)
		return r;
	if (json_object_get_boolean_member_with_default(data, "abstract", FALSE))
		return derr_set(e, EOPNOTSUPP, "abstract sockets are not supported: anybody may "
				"connect to them");
	if (path[0] != '/')
		return derr_set(e, EINVAL, "Parameter 'addr.data.path' is not absolute: '%.100s'",
				path);
	job->family = EXPORT_UNIX;
	return take(job->path, sizeof(job->path), path, "addr.data.path", e);
}

/* ipv4 and ipv6: one alone excludes the other. */
static uint32_t families(JsonObject *data)
{
	bool v4 = json_object_get_boolean_member_with_default(data, "ipv4", FALSE);
	bool v6 = json_object_get_boolean_member_with_default(data, "ipv6", FALSE);
	bool not4 = json_object_has_member(data, "ipv4") && !v4;
	bool not6 = json_object_has_member(data, "ipv6") && !v6;

	if (not4 || (v6 && !v4))
		return EXPORT_JOB_NO_IPV4;
	return not6 || (v4 && !v6) ? EXPORT_JOB_NO_IPV6 : 0;
}

static int inet_addr(JsonObject *data, struct export_job *job, struct derr *e)
{
	const char *host, *port;
	int r = unknown_members(data, "addr.data", " host port ipv4 ipv6 numeric keep-alive ", e);

	if (!r)
		r = nested(data, "addr.data", "host", true, &host, e);
	if (!r)
		r = nested(data, "addr.data", "port", true, &port, e);
	if (r < 0)
		return r;
	job->family = EXPORT_INET;
	job->flags = families(data);
	r = take(job->host, sizeof(job->host), host, "addr.data.host", e);
	return r < 0 ? r : take(job->port, sizeof(job->port), port, "addr.data.port", e);
}

static int parse_addr(JsonObject *addr, struct export_job *job, struct derr *e)
{
	JsonNode *n = json_object_get_member(addr, "data");
	const char *type;
	int r = nested(addr, "addr", "type", true, &type, e);

	if (!r)
		r = unknown_members(addr, "addr", " type data ", e);
	if (r < 0)
		return r;
	if (strcmp(type, "unix") && strcmp(type, "inet"))
		return derr_set(e, EINVAL, "Parameter 'type' does not accept value '%.100s'",
				type);
	if (!n)
		return derr_set(e, EINVAL, "Parameter 'addr.data' is missing");
	if (!JSON_NODE_HOLDS_OBJECT(n))
		return derr_set(e, EINVAL, "Invalid parameter type for 'addr.data', expected: "
				"object");
	return *type == 'u' ? unix_addr(json_node_get_object(n), job, e) :
		inet_addr(json_node_get_object(n), job, e);
}

static int parse_start(struct cmd *c, struct export_job *job, struct derr *e)
{
	long long most = arg_int(c, "max-connections", CONNECTIONS_DEFAULT);

	if (most < 0 || most > G_MAXUINT32)
		return derr_set(e, EINVAL, "Parameter 'max-connections' expects uint32_t");
	job->max_clients = MIN(most, EXPORT_CLIENTS_MAX);
	if (arg_has(c, "tls-creds") || arg_has(c, "tls-authz"))
		return derr_set(e, EOPNOTSUPP, "TLS is not supported here: use a unix socket, or "
				"a tunnel to it");
	return parse_addr(json_object_get_object_member(c->args, "addr"), job, e);
}

static void server_start(struct cmd *c)
{
	struct export_job job = { 0 };
	struct derr e;

	if (parse_start(c, &job, &e) < 0)
		cmd_fail(c, &e);
	else
		exports_start(&job, done, c);
}

static void server_stop(struct cmd *c)
{
	exports_stop(done, c);
}

static int check_export_add(struct cmd *c, struct derr *e)
{
	const char *type = arg_str(c, "type");

	if (strcmp(type, "nbd"))
		return derr_set(e, EINVAL, "Parameter 'type' does not accept value '%.100s'",
				type);
	if (arg_has(c, "bitmaps"))
		return derr_set(e, EOPNOTSUPP, "Parameter 'bitmaps' is not supported: media have "
				"no dirty bitmaps");
	if (arg_bool(c, "allocation-depth", false))
		return derr_set(e, EOPNOTSUPP, "Parameter 'allocation-depth' is not supported: "
				"media have no backing chain");
	return 0;
}

static void block_export_add(struct cmd *c)
{
	struct export_args a = {
		.id = arg_str(c, "id"),
		.node = arg_str(c, "node-name"),
		.name = arg_str(c, "name"),
		.description = arg_str(c, "description"),
		.writable = arg_bool(c, "writable", false),
		.writethrough = arg_bool(c, "writethrough", false),
	};
	struct derr e;

	if (check_export_add(c, &e) < 0)
		cmd_fail(c, &e);
	else
		export_add(&a, done, c);
}

/* The old command knows devices too, and is content with less. */
static void server_add(struct cmd *c)
{
	struct export_args a = {
		.node = arg_str(c, "device"),
		.name = arg_str(c, "name"),
		.description = arg_str(c, "description"),
		.writable = arg_bool(c, "writable", false),
		.if_possible = true,
	};
	struct derr e;

	if (arg_has(c, "bitmap")) {
		derr_set(&e, EOPNOTSUPP, "Parameter 'bitmap' is not supported: media have no "
			 "dirty bitmaps");
		cmd_fail(c, &e);
		return;
	}
	export_add(&a, done, c);
}

static void remove_export(struct cmd *c, const char *id)
{
	const char *mode = arg_str(c, "mode") ?: "safe";
	struct derr e;

	if (strcmp(mode, "safe") && strcmp(mode, "hard")) {
		derr_set(&e, EINVAL, "Parameter 'mode' does not accept value '%.100s'", mode);
		cmd_fail(c, &e);
		return;
	}
	export_del(id, !strcmp(mode, "hard"), done, c);
}

static void block_export_del(struct cmd *c)
{
	remove_export(c, arg_str(c, "id"));
}

static void server_remove(struct cmd *c)
{
	remove_export(c, arg_str(c, "name"));
}

static void query_block_exports(struct cmd *c)
{
	cmd_return_array(c, exports_query());
}

const struct cmd_desc commands_export[] = {
	{ "nbd-server-start", server_start, 0,
	  "addr:SocketAddressLegacy tls-creds:s? tls-authz:s? max-connections:i?", NULL },
	{ "nbd-server-stop", server_stop, 0, "", NULL },
	{ "nbd-server-add", server_add, 0,
	  "device:s name:s? description:s? writable:b? bitmap:s?", NULL },
	{ "nbd-server-remove", server_remove, 0, "name:s mode:BlockExportRemoveMode?", NULL },
	{ "block-export-add", block_export_add, 0,
	  "type:BlockExportType id:s node-name:s name:s? description:s? writable:b? "
	  "writethrough:b? bitmaps:*? allocation-depth:b?", NULL },
	{ "block-export-del", block_export_del, 0, "id:s mode:BlockExportRemoveMode?", NULL },
	{ "query-block-exports", query_block_exports, 0, "", "[BlockExportInfo]" },
	{ NULL, NULL, 0, NULL, NULL },
};
