// SPDX-License-Identifier: GPL-2.0-only
#include "polite.h"

#include <errno.h>
#include <unistd.h>

#include "drive.h"
#include "sock.h"

/* Somebody who mounts nothing but looks: a probe. */
#define PATIENCE_MS		2000
#define PATIENCE_MOUNTED_MS	10000

struct ask {
	struct drive *d;
	struct medium *m;	/* whose going ends it, or NULL */
	enum polite_verb verb;
	guint timer;
	polite_done_fn done;
	void *arg;
	int r;
	struct derr e;
};

static GList *asks;

int polite_patience(const struct drive *d, int timeout)
{
	char path[108];

	if (timeout >= 0)
		return timeout * 1000;
	if (run_path(path, sizeof(path), "mount/%s", d->k.name) && access(path, F_OK) == 0)
		return PATIENCE_MOUNTED_MS;
	return PATIENCE_MS;
}

static int attempt(struct drive *d, enum polite_verb verb, struct derr *e)
{
	switch (verb) {
	case POLITE_EJECT:
		return drive_eject(d, false, e);
	case POLITE_OPEN:
		return drive_open_tray(d, false, e);
	default:
		return drive_remove_medium(d, false, e);
	}
}

static void end(struct ask *a)
{
	asks = g_list_remove(asks, a);
	if (a->timer)
		g_source_remove(a->timer);
	a->done(a->r, &a->e, a->arg);
	medium_unref(a->m);
	g_free(a);
}

static gboolean too_late(gpointer arg)
{
	struct ask *a = arg;

	a->timer = 0;
	end(a);
	return G_SOURCE_REMOVE;
}

/* Somebody else did it, or put another medium in. */
static bool over(const struct ask *a)
{
	const struct drive *d = a->d;

	return !d->present || (a->m && d->medium != a->m) ||
	       (a->verb == POLITE_OPEN && d->k.tray == SPICEBD_TRAY_OPEN);
}

static bool worth_waiting(const struct drive *d, int r)
{
	/*
	 * Only the administrator opens his lock, only its holders thaw a frozen
	 * drive, and they were not asked. A client of an export may be going this
	 * moment, as a user may.
	 */
	return (r == -EBUSY || r == -EINPROGRESS) && !(d->blockers & ~BLOCK_EXPORT) &&
	       !(d->k.state & (SPICEBD_STATE_LOCKED_ADMIN | SPICEBD_STATE_FREEZING));
}

static void again(struct ask *a)
{
	struct drive *d = a->d;

	if (over(a)) {
		a->r = 0;
		end(a);
		return;
	}
	/* One attempt is one request to the user: none while nothing has changed. */
	if (drive_in_use(d))
		return;
	a->r = attempt(d, a->verb, &a->e);
	if (!worth_waiting(d, a->r))
		end(a);
}

void polite_event(struct drive *d)
{
	GList *now = g_list_copy(asks);

	/* One that ends may end others. */
	for (GList *i = now; i; i = i->next) {
		struct ask *a = i->data;

		if (g_list_find(asks, a) && a->d == d)
			again(a);
	}
	g_list_free(now);
}

static void event_on_main(void *arg)
{
	polite_event(arg);
}

void polite_event_later(struct drive *d)
{
	main_post(event_on_main, d);
}

void polite_drive(struct drive *d, enum polite_verb verb, int timeout, polite_done_fn done,
		  void *arg)
{
	int patience = polite_patience(d, timeout);
	struct ask *a = g_new0(struct ask, 1);

	a->d = d;
	a->verb = verb;
	a->done = done;
	a->arg = arg;
	asks = g_list_append(asks, a);
	a->r = attempt(d, verb, &a->e);
	if (!patience || !worth_waiting(d, a->r)) {
		end(a);
		return;
	}
	if (d->medium && verb != POLITE_OPEN)
		a->m = medium_ref(d->medium);
	a->timer = g_timeout_add(patience, too_late, a);
}
