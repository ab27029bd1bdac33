// SPDX-License-Identifier: GPL-2.0-only
/* Which drive is meant, and whether there is one. */
#include "ctl.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fault_kernel(struct fault *f, const struct kernel_err *e)
{
	if (e->code == ENOENT)
		fault_set(f, EXIT_REFUSED,
			  "the kernel module is not loaded; \"modprobe spicebd\" loads it");
	else if (e->code == EPERM || e->code == EACCES)
		fault_set(f, EXIT_REFUSED, "not permitted; run it as root");
	else
		fault_set(f, e->code == ETIMEDOUT ? EXIT_TIMEOUT : EXIT_REFUSED, "%s", e->text);
}

struct kernel *drives_kernel(struct fault *f)
{
	struct kernel_err e = { 0 };
	struct kernel *k = kernel_open(&e);

	if (!k)
		fault_kernel(f, &e);
	return k;
}

static bool parse_plain(const char *text, uint32_t *index)
{
	if (!strncmp(text, "/dev/spicebd", 12))
		text += 12;
	else if (!strncmp(text, "spicebd", 7))
		text += 7;
	return parse_u32(text, UINT32_MAX, index);
}

/* spicebd0, 0, /dev/spicebd0, or a link in /dev to it. */
bool drive_name_parse(const char *text, uint32_t *index)
{
	char real[PATH_MAX];

	if (parse_plain(text, index))
		return true;
	return !strncmp(text, "/dev/", 5) && realpath(text, real) &&
	       !strncmp(real, "/dev/spicebd", 12) && parse_plain(real, index);
}

static void set_no_drive(struct kernel *k, const char *text, struct fault *f)
{
	struct kernel_drive *d = g_new0(struct kernel_drive, SPICEBD_MAX_DRIVES);
	g_autoptr(GString) names = g_string_new(NULL);
	unsigned int n = 0;

	if (kernel_list(k, d, &n, NULL) < 0)
		n = 0;
	for (unsigned int i = 0; i < n; i++)
		g_string_append_printf(names, "%s%s", i ? ", " : "", d[i].name);
	if (n)
		fault_set(f, EXIT_REFUSED, "no such drive: %s; there are %s", text, names->str);
	else
		fault_set(f, EXIT_REFUSED, "no such drive: %s; \"spicebdctl add\" makes one", text);
	g_free(d);
}

int drive_get_in(struct kernel *k, const char *text, struct kernel_drive *d, struct fault *f)
{
	struct kernel_err e = { 0 };
	uint32_t index;
	int r;

	if (!drive_name_parse(text, &index)) {
		fault_set(f, EXIT_USAGE, "\"%s\" names no drive; spicebd0, 0 or /dev/spicebd0 does",
			  text);
		return -EINVAL;
	}
	r = index < SPICEBD_MAX_DRIVES ? kernel_get(k, index, d, &e) : -ENODEV;
	if (r == -ENODEV || r == -ENXIO || r == -ENOENT) {
		char name[32];

		snprintf(name, sizeof(name), "spicebd%u", index);
		set_no_drive(k, name, f);
	} else if (r < 0) {
		fault_kernel(f, &e);
	}
	return r;
}

int drive_get(const char *text, struct kernel_drive *d, struct fault *f)
{
	struct kernel *k = drives_kernel(f);
	int r;

	if (!k)
		return -ENOENT;
	r = drive_get_in(k, text, d, f);
	kernel_close(k);
	return r;
}

bool drive_locked(const struct kernel_drive *d)
{
	return d->state & (SPICEBD_STATE_LOCKED | SPICEBD_STATE_LOCKED_ADMIN);
}

static int only_one(struct kernel *k, bool (*fits)(const struct kernel_drive *d),
		    const char *none, const char *several, struct kernel_drive *out,
		    struct fault *f)
{
	struct kernel_drive *d = g_new0(struct kernel_drive, SPICEBD_MAX_DRIVES);
	unsigned int n = 0, found = 0;
	struct kernel_err e = { 0 };
	int r = kernel_list(k, d, &n, &e);

	if (r < 0)
		fault_kernel(f, &e);
	for (unsigned int i = 0; !r && i < n; i++)
		if (fits(&d[i]) && !found++)
			*out = d[i];
	g_free(d);
	if (!r && found != 1) {
		fault_set(f, EXIT_REFUSED, "%s", found ? several : none);
		r = -EINVAL;
	}
	return r;
}

int drive_pick(const char *name, bool (*fits)(const struct kernel_drive *d), const char *none,
	       const char *several, struct kernel_drive *out, struct fault *f)
{
	struct kernel *k = drives_kernel(f);
	int r;

	if (!k)
		return -ENOENT;
	r = name ? drive_get_in(k, name, out, f) : only_one(k, fits, none, several, out, f);
	kernel_close(k);
	return r;
}

int drive_by_daemon(const char *command, JsonObject *args, int timeout_ms, struct fault *f)
{
	struct qmp *q = daemon_connect(timeout_ms > FORCE_MS ? DAEMON_IF_RUNNING :
				       DAEMON_IF_QUICK, f);
	g_autoptr(JsonNode) r = NULL;

	if (!q) {
		json_object_unref(args);
		return -1;
	}
	r = qmp_call(q, command, args, -1, timeout_ms, f);
	qmp_close(q);
	return r ? 0 : -1;
}

int drive_by_kernel(int (*what)(struct kernel *k, uint32_t index, bool force,
				struct kernel_err *e),
		    const struct kernel_drive *d, bool force, struct fault *f)
{
	struct kernel *k = drives_kernel(f);
	struct kernel_err e = { 0 };
	int r;

	if (!k)
		return -ENOENT;
	r = kernel_manage(k, &e);
	if (!r)
		r = what(k, d->index, force, &e);
	if (r < 0)
		fault_kernel(f, &e);
	kernel_close(k);
	return r;
}
