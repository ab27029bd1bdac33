// SPDX-License-Identifier: GPL-2.0-only
/*
 * Requests to drives: a medium back, or another one in its place. A drive that
 * has it answers by a notice; the request ends with the last answer, with the
 * drive's session, with the offer, or when its time is over.
 */
#include <string.h>

#include "core.h"

struct ask {
	struct spicebd_share *share;
	uint32_t id, by;	/* offers; by 0: none */
	uint8_t waiting[SHARE_KEYS / 8];
	unsigned int n_waiting;
	enum spicebd_share_answer answer;
	char *text;
	guint timer;
	spicebd_share_answer_fn fn;
	void *user;
};

static void ask_free(struct ask *a)
{
	if (a->timer)
		g_source_remove(a->timer);
	a->share->asks = g_list_remove(a->share->asks, a);
	g_free(a->text);
	g_free(a);
}

static void finish(struct ask *a)
{
	spicebd_share_answer_fn fn = a->fn;
	enum spicebd_share_answer answer = a->answer;
	g_autofree char *text = g_steal_pointer(&a->text);
	void *user = a->user;

	ask_free(a);
	fn(user, answer, text);
}

/* Of several drives' refusals the first is told. */
static void refuse(struct ask *a, unsigned int drive, const char *text)
{
	if (a->answer == SPICEBD_SHARE_DONE)
		a->text = g_strdup_printf("drive %u: %s", drive_no(drive), text);
	a->answer = SPICEBD_SHARE_REFUSED;
}

/* Whether this was the last drive. @refused: why, or NULL */
static bool answered(struct ask *a, unsigned int drive, const char *refused)
{
	uint8_t bit = 1u << drive % 8;

	if (!(a->waiting[drive / 8] & bit))
		return false;
	a->waiting[drive / 8] &= ~bit;
	if (refused)
		refuse(a, drive, refused);
	return !--a->n_waiting;
}

static gboolean on_timeout(gpointer data)
{
	struct ask *a = data;

	a->timer = 0;
	g_free(a->text);
	a->text = g_strdup("the other end does not answer");
	a->answer = SPICEBD_SHARE_NO_ANSWER;
	finish(a);
	return G_SOURCE_REMOVE;
}

/* ---- what happens */

static bool hears(struct ask *a, unsigned int drive, uint32_t id, uint32_t what, const char *text)
{
	if (what == FRAME_NOTICE_BUSY && a->id == id)
		return answered(a, drive, *text ? text : "it is in use there");
	if (what == FRAME_NOTICE_EJECTED && a->id == id && !a->by)
		return answered(a, drive, NULL);
	return what == FRAME_NOTICE_INSERTED && a->by == id && answered(a, drive, NULL);
}

void asks_notice(struct port *p, const struct offer *o, uint32_t what, const char *text)
{
	struct spicebd_share *share = p->share;
	unsigned int drive = p->drive;
	uint32_t id = o->info.id;
	GList *l = share->asks;

	/* From its start again: who is answered may ask anew, or withdraw. */
	while (l && !share->freed) {
		struct ask *a = l->data;

		l = l->next;
		if (!hears(a, drive, id, what, text))
			continue;
		finish(a);
		l = share->asks;
	}
}

void asks_session_over(struct port *p)
{
	struct spicebd_share *share = p->share;
	unsigned int drive = p->drive;
	GList *l = share->asks;

	while (l && !share->freed) {
		struct ask *a = l->data;

		l = l->next;
		if (!answered(a, drive, "its connection ended before it answered"))
			continue;
		finish(a);
		l = share->asks;
	}
}

void asks_offer_over(const struct offer *o)
{
	struct spicebd_share *share = o->share;
	uint32_t id = o->info.id;
	GList *l = share->asks;

	while (l && !share->freed) {
		struct ask *a = l->data;

		l = l->next;
		if (a->id != id && a->by != id)
			continue;
		g_free(a->text);
		a->text = g_strdup("the medium is not offered any more");
		a->answer = SPICEBD_SHARE_REFUSED;
		finish(a);
		l = share->asks;
	}
}

void asks_free(struct spicebd_share *share)
{
	while (share->asks)
		ask_free(share->asks->data);
}

/* ---- asking */

static void ask_drive(struct ask *a, struct port *p, struct offer *o, bool force,
		      const struct offer *by)
{
	if (p->state != PORT_UP) {
		refuse(a, p->drive, "it is not connected now");
	} else if (!session_eject_request(p, o, force, by)) {
		refuse(a, p->drive, "the other end cannot change media: eject it, and insert "
		       "the other one there");
	} else {
		a->waiting[p->drive / 8] |= 1u << p->drive % 8;
		a->n_waiting++;
	}
}

static void ask(struct spicebd_share *share, uint32_t id, bool force, uint32_t by_id,
		unsigned int limit, spicebd_share_answer_fn fn, void *user)
{
	struct offer *o = offer_find(share, id), *by = by_id ? offer_find(share, by_id) : NULL;
	struct ask *a;

	if (!o || (by_id && !by)) {
		fn(user, SPICEBD_SHARE_REFUSED, "it is not offered now");
		return;
	}
	a = g_new0(struct ask, 1);
	a->share = share;
	a->id = id;
	a->by = by_id;
	a->fn = fn;
	a->user = user;
	share->asks = g_list_append(share->asks, a);
	for (GList *l = share->ports; l; l = l->next) {
		struct port *p = l->data;

		if (p->known && (offer_inserted(o, p->drive) || offer_streams(o, p->drive)))
			ask_drive(a, p, o, force, by);
	}
	if (!a->n_waiting && a->answer == SPICEBD_SHARE_DONE && offer_inserted(o, -1)) {
		a->answer = SPICEBD_SHARE_REFUSED;
		a->text = g_strdup("the connection to its drive is lost");
	}
	if (a->n_waiting)
		a->timer = g_timeout_add(limit, on_timeout, a);
	else
		finish(a);
}

void spicebd_share_eject(struct spicebd_share *share, uint32_t id, bool force,
			 spicebd_share_answer_fn fn, void *user)
{
	ask(share, id, force, 0, force ? SPICEBD_SHARE_FORCE_MS : SPICEBD_SHARE_EJECT_MS, fn, user);
}

void spicebd_share_change(struct spicebd_share *share, uint32_t id, uint32_t by,
			  spicebd_share_answer_fn fn, void *user)
{
	ask(share, id, false, by, SPICEBD_SHARE_CHANGE_MS, fn, user);
}
