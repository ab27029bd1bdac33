// SPDX-License-Identifier: GPL-2.0-only
#include "ctl.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "holders.h"

#define EJECT_MS	15000
#define FORCE_MS	1500	/* then the kernel is told directly */

/* Without a name: the one drive that has a medium. */
static int only_filled(struct kernel *k, struct kernel_drive *out, struct fault *f)
{
	struct kernel_drive *d = g_new0(struct kernel_drive, SPICEBD_MAX_DRIVES);
	unsigned int n = 0, filled = 0;
	struct kernel_err e = { 0 };
	int r = kernel_list(k, d, &n, &e);

	if (r < 0)
		fault_kernel(f, &e);
	for (unsigned int i = 0; i < n; i++)
		if (d[i].state & SPICEBD_STATE_MEDIUM && !filled++)
			*out = d[i];
	g_free(d);
	if (r < 0)
		return r;
	if (filled == 1)
		return 0;
	fault_set(f, EXIT_REFUSED, filled ? "several drives have a medium; name one of them" :
		  "no drive has a medium");
	return -EINVAL;
}

static int pick(const char *name, struct kernel_drive *d, struct fault *f)
{
	struct kernel *k = drives_kernel(f);
	int r;

	if (!k)
		return -ENOENT;
	r = name ? drive_get_in(k, name, d, f) : only_filled(k, d, f);
	kernel_close(k);
	if (!r && !(d->state & SPICEBD_STATE_MEDIUM)) {
		fault_set(f, EXIT_REFUSED, "%s is empty: there is no medium to eject", d->name);
		return -ENOENT;
	}
	return r;
}

static bool still_there(const struct kernel_drive *before, struct kernel_drive *now)
{
	char name[40];
	struct fault f;

	snprintf(name, sizeof(name), "spicebd%u", before->index);
	return drive_get(name, now, &f) == 0 && now->state & SPICEBD_STATE_MEDIUM &&
	       now->generation == before->generation;
}

/* Name the users, which the daemon cannot see. */
static void explain(const struct kernel_drive *before, struct fault *f)
{
	struct kernel_drive d;
	char who[400];

	if (!still_there(before, &d) || !(d.openers || d.state & SPICEBD_STATE_LOCKED))
		return;
	if (holders_describe(d.name, 0, who, sizeof(who)))
		fault_set(f, EXIT_REFUSED, "%s is busy: %s; --force ejects it all the same", d.name,
			  who);
	else if (d.state & SPICEBD_STATE_LOCKED)
		fault_set(f, EXIT_REFUSED,
			  "%s is busy: its tray is locked; --force ejects it all the same", d.name);
	else
		fault_set(f, EXIT_REFUSED,
			  "%s is busy: a device or another namespace uses it; --force ejects it",
			  d.name);
}

static int eject(const struct kernel_drive *d, bool force, struct fault *f)
{
	struct kernel_drive now;
	int r = drive_by_daemon("eject", "device", d, force, force ? FORCE_MS : EJECT_MS, f);

	if (r < 0 && (f->status == EXIT_NO_DAEMON || (force && still_there(d, &now))))
		r = drive_by_kernel(kernel_eject, d, force, f);	/* it needs no daemon */
	if (r < 0 && !force)
		explain(d, f);
	return r;
}

static void tell(const struct kernel_drive *d, bool json)
{
	JsonObject *o;

	if (!json) {
		printf("%s is empty\n", d->name);
		return;
	}
	o = json_object_new();
	json_object_set_string_member(o, "drive", d->name);
	json_object_set_null_member(o, "medium");
	json_print_object(o);
	json_object_unref(o);
}

int verb_eject(const struct verb *v, int argc, char **argv)
{
	bool force = false, json = false;
	struct kernel_drive d = { 0 };
	struct fault f = { 0 };
	int r = verb_options(v, argc, argv, &json, &force);

	if (r >= 0)
		return r;
	if (argc - optind > 1)
		return verb_usage(v, "one drive at a time");
	if (pick(argv[optind], &d, &f) < 0 || eject(&d, force, &f) < 0)
		return fault_tell(&f);
	tell(&d, json);
	return EXIT_DONE;
}
