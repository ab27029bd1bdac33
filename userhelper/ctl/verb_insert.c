// SPDX-License-Identifier: GPL-2.0-only
/* insert and change: a medium into a drive. */
#include "ctl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define OPT_CACHE	{ "cache", required_argument, NULL, 'C' }
#define OPT_READ_AHEAD	{ "read-ahead", required_argument, NULL, 'R' }
#define SLACK_MS	5000	/* the daemon's own limit comes first, with a reason */

struct insert {
	const char *drive, *source;
	const char *mode;		/* read-only-mode */
	const char *personality;
	bool force, json;
	bool replace;			/* put out what is in it, once the new one is there */
	bool on_tray;			/* lay it onto the open tray */
	bool resend;			/* writes, to a server that can prove nothing */
	int timeout;
	const char *cache, *read_ahead;	/* as the daemon takes them, or NULL */
};

static int take_word(const struct verb *v, const char **where, const char *word,
		     const char *choices)
{
	if (*where && strcmp(*where, word))
		return verb_usage(v, "one of %s", choices);
	*where = word;
	return -1;
}

/* Return: -1 to go on, else the exit status. */
static int take_option(const struct verb *v, int c, struct insert *in)
{
	const char *modes = in->replace ? "--read-only, --read-write and --retain" :
			    "--read-only and --read-write";

	switch (c) {
	case 'r':
		return take_word(v, &in->mode, "read-only", modes);
	case 'w':
		return take_word(v, &in->mode, "read-write", modes);
	case 'k':
		return take_word(v, &in->mode, "retain", modes);
	case 'c':
		return take_word(v, &in->personality, "cdrom", "--cdrom and --disk");
	case 'd':
		return take_word(v, &in->personality, "disk", "--cdrom and --disk");
	case 'f':
		in->force = true;
		return -1;
	case 'o':
		in->on_tray = true;
		return -1;
	case 'S':
		in->resend = true;
		return -1;
	case 'C':
		in->cache = optarg;
		return -1;
	case 'R':
		in->read_ahead = optarg;
		return -1;
	default:
		if (!parse_seconds(optarg, &in->timeout) || !in->timeout)
			return verb_usage(v, "\"%s\" is no number of seconds", optarg);
		return -1;
	}
}

static int parse(const struct verb *v, int argc, char **argv, struct insert *in)
{
	static const struct option opts[] = {
		OPT_HELP, OPT_JSON,
		{ "read-only", no_argument, NULL, 'r' }, { "read-write", no_argument, NULL, 'w' },
		{ "cdrom", no_argument, NULL, 'c' }, { "disk", no_argument, NULL, 'd' },
		{ "force", no_argument, NULL, 'f' }, { "timeout", required_argument, NULL, 't' },
		{ "on-tray", no_argument, NULL, 'o' }, { "resend", no_argument, NULL, 'S' },
		OPT_CACHE, OPT_READ_AHEAD,
		OPT_END
	};
	static const struct option change[] = {
		OPT_HELP, OPT_JSON,
		{ "read-only", no_argument, NULL, 'r' }, { "read-write", no_argument, NULL, 'w' },
		{ "retain", no_argument, NULL, 'k' }, OPT_CACHE, OPT_READ_AHEAD,
		{ "force", no_argument, NULL, 'f' }, { "timeout", required_argument, NULL, 't' },
		OPT_END
	};
	int c, r, status;

	while ((c = verb_option(v, argc, argv, in->replace ? change : opts, &in->json, &status))) {
		r = take_option(v, c, in);
		if (r >= 0)
			return r;
	}
	if (status >= 0)
		return status;
	if (argc - optind < 1 || argc - optind > 2)
		return verb_usage(v, "a source is wanted, and at most a drive before it");
	in->source = argv[argc - 1];
	in->drive = argc - optind == 2 ? argv[optind] : NULL;
	if (!in->mode)
		in->mode = in->replace ? "retain" : "auto";
	return -1;
}

static bool has_medium(const struct kernel_drive *d)
{
	return d->state & SPICEBD_STATE_MEDIUM;
}

static bool has_room_on_tray(const struct kernel_drive *d)
{
	return d->tray == SPICEBD_TRAY_OPEN && !has_medium(d);
}

/* Any drive will do, and one can be made: if there is the module at all. */
static int any_drive(struct fault *f)
{
	struct kernel *k = drives_kernel(f);

	kernel_close(k);
	return k ? 0 : -ENOENT;
}

/* The drive that was named, or that the verb means when none was: 1; 0: any. */
static int find_drive(const struct insert *in, struct kernel_drive *d, struct fault *f)
{
	int r = 0;

	if (in->replace)
		r = drive_pick(in->drive, has_medium, "no drive has a medium; name one",
			       "several drives have a medium; name one of them", d, f);
	else if (in->on_tray)
		r = drive_pick(in->drive, has_room_on_tray, "no drive has an open, empty tray",
			       "several trays are open and empty; name one drive", d, f);
	else if (in->drive)
		r = drive_get(in->drive, d, f);
	else
		return any_drive(f);
	return r < 0 ? r : 1;
}

/* Whether it must be a cdrom's medium; the drive, where one was named. */
static int look_at_drive(struct insert *in, struct kernel_drive *d, bool *cdrom, struct fault *f)
{
	int r = find_drive(in, d, f);

	if (r < 0)
		return r;
	*cdrom = in->personality && !strcmp(in->personality, "cdrom");
	if (r > 0) {
		in->drive = d->name;
		*cdrom = d->personality == SPICEBD_PERSONALITY_CDROM;
	}
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
	return 0;
}

/* How the file of a retained mode is opened: as the old medium was. */
static const char *open_mode(const struct insert *in, const struct kernel_drive *d)
{
	if (strcmp(in->mode, "retain"))
		return in->mode;
	if (!has_medium(d) || d->personality == SPICEBD_PERSONALITY_CDROM)
		return "auto";
	return d->medium.flags & SPICEBD_MEDIUM_READ_ONLY ? "read-only" : "read-write";
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
	if (in->replace)
		json_object_set_boolean_member(a, "replace", TRUE);
	if (in->resend)
		json_object_set_boolean_member(a, "resend", TRUE);
	if (in->on_tray)
		json_object_set_boolean_member(a, "on-tray", TRUE);
	if (in->cache)
		json_object_set_string_member(a, "cache", in->cache);
	if (in->read_ahead)
		json_object_set_string_member(a, "read-ahead", in->read_ahead);
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
	if (source_hand_over(q, s, f))
		r = qmp_call(q, "spicebd-insert", arguments(in, s, d), -1,
			     in->timeout * 1000 + SLACK_MS, f);
	qmp_close(q);
	if (!r) {
		/* The daemon names mounts; who else has it open it may not see. */
		if (strstr(f->text, " is busy"))
			busy_explain(d, "changes it", f);
		return fault_tell(f);
	}
	o = JSON_NODE_HOLDS_OBJECT(r) ? json_node_get_object(r) : NULL;
	if (in->json)
		json_print_node(r);
	else
		puts(json_str(o, "device", "inserted"));
	return EXIT_DONE;
}

static int put_in(const struct verb *v, int argc, char **argv, bool replace)
{
	struct insert in = { .replace = replace, .timeout = 30 };
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
	    source_open(in.source, cdrom, open_mode(&in, &d), &s, &f) < 0)
		return fault_tell(&f);
	r = insert(&in, &s, &d, &f);
	if (s.fd >= 0)
		close(s.fd);
	return r;
}

int verb_insert(const struct verb *v, int argc, char **argv)
{
	return put_in(v, argc, argv, false);
}

int verb_change(const struct verb *v, int argc, char **argv)
{
	return put_in(v, argc, argv, true);
}
