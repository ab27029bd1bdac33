// SPDX-License-Identifier: GPL-2.0-only
/*
 * A medium comes from another host. Its drive is made, or taken, held, and stays
 * so until the medium belongs to this host, granted(): by the share's word, or,
 * where there is no share, by the source's release.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "freeze.h"
#include "hex.h"
#include "insert.h"
#include "log.h"
#include "medium.h"
#include "member.h"
#include "migrate_impl.h"
#include "sock.h"
#include "source.h"
#include "state.h"

#define STRANGERS_MAX	8
#define STRANGER_MS	10000
#define INSERT_S	60
#define TICKET_BYTES	16
#define AGAIN_MS	2000

static const struct migstream_ops ops;

static void say_error(struct migstream *s, const char *text)
{
	JsonObject *o = migration_message("error");

	json_object_set_string_member(o, "text", text);
	migstream_say(s, o);
}

/* ---- the end without a medium */

void migrate_in_drop(struct migration *m, const char *why)
{
	struct drive *d = migration_drive(m);
	enum mig_phase phase = m->phase;
	char *text = g_strdup(why);
	struct derr e;

	if (m->s)
		say_error(m->s, text);
	migration_close(m);
	if (phase == MIG_ACCEPTED && m->arbiter)
		migration_ask(m, FRAME_MOVE_CANCEL);
	m->phase = MIG_FAILED;
	migration_why(m, "%s", text);
	migration_event(m);
	if (d) {
		log_notice("drive %s: nothing comes: %s", d->k.name, text);
		d->blockers &= ~BLOCK_MIGRATE;
	}
	if (d && d->op)
		task_cancel(d->op);
	if (state_save(&e) < 0)
		log_err("%s", e.text);
	/* An insert that is under way ends by itself, and with it the medium. */
	if (d && m->made && drive_delete(d, true, &e) < 0)
		log_warn("%s", e.text);
	else if (d && !m->made && drive_has_medium(d) && drive_eject(d, true, &e) < 0)
		log_warn("%s", e.text);
	g_free(text);
}

/*
 * What was accepted may have been granted by now. The share says which of the two it is,
 * and nobody else knows; if it is not there, the drive is given up, and not what was
 * promised.
 */
void migrate_in_cancel(struct migration *m, const char *why)
{
	if (m->phase != MIG_ACCEPTED || !m->arbiter) {
		migrate_in_drop(m, why);
		return;
	}
	m->unwanted = true;
	if (!migration_ask(m, FRAME_MOVE_CANCEL)) {
		migrate_late_begin(m, why);
		return;
	}
	if (m->s)
		say_error(m->s, why);
	migration_why(m, "%s, and the share has not said yet whether that was in time", why);
	migration_close(m);
}

/* ---- the medium */

static void running(struct migration *m)
{
	struct drive *d = migration_drive(m);
	struct kernel_drive k;
	struct kernel_err ke;
	struct derr e;

	if (m->locked && drive_lock(d, &e) < 0)
		log_warn("%s", e.text);
	if (kernel_thaw(drives_kernel, d->index, SPICEBD_DEFAULT_HOLDER, &k, &ke) < 0 &&
	    ke.code != ENOENT)
		log_warn("drive %s: %s", d->k.name, ke.text);
	d->blockers &= ~BLOCK_MIGRATE;
	if (m->s)
		migstream_say(m->s, migration_message("running"));
	migration_close(m);
	log_notice("drive %s: medium '%s' has come from %s", d->k.name, m->name ?: "",
		   m->peer ?: "another host");
	if (migration_enter(m, MIG_DONE, &e) < 0)
		log_err("%s", e.text);
}

static bool is_the_medium(const struct migration *m, const struct medium *medium)
{
	char hex[2 * SPICEBD_MEDIUM_ID_MAX + 1];

	hex_encode(medium->id, medium->id_len, hex);
	return medium->props.size == m->size && (m->arbiter || !g_strcmp0(hex, m->nbd_id));
}

static void prepared(struct migration *m);

static void inserted(int r, struct drive *in, const struct derr *e, void *arg)
{
	struct migration *m = migration_by_id(arg);
	struct drive *d = m ? migration_drive(m) : NULL;

	g_free(arg);
	if (m)
		m->busy = false;
	/* It was dropped meanwhile. */
	if (!r && (!m || m->phase == MIG_FAILED))
		drive_eject(in, true, NULL);
	if (!m || !d || m->phase == MIG_FAILED)
		return;
	d->blockers |= BLOCK_MIGRATE;
	if (!r && !is_the_medium(m, d->medium))
		migrate_in_drop(m, "it is another medium that is found from here");
	else if (!r && m->phase == MIG_GRANTED)
		running(m);
	else if (!r)
		prepared(m);
	else if (m->phase == MIG_GRANTED)
		migration_why(m, "the medium belongs to this host, and cannot be inserted yet: %s",
			      e->text);
	else
		migrate_in_drop(m, e->text);
	if (m->phase == MIG_GRANTED)
		m->deadline = now_ms() + AGAIN_MS;
}

static void insert(struct migration *m)
{
	struct drive *d = migration_drive(m);
	struct insert_args a = {
		.drive = d, .personality = -1, .patience = -1, .timeout = INSERT_S,
		.mode = m->read_only ? RO_READ_ONLY : RO_READ_WRITE,
		.open_tray = m->tray_open && drive_has_tray(d), .far = m->far,
	};
	struct derr e;

	if (drive_has_tray(d))
		a.mode = RO_AUTO;
	if (m->arbiter)
		a.source = source_spice_of(m->link, m->medium_id);
	else
		a.source = source_parse(m->nbd_uri, NULL, &e);
	if (!a.source || (!m->arbiter && a.source->type != SOURCE_NBD)) {
		if (a.source)
			source_unref(a.source);
		migrate_in_drop(m, "the medium's address makes no sense here");
		return;
	}
	a.source->resend = m->resend;
	m->busy = true;
	m->deadline = 0;
	d->blockers &= ~BLOCK_MIGRATE;
	/* It lay in an open tray. But better in a closed one than in none. */
	if (a.open_tray && d->k.tray != SPICEBD_TRAY_OPEN && drive_open_tray(d, true, &e) < 0) {
		log_warn("%s", e.text);
		a.open_tray = false;
	}
	insert_start(&a, inserted, g_memdup2(m->id, sizeof(m->id)));
}

/* From here on the medium is this host's, and no other's. */
static void granted(struct migration *m)
{
	struct drive *d = migration_drive(m);
	struct derr e;

	if (m->phase == MIG_GRANTED)
		return;
	if (d->medium)
		d->medium->clean = false;
	if (migration_enter(m, MIG_GRANTED, &e) < 0) {
		/* It is so all the same; who is started anew asks the share again. */
		log_err("%s", e.text);
		m->phase = MIG_GRANTED;
	}
	if (d->medium && d->medium->state == MEDIUM_IN)
		running(m);
	else if (!m->busy)
		insert(m);
}

/* ---- the share */

static bool mismatch(struct migration *m, const struct link_offer *o)
{
	if (o->size == m->size && (m->read_only || !(o->flags & FRAME_OFFER_READ_ONLY)))
		return false;
	migrate_in_drop(m, "the share offers it with another size, or without writing");
	return true;
}

/* On disk first: from the moment that it is sent the medium may become ours. */
static void accept_medium(struct migration *m)
{
	struct derr e;

	if (m->phase == MIG_SETUP && migration_enter(m, MIG_ACCEPTED, &e) < 0) {
		migrate_in_drop(m, e.text);
		return;
	}
	migration_ask(m, m->unwanted ? FRAME_MOVE_CANCEL : FRAME_MOVE_ACCEPT);
}

void migrate_in_look(struct migration *m)
{
	const struct link_offer *o;
	struct link *l;
	struct link_port *p = m->arbiter ? migration_port(m, &l, &o) : NULL;

	if (!p || !o || m->phase == MIG_GRANTED || (m->phase == MIG_SETUP && !m->far_ready))
		return;
	if (p->epoch != m->asked && !mismatch(m, o))
		accept_medium(m);
}

void migrate_in_state(struct migration *m, const struct frame_move_state *s)
{
	char text[300];

	if (m->phase != MIG_ACCEPTED)
		return;
	if (s->result == FRAME_MOVE_READY && m->s) {
		migstream_say(m->s, migration_message("ready"));
	} else if (s->result == FRAME_MOVE_GRANTED) {
		granted(m);
	} else if (s->result == FRAME_MOVE_OVER) {
		migration_ask(m, FRAME_MOVE_DONE);
		m->phase = MIG_SETUP;	/* it need not be told again */
		snprintf(text, sizeof(text), "the share says: %s", s->text);
		migrate_in_drop(m, text);
	}
}

/* ---- the drive */

/* One that was made held, for this. */
static bool fits(const struct drive *d, uint32_t personality)
{
	return d->k.personality == personality && !drive_has_medium(d) && !d->medium &&
	       !d->blockers && !(d->k.state & SPICEBD_STATE_STALE) && freeze_held(d) &&
	       freeze_at_start(d);
}

static struct drive *take_held(const char *name, uint32_t personality, struct derr *e)
{
	struct drive *d;

	if (name) {
		d = drive_find(name, e);
		if (d && fits(d, personality))
			return d;
		if (d)
			derr_set(e, EBUSY, "drive %s is not an empty %s drive that was made with "
				 "--hold", name, personality == SPICEBD_PERSONALITY_CDROM ?
				 "cdrom" : "disk");
		return NULL;
	}
	for (d = drive_first(); d; d = drive_next(d))
		if (fits(d, personality))
			return d;
	return NULL;
}

static struct drive *make_drive(const struct kernel_drive_new *n, struct derr *e)
{
	struct drive *d;

	return drive_add(n, &d, e) < 0 ? NULL : d;
}

/* @name: that one, or NULL: one that fits, or else one that is @made */
static struct drive *find_drive(const struct kernel_drive_new *n, const char *name, bool *made,
				struct derr *e)
{
	struct drive *d = take_held(name, n->personality, e);

	*made = !d && !name;
	return *made ? make_drive(n, e) : d;
}

/* ---- where the share is to go */

static int pick_link(struct migration *m, const char *name, struct derr *e)
{
	struct link *found = NULL;

	for (GList *i = links_all(); i; i = i->next) {
		struct link *l = i->data;

		if (!l->ready || !strncmp(l->address, "port:", 5) || (name && strcmp(name, l->name)))
			continue;
		if (found)
			return derr_set(e, ENOTUNIQ, "several links listen here: name one (--link)");
		found = l;
	}
	if (!found && name)
		return derr_set(e, ENOENT, "no link '%s' listens here", name);
	if (!found)
		return derr_set(e, ENOENT, "no link listens here to which the share could come: "
				"start one with 'spicebdctl listen'");
	g_strlcpy(m->link, found->name, sizeof(m->link));
	return 0;
}

/* The link's address as the share needs it; the administrator's word goes first. */
static int share_uri(const struct migration *m, JsonObject *target, char *out, size_t size,
		     struct derr *e)
{
	const char *given = member_str(target, "share-uri", NULL);
	const char *address = links_find(m->link)->address;
	int n;

	if (given)
		n = snprintf(out, size, "%s", given);
	else if (!strncmp(address, "unix:", 5))
		n = snprintf(out, size, "spice+unix://%s", address + 5);
	else if (strncmp(address, "0.0.0.0:", 8) && strncmp(address, "[::]:", 5))
		n = snprintf(out, size, "spice://%s", address);
	else
		return derr_set(e, EINVAL, "link %s listens at any address: say which one the share "
				"shall go to (--share-uri)", m->link);
	return n < size ? 0 : derr_set(e, ENAMETOOLONG, "the address for the share has more than "
				       "%d characters", FRAME_MOVE_URI_MAX);
}

/*
 * A share that has this link's session already comes by that, with its own secret,
 * which an invitation would take the place of.
 */
static void invite(struct migration *m, JsonObject *o)
{
	struct link *l = links_find(m->link);
	char ticket[2 * TICKET_BYTES + 1];
	uint8_t bytes[TICKET_BYTES];

	if (l->client)
		return;
	random_bytes(bytes, sizeof(bytes));
	hex_encode(bytes, sizeof(bytes), ticket);
	links_invite(l, ticket);
	json_object_set_string_member(o, "ticket", ticket);
	explicit_bzero(ticket, sizeof(ticket));
}

static int say_prepared(struct migration *m, JsonObject *target, struct derr *e)
{
	struct drive *d = migration_drive(m);
	JsonObject *o = migration_message("prepared");
	char uri[FRAME_MOVE_URI_MAX + 1];
	const char *subject = target ? member_str(target, "share-subject", NULL) : NULL;

	json_object_set_string_member(o, "drive", d->k.name);
	if (m->arbiter) {
		if (share_uri(m, target, uri, sizeof(uri), e) < 0) {
			json_object_unref(o);
			return -e->code;
		}
		json_object_set_int_member(o, "port", d->index);
		json_object_set_string_member(o, "uri", uri);
		if (subject)
			json_object_set_string_member(o, "subject", subject);
		invite(m, o);
	}
	migstream_say(m->s, o);
	return 0;
}

/* A medium of a plain server lies in the held drive already, and nobody has read it. */
static void prepared(struct migration *m)
{
	struct drive *d = migration_drive(m);
	struct derr e;

	d->medium->clean = true;
	if (m->s && say_prepared(m, NULL, &e) < 0)
		migrate_in_drop(m, e.text);
}

/* ---- what the source says */

static JsonObject *sub(JsonObject *o, const char *name)
{
	JsonNode *n = json_object_get_member(o, name);

	return n && JSON_NODE_HOLDS_OBJECT(n) ? json_node_get_object(n) : NULL;
}

static int take_medium(struct migration *m, JsonObject *o, struct derr *e)
{
	const char *source = member_str(o, "source", ""), *id = member_str(o, "id", "");
	uint8_t bytes[1 + FRAME_UUID_LEN];

	m->arbiter = !strcmp(source, "spice");
	m->name = source_clean_name(member_str(o, "name", ""));
	m->size = member_int(o, "size", 0);
	m->read_only = member_bool(o, "read-only", TRUE);
	m->owner_epoch = member_int(o, "owner-epoch", 0);
	m->resend = member_bool(o, "resend", FALSE);
	m->far.cache = member_int(o, "cache", FAR_AUTO);
	m->far.read_ahead = member_int(o, "read-ahead", FAR_AUTO);
	if (m->arbiter && hex_decode(id, bytes, sizeof(bytes))) {
		memcpy(m->medium_id, bytes + 1, FRAME_UUID_LEN);
		return 0;
	}
	m->nbd_id = g_strdup(id);
	m->nbd_uri = g_strdup(member_str(o, "uri", ""));
	if (strcmp(source, "nbd") || strncmp(m->nbd_uri, "nbd", 3))
		return derr_set(e, EINVAL, "its medium is of a kind that is not known here");
	return 0;
}

/* Return: a migration, or NULL with the reason in @e */
static struct migration *take(JsonObject *o, struct derr *e)
{
	JsonObject *drive = sub(o, "drive"), *medium = sub(o, "medium"), *target = sub(o, "target");
	uint8_t id[FRAME_UUID_LEN];
	struct kernel_drive_new make;
	struct migration *m;
	struct drive *d;
	bool made = false;

	if (member_int(o, "spicebd-migrate", 0) != MIGRATE_VERSION) {
		derr_set(e, EPROTONOSUPPORT, "version %lld of the migration protocol is not spoken "
			 "here (spicebdd %s speaks %d): use matching versions of spicebd",
			 (long long)member_int(o, "spicebd-migrate", 0), SPICEBD_VERSION,
			 MIGRATE_VERSION);
		return NULL;
	}
	if (!drive || !medium || !target ||
	    !hex_decode(member_str(o, "id", ""), id, sizeof(id)) || migration_by_id(id)) {
		derr_set(e, EINVAL, "a request that makes no sense");
		return NULL;
	}
	if (blockers_stopped()) {
		derr_set(e, EBUSY, "spicebdd is ending");
		return NULL;
	}
	if (!migrate_parse_drive(drive, &make)) {
		derr_set(e, EINVAL, "the drive is of a kind that is not known here");
		return NULL;
	}
	d = find_drive(&make, member_str(target, "drive", NULL), &made, e);
	if (!d)
		return NULL;
	m = migration_new(true, d->index);
	memcpy(m->id, id, sizeof(m->id));
	m->made = made;
	m->make = make;
	m->tray_open = member_bool(drive, "tray-open", FALSE);
	m->locked = member_bool(drive, "locked", FALSE);
	m->peer = g_strdup("another host");
	m->far_drive = source_clean_name(member_str(drive, "name", ""));
	d->blockers |= BLOCK_MIGRATE;
	if (take_medium(m, medium, e) < 0 ||
	    (m->arbiter && pick_link(m, member_str(target, "link", NULL), e) < 0) ||
	    migration_enter(m, MIG_SETUP, e) < 0) {
		migrate_in_drop(m, e->text);
		return NULL;
	}
	return m;
}

static void on_release(struct migration *m, JsonObject *o)
{
	m->locked = member_bool(o, "locked", m->locked);
	if (!m->arbiter && m->phase == MIG_ACCEPTED)
		granted(m);
}

/* From here on only the source's release, or the administrator, decides. */
static void on_ask(struct migration *m)
{
	struct derr e;

	if (m->arbiter || m->phase != MIG_SETUP || m->busy)
		return;
	if (migration_enter(m, MIG_ACCEPTED, &e) < 0)
		migrate_in_drop(m, e.text);
	else
		migstream_say(m->s, migration_message("ready"));
}

static void heard(void *user, JsonObject *o)
{
	struct migration *m = user;
	const char *what = member_str(o, "message", "");

	if (!strcmp(what, "begun")) {
		m->far_ready = true;
		migrate_in_look(m);
	} else if (!strcmp(what, "ask")) {
		on_ask(m);
	} else if (!strcmp(what, "release")) {
		on_release(m, o);
	} else if (!strcmp(what, "cancel") && m->phase != MIG_GRANTED) {
		char *text = source_clean_name(member_str(o, "text", "cancelled at the source"));

		migrate_in_cancel(m, text);
		g_free(text);
	}
}

static void lost(void *user, const char *why)
{
	struct migration *m = user;
	char text[200];

	migration_close(m);
	snprintf(text, sizeof(text), "the source is lost: %s", why);
	if (m->phase == MIG_SETUP)
		migrate_in_drop(m, text);
	else if (m->phase == MIG_ACCEPTED)
		migration_why(m, "%s: %s", text, m->arbiter ?
			      "the share will say which host has the medium" :
			      "look there which host has the medium, then spicebdctl migrate "
			      "--resolve");
}

static const struct migstream_ops ops = { .heard = heard, .lost = lost };

/* ---- those who have said nothing yet */

struct stranger {
	struct migstream *s;
	guint timer;
};

static unsigned int strangers;

static struct migstream *stranger_free(struct stranger *x)
{
	struct migstream *s = x->s;

	g_source_remove(x->timer);
	g_free(x);
	strangers--;
	return s;
}

static void first_heard(void *user, JsonObject *o)
{
	struct migstream *s = stranger_free(user);
	struct migration *m;
	struct derr e;

	derr_set(&e, EINVAL, "that is no request to take a drive");
	m = strcmp(member_str(o, "message", ""), "prepare") ? NULL : take(o, &e);
	if (!m) {
		say_error(s, e.text);
		migstream_free(s);
		return;
	}
	m->s = s;
	migstream_set(s, &ops, m);
	if (!m->arbiter)
		insert(m);
	else if (say_prepared(m, sub(o, "target"), &e) < 0)
		migrate_in_drop(m, e.text);
}

static void first_lost(void *user, const char *why)
{
	migstream_free(stranger_free(user));
}

static gboolean too_late(gpointer arg)
{
	struct stranger *x = arg;

	migstream_free(stranger_free(x));
	return G_SOURCE_REMOVE;
}

void migrate_in_accept(int fd)
{
	static const struct migstream_ops first = { .heard = first_heard, .lost = first_lost };
	struct stranger *x = g_new0(struct stranger, 1);

	x->s = migstream_new(fd, &first, x);
	x->timer = g_timeout_add(STRANGER_MS, too_late, x);
	if (++strangers <= STRANGERS_MAX)
		return;
	say_error(x->s, "too many migrations come at the same time");
	migstream_free(stranger_free(x));
}

/* ---- time, the administrator, the beginning */

void migrate_in_tick(struct migration *m)
{
	if (m->phase == MIG_GRANTED && m->deadline && now_ms() >= m->deadline && !m->busy)
		insert(m);
	else if (m->phase == MIG_SETUP || m->phase == MIG_ACCEPTED)
		migrate_late_tick(m);
	else if (m->late)
		migrate_late_ask(m);
}

int migrate_in_claim(struct migration *m, struct derr *e)
{
	struct drive *d;

	if (blockers_stopped())
		return derr_set(e, EBUSY, "spicebdd is ending");
	d = find_drive(&m->make, NULL, &m->made, e);
	if (!d)
		return -e->code;
	m->index = d->index;
	m->late = false;
	m->phase = MIG_ACCEPTED;
	d->blockers |= BLOCK_MIGRATE;
	granted(m);
	return 0;
}

int migrate_in_resolve(struct migration *m, bool here, struct derr *e)
{
	if (m->phase == MIG_GRANTED)
		return derr_set(e, EINVAL, "the medium belongs to this host; it is inserted as soon "
				"as it can be");
	if (!here)
		migrate_in_cancel(m, "given up by the administrator's word");
	else if (m->busy)
		return derr_set(e, EBUSY, "the medium is being looked at; try again");
	else
		granted(m);
	return 0;
}

void migrate_in_adopt(struct migration *m)
{
	struct drive *d = migration_drive(m);
	struct derr e;

	if (m->late) {
		migrate_late_adopt(m);
		return;
	}
	if (m->phase == MIG_SETUP) {
		migrate_in_drop(m, "spicebdd was started anew meanwhile");
		return;
	}
	if (m->phase == MIG_GRANTED && d->medium && d->medium->state == MEDIUM_IN)
		running(m);
	else if (m->phase == MIG_GRANTED)
		m->deadline = now_ms();
	if (m->phase != MIG_ACCEPTED)
		return;
	/* Nothing was ever sent to it. */
	if (d->medium)
		d->medium->clean = true;
	if (state_save(&e) < 0)
		log_err("%s", e.text);
	migration_why(m, "spicebdd was started anew, and it was not heard yet which host "
			      "has the medium");
}
