// SPDX-License-Identifier: GPL-2.0-only
/* open, close, remove, eject, lock, unlock: one table row each. */
#include "ctl.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define ASK_MS		15000	/* the daemon gives the drive's user some time */

static bool has_medium(const struct kernel_drive *d)
{
	return d->state & SPICEBD_STATE_MEDIUM;
}

static bool has_tray(const struct kernel_drive *d)
{
	return d->personality == SPICEBD_PERSONALITY_CDROM;
}

static bool tray_is_open(const struct kernel_drive *d)
{
	return d->tray == SPICEBD_TRAY_OPEN;
}

static bool tray_is_closed(const struct kernel_drive *d)
{
	return has_tray(d) && !tray_is_open(d);
}

static bool tray_is_shut(const struct kernel_drive *d)
{
	return !tray_is_open(d);
}

static bool is_empty(const struct kernel_drive *d)
{
	return !has_medium(d);
}

static int close_by_kernel(struct kernel *k, uint32_t index, bool force, struct kernel_err *e)
{
	return kernel_tray_close(k, index, e);
}

static int lock_by_kernel(struct kernel *k, uint32_t index, bool force, struct kernel_err *e)
{
	return kernel_lock(k, index, e);
}

static bool is_locked(const struct kernel_drive *d)
{
	return d->state & SPICEBD_STATE_LOCKED_ADMIN;
}

static bool is_unlocked(const struct kernel_drive *d)
{
	return !is_locked(d);
}

/**
 * struct tray_verb - a verb of tray or medium
 * @command: in QMP, and its argument for the drive @key
 * @wait: let the daemon answer when it is done, not when it is asked for
 * @kernel: the same where no daemon runs
 * @asks: the drive's user is asked, and waited for
 * @which: without a name, the one drive that this is true of; NULL: it needs one
 * @done: whether the drive is as it should be afterwards
 * @does: what --force does; NULL: there is no such option
 */
struct tray_verb {
	const char *name, *command, *key;
	bool wait, asks;
	int (*kernel)(struct kernel *k, uint32_t index, bool force, struct kernel_err *e);
	bool (*which)(const struct kernel_drive *d);
	const char *none, *several;
	bool (*done)(const struct kernel_drive *d);
	const char *does;
};

static const struct tray_verb table[] = {
	{
		"open", "blockdev-open-tray", "id", true, true, kernel_tray_open, tray_is_closed,
		"no drive has a closed tray", "several drives have a tray; name one of them",
		tray_is_open, "opens it",
	},
	{
		"close", "blockdev-close-tray", "id", false, false, close_by_kernel, tray_is_open,
		"no drive has an open tray", "several trays are open; name one drive",
		tray_is_shut, NULL,
	},
	{
		"remove", "blockdev-remove-medium", "id", false, true, kernel_medium_remove, has_medium,
		"no drive has a medium", "several drives have a medium; name one of them",
		is_empty, "removes it",
	},
	{
		"eject", "eject", "id", false, true, kernel_eject, has_medium,
		"no drive has a medium", "several drives have a medium; name one of them",
		is_empty, "ejects it",
	},
	{
		"lock", "spicebd-lock", "drive", false, false, lock_by_kernel, NULL, NULL, NULL,
		is_locked, NULL,
	},
	{
		"unlock", "spicebd-unlock", "drive", false, false, kernel_unlock, NULL, NULL, NULL,
		is_unlocked, "unlocks it",
	},
};

struct tray_args {
	bool force, json;
	int timeout;		/* -1: the daemon's own */
};

static int parse(const struct verb *v, int argc, char **argv, const struct tray_verb *t,
		 struct tray_args *a)
{
	static const struct option asked[] = {
		OPT_HELP, OPT_JSON, { "force", no_argument, NULL, 'f' },
		{ "timeout", required_argument, NULL, 't' }, OPT_END
	};
	static const struct option forcible[] = {
		OPT_HELP, OPT_JSON, { "force", no_argument, NULL, 'f' }, OPT_END
	};
	static const struct option plain[] = { OPT_HELP, OPT_JSON, OPT_END };
	const struct option *opts = t->asks ? asked : t->does ? forcible : plain;
	int c, status;

	while ((c = verb_option(v, argc, argv, opts, &a->json, &status))) {
		if (c == 'f')
			a->force = true;
		else if (!parse_seconds(optarg, &a->timeout))
			return verb_usage(v, "\"%s\" is no number of seconds", optarg);
	}
	if (status < 0 && argc - optind > 1)
		return verb_usage(v, "one drive at a time");
	if (status < 0 && !t->which && argc == optind)
		return verb_usage(v, "name one drive");
	return status;
}

static int by_daemon(const struct tray_verb *t, const struct kernel_drive *d,
		     const struct tray_args *a, struct fault *f)
{
	JsonObject *o = json_object_new();
	int ms = a->force ? FORCE_MS : ASK_MS;

	json_object_set_string_member(o, t->key, d->name);
	if (a->force)
		json_object_set_boolean_member(o, "force", TRUE);
	if (t->wait)
		json_object_set_boolean_member(o, "wait", TRUE);
	if (a->timeout >= 0) {
		json_object_set_int_member(o, "timeout", a->timeout);
		ms += a->timeout * 1000;
	}
	return drive_by_daemon(t->command, o, ms, f);
}

/* Without a tray there is nothing to move, and that is well. */
static int unless_trayless(const struct kernel_drive *d, int r)
{
	return r == -ENOSYS && !has_tray(d) ? 0 : r;
}

static int run(const struct tray_verb *t, const struct kernel_drive *d, const struct tray_args *a,
	       struct fault *f)
{
	struct kernel_drive now;
	struct fault ignored;
	int r = by_daemon(t, d, a, f);

	/*
	 * A daemon that hangs does not keep the medium from whoever insists, and
	 * one that was only late has done it.
	 */
	if (r < 0 && a->force && f->status != EXIT_NO_DAEMON &&
	    drive_get(d->name, &now, &ignored) == 0 && t->done(&now))
		return 0;
	/* No force takes a medium out of a closed tray, and that has been said. */
	if (r < 0 && f->status != EXIT_NO_DAEMON && t->kernel == kernel_medium_remove &&
	    tray_is_closed(d))
		return r;
	if (r < 0 && (f->status == EXIT_NO_DAEMON || a->force))
		r = unless_trayless(d, drive_by_kernel(t->kernel, d, a->force, f));
	if (r < 0 && !a->force && t->asks)
		busy_explain(d, t->does, f);
	return r;
}

static void tell(const struct tray_verb *t, const struct kernel_drive *d, bool json)
{
	if (json) {
		g_autoptr(JsonObject) o = json_of_drive(d);

		json_print_object(o);
	} else if (!t->which) {
		printf("%s is %s%s\n", d->name, drive_locked(d) ? "locked" : "unlocked",
		       d->state & SPICEBD_STATE_LOCKED ? " by its user" : "");
	} else if (t->done == is_empty) {
		printf("%s is empty\n", d->name);
	} else if (!has_tray(d)) {
		printf("%s has no tray\n", d->name);
	} else {
		printf("%s is %s\n", d->name, tray_is_open(d) ? "open" : "closed");
	}
}

int verb_tray(const struct verb *v, int argc, char **argv)
{
	const struct tray_verb *t = table;
	struct tray_args a = { .timeout = -1 };
	struct kernel_drive d = { 0 };
	struct fault f = { 0 };
	int r;

	while (strcmp(t->name, v->name))
		t++;
	r = parse(v, argc, argv, t, &a);
	if (r >= 0)
		return r;
	if (drive_pick(argv[optind], t->which, t->none, t->several, &d, &f) < 0 ||
	    run(t, &d, &a, &f) < 0 || drive_get(d.name, &d, &f) < 0)
		return fault_tell(&f);
	tell(t, &d, a.json);
	return EXIT_DONE;
}
