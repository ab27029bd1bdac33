// SPDX-License-Identifier: GPL-2.0-only
#include "inuse.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <glib-unix.h>

#include "drive.h"
#include "holders.h"
#include "log.h"
#include "medium.h"

/* Mounts of others come and go in swarms, and a mount of ours by several changes. */
#define LOOK_MS	200

static guint timer;

static bool is_shared(const struct drive *d)
{
	return d->medium && d->medium->state == MEDIUM_IN &&
	       d->medium->source->type == SOURCE_SPICE;
}

void inuse_look(struct drive *d)
{
	bool admin = d->k.state & SPICEBD_STATE_LOCKED_ADMIN;
	bool used = admin || d->k.state & SPICEBD_STATE_LOCKED;
	struct medium *m = d->medium;
	char who[sizeof(m->users)];

	if (!is_shared(d))
		return;
	if (holders_mounts(d->k.name, who, sizeof(who)))
		used = true;
	else if (admin)
		g_strlcpy(who, "locked by the administrator there", sizeof(who));
	if (used == m->used && !strcmp(who, m->users))
		return;
	m->used = used;
	strcpy(m->users, who);
	m->source->ops->notice(m->source, used ? SOURCE_LOCKED : SOURCE_UNLOCKED,
			       *who ? who : NULL);
}

void inuse_again(struct drive *d)
{
	if (!d->medium)
		return;
	d->medium->used = false;
	d->medium->users[0] = '\0';
	inuse_look(d);
}

static gboolean look_at_all(gpointer arg)
{
	timer = 0;
	for (struct drive *d = drive_first(); d; d = drive_next(d))
		inuse_look(d);
	return G_SOURCE_REMOVE;
}

static gboolean on_mounts(gint fd, GIOCondition cond, gpointer arg)
{
	for (struct drive *d = drive_first(); d && !timer; d = drive_next(d))
		if (is_shared(d))
			timer = g_timeout_add(LOOK_MS, look_at_all, NULL);
	return G_SOURCE_CONTINUE;
}

void inuse_init(void)
{
	/* It is always readable, and has something exceptional after each change, once. */
	int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		log_warn("mounts are not told to shares: /proc/self/mountinfo: %s", strerror(errno));
	else
		g_unix_fd_add(fd, G_IO_PRI, on_mounts, NULL);
}
