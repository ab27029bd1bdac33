// SPDX-License-Identifier: GPL-2.0-only
/* The keys of a link that is a relay for a guest. */
#include "linkconf_relay.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define CONNECT		"connect:"
#define LISTEN		"listen:"
#define PORTS_USUAL	"0-1"
#define PORTS_MAX	64	/* of a link */

bool linkconf_relay_listens(const struct linkconf *c, const char **prefix)
{
	bool listens = !strncmp(c->relay, LISTEN, strlen(LISTEN));

	if (prefix)
		*prefix = c->relay + (listens ? strlen(LISTEN) : strlen(CONNECT));
	return listens;
}

static bool has_port(const struct linkconf *c, unsigned int number)
{
	return c->relay_ports[number / 8] & 1u << number % 8;
}

bool linkconf_relays_port(const struct linkconf *c, unsigned int number)
{
	return c->relay[0] && number < LINKCONF_PORTS && has_port(c, number);
}

static bool number(const char **p, unsigned int *n)
{
	char *end;

	if (!isdigit((unsigned char)**p))
		return false;
	*n = strtoul(*p, &end, 10);
	*p = end;
	return *n < LINKCONF_PORTS;
}

const char *linkconf_relay_ports(struct linkconf *c, const char *text)
{
	unsigned int first, last, n = 0;
	const char *p = text;

	memset(c->relay_ports, 0, sizeof(c->relay_ports));
	do {
		if (!number(&p, &first))
			return "is no list of ports: write numbers below 256, e.g. 0-1,5";
		last = first;
		if (*p == '-' && (p++, !number(&p, &last) || last < first))
			return "has a range that is none: write e.g. 0-3";
		for (; first <= last; first++)
			c->relay_ports[first / 8] |= 1u << first % 8;
	} while (*p == ',' && *p++);
	if (*p)
		return "is no list of ports: write numbers below 256, e.g. 0-1,5";
	for (first = 0; first < LINKCONF_PORTS; first++)
		n += has_port(c, first);
	return n > PORTS_MAX ? "has too many ports: a link has at most 64" : NULL;
}

void linkconf_relay_init(struct linkconf *c)
{
	linkconf_relay_ports(c, PORTS_USUAL);
}

bool linkconf_relay_is_usual(const struct linkconf *c)
{
	struct linkconf usual;

	linkconf_relay_init(&usual);
	return !memcmp(c->relay_ports, usual.relay_ports, sizeof(usual.relay_ports));
}

void linkconf_relay_put(FILE *f, const struct linkconf *c)
{
	const char *comma = "";

	fputs("relay-ports=", f);
	for (unsigned int i = 0; i < LINKCONF_PORTS; i++) {
		if (!has_port(c, i))
			continue;
		fprintf(f, "%s%u", comma, i);
		comma = ",";
	}
	fputc('\n', f);
}

const char *linkconf_relay_check(const struct linkconf *c)
{
	struct sockaddr_un a;
	const char *path;

	if (!c->relay[0])
		return c->relay_user[0] ? "relay-user is for relay=listen:, which is not given" :
		       linkconf_relay_is_usual(c) ? NULL : "relay-ports is given without relay";
	linkconf_relay_listens(c, &path);
	if (strncmp(c->relay, LISTEN, strlen(LISTEN)) &&
	    strncmp(c->relay, CONNECT, strlen(CONNECT)))
		return "relay is neither listen:/PATH nor connect:/PATH";
	if (*path != '/' || !path[1] || path[strlen(path) - 1] == '/')
		return "relay has no absolute path: write listen:/PATH, for the sockets /PATH.N";
	if (strlen(path) + strlen(".255") >= sizeof(a.sun_path))
		return "the path of relay is too long for a unix socket";
	if (c->relay_user[0] && !linkconf_relay_listens(c, NULL))
		return "relay-user is for relay=listen: only; with connect: it is user that must be allowed to";
	return NULL;
}
