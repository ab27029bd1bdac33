// SPDX-License-Identifier: GPL-2.0-only
/*
 * A target that has accepted cannot know by itself whose the medium is: the share may
 * have granted it before its word was lost. So it waits for the share, but not for
 * ever with a drive that nobody can use: migrate_late_begin() gives up the drive, and not
 * what was promised. Whenever a share offers that medium here it is asked, by a cancel, which
 * either makes sure that the medium never comes, or tells that it had come; then a
 * drive is taken for it. Nothing is written meanwhile: no drive has the medium before
 * the share's word.
 */
#include <stdio.h>
#include <string.h>

#include "log.h"
#include "migrate_impl.h"
#include "sock.h"
#include "state.h"

#define WAIT_S		300	/* longer than a share that is there takes to decide */
#define WAIT_MAX_S	86400
#define ASK_AGAIN_MS	5000

static long long wait_ms(void)
{
	static guint64 s;
	const char *text = g_getenv("SPICEBD_MIGRATE_WAIT");

	if (s)
		return s * 1000;
	s = WAIT_S;
	if (text && !g_ascii_string_to_unsigned(text, 10, 1, WAIT_MAX_S, &s, NULL))
		log_warn("SPICEBD_MIGRATE_WAIT in the environment is 1 to %d, in seconds",
			 WAIT_MAX_S);
	return s * 1000;
}

/* Its drive, if it was made for this and nobody has used it. */
static void remove_drive(struct migration *m)
{
	struct drive *d = migration_drive(m);
	struct derr e;

	if (d)
		d->blockers &= ~BLOCK_MIGRATE;
	if (d && m->made && !drive_has_medium(d) && drive_delete(d, true, &e) < 0)
		log_warn("%s", e.text);
	/* The number may come to be another drive's. */
	m->index = SPICEBD_MAX_DRIVES;
	m->made = false;
	if (state_save(&e) < 0)
		log_err("%s", e.text);
}

void migrate_late_begin(struct migration *m, const char *why)
{
	struct drive *d = migration_drive(m);
	struct derr e;

	m->phase = MIG_FAILED;
	m->late = true;
	g_free(m->drive);
	m->drive = g_strdup_printf("spicebd%u", m->index);
	if (state_save(&e) < 0) {
		log_err("%s", e.text);
		/* A drive that is there is kept until it can be written down. */
		if (d) {
			m->late = false;
			m->phase = MIG_ACCEPTED;
			m->since = now_ms();
			return;
		}
	}
	if (m->s) {
		JsonObject *o = migration_message("error");

		json_object_set_string_member(o, "text", why);
		migstream_say(m->s, o);
	}
	migration_close(m);
	migration_why(m, "%s; should the medium be this host's, a drive is taken for it as soon "
		      "as the share says so", why);
	migration_event(m);
	log_notice("drive %s: is not kept for medium '%s' any longer: %s", m->drive, m->name ?: "",
		   m->why);
	m->deadline = 0;
	remove_drive(m);
}

void migrate_late_tick(struct migration *m)
{
	const struct link_offer *o;
	struct link *l;

	if (m->phase == MIG_SETUP ? m->busy : !m->arbiter || migration_port(m, &l, &o)) {
		m->since = 0;
		return;
	}
	if (!m->since)
		m->since = now_ms();
	if (now_ms() - m->since < (m->unwanted ? ASK_AGAIN_MS : wait_ms()))
		return;
	if (m->phase == MIG_SETUP)
		migrate_in_drop(m, "the source does not go on");
	else
		migrate_late_begin(m, "no share came to say which host has the medium");
}

/* ---- whoever offers it is asked */

static const struct link_offer *find(const struct migration *m, struct link **l, uint32_t *port)
{
	*l = links_find(m->link);
	if (!*l || !(*l)->ready)
		return NULL;
	for (*port = 0; *port < SPICEBD_MAX_DRIVES; ++*port) {
		const struct link_port *p = (*l)->ports[*port];
		const struct link_offer *o = p && p->complete ? link_port_offer(p, m->medium_id) :
					     NULL;

		if (o)
			return o;
	}
	return NULL;
}

void migrate_late_ask(struct migration *m)
{
	struct frame_move f = { .verb = FRAME_MOVE_CANCEL };
	const struct link_offer *o;
	struct link *l;
	uint32_t port;

	if (now_ms() < m->deadline)
		return;
	o = find(m, &l, &port);
	if (!o)
		return;
	m->deadline = now_ms() + ASK_AGAIN_MS;
	memcpy(f.id, m->id, sizeof(f.id));
	f.offer = o->id;
	links_move(l, port, &f);
}

static void is_over(struct migration *m, const char *why)
{
	struct derr e;

	m->late = false;
	migration_why(m, "%s", why);
	log_notice("drive %s: nothing comes: %s", m->drive, why);
	if (state_save(&e) < 0)
		log_err("%s", e.text);
}

void migrate_late_state(struct migration *m, const struct frame_move_state *s)
{
	char text[300];
	struct derr e;

	snprintf(text, sizeof(text), "the share says: %s", s->text);
	if (s->result == FRAME_MOVE_OVER)
		is_over(m, text);
	else if (s->result == FRAME_MOVE_GRANTED && migrate_in_claim(m, &e) < 0)
		migration_why(m, "the medium belongs to this host, and has no drive: %s", e.text);
}

/* Its drive went before the process did, or after. */
void migrate_late_adopt(struct migration *m)
{
	migration_why(m, "spicebdd was started anew, and the share was not heard yet");
	remove_drive(m);
}
