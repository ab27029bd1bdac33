// SPDX-License-Identifier: GPL-2.0-only
#include "snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "control.h"
#include "drive.h"
#include "log.h"
#include "polite.h"
#include "snapshot_impl.h"
#include "sock.h"

GList *snapshots;

struct waiter {
	snapshot_done_fn done;
	void *arg;
};

/* Exports of it are to go along. */
static void (*on_end)(const struct snapshot *s);

void snapshots_on_end(void (*fn)(const struct snapshot *s))
{
	on_end = fn;
}

struct snapshot *snapshot_find(const char *name)
{
	for (GList *i = snapshots; i; i = i->next) {
		struct snapshot *s = i->data;

		if (!strcmp(s->name, name))
			return s;
	}
	return NULL;
}

/* ---- QEMU's jobs, and exports of them */

struct snapshot *snapshot_by_node(const char *node)
{
	for (GList *i = snapshots; i; i = i->next) {
		struct snapshot *s = i->data;

		if (s->node && !strcmp(s->node, node))
			return s;
	}
	return NULL;
}

void snapshot_jobs(void (*fn)(const char *id, uint64_t size, uint64_t copied, void *arg), void *arg)
{
	for (GList *i = snapshots; i; i = i->next) {
		struct snapshot *s = i->data;

		if (s->node && s->state == SNAPSHOT_STANDS)
			fn(s->name, s->m->props.size, cbw_copied(s->c), arg);
	}
}

struct medium *snapshot_medium(const struct snapshot *s)
{
	return s->m;
}

void snapshot_clients(struct snapshot *s, uint32_t n)
{
	if (s->clients_elsewhere == n)
		return;
	s->clients_elsewhere = n;
	snapshot_changed(s);
}

/* ---- what it blocks */

static struct snapshot *of_drive(const struct drive *d)
{
	for (GList *i = snapshots; i; i = i->next) {
		struct snapshot *s = i->data;

		if (s->m == d->medium && s->state <= SNAPSHOT_STANDS && !s->gone)
			return s;
	}
	return NULL;
}

bool snapshots_block(const struct drive *d)
{
	return d->medium && of_drive(d);
}

const char *snapshots_owner(const struct drive *d)
{
	const struct snapshot *s = of_drive(d);

	return s ? s->name : "";
}

uint32_t snapshot_all_clients(const struct snapshot *s)
{
	return s->clients + s->clients_elsewhere;
}

/* "snapshot 's0' is exported to 2 clients" */
static void exported_to(const struct snapshot *s, char *buf, size_t size)
{
	uint32_t n = snapshot_all_clients(s);

	snprintf(buf, size, "snapshot '%s' is exported to %u client%s", s->name, n,
		 n == 1 ? "" : "s");
}

void snapshots_reason(const struct drive *d, char *buf, size_t size)
{
	const struct snapshot *s = of_drive(d);

	if (!s)
		snprintf(buf, size, "it had a snapshot");
	else if (s->state == SNAPSHOT_COMING)
		snprintf(buf, size, "snapshot '%s' is being made", s->name);
	else if (snapshot_all_clients(s))
		exported_to(s, buf, size);
	else
		snprintf(buf, size, "it has snapshot '%s'", s->name);
}

void snapshot_changed(struct snapshot *s)
{
	if (s->m->drive->medium == s->m)
		polite_event_later(s->m->drive);
	change_wake();
}

/* ---- the end */

void snapshot_free(struct snapshot *s)
{
	snapshots = g_list_remove(snapshots, s);
	if (s->watch)
		g_source_remove(s->watch);
	exportd_free(s->server);
	cbw_unref(s->c);
	if (!s->c)
		snapmap_close(&s->map);
	for (unsigned int i = 0; i < 5; i++) {
		int fd = i == 0 ? s->map_fd : i == 1 ? s->scratch : i == 2 ? s->scratch_read :
			 s->life[i - 3];

		if (fd >= 0)
			close(fd);
	}
	medium_unref(s->m);
	g_free(s->name);
	g_free(s->socket);
	g_free(s->scratch_name);
	g_free(s->node);
	g_free(s);
}

static void ended(int r, const struct derr *e, void *arg)
{
	struct snapshot *s = arg;
	GList *waiting = s->waiting;

	if (r < 0)
		log_warn("snapshot '%s': %s", s->name, e->text);
	log_info("snapshot '%s' of drive %s is gone", s->name, s->m->drive->k.name);
	control_snapshot_event(s->m->drive->k.name, s->name, "deleted", NULL);
	snapshot_free(s);
	for (GList *i = waiting; i; i = i->next) {
		struct waiter *w = i->data;

		w->done(0, NULL, w->arg);
		g_free(w);
	}
	g_list_free(waiting);
}

/* The drive goes on at once, whatever its clients do: they are told by the map. */
static void let_go(struct snapshot *s, const char *why)
{
	if (!s->c)
		return;
	cbw_end(s->c, ESHUTDOWN, why);
	if (s->m->io)
		io_set_cbw(s->m->io, NULL);
}

void snapshot_end(struct snapshot *s, const char *why)
{
	if (s->state == SNAPSHOT_ENDING)
		return;
	/* Whoever makes it looks for that, and is who answers. */
	if (s->state == SNAPSHOT_COMING) {
		s->gone = true;
		snapshot_changed(s);
		return;
	}
	let_go(s, why);
	if (s->node && s->state == SNAPSHOT_STANDS)
		control_job_event(s->name, s->m->props.size, cbw_copied(s->c), NULL);
	s->state = SNAPSHOT_ENDING;
	if (on_end)
		on_end(s);
	snapshot_changed(s);
	exportd_stop(s->server, ended, s);
}

void snapshot_delete(const char *name, bool force, snapshot_done_fn done, void *arg)
{
	struct snapshot *s = snapshot_find(name);
	struct waiter *w;
	char reason[160];
	struct derr e;

	if (!s)
		derr_set(&e, ENOENT, "snapshot '%.100s' is not found", name);
	else if (s->state == SNAPSHOT_COMING)
		derr_set(&e, EBUSY, "snapshot '%s' is being made", s->name);
	else if (s->state == SNAPSHOT_STANDS && snapshot_all_clients(s) && !force) {
		exported_to(s, reason, sizeof(reason));
		derr_set(&e, EBUSY, "%s: wait until they are done, or use force", reason);
	} else {
		e.code = 0;
	}
	if (e.code) {
		done(-e.code, &e, arg);
		return;
	}
	w = g_new(struct waiter, 1);
	w->done = done;
	w->arg = arg;
	s->waiting = g_list_append(s->waiting, w);
	snapshot_end(s, "the snapshot was deleted");
}

void snapshots_medium_out(const struct medium *m, const char *why)
{
	GList *copy = g_list_copy(snapshots);

	for (GList *i = copy; i; i = i->next) {
		struct snapshot *s = i->data;

		if (g_list_find(snapshots, s) && s->m == m)
			snapshot_end(s, why);
	}
	g_list_free(copy);
}

/* The next of us knows nothing of them, and ends their servers. */
void snapshots_leave(void)
{
	for (GList *i = snapshots; i; i = i->next) {
		struct snapshot *s = i->data;

		let_go(s, "spicebdd has ended");
		exportd_leave(s->server);
	}
}

/* ---- queries */

static const char *const states[] = {
	[SNAPSHOT_COMING] = "coming", [SNAPSHOT_STANDS] = "active",
	[SNAPSHOT_FAILED] = "failed", [SNAPSHOT_ENDING] = "ending",
};

JsonObject *snapshot_object(const struct snapshot *s, bool names)
{
	JsonObject *o = json_object_new();
	char *uri;

	json_object_set_string_member(o, "drive", s->m->drive->k.name);
	json_object_set_string_member(o, "state", states[s->state]);
	json_object_set_int_member(o, "size", s->m->props.size);
	json_object_set_int_member(o, "copied", s->c ? cbw_copied(s->c) : 0);
	json_object_set_int_member(o, "clients", snapshot_all_clients(s));
	json_object_set_int_member(o, "since-ms", s->since ? now_ms() - s->since : 0);
	if (!names)
		return o;
	uri = g_strdup_printf("nbd+unix:///%s?socket=%s", s->name, s->socket);
	json_object_set_string_member(o, "name", s->name);
	json_object_set_string_member(o, "uri", uri);
	json_object_set_string_member(o, "socket", s->socket);
	json_object_set_string_member(o, "scratch", s->scratch_name);
	if (s->why[0])
		json_object_set_string_member(o, "reason", s->why);
	g_free(uri);
	return o;
}

JsonArray *snapshots_query(const struct drive *d, bool names)
{
	JsonArray *a = json_array_new();

	for (GList *i = snapshots; i; i = i->next) {
		const struct snapshot *s = i->data;

		if (!d || s->m->drive == d)
			json_array_add_object_element(a, snapshot_object(s, names));
	}
	return a;
}
