// SPDX-License-Identifier: GPL-2.0-only
#include "drive.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <glib-unix.h>

#include "control.h"
#include "export.h"
#include "freeze.h"
#include "holders.h"
#include "inuse.h"
#include "links.h"
#include "log.h"
#include "migrate.h"
#include "polite.h"
#include "snapshot.h"
#include "sock.h"
#include "state.h"

struct kernel *drives_kernel;

static struct kernel_events *events;
static guint events_source;
static struct drive drives[SPICEBD_MAX_DRIVES];
/* Those that are ours to serve, by SPICEBD_DRIVES=FIRST-LAST; others are not seen. */
static unsigned int first_ours, last_ours = SPICEBD_MAX_DRIVES - 1;

struct drive *drive_at(uint32_t index)
{
	return index < SPICEBD_MAX_DRIVES && drives[index].present ? &drives[index] : NULL;
}

struct drive *drive_first(void)
{
	for (uint32_t i = 0; i < SPICEBD_MAX_DRIVES; i++)
		if (drives[i].present)
			return &drives[i];
	return NULL;
}

struct drive *drive_next(struct drive *d)
{
	for (uint32_t i = d->index + 1; i < SPICEBD_MAX_DRIVES; i++)
		if (drives[i].present)
			return &drives[i];
	return NULL;
}

struct drive *drive_find(const char *name, struct derr *e)
{
	for (struct drive *d = drive_first(); d; d = drive_next(d))
		if (!strcmp(d->k.name, name))
			return d;
	derr_class(e, QMP_DEVICE_NOT_FOUND, ENODEV, "Device '%s' not found", name);
	return NULL;
}

const char *drive_path(const struct drive *d, char *buf, size_t size)
{
	snprintf(buf, size, "/dev/%s", d->k.name);
	return buf;
}

const char *drive_personality(const struct drive *d)
{
	return d->k.personality == SPICEBD_PERSONALITY_CDROM ? "cdrom" : "disk";
}

bool drive_has_tray(const struct drive *d)
{
	return d->k.personality == SPICEBD_PERSONALITY_CDROM;
}

bool drive_has_medium(const struct drive *d)
{
	return d->k.state & SPICEBD_STATE_MEDIUM;
}

int drive_err(const struct drive *d, const struct kernel_err *k, const char *what,
	      struct derr *e)
{
	return derr_set(e, k->code, "drive %s: cannot %s: %s", d->k.name, what, k->text);
}

static void came(uint32_t index)
{
	struct drive *d = &drives[index];

	/* What is being made anew keeps its medium-to-be and who makes it. */
	if (!d->renewing)
		memset(d, 0, sizeof(*d));
	d->index = index;
	d->present = true;
	links_want_port(index, true);
}

static void went(struct drive *d)
{
	d->present = false;
	polite_event(d);
	change_wake();
	/* Its port stays, and the streams that were opened there. */
	if (d->renewing)
		return;
	if (d->op)
		task_cancel(d->op);
	if (d->medium)
		medium_out(d->medium);
	g_clear_pointer(&d->failed, g_free);
	g_clear_pointer(&d->moved, g_free);
	migrate_drive_gone(d);
	/* Port 0 stays: over it a share tells what it offers. */
	if (d->index)
		links_want_port(d->index, false);
}

static void take(const struct kernel_drive *k)
{
	struct drive *d = &drives[k->index];

	if (!d->present)
		came(k->index);
	d->k = *k;
	freeze_take(d, k);
	change_wake();
}

int drive_refresh(struct drive *d, struct derr *e)
{
	struct kernel_drive k;
	struct kernel_err ke;

	if (kernel_get(drives_kernel, d->index, &k, &ke) < 0)
		return drive_err(d, &ke, "read its state", e);
	take(&k);
	return 0;
}

static bool ours(uint32_t index)
{
	return index >= first_ours && index <= last_ours;
}

/* Of a part of the numbers the first that is free; of all the kernel knows it. */
static int number(struct kernel_drive_new *n, struct derr *e)
{
	if (n->set_index && !ours(n->index))
		return derr_set(e, EINVAL, "this spicebdd serves drives %u to %u", first_ours,
				last_ours);
	if (n->set_index || last_ours - first_ours == SPICEBD_MAX_DRIVES - 1)
		return 0;
	n->set_index = true;
	for (n->index = first_ours; n->index <= last_ours; n->index++)
		if (!drives[n->index].present)
			return 0;
	return derr_set(e, ENOSPC, "cannot add a drive: %u to %u are there", first_ours,
			last_ours);
}

int drive_add(const struct kernel_drive_new *args, struct drive **out, struct derr *e)
{
	struct kernel_drive_new n = *args;
	struct kernel_drive k;
	struct kernel_err ke;

	if (number(&n, e) < 0)
		return -e->code;
	if (kernel_add(drives_kernel, &n, &k, &ke) < 0)
		return derr_set(e, ke.code, "cannot add a drive: %s", ke.text);
	take(&k);
	*out = &drives[k.index];
	return 0;
}

int drive_delete(struct drive *d, bool force, struct derr *e)
{
	struct kernel_err ke;
	int r = blockers_check(d, OP_DELETE, force, e);

	if (r < 0)
		return r;
	if (kernel_del(drives_kernel, d->index, force, &ke) < 0) {
		if (ke.code == EBUSY)
			return derr_set(e, EBUSY, "drive %s: cannot delete it: it is %s; use "
					"force to delete it all the same", d->k.name,
					d->k.state & SPICEBD_STATE_LOCKED_ADMIN ? "locked" :
					"open");
		return drive_err(d, &ke, "delete it", e);
	}
	d->blockers |= BLOCK_DELETE;
	return 0;
}

int drive_renew_begin(struct drive *d, struct derr *e)
{
	struct kernel_err ke;

	d->renewing = true;
	if (kernel_del(drives_kernel, d->index, true, &ke) == 0)
		return 0;
	d->renewing = false;
	return drive_err(d, &ke, "delete it, to make it anew", e);
}

int drive_renew_end(struct drive *d, struct derr *e)
{
	const struct kernel_drive_new n = {
		.personality = d->k.personality,
		.set_index = true, .index = d->index,
		.set_queues = true, .nr_queues = d->k.nr_queues,
		.set_depth = true, .queue_depth = d->k.queue_depth,
		.set_max_io = true, .max_io = d->k.max_io,
		.set_reconnect = true, .reconnect_timeout = d->k.reconnect_timeout,
		.set_stall = true, .stall_timeout = d->k.stall_timeout,
		.set_open_wait = true, .open_wait = d->k.open_wait,
	};
	struct drive *made;
	int r = drive_add(&n, &made, e);

	d->renewing = false;
	if (r < 0 && !d->present)
		went(d);
	return r;
}

/* Tray and medium. */

bool drive_locked(const struct drive *d)
{
	return d->k.state & (SPICEBD_STATE_LOCKED | SPICEBD_STATE_LOCKED_ADMIN);
}

bool drive_in_use(const struct drive *d)
{
	return d->k.users || drive_locked(d);
}

int drive_in_use_err(const struct drive *d, const struct kernel_err *ke, const char *verb,
		     struct derr *e)
{
	char who[300];

	if (ke->code == EINPROGRESS && d->k.state & SPICEBD_STATE_LOCKED_ADMIN)
		return derr_set(e, EINPROGRESS, "Device '%s' is locked and force was not "
				"specified: unlock it (spicebdctl unlock)", d->k.name);
	if (ke->code == EINPROGRESS && d->k.state & SPICEBD_STATE_LOCKED)
		return derr_set(e, EINPROGRESS, "Device '%s' is locked and force was not "
				"specified, wait for tray to open and try again", d->k.name);
	if (ke->code != EINPROGRESS && ke->code != EBUSY)
		return drive_err(d, ke, verb, e);
	if (freeze_held(d))
		return derr_set(e, ke->code, "drive %s: cannot %s: it is %s", d->k.name, verb,
				freeze_reason(d, who, sizeof(who)));
	/* Mounts alone: other users' open files are not ours to see. */
	if (!holders_describe(d->k.name, 0, who, sizeof(who)))
		snprintf(who, sizeof(who), "its user was asked to let go of the medium");
	return derr_set(e, ke->code, "drive %s is busy: %s; try again, or use force", d->k.name,
			who);
}

/* Whoever wants a medium out has seen why there is none; the kernel forgets it, too. */
static void forget_why(struct drive *d)
{
	g_clear_pointer(&d->failed, g_free);
	g_clear_pointer(&d->moved, g_free);
}

int drive_eject(struct drive *d, bool force, struct derr *e)
{
	struct kernel_err ke;
	int r = blockers_check(d, OP_EJECT, force, e);

	if (r < 0)
		return r;
	if (d->op)
		task_cancel(d->op);
	if (force && d->medium) {
		snapshots_medium_out(d->medium, "the medium was ejected by force");
		exports_medium_out(d->medium);
	}
	r = kernel_eject(drives_kernel, d->index, force, &ke);
	if (r < 0) {
		drive_refresh(d, NULL);
		return drive_in_use_err(d, &ke, "eject", e);
	}
	d->keep = false;
	d->blockers &= ~BLOCK_ADOPT;
	if (d->medium && d->medium->state == MEDIUM_IN)
		medium_out(d->medium);
	forget_why(d);
	drive_refresh(d, NULL);
	return 0;
}

void drive_fail(struct drive *d, const char *why)
{
	struct medium *m = d->medium;
	struct kernel_err ke;
	char *text;

	if (!m)
		return;
	text = g_strdup_printf("medium '%s' was ejected with errors: %s", m->name, why);
	log_err("drive %s: %s", d->k.name, text);
	if (kernel_eject_because(drives_kernel, d->index, SPICEBD_VERDICT_ERROR, &ke) < 0)
		log_err("drive %s: %s", d->k.name, ke.text);
	d->blockers &= ~BLOCK_ADOPT;
	medium_out(m);
	drive_refresh(d, NULL);
	g_free(d->failed);
	d->failed = text;
}

int drive_open_tray(struct drive *d, bool force, struct derr *e)
{
	bool kept = d->keep;
	struct kernel_err ke;
	int r = blockers_check(d, OP_TRAY, force, e);

	if (r < 0)
		return r;
	/* Before the event comes: the medium is to lie in the open tray. */
	d->keep = true;
	r = kernel_tray_open(drives_kernel, d->index, force, &ke);
	if (r < 0)
		d->keep = kept;
	drive_refresh(d, NULL);
	if (!r || r == -ENOSYS)
		return 0;
	return drive_in_use_err(d, &ke, "open its tray", e);
}

int drive_close_tray(struct drive *d, struct derr *e)
{
	struct kernel_err ke;
	int r = blockers_check(d, OP_TRAY, false, e);

	if (r < 0)
		return r;
	r = kernel_tray_close(drives_kernel, d->index, &ke);
	if (!r)
		d->keep = false;
	drive_refresh(d, NULL);
	if (!r || r == -ENOSYS)
		return 0;
	return drive_err(d, &ke, "close its tray", e);
}

int drive_remove_medium(struct drive *d, bool force, struct derr *e)
{
	struct kernel_err ke;
	int r = blockers_check(d, OP_REMOVE, force, e);

	if (r < 0)
		return r;
	r = kernel_medium_remove(drives_kernel, d->index, force, &ke);
	drive_refresh(d, NULL);
	if (r == -EINVAL)
		return derr_set(e, EINVAL, "Tray of device '%s' is not open", d->k.name);
	if (r < 0)
		return drive_in_use_err(d, &ke, "remove its medium", e);
	if (d->medium && d->medium->state == MEDIUM_IN)
		medium_out(d->medium);
	forget_why(d);
	return 0;
}

int drive_lock(struct drive *d, struct derr *e)
{
	struct kernel_err ke;
	int r = kernel_lock(drives_kernel, d->index, &ke);

	drive_refresh(d, NULL);
	return r < 0 ? drive_err(d, &ke, "lock it", e) : 0;
}

int drive_unlock(struct drive *d, bool force, struct derr *e)
{
	struct kernel_err ke;
	int r = kernel_unlock(drives_kernel, d->index, force, &ke);

	drive_refresh(d, NULL);
	return r < 0 ? drive_err(d, &ke, "unlock it", e) : 0;
}

/* Events. */

/*
 * Somebody at the host opened the tray (eject(1), the CD's ioctl): to them that
 * is "give me the disc", so the medium goes back to whom it belongs.
 */
static void tray_opened(struct drive *d)
{
	struct kernel_err ke;

	if (!d->medium || d->medium->state != MEDIUM_IN || d->keep ||
	    d->k.tray != SPICEBD_TRAY_OPEN)
		return;
	/* It went in the same step, and why: compare() takes it from here. */
	if (!drive_has_medium(d))
		return;
	if (kernel_medium_remove(drives_kernel, d->index, false, &ke) < 0) {
		log_warn("drive %s: cannot remove the medium from the open tray: %s",
			 d->k.name, ke.text);
		return;
	}
	log_info("drive %s: ejected at the host", d->k.name);
	medium_out(d->medium);
	drive_refresh(d, NULL);
}

/*
 * The kernel says that the medium went, or that nobody serves it: not by a call
 * of ours, after which we would know. The event may be an old one: only what
 * the kernel says now counts.
 */
static void compare(struct drive *d)
{
	struct medium *m = d->medium;

	/* When we end we close the sockets ourselves. */
	if (!m || m->state != MEDIUM_IN || blockers_stopped() || drive_refresh(d, NULL) < 0)
		return;
	if (!drive_has_medium(d)) {
		log_info("drive %s: the medium was removed", d->k.name);
		medium_out(m);
	} else if (m->attached && (d->k.helper != SPICEBD_HELPER_ATTACHED ||
				   d->k.helper_pid != (uint32_t)getpid())) {
		medium_orphaned(m);
	}
}

static void on_drive_event(const struct kernel_drive *k)
{
	struct drive *d = drive_at(k->index);

	if (!ours(k->index))
		return;
	if (k->event == SPICEBD_EVENT_DRIVE_REMOVED) {
		if (!d)
			return;
		control_drive_event(d, k);
		went(d);
		freeze_event(d, k);
		return;
	}
	take(k);
	d = &drives[k->index];
	control_drive_event(d, k);
	freeze_event(d, k);
	switch (k->event) {
	case SPICEBD_EVENT_TRAY_MOVED:
		if (k->tray == SPICEBD_TRAY_OPEN && drive_refresh(d, NULL) == 0)
			tray_opened(d);
		break;
	case SPICEBD_EVENT_LOCK_CHANGED:
		inuse_look(d);
		break;
	case SPICEBD_EVENT_MEDIUM_CHANGED:
	case SPICEBD_EVENT_HELPER_LOST:
		compare(d);
		break;
	}
	if (k->event != SPICEBD_EVENT_EJECT_REQUEST)
		polite_event(d);
	migrate_drive_event(d);
}

static void read_all(void)
{
	struct kernel_drive *list = g_new(struct kernel_drive, SPICEBD_MAX_DRIVES);
	bool there[SPICEBD_MAX_DRIVES] = { false };
	struct kernel_err ke;
	unsigned int n;

	if (kernel_list(drives_kernel, list, &n, &ke) < 0) {
		log_err("cannot read the drives: %s", ke.text);
		g_free(list);
		return;
	}
	for (unsigned int i = 0; i < n; i++) {
		if (!ours(list[i].index))
			continue;
		there[list[i].index] = true;
		take(&list[i]);
	}
	g_free(list);
	for (uint32_t i = 0; i < SPICEBD_MAX_DRIVES; i++)
		if (drives[i].present && !there[i])
			went(&drives[i]);
}

static void on_kernel_event(enum kernel_event_kind kind, const struct kernel_drive *k, void *arg)
{
	switch (kind) {
	case KERNEL_EVENT_DRIVE:
		on_drive_event(k);
		break;
	case KERNEL_EVENT_FAMILY_GONE:
		log_warn("the kernel module spicebd was removed");
		for (struct drive *d = drive_first(); d; d = drive_next(d))
			went(d);
		break;
	case KERNEL_EVENT_FAMILY_NEW:
		/*
		 * The rights to manage it were given up with the old module:
		 * whoever started us starts us again, with rights.
		 */
		log_notice("the kernel module spicebd was loaded: starting anew");
		control_quit(EXIT_AGAIN);
		break;
	}
}

static gboolean on_events(gint fd, GIOCondition cond, gpointer arg)
{
	int r = kernel_events_read(events, on_kernel_event, NULL);

	if (r == -ENOBUFS) {
		log_notice("events of the kernel were lost: reading all drives");
		read_all();
		for (struct drive *d = drive_first(); d; d = drive_next(d)) {
			compare(d);
			tray_opened(d);
		}
		freeze_look_again();
	} else if (r < 0) {
		log_err("the kernel's events: %s", strerror(-r));
		events_source = 0;
		control_quit(EXIT_AGAIN);
		return G_SOURCE_REMOVE;
	}
	return G_SOURCE_CONTINUE;
}

static int read_ours(struct derr *e)
{
	const char *text = g_getenv("SPICEBD_DRIVES");
	int end = 0;

	if (!text)
		return 0;
	if (sscanf(text, "%u-%u%n", &first_ours, &last_ours, &end) == 2 && !text[end] &&
	    first_ours <= last_ours && last_ours < SPICEBD_MAX_DRIVES)
		return 0;
	return derr_set(e, EINVAL, "SPICEBD_DRIVES is FIRST-LAST, 0 to %d",
			SPICEBD_MAX_DRIVES - 1);
}

int drives_init(struct derr *e)
{
	struct kernel_err ke;

	if (read_ours(e) < 0)
		return -EINVAL;
	drives_kernel = kernel_open(&ke);
	if (!drives_kernel)
		return derr_set(e, ke.code, "%s", ke.text);
	if (kernel_manage(drives_kernel, &ke) < 0)
		return derr_set(e, ke.code, "cannot manage drives: %s: spicebdd must be started "
				"as root", ke.text);
	/* Before the first look, so that nothing falls between the two. */
	events = kernel_events_open(&ke);
	if (!events)
		return derr_set(e, ke.code, "%s", ke.text);
	return 0;
}

void drives_follow(void)
{
	links_want_port(0, true);
	read_all();
	events_source = g_unix_fd_add(kernel_events_fd(events), G_IO_IN | G_IO_ERR, on_events,
				      NULL);
}
