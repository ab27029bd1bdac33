// SPDX-License-Identifier: GPL-2.0-only
/*
 * A medium comes to belong to another host. The share is the arbiter: one host at
 * a time may open a medium, and what makes it the other one's is done here, at one
 * point, grant(): when every server of the old host's streams was reaped, and the
 * new owner epoch is on disk. Before that point a cancel is final, after it the
 * grant is; whoever asks, however late, is told which of the two it was.
 * Documentation/migration.rst.
 */
#include <string.h>

#include "core.h"
#include "log.h"

#define REACH_MS	20000	/* to the other host, and its word that all is well */
#define DECIDE_MS	180000	/* then the first host commits, or the move is over */
#define LEAVE_MS	500	/* for what was said last */
#define REFUSED_MS	300000	/* for the other host to hear that it gets nothing */
#define MOVED_MAX	256	/* moves that are over and can be asked about */

/**
 * struct move - one migration
 * @from, @to: drives; @to has no site before one is joined (@joined)
 * @result: what a MOVE_STATE says of it
 * @committing: only servers that still end are waited for
 * @accepted: the other host has accepted it once
 * @known: the host to which that matters knows the outcome: the first one that the
 *	medium has gone, or the other one, if it had accepted, that it does not come
 */
struct move {
	struct spicebd_share *share;
	uint8_t id[FRAME_UUID_LEN];
	uint32_t offer;
	unsigned int from, to;
	uint32_t owner_epoch;
	enum frame_move_result result;
	bool joined, committing, accepted, known;
	char *uri, *text;
	guint timer;
};

static void free_move(gpointer data)
{
	struct move *m = data;

	g_free(m->uri);
	g_free(m->text);
	g_free(m);
}

static struct move *find(struct spicebd_share *share, const uint8_t *id)
{
	if (share->move && !memcmp(share->move->id, id, FRAME_UUID_LEN))
		return share->move;
	for (GList *l = share->moved; l; l = l->next) {
		struct move *m = l->data;

		if (!memcmp(m->id, id, FRAME_UUID_LEN))
			return m;
	}
	return NULL;
}

static struct port *port_of(struct spicebd_share *share, unsigned int drive)
{
	for (GList *l = share->ports; l; l = l->next) {
		struct port *p = l->data;

		if (p->drive == drive && p->state == PORT_UP)
			return p;
	}
	return NULL;
}

static void set_timer(struct move *m, unsigned int ms, GSourceFunc fn)
{
	if (m->timer)
		g_source_remove(m->timer);
	m->timer = ms ? g_timeout_add(ms, fn, m) : 0;
}

/* ---- what is told */

static void answer(struct port *p, const uint8_t *id, uint32_t offer,
		   enum frame_move_result result, const char *text)
{
	const struct offer *o = offer_find(p->share, offer);
	struct frame_move_state s = { .result = result };

	memcpy(s.id, id, sizeof(s.id));
	s.offer = o ? offer : 0;
	s.owner_epoch = o ? o->owner_epoch : 0;
	g_strlcpy(s.text, text ? text : "", sizeof(s.text));
	session_move_state(p, &s);
}

static void answer_move(struct port *p, const struct move *m)
{
	answer(p, m->id, m->offer, m->result, m->text);
}

static void tell(struct move *m, unsigned int drive)
{
	struct port *p = port_of(m->share, drive);

	if (p)
		answer_move(p, m);
}

static void tell_user(struct move *m, enum spicebd_share_event_type type, const char *text)
{
	struct offer *o = offer_find(m->share, m->offer);

	if (o)
		share_event(m->share, type, m->from, o, text);
}

/* ---- sites that are needed no more */

static bool site_needed(struct spicebd_share *share, unsigned int site)
{
	const struct move *m = share->move;

	if (m && (site_of(m->from) == site || (m->joined && site_of(m->to) == site)))
		return true;
	for (GList *l = share->moved; l; l = l->next) {
		const struct move *old = l->data;
		const struct offer *o = offer_find(share, old->offer);

		/* It may not have opened it yet. */
		if (old->result == FRAME_MOVE_GRANTED && o && o->owner == site &&
		    site_of(old->to) == site)
			return true;
		if (!old->known && site_of(old->result == FRAME_MOVE_GRANTED ? old->from :
					   old->to) == site)
			return true;
	}
	for (guint i = 0; i < share->offers->len; i++) {
		struct offer *o = g_ptr_array_index(share->offers, i);

		for (unsigned int d = 0; d < SHARE_DRIVES_MAX; d++) {
			int drive = site * SHARE_DRIVES_MAX + d;

			if (offer_inserted(o, drive) || offer_streams(o, drive))
				return true;
		}
	}
	return false;
}

static gboolean on_leave(gpointer data)
{
	struct site *site = data;
	struct spicebd_share_event ev = {
		.type = SPICEBD_SHARE_LEAVE, .drive = -1, .session = site->session,
	};

	site->leaving = 0;
	if (!site->share->stopping && !site_needed(site->share, site - site->share->sites))
		site->share->fn(site->share->user, &ev);
	return G_SOURCE_REMOVE;
}

/* One of the two stays in any case. @gone: the one that lost the medium, or did not get it */
static void leave(struct spicebd_share *share, unsigned int gone)
{
	struct site *site = &share->sites[gone], *other = &share->sites[!gone];

	if (site->session && other->session && !site->leaving && !share->stopping)
		site->leaving = g_timeout_add(LEAVE_MS, on_leave, site);
}

/* ---- the end of a move */

static void retire(struct move *m)
{
	struct spicebd_share *share = m->share;
	GList *last;

	set_timer(m, 0, NULL);
	share->move = NULL;
	share->moved = g_list_prepend(share->moved, m);
	if (g_list_length(share->moved) <= MOVED_MAX)
		return;
	last = g_list_last(share->moved);
	set_timer(last->data, 0, NULL);
	free_move(last->data);
	share->moved = g_list_delete_link(share->moved, last);
}

static gboolean on_refused(gpointer data)
{
	struct move *m = data;

	m->timer = 0;
	m->known = true;
	leave(m->share, site_of(m->to));
	return G_SOURCE_REMOVE;
}

static void over(struct move *m, const char *why)
{
	struct spicebd_share *share = m->share;

	m->result = FRAME_MOVE_OVER;
	m->text = g_strdup(why);
	m->committing = false;
	m->known = !m->accepted;
	retire(m);
	if (!m->known)
		set_timer(m, REFUSED_MS, on_refused);
	log_info("the move to %s is over: %s", m->uri, why);
	tell(m, m->from);
	if (m->joined)
		tell(m, m->to);
	tell_user(m, SPICEBD_SHARE_STAYED, why);
	if (m->joined)
		leave(share, site_of(m->to));
}

/*
 * The one point at which the medium changes hands. What is on disk is what a
 * share that is started anew says, so that comes before anybody hears of it.
 */
static void grant(struct move *m, struct offer *o)
{
	uint8_t moved_by[FRAME_UUID_LEN];
	int before = o->owner;

	memcpy(moved_by, o->moved_by, sizeof(moved_by));
	memcpy(o->moved_by, m->id, sizeof(o->moved_by));
	o->owner = site_of(m->to);
	o->owner_epoch++;
	if (!identity_keep(o)) {
		memcpy(o->moved_by, moved_by, sizeof(moved_by));
		o->owner = before;
		o->owner_epoch--;
		over(m, "the share cannot write down who has the medium; is its disk full?");
		return;
	}
	m->owner_epoch = o->owner_epoch;
	m->result = FRAME_MOVE_GRANTED;
	m->committing = false;
	/* Its user is told so by the drives; but it is in none at no time. */
	offer_set_inserted(o, m->to, true);
	offer_set_inserted(o, m->from, false);
	retire(m);
	session_offer_all_ports(o, -1);
	tell(m, m->to);
	tell(m, m->from);
	tell_user(m, SPICEBD_SHARE_MOVED, m->uri);
}

void move_progress(struct spicebd_share *share)
{
	struct move *m = share->move;
	struct offer *o;

	if (!m || !m->committing)
		return;
	o = offer_find(share, m->offer);
	if (o && !server_count(share, -1, o))
		grant(m, o);
}

static gboolean on_timeout(gpointer data)
{
	struct move *m = data;

	m->timer = 0;
	over(m, m->result == FRAME_MOVE_READY ? "the first host did not decide in time" :
	     "the other host did not accept the medium in time");
	return G_SOURCE_REMOVE;
}

/* ---- what is asked */

static void claim(struct spicebd_share *share, unsigned int site)
{
	for (guint i = 0; i < share->offers->len; i++) {
		struct offer *o = g_ptr_array_index(share->offers, i);

		if (o->owner < 0)
			o->owner = site;
	}
}

/* The session with that host: one that stands, or the user's that is to come. */
static bool join(struct move *m, const struct frame_move *asked)
{
	struct spicebd_share *share = m->share;
	struct site *other = &share->sites[!site_of(m->from)];
	const struct spicebd_share_move to = {
		.uri = asked->uri, .subject = asked->subject, .ticket = asked->ticket,
	};
	struct spicebd_share_event ev = {
		.type = SPICEBD_SHARE_MOVE, .drive = drive_no(m->from), .move = &to,
	};

	if (other->session && g_strcmp0(other->uri, asked->uri)) {
		over(m, "the share is connected to two hosts already; try again later");
		return false;
	}
	if (other->leaving)
		g_source_remove(other->leaving);
	other->leaving = 0;
	m->to = asked->port + (other - share->sites) * SHARE_DRIVES_MAX;
	if (!other->session)
		share->fn(share->user, &ev);
	/* It may have ended the move, from within. */
	if (share->move != m)
		return false;
	if (!other->session) {
		over(m, "the share's program cannot go to another host");
		return false;
	}
	g_free(other->uri);
	other->uri = g_strdup(asked->uri);
	m->joined = true;
	return true;
}

static void begin(struct port *p, const struct frame_move *asked)
{
	struct spicebd_share *share = p->share;
	struct offer *o = offer_find(share, asked->offer);
	const char *wrong = NULL;
	struct move *m;

	if (!o)
		wrong = "the medium is not offered any more";
	else if (share->move)
		wrong = "another medium of this share is on its way; try again later";
	else if (o->owner >= 0 && o->owner != p->site)
		wrong = "the medium belongs to another host";
	else if (asked->port >= SHARE_DRIVES_MAX)
		wrong = "no such port";
	if (wrong) {
		answer(p, asked->id, asked->offer, FRAME_MOVE_OVER, wrong);
		return;
	}
	m = g_new0(struct move, 1);
	m->share = share;
	memcpy(m->id, asked->id, sizeof(m->id));
	m->offer = asked->offer;
	m->from = p->drive;
	m->result = FRAME_MOVE_WAITING;
	m->uri = g_strdup(asked->uri);
	share->move = m;
	claim(share, p->site);
	set_timer(m, REACH_MS, on_timeout);
	if (join(m, asked))
		answer_move(p, m);
}

static void accept_move(struct port *p, struct move *m)
{
	if (!m->joined || p->drive != m->to)
		return;
	m->accepted = true;
	if (m->result == FRAME_MOVE_WAITING) {
		m->result = FRAME_MOVE_READY;
		set_timer(m, DECIDE_MS, on_timeout);
		tell(m, m->from);
	}
	answer_move(p, m);
}

static void commit(struct port *p, struct move *m)
{
	struct offer *o = offer_find(p->share, m->offer);

	if (p->drive != m->from || m->committing)
		return;
	if (m->result != FRAME_MOVE_READY || !o || !port_of(p->share, m->to)) {
		over(m, "the other host has gone");
		return;
	}
	m->committing = true;
	set_timer(m, 0, NULL);
	stream_fail_offer(o, FRAME_ERR_MOVED, "the medium goes to another host");
	move_progress(p->share);
}

/*
 * Either host's word, on any of its ports: a target that gave its drive up has no
 * other left.
 */
static void cancel(struct port *p, struct move *m)
{
	bool first = p->site == site_of(m->from);

	if (!first && !m->joined)
		return;
	m->accepted &= first;
	over(m, first ? "cancelled" : "cancelled at the other host");
	if (p->drive != m->from && p->drive != m->to)
		answer_move(p, m);
}

/* Whoever it matters to says that it knows. */
static void note_known(struct port *p, struct move *m)
{
	unsigned int who = m->result == FRAME_MOVE_GRANTED ? m->from : m->to;

	if (p->site != site_of(who))
		return;
	m->known = true;
	set_timer(m, 0, NULL);
	leave(p->share, site_of(who));
}

/* Another share knew it: what is on disk is the last one that was granted. */
static void before_us(struct port *p, const struct frame_move *asked)
{
	const struct offer *o = offer_find(p->share, asked->offer);

	if (o && o->owner_epoch && !memcmp(o->moved_by, asked->id, sizeof(o->moved_by)))
		answer(p, asked->id, asked->offer, FRAME_MOVE_GRANTED, NULL);
	else
		answer(p, asked->id, asked->offer, FRAME_MOVE_OVER,
		       "the share does not know of the move: it was started anew");
}

/* Of a move that is over, or that another share knew. */
static void after(struct port *p, const struct frame_move *asked, struct move *m)
{
	if (m && (asked->verb == FRAME_MOVE_DONE || (asked->verb == FRAME_MOVE_CANCEL &&
						     m->result == FRAME_MOVE_OVER)))
		note_known(p, m);
	if (asked->verb == FRAME_MOVE_DONE)
		return;
	if (m)
		answer_move(p, m);
	else
		before_us(p, asked);
}

bool move_heard(struct port *p, const struct frame_move *asked)
{
	struct move *m = find(p->share, asked->id);

	if (p->share->stopping)
		return true;
	if (!m && asked->verb == FRAME_MOVE_BEGIN) {
		begin(p, asked);
		return true;
	}
	if (!m || m != p->share->move) {
		after(p, asked, m);
		return true;
	}
	switch (asked->verb) {
	case FRAME_MOVE_BEGIN:
		answer_move(p, m);
		break;
	case FRAME_MOVE_ACCEPT:
		accept_move(p, m);
		break;
	case FRAME_MOVE_COMMIT:
		commit(p, m);
		break;
	case FRAME_MOVE_CANCEL:
		cancel(p, m);
		break;
	}
	return true;
}

const char *move_refusal(const struct port *p, const struct offer *o)
{
	const struct move *m = p->share->move;

	if (o->owner >= 0 && o->owner != p->site)
		return "the medium belongs to another host";
	if (m && m->committing && m->offer == o->info.id)
		return "the medium goes to another host";
	return NULL;
}

/* ---- what happens meanwhile */

/* The other host's word was that of its session: it has to be given again. */
void move_session_over(struct port *p)
{
	struct move *m = p->share->move;

	if (!m || !m->joined || p->drive != m->to || m->result != FRAME_MOVE_READY)
		return;
	if (m->committing) {
		over(m, "the other host has gone");
		return;
	}
	m->result = FRAME_MOVE_WAITING;
	set_timer(m, REACH_MS, on_timeout);
}

void move_offer_over(const struct offer *o)
{
	struct move *m = o->share->move;

	if (m && m->offer == o->info.id)
		over(m, "the medium was taken back");
}

void move_ejected(struct port *p)
{
	for (GList *l = p->share->moved; l; l = l->next) {
		const struct move *m = l->data;

		if (m->result == FRAME_MOVE_GRANTED && site_of(m->from) == p->site) {
			leave(p->share, p->site);
			return;
		}
	}
}

void spicebd_share_no_way(struct spicebd_share *share, const char *why)
{
	if (share->move)
		over(share->move, why);
}

void move_free(struct spicebd_share *share)
{
	if (share->move)
		retire(share->move);
	for (GList *l = share->moved; l; l = l->next)
		set_timer(l->data, 0, NULL);
	g_list_free_full(g_steal_pointer(&share->moved), free_move);
}
