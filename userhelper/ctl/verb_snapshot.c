// SPDX-License-Identifier: GPL-2.0-only
/*
 * snapshot. Its scratch file is opened here, with the rights of whoever typed the
 * command, and the file systems are frozen here; spicebdd does the rest.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "freeze.h"
#include "sock.h"
#include "stack.h"

#define CREATE_MS	60000	/* spicebdd's own limits are shorter */
#define DELETE_MS	30000
#define ASK_MS		10000
#define FS_S		60	/* the file systems are thawed then, whatever happens */
#define SCRATCH_DIR	"/var/tmp"
#define HOLDER		"snapshot-fs"

struct snapshot_args {
	const char *name, *scratch, *socket;
	bool fs, force, json;
};

static int parse(const struct verb *v, int argc, char **argv, struct snapshot_args *a)
{
	static const struct option opts[] = {
		{ "name", required_argument, NULL, 'n' },
		{ "scratch", required_argument, NULL, 's' },
		{ "socket", required_argument, NULL, 'k' },
		{ "fs", no_argument, NULL, 'F' },
		{ "force", no_argument, NULL, 'f' },
		OPT_HELP, OPT_JSON, OPT_END
	};
	int c, status;

	while ((c = verb_option(v, argc, argv, opts, &a->json, &status))) {
		switch (c) {
		case 'n':
			a->name = optarg;
			break;
		case 's':
			a->scratch = optarg;
			break;
		case 'k':
			a->socket = optarg;
			break;
		case 'F':
			a->fs = true;
			break;
		case 'f':
			a->force = true;
			break;
		}
	}
	return status;
}

/* ---- create */

static int new_file(const char *path, struct fault *f)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0 && errno == EEXIST) {
		fault_set(f, EXIT_REFUSED, "%s is there already: name a folder, or a file that is "
			  "not there yet", clean(path));
		return -EEXIST;
	}
	/* Nothing is left of it, however the snapshot ends. */
	if (fd >= 0)
		unlink(path);
	return fd < 0 ? -errno : fd;
}

static int nameless_file(const char *dir)
{
	char path[4200];
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT))
		return fd < 0 ? -errno : fd;
	/* Not every file system has them. */
	snprintf(path, sizeof(path), "%.4096s/spicebd-snapshot-XXXXXX", dir);
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	unlink(path);
	return fd;
}

static int open_scratch(const char *path, const struct kernel_drive *d, struct fault *f)
{
	struct stat st;
	char by[200];
	int fd;

	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		fd = nameless_file(path);
	else
		fd = new_file(path, f);
	if (fd < 0) {
		if (!f->text[0])
			fault_set(f, EXIT_REFUSED, "cannot make a scratch file at %s: %s",
				  clean(path), strerror(-fd));
		return fd;
	}
	/* spicebdd looks too; but with the file systems frozen this is too late. */
	if (!stack_contains(fd, d->name, by, sizeof(by)))
		return fd;
	fault_set(f, EXIT_REFUSED, "%s: the scratch file at %s lies on the drive itself%s%s%s: give "
		  "another place by --scratch", d->name, clean(path), by[0] ? " (by way of " : "",
		  by, by[0] ? ")" : "");
	close(fd);
	return -ELOOP;
}

static JsonObject *arguments(const struct snapshot_args *a, const struct kernel_drive *d,
			     const struct source *s)
{
	g_autofree char *shown = g_utf8_make_valid(s->filename, -1);
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "drive", d->name);
	json_object_set_string_member(o, "scratch", s->uri);
	json_object_set_string_member(o, "filename", shown);
	if (a->name)
		json_object_set_string_member(o, "name", a->name);
	if (a->socket)
		json_object_set_string_member(o, "socket", a->socket);
	return o;
}

static JsonNode *ask_for_it(struct qmp *q, const struct snapshot_args *a,
			    const struct kernel_drive *d, struct source *s, struct fault *f)
{
	struct fskeep *keeper = NULL;
	JsonNode *r;

	if (!source_hand_over(q, s, f))
		return NULL;
	if (a->fs && (fs_stacked(d->name, f) < 0 ||
		      fskeep_start(d, HOLDER, now_ms() + FS_S * 1000, &keeper, f) < 0))
		return NULL;
	r = qmp_call(q, "spicebd-snapshot-create", arguments(a, d, s), -1, CREATE_MS, f);
	if (keeper)
		fskeep_abort(keeper);
	return r;
}

static int absolute(const struct verb *v, const char *path)
{
	return path && path[0] != '/' ?
		verb_usage(v, "\"%s\" is no absolute path", clean(path)) : 0;
}

static int create(const struct verb *v, const struct snapshot_args *a, const char *drive)
{
	const char *scratch = a->scratch ? a->scratch : SCRATCH_DIR;
	struct source s = { .fd = -1 };
	struct kernel_drive d = { 0 };
	g_autoptr(JsonNode) r = NULL;
	struct fault f = { 0 };
	struct qmp *q;
	int status = absolute(v, a->socket);

	if (status)
		return status;
	if (drive_get(drive, &d, &f) < 0)
		return fault_tell(&f);
	s.fd = open_scratch(scratch, &d, &f);
	if (s.fd < 0)
		return fault_tell(&f);
	snprintf(s.filename, sizeof(s.filename), "%s", scratch);
	q = daemon_connect(DAEMON_MUST, &f);
	if (q)
		r = ask_for_it(q, a, &d, &s, &f);
	qmp_close(q);
	close(s.fd);
	if (!r)
		return fault_tell(&f);
	if (a->json)
		json_print_node(r);
	else
		puts(json_str(json_node_get_object(r), "uri", "made"));
	return EXIT_DONE;
}

/* ---- list, delete */

static void print_one(JsonObject *o)
{
	char size[32], copied[32];

	printf("%s  %s  %s  %s, %s copied, %lld client%s  %s\n", clean(json_str(o, "name", "?")),
	       json_str(o, "drive", "?"), json_str(o, "state", "?"),
	       size_text(json_int(o, "size", 0), size, sizeof(size)),
	       size_text(json_int(o, "copied", 0), copied, sizeof(copied)),
	       (long long)json_int(o, "clients", 0), json_int(o, "clients", 0) == 1 ? "" : "s",
	       clean(json_str(o, "uri", "")));
	if (json_str(o, "reason", NULL))
		printf("    %s\n", clean(json_str(o, "reason", "")));
}

static int list(const struct snapshot_args *a, const char *drive)
{
	g_autoptr(JsonNode) r = NULL;
	struct kernel_drive d = { 0 };
	JsonObject *o = json_object_new();
	struct fault f = { 0 };
	struct qmp *q;
	JsonArray *all;

	if (drive && drive_get(drive, &d, &f) < 0) {
		json_object_unref(o);
		return fault_tell(&f);
	}
	if (drive)
		json_object_set_string_member(o, "drive", d.name);
	q = daemon_connect(DAEMON_IF_RUNNING, &f);
	if (q)
		r = qmp_call(q, "spicebd-query-snapshots", o, -1, ASK_MS, &f);
	else
		json_object_unref(o);
	qmp_close(q);
	if (!r)
		return fault_tell(&f);
	if (a->json) {
		json_print_node(r);
		return EXIT_DONE;
	}
	all = JSON_NODE_HOLDS_ARRAY(r) ? json_node_get_array(r) : NULL;
	for (guint i = 0; all && i < json_array_get_length(all); i++)
		print_one(json_array_get_object_element(all, i));
	return EXIT_DONE;
}

static int delete(const struct snapshot_args *a, const char *name)
{
	JsonObject *o = json_object_new();
	struct fault f = { 0 };

	json_object_set_string_member(o, "name", name);
	if (a->force)
		json_object_set_boolean_member(o, "force", TRUE);
	return drive_by_daemon("spicebd-snapshot-delete", o, DELETE_MS, &f) < 0 ?
		fault_tell(&f) : EXIT_DONE;
}

int verb_snapshot(const struct verb *v, int argc, char **argv)
{
	struct snapshot_args a = { 0 };
	int status = parse(v, argc, argv, &a), n = argc - optind;
	const char *what = n > 0 ? argv[optind] : "", *which = n > 1 ? argv[optind + 1] : NULL;
	bool making = a.name || a.scratch || a.socket || a.fs;

	if (status >= 0)
		return status;
	if (!strcmp(what, "create") && n == 2 && !a.force)
		return create(v, &a, which);
	if (!strcmp(what, "list") && n <= 2 && !making && !a.force)
		return list(&a, which);
	if (!strcmp(what, "delete") && n == 2 && !making)
		return delete(&a, which);
	return verb_usage(v, "create DRIVE, list or delete NAME is wanted, each with its own options");
}
