// SPDX-License-Identifier: GPL-2.0-only
/* Migrations: the list of them, what survives this process, commands. */
#include "migrate.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <glib-unix.h>

#include "hex.h"
#include "log.h"
#include "medium.h"
#include "member.h"
#include "migrate_impl.h"
#include "sock.h"
#include "state.h"

#define ENDED_MAX	16
#define LATE_MAX	64

static GList *all;
static int listener = -1;

static const char *const phases[] = {
	[MIG_SETUP] = "setup",
	[MIG_MOVING] = "moving",
	[MIG_FREEZING] = "freezing",
	[MIG_ACCEPTED] = "accepted",
	[MIG_RELEASED] = "released",
	[MIG_GRANTED] = "granted",
	[MIG_DONE] = "completed",
	[MIG_FAILED] = "failed",
};

const char *migration_phase_str(const struct migration *m)
{
	return !m->incoming && m->phase == MIG_GRANTED ? "completed" : phases[m->phase];
}

/* ---- one of them */

static bool ended(const struct migration *m)
{
	return m->phase == MIG_FAILED || m->phase == MIG_DONE;
}

static gboolean on_tick(gpointer arg)
{
	struct migration *m = arg;

	if (m->incoming)
		migrate_in_tick(m);
	else
		migrate_out_tick(m);
	return g_list_find(all, m) ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

/*
 * Those that are over are kept for who asks: the last of each drive, and not many. A
 * late one is a promise: only too many of its kind push it out.
 */
static void prune(uint32_t index)
{
	unsigned int n = 0, late = 0;

	for (GList *i = g_list_last(all), *before; i; i = before) {
		struct migration *m = i->data;

		before = i->prev;
		if (!ended(m) || m->nag)
			continue;
		if (m->late ? ++late > LATE_MAX : m->index == index || ++n > ENDED_MAX)
			migration_free(m);
	}
}

struct migration *migration_new(bool incoming, uint32_t index)
{
	struct migration *m = g_new0(struct migration, 1);

	prune(index);
	m->incoming = incoming;
	m->index = index;
	m->far.cache = m->far.read_ahead = FAR_AUTO;
	m->timer = g_timeout_add(MIGRATE_TICK_MS, on_tick, m);
	all = g_list_append(all, m);
	return m;
}

void migration_close(struct migration *m)
{
	struct migstream *s = m->s;

	m->s = NULL;
	migstream_free(s);
}

void migration_free(struct migration *m)
{
	struct drive *d = drive_at(m->index);

	all = g_list_remove(all, m);
	if (d && !migration_of(d))
		d->blockers &= ~BLOCK_MIGRATE;
	migration_close(m);
	g_source_remove(m->timer);
	g_free(m->peer);
	g_free(m->far_drive);
	g_free(m->name);
	g_free(m->nbd_uri);
	g_free(m->nbd_id);
	g_free(m->why);
	g_free(m->drive);
	g_free(m);
}

struct migration *migration_of(const struct drive *d)
{
	for (GList *i = all; i; i = i->next) {
		struct migration *m = i->data;

		if (m->index == d->index && !ended(m))
			return m;
	}
	return NULL;
}

struct migration *migration_by_id(const uint8_t *id)
{
	for (GList *i = all; i; i = i->next) {
		struct migration *m = i->data;

		if (!memcmp(m->id, id, sizeof(m->id)))
			return m;
	}
	return NULL;
}

struct drive *migration_drive(const struct migration *m)
{
	return drive_at(m->index);
}

int migration_enter(struct migration *m, enum mig_phase phase, struct derr *e)
{
	enum mig_phase before = m->phase;
	int r;

	m->phase = phase;
	r = state_save(e);
	if (r < 0)
		m->phase = before;
	else
		migration_event(m);
	return r;
}

void migration_event(struct migration *m)
{
	struct drive *d = drive_at(m->index);

	if (d)
		control_migration_event(d->k.name, m->incoming, migration_phase_str(m));
}

void migration_answer(struct migration *m, int r, const struct derr *e)
{
	struct cmd *c = m->c;

	m->c = NULL;
	if (c)
		cmd_end(c, r, e);
}

void migration_why(struct migration *m, const char *fmt, ...)
{
	va_list ap;
	char *text;

	va_start(ap, fmt);
	text = g_strdup_vprintf(fmt, ap);
	va_end(ap);
	g_free(m->why);
	m->why = text;
}

JsonObject *migration_message(const char *what)
{
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "message", what);
	return o;
}

struct link_port *migration_port(const struct migration *m, struct link **l,
				 const struct link_offer **o)
{
	struct link_port *p = NULL;

	*o = NULL;
	*l = links_find(m->link);
	if (*l && (*l)->ready)
		p = (*l)->ports[m->index];
	if (!p || !p->complete)
		return NULL;
	*o = link_port_offer(p, m->medium_id);
	return p;
}

bool migration_ask(struct migration *m, enum frame_move_verb verb)
{
	struct frame_move f = { .verb = verb };
	const struct link_offer *o;
	struct link *l;
	struct link_port *p = migration_port(m, &l, &o);

	if (!p)
		return false;
	if (verb == FRAME_MOVE_BEGIN)
		f = m->begin;
	memcpy(f.id, m->id, sizeof(f.id));
	f.offer = o ? o->id : 0;
	m->asked = p->epoch;
	links_move(l, m->index, &f);
	return true;
}

/* ---- what survives us */

static void put_hex(JsonObject *o, const char *name, const uint8_t *p)
{
	char hex[2 * FRAME_UUID_LEN + 1];

	hex_encode(p, FRAME_UUID_LEN, hex);
	json_object_set_string_member(o, name, hex);
}

static JsonObject *to_json(const struct migration *m)
{
	JsonObject *o = json_object_new();

	json_object_set_int_member(o, "index", m->index);
	json_object_set_boolean_member(o, "incoming", m->incoming);
	json_object_set_int_member(o, "phase", m->late ? MIG_ACCEPTED : m->phase);
	json_object_set_boolean_member(o, "late", m->late);
	json_object_set_string_member(o, "drive", m->drive ?: "");
	if (m->incoming)
		json_object_set_object_member(o, "make", migrate_describe_drive(&m->make));
	put_hex(o, "id", m->id);
	json_object_set_string_member(o, "peer", m->peer ?: "");
	json_object_set_string_member(o, "far-drive", m->far_drive ?: "");
	json_object_set_string_member(o, "name", m->name ?: "");
	json_object_set_boolean_member(o, "arbiter", m->arbiter);
	json_object_set_string_member(o, "link", m->link);
	put_hex(o, "medium-id", m->medium_id);
	json_object_set_int_member(o, "owner-epoch", m->owner_epoch);
	json_object_set_string_member(o, "nbd-uri", m->nbd_uri ?: "");
	json_object_set_string_member(o, "nbd-id", m->nbd_id ?: "");
	json_object_set_boolean_member(o, "resend", m->resend);
	json_object_set_int_member(o, "size", m->size);
	json_object_set_boolean_member(o, "read-only", m->read_only);
	json_object_set_boolean_member(o, "tray-open", m->tray_open);
	json_object_set_boolean_member(o, "locked", m->locked);
	json_object_set_boolean_member(o, "made", m->made);
	json_object_set_int_member(o, "cache", m->far.cache);
	json_object_set_int_member(o, "read-ahead", m->far.read_ahead);
	return o;
}

JsonArray *migrate_save(void)
{
	JsonArray *a = NULL;

	for (GList *i = all; i; i = i->next) {
		const struct migration *m = i->data;

		if (ended(m) && !m->late)
			continue;
		if (!a)
			a = json_array_new();
		json_array_add_object_element(a, to_json(m));
	}
	return a;
}

static char *text_member(JsonObject *o, const char *name)
{
	const char *s = member_str(o, name, "");

	return *s ? g_strdup(s) : NULL;
}

static void load_one(JsonObject *o)
{
	int64_t index = member_int(o, "index", -1), phase = member_int(o, "phase", -1);
	struct drive *d = index >= 0 && index < SPICEBD_MAX_DRIVES ? drive_at(index) : NULL;
	JsonNode *make = json_object_get_member(o, "make");
	bool late = member_bool(o, "late", FALSE), wrong;
	struct migration *m;

	if ((!d && !late) || phase < MIG_SETUP || phase > MIG_GRANTED)
		return;
	m = migration_new(member_bool(o, "incoming", FALSE), d ? index : SPICEBD_MAX_DRIVES);
	m->phase = late ? MIG_FAILED : phase;
	m->late = late;
	m->drive = text_member(o, "drive");
	m->peer = text_member(o, "peer");
	m->far_drive = text_member(o, "far-drive");
	m->name = text_member(o, "name");
	m->arbiter = member_bool(o, "arbiter", FALSE);
	g_strlcpy(m->link, member_str(o, "link", ""), sizeof(m->link));
	m->owner_epoch = member_int(o, "owner-epoch", 0);
	m->nbd_uri = text_member(o, "nbd-uri");
	m->nbd_id = text_member(o, "nbd-id");
	m->resend = member_bool(o, "resend", FALSE);
	m->size = member_int(o, "size", 0);
	m->read_only = member_bool(o, "read-only", TRUE);
	m->tray_open = member_bool(o, "tray-open", FALSE);
	m->locked = member_bool(o, "locked", FALSE);
	m->made = member_bool(o, "made", FALSE);
	m->far.cache = member_int(o, "cache", FAR_AUTO);
	m->far.read_ahead = member_int(o, "read-ahead", FAR_AUTO);
	wrong = !hex_decode(member_str(o, "id", ""), m->id, FRAME_UUID_LEN) ||
		!hex_decode(member_str(o, "medium-id", ""), m->medium_id, FRAME_UUID_LEN);
	if (m->incoming)
		wrong |= !make || !JSON_NODE_HOLDS_OBJECT(make) ||
			 !migrate_parse_drive(json_node_get_object(make), &m->make);
	if (wrong) {
		log_warn("drive %s: what is known of its migration makes no sense",
			 d ? d->k.name : m->drive ?: "?");
		migration_free(m);
		return;
	}
	if (!late)
		d->blockers |= BLOCK_MIGRATE;
}

void migrate_load(void)
{
	char path[108];
	JsonNode *n = run_path(path, sizeof(path), "state.json") ? state_read_file(path) : NULL;
	JsonNode *list = n && JSON_NODE_HOLDS_OBJECT(n) ?
		json_object_get_member(json_node_get_object(n), "migrations") : NULL;
	JsonArray *a = list && JSON_NODE_HOLDS_ARRAY(list) ? json_node_get_array(list) : NULL;

	for (guint i = 0; a && i < json_array_get_length(a); i++) {
		JsonNode *one = json_array_get_element(a, i);

		if (JSON_NODE_HOLDS_OBJECT(one))
			load_one(json_node_get_object(one));
	}
	if (n)
		json_node_unref(n);
}

/* ---- what happens to drives and links */

static void each_of(struct drive *d, void (*fn)(struct migration *m))
{
	for (GList *i = all, *next; i; i = next) {
		struct migration *m = i->data;

		next = i->next;
		if (m->index == d->index && !ended(m))
			fn(m);
	}
}

static void look(struct migration *m)
{
	if (m->late)
		migrate_late_ask(m);
	else if (m->incoming)
		migrate_in_look(m);
	else
		migrate_out_look(m);
}

void migrate_drive_event(struct drive *d)
{
	each_of(d, look);
}

static void drive_gone(struct migration *m)
{
	if (!m->incoming)
		migrate_out_medium_lost(m);
	else if (m->phase == MIG_ACCEPTED && m->arbiter)
		migrate_late_begin(m, "the drive was deleted");
	else
		migrate_in_drop(m, "the drive was deleted");
}

void migrate_drive_gone(struct drive *d)
{
	each_of(d, drive_gone);
}

static void medium_lost(struct migration *m)
{
	if (!m->incoming)
		migrate_out_medium_lost(m);
}

void migrate_medium_out(struct drive *d)
{
	each_of(d, medium_lost);
}

static bool of_link(const struct migration *m, const char *link)
{
	return m->arbiter && (!ended(m) || m->nag || m->late) && !strcmp(m->link, link);
}

void migrate_links_changed(const char *link)
{
	for (GList *i = all, *next; i; i = next) {
		next = i->next;
		if (of_link(i->data, link))
			look(i->data);
	}
}

static void on_move(struct link *l, uint32_t port, const struct frame_move_state *s)
{
	struct migration *m = migration_by_id(s->id);

	if (!m || (m->index != port && !m->late) || !of_link(m, l->name))
		return;
	log_debug("drive %u: the share says: move %u, owner epoch %u: %s", m->index, s->result,
		  s->owner_epoch, s->text);
	if (m->late)
		migrate_late_state(m, s);
	else if (m->incoming)
		migrate_in_state(m, s);
	else
		migrate_out_state(m, s);
}

/* ---- others that come */

static gboolean on_listener(gint fd, GIOCondition cond, gpointer arg)
{
	int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred cred = { .uid = -1 };
	socklen_t len = sizeof(cred);

	if (peer < 0)
		return G_SOURCE_CONTINUE;
	if (getsockopt(peer, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 || cred.uid != 0) {
		log_warn("refused uid %u at the socket for migrations", cred.uid);
		close(peer);
		return G_SOURCE_CONTINUE;
	}
	migrate_in_accept(peer);
	return G_SOURCE_CONTINUE;
}

int migrate_start(struct derr *e)
{
	char path[108];

	for (GList *i = all, *next; i; i = next) {
		struct migration *m = i->data;

		next = i->next;
		if (m->incoming)
			migrate_in_adopt(m);
		else
			migrate_out_adopt(m);
	}
	links_on_move(on_move);
	if (!run_path(path, sizeof(path), "migrate.sock"))
		return derr_set(e, ENAMETOOLONG, "the run directory's path is too long");
	listener = sock_listen(path, SOCK_STREAM | SOCK_NONBLOCK, 0600);
	if (listener < 0)
		return derr_set(e, -listener, "cannot listen on %s: %s: no drive can come here",
				path, strerror(-listener));
	g_unix_fd_add(listener, G_IO_IN, on_listener, NULL);
	return 0;
}

/* ---- commands */

static bool is_socket(int fd)
{
	int v;
	socklen_t len = sizeof(v);

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &v, &len) == 0 && v == SOCK_STREAM;
}

/* The stream to the other host: one that was passed, or a socket that we find. */
static int stream_of(struct cmd *c, struct derr *e)
{
	const char *uri = arg_str(c, "uri");
	int fd = qmp_peer_take_fd(c->peer);

	if (fd >= 0 && is_socket(fd))
		return fd;
	if (fd >= 0) {
		close(fd);
		return derr_set(e, EINVAL, "the descriptor is no connected stream socket");
	}
	if (strncmp(uri, "unix:", 5))
		return derr_set(e, EINVAL, "'%s': without a descriptor the other spicebdd is at "
				"unix:PATH", uri);
	fd = sock_connect(uri + 5, SOCK_STREAM | SOCK_NONBLOCK);
	return fd < 0 ? derr_set(e, -fd, "cannot reach the other spicebdd at %s: %s", uri + 5,
				 strerror(-fd)) : fd;
}

static void migrate_cmd(struct cmd *c)
{
	struct drive *d;
	struct derr e;
	bool failed;
	int fd;

	d = arg_drive(c, true, &failed);
	if (failed)
		return;
	/* What is against it is told before what its stream leads to. */
	if (migrate_out_check(d, &e) < 0) {
		fd = qmp_peer_take_fd(c->peer);
		if (fd >= 0)
			close(fd);
		cmd_fail(c, &e);
		return;
	}
	fd = stream_of(c, &e);
	if (fd < 0)
		cmd_fail(c, &e);
	else
		migrate_out_start(c, d, fd);
}

static struct migration *arg_migration(struct cmd *c)
{
	struct drive *d;
	struct derr e;
	bool failed;

	d = arg_drive(c, true, &failed);
	if (failed)
		return NULL;
	for (GList *i = all; i; i = i->next) {
		struct migration *m = i->data;

		if (m->index == d->index && !ended(m) &&
		    (m->incoming || m->phase != MIG_GRANTED))
			return m;
	}
	derr_set(&e, ENOENT, "drive %s: no migration is under way", d->k.name);
	cmd_fail(c, &e);
	return NULL;
}

static void migrate_cancel(struct cmd *c)
{
	struct migration *m = arg_migration(c);
	struct derr e;

	if (!m)
		return;
	if (m->incoming && m->phase == MIG_GRANTED) {
		derr_set(&e, EBUSY, "the medium belongs to this host by now; migrate it back");
		cmd_fail(c, &e);
		return;
	}
	if (!m->incoming && !m->arbiter && m->phase == MIG_RELEASED) {
		derr_set(&e, EBUSY, "the target may have the medium by now, and nobody can take it "
			 "back: look there, then spicebdctl migrate --resolve");
		cmd_fail(c, &e);
		return;
	}
	if (m->incoming)
		migrate_in_cancel(m, "cancelled at the target");
	else
		migrate_out_cancel(m, "cancelled");
	cmd_return(c, NULL);
}

static void migrate_resolve(struct cmd *c)
{
	bool here = !strcmp(arg_str(c, "how"), "run-here");
	struct migration *m = arg_migration(c);
	struct derr e;
	int r = 0;

	if (!m)
		return;
	if (m->incoming)
		r = migrate_in_resolve(m, here, &e);
	else if (m->phase != MIG_RELEASED)
		r = derr_set(&e, EINVAL, "nothing is undecided; cancel it (spicebdctl migrate "
			     "--cancel)");
	else
		migrate_out_resolve(m, here);
	cmd_end(c, r, &e);
}

static void query_migrate(struct cmd *c)
{
	JsonArray *a = json_array_new();

	for (GList *i = all; i; i = i->next) {
		const struct migration *m = i->data;
		struct drive *d = drive_at(m->index);
		JsonObject *o;

		if (!d && !m->drive)
			continue;
		o = json_object_new();
		json_object_set_string_member(o, "drive", d ? d->k.name : m->drive);
		json_object_set_string_member(o, "direction", m->incoming ? "in" : "out");
		json_object_set_string_member(o, "status", migration_phase_str(m));
		json_object_set_string_member(o, "peer", m->peer ?: "");
		if (m->far_drive)
			json_object_set_string_member(o, "far-drive", m->far_drive);
		if (m->why)
			json_object_set_string_member(o, "reason", m->why);
		json_array_add_object_element(a, o);
	}
	cmd_return_array(c, a);
}

const struct cmd_desc commands_migrate[] = {
	{ "spicebd-migrate", migrate_cmd, 0,
	  "drive:s uri:s to-drive:s? link:s? share-uri:s? share-subject:s?", NULL },
	{ "spicebd-migrate-cancel", migrate_cancel, 0, "drive:s", NULL },
	{ "spicebd-migrate-resolve", migrate_resolve, 0, "drive:s how:SpicebdMigrationOwner", NULL },
	{ "spicebd-query-migrate", query_migrate, 0, "", "[SpicebdMigration]" },
	{ NULL, NULL, 0, NULL, NULL },
};
