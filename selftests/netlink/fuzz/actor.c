// SPDX-License-Identifier: GPL-2.0-only
/*
 * A process that sends messages on several sockets, takes the requests that its
 * bound ones are given, and answers them in its own way. The kernel handles a
 * datagram before sendmsg() returns, so what it answered is there by then.
 */
#define _GNU_SOURCE
#include <errno.h>
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
#define RCVBUF		(4 << 20)
#define MEMORY		(1 << 20)
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
		if (k->nr_keys < NR_KEYS)
			k->nr_keys++;
		memcpy(k->keys[fuzz_below(k, k->nr_keys)], p + NLA_HDRLEN, KEY_LEN);
	}
}

static void learn(struct actor *a, const struct cookie *c)
{
	struct knows *k = &a->k;

	a->c->requests++;
	if (k->nr_cookies < NR_COOKIES)
		k->nr_cookies++;
	k->cookies[fuzz_below(k, k->nr_cookies)] = *c;
}

static void take_requests(struct actor *a, uint8_t cmd, const uint8_t *p, size_t len)
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
				c = (struct cookie){ r.cookie, r.op, r.length };
				learn(a, &c);
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
		learn(a, &c);
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

static void take_message(struct actor *a, const struct nlmsghdr *h, const uint8_t *body,
			 size_t len)
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
			take_requests(a, g.cmd, body + GENL_HDRLEN, len - GENL_HDRLEN);
	}
}

static void drain(struct actor *a, int fd)
{
	for (;;) {
		ssize_t n = recv(fd, a->rx, RX, MSG_DONTWAIT);
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
			take_message(a, &h, p + sizeof(h), h.nlmsg_len - sizeof(h));
			if (step >= (size_t)n)
				break;
			p += step;
			n -= step;
		}
	}
}

/*
 * The answer that a read without registered memory waits for: the fuzzer's own
 * messages hardly ever hit the length, and without an end to requests there are
 * no others.
 */
static size_t good_answer(struct actor *a, uint8_t *buf)
{
	struct knows *k = &a->k;
	struct cookie *c = &k->cookies[fuzz_below(k, k->nr_cookies)];
	struct nlmsghdr n = { .nlmsg_type = a->family, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK,
			      .nlmsg_seq = a->seq };
	struct genlmsghdr g = { .cmd = SPICEBD_CMD_IO_COMPLETE,
				.version = SPICEBD_FAMILY_VERSION };
	struct nlattr h = { .nla_len = NLA_HDRLEN + 8, .nla_type = SPICEBD_A_IO_COOKIE };
	size_t len = NLMSG_HDRLEN + GENL_HDRLEN;

	if (c->op == SPICEBD_OP_READ && c->length > SPICEBD_PIECE_MAX)
		return 0;
	memcpy(buf + len, &h, sizeof(h));
	memcpy(buf + len + NLA_HDRLEN, &c->cookie, 8);
	len += h.nla_len;
	if (c->op == SPICEBD_OP_READ) {
		h = (struct nlattr){ NLA_HDRLEN + c->length, SPICEBD_A_IO_DATA };
		memcpy(buf + len, &h, sizeof(h));
		memset(buf + len + NLA_HDRLEN, 0x5a, c->length);
		len += NLA_ALIGN(h.nla_len);
	}
	n.nlmsg_len = len;
	memcpy(buf, &n, sizeof(n));
	memcpy(buf + NLMSG_HDRLEN, &g, sizeof(g));
	a->sent[a->seq++ % SENT] = -1;
	return len;
}

static void batch(struct actor *a)
{
	/* what asks for things goes to the first, answers to any */
	int fd = a->fd[fuzz_one_in(&a->k, 2) ? 0 : fuzz_below(&a->k, SOCKETS)];
	unsigned int n = 1 + fuzz_below(&a->k, BATCH);
	size_t len = 0;

	for (unsigned int i = 0; i < n; i++) {
		int cmd;

		len += fuzz_message(&a->k, a->tx + len, a->family, a->seq, i + 1 == n, &cmd);
		a->sent[a->seq++ % SENT] = cmd;
	}
	a->c->sent += n;
	while (send(fd, a->tx, len, 0) < 0) {
		if (errno != EINTR && errno != ENOBUFS && errno != EAGAIN)
			die("send");
		drain(a, fd);
	}
	for (int i = 0; a->k.nr_cookies && i < 4; i++) {
		fd = a->fd[fuzz_below(&a->k, SOCKETS)];
		len = good_answer(a, a->tx);
		if (len && send(fd, a->tx, len, 0) >= 0)
			a->c->sent++;
	}
	for (int i = 0; i < SOCKETS; i++)
		drain(a, a->fd[i]);
}

static void command(struct actor *a, int fd, uint8_t cmd, uint32_t drive)
{
	int place;
	size_t len = fuzz_good_message(&a->k, a->tx, a->family, a->seq, cmd, drive, &place);

	a->sent[a->seq++ % SENT] = place;
	a->c->sent++;
	if (send(fd, a->tx, len, 0) < 0 && errno != ENOBUFS)
		die("send");
	drain(a, fd);
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

/*
 * The way to a medium that is read, which chance alone does not find: attach,
 * bind some sockets, insert. Others may come between any two steps.
 */
static void become_helper(struct actor *a)
{
	uint32_t drive = WILD_FIRST;
	static const uint8_t before[] = {
		SPICEBD_CMD_UNLOCK, SPICEBD_CMD_EJECT, SPICEBD_CMD_DETACH, SPICEBD_CMD_DRIVE_ADD,
		SPICEBD_CMD_DRIVE_SET,
	};
	static const uint8_t after[] = {
		SPICEBD_CMD_TRAY_OPEN, SPICEBD_CMD_MEDIUM_INSERT, SPICEBD_CMD_TRAY_CLOSE,
	};

	/* A fuzzed command may have left us a manager of few drives, or of others. */
	manage(a, a->fd[0]);
	if (a->role != ROLE_SCOPED)
		drive += fuzz_below(&a->k, WILD_NR);
	for (size_t i = 0; i < sizeof(before); i++)
		command(a, a->fd[0], before[i], drive);
	/* the keys of before would not be those of this drive */
	a->k.nr_keys = 0;
	command(a, a->fd[0], SPICEBD_CMD_ATTACH, drive);
	for (int i = 1; a->k.nr_keys && i < SOCKETS; i++)
		command(a, a->fd[i], SPICEBD_CMD_QUEUE_BIND, drive);
	for (size_t i = 0; i < sizeof(after); i++)
		command(a, a->fd[0], after[i], drive);
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

static void open_sockets(struct actor *a, int first)
{
	for (int i = first; i < SOCKETS; i++) {
		a->fd[i] = new_socket(a->k.privileged);
		if (a->k.privileged && i < 2)
			manage(a, a->fd[i]);
	}
}

/* Closing is an event for the driver; some are closed with requests unread. */
static void reopen_one(struct actor *a)
{
	int i = fuzz_below(&a->k, SOCKETS);

	close(a->fd[i]);
	a->fd[i] = new_socket(a->k.privileged);
	if (a->k.privileged && i < 2)
		manage(a, a->fd[i]);
}

int fuzz_actor(enum role role, uint64_t seed, struct counts *c, uint64_t *sum,
	       uint64_t messages, int *stop)
{
	struct actor *a = calloc(1, sizeof(*a));
	uint64_t told = 0;

	if (!a)
		die("memory");
	become(role);
	a->role = role;
	a->c = c;
	/* 0 is the one state that xorshift does not leave */
	a->k.rnd = seed ? seed : 1;
	a->k.privileged = role == ROLE_MANAGER || role == ROLE_SCOPED;
	a->k.memory_len = MEMORY;
	a->k.memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	a->rx = malloc(RX);
	a->tx = malloc(BATCH * MSG_MAX + SPICEBD_PIECE_MAX);
	if (a->k.memory == MAP_FAILED || !a->rx || !a->tx)
		die("memory");
	a->fd[0] = new_socket(a->k.privileged);
	a->family = family_id(a->fd[0]);
	if (a->k.privileged)
		manage(a, a->fd[0]);
	open_sockets(a, 1);
	while (!__atomic_load_n(stop, __ATOMIC_RELAXED) &&
	       __atomic_load_n(sum, __ATOMIC_RELAXED) < messages) {
		batch(a);
		__atomic_add_fetch(sum, c->answered - told, __ATOMIC_RELAXED);
		told = c->answered;
		if (a->k.privileged && fuzz_one_in(&a->k, 20))
			become_helper(a);
		if (fuzz_one_in(&a->k, 60))
			reopen_one(a);
	}
	return 0;
}
