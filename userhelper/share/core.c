// SPDX-License-Identifier: GPL-2.0-only
/* The core: a session's ports on one side, the offers on the other. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bootid.h"
#include "core.h"
#include "log.h"
#include "sock.h"

void share_event(struct spicebd_share *share, enum spicebd_share_event_type type,
		 int drive, struct offer *o, const char *text)
{
	struct spicebd_share_event ev = {
		.type = type,
		.drive = drive < 0 ? -1 : (int)drive_no(drive),
		.session = drive < 0 ? NULL : share->sites[site_of(drive)].session,
		.medium = o ? &o->info : NULL,
		.text = text,
	};

	if (!share->freed)
		share->fn(share->user, &ev);
}

void share_unhold(struct spicebd_share *share)
{
	if (--share->hold)
		return;
	if (share->dir)
		rmdir(share->dir);
	g_free(share->dir);
	g_free(share->nbdkit);
	g_ptr_array_free(share->offers, TRUE);
	g_free(share);
}

/* ---- channels */

static void on_channel_new(SpiceSession *session, SpiceChannel *channel, gpointer data)
{
	struct site *site = data;

	if (SPICE_IS_PORT_CHANNEL(channel))
		port_attach(site->share, site - site->share->sites, channel);
}

static void on_channel_destroy(SpiceSession *session, SpiceChannel *channel, gpointer data)
{
	struct site *site = data;

	for (GList *l = site->share->ports; l; l = l->next) {
		struct port *p = l->data;

		if (SPICE_CHANNEL(p->channel) == channel) {
			port_detach(p);
			return;
		}
	}
}

static void site_join(struct site *site, SpiceSession *session)
{
	GList *channels;

	site->session = g_object_ref(session);
	site->on_new = g_signal_connect(session, "channel-new", G_CALLBACK(on_channel_new), site);
	site->on_destroy = g_signal_connect(session, "channel-destroy",
					    G_CALLBACK(on_channel_destroy), site);
	channels = spice_session_get_channels(session);
	for (GList *l = channels; l; l = l->next)
		on_channel_new(session, l->data, site);
	g_list_free(channels);
}

/* What its drives had they have no more. */
static void site_part(struct site *site)
{
	struct spicebd_share *share = site->share;
	unsigned int index = site - share->sites;

	g_signal_handler_disconnect(site->session, site->on_new);
	g_signal_handler_disconnect(site->session, site->on_destroy);
	for (GList *l = share->ports, *next; l; l = next) {
		struct port *p = l->data;

		next = l->next;
		if (p->site == index)
			port_detach(p);
	}
	for (guint i = 0; i < share->offers->len && !share->freed; i++) {
		struct offer *o = g_ptr_array_index(share->offers, i);

		memset(o->inserted + index * SHARE_DRIVES_MAX / 8, 0, SHARE_DRIVES_MAX / 8);
		if (o->owner != index)
			continue;
		o->owner = -1;
		if (!share->stopping)
			session_offer_all_ports(o, -1);
	}
	if (site->leaving)
		g_source_remove(site->leaving);
	site->leaving = 0;
	g_clear_pointer(&site->uri, g_free);
	g_clear_object(&site->session);
}

bool spicebd_share_join(struct spicebd_share *share, SpiceSession *session)
{
	for (int i = 0; i < SHARE_SITES; i++) {
		if (share->sites[i].session)
			continue;
		site_join(&share->sites[i], session);
		return true;
	}
	return false;
}

void spicebd_share_part(struct spicebd_share *share, SpiceSession *session)
{
	for (int i = 0; i < SHARE_SITES; i++)
		if (share->sites[i].session == session)
			site_part(&share->sites[i]);
}

struct spicebd_share *spicebd_share_new(SpiceSession *session, spicebd_share_fn fn,
					void *user)
{
	struct spicebd_share *share = g_new0(struct spicebd_share, 1);

	share->hold = 1;
	share->fn = fn;
	share->user = user;
	for (int i = 0; i < SHARE_SITES; i++)
		share->sites[i].share = share;
	share->offers = g_ptr_array_new_with_free_func((GDestroyNotify)offer_free);
	share->nbdkit = g_find_program_in_path("nbdkit");
	random_bytes(share->instance, sizeof(share->instance));
	boot_id_read(share->boot_id);
	site_join(&share->sites[0], session);
	return share;
}

/* ---- offers */

/* By number, or by name unless that is NULL; also one that is not ready. */
static struct offer *offer_by_id(struct spicebd_share *share, uint32_t id, const char *name)
{
	for (guint i = 0; i < share->offers->len; i++) {
		struct offer *o = g_ptr_array_index(share->offers, i);

		if (name ? !strcmp(o->info.name, name) : o->info.id == id)
			return o;
	}
	return NULL;
}

static char *check_request(struct spicebd_share *share, const struct spicebd_share_medium *m)
{
	if (!share->nbdkit)
		return g_strdup("nbdkit is not installed; install the package nbdkit");
	if (share->offers->len >= FRAME_OFFERS_MAX)
		return g_strdup_printf("%s: at most %d media can be shared at once", m->path,
				       FRAME_OFFERS_MAX);
	if (m->name && !frame_name_ok(m->name, strlen(m->name)))
		return g_strdup_printf("%s: its name must be 1 to %d bytes of UTF-8 without "
				       "'/' and control characters", m->path,
				       FRAME_NAME_MAX);
	if (m->name && name_taken(share, m->name))
		return g_strdup_printf("%s: the name '%s' is taken by another medium",
				       m->path, m->name);
	return NULL;
}

bool spicebd_share_offer(struct spicebd_share *share,
			 const struct spicebd_share_medium *m, uint32_t *id, char **error)
{
	struct offer *o;

	*error = check_request(share, m);
	if (*error)
		return false;
	o = offer_new(share, m, error);
	if (!o)
		return false;
	if (o->source != OFFER_FILE) {
		o->folder = folder_start(o, error);
		if (!o->folder) {
			offer_free(o);
			return false;
		}
	}
	g_ptr_array_add(share->offers, o);
	if (id)
		*id = o->info.id;
	if (o->info.ready)
		share_offer_ready(o);
	else
		share_event(share, SPICEBD_SHARE_PREPARING, -1, o, NULL);
	return true;
}

void share_offer_ready(struct offer *o)
{
	o->info.ready = true;
	share_event(o->share, SPICEBD_SHARE_READY, -1, o, NULL);
	session_offer_all_ports(o, -1);
}

void share_offer_failed(struct offer *o, const char *text)
{
	session_withdraw_all_ports(o);
	o->info.ready = false;
	stream_fail_offer(o, FRAME_ERR_SERVER, "the NBD server ended");
	share_event(o->share, SPICEBD_SHARE_FAILED, -1, o, text);
}

/*
 * A file outlives its servers; a folder's image does not, and the next one is
 * another medium, announced when it stands.
 */
void share_offer_died(struct offer *o)
{
	if (o->durable) {
		offer_new_incarnation(o);
		session_offer_all_ports(o, -1);
		return;
	}
	session_withdraw_all_ports(o);
	o->info.ready = false;
	offer_renew(o);
}

void spicebd_share_withdraw(struct spicebd_share *share, uint32_t id)
{
	struct offer *o = offer_by_id(share, id, NULL);
	guint index;

	if (!o)
		return;
	session_withdraw_all_ports(o);
	o->info.ready = false;
	stream_fail_offer(o, FRAME_ERR_NO_SUCH_OFFER, "the medium was taken back");
	if (o->folder)
		folder_stop(o->folder);
	o->folder = NULL;
	/* Streams look at it until the link has closed them, too. */
	if (g_ptr_array_find(share->offers, o, &index))
		g_ptr_array_steal_index(share->offers, index);
	share->withdrawn = g_list_prepend(share->withdrawn, o);
	offers_sweep_later(share);
}

/* ---- for the user */

unsigned int spicebd_share_list(struct spicebd_share *share,
				const struct spicebd_share_info **list, unsigned int max)
{
	for (guint i = 0; i < share->offers->len && i < max; i++) {
		struct offer *o = g_ptr_array_index(share->offers, i);

		list[i] = &o->info;
	}
	return share->offers->len;
}

uint64_t spicebd_share_made(struct spicebd_share *share, uint32_t id)
{
	struct offer *o = offer_by_id(share, id, NULL);

	return o && o->folder && o->source == OFFER_ISO && !o->info.ready ?
	       folder_made(o->folder) : 0;
}

const struct spicebd_share_info *spicebd_share_find(struct spicebd_share *share,
						    const char *name)
{
	struct offer *o = offer_by_id(share, 0, name);

	return o ? &o->info : NULL;
}

bool spicebd_share_is_in(struct spicebd_share *share, uint32_t id, int drive)
{
	struct offer *o = offer_by_id(share, id, NULL);

	if (!o || drive < 0)
		return o && (offer_inserted(o, drive) || offer_streams(o, drive));
	for (int i = 0; i < SHARE_SITES; i++, drive += SHARE_DRIVES_MAX)
		if (offer_inserted(o, drive) || offer_streams(o, drive))
			return true;
	return false;
}

bool spicebd_share_is_locked(struct spicebd_share *share, uint32_t id, int drive)
{
	struct offer *o = offer_by_id(share, id, NULL);

	for (int i = 0; o && i < SHARE_SITES; i++, drive += SHARE_DRIVES_MAX)
		if (offer_inserted(o, drive) && o->users[drive / 8] & 1u << drive % 8)
			return true;
	return false;
}

const char *spicebd_share_user(struct spicebd_share *share, uint32_t id, int drive)
{
	struct offer *o = offer_by_id(share, id, NULL);
	const char *who = NULL;

	for (int i = 0; o && !who && i < SHARE_SITES; i++, drive += SHARE_DRIVES_MAX)
		who = g_hash_table_lookup(o->who, GUINT_TO_POINTER(drive));
	return who;
}

bool spicebd_share_is_inserted(struct spicebd_share *share, uint32_t id)
{
	struct offer *o = offer_by_id(share, id, NULL);

	return o && offer_inserted(o, -1);
}

bool spicebd_share_all_back(struct spicebd_share *share)
{
	for (guint i = 0; i < share->offers->len; i++) {
		struct offer *o = g_ptr_array_index(share->offers, i);

		if (!o->info.ever_inserted || offer_inserted(o, -1))
			return false;
	}
	return true;
}

/* ---- eject, stop */

unsigned int spicebd_share_request_eject(struct spicebd_share *share)
{
	unsigned int n = 0;

	for (GList *l = share->ports; l; l = l->next) {
		struct port *p = l->data;

		for (guint i = 0; i < share->offers->len && p->state == PORT_UP; i++) {
			struct offer *o = g_ptr_array_index(share->offers, i);

			if (!offer_inserted(o, p->drive) && !offer_streams(o, p->drive))
				continue;
			session_eject_request(p, o, false, NULL);
			n++;
		}
	}
	return n;
}

bool spicebd_share_in_use(struct spicebd_share *share)
{
	for (guint i = 0; i < share->offers->len; i++) {
		struct offer *o = g_ptr_array_index(share->offers, i);

		if (offer_inserted(o, -1) || offer_streams(o, -1))
			return true;
	}
	return false;
}

void spicebd_share_traffic(struct spicebd_share *share, uint64_t *read_bytes,
			   uint64_t *write_bytes)
{
	*read_bytes = share->read_bytes;
	*write_bytes = share->write_bytes;
}

/* A medium is free for other drives when the last server of its writer is gone. */
static void release_writers(struct spicebd_share *share)
{
	for (guint i = 0; i < share->offers->len; i++) {
		struct offer *o = g_ptr_array_index(share->offers, i);
		int drive = o->writer;

		if (drive < 0 || server_count(share, drive, o))
			continue;
		o->writer = -1;
		session_offer_all_ports(o, drive);
	}
}

static bool all_sent(struct spicebd_share *share)
{
	for (GList *l = share->ports; l; l = l->next) {
		struct port *p = l->data;

		if (p->opened && (p->data_out || p->control_out))
			return false;
	}
	return true;
}

void share_progress(struct spicebd_share *share)
{
	if (share->freed)
		return;
	release_writers(share);
	move_progress(share);
	offers_sweep(share);
	for (GList *l = share->ports; l; l = l->next)
		stream_unfence(l->data);
	for (GList *l = share->ports; l; l = l->next)
		session_progress(l->data);
	if (!share->stopping || share->stopped || share->servers || share->folders ||
	    !all_sent(share))
		return;
	share->stopped = true;
	share_event(share, SPICEBD_SHARE_STOPPED, -1, NULL, NULL);
}

void spicebd_share_stop(struct spicebd_share *share)
{
	share->stopping = true;
	for (GList *l = share->ports; l; l = l->next)
		session_bye(l->data, FRAME_ERR_SHUTDOWN, "the share ends");
	for (guint i = 0; i < share->offers->len; i++) {
		struct offer *o = g_ptr_array_index(share->offers, i);

		o->info.ready = false;
		if (o->folder)
			folder_stop(o->folder);
	}
	share_progress(share);
}

void spicebd_share_free(struct spicebd_share *share)
{
	share->freed = true;
	asks_free(share);
	for (int i = 0; i < SHARE_SITES; i++)
		if (share->sites[i].session)
			site_part(&share->sites[i]);
	move_free(share);
	if (share->sweep)
		g_source_remove(share->sweep);
	g_ptr_array_set_size(share->offers, 0);
	g_list_free_full(g_steal_pointer(&share->withdrawn), (GDestroyNotify)offer_free);
	share_unhold(share);
}
