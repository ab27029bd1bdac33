// SPDX-License-Identifier: GPL-2.0-only
#include "adopt.h"

#include <string.h>

#include "drive.h"
#include "export.h"
#include "log.h"
#include "medium.h"
#include "sock.h"
#include "source.h"
#include "state.h"

static bool same_id(const struct drive *d, const struct medium *m)
{
	const struct kernel_medium *km = &d->k.medium;

	return km->id_len && km->id_len == m->id_len && !memcmp(km->id, m->id, m->id_len);
}

/*
 * Whether requests of the old helper's may still be under way at the far end.
 * What it left unanswered is held by the kernel, so with nothing held nothing
 * was under way; but only while the kernel's clock has not run out, for then
 * held requests have been ended.
 */
static bool under_way(const struct drive *d, const struct medium *m)
{
	const struct kernel_drive *k = &d->k;

	if (m->clean)
		return false;
	if (k->helper == SPICEBD_HELPER_ATTACHED || k->held || k->in_flight)
		return true;
	return k->reconnect_timeout >= 0 && !(k->hold_limited && k->hold_left_ms);
}

static struct medium *remembered(struct drive *d, JsonArray *state)
{
	JsonObject *o = state_entry(state, d->index);
	struct medium *m = o ? state_medium(d, o) : NULL;

	if (m && same_id(d, m))
		return m;
	medium_unref(m);
	return NULL;
}

static void adopt(struct drive *d, struct medium *m)
{
	bool expired;

	log_notice("drive %s: taking over medium '%s'", d->k.name, m->name);
	d->medium = m;
	m->generation = d->k.generation;
	m->fence = under_way(d, m);
	m->dirty_unknown = !m->read_only && !m->clean;
	/* From now on it is not; should we die too, our successor must not think so. */
	m->clean = false;
	g_strlcpy(m->reason, "it is being adopted from an earlier spicebdd", sizeof(m->reason));
	d->blockers |= BLOCK_ADOPT;
	if (d->k.tray == SPICEBD_TRAY_OPEN)
		d->keep = true;
	expired = d->k.hold_limited && !d->k.hold_left_ms;
	medium_set_deadline(m, expired ? now_ms() : medium_hold_deadline(&d->k));
	if (!expired)
		medium_reconnect(m);
}

static void evict(struct drive *d)
{
	struct kernel_err ke;

	log_err("drive %s: its medium is not known: ejecting it", d->k.name);
	if (kernel_eject_because(drives_kernel, d->index, SPICEBD_VERDICT_ERROR, &ke) < 0)
		log_err("drive %s: %s", d->k.name, ke.text);
	g_free(d->failed);
	d->failed = g_strdup("a medium of an earlier spicebdd was ejected: it was not known "
			     "where it came from");
}

static bool in_use(const char *id)
{
	for (struct drive *d = drive_first(); d; d = drive_next(d)) {
		const char *used = d->medium ? source_file_id(d->medium->source) : NULL;

		if (used && !strcmp(used, id))
			return true;
	}
	return exports_use_server(id);
}

void adopt_start(void)
{
	JsonObject *server;
	JsonArray *state = state_load(&server);
	struct derr e;

	for (struct drive *d = drive_first(); d; d = drive_next(d)) {
		struct medium *m;

		if (!drive_has_medium(d))
			continue;
		m = remembered(d, state);
		if (m)
			adopt(d, m);
		else
			evict(d);
	}
	exports_adopt(server);
	if (server)
		json_object_unref(server);
	if (state)
		json_array_unref(state);
	if (state_save(&e) < 0)
		log_err("%s", e.text);
	source_file_reap(in_use);
}

bool adopt_done(void)
{
	for (struct drive *d = drive_first(); d; d = drive_next(d))
		if (d->blockers & BLOCK_ADOPT)
			return false;
	return true;
}
