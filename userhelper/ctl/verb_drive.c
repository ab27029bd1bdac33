// SPDX-License-Identifier: GPL-2.0-only
/* add and del: drives, not media. */
#include "ctl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "holders.h"

#define DRIVE_MS	10000
#define OPT_HOLD	0x100	/* 'h' is --help */

struct add {
	struct kernel_drive_new n;
	bool json;
};

static bool number(const char *text, uint32_t max, bool *set, uint32_t *out)
{
	*set = parse_u32(text, max, out);
	return *set;
}

static bool reconnect(const char *text, struct kernel_drive_new *n)
{
	uint32_t v;

	if (!strcmp(text, "-1") || !strcmp(text, "forever")) {
		n->reconnect_timeout = SPICEBD_TIMEOUT_FOREVER;
	} else {
		if (!parse_u32(text, SPICEBD_MAX_TIMEOUT, &v))
			return false;
		n->reconnect_timeout = v;
	}
	n->set_reconnect = true;
	return true;
}

static bool add_option(int c, const char *text, struct kernel_drive_new *n)
{
	switch (c) {
	case 'i':
		return number(text, SPICEBD_MAX_DRIVES - 1, &n->set_index, &n->index);
	case 'q':
		return number(text, SPICEBD_MAX_QUEUES, &n->set_queues, &n->nr_queues);
	case 'd':
		return number(text, SPICEBD_MAX_QUEUE_DEPTH, &n->set_depth, &n->queue_depth);
	case 'm':
		return number(text, SPICEBD_MAX_MAX_IO, &n->set_max_io, &n->max_io);
	case 'r':
		return reconnect(text, n);
	case 's':
		return number(text, SPICEBD_MAX_TIMEOUT, &n->set_stall, &n->stall_timeout);
	case OPT_HOLD:
		return n->held = true;
	case 'w':
		return number(text, SPICEBD_MAX_TIMEOUT, &n->set_open_wait, &n->open_wait);
	}
	return false;
}

static int add_parse(const struct verb *v, int argc, char **argv, struct add *a)
{
	static const struct option opts[] = {
		OPT_HELP, OPT_JSON,
		{ "index", required_argument, NULL, 'i' },
		{ "queues", required_argument, NULL, 'q' },
		{ "depth", required_argument, NULL, 'd' },
		{ "max-io", required_argument, NULL, 'm' },
		{ "reconnect-timeout", required_argument, NULL, 'r' },
		{ "stall-timeout", required_argument, NULL, 's' },
		{ "hold", no_argument, NULL, OPT_HOLD },
		{ "open-wait", required_argument, NULL, 'w' },
		OPT_END
	};
	const struct option *o;
	int c, status;

	while ((c = verb_option(v, argc, argv, opts, &a->json, &status))) {
		if (add_option(c, optarg, &a->n))
			continue;
		for (o = opts; o->val != c; o++)
			;
		return verb_usage(v, "--%s %s is out of range", o->name, optarg);
	}
	if (status >= 0)
		return status;
	if (argc - optind != 1)
		return verb_usage(v, "say cdrom or disk");
	if (!strcmp(argv[optind], "cdrom"))
		a->n.personality = SPICEBD_PERSONALITY_CDROM;
	else if (!strcmp(argv[optind], "disk"))
		a->n.personality = SPICEBD_PERSONALITY_DISK;
	else
		return verb_usage(v, "\"%s\" is neither cdrom nor disk", argv[optind]);
	return -1;
}

static JsonObject *add_arguments(const struct kernel_drive_new *n)
{
	bool cdrom = n->personality == SPICEBD_PERSONALITY_CDROM;
	JsonObject *o = json_object_new();

	json_object_set_string_member(o, "personality", cdrom ? "cdrom" : "disk");
	if (n->set_index)
		json_object_set_int_member(o, "index", n->index);
	if (n->set_queues)
		json_object_set_int_member(o, "queues", n->nr_queues);
	if (n->set_depth)
		json_object_set_int_member(o, "depth", n->queue_depth);
	if (n->set_max_io)
		json_object_set_int_member(o, "max-io", n->max_io);
	if (n->set_reconnect)
		json_object_set_int_member(o, "reconnect-timeout", n->reconnect_timeout);
	if (n->set_stall)
		json_object_set_int_member(o, "stall-timeout", n->stall_timeout);
	if (n->held)
		json_object_set_boolean_member(o, "hold", TRUE);
	if (n->set_open_wait)
		json_object_set_int_member(o, "open-wait", n->open_wait);
	return o;
}

static JsonObject *drive_object(const char *name)
{
	JsonObject *o = json_object_new();
	char device[48];

	snprintf(device, sizeof(device), "/dev/%s", name);
	json_object_set_string_member(o, "drive", name);
	json_object_set_string_member(o, "device", device);
	return o;
}

/* A drive needs no helper to be made; spicebdd finds it when it starts. */
static JsonObject *add_by_kernel(const struct kernel_drive_new *n, struct fault *f)
{
	struct kernel *k = drives_kernel(f);
	struct kernel_drive d = { 0 };
	struct kernel_err e = { 0 };
	int r;

	if (!k)
		return NULL;
	r = kernel_manage(k, &e);
	if (!r)
		r = kernel_add(k, n, &d, &e);
	kernel_close(k);
	if (r < 0) {
		fault_kernel(f, &e);
		return NULL;
	}
	return drive_object(d.name);
}

static JsonObject *add(const struct kernel_drive_new *n, struct fault *f)
{
	struct qmp *q = daemon_connect(DAEMON_IF_RUNNING, f);
	JsonObject *o = NULL;
	JsonNode *r;

	if (!q)
		return f->status == EXIT_NO_DAEMON ? add_by_kernel(n, f) : NULL;
	r = qmp_call(q, "spicebd-drive-add", add_arguments(n), -1, DRIVE_MS, f);
	qmp_close(q);
	if (!r)
		return NULL;
	if (JSON_NODE_HOLDS_OBJECT(r))
		o = json_node_dup_object(r);
	else
		fault_set(f, EXIT_REFUSED, "spicebdd made a drive but did not say which");
	json_node_unref(r);
	return o;
}

int verb_add(const struct verb *v, int argc, char **argv)
{
	g_autoptr(JsonObject) o = NULL;
	struct fault f = { 0 };
	struct add a = { 0 };
	int r = add_parse(v, argc, argv, &a);

	if (r >= 0)
		return r;
	o = add(&a.n, &f);
	if (!o)
		return fault_tell(&f);
	if (a.json)
		json_print_object(o);
	else
		puts(json_str(o, "device", "added"));
	return EXIT_DONE;
}

static bool deleted(const struct kernel_drive *d)
{
	struct kernel_drive now;
	struct fault ignored;

	return drive_get(d->name, &now, &ignored) < 0;
}

static int del(const struct kernel_drive *d, bool force, struct fault *f)
{
	JsonObject *a = json_object_new();
	int r;

	json_object_set_string_member(a, "drive", d->name);
	json_object_set_boolean_member(a, "force", force);
	r = drive_by_daemon("spicebd-drive-del", a, force ? FORCE_MS : DRIVE_MS, f);
	/* A daemon that was only late has done it; one that hangs is not waited for. */
	if (r < 0 && force && f->status != EXIT_NO_DAEMON && deleted(d))
		return 0;
	if (r < 0 && (force || f->status == EXIT_NO_DAEMON))
		r = drive_by_kernel(kernel_del, d, force, f);
	if (r < 0 && !force)
		busy_explain(d, "removes it", f);
	return r;
}

/* Whoever still has it gets errors, and keeps the module from being removed. */
static void tell_deleted(const struct kernel_drive *d, struct holders_devs *devs, bool json)
{
	char who[400];
	bool held = holders_describe_devs(devs, 0, who, sizeof(who));

	if (json) {
		g_autoptr(JsonObject) o = drive_object(d->name);

		if (held)
			json_object_set_string_member(o, "still-held", who);
		json_print_object(o);
	} else if (held) {
		printf("%s is removed; it was in use, and until they let go they get errors: %s\n",
		       d->name, who);
	} else {
		printf("%s is removed\n", d->name);
	}
}

int verb_del(const struct verb *v, int argc, char **argv)
{
	bool force = false, json = false;
	struct kernel_drive d = { 0 };
	struct holders_devs devs;
	struct fault f = { 0 };
	int r = verb_options(v, argc, argv, &json, &force);

	if (r >= 0)
		return r;
	if (argc - optind != 1)
		return verb_usage(v, "name one drive");
	if (drive_get(argv[optind], &d, &f) < 0)
		return fault_tell(&f);
	holders_devs(d.name, &devs);
	if (del(&d, force, &f) < 0)
		return fault_tell(&f);
	tell_deleted(&d, &devs, json);
	return EXIT_DONE;
}
