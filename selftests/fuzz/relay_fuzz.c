// SPDX-License-Identifier: GPL-2.0-only
/*
 * One port of a relay between two strangers: a guest at a socket, which the opener
 * hands over, and a client at the other end of a Spice port.
 *
 * What must hold: whatever comes from either, the other gets whole frames of one
 * epoch, numbered without a gap, and nothing else but RESYNC and the zeros before
 * it; no more data than the guest gave credit for; what is kept stays in bounds;
 * no descriptor is lost.
 */
#include "../../userhelper/link/loop.c"

#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "end.h"
#include "frame.h"
#include "fuzz.h"
#include "log.h"
#include "opener.h"
#include "port.h"
#include "relay.h"
#include "relay_guest.h"
#include "relay_impl.h"

#define BUDGET	(4u << 20)
#define IDS	256

/* What one side says, and what the other is found to have heard of it. */
struct side {
	struct frame_tx tx;
	uint32_t epoch, seq;	/* heard */
	bool begun;
	uint8_t buf[4 * FRAME_MAX];
	size_t have, zeros;
};

static struct side guest, client;
static uint8_t secret[FRAME_SECRET_LEN];
static int64_t credit[IDS];
static uint32_t epochs;		/* as with a link, none comes again */
static bool tracked, linked, asked, opened;
static int guest_fd = -1, opener_fd = -1;
static void *end;
static struct session_params params = { .ping_timeout = 15000, .credit_budget = BUDGET };

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

/* ---- the port */

static void learn(const uint8_t *learnt)
{
	must(linked && opened);
}

static const struct port_hooks hooks = { .learn = learn };

const struct session_params *port_session_params(void)
{
	return &params;
}

const struct port_hooks *port_the_hooks(void)
{
	return &hooks;
}

void port_wakeup(void *opaque)
{
}

void port_up(void *opaque)
{
	must(linked);
}

static void want_unlink(void *opaque, const char *why)
{
	must(linked);
	asked = true;
}

void port_fail(void *opaque, const char *why)
{
	want_unlink(opaque, why);
}

void port_dead(void *opaque)
{
	want_unlink(opaque, "dead");
}

void port_opened(void *opaque, bool is)
{
	must(linked && relay_end.is_open(end) == is);
	opened = is;
}

bool port_add(uint32_t number)
{
	return true;
}

static void settle(void)
{
	quit = false;
	loop_run();
}

/* ---- what is heard */

static uint32_t get32(const uint8_t *p)
{
	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static void count_credit(uint16_t type, uint32_t stream, const uint8_t *payload, uint32_t len)
{
	if (!tracked || stream >= IDS)
		return;
	if (type != FRAME_DATA)
		return;
	credit[stream] -= len;
	must(credit[stream] >= 0);
}

/* Zeros between frames are for a guest that has half a frame; a RESYNC follows. */
static size_t skip_zeros(struct side *s, size_t at)
{
	while (at < s->have && !s->buf[at] && s->zeros < FRAME_MAX) {
		s->zeros++;
		at++;
	}
	return at;
}

static void parse(struct side *s, bool by_guest)
{
	size_t at = 0;

	for (;;) {
		const uint8_t *h;
		uint16_t type, flags;
		uint32_t len, epoch;

		if (!by_guest)
			at = skip_zeros(s, at);
		h = s->buf + at;
		if (s->have - at < FRAME_HEADER_LEN)
			break;
		type = h[4] | h[5] << 8;
		flags = h[6] | h[7] << 8;
		len = get32(h + 12);
		epoch = get32(h + 16);
		must(get32(h) == FRAME_MAGIC && len <= FRAME_PAYLOAD_MAX);
		must(!s->zeros || (s->zeros == FRAME_MAX && type == FRAME_RESYNC));
		s->zeros = 0;
		if (s->have - at < FRAME_HEADER_LEN + len)
			break;
		at += FRAME_HEADER_LEN + len;
		if (type == FRAME_RESYNC) {
			must(!by_guest && !len && !epoch);
			continue;
		}
		if (type == FRAME_HELLO && (!s->begun || epoch != s->epoch)) {
			must(len == FRAME_HELLO_LEN);
			s->begun = true;
			s->epoch = epoch;
			s->seq = get32(h + 20);
		}
		must(s->begun && epoch == s->epoch && get32(h + 20) == s->seq);
		s->seq++;
		if (!by_guest && epoch == s->tx.epoch)
			count_credit(type, get32(h + 8), h + FRAME_HEADER_LEN,
				     len - (flags & FRAME_FLAG_CHECKED ? FRAME_CHECK_LEN : 0));
	}
	memmove(s->buf, s->buf + at, s->have - at);
	s->have -= at;
}

static void guest_reads(size_t max)
{
	ssize_t n;

	while (guest_fd >= 0 && max) {
		size_t room = sizeof(guest.buf) - guest.have;

		n = recv(guest_fd, guest.buf + guest.have, room < max ? room : max, MSG_DONTWAIT);
		if (n == 0) {
			close(guest_fd);
			guest_fd = -1;
		}
		if (n <= 0)
			return;
		max -= n;
		guest.have += n;
		parse(&guest, false);
		settle();
	}
}

static void client_reads(unsigned int rounds)
{
	static uint8_t b[FRAME_MAX];
	size_t n;

	while (linked && rounds--) {
		n = relay_end.output(end, b, sizeof(b));
		must(n <= sizeof(b) && sizeof(client.buf) - client.have >= n);
		memcpy(client.buf + client.have, b, n);
		client.have += n;
		parse(&client, true);
		must(!client.have);
		settle();
		if (!n)
			return;
	}
}

/* ---- what is said */

static void guest_sends(const void *data, size_t len)
{
	if (guest_fd >= 0 && send(guest_fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)len)
		tracked = false;
}

static void client_sends(const uint8_t *data, size_t len)
{
	if (linked && !asked)
		relay_end.input(end, data, len);
	must(guests_queued() <= BUDGET / 4 * 5);
}

static void send_as(struct side *s, const uint8_t *data, size_t len)
{
	if (s == &guest)
		guest_sends(data, len);
	else
		client_sends(data, len);
}

static void say_hello(struct script *s, struct side *side)
{
	struct frame_hello h = {
		.version = FRAME_VERSION, .frame_max = FRAME_MAX,
		.ping_interval = 5000, .ping_timeout = 15000,
	};
	uint8_t b[FRAME_SMALL_MAX], how = take8(s);
	struct frame_tx tx = { 0 };

	h.role = (side == &guest) != (how > 0xf8) ? FRAME_ROLE_LINK : FRAME_ROLE_SHARE;
	h.capabilities = how & 1;
	h.epoch = side == &guest ? ++epochs : guest.tx.epoch;
	if (side == &guest) {
		memset(secret, how & 4 ? how : 's', sizeof(secret));
		memset(credit, 0, sizeof(credit));
		guest.tx = (struct frame_tx) { .epoch = h.epoch };
		memcpy(h.secret, secret, sizeof(secret));
	}
	if (!h.epoch)
		return;
	tx.epoch = h.epoch;
	send_as(side, b, frame_pack_hello(&tx, b, &h));
	side->tx = tx;
	if (side != &client)
		return;
	client.tx.checked = guest.tx.checked = how & 1 && how & 2;
	client.tx.seed = guest.tx.seed = frame_seed(secret);
}

static void say_frame(struct script *s, struct side *side, bool bend)
{
	static uint8_t b[FRAME_MAX];
	uint16_t type = take8(s);
	uint32_t stream = take8(s);
	size_t want = take8(s), n, len;
	const uint8_t *payload;

	if (type >= 0xf0)
		type |= 0x8000;
	n = want = want < 200 ? want : (want - 199) * 1000;
	payload = take_bytes(s, &n);
	memset(b + FRAME_HEADER_LEN, 'x', want);
	memcpy(b + FRAME_HEADER_LEN, payload, n);
	len = frame_seal(&side->tx, b, type, stream, want);
	if (side == &guest && stream < IDS && want >= 4 &&
	    (type == FRAME_OPEN || type == FRAME_CREDIT))
		credit[stream] += get32(b + FRAME_HEADER_LEN + (type == FRAME_OPEN ? 4 : 0));
	if (bend) {
		b[take8(s) % len] ^= take8(s);
		tracked = false;
	}
	send_as(side, b, take8(s) == 0xff ? len / 2 : len);
}

static void say_bytes(struct script *s, struct side *side)
{
	size_t n = take8(s);
	const uint8_t *p = take_bytes(s, &n);

	tracked = false;
	send_as(side, p, n);
}

/* ---- coming and going */

static void client_unlinks(void)
{
	if (!linked)
		return;
	linked = false;
	asked = false;
	opened = false;
	relay_end.stop(end, "the client disconnected");
	client.have = 0;
	client.begun = false;
}

static void client_links(void)
{
	if (linked)
		return;
	linked = true;
	relay_end.start(end, secret);
	memset(&client, 0, sizeof(client));
}

static void guest_ends(void)
{
	if (guest_fd >= 0)
		close(guest_fd);
	guest_fd = -1;
}

static void guest_begins(struct script *s)
{
	struct opener_answer a = { .is_socket = 1 };
	uint32_t wish[2], tag = 0;
	int sv[2];

	while (recv(opener_fd, wish, sizeof(wish), MSG_DONTWAIT) == sizeof(wish))
		tag = wish[1];
	a.tag = tag + (take8(s) == 0xff);
	if (!tag)
		return;
	guest_ends();
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) == 0);
	sock_send_fd(opener_fd, &a, sizeof(a), sv[0]);
	close(sv[0]);
	guest_fd = sv[1];
	memset(&guest, 0, sizeof(guest));
	memset(credit, 0, sizeof(credit));
	tracked = true;
}

static void step(struct script *s)
{
	uint8_t what = take8(s);
	struct side *side = what & 0x80 ? &guest : &client;

	switch (what % 16) {
	case 0:
		client_links();
		break;
	case 1:
		client_unlinks();
		break;
	case 2:
		guest_begins(s);
		break;
	case 3:
		guest_ends();
		break;
	case 4:
		fuzz_now += take16(s) * 10;
		break;
	case 5:
		guest_reads(1u << take8(s) % 20);
		break;
	case 6:
		client_reads(1 + take8(s) % 8);
		break;
	case 7:
		say_bytes(s, side);
		break;
	case 8:
		say_frame(s, side, true);
		break;
	case 9:
	case 10:
		say_hello(s, side);
		break;
	default:
		say_frame(s, side, false);
	}
	settle();
	if (asked)
		client_unlinks();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const struct linkconf c = { .relay = "connect:/nowhere" };

	signal(SIGPIPE, SIG_IGN);
	log_init("relay", false);
	must(loop_init() == 0 && relay_start(&c, false));
	end = relay_end.make(0, NULL);
	must(end);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, size };
	int fds = open_fds();

	fuzz_clock_reset();
	epochs = 0;
	while (s.left)
		step(&s);
	client_unlinks();
	settle();
	guest_ends();
	settle();
	must(!guests_queued() && open_fds() == fds);
	return 0;
}
