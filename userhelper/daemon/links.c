// SPDX-License-Identifier: GPL-2.0-only
#include "links.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib-unix.h>

#include "log.h"
#include "sock.h"
#include "text.h"
#include "work.h"

#define RETRY_MIN_MS	100
#define RETRY_MAX_MS	5000
#define OPENS_MAX	256		/* streams asked for at one time */

static GList *all;
static GList *opens;			/* struct link_open, with a reference */
static bool wanted[SPICEBD_MAX_DRIVES];
static uint32_t last_tag;
static links_eject_fn on_eject;
static links_changed_fn on_changed;
static links_move_fn on_move;
static int watch_fd = -1;

GList *links_all(void)
{
	return all;
}

struct link *links_find(const char *name)
{
	for (GList *i = all; i; i = i->next) {
		struct link *l = i->data;

		if (!strcmp(l->name, name))
			return l;
	}
	return NULL;
}

const struct link_offer *link_port_offer(const struct link_port *p, const uint8_t *medium_id)
{
	for (unsigned int i = 0; i < p->nr_offers; i++)
		if (!memcmp(p->offers[i].medium_id, medium_id, FRAME_UUID_LEN))
			return &p->offers[i];
	return NULL;
}

static void changed(struct link *l)
{
	change_wake();
	on_changed(l->name);
}

/* Streams. */

struct link_open *link_open_new(const char *link, uint32_t port)
{
	struct link_open *o = g_new0(struct link_open, 1);

	o->refs = 1;
	o->fd = -1;
	o->port = port;
	g_strlcpy(o->link, link, sizeof(o->link));
	return o;
}

void link_open_unref(struct link_open *o)
{
	if (!g_atomic_int_dec_and_test(&o->refs))
		return;
	/* Its task gave up before the stream came. */
	if (o->fd >= 0)
		close(o->fd);
	g_free(o);
}

/* @fd: taken over; @text: anybody's */
static void open_done(struct link_open *o, int fd, int error, const char *text)
{
	o->fd = fd;
	o->error = error;
	text_clean(o->text, sizeof(o->text), text, strlen(text));
	opens = g_list_remove(opens, o);
	g_atomic_int_set(&o->done, 1);
	change_wake();
	link_open_unref(o);
}

static void fail_opens(struct link *l, int port, const char *text)
{
	for (GList *i = opens, *next; i; i = next) {
		struct link_open *o = i->data;

		next = i->next;
		if (!strcmp(o->link, l->name) && (port < 0 || o->port == port))
			open_done(o, -1, ECONNRESET, text);
	}
}

/* Connection. */

static gboolean retry(gpointer arg);

static void ports_down(struct link *l)
{
	for (int i = 0; i < SPICEBD_MAX_DRIVES; i++) {
		g_free(l->ports[i]);
		l->ports[i] = NULL;
	}
}

static void link_free(struct link *l)
{
	all = g_list_remove(all, l);
	ports_down(l);
	g_free(l);
}

static void retry_later(struct link *l)
{
	unsigned int ms = RETRY_MIN_MS << MIN(l->tries, 6);

	l->tries++;
	if (!l->timer)
		l->timer = g_timeout_add(MIN(ms, RETRY_MAX_MS), retry, l);
}

static void disconnect(struct link *l, const char *why)
{
	if (l->fd < 0)
		return;
	log_notice("link %s: %s", l->name, why);
	if (l->source)
		g_source_remove(l->source);
	l->source = 0;
	close(l->fd);
	l->fd = -1;
	l->ready = l->client = false;
	ports_down(l);
	fail_opens(l, -1, "the link's process ended");
	changed(l);
	retry_later(l);
}

static void link_send(struct link *l, struct link_msg *m)
{
	ssize_t n;

	if (l->fd < 0)
		return;
	n = sock_send_fd(l->fd, m, sizeof(*m), -1);
	/* One that lets a hundred messages lie is stuck: begin anew with it. */
	if (n != sizeof(*m) && l->source) {
		shutdown(l->fd, SHUT_RDWR);
		log_warn("link %s: does not take messages", l->name);
	}
}

static void send_simple(struct link *l, uint32_t type, uint32_t port)
{
	struct link_msg m = { .type = type, .port = port };

	link_send(l, &m);
}

void links_want_port(uint32_t port, bool want)
{
	if (port >= SPICEBD_MAX_DRIVES || wanted[port] == want)
		return;
	wanted[port] = want;
	for (GList *i = all; i; i = i->next) {
		struct link *l = i->data;

		if (!l->ready)
			continue;
		send_simple(l, want ? LINK_ADD_PORT : LINK_DEL_PORT, port);
		if (!want) {
			g_free(l->ports[port]);
			l->ports[port] = NULL;
			fail_opens(l, port, "the drive was deleted");
		}
	}
}

void links_notice(struct link *l, uint32_t port, uint32_t offer, uint32_t what,
		  const char *text)
{
	struct link_msg m = {
		.type = LINK_NOTICE, .port = port, .offer = offer, .flags = what,
	};

	if (text)
		text_clean(m.u.notice.text, sizeof(m.u.notice.text), text, strlen(text));
	link_send(l, &m);
}

void links_reset_port(struct link *l, uint32_t port)
{
	send_simple(l, LINK_RESET_PORT, port);
}

void links_on_move(links_move_fn moved)
{
	on_move = moved;
}

void links_invite(struct link *l, const char *ticket)
{
	struct link_msg m = { .type = LINK_INVITE };

	g_strlcpy(m.text, ticket, sizeof(m.text));
	link_send(l, &m);
}

void links_move(struct link *l, uint32_t port, const struct frame_move *f)
{
	struct link_msg m = {
		.type = LINK_MOVE, .port = port, .offer = f->offer, .flags = f->verb,
	};

	memcpy(m.u.move.id, f->id, sizeof(m.u.move.id));
	m.u.move.port = f->port;
	g_strlcpy(m.u.move.uri, f->uri, sizeof(m.u.move.uri));
	g_strlcpy(m.u.move.subject, f->subject, sizeof(m.u.move.subject));
	g_strlcpy(m.u.move.ticket, f->ticket, sizeof(m.u.move.ticket));
	link_send(l, &m);
}

void links_open_stream(struct link *l, uint32_t offer, struct link_open *o)
{
	struct link_msg m = { .type = LINK_OPEN, .port = o->port, .offer = offer };

	if (g_list_length(opens) >= OPENS_MAX) {
		o->error = EMFILE;
		g_strlcpy(o->text, "too many streams are being opened", sizeof(o->text));
		g_atomic_int_set(&o->done, 1);
		return;
	}
	g_atomic_int_inc(&o->refs);
	opens = g_list_append(opens, o);
	o->tag = m.tag = ++last_tag;
	link_send(l, &m);
}

/* Messages. Each returns NULL, or what is wrong with it. */

static const char *on_ready(struct link *l, const struct link_msg *m)
{
	if (l->ready)
		return "said twice that it is ready";
	if (m->version != LINK_PROTO_VERSION)
		return "has another version of the protocol";
	l->ready = true;
	l->tries = 0;
	text_clean(l->address, sizeof(l->address), m->u.ready.address,
		   strnlen(m->u.ready.address, sizeof(m->u.ready.address)));
	for (uint32_t i = 0; i < SPICEBD_MAX_DRIVES; i++)
		if (wanted[i])
			send_simple(l, LINK_ADD_PORT, i);
	log_info("link %s: connected", l->name);
	changed(l);
	return NULL;
}

static const char *on_port_up(struct link *l, const struct link_msg *m)
{
	struct link_port *p = l->ports[m->port];

	if (!p)
		p = l->ports[m->port] = g_new0(struct link_port, 1);
	else
		fail_opens(l, m->port, "the share began a new session");
	memset(p, 0, sizeof(*p));
	p->up = true;
	p->epoch = m->epoch;
	memcpy(p->boot_id, m->u.peer.boot_id, sizeof(p->boot_id));
	memcpy(p->instance, m->u.peer.instance, sizeof(p->instance));
	changed(l);
	return NULL;
}

static const char *on_port_down(struct link *l, const struct link_msg *m)
{
	if (l->ports[m->port] && m->flags & 1)
		memcpy(l->ended, l->ports[m->port]->instance, sizeof(l->ended));
	g_free(l->ports[m->port]);
	l->ports[m->port] = NULL;
	fail_opens(l, m->port, "the share's connection ended");
	changed(l);
	return NULL;
}

static const char *on_offer(struct link *l, const struct link_msg *m)
{
	struct link_port *p = l->ports[m->port];
	struct link_offer *o = NULL;
	size_t len = strnlen(m->u.offer.name, sizeof(m->u.offer.name));

	if (!p)
		return "offers a medium on a port that is down";
	if (!m->offer || len >= sizeof(m->u.offer.name) || !frame_name_ok(m->u.offer.name, len))
		return "offers a medium of an impossible name";
	for (unsigned int i = 0; i < p->nr_offers; i++)
		if (p->offers[i].id == m->offer)
			o = &p->offers[i];
	if (!o) {
		if (p->nr_offers >= FRAME_OFFERS_MAX)
			return "offers too many media";
		o = &p->offers[p->nr_offers++];
	}
	memset(o, 0, sizeof(*o));
	o->id = m->offer;
	o->size = m->u.offer.size;
	o->flags = m->u.offer.flags;
	o->kind = m->u.offer.kind;
	o->owner_epoch = m->u.offer.owner_epoch;
	memcpy(o->medium_id, m->u.offer.medium_id, sizeof(o->medium_id));
	memcpy(o->incarnation, m->u.offer.incarnation, sizeof(o->incarnation));
	memcpy(o->name, m->u.offer.name, len + 1);
	changed(l);
	return NULL;
}

static const char *on_withdraw(struct link *l, const struct link_msg *m)
{
	struct link_port *p = l->ports[m->port];

	for (unsigned int i = 0; p && i < p->nr_offers; i++) {
		if (p->offers[i].id != m->offer)
			continue;
		p->nr_offers--;
		memmove(&p->offers[i], &p->offers[i + 1],
			(p->nr_offers - i) * sizeof(p->offers[0]));
		changed(l);
		break;
	}
	return NULL;
}

static const char *on_offers_end(struct link *l, const struct link_msg *m)
{
	if (!l->ports[m->port])
		return "ends a list on a port that is down";
	l->ports[m->port]->complete = true;
	changed(l);
	return NULL;
}

static struct link_open *open_by_tag(struct link *l, const struct link_msg *m)
{
	for (GList *i = opens; i; i = i->next) {
		struct link_open *o = i->data;

		if (o->tag == m->tag && o->port == m->port && !strcmp(o->link, l->name))
			return o;
	}
	return NULL;
}

static bool is_stream(int fd)
{
	int v;
	socklen_t len = sizeof(v);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &v, &len) < 0 || v != AF_UNIX)
		return false;
	len = sizeof(v);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &v, &len) < 0 || v != SOCK_STREAM)
		return false;
	len = sizeof(v);
	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &v, &len) == 0 && !v;
}

static const char *on_stream(struct link *l, const struct link_msg *m, int *fd)
{
	struct link_open *o = open_by_tag(l, m);

	if (*fd < 0 || !is_stream(*fd))
		return "passed something that is no connected socket";
	/* Late: its task has given up, or the port went down. */
	if (!o)
		return NULL;
	open_done(o, *fd, 0, "");
	*fd = -1;
	return NULL;
}

static const char *on_stream_failed(struct link *l, const struct link_msg *m)
{
	struct link_open *o = open_by_tag(l, m);
	char text[sizeof(m->text) + 1];

	if (!o)
		return NULL;
	g_strlcpy(text, m->text, strnlen(m->text, sizeof(m->text)) + 1);
	open_done(o, -1, m->error && m->error < 4096 ? m->error : EIO,
		  *text ? text : "the share refused the stream");
	return NULL;
}

static const struct link_offer *offer_by_id(const struct link_port *p, uint32_t id)
{
	for (unsigned int i = 0; p && i < p->nr_offers; i++)
		if (p->offers[i].id == id)
			return &p->offers[i];
	return NULL;
}

static const char *on_eject_request(struct link *l, const struct link_msg *m)
{
	const struct link_offer *o = offer_by_id(l->ports[m->port], m->offer);
	const struct link_offer *by = offer_by_id(l->ports[m->port], m->u.eject.by);
	struct link_ask a = {
		.link = l->name, .port = m->port, .force = m->flags & FRAME_EJECT_FORCE,
	};

	/* Withdrawn since it was sent. */
	if (!o || (m->flags & FRAME_EJECT_REPLACE && !by))
		return NULL;
	a.medium_id = o->medium_id;
	a.insert = m->flags & FRAME_EJECT_INSERT;
	if (m->flags & FRAME_EJECT_REPLACE)
		a.by = by->medium_id;
	on_eject(&a);
	return NULL;
}

static const char *on_move_state(struct link *l, const struct link_msg *m)
{
	struct frame_move_state s = {
		.result = m->flags, .offer = m->offer, .owner_epoch = m->tag,
	};
	size_t len = strnlen(m->u.move_state.text, sizeof(m->u.move_state.text));

	if (!l->ports[m->port])
		return "tells of a move on a port that is down";
	memcpy(s.id, m->u.move_state.id, sizeof(s.id));
	text_clean(s.text, sizeof(s.text), m->u.move_state.text, len);
	if (on_move)
		on_move(l, m->port, &s);
	return NULL;
}

static const char *dispatch(struct link *l, const struct link_msg *m, int *fd)
{
	if (!l->ready && m->type != LINK_READY)
		return "did not say first that it is ready";
	if (*fd >= 0 && m->type != LINK_STREAM)
		return "passed a descriptor where none belongs";
	if (m->type == LINK_READY)
		return on_ready(l, m);
	if (m->type == LINK_CLIENT) {
		l->client = m->flags & 1;
		changed(l);
		return NULL;
	}
	if (m->port >= SPICEBD_MAX_DRIVES)
		return "names an impossible port";
	/* What was under way when the port was deleted. */
	if (!wanted[m->port])
		return NULL;
	switch (m->type) {
	case LINK_PORT_UP:
		return on_port_up(l, m);
	case LINK_PORT_DOWN:
		return on_port_down(l, m);
	case LINK_OFFER:
		return on_offer(l, m);
	case LINK_WITHDRAW:
		return on_withdraw(l, m);
	case LINK_OFFERS_END:
		return on_offers_end(l, m);
	case LINK_STREAM:
		return on_stream(l, m, fd);
	case LINK_STREAM_FAILED:
		return on_stream_failed(l, m);
	case LINK_EJECT_REQUEST:
		return on_eject_request(l, m);
	case LINK_MOVE_STATE:
		return on_move_state(l, m);
	case LINK_STATS:
		return NULL;
	default:
		return "sent a message of unknown type";
	}
}

static gboolean on_readable(gint sock, GIOCondition cond, gpointer arg)
{
	struct link *l = arg;

	/* Bounded, so that a chatty link does not keep the others waiting. */
	for (int i = 0; i < 64; i++) {
		const char *wrong = NULL;
		struct link_msg m;
		int fd;
		ssize_t n = sock_recv_fd(l->fd, &m, sizeof(m), &fd);

		if (n == -EAGAIN)
			return G_SOURCE_CONTINUE;
		if (n == sizeof(m))
			wrong = dispatch(l, &m, &fd);
		else
			wrong = n == 0 ? "ended" : "sent a broken message";
		if (fd >= 0)
			close(fd);
		if (wrong) {
			l->source = 0;
			disconnect(l, wrong);
			return G_SOURCE_REMOVE;
		}
	}
	return G_SOURCE_CONTINUE;
}

static gboolean retry(gpointer arg)
{
	struct link *l = arg;
	char path[108];
	struct stat st;
	int fd;

	l->timer = 0;
	if (!run_path(path, sizeof(path), "link/%s.sock", l->name) ||
	    (lstat(path, &st) < 0 && errno == ENOENT)) {
		log_info("link %s: is gone", l->name);
		on_changed(l->name);
		link_free(l);
		return G_SOURCE_REMOVE;
	}
	fd = sock_connect(path, SOCK_SEQPACKET | SOCK_NONBLOCK);
	if (fd < 0) {
		retry_later(l);
		return G_SOURCE_REMOVE;
	}
	l->fd = fd;
	l->source = g_unix_fd_add(fd, G_IO_IN | G_IO_HUP | G_IO_ERR, on_readable, l);
	return G_SOURCE_REMOVE;
}

static void found(const char *file)
{
	size_t len = strlen(file);
	struct link *l;
	char name[32];

	if (len < 6 || len - 5 >= sizeof(name) || strcmp(file + len - 5, ".sock"))
		return;
	memcpy(name, file, len - 5);
	name[len - 5] = '\0';
	l = links_find(name);
	if (!l) {
		l = g_new0(struct link, 1);
		memcpy(l->name, name, sizeof(name));
		l->fd = -1;
		all = g_list_append(all, l);
	}
	if (l->fd >= 0)
		return;
	l->tries = 0;
	if (l->timer)
		g_source_remove(l->timer);
	l->timer = 0;
	retry(l);
}

static void scan(const char *path)
{
	struct dirent *d;
	DIR *dir = opendir(path);

	while (dir && (d = readdir(dir)))
		found(d->d_name);
	if (dir)
		closedir(dir);
}

static gboolean on_watch(gint fd, GIOCondition cond, gpointer arg)
{
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t n = read(fd, buf, sizeof(buf));
	char path[108];

	for (ssize_t at = 0; n > 0 && at < n;) {
		const struct inotify_event *e = (const void *)(buf + at);

		if (e->mask & IN_Q_OVERFLOW) {
			if (run_path(path, sizeof(path), "link"))
				scan(path);
		} else if (e->len) {
			found(e->name);
		}
		at += sizeof(*e) + e->len;
	}
	return G_SOURCE_CONTINUE;
}

void links_init(links_eject_fn eject, links_changed_fn changed_fn)
{
	char path[108];

	on_eject = eject;
	on_changed = changed_fn;
	if (!run_path(path, sizeof(path), "link"))
		return;
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		log_warn("cannot make %s: %s", path, strerror(errno));
	watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	/* Before the scan, or one that appears in between would be missed. */
	if (watch_fd < 0 || inotify_add_watch(watch_fd, path, IN_CREATE | IN_MOVED_TO) < 0)
		log_warn("cannot watch %s: %s", path, strerror(errno));
	else
		g_unix_fd_add(watch_fd, G_IO_IN, on_watch, NULL);
	scan(path);
}
