// SPDX-License-Identifier: GPL-2.0-only
/*
 * Is it serving? A connection in the backlog proves nothing, so the NBD
 * handshake is gone through as far as NBD_OPT_INFO, which opens the medium.
 */
#include "server.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NBD_MAGIC	0x4e42444d41474943ull
#define OPT_MAGIC	0x49484156454f5054ull
#define REP_MAGIC	0x3e889045565a9ull
#define OPT_ABORT	2
#define OPT_INFO	6
#define REP_ACK		1
#define REP_IS_ERROR	0x80000000u
#define REP_LEN_MAX	65536

struct opt_head {
	uint64_t magic;
	uint32_t option;
	uint32_t length;
} __attribute__((packed));

struct rep_head {
	uint64_t magic;
	uint32_t option;
	uint32_t type;
	uint32_t length;
} __attribute__((packed));

int probe_begin(struct probe *p, const struct server *s)
{
	probe_end(p);
	p->fd = paths_connect(s);
	if (p->fd < 0) {
		int r = p->fd;

		p->fd = -1;
		return r;
	}
	return 0;
}

void probe_end(struct probe *p)
{
	if (p->fd >= 0)
		close(p->fd);
	memset(p, 0, sizeof(*p));
	p->fd = -1;
}

static bool send_all(int fd, const void *data, size_t len)
{
	return send(fd, data, len, MSG_NOSIGNAL) == (ssize_t)len;
}

/* Client flags (fixed newstyle, no zeroes), NBD_OPT_INFO of "", no requests. */
static bool ask_info(int fd)
{
	struct {
		uint32_t flags;
		struct opt_head h;
		uint32_t name_len;
		uint16_t n_infos;
	} __attribute__((packed)) m = {
		.flags = htonl(3),
		.h = { htobe64(OPT_MAGIC), htonl(OPT_INFO), htonl(6) },
	};

	return send_all(fd, &m, sizeof(m));
}

static void abort_session(int fd)
{
	struct opt_head h = { htobe64(OPT_MAGIC), htonl(OPT_ABORT), 0 };

	send_all(fd, &h, sizeof(h));
}

/* Until @want bytes are there. 1: they are; 0: not yet; -1: the end. */
static int fill(struct probe *p, size_t want)
{
	ssize_t n;

	while (p->len < want) {
		n = recv(p->fd, p->buf + p->len, want - p->len, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		if (n <= 0)
			return -1;
		p->len += n;
	}
	return 1;
}

static int skip(struct probe *p)
{
	int r;

	while (p->skip) {
		size_t n = p->skip < sizeof(p->buf) ? p->skip : sizeof(p->buf);

		r = fill(p, n);
		if (r <= 0)
			return r;
		p->skip -= n;
		p->len = 0;
	}
	return 1;
}

static enum probe_result greeting(struct probe *p)
{
	uint64_t magic[2];
	int r = fill(p, 18);

	if (r <= 0)
		return r ? PROBE_BROKEN : PROBE_WAIT;
	memcpy(magic, p->buf, sizeof(magic));
	if (be64toh(magic[0]) != NBD_MAGIC || be64toh(magic[1]) != OPT_MAGIC || !ask_info(p->fd))
		return PROBE_BROKEN;
	p->len = 0;
	p->step = 1;
	return PROBE_OK;
}

/* Any number of NBD_REP_INFO, then the acknowledgement or an error. */
static enum probe_result replies(struct probe *p)
{
	struct rep_head h;

	for (;;) {
		int r = skip(p);

		if (r > 0)
			r = fill(p, sizeof(h));
		if (r <= 0)
			return r ? PROBE_BROKEN : PROBE_WAIT;
		memcpy(&h, p->buf, sizeof(h));
		p->len = 0;
		if (be64toh(h.magic) != REP_MAGIC || ntohl(h.length) > REP_LEN_MAX)
			return PROBE_BROKEN;
		p->skip = ntohl(h.length);
		if (ntohl(h.type) & REP_IS_ERROR)
			return PROBE_REFUSED;
		if (ntohl(h.type) == REP_ACK)
			return PROBE_OK;
	}
}

enum probe_result probe_step(struct probe *p)
{
	enum probe_result r;

	if (p->step == 0) {
		r = greeting(p);
		if (r != PROBE_OK)
			return r;
	}
	r = replies(p);
	if (r == PROBE_OK || r == PROBE_REFUSED) {
		abort_session(p->fd);
		probe_end(p);
	}
	return r;
}
