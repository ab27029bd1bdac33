// SPDX-License-Identifier: GPL-2.0-only
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <glib-unix.h>

#include "drive.h"
#include "fdset.h"
#include "freezing.h"
#include "log.h"
#include "query.h"
#include "schema.h"
#include "sock.h"

/* Peers. */

struct session {
	struct qmp_peer *peer;
	bool status;
	uid_t uid;
};

static GList *sessions;
static int listeners[2] = { -1, -1 };	/* control, status */
static guint listen_sources[2];

static const struct cmd_desc *const tables[] = {
	commands_block, commands_export, commands_freeze, commands_job, commands_migrate,
	commands_own, commands_query, commands_snapshot,
};

static const struct cmd_desc *find_command(const char *name)
{
	for (size_t t = 0; t < G_N_ELEMENTS(tables); t++)
		for (const struct cmd_desc *c = tables[t]; c->name; c++)
			if (!strcmp(c->name, name))
				return c;
	return NULL;
}

const struct cmd_desc *control_command(unsigned int n)
{
	for (size_t t = 0; t < G_N_ELEMENTS(tables); t++)
		for (const struct cmd_desc *c = tables[t]; c->name; c++)
			if (!n--)
				return c;
	return NULL;
}

/* Answers. */

static void cmd_free(struct cmd *c)
{
	qmp_peer_unref(c->peer);
	json_object_unref(c->args);
	g_free(c);
}

void cmd_return(struct cmd *c, JsonNode *ret)
{
	qmp_return(c->peer, ret);
	cmd_free(c);
}

void cmd_return_object(struct cmd *c, JsonObject *o)
{
	JsonNode *n = json_node_init_object(json_node_alloc(), o);

	json_object_unref(o);
	cmd_return(c, n);
}

void cmd_return_array(struct cmd *c, JsonArray *a)
{
	JsonNode *n = json_node_init_array(json_node_alloc(), a);

	json_array_unref(a);
	cmd_return(c, n);
}

void cmd_fail(struct cmd *c, const struct derr *e)
{
	qmp_fail(c->peer, e->cls, e->text);
	cmd_free(c);
}

void cmd_end(struct cmd *c, int r, const struct derr *e)
{
	if (r < 0)
		cmd_fail(c, e);
	else
		cmd_return(c, NULL);
}

/* Arguments. */

const char *arg_str(const struct cmd *c, const char *name)
{
	return json_object_get_string_member_with_default(c->args, name, NULL);
}

bool arg_bool(const struct cmd *c, const char *name, bool fallback)
{
	return json_object_get_boolean_member_with_default(c->args, name, fallback);
}

long long arg_int(const struct cmd *c, const char *name, long long fallback)
{
	return json_object_get_int_member_with_default(c->args, name, fallback);
}

bool arg_has(const struct cmd *c, const char *name)
{
	return json_object_has_member(c->args, name);
}

struct drive *arg_drive(struct cmd *c, bool needed, bool *failed)
{
	const char *name = NULL;
	struct drive *d = NULL;
	struct derr e;

	*failed = false;
	if (arg_has(c, "device") && arg_has(c, "id"))
		needed = true;
	else if (arg_has(c, "device"))
		name = arg_str(c, "device");
	else if (arg_has(c, "id"))
		name = arg_str(c, "id");
	else if (arg_has(c, "drive"))
		name = arg_str(c, "drive");
	if (name)
		d = drive_find(name, &e);
	else if (needed)
		derr_set(&e, EINVAL, "Need exactly one of 'device' and 'id'");
	if (!d && (name || needed)) {
		*failed = true;
		cmd_fail(c, &e);
	}
	return d;
}

static void on_command(struct qmp_peer *p, const char *name, JsonObject *args)
{
	const struct cmd_desc *d = find_command(name);
	struct session *s = qmp_peer_user(p);
	struct cmd *c;
	struct derr e;

	if (!d || (s->status && !(d->flags & CMD_STATUS))) {
		char *m = g_strdup_printf(d ? "The command %s is not allowed on the status socket" :
					  "The command %s has not been found", name);

		qmp_fail(p, QMP_COMMAND_NOT_FOUND, m);
		g_free(m);
		return;
	}
	c = g_new0(struct cmd, 1);
	c->peer = qmp_peer_ref(p);
	c->args = args ? json_object_ref(args) : json_object_new();
	c->status = s->status;
	if (schema_check(d->args, c->args, &e) < 0)
		cmd_fail(c, &e);
	else
		d->run(c);
}

static void on_closed(struct qmp_peer *p)
{
	struct session *s = qmp_peer_user(p);

	fdset_owner_gone(p);
	/* A command under way may still hold the peer, but asks no more of us. */
	sessions = g_list_remove(sessions, s);
	g_free(s);
}

static const struct qmp_ops peer_ops = {
	.command = on_command,
	.closed = on_closed,
	.greeting = query_greeting,
};

static uid_t uid_of(int fd)
{
	struct ucred cred = { .uid = -1 };
	socklen_t len = sizeof(cred);

	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len);
	return cred.uid;
}

/* Everybody may connect to the status socket: nobody shuts out others there. */
static bool crowded(bool status, uid_t uid)
{
	unsigned int all = 0, own = 0;

	for (GList *i = sessions; i; i = i->next) {
		const struct session *s = i->data;

		all += s->status == status;
		own += s->status == status && s->uid == uid;
	}
	return all >= PEERS_MAX || (status && uid && own >= PEERS_OF_UID_MAX);
}

static void refuse(int fd, uid_t uid)
{
	static long long told;

	if (!told || now_ms() - told > 10000) {
		log_warn("too many connections of uid %u to the control sockets: refused", uid);
		told = now_ms();
	}
	close(fd);
}

static gboolean on_listener(gint fd, GIOCondition cond, gpointer arg)
{
	struct session *s;
	int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	bool status = fd == listeners[1];
	uid_t uid;

	if (peer < 0)
		return G_SOURCE_CONTINUE;
	uid = uid_of(peer);
	if (crowded(status, uid)) {
		refuse(peer, uid);
		return G_SOURCE_CONTINUE;
	}
	s = g_new0(struct session, 1);
	s->status = status;
	s->uid = uid;
	sessions = g_list_append(sessions, s);
	s->peer = qmp_peer_new(peer, &peer_ops, s);
	return G_SOURCE_CONTINUE;
}

static int open_listener(const char *name, mode_t mode, struct derr *e)
{
	char file[32], path[108];
	int fd = listen_fd_named(name);

	if (fd >= 0) {
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
		return fd;
	}
	snprintf(file, sizeof(file), "%s.sock", name);
	if (!run_path(path, sizeof(path), "%s", file))
		return derr_set(e, ENAMETOOLONG, "the run directory's path is too long");
	fd = sock_listen(path, SOCK_STREAM | SOCK_NONBLOCK, mode);
	if (fd == -EADDRINUSE)
		return derr_set(e, EADDRINUSE, "another spicebdd listens on %s", path);
	if (fd < 0)
		return derr_set(e, -fd, "cannot listen on %s: %s", path, strerror(-fd));
	return fd;
}

int control_init(struct derr *e)
{
	listeners[0] = open_listener("control", 0600, e);
	if (listeners[0] < 0)
		return listeners[0];
	listeners[1] = open_listener("status", 0666, e);
	return listeners[1] < 0 ? listeners[1] : 0;
}

void control_listen(void)
{
	for (int i = 0; i < 2; i++)
		listen_sources[i] = g_unix_fd_add(listeners[i], G_IO_IN, on_listener, NULL);
}

void control_linger(int ms)
{
	for (GList *i = sessions; i; i = i->next) {
		struct session *s = i->data;

		if (s->peer)
			qmp_peer_linger(s->peer, ms);
	}
}

/* Events. */

static void emit(const char *name, JsonObject *data, JsonObject *redacted)
{
	/* A peer that is closed for not reading leaves the list from the loop. */
	for (GList *i = sessions; i; i = i->next) {
		struct session *s = i->data;
		JsonObject *o = s->status && redacted ? redacted : data;

		if (s->peer && qmp_peer_negotiated(s->peer))
			qmp_event(s->peer, name, o ? json_object_ref(o) : NULL);
	}
	if (data)
		json_object_unref(data);
	if (redacted)
		json_object_unref(redacted);
}

static JsonObject *event_of(const char *drive)
{
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "drive", drive);
	return o;
}

static JsonObject *medium_event(const struct drive *d, const struct kernel_drive *k, bool named)
{
	JsonObject *o = event_of(k->name), *m;

	json_object_set_int_member(o, "generation", k->generation);
	if (!(k->state & SPICEBD_STATE_READY)) {
		json_object_set_null_member(o, "medium");
		return o;
	}
	m = json_object_new();
	if (named && d->medium)
		json_object_set_string_member(m, "name", d->medium->name);
	json_object_set_int_member(m, "size", k->medium.size);
	json_object_set_boolean_member(m, "read-only",
				       k->medium.flags & SPICEBD_MEDIUM_READ_ONLY);
	json_object_set_object_member(o, "medium", m);
	return o;
}

static void tray_event(const struct kernel_drive *k)
{
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "device", k->name);
	json_object_set_string_member(o, "id", k->name);
	json_object_set_boolean_member(o, "tray-open", k->tray == SPICEBD_TRAY_OPEN);
	emit("DEVICE_TRAY_MOVED", o, NULL);
}

void control_drive_event(struct drive *d, const struct kernel_drive *k)
{
	JsonObject *o;

	switch (k->event) {
	case SPICEBD_EVENT_DRIVE_ADDED:
		emit("SPICEBD_DRIVE_ADDED", event_of(k->name), NULL);
		break;
	case SPICEBD_EVENT_DRIVE_REMOVED:
		emit("SPICEBD_DRIVE_REMOVED", event_of(d->k.name), NULL);
		break;
	case SPICEBD_EVENT_TRAY_MOVED:
		tray_event(k);
		break;
	case SPICEBD_EVENT_MEDIUM_CHANGED:
		emit("SPICEBD_MEDIUM_CHANGED", medium_event(d, k, true),
		     medium_event(d, k, false));
		break;
	case SPICEBD_EVENT_EJECT_REQUEST:
		emit("SPICEBD_EJECT_REQUEST", event_of(k->name), NULL);
		break;
	case SPICEBD_EVENT_UNUSED:
		emit("SPICEBD_UNUSED", event_of(k->name), NULL);
		break;
	case SPICEBD_EVENT_LOCK_CHANGED:
		o = event_of(k->name);
		json_object_set_boolean_member(o, "locked", k->state & SPICEBD_STATE_LOCKED);
		json_object_set_boolean_member(o, "locked-by-admin",
					       k->state & SPICEBD_STATE_LOCKED_ADMIN);
		emit("SPICEBD_LOCK_CHANGED", o, NULL);
		break;
	}
}

void control_freeze_event(const struct kernel_drive *k)
{
	JsonObject *o = event_of(k->name), *redacted = event_of(k->name);
	JsonArray *holders = json_array_new();

	json_object_set_string_member(o, "freeze", freeze_str(k->freeze));
	json_object_set_string_member(redacted, "freeze", freeze_str(k->freeze));
	for (unsigned int i = 0; i < k->nr_holders; i++)
		json_array_add_string_element(holders, k->holders[i].name);
	json_object_set_array_member(o, "holders", holders);
	emit("SPICEBD_FREEZE", o, redacted);
}

void control_freeze_expired(const char *drive, const char *holder)
{
	JsonObject *o = event_of(drive);

	if (holder)
		json_object_set_string_member(o, "holder", holder);
	emit("SPICEBD_FREEZE_EXPIRED", o, event_of(drive));
}

void control_link_event(struct drive *d, bool up, const char *reason)
{
	JsonObject *o = event_of(d->k.name), *redacted = event_of(d->k.name);

	json_object_set_boolean_member(o, "up", up);
	json_object_set_boolean_member(redacted, "up", up);
	if (reason)
		json_object_set_string_member(o, "reason", reason);
	emit("SPICEBD_LINK", o, redacted);
}

void control_migration_event(const char *drive, bool incoming, const char *status)
{
	JsonObject *o = event_of(drive);

	json_object_set_string_member(o, "direction", incoming ? "in" : "out");
	json_object_set_string_member(o, "status", status);
	emit("SPICEBD_MIGRATION", o, NULL);
}

void control_media_event(const char *link)
{
	JsonObject *o = json_object_new(), *redacted = json_object_new();

	json_object_set_string_member(o, "link", link);
	emit("SPICEBD_MEDIA_CHANGED", o, redacted);
}

void control_snapshot_event(const char *drive, const char *name, const char *status,
			    const char *reason)
{
	JsonObject *o = event_of(drive), *redacted = event_of(drive);

	json_object_set_string_member(o, "status", status);
	json_object_set_string_member(redacted, "status", status);
	/* Names and reasons are the administrator's. */
	json_object_set_string_member(o, "name", name);
	if (reason)
		json_object_set_string_member(o, "reason", reason);
	emit("SPICEBD_SNAPSHOT", o, redacted);
}

/* Not for the status socket: an id is as good as a name. */
static void emit_to_control(const char *name, JsonObject *data)
{
	for (GList *i = sessions; i; i = i->next) {
		struct session *s = i->data;

		if (!s->status && s->peer && qmp_peer_negotiated(s->peer))
			qmp_event(s->peer, name, json_object_ref(data));
	}
	json_object_unref(data);
}

void control_job_event(const char *id, uint64_t len, uint64_t offset, const char *error)
{
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "type", "backup");
	json_object_set_string_member(o, "device", id);
	json_object_set_int_member(o, "len", len);
	json_object_set_int_member(o, "offset", offset);
	json_object_set_int_member(o, "speed", 0);
	if (error)
		json_object_set_string_member(o, "error", error);
	emit_to_control(error ? "BLOCK_JOB_COMPLETED" : "BLOCK_JOB_CANCELLED", o);
}

void control_export_deleted(const char *id)
{
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "id", id);
	emit_to_control("BLOCK_EXPORT_DELETED", o);
}
