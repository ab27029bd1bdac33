// SPDX-License-Identifier: GPL-2.0-only
/*
 * How a viewer shares media: one Spice session, of which the viewer has the display
 * and the inputs, and the share's core has the ports of drives. Nothing is drawn;
 * what a viewer would draw is counted and told once a second.
 *
 * usage: spicebd-viewer-example [--read-write] URI FILE...
 *
 * Events are lines on standard output. SIGINT and SIGTERM end it, giving the media
 * back first.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <glib-unix.h>
#include <spice-client.h>

#include "log.h"
#include "share.h"

#define TELL_MS		1000
#define LEAVE_MS	5000	/* for the drives to give back what they have */
#define STOP_MS		2000

struct viewer {
	GMainLoop *loop;
	SpiceSession *session;
	struct spicebd_share *share;
	guint updates, told;	/* pieces of the display that were drawn anew */
	bool leaving, stopping;
	int status;
};

static void __attribute__((format(printf, 1, 2))) tell(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
}

/* ---- the end */

static gboolean on_stop_timeout(gpointer data)
{
	struct viewer *v = data;

	g_main_loop_quit(v->loop);
	return G_SOURCE_REMOVE;
}

/* SPICEBD_SHARE_STOPPED follows. */
static void stop(struct viewer *v, int status)
{
	if (v->stopping)
		return;
	v->stopping = true;
	v->status = status;
	g_timeout_add(STOP_MS, on_stop_timeout, v);
	spicebd_share_stop(v->share);
}

static gboolean on_leave_timeout(gpointer data)
{
	stop(data, EXIT_SUCCESS);
	return G_SOURCE_REMOVE;
}

static gboolean stop_when_free(gpointer data)
{
	struct viewer *v = data;

	if (v->leaving && !spicebd_share_in_use(v->share))
		stop(v, EXIT_SUCCESS);
	return G_SOURCE_REMOVE;
}

/* A window is closed: the media are asked for before they are taken away. */
static gboolean on_signal(gpointer data)
{
	struct viewer *v = data;

	if (v->leaving || !spicebd_share_request_eject(v->share)) {
		stop(v, EXIT_SUCCESS);
		return G_SOURCE_CONTINUE;
	}
	v->leaving = true;
	g_timeout_add(LEAVE_MS, on_leave_timeout, v);
	return G_SOURCE_CONTINUE;
}

/* ---- what a viewer does by itself */

static void on_primary(SpiceChannel *channel, gint format, gint width, gint height, gint stride,
		       gint shmid, gpointer data, struct viewer *v)
{
	tell("display %dx%d", width, height);
}

static void on_invalidate(SpiceChannel *channel, gint x, gint y, gint w, gint h, struct viewer *v)
{
	v->updates++;
}

static gboolean on_second(gpointer data)
{
	struct viewer *v = data;

	if (v->updates != v->told)
		tell("updates %u", v->updates);
	v->told = v->updates;
	return G_SOURCE_CONTINUE;
}

static void on_channel_event(SpiceChannel *channel, SpiceChannelEvent event, struct viewer *v)
{
	int type;

	g_object_get(channel, "channel-type", &type, NULL);
	if (event == SPICE_CHANNEL_OPENED) {
		tell("opened %s", spice_channel_type_to_string(type));
		return;
	}
	if (event != SPICE_CHANNEL_SWITCHING && event != SPICE_CHANNEL_NONE)
		tell("lost %s", spice_channel_type_to_string(type));
	/* A viewer for people would connect again. */
	if (type == SPICE_CHANNEL_MAIN && event != SPICE_CHANNEL_SWITCHING)
		stop(v, EXIT_FAILURE);
}

static void on_channel_new(SpiceSession *session, SpiceChannel *channel, struct viewer *v)
{
	g_signal_connect(channel, "channel-event", G_CALLBACK(on_channel_event), v);
	if (SPICE_IS_DISPLAY_CHANNEL(channel)) {
		g_signal_connect(channel, "display-primary-create", G_CALLBACK(on_primary), v);
		g_signal_connect(channel, "display-invalidate", G_CALLBACK(on_invalidate), v);
	}
	/*
	 * Every channel is connected, or a migration of the guest loses bytes; those
	 * of drives the core connects.
	 */
	if (!SPICE_IS_PORT_CHANNEL(channel))
		spice_channel_connect(channel);
}

/* ---- what the core tells */

static const char *const words[] = {
	[SPICEBD_SHARE_READY] = "ready",
	[SPICEBD_SHARE_PORT_UP] = "drive is there",
	[SPICEBD_SHARE_PORT_DOWN] = "drive is gone",
	[SPICEBD_SHARE_PORT_LOST] = "drive is not heard any more",
	[SPICEBD_SHARE_OFFERED] = "offered",
	[SPICEBD_SHARE_OPENED] = "opened",
	[SPICEBD_SHARE_CLOSED] = "closed",
	[SPICEBD_SHARE_INSERTED] = "inserted",
	[SPICEBD_SHARE_EJECTED] = "ejected",
	[SPICEBD_SHARE_BUSY] = "busy",
};

static void on_share(void *user, const struct spicebd_share_event *ev)
{
	struct viewer *v = user;
	const char *word = (unsigned int)ev->type < G_N_ELEMENTS(words) ? words[ev->type] : NULL;

	if (ev->type == SPICEBD_SHARE_STOPPED)
		g_main_loop_quit(v->loop);
	if (word)
		tell("%s%s%s%s%s", word, ev->medium ? " " : "", ev->medium ? ev->medium->name : "",
		     ev->text ? ": " : "", ev->text ?: "");
	if (ev->type == SPICEBD_SHARE_FAILED) {
		log_err("%s: %s", ev->medium->path, ev->text);
		stop(v, EXIT_FAILURE);
	}
	/* The event is told before its state is settled everywhere. */
	if (v->leaving)
		g_idle_add(stop_when_free, v);
}

/* ---- start */

static bool offer(struct viewer *v, const char *path, bool read_write)
{
	struct spicebd_share_medium m = { .path = path, .read_write = read_write };
	g_autofree char *error = NULL;

	if (spicebd_share_offer(v->share, &m, NULL, &error))
		return true;
	log_err("%s", error);
	return false;
}

static int run(struct viewer *v, const char *uri, char **files, bool read_write)
{
	v->loop = g_main_loop_new(NULL, FALSE);
	v->session = spice_session_new();
	g_object_set(v->session, "uri", uri, "enable-audio", FALSE, "enable-usbredir", FALSE, NULL);
	g_signal_connect(v->session, "channel-new", G_CALLBACK(on_channel_new), v);
	v->share = spicebd_share_new(v->session, on_share, v);
	for (; *files; files++)
		if (!offer(v, *files, read_write))
			return EXIT_FAILURE;
	g_unix_signal_add(SIGINT, on_signal, v);
	g_unix_signal_add(SIGTERM, on_signal, v);
	g_timeout_add(TELL_MS, on_second, v);
	if (!spice_session_connect(v->session)) {
		log_err("%s: the connection could not be started", uri);
		return EXIT_FAILURE;
	}
	g_main_loop_run(v->loop);
	spicebd_share_free(v->share);
	g_signal_handlers_disconnect_by_data(v->session, v);
	spice_session_disconnect(v->session);
	g_object_unref(v->session);
	g_main_loop_unref(v->loop);
	return v->status;
}

int main(int argc, char **argv)
{
	struct viewer v = { 0 };
	bool read_write = argc > 1 && !strcmp(argv[1], "--read-write");

	argv += 1 + read_write;
	if (argc - read_write < 3 || argv[0][0] == '-') {
		fputs("usage: spicebd-viewer-example [--read-write] URI FILE...\n", stderr);
		return 2;
	}
	log_init("spicebd-viewer-example", false);
	signal(SIGPIPE, SIG_IGN);
	return run(&v, argv[0], argv + 1, read_write);
}
