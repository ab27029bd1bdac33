// SPDX-License-Identifier: GPL-2.0-only
/* freeze, thaw, release. */
#include "freeze.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "freezing.h"
#include "log.h"
#include "sock.h"

#define SLACK_MS	10000	/* for the daemon to say that the limit came */

/**
 * struct freeze_args - of freeze and thaw
 * @d, @n: the drives
 * @all: none was named
 */
struct freeze_args {
	const char *holder;
	uint32_t limit;
	bool fs, json, all;
	struct kernel_drive *d;
	unsigned int n;
};

static int parse(const struct verb *v, int argc, char **argv, const struct option *opts,
		 struct freeze_args *a)
{
	int c, status, seconds;

	a->holder = FREEZE_HOLDER_DEFAULT;
	a->limit = FREEZE_TIMEOUT_DEFAULT;
	while ((c = verb_option(v, argc, argv, opts, &a->json, &status))) {
		switch (c) {
		case 'f':
			a->fs = true;
			break;
		case 'o':
			if (!freezing_holder_ok(optarg))
				return verb_usage(v, "\"%s\" is no name: 1 to %d letters, digits or "
						  ". _ - @ :", clean(optarg),
						  SPICEBD_HOLDER_NAME_MAX);
			a->holder = optarg;
			break;
		case 't':
			if (!parse_seconds(optarg, &seconds))
				return verb_usage(v, "\"%s\" is no number of seconds", clean(optarg));
			a->limit = seconds;
			break;
		}
	}
	return status;
}

static int named_drives(struct kernel *k, int argc, char **argv, struct freeze_args *a,
			struct fault *f)
{
	for (int i = optind; i < argc; i++) {
		int r = drive_get_in(k, argv[i], &a->d[a->n], f);

		if (r < 0)
			return r;
		for (unsigned int j = 0; j < a->n; j++)
			if (a->d[j].index == a->d[a->n].index) {
				fault_set(f, EXIT_USAGE, "%s is named twice", a->d[j].name);
				return -EINVAL;
			}
		if (++a->n == SPICEBD_MAX_DRIVES)
			break;
	}
	return 0;
}

/* Those that are named, or all, as a manager sees them. */
static int get_drives(int argc, char **argv, struct freeze_args *a, struct fault *f)
{
	struct kernel *k = freeze_manager(f);
	struct kernel_err e = { 0 };
	int r;

	if (!k)
		return -EPERM;
	a->d = g_new0(struct kernel_drive, SPICEBD_MAX_DRIVES);
	a->all = optind == argc;
	if (!a->all) {
		r = named_drives(k, argc, argv, a, f);
	} else {
		r = kernel_list(k, a->d, &a->n, &e);
		if (r < 0)
			fault_kernel(f, &e);
	}
	kernel_close(k);
	if (!r && !a->n) {
		fault_set(f, EXIT_REFUSED, "there is no drive; \"spicebdctl add\" makes one");
		r = -ENODEV;
	}
	return r;
}

static void print(const struct freeze_args *a, const char *state)
{
	g_autoptr(JsonArray) list = a->json ? json_array_new() : NULL;

	for (unsigned int i = 0; i < a->n; i++) {
		JsonObject *o;

		if (!a->json) {
			printf("%s is %s\n", a->d[i].name, state);
			continue;
		}
		o = json_object_new();
		json_object_set_string_member(o, "drive", a->d[i].name);
		json_object_set_string_member(o, "holder", a->holder);
		json_array_add_object_element(list, o);
	}
	if (a->json) {
		g_autoptr(JsonNode) n = json_node_init_array(json_node_alloc(), list);

		json_print_node(n);
	}
}

/* ---- freeze */

static int by_daemon(const struct freeze_args *a, uint32_t limit, struct fault *f)
{
	JsonObject *o = json_object_new();
	JsonArray *names = json_array_new();
	int wait = limit ? limit : FREEZE_TIMEOUT_DEFAULT;

	for (unsigned int i = 0; i < a->n; i++)
		json_array_add_string_element(names, a->d[i].name);
	json_object_set_array_member(o, "drives", names);
	json_object_set_string_member(o, "holder", a->holder);
	json_object_set_int_member(o, "timeout", limit);
	return drive_by_daemon("spicebd-freeze", o, wait * 1000 + SLACK_MS, f);
}

static int freeze_drives(const struct freeze_args *a, uint32_t limit, struct fault *f)
{
	char by[400];

	if (by_daemon(a, limit, f) == 0)
		return 0;
	if (f->status != EXIT_NO_DAEMON)
		return -EIO;
	for (unsigned int i = 0; i < a->n; i++)
		if (freezing_find(&a->d[i], a->holder)) {
			fault_set(f, EXIT_REFUSED, "%s: \"%s\" is a holder already: it is frozen by "
				  "%s", a->d[i].name, a->holder,
				  freezing_by(&a->d[i], by, sizeof(by)));
			return -EEXIST;
		}
	return freeze_by_kernel(a->d, a->n, a->holder, limit, f);
}

/* Nothing is frozen yet when one of them cannot be. */
static int check_fs(const struct freeze_args *a, struct fault *f)
{
	char by[400];

	for (unsigned int i = 0; i < a->n; i++) {
		const struct kernel_drive *d = &a->d[i];

		if (d->state & SPICEBD_STATE_FREEZING) {
			fault_set(f, EXIT_REFUSED, "%s is frozen by %s: its file systems cannot be "
				  "any more; freeze it without --fs", d->name,
				  freezing_by(d, by, sizeof(by)));
			return -EBUSY;
		}
		if (fs_stacked(d->name, f) < 0)
			return -EBUSY;
	}
	return 0;
}

static void end_keepers(struct fskeep **keepers, unsigned int n, bool commit)
{
	for (unsigned int i = 0; i < n; i++) {
		if (keepers[i] && commit && fskeep_commit(keepers[i]) < 0)
			log_err("the process that keeps file systems frozen was killed: thaw them "
				"by spicebdctl thaw");
		else if (keepers[i] && !commit)
			fskeep_abort(keepers[i]);
	}
}

static int freeze_with_fs(const struct freeze_args *a, struct fault *f)
{
	uint32_t limit = a->limit ? a->limit : FREEZE_TIMEOUT_DEFAULT;
	struct fskeep *keepers[SPICEBD_MAX_DRIVES] = { NULL };
	long long deadline = now_ms() + limit * 1000LL, left;
	int r = check_fs(a, f);

	for (unsigned int i = 0; i < a->n && !r; i++)
		r = fskeep_start(&a->d[i], a->holder, deadline, &keepers[i], f);
	/* One limit for both, since it is the file systems that people wait for. */
	left = (deadline - now_ms() + 999) / 1000;
	if (!r)
		r = freeze_drives(a, a->limit ? MAX(left, 1) : 0, f);
	end_keepers(keepers, a->n, !r);
	return r;
}

int verb_freeze(const struct verb *v, int argc, char **argv)
{
	static const struct option opts[] = {
		OPT_HELP, OPT_JSON,
		{ "fs", no_argument, NULL, 'f' },
		{ "holder", required_argument, NULL, 'o' },
		{ "timeout", required_argument, NULL, 't' },
		OPT_END
	};
	struct freeze_args a = { 0 };
	struct fault f = { 0 };
	int r = parse(v, argc, argv, opts, &a);

	if (r >= 0)
		return r;
	r = get_drives(argc, argv, &a, &f);
	if (!r)
		r = a.fs ? freeze_with_fs(&a, &f) : freeze_drives(&a, a.limit, &f);
	if (!r)
		print(&a, "frozen");
	g_free(a.d);
	return r < 0 ? fault_tell(&f) : EXIT_DONE;
}

/* ---- thaw */

static int is_holder(const struct freeze_args *a, const struct kernel_drive *d, struct fault *f)
{
	char by[400];

	if (freezing_find(d, a->holder))
		return 0;
	if (d->state & SPICEBD_STATE_FREEZING)
		fault_set(f, EXIT_REFUSED, "%s: \"%s\" is no holder: it is frozen by %s; --holder "
			  "says for whom it is thawed", d->name, a->holder,
			  freezing_by(d, by, sizeof(by)));
	else if (fskeep_any(d->name))
		return 0;	/* thawed by its limit, and somebody killed the keeper */
	else
		fault_set(f, EXIT_REFUSED, "%s is not frozen", d->name);
	return -ENOENT;
}

/* Of all drives those that concern this holder. */
static int pick(struct freeze_args *a, struct fault *f)
{
	struct fault ignored;
	unsigned int n = 0;

	for (unsigned int i = 0; i < a->n; i++)
		if (is_holder(a, &a->d[i], &ignored) == 0)
			a->d[n++] = a->d[i];
	a->n = n;
	if (n)
		return 0;
	fault_set(f, EXIT_REFUSED, "\"%s\" has no drive frozen", a->holder);
	return -ENOENT;
}

static int thaw_one(struct kernel *k, const char *holder, struct kernel_drive *d, struct fault *f)
{
	struct kernel_err e = { 0 };
	int r = 0;

	if (freezing_find(d, holder))
		r = kernel_thaw(k, d->index, holder, d, &e);
	if (r < 0) {
		fault_kernel(f, &e);
		if (r == -ENOENT)
			fault_set(f, EXIT_REFUSED, "%s: the limit of \"%s\" has come meanwhile",
				  d->name, holder);
		return r;
	}
	/* Else they are thawed when the last holder lets go. */
	return d->state & SPICEBD_STATE_FREEZING ? 0 : fskeep_finish(d->name, f);
}

static int thaw(struct freeze_args *a, struct fault *f)
{
	struct kernel *k;
	int r = 0, first = 0;

	if (a->all)
		r = pick(a, f);
	for (unsigned int i = 0; i < a->n && !r; i++)
		r = is_holder(a, &a->d[i], f);
	if (r < 0)
		return r;
	k = freeze_manager(f);
	if (!k)
		return -EPERM;
	/* One that cannot be does not keep the others. */
	for (unsigned int i = 0; i < a->n; i++) {
		struct fault one = { 0 };

		r = thaw_one(k, a->holder, &a->d[i], &one);
		if (r < 0 && !first) {
			first = r;
			*f = one;
		}
	}
	kernel_close(k);
	return first;
}

static void tell_thawed(const struct freeze_args *a)
{
	char by[400];

	for (unsigned int i = 0; i < a->n; i++)
		if (a->d[i].state & SPICEBD_STATE_FREEZING)
			printf("%s stays frozen by %s\n", a->d[i].name,
			       freezing_by(&a->d[i], by, sizeof(by)));
		else
			printf("%s is thawed\n", a->d[i].name);
}

int verb_thaw(const struct verb *v, int argc, char **argv)
{
	static const struct option thaws[] = {
		OPT_HELP, OPT_JSON, { "holder", required_argument, NULL, 'o' }, OPT_END
	};
	static const struct option releases[] = { OPT_HELP, OPT_JSON, OPT_END };
	bool release = !strcmp(v->name, "release");
	struct freeze_args a = { 0 };
	struct fault f = { 0 };
	int r = parse(v, argc, argv, release ? releases : thaws, &a);

	if (r >= 0)
		return r;
	if (release) {
		a.holder = SPICEBD_DEFAULT_HOLDER;
		if (argc == optind)
			return verb_usage(v, "name one drive");
	}
	r = get_drives(argc, argv, &a, &f);
	if (!r)
		r = thaw(&a, &f);
	if (!r && a.json)
		print(&a, "");
	else if (!r)
		tell_thawed(&a);
	g_free(a.d);
	return r < 0 ? fault_tell(&f) : EXIT_DONE;
}
