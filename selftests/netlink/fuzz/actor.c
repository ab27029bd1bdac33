// SPDX-License-Identifier: GPL-2.0-only
/*
 * A process that sends messages on several sockets, takes the requests that its
 * bound ones are given, and answers them in its own way. The kernel handles a
 * datagram before sendmsg() returns, so what it answered is there by then.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/spicebd.h>

#include "fuzz.h"

#define BATCH		32
#define RX		(256 * 1024)
/* A datagram has to fit into a socket's send buffer. */
#define TX		(96 * 1024)
#define RCVBUF		(4 << 20)
#define MEMORY		(1 << 20)
/* How long, in rounds of at most AWAIT ms, a helper serves before it goes on. */
#define SERVE		60
#define AWAIT		10
/* Places in fuzz_commands of the last messages, by sequence number. */
#define SENT		4096

/* An attribute and its padding; 0 if it does not fit into what is left. */
static size_t attr_step(const struct nlattr *h, size_t left)
{
	size_t step = NLA_ALIGN(h->nla_len);

	return h->nla_len < NLA_HDRLEN || step > left ? 0 : step;
}

struct actor {
	enum role role;
	unsigned int number;
	struct knows k;
	struct counts *c;
	int fd[SOCKETS];
	uint16_t family;
	uint32_t seq;
	int8_t sent[SENT];
	uint8_t *rx, *tx;
};

static void die(const char *what)
{
	fprintf(stderr, "netlink_fuzz: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static int new_socket(bool privileged)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	int one = 1, size = RCVBUF / 2;
	struct sockaddr_nl a = { .nl_family = AF_NETLINK };

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one)) < 0 ||
	    setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one)) < 0)
		die("socket");
	if (privileged &&
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		die("SO_RCVBUFFORCE");
	return fd;
}

static void take_keys(struct knows *k, const uint8_t *p, size_t len)
{
	struct nlattr h;
	size_t step;

	for (; len >= sizeof(h); p += step, len -= step) {
		memcpy(&h, p, sizeof(h));
		step = attr_step(&h, len);
		if (!step)
			return;
		if (h.nla_type != SPICEBD_A_HELPER_KEY || h.nla_len != NLA_HDRLEN + KEY_LEN)
			continue;
		memcpy(k->keys[k->nr_keys < NR_KEYS ? k->nr_keys++ : fuzz_below(k, NR_KEYS)],
		       p + NLA_HDRLEN, KEY_LEN);
	}
}

static void learn(struct actor *a, struct cookie *c, unsigned int socket)
{
	struct knows *k = &a->k;

	a->c->requests++;
	c->socket = socket;
	k->cookies[k->nr_cookies++ % NR_COOKIES] = *c;
}

static void take_requests(struct actor *a, unsigned int socket, uint8_t cmd, const uint8_t *p,
			  size_t len)
{
	struct cookie c = { 0 };
	struct nlattr h;
	size_t step;

	for (; len >= sizeof(h); p += step, len -= step) {
		const uint8_t *data = p + NLA_HDRLEN;

		memcpy(&h, p, sizeof(h));
		step = attr_step(&h, len);
		if (!step)
			return;
		if (cmd == SPICEBD_CMD_IO_REQUESTS) {
			struct spicebd_io_request r;

			for (size_t i = 0; i + sizeof(r) <= h.nla_len - (size_t)NLA_HDRLEN;
			     i += sizeof(r)) {
				memcpy(&r, data + i, sizeof(r));
				c = (struct cookie){ r.cookie, r.op, r.length, 0, true };
				learn(a, &c, socket);
			}
			return;
		}
		if (h.nla_type == SPICEBD_A_IO_COOKIE)
			memcpy(&c.cookie, data, 8);
		else if (h.nla_type == SPICEBD_A_IO_OP)
			memcpy(&c.op, data, 4);
		else if (h.nla_type == SPICEBD_A_IO_LENGTH)
			memcpy(&c.length, data, 4);
	}
	if (cmd == SPICEBD_CMD_IO_REQUEST)
		learn(a, &c, socket);
}

static void count_answer(struct actor *a, const struct nlmsghdr *h, int error)
{
	int cmd = a->sent[h->nlmsg_seq % SENT];

	a->c->answered++;
	if (error < 0 || error >= MAX_ERRNO)
		error = MAX_ERRNO - 1;
	a->c->error[error]++;
	if (!error && cmd >= 0)
		a->c->done[cmd]++;
}

static void take_message(struct actor *a, unsigned int socket, const struct nlmsghdr *h,
			 const uint8_t *body, size_t len)
{
	struct genlmsghdr g;
	int32_t error;

	if (h->nlmsg_type == NLMSG_ERROR && len >= sizeof(error)) {
		memcpy(&error, body, sizeof(error));
		count_answer(a, h, -error);
	} else if (h->nlmsg_type == NLMSG_DONE) {
		/* of a dump, which may be any command that began as another */
		a->c->answered++;
	} else if (h->nlmsg_type == a->family && len >= GENL_HDRLEN) {
		memcpy(&g, body, sizeof(g));
		if (g.cmd == SPICEBD_CMD_ATTACH || g.cmd == SPICEBD_CMD_KEY_NEW)
			take_keys(&a->k, body + GENL_HDRLEN, len - GENL_HDRLEN);
		else
			take_requests(a, socket, g.cmd, body + GENL_HDRLEN, len - GENL_HDRLEN);
	}
}

static void drain(struct actor *a, unsigned int socket)
{
	for (;;) {
		ssize_t n = recv(a->fd[socket], a->rx, RX, MSG_DONTWAIT);
		struct nlmsghdr h;

		if (n < 0 && (errno == ENOBUFS || errno == EINTR))
			continue;
		if (n <= 0)
			return;
		for (uint8_t *p = a->rx; (size_t)n >= sizeof(h);) {
			size_t step;

			memcpy(&h, p, sizeof(h));
			step = NLMSG_ALIGN(h.nlmsg_len);
			if (h.nlmsg_len < sizeof(h) || h.nlmsg_len > (size_t)n)
				break;
			take_message(a, socket, &h, p + sizeof(h), h.nlmsg_len - sizeof(h));
			if (step >= (size_t)n)
				break;
			p += step;
			n -= step;
		}
	}
}

static size_t put_attr(uint8_t *buf, size_t at, uint16_t type, const void *data, size_t len)
{
	struct nlattr h = { .nla_len = NLA_HDRLEN + len, .nla_type = type };

	memset(buf + at, 0, NLA_HDRLEN + NLA_ALIGN(len));
	memcpy(buf + at, &h, sizeof(h));
	if (data)
		memcpy(buf + at + NLA_HDRLEN, data, len);
	return at + NLA_HDRLEN + NLA_ALIGN(len);
}

static int place_of(uint8_t cmd)
{
	int i = 0;

	while (fuzz_commands[i].cmd != cmd)
		i++;
	return i;
}

/*
 * The answer that a request waits for: the fuzzer's own messages hardly ever
 * hit it, and without an end to requests there are no others. Longer reads than
 * one message holds fail.
 */
static size_t good_answer(struct actor *a, uint8_t *buf, unsigned int socket)
{
	struct cookie c = fuzz_cookie(&a->k, socket);
	struct nlmsghdr n = { .nlmsg_type = a->family, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK,
			      .nlmsg_seq = a->seq };
	struct genlmsghdr g = { .cmd = SPICEBD_CMD_IO_COMPLETE,
				.version = SPICEBD_FAMILY_VERSION };
	struct spicebd_io_answer answer = { .cookie = c.cookie };
	size_t len = NLMSG_HDRLEN + GENL_HDRLEN;
	uint32_t error = EIO;

	if (c.listed) {
		g.cmd = SPICEBD_CMD_IO_ANSWERS;
		len = put_attr(buf, len, SPICEBD_A_IO_ANSWERS, &answer, sizeof(answer));
	} else {
		len = put_attr(buf, len, SPICEBD_A_IO_COOKIE, &c.cookie, 8);
		if (c.op == SPICEBD_OP_READ && c.length > SPICEBD_PIECE_MAX)
			len = put_attr(buf, len, SPICEBD_A_IO_ERROR, &error, 4);
		else if (c.op == SPICEBD_OP_READ)
			len = put_attr(buf, len, SPICEBD_A_IO_DATA, NULL, c.length);
	}
	n.nlmsg_len = len;
	memcpy(buf, &n, sizeof(n));
	memcpy(buf + NLMSG_HDRLEN, &g, sizeof(g));
	a->sent[a->seq++ % SENT] = place_of(g.cmd);
	return len;
}

/* Gives the users of a drive that we serve time to ask for something. */
static void await_requests(struct actor *a)
{
	struct pollfd p[SOCKETS];

	for (int i = 0; i < SOCKETS; i++)
		p[i] = (struct pollfd){ .fd = a->fd[i], .events = POLLIN };
	poll(p, SOCKETS, AWAIT);
}

static void drain_all(struct actor *a)
{
	for (int i = 0; i < SOCKETS; i++)
		drain(a, i);
}

/* @most messages, or fewer, on socket @s. */
static void send_some(struct actor *a, unsigned int s, unsigned int most)
{
	unsigned int n = 1 + fuzz_below(&a->k, most);
	size_t len = 0;

	a->k.socket = s;
	for (unsigned int i = 0; i < n; i++) {
		int cmd;

		/* none may follow one that lies about its length */
		if (len > TX)
			n = i + 1;
		len += fuzz_message(&a->k, a->tx + len, a->family, a->seq, i + 1 == n, &cmd);
		a->sent[a->seq++ % SENT] = cmd;
	}
	a->c->sent += n;
	while (send(a->fd[s], a->tx, len, 0) < 0) {
		if (errno != EINTR && errno != ENOBUFS && errno != EAGAIN)
			die("send");
		drain(a, s);
	}
}

static void send_good_answer(struct actor *a)
{
	unsigned int s = 1 + fuzz_below(&a->k, SOCKETS - 1);
	size_t len = good_answer(a, a->tx, s);

	if (send(a->fd[s], a->tx, len, 0) >= 0)
		a->c->sent++;
}

static void batch(struct actor *a)
{
	/* what asks for things goes to the first, answers to any */
	send_some(a, fuzz_one_in(&a->k, 3) ? 0 : fuzz_below(&a->k, SOCKETS), BATCH);
	for (int i = 0; a->k.nr_cookies && i < 4; i++)
		send_good_answer(a);
	/* who has no rights is answered so cheaply that there would be no others */
	if (!a->k.privileged)
		poll(NULL, 0, AWAIT);
	drain_all(a);
}

/*
 * A while in which this actor does nothing against its own drive: some users
 * get to their reads, whose answers are right, nearly right, or late.
 */
static void serve(struct actor *a, const int *stop)
{
	a->k.serving = true;
	for (int i = 0; i < SERVE && !__atomic_load_n(stop, __ATOMIC_RELAXED); i++) {
		await_requests(a);
		drain_all(a);
		send_some(a, 1 + fuzz_below(&a->k, SOCKETS - 1), BATCH / 2);
		for (int j = 0; j < 4; j++)
			send_good_answer(a);
		drain_all(a);
	}
	a->k.serving = false;
}

/* Did it succeed? */
static bool command(struct actor *a, unsigned int socket, uint8_t cmd, uint32_t drive)
{
	int place;
	size_t len = fuzz_good_message(&a->k, a->tx, a->family, a->seq, cmd, drive, &place);
	uint64_t before = a->c->done[place];

	a->sent[a->seq++ % SENT] = place;
	a->c->sent++;
	if (send(a->fd[socket], a->tx, len, 0) < 0 && errno != ENOBUFS)
		die("send");
	drain(a, socket);
	return a->c->done[place] > before;
}

/* A command of our own, not counted: a fuzzed one may come any time later. */
static void manage(struct actor *a, int fd)
{
	uint8_t msg[64] = { 0 };
	struct nlmsghdr n = { .nlmsg_len = NLMSG_HDRLEN + GENL_HDRLEN, .nlmsg_type = a->family,
			      .nlmsg_flags = NLM_F_REQUEST };
	struct genlmsghdr g = { .cmd = SPICEBD_CMD_MANAGE, .version = SPICEBD_FAMILY_VERSION };
	uint32_t index = WILD_FIRST;
	struct nlattr h = { .nla_len = NLA_HDRLEN + 4, .nla_type = SPICEBD_A_DRIVE_INDEX };

	if (a->role == ROLE_SCOPED) {
		memcpy(msg + n.nlmsg_len, &h, sizeof(h));
		memcpy(msg + n.nlmsg_len + NLA_HDRLEN, &index, 4);
		n.nlmsg_len += NLA_HDRLEN + 4;
	}
	memcpy(msg, &n, sizeof(n));
	memcpy(msg + NLMSG_HDRLEN, &g, sizeof(g));
	if (send(fd, msg, n.nlmsg_len, 0) < 0)
		die("manage");
}

static void open_socket(struct actor *a, int i)
{
	a->fd[i] = new_socket(a->k.privileged);
	if (a->k.privileged && i < 2)
		manage(a, a->fd[i]);
}

/* Closing is an event for the driver; some are closed with requests unread. */
static void reopen(struct actor *a, int i)
{
	close(a->fd[i]);
	open_socket(a, i);
}

/* The keys of before would not be those of this drive. */
static bool attach(struct actor *a, uint32_t drive)
{
	command(a, 0, SPICEBD_CMD_DRIVE_ADD, drive);
	a->k.nr_keys = 0;
	command(a, 0, SPICEBD_CMD_ATTACH, drive);
	return a->k.nr_keys;
}

/*
 * Whoever has the medium before open lets it go first, or never does. Did it
 * succeed?
 */
static bool insert(struct actor *a, uint32_t drive)
{
	bool done = false;

	for (int tries = 0; !done && tries < 100; tries++) {
		command(a, 0, SPICEBD_CMD_TRAY_OPEN, drive);
		done = command(a, 0, SPICEBD_CMD_MEDIUM_INSERT, drive);
		if (!done)
			poll(NULL, 0, 2);
	}
	command(a, 0, SPICEBD_CMD_TRAY_CLOSE, drive);
	return done;
}

/*
 * The way to a medium that is read, which chance alone does not find: attach,
 * bind some sockets, insert. Others may come between any two steps. A socket is
 * bound once, so there are new ones; the drive before loses its helper with them.
 * The two managers try the two disks first, and the scoped one has only the first
 * drive. Is there a medium now?
 */
static bool become_helper(struct actor *a)
{
	static const uint8_t before[] = {
		SPICEBD_CMD_THAW, SPICEBD_CMD_UNLOCK, SPICEBD_CMD_EJECT, SPICEBD_CMD_DRIVE_SET,
		SPICEBD_CMD_LINK_REPORT,
	};
	uint32_t drive = WILD_FIRST;
	bool bound = false;

	a->k.registers = fuzz_one_in(&a->k, 2);
	for (int i = 0; i < SOCKETS; i++)
		reopen(a, i);
	for (unsigned int i = 0; i < WILD_NR; i++) {
		if (a->role != ROLE_SCOPED)
			drive = WILD_FIRST + (1 + 2 * a->number + i) % WILD_NR;
		if (attach(a, drive))
			break;
	}
	for (int i = 1; a->k.nr_keys && i < SOCKETS; i++)
		bound |= command(a, i, SPICEBD_CMD_QUEUE_BIND, drive);
	for (size_t i = 0; i < sizeof(before); i++)
		command(a, 0, before[i], drive);
	return bound && insert(a, drive);
}

static uint16_t family_id(int fd)
{
	uint8_t buf[4096] = { 0 };
	struct nlmsghdr n = { .nlmsg_len = NLMSG_HDRLEN + GENL_HDRLEN + NLA_HDRLEN + 8,
			      .nlmsg_type = GENL_ID_CTRL, .nlmsg_flags = NLM_F_REQUEST };
	struct genlmsghdr g = { .cmd = CTRL_CMD_GETFAMILY, .version = 1 };
	struct nlattr h = { NLA_HDRLEN + 8, CTRL_ATTR_FAMILY_NAME };
	ssize_t len, at = NLMSG_HDRLEN + GENL_HDRLEN;
	uint16_t id;

	memcpy(buf, &n, sizeof(n));
	memcpy(buf + NLMSG_HDRLEN, &g, sizeof(g));
	memcpy(buf + at, &h, sizeof(h));
	memcpy(buf + at + NLA_HDRLEN, SPICEBD_FAMILY_NAME, 8);
	if (send(fd, buf, n.nlmsg_len, 0) < 0)
		die("family");
	len = recv(fd, buf, sizeof(buf), 0);
	for (; at + NLA_HDRLEN + 2 <= len; at += NLA_ALIGN(h.nla_len)) {
		memcpy(&h, buf + at, sizeof(h));
		if (h.nla_len < NLA_HDRLEN)
			break;
		if (h.nla_type == CTRL_ATTR_FAMILY_ID) {
			memcpy(&id, buf + at + NLA_HDRLEN, 2);
			return id;
		}
	}
	fprintf(stderr, "netlink_fuzz: no family spicebd\n");
	_exit(1);
}

/* Before any socket is opened: its opener's rights count, too. */
static void become(enum role role)
{
	if (role == ROLE_NOBODY && (setgid(65534) < 0 || setuid(65534) < 0))
		die("setuid");
	if (role == ROLE_NAMESPACE && unshare(CLONE_NEWUSER) < 0)
		die("unshare");
}

int fuzz_actor(enum role role, unsigned int number, uint64_t seed, struct counts *c, int *stop)
{
	struct actor *a = calloc(1, sizeof(*a));

	if (!a)
		die("memory");
	become(role);
	a->role = role;
	a->number = number;
	a->c = c;
	/* 0 is the one state that xorshift does not leave */
	a->k.rnd = seed ? seed : 1;
	a->k.privileged = role == ROLE_MANAGER || role == ROLE_SCOPED;
	a->k.memory_len = MEMORY;
	a->k.memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	a->rx = malloc(RX);
	a->tx = malloc(TX + 2 * MSG_MAX + SPICEBD_PIECE_MAX);
	if (a->k.memory == MAP_FAILED || !a->rx || !a->tx)
		die("memory");
	a->fd[0] = new_socket(false);
	a->family = family_id(a->fd[0]);
	close(a->fd[0]);
	for (int i = 0; i < SOCKETS; i++)
		open_socket(a, i);
	while (!__atomic_load_n(stop, __ATOMIC_RELAXED)) {
		batch(a);
		if (a->k.privileged && fuzz_one_in(&a->k, 20) && become_helper(a))
			serve(a, stop);
		if (fuzz_one_in(&a->k, 60))
			reopen(a, fuzz_below(&a->k, SOCKETS));
	}
	return 0;
}
