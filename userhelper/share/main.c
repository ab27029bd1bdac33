// SPDX-License-Identifier: GPL-2.0-only
/* spicebd-share: options, signals, and what ends the program. */
#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <glib-unix.h>

#include "command.h"
#include "connect.h"
#include "frame.h"
#include "help.h"
#include "log.h"
#include "password.h"
#include "share.h"
#include "ui.h"

#define EJECT_WAIT_MS	5000
#define STOP_WAIT_MS	2000
#define TRAFFIC_MS	1000

enum { EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_NO_CONNECTION, EXIT_AUTH };

struct options {
	struct connect_options connect;
	const char *password_file;
	bool read_only, read_write, cdrom, disk, json, exit_on_eject, debug, commands;
	const char *names[FRAME_OFFERS_MAX];
	int n_names;
	char **paths;
	int n_paths;
};

/**
 * struct program - all of it
 * @conn: to the host
 * @next: to the one that a medium moves to; it becomes @conn
 * @dropped: connections to be freed, that nobody uses
 */
struct program {
	struct options opt;
	GMainLoop *loop;
	struct connection *conn, *next;
	GSList *dropped;
	struct spicebd_share *share;
	int preparing;		/* media that are not ready yet */
	bool leaving, stopping, done;
	guint leave_timer;
	int status;
};

/* ---- the end */

static void done(struct program *g)
{
	g->done = true;
	g_main_loop_quit(g->loop);
}

static gboolean on_stop_timeout(gpointer data)
{
	struct program *g = data;

	g->leave_timer = 0;
	done(g);
	return G_SOURCE_REMOVE;
}

/* The first status given counts. Ends when all servers were reaped, or soon. */
static void stop(struct program *g, int status)
{
	if (g->stopping)
		return;
	g->stopping = true;
	g->status = status;
	commands_stop();
	if (g->leave_timer)
		g_source_remove(g->leave_timer);
	g->leave_timer = g_timeout_add(STOP_WAIT_MS, on_stop_timeout, g);
	if (g->share)
		spicebd_share_stop(g->share);
	else
		done(g);
}

static gboolean on_eject_timeout(gpointer data)
{
	struct program *g = data;

	g->leave_timer = 0;
	ui_event("not-ejected", "the media were not given back in time; leaving all the same: "
		 "their users at the other end will see errors");
	stop(g, EXIT_DONE);
	return G_SOURCE_REMOVE;
}

static void leave(void *user)
{
	struct program *g = user;

	if (g->leaving || !g->share || !spicebd_share_in_use(g->share) ||
	    !spicebd_share_request_eject(g->share)) {
		stop(g, EXIT_DONE);
		return;
	}
	g->leaving = true;
	ui_event("leaving", "asked for the media back; once more to leave at once");
	g->leave_timer = g_timeout_add(EJECT_WAIT_MS, on_eject_timeout, g);
}

static gboolean on_signal(gpointer data)
{
	leave(data);
	return G_SOURCE_CONTINUE;
}

static gboolean stop_when_free(gpointer data)
{
	struct program *g = data;

	if (g->leaving && !spicebd_share_in_use(g->share))
		stop(g, EXIT_DONE);
	return G_SOURCE_REMOVE;
}

/* ---- what happens */

static enum spicebd_share_kind kind_of(const struct options *o)
{
	if (o->cdrom)
		return SPICEBD_SHARE_CDROM;
	return o->disk ? SPICEBD_SHARE_DISK : SPICEBD_SHARE_AUTO;
}

/* All media of the command line stand: now others may come and go. */
static void prepared(struct program *g)
{
	struct command_hooks hooks = {
		.defaults = { .as = kind_of(&g->opt), .read_write = g->opt.read_write },
		.quit = leave,
		.user = g,
	};

	connection_start(g->conn);
	if (!g->opt.commands && !isatty(STDIN_FILENO))
		return;
	commands_start(g->share, &hooks);
	if (!g->opt.commands)
		ui_event("commands", "type 'help' for what can be done meanwhile");
}

static struct connection *conn_of(struct program *g, SpiceSession *session)
{
	return g->next && connection_session(g->next) == session ? g->next : g->conn;
}

/* ---- another host */

static gboolean free_dropped(gpointer data)
{
	struct program *g = data;

	g_slist_free_full(g_steal_pointer(&g->dropped), (GDestroyNotify)connection_free);
	return G_SOURCE_REMOVE;
}

/* At once, as a move to the same host may follow; but what runs now may be its own. */
static void drop(struct program *g, struct connection *c)
{
	spicebd_share_part(g->share, connection_session(c));
	if (!g->dropped)
		g_idle_add(free_dropped, g);
	g->dropped = g_slist_prepend(g->dropped, c);
}

static void drop_next(struct program *g)
{
	struct connection *c = g->next;

	g->next = NULL;
	drop(g, c);
}

static void drop_first(struct program *g)
{
	struct connection *c = g->conn;
	g_autofree char *line = NULL;

	g->conn = g->next;
	g->next = NULL;
	line = g_strdup_printf("left %s: the media are at %s now", connection_uri(c),
			       connection_uri(g->conn));
	drop(g, c);
	ui_event("left", line);
}

static void on_next(struct program *g, enum connect_event ev, const char *text)
{
	g_autofree char *line = NULL;

	if (ev == CONNECT_UP)
		line = g_strdup_printf("connected to %s, too", connection_uri(g->next));
	else
		line = g_strdup_printf("%s: %s", connection_uri(g->next), text);
	ui_event(ev == CONNECT_UP ? "connected" : "reconnecting", line);
	if (ev == CONNECT_UP || ev == CONNECT_RETRY)
		return;
	drop_next(g);
	spicebd_share_no_way(g->share, line);
}

static void on_connect(void *user, struct connection *c, enum connect_event ev,
		       const char *text);

static void go(struct program *g, const struct spicebd_share_move *m)
{
	struct connect_options o = {
		.uri = m->uri, .password = *m->ticket ? m->ticket : NULL,
		.ca_file = g->opt.connect.ca_file, .subject = *m->subject ? m->subject : NULL,
		.reconnect = true,
	};
	g_autofree char *error = NULL;

	if (g->next || g->stopping || g->leaving) {
		spicebd_share_no_way(g->share, g->next ? "the share is at two hosts already" :
				     "the share is ending");
		return;
	}
	g->next = connection_new(&o, on_connect, g, &error);
	if (!g->next) {
		spicebd_share_no_way(g->share, error);
		return;
	}
	spicebd_share_join(g->share, connection_session(g->next));
	connection_start(g->next);
}

static void leave_host(struct program *g, SpiceSession *session)
{
	if (!g->next || g->stopping)
		return;
	if (connection_session(g->next) == session)
		drop_next(g);
	else
		drop_first(g);
}

static void on_share(void *user, const struct spicebd_share_event *ev)
{
	struct program *g = user;

	switch (ev->type) {
	case SPICEBD_SHARE_STOPPED:
		done(g);
		return;
	case SPICEBD_SHARE_READY:
		if (g->preparing && !--g->preparing && g->conn && g->share)
			prepared(g);
		break;
	case SPICEBD_SHARE_FAILED:
		if (!g->preparing)
			break;
		log_err("%s: %s", ev->medium->path, ev->text);
		stop(g, EXIT_FAILED);
		return;
	case SPICEBD_SHARE_PORT_UP:
		connection_set_secret(conn_of(g, ev->session), ev->secret);
		break;
	case SPICEBD_SHARE_PORT_LOST:
		connection_restart(conn_of(g, ev->session), ev->text);
		break;
	case SPICEBD_SHARE_EJECTED:
		if (g->opt.exit_on_eject && spicebd_share_all_back(g->share))
			stop(g, EXIT_DONE);
		break;
	case SPICEBD_SHARE_MOVE:
		go(g, ev->move);
		return;
	case SPICEBD_SHARE_LEAVE:
		leave_host(g, ev->session);
		return;
	default:
		break;
	}
	ui_share_event(ev);
	if (!g->stopping)
		commands_share_event(ev);
	/* The event is told before its state is settled everywhere: look later. */
	if (g->leaving)
		g_idle_add(stop_when_free, g);
}

/* For good. What has moved is not lost with the host that it came from. */
static void lost(struct program *g, int status, const char *text)
{
	if (g->next && spicebd_share_in_use(g->share)) {
		spicebd_share_no_way(g->share, text);
		drop_first(g);
		return;
	}
	log_err("%s: %s", connection_uri(g->conn), text);
	stop(g, status);
}

static void on_connect(void *user, struct connection *c, enum connect_event ev,
		       const char *text)
{
	struct program *g = user;
	g_autofree char *line = NULL;

	if (c == g->next)
		on_next(g, ev, text);
	if (c != g->conn)
		return;
	switch (ev) {
	case CONNECT_UP:
		line = g_strdup_printf("connected to %s", connection_uri(g->conn));
		ui_event("connected", line);
		break;
	case CONNECT_RETRY:
		line = g_strdup_printf("%s; trying again", text);
		ui_event("reconnecting", line);
		break;
	case CONNECT_LOST:
		lost(g, EXIT_FAILED, text);
		break;
	case CONNECT_FAILED:
		lost(g, EXIT_NO_CONNECTION, text);
		break;
	case CONNECT_REFUSED:
		lost(g, EXIT_AUTH, text);
		break;
	}
}

static gboolean on_traffic(gpointer data)
{
	struct program *g = data;
	const struct spicebd_share_info *list[FRAME_OFFERS_MAX];
	unsigned int n = spicebd_share_list(g->share, list, FRAME_OFFERS_MAX);
	struct ui_wait wait = { 0 };

	commands_waiting(&wait);
	ui_live(g->share, &wait, list, n);
	return G_SOURCE_CONTINUE;
}

/* ---- start */

static bool offer_all(struct program *g)
{
	for (int i = 0; i < g->opt.n_paths; i++) {
		struct spicebd_share_medium m = {
			.path = g->opt.paths[i],
			.name = i < g->opt.n_names ? g->opt.names[i] : NULL,
			.as = kind_of(&g->opt),
			.read_write = g->opt.read_write,
		};
		g_autofree char *error = NULL;

		if (spicebd_share_offer(g->share, &m, NULL, &error))
			continue;
		log_err("%s", error);
		return false;
	}
	return true;
}

static bool connect_new(struct program *g, int *status)
{
	char password[PASSWORD_MAX + 1], text[512];
	g_autofree char *error = NULL;

	if (g->opt.password_file) {
		*status = EXIT_FAILED;
		if (password_read(g->opt.password_file, password, text, sizeof(text)) < 0) {
			log_err("--password-file: %s", text);
			return false;
		}
		g->opt.connect.password = password;
	}
	g->conn = connection_new(&g->opt.connect, on_connect, g, &error);
	g->opt.connect.password = NULL;
	explicit_bzero(password, sizeof(password));	/* the session has a copy */
	if (g->conn)
		return true;
	log_err("%s", error);
	*status = EXIT_USAGE;
	return false;
}

/* Returns the exit status of what went wrong, or -1. */
static int start(struct program *g)
{
	int status;

	if (!connect_new(g, &status))
		return status;
	g->share = spicebd_share_new(connection_session(g->conn), on_share, g);
	/* One more, so that the last file's READY does not connect from within. */
	g->preparing = g->opt.n_paths + 1;
	if (!offer_all(g))
		return EXIT_FAILED;
	if (!--g->preparing)
		prepared(g);
	return -1;
}

static int run(struct program *g)
{
	int status;

	g->loop = g_main_loop_new(NULL, FALSE);
	g_unix_signal_add(SIGINT, on_signal, g);
	g_unix_signal_add(SIGTERM, on_signal, g);
	g_unix_signal_add(SIGHUP, on_signal, g);
	signal(SIGPIPE, SIG_IGN);
	status = start(g);
	if (status >= 0)
		stop(g, status);
	else if (ui_wants_traffic())
		g_timeout_add(TRAFFIC_MS, on_traffic, g);
	if (!g->done)
		g_main_loop_run(g->loop);
	commands_stop();
	ui_end();
	if (g->share)
		spicebd_share_free(g->share);
	commands_free();
	g_idle_remove_by_data(g);
	free_dropped(g);
	if (g->next)
		connection_free(g->next);
	if (g->conn)
		connection_free(g->conn);
	g_main_loop_unref(g->loop);
	return g->status;
}

/* ---- options */

static void __attribute__((noreturn, format(printf, 1, 2))) usage(const char *fmt, ...)
{
	va_list ap;

	fputs("spicebd-share: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputs(" (see spicebd-share --help)\n", stderr);
	exit(EXIT_USAGE);
}

enum {
	O_URI = 256, O_PASSWORD, O_CA, O_RO, O_RW, O_CDROM, O_DISK, O_NAME, O_JSON, O_WAIT,
	O_NO_RECONNECT, O_EXIT, O_COMMANDS, O_DEBUG, O_HELP, O_VERSION,
};

static const struct option long_options[] = {
	{ "uri", required_argument, NULL, O_URI },
	{ "password-file", required_argument, NULL, O_PASSWORD },
	{ "ca-file", required_argument, NULL, O_CA },
	{ "read-only", no_argument, NULL, O_RO },
	{ "read-write", no_argument, NULL, O_RW },
	{ "cdrom", no_argument, NULL, O_CDROM },
	{ "disk", no_argument, NULL, O_DISK },
	{ "name", required_argument, NULL, O_NAME },
	{ "json", no_argument, NULL, O_JSON },
	{ "wait", no_argument, NULL, O_WAIT },
	{ "no-reconnect", no_argument, NULL, O_NO_RECONNECT },
	{ "exit-on-eject", no_argument, NULL, O_EXIT },
	{ "commands", no_argument, NULL, O_COMMANDS },
	{ "debug", no_argument, NULL, O_DEBUG },
	{ "help", no_argument, NULL, O_HELP },
	{ "version", no_argument, NULL, O_VERSION },
	{ }
};

static void take_option(struct options *o, int c)
{
	switch (c) {
	case O_URI:
		o->connect.uri = optarg;
		break;
	case O_PASSWORD:
		o->password_file = optarg;
		break;
	case O_CA:
		o->connect.ca_file = optarg;
		break;
	case O_RO:
		o->read_only = true;
		break;
	case O_RW:
		o->read_write = true;
		break;
	case O_CDROM:
		o->cdrom = true;
		break;
	case O_DISK:
		o->disk = true;
		break;
	case O_NAME:
		if (o->n_names == FRAME_OFFERS_MAX)
			usage("too many --name");
		o->names[o->n_names++] = optarg;
		break;
	case O_JSON:
		o->json = true;
		break;
	case O_WAIT:
		o->connect.wait = true;
		break;
	case O_NO_RECONNECT:
		o->connect.reconnect = false;
		break;
	case O_EXIT:
		o->exit_on_eject = true;
		break;
	case O_COMMANDS:
		o->commands = true;
		break;
	case O_DEBUG:
		o->debug = true;
		break;
	case O_HELP:
		fputs(help_text, stdout);
		exit(EXIT_DONE);
	case O_VERSION:
		puts("spicebd-share " SPICEBD_VERSION);
		exit(EXIT_DONE);
	default:
		exit(EXIT_USAGE);
	}
}

static void check_options(const struct options *o)
{
	if (!o->connect.uri)
		usage("--uri is missing: where is the drive?");
	if (!o->n_paths)
		usage("no file, folder or address to share was given");
	if (o->n_paths > FRAME_OFFERS_MAX)
		usage("at most %d files or folders can be shared at once", FRAME_OFFERS_MAX);
	if (o->n_names > o->n_paths)
		usage("there are more --name than files and folders");
	if (o->read_only && o->read_write)
		usage("--read-only and --read-write exclude each other");
	if (o->cdrom && o->disk)
		usage("--cdrom and --disk exclude each other");
	if (o->cdrom && o->read_write)
		usage("a CD cannot be written: --cdrom and --read-write exclude each other");
	for (int i = 0; i < o->n_names; i++)
		if (!frame_name_ok(o->names[i], strlen(o->names[i])))
			usage("--name: a name is 1 to %d bytes of UTF-8 without '/' and "
			      "control characters", FRAME_NAME_MAX);
}

int main(int argc, char **argv)
{
	struct program g = { .opt.connect.reconnect = true };
	int c;

	setlocale(LC_CTYPE, "");
	while ((c = getopt_long(argc, argv, "h", long_options, NULL)) != -1)
		take_option(&g.opt, c == 'h' ? O_HELP : c);
	g.opt.paths = argv + optind;
	g.opt.n_paths = argc - optind;
	check_options(&g.opt);
	log_init("spicebd-share", g.opt.debug);
	connection_quiet_logs();
	ui_init(g.opt.json);
	return run(&g);
}
