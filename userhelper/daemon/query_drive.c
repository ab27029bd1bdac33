// SPDX-License-Identifier: GPL-2.0-only
/* All there is to know of a drive, as one object: Documentation/drive.schema.json. */
#include "query_drive.h"

#include <string.h>

#include "control.h"
#include "drive.h"
#include "drive_condition.h"
#include "freezing.h"
#include "snapshot.h"

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

static const char *transport(const struct source *s)
{
	if (s->type == SOURCE_SPICE)
		return "spice";
	if (s->type == SOURCE_FILE)
		return "local";
	if (g_str_has_prefix(s->uri, "nbd+unix:"))
		return "unix";
	return g_str_has_prefix(s->uri, "nbds:") ? "tls" : "tcp";
}

/* What was fetched ahead came over the same connections. */
static JsonObject *link_object(const struct medium *m)
{
	JsonObject *o = json_object_new();
	struct io_figures f = { 0 };
	struct far_stats far;

	if (m->io)
		io_figures(m->io, &f);
	if (m->io && io_far(m->io, &far))
		f.received += far.fetched;
	json_object_set_boolean_member(o, "up", m->link_up);
	json_object_set_int_member(o, "connections", m->io ? io_connections(m->io) : 0);
	json_object_set_int_member(o, "sent-bytes", f.sent);
	json_object_set_int_member(o, "received-bytes", f.received);
	if (f.latency_us)
		json_object_set_int_member(o, "latency-us", f.latency_us);
	return o;
}

static JsonObject *medium_object(const struct drive *d, const struct cmd *c)
{
	JsonObject *o = json_object_new(), *src;
	const struct medium *m = d->medium;
	struct far_stats far;

	if (m && !c->status)
		json_object_set_string_member(o, "name", m->name);
	json_object_set_int_member(o, "size", d->k.medium.size);
	json_object_set_boolean_member(o, "read-only",
				       d->k.medium.flags & SPICEBD_MEDIUM_READ_ONLY);
	json_object_set_string_member(o, "kind", m ? medium_kind_str(m->kind) : drive_personality(d));
	json_object_set_int_member(o, "block-size", d->k.medium.block_size);
	if (!m)
		return o;
	if (!c->status) {
		src = json_object_new();
		json_object_set_string_member(src, "type", source_type_str(m->source->type));
		json_object_set_string_member(src, "uri", m->source->uri);
		json_object_set_string_member(src, "transport", transport(m->source));
		json_object_set_object_member(o, "source", src);
	}
	json_object_set_int_member(o, "read-ahead", d->k.medium.read_ahead);
	if (m->io && io_far(m->io, &far)) {
		json_object_set_object_member(o, "path", path_object(&far));
		if (far.limit)
			json_object_set_object_member(o, "cache", cache_object(&far));
	}
	json_object_set_object_member(o, "link", link_object(m));
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

static void put_helper(JsonObject *o, const struct kernel_drive *k)
{
	static const char * const words[] = { "none", "attached", "lost" };

	json_object_set_string_member(o, "helper", words[MIN(k->helper, 2)]);
	if (k->helper_pid)
		json_object_set_int_member(o, "helper-pid", k->helper_pid);
	json_object_set_int_member(o, "sockets", k->nr_sockets);
}

JsonObject *query_drive(struct drive *d, const struct cmd *c)
{
	JsonObject *o = json_object_new();
	const struct kernel_drive *k = &d->k;
	char dev[48], why[520];
	const char *reason = drive_cause(d, why, sizeof(why));

	json_object_set_string_member(o, "drive", k->name);
	json_object_set_int_member(o, "index", d->index);
	json_object_set_string_member(o, "device", drive_path(d, dev, sizeof(dev)));
	json_object_set_string_member(o, "personality", drive_personality(d));
	json_object_set_string_member(o, "tray",
				      k->tray == SPICEBD_TRAY_OPEN ? "open" : "closed");
	json_object_set_boolean_member(o, "locked", k->state & SPICEBD_STATE_LOCKED);
	json_object_set_boolean_member(o, "locked-by-admin",
				       k->state & SPICEBD_STATE_LOCKED_ADMIN);
	json_object_set_boolean_member(o, "stale", k->state & SPICEBD_STATE_STALE);
	json_object_set_string_member(o, "state", drive_condition(d));
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
	put_helper(o, k);
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
