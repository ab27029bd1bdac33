// SPDX-License-Identifier: GPL-2.0-only
/* start and stop: spicebdd and what belongs to it. */
#include "ctl.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>

#define STOP_MS 45000

static int parse(const struct verb *v, int argc, char **argv, bool *json)
{
	int r = verb_options(v, argc, argv, json, NULL);

	return r < 0 && argc != optind ? verb_usage(v, "it takes no arguments") : r;
}

static void tell(bool json, bool running)
{
	g_autoptr(JsonObject) o = json_object_new();

	if (!json) {
		puts(running ? "spicebdd runs" : "spicebdd is stopped");
		return;
	}
	json_object_set_boolean_member(o, "running", running);
	json_print_object(o);
}

int verb_start(const struct verb *v, int argc, char **argv)
{
	struct fault f = { 0 };
	struct qmp *q;
	bool json = false;
	int r = parse(v, argc, argv, &json);

	if (r >= 0)
		return r;
	q = daemon_connect(DAEMON_MUST, &f);
	if (!q)
		return fault_tell(&f);
	qmp_close(q);
	tell(json, true);
	return EXIT_DONE;
}

int verb_stop(const struct verb *v, int argc, char **argv)
{
	char *systemd[] = {
		"systemctl", "stop", "spicebdd.socket", "spicebdd.service",
		"spicebd-export.socket", "spicebd-export@*.service", "spicebd-link@*.service",
		"spicebd-nbdkit.socket", "spicebd-nbdkit@*.service", NULL,
	};
	struct fault f = { 0 };
	bool json = false;
	int r = parse(v, argc, argv, &json);

	if (r >= 0)
		return r;
	r = daemon_by_systemd() ? daemon_run(systemd, &f) : supervisor_request("stop", STOP_MS, &f);
	/* It was ending just then; has it ended? */
	if (r == -EPIPE)
		r = supervisor_request("stop", STOP_MS, &f);
	if (r < 0 && f.status != EXIT_NO_DAEMON)
		return fault_tell(&f);
	if (r < 0 && daemon_by_systemd())
		return fault_tell(&f);
	tell(json, false);	/* nothing to stop: it is as it was asked for */
	return EXIT_DONE;
}
