// SPDX-License-Identifier: GPL-2.0-only
/*
 * Nothing is answered to a request that is not called by one of our names, and no
 * WebSocket is given to a page that is not ours.
 */
#include "web.h"

#include <string.h>

#include "log.h"

static GSocketConnectable *link_address;

static void set_headers(SoupServerMessage *msg, const char *host)
{
	SoupMessageHeaders *h = soup_server_message_get_response_headers(msg);
	g_autofree char *policy = own_policy(host);

	soup_message_headers_replace(h, "Content-Security-Policy", policy);
	soup_message_headers_replace(h, "X-Content-Type-Options", "nosniff");
	soup_message_headers_replace(h, "X-Frame-Options", "DENY");
	soup_message_headers_replace(h, "Referrer-Policy", "no-referrer");
	soup_message_headers_replace(h, "Cross-Origin-Opener-Policy", "same-origin");
	soup_message_headers_replace(h, "Cross-Origin-Embedder-Policy", "require-corp");
	soup_message_headers_replace(h, "Cross-Origin-Resource-Policy", "same-origin");
	soup_message_headers_replace(h, "Permissions-Policy",
				     "camera=(), microphone=(), geolocation=()");
	soup_message_headers_replace(h, "Cache-Control", "no-cache");
}

static void refuse(SoupServerMessage *msg, unsigned int status, const char *why)
{
	struct conn *c = conn_of(msg);

	log_notice("request of %s refused: %s", c ? conn_name(c) : "?", why);
	soup_server_message_set_status(msg, status, NULL);
	soup_server_message_set_response(msg, "text/plain; charset=utf-8", SOUP_MEMORY_COPY, why,
					 strlen(why));
}

/* The answer that makes it a WebSocket has been written. */
static void on_upgraded(SoupServerMessage *msg, gpointer data)
{
	struct conn *c = conn_of(msg);
	g_autoptr(GIOStream) stream = soup_server_message_steal_connection(msg);

	if (!stream || !c)
		return;
	conn_upgraded(c);
	bridge_new(c, stream, link_address);
}

static void upgrade(SoupServerMessage *msg, const char *host)
{
	static char *protocols[] = { WEB_PROTOCOL, NULL };
	SoupMessageHeaders *h = soup_server_message_get_request_headers(msg);
	const char *origin = soup_message_headers_get_one(h, "Origin");
	g_autoptr(GError) error = NULL;

	if (!own_origin(origin, host)) {
		refuse(msg, SOUP_STATUS_FORBIDDEN, "that page is not one of this server's");
		return;
	}
	if (!soup_message_headers_get_one(h, "Sec-WebSocket-Protocol") ||
	    !soup_websocket_server_check_handshake(msg, origin, protocols, NULL, &error)) {
		refuse(msg, SOUP_STATUS_BAD_REQUEST, "this address is for the page's WebSocket");
		return;
	}
	if (soup_websocket_server_process_handshake(msg, origin, protocols, NULL, NULL))
		g_signal_connect(msg, "wrote-informational", G_CALLBACK(on_upgraded), NULL);
}

static void on_request(SoupServer *server, SoupServerMessage *msg, const char *path,
		       GHashTable *query, gpointer data)
{
	SoupMessageHeaders *h = soup_server_message_get_request_headers(msg);
	const char *host = soup_message_headers_get_one(h, "Host");
	const char *method = soup_server_message_get_method(msg);
	const struct web_file *f = files_find(path);


	/* libsoup does so anyhow where it was given a stream; it is to be said, too. */
	soup_message_headers_replace(soup_server_message_get_response_headers(msg),
				     "Connection", "close");
	if (!own_host(host)) {
		refuse(msg, SOUP_STATUS_FORBIDDEN, "this server has another name (see --name)");
		return;
	}
	set_headers(msg, host);
	if (strcmp(method, "GET") && strcmp(method, "HEAD")) {
		refuse(msg, SOUP_STATUS_METHOD_NOT_ALLOWED, "there is nothing but GET here");
	} else if (!strcmp(path, WEB_LINK_PATH)) {
		upgrade(msg, host);
	} else if (!f) {
		refuse(msg, SOUP_STATUS_NOT_FOUND, "there is no such page");
	} else {
		soup_server_message_set_status(msg, SOUP_STATUS_OK, NULL);
		soup_server_message_set_response(msg, f->type, SOUP_MEMORY_STATIC, f->text,
						 f->length);
	}
}

/* What somebody sends along with a request is not kept. */
static void on_started(SoupServer *server, SoupServerMessage *msg, gpointer data)
{
	soup_message_body_set_accumulate(soup_server_message_get_request_body(msg), FALSE);
}

SoupServer *http_server(GSocketConnectable *link)
{
	SoupServer *server = soup_server_new("server-header", NULL, NULL);

	link_address = link;
	/* Its own way of giving a WebSocket would come first otherwise. */
	soup_server_add_handler(server, NULL, on_request, NULL, NULL);
	g_signal_connect(server, "request-started", G_CALLBACK(on_started), NULL);
	return server;
}
