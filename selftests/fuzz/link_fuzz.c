// SPDX-License-Identifier: GPL-2.0-only
/*
 * A whole spicebd-link between three strangers: a share at the other end of
 * ports, a daemon on the private socket, and an opener that hands it the ports.
 * The real sessions, streams, event loop and virtio-serial code run; only the
 * opener's process, the clock and the random numbers are the script's. Some frames
 * come by pieces, as from a tap in a Spice connection.
 *
 * What must hold: whatever comes, the link writes whole frames, numbered without
 * a gap, sends no more data than credit was given for, tells the daemon only
 * what its protocol allows, and loses no descriptor.
 */
#include "../../userhelper/link/loop.c"
#define main link_main
#include "../../userhelper/link/main.c"
#undef main

#include <poll.h>
#include <sys/epoll.h>
#include <sys/un.h>

#include "frame.h"
#include "fuzz.h"
#include "opener.h"

#define PORTS		3
#define STREAM_FDS	8
#define IDS		256	/* stream numbers that are looked at */

struct peer_port {
	int fd;			/* the share's end; -1: the link has none */
	uint32_t epoch, seq;	/* as we send */
	uint32_t in_epoch, in_seq;
	struct frame_tx checks;	/* only what it says of them */
	uint8_t secret[FRAME_SECRET_LEN];
	bool tracked;		/* we sent nothing but what is counted here */
	int64_t credit[IDS];
	uint8_t buf[2 * FRAME_MAX];
	size_t have;
};

static struct peer_port peers[PORTS];
static struct sockaddr_un address;
static socklen_t address_len;
static int daemon_fd = -1, opener_fd = -1, stream_fds[STREAM_FDS];
static bool up[PORTS];

int __wrap_opener_start(const char *prefix, bool seal);
int __wrap_epoll_wait(int fd, struct epoll_event *ev, int max, int timeout);
int __real_epoll_wait(int fd, struct epoll_event *ev, int max, int timeout);
int LLVMFuzzerInitialize(int *argc, char ***argv);

int __wrap_opener_start(const char *prefix, bool seal)
{
	int sv[2];

	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) == 0);
	opener_fd = sv[1];
	return sv[0];
}

/* Never waits; when there is nothing to do the loop is left. */
int __wrap_epoll_wait(int fd, struct epoll_event *ev, int max, int timeout)
{
	int n = __real_epoll_wait(fd, ev, max, 0);

	if (n <= 0 && timeout)
		loop_quit();
	return n;
}

/* There is no libspice-server that would have to be guarded. */
void guard_set(int fd)
{
}

static void settle(void)
{
	quit = false;
	loop_run();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	signal(SIGPIPE, SIG_IGN);
	log_init("link", false);
	address.sun_family = AF_UNIX;
	must(bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)) == 0);
	address_len = sizeof(address);
	getsockname(listener, (struct sockaddr *)&address, &address_len);
	must(listen(listener, 8) == 0 && loop_init() == 0);
	session_params = (struct session_params) {
		.ping_interval = 5000, .ping_timeout = 15000, .hello_timeout = 10000,
		.client_force = true, .client_change = true, .client_insert = true, .credit_budget = 16u << 20,
	};
	transport = &virtio_transport;
	must(virtio_start("/nowhere/port", false, &session_params, &virtio_hooks));
	must(daemon_init(listener, geteuid(), "unix:/nowhere", &daemon_hooks));
	memset(stream_fds, -1, sizeof(stream_fds));
	for (int i = 0; i < PORTS; i++)
		peers[i].fd = -1;
	return 0;
}

/* ---- the daemon */

static void keep_stream(int fd)
{
	for (int i = 0; i < STREAM_FDS; i++) {
		if (stream_fds[i] < 0) {
			stream_fds[i] = fd;
			return;
		}
	}
	close(fd);
}

static void check_message(const struct link_msg *m, int fd)
{
	must(m->type >= LINK_READY && m->type <= LINK_MOVE_STATE);
	must(memchr(m->text, '\0', sizeof(m->text)));
	must((fd >= 0) == (m->type == LINK_STREAM));
	if (m->type == LINK_READY || m->type == LINK_CLIENT || m->port >= PORTS)
		return;
	if (m->type == LINK_PORT_UP) {
		up[m->port] = true;
	} else if (m->type == LINK_PORT_DOWN) {
		must(up[m->port]);
		up[m->port] = false;
	} else if (m->type == LINK_OFFER) {
		must(up[m->port] && m->offer && !(m->u.offer.size >> 63));
		must(frame_name_ok(m->u.offer.name, strnlen(m->u.offer.name, 256)));
	} else if (m->type == LINK_STREAM || m->type == LINK_EJECT_REQUEST) {
		must(up[m->port]);
	} else if (m->type == LINK_STREAM_FAILED) {
		must(m->error);
	}
}

static void daemon_read(void)
{
	struct link_msg m;
	ssize_t n;
	int fd;

	while (daemon_fd >= 0) {
		n = sock_recv_fd(daemon_fd, &m, sizeof(m), &fd);
		if (n != sizeof(m)) {
			must(n == -EAGAIN || n == 0 || n == -ECONNRESET);
			if (n != -EAGAIN) {
				close(daemon_fd);
				daemon_fd = -1;
			}
			return;
		}
		check_message(&m, fd);
		if (fd >= 0)
			keep_stream(fd);
	}
}

static void daemon_connect(void)
{
	if (daemon_fd >= 0)
		close(daemon_fd);
	memset(up, 0, sizeof(up));
	settle();	/* or the backlog fills */
	daemon_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	must(connect(daemon_fd, (struct sockaddr *)&address, address_len) == 0);
}

/* Any kind of descriptor that a program may have. */
static int some_fd(unsigned int kind)
{
	int fds[2];

	switch (kind % 4) {
	case 0:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	case 1:
		return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	case 2:
		must(pipe(fds) == 0);
		break;
	default:
		must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	}
	close(fds[1]);
	return fds[0];
}

static void send_fds(int sock, const void *data, size_t len, unsigned int n, unsigned int kind)
{
	union {
		struct cmsghdr h;
		char b[CMSG_SPACE(sizeof(int) * 32)];
	} c = { 0 };
	struct iovec iov = { .iov_base = (void *)data, .iov_len = len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	int fds[32];

	for (unsigned int i = 0; i < n; i++)
		fds[i] = some_fd(kind + i);
	if (n) {
		m.msg_control = c.b;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN(sizeof(int) * n);
		memcpy(CMSG_DATA(&c.h), fds, sizeof(int) * n);
	}
	(void)sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	for (unsigned int i = 0; i < n; i++)
		close(fds[i]);
}

static void daemon_say(struct script *s)
{
	struct link_msg m = {
		.type = LINK_ADD_PORT + take8(s) % 7, .port = take8(s), .offer = take8(s),
		.tag = take8(s), .flags = take8(s),
	};
	size_t n = take8(s);
	const uint8_t *text = take_bytes(s, &n);

	m.port = m.port < 250 ? m.port % PORTS : m.port + 1000000;
	memcpy(m.u.notice.text, text, n < 255 ? n : 255);
	if (daemon_fd >= 0)
		send_fds(daemon_fd, &m, sizeof(m), 0, 0);
}

static void daemon_say_anything(struct script *s)
{
	unsigned int n_fds = take8(s) % 20, kind = take8(s);
	struct link_msg m[2];
	size_t len = take16(s) % sizeof(m), n = take8(s);
	const uint8_t *p = take_bytes(s, &n);

	memset(m, take8(s), sizeof(m));
	memcpy(m, p, n);
	if (daemon_fd >= 0)
		send_fds(daemon_fd, m, len % 4 ? sizeof(m[0]) : len, n_fds, kind);
}

/* ---- the opener */

static void opener_say(struct script *s)
{
	struct { uint32_t number, tag; } wish, last = { ~0u, 0 };
	struct opener_answer a = { 0 };
	unsigned int how = take8(s);
	int sv[2];

	while (recv(opener_fd, &wish, sizeof(wish), MSG_DONTWAIT) == sizeof(wish))
		if (wish.tag)
			last = wish;
	if (last.number >= PORTS || !last.tag)
		return;
	a.number = last.number;
	a.tag = last.tag + (how % 8 == 7);
	a.is_socket = how & 16;
	if (how % 8 == 6) {
		a.error = 1 + how / 32;
		send(opener_fd, &a, sizeof(a), MSG_DONTWAIT);
		return;
	}
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) == 0);
	sock_send_fd(opener_fd, &a, sizeof(a), sv[0]);
	close(sv[0]);
	if (how % 8 == 7 || peers[a.number].fd >= 0) {
		close(sv[1]);
		return;
	}
	memset(&peers[a.number], 0, sizeof(peers[0]));
	peers[a.number].fd = sv[1];
	peers[a.number].tracked = true;
}

/* ---- the share */

static uint32_t get32(const uint8_t *p)
{
	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static void heard(struct peer_port *p, uint16_t type, uint32_t stream, uint32_t len)
{
	if (type != FRAME_DATA || !p->tracked || stream >= IDS)
		return;
	p->credit[stream] -= len;
	must(p->credit[stream] >= 0);
}

/* Everything that the link writes is well-formed. */
static void share_parse(struct peer_port *p)
{
	size_t at = 0;

	while (p->have - at >= FRAME_HEADER_LEN) {
		const uint8_t *h = p->buf + at;
		uint16_t type = h[4] | h[5] << 8;
		uint32_t len = get32(h + 12), epoch = get32(h + 16), seq = get32(h + 20);

		must(get32(h) == FRAME_MAGIC && len <= FRAME_PAYLOAD_MAX && epoch);
		if (p->have - at < FRAME_HEADER_LEN + len)
			break;
		if (type == FRAME_HELLO && epoch != p->in_epoch) {
			must(seq == 0 && len == FRAME_HELLO_LEN);
			p->in_epoch = p->epoch = epoch;
			p->in_seq = p->seq = 0;
			memset(p->credit, 0, sizeof(p->credit));
			memcpy(p->secret, h + FRAME_HEADER_LEN + 24, sizeof(p->secret));
			p->checks.checked = false;
		}
		must(epoch == p->in_epoch && seq == p->in_seq);
		p->in_seq++;
		heard(p, type, get32(h + 8), len - (h[6] & FRAME_FLAG_CHECKED ? FRAME_CHECK_LEN : 0));
		at += FRAME_HEADER_LEN + len;
	}
	memmove(p->buf, p->buf + at, p->have - at);
	p->have -= at;
}

static void share_read(struct peer_port *p, size_t max)
{
	ssize_t n = 1;

	while (p->fd >= 0 && max && n > 0) {
		size_t room = sizeof(p->buf) - p->have;

		n = recv(p->fd, p->buf + p->have, room < max ? room : max, MSG_DONTWAIT);
		if (n <= 0)
			break;
		max -= n;
		p->have += n;
		share_parse(p);
	}
	if (n == 0) {
		close(p->fd);
		p->fd = -1;
	}
}

static void share_send(struct peer_port *p, const void *data, size_t len)
{
	if (p->fd >= 0 && send(p->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)len)
		p->tracked = false;
}

static void note_credit(struct peer_port *p, uint16_t type, uint32_t stream,
			const uint8_t *payload, size_t len)
{
	if ((type == FRAME_OPENED || type == FRAME_CREDIT) && len == 4 && stream < IDS)
		p->credit[stream] += get32(payload);
}

static struct frame_tx as_sender(const struct peer_port *p)
{
	struct frame_tx tx = p->checks;

	tx.epoch = p->epoch;
	tx.seq = p->seq;
	return tx;
}

static void stream_io(struct script *s);
static void daemon_say(struct script *s);

/* What a tap does with a frame that it says is @len bytes long. */
static void share_by_pieces(struct script *s, struct peer_port *p, uint8_t *b, size_t len)
{
	struct session *e;
	unsigned int how = take8(s);
	size_t said = how % 8 ? len : len + (how >> 3) - 16, n;
	ssize_t r;
	int fd;

	settle();	/* what came before has been heard */
	e = virtio_transport.session(p - peers);
	if (!e || p->fd < 0 || !session_begin(e, b, said)) {
		share_send(p, b, len);
		return;
	}
	must((b[4] | b[5] << 8) == FRAME_DATA && said == len && said > FRAME_HEADER_LEN);
	must(session_is_up(e));
	for (size_t at = FRAME_HEADER_LEN; at < len; at += n) {
		how = take8(s);
		n = s->left ? 1 + (how >> 2) * 512 : len;
		n = n < len - at ? n : len - at;
		if (how % 4 == 3 && s->left) {
			if (how & 64)
				stream_io(s);
			else
				daemon_say(s);
			if (how & 128)
				fuzz_now += 5;
			settle();
			/* The port may be gone, and another one there. */
			if (virtio_transport.session(p - peers) != e)
				return;
		}
		fd = session_sink(e);
		r = how % 4 && fd >= 0 ? send(fd, b + at, n, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
		if (r > 0)
			session_moved(e, r);
		r = r < 0 ? 0 : r;
		if ((size_t)r < n)
			session_part(e, b + at + r, n - r);
		/* It is over after a moment, whatever the daemon does. */
		if (!session_hold(e))
			continue;
		fuzz_now += 5;
		settle();
		if (virtio_transport.session(p - peers) != e)
			return;
		must(!session_hold(e));
	}
}

static void share_frame(struct script *s, struct peer_port *p, bool bend, bool by_pieces)
{
	static uint8_t b[FRAME_MAX];
	struct frame_tx tx = as_sender(p);
	uint16_t type = take8(s);
	uint32_t stream = take8(s);
	size_t want = take8(s), n, len;
	const uint8_t *payload;

	if (type >= 0xf0)
		type = 0x8000 | type;
	/* Long ones are cheap to write down. */
	n = want = want < 200 ? want : (want - 199) * 1000;
	if (by_pieces && want > 200)
		n = 0;		/* the script says how they come */
	payload = take_bytes(s, &n);
	memset(b + FRAME_HEADER_LEN, 'x', want);
	memcpy(b + FRAME_HEADER_LEN, payload, n);
	len = frame_seal(&tx, b, type, stream, want);
	if (bend) {
		b[take8(s) % len] ^= take8(s);
		p->tracked = false;
	}
	note_credit(p, type, stream, b + FRAME_HEADER_LEN, want);
	p->seq = tx.seq;
	if (by_pieces)
		share_by_pieces(s, p, b, len);
	else
		share_send(p, b, len);
}

static void share_hello(struct script *s, struct peer_port *p)
{
	struct frame_hello h = {
		.version = FRAME_VERSION, .role = FRAME_ROLE_SHARE, .frame_max = FRAME_MAX,
		.ping_interval = 5000, .ping_timeout = 15000,
	};
	uint8_t b[FRAME_SMALL_MAX], how = take8(s);
	struct frame_tx tx;

	share_read(p, 1u << 20);
	h.epoch = p->epoch;
	h.capabilities = (how & 2) | (how >> 4 & 1);
	session_params.lossy = how & 0x20;
	if (how & 4)
		h.frame_max = 4096;
	if (how >= 0xf0)
		h.version = how;
	p->seq = 0;
	tx = as_sender(p);
	share_send(p, b, frame_pack_hello(&tx, b, &h));
	p->seq = tx.seq;
	p->checks.checked = (how & 0x30) == 0x30;
	p->checks.seed = frame_seed(p->secret);
}

static void share_offer(struct script *s, struct peer_port *p)
{
	struct frame_offer o = {
		.id = take8(s), .flags = take8(s), .size = (uint64_t)take32(s) << (take8(s) % 40),
		.kind = take8(s) % 4, .medium_id = { 1 }, .incarnation = { 1 },
	};
	uint8_t b[FRAME_SMALL_MAX];
	struct frame_tx tx = as_sender(p);
	size_t n = take8(s) % 64;
	const uint8_t *name = take_bytes(s, &n);

	memcpy(o.name, name, n);
	o.name_len = n;
	share_send(p, b, frame_pack_offer(&tx, b, &o));
	p->seq = tx.seq;
}

static void share_raw(struct script *s, struct peer_port *p)
{
	size_t n = take8(s);
	const uint8_t *b = take_bytes(s, &n);

	p->tracked = false;
	share_send(p, b, n);
}

/* ---- the daemon's end of streams */

static void stream_io(struct script *s)
{
	static char b[1 << 16];
	unsigned int what = take8(s);
	int *fd = &stream_fds[what % STREAM_FDS];
	size_t n = take16(s);

	if (*fd < 0)
		return;
	if (what & 128) {
		close(*fd);
		*fd = -1;
	} else if (what & 64) {
		(void)send(*fd, b, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	} else {
		(void)recv(*fd, b, n, MSG_DONTWAIT);
	}
}

/* ---- an input */

static void step(struct script *s)
{
	uint8_t op = take8(s);
	struct peer_port *p = &peers[op / 64 % PORTS];

	switch (op % 16) {
	case 0:
		daemon_connect();
		break;
	case 1:
	case 2:
		daemon_say(s);
		break;
	case 3:
		daemon_say_anything(s);
		break;
	case 4:
		opener_say(s);
		break;
	case 5:
	case 6:
		share_frame(s, p, false, op & 16);
		break;
	case 7:
		share_frame(s, p, true, op & 16);
		break;
	case 8:
		share_raw(s, p);
		break;
	case 9:
		share_hello(s, p);
		break;
	case 10:
		share_offer(s, p);
		break;
	case 11:
		share_read(p, take16(s));
		break;
	case 12:
		fuzz_now += take16(s);
		break;
	case 13:
		stream_io(s);
		break;
	case 14:
		daemon_read();
		break;
	case 15:
		if (p->fd >= 0)
			close(p->fd);
		p->fd = -1;
	}
	if (!(op & 32))
		settle();
}

static void clean(void)
{
	settle();
	for (int i = 0; i < PORTS; i++) {
		virtio_transport.del(i);
		if (peers[i].fd >= 0)
			close(peers[i].fd);
		peers[i].fd = -1;
	}
	settle();
	if (daemon_fd >= 0)
		close(daemon_fd);
	daemon_fd = -1;
	for (int i = 0; i < STREAM_FDS; i++) {
		if (stream_fds[i] >= 0)
			close(stream_fds[i]);
		stream_fds[i] = -1;
	}
	settle();
	while (recv(opener_fd, (char[16]) { 0 }, 16, MSG_DONTWAIT) > 0)
		;
	memset(up, 0, sizeof(up));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, size };
	int fds = open_fds();

	fuzz_clock_reset();
	while (s.left)
		step(&s);
	clean();
	must(open_fds() == fds);
	return 0;
}
