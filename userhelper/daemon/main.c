// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebdd: serves all drives of the machine. Begins as root, ends the
 * beginning with no rights but its uid and the sockets it has by then.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib-unix.h>
#include <glib.h>
#include <systemd/sd-daemon.h>

#include "adopt.h"
#include "asks.h"
#include "control.h"
#include "drive.h"
#include "export.h"
#include "freeze.h"
#include "inuse.h"
#include "links.h"
#include "log.h"
#include "medium.h"
#include "migrate.h"
#include "privs.h"
#include "reclaim.h"
#include "snapshot.h"
#include "sock.h"
#include "state.h"
#include "work.h"

/* Waiting for what an earlier spicebdd left, before we say that we are ready. */
#define ADOPT_MS	5000
/* For requests under way to be answered when we end. */
#define DRAIN_MS	3000
#define QUIET_MS	(DRAIN_MS + 1500)
#define TICK_MS		20

static GMainLoop *loop;
static int exit_status;
static long long adopt_end, quiet_end;

static void usage(FILE *to)
{
	fputs("usage: spicebdd [--debug] [--version] [--help]\n"
	      "\n"
	      "Serves the spicebd drives of this machine. Started by systemd or by\n"
	      "spicebd-supervisor; spicebdctl is how one talks to it.\n", to);
}

static void parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{ "debug", no_argument, NULL, 'd' },
		{ "version", no_argument, NULL, 'V' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL },
	};
	bool debug = false;
	int o;

	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (o) {
		case 'd':
			debug = true;
			break;
		case 'V':
			printf("spicebdd %s\n", SPICEBD_VERSION);
			exit(0);
		case 'h':
			usage(stdout);
			exit(0);
		default:
			usage(stderr);
			exit(2);
		}
	}
	if (optind < argc) {
		usage(stderr);
		exit(2);
	}
	log_init("spicebdd", debug);
}

/* The end. */

static bool anything_left(void)
{
	return !media_quiet();
}

static gboolean quiet_tick(gpointer arg)
{
	if (anything_left() && now_ms() < quiet_end)
		return G_SOURCE_CONTINUE;
	g_main_loop_quit(loop);
	return G_SOURCE_REMOVE;
}

void control_quit(int status)
{
	if (blockers_stopped())
		return;
	sd_notify(0, "STOPPING=1");
	exit_status = status;
	blockers_stop();
	freeze_leave();
	quiet_end = now_ms() + QUIET_MS;
	for (struct drive *d = drive_first(); d; d = drive_next(d)) {
		if (d->op)
			task_cancel(d->op);
		if (d->medium && d->medium->state == MEDIUM_IN)
			medium_drain(d->medium, DRAIN_MS);
	}
	g_timeout_add(TICK_MS, quiet_tick, NULL);
}

static gboolean on_signal(gpointer arg)
{
	log_info("ending; media stay in their drives");
	control_quit(0);
	return G_SOURCE_CONTINUE;
}

/* The rights to make another one were given up: whoever started us has them. */
static gboolean on_opener_gone(gint fd, GIOCondition cond, gpointer arg)
{
	log_warn("the process that makes queue sockets has ended: starting anew");
	control_quit(EXIT_AGAIN);
	return G_SOURCE_REMOVE;
}

/* Media stay where they are, and their requests with the kernel. */
static void finish(void)
{
	struct derr e;

	if (state_save(&e) < 0)
		log_err("%s", e.text);
	for (struct drive *d = drive_first(); d; d = drive_next(d))
		if (d->medium)
			medium_release(d->medium);
	snapshots_leave();
	exports_leave();
	control_linger(500);
}

/* The beginning. */

static gboolean adopt_tick(gpointer arg)
{
	if (!adopt_done() && now_ms() < adopt_end)
		return G_SOURCE_CONTINUE;
	sd_notify(0, "READY=1");
	return G_SOURCE_REMOVE;
}

static int begin(struct derr *e)
{
	char why[120];
	int r;

	if (mkdir(run_dir(), 0755) < 0 && errno != EEXIST)
		return derr_set(e, errno, "cannot make %s: %s", run_dir(), strerror(errno));
	r = privs_start_opener(e);
	if (!r)
		r = control_init(e);
	if (!r)
		r = drives_init(e);
	if (r < 0)
		return r;
	reclaim_prepare(why, sizeof(why));
	if (*why)
		log_warn("%s: a machine that is short of memory may get stuck", why);
	return privs_drop(e);
}

static void media_changed(const char *link)
{
	control_media_event(link);
	migrate_links_changed(link);
}

static void serve(void)
{
	struct derr e;

	work_init();
	exports_init();
	loop = g_main_loop_new(NULL, FALSE);
	g_unix_signal_add(SIGTERM, on_signal, NULL);
	g_unix_signal_add(SIGINT, on_signal, NULL);
	g_unix_fd_add(privs_opener_fd(), G_IO_HUP | G_IO_ERR, on_opener_gone, NULL);
	links_init(asks_take, media_changed);
	inuse_init();
	drives_follow();
	migrate_load();
	adopt_start();
	if (migrate_start(&e) < 0)
		log_err("%s", e.text);
	control_listen();
	adopt_end = now_ms() + ADOPT_MS;
	g_timeout_add(TICK_MS, adopt_tick, NULL);
	g_main_loop_run(loop);
	finish();
}

int main(int argc, char **argv)
{
	struct derr e;

	parse_options(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	umask(022);
	if (begin(&e) < 0) {
		log_err("%s", e.text);
		return 1;
	}
	serve();
	/* Tasks may still wait for a name server: nobody waits for them. */
	fflush(NULL);
	_exit(exit_status);
}
