// SPDX-License-Identifier: GPL-2.0-only
/* QEMU's commands, with QEMU's names, arguments and words. */
#include <errno.h>
#include <string.h>

#include "control.h"
#include "drive.h"
#include "fdset.h"
#include "insert.h"
#include "nodes.h"
#include "polite.h"

#define INSERT_TIMEOUT	30

static void done(int r, struct drive *d, const struct derr *e, void *arg)
{
	cmd_end(arg, r, e);
}

static void asked(int r, const struct derr *e, void *arg)
{
	cmd_end(arg, r, e);
}

/* Our own argument "timeout": how long the drive's user is waited for. */
static struct drive *arg_asked(struct cmd *c, int *timeout)
{
	long long t = arg_int(c, "timeout", -1);
	struct drive *d;
	struct derr e;
	bool failed;

	d = arg_drive(c, true, &failed);
	if (d && arg_has(c, "timeout") && (t < 0 || t > POLITE_TIMEOUT_MAX)) {
		derr_set(&e, EINVAL, "Parameter 'timeout' is 0 to %d seconds", POLITE_TIMEOUT_MAX);
		cmd_fail(c, &e);
		return NULL;
	}
	*timeout = t;
	return d;
}

static void eject(struct cmd *c)
{
	struct derr e;
	int timeout;
	struct drive *d = arg_asked(c, &timeout);

	if (!d)
		return;
	if (arg_bool(c, "force", false))
		cmd_end(c, drive_eject(d, true, &e), &e);
	else
		polite_drive(d, POLITE_EJECT, timeout, asked, c);
}

static void open_later(int r, const struct derr *e, void *arg)
{
}

/*
 * QEMU answers at once, and the tray's event tells when its user has let go.
 * With "wait" the answer is the outcome.
 */
static void open_tray(struct cmd *c)
{
	struct derr e;
	int timeout;
	struct drive *d = arg_asked(c, &timeout);

	if (!d)
		return;
	if (arg_bool(c, "force", false)) {
		cmd_end(c, drive_open_tray(d, true, &e), &e);
	} else if (arg_bool(c, "wait", false)) {
		polite_drive(d, POLITE_OPEN, timeout, asked, c);
	} else {
		int r = blockers_check(d, OP_TRAY, false, &e);

		if (!r)
			polite_drive(d, POLITE_OPEN, timeout, open_later, NULL);
		cmd_end(c, r, &e);
	}
}

static void close_tray(struct cmd *c)
{
	struct drive *d;
	struct derr e;
	bool failed;

	d = arg_drive(c, true, &failed);
	if (!failed)
		cmd_end(c, drive_close_tray(d, &e), &e);
}

static void remove_medium(struct cmd *c)
{
	struct derr e;
	int timeout;
	struct drive *d = arg_asked(c, &timeout);

	if (!d)
		return;
	if (arg_bool(c, "force", false))
		cmd_end(c, drive_remove_medium(d, true, &e), &e);
	else
		polite_drive(d, POLITE_REMOVE, timeout, asked, c);
}

static void insert_medium(struct cmd *c)
{
	struct insert_args a = { .personality = -1, .open_tray = true, .patience = -1 };
	struct derr e;
	bool failed;

	a.drive = arg_drive(c, true, &failed);
	if (failed)
		return;
	a.source = node_source(arg_str(c, "node-name"), &a.mode, &e);
	if (!a.source) {
		cmd_fail(c, &e);
		return;
	}
	/* A drive that never writes asks for no more than reading. */
	if (drive_has_tray(a.drive) && a.mode == RO_READ_WRITE)
		a.mode = RO_AUTO;
	a.timeout = INSERT_TIMEOUT;
	insert_start(&a, done, c);
}

static void change_medium(struct cmd *c)
{
	struct insert_args a = { .personality = -1, .replace = true };
	const char *format = arg_str(c, "format");
	struct derr e;

	a.drive = arg_asked(c, &a.patience);
	if (!a.drive)
		return;
	if (format && strcmp(format, "raw"))
		derr_set(&e, EINVAL, "Unknown driver '%s'", format);
	else if (insert_mode(arg_str(c, "read-only-mode") ?: "retain", a.drive, &a.mode, &e) == 0)
		a.source = source_parse(arg_str(c, "filename"), NULL, &e);
	if (!a.source) {
		cmd_fail(c, &e);
		return;
	}
	a.force = arg_bool(c, "force", false);
	a.timeout = INSERT_TIMEOUT + MAX(a.patience, 0);
	insert_start(&a, done, c);
}

/* Of a drive or, as in QEMU, of the node in it. Nothing is resized: the table says why. */
static void resize(struct cmd *c)
{
	struct drive *d;
	struct derr e;
	bool failed;

	d = arg_drive(c, true, &failed);
	if (failed)
		return;
	if (arg_int(c, "size", 0) < 0)
		derr_set(&e, EINVAL, "Parameter 'size' expects a >0 size");
	else if (drive_refresh(d, &e) == 0)
		blockers_check(d, OP_RESIZE, false, &e);
	cmd_fail(c, &e);
}

static void blockdev_add(struct cmd *c)
{
	struct derr e;

	cmd_end(c, node_add(c->args, &e), &e);
}

static void blockdev_del(struct cmd *c)
{
	struct derr e;

	cmd_end(c, node_del(arg_str(c, "node-name"), &e), &e);
}

static void add_fd(struct cmd *c)
{
	long long set = arg_int(c, "fdset-id", -1);
	int fd = qmp_peer_take_fd(c->peer), set_id, member;
	JsonObject *o;
	struct derr e;

	if (set < -1 || set > G_MAXINT)
		set = -1;
	if (fdset_add(c->peer, set, fd, &set_id, &member, &e) < 0) {
		cmd_fail(c, &e);
		return;
	}
	o = json_object_new();
	json_object_set_int_member(o, "fdset-id", set_id);
	json_object_set_int_member(o, "fd", member);
	cmd_return_object(c, o);
}

static void remove_fd(struct cmd *c)
{
	long long set = arg_int(c, "fdset-id", -1), fd = arg_int(c, "fd", -1);
	struct derr e;

	cmd_end(c, fdset_remove(c->peer, set, fd, &e), &e);
}

const struct cmd_desc commands_block[] = {
	{ "eject", eject, 0, "device:s? id:s? force:b? timeout:i?", NULL },
	{ "blockdev-open-tray", open_tray, 0, "device:s? id:s? force:b? wait:b? timeout:i?", NULL },
	{ "blockdev-close-tray", close_tray, 0, "device:s? id:s?", NULL },
	{ "blockdev-remove-medium", remove_medium, 0, "id:s force:b? timeout:i?", NULL },
	{ "blockdev-insert-medium", insert_medium, 0, "id:s node-name:s", NULL },
	{ "blockdev-change-medium", change_medium, 0,
	  "device:s? id:s? filename:s format:s? force:b? "
	  "read-only-mode:BlockdevChangeReadOnlyMode? timeout:i?", NULL },
	{ "block_resize", resize, 0, "device:s? id:s? size:i", NULL },
	{ "blockdev-add", blockdev_add, 0,
	  "@BlockdevOptions", NULL },
	{ "blockdev-del", blockdev_del, 0, "node-name:s", NULL },
	{ "add-fd", add_fd, 0, "fdset-id:i? opaque:s?", "AddfdInfo" },
	{ "remove-fd", remove_fd, 0, "fdset-id:i fd:i?", NULL },
	{ NULL, NULL, 0, NULL, NULL },
};
