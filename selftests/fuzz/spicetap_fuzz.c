// SPDX-License-Identifier: GPL-2.0-only
/*
 * The tap in a Spice connection, between a hostile peer, a library and its
 * owner. The script says who writes how much, reads, ends, or frees the tap from
 * within a callback, and whether large messages go to another socket, which may be
 * full, closed, or not there, or are held up.
 *
 * What must hold: DATA arrives in order and in full, by whatever way, what the
 * library gets and sends is whole messages, buffers come back once, nothing is
 * called after the end, and nothing grows.
 */
#include <signal.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "fuzz.h"
#include "spicetap.h"

#define BUFS	8

static struct tap *tap;
static int peer, lib;
static unsigned int wanted[2], out_bufs, ended, free_at, calls;

/* What the peer's bytes mean: the payload of DATA messages, and where each begins. */
static struct {
	uint8_t head[TAP_HEADER];
	size_t have;		/* of head */
	uint64_t left;		/* of the message that goes on */
	size_t of_it;		/* bytes of it that were sent, if it is DATA */
	bool data, over;	/* over: nothing is taken out any more */
	uint8_t *b;
	size_t len, cap;
	struct { size_t at, len; } starts[4096];
	size_t n_starts;
} model;

static uint8_t *moved;		/* what must come out of the sink */
static size_t moved_len, moved_cap, far_at;
static size_t given, start_at, direct_left;
static unsigned int begun;
static int sink[2] = { -1, -1 };
static bool direct_on, release;
static uint8_t ctl;

#define CTL_REFUSE	1	/* begin() */
#define CTL_NO_SINK	2
#define CTL_HOLD	4
#define CTL_SINK_SOMETIMES 8
#define HEAD		24

static void append(uint8_t **b, size_t *len, size_t *cap, const uint8_t *p, size_t n)
{
	if (*len + n > *cap) {
		*cap = 2 * (*len + n);
		must((*b = realloc(*b, *cap)));
	}
	memcpy(*b + *len, p, n);
	*len += n;
}

static void model_header(void)
{
	uint16_t type = model.head[0] | model.head[1] << 8;
	uint32_t len = model.head[2] | model.head[3] << 8 | model.head[4] << 16 |
		       (uint32_t)model.head[5] << 24;

	model.have = 0;
	model.left = len;
	model.data = type == 101;
	model.of_it = 0;
	/* It ends there, or everything is passed on from there. */
	if (type == 102 || (model.data && !len) || (!model.data && len > TAP_OTHER_MAX) ||
	    (release && type == 1))
		model.over = true;
	if (model.data && !model.over && model.n_starts < 4096) {
		model.starts[model.n_starts].at = model.len;
		model.starts[model.n_starts++].len = len;
	}
}

static void model_sent(const uint8_t *p, size_t n)
{
	size_t k;

	for (; n && !model.over; p += k, n -= k) {
		if (!model.left) {
			k = 1;
			model.head[model.have++] = *p;
			if (model.have == TAP_HEADER)
				model_header();
			continue;
		}
		k = n < model.left ? n : model.left;
		model.left -= k;
		if (!model.data)
			continue;
		append(&model.b, &model.len, &model.cap, p, k);
		model.of_it += k;
	}
}

static void say(int fd, const uint8_t *p, size_t n)
{
	ssize_t r = send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (fd == peer && r > 0)
		model_sent(p, r);
}

static void takes(const uint8_t *p, size_t n)
{
	must(n <= model.len - given && !memcmp(model.b + given, p, n));
	given += n;
}
static struct tap_buf *bufs[BUFS];

static void maybe_free(void)
{
	if (tap && free_at && ++calls == free_at) {
		struct tap *t = tap;

		tap = NULL;
		tap_free(t);
	}
}

static void on_data(void *opaque, const uint8_t *p, size_t n)
{
	must(n && tap && !ended && !direct_left);
	takes(p, n);
	maybe_free();
}

/* Asked once for each message, at its start, whether it may go by. */
static bool on_begin(void *opaque, const uint8_t *p, size_t len)
{
	bool yes = !(ctl & CTL_REFUSE);

	must(tap && !ended && !direct_left && len >= 16384 && len > HEAD);
	while (start_at < model.n_starts && model.starts[start_at].at < given)
		start_at++;
	if (start_at < model.n_starts)
		must(model.starts[start_at].at == given && model.starts[start_at].len == len);
	must(begun <= start_at || model.n_starts == 4096);
	begun = start_at + 1;
	if (yes) {
		takes(p, HEAD);
		direct_left = len - HEAD;
	}
	maybe_free();
	return yes;
}

static int on_sink(void *opaque)
{
	static unsigned int n;

	must(tap && !ended && direct_left);
	if (ctl & CTL_NO_SINK || (ctl & CTL_SINK_SOMETIMES && n++ % 2))
		return -1;
	return sink[0];
}

static void on_moved(void *opaque, size_t n)
{
	must(tap && !ended && n && n <= direct_left && n <= model.len - given);
	direct_left -= n;
	append(&moved, &moved_len, &moved_cap, model.b + given, n);
	given += n;
	maybe_free();
}

static void on_part(void *opaque, const uint8_t *p, size_t n)
{
	must(tap && !ended && n && n <= direct_left);
	direct_left -= n;
	takes(p, n);
	maybe_free();
}

static bool on_hold(void *opaque)
{
	bool yes = ctl & CTL_HOLD;

	must(tap && !ended);
	maybe_free();
	return yes;
}

static void read_far(size_t max)
{
	static uint8_t b[1 << 16];
	ssize_t n = 1;

	while (sink[1] >= 0 && max && n > 0) {
		n = recv(sink[1], b, max < sizeof(b) ? max : sizeof(b), MSG_DONTWAIT);
		if (n <= 0)
			break;
		must(n <= moved_len - far_at && !memcmp(b, moved + far_at, n));
		far_at += n;
		max -= n;
	}
}

static void on_written(void *opaque, struct tap_buf *b)
{
	must(out_bufs);
	out_bufs--;
	for (int i = 0; i < BUFS; i++) {
		if (bufs[i])
			continue;
		bufs[i] = b;
		return;
	}
	must(!"a buffer came back twice");
}

static void on_watch(void *opaque, enum tap_side side, unsigned int events)
{
	wanted[side] = events;
}

static void on_released(void *opaque)
{
	maybe_free();
}

static void on_ended(void *opaque, const char *why)
{
	must(why && !ended);
	ended = 1;
	maybe_free();
}

static const struct tap_direct direct = {
	.head = HEAD, .begin = on_begin, .sink = on_sink, .moved = on_moved, .part = on_part,
	.hold = on_hold,
};

static const struct tap_ops direct_ops = {
	.data = on_data, .written = on_written, .watch = on_watch,
	.released = on_released, .ended = on_ended, .direct = &direct,
};

static const struct tap_ops ops = {
	.data = on_data, .written = on_written, .watch = on_watch,
	.released = on_released, .ended = on_ended,
};

static void write_to(int fd, struct script *s, int small)
{
	uint8_t b[6 + 3000];
	size_t n = take8(s), more = small ? 0 : take8(s) * 8;
	const uint8_t *p = take_bytes(s, &n);

	memcpy(b, p, n);
	memset(b + n, 'x', more);
	say(fd, b, n + more);
}

/* A whole message: type and length are the script's, its body is filled. */
static void message(int fd, struct script *s)
{
	static uint8_t b[TAP_HEADER + 70000];
	uint16_t type = take8(s);
	uint32_t said = take32(s), len = said;

	if (type == 100)
		type = take16(s);
	if (len > sizeof(b) - TAP_HEADER)
		len = sizeof(b) - TAP_HEADER;
	b[0] = type;
	b[1] = type >> 8;
	memcpy(b + 2, &said, 4);
	for (uint32_t i = 0; i < len; i++)
		b[TAP_HEADER + i] = i * 7 + (i >> 8) + model.len;
	say(fd, b, TAP_HEADER + len);
}

static void drop(int fd, size_t max)
{
	static char b[1 << 16];

	(void)recv(fd, b, max < sizeof(b) ? max : sizeof(b), MSG_DONTWAIT);
}

static void send_bufs(unsigned int n, size_t len)
{
	for (int i = 0; i < BUFS && n && tap; i++) {
		struct tap_buf *b = bufs[i];

		if (!b)
			continue;
		bufs[i] = NULL;
		out_bufs++;
		n--;
		tap_send(tap, b, len % 1024 + 1);
	}
	if (tap)
		tap_flush(tap);
}

static void event(enum tap_side side, unsigned int events)
{
	events &= wanted[side];
	if (tap && !ended && events)
		tap_event(tap, side, events);
}

static void steer(struct script *s)
{
	ctl = take8(s);
	if (tap && !ended && !(ctl & CTL_HOLD))
		tap_go_on(tap);
}

static void far_end(struct script *s)
{
	uint8_t how = take8(s);

	read_far(how == 255 ? SIZE_MAX : how * 256);
	if (how != 128 || sink[1] < 0)
		return;
	close(sink[1]);
	sink[1] = -1;
}

static void step(struct script *s)
{
	uint8_t op = take8(s);

	switch (op % 12) {
	case 0:
		write_to(peer, s, op & 64);
		break;
	case 1:
		write_to(lib, s, op & 64);
		break;
	case 2:
	case 3:
		message(peer, s);
		break;
	case 4:
		message(lib, s);
		break;
	case 5:
		drop(peer, take16(s));
		break;
	case 6:
		drop(lib, take16(s));
		break;
	case 7:
		send_bufs(take8(s) % BUFS, take16(s));
		break;
	case 8:
		shutdown(op & 64 ? peer : lib, op & 32 ? SHUT_RDWR : SHUT_WR);
		break;
	case 9:
		if (direct_on)
			steer(s);
		event(TAP_NET, TAP_IN);
		break;
	case 10:
		if (direct_on)
			far_end(s);
		event(TAP_NET, TAP_IN);
		break;
	default:
		event(TAP_NET, TAP_IN);
		event(TAP_LIB, TAP_IN);
	}
	if (!(op & 16))
		return;
	event(TAP_NET, TAP_IN | TAP_OUT);
	event(TAP_LIB, TAP_IN | TAP_OUT);
}

/* With everybody reading, all that was sent comes. */
static void finish(void)
{
	size_t before;

	ctl &= ~CTL_HOLD;
	free_at = 0;
	if (tap && !ended)
		tap_go_on(tap);
	for (int idle = 0; tap && !ended && idle < 4;) {
		before = given;
		drop(peer, 1 << 16);
		drop(lib, 1 << 16);
		event(TAP_NET, TAP_IN | TAP_OUT);
		event(TAP_LIB, TAP_OUT);
		read_far(SIZE_MAX);
		/* What the library is given takes several rounds. */
		idle = given == before && recv(lib, &(char){ 0 }, 1, MSG_PEEK | MSG_DONTWAIT) <= 0 ?
		       idle + 1 : 0;
	}
	read_far(SIZE_MAX);
	must(sink[1] < 0 || far_at == moved_len);
	/* Of a message that is not whole the start may wait. */
	if (tap && !ended)
		must(given == model.len || (model.left && model.data &&
					    model.len - given <= model.of_it));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, size };
	int sv[2], fds = open_fds();
	uint8_t how = take8(&s);

	signal(SIGPIPE, SIG_IGN);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) == 0);
	peer = sv[1];
	wanted[0] = wanted[1] = out_bufs = ended = calls = 0;
	memset(&model, 0, sizeof(model));
	given = start_at = direct_left = begun = moved_len = moved_cap = far_at = 0;
	moved = NULL;
	ctl = 0;
	direct_on = how & 2;
	release = how & 1;
	if (direct_on) {
		int small = 8192;

		must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sink) == 0);
		if (how & 4)
			setsockopt(sink[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	}
	free_at = how & 64 ? 1 + take8(&s) : 0;
	for (int i = 0; i < BUFS; i++)
		must((bufs[i] = malloc(sizeof(struct tap_buf) + 1024)));
	for (int i = 0; i < BUFS; i++)
		memset(bufs[i]->data, 'd', 1024);
	tap = tap_new(sv[0], &lib, how & 1 ? 1 : 0, direct_on ? &direct_ops : &ops, NULL);
	must(tap);
	tap_start(tap);
	while (s.left)
		step(&s);
	finish();
	/* As a NULL one nothing but written() may be called. */
	struct tap *t = tap;

	tap = NULL;
	tap_free(t);
	must(!out_bufs);
	for (int i = 0; i < BUFS; i++) {
		must(bufs[i]);
		free(bufs[i]);
		bufs[i] = NULL;
	}
	free(model.b);
	free(moved);
	for (int i = 0; i < 2; i++) {
		if (sink[i] >= 0)
			close(sink[i]);
		sink[i] = -1;
	}
	close(peer);
	close(lib);
	must(open_fds() == fds);
	return 0;
}
