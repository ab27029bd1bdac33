// SPDX-License-Identifier: GPL-2.0-only
#include "state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "drive.h"
#include "export.h"
#include "file.h"
#include "log.h"
#include "medium.h"
#include "member.h"
#include "migrate.h"
#include "sock.h"

#define STATE_VERSION	1

static void set_bytes(JsonObject *o, const char *name, const uint8_t *p, size_t n)
{
	GString *s = g_string_new(NULL);

	while (n--)
		g_string_append_printf(s, "%02x", *p++);
	json_object_set_string_member(o, name, s->str);
	g_string_free(s, TRUE);
}

/* Return: bytes, or -1 */
static int get_bytes(JsonObject *o, const char *name, uint8_t *p, size_t max)
{
	const char *s = member_str(o, name, "");
	size_t n = strlen(s);

	if (n % 2 || n / 2 > max)
		return -1;
	for (size_t i = 0; i < n / 2; i++) {
		int hi = g_ascii_xdigit_value(s[2 * i]), lo = g_ascii_xdigit_value(s[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return -1;
		p[i] = hi << 4 | lo;
	}
	return n / 2;
}

static const struct {
	const char *name;
	size_t offset;
} prop_flags[] = {
	{ "server-read-only", offsetof(struct nbd_props, read_only) },
	{ "flush", offsetof(struct nbd_props, flush) },
	{ "fua", offsetof(struct nbd_props, fua) },
	{ "trim", offsetof(struct nbd_props, trim) },
	{ "zero", offsetof(struct nbd_props, zero) },
	{ "multi", offsetof(struct nbd_props, multi) },
	{ "rotational", offsetof(struct nbd_props, rotational) },
};

static JsonObject *props_to_json(const struct nbd_props *p)
{
	JsonObject *o = json_object_new();

	json_object_set_int_member(o, "size", p->size);
	json_object_set_int_member(o, "min-block", p->min_block);
	json_object_set_int_member(o, "pref-block", p->pref_block);
	json_object_set_int_member(o, "max-payload", p->max_payload);
	for (size_t i = 0; i < G_N_ELEMENTS(prop_flags); i++)
		json_object_set_boolean_member(o, prop_flags[i].name,
					       *(bool *)((char *)p + prop_flags[i].offset));
	set_bytes(o, "digest", p->digest, sizeof(p->digest));
	return o;
}

static int props_from_json(JsonObject *o, struct nbd_props *p)
{
	memset(p, 0, sizeof(*p));
	p->size = member_int(o, "size", 0);
	p->min_block = member_int(o, "min-block", 1);
	p->pref_block = member_int(o, "pref-block", 4096);
	p->max_payload = member_int(o, "max-payload", 0);
	for (size_t i = 0; i < G_N_ELEMENTS(prop_flags); i++)
		*(bool *)((char *)p + prop_flags[i].offset) =
			member_bool(o, prop_flags[i].name, FALSE);
	if (!p->size || !p->max_payload ||
	    get_bytes(o, "digest", p->digest, sizeof(p->digest)) != sizeof(p->digest))
		return -EINVAL;
	return 0;
}

static JsonObject *entry(struct drive *d)
{
	struct medium *m = d->medium;
	JsonObject *o = json_object_new();

	json_object_set_int_member(o, "index", d->index);
	set_bytes(o, "id", m->id, m->id_len);
	json_object_set_string_member(o, "name", m->name);
	json_object_set_boolean_member(o, "read-only", m->read_only);
	json_object_set_int_member(o, "kind", m->kind);
	json_object_set_int_member(o, "connections", m->conns);
	json_object_set_boolean_member(o, "clean", m->clean);
	json_object_set_boolean_member(o, "flush-lost", m->flush_lost ||
				       (m->io && io_flush_doubted(m->io)));
	json_object_set_object_member(o, "export", props_to_json(&m->props));
	json_object_set_int_member(o, "cache", m->far.cache);
	json_object_set_int_member(o, "read-ahead", m->far.read_ahead);
	json_object_set_object_member(o, "source", source_to_state(m->source));
	return o;
}

int state_save(struct derr *e)
{
	JsonArray *a = json_array_new(), *migrations = migrate_save();
	JsonObject *o = json_object_new(), *server;
	JsonNode *n = json_node_alloc();
	char path[108], *text;
	int r = -ENAMETOOLONG;

	for (struct drive *d = drive_first(); d; d = drive_next(d))
		if (d->medium && d->medium->state != MEDIUM_OUT)
			json_array_add_object_element(a, entry(d));
	json_object_set_int_member(o, "version", STATE_VERSION);
	json_object_set_array_member(o, "media", a);
	if (migrations)
		json_object_set_array_member(o, "migrations", migrations);
	server = exports_save();
	if (server)
		json_object_set_object_member(o, "nbd-server", server);
	json_node_init_object(n, o);
	json_object_unref(o);
	text = json_to_string(n, TRUE);
	if (run_path(path, sizeof(path), "state.json"))
		r = file_replace(path, text, strlen(text));
	g_free(text);
	json_node_unref(n);
	if (r < 0)
		return derr_set(e, -r, "cannot write %s: %s", path, strerror(-r));
	return 0;
}

JsonArray *state_load(JsonObject **server)
{
	char path[108];
	JsonArray *a = NULL;
	JsonNode *n;

	*server = NULL;
	if (!run_path(path, sizeof(path), "state.json"))
		return NULL;
	n = state_read_file(path);
	if (!n)
		return NULL;
	if (JSON_NODE_HOLDS_OBJECT(n)) {
		JsonObject *o = json_node_get_object(n);
		JsonNode *media = json_object_get_member(o, "media");
		JsonNode *nbd = json_object_get_member(o, "nbd-server");

		if (member_int(o, "version", 0) == STATE_VERSION &&
		    media && JSON_NODE_HOLDS_ARRAY(media)) {
			a = json_array_ref(json_node_get_array(media));
			if (nbd && JSON_NODE_HOLDS_OBJECT(nbd))
				*server = json_object_ref(json_node_get_object(nbd));
		}
	}
	if (!a)
		log_warn("%s makes no sense: ignored", path);
	json_node_unref(n);
	return a;
}

JsonObject *state_entry(JsonArray *a, unsigned int index)
{
	for (guint i = 0; a && i < json_array_get_length(a); i++) {
		JsonNode *n = json_array_get_element(a, i);
		JsonObject *o;

		if (!JSON_NODE_HOLDS_OBJECT(n))
			continue;
		o = json_node_get_object(n);
		if (member_int(o, "index", -1) == index)
			return o;
	}
	return NULL;
}

static JsonObject *sub_object(JsonObject *o, const char *name)
{
	JsonNode *n = json_object_get_member(o, name);

	return n && JSON_NODE_HOLDS_OBJECT(n) ? json_node_get_object(n) : NULL;
}

struct medium *state_medium(struct drive *d, JsonObject *o)
{
	JsonObject *export = sub_object(o, "export"), *src = sub_object(o, "source");
	struct nbd_props props;
	struct source *s;
	struct medium *m;
	int len;

	if (!export || !src || props_from_json(export, &props) < 0)
		return NULL;
	s = source_from_state(src);
	if (!s)
		return NULL;
	m = medium_new(d, s, &props);
	source_unref(s);
	g_free(m->name);
	m->name = source_clean_name(member_str(o, "name", ""));
	len = get_bytes(o, "id", m->id, sizeof(m->id));
	m->id_len = len > 0 ? len : 0;
	m->read_only = member_bool(o, "read-only", TRUE);
	m->kind = member_int(o, "kind", KIND_UNKNOWN);
	m->conns = CLAMP(member_int(o, "connections", 1), 1,
			 IO_QUEUES_MAX);
	m->clean = member_bool(o, "clean", FALSE);
	m->flush_lost = member_bool(o, "flush-lost", FALSE);
	m->far.cache = member_int(o, "cache", FAR_AUTO);
	m->far.read_ahead = member_int(o, "read-ahead", FAR_AUTO);
	m->state = MEDIUM_IN;
	return m;
}
