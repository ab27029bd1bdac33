// SPDX-License-Identifier: GPL-2.0-only
/*
 * A page of somebody else's, open in the same browser, can send requests here, and a
 * name of somebody else's can be made to lead here. Neither knows what we are called.
 */
#include "web.h"

#include <string.h>

#define NAMES_MAX	4

static char *names[NAMES_MAX];
static unsigned int nr_names;
static const char *scheme, *ws_scheme;

static void add(const char *host, unsigned int port, unsigned int usual)
{
	bool bare = strchr(host, ':') && host[0] != '[';
	g_autofree char *shown = g_strdup_printf(bare ? "[%s]" : "%s", host);

	names[nr_names++] = g_strdup_printf("%s:%u", shown, port);
	/* As browsers write it. */
	if (port == usual)
		names[nr_names++] = g_steal_pointer(&shown);
}

/* A host of letters, digits, dots and dashes, or an IPv6 address in brackets; and a port. */
static bool add_named(const char *name, unsigned int port, unsigned int usual)
{
	const char *end = name[0] == '[' ? strchr(name, ']') : name + strcspn(name, ":") - 1;
	g_autofree char *host = NULL;
	guint64 given = port;

	if (!end || end < name)
		return false;
	host = g_strndup(name, end + 1 - name);
	if (strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-[]:") !=
	    strlen(host))
		return false;
	if (end[1] && (end[1] != ':' ||
		       !g_ascii_string_to_unsigned(end + 2, 10, 1, 65535, &given, NULL)))
		return false;
	add(host, given, usual);
	return true;
}

bool own_init(GInetSocketAddress *address, const char *name, bool tls)
{
	GInetAddress *ip = g_inet_socket_address_get_address(address);
	unsigned int port = g_inet_socket_address_get_port(address), usual = tls ? 443 : 80;
	g_autofree char *text = g_inet_address_to_string(ip);

	scheme = tls ? "https" : "http";
	ws_scheme = tls ? "wss" : "ws";
	if (name && add_named(name, port, usual))
		return true;
	if (name) {
		complain("--name %s: it is a host's name, and perhaps a port: NAME[:PORT]", name);
		return false;
	}
	if (g_inet_address_get_is_any(ip)) {
		complain("--listen %s is every address of this machine: say by --name NAME[:PORT] what browsers call it",
			 text);
		return false;
	}
	add(text, port, usual);
	if (g_inet_address_get_is_loopback(ip))
		add("localhost", port, usual);
	return true;
}

bool own_host(const char *host)
{
	for (unsigned int i = 0; host && i < nr_names; i++)
		if (!g_ascii_strcasecmp(names[i], host))
			return true;
	return false;
}

bool own_origin(const char *origin, const char *host)
{
	g_autofree char *want = g_strdup_printf("%s://%s", scheme, host);

	return own_host(host) && origin && !g_ascii_strcasecmp(origin, want);
}

char *own_policy(const char *host)
{
	return g_strdup_printf("default-src 'none'; script-src 'self'; style-src 'self'; "
			       "connect-src %s://%s" WEB_LINK_PATH "; frame-ancestors 'none'; "
			       "base-uri 'none'; form-action 'none'", ws_scheme, host);
}
