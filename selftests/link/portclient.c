// SPDX-License-Identifier: GPL-2.0-only
/*
 * A Spice client that knows nothing of frames: it hands the bytes of every port
 * channel to a test and back. linktest.py builds and drives it.
 *
 * usage: portclient URI [PASSWORD [CA-FILE [SECRET]]]
 *
 * On stdin and stdout: one letter, le32 channel id, le32 length, bytes.
 *   out: N new port (its name), O opened, D data, E channel event (number in
 *        decimal; id -1 for channels that are no ports), X session disconnected
 *   in:  D data to write, S the secret from now on
 *
 * A SECRET is shown first, and the PASSWORD when it was refused; a later link of the
 * session that is refused is tried once more with the secret (R is told then).
 * It ends at the end of stdin.
 */
#include <errno.h>
#include <glib-unix.h>
#include <spice-client.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static GMainLoop *loop;
static GHashTable *channels;	/* id to SpicePortChannel */
static SpiceSession *session;
static char *password, *secret;
static gboolean by_secret, tried_both;

static void out(char kind, uint32_t id, const void *data, uint32_t len)
{
	uint8_t head[9] = { kind };

	id = GUINT32_TO_LE(id);
	memcpy(head + 1, &id, 4);
	len = GUINT32_TO_LE(len);
	memcpy(head + 5, &len, 4);
	if (fwrite(head, 9, 1, stdout) != 1 ||
	    (len && fwrite(data, GUINT32_FROM_LE(len), 1, stdout) != 1))
		exit(1);
	fflush(stdout);
}

static uint32_t id_of(SpiceChannel *c)
{
	int id = -1;

	g_object_get(c, "channel-id", &id, NULL);
	return SPICE_IS_PORT_CHANNEL(c) ? id : -1;
}

static void show(gboolean the_secret)
{
	by_secret = the_secret;
	g_object_set(session, "password", by_secret ? secret : password, NULL);
}

static gboolean connect_session(gpointer data)
{
	if (!spice_session_connect(session))
		exit(1);
	return G_SOURCE_REMOVE;
}

static gboolean connect_channel(gpointer c)
{
	spice_channel_connect(c);
	g_object_unref(c);
	return G_SOURCE_REMOVE;
}

static gboolean try_other(SpiceChannel *c)
{
	if (!secret)
		return FALSE;
	if (SPICE_IS_MAIN_CHANNEL(c)) {
		if (tried_both || !by_secret)
			return FALSE;
		tried_both = TRUE;
		show(FALSE);
		g_idle_add(connect_session, NULL);
		return TRUE;
	}
	if (g_object_get_data(G_OBJECT(c), "again"))
		return FALSE;
	g_object_set_data(G_OBJECT(c), "again", c);
	show(TRUE);
	g_idle_add(connect_channel, g_object_ref(c));
	return TRUE;
}

static void on_event(SpiceChannel *c, SpiceChannelEvent event, gpointer data)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%d", event);

	if (event == SPICE_CHANNEL_ERROR_AUTH && try_other(c)) {
		out('R', id_of(c), NULL, 0);
		return;
	}
	out('E', id_of(c), text, n);
}

static void on_data(SpicePortChannel *c, void *data, int size, gpointer user)
{
	out('D', id_of(SPICE_CHANNEL(c)), data, size);
}

static void on_opened(GObject *c, GParamSpec *spec, gpointer user)
{
	gboolean opened = FALSE;
	char *name = NULL;

	g_object_get(c, "port-opened", &opened, "port-name", &name, NULL);
	if (opened)
		out('O', id_of(SPICE_CHANNEL(c)), name ? name : "", name ? strlen(name) : 0);
	g_free(name);
}

static void on_name(GObject *c, GParamSpec *spec, gpointer user)
{
	char *name = NULL;

	g_object_get(c, "port-name", &name, NULL);
	out('N', id_of(SPICE_CHANNEL(c)), name ? name : "", name ? strlen(name) : 0);
	g_free(name);
}

static void on_channel(SpiceSession *s, SpiceChannel *c, gpointer data)
{
	g_signal_connect(c, "channel-event", G_CALLBACK(on_event), NULL);
	if (SPICE_IS_PORT_CHANNEL(c)) {
		g_signal_connect(c, "notify::port-name", G_CALLBACK(on_name), NULL);
		g_signal_connect(c, "notify::port-opened", G_CALLBACK(on_opened), NULL);
		g_signal_connect(c, "port-data", G_CALLBACK(on_data), NULL);
		g_hash_table_replace(channels, GUINT_TO_POINTER(id_of(c)), g_object_ref(c));
	}
	if (!SPICE_IS_MAIN_CHANNEL(c))
		spice_channel_connect(c);
}

static void on_disconnected(SpiceSession *s, gpointer data)
{
	out('X', 0, NULL, 0);
}

static void written(GObject *c, GAsyncResult *res, gpointer buf)
{
	GError *err = NULL;

	if (spice_port_channel_write_finish(SPICE_PORT_CHANNEL(c), res, &err) < 0) {
		fprintf(stderr, "portclient: write: %s\n", err->message);
		g_error_free(err);
	}
	g_free(buf);
}

static gboolean read_all(void *buf, size_t len)
{
	size_t have = 0;
	ssize_t n;

	while (have < len) {
		n = read(STDIN_FILENO, (char *)buf + have, len - have);
		if (n <= 0)
			return FALSE;
		have += n;
	}
	return TRUE;
}

static gboolean on_stdin(gint fd, GIOCondition cond, gpointer data)
{
	SpicePortChannel *c;
	uint8_t head[9], *buf;
	uint32_t id, len;

	if (!read_all(head, 9)) {
		g_main_loop_quit(loop);
		return FALSE;
	}
	memcpy(&id, head + 1, 4);
	memcpy(&len, head + 5, 4);
	id = GUINT32_FROM_LE(id);
	len = GUINT32_FROM_LE(len);
	buf = g_malloc(len + 1);
	if (!read_all(buf, len)) {
		g_main_loop_quit(loop);
		return FALSE;
	}
	c = g_hash_table_lookup(channels, GUINT_TO_POINTER(id));
	buf[len] = 0;
	if (head[0] == 'S') {
		g_free(secret);
		secret = g_strdup((char *)buf);
		g_free(buf);
	} else if (head[0] == 'D' && c)
		spice_port_channel_write_async(c, buf, len, NULL, written, buf);
	else
		g_free(buf);
	return TRUE;
}

int main(int argc, char **argv)
{
	SpiceSession *s = session = spice_session_new();

	if (argc < 2)
		return 2;
	password = argc > 2 ? argv[2] : "";
	if (argc > 4)
		secret = g_strdup(argv[4]);
	loop = g_main_loop_new(NULL, FALSE);
	channels = g_hash_table_new_full(NULL, NULL, NULL, g_object_unref);
	g_object_set(s, "uri", argv[1], "enable-audio", FALSE, "enable-smartcard", FALSE,
		     "enable-usbredir", FALSE, NULL);
	if (*password || secret)
		show(secret != NULL);
	if (argc > 3 && *argv[3])
		g_object_set(s, "ca-file", argv[3], "verify", SPICE_SESSION_VERIFY_HOSTNAME, NULL);
	g_signal_connect(s, "channel-new", G_CALLBACK(on_channel), NULL);
	g_signal_connect(s, "disconnected", G_CALLBACK(on_disconnected), NULL);
	g_unix_fd_add(STDIN_FILENO, G_IO_IN | G_IO_HUP, on_stdin, NULL);
	if (!spice_session_connect(s))
		return 1;
	g_main_loop_run(loop);
	return 0;
}
