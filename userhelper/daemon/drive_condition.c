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

const char *drive_condition(const struct drive *d)
{
	uint32_t now = d->k.condition;

	if (!drive_has_medium(d) && d->blockers & BLOCK_MIGRATE)
		return "inactive";
	/* The kernel is told in a moment. */
	if (now == SPICEBD_CONDITION_READY && reconnecting(d))
		return "reconnecting";
	/* Whoever still has an old medium open is told of apart from that. */
	return condition_str(now == SPICEBD_CONDITION_STALE ? SPICEBD_CONDITION_EMPTY : now);
}

const char *drive_why_empty(const struct drive *d, char *buf, size_t size)
{
	const char *why = d->moved ?: d->failed;

	if (drive_has_medium(d))
		return NULL;
	if (d->blockers & BLOCK_MIGRATE)
		return "its medium is not here yet: it is being migrated";
	if (d->k.condition != SPICEBD_CONDITION_ERROR &&
	    d->k.condition != SPICEBD_CONDITION_INACTIVE)
		return NULL;
	/* An earlier spicebdd knew which. */
	if (!why)
		return condition_cause(&d->k, buf, size);
	condition_verdict(&d->k, why, buf, size);
	return buf;
}

/* What spicebdd knows of a medium that is there. */
static const char *of_medium(const struct drive *d, char *buf, size_t size)
{
	const struct medium *m = d->medium;

	if (reconnecting(d) && m->reason[0] && !freeze_held(d)) {
		condition_wait(&d->k, m->reason, buf, size);
		return buf;
	}
	if (m && m->io && io_flush_doubted(m->io))
		return "the far end may have lost what was written before: the next flush fails";
	if (m && m->io && io_flush_failed(m->io))
		return "a flush failed: the far end lost what was written before";
	return NULL;
}

const char *drive_cause(const struct drive *d, char *buf, size_t size)
{
	const char *why = of_medium(d, buf, size) ?: drive_why_empty(d, buf, size);

	if (why)
		return why;
	if (freeze_held(d))
		return freeze_reason(d, buf, size);
	return condition_cause(&d->k, buf, size)[0] ? buf : NULL;
}
