// SPDX-License-Identifier: GPL-2.0-only
/* What the plugin of a client's nbdkit asks. It is the client who speaks here. */
#include "export.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "sock.h"

static struct export_grant grant;

static struct export_grant *grant_new(void)
{
	memset(&grant, 0, sizeof(grant));
	grant.magic = EXPORT_PROTO_MAGIC;
	return &grant;
}

static void grant_send(struct client *c, const int *fd, unsigned int n)
{
	/* It waits for this, so there is room, or it is no plugin of ours. */
	if (sock_send_fds(c->ctl, &grant, sizeof(grant), fd, n) != sizeof(grant))
		client_hang_up(c);
}

static void __attribute__((format(printf, 3, 4)))
refuse(struct client *c, uint32_t error, const char *fmt, ...)
{
	struct export_grant *g = grant_new();
	va_list ap;

	g->error = error;
	va_start(ap, fmt);
	vsnprintf(g->text, sizeof(g->text), fmt, ap);
	va_end(ap);
	grant_send(c, NULL, 0);
}

static void let_go(struct client *c)
{
	c->number = 0;
	c->tag = 0;
	c->deadline = now_ms() + HANDSHAKE_MS;
}

static void ask_owner(struct server *s, struct client *c)
{
	owner_send(s, EXPORT_EV_OPEN, c->tag, c->number, 0, 0, "");
}

static void on_open(struct server *s, struct client *c, const char *name)
{
	struct exp *e = exp_by_name(s, name);

	if (c->number) {
		client_hang_up(c);
		return;
	}
	if (!e) {
		refuse(c, ENOENT, "Export '%.100s' not present", name);
		return;
	}
	c->number = e->number;
	c->tag = ++s->next_tag ?: ++s->next_tag;
	c->deadline = now_ms() + STREAM_MS;
	ask_owner(s, c);
}

/* Whoever comes after the spicebdd that was asked is asked again. */
void requests_ask_again(struct server *s)
{
	for (int i = 0; i < EXPORT_CLIENTS_MAX; i++)
		if (s->clients[i].pid && s->clients[i].tag && !s->clients[i].gone)
			ask_owner(s, &s->clients[i]);
}

void requests_expired(struct server *s, struct client *c)
{
	log_warn("no stream of an export came in %d s%s", STREAM_MS / 1000,
		 s->owner < 0 ? ": spicebdd does not run" : "");
	let_go(c);
	refuse(c, ETIMEDOUT, "the medium does not answer");
}

static struct client *by_tag(struct server *s, uint32_t tag)
{
	for (int i = 0; tag && i < EXPORT_CLIENTS_MAX; i++)
		if (s->clients[i].pid && s->clients[i].tag == tag)
			return &s->clients[i];
	return NULL;
}

/* @fd stays the caller's. */
void requests_stream(struct server *s, const struct export_ctl *ctl, const int *fd,
		     unsigned int n)
{
	struct client *c = by_tag(s, ctl->tag);
	struct export_grant *g;
	struct exp *e;

	if (!c || c->gone)
		return;
	e = exp_by_number(s, c->number);
	if (ctl->error || !n || !e || e->removing) {
		let_go(c);
		refuse(c, ctl->error ?: ENOENT, "%s", ctl->text[0] ? ctl->text : "it is gone");
		return;
	}
	g = grant_new();
	g->flags = e->flags;
	strcpy(g->name, ctl->name);
	strcpy(g->text, e->description);
	c->tag = 0;
	c->deadline = -1;
	grant_send(c, fd, n);
}

static void on_list(struct server *s, struct client *c, uint32_t index)
{
	struct exp *e = exp_by_index(s, index);
	struct export_grant *g;

	if (!e) {
		refuse(c, ENOENT, "no more");
		return;
	}
	g = grant_new();
	strcpy(g->name, e->name);
	strcpy(g->text, e->description);
	grant_send(c, NULL, 0);
}

void requests_read(struct server *s, struct client *c)
{
	static struct export_ask a;
	ssize_t n;
	int fd;

	n = sock_recv_fd(c->ctl, &a, sizeof(a), &fd);
	if (n == -EAGAIN)
		return;
	if (fd >= 0)
		close(fd);
	if (n != sizeof(a) || fd >= 0 || a.magic != EXPORT_PROTO_MAGIC || c->tag) {
		if (n)
			log_warn("malformed question of nbdkit (pid %d)", c->pid);
		close(c->ctl);
		c->ctl = -1;
		if (n)
			client_hang_up(c);
		return;
	}
	a.name[EXPORT_NAME_MAX] = '\0';
	if (a.kind == EXPORT_ASK_OPEN)
		on_open(s, c, a.name);
	else if (a.kind == EXPORT_ASK_LIST)
		on_list(s, c, a.index);
	else if (a.kind == EXPORT_ASK_CLOSE)
		let_go(c);
	else if (a.kind == EXPORT_ASK_OVER)
		shutdown(c->sock, SHUT_RD);	/* what it is owed it still gets */
	else
		client_hang_up(c);
}
