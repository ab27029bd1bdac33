// SPDX-License-Identifier: GPL-2.0-only
/* The commands that QEMU has not. */
#include <errno.h>
#include <string.h>

#include "control.h"
#include "drive.h"
#include "insert.h"
#include "query.h"

#define TIMEOUT_DEFAULT	30
#define TIMEOUT_MAX	3600

static void inserted(int r, struct drive *d, const struct derr *e, void *arg)
{
	struct cmd *c = arg;

	if (r < 0)
		cmd_fail(c, e);
	else
		cmd_return_object(c, query_inserted(d));
}

static int parse_personality(const char *s, int *out, struct derr *e)
{
	if (!s)
		*out = -1;
	else if (!strcmp(s, "cdrom"))
		*out = SPICEBD_PERSONALITY_CDROM;
	else if (!strcmp(s, "disk"))
		*out = SPICEBD_PERSONALITY_DISK;
	else
		return derr_set(e, EINVAL, "Parameter 'personality' is 'cdrom' or 'disk'");
	return 0;
}

static int check_insert(struct cmd *c, struct insert_args *a, struct derr *e)
{
	long long timeout = arg_int(c, "timeout", TIMEOUT_DEFAULT);
	int r = parse_personality(arg_str(c, "personality"), &a->personality, e);

	if (!r)
		r = insert_mode(arg_str(c, "read-only-mode") ?: "auto", a->drive, &a->mode, e);
	if (!r)
		r = faropts_cache(arg_str(c, "cache"), &a->far.cache, e);
	if (!r)
		r = faropts_read_ahead(arg_str(c, "read-ahead"), &a->far.read_ahead, e);
	if (r < 0)
		return r;
	if (timeout < 1 || timeout > TIMEOUT_MAX)
		return derr_set(e, EINVAL, "Parameter 'timeout' is 1 to %d seconds", TIMEOUT_MAX);
	a->timeout = timeout;
	if (a->drive && a->personality >= 0 && a->drive->k.personality != a->personality)
		return derr_set(e, EINVAL, "drive %s is a %s drive", a->drive->k.name,
				drive_has_tray(a->drive) ? "cdrom" : "disk");
	if ((a->replace || a->open_tray) && !a->drive)
		return derr_set(e, EINVAL, "Parameter 'drive' is missing");
	if (a->replace && a->open_tray)
		return derr_set(e, EINVAL, "Parameters 'replace' and 'on-tray' exclude each other");
	if (blockers_stopped())
		return derr_set(e, EBUSY, "spicebdd is ending");
	return 0;
}

static void spicebd_insert(struct cmd *c)
{
	struct insert_args a = { .patience = -1 };
	struct derr e;
	bool failed;

	a.drive = arg_drive(c, false, &failed);
	if (failed)
		return;
	a.force = arg_bool(c, "force", false);
	a.open_tray = arg_bool(c, "on-tray", false);
	a.replace = arg_bool(c, "replace", false);
	if (check_insert(c, &a, &e) < 0) {
		cmd_fail(c, &e);
		return;
	}
	a.replace |= a.force && !a.open_tray;
	a.source = source_parse(arg_str(c, "source"), arg_str(c, "filename"), &e);
	if (!a.source) {
		cmd_fail(c, &e);
		return;
	}
	a.source->resend = arg_bool(c, "resend", false);
	insert_start(&a, inserted, c);
}

static int take_u32(struct cmd *c, const char *name, long long min, long long max, bool *set,
		    uint32_t *out, struct derr *e)
{
	long long v;

	*set = arg_has(c, name);
	if (!*set)
		return 0;
	v = arg_int(c, name, 0);
	if (v < min || v > max)
		return derr_set(e, EINVAL, "Parameter '%s' is %lld to %lld", name, min, max);
	*out = (uint32_t)v;
	return 0;
}

static void drive_add_cmd(struct cmd *c)
{
	struct kernel_drive_new n = { 0 };
	JsonObject *o;
	struct drive *d;
	struct derr e;
	uint32_t reconnect;
	int personality, r;
	char *dev;

	r = parse_personality(arg_str(c, "personality"), &personality, &e);
	n.personality = personality;
	if (!r)
		r = take_u32(c, "index", 0, SPICEBD_MAX_DRIVES - 1, &n.set_index, &n.index, &e);
	if (!r)
		r = take_u32(c, "queues", SPICEBD_MIN_QUEUES, SPICEBD_MAX_QUEUES, &n.set_queues,
			     &n.nr_queues, &e);
	if (!r)
		r = take_u32(c, "depth", SPICEBD_MIN_QUEUE_DEPTH, SPICEBD_MAX_QUEUE_DEPTH,
			     &n.set_depth, &n.queue_depth, &e);
	if (!r)
		r = take_u32(c, "max-io", SPICEBD_MIN_MAX_IO, SPICEBD_MAX_MAX_IO, &n.set_max_io,
			     &n.max_io, &e);
	if (!r)
		r = take_u32(c, "reconnect-timeout", SPICEBD_TIMEOUT_FOREVER,
			     SPICEBD_MAX_TIMEOUT, &n.set_reconnect, &reconnect, &e);
	if (!r && n.set_reconnect)
		n.reconnect_timeout = (int32_t)reconnect;
	if (!r)
		r = take_u32(c, "stall-timeout", 0, SPICEBD_MAX_TIMEOUT, &n.set_stall,
			     &n.stall_timeout, &e);
	if (!r)
		r = take_u32(c, "open-wait", 0, SPICEBD_MAX_TIMEOUT, &n.set_open_wait,
			     &n.open_wait, &e);
	n.held = arg_bool(c, "hold", false);
	if (!r)
		r = drive_add(&n, &d, &e);
	if (r < 0) {
		cmd_fail(c, &e);
		return;
	}
	o = json_object_new();
	json_object_set_string_member(o, "drive", d->k.name);
	dev = g_strdup_printf("/dev/%s", d->k.name);
	json_object_set_string_member(o, "device", dev);
	g_free(dev);
	cmd_return_object(c, o);
}

static void drive_del_cmd(struct cmd *c)
{
	struct drive *d;
	struct derr e;
	bool failed;

	d = arg_drive(c, true, &failed);
	if (!failed)
		cmd_end(c, drive_delete(d, arg_bool(c, "force", false), &e), &e);
}

static void lock(struct cmd *c)
{
	struct drive *d;
	struct derr e;
	bool failed;

	d = arg_drive(c, true, &failed);
	if (!failed)
		cmd_end(c, drive_lock(d, &e), &e);
}

static void unlock(struct cmd *c)
{
	struct drive *d;
	struct derr e;
	bool failed;

	d = arg_drive(c, true, &failed);
	if (!failed)
		cmd_end(c, drive_unlock(d, arg_bool(c, "force", false), &e), &e);
}

static void quit(struct cmd *c)
{
	cmd_return(c, NULL);
	control_quit(0);
}

const struct cmd_desc commands_own[] = {
	{ "spicebd-insert", spicebd_insert, 0,
	  "source:s filename:s? drive:s? personality:SpicebdPersonality? "
	  "read-only-mode:SpicebdReadOnlyMode? force:b? replace:b? "
	  "on-tray:b? timeout:i? resend:b? cache:s? read-ahead:s?", "SpicebdInserted" },
	{ "spicebd-drive-add", drive_add_cmd, 0,
	  "personality:SpicebdPersonality index:i? queues:i? depth:i? max-io:i? reconnect-timeout:i? "
	  "stall-timeout:i? hold:b? open-wait:i?", "SpicebdMade" },
	{ "spicebd-drive-del", drive_del_cmd, 0, "drive:s force:b?", NULL },
	{ "spicebd-lock", lock, 0, "drive:s", NULL },
	{ "spicebd-unlock", unlock, 0, "drive:s force:b?", NULL },
	{ "quit", quit, 0, "", NULL },
	{ NULL, NULL, 0, NULL, NULL },
};
