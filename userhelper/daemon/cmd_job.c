// SPDX-License-Identifier: GPL-2.0-only
/*
 * Snapshots as whoever knows QEMU asks for them: blockdev-backup with sync=none into
 * a node of an own, which is then exported by nbd-server-add or block-export-add.
 * The job lasts until it is cancelled.
 */
#include <errno.h>
#include <string.h>

#include "control.h"
#include "drive.h"
#include "medium.h"
#include "nodes.h"
#include "snapshot.h"

static struct drive *find_device(const char *name, struct derr *e)
{
	for (struct drive *d = drive_first(); d; d = drive_next(d)) {
		const struct medium *m = d->medium;

		if (!strcmp(d->k.name, name) ||
		    (m && m->source->node_name && !strcmp(m->source->node_name, name)))
			return d;
	}
	derr_set(e, ENODEV, "Cannot find device='%.100s' nor node-name='%.100s'", name, name);
	return NULL;
}

static int only(const struct cmd *c, const char *arg, const char *value, const char *why,
		struct derr *e)
{
	const char *is = arg_str(c, arg);

	if (!is || !strcmp(is, value))
		return 0;
	return derr_set(e, EOPNOTSUPP, "Parameter '%s' must be '%s': %s", arg, value, why);
}

static int check_backup(const struct cmd *c, struct derr *e)
{
	int r = only(c, "sync", "none", "who reads the exported target copies", e);

	if (!r)
		r = only(c, "on-source-error", "report", "an error ends the job", e);
	if (!r)
		r = only(c, "on-target-error", "report", "an error ends the job", e);
	if (!r && arg_int(c, "speed", 0))
		r = derr_set(e, EOPNOTSUPP, "Parameter 'speed' must be 0: writes of the drive "
			     "would wait for it");
	return r;
}

static void started(int r, JsonObject *o, const struct derr *e, void *arg)
{
	if (o)
		json_object_unref(o);
	cmd_end(arg, r, e);
}

static void blockdev_backup(struct cmd *c)
{
	const char *device = arg_str(c, "device"), *target = arg_str(c, "target");
	struct snapshot_args a = { .node = target, .scratch_name = target };
	struct derr e;

	a.d = find_device(device, &e);
	if (!a.d || check_backup(c, &e) < 0) {
		cmd_fail(c, &e);
		return;
	}
	a.name = arg_str(c, "job-id") ?: a.d->k.name;
	a.scratch = node_scratch(target, &e);
	if (a.scratch < 0)
		cmd_fail(c, &e);
	else
		snapshot_create(&a, started, c);
}

static void add_block_job(const char *id, uint64_t size, uint64_t copied, void *arg)
{
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "type", "backup");
	json_object_set_string_member(o, "device", id);
	json_object_set_int_member(o, "len", size);
	json_object_set_int_member(o, "offset", copied);
	json_object_set_boolean_member(o, "busy", TRUE);
	json_object_set_boolean_member(o, "paused", FALSE);
	json_object_set_int_member(o, "speed", 0);
	json_object_set_string_member(o, "io-status", "ok");
	json_object_set_boolean_member(o, "ready", FALSE);
	json_object_set_string_member(o, "status", "running");
	json_object_set_boolean_member(o, "auto-finalize", TRUE);
	json_object_set_boolean_member(o, "auto-dismiss", TRUE);
	json_array_add_object_element(arg, o);
}

static void query_block_jobs(struct cmd *c)
{
	JsonArray *a = json_array_new();

	snapshot_jobs(add_block_job, a);
	cmd_return_array(c, a);
}

static void add_job(const char *id, uint64_t size, uint64_t copied, void *arg)
{
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "id", id);
	json_object_set_string_member(o, "type", "backup");
	json_object_set_string_member(o, "status", "running");
	json_object_set_int_member(o, "current-progress", copied);
	json_object_set_int_member(o, "total-progress", size);
	json_array_add_object_element(arg, o);
}

static void query_jobs(struct cmd *c)
{
	JsonArray *a = json_array_new();

	snapshot_jobs(add_job, a);
	cmd_return_array(c, a);
}

static void cancelled(int r, const struct derr *e, void *arg)
{
	cmd_end(arg, r, e);
}

struct wanted {
	const char *id;
	bool found;
};

static void look_for(const char *id, uint64_t size, uint64_t copied, void *arg)
{
	struct wanted *w = arg;

	w->found |= !strcmp(id, w->id);
}

static void cancel(struct cmd *c, const char *id, bool force, enum qmp_class cls)
{
	struct wanted w = { .id = id };
	struct derr e;

	snapshot_jobs(look_for, &w);
	if (w.found) {
		snapshot_delete(id, force, cancelled, c);
		return;
	}
	derr_class(&e, cls, ENOENT, cls == QMP_DEVICE_NOT_ACTIVE ? "Job '%.100s' not found" :
		   "Job not found: '%.100s'", id);
	cmd_fail(c, &e);
}

static void block_job_cancel(struct cmd *c)
{
	cancel(c, arg_str(c, "device"), arg_bool(c, "force", false), QMP_DEVICE_NOT_ACTIVE);
}

static void job_cancel(struct cmd *c)
{
	cancel(c, arg_str(c, "id"), true, QMP_GENERIC_ERROR);
}

const struct cmd_desc commands_job[] = {
	{ "blockdev-backup", blockdev_backup, 0,
	  "job-id:s? device:s target:s sync:MirrorSyncMode speed:i? "
	  "on-source-error:BlockdevOnError? on-target-error:BlockdevOnError?", NULL },
	{ "block-job-cancel", block_job_cancel, 0, "device:s force:b?", NULL },
	{ "job-cancel", job_cancel, 0, "id:s", NULL },
	{ "query-block-jobs", query_block_jobs, 0, "", "[BlockJobInfo]" },
	{ "query-jobs", query_jobs, 0, "", "[JobInfo]" },
	{ NULL, NULL, 0, NULL, NULL },
};
