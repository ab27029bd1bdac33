// SPDX-License-Identifier: GPL-2.0-only
/* Snapshots by QMP. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "control.h"
#include "drive.h"
#include "fdset.h"
#include "snapshot.h"

static void created(int r, JsonObject *o, const struct derr *e, void *arg)
{
	if (r < 0)
		cmd_fail(arg, e);
	else
		cmd_return_object(arg, o);
}

/*
 * A descriptor that was passed along; or a file of this name, which must not be
 * there yet and is gone from its folder at once, so that nothing is left of it.
 */
static int scratch(const char *text, struct derr *e)
{
	int fd;

	if (g_str_has_prefix(text, "/dev/fdset/"))
		return fdset_dup(text, e);
	if (text[0] != '/')
		return derr_set(e, EINVAL, "Parameter 'scratch' is no absolute path: '%.100s'",
				text);
	fd = open(text, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return derr_set(e, errno, "cannot make the scratch file %.200s: %s", text,
				strerror(errno));
	unlink(text);
	return fd;
}

static void snapshot_create_cmd(struct cmd *c)
{
	const char *file = arg_str(c, "scratch");
	struct snapshot_args a = {
		.name = arg_str(c, "name"), .socket = arg_str(c, "socket"),
		.scratch_name = arg_str(c, "filename") ?: file,
	};
	struct derr e;
	bool failed;

	a.d = arg_drive(c, true, &failed);
	if (failed)
		return;
	a.scratch = scratch(file, &e);
	if (a.scratch < 0)
		cmd_fail(c, &e);
	else
		snapshot_create(&a, created, c);
}

static void deleted(int r, const struct derr *e, void *arg)
{
	cmd_end(arg, r, e);
}

static void snapshot_delete_cmd(struct cmd *c)
{
	snapshot_delete(arg_str(c, "name"), arg_bool(c, "force", false), deleted, c);
}

static void query_snapshots(struct cmd *c)
{
	struct drive *d;
	bool failed;

	d = arg_drive(c, false, &failed);
	if (!failed)
		cmd_return_array(c, snapshots_query(d, !c->status));
}

const struct cmd_desc commands_snapshot[] = {
	{ "spicebd-snapshot-create", snapshot_create_cmd, 0,
	  "drive:s scratch:s filename:s? name:s? socket:s?", "SpicebdSnapshot" },
	{ "spicebd-snapshot-delete", snapshot_delete_cmd, 0, "name:s force:b?", NULL },
	{ "spicebd-query-snapshots", query_snapshots, CMD_STATUS, "drive:s?",
	  "[SpicebdSnapshot]" },
	{ NULL, NULL, 0, NULL, NULL },
};
