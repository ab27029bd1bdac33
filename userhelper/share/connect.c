// SPDX-License-Identifier: GPL-2.0-only
#include "connect.h"

#include <stdio.h>
#include <string.h>

#include "frame.h"
#include "hex.h"
#include "log.h"
#include "remember.h"
#include "sock.h"

/*
 * For one attempt, twice as much after each that took all of it: each begins from
 * nothing, so with a fixed limit a server that is only slow would never be reached.
 */
#define ATTEMPT_MIN_MS		10000
#define ATTEMPT_MAX_MS		80000
#define BACKOFF_MIN_MS		200
#define BACKOFF_MAX_MS		5000
#define STABLE_MS		5000	/* a connection that stood so long was a good one */

struct connection {
	SpiceSession *session;
	struct connect_options opt;
	char *password, *secret;
	connect_fn fn;
	void *user;
	GPtrArray *channels;
	bool up, ever_up;
	bool use_secret;	/* which of the two tickets the next link shows */
	bool tried_other;	/* ... and this attempt's other one was refused */
	GPtrArray *waiting;	/* channels that were refused before the secret came */
	bool ended;		/* the present attempt was reported */
	long long up_since;
	unsigned int backoff;
	unsigned int limit;	/* of an attempt, ms */
	guint timer;		/* of the attempt, or until the next */
	char *restart_why;
};

static char *last_warning;	/* of spice-glib; there is one log in a process */

/* ---- log */

static GLogWriterOutput quiet_writer(GLogLevelFlags level, const GLogField *fields,
				     gsize n, gpointer data)
{
	const char *text = NULL, *domain = NULL;

	for (gsize i = 0; i < n; i++) {
		if (!strcmp(fields[i].key, "MESSAGE"))
			text = fields[i].value;
		else if (!strcmp(fields[i].key, "GLIB_DOMAIN"))
			domain = fields[i].value;
	}
	if (!text)
		return G_LOG_WRITER_HANDLED;
	if (level & (G_LOG_LEVEL_WARNING | G_LOG_LEVEL_CRITICAL)) {
		g_free(last_warning);
		last_warning = g_strdup(text);
	}
	if (!(level & G_LOG_LEVEL_DEBUG))
		log_debug("%s: %s", domain ? domain : "glib", text);
	return G_LOG_WRITER_HANDLED;
}

void connection_quiet_logs(void)
{
	g_log_set_writer_func(quiet_writer, NULL, NULL);
}

/* ---- attempts */

static void set_ticket(struct connection *c)
{
	const char *ticket = c->use_secret ? c->secret : c->password;

	g_object_set(c->session, "password", ticket, NULL);
}

static void attempt(struct connection *c);

static gboolean on_backoff(gpointer data)
{
	struct connection *c = data;

	c->timer = 0;
	attempt(c);
	return G_SOURCE_REMOVE;
}

static void stop_timer(struct connection *c)
{
	if (c->timer)
		g_source_remove(c->timer);
	c->timer = 0;
}

static void try_again(struct connection *c, const char *why, bool at_once)
{
	stop_timer(c);
	if (at_once) {
		c->timer = g_timeout_add(0, on_backoff, c);
		return;
	}
	c->timer = g_timeout_add(c->backoff, on_backoff, c);
	c->backoff = MIN(c->backoff * 2, BACKOFF_MAX_MS);
	c->fn(c->user, c, CONNECT_RETRY, why);
}

/* The present attempt or connection is over, told once however often it shows. */
static void over(struct connection *c, const char *why)
{
	bool was_up = c->up;

	if (c->ended)
		return;
	c->ended = true;
	c->up = false;
	if (was_up && now_ms() - c->up_since > STABLE_MS)
		c->backoff = BACKOFF_MIN_MS;
	stop_timer(c);
	c->use_secret = c->secret;
	if (c->ever_up ? c->opt.reconnect : c->opt.wait)
		try_again(c, why, false);
	else
		c->fn(c->user, c, c->ever_up ? CONNECT_LOST : CONNECT_FAILED, why);
}

/*
 * A ticket was refused. The secret is tried first, as the password is spent by
 * the session that it came in; it is void where passwords were given out anew.
 */
static void refused(struct connection *c)
{
	if (c->ended)
		return;
	c->ended = true;
	c->up = false;
	if (c->use_secret && c->password && !c->tried_other) {
		c->tried_other = true;
		c->use_secret = false;
		try_again(c, NULL, true);
		return;
	}
	stop_timer(c);
	c->fn(c->user, c, CONNECT_REFUSED, c->password ?
	      "the server refused the password: it is wrong (the first line of the password file counts), or was used for another session already" :
	      "the server wants a password; put it into a file and give --password-file");
}

static gboolean on_timeout(gpointer data)
{
	struct connection *c = data;
	char why[64];

	c->timer = 0;
	snprintf(why, sizeof(why), "the server did not answer within %u s", c->limit / 1000);
	c->limit = MIN(c->limit * 2, ATTEMPT_MAX_MS);
	over(c, why);
	return G_SOURCE_REMOVE;
}

static void attempt(struct connection *c)
{
	c->ended = false;
	g_ptr_array_set_size(c->waiting, 0);
	g_clear_pointer(&last_warning, g_free);
	set_ticket(c);
	c->timer = g_timeout_add(c->limit, on_timeout, c);
	if (!spice_session_connect(c->session))
		over(c, "the connection could not be started");
}

/* ---- channels */

static void came_up(struct connection *c)
{
	stop_timer(c);
	c->up = c->ever_up = true;
	c->up_since = now_ms();
	c->tried_other = false;
	c->fn(c->user, c, CONNECT_UP, NULL);
}

static char *error_text(SpiceChannel *channel, SpiceChannelEvent event)
{
	const GError *err = spice_channel_get_error(channel);
	const char *detail = err ? err->message : NULL;

	switch (event) {
	case SPICE_CHANNEL_ERROR_CONNECT:
		return g_strdup_printf("no connection: %s", detail ? detail :
				       "is a Spice server running there, and does it want "
				       "TLS (tls-port=)?");
	case SPICE_CHANNEL_ERROR_TLS:
		return g_strdup_printf("TLS failed: %s; check --ca-file and the host name",
				       last_warning ? last_warning : detail ? detail :
				       "the certificate was not accepted");
	case SPICE_CHANNEL_ERROR_LINK:
		if (last_warning && strstr(last_warning, "unhandled error 7"))
			return g_strdup("the server is in use by another client");
		return g_strdup("the server ended the connection at once: it is no Spice server, "
				"or wants TLS (tls-port=), or is in use by another client");
	case SPICE_CHANNEL_ERROR_IO:
		return g_strdup_printf("the connection broke: %s", detail ? detail :
				       "the server closed it");
	default:
		return g_strdup("the server closed the connection");
	}
}

static void on_main_event(SpiceChannel *channel, SpiceChannelEvent event, gpointer data)
{
	struct connection *c = data;
	g_autofree char *text = NULL;

	switch (event) {
	case SPICE_CHANNEL_NONE:
	case SPICE_CHANNEL_SWITCHING:
		return;
	case SPICE_CHANNEL_OPENED:
		if (!c->ended)
			came_up(c);
		return;
	case SPICE_CHANNEL_ERROR_AUTH:
		refused(c);
		return;
	default:
		text = error_text(channel, event);
		over(c, text);
	}
}

static gboolean relink(gpointer channel)
{
	spice_channel_connect(channel);
	g_object_unref(channel);
	return G_SOURCE_REMOVE;
}

static void relink_by_secret(struct connection *c, SpiceChannel *channel)
{
	c->use_secret = true;
	set_ticket(c);
	g_idle_add(relink, g_object_ref(channel));
}

/*
 * A later link of a session that the password opened: that is spent as soon as
 * the server has seen all channels, so from now on the secret is shown. It may
 * still be under way. Once for each channel.
 */
static bool link_again(struct connection *c, SpiceChannel *channel)
{
	if (g_object_get_data(G_OBJECT(channel), "spicebd-again"))
		return false;
	g_object_set_data(G_OBJECT(channel), "spicebd-again", channel);
	if (c->secret)
		relink_by_secret(c, channel);
	else
		g_ptr_array_add(c->waiting, g_object_ref(channel));
	return true;
}

/*
 * The main channel stands as long as it likes, whatever becomes of the others.
 * So a port that never came up, as the server was tired of waiting for us, is
 * linked by beginning anew. One that came up and went may have been removed.
 */
static void on_other_event(SpiceChannel *channel, SpiceChannelEvent event, gpointer data)
{
	struct connection *c = data;

	switch (event) {
	case SPICE_CHANNEL_NONE:
	case SPICE_CHANNEL_SWITCHING:
		return;
	case SPICE_CHANNEL_OPENED:
		g_object_set_data(G_OBJECT(channel), "spicebd-linked", channel);
		return;
	case SPICE_CHANNEL_ERROR_AUTH:
		if (link_again(c, channel))
			return;
		break;
	default:
		break;
	}
	if (SPICE_IS_PORT_CHANNEL(channel) &&
	    !g_object_get_data(G_OBJECT(channel), "spicebd-linked"))
		connection_restart(c, "the server did not let the channel of a port in");
}

static void on_channel_destroy(SpiceSession *session, SpiceChannel *channel, gpointer data)
{
	struct connection *c = data;

	if (g_ptr_array_find(c->channels, channel, NULL)) {
		g_signal_handlers_disconnect_by_data(channel, c);
		g_ptr_array_remove(c->waiting, channel);
		g_ptr_array_remove(c->channels, channel);
	}
}

static void on_channel_new(SpiceSession *session, SpiceChannel *channel, gpointer data)
{
	struct connection *c = data;

	/* Held, so that our handlers can be taken off in time. */
	g_ptr_array_add(c->channels, g_object_ref(channel));
	if (SPICE_IS_MAIN_CHANNEL(channel)) {
		g_signal_connect(channel, "channel-event", G_CALLBACK(on_main_event), data);
		return;
	}
	g_signal_connect(channel, "channel-event", G_CALLBACK(on_other_event), data);
	/*
	 * Every channel, also those of no use here: a migration with one of them
	 * missing never ends, and loses what the ports carry.
	 */
	spice_channel_connect(channel);
}

static void on_disconnected(SpiceSession *session, gpointer data)
{
	over(data, "the connection was lost");
}

static gboolean on_restart(gpointer data)
{
	struct connection *c = data;
	g_autofree char *why = g_steal_pointer(&c->restart_why);

	over(c, why);
	return G_SOURCE_REMOVE;
}

void connection_restart(struct connection *c, const char *why)
{
	if (!c->up || c->restart_why)
		return;
	c->restart_why = g_strdup(why);
	g_idle_add(on_restart, c);
}

/* The password that Documentation/frame-protocol.rst makes of it. */
void connection_set_secret(struct connection *c, const uint8_t *secret)
{
	char text[REMEMBER_DIGITS + 1];
	bool is_new;

	/* It serves us; a connection that only stood says nothing of how fast. */
	c->limit = ATTEMPT_MIN_MS;
	hex_encode(secret, REMEMBER_DIGITS / 2, text);
	is_new = !c->secret || strcmp(c->secret, text);
	if (is_new) {
		g_free(c->secret);
		c->secret = g_strdup(text);
	}
	/* Nobody asks for tickets where none was given. */
	if (is_new && (c->password || c->use_secret))
		remember_save(c->opt.uri, text);
	while (c->waiting->len) {
		relink_by_secret(c, c->waiting->pdata[0]);
		g_ptr_array_remove_index(c->waiting, 0);
	}
}

/* ---- options */

static char *check_uri(const char *uri)
{
	if (strncmp(uri, "spice://", 8) && strncmp(uri, "spice+unix://", 13) &&
	    strncmp(uri, "spice+tls://", 12))
		return g_strdup_printf("%s: not a Spice address; use spice://HOST:PORT, "
				       "spice://HOST?tls-port=PORT or spice+unix:///PATH", uri);
	if (strstr(uri, "password="))
		return g_strdup("a password in the address can be read by every user of this "
				"machine; use --password-file");
	return NULL;
}

/* spice-glib takes what it understands and says nothing of the rest. */
static bool uri_taken(SpiceSession *s)
{
	g_autofree char *host = NULL, *port = NULL, *tls = NULL, *path = NULL;

	g_object_get(s, "host", &host, "port", &port, "tls-port", &tls, "unix-path", &path,
		     NULL);
	return (path && *path) || (host && *host && (port || tls));
}

struct connection *connection_new(const struct connect_options *o, connect_fn fn,
				  void *user, char **error)
{
	struct connection *c;

	*error = check_uri(o->uri);
	if (*error)
		return NULL;
	if (o->ca_file && !g_file_test(o->ca_file, G_FILE_TEST_IS_REGULAR)) {
		*error = g_strdup_printf("%s: no such file (--ca-file)", o->ca_file);
		return NULL;
	}
	c = g_new0(struct connection, 1);
	c->opt = *o;
	c->opt.uri = g_strdup(o->uri);
	c->opt.ca_file = c->opt.subject = NULL;	/* the session has them */
	c->password = g_strdup(o->password);
	c->fn = fn;
	c->user = user;
	c->ended = true;
	c->backoff = BACKOFF_MIN_MS;
	c->limit = ATTEMPT_MIN_MS;
	c->channels = g_ptr_array_new_with_free_func(g_object_unref);
	c->waiting = g_ptr_array_new_with_free_func(g_object_unref);
	c->secret = remember_load(o->uri);
	c->use_secret = c->secret;
	c->session = spice_session_new();
	g_object_set(c->session, "uri", o->uri, "enable-audio", FALSE, "enable-usbredir",
		     FALSE, "enable-smartcard", FALSE, NULL);
	if (o->ca_file)
		g_object_set(c->session, "ca-file", o->ca_file, NULL);
	if (o->subject)
		g_object_set(c->session, "cert-subject", o->subject, NULL);
	g_signal_connect(c->session, "channel-new", G_CALLBACK(on_channel_new), c);
	g_signal_connect(c->session, "channel-destroy", G_CALLBACK(on_channel_destroy), c);
	g_signal_connect(c->session, "disconnected", G_CALLBACK(on_disconnected), c);
	if (uri_taken(c->session))
		return c;
	*error = g_strdup_printf("%s: the address has no host or no port", o->uri);
	connection_free(c);
	return NULL;
}

SpiceSession *connection_session(struct connection *c)
{
	return c->session;
}

const char *connection_uri(struct connection *c)
{
	return c->opt.uri;
}

void connection_start(struct connection *c)
{
	attempt(c);
}

void connection_free(struct connection *c)
{
	c->ended = true;
	stop_timer(c);
	g_idle_remove_by_data(c);
	for (guint i = 0; i < c->channels->len; i++)
		g_signal_handlers_disconnect_by_data(c->channels->pdata[i], c);
	g_ptr_array_free(c->channels, TRUE);
	g_ptr_array_free(c->waiting, TRUE);
	g_signal_handlers_disconnect_by_data(c->session, c);
	spice_session_disconnect(c->session);
	g_object_unref(c->session);
	g_free(c->restart_why);
	g_free((char *)c->opt.uri);
	g_free(c->password);
	g_free(c->secret);
	g_free(c);
}
