// SPDX-License-Identifier: GPL-2.0-only
/*
 * A hostile NBD server from its first byte: what libnbd makes of the handshake
 * reaches our code as sizes, flags, names and descriptions, and the first reads,
 * and then our own transmission takes the socket over. Everything that the
 * server will ever say lies in the socket before we ask.
 *
 * What must hold: it ends, with a medium of a size that can be, or with one line
 * of text.
 */
#include <endian.h>
#include <errno.h>
#include <arpa/inet.h>
#include <sys/socket.h>

#include <glib.h>

#include "fuzz.h"
#include "nbdconn.h"
#include "nbdwire.h"
#include "sock.h"

#define REPLIES	8

static struct {
	uint8_t b[1 << 17];
	size_t len;
} out;

static void put(const void *p, size_t n)
{
	if (n > sizeof(out.b) - out.len)
		n = sizeof(out.b) - out.len;
	memcpy(out.b + out.len, p, n);
	out.len += n;
}

static void put16(uint16_t v)
{
	v = htons(v);
	put(&v, sizeof(v));
}

static void put32(uint32_t v)
{
	v = htonl(v);
	put(&v, sizeof(v));
}

static void put64(uint64_t v)
{
	v = htobe64(v);
	put(&v, sizeof(v));
}

static void option_reply(struct script *s)
{
	uint32_t option = take8(s), type = take8(s), len;
	size_t n = take8(s);
	const uint8_t *p = take_bytes(s, &n);

	len = n;
	if (type & 0x80)
		type = 0x80000000u | (type & 0x7f);
	if (option & 0x80)
		len = take32(s);
	put64(0x3e889045565a9ull);
	put32(option & 0x7f);
	put32(type);
	put32(len);
	put(p, n);
}

static void info_export(struct script *s)
{
	uint64_t size = (uint64_t)take32(s) << take8(s) % 40;

	put64(0x3e889045565a9ull);
	put32(7);
	put32(3);
	put32(12);
	put16(0);
	put64(size);
	put16(take16(s));
}

static void info_blocks(struct script *s)
{
	put64(0x3e889045565a9ull);
	put32(7);
	put32(3);
	put32(14);
	put16(3);
	put32(take32(s));
	put32(take32(s));
	put32(take32(s));
}

static void simple_reply(struct script *s)
{
	static const uint8_t zeroes[1 << 17];
	uint8_t error = take8(s);

	put32(0x67446698);
	put32(error);
	put64(take8(s));
	put(zeroes, take8(s) * 512);
}

static void chunk(struct script *s)
{
	static uint8_t body[1 << 17];
	uint16_t type = take8(s), flags = take8(s);
	uint64_t cookie = take8(s), offset = take32(s);
	uint32_t len = take8(s) * 512;

	put32(0x668e33ef);
	put16(flags);
	put16(type & 0x80 ? 0x8000 | (type & 0x7f) : type);
	put64(cookie);
	put32(flags & 2 ? take32(s) : 8 + len);
	put64(offset);
	put(body, len);
}

static void build(struct script *s)
{
	const uint8_t *p;
	size_t n;

	switch (take8(s) % 8) {
	case 0:
		n = take8(s);
		p = take_bytes(s, &n);
		put(p, n);
		break;
	case 1:
		put64(0x4e42444d41474943ull);
		put64(0x49484156454f5054ull);
		put16(take8(s));
		break;
	case 2:
		option_reply(s);
		break;
	case 3:
		info_export(s);
		break;
	case 4:
		info_blocks(s);
		break;
	case 5:
		simple_reply(s);
		break;
	case 6:
		chunk(s);
		break;
	case 7:		/* the acknowledgements of a server that does it right */
		put64(0x3e889045565a9ull);
		put32(take8(s));
		put32(1);
		put32(0);
	}
}

static void done(void *owner, int error, void *arg)
{
	int *n = owner;

	must(!*n && error >= 0 && error < 4096);
	*n = 1;
}

static void transmit(struct nbd_handle *h)
{
	static uint8_t buf[REPLIES][4096];
	int answered[REPLIES] = { 0 };
	struct wire *w = wire_take(h, done, NULL);

	if (!w)
		return;
	for (int i = 0; i < REPLIES; i++)
		wire_submit(w, WIRE_READ, 0, 4096 * i, 4096, buf[i], &answered[i]);
	for (int i = 0; i < 64 && wire_send(w) >= 0 && wire_receive(w) >= 0; i++)
		;
	wire_free(w);
}

static void talk(struct nbd_handle *h, struct task *t)
{
	struct nbd_props p;
	enum medium_kind kind;
	struct derr e;

	if (nbdconn_props(h, &p, t, &e) < 0) {
		must(e.text[0] && e.code > 0);
		return;
	}
	must(!(p.size >> 63) && p.min_block && p.max_payload);
	if (nbdconn_kind(h, p.size, &kind, t, &e) == 0)
		transmit(h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, size };
	int sv[2], fds = open_fds(), room = 1 << 20;
	struct task *t;
	struct nbd_handle *h;
	struct derr e = { 0 };

	out.len = 0;
	while (s.left)
		build(&s);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) == 0);
	setsockopt(sv[1], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	(void)!send(sv[1], out.b, out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
	shutdown(sv[1], SHUT_WR);
	t = task_new("fuzz", now_ms() + 5000, NULL, NULL);
	h = nbdconn_socket(sv[0], t, &e);
	must(h || (e.text[0] && e.code > 0));
	if (h) {
		talk(h, t);
		nbd_close(h);
	}
	task_unref(t);
	close(sv[1]);
	must(open_fds() == fds);
	return 0;
}
