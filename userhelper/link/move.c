// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration between hosts, as far as it passes through here: what the daemon
 * asks of the share, and what the share says. Nothing is remembered.
 */
#include <stdio.h>
#include <string.h>

#include "log.h"
#include "session_impl.h"

static bool terminated(const char *text, size_t size)
{
	return memchr(text, '\0', size);
}

/* The share will never hear of it: that is an answer, too. */
static void not_asked(struct session *s, const struct link_msg *asked, const char *why)
{
	struct link_msg m = {
		.type = LINK_MOVE_STATE, .offer = asked->offer, .flags = FRAME_MOVE_OVER,
	};

	memcpy(m.u.move_state.id, asked->u.move.id, FRAME_UUID_LEN);
	snprintf(m.u.move_state.text, sizeof(m.u.move_state.text), "%s", why);
	session_emit(s, &m, -1);
}

void session_move(struct session *s, const struct link_msg *m)
{
	struct frame_move f = { .verb = m->flags, .offer = m->offer, .port = m->u.move.port };
	uint8_t *out;

	/* Down: the daemon asks again when it hears that the share is there. */
	if (!s->up || s->failed)
		return;
	if (m->flags < FRAME_MOVE_BEGIN || m->flags > FRAME_MOVE_DONE ||
	    !terminated(m->u.move.uri, sizeof(m->u.move.uri)) ||
	    !terminated(m->u.move.subject, sizeof(m->u.move.subject)) ||
	    !terminated(m->u.move.ticket, sizeof(m->u.move.ticket))) {
		log_warn("port %u: a move of the daemon's that makes no sense", s->port);
		return;
	}
	if (!(s->peer_caps & FRAME_CAP_MOVE)) {
		not_asked(s, m, "the share cannot go to another host: install a newer version there");
		return;
	}
	memcpy(f.id, m->u.move.id, sizeof(f.id));
	strcpy(f.uri, m->u.move.uri);
	strcpy(f.subject, m->u.move.subject);
	strcpy(f.ticket, m->u.move.ticket);
	out = session_room(s);
	if (out)
		session_queued(s, frame_pack_move(&s->tx, out, &f));
}

bool session_hear_move_state(struct session *s, const uint8_t *payload, size_t len)
{
	struct link_msg m = { .type = LINK_MOVE_STATE };
	struct frame_move_state f;

	if (!frame_parse_move_state(payload, len, &f))
		return false;
	m.offer = f.offer;
	m.flags = f.result;
	m.tag = f.owner_epoch;
	memcpy(m.u.move_state.id, f.id, sizeof(f.id));
	memcpy(m.u.move_state.text, f.text, sizeof(f.text));
	session_emit(s, &m, -1);
	return true;
}
