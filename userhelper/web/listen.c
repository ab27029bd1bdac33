// SPDX-License-Identifier: GPL-2.0-only
/*
 * libsoup parses what comes over a connection; how many there are and how long one may
 * last is decided here. A connection is ours to end until its stream is finalized,
 * which is how we hear that it is over. It is ended by shutdown(): whoever reads or
 * writes then finds the end of it.
 */
#include "web.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "log.h"
#include "sock.h"

#define BACKLOG		32
#define RETRY_TIME	1000	/* ms, when there is no descriptor left */
#define IDLE_TIME	15	/* s of silence, in HTTP and in the handshake of TLS */
/*
 * The answer to a request, of which a connection has one, fits into the socket's buffer:
 * so libsoup never waits, with everybody else, for a client to take the last bytes of a
 * connection that it closes.
 */
#define SEND_BUFFER	(208 << 10)

struct conn {
	GSocket *socket;
	GSocketAddress *from;	/* leads back here */
	bool upgraded;
	long long deadline;
	char who[INET6_ADDRSTRLEN + 10];
};

static GList *conns;
static unsigned int nr_conns, nr_http;
static SoupServer *soup;
static GTlsCertificate *certificate;
static GSocket *listening;
static GSource *source;

static void watch(void);

/* ---- the address */

static GSocketAddress *parse(const char *text)
{
	g_autoptr(GError) error = NULL;
	const char *colon = strrchr(text, ':');
	g_autofree char *host = colon ? g_strndup(text, colon - text) : NULL;
	g_autoptr(GInetAddress) ip = NULL;
	guint64 port = 0;
	size_t n;

	if (colon && !g_ascii_string_to_unsigned(colon + 1, 10, 0, 65535, &port, &error))
		colon = NULL;
	if (colon && !strcmp(host, "localhost")) {
		g_free(host);
		host = g_strdup("127.0.0.1");
	}
	n = colon ? strlen(host) : 0;
	if (n > 2 && host[0] == '[' && host[n - 1] == ']') {
		host[n - 1] = '\0';
		memmove(host, host + 1, n - 1);
	}
	ip = colon ? g_inet_address_new_from_string(host) : NULL;
	if (!ip) {
		complain("--listen %s: it is ADDRESS:PORT, as 127.0.0.1:8080 or [::1]:8080", text);
		return NULL;
	}
	return g_inet_socket_address_new(ip, port);
}

GSocket *listen_open(const char *text, bool tls)
{
	g_autoptr(GSocketAddress) a = parse(text);
	g_autoptr(GSocket) s = NULL;
	g_autoptr(GError) error = NULL;
	GInetAddress *ip;

	if (!a)
		return NULL;
	ip = g_inet_socket_address_get_address(G_INET_SOCKET_ADDRESS(a));
	if (!tls && !g_inet_address_get_is_loopback(ip)) {
		complain("--listen %s: without TLS only an address of this machine itself is taken (127.0.0.1, [::1]): a browser would give the password away; configure --tls-cert and --tls-key",
			 text);
		return NULL;
	}
	s = g_socket_new(g_socket_address_get_family(a), G_SOCKET_TYPE_STREAM,
			 G_SOCKET_PROTOCOL_TCP, &error);
	if (s && g_socket_bind(s, a, TRUE, &error))
		return g_steal_pointer(&s);
	complain("cannot listen at %s: %s", text, error->message);
	return NULL;
}

/* ---- connections */

const char *conn_name(const struct conn *c)
{
	return c->who;
}

void conn_cut(struct conn *c)
{
	g_socket_shutdown(c->socket, TRUE, TRUE, NULL);
}

void conn_upgraded(struct conn *c)
{
	c->upgraded = true;
	nr_http--;
	/* A channel may have nothing to say for hours. */
	g_socket_set_timeout(c->socket, 0);
	watch();
}

static void conn_over(gpointer data, GObject *where_it_was)
{
	struct conn *c = data;

	conns = g_list_remove(conns, c);
	nr_conns--;
	if (!c->upgraded)
		nr_http--;
	g_object_set_data(G_OBJECT(c->from), "conn", NULL);
	g_object_unref(c->from);
	g_object_unref(c->socket);
	g_free(c);
	watch();
}

static void set_limits(GSocket *s)
{
	g_socket_set_timeout(s, IDLE_TIME);
	g_socket_set_keepalive(s, TRUE);
	g_socket_set_option(s, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER, NULL);
	g_socket_set_option(s, IPPROTO_TCP, TCP_NODELAY, 1, NULL);
	g_socket_set_option(s, IPPROTO_TCP, TCP_KEEPIDLE, 15, NULL);
	g_socket_set_option(s, IPPROTO_TCP, TCP_KEEPINTVL, 5, NULL);
	g_socket_set_option(s, IPPROTO_TCP, TCP_KEEPCNT, 3, NULL);
	g_socket_set_option(s, IPPROTO_TCP, TCP_USER_TIMEOUT, WEB_STALL_TIME, NULL);
}

static void name_peer(struct conn *c, GSocketAddress *from)
{
	GInetSocketAddress *in = G_INET_SOCKET_ADDRESS(from);
	g_autofree char *ip = g_inet_address_to_string(g_inet_socket_address_get_address(in));

	g_snprintf(c->who, sizeof(c->who), strchr(ip, ':') ? "[%s]:%u" : "%s:%u", ip,
		   g_inet_socket_address_get_port(in));
}

/* The address that libsoup is told is how a request leads back to its connection. */
struct conn *conn_of(SoupServerMessage *msg)
{
	GSocketAddress *from = soup_server_message_get_remote_address(msg);

	return from ? g_object_get_data(G_OBJECT(from), "conn") : NULL;
}

static void take(GSocket *s)
{
	g_autoptr(GSocketAddress) from = g_socket_get_remote_address(s, NULL);
	g_autoptr(GSocketAddress) at = g_socket_get_local_address(s, NULL);
	g_autoptr(GSocketConnection) plain = NULL;
	g_autoptr(GIOStream) stream = NULL;
	g_autoptr(GError) error = NULL;
	struct conn *c;

	if (!from || !at)
		return;		/* it has gone already */
	set_limits(s);
	plain = g_socket_connection_factory_create_connection(s);
	c = g_new0(struct conn, 1);
	c->socket = g_object_ref(s);
	c->deadline = now_ms() + WEB_HTTP_TIME;
	name_peer(c, from);
	conns = g_list_prepend(conns, c);
	nr_conns++;
	nr_http++;
	g_object_weak_ref(G_OBJECT(plain), conn_over, c);
	c->from = g_object_ref(from);
	g_object_set_data(G_OBJECT(from), "conn", c);
	if (certificate)
		stream = g_tls_server_connection_new(G_IO_STREAM(plain), certificate, &error);
	else
		stream = g_object_ref(G_IO_STREAM(plain));
	if (!stream || !soup_server_accept_iostream(soup, stream, at, from, &error))
		log_warn("connection from %s: %s", c->who, error ? error->message : "?");
}

static gboolean again(gpointer data)
{
	watch();
	return G_SOURCE_REMOVE;
}

static gboolean on_listener(GSocket *s, GIOCondition condition, gpointer data)
{
	g_autoptr(GError) error = NULL;
	g_autoptr(GSocket) fresh = g_socket_accept(s, NULL, &error);

	if (fresh) {
		take(fresh);
	} else if (!g_error_matches(error, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK) &&
		   !g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CONNECTION_CLOSED)) {
		log_warn("no connection can be taken now: %s", error->message);
		source = NULL;
		g_timeout_add(RETRY_TIME, again, NULL);
		return G_SOURCE_REMOVE;
	}
	if (nr_conns < WEB_CONNS_MAX && nr_http < WEB_HTTP_MAX)
		return G_SOURCE_CONTINUE;
	source = NULL;
	return G_SOURCE_REMOVE;
}

/* Where there are too many, the others wait in the kernel's queue. */
static void watch(void)
{
	if (source || nr_conns >= WEB_CONNS_MAX || nr_http >= WEB_HTTP_MAX)
		return;
	source = g_socket_create_source(listening, G_IO_IN, NULL);
	g_source_set_callback(source, G_SOURCE_FUNC(on_listener), NULL, NULL);
	g_source_attach(source, NULL);
	g_source_unref(source);		/* the main context has it */
}

static gboolean on_tick(gpointer data)
{
	long long now = now_ms();

	for (GList *l = conns; l; l = l->next) {
		struct conn *c = l->data;

		if (!c->upgraded && now >= c->deadline)
			conn_cut(c);
	}
	return G_SOURCE_CONTINUE;
}

bool listen_start(GSocket *socket, SoupServer *server, GTlsCertificate *cert)
{
	g_autoptr(GError) error = NULL;

	soup = server;
	certificate = cert;
	listening = socket;
	g_socket_set_blocking(socket, FALSE);
	g_socket_set_listen_backlog(socket, BACKLOG);
	if (!g_socket_listen(socket, &error)) {
		complain("cannot listen: %s", error->message);
		return false;
	}
	g_timeout_add(1000, on_tick, NULL);
	watch();
	return true;
}
