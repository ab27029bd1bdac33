// SPDX-License-Identifier: GPL-2.0-only
/* JSON read without surprise, written, and made of what the kernel tells. */
#include "ctl.h"

#include <stdio.h>
#include <string.h>

#include "condition.h"
#include "freezing.h"
#include "text.h"

static JsonNode *member(JsonObject *o, const char *key)
{
	return o && json_object_has_member(o, key) ? json_object_get_member(o, key) : NULL;
}

const char *json_str(JsonObject *o, const char *key, const char *otherwise)
{
	JsonNode *n = member(o, key);

	if (!n || json_node_get_value_type(n) != G_TYPE_STRING)
		return otherwise;
	return json_node_get_string(n);
}

int64_t json_int(JsonObject *o, const char *key, int64_t otherwise)
{
	JsonNode *n = member(o, key);

	if (!n || json_node_get_value_type(n) != G_TYPE_INT64)
		return otherwise;
	return json_node_get_int(n);
}

bool json_bool(JsonObject *o, const char *key)
{
	JsonNode *n = member(o, key);

	return n && json_node_get_value_type(n) == G_TYPE_BOOLEAN && json_node_get_boolean(n);
}

JsonObject *json_obj(JsonObject *o, const char *key)
{
	JsonNode *n = member(o, key);

	return n && JSON_NODE_HOLDS_OBJECT(n) ? json_node_get_object(n) : NULL;
}

void json_print_node(JsonNode *n)
{
	g_autofree char *text = json_to_string(n, FALSE);

	puts(text);
	fflush(stdout);
}

void json_print_object(JsonObject *o)
{
	g_autoptr(JsonNode) n = json_node_alloc();

	json_node_init_object(n, o);
	json_print_node(n);
}

/* Names and texts of strangers, for a terminal. */
const char *clean(const char *text)
{
	static char buf[4][512];
	static int next;
	char *out = buf[next++ % 4];

	text_clean(out, sizeof(buf[0]), text, strlen(text));
	return out;
}

const char *size_text(uint64_t bytes, char *buf, size_t size)
{
	static const char * const unit[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double v = bytes;
	int i = -1;

	if (bytes < 1024) {
		snprintf(buf, size, "%u B", (unsigned int)bytes);
		return buf;
	}
	while (v >= 1024 && i < 5) {
		v /= 1024;
		i++;
	}
	snprintf(buf, size, v < 10 ? "%.1f %s" : "%.0f %s", v, unit[i]);
	return buf;
}

static JsonObject *json_of_medium(const struct kernel_drive *d)
{
	JsonObject *m = json_object_new();

	json_object_set_int_member(m, "size", d->medium.size);
	json_object_set_boolean_member(m, "read-only", d->medium.flags & SPICEBD_MEDIUM_READ_ONLY);
	if (d->medium.block_size)
		json_object_set_int_member(m, "block-size", d->medium.block_size);
	return m;
}

static JsonObject *json_of_stats(const struct kernel_stats *s)
{
	const struct { const char *key; uint64_t value; } v[] = {
		{ "reads", s->reads }, { "writes", s->writes }, { "flushes", s->flushes },
		{ "discards", s->discards }, { "write-zeroes", s->write_zeroes },
		{ "read-bytes", s->read_bytes }, { "write-bytes", s->write_bytes },
		{ "errors", s->errors }, { "refused", s->refused }, { "resent", s->resent },
		{ "medium-changes", s->medium_changes },
	};
	JsonObject *o = json_object_new();

	for (size_t i = 0; i < G_N_ELEMENTS(v); i++)
		json_object_set_int_member(o, v[i].key, v[i].value);
	return o;
}

/* Names are told to a manager alone. */
static void put_freeze(JsonObject *o, const struct kernel_drive *d)
{
	JsonArray *a = json_array_new();

	json_object_set_string_member(o, "freeze", freeze_str(d->freeze));
	if (d->freeze_error)
		json_object_set_string_member(o, "freeze-error", strerror(d->freeze_error));
	for (unsigned int i = 0; i < d->nr_holders; i++) {
		const struct kernel_holder *h = &d->holders[i];
		JsonObject *one = json_object_new();

		if (h->name[0])
			json_object_set_string_member(one, "name", clean(h->name));
		json_object_set_int_member(one, "since-ms", h->since_ms);
		if (h->limited)
			json_object_set_int_member(one, "left-ms", h->left_ms);
		json_array_add_object_element(a, one);
	}
	json_object_set_array_member(o, "holders", a);
}

static void put_limits(JsonObject *o, const struct kernel_drive *d)
{
	json_object_set_int_member(o, "queues", d->nr_queues);
	json_object_set_int_member(o, "depth", d->queue_depth);
	json_object_set_int_member(o, "max-io", d->max_io);
	json_object_set_int_member(o, "reconnect-timeout", d->reconnect_timeout);
	json_object_set_int_member(o, "stall-timeout", d->stall_timeout);
	json_object_set_int_member(o, "open-wait", d->open_wait);
}

static void put_helper(JsonObject *o, const struct kernel_drive *d)
{
	static const char * const helper[] = { "none", "attached", "lost" };

	json_object_set_string_member(o, "helper", d->helper < 3 ? helper[d->helper] : "unknown");
	if (d->helper_pid)
		json_object_set_int_member(o, "helper-pid", d->helper_pid);
	json_object_set_int_member(o, "sockets", d->nr_sockets);
	json_object_set_int_member(o, "in-flight", d->in_flight);
	json_object_set_int_member(o, "held", d->held);
	if (d->hold_limited)
		json_object_set_int_member(o, "hold-left-ms", d->hold_left_ms);
}

/* The object of spicebd-query, as far as the kernel knows, and a little more. */
JsonObject *json_of_drive(const struct kernel_drive *d)
{
	JsonObject *o = json_object_new();
	bool cdrom = d->personality == SPICEBD_PERSONALITY_CDROM;
	char device[48], why[520];

	snprintf(device, sizeof(device), "/dev/%s", d->name);
	json_object_set_string_member(o, "drive", d->name);
	json_object_set_int_member(o, "index", d->index);
	json_object_set_string_member(o, "device", device);
	json_object_set_string_member(o, "personality", cdrom ? "cdrom" : "disk");
	json_object_set_string_member(o, "tray", d->tray == SPICEBD_TRAY_OPEN ? "open" : "closed");
	json_object_set_boolean_member(o, "locked", d->state & SPICEBD_STATE_LOCKED);
	json_object_set_boolean_member(o, "locked-by-admin",
				       d->state & SPICEBD_STATE_LOCKED_ADMIN);
	json_object_set_boolean_member(o, "stale", d->state & SPICEBD_STATE_STALE);
	json_object_set_string_member(o, "state", condition_str(d->condition));
	if (condition_cause(d, why, sizeof(why))[0])
		json_object_set_string_member(o, "reason", why);
	json_object_set_int_member(o, "openers", d->openers);
	json_object_set_int_member(o, "users", d->users);
	put_freeze(o, d);
	put_limits(o, d);
	put_helper(o, d);
	json_object_set_int_member(o, "generation", d->generation);
	if (d->state & SPICEBD_STATE_MEDIUM)
		json_object_set_object_member(o, "medium", json_of_medium(d));
	else
		json_object_set_null_member(o, "medium");
	json_object_set_object_member(o, "stats", json_of_stats(&d->stats));
	return o;
}

/* The daemon's word over the kernel's, member by member, and one level deep. */
void json_merge(JsonObject *to, JsonObject *from)
{
	JsonObjectIter it;
	const char *key;
	JsonNode *value;

	json_object_iter_init(&it, from);
	while (json_object_iter_next(&it, &key, &value)) {
		JsonObject *mine = json_obj(to, key);

		if (mine && JSON_NODE_HOLDS_OBJECT(value))
			json_merge(mine, json_node_get_object(value));
		else if (!mine)
			json_object_set_member(to, key, json_node_copy(value));
	}
}
