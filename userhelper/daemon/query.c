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
#include "snapshot.h"

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

static const char *device_path(const struct drive *d, char *buf, size_t size)
{
	snprintf(buf, size, "/dev/%s", d->k.name);
	return buf;
}

static const char *personality(const struct drive *d)
{
	return d->k.personality == SPICEBD_PERSONALITY_CDROM ? "cdrom" : "disk";
}

JsonObject *query_inserted(struct drive *d)
{
	const struct medium *m = d->medium;
	JsonObject *o = json_object_new();
	char dev[48];

	json_object_set_string_member(o, "drive", d->k.name);
	json_object_set_string_member(o, "device", device_path(d, dev, sizeof(dev)));
	json_object_set_string_member(o, "personality", personality(d));
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
		json_object_set_string_member(o, "io-status", d->failed ? "failed" : "ok");
		json_array_add_object_element(a, o);
	}
	cmd_return_array(c, a);
}

/* Our own. */

static JsonObject *path_object(const struct far_stats *f)
{
	JsonObject *o = json_object_new();

	json_object_set_int_member(o, "round-trip-us", f->rtt);
	json_object_set_int_member(o, "bytes-per-second", MIN(f->rate, (uint64_t)INT64_MAX));
	return o;
}

static JsonObject *cache_object(const struct far_stats *f)
{
	JsonObject *o = json_object_new();

	json_object_set_int_member(o, "limit", f->limit);
	json_object_set_int_member(o, "used", f->used);
	json_object_set_int_member(o, "hits", f->hits);
	json_object_set_int_member(o, "joined", f->joined);
	json_object_set_int_member(o, "misses", f->misses);
	json_object_set_int_member(o, "hit-bytes", f->hit_bytes);
	json_object_set_int_member(o, "prefetched", f->fetched);
	json_object_set_int_member(o, "wasted", f->wasted);
	return o;
}

static JsonObject *medium_object(const struct drive *d, const struct cmd *c)
{
	JsonObject *o = json_object_new(), *src, *link;
	const struct medium *m = d->medium;
	struct far_stats far;

	if (m && !c->status)
		json_object_set_string_member(o, "name", m->name);
	json_object_set_int_member(o, "size", d->k.medium.size);
	json_object_set_boolean_member(o, "read-only",
				       d->k.medium.flags & SPICEBD_MEDIUM_READ_ONLY);
	json_object_set_string_member(o, "kind", m ? medium_kind_str(m->kind) : personality(d));
	json_object_set_int_member(o, "block-size", d->k.medium.block_size);
	if (!m)
		return o;
	if (!c->status) {
		src = json_object_new();
		json_object_set_string_member(src, "type", source_type_str(m->source->type));
		json_object_set_string_member(src, "uri", m->source->uri);
		json_object_set_object_member(o, "source", src);
	}
	json_object_set_int_member(o, "read-ahead", d->k.medium.read_ahead);
	if (m->io && io_far(m->io, &far)) {
		json_object_set_object_member(o, "path", path_object(&far));
		if (far.limit)
			json_object_set_object_member(o, "cache", cache_object(&far));
	}
	link = json_object_new();
	json_object_set_boolean_member(link, "up", m->link_up);
	json_object_set_int_member(link, "connections", m->io ? io_connections(m->io) : 0);
	json_object_set_object_member(o, "link", link);
	return o;
}

static JsonObject *stats_object(const struct kernel_stats *s)
{
	JsonObject *o = json_object_new();

	json_object_set_int_member(o, "reads", s->reads);
	json_object_set_int_member(o, "writes", s->writes);
	json_object_set_int_member(o, "flushes", s->flushes);
	json_object_set_int_member(o, "discards", s->discards);
	json_object_set_int_member(o, "write-zeroes", s->write_zeroes);
	json_object_set_int_member(o, "read-bytes", s->read_bytes);
	json_object_set_int_member(o, "write-bytes", s->write_bytes);
	json_object_set_int_member(o, "errors", s->errors);
	json_object_set_int_member(o, "refused", s->refused);
	json_object_set_int_member(o, "resent", s->resent);
	json_object_set_int_member(o, "medium-changes", s->medium_changes);
	return o;
}

/* The error stays visible when the medium has gone: it is why. */
static const char *state_of(const struct drive *d)
{
	if (drive_has_medium(d))
		return drive_state_str(d);
	return d->moved ? "inactive" : d->failed ? "error" : drive_state_str(d);
}

static const char *reason_of(const struct drive *d)
{
	const struct medium *m = d->medium;

	if (m && m->state == MEDIUM_IN && !m->link_up && m->reason[0])
		return m->reason;
	if (m && m->io && io_flush_doubted(m->io))
		return "the far end may have lost what was written before: the next flush fails";
	if (m && m->io && io_flush_failed(m->io))
		return "a flush failed: the far end lost what was written before";
	if (d->moved && !drive_has_medium(d))
		return d->moved;
	if (d->failed && !drive_has_medium(d))
		return d->failed;
	if (d->k.state & SPICEBD_STATE_STALE)
		return "a medium ejected by force is still open";
	return NULL;
}

/* The drive was just refreshed, so its holders have their names. */
static void put_freeze(JsonObject *o, const struct kernel_drive *k, bool names)
{
	JsonArray *a = json_array_new();

	json_object_set_string_member(o, "freeze", freeze_str(k->freeze));
	if (k->freeze_error)
		json_object_set_string_member(o, "freeze-error", strerror(k->freeze_error));
	for (unsigned int i = 0; i < k->nr_holders; i++) {
		const struct kernel_holder *h = &k->holders[i];
		JsonObject *one = json_object_new();

		if (names)
			json_object_set_string_member(one, "name", h->name);
		json_object_set_int_member(one, "since-ms", h->since_ms);
		if (h->limited)
			json_object_set_int_member(one, "left-ms", h->left_ms);
		json_array_add_object_element(a, one);
	}
	json_object_set_array_member(o, "holders", a);
}

static void add_blocker(const struct blocker_info *i, void *arg)
{
	JsonObject *o = json_object_new();
	JsonArray *blocks = json_array_new();

	/* On the status socket there are no names. */
	if (i->owner)
		json_object_set_string_member(o, "owner", i->owner);
	if (i->text)
		json_object_set_string_member(o, "reason", i->text);
	for (unsigned int op = 0; op < OPERATIONS; op++)
		if (i->blocks & 1u << op)
			json_array_add_string_element(blocks, operation_str(op));
	json_object_set_array_member(o, "blocks", blocks);
	json_array_add_object_element(arg, o);
}

static void add_nameless_blocker(const struct blocker_info *i, void *arg)
{
	const struct blocker_info nameless = { .blocks = i->blocks };

	add_blocker(&nameless, arg);
}

static JsonArray *blockers_array(const struct drive *d, bool names)
{
	JsonArray *a = json_array_new();

	blockers_each(d, names ? add_blocker : add_nameless_blocker, a);
	return a;
}

static JsonObject *drive_object(struct drive *d, const struct cmd *c)
{
	JsonObject *o = json_object_new();
	const struct kernel_drive *k = &d->k;
	const char *reason = reason_of(d);
	char dev[48];

	json_object_set_string_member(o, "drive", k->name);
	json_object_set_int_member(o, "index", d->index);
	json_object_set_string_member(o, "device", device_path(d, dev, sizeof(dev)));
	json_object_set_string_member(o, "personality", personality(d));
	json_object_set_string_member(o, "tray",
				      k->tray == SPICEBD_TRAY_OPEN ? "open" : "closed");
	json_object_set_boolean_member(o, "locked", k->state & SPICEBD_STATE_LOCKED);
	json_object_set_boolean_member(o, "locked-by-admin",
				       k->state & SPICEBD_STATE_LOCKED_ADMIN);
	json_object_set_boolean_member(o, "stale", k->state & SPICEBD_STATE_STALE);
	json_object_set_string_member(o, "state", state_of(d));
	/* Reasons name files and servers. */
	if (reason && !c->status)
		json_object_set_string_member(o, "reason", reason);
	json_object_set_int_member(o, "openers", k->openers);
	json_object_set_int_member(o, "users", k->users);
	json_object_set_int_member(o, "queues", k->nr_queues);
	json_object_set_int_member(o, "depth", k->queue_depth);
	json_object_set_int_member(o, "max-io", k->max_io);
	put_freeze(o, k, !c->status);
	json_object_set_int_member(o, "reconnect-timeout", k->reconnect_timeout);
	json_object_set_int_member(o, "stall-timeout", k->stall_timeout);
	json_object_set_int_member(o, "open-wait", k->open_wait);
	json_object_set_int_member(o, "in-flight", k->in_flight);
	json_object_set_int_member(o, "held", k->held);
	if (k->hold_limited)
		json_object_set_int_member(o, "hold-left-ms", k->hold_left_ms);
	json_object_set_int_member(o, "generation", k->generation);
	if (drive_has_medium(d))
		json_object_set_object_member(o, "medium", medium_object(d, c));
	else
		json_object_set_null_member(o, "medium");
	json_object_set_array_member(o, "blockers", blockers_array(d, !c->status));
	json_object_set_array_member(o, "snapshots", snapshots_query(d, !c->status));
	json_object_set_object_member(o, "stats", stats_object(&k->stats));
	return o;
}

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
		json_array_add_object_element(a, drive_object(d, c));
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
