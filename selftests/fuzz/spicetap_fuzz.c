// SPDX-License-Identifier: GPL-2.0-only
/*
 * The tap in a Spice connection, between a hostile peer, a library and its
 * owner. The script says who writes how much, reads, ends, or frees the tap from
 * within a callback.
 *
 * What must hold: DATA arrives in order and in full, what the library gets and
 * sends is whole messages, buffers come back once, and nothing grows.
 */
#include <sys/socket.h>

#include "fuzz.h"
#include "spicetap.h"

#define BUFS	8

static struct tap *tap;
static int peer, lib;
static unsigned int wanted[2], out_bufs, ended, free_at, calls;
static uint64_t given, sum;
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
	must(n && !ended);
	for (size_t i = 0; i < n; i++)
		sum += p[i];
	given += n;
	maybe_free();
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
	(void)send(fd, b, n + more, MSG_DONTWAIT | MSG_NOSIGNAL);
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
	memset(b + TAP_HEADER, 'm', len);
	(void)send(fd, b, TAP_HEADER + len, MSG_DONTWAIT | MSG_NOSIGNAL);
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
	default:
		event(TAP_NET, TAP_IN);
		event(TAP_LIB, TAP_IN);
	}
	if (!(op & 16))
		return;
	event(TAP_NET, TAP_IN | TAP_OUT);
	event(TAP_LIB, TAP_IN | TAP_OUT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, size };
	int sv[2], fds = open_fds();
	uint8_t how = take8(&s);

	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) == 0);
	peer = sv[1];
	wanted[0] = wanted[1] = out_bufs = ended = calls = 0;
	given = 0;
	free_at = how & 64 ? 1 + take8(&s) : 0;
	for (int i = 0; i < BUFS; i++)
		must((bufs[i] = malloc(sizeof(struct tap_buf) + 1024)));
	for (int i = 0; i < BUFS; i++)
		memset(bufs[i]->data, 'd', 1024);
	tap = tap_new(sv[0], &lib, how & 1 ? 1 : 0, &ops, NULL);
	must(tap);
	tap_start(tap);
	while (s.left)
		step(&s);
	tap_free(tap);
	tap = NULL;
	must(!out_bufs);
	for (int i = 0; i < BUFS; i++) {
		must(bufs[i]);
		free(bufs[i]);
		bufs[i] = NULL;
	}
	close(peer);
	close(lib);
	must(open_fds() == fds);
	return 0;
}
