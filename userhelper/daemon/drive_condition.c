// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a drive is, in one word, and why. The kernel's word counts; what it cannot
 * know is which medium, which server, which host.
 */
#include "drive_condition.h"

#include <glib.h>
#include <stdio.h>

#include "condition.h"
#include "drive.h"
#include "freeze.h"
#include "medium.h"

static bool reconnecting(const struct drive *d)
{
	const struct medium *m = d->medium;

	return m && m->state == MEDIUM_IN && !m->link_up;
}

/* Made held, and nobody else keeps it frozen. */
static bool held(const struct drive *d)
{
	return freeze_held(d) && freeze_at_start(d);
}

const char *drive_condition(const struct drive *d)
{
	if (drive_has_medium(d)) {
		if (d->k.condition == SPICEBD_CONDITION_FROZEN && held(d))
			return "held";
		/* The kernel is told in a moment. */
		if (d->k.condition == SPICEBD_CONDITION_READY && reconnecting(d))
			return "reconnecting";
		/* A medium on the open tray is there, and can be read by nobody. */
		return condition_str(d->k.condition);
	}
	if (d->blockers & BLOCK_MIGRATE)
		return "inactive";
	if (held(d))
		return "held";
	if (d->moved || d->failed)
		return d->moved ? "inactive" : "error";
	/* Whoever still has an old medium open is told of apart from that. */
	if (d->k.condition == SPICEBD_CONDITION_STALE)
		return "empty";
	return condition_str(d->k.condition);
}

/* What spicebdd knows of a medium that is there. */
static const char *of_medium(const struct drive *d)
{
	const struct medium *m = d->medium;

	if (reconnecting(d) && m->reason[0])
		return m->reason;
	if (m && m->io && io_flush_doubted(m->io))
		return "the far end may have lost what was written before: the next flush fails";
	if (m && m->io && io_flush_failed(m->io))
		return "a flush failed: the far end lost what was written before";
	return NULL;
}

const char *drive_cause(const struct drive *d, char *buf, size_t size)
{
	const char *why = of_medium(d);

	if (!why && !drive_has_medium(d)) {
		if (d->blockers & BLOCK_MIGRATE)
			why = "its medium is not here yet: it is being migrated";
		else
			why = d->moved ?: d->failed;
	}
	if (why)
		return why;
	if (freeze_held(d))
		return freeze_reason(d, buf, size);
	return condition_cause(&d->k, buf, size)[0] ? buf : NULL;
}
