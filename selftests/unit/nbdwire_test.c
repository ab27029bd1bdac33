// SPDX-License-Identifier: GPL-2.0-only
/*
 * The NBD transmission: requests as the protocol wants them, replies simple and
 * structured, whole and a byte at a time, and everything that a server must not
 * answer. A socket pair stands for the connection.
 *
 * BUILD: gcc -std=gnu11 -g -O1 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -D_GNU_SOURCE -fsanitize=address,undefined -fno-sanitize-recover=undefined -Iuserhelper/daemon selftests/unit/nbdwire_test.c userhelper/daemon/nbdwire.c -lnbd -lpthread
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "nbdwire.h"

static int number, failed;

static void result(int ok, const char *name)
{
	printf("%sok %d - %s\n", ok ? "" : "not ", ++number, name);
	failed += !ok;
}

/* Both ends. */

static struct wire *w;
static int near = -1, peer = -1;
static int answered[8], errors[8], order[8], nr_order;

static void done(void *owner, int error, void *arg)
{
	int i = (int)(intptr_t)owner;

	answered[i]++;
	errors[i] = error;
	order[nr_order++ & 7] = i;
}

static void fresh(bool structured)
{
	int sv[2];

	wire_free(w);
	if (near >= 0)
		close(near);
	if (peer >= 0)
		close(peer);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sv) < 0)
		exit(1);
	near = sv[0];
	peer = sv[1];
	w = wire_new(near, structured, done, NULL);
	if (!w)
		exit(1);
	memset(answered, 0, sizeof(answered));
	nr_order = 0;
}

static void ask(enum wire_cmd cmd, uint64_t offset, uint32_t len, void *buf, int i)
{
	wire_submit(w, cmd, 0, offset, len, buf, (void *)(intptr_t)i);
}

/* What the server sees: a request's header; its handle, as it stands there. */
struct seen {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t handle, offset;
	uint32_t len;
};

static bool read_all(void *p, size_t n)
{
	while (n) {
		ssize_t r = recv(peer, p, n, MSG_DONTWAIT);

		if (r <= 0)
			return false;
		p = (char *)p + r;
		n -= r;
	}
	return true;
}

static bool see(struct seen *s)
{
	uint8_t b[28];

	if (!read_all(b, sizeof(b)))
		return false;
	memcpy(&s->magic, b, 4);
	memcpy(&s->flags, b + 4, 2);
	memcpy(&s->type, b + 6, 2);
	memcpy(&s->handle, b + 8, 8);
	memcpy(&s->offset, b + 16, 8);
	memcpy(&s->len, b + 24, 4);
	s->magic = be32toh(s->magic);
	s->flags = be16toh(s->flags);
	s->type = be16toh(s->type);
	s->offset = be64toh(s->offset);
	s->len = be32toh(s->len);
	return true;
}

/* What it answers. */
static uint8_t out[1 << 20];
static size_t out_len;

static void put(const void *p, size_t n)
{
	memcpy(out + out_len, p, n);
	out_len += n;
}

static void put16(uint16_t v)
{
	v = htobe16(v);
	put(&v, 2);
}

static void put32(uint32_t v)
{
	v = htobe32(v);
	put(&v, 4);
}

static void put64(uint64_t v)
{
	v = htobe64(v);
	put(&v, 8);
}

static void simple(uint64_t handle, uint32_t error)
{
	put32(0x67446698);
	put32(error);
	put(&handle, 8);
}

static void chunk(uint64_t handle, uint16_t type, bool last, uint32_t len)
{
	put32(0x668e33ef);
	put16(last);
	put16(type);
	put(&handle, 8);
	put32(len);
}

static int go(void)
{
	size_t n = out_len;

	out_len = 0;
	if (send(peer, out, n, MSG_DONTWAIT) != (ssize_t)n)
		exit(1);
	return wire_receive(w);
}

/* The same, one byte at a time. */
static int go_slowly(void)
{
	size_t n = out_len;
	int r = 0;

	out_len = 0;
	for (size_t i = 0; i < n && !r; i++) {
		if (send(peer, out + i, 1, MSG_DONTWAIT) != 1)
			exit(1);
		r = wire_receive(w);
	}
	return r;
}

/* One read of 64 bytes under way; its handle. */
static uint8_t buf[64];

static uint64_t one_read(bool structured)
{
	struct seen s;

	fresh(structured);
	memset(buf, 0xee, sizeof(buf));
	ask(WIRE_READ, 4096, sizeof(buf), buf, 0);
	if (wire_send(w) < 0 || !see(&s))
		exit(1);
	return s.handle;
}

static void requests(void)
{
	static uint8_t data[3000];
	uint8_t got[3000];
	struct seen s[4];
	int ok;

	fresh(false);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = i * 7;
	ask(WIRE_READ, 512, 64, buf, 0);
	ask(WIRE_WRITE, 1ULL << 40, sizeof(data), data, 1);
	ask(WIRE_FLUSH, 0, 0, NULL, 2);
	wire_submit(w, WIRE_ZEROES, WIRE_FUA | WIRE_NO_HOLE, 1024, 4096, NULL, (void *)3);
	result(wire_wants_write(w) && wire_send(w) == 0 && !wire_wants_write(w),
	       "requests go out together");
	ok = see(&s[0]) && see(&s[1]) && read_all(got, sizeof(got)) && see(&s[2]) && see(&s[3]);
	result(ok && s[0].magic == 0x25609513 && s[0].type == 0 && s[0].offset == 512 &&
	       s[0].len == 64, "a read");
	result(ok && s[1].type == 1 && s[1].offset == 1ULL << 40 && s[1].len == sizeof(data) &&
	       !memcmp(got, data, sizeof(data)), "a write and its payload");
	result(ok && s[2].type == 3 && !s[2].len && s[3].type == 6 && s[3].flags == 3,
	       "a flush; zeroes with their flags");
	result(ok && s[0].handle != s[1].handle && s[1].handle != s[2].handle, "handles differ");
	simple(s[2].handle, 0);
	simple(s[1].handle, 28);
	simple(s[0].handle, 0);
	put(data, 64);
	simple(s[3].handle, 95);
	result(go() == 0 && nr_order == 4 && order[0] == 2 && order[1] == 1 && order[2] == 0 &&
	       order[3] == 3, "replies in another order");
	result(!errors[2] && errors[1] == ENOSPC && !errors[0] && errors[3] == EOPNOTSUPP,
	       "with their errors");
	result(!memcmp(buf, data, 64), "and payload");
	result(wire_room(w) == WIRE_PARTS, "their places are free");
}

static void large(void)
{
	static uint8_t data[700000], to[700000];
	struct seen s[2];
	size_t at = 0;
	int r = 0;

	fresh(false);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = i * 13 + i / 251;
	ask(WIRE_READ, 0, sizeof(to), to, 0);
	ask(WIRE_READ, 0, sizeof(buf), buf, 1);
	if (wire_send(w) < 0 || !see(&s[0]) || !see(&s[1]))
		exit(1);
	simple(s[0].handle, 0);
	put(data, sizeof(data));
	simple(s[1].handle, 0);
	put(data, sizeof(buf));
	while (at < out_len && r == 0) {
		ssize_t n = send(peer, out + at, out_len - at, MSG_DONTWAIT);

		if (n > 0)
			at += n;
		r = wire_receive(w);
	}
	for (int i = 0; i < 100 && !answered[1]; i++)
		wire_receive(w);
	out_len = 0;
	result(r == 0 && answered[0] == 1 && !memcmp(to, data, sizeof(data)),
	       "a read larger than what is taken at once");
	result(answered[1] == 1 && !memcmp(buf, data, sizeof(buf)), "and what follows it");

	/* A write that the socket does not take at once. */
	fresh(false);
	ask(WIRE_WRITE, 0, sizeof(data), data, 0);
	ask(WIRE_FLUSH, 0, 0, NULL, 1);
	r = wire_send(w);
	result(r == 0 && wire_wants_write(w), "a write that does not fit");
	if (!see(&s[0]))
		exit(1);
	for (at = 0; at < sizeof(to);) {
		ssize_t n = recv(peer, to + at, sizeof(to) - at, MSG_DONTWAIT);

		if (n > 0)
			at += n;
		if (wire_send(w) < 0)
			break;
	}
	result(at == sizeof(to) && !memcmp(to, data, at) && see(&s[1]) && s[1].type == 3 &&
	       !wire_wants_write(w), "goes out in pieces, the next request behind it");
}

static void structured(void)
{
	uint64_t h = one_read(true);
	uint8_t want[64];

	memset(want, 'a', 32);
	memset(want + 32, 0, 16);
	memset(want + 48, 'b', 16);
	for (int slow = 0; slow < 2; slow++) {
		if (slow)
			h = one_read(true);
		chunk(h, 1, false, 8 + 16);
		put64(4096 + 48);
		put(want + 48, 16);
		chunk(h, 2, false, 12);
		put64(4096 + 32);
		put32(16);
		chunk(h, 1, true, 8 + 32);
		put64(4096);
		put(want, 32);
		result((slow ? go_slowly() : go()) == 0 && answered[0] == 1 && !errors[0] &&
		       !memcmp(buf, want, 64), slow ? "the same, byte by byte" :
		       "a read in chunks, out of order, with a hole");
	}
	h = one_read(true);
	chunk(h, 1, false, 8 + 64);
	put64(4096);
	put(want, 64);
	chunk(h, 0, true, 0);
	result(go() == 0 && answered[0] == 1 && !errors[0], "the end as a chunk of its own");
	h = one_read(true);
	chunk(h, 1 << 15 | 2, true, 4 + 2 + 5 + 8);
	put32(5);
	put16(5);
	put("hello", 5);
	put64(4096);
	result(go() == 0 && answered[0] == 1 && errors[0] == EIO, "an error with its words");
	h = one_read(true);
	chunk(h, 1 << 15 | 1, false, 4 + 2);
	put32(28);
	put16(0);
	chunk(h, 0, true, 0);
	result(go() == 0 && answered[0] == 1 && errors[0] == ENOSPC, "an error before the end");
	h = one_read(true);
	chunk(h, 1 << 15 | 1, true, 4 + 2);
	put32(0);
	put16(0);
	result(go() == 0 && answered[0] == 1 && errors[0] == EIO, "an error that names none");
	h = one_read(true);
	simple(h, 22);
	result(go() == 0 && answered[0] == 1 && errors[0] == EINVAL, "a simple error to a read");
	h = one_read(false);
	simple(h, 108);
	result(go() == 0 && errors[0] == ESHUTDOWN, "a server that goes down");
}

/* Each of these has to end the connection, and answer nothing. */
static void refuse(const char *name)
{
	int r = go();

	result(r == -EPROTO && !answered[0] && wire_error(w)[0], name);
}

static void hostile(void)
{
	uint64_t h = one_read(false);

	put("GET / HTTP/1.1\r\n\r\n", 18);
	refuse("not a reply");
	h = one_read(false);
	simple(h ^ htobe64(1ULL << 40), 0);
	refuse("a handle of another use");
	h = one_read(false);
	simple(h ^ htobe64(1), 0);
	refuse("a handle of no request");
	h = one_read(false);
	simple(~0ULL, 0);
	refuse("a handle beyond the table");
	h = one_read(false);
	chunk(h, 1, true, 8 + 64);
	put64(4096);
	put(buf, 64);
	refuse("chunks that were not agreed on");
	h = one_read(true);
	simple(h, 0);
	refuse("a simple reply to a read, with chunks agreed on");
	h = one_read(true);
	chunk(h, 1, true, 8 + 64);
	put64(4095);
	put(buf, 64);
	refuse("data before the request");
	h = one_read(true);
	chunk(h, 1, true, 8 + 64);
	put64(4097);
	put(buf, 64);
	refuse("data behind the request");
	h = one_read(true);
	chunk(h, 1, true, 8 + 65);
	put64(4096);
	put(buf, 64);
	refuse("too much data");
	h = one_read(true);
	chunk(h, 1, true, 8 + 32);
	put64(UINT64_MAX - 8);
	put(buf, 32);
	refuse("data at the end of all offsets");
	h = one_read(true);
	chunk(h, 1, true, 8);
	put64(4096);
	refuse("data of no length");
	h = one_read(true);
	chunk(h, 1, true, 8 + 32);
	put64(4096);
	put(buf, 32);
	refuse("too little data");
	h = one_read(true);
	chunk(h, 0, true, 0);
	refuse("no data");
	h = one_read(true);
	for (int i = 0; i < 2; i++) {
		chunk(h, 1, false, 8 + 40);
		put64(4096);
		put(buf, 40);
	}
	refuse("data twice");
	h = one_read(true);
	chunk(h, 2, true, 12);
	put64(4096);
	put32(UINT32_MAX);
	refuse("a hole that is too large");
	h = one_read(true);
	chunk(h, 2, true, 16);
	put64(4096);
	put64(64);
	refuse("a hole of another form");
	h = one_read(true);
	chunk(h, 7, true, 0);
	refuse("a chunk of unknown type");
	h = one_read(true);
	chunk(h, 1 << 15 | 1, true, UINT32_MAX);
	put32(5);
	refuse("an error of 4 GiB");
	h = one_read(true);
	chunk(h, 1 << 15 | 1, true, 3);
	put32(5);
	refuse("an error without a number");

	h = one_read(false);
	simple(h, 0);
	put(buf, 64);
	simple(h, 0);
	result(go() == -EPROTO && answered[0] == 1, "a second reply");
	(void)one_read(false);
	close(peer);
	peer = -1;
	result(wire_receive(w) == -ECONNRESET && !answered[0], "the connection ends");

	/* What has not left cannot be answered. */
	fresh(false);
	static uint8_t data[700000];
	struct seen s;

	ask(WIRE_WRITE, 0, sizeof(data), data, 0);
	if (wire_send(w) < 0 || !see(&s))
		exit(1);
	simple(s.handle, 0);
	refuse("a reply to a request that is still being sent");
}

#define LATE_MS	30000

/* The payload follows its header by a moment, from another thread. */
static void *late_payload(void *arg)
{
	usleep(200);
	if (send(peer, arg, 4096, 0) != 4096)
		exit(1);
	return NULL;
}

/* A read whose server has sent the header of its reply and @have bytes. */
static void read_and_reply(uint8_t *to, size_t len, const uint8_t *from, size_t have)
{
	struct seen s;

	wire_may_wait(w);
	ask(WIRE_READ, 0, len, to, 0);
	if (wire_send(w) < 0 || !see(&s))
		exit(1);
	simple(s.handle, 0);
	put(from, have);
	if (send(peer, out, out_len, 0) != (ssize_t)out_len)
		exit(1);
	out_len = 0;
}

static void waiting(void)
{
	static uint8_t to[4096], from[4096];
	struct rusage a, b;
	pthread_t thread;
	struct pollfd p;

	memset(from, 0x5a, sizeof(from));
	fresh(false);
	if (fcntl(near, F_SETFL, O_NONBLOCK) < 0)
		exit(1);
	p = (struct pollfd){ .fd = near, .events = POLLIN };
	read_and_reply(to, sizeof(to), from, 0);
	pthread_create(&thread, NULL, late_payload, from);
	/* One call, unless this machine is so slow that the wait ended. */
	while (!answered[0] && wire_receive(w) >= 0)
		if (!answered[0] && poll(&p, 1, LATE_MS) <= 0)
			break;
	pthread_join(thread, NULL);
	result(answered[0] == 1 && !errors[0] && !memcmp(to, from, sizeof(to)),
	       "a payload that is on its way");

	fresh(false);
	read_and_reply(to, sizeof(to), from, 100);
	getrusage(RUSAGE_THREAD, &a);
	for (int i = 0; i < 100; i++)
		if (wire_receive(w) < 0)
			exit(1);
	getrusage(RUSAGE_THREAD, &b);
	/* A wait is a switch that nobody forced on us. */
	result(!answered[0] && b.ru_nvcsw - a.ru_nvcsw < 50,
	       "a payload that stays away is waited for once");
	send(peer, from, sizeof(from) - 100, 0);
	result(wire_receive(w) == 0 && answered[0] == 1 && !memcmp(to, from, sizeof(to)),
	       "and is taken when it comes");

	fresh(false);
	read_and_reply(to, sizeof(to), from, sizeof(from));
	result(wire_quick(w) && wire_receive_wait(w) == 1 && answered[0] == 1,
	       "a reply that is waited for");
	ask(WIRE_READ, 0, sizeof(to), to, 1);
	result(wire_send(w) == 0 && wire_receive_wait(w) == 0 && !wire_quick(w),
	       "one that does not come makes the server a slow one");
	close(peer);
	peer = -1;
	result(wire_receive_wait(w) == -ECONNRESET, "the connection ends while it is waited for");

	fresh(false);
	fcntl(near, F_SETFL, O_NONBLOCK);
	wire_may_wait(w);
	result(!(fcntl(near, F_GETFL) & O_NONBLOCK), "the socket may wait");
	wire_free(w);
	w = NULL;
	result(fcntl(near, F_GETFL) & O_NONBLOCK, "and is given back as it was");
}

int main(void)
{
	requests();
	waiting();
	large();
	structured();
	hostile();
	wire_free(w);
	printf("1..%d\n", number);
	return failed != 0;
}
