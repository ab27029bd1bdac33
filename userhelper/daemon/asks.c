// SPDX-License-Identifier: GPL-2.0-only
#include "asks.h"

#include <errno.h>
#include <string.h>

#include "drive.h"
#include "holders.h"
#include "insert.h"
#include "log.h"
#include "polite.h"
#include "source.h"

#define INSERT_TIMEOUT	20	/* s, for the new medium to be read */

/* Drives whose users were asked: another request is answered with the first. */
static bool waiting[SPICEBD_MAX_DRIVES];

/*
 * struct ask - one that waits
 * @s: of the medium that is wanted back
 */
struct ask {
	struct drive *d;
	struct source *s;
};

static struct ask *ask_new(struct drive *d)
{
	struct ask *a = g_new0(struct ask, 1);

	a->d = d;
	a->s = source_ref(d->medium->source);
	waiting[d->index] = true;
	return a;
}

static void ask_free(struct ask *a)
{
	waiting[a->d->index] = false;
	source_unref(a->s);
	g_free(a);
}

/* Whom to speak to at the drive, rather than which error it was. */
static void refuse(struct drive *d, struct source *s, int r, const struct derr *e)
{
	char who[400];
	const char *text = e->text;

	if ((r == -EBUSY || r == -EINPROGRESS) && d->present && !d->blockers) {
		if (d->k.state & SPICEBD_STATE_LOCKED_ADMIN)
			text = "it is locked by the administrator there";
		else if (d->k.state & SPICEBD_STATE_FREEZING)
			text = "it is frozen there for a moment";
		else if (holders_describe(d->k.name, d->k.users, who, sizeof(who)))
			text = who;
		else if (d->k.state & SPICEBD_STATE_LOCKED)
			text = "its tray is locked";
	}
	log_notice("drive %s: its share does not get the medium back: %s", d->k.name, text);
	s->ops->notice(s, SOURCE_BUSY, text);
}

static void ejected(int r, const struct derr *e, void *arg)
{
	struct ask *a = arg;

	if (r < 0)
		refuse(a->d, a->s, r, e);
	ask_free(a);
}

/* ---- another medium in its place */

static void changed(int r, struct drive *d, const struct derr *e, void *arg)
{
	ejected(r, e, arg);
}

/*
 * The new one is opened before the old one is asked for: a file that cannot be
 * read costs nobody the medium. Read-only stays what was asked for as such.
 */
static void change(struct drive *d, const struct link_ask *from)
{
	struct insert_args args = {
		.source = source_spice_of(from->link, from->by),
		.drive = d,
		.personality = -1,
		.mode = d->medium->source->read_only ? RO_READ_ONLY : RO_AUTO,
		.replace = true,
		.patience = -1,
		.timeout = INSERT_TIMEOUT,
	};

	insert_start(&args, changed, ask_new(d));
}

/* ---- a medium where none was */

/*
 * struct wish - one that is being put in
 * @link: named, since links come and go
 */
struct wish {
	struct drive *d;
	char link[32];
	uint8_t medium_id[FRAME_UUID_LEN];
};

static void tell(const struct wish *w, const char *text)
{
	struct link *l = links_find(w->link);
	const struct link_port *p = l && l->ready ? l->ports[w->d->index] : NULL;
	const struct link_offer *o = p ? link_port_offer(p, w->medium_id) : NULL;

	log_notice("drive %s: its share does not get a medium in: %s", w->d->k.name, text);
	if (o)
		links_notice(l, w->d->index, o->id, FRAME_NOTICE_BUSY, text);
}

/* That it is in is told by whoever puts media in. */
static void inserted(int r, struct drive *d, const struct derr *e, void *arg)
{
	struct wish *w = arg;

	if (r < 0)
		tell(w, e->text);
	g_free(w);
}

static void put_in(struct drive *d, const struct link_ask *from)
{
	struct insert_args args = {
		.drive = d,
		.personality = -1,
		.mode = RO_AUTO,
		.patience = -1,
		.timeout = INSERT_TIMEOUT,
	};
	struct wish *w = g_new0(struct wish, 1);

	w->d = d;
	g_strlcpy(w->link, from->link, sizeof(w->link));
	memcpy(w->medium_id, from->medium_id, sizeof(w->medium_id));
	log_info("drive %s: a share asks for its medium to be put in", d->k.name);
	/* Which one is not everybody's to know. */
	if ((d->medium && d->medium->state == MEDIUM_IN) || drive_has_medium(d)) {
		tell(w, "the drive has a medium");
		g_free(w);
		return;
	}
	args.source = source_spice_of(from->link, from->medium_id);
	insert_start(&args, inserted, w);
}

/* ---- */

static void force(struct drive *d)
{
	struct source *s = source_ref(d->medium->source);
	struct derr e;
	int r = drive_eject(d, true, &e);

	if (r < 0)
		refuse(d, s, r, &e);
	source_unref(s);
}

void asks_take(const struct link_ask *from)
{
	struct drive *d = drive_at(from->port);

	if (d && from->insert) {
		put_in(d, from);
		return;
	}
	if (!d || !d->medium || !source_is_offer(d->medium->source, from->link, from->medium_id))
		return;
	log_info("drive %s: its share asks for %s%s", d->k.name,
		 from->by ? "another medium" : "the medium back", from->force ? ", by force" : "");
	if (from->force) {
		force(d);
		return;
	}
	if (waiting[d->index])
		return;
	if (from->by)
		change(d, from);
	else
		polite_drive(d, POLITE_EJECT, -1, ejected, ask_new(d));
}
