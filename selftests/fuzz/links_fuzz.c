// SPDX-License-Identifier: GPL-2.0-only
/*
 * spicebdd's end of the socket to a spicebd-link that strangers have taken over:
 * messages of every kind, descriptors of every kind and number, at every moment,
 * while streams are asked for and drives come and go.
 *
 * What must hold: a stream that was asked for is answered once, by a stream
 * socket or an error; what is kept of a link is bounded; no descriptor is lost.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "asks.h"
#include "control.h"
#include "daemon_stub.h"
#include "drive.h"
#include "linkproto.h"
#include "links.h"
#include "sock.h"
#include "text.h"

#define OPENS	8

static int listener, fds_of_kind[6];
static int link_fd = -1;
static struct link_open *opens[OPENS];

int LLVMFuzzerInitialize(int *argc, char ***argv);
static void take_connection(void);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int p[2];
	char path[108];

	stub_init();
	snprintf(path, sizeof(path), "%s/link/evil.sock", stub_dir());
	listener = sock_listen(path, SOCK_SEQPACKET | SOCK_NONBLOCK, 0600);
	must(listener >= 0);
	must(pipe(p) == 0);
	fds_of_kind[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
	fds_of_kind[1] = p[0];
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p) == 0);
	fds_of_kind[2] = p[0];
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p) == 0);
	fds_of_kind[3] = p[0];
	fds_of_kind[4] = listener;
	fds_of_kind[5] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	links_init(asks_take, control_media_event);
	take_connection();
	close(link_fd);
	link_fd = -1;
	stub_settle();
	return 0;
}

/* The daemon tries again by itself after a time, or at once when it sees the socket appear. */
static void take_connection(void)
{
	char path[2][108];
	int fd;

	run_path(path[0], sizeof(path[0]), "link/evil.sock");
	run_path(path[1], sizeof(path[1]), "link/evil");
	must(rename(path[0], path[1]) == 0 && rename(path[1], path[0]) == 0);
	stub_settle();
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	if (link_fd >= 0)
		close(link_fd);
	link_fd = fd;
}

static void send_msg(const void *data, size_t len, unsigned int n, unsigned int kind)
{
	union {
		struct cmsghdr h;
		char b[CMSG_SPACE(sizeof(int) * 32)];
	} c = { 0 };
	struct iovec iov = { .iov_base = (void *)data, .iov_len = len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	int fds[32];

	for (unsigned int i = 0; i < n; i++)
		fds[i] = fds_of_kind[(kind + i) % 6];
	if (n) {
		m.msg_control = c.b;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN(sizeof(int) * n);
		memcpy(CMSG_DATA(&c.h), fds, sizeof(int) * n);
	}
	if (link_fd >= 0)
		(void)sendmsg(link_fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* What the daemon asked for last: a tag that nobody guesses, and a link knows. */
static uint32_t last_tag(void)
{
	static uint32_t tag;
	struct link_msg m;

	while (link_fd >= 0 && recv(link_fd, &m, sizeof(m), MSG_DONTWAIT) == sizeof(m))
		if (m.type == LINK_OPEN)
			tag = m.tag;
	return tag;
}

/* A message as a link would send it, with the script's values. */
static void message(struct script *s)
{
	struct link_msg m = { .version = LINK_PROTO_VERSION };
	unsigned int how = take8(s), n_fds = 0, kind = 2;
	size_t n;
	const uint8_t *name;

	m.type = take8(s) % 20;
	m.port = take8(s) % 5;
	m.offer = take8(s);
	m.tag = last_tag() - take8(s);
	m.flags = take8(s);
	m.error = take8(s);
	if (m.type == LINK_OFFER) {
		m.u.offer.size = (uint64_t)take32(s) << take8(s) % 40;
		m.u.offer.flags = m.flags;
		m.u.offer.medium_id[0] = take8(s) + 1;
		m.u.offer.incarnation[0] = 1;
		n = take8(s);
		name = take_bytes(s, &n);
		memcpy(m.u.offer.name, name, n);
		if (how & 2)
			memset(m.u.offer.name, 'n', sizeof(m.u.offer.name));
	} else if (m.type == LINK_EJECT_REQUEST) {
		m.u.eject.by = take8(s);
	}
	n = take8(s) % sizeof(m.text);
	name = take_bytes(s, &n);
	memcpy(m.text, name, n);
	if (how & 1)
		memset(m.text, 0xff, sizeof(m.text));
	if (m.type == LINK_STREAM)
		n_fds = 1;
	if (how & 4) {
		n_fds = take8(s) % 20;
		kind = take8(s);
	}
	send_msg(&m, how & 8 ? how : sizeof(m), n_fds, kind);
}

static void ready(void)
{
	struct link_msg m = { .type = LINK_READY, .version = LINK_PROTO_VERSION };

	send_msg(&m, sizeof(m), 0, 0);
}

static void ask_for_stream(struct script *s)
{
	struct link *l = links_find("evil");
	unsigned int i = take8(s) % OPENS;
	struct link_open *o;

	if (!l || opens[i])
		return;
	o = opens[i] = link_open_new("evil", take8(s) % 4);
	links_open_stream(l, take8(s), o);
}

static void check_opens(void)
{
	for (int i = 0; i < OPENS; i++) {
		struct link_open *o = opens[i];
		int v = 0;
		socklen_t len = sizeof(v);

		if (!o || !g_atomic_int_get(&o->done))
			continue;
		must((o->fd >= 0) == !o->error);
		if (o->fd >= 0)
			must(getsockopt(o->fd, SOL_SOCKET, SO_TYPE, &v, &len) == 0 &&
			     v == SOCK_STREAM);
		must(text_ok(o->text, strlen(o->text)));
		link_open_unref(o);
		opens[i] = NULL;
	}
}

static void check_links(void)
{
	struct link *l = links_find("evil");

	for (int i = 0; l && i < SPICEBD_MAX_DRIVES; i++) {
		const struct link_port *p = l->ports[i];

		if (!p)
			continue;
		must(p->nr_offers <= FRAME_OFFERS_MAX);
		for (unsigned int k = 0; k < p->nr_offers; k++)
			must(frame_name_ok(p->offers[k].name, strlen(p->offers[k].name)));
	}
}

static void others(struct script *s)
{
	struct link *l = links_find("evil");
	unsigned int what = take8(s), port = take8(s) % 4;
	char b[512];

	if (what % 4 == 0)
		links_want_port(port, what & 4);
	else if (what % 4 == 1 && l)
		links_notice(l, port, take8(s), what / 4, "for its user");
	else if (what % 4 == 2 && l)
		links_reset_port(l, port);
	else
		while (link_fd >= 0 && recv(link_fd, b, sizeof(b), MSG_DONTWAIT) > 0)
			;
}

static void step(struct script *s)
{
	uint8_t op = take8(s);

	switch (op % 8) {
	case 0:
		take_connection();
		ready();
		break;
	case 1:
	case 2:
	case 3:
		message(s);
		break;
	case 4:
		ask_for_stream(s);
		break;
	case 5:
		others(s);
		break;
	case 6:
		if (link_fd >= 0)
			close(link_fd);
		link_fd = -1;
		break;
	case 7:
		stub_event(op >> 7, take8(s));
	}
	if (op & 64)
		return;
	stub_settle();
	check_opens();
	check_links();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, size };
	int fds;

	stub_reset();
	fds = open_fds();
	take_connection();
	ready();
	while (s.left)
		step(&s);
	for (int i = 0; i < 2; i++) {
		if (link_fd >= 0)
			close(link_fd);
		link_fd = -1;
		stub_settle();
		if (!i)
			take_connection();
	}
	check_opens();
	for (int i = 0; i < OPENS; i++)
		must(!opens[i]);
	stub_reset();
	must(open_fds() == fds);
	return 0;
}
