// SPDX-License-Identifier: GPL-2.0-only
/*
 * Ownership of a connection's descriptor: ours until spice_server_add_client()
 * has taken it; from then on libspice-server closes it, right after its
 * DISCONNECTED event, so until that event shutdown() is safe to call on it, and
 * is how a session is ended.
 */
#include "gate.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <spice/enums.h>
#include <spice/protocol.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guard.h"
#include "log.h"
#include "loop.h"
#include "sock.h"
#include "ticket.h"
#include "tlsguard.h"

#define CONNS_MAX	256
#define WAITING_MAX	32	/* connections that nobody has authenticated */
#define PEEK_TIME	5000	/* ms to say what one wants, where others wait for the place */
#define LINK_TIME	15000	/* ms to authenticate, likewise */
#define SLOW_TIME	120000	/* ms for either, where nobody does */
#define RETRY_TIME	20	/* ms between looks at a request that came in pieces */
#define TLS_HANDSHAKE	0x16	/* first byte of a TLS connection */

enum conn_state {
	CONN_PEEK,	/* ours: waiting for its request */
	CONN_LINKING,	/* libspice-server's: authenticating */
	CONN_UP,	/* a channel of a session */
};

struct conn {
	struct conn *next;
	enum conn_state state;
	int fd;
	struct loop_watch *watch;
	long long since;	/* when its state began */
	const SpiceChannelEventInfo *info;	/* libspice-server's name for it */
	uint32_t session;
	int type;
	bool tls;
	bool cut;		/* its end is on the way */
	bool short_headers;	/* its messages will have them */
	char host[INET6_ADDRSTRLEN];	/* of TCP */
	char who[INET6_ADDRSTRLEN + 24];
};

static SpiceServer *server;
static struct gate_params params;
static const struct gate_hooks *hooks;
static struct loop_watch *listen_watch;
static struct loop_timer *timer;
static struct conn *conns, *handing;
static struct conn *fresh_port;	/* linked this moment, by a client without TLS */
static unsigned int n_conns;
static long long tls_patience = LINK_TIME;

static struct {
	bool here;
	uint32_t session;
	long long since;
	bool inputs, ending;
	char who[sizeof(((struct conn *)0)->who)];
	char host[INET6_ADDRSTRLEN];
} client;

/* ---- connections ---- */

static void conn_forget(struct conn *c)
{
	struct conn **p;

	for (p = &conns; *p != c; p = &(*p)->next)
		;
	*p = c->next;
	n_conns--;
	if (handing == c)
		handing = NULL;
	if (fresh_port == c)
		fresh_port = NULL;
	loop_watch_remove(c->watch);
	free(c);
	if (n_conns < CONNS_MAX && listen_watch)
		loop_watch_set(listen_watch, LOOP_READ);
}

static void conn_close(struct conn *c)
{
	int fd = c->fd;

	conn_forget(c);
	close(fd);
}

static unsigned int count(enum conn_state state)
{
	unsigned int n = 0;
	struct conn *c;

	for (c = conns; c; c = c->next)
		n += c->state == state && !c->cut;
	return n;
}

/*
 * Ends a connection that is libspice-server's. shutdown() alone leaves what has
 * come already, which may be the ticket: a connection that is dead takes its place.
 */
static void cut(struct conn *c)
{
	int dead[2];

	c->cut = true;
	shutdown(c->fd, SHUT_RDWR);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, dead) < 0)
		return;
	close(dead[1]);
	if (loop_replace(c->fd, dead[0]) < 0)
		log_debug("connection from %s: not replaced: %s", c->who, strerror(errno));
	close(dead[0]);
}

/* ---- time ---- */

static void too_late(struct conn *c)
{
	if (c->state == CONN_LINKING) {
		log_notice("connection from %s did not authenticate in time", c->who);
		cut(c);
		return;
	}
	log_notice("connection from %s did not say what it wants in time", c->who);
	conn_close(c);
}

/*
 * On a slow machine, or over a slow network, the channels of one session may take
 * far longer than a stranger may keep a place from others. So time alone ends
 * nothing early; only where a place is wanted does the one go that has had it
 * longest, if that is longer than it may.
 */
static bool make_room(bool linking_only, long long link_time)
{
	struct conn *c, *oldest = NULL;
	long long now = now_ms();

	for (c = conns; c; c = c->next) {
		if (c->cut || c->state == CONN_UP || (linking_only && c->state == CONN_PEEK))
			continue;
		if (now - c->since < (c->state == CONN_PEEK ? PEEK_TIME : link_time))
			continue;
		if (!oldest || c->since < oldest->since)
			oldest = c;
	}
	if (oldest)
		too_late(oldest);
	return oldest;
}

/* Says no in the protocol's words, so that the client can tell its user why. */
static void refuse(struct conn *c, uint32_t error, const char *why)
{
	struct {
		SpiceLinkHeader header;
		SpiceLinkReply reply;
	} __attribute__((packed)) msg = {
		.header.magic = SPICE_MAGIC,
		.header.major_version = htole32(SPICE_VERSION_MAJOR),
		.header.minor_version = htole32(SPICE_VERSION_MINOR),
		.header.size = htole32(sizeof(msg.reply)),
		.reply.error = htole32(error),
		.reply.caps_offset = htole32(sizeof(msg.reply)),
	};

	log_notice("connection from %s refused: %s", c->who, why);
	if (send(c->fd, &msg, sizeof(msg), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		log_debug("could not tell %s: %s", c->who, strerror(errno));
	conn_close(c);
}

/* ---- who gets in ---- */

/* A client that does not speak to us must not keep out one that does. */
static bool client_holds(void)
{
	return client.here && (hooks->speaks() || now_ms() - client.since < params.hello_timeout);
}

/*
 * What opened the session opens no other once it has linked its channels, all
 * of them or those that it wants.
 */
static void spend_ticket(void *opaque)
{
	if (!client.here || !hooks->linked())
		return;
	if ((client.inputs && !hooks->expected()) || now_ms() - client.since >= LINK_TIME)
		ticket_all_linked();
}

static struct loop_task spend_task = { .fn = spend_ticket };

/*
 * libspice-server makes a key for each connection, which takes it long: one at a
 * time, so that what is served meanwhile gets its turn in between.
 */
static bool handed;

static void turn_over(void *opaque)
{
	handed = false;
}

static struct loop_task handed_task = { .fn = turn_over };

static void hand_over(struct conn *c)
{
	int fd = c->fd, r;

	if (client_holds())
		spend_ticket(NULL);
	else
		ticket_released();
	loop_watch_remove(c->watch);
	c->watch = NULL;
	c->state = CONN_LINKING;
	c->since = now_ms();
	handing = c;
	handed = true;
	loop_defer(&handed_task);
	r = c->tls ? spice_server_add_ssl_client(server, fd, 0) :
		     spice_server_add_client(server, fd, 0);
	/* The connection may have come and gone by now; then handing is NULL. */
	if (handing && r < 0)
		conn_forget(handing);
	handing = NULL;
	if (r < 0)
		close(fd);
}

/* libspice-server always knows of short headers; the client says whether it does. */
static bool knows_short_headers(int fd)
{
	uint8_t req[sizeof(SpiceLinkHeader) + 4096];
	SpiceLinkMess *mess = (SpiceLinkMess *)(req + sizeof(SpiceLinkHeader));
	ssize_t n = recv(fd, req, sizeof(req), MSG_PEEK | MSG_DONTWAIT);
	uint32_t at, caps;

	if (n < (ssize_t)(sizeof(SpiceLinkHeader) + sizeof(*mess)))
		return false;
	at = le32toh(mess->caps_offset);
	if (!mess->num_common_caps || at > n - sizeof(SpiceLinkHeader) ||
	    n - sizeof(SpiceLinkHeader) - at < sizeof(caps))
		return false;
	memcpy(&caps, (uint8_t *)mess + at, sizeof(caps));
	return le32toh(caps) & 1u << SPICE_COMMON_CAP_MINI_HEADER;
}

static void judge(struct conn *c, const SpiceLinkMess *mess)
{
	uint32_t session = le32toh(mess->connection_id);

	c->short_headers = knows_short_headers(c->fd);
	if (mess->channel_type == SPICE_CHANNEL_MAIN) {
		if (session)
			refuse(c, SPICE_LINK_ERR_BAD_CONNECTION_ID, "it wants to take over a session");
		else if (client_holds())
			refuse(c, SPICE_LINK_ERR_PERMISSION_DENIED, "another client is connected");
		else
			hand_over(c);
		return;
	}
	if (!client.here || session != client.session)
		refuse(c, SPICE_LINK_ERR_BAD_CONNECTION_ID, "its session is over");
	else
		hand_over(c);
}

/* Seen inside TLS after all, when libspice-server reads it. */
static const char *judge_inside(uint32_t session, uint8_t type)
{
	if (type == SPICE_CHANNEL_MAIN) {
		if (session)
			return "it wants to take over a session";
		return client_holds() ? "another client is connected" : NULL;
	}
	return client.here && session == client.session ? NULL : "its session is over";
}

static void refuse_silently(struct conn *c)
{
	log_notice("connection from %s refused: another client is connected", c->who);
	conn_close(c);
}

static void look_again(struct conn *c)
{
	/* A watch would fire without end for the bytes that are already there. */
	loop_watch_set(c->watch, 0);
	loop_timer_start(timer, RETRY_TIME);
}

/*
 * Who waits may be the client, and who has the places strangers, or the other way
 * round: each time that somebody has to go the next get twice as long, until a
 * share speaks.
 */
static bool turn_has_come(const struct conn *c)
{
	bool room = false;

	if (now_ms() - c->since < tls_patience)
		return false;
	while (make_room(true, tls_patience))
		room = true;
	if (room)
		tls_patience = 2 * tls_patience < SLOW_TIME ? 2 * tls_patience : SLOW_TIME;
	return room;
}

/*
 * Inside TLS the request is seen by judge_inside() only. While a client is being
 * served, only its own host is let in, and only as many connections at a time as
 * that client has channels left to link; others wait for their turn, as whoever
 * takes it away from them has to authenticate, or goes.
 */
static void judge_tls(struct conn *c)
{
	unsigned int expected = hooks->expected();

	c->tls = true;
	if (!client.inputs && now_ms() - client.since < params.hello_timeout)
		expected++;
	if (!client_holds())
		hand_over(c);
	else if (!expected || strcmp(c->host, client.host))
		refuse_silently(c);
	else if (count(CONN_LINKING) < expected || turn_has_come(c))
		hand_over(c);
	else
		look_again(c);
}

static void peek(int fd, int events, void *opaque)
{
	struct conn *c = opaque;
	struct {
		SpiceLinkHeader header;
		SpiceLinkMess mess;
	} __attribute__((packed)) req;
	ssize_t n;

	if (handed)
		return;		/* it is told of again */
	n = recv(fd, &req, sizeof(req), MSG_PEEK | MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		conn_close(c);
		return;
	}
	if (*(uint8_t *)&req == TLS_HANDSHAKE) {
		if (params.tls) {
			judge_tls(c);
			return;
		}
		log_notice("connection from %s refused: it speaks TLS and this listener does not: configure tls-cert=, tls-key= and tls-ca=",
			   c->who);
		conn_close(c);
		return;
	}
	if (memcmp(&req, "REDQ", n < 4 ? n : 4)) {
		log_notice("connection from %s refused: it does not speak Spice", c->who);
		conn_close(c);
	} else if (params.tls && n >= 4) {
		refuse(c, SPICE_LINK_ERR_NEED_SECURED, "this listener speaks TLS only");
	} else if (n < sizeof(req)) {
		look_again(c);
	} else if (le32toh(req.header.major_version) != SPICE_VERSION_MAJOR ||
		   le32toh(req.header.size) < sizeof(req.mess) ||
		   le32toh(req.header.size) > 4096) {
		refuse(c, SPICE_LINK_ERR_INVALID_DATA, "a malformed request");
	} else {
		judge(c, &req.mess);
	}
}

static void name_peer(struct conn *c)
{
	struct sockaddr_storage ss = { 0 };
	struct sockaddr_in *in = (void *)&ss;
	struct sockaddr_in6 *in6 = (void *)&ss;
	socklen_t len = sizeof(ss);
	char *host = c->host;
	struct ucred cred;

	getpeername(c->fd, (void *)&ss, &len);
	if (ss.ss_family == AF_INET) {
		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(c->host));
		snprintf(c->who, sizeof(c->who), "%s:%u", host, ntohs(in->sin_port));
	} else if (ss.ss_family == AF_INET6) {
		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(c->host));
		snprintf(c->who, sizeof(c->who), "[%s]:%u", host, ntohs(in6->sin6_port));
	} else {
		len = sizeof(cred);
		if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
			cred.pid = 0;
		snprintf(c->who, sizeof(c->who), "local process %d", (int)cred.pid);
	}
}

static void on_listener(int fd, int events, void *opaque)
{
	struct conn *c;
	int s;

	s = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (s < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			loop_watch_set(listen_watch, 0);	/* the timer tries again */
			loop_timer_start(timer, 1000);
		}
		return;
	}
	c = calloc(1, sizeof(*c));
	if (!c || (count(CONN_PEEK) + count(CONN_LINKING) >= WAITING_MAX &&
		   !make_room(false, LINK_TIME))) {
		free(c);
		close(s);
		return;
	}
	c->fd = s;
	c->state = CONN_PEEK;
	c->since = now_ms();
	c->next = conns;
	conns = c;
	if (++n_conns >= CONNS_MAX)
		loop_watch_set(listen_watch, 0);
	name_peer(c);
	c->watch = loop_watch_add(s, LOOP_READ, peek, c);
	if (!c->watch) {
		conn_close(c);
		return;
	}
	loop_timer_start(timer, 1000);
}

static void on_timer(void *opaque)
{
	struct conn *c, *next;
	long long now = now_ms();

	if (n_conns < CONNS_MAX)
		loop_watch_set(listen_watch, LOOP_READ);
	if (client_holds())
		spend_ticket(NULL);
	for (c = conns; c; c = next) {
		next = c->next;
		if (c->state != CONN_UP && !c->cut && now - c->since >= SLOW_TIME)
			too_late(c);
		else if (c->state == CONN_PEEK)
			loop_watch_set(c->watch, LOOP_READ);
	}
	if (count(CONN_PEEK) + count(CONN_LINKING))
		loop_timer_start(timer, 1000);
}

/* ---- what libspice-server says ---- */

static struct conn *find(const SpiceChannelEventInfo *info)
{
	struct conn *c;

	for (c = conns; c && c->info != info; c = c->next)
		;
	return c;
}

/*
 * A client opens its other channels when its main channel stands. So whoever is
 * still authenticating wants a session of his own, which would throw this one
 * out, or a channel of the session before; inside TLS, where it cannot be seen
 * later, whoever waits, too.
 */
static void turn_others_away(void)
{
	struct conn *c, *next;

	for (c = conns; c; c = next) {
		next = c->next;
		if (c->state == CONN_LINKING)
			cut(c);
		else if (c->state == CONN_PEEK && params.tls)
			refuse_silently(c);
	}
}

static void client_came(const struct conn *main_conn)
{
	client.here = true;
	client.session = main_conn->session;
	client.since = now_ms();
	client.inputs = false;
	client.ending = false;
	ticket_client_came();
	strcpy(client.who, main_conn->who);
	strcpy(client.host, main_conn->host);
	turn_others_away();
	log_info("client %s connected", client.who);
	hooks->client(true, client.who);
}

static void client_went(void)
{
	client.here = false;
	ticket_released();
	log_info("client %s disconnected", client.who);
	hooks->client(false, client.who);
}

static const char *why_not_in(void)
{
	if (!ticket_is_secret())
		return "wrong password, or it went away";
	if (client.here)
		return "it has not the secret of the session, or not yet, or it went away";
	return "its password is wrong or was used already (after \"spicebdctl unlisten\" and \"listen\" it is good once more), or it went away";
}

void gate_channel_event(int event, SpiceChannelEventInfo *info)
{
	struct conn *c;

	if (event == SPICE_CHANNEL_EVENT_CONNECTED) {
		if (handing)
			handing->info = info;
		return;
	}
	c = find(info);
	if (!c)
		return;
	if (event == SPICE_CHANNEL_EVENT_INITIALIZED) {
		guard_set(c->fd);
		c->state = CONN_UP;
		c->session = info->connection_id;
		c->type = info->type;
		if (c->type == SPICE_CHANNEL_MAIN)
			client_came(c);
		else if (c->type == SPICE_CHANNEL_INPUTS)
			client.inputs = true;
		/* The char device's state() follows from within the same call. */
		loop_defer(&spend_task);
		fresh_port = c->type == SPICE_CHANNEL_PORT && c->short_headers ? c : NULL;
	} else if (event == SPICE_CHANNEL_EVENT_DISCONNECTED) {
		if (c->state == CONN_LINKING)
			log_notice("connection from %s was not let in: %s", c->who,
				   why_not_in());
		else if (c->type == SPICE_CHANNEL_MAIN && client.here &&
			 c->session == client.session)
			client_went();
		conn_forget(c);
	}
}

void gate_replay(void)
{
	if (client.here)
		hooks->client(true, client.who);
}

int gate_port_fd(void)
{
	int fd = fresh_port ? fresh_port->fd : -1;

	fresh_port = NULL;
	return fd;
}

void gate_spoken(void)
{
	ticket_spoken();
	tls_patience = LINK_TIME;
	loop_defer(&spend_task);
}

void gate_end_client(const char *why)
{
	struct conn *c;

	if (!client.here || client.ending)
		return;
	client.ending = true;
	log_notice("ending the session of client %s: %s", client.who, why);
	for (c = conns; c; c = c->next)
		if (c->state == CONN_UP && c->session == client.session)
			shutdown(c->fd, SHUT_RDWR);
}

static void end_misuser(void *opaque)
{
	gate_end_client("it sent what no client sends");
}

static struct loop_task misuser_task = { .fn = end_misuser };

/*
 * The session goes with the channel: it would live on without that port, and the
 * client not know. A stranger's connection ends nobody's session.
 */
static void on_refused(int fd)
{
	struct conn *c;

	for (c = conns; c; c = c->next)
		if (c->fd == fd && c->state == CONN_UP && client.here &&
		    c->session == client.session)
			loop_defer(&misuser_task);
}

bool gate_init(SpiceServer *srv, const struct gate_params *prm, const struct gate_hooks *hks)
{
	server = srv;
	params = *prm;
	hooks = hks;
	tlsguard_judge = params.tls ? judge_inside : NULL;
	tlsguard_refused = params.tls ? on_refused : NULL;
	timer = loop_timer_add(on_timer, NULL);
	listen_watch = loop_watch_add(params.listener, LOOP_READ, on_listener, NULL);
	return timer && listen_watch;
}
