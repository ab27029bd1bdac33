// SPDX-License-Identifier: GPL-2.0-only
/* What a share may say, frame by frame. All of it is checked; little is believed. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "session_impl.h"
#include "sock.h"

void session_emit_up(struct session *s)
{
	struct link_msg m = { .type = LINK_PORT_UP };

	memcpy(m.u.peer.boot_id, s->peer_boot_id, FRAME_UUID_LEN);
	memcpy(m.u.peer.instance, s->peer_instance, FRAME_UUID_LEN);
	session_emit(s, &m, -1);
}

void session_emit_offer(struct session *s, const struct frame_offer *o)
{
	struct link_msg m = { .type = LINK_OFFER, .offer = o->id };

	m.u.offer.size = o->size;
	m.u.offer.flags = o->flags;
	m.u.offer.kind = o->kind;
	m.u.offer.owner_epoch = o->owner_epoch;
	memcpy(m.u.offer.medium_id, o->medium_id, FRAME_UUID_LEN);
	memcpy(m.u.offer.incarnation, o->incarnation, FRAME_UUID_LEN);
	memcpy(m.u.offer.name, o->name, sizeof(m.u.offer.name));
	session_emit(s, &m, -1);
}

static void protocol_error(struct session *s, const struct frame_header *h, const char *what)
{
	char why[96];

	snprintf(why, sizeof(why), "%s in a %s frame", what, frame_type_str(h->type));
	session_fail(s, FRAME_ERR_PROTOCOL, why);
}

/* From here on, both ways. */
static bool agree_on_checks(struct session *s, const struct frame_hello *h)
{
	if (!(h->capabilities & FRAME_CAP_CHECKS))
		return false;
	s->rx->checked = true;
	s->tx.checked = true;
	s->rx->seed = frame_seed(s->secret);
	s->tx.seed = s->rx->seed;
	return true;
}

static void hear_hello(struct session *s, const uint8_t *payload, size_t len)
{
	struct frame_hello h;

	/* frame_rx_feed() parsed it and compared the epoch. */
	if (s->up || !frame_parse_hello(payload, len, &h) || h.role != FRAME_ROLE_SHARE) {
		session_fail(s, FRAME_ERR_PROTOCOL, "a hello out of place");
		return;
	}
	if (h.version != FRAME_VERSION) {
		session_fail(s, FRAME_ERR_VERSION, "the client speaks another version of the frame protocol: use matching versions of spicebd");
		return;
	}
	if (s->params->lossy && !agree_on_checks(s, &h)) {
		session_fail(s, FRAME_ERR_VERSION, "the client does not check its frames, which a virtual machine's port needs: use matching versions of spicebd");
		return;
	}
	memcpy(s->peer_boot_id, h.boot_id, FRAME_UUID_LEN);
	memcpy(s->peer_instance, h.instance, FRAME_UUID_LEN);
	s->peer_frame_max = h.frame_max;
	s->peer_caps = h.capabilities;
	s->up = true;
	s->hello_due = 0;
	s->ping_due = now_ms() + s->params->ping_interval;
	loop_timer_start(s->timer, 1);
	log_info("port %u: up", s->port);
	session_emit_up(s);
	s->ops->up(s->opaque);
}

static struct frame_offer **offer_slot(struct session *s, uint32_t id)
{
	struct frame_offer **spare = NULL;
	size_t i;

	for (i = 0; i < FRAME_OFFERS_MAX; i++) {
		if (s->offers[i] && s->offers[i]->id == id)
			return &s->offers[i];
		if (!s->offers[i] && !spare)
			spare = &s->offers[i];
	}
	return spare;
}

static void hear_offer(struct session *s, const struct frame_header *h, const uint8_t *payload)
{
	struct frame_offer o, **slot;

	if (!frame_parse_offer(payload, h->length, &o)) {
		protocol_error(s, h, "bad field");
		return;
	}
	slot = offer_slot(s, o.id);
	if (!slot) {
		session_fail(s, FRAME_ERR_LIMIT, "too many media offered");
		return;
	}
	if (!*slot)
		*slot = malloc(sizeof(o));
	if (!*slot) {
		session_fail(s, FRAME_ERR_LIMIT, "out of memory");
		return;
	}
	**slot = o;
	session_emit_offer(s, &o);
}

static void hear_withdraw(struct session *s, const struct frame_header *h, const uint8_t *payload)
{
	struct link_msg m = { .type = LINK_WITHDRAW };
	struct frame_offer **slot;
	uint32_t id;

	if (!frame_parse_u32s(payload, h->length, &id, 1) || !id) {
		protocol_error(s, h, "bad field");
		return;
	}
	slot = offer_slot(s, id);
	if (!slot || !*slot)
		return;
	free(*slot);
	*slot = NULL;
	m.offer = id;
	session_emit(s, &m, -1);
}

static void hear_offers_end(struct session *s, const struct frame_header *h)
{
	struct link_msg m = { .type = LINK_OFFERS_END };

	if (h->length || s->offers_end) {
		protocol_error(s, h, "bad place or length");
		return;
	}
	s->offers_end = true;
	session_emit(s, &m, -1);
}

static bool offered(struct session *s, uint32_t id)
{
	struct frame_offer **slot = offer_slot(s, id);

	return slot && *slot && (*slot)->id == id;
}

/* What the administrator does not let a client do. */
static const char *why_not(struct session *s, const struct link_msg *m)
{
	if (m->flags & FRAME_EJECT_INSERT)
		return s->params->client_insert ? NULL :
			"clients may not put media in there (client-insert=yes would let them)";
	if (m->flags & FRAME_EJECT_FORCE && !s->params->client_force)
		return "clients may not eject by force there (client-force=no)";
	if (!(m->flags & FRAME_EJECT_REPLACE))
		return NULL;
	if (!s->params->client_change)
		return "clients may not change the medium there (client-change=no)";
	return offered(s, m->u.eject.by) ? NULL : "the other medium is not offered";
}

static void hear_eject_request(struct session *s, const struct frame_header *h,
			       const uint8_t *payload)
{
	struct link_msg m = { .type = LINK_EJECT_REQUEST };
	const char *refused;
	uint32_t flags;

	if (!frame_parse_eject(payload, h->length, &m.offer, &flags, &m.u.eject.by)) {
		protocol_error(s, h, "bad length");
		return;
	}
	if (!offered(s, m.offer))
		return;
	m.flags = flags & FRAME_EJECT_INSERT ?: flags & (FRAME_EJECT_FORCE | FRAME_EJECT_REPLACE);
	refused = why_not(s, &m);
	if (refused)
		session_notice(s, m.offer, FRAME_NOTICE_BUSY, refused);
	else
		session_emit(s, &m, -1);
}

static void hear_ping(struct session *s, const struct frame_header *h, const uint8_t *payload)
{
	uint64_t token;
	uint8_t *out;

	if (!frame_parse_u64(payload, h->length, &token)) {
		protocol_error(s, h, "bad length");
		return;
	}
	if (h->type == FRAME_PONG) {
		if (token == s->ping_token && s->ping_sent) {
			s->rtt_us = (now_ms() - s->ping_sent) * 1000;
			s->ping_sent = 0;
		}
		return;
	}
	out = session_room(s);
	if (out)
		session_queued(s, frame_pack_u64(&s->tx, out, FRAME_PONG, token));
}

static void hear_bye(struct session *s, const struct frame_header *h, const uint8_t *payload)
{
	char text[FRAME_TEXT_MAX + 1], why[96];
	uint32_t code;

	if (!frame_parse_code(payload, h->length, &code, text)) {
		protocol_error(s, h, "bad field");
		return;
	}
	snprintf(why, sizeof(why), "the share ended it: %s%s%.60s", frame_code_str(code),
		 *text ? ": " : "", text);
	session_down(s, why, code == FRAME_OK || code == FRAME_ERR_SHUTDOWN);
	/*
	 * From here only a RESYNC is heard. The old epoch's frames are those of
	 * nobody, and no hello can come for an epoch that was never sent.
	 */
	do {
		random_bytes(&s->epoch, sizeof(s->epoch));
	} while (!s->epoch);
	frame_rx_init(s->rx, s->epoch);
}

static void hear_stream(struct session *s, const struct frame_header *h, const uint8_t *payload)
{
	struct stream *st = stream_find(s, h->stream);
	char text[FRAME_TEXT_MAX + 1];
	uint32_t v;

	if (!st) {
		protocol_error(s, h, "unknown stream");
		return;
	}
	switch (h->type) {
	case FRAME_DATA:
		stream_data(st, payload, h->length);
		break;
	case FRAME_CLOSE:
		if (frame_parse_code(payload, h->length, &v, text))
			stream_closed(st, v, text);
		else
			protocol_error(s, h, "bad field");
		break;
	default:
		if (!frame_parse_u32s(payload, h->length, &v, 1))
			protocol_error(s, h, "bad length");
		else if (h->type == FRAME_OPENED)
			stream_opened(st, v);
		else
			stream_credit(st, v);
	}
}

static bool of_a_stream(uint16_t type)
{
	return type == FRAME_OPENED || type == FRAME_DATA || type == FRAME_CREDIT ||
	       type == FRAME_CLOSE;
}

void session_hear(struct session *s, const struct frame_header *h, const uint8_t *payload)
{
	s->last_heard = now_ms();
	if (h->type == FRAME_RESYNC) {
		session_epoch(s, "the share asked for a new session");
		return;
	}
	if (h->type == FRAME_HELLO) {
		hear_hello(s, payload, h->length);
		return;
	}
	if (h->type & FRAME_TYPE_OPTIONAL)
		return;
	if (of_a_stream(h->type)) {
		hear_stream(s, h, payload);
		return;
	}
	if (h->stream) {
		protocol_error(s, h, "a stream number");
		return;
	}
	switch (h->type) {
	case FRAME_OFFER:
		hear_offer(s, h, payload);
		break;
	case FRAME_WITHDRAW:
		hear_withdraw(s, h, payload);
		break;
	case FRAME_OFFERS_END:
		hear_offers_end(s, h);
		break;
	case FRAME_EJECT_REQUEST:
		hear_eject_request(s, h, payload);
		break;
	case FRAME_PING:
	case FRAME_PONG:
		hear_ping(s, h, payload);
		break;
	case FRAME_BYE:
		hear_bye(s, h, payload);
		break;
	case FRAME_MOVE_STATE:
		if (!session_hear_move_state(s, payload, h->length))
			protocol_error(s, h, "bad field");
		break;
	default:
		protocol_error(s, h, "a type that a share may not send");
	}
}
