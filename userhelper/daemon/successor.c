// SPDX-License-Identifier: GPL-2.0-only
#include "successor.h"

#include <string.h>

#include "drive.h"
#include "insert.h"
#include "log.h"

#define LOOK_MIN_MS	100
#define LOOK_MAX_MS	2000
#define TIMEOUT_S	30
#define TRIES_MAX	20

/*
 * @args: without a source, which each try has one of its own
 * @old: the source of the medium that was lost: it knows what is in its place
 * @failed: what the drive says as long as nobody has done anything else with it
 */
struct successor {
	struct insert_args args;
	struct source *old;
	char *failed;
	unsigned int wait_ms, tries;
};

static void successor_free(struct successor *x)
{
	source_unref(x->old);
	g_free(x->failed);
	g_free(x);
}

static gboolean look(gpointer arg);

static void wait_more(struct successor *x)
{
	x->wait_ms = MIN(x->wait_ms * 2, LOOK_MAX_MS);
	g_timeout_add(x->wait_ms, look, x);
}

/* Its server may be slow to start, or the connection break once more. */
static void inserted(int r, struct drive *d, const struct derr *e, void *arg)
{
	struct successor *x = arg;

	if (r < 0)
		log_warn("the medium that is there now was not put in: %s%s", e->text,
			 x->tries < TRIES_MAX ? "; trying again" : "");
	if (r < 0 && x->tries < TRIES_MAX)
		wait_more(x);
	else
		successor_free(x);
}

static gboolean look(gpointer arg)
{
	struct successor *x = arg;
	struct drive *d = x->args.drive;
	struct insert_args args;

	if (!d->present || d->medium || d->op || !d->failed || strcmp(d->failed, x->failed) ||
	    blockers_stopped() || drive_refresh(d, NULL) < 0 || drive_has_medium(d)) {
		successor_free(x);
		return G_SOURCE_REMOVE;
	}
	/* The end of the last opener is told by no event; nothing comes into a frozen drive. */
	if (d->k.state & (SPICEBD_STATE_STALE | SPICEBD_STATE_FREEZING)) {
		wait_more(x);
		return G_SOURCE_REMOVE;
	}
	args = x->args;
	args.source = x->old->ops->successor(x->old);
	if (!args.source) {
		successor_free(x);
		return G_SOURCE_REMOVE;
	}
	log_notice("drive %s: another medium is there now: it is put in", d->k.name);
	x->tries++;
	insert_start(&args, inserted, x);
	return G_SOURCE_REMOVE;
}

void successor_expect(struct drive *d, const struct medium *old)
{
	struct successor *x = g_new0(struct successor, 1);

	x->args = (struct insert_args){
		.drive = d,
		.personality = -1,
		.mode = old->source->read_only ? RO_READ_ONLY : RO_AUTO,
		.patience = -1,
		.timeout = TIMEOUT_S,
		.far = old->far,
	};
	x->old = source_ref(old->source);
	x->failed = g_strdup(d->failed);
	x->wait_ms = LOOK_MIN_MS;
	g_timeout_add(x->wait_ms, look, x);
}
