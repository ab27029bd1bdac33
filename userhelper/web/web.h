/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * spicebd-web: a page for a browser's tab that shares a medium, and the WebSocket that
 * the tab needs to reach one spicebd-link. Nothing of Spice or of the frames is parsed
 * here: bytes pass. One thread; GLib's main loop.
 */
#ifndef SPICEBD_WEB_H
#define SPICEBD_WEB_H

#include <gio/gio.h>
#include <libsoup/soup.h>
#include <stdbool.h>
#include <stdint.h>

#define WEB_LINK_PATH		"/link"
#define WEB_PROTOCOL		"spicebd"	/* Sec-WebSocket-Protocol */
#define WEB_CONNS_MAX		96	/* of all kinds */
#define WEB_HTTP_MAX		48	/* that have no WebSocket (yet) */
#define WEB_HTTP_TIME		30000	/* ms that such a one may last */
#define WEB_STALL_TIME		60000	/* ms that a write may take */
#define WEB_LINK_TIME		10	/* s to reach the link */

struct web_options {
	const char *listen, *name, *cert, *key, *link, *page, *user;
};

/* complain() - one line on standard error; returns the exit status 1 */
int complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- own.c: the addresses that we are called by */

/**
 * own_init() - from --listen, or --name where it is given
 * @address: that the listener is bound to
 * @tls: whether it is https
 * Return: whether it is known by which names we are called; it was complained if not
 */
bool own_init(GInetSocketAddress *address, const char *name, bool tls);

/* own_host() - whether a request with this Host (may be NULL) is meant for us */
bool own_host(const char *host);

/* own_origin() - whether a page of ours, from that very host, makes the request */
bool own_origin(const char *origin, const char *host);

/* own_policy() - the Content-Security-Policy for a page that is read from @host */
char *own_policy(const char *host);

/* ---- files.c: the page, read once at the start */

struct web_file {
	char *path;		/* of the request, "/" for index.html */
	const char *type;
	char *text;
	gsize length;
};

bool files_load(const char *dir);
const struct web_file *files_find(const char *path);

/* ---- rights.c */

bool rights_drop(const char *user);

/* ---- listen.c: connections, and how many and how long */

struct conn;

/**
 * listen_open() - bind the address; it is not listened to yet
 * @text: ADDRESS:PORT, an IPv6 address in brackets
 * @tls: else only an address of this machine itself is taken
 * Return: the socket, or NULL; it was complained
 */
GSocket *listen_open(const char *text, bool tls);

/* listen_start() - let them come; @cert NULL: without TLS */
bool listen_start(GSocket *socket, SoupServer *server, GTlsCertificate *cert);

/* conn_of() - whose request it is */
struct conn *conn_of(SoupServerMessage *msg);
const char *conn_name(const struct conn *c);

/* conn_upgraded() - it has a WebSocket now, and may last */
void conn_upgraded(struct conn *c);

/* conn_cut() - it ends now, whatever it is doing; the stream's end tells its owner */
void conn_cut(struct conn *c);

/* ---- http.c: what is asked for */

SoupServer *http_server(GSocketConnectable *link);

/* ---- bridge.c: a WebSocket and the link */

/**
 * bridge_new() - reach the link, and pass bytes until one of them ends
 * @c: its connection
 * @stream: taken from libsoup
 */
void bridge_new(struct conn *c, GIOStream *stream, GSocketConnectable *link);

#endif /* SPICEBD_WEB_H */
