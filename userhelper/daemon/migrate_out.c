// SPDX-License-Identifier: GPL-2.0-only
/*
 * A drive's medium goes to another host. Until release() whatever goes wrong
 * leaves the drive running here, back(); from then on the drive is held until the
 * arbiter has said which of the two it is, back() or gone().
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hex.h"
#include "log.h"
#include "medium.h"
#include "member.h"
#include "migrate_impl.h"
#include "sock.h"
#include "source.h"
#include "state.h"

#define UNDECIDED_MS	20000	/* then who asked is told that the drive is held */

/* ---- the two ends */

static void thaw(const struct migration *m)
{
	struct drive *d = migration_drive(m);
	struct kernel_drive k;
	struct kernel_err ke;

	if (d && kernel_thaw(drives_kernel, d->index, MIGRATE_HOLDER, &k, &ke) < 0 &&
	    ke.code != ENOENT)
		log_warn("drive %s: %s", d->k.name, ke.text);
}

static void unblock(const struct migration *m)
{
	struct drive *d = migration_drive(m);

	if (d)
		d->blockers &= ~BLOCK_MIGRATE;
}

/*
 * All that was sent was answered and flushed, and nothing is sent from here on: that
 * is what a spicebdd which is started anew has to know before it asks for the medium.
 */
static void set_clean(const struct migration *m, bool clean)
{
	struct drive *d = migration_drive(m);

	if (d && d->medium)
		d->medium->clean = clean;
}

static void save(void)
{
	struct derr e;

	if (state_save(&e) < 0)
		log_err("%s", e.text);
}

/* The drive goes on here. */
static void back(struct migration *m, const char *why)
{
	struct drive *d = migration_drive(m);
	char *text = g_strdup(why);
	struct derr e;

	if (m->s) {
		JsonObject *o = migration_message("cancel");

		json_object_set_string_member(o, "text", text);
		migstream_say(m->s, o);
	}
	migration_close(m);
	log_notice("drive %s: stays here: %s", d ? d->k.name : "(deleted)", text);
	m->phase = MIG_FAILED;
	migration_why(m, "%s", text);
	unblock(m);
	set_clean(m, false);
	save();
	thaw(m);
	migration_event(m);
	derr_set(&e, ECANCELED, "drive %s: not migrated: %s", d ? d->k.name : "(deleted)", text);
	migration_answer(m, -ECANCELED, &e);
	g_free(text);
}

/*
 * The drive is inactive from here on. Nothing it held can be sent any more: the
 * medium is put out before the gate is opened, so what waits there fails.
 */
static void put_out(struct migration *m)
{
	struct drive *d = migration_drive(m);
	struct kernel_err ke;

	if (!d)
		return;
	if (kernel_eject_because(drives_kernel, d->index, SPICEBD_VERDICT_INACTIVE, &ke) < 0)
		log_err("drive %s: %s", d->k.name, ke.text);
	if (d->medium && d->medium->state == MEDIUM_IN)
		medium_out(d->medium);
	g_free(d->moved);
	d->moved = g_strdup_printf("medium '%s' is at another host now: drive %s at %s",
				   m->name ?: "", m->far_drive ?: "?", m->peer ?: "?");
	d->blockers &= ~(BLOCK_MIGRATE | BLOCK_ADOPT);
	thaw(m);
	drive_refresh(d, NULL);
}

static void gone(struct migration *m)
{
	struct drive *d = migration_drive(m);
	struct derr e;

	if (migration_enter(m, MIG_GRANTED, &e) < 0)
		log_err("%s", e.text);
	migration_ask(m, FRAME_MOVE_DONE);
	put_out(m);
	if (d)
		log_notice("drive %s: %s", d->k.name, d->moved);
	/* Who asked hears when it runs there, if that can be heard. */
	m->deadline = now_ms() + MIGRATE_TALK_MS;
	if (!m->s)
		migration_answer(m, 0, NULL);
}

static void runs_there(struct migration *m)
{
	if (m->phase == MIG_RELEASED && !m->arbiter)
		gone(m);
	if (m->phase == MIG_GRANTED)
		migration_answer(m, 0, NULL);
}

/* ---- steps, forward */

/* It waits for us otherwise, and for minutes. */
static void cancel_move(struct migration *m)
{
	m->nag = m->arbiter && m->phase >= MIG_MOVING && !migration_ask(m, FRAME_MOVE_CANCEL);
}

static void fail(struct migration *m, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void fail(struct migration *m, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	cancel_move(m);
	back(m, text);
}

/*
 * The drive is frozen and flushed. What is written to disk here is what a spicebdd
 * that is started anew acts by, so it is there before anybody is asked; and the
 * freeze has no end of its own from before the request leaves.
 */
static void release(struct migration *m)
{
	struct drive *d = migration_drive(m);
	struct kernel_drive k;
	struct kernel_err ke;
	struct derr e;
	JsonObject *o;

	set_clean(m, true);
	if (migration_enter(m, MIG_RELEASED, &e) < 0) {
		fail(m, "%s", e.text);
		return;
	}
	if (kernel_freeze(drives_kernel, d->index, MIGRATE_HOLDER, 0, &k, &ke) < 0) {
		fail(m, "it cannot be kept frozen: %s", ke.text);
		return;
	}
	m->deadline = now_ms() + UNDECIDED_MS;
	if (m->arbiter && !migration_ask(m, FRAME_MOVE_COMMIT)) {
		/* Nobody was asked: it is ours to take back. */
		back(m, "the share's connection was lost");
		return;
	}
	o = migration_message("release");
	json_object_set_boolean_member(o, "locked", d->k.state & SPICEBD_STATE_LOCKED_ADMIN);
	if (m->s)
		migstream_say(m->s, o);
	else
		json_object_unref(o);
}

static void look_frozen(struct migration *m)
{
	struct drive *d = migration_drive(m);
	int r;

	if (drive_refresh(d, NULL) < 0)
		return;
	r = freezing_look(&m->freezing, &d->k);
	if (r < 0) {
		fail(m, "not frozen: %s", m->freezing.why);
		return;
	}
	if (!r)
		return;
	if (m->arbiter) {
		release(m);
	} else if (!m->share_ready) {
		/* Once; the target is told before it is too late for both. */
		m->share_ready = true;
		m->far_ready = false;
		m->deadline = now_ms() + MIGRATE_TALK_MS;
		migstream_say(m->s, migration_message("ask"));
	} else if (m->far_ready) {
		release(m);
	}
}

static void freeze(struct migration *m)
{
	struct drive *d = migration_drive(m);
	struct kernel_drive k;
	struct kernel_err ke;

	freezing_begin(&m->freezing, &d->k, MIGRATE_HOLDER);
	if (kernel_freeze(drives_kernel, d->index, MIGRATE_HOLDER, MIGRATE_FREEZE_S, &k,
			  &ke) < 0) {
		fail(m, "it cannot be frozen: %s", ke.text);
		return;
	}
	m->phase = MIG_FREEZING;
	migration_event(m);
	look_frozen(m);
}

static void ready(struct migration *m)
{
	if (m->phase == MIG_MOVING && m->far_ready && (m->share_ready || !m->arbiter))
		freeze(m);
}

/* ---- the other spicebdd */

static int take_ascii(JsonObject *o, const char *name, char *out, size_t size)
{
	const char *s = member_str(o, name, "");

	for (const char *c = s; *c; c++)
		if (*c < 0x20 || *c > 0x7e)
			return -EINVAL;
	return g_strlcpy(out, s, size) < size ? 0 : -E2BIG;
}

static void on_prepared(struct migration *m, JsonObject *o)
{
	int64_t port = member_int(o, "port", -1);
	const char *drive = member_str(o, "drive", "");

	if (m->phase != MIG_SETUP)
		return;
	m->far_drive = source_clean_name(drive);
	m->begin.verb = FRAME_MOVE_BEGIN;
	m->begin.port = port;
	m->phase = MIG_MOVING;
	m->deadline = now_ms() + MIGRATE_MOVE_MS;
	if (!m->arbiter) {
		m->far_ready = true;
		migration_event(m);
		ready(m);
		return;
	}
	if (port < 0 || port >= SPICEBD_MAX_DRIVES ||
	    take_ascii(o, "uri", m->begin.uri, sizeof(m->begin.uri)) < 0 || !m->begin.uri[0] ||
	    take_ascii(o, "subject", m->begin.subject, sizeof(m->begin.subject)) < 0 ||
	    take_ascii(o, "ticket", m->begin.ticket, sizeof(m->begin.ticket)) < 0) {
		fail(m, "the target names no place to which the share could go");
		return;
	}
	if (!migration_ask(m, FRAME_MOVE_BEGIN)) {
		fail(m, "the share is not connected");
		return;
	}
	migration_event(m);
}

static void on_ready(struct migration *m)
{
	m->far_ready = true;
	if (m->phase == MIG_FREEZING)
		look_frozen(m);
	else
		ready(m);
}

/* Before the release its word is a reason; after it, only where it is the arbiter. */
static void on_error(struct migration *m, JsonObject *o)
{
	char *text = source_clean_name(member_str(o, "text", "it gives no reason"));

	if (m->phase < MIG_RELEASED)
		fail(m, "the target refuses: %s", text);
	else if (m->phase == MIG_RELEASED && !m->arbiter)
		back(m, text);
	g_free(text);
}

static void heard(void *user, JsonObject *o)
{
	struct migration *m = user;
	const char *what = member_str(o, "message", "");

	if (!strcmp(what, "prepared"))
		on_prepared(m, o);
	else if (!strcmp(what, "ready"))
		on_ready(m);
	else if (!strcmp(what, "error"))
		on_error(m, o);
	else if (!strcmp(what, "running"))
		runs_there(m);
}

static void lost(void *user, const char *why)
{
	struct migration *m = user;

	migration_close(m);
	if (m->phase < MIG_RELEASED)
		fail(m, "the target is lost: %s", why);
	else if (m->phase == MIG_GRANTED)
		migration_answer(m, 0, NULL);
	else if (m->phase == MIG_RELEASED && !m->arbiter)
		migration_why(m, "the target was lost (%s) when it may have taken the medium: look "
			      "there, then spicebdctl migrate --resolve", why);
}

static const struct migstream_ops ops = { .heard = heard, .lost = lost };

/* ---- the share */

void migrate_out_state(struct migration *m, const struct frame_move_state *s)
{
	/* It may be another share by now, which has not got the medium at all. */
	bool says_who = s->offer != 0;
	char text[300];

	if (m->phase == MIG_FAILED)
		return;
	if (m->phase == MIG_GRANTED) {
		migration_ask(m, FRAME_MOVE_DONE);
		return;
	}
	if (s->result == FRAME_MOVE_GRANTED ||
	    (says_who && s->owner_epoch > m->owner_epoch)) {
		if (m->phase != MIG_RELEASED)
			log_warn("drive %u: the share gave its medium away unasked", m->index);
		gone(m);
	} else if (s->result == FRAME_MOVE_OVER && (says_who || m->phase < MIG_RELEASED)) {
		snprintf(text, sizeof(text), "the share says: %s", s->text);
		back(m, text);
	} else if (m->phase == MIG_MOVING) {
		/* The target speaks to a share that knows of it, and not before. */
		if (s->result == FRAME_MOVE_WAITING)
			migstream_say(m->s, migration_message("begun"));
		m->share_ready |= s->result == FRAME_MOVE_READY;
		ready(m);
	}
}

/* A session of the share that has not been asked yet. */
static void ask_again(struct migration *m)
{
	const struct link_offer *o;
	struct link *l;
	struct link_port *p = migration_port(m, &l, &o);

	if (!p || p->epoch == m->asked)
		return;
	if (m->phase == MIG_RELEASED)
		migration_ask(m, FRAME_MOVE_CANCEL);
	else if (m->phase == MIG_GRANTED)
		migration_ask(m, FRAME_MOVE_DONE);
}

void migrate_out_look(struct migration *m)
{
	const struct link_offer *o;
	struct link *l;

	if (m->phase == MIG_FAILED) {
		m->nag = m->nag && !migration_ask(m, FRAME_MOVE_CANCEL);
		return;
	}
	if (m->phase == MIG_FREEZING)
		look_frozen(m);
	if (m->arbiter && m->phase == MIG_MOVING && !migration_port(m, &l, &o))
		fail(m, "the share's connection was lost");
	else if (m->arbiter)
		ask_again(m);
}

/* ---- time */

static void forget_when_unused(struct migration *m)
{
	struct drive *d = migration_drive(m);

	if (d && d->moved)
		return;
	migration_free(m);
	save();
}

void migrate_out_tick(struct migration *m)
{
	struct derr e;

	if (m->phase == MIG_GRANTED) {
		if (m->c && now_ms() > m->deadline) {
			derr_set(&e, EINPROGRESS, "the medium belongs to the target, which does "
				 "not say that it runs; look there");
			migration_answer(m, -EINPROGRESS, &e);
		}
		forget_when_unused(m);
		return;
	}
	if (m->phase == MIG_FREEZING)
		look_frozen(m);
	if (m->phase == MIG_FAILED || !m->deadline || now_ms() < m->deadline)
		return;
	m->deadline = 0;
	if (m->phase == MIG_SETUP) {
		fail(m, "the target does not answer");
	} else if (m->phase == MIG_MOVING) {
		fail(m, "the share did not reach the target in time");
	} else if (m->phase == MIG_FREEZING) {
		fail(m, "the target does not answer any more");
	} else if (m->phase == MIG_RELEASED) {
		if (!m->why)
			migration_why(m, "the share has not answered yet which host has the "
				      "medium");
		if (m->arbiter)
			migration_ask(m, FRAME_MOVE_CANCEL);
		m->deadline = now_ms() + UNDECIDED_MS;
		derr_set(&e, EINPROGRESS, "it is undecided which host has the medium, and the "
			 "drive is held: %s", m->why);
		migration_answer(m, -EINPROGRESS, &e);
	}
}

/* ---- commands */

void migrate_out_cancel(struct migration *m, const char *why)
{
	if (m->phase < MIG_RELEASED)
		fail(m, "%s", why);
	else if (m->phase == MIG_RELEASED && m->arbiter)
		migration_ask(m, FRAME_MOVE_CANCEL);
}

/* The share's word stands above the administrator's: its streams open or do not. */
void migrate_out_resolve(struct migration *m, bool here)
{
	if (m->arbiter && here)
		migration_ask(m, FRAME_MOVE_CANCEL);
	if (m->phase == MIG_RELEASED && here)
		back(m, "by the administrator's word");
	else if (m->phase == MIG_RELEASED)
		gone(m);
}

/* By force, or for an error: there is nothing left to migrate. */
void migrate_out_medium_lost(struct migration *m)
{
	if (m->phase < MIG_RELEASED) {
		fail(m, "its medium was ejected");
	} else if (m->phase == MIG_RELEASED) {
		m->phase = MIG_FAILED;
		migration_why(m, "its medium was ejected before it was known whether it had moved");
		unblock(m);
		thaw(m);
		migration_answer(m, -ECANCELED, &(struct derr){ .code = ECANCELED,
				 .text = "its medium was ejected meanwhile" });
	}
}

/* ---- the beginning */

static JsonObject *describe_drive(const struct drive *d)
{
	const struct kernel_drive_new n = {
		.personality = d->k.personality, .nr_queues = d->k.nr_queues,
		.queue_depth = d->k.queue_depth, .max_io = d->k.max_io,
		.reconnect_timeout = d->k.reconnect_timeout,
		.stall_timeout = d->k.stall_timeout, .open_wait = d->k.open_wait,
	};
	JsonObject *o = migrate_describe_drive(&n);

	json_object_set_string_member(o, "name", d->k.name);
	json_object_set_boolean_member(o, "tray-open", d->k.tray == SPICEBD_TRAY_OPEN);
	json_object_set_boolean_member(o, "locked", d->k.state & SPICEBD_STATE_LOCKED_ADMIN);
	return o;
}

static JsonObject *describe_medium(const struct migration *m, const struct medium *medium)
{
	JsonObject *o = json_object_new();
	char hex[2 * SPICEBD_MEDIUM_ID_MAX + 1];

	hex_encode(medium->id, medium->id_len, hex);
	json_object_set_string_member(o, "name", medium->name);
	json_object_set_string_member(o, "source", m->arbiter ? "spice" : "nbd");
	json_object_set_string_member(o, "id", hex);
	json_object_set_int_member(o, "size", m->size);
	json_object_set_boolean_member(o, "read-only", m->read_only);
	json_object_set_int_member(o, "owner-epoch", m->owner_epoch);
	json_object_set_int_member(o, "cache", medium->far.cache);
	json_object_set_int_member(o, "read-ahead", medium->far.read_ahead);
	if (m->arbiter)
		return o;
	json_object_set_string_member(o, "uri", medium->source->uri);
	json_object_set_boolean_member(o, "resend", medium->source->resend);
	return o;
}

static JsonObject *describe_target(const struct cmd *c)
{
	static const char *const names[][2] = {
		{ "to-drive", "drive" }, { "link", "link" }, { "share-uri", "share-uri" },
		{ "share-subject", "share-subject" },
	};
	JsonObject *o = json_object_new();

	for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
		if (arg_has(c, names[i][0]))
			json_object_set_string_member(o, names[i][1], arg_str(c, names[i][0]));
	return o;
}

static void say_prepare(struct migration *m, const struct cmd *c)
{
	struct drive *d = migration_drive(m);
	JsonObject *o = migration_message("prepare");
	char hex[2 * FRAME_UUID_LEN + 1];

	hex_encode(m->id, FRAME_UUID_LEN, hex);
	json_object_set_int_member(o, "spicebd-migrate", MIGRATE_VERSION);
	json_object_set_string_member(o, "program", SPICEBD_VERSION);
	json_object_set_string_member(o, "id", hex);
	json_object_set_object_member(o, "drive", describe_drive(d));
	json_object_set_object_member(o, "medium", describe_medium(m, d->medium));
	json_object_set_object_member(o, "target", describe_target(c));
	migstream_say(m->s, o);
}

int migrate_out_check(struct drive *d, struct derr *e)
{
	int r = drive_refresh(d, e);

	if (!r)
		r = blockers_check(d, OP_MIGRATE, false, e);
	if (r < 0)
		return r;
	if (d->medium->source->type == SOURCE_FILE)
		return derr_set(e, EOPNOTSUPP, "drive %s: its medium is a file of this host: share "
				"it, or serve it by NBD, so that the other host reaches it, too",
				d->k.name);
	return 0;
}

static int take_source(struct migration *m, struct drive *d, struct derr *e)
{
	const struct medium *medium = d->medium;
	const uint8_t *id;
	const char *link = source_spice_link(medium->source, &id);
	const struct link_offer *o;
	struct link *l;

	m->name = g_strdup(medium->name);
	m->size = medium->props.size;
	m->read_only = medium->read_only;
	m->arbiter = link;
	if (!link)
		return 0;
	g_strlcpy(m->link, link, sizeof(m->link));
	memcpy(m->medium_id, id, sizeof(m->medium_id));
	if (!migration_port(m, &l, &o) || !o)
		return derr_set(e, ENOTCONN, "drive %s: the share is not connected", d->k.name);
	m->owner_epoch = o->owner_epoch;
	return 0;
}

void migrate_out_start(struct cmd *c, struct drive *d, int fd)
{
	struct migration *m = migration_new(false, d->index);
	struct derr e;
	int r;

	random_bytes(m->id, sizeof(m->id));
	m->peer = source_clean_name(arg_str(c, "uri"));
	r = take_source(m, d, &e);
	if (!r)
		r = migration_enter(m, MIG_SETUP, &e);
	if (r < 0) {
		close(fd);
		migration_free(m);
		cmd_fail(c, &e);
		return;
	}
	d->blockers |= BLOCK_MIGRATE;
	m->c = c;
	m->deadline = now_ms() + MIGRATE_SETUP_MS;
	m->s = migstream_new(fd, &ops, m);
	say_prepare(m, c);
}

/* An earlier spicebdd was at it. What it had not released was nobody else's. */
void migrate_out_adopt(struct migration *m)
{
	struct drive *d = migration_drive(m);
	struct kernel_drive k;
	struct kernel_err ke;

	if (m->phase == MIG_GRANTED) {
		put_out(m);
		return;
	}
	if (m->phase < MIG_RELEASED) {
		m->phase = MIG_MOVING;
		fail(m, "spicebdd was started anew meanwhile");
		return;
	}
	log_notice("drive %s: is held: it is not known yet whether it has moved", d->k.name);
	set_clean(m, true);
	save();
	migration_why(m, "spicebdd was started anew, and the share was not heard yet");
	if (kernel_freeze(drives_kernel, d->index, MIGRATE_HOLDER, 0, &k, &ke) < 0)
		log_err("drive %s: it cannot be kept frozen: %s", d->k.name, ke.text);
}
