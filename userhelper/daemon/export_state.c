// SPDX-License-Identifier: GPL-2.0-only
/* Exports in state.json, and how the next spicebdd takes them over. */
#include <string.h>

#include "drive.h"
#include "export_impl.h"
#include "log.h"
#include "member.h"

static JsonObject *job_to_json(const struct export_job *j)
{
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "id", j->id);
	json_object_set_int_member(o, "family", j->family);
	json_object_set_int_member(o, "flags", j->flags);
	json_object_set_int_member(o, "max-clients", j->max_clients);
	json_object_set_string_member(o, "path", j->path);
	json_object_set_string_member(o, "host", j->host);
	json_object_set_string_member(o, "port", j->port);
	return o;
}

static JsonObject *export_to_json(const struct export *x)
{
	JsonObject *o = json_object_new();

	json_object_set_int_member(o, "number", x->number);
	json_object_set_string_member(o, "id", x->id);
	json_object_set_string_member(o, "node-name", x->node);
	json_object_set_string_member(o, "name", x->name);
	json_object_set_string_member(o, "description", x->description ?: "");
	json_object_set_boolean_member(o, "writable", x->writable);
	json_object_set_boolean_member(o, "writethrough", x->writethrough);
	if (x->m)
		json_object_set_int_member(o, "drive", x->m->drive->index);
	else
		json_object_set_object_member(o, "source", source_to_state(x->source));
	return o;
}

JsonObject *exports_save(void)
{
	JsonArray *a;
	JsonObject *o;

	if (!exportd_wanted(export_server))
		return NULL;
	o = job_to_json(exportd_job(export_server));
	a = json_array_new();
	for (GList *i = exports; i; i = i->next) {
		struct export *x = i->data;

		/*
		 * What goes, or is not there yet, is not taken over; nor is a
		 * snapshot, which ends with us.
		 */
		if (!x->coming && !x->ending && !x->is_snapshot && !(x->m && x->m->state != MEDIUM_IN))
			json_array_add_object_element(a, export_to_json(x));
	}
	json_object_set_array_member(o, "exports", a);
	return o;
}

static const char *str(JsonObject *o, const char *name)
{
	return member_str(o, name, "");
}

static long long num(JsonObject *o, const char *name, long long fallback)
{
	return member_int(o, name, fallback);
}

static bool job_from_json(JsonObject *o, struct export_job *j)
{
	memset(j, 0, sizeof(*j));
	j->magic = EXPORT_PROTO_MAGIC;
	j->family = num(o, "family", 0);
	j->flags = num(o, "flags", 0);
	j->max_clients = num(o, "max-clients", 0);
	g_strlcpy(j->id, str(o, "id"), sizeof(j->id));
	g_strlcpy(j->path, str(o, "path"), sizeof(j->path));
	g_strlcpy(j->host, str(o, "host"), sizeof(j->host));
	g_strlcpy(j->port, str(o, "port"), sizeof(j->port));
	return strlen(j->id) == EXPORT_ID_LEN &&
	       (j->family == EXPORT_UNIX || j->family == EXPORT_INET);
}

/* Whose medium, or source, is it? */
static bool find_origin(JsonObject *o, struct export *x)
{
	JsonNode *n = json_object_get_member(o, "source");
	struct drive *d = drive_at(num(o, "drive", -1));

	if (n && JSON_NODE_HOLDS_OBJECT(n)) {
		x->source = source_from_state(json_node_get_object(n));
		x->opened = x->source;
		return x->source;
	}
	if (!d || !d->medium || d->medium->state != MEDIUM_IN)
		return false;
	x->m = medium_ref(d->medium);
	x->source = source_ref(d->medium->source);
	return true;
}

static void adopt_one(JsonObject *o)
{
	struct export *x = g_new0(struct export, 1);

	x->number = num(o, "number", 0);
	x->id = g_strdup(str(o, "id"));
	x->node = g_strdup(str(o, "node-name"));
	x->name = g_strdup(str(o, "name"));
	x->description = g_strdup(str(o, "description"));
	x->writable = member_bool(o, "writable", false);
	x->writethrough = member_bool(o, "writethrough", false);
	if (!x->number || !*x->id || !find_origin(o, x) || (x->m && x->writable)) {
		log_warn("export '%.100s' is not taken over: its medium is gone", x->id);
		export_free(x);
		return;
	}
	exports = g_list_append(exports, x);
	export_last = MAX(export_last, x->number);
}

void exports_adopt(JsonObject *o)
{
	JsonNode *n = o ? json_object_get_member(o, "exports") : NULL;
	struct export_job job;

	if (o && job_from_json(o, &job)) {
		JsonArray *a = n && JSON_NODE_HOLDS_ARRAY(n) ? json_node_get_array(n) : NULL;

		for (guint i = 0; a && i < json_array_get_length(a); i++) {
			JsonNode *e = json_array_get_element(a, i);

			if (JSON_NODE_HOLDS_OBJECT(e) && i < EXPORTS_MAX)
				adopt_one(json_node_get_object(e));
		}
		exportd_adopt(export_server, &job);
	}
	exportd_reap();
}
