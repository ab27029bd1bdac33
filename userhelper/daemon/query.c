// SPDX-License-Identifier: GPL-2.0-only
#include "query.h"

#include <stdio.h>
#include <string.h>

#include "control.h"
#include "drive.h"
#include "freezing.h"
#include "introspect.h"
#include "links.h"
#include "nodes.h"
#include "query_drive.h"

static JsonObject *version(void)
{
	JsonObject *v = json_object_new(), *q = json_object_new();
	int major = 0, minor = 0, micro = 0;

	sscanf(SPICEBD_VERSION, "%d.%d.%d", &major, &minor, &micro);
	/* Clients of QEMU's look for it under this name. */
	json_object_set_int_member(q, "major", major);
	json_object_set_int_member(q, "minor", minor);
	json_object_set_int_member(q, "micro", micro);
	json_object_set_object_member(v, "qemu", q);
	json_object_set_string_member(v, "package", "spicebd-" SPICEBD_VERSION);
	return v;
}

JsonNode *query_greeting(void)
{
	JsonObject *o = json_object_new(), *q = json_object_new();
	JsonNode *n;

	json_object_set_object_member(q, "version", version());
	json_object_set_array_member(q, "capabilities", json_array_new());
	json_object_set_object_member(o, "QMP", q);
	n = json_node_init_object(json_node_alloc(), o);
	json_object_unref(o);
	return n;
}

static void query_version(struct cmd *c)
{
	cmd_return_object(c, version());
}

static void query_commands(struct cmd *c)
{
	cmd_return_array(c, introspect_commands(c->status));
}

static void query_events(struct cmd *c)
{
	cmd_return_array(c, introspect_events());
}

static void query_qmp_schema(struct cmd *c)
{
	cmd_return_array(c, introspect_schema(c->status));
}

static void query_status(struct cmd *c)
{
	JsonObject *o = json_object_new();

	json_object_set_boolean_member(o, "running", !blockers_stopped());
	json_object_set_string_member(o, "status", blockers_stopped() ? "shutdown" : "running");
	cmd_return_object(c, o);
}

static void query_name(struct cmd *c)
{
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "name", "spicebdd");
	cmd_return_object(c, o);
}

JsonObject *query_inserted(struct drive *d)
{
	const struct medium *m = d->medium;
	JsonObject *o = json_object_new();
	char dev[48];

	json_object_set_string_member(o, "drive", d->k.name);
	json_object_set_string_member(o, "device", drive_path(d, dev, sizeof(dev)));
	json_object_set_string_member(o, "personality", drive_personality(d));
	json_object_set_boolean_member(o, "read-only", m->read_only);
	json_object_set_int_member(o, "size", m->props.size);
	json_object_set_string_member(o, "name", m->name);
	return o;
}

/* QEMU's shape. What it tells of throttling and caches there is none of here. */
static JsonObject *block_device_info(const char *file, const char *driver, bool ro, uint64_t size)
{
	static const char *const limits[] = {
		"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr", "write_threshold",
		"backing_file_depth",
	};
	JsonObject *o = json_object_new(), *image = json_object_new(), *cache = json_object_new();

	json_object_set_string_member(o, "file", file);
	json_object_set_boolean_member(o, "ro", ro);
	json_object_set_string_member(o, "drv", driver);
	json_object_set_boolean_member(o, "active", TRUE);
	json_object_set_boolean_member(o, "encrypted", FALSE);
	json_object_set_string_member(o, "detect_zeroes", "off");
	for (size_t i = 0; i < G_N_ELEMENTS(limits); i++)
		json_object_set_int_member(o, limits[i], 0);
	json_object_set_string_member(image, "filename", file);
	json_object_set_string_member(image, "format", driver);
	json_object_set_int_member(image, "virtual-size", size);
	json_object_set_object_member(o, "image", image);
	json_object_set_boolean_member(cache, "writeback", TRUE);
	json_object_set_boolean_member(cache, "direct", FALSE);
	json_object_set_boolean_member(cache, "no-flush", FALSE);
	json_object_set_object_member(o, "cache", cache);
	return o;
}

static JsonObject *inserted_as_qemu(const struct drive *d, const struct cmd *c)
{
	const struct medium *m = d->medium;
	JsonObject *o = block_device_info(m && !c->status ? m->source->uri : "", "raw",
					  d->k.medium.flags & SPICEBD_MEDIUM_READ_ONLY,
					  d->k.medium.size);

	if (m && m->source->node_name && !c->status)
		json_object_set_string_member(o, "node-name", m->source->node_name);
	return o;
}

static void add_node(const struct node_info *i, void *arg)
{
	uint64_t size = i->drive ? i->drive->k.medium.size : 0;
	JsonObject *o = block_device_info(i->file, i->driver, i->read_only, size);

	json_object_set_string_member(o, "node-name", i->name);
	json_array_add_object_element(arg, o);
}

static void query_named_block_nodes(struct cmd *c)
{
	JsonArray *a = json_array_new();

	nodes_each(add_node, a);
	cmd_return_array(c, a);
}

static void query_block(struct cmd *c)
{
	JsonArray *a = json_array_new();

	for (struct drive *d = drive_first(); d; d = drive_next(d)) {
		JsonObject *o = json_object_new();

		drive_refresh(d, NULL);
		json_object_set_string_member(o, "device", d->k.name);
		json_object_set_string_member(o, "qdev", d->k.name);
		json_object_set_string_member(o, "type", "unknown");
		json_object_set_boolean_member(o, "removable", TRUE);
		json_object_set_boolean_member(o, "locked", drive_locked(d));
		if (drive_has_tray(d))
			json_object_set_boolean_member(o, "tray_open",
						       d->k.tray == SPICEBD_TRAY_OPEN);
		if (drive_has_medium(d))
			json_object_set_object_member(o, "inserted", inserted_as_qemu(d, c));
		json_object_set_string_member(o, "io-status",
					      d->k.condition == SPICEBD_CONDITION_ERROR ?
					      "failed" : "ok");
		json_array_add_object_element(a, o);
	}
	cmd_return_array(c, a);
}

/* Our own. */

static void spicebd_query(struct cmd *c)
{
	JsonArray *a;
	struct drive *only;
	bool failed;

	only = arg_drive(c, false, &failed);
	if (failed)
		return;
	a = json_array_new();
	for (struct drive *d = drive_first(); d; d = drive_next(d)) {
		if (only && only != d)
			continue;
		drive_refresh(d, NULL);
		json_array_add_object_element(a, query_drive(d, c));
	}
	cmd_return_array(c, a);
}

/* Offers. */

static const char *user_of(const struct link *l, const struct link_offer *o)
{
	for (struct drive *d = drive_first(); d; d = drive_next(d))
		if (d->medium && source_is_offer(d->medium->source, l->name, o->medium_id))
			return d->k.name;
	return NULL;
}

static bool seen_before(const struct link *l, int port, unsigned int n)
{
	const uint8_t *id = l->ports[port]->offers[n].medium_id;

	for (unsigned int i = 0; i < n; i++)
		if (!memcmp(l->ports[port]->offers[i].medium_id, id, FRAME_UUID_LEN))
			return true;
	for (int p = 0; p < port; p++)
		if (l->ports[p] && link_port_offer(l->ports[p], id))
			return true;
	return false;
}

static void add_offers(JsonArray *a, const struct link *l, int port)
{
	for (unsigned int i = 0; l->ports[port] && i < l->ports[port]->nr_offers; i++) {
		const struct link_offer *o = &l->ports[port]->offers[i];
		const char *user = user_of(l, o);
		JsonObject *m;

		/* A share offers the same on each of its ports. */
		if (seen_before(l, port, i))
			continue;
		m = json_object_new();
		json_object_set_string_member(m, "name", o->name);
		json_object_set_int_member(m, "size", o->size);
		json_object_set_boolean_member(m, "read-only", o->flags & FRAME_OFFER_READ_ONLY);
		json_object_set_string_member(m, "kind", o->kind == FRAME_KIND_CDROM ? "cdrom" :
					      o->kind == FRAME_KIND_DISK ? "disk" : "unknown");
		if (user)
			json_object_set_string_member(m, "in-use-by", user);
		json_array_add_object_element(a, m);
	}
}

static void spicebd_query_media(struct cmd *c)
{
	JsonArray *all = json_array_new();

	for (GList *i = links_all(); i; i = i->next) {
		struct link *l = i->data;
		JsonObject *o = json_object_new();
		JsonArray *media = json_array_new();

		json_object_set_string_member(o, "link", l->name);
		json_object_set_boolean_member(o, "client", l->client);
		for (int p = 0; p < SPICEBD_MAX_DRIVES; p++)
			add_offers(media, l, p);
		json_object_set_array_member(o, "media", media);
		json_array_add_object_element(all, o);
	}
	cmd_return_array(c, all);
}

const struct cmd_desc commands_query[] = {
	{ "query-version", query_version, CMD_STATUS, "", "VersionInfo" },
	{ "query-commands", query_commands, CMD_STATUS, "", "[CommandInfo]" },
	{ "query-events", query_events, CMD_STATUS, "", "[EventInfo]" },
	{ "query-qmp-schema", query_qmp_schema, CMD_STATUS, "", "[SchemaInfo]" },
	{ "query-name", query_name, CMD_STATUS, "", "NameInfo" },
	{ "query-status", query_status, CMD_STATUS, "", "StatusInfo" },
	{ "query-block", query_block, CMD_STATUS, "", "[BlockInfo]" },
	{ "query-named-block-nodes", query_named_block_nodes, 0, "flat:b?", "[BlockDeviceInfo]" },
	{ "spicebd-query", spicebd_query, CMD_STATUS, "drive:s?", "[SpicebdDrive]" },
	{ "spicebd-query-media", spicebd_query_media, 0, "", "[SpicebdLinkMedia]" },
	{ NULL, NULL, 0, NULL, NULL },
};
