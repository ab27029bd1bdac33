// SPDX-License-Identifier: GPL-2.0-only
#include "ctl.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ADD_FD_MS	5000
#define SLACK_MS	5000	/* the daemon's own limit comes first, with a reason */

struct insert {
	const char *drive, *source;
	const char *mode;		/* read-only-mode */
	const char *personality;
	bool force, json;
	int timeout;
};

static int parse(const struct verb *v, int argc, char **argv, struct insert *in)
{
	static const struct option opts[] = {
		OPT_HELP, OPT_JSON,
		{ "read-only", no_argument, NULL, 'r' }, { "read-write", no_argument, NULL, 'w' },
		{ "cdrom", no_argument, NULL, 'c' }, { "disk", no_argument, NULL, 'd' },
		{ "force", no_argument, NULL, 'f' }, { "timeout", required_argument, NULL, 't' },
		OPT_END
	};
	const char *what;
	int c;

	while ((c = getopt_long(argc, argv, "", opts, NULL)) != -1) {
		switch (c) {
		case 'h':
			fputs(v->help, stdout);
			return EXIT_DONE;
		case 'j':
			in->json = true;
			break;
		case 'r':
		case 'w':
			what = c == 'r' ? "read-only" : "read-write";
			if (strcmp(in->mode, "auto") && strcmp(in->mode, what))
				return verb_usage(v, "one of --read-only and --read-write");
			in->mode = what;
			break;
		case 'c':
		case 'd':
			what = c == 'c' ? "cdrom" : "disk";
			if (in->personality && strcmp(in->personality, what))
				return verb_usage(v, "one of --cdrom and --disk");
			in->personality = what;
			break;
		case 'f':
			in->force = true;
			break;
		case 't':
			if (!parse_seconds(optarg, &in->timeout) || !in->timeout)
				return verb_usage(v, "\"%s\" is no number of seconds", optarg);
			break;
		default:
			return EXIT_USAGE;
		}
	}
	if (argc - optind < 1 || argc - optind > 2)
		return verb_usage(v, "a source is wanted, and at most a drive before it");
	in->source = argv[argc - 1];
	in->drive = argc - optind == 2 ? argv[optind] : NULL;
	return -1;
}

/* Whether it must be a cdrom's medium; the drive, where one was named. */
static int look_at_drive(const struct insert *in, struct kernel_drive *d, bool *cdrom,
			 struct fault *f)
{
	struct kernel *k = drives_kernel(f);
	int r = 0;

	if (!k)
		return -1;
	*cdrom = in->personality && !strcmp(in->personality, "cdrom");
	if (in->drive) {
		r = drive_get_in(k, in->drive, d, f);
		if (!r)
			*cdrom = d->personality == SPICEBD_PERSONALITY_CDROM;
	}
	kernel_close(k);
	if (r)
		return r;
	if (in->drive && in->personality && *cdrom != !strcmp(in->personality, "cdrom")) {
		fault_set(f, EXIT_REFUSED, "%s is a %s drive; leave out --%s or name another",
			  d->name, *cdrom ? "cdrom" : "disk", in->personality);
		return -1;
	}
	if (*cdrom && !strcmp(in->mode, "read-write")) {
		fault_set(f, EXIT_REFUSED,
			  "a cdrom drive is read-only; leave out --read-write, or give --disk");
		return -1;
	}
	if (in->drive && d->state & SPICEBD_STATE_MEDIUM && !in->force) {
		fault_set(f, EXIT_REFUSED,
			  "%s already has a medium; eject it first, or give --force", d->name);
		return -1;
	}
	return 0;
}

/* "/dev/fdset/N" in @uri when the source is a descriptor of ours. */
static bool hand_over(struct qmp *q, struct source *s, struct fault *f)
{
	g_autoptr(JsonNode) r = NULL;
	int64_t set;

	if (s->fd < 0)
		return true;
	r = qmp_call(q, "add-fd", NULL, s->fd, ADD_FD_MS, f);
	if (!r)
		return false;
	set = JSON_NODE_HOLDS_OBJECT(r) ? json_int(json_node_get_object(r), "fdset-id", -1) : -1;
	if (set < 0) {
		fault_set(f, EXIT_REFUSED, "spicebdd took the file but did not say where it is");
		return false;
	}
	snprintf(s->uri, sizeof(s->uri), "/dev/fdset/%lld", (long long)set);
	return true;
}

static JsonObject *arguments(const struct insert *in, const struct source *s,
			     const struct kernel_drive *d)
{
	JsonObject *a = json_object_new();

	json_object_set_string_member(a, "source", s->uri);
	if (s->filename[0]) {
		g_autofree char *name = g_utf8_make_valid(s->filename, -1);

		json_object_set_string_member(a, "filename", name);
	}
	if (in->drive)
		json_object_set_string_member(a, "drive", d->name);
	if (in->personality)
		json_object_set_string_member(a, "personality", in->personality);
	json_object_set_string_member(a, "read-only-mode", in->mode);
	if (in->force)
		json_object_set_boolean_member(a, "force", TRUE);
	json_object_set_int_member(a, "timeout", in->timeout);
	return a;
}

static int insert(const struct insert *in, struct source *s, const struct kernel_drive *d,
		  struct fault *f)
{
	struct qmp *q = daemon_connect(DAEMON_MUST, f);
	g_autoptr(JsonNode) r = NULL;
	JsonObject *o;

	if (!q)
		return fault_tell(f);
	if (hand_over(q, s, f))
		r = qmp_call(q, "spicebd-insert", arguments(in, s, d), -1,
			     in->timeout * 1000 + SLACK_MS, f);
	qmp_close(q);
	if (!r)
		return fault_tell(f);
	o = JSON_NODE_HOLDS_OBJECT(r) ? json_node_get_object(r) : NULL;
	if (in->json)
		json_print_node(r);
	else
		puts(json_str(o, "device", "inserted"));
	return EXIT_DONE;
}

int verb_insert(const struct verb *v, int argc, char **argv)
{
	struct insert in = { .mode = "auto", .timeout = 30 };
	struct kernel_drive d = { 0 };
	struct fault f = { 0 };
	struct source s;
	bool cdrom;
	int r;

	r = parse(v, argc, argv, &in);
	if (r >= 0)
		return r;
	/* The cheapest mistakes first: the path, then the drive, then the daemon. */
	if (look_at_drive(&in, &d, &cdrom, &f) < 0 ||
	    source_open(in.source, cdrom, in.mode, &s, &f) < 0)
		return fault_tell(&f);
	r = insert(&in, &s, &d, &f);
	if (s.fd >= 0)
		close(s.fd);
	return r;
}
