// SPDX-License-Identifier: GPL-2.0-only
/* list and status: what the kernel says, and what spicebdd adds if it runs. */
#include "ctl.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

#define QUERY_MS 5000

static JsonArray *ask_kernel(struct fault *f)
{
	struct kernel_drive *d = g_new0(struct kernel_drive, SPICEBD_MAX_DRIVES);
	struct kernel *k = drives_kernel(f);
	struct kernel_err e = { 0 };
	JsonArray *a = NULL;
	unsigned int n = 0;

	/* Root sees who keeps a drive frozen. */
	if (k && geteuid() == 0)
		(void)kernel_manage(k, NULL);
	if (k && kernel_list(k, d, &n, &e) < 0)
		fault_kernel(f, &e);
	else if (k)
		a = json_array_new();
	for (unsigned int i = 0; a && i < n; i++)
		json_array_add_object_element(a, json_of_drive(&d[i]));
	kernel_close(k);
	g_free(d);
	return a;
}

/* All that the kernel said of it spicebdd says, too, and of one moment. */
static void replace(JsonObject *o, JsonObject *from)
{
	GList *keys = json_object_get_members(o), *copy = NULL;

	for (GList *i = keys; i; i = i->next)
		copy = g_list_prepend(copy, g_strdup(i->data));
	for (GList *i = copy; i; i = i->next)
		json_object_remove_member(o, i->data);
	g_list_free(keys);
	g_list_free_full(copy, g_free);
	json_merge(o, from);
}

static void take_one(JsonArray *drives, JsonObject *from)
{
	for (guint i = 0; i < json_array_get_length(drives); i++) {
		JsonObject *o = json_array_get_object_element(drives, i);

		if (!strcmp(json_str(o, "drive", ""), json_str(from, "drive", "?")))
			replace(o, from);
	}
}

/* Silent when no daemon runs, a line when one runs and does not answer. */
static void ask_daemon(JsonArray *drives)
{
	struct fault f = { 0 };
	struct qmp *q = daemon_connect(DAEMON_IF_RUNNING, &f);
	g_autoptr(JsonNode) r = NULL;
	JsonArray *a;

	if (q)
		r = qmp_call(q, "spicebd-query", NULL, -1, QUERY_MS, &f);
	qmp_close(q);
	if (!r) {
		if (f.status != EXIT_NO_DAEMON)
			log_warn("%s; this is what the kernel knows", f.text);
		return;
	}
	a = JSON_NODE_HOLDS_ARRAY(r) ? json_node_get_array(r) : NULL;
	for (guint i = 0; a && i < json_array_get_length(a); i++)
		if (JSON_NODE_HOLDS_OBJECT(json_array_get_element(a, i)))
			take_one(drives, json_array_get_object_element(a, i));
}

static JsonArray *query(struct fault *f)
{
	JsonArray *a = ask_kernel(f);

	if (a)
		ask_daemon(a);
	return a;
}

static void print_array(JsonArray *a)
{
	g_autoptr(JsonNode) n = json_node_alloc();

	json_node_init_array(n, a);
	json_print_node(n);
}

static const char *medium_name(JsonObject *drive)
{
	JsonObject *m = json_obj(drive, "medium");
	const char *name = json_str(m, "name", NULL);

	return name ? name : json_str(json_obj(m, "source"), "uri", "-");
}

static bool is_frozen(JsonObject *o)
{
	return strcmp(json_str(o, "freeze", "thawed"), "thawed");
}

static void print_row(JsonObject *o)
{
	JsonObject *m = json_obj(o, "medium");
	const char *state = state_shown(o);
	char size[32] = "-";

	if (m)
		size_text(json_int(m, "size", 0), size, sizeof(size));
	printf("%-12s %-6s %s%-13s%s %9s  %-4s %s\n", json_str(o, "drive", "?"),
	       json_str(o, "personality", "?"), style_of(state), state, style_end(), size,
	       !m ? "-" : json_bool(m, "read-only") ? "ro" : "rw", m ? clean(medium_name(o)) : "-");
}

int verb_list(const struct verb *v, int argc, char **argv)
{
	g_autoptr(JsonArray) a = NULL;
	struct fault f = { 0 };
	bool json = false;
	int r = verb_options(v, argc, argv, &json, NULL);

	if (r >= 0)
		return r;
	if (argc != optind)
		return verb_usage(v, "it takes no drive; spicebdctl status does");
	a = query(&f);
	if (!a)
		return fault_tell(&f);
	if (json) {
		print_array(a);
		return EXIT_DONE;
	}
	puts("DRIVE        TYPE   STATE              SIZE  MODE MEDIUM");
	for (guint i = 0; i < json_array_get_length(a); i++)
		print_row(json_array_get_object_element(a, i));
	return EXIT_DONE;
}

static void line(const char *key, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void line(const char *key, const char *fmt, ...)
{
	va_list ap;

	printf("  %-11s ", key);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

static long long num(JsonObject *o, const char *key)
{
	return json_int(o, key, 0);
}

static void page_medium(JsonObject *o)
{
	JsonObject *m = json_obj(o, "medium"), *link = json_obj(m, "link");
	JsonObject *source = json_obj(m, "source");
	char size[32];

	if (!m)
		return;
	line("medium", "%s, %s (%lld bytes), %s", clean(medium_name(o)),
	     size_text(num(m, "size"), size, sizeof(size)), num(m, "size"),
	     json_bool(m, "read-only") ? "read-only" : "writable");
	if (source)
		line("source", "%s by %s, %s", json_str(source, "type", "?"),
		     json_str(source, "transport", "?"), clean(json_str(source, "uri", "-")));
	if (link)
		line("connection", "%s, %lld", json_bool(link, "up") ? "up" : "down",
		     num(link, "connections"));
	if (json_int(link, "latency-us", 0))
		line("answers", "after %.1f ms", num(link, "latency-us") / 1000.0);
}

/* A far medium: what is known of the path, and what was made of it. */
static void page_far(JsonObject *o)
{
	JsonObject *m = json_obj(o, "medium");
	JsonObject *path = json_obj(m, "path"), *cache = json_obj(m, "cache");
	char a[32], b[32];

	if (path)
		line("path", "round trip %.1f ms, %s/s", num(path, "round-trip-us") / 1000.0,
		     size_text(num(path, "bytes-per-second"), a, sizeof(a)));
	if (num(m, "read-ahead"))
		line("read-ahead", "%s", size_text(num(m, "read-ahead"), a, sizeof(a)));
	if (!cache)
		return;
	line("cache", "%s of %s; hits %lld, waited %lld, misses %lld",
	     size_text(num(cache, "used"), a, sizeof(a)),
	     size_text(num(cache, "limit"), b, sizeof(b)), num(cache, "hits"),
	     num(cache, "joined"), num(cache, "misses"));
	line("prefetched", "%s, of that %s not used",
	     size_text(num(cache, "prefetched"), a, sizeof(a)),
	     size_text(num(cache, "wasted"), b, sizeof(b)));
}

static void page_state(JsonObject *o)
{
	const char *reason = json_str(o, "reason", NULL);

	line("state", "%s%s%s%s%s", style_of(json_str(o, "state", "?")),
	     json_str(o, "state", "?"), style_end(), reason ? ": " : "",
	     reason ? clean(reason) : "");
	if (!strcmp(json_str(o, "personality", ""), "cdrom"))
		line("tray", "%s", json_str(o, "tray", "?"));
	if (json_bool(o, "locked") || json_bool(o, "locked-by-admin"))
		line("locked", "by %s%s%s", json_bool(o, "locked") ? "its user" : "",
		     json_bool(o, "locked") && json_bool(o, "locked-by-admin") ? " and by " : "",
		     json_bool(o, "locked-by-admin") ? "the administrator" : "");
	if (json_bool(o, "stale"))
		line("stale", "still open by users of a medium that was ejected by force");
	if (json_int(o, "hold-left-ms", -1) >= 0)
		line("held", "%lld requests, for %lld s more", num(o, "held"),
		     num(o, "hold-left-ms") / 1000);
	else if (json_int(o, "held", 0))
		line("held", "%lld requests", num(o, "held"));
}

static JsonArray *array(JsonObject *o, const char *key)
{
	JsonNode *n = json_object_has_member(o, key) ? json_object_get_member(o, key) : NULL;

	return n && JSON_NODE_HOLDS_ARRAY(n) ? json_node_get_array(n) : NULL;
}

/* What is refused now, and because of what. */
static void page_blockers(JsonObject *o)
{
	JsonArray *a = array(o, "blockers");

	for (guint i = 0; a && i < json_array_get_length(a); i++) {
		JsonObject *b = json_array_get_object_element(a, i);
		JsonArray *blocks = array(b, "blocks");
		GString *ops = g_string_new(NULL);

		for (guint k = 0; blocks && k < json_array_get_length(blocks); k++)
			g_string_append_printf(ops, "%s%s", k ? ", " : "",
					       json_array_get_string_element(blocks, k));
		line("blocked", "%s: %s", clean(ops->str),
		     clean(json_str(b, "reason", "somebody uses it")));
		g_string_free(ops, TRUE);
	}
}

static void page_snapshots(JsonObject *o)
{
	JsonArray *a = array(o, "snapshots");
	char n[32];

	for (guint i = 0; a && i < json_array_get_length(a); i++) {
		JsonObject *s = json_array_get_object_element(a, i);
		const char *reason = json_str(s, "reason", NULL);

		line("snapshot", "%s, %s, %s copied, clients %lld%s%s",
		     clean(json_str(s, "name", "?")), json_str(s, "state", "?"),
		     size_text(num(s, "copied"), n, sizeof(n)), num(s, "clients"),
		     reason ? ": " : "", reason ? clean(reason) : "");
	}
}

static void page_freeze(JsonObject *o)
{
	JsonArray *a = array(o, "holders");
	const char *error = json_str(o, "freeze-error", NULL);

	if (!is_frozen(o))
		return;
	line("freeze", "%s%s%s%s%s", style_of(json_str(o, "freeze", "?")),
	     json_str(o, "freeze", "?"), style_end(), error ? ": " : "",
	     error ? clean(error) : "");
	for (guint i = 0; a && i < json_array_get_length(a); i++) {
		JsonObject *h = json_array_get_object_element(a, i);
		const char *name = clean(json_str(h, "name", "somebody"));

		if (json_int(h, "left-ms", -1) >= 0)
			line("held by", "%s since %lld s, for %lld s more", name,
			     num(h, "since-ms") / 1000, (num(h, "left-ms") + 999) / 1000);
		else
			line("held by", "%s since %lld s", name, num(h, "since-ms") / 1000);
	}
}

static void page_stats(JsonObject *s)
{
	char n[32];

	line("read", "%s in %lld requests", size_text(num(s, "read-bytes"), n, sizeof(n)),
	     num(s, "reads"));
	line("written", "%s in %lld requests", size_text(num(s, "write-bytes"), n, sizeof(n)),
	     num(s, "writes"));
	line("errors", "%lld, replies refused %lld, requests resent %lld",
	     num(s, "errors"), num(s, "refused"),
	     num(s, "resent"));
}

static void print_page(JsonObject *o)
{
	printf("%s%s%s: %s\n", style_of("title"), json_str(o, "device", "?"), style_end(),
	       json_str(o, "personality", "?"));
	page_state(o);
	page_freeze(o);
	page_blockers(o);
	page_snapshots(o);
	page_medium(o);
	page_far(o);
	line("users", "%lld, opened %lld times, requests in flight %lld", num(o, "users"),
	     num(o, "openers"), num(o, "in-flight"));
	line("helper", "%s, %lld sockets", json_str(o, "helper", "?"),
	     num(o, "sockets"));
	line("queues", "%lld of %lld, requests to %lld KiB", num(o, "queues"),
	     num(o, "depth"), num(o, "max-io") / 1024);
	line("limits", "reconnect %lld s, stall %lld s",
	     num(o, "reconnect-timeout"), num(o, "stall-timeout"));
	page_stats(json_obj(o, "stats"));
}

static JsonObject *find(JsonArray *a, uint32_t index)
{
	for (guint i = 0; i < json_array_get_length(a); i++) {
		JsonObject *o = json_array_get_object_element(a, i);

		if (json_int(o, "index", -1) == index)
			return o;
	}
	return NULL;
}

static void print_all(JsonArray *a, bool json)
{
	if (json) {
		print_array(a);
		return;
	}
	for (guint i = 0; i < json_array_get_length(a); i++)
		print_page(json_array_get_object_element(a, i));
}

int verb_status(const struct verb *v, int argc, char **argv)
{
	g_autoptr(JsonArray) a = NULL;
	struct kernel_drive d = { 0 };
	struct fault f = { 0 };
	JsonObject *o;
	bool json = false;
	int r = verb_options(v, argc, argv, &json, NULL);

	if (r >= 0)
		return r;
	if (argc - optind > 1)
		return verb_usage(v, "one drive, or none for all");
	if (argc != optind && drive_get(argv[optind], &d, &f) < 0)
		return fault_tell(&f);
	a = query(&f);
	if (!a)
		return fault_tell(&f);
	if (argc == optind) {
		print_all(a, json);
		return EXIT_DONE;
	}
	o = find(a, d.index);
	if (!o) {
		fault_set(&f, EXIT_REFUSED, "%s was removed meanwhile", d.name);
		return fault_tell(&f);
	}
	if (json)
		json_print_object(o);
	else
		print_page(o);
	return EXIT_DONE;
}
