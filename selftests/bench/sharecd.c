// SPDX-License-Identifier: GPL-2.0-only
/*
 * sharecd URI IMAGE: a Spice client that shares one image in both ways in one
 * session: by the core of spicebd-share, and as the stock shared CD of
 * spice-client-glib, which a viewer's --spice-share-cd is. A Spice server has one
 * client only.
 *
 * Says "cd" and "share" when the other end has each, and answers each line on
 * its standard input by the bytes that were read through the share so far.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <spice-client.h>
#include <usb-device-manager.h>

#include "share.h"

static const char *image;
static struct spicebd_share *share;
static GMainLoop *loop;
static int status;

static void say(const char *what)
{
	puts(what);
	fflush(stdout);
}

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "sharecd: %s: %s\n", what, why ? why : "unknown reason");
	status = 1;
	g_main_loop_quit(loop);
}

/* ---- the CD */

static void on_redirected(GObject *manager, GAsyncResult *res, gpointer data)
{
	GError *err = NULL;

	if (spice_usb_device_manager_connect_device_finish(SPICE_USB_DEVICE_MANAGER(manager), res,
							    &err))
		say("cd");
	else
		fail("the CD cannot be redirected", err ? err->message : NULL);
	g_clear_error(&err);
}

static void on_device(SpiceUsbDeviceManager *manager, SpiceUsbDevice *device, gpointer data)
{
	if (!spice_usb_device_manager_is_device_shared_cd(manager, device))
		return;		/* some device of this machine */
	spice_usb_device_manager_connect_device_async(manager, device, NULL, on_redirected, NULL);
}

static void share_cd(SpiceSession *session)
{
	GError *err = NULL;
	SpiceUsbDeviceManager *manager = spice_usb_device_manager_get(session, &err);
	static bool done;

	if (done)
		return;
	done = true;
	if (!manager) {
		fail("no USB redirection", err ? err->message : NULL);
		return;
	}
	g_signal_connect(manager, "device-added", G_CALLBACK(on_device), NULL);
	if (!spice_usb_device_manager_create_shared_cd_device(manager, (char *)image, &err))
		fail("no shared CD", err ? err->message : NULL);
}

/* ---- the share */

static void on_share(void *user, const struct spicebd_share_event *ev)
{
	if (ev->type == SPICEBD_SHARE_OFFERED)
		say("share");
	else if (ev->type == SPICEBD_SHARE_ERROR || ev->type == SPICEBD_SHARE_FAILED)
		fail("share", ev->text);
}

static void offer(SpiceSession *session)
{
	struct spicebd_share_medium m = { .path = image, .as = SPICEBD_SHARE_CDROM };
	char *err = NULL;

	share = spicebd_share_new(session, on_share, NULL);
	if (!spicebd_share_offer(share, &m, NULL, &err))
		fail("offer", err);
}

/* ---- the session */

static void on_main(SpiceChannel *channel, SpiceChannelEvent event, gpointer session)
{
	if (event != SPICE_CHANNEL_NONE && event != SPICE_CHANNEL_OPENED)
		fail("the session ended", NULL);
}

static void on_channel(SpiceSession *session, SpiceChannel *channel, gpointer data)
{
	if (SPICE_IS_MAIN_CHANNEL(channel))
		g_signal_connect(channel, "channel-event", G_CALLBACK(on_main), session);
	else if (SPICE_IS_USBREDIR_CHANNEL(channel))
		share_cd(session);	/* the manager connects it */
	else if (!SPICE_IS_PORT_CHANNEL(channel))
		spice_channel_connect(channel);
}

static gboolean on_line(GIOChannel *in, GIOCondition cond, gpointer data)
{
	uint64_t read_bytes, write_bytes;
	char line[64];

	if (!fgets(line, sizeof(line), stdin)) {
		g_main_loop_quit(loop);
		return G_SOURCE_REMOVE;
	}
	spicebd_share_traffic(share, &read_bytes, &write_bytes);
	printf("%llu\n", (unsigned long long)read_bytes);
	fflush(stdout);
	return G_SOURCE_CONTINUE;
}

int main(int argc, char **argv)
{
	SpiceSession *session;

	if (argc != 3) {
		fprintf(stderr, "usage: sharecd URI IMAGE\n");
		return 2;
	}
	image = argv[2];
	loop = g_main_loop_new(NULL, FALSE);
	session = spice_session_new();
	g_object_set(session, "uri", argv[1], "enable-audio", FALSE, "enable-smartcard", FALSE,
		     NULL);
	g_signal_connect(session, "channel-new", G_CALLBACK(on_channel), NULL);
	offer(session);
	g_io_add_watch(g_io_channel_unix_new(0), G_IO_IN | G_IO_HUP, on_line, NULL);
	if (!status && spice_session_connect(session))
		g_main_loop_run(loop);
	else
		fail("cannot connect", NULL);
	return status;
}
