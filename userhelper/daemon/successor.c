// SPDX-License-Identifier: GPL-2.0-only
#include "successor.h"

#include <string.h>

#include "drive.h"
#include "insert.h"
#include "log.h"

#define LOOK_MIN_MS	100
#define LOOK_MAX_MS	2000
#define TIMEOUT_S	30

/* @failed: what the drive says as long as nobody has done anything else with it */
struct successor {
	struct insert_args args;
	char *failed;
	unsigned int wait_ms;
};

static void successor_free(struct successor *x)
{
	source_unref(x->args.source);
	g_free(x->failed);
	g_free(x);
}

static void inserted(int r, struct drive *d, const struct derr *e, void *arg)
{
	if (r < 0)
		log_warn("the medium that is there now was not put in: %s", e->text);
}

static gboolean look(gpointer arg)
{
	struct successor *x = arg;
	struct drive *d = x->args.drive;

	if (!d->present || d->medium || d->op || !d->failed || strcmp(d->failed, x->failed) ||
	    blockers_stopped() || drive_refresh(d, NULL) < 0 || drive_has_medium(d)) {
		successor_free(x);
		return G_SOURCE_REMOVE;
	}
	/* The end of the last opener is told by no event; nothing comes into a frozen drive. */
	if (d->k.state & (SPICEBD_STATE_STALE | SPICEBD_STATE_FREEZING)) {
		x->wait_ms = MIN(x->wait_ms * 2, LOOK_MAX_MS);
		g_timeout_add(x->wait_ms, look, x);
		return G_SOURCE_REMOVE;
	}
	log_notice("drive %s: another medium is there now: it is put in", d->k.name);
	/* Takes the source over, and a reference is ours. */
	source_ref(x->args.source);
	insert_start(&x->args, inserted, NULL);
	successor_free(x);
	return G_SOURCE_REMOVE;
}

void successor_expect(struct drive *d, const struct medium *old, struct source *s)
{
	struct successor *x = g_new0(struct successor, 1);

	x->args = (struct insert_args){
		.source = s,
		.drive = d,
		.personality = -1,
		.mode = old->source->read_only ? RO_READ_ONLY : RO_AUTO,
		.patience = -1,
		.timeout = TIMEOUT_S,
		.far = old->far,
	};
	x->failed = g_strdup(d->failed);
	x->wait_ms = LOOK_MIN_MS;
	g_timeout_add(x->wait_ms, look, x);
}
